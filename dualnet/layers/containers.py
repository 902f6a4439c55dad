"""Layers made of layers: a chain, a shortcut, branches side by side; and a layer made of two functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any

from ..arguments import can_take
from ..ops.activation import add, rectify_backward
from ..ops.pullback import Pullback, TwoDeltas, added_up
from ..shim import Array, backend_of, current
from .initializers import Draw
from .joining import inferring, meets, passes, takes_need_dx, takes_other
from .layer import Layer, Shape, inferred
from .merging import MERGES, merged, merged_shape
from .passing import Gradients, blame, blaming, merge, y_and_pullback
from .state import undone_if_it_fails

__all__ = ["Identity", "Lambda", "Parallel", "Residual", "Sequential"]


class Container(Layer):
    """What chains and branches share. ``children()`` names the layers inside."""

    def build(self, input_shape: Shape, draw: Draw) -> None:
        """Build the layers inside, in the order in which data passes them, with the shapes that it has there."""
        for place, (name, layer, shape) in enumerate(self._shapes(input_shape)):
            with blaming(name, layer):
                layer.init_from(shape, draw.child(place))

    def multiply_adds(self, input_shape: Shape) -> int:
        return sum(layer.multiply_adds(shape) for _, layer, shape in self._shapes(input_shape))

    def _shapes(self, input_shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        """Name, layer and input shape of each layer inside."""
        for name, layer in self.children().items():
            yield name, layer, input_shape


class Sequential(Container):
    """A chain: each layer's output is the next one's input. Layers are named by their position: ``"0"``, ``"1"``, ...

    A layer that appears twice in the chain is shared: it has one set of parameters, and its gradients add up.

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((5, 5, 1))
    >>> x = dn.asarray([[[[1.0]] * 5] * 5])  # (1, 5, 5, 1)
    >>> y, pullback = net.forward(x, train=True)
    >>> dx, grads = pullback(dn.asarray([[1.0, 0.0]]))
    >>> sorted(grads), dx.shape
    (['0.b', '0.w', '3.b', '3.w'], (1, 5, 5, 1))
    """

    takes_need_dx = True
    together = True
    """May neighbours run in one pass, or swap places, if the result is the same? Not while each layer is watched."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = check_layers(layers, "Sequential")

    def children(self) -> dict[str, Layer]:
        return {str(place): layer for place, layer in enumerate(self.layers)}

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, place: int) -> Layer:
        return self.layers[place]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def _shapes(self, input_shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
        shape = tuple(input_shape)
        for name, layer in self.children().items():
            yield name, layer, shape
            shape = self._next(name, layer, shape)

    def _next(self, name: str, layer: Layer, shape: Shape) -> Shape:
        try:
            return layer.output_shape(shape)
        except (ValueError, TypeError) as error:
            blame(name, layer, error)

    def output_shape(self, input_shape: Shape) -> Shape:
        shape = tuple(input_shape)
        for name, layer in self.children().items():
            shape = self._next(name, layer, shape)
        return shape

    def _passes(self, way_back: bool) -> Iterator[tuple[int, int | None]]:
        """The positions in the order in which they run, each with that of the ReLU that runs in the same pass."""
        return passes(self.layers, way_back) if self.together else ((place, None) for place in range(len(self)))

    def infer(self, x: Array, **of_the_last: Any) -> Array:
        passing = self._passes(way_back=backend_of(x).on_host)
        of_each = inferring(self.layers, passing) if self.together else ((place, place, False) for place, _ in passing)
        for place, end, relu in of_each:
            options: dict[str, Any] = {"relu": True} if relu else of_the_last if end == len(self) - 1 else {}
            try:
                if place != end:
                    other = options.get("other")
                    if other is None or meets(self.layers[place], x, other):
                        options = {**options, "norm": self.layers[end]}
                    else:  # apart, so that the norm raises its error
                        x, place = inferred(self.layers[place], x), end
                x = inferred(self.layers[place], x, **options)
            except (ValueError, TypeError, MemoryError) as error:
                blame(str(place), self.layers[place], error)
        return x

    @undone_if_it_fails
    def forward(
        self, x: Array, train: bool = False, need_dx: bool = True, **of_the_last: Any
    ) -> tuple[Array, Pullback]:
        x = self.enter(x)
        ways: dict[int, Pullback] = {}
        last, joined = len(self) - 1, "other" in of_the_last  # then the last layer adds another branch: see joining.py
        if of_the_last and not joined:
            raise TypeError(f"Sequential: {', '.join(of_the_last)} needs other=, the output of another branch")
        for place, relu in self._passes(way_back=True):
            options = {"relu": True} if relu is not None else of_the_last if place == last else {}
            try:
                x, ways[place] = forward_of(self.layers[place], x, train, need_dx or bool(ways), **options)
            except (ValueError, TypeError, MemoryError) as error:
                blame(str(place), self.layers[place], error)
            if relu is not None:  # its E14 is in the pullback of the layer it ran with
                ways[relu] = Pullback("ReLU", lambda dy: (dy, {}), x).taking_two()

        def pullback(dy: Any) -> tuple[Any, Gradients]:
            parts, branch = [], None
            for place in reversed(ways):
                dy, gradients = ways[place].onward(dy)  # the chain rule: E13, E14, E15, E16, last layer to first
                if joined and place == last:
                    dy, branch = dy
                parts.append((str(place), self.layers[place], gradients))
            return [dy, branch] if joined else dy, merge(self, parts)

        children = {str(place): ways[place] for place in sorted(ways)}
        return x, Pullback("Sequential", pullback, x, children=children).taking_two().walking()


class Residual(Container):
    """``y = layer(x) + shortcut(x)``; without a shortcut the input itself is added (He et al. 2016).

    In the backward pass the delta goes through both branches, and the two results add up.

    >>> import dualnet as dn
    >>> block = dn.Residual(dn.Conv2D(8, 3, padding="same"), shortcut=dn.Conv2D(8, 1)).init((6, 6, 3))
    >>> sorted(block.parameters())
    ['layer.b', 'layer.w', 'shortcut.b', 'shortcut.w']
    """

    takes_relu = True

    def __init__(self, layer: Layer, shortcut: Layer | None = None) -> None:
        self.layer = check_layers([layer], "Residual")[0]
        self.shortcut = None if shortcut is None else check_layers([shortcut], "Residual")[0]

    def children(self) -> dict[str, Layer]:
        return {"layer": self.layer} if self.shortcut is None else {"layer": self.layer, "shortcut": self.shortcut}

    def output_shape(self, input_shape: Shape) -> Shape:
        shapes = branch_shapes(self, input_shape)
        direct = shapes.get("shortcut", tuple(input_shape))
        if shapes["layer"] != direct:
            raise ValueError(
                f"Residual: the layer turns {tuple(input_shape)} into {shapes['layer']}, the shortcut into {direct}; "
                "they can only be added if they are equal. Pass a shortcut such as Conv2D(filters, 1, stride=...)."
            )
        return direct

    def infer(self, x: Array, relu: bool = False) -> Array:
        direct = x if self.shortcut is None else inferred(self.shortcut, x)
        if takes_other(self.layer):
            return inferred(self.layer, x, relu=relu, other=direct)
        return add(inferred(self.layer, x), direct, relu)

    @undone_if_it_fails
    def forward(self, x: Array, train: bool = False, relu: bool = False) -> tuple[Array, Pullback]:
        x = self.enter(x)
        if takes_other(self.layer):
            return self._in_one_pass(x, train, relu)
        direct, ways = x, {}
        if self.shortcut is not None:  # first, as below: ranks that synchronise must run both in the same order
            direct, ways["shortcut"] = self.shortcut.forward(x, train)
        y, ways["layer"] = self.layer.forward(x, train)
        y = add(y, direct, relu)  # and E7 with relu
        kept = y if relu else None

        def pullback(dy: Array) -> tuple[Array, Gradients]:
            dy = rectify_backward(dy, kept) if relu else dy  # E14
            dx, gradients = ways["layer"](dy)
            parts = [("layer", self.layer, gradients)]
            if self.shortcut is None:
                return add(dx, dy), merge(self, parts)  # E12
            direct, gradients = ways["shortcut"](dy)
            return add(dx, direct), merge(self, [*parts, ("shortcut", self.shortcut, gradients)])

        children = {name: ways[name] for name in self.children()}
        return y, Pullback("Residual", pullback, y, children=children, y=kept).walking()

    def _in_one_pass(self, x: Array, train: bool, relu: bool) -> tuple[Array, Pullback]:
        """The same for a layer that can add the shortcut in its own pass over memory, and return its delta too.

        The two deltas of x are not added up here: the layer that reads their sum adds them up in its own pass.
        """
        direct, ways = x, {}
        if self.shortcut is not None:
            direct, ways["shortcut"] = self.shortcut.forward(x, train)
        y, ways["layer"] = self.layer.forward(x, train, relu=relu, other=direct)  # type: ignore[call-arg]

        def pullback(dy: Array | TwoDeltas) -> tuple[TwoDeltas, Gradients]:
            (dx, delta), gradients = ways["layer"].onward(dy)  # with E14
            parts = [("layer", self.layer, gradients)]
            if self.shortcut is not None:
                delta, gradients = ways["shortcut"](delta)
                parts.append(("shortcut", self.shortcut, gradients))
            return TwoDeltas(added_up(dx), delta), merge(self, parts)  # E12: their sum

        children = {name: ways[name] for name in self.children()}
        return y, Pullback("Residual", pullback, y, children=children).taking_two().walking()


class Parallel(Container):
    """Several layers side by side on the same input, whose outputs are then merged.

    ``merge`` says how (E12, E14, E15):

    - ``"add"``, ``"average"``, ``"max"``: the sum, the mean, or the largest, unit by unit; of equal units the first
      wins.
    - ``"multiply"``: the product. If a branch has extent 1 along an axis, its number applies to all places: a branch
      that turns maps (H, W, C) into (1, 1, C) is a gate for each channel.
    - ``"concat"``: side by side along the channels.

    ``"concat"`` is Inception's block (Szegedy et al. 2015) and, with an :class:`Identity` branch, U-Net's skip.
    ``"multiply"`` makes squeeze-and-excitation (Hu et al. 2018):

    >>> import dualnet as dn
    >>> gate = [dn.GlobalAveragePool2D(keepdims=True), dn.Dense(2), dn.ReLU(), dn.Dense(8), dn.Sigmoid()]
    >>> block = dn.Parallel([dn.Identity(), dn.Sequential(gate)], merge="multiply")
    >>> block.output_shape((6, 6, 8))
    (6, 6, 8)
    """

    def __init__(self, layers: Sequence[Layer], merge: str = "add") -> None:
        self.layers = check_layers(layers, "Parallel")
        if merge not in MERGES:
            raise ValueError(f"Parallel: merge must be one of {', '.join(map(repr, MERGES))}; got {merge!r}")
        if not self.layers:
            raise ValueError("Parallel: expected at least one layer")
        self.merge = merge

    def children(self) -> dict[str, Layer]:
        return {str(place): layer for place, layer in enumerate(self.layers)}

    def output_shape(self, input_shape: Shape) -> Shape:
        shapes = list(branch_shapes(self, input_shape).values())
        return merged_shape(f"Parallel(merge={self.merge!r})", self.merge, shapes)

    def infer(self, x: Array) -> Array:
        return merged("Parallel", self.merge, [inferred(layer, x) for layer in self.layers])[0]

    @undone_if_it_fails
    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        x = self.enter(x)
        results = [layer.forward(x, train) for layer in self.layers]
        ways = {str(place): way for place, (_, way) in enumerate(results)}
        y, back, kept = merged("Parallel", self.merge, [y for y, _ in results])

        def pullback(dy: Array) -> tuple[Array, Gradients]:
            dx, parts = None, []
            for (place, way), layer, delta in zip(ways.items(), self.layers, back(dy)):
                branch, gradients = way(delta)  # E12, E14, E15 through the merge; then the branch's own pullback
                dx = branch if dx is None else dx + branch
                parts.append((place, layer, gradients))
            return dx, merge(self, parts)

        return y, Pullback("Parallel", pullback, y, children=ways, **kept).walking()


class Identity(Layer):
    """``y = x``: a branch that changes nothing.

    >>> import dualnet as dn
    >>> dn.Parallel([dn.Identity(), dn.Identity()], merge="concat").output_shape((4, 4, 3))
    (4, 4, 6)
    """

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        return x, Pullback("Identity", lambda dy: (dy, {}), x)


class Lambda(Layer):
    """A layer made of two functions: ``forward(x) -> y`` and ``backward(dy, x, y) -> dx``. It has no parameters.

    Shape inference runs ``forward`` once on a batch of one. Check the pair with :func:`dualnet.check.gradient`.
    You can use and train a network with such a layer, but not save it as a whole, because its functions are code.

    >>> import dualnet as dn
    >>> double = dn.Lambda(lambda x: 2 * x, lambda dy, x, y: 2 * dy)
    >>> double.output_shape((3, 3, 1))
    (3, 3, 1)
    """

    def __init__(self, forward: Callable[[Array], Array], backward: Callable[[Array, Array, Array], Array]) -> None:
        if not callable(forward) or not callable(backward):
            raise TypeError("Lambda: expected two functions, forward(x) -> y and backward(dy, x, y) -> dx")
        for function, call in ((forward, "forward(x)"), (backward, "backward(dy, x, y)")):
            if not can_take(function, call.count(",") + 1):
                raise TypeError(f"Lambda: expected a function that is called as {call}, got {signature(function)}")
        self.function, self.backward = forward, backward

    def config(self) -> dict[str, Any]:
        return {"forward": self.function, "backward": self.backward}

    def output_shape(self, input_shape: Shape) -> Shape:
        probe = current().xp.zeros((1, *input_shape), dtype=self.dtype or "float32")
        return tuple(self.function(probe).shape[1:])

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y = self.function(x)

        def pullback(dy: Array) -> tuple[Array, Gradients]:
            dx = self.backward(dy, x, y)
            if tuple(dx.shape) != tuple(x.shape):
                raise ValueError(f"Lambda: backward returned shape {tuple(dx.shape)}; expected that of x, {x.shape}")
            return dx, {}

        return y, Pullback("Lambda", pullback, y, x=x, y=y)


def forward_of(layer: Layer, x: Array, train: bool, need_dx: bool, **options: Any) -> tuple[Array, Pullback]:
    """Run a layer forward; if nobody needs dx, a layer that can skip it does so."""
    if not need_dx and takes_need_dx(layer):
        options["need_dx"] = False
    return y_and_pullback(layer, layer.forward(x, train, **options))


def branch_shapes(owner: Container, input_shape: Shape) -> dict[str, Shape]:
    shapes = {}
    for name, layer in owner.children().items():
        try:
            shapes[name] = layer.output_shape(tuple(input_shape))
        except (ValueError, TypeError) as error:
            blame(name, layer, error)
    return shapes


def check_layers(layers: Any, owner: str) -> list[Layer]:
    if isinstance(layers, Layer) or not isinstance(layers, (list, tuple)):
        hint = f". Write {owner}([{type(layers).__name__}(...), ...])" if isinstance(layers, Layer) else ""
        raise TypeError(f"{owner}: expected a list of layers, got {type(layers).__name__}{hint}")
    for place, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            hint = f"; write {layer.__name__}()" if isinstance(layer, type) and issubclass(layer, Layer) else ""
            hint = "; write Sequential([...]) for a chain" if isinstance(layer, (list, tuple)) else hint
            raise TypeError(f"{owner}: item {place} is {layer!r}, which is not a layer{hint}")
    return list(layers)
