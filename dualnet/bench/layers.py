"""Where the time of a step goes, layer by layer."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from ..layers.layer import Layer
from ..ops.pullback import Pullback
from ..shim import Array, current

__all__ = ["layer_times"]

REST = "rest"
"""What stands in no layer: the loss, the update, adding up where ways meet."""


def layer_times(
    net: Layer, step: Callable[[], Any], batch: int, seconds: float, *, need_dx: bool = False
) -> dict[str, Any]:
    """Forward and backward ms of every layer inside a training step, the median of as many steps as fit in ``seconds``.

    Each layer is wrapped in a clock while this runs. Around each reading a GPU is waited for, so the layers cannot
    overlap and their sum is more than an undisturbed step. A multiplication and an addition count as two FLOP; backward
    counts dw, and dx where it is asked for. A layer that is served together with the one before it shows no times of
    its own.

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
    watched: dict[int, str] = {}
    costs: dict[str, int] = defaultdict(int)
    for row in rows:  # a layer that stands in several places is one row
        first = watched.setdefault(id(layers[row.name]), row.name)
        costs[first] += row.multiply_adds
    try:
        for name in watched.values():
            clock.watch(name, layers[name])
        runs = _runs(clock, step, seconds)
    finally:
        for name in watched.values():
            vars(layers[name]).pop("forward", None)
    whole = statistics.median(run[REST] for run in runs)
    table = [_row(name, layers[name], clock, runs, costs[name] * batch, whole) for name in watched.values()]
    spent = sum((row["forward_ms"] or 0) + (row["backward_ms"] or 0) for row in table)
    left = max(0.0, whole * 1e3 - spent)
    return {"step_ms": whole * 1e3, "runs": len(runs), "rows": table, "rest_ms": left, "rest_share": left / whole / 1e3}


class Clock:
    """Adds up the seconds that each layer takes, forward and backward."""

    def __init__(self) -> None:
        self.spent: dict[Any, float] = defaultdict(float)
        self.without_dx: set[str] = set()
        self.wait = current().synchronize

    def now(self) -> float:
        self.wait()
        return time.perf_counter()

    def watch(self, name: str, layer: Layer) -> None:
        """From now on the layer's forward, and the pullbacks it returns, are timed."""
        forward = layer.forward

        def timed(x: Array, train: bool = False, **options: Any) -> tuple[Array, Pullback]:
            if not options.get("need_dx", True):
                self.without_dx.add(name)
            begun = self.now()
            y, way = forward(x, train, **options)
            self.spent[name, "forward"] += self.now() - begun
            return y, Pullback(way.op, self._backward(name, way), y, children={"timed": way})

        layer.forward = timed  # type: ignore[method-assign]

    def _backward(self, name: str, way: Pullback) -> Callable[[Array], Any]:
        def timed(dy: Array) -> Any:
            begun = self.now()
            result = way(dy)
            self.spent[name, "backward"] += self.now() - begun
            return result

        return timed


def _runs(clock: Clock, step: Callable[[], Any], seconds: float) -> list[dict[Any, float]]:
    """Seconds by (layer, direction) of each step; under REST those of the whole step."""
    step()
    runs: list[dict[Any, float]] = []
    end = time.perf_counter() + seconds
    while len(runs) < 3 or time.perf_counter() < end:
        clock.spent.clear()
        begun = clock.now()
        step()
        clock.spent[REST] = clock.now() - begun
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
