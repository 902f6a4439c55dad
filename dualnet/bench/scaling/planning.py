"""Efficiency from 1 rank to many: where it falls, why, and what each change would bring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ...arguments import count, integer
from ...markup import listed
from .links import REDUCTIONS, Links, all_reduce
from .steps import Step, Work, step

__all__ = ["GOOD", "POOR", "Plan", "plan"]

GOOD, POOR = 0.8, 0.5
"""The plan says where efficiency falls below these."""
WORTH = 0.01  # a change that brings less is not advised
CAUSES = {
    "transfer": "the gradients' bytes take longer than the backward pass can hide",
    "latency": "the messages of an all-reduce start one after the other, and each takes time to start",
    "waiting": "all ranks wait for the slowest one",
    "starving": "the storage does not deliver images fast enough",
    "fixed": "the part of a step that does not shrink with the batch",
}


@dataclass(frozen=True)
class Plan:
    """The result of :func:`plan`: prints as a table with the reasons, and holds the numbers."""

    work: Work
    links: Links
    steps: list[Step]
    efficiencies: list[float]
    global_batch: int | None = None
    advice: list[tuple[str, float]] = field(default_factory=list)

    @property
    def efficiency(self) -> float:
        """For the largest number of ranks: images per second, over those of one rank times the number of ranks."""
        return self.efficiencies[-1]

    def below(self, least: float) -> Step | None:
        """The first step whose efficiency is below ``least``."""
        return next((one for one, share in zip(self.steps, self.efficiencies) if share < least), None)

    @property
    def cause(self) -> str:
        """What costs the most time at the largest number of ranks: a key of ``CAUSES``; empty if nothing does."""
        last = self.steps[-1]
        lost = {name: getattr(last, name) for name in ("transfer", "latency", "waiting", "starving")}
        lost["fixed"] = self.work.fixed * (1 - 1 / last.ranks) if self.global_batch is not None else 0.0
        worst = max(lost, key=lambda name: lost[name])
        return worst if lost[worst] > 0 else ""

    def data(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        rows = [
            {"ranks": one.ranks, "batch": one.batch, "seconds": one.seconds, "efficiency": share}
            | {name: getattr(one, name) for name in ("compute", "transfer", "latency", "waiting", "starving")}
            | {"images_per_second": one.images_per_second, "reduction": one.reduction}
            for one, share in zip(self.steps, self.efficiencies)
        ]
        return {
            "net": self.work.name,
            "parameters": self.work.parameters,
            "gradient_bytes": self.work.parameters * self.work.gradient_bytes,
            "links": {name: getattr(self.links, name) for name in self.links.__dataclass_fields__},
            "steps": rows,
            "below_80": None if (first := self.below(GOOD)) is None else first.ranks,
            "below_50": None if (first := self.below(POOR)) is None else first.ranks,
            "cause": self.cause,
            "advice": [{"change": change, "efficiency": share} for change, share in self.advice],
        }

    def __str__(self) -> str:
        return "\n".join([self._title(), *self._table(), *self._below(), *self._all_reduces(), *self._advice()])

    __repr__ = __str__

    def _title(self) -> str:
        work, size = self.work, self.work.parameters * self.work.gradient_bytes / 1e6
        batch = f"{self.global_batch:,} images over all ranks" if self.global_batch else "the same batch on each rank"
        return f"{work.name}: {work.parameters:,} parameters, {size:,.1f} MB of gradients, {batch}"

    def _table(self) -> list[str]:
        headings = ("ranks", "batch", "step ms", "compute", "exposed", "slowest", "input", "images/s", "efficiency")
        rows = []
        for one, share in zip(self.steps, self.efficiencies):
            parts = (one.seconds, one.compute, one.latency + one.transfer, one.waiting, one.starving)
            times = [f"{1e3 * seconds:,.2f}" for seconds in parts]
            rows.append((f"{one.ranks:,}", f"{one.batch:g}", *times, f"{one.images_per_second:,.0f}", f"{share:.1%}"))
        return listed([headings, *rows])

    def _below(self) -> Iterator[str]:
        for least in (GOOD, POOR):
            first = self.below(least)
            if first is None:
                yield f"efficiency stays at {least:.0%} or more up to {self.steps[-1].ranks:,} ranks"
            else:
                yield f"efficiency falls below {least:.0%} at {first.ranks:,} ranks"
        if self.cause:
            yield f"what costs most at {self.steps[-1].ranks:,} ranks: {CAUSES[self.cause]}"
        last = self.steps[-1]
        if self.work.image_bytes:
            each = last.batch * self.work.image_bytes / last.seconds / 1e6
            yield f"input: {each:,.1f} MB/s for each rank, {each * last.ranks:,.0f} MB/s for all, as bytes of pixels"

    def _all_reduces(self) -> list[str]:
        size, ranks = self.work.parameters * self.work.gradient_bytes, self.steps[-1].ranks
        if ranks == 1:
            return []
        times = [f"{kind} {1e3 * all_reduce(size, ranks, self.links, kind)[0]:,.2f} ms" for kind in REDUCTIONS]
        return [f"all gradients in one all-reduce: {', '.join(times)}"]

    def _advice(self) -> list[str]:
        if not self.advice:
            return []
        return ["what would help:", *(f"  {change}: {share:.1%}" for change, share in self.advice)]


def plan(
    work: Work,
    *,
    ranks: int,
    batch: int | None = None,
    global_batch: int | None = None,
    links: Links | None = None,
    reduction: str | None = None,
) -> Plan:
    """How efficiently 1, 2, 4, … ``ranks`` ranks train, with ``batch`` images each or ``global_batch`` together.

    ``reduction`` is one of ``REDUCTIONS``; by default the fastest for each number of ranks. Raises ``ValueError`` if
    there are more ranks than images in the global batch, and if both batches or neither are given.

    >>> from dualnet.bench.scaling import Links, Work, plan
    >>> work = Work("net", ((25_000_000, 4_000_000_000),), per_image=0.004)
    >>> found = plan(work, ranks=64, batch=64, links=Links(bandwidth=1e9))
    >>> [one.ranks for one in found.steps], found.efficiency < 0.6, found.cause
    ([1, 2, 4, 8, 16, 32, 64], True, 'transfer')
    """
    ranks = count(ranks, "ranks", op="plan")
    if (batch is None) == (global_batch is None):
        raise ValueError(
            "plan: give either batch, the images of each rank, or global_batch, those of all ranks together"
        )
    if global_batch is not None and ranks > integer(global_batch, "global_batch", op="plan"):
        raise ValueError(
            f"plan: {ranks} ranks cannot share {global_batch} images in a step; use at most {global_batch} ranks, "
            "or a larger batch"
        )
    if batch is not None:
        integer(batch, "batch", op="plan")
    links = links or Links()
    powers = [2**k for k in range(ranks.bit_length()) if 2**k < ranks]
    steps = [step(work, _each(batch, global_batch, R), R, links, reduction) for R in (*powers, ranks)]
    alone = steps[0].images_per_second
    shares = [one.images_per_second / (one.ranks * alone) for one in steps]
    found = Plan(work, links, steps, shares, global_batch)
    return replace(found, advice=_advice(found, batch, reduction))


def _each(batch: int | None, global_batch: int | None, ranks: int) -> float:
    return float(batch) if batch is not None else global_batch / ranks  # type: ignore[operator]


def _advice(found: Plan, batch: int | None, reduction: str | None) -> list[tuple[str, float]]:
    """Each change that would help, with the resulting efficiency; the best first."""
    if found.efficiency >= GOOD:
        return []
    ranks, whole, work = found.steps[-1].ranks, found.global_batch, found.work
    tried: list[tuple[str, float]] = []

    def efficiency(changed: Work, links: Links, times: int = 1, way: str | None = reduction) -> float:
        one = None if batch is None else batch * times
        all_of_them = None if whole is None else whole * times
        first = step(changed, _each(one, all_of_them, 1), 1, links, way).images_per_second
        last = step(changed, _each(one, all_of_them, ranks), ranks, links, way).images_per_second
        return last / (ranks * first)

    for times in (2, 4):
        words = f"{(batch or 0) * times:,} images on each rank" if whole is None else f"{whole * times:,} in all"
        tried.append((f"a larger batch, {words}", efficiency(work, found.links, times)))
    if work.gradient_bytes > 2:
        tried.append(("gradients in 16 bits", efficiency(replace(work, gradient_bytes=2), found.links)))
    if not work.overlap:
        tried.append(("communication during the backward pass", efficiency(replace(work, overlap=True), found.links)))
    large = 8 * work.bucket
    tried.append((f"larger buckets, {large / 1e6:,.0f} MB", efficiency(replace(work, bucket=large), found.links)))
    if reduction is not None:
        best, way = max((efficiency(work, found.links, way=way), way) for way in REDUCTIONS)
        tried.append((f"{way} all-reduce instead of {reduction}", best))
    twice = replace(found.links, bandwidth=2 * found.links.bandwidth)
    tried.append(("links with twice the bandwidth", efficiency(work, twice)))
    if work.supply is not None:
        tried.append(("storage that is twice as fast", efficiency(replace(work, supply=2 * work.supply), found.links)))
    good = [one.ranks for one, share in zip(found.steps, found.efficiencies) if share >= GOOD]
    useful = sorted((one for one in tried if one[1] >= found.efficiency + WORTH), key=lambda one: -one[1])
    fewer = max(good, default=1)
    return [*useful, (f"fewer ranks, {fewer:,}", found.efficiencies[[s.ranks for s in found.steps].index(fewer)])]
