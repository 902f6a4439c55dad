"""What each layer of a network returned, what came back to it, and how long that took: for traces and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..layers.layer import Layer
from ..layers.watching import Run, Visit, Watch, sharing_copy
from ..ops.pullback import Pullback
from ..shim import Array, backend_of

__all__ = ["Probe", "Run", "Stopwatch", "Visit", "Watch", "sharing_copy"]


class Stopwatch:
    """Times work in seconds, without the timed work inside it.

    A GPU is still computing when a call returns, so ``wait`` is called before each reading of the clock.

    >>> stopwatch = Stopwatch(lambda: None)
    >>> total, seconds = stopwatch.time(sum, range(1000))
    >>> total, seconds > 0
    (499500, True)
    """

    def __init__(self, wait: Callable[[], Any]) -> None:
        self._wait = wait
        self._inside: list[float] = []  # for each piece of work that is running: seconds of timed work inside it

    def now(self) -> float:
        """The time in seconds, after all work that was begun is done."""
        self._wait()
        return time.perf_counter()

    def time(self, work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
        """The result of ``work(*arguments)``, and its own seconds."""
        self._inside.append(0.0)
        try:
            begun = self.now()
            result = work(*arguments)
            spent = self.now() - begun
        finally:
            inside = self._inside.pop()
        if self._inside:
            self._inside[-1] += spent
        return result, spent - inside


class Probe:
    """A watched network. ``run(x)`` is its forward pass; the pullback that it returns is watched as well.

    The watched network is a copy that shares the parameters, so the network itself is never touched, not even by an
    error. A convolution may run the ReLU after it in the same pass; here each runs by itself, and has its own numbers.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(3), dn.ReLU()]).init((2,))
    >>> probe = Probe(net)
    >>> y, pullback = probe.run(dn.asarray([[1.0, 2.0]]), train=True)
    >>> dx, grads = pullback(y)
    >>> [(visit.label, tuple(visit.y.shape)) for visit in probe.visits]
    [('Sequential', (1, 3)), ('0 Dense', (1, 3)), ('1 ReLU', (1, 3))]
    """

    def __init__(self, net: Layer) -> None:
        self.net = sharing_copy(net)
        self.visits: list[Visit] = []
        self._done = 0
        self._watch = Watch(self.net, self._around, apart=True)

    def run(self, x: Array, train: bool) -> tuple[Array, Pullback]:
        """The forward pass on a batch that fits; ``visits`` lists the layers in the order in which they ran."""
        self.visits, self._done = [], 0
        self._stopwatch = Stopwatch(backend_of(x).synchronize)
        return self.net.forward(x, train)

    def _around(self, visit: Visit, run: Run, x: Array) -> tuple[Array, Callable[[Array], Any]]:
        self.visits.append(visit)
        (visit.y, way), visit.forward_seconds = self._stopwatch.time(run, x)
        visit.order, self._done = self._done, self._done + 1

        def back(dy: Array) -> Any:
            visit.dy = dy
            result, visit.backward_seconds = self._stopwatch.time(way, dy)
            return result

        return visit.y, back
