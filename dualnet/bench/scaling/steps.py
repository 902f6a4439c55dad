"""One training step on many ranks: compute, communication during the backward pass, the slowest rank, the input.

The backward pass takes about two thirds of a step: for each multiplication of the forward pass, it makes one for dw and
one for dx. It runs from the last layer to the first. When the gradients of a bucket are complete, their all-reduce
begins, one bucket after the other, while the pass continues. Whatever is still under way when the pass has ended is
*exposed*: the ranks wait for it. (Li et al., "PyTorch Distributed: experiences on accelerating data parallel training",
VLDB 13, 2020.)

All ranks wait for the slowest one. If their times are normal with the mean T and the coefficient of variation c, the
largest of R is on average T (1 + c z) with z = Φ⁻¹((R - 3/8) / (R + 1/4)) (Blom, Statistical Estimates and Transformed
Beta-Variables, 1958), and never above T (1 + c √(2 ln R)) (Boucheron, Lugosi and Massart, Concentration Inequalities,
2013, theorem 2.5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from ...geometry import elements
from .links import Links, all_reduce

__all__ = ["BACKWARD", "BUCKET", "Step", "Work", "slowest", "step", "work_of"]

BACKWARD = 2 / 3
"""The share of a step that the backward pass takes."""
BUCKET = 4 * 2**20
"""Bytes of the gradients in a bucket, as in ``dualnet.distributed``."""
NEVER = 1e-12  # seconds: a link without latency


@dataclass(frozen=True)
class Work:
    """What one rank computes in a step, and what it sends to the others.

    A batch of b images takes ``fixed + b * per_image`` seconds. ``layers`` are (parameters, multiply-adds) from the
    first layer to the last. ``gradient_bytes`` is the size of one number of the gradients: 2 if they are sent in 16
    bits. ``variation`` is the standard deviation of a step's time over its mean. ``supply`` is the bytes per second
    that the storage delivers to all ranks together; None means no limit.
    """

    name: str
    layers: tuple[tuple[int, int], ...]
    per_image: float
    fixed: float = 0.0
    image_bytes: int = 0
    gradient_bytes: int = 4
    bucket: float = BUCKET
    overlap: bool = True
    variation: float = 0.03
    supply: float | None = None

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(parameters for parameters, _ in self.layers)

    def seconds(self, batch: float) -> float:
        """Seconds of a step on a single rank."""
        return self.fixed + batch * self.per_image


@dataclass(frozen=True)
class Step:
    """One step on ``ranks``, each with ``batch`` images: seconds, and where they go."""

    ranks: int
    batch: float
    compute: float
    latency: float  # exposed, because messages take time to start
    transfer: float  # exposed, because bytes take time to travel
    waiting: float  # for the slowest rank
    starving: float  # for input
    reduction: str

    @property
    def seconds(self) -> float:
        """Seconds of the whole step."""
        return self.compute + self.latency + self.transfer + self.waiting + self.starving

    @property
    def images_per_second(self) -> float:
        """For all ranks together."""
        return self.ranks * self.batch / self.seconds


def work_of(net: Any, *, per_image: float, name: str = "", **more: Any) -> Work:
    """The :class:`Work` of a network that knows its input shape.

    >>> import dualnet as dn
    >>> work = work_of(dn.Sequential([dn.Flatten(), dn.Dense(10)]).init((8, 8, 1)), per_image=1e-4)
    >>> work.parameters, work.layers, work.image_bytes
    (650, ((0, 0), (650, 640)), 64)
    """
    table = net.summary()
    layers = tuple((row.parameters, row.multiply_adds) for row in table.rows if not row.container or row.parameters)
    return Work(name or table.network, layers, per_image, image_bytes=elements(table.input_shape), **more)


def slowest(ranks: int) -> float:
    """The expected maximum of this many standard normal numbers, by Blom's formula.

    >>> [round(slowest(R), 2) for R in (1, 2, 1024)]
    [0.0, 0.59, 3.23]
    """
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))


def step(work: Work, batch: float, ranks: int, links: Links, reduction: str | None = None) -> Step:
    """The expected step of ``ranks`` ranks with ``batch`` images each.

    >>> work = Work("small", ((1_000_000, 100), (1_000_000, 100)), per_image=1e-3, overlap=False, variation=0.0)
    >>> found = step(work, 10, 2, Links(latency=0.0, bandwidth=1e9), "ring")
    >>> round(found.compute, 6), round(found.transfer, 6), round(found.seconds, 6)
    (0.01, 0.008, 0.018)
    """
    compute = work.seconds(batch)
    exposed, kind = _exposed(work, compute, ranks, links, reduction)
    instant = replace(links, latency=NEVER, inner_latency=NEVER)
    transfer = min(exposed, _exposed(work, compute, ranks, instant, kind)[0])
    waiting = compute * work.variation * slowest(ranks)
    busy = compute + exposed + waiting
    needed = 0.0 if work.supply is None else ranks * batch * work.image_bytes / work.supply
    return Step(ranks, batch, compute, exposed - transfer, transfer, waiting, max(0.0, needed - busy), kind)


def _exposed(work: Work, compute: float, ranks: int, links: Links, reduction: str | None) -> tuple[float, str]:
    """Seconds of communication after the backward pass, and the way of the largest bucket."""
    buckets = _buckets(work)
    largest = max((size for size, _ in buckets), default=0.0)
    kind = all_reduce(largest, ranks, links, reduction)[1]
    if not work.overlap:
        return sum(all_reduce(size, ranks, links, kind)[0] for size, _ in buckets), kind
    free = 0.0  # when the links are free again
    for size, ready in buckets:
        begin = max(free, compute * (1.0 - BACKWARD + BACKWARD * ready))
        free = begin + all_reduce(size, ranks, links, kind)[0]
    return max(0.0, free - compute), kind


def _buckets(work: Work) -> list[tuple[float, float]]:
    """(bytes, share of the backward pass after which they are complete) for each bucket, in that order."""
    total = sum(adds for _, adds in work.layers) or 1
    found: list[tuple[float, float]] = []
    size, done = 0.0, 0.0
    for parameters, adds in reversed(work.layers):
        done += adds / total
        size += parameters * work.gradient_bytes
        if size >= work.bucket:
            found.append((size, min(1.0, done)))
            size = 0.0
    return [*found, (size, 1.0)] if size else found
