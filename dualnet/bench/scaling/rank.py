"""One rank of ``dualnet plan --check``: ``python -m dualnet.bench.scaling.rank NAME SHAPE BATCH FILE``.

All ranks train a few steps together; rank 0 writes its measurements to the file.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy

from ... import models
from ...distributed import init
from ...shim import asarray
from ...training.callbacks import Callback, Run
from .steps import work_of

MESSAGES = (2**14, 2**20)
"""Sizes of the two arrays whose sums give latency and bandwidth: a line through two points."""
TIMES = 12


class _Clock(Callback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.last = 0.0

    def on_epoch_begin(self, run: Run) -> None:
        self.last = time.perf_counter()

    def on_batch_end(self, run: Run) -> None:
        now = time.perf_counter()
        self.times.append(now - self.last)
        self.last = now


def main(name: str, shape: str, batch: str, target: str) -> None:
    """Train a few steps together, and let rank 0 write its measurements."""
    size = tuple(map(int, shape.split(","))) if shape else models.INPUT_SHAPES[name]
    with init() as ranks:
        net = models.get(name)().init(size, seed=0)
        N = int(batch) * ranks.size
        x, t = examples(size, N * TIMES, net.output_shape(size)[0])
        clock = _Clock()
        net.fit(x[: 2 * N], t[: 2 * N], batch_size=N, optimizer="sgd", verbose=0, distributed=ranks)  # the warm-up
        before = ranks.seconds
        net.fit(x, t, batch_size=N, optimizer="sgd", verbose=0, callbacks=[clock], distributed=ranks)
        waiting = (ranks.seconds - before) / sum(clock.times)
        latency, bandwidth = _links(ranks)
        if ranks.rank == 0:
            step = statistics.median(clock.times)
            seen = {"step": step, "waiting": waiting, "latency": latency, "bandwidth": bandwidth}
            seen["variation"] = statistics.stdev(clock.times) / statistics.mean(clock.times)
            seen["layers"] = work_of(net, per_image=1.0).layers  # type: ignore[assignment]
            Path(target).write_text(json.dumps(seen), encoding="utf-8")
        ranks.barrier()


def examples(shape: tuple[int, ...], count: int, classes: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """This many images and their classes, in the memory of one image: all are the same, and a batch is a copy of it."""
    rng = numpy.random.default_rng(0)
    image = rng.standard_normal(shape, dtype="float32")
    return numpy.broadcast_to(image, (count, *shape)), rng.integers(0, classes, count)


def _links(ranks: Any) -> tuple[float, float]:
    """α and 1/β of ``direct``, from all-reduces of a short and a long array."""
    if ranks.size == 1:
        return 1e-9, 1e12
    times = []
    for numbers in MESSAGES:
        array, seen = asarray(numpy.ones(numbers, "float32")), []
        for _ in range(TIMES):
            ranks.barrier()
            begun = time.perf_counter()
            ranks.all_reduce(array)
            seen.append(time.perf_counter() - begun)
        times.append(statistics.median(seen))
    p, (short, long) = ranks.size, (4 * numbers for numbers in MESSAGES)
    for_each_byte = max(1e-15, (times[1] - times[0]) / (long - short))
    latency = max(1e-9, (times[0] - short * for_each_byte) / (2 * (p - 1)))
    return latency, 2 * (p - 1) / p / for_each_byte


if __name__ == "__main__":
    main(*sys.argv[1:])
