"""Measure the model's numbers on this machine: steps of one rank, the links, and steps of several ranks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import models
from ...distributed.launching import launch
from ...layers.layer import Layer
from ...markup import listed
from ...shim.process import cores
from ..measure import run as measure
from .links import Links
from .planning import plan
from .steps import Work

__all__ = ["Check", "check", "measured"]

SMALL, LARGE = 4, 16
"""Images in the two steps that are measured."""
CLASSIFIERS = tuple(name for name in models.NAMES if name != "unet")
LONGEST = 600.0
"""The ranks have this many seconds."""


def measured(net: Layer, small: int = SMALL, large: int = LARGE) -> tuple[float, float]:
    """Seconds for each image of a training step, and seconds for the rest of it, as ``dualnet bench`` measures them.

    Two small batches are measured, and a line is drawn through them: multiply-adds grow with the batch, and so does the
    time. Raises ``ValueError`` if the network cannot be measured.
    """
    result = measure([net], batches=[small, large], modes=["training"], rounds=2, seconds=0.5)
    times = [row.get("min_ms") for row in result["results"]]
    if None in times:
        why = next(row.get("failed") or row.get("skipped") for row in result["results"] if "min_ms" not in row)
        raise ValueError(f"plan: a training step cannot be measured here ({why}); give its time with --step-seconds")
    first, second = (time / 1e3 for time in times)
    slope = max((second - first) / (large - small), second / large / 10)
    return slope, max(0.0, first - small * slope)


@dataclass
class Check:
    """The result of :func:`check`: for 1, 2, 4 … ranks on this machine, a step as predicted and as measured."""

    work: Work
    batch: int
    cores: int
    rows: list[dict[str, Any]] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """Everything as plain data, for JSON."""
        return {"net": self.work.name, "batch": self.batch, "cores": self.cores, "rows": self.rows}

    def __str__(self) -> str:
        headings = (
            "ranks",
            "predicted ms",
            "measured ms",
            "predicted / measured",
            "waiting in collectives",
            "latency us",
            "GB/s",
        )
        rows = [
            (
                f"{row['ranks']}{' (more than cores)' if row['ranks'] > self.cores else ''}",
                f"{1e3 * row['predicted']:.2f}",
                f"{1e3 * row['measured']:.2f}",
                f"{row['predicted'] / row['measured']:.2f}",
                f"{row['waiting']:.1%}",
                f"{1e6 * row['latency']:.1f}" if row["ranks"] > 1 else "–",
                f"{row['bandwidth'] / 1e9:.2f}" if row["ranks"] > 1 else "–",
            )
            for row in self.rows
        ]
        title = f"{self.work.name}, {self.batch} images on each rank, one thread each, {self.cores} cores"
        return "\n".join([title, *listed([headings, *rows])])


def check(name: str, input_shape: tuple[int, ...] | None, ranks: int, batch: int) -> Check:
    """Train a model on 1, 2, 4 … ``ranks`` ranks of this machine, and predict each from one rank and the links.

    The step of one rank is measured, and for each number of ranks the latency and the bandwidth of its all-reduce. If
    there are more ranks than cores, the prediction divides the cores among them.
    """
    if name not in CLASSIFIERS:
        known = ", ".join(CLASSIFIERS)
        raise ValueError(f"check: expected one of the models with classes, {known}; got {name!r}")
    several = sorted({*(2**k for k in range(ranks.bit_length()) if 2**k <= ranks), ranks})
    alone = _measured(name, input_shape, 1, batch)
    found = Check(Work(name, tuple(map(tuple, alone["layers"])), alone["step"] / batch), batch, cores())
    for R in several:
        seen = alone if R == 1 else _measured(name, input_shape, R, batch)
        links = Links(inner_latency=seen["latency"], inner_bandwidth=seen["bandwidth"], per_node=R)
        work = Work(
            name, found.work.layers, found.work.per_image * max(1.0, R / found.cores), variation=seen["variation"]
        )
        predicted = plan(work, ranks=R, batch=batch, links=links, reduction="direct").steps[-1].seconds
        row = {"ranks": R, "predicted": predicted, "measured": seen["step"]}
        found.rows.append(row | {key: seen[key] for key in ("waiting", "latency", "bandwidth", "variation")})
    return found


def _measured(name: str, input_shape: Sequence[int] | None, ranks: int, batch: int) -> dict[str, Any]:
    """The measurements of rank 0 of this many ranks."""
    with tempfile.TemporaryDirectory(prefix="dualnet-plan-") as folder:
        target = Path(folder) / "seen.json"
        shape = ",".join(map(str, input_shape or ()))
        words = ["-m", "dualnet.bench.scaling.rank", name, shape, str(batch), str(target)]
        launched = launch(ranks, words, timeout=LONGEST, threads=1)
        if launched.code or not target.exists():
            raise ValueError(f"plan: {ranks} ranks could not be measured here: {launched.last_words}")
        return json.loads(target.read_text(encoding="utf-8"))
