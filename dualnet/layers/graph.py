"""A network whose layers have names: branches may split and merge anywhere, with several inputs and several outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ..geometry import check_shape
from ..ops.pullback import Pullback
from ..shim import Array
from .containers import Container, check_layers, forward_of
from .layer import Layer, Shape, entered, inferred
from .passing import Gradients, blame, merge
from .state import undone_if_it_fails

__all__ = ["Graph"]

Shapes = Shape | dict[str, Shape]
Arrays = Array | dict[str, Array]


@dataclass(frozen=True)
class Node:
    """A layer, and the names of the nodes whose outputs it takes: one name, or a list of several."""

    layer: Layer
    inputs: str | list[str]

    @property
    def sources(self) -> list[str]:
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    def taken(self, values: Mapping[str, Any]) -> Any:
        """The input of the layer: one of the values, or a list of them."""
        return values[self.inputs] if isinstance(self.inputs, str) else [values[name] for name in self.inputs]


class Graph(Container):
    """Layers with names. Each takes the output of an earlier layer, or a list of several outputs.

    ``inputs`` names the inputs. ``add(name, layer, inputs)``, or an item of ``nodes``, puts a layer after one input or
    node. With a list of names, the layer gets a list of arrays: use :class:`Add`, :class:`Concatenate`,
    :class:`Multiply`, :class:`Average` or :class:`Maximum`. A node that no other node takes is an output; ``outputs``
    names different ones. A layer that is added under two names is shared.

    With one input and one output, a graph is a layer like any other. Several inputs, and their shapes, are dictionaries
    by name; so are several outputs, and the ``dy`` of the pullback. ``fit`` then takes dictionaries of inputs, targets
    and losses: ``loss={"kind": "softmax_cross_entropy", "box": (0.5, "huber")}`` weights the second by ½. Parameters
    are named after the nodes.

    The backward pass runs the nodes in reverse. If an output was used several times, its deltas add up. (Make a chain a
    single node, a Sequential: some layers of a chain, such as a convolution and its ReLU, can then run in one pass.)

    >>> import dualnet as dn
    >>> net = dn.Graph(inputs=["image", "meta"])
    >>> _ = net.add("features", dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.GlobalAveragePool2D()]), "image")
    >>> _ = net.add("joined", dn.Concatenate(), ["features", "meta"])
    >>> _ = net.add("class", dn.Dense(2), "joined")
    >>> net.init({"image": (6, 6, 1), "meta": (3,)}).output_shape(net.input_shape), list(net.parameters())[-2:]
    ((2,), ['class.w', 'class.b'])
    >>> x = {"image": dn.asarray([[[[1.0]] * 6] * 6]), "meta": dn.asarray([[1.0, 2.0, 3.0]])}
    >>> y, pullback = net.forward(x, train=True)
    >>> dx, gradients = pullback(y)
    >>> y.shape, dx["meta"].shape, list(gradients) == list(net.parameters())
    ((1, 2), (1, 3), True)
    """

    takes_need_dx = True

    def __init__(
        self,
        inputs: str | Sequence[str] = "x",
        nodes: Sequence[Any] = (),
        outputs: str | Sequence[str] | None = None,
    ) -> None:
        self.inputs = _names(inputs, "inputs")
        self.nodes: dict[str, Node] = {}
        self.outputs = outputs
        for node in nodes:
            if not isinstance(node, (tuple, list)) or len(node) != 3:
                raise TypeError(
                    f"Graph: expected nodes (name, layer, inputs), as in graph.add, but one of them is {node!r}"
                )
            self.add(*node)

    def add(self, name: str, layer: Layer, inputs: str | Sequence[str]) -> Self:
        """Add a layer after an input or a node, or after a list of them; returns the graph."""
        (name,) = _names(name, "name")
        check_layers([layer], "Graph")
        sources = _names(inputs, f"node {name!r}: inputs", repeated=True)
        if name in self.nodes or name in self.inputs:
            what = "a node" if name in self.nodes else "an input"
            raise ValueError(f"Graph: there is already {what} {name!r}; give the new one a different name")
        for source in sources:
            if source not in self.nodes and source not in self.inputs:
                known = ", ".join(map(repr, [*self.inputs, *self.nodes]))
                raise ValueError(
                    f"Graph: node {name!r} takes {source!r}, but so far there are only {known}. A node can only take "
                    "inputs and nodes that were added before it, so that there are no cycles."
                )
        self.nodes[name] = Node(layer, inputs if isinstance(inputs, str) else sources)
        return self

    def children(self) -> dict[str, Layer]:
        return {name: node.layer for name, node in self.nodes.items()}

    def config(self) -> dict[str, Any]:
        nodes = [[name, node.layer, node.inputs] for name, node in self.nodes.items()]
        return {"inputs": self.inputs, "nodes": nodes, "outputs": self.outputs}

    def ends(self) -> list[str]:
        """The nodes whose outputs are the network's. ``ValueError`` if the graph is incomplete."""
        taken = {source for node in self.nodes.values() for source in node.sources}
        last = [name for name in self.nodes if name not in taken]
        if not last:
            raise ValueError("Graph: it has no nodes yet; add one with graph.add(name, layer, inputs)")
        for name in self.inputs:
            if name not in taken:
                raise ValueError(f"Graph: no node takes the input {name!r}; leave it out, or add a node that does")
        if self.outputs is None:
            return last
        outputs = _names(self.outputs, "outputs")
        for name in outputs:
            if name not in self.nodes:
                raise ValueError(f"Graph: outputs names {name!r}, but the nodes are {', '.join(map(repr, self.nodes))}")
        for name in last:
            if name not in outputs:
                raise ValueError(f"Graph: node {name!r} leads to no output; remove it, or name it in outputs")
        return outputs

    if TYPE_CHECKING:  # with several inputs and outputs, dictionaries by their names

        def init(self, input_shape: Any, seed: int = 0, dtype: Any = None, keep: bool = False) -> Self: ...

        def __call__(self, x: Any) -> Any: ...

        def predict(self, x: Any, batch_size: int = 256) -> Any: ...

    # -- shapes

    def check_input_shape(self, input_shape: Any) -> Any:
        if not isinstance(input_shape, Mapping) and len(self.inputs) == 1:
            return check_shape(input_shape, "Graph")
        if not isinstance(input_shape, Mapping) or set(input_shape) != set(self.inputs):
            wanted = ", ".join(f"{name!r}: shape" for name in self.inputs)
            raise ValueError(f"Graph: input_shape must be a dictionary {{{wanted}}}; got {input_shape!r}")
        shapes = {name: check_shape(input_shape[name], f"Graph input {name!r}") for name in self.inputs}
        return shapes if len(shapes) > 1 else shapes[self.inputs[0]]

    def _shapes(self, input_shape: Any) -> Iterator[tuple[str, Layer, Any]]:
        shapes = self._by_name(self.check_input_shape(input_shape))
        for name, node in self.nodes.items():
            yield name, node.layer, node.taken(shapes)
            shapes[name] = self._next(name, node, shapes)

    def _next(self, name: str, node: Node, shapes: dict[str, Any]) -> Any:
        try:
            return node.layer.output_shape(node.taken(shapes))
        except (ValueError, TypeError) as error:
            blame(name, node.layer, error)

    def output_shape(self, input_shape: Any) -> Any:
        ends, shapes = self.ends(), self._by_name(self.check_input_shape(input_shape))
        for name, node in self.nodes.items():
            shapes[name] = self._next(name, node, shapes)
        return _alone({name: shapes[name] for name in ends})

    def enter(self, x: Any) -> Any:
        if self.input_shape is None or (len(self.inputs) == 1 and not isinstance(x, Mapping)):
            return super().enter(x)
        if not isinstance(x, Mapping) or set(x) != set(self.inputs):
            got = f"one with {', '.join(map(repr, x)) or 'nothing'}" if isinstance(x, Mapping) else type(x).__name__
            raise TypeError(f"Graph: x must be a dictionary of arrays, {', '.join(map(repr, self.inputs))}; got {got}")
        shapes = self._by_name(self.input_shape)
        values = {name: entered(f"Graph input {name!r}", x[name], shapes[name], self.dtype) for name in self.inputs}
        counts = {name: int(value.shape[0]) for name, value in values.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"Graph: the inputs hold different numbers of examples: {counts}")
        return _alone(values)

    def _by_name(self, one_or_several: Any) -> dict[str, Any]:
        """A copy of what was given for the inputs, by their names."""
        return dict(one_or_several) if len(self.inputs) > 1 else {self.inputs[0]: one_or_several}

    # -- forward and backward

    def infer(self, x: Any) -> Any:
        ends, values = self.ends(), self._by_name(x)
        last = {source: name for name, node in self.nodes.items() for source in node.sources}  # its last user
        for name, node in self.nodes.items():
            try:
                values[name] = inferred(node.layer, node.taken(values))
            except (ValueError, TypeError, MemoryError) as error:
                blame(name, node.layer, error)
            for source in {*node.sources} - {*ends}:
                if last[source] == name:
                    del values[source]  # so that its memory is free
        return _alone({name: values[name] for name in ends})

    @undone_if_it_fails
    def forward(self, x: Any, train: bool = False, need_dx: bool = True) -> tuple[Any, Pullback]:
        ends, values = self.ends(), self._by_name(self.enter(x))
        ways: dict[str, Pullback] = {}
        for name, node in self.nodes.items():
            inside = need_dx or any(source in self.nodes for source in node.sources)  # does anything need its dx?
            try:
                values[name], ways[name] = forward_of(node.layer, node.taken(values), train, inside)
            except (ValueError, TypeError, MemoryError) as error:
                blame(name, node.layer, error)

        def pullback(dy: Any) -> tuple[Any, Gradients]:
            deltas = dict(dy) if len(ends) > 1 else {ends[0]: dy}  # ∂E/∂ of each node's output
            parts = []
            for name in reversed(ways):  # the chain rule, last to first: at a node's turn, its delta is complete
                node = self.nodes[name]
                dx, gradients = ways[name](deltas.pop(name))
                for source, delta in zip(node.sources, dx if isinstance(dx, list) else [dx]):
                    if delta is None:  # the delta of an input, which nobody asked for
                        continue
                    known = deltas.get(source)
                    deltas[source] = delta if known is None else known + delta  # E12  used several times: the sum
                parts.append((name, node.layer, gradients))
            dx = _alone({name: deltas[name] for name in self.inputs}) if need_dx else None
            return dx, merge(self, parts)

        y = {name: values[name] for name in ends}
        if len(ends) == 1:
            return _alone(y), Pullback("Graph", pullback, _alone(y), children=ways).walking()
        return y, PullbackOfSeveral("Graph", pullback, y, ways).walking()


class PullbackOfSeveral(Pullback):
    """The pullback of a graph with several outputs: ``dy``, ``shape`` and ``dtype`` are dictionaries by their names."""

    def __init__(self, op: str, backward: Any, y: dict[str, Array], children: dict[str, Pullback]) -> None:
        super().__init__(op, backward, next(iter(y.values())), children)
        self._ends = {name: Pullback(f"{op} output {name!r}", backward, array) for name, array in y.items()}
        self.shape: Any = {name: end.shape for name, end in self._ends.items()}
        self.dtype = {name: end.dtype for name, end in self._ends.items()}

    def _checked(self, dy: Any) -> Any:
        if not isinstance(dy, Mapping) or set(dy) != set(self._ends):
            got = f"one of {', '.join(map(repr, dy))}" if isinstance(dy, Mapping) else f"a {type(dy).__name__}"
            raise TypeError(
                f"{self.op} pullback: dy must be a dictionary of {', '.join(map(repr, self._ends))}; got {got}"
            )
        return {name: end._checked(dy[name]) for name, end in self._ends.items()}

    def free(self) -> None:
        super().free()
        for end in self._ends.values():
            end.free()


def _alone(by_name: dict[str, Any]) -> Any:
    """The only value, or the dictionary of several."""
    return next(iter(by_name.values())) if len(by_name) == 1 else by_name


def _names(given: Any, what: str, repeated: bool = False) -> list[str]:
    """One name or several, as a list."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, (tuple, list)) or not names or not all(isinstance(name, str) and name for name in names):
        raise TypeError(f"Graph: {what} is {given!r}; expected a name, or a list of names")
    for name in names:
        if "." in name or "/" in name:
            raise ValueError(f"Graph: {what} is {given!r}; a name cannot contain a dot or a slash: they separate names")
    if len(set(names)) < len(names) and not repeated:
        raise ValueError(f"Graph: {what} is {given!r}; each name can appear only once")
    return list(names)
