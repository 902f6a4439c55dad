"""Where the time of a step goes, layer by layer."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ..layers.layer import Layer
from ..seeing.watching import Run, Stopwatch, Visit, Watch
from ..shim import Array, current

__all__ = ["layer_times"]

REST = "rest"
"""The time outside of layers: the loss, the update, the sums where branches meet."""


def layer_times(
    net: Layer, step: Callable[[], Any], batch: int, seconds: float, *, need_dx: bool = False
) -> dict[str, Any]:
    """Forward and backward ms of every layer inside a training step, the median of as many steps as fit in ``seconds``.

    A clock runs around each layer. It waits for the GPU before each reading, so layers cannot overlap, and their sum is
    more than the time of an undisturbed step. A multiplication and an addition count as two FLOP; backward counts dw,
    and dx if it is computed. A layer that runs in one pass with the one before it has no separate times.

    >>> from dualnet.bench.nets import network
    >>> from dualnet.layers.containers import forward_of
    >>> import dualnet as dn
    >>> net, x = network("digits_cnn"), dn.asarray([[[[0.0]] * 8] * 8])
    >>> def step():
    ...     y, pullback = forward_of(net, x, True, False)
    ...     return pullback(y)
    >>> result = layer_times(net, step, 1, 0.0)
    >>> [row["layer"] for row in result["rows"]][:3], result["rows"][0]["forward_ms"] > 0
    (['Conv2D', 'ReLU', 'Conv2D'], True)
    """
    rows = [row for row in net.summary().rows if not row.container]
    layers = dict(net.walk())
    clock = Clock()
    first: dict[int, str] = {}
    costs: dict[str, int] = defaultdict(int)
    for row in rows:  # a layer that is used in several places has one row
        costs[first.setdefault(id(layers[row.name]), row.name)] += row.multiply_adds
    with Watch(net, clock.around, at=costs):
        runs = _runs(clock, step, seconds)
    whole = statistics.median(run[REST] for run in runs)
    table = [_row(name, layers[name], clock, runs, adds * batch, whole) for name, adds in costs.items()]
    spent = sum((row["forward_ms"] or 0) + (row["backward_ms"] or 0) for row in table)
    left = max(0.0, whole * 1e3 - spent)
    return {"step_ms": whole * 1e3, "runs": len(runs), "rows": table, "rest_ms": left, "rest_share": left / whole / 1e3}


class Clock:
    """Adds up the seconds that each layer takes, forward and backward."""

    def __init__(self) -> None:
        self.spent: dict[Any, float] = defaultdict(float)
        self.without_dx: set[str] = set()
        self.stopwatch = Stopwatch(current().synchronize)

    def around(self, visit: Visit, run: Run, x: Array) -> tuple[Array, Callable[[Array], Any]]:
        """Time the layer's forward, and the pullback that it returns."""
        name = visit.first
        if not visit.options.get("need_dx", True):
            self.without_dx.add(name)
        (y, way), seconds = self.stopwatch.time(run, x)
        self.spent[name, "forward"] += seconds

        def back(dy: Array) -> Any:
            result, seconds = self.stopwatch.time(way, dy)
            self.spent[name, "backward"] += seconds
            return result

        return y, back


def _runs(clock: Clock, step: Callable[[], Any], seconds: float) -> list[dict[Any, float]]:
    """Seconds by (layer, direction) for each step; under REST those of the whole step."""
    step()
    runs: list[dict[Any, float]] = []
    end = time.perf_counter() + seconds
    while len(runs) < 3 or time.perf_counter() < end:
        clock.spent.clear()
        begun = clock.stopwatch.now()
        step()
        clock.spent[REST] = clock.stopwatch.now() - begun
        runs.append(dict(clock.spent))
    return runs


def _row(name: str, layer: Layer, clock: Clock, runs: list, multiply_adds: int, whole: float) -> dict[str, Any]:
    forward, backward = (
        statistics.median(run.get((name, direction), 0.0) for run in runs) for direction in ("forward", "backward")
    )
    flop = 2 * multiply_adds
    twice = 1 if name in clock.without_dx else 2  # dw, and dx
    return {
        "name": name,
        "layer": type(layer).__name__,
        "forward_ms": forward * 1e3 or None,
        "backward_ms": backward * 1e3 or None,
        "forward_gflops": flop / forward / 1e9 if flop and forward else None,
        "backward_gflops": twice * flop / backward / 1e9 if flop and backward else None,
        "share": (forward + backward) / whole,
    }
