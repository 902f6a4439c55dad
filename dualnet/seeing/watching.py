"""A forward and a backward pass watched from outside: what each layer gave, what came back, how long it took.

The layers know nothing of it. A copy of the network is made whose layers share the parameters of the original (a pass
does not change them) and have everything else of their own; each layer of the copy gets a ``forward`` that notes what
goes by. So the network itself, its running statistics and its dropout counter are never touched, not even by an error.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..layers.containers import Sequential
from ..layers.layer import Layer
from ..ops.pullback import Pullback
from ..shim import Array, backend_of

__all__ = ["Probe", "Visit"]


@dataclass
class Visit:
    """One layer at one of its places, during one pass. Seconds leave out those of the layers inside."""

    name: str  # "3.layer.0"; "" for the network itself
    layer: Layer  # the copy's
    depth: int
    y: Any = None
    dy: Any = None  # ∂E/∂y, once the pullback has run
    way: Pullback | None = None
    forward_seconds: float = 0.0
    backward_seconds: float = 0.0
    children: list[Visit] = field(default_factory=list)
    order: int = -1  # its output was the order-th to be ready

    @property
    def label(self) -> str:
        """``"3.layer.0 Conv2D"``."""
        return f"{self.name} {type(self.layer).__name__}".strip()


class Probe:
    """A network under watch. ``run(x)`` is its forward pass; the pullback that it returns is watched as well.

    A convolution takes the ReLU behind it along in one pass; under watch each runs by itself, and has its numbers.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(3), dn.ReLU()]).init((2,))
    >>> probe = Probe(net)
    >>> y, pullback = probe.run(dn.asarray([[1.0, 2.0]]), train=True)
    >>> dx, grads = pullback(y)
    >>> [(visit.label, tuple(visit.y.shape)) for visit in probe.visits]
    [('Sequential', (1, 3)), ('0 Dense', (1, 3)), ('1 ReLU', (1, 3))]
    """

    def __init__(self, net: Layer) -> None:
        self.net = copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters().values()})
        self.visits: list[Visit] = []
        self._open: list[Visit] = []
        self._done = 0
        self._inside: list[float] = []  # seconds spent in layers inside, for each layer that is running
        self._wait: Callable[[], None] = lambda: None
        for layer in {id(layer): layer for _, layer in self.net.walk()}.values():
            self._watch(layer)

    def run(self, x: Array, train: bool) -> tuple[Array, Pullback]:
        """The forward pass on a batch that fits; ``visits`` lists the layers in the order in which it met them."""
        self.visits, self._open, self._inside, self._done = [], [], [], 0
        self._wait = backend_of(x).synchronize
        return self.net.forward(x, train)

    def _watch(self, layer: Layer) -> None:
        forward = layer.forward
        if isinstance(layer, Sequential):
            layer.together = False

        def watched(x: Array, train: bool = False, **options: Any) -> tuple[Array, Pullback]:
            visit = self._enter(layer)
            try:
                (visit.y, visit.way), visit.forward_seconds = self._timed(lambda: forward(x, train, **options))
            finally:
                self._open.pop()
            visit.order, self._done = self._done, self._done + 1
            return visit.y, Pullback(visit.way.op, self._backward(visit), visit.y, children={"watched": visit.way})

        layer.forward = watched  # type: ignore[method-assign]

    def _enter(self, layer: Layer) -> Visit:
        """Note that a layer begins. A shared layer's places are told apart by how often its container has run it."""
        parent = self._open[-1] if self._open else None
        visit = Visit("", layer, len(self._open))
        if parent is not None:
            places = [name for name, child in parent.layer.children().items() if child is layer]
            before = sum(sibling.layer is layer for sibling in parent.children)
            own = places[min(before, len(places) - 1)] if places else "?"
            visit.name = f"{parent.name}.{own}" if parent.name else own
            parent.children.append(visit)
        self.visits.append(visit)
        self._open.append(visit)
        return visit

    def _backward(self, visit: Visit) -> Callable[[Array], Any]:
        def watched(dy: Array) -> Any:
            visit.dy = dy
            result, visit.backward_seconds = self._timed(lambda: visit.way(dy))  # type: ignore[misc]
            return result

        return watched

    def _timed(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """A result, and the seconds it took beside those of the layers inside."""
        self._inside.append(0.0)
        self._wait()
        begun = time.perf_counter()
        try:
            result = work()
            self._wait()
        finally:
            spent = time.perf_counter() - begun
            own = spent - self._inside.pop()
            if self._inside:
                self._inside[-1] += spent
        return result, own
