"""A forward and a backward pass, watched from outside: the layers know nothing of it.

:class:`Watch` puts a function of yours around ``forward`` of every layer of a network, tells it which layer runs and at
which place, and takes it off again. Who uses it:

    training/finite.py         the layer that made the first NaN
    seeing/watching.py         what each layer gave, what came back, how long it took: for traces and pictures
    explain/run.py             the numbers that met inside one layer
    parity/networks/tape.py    a pass noted on one backend and followed on another
    bench/layers.py            the time that each layer takes in a training step
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..ops.pullback import Pullback
from ..shim import Array
from .containers import Sequential
from .layer import Layer
from .passing import y_and_pullback

__all__ = ["Run", "Visit", "Watch", "sharing_copy"]

Run = Callable[[Array], tuple[Array, Pullback]]
Net = TypeVar("Net", bound=Layer)


@dataclass
class Visit:
    """One layer at one of its places, during one pass. The second half is filled in by ``seeing.watching.Probe``."""

    name: str  # "3.layer.0"; "" for the network itself
    first: str  # the first place of the same layer: its parameters go by this name
    layer: Layer
    depth: int
    train: bool
    options: dict[str, Any]  # need_dx=False, relu=True: what a container asks of the layer
    children: list[Visit] = field(default_factory=list)
    way: Pullback | None = None  # the layer's own

    y: Any = None
    dy: Any = None  # ∂E/∂y, once the pullback has run
    forward_seconds: float = 0.0  # without those of the layers inside
    backward_seconds: float = 0.0
    order: int = -1  # its output was the order-th to be ready

    @property
    def label(self) -> str:
        """``"3.layer.0 Conv2D"``."""
        return f"{self.name} {type(self.layer).__name__}".strip()


class Watch:
    """Calls ``around(visit, run, x)`` in place of each layer's ``forward``, until :meth:`end` or the end of a ``with``.

    ``run(x)`` is the layer's own forward pass: y and its pullback. ``around`` returns the y that the network goes on
    with, and a function from dy to ``(dx, gradients)`` that the network calls on the way back: the pullback itself, or
    one that calls it.

    ``at`` names the layers to watch (default: all). A Sequential may run a ReLU in one pass with the layer before it;
    with ``apart=True`` each layer runs by itself. ``forward`` is watched, and not ``infer``.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Dense(3), dn.ReLU()]).init((2,))
    >>> def around(visit, run, x):
    ...     y, pullback = run(x)
    ...     print(visit.label, "made", tuple(y.shape))
    ...     return y, pullback
    >>> with Watch(net, around, apart=True):
    ...     y, pullback = net.forward(dn.asarray([[1.0, 2.0]]))
    0 Dense made (1, 3)
    1 ReLU made (1, 3)
    Sequential made (1, 3)
    """

    def __init__(
        self,
        net: Layer,
        around: Callable[[Visit, Run, Array], tuple[Array, Callable[[Array], Any]]],
        *,
        at: Collection[str] | None = None,
        apart: bool = False,
    ) -> None:
        places = list(net.walk())
        layers = dict(places)
        self._first = {id(layer): name for name, layer in reversed(places)}
        self._children = {id(layer): layer.children() for layer in layers.values()}
        self._running: list[Visit] = []  # from the network down to the layer that runs
        self._replaced: list[tuple[Layer, dict[str, Any]]] = []
        watched = {id(layers[name]) for name in (layers if at is None else at)}
        for name, layer in layers.items():
            if name == self._first[id(layer)]:  # a shared layer once
                self._wrap(layer, around if id(layer) in watched else _just_run, apart)

    def end(self) -> None:
        """Put every layer back as it was."""
        while self._replaced:
            layer, before = self._replaced.pop()
            for name in ("forward", "together"):
                vars(layer).pop(name, None)
            vars(layer).update(before)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def _wrap(self, layer: Layer, around: Callable[..., Any], apart: bool) -> None:
        forward, own = layer.forward, vars(layer)
        self._replaced.append((layer, {name: own[name] for name in ("forward", "together") if name in own}))

        def watched(x: Array, train: bool = False, **options: Any) -> tuple[Array, Pullback]:
            visit = self._begin(layer, train, options)

            def run(x: Array) -> tuple[Array, Pullback]:
                y, visit.way = y_and_pullback(layer, forward(x, train, **options))
                return y, visit.way

            try:
                y, back = around(visit, run, x)
            finally:
                self._running.pop()
            way = visit.way
            if way is None or back is way:
                return y, back
            return y, Pullback(way.op, back, y, children={"watched": way})

        own["forward"] = watched
        if apart and isinstance(layer, Sequential):
            own["together"] = False

    def _begin(self, layer: Layer, train: bool, options: dict[str, Any]) -> Visit:
        above = self._running[-1] if self._running else None
        first = self._first[id(layer)]
        name = first if above is None else self._place(layer, above) or first
        visit = Visit(name, first, layer, len(self._running), train, options)
        if above is not None:
            above.children.append(visit)
        self._running.append(visit)
        return visit

    def _place(self, layer: Layer, above: Visit) -> str:
        """Where in its container the layer stands; of several places, by how often the container has run it so far."""
        places = [name for name, child in self._children[id(above.layer)].items() if child is layer]
        if not places:
            return ""
        before = sum(visit.layer is layer for visit in above.children)
        own = places[min(before, len(places) - 1)]
        return f"{above.name}.{own}" if above.name else own


def _just_run(visit: Visit, run: Run, x: Array) -> tuple[Array, Pullback]:
    """For layers that are only passed through."""
    return run(x)


def sharing_copy(net: Net) -> Net:
    """A copy that shares the parameters of the network, and has everything else of its own.

    A pass does not write into parameters. It does change running statistics and the counter of dropout: the copy's.
    """
    return copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters().values()})
