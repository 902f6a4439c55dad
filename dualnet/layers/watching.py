"""Watch a forward and a backward pass from outside, without changing the layers.

:class:`Watch` wraps ``forward`` of every layer of a network in a function of yours, which learns which layer runs and
where, and removes it again at the end. It is used by:

    training/finite.py         to find the layer that made the first NaN
    seeing/watching.py         to record outputs, deltas and times of each layer, for traces and pictures
    explain/run.py             to get at the numbers inside one layer
    parity/networks/tape.py    to record a pass on one backend and compare it on another
    bench/layers.py            to measure how long each layer takes in a training step
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..ops.pullback import Pullback
from ..shim import Array
from .containers import Sequential
from .joining import by_hand
from .layer import Layer
from .passing import y_and_pullback

__all__ = ["Run", "Visit", "Watch", "sharing_copy"]

Run = Callable[[Array], tuple[Array, Pullback]]
Net = TypeVar("Net", bound=Layer)


@dataclass
class Visit:
    """One layer at one of its places, during one pass. The second half is filled in by ``seeing.watching.Probe``."""

    name: str  # "3.layer.0"; "" for the network itself
    first: str  # the name of its first place, which its parameters use
    layer: Layer
    depth: int
    train: bool
    options: dict[str, Any]  # what a container asks of the layer: need_dx=False, relu=True
    children: list[Visit] = field(default_factory=list)
    way: Pullback | None = None  # the layer's own

    y: Any = None
    dy: Any = None  # ∂E/∂y, once the pullback has run
    forward_seconds: float = 0.0  # without the time of the layers inside
    backward_seconds: float = 0.0
    order: int = -1  # its output was ready after this many others

    @property
    def label(self) -> str:
        """``"3.layer.0 Conv2D"``."""
        return f"{self.name} {type(self.layer).__name__}".strip()


class Watch:
    """Calls ``around(visit, run, x)`` instead of each layer's ``forward``, until :meth:`end` or the end of a ``with``.

    ``run(x)`` is the layer's own forward pass: y and its pullback. ``around`` returns the y with which the network
    continues, and a function from dy to ``(dx, gradients)`` that the network calls in the backward pass: the pullback
    itself, or one that calls it.

    ``at`` names the layers to watch (default: all). A Sequential may run a ReLU in one pass with the layer before it;
    with ``apart=True`` each layer runs by itself. Inference, too, runs by ``forward`` while it is watched.

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
        """Restore every layer."""
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

        watched.watches = not by_hand(layer)  # type: ignore[attr-defined]
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
        """The layer's place in its container; if there are several, how often it has run so far decides."""
        places = [name for name, child in self._children[id(above.layer)].items() if child is layer]
        if not places:
            return ""
        before = sum(visit.layer is layer for visit in above.children)
        own = places[min(before, len(places) - 1)]
        return f"{above.name}.{own}" if above.name else own


def _just_run(visit: Visit, run: Run, x: Array) -> tuple[Array, Pullback]:
    """For layers that are not watched themselves."""
    return run(x)


def sharing_copy(net: Net) -> Net:
    """A copy that shares the parameters of the network, and has its own copy of everything else.

    A pass does not change parameters, but it does change running statistics and the dropout counter: the copy's own.
    """
    return copy.deepcopy(net, {id(parameter): parameter for parameter in net.parameters().values()})
