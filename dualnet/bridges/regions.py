"""From a graph to containers: a flat list of layers, sums and concatenations becomes nested Sequentials.

Other frameworks store a network as a graph: nodes, each of which names the nodes whose outputs it takes. Here a network
is a tree of containers. The two are equivalent if every sum and concatenation closes what one node opened: all branches
that meet in it come from one node, through which everything flows (its *dominator*), and no node between the two is
used outside. Such a region with a single entry and a single exit is a :class:`Residual` or a :class:`Parallel`, its
branches are chains again, and so on inwards.

Any bridge that has read a graph can call :func:`nest`; it does not depend on where the graph comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..layers import Identity, Layer, Parallel, Residual, Sequential

__all__ = ["Node", "nest"]

MOST_DEPTH = 100


@dataclass(frozen=True)
class Node:
    """One node of a graph: a layer with one input, or the merging of several, ``"add"`` or ``"concat"``."""

    name: str
    inputs: tuple[str, ...]
    does: Layer | str


Step = tuple[str, "Layer | Region"]  # a node's name, and what it is


@dataclass(frozen=True)
class Region:
    """Several branches from one node to the merge that closes them; each is a list of steps, and may be empty."""

    merge: str
    ways: list[list[Step]]


def nest(nodes: Iterable[Node], source: str, result: str) -> tuple[Sequential, dict[str, str]]:
    """The graph as a network, and the place in it of each node that is a layer: ``{"conv1": "0", "pool": "2"}``.

    ``source`` names the input and ``result`` the node whose output is the network's. The inputs of each node come
    before it. Nodes that do not lead to the result are left out. Several nodes may have the same layer: it is shared.

    Raises ``ValueError`` if no containers are equivalent, and names the node: it is used twice, but its branches do not
    meet again in one merge.

    >>> import dualnet as dn
    >>> nodes = [
    ...     Node("conv", ("x",), dn.Conv2D(4, 3, padding=1)),
    ...     Node("relu", ("conv",), dn.ReLU()),
    ...     Node("sum", ("relu", "conv"), "add"),
    ...     Node("pool", ("sum",), dn.MaxPool2D(2)),
    ... ]
    >>> net, places = nest(nodes, "x", "pool")
    >>> [type(layer).__name__ for layer in net], places
    (['Conv2D', 'Residual', 'MaxPool2D'], {'conv': '0', 'relu': '1.layer', 'pool': '2'})
    """
    known = _with_shared_prefixes(_in_order(nodes, source))
    if result != source and result not in known:
        raise ValueError(f"the graph has no node {result!r}; expected one that makes its result")
    way = _Ways(known, source).between(source, result)
    places: dict[str, str] = {}
    return Sequential([_layer(step, str(at), places) for at, step in enumerate(way)]), places


def _in_order(nodes: Iterable[Node], source: str) -> dict[str, Node]:
    """The nodes by name, after a check that each has the inputs that it needs, and that they come before it."""
    known: dict[str, Node] = {}
    for node in nodes:
        if node.name in known or node.name == source:
            raise ValueError(f"the graph has two nodes called {node.name!r}; expected different names")
        for name in node.inputs:
            if name not in known and name != source:
                raise ValueError(f"node {node.name!r} takes {name!r}, but no earlier node is called so")
        if isinstance(node.does, Layer) and len(node.inputs) != 1:
            raise ValueError(f"node {node.name!r} is a layer with {len(node.inputs)} inputs; expected one")
        if not isinstance(node.does, Layer) and (node.does not in ("add", "concat") or not node.inputs):
            raise ValueError(f"node {node.name!r} is {node.does!r}; expected a layer, 'add' or 'concat' with inputs")
        known[node.name] = node
    return known


def _with_shared_prefixes(known: dict[str, Node]) -> dict[str, Node]:
    """If the inputs of a concatenation begin with all those of an earlier one, it takes that one's output instead.

    So a dense block (Huang et al. 2017), in which each layer gets the outputs of all before it, becomes nested regions.
    """
    earlier: dict[tuple[str, ...], str] = {}
    changed: dict[str, Node] = {}
    for node in known.values():
        if node.does == "concat" and len(node.inputs) > 1:
            for end in range(len(node.inputs) - 1, 1, -1):
                if node.inputs[:end] in earlier:
                    changed[node.name] = Node(node.name, (earlier[node.inputs[:end]], *node.inputs[end:]), node.does)
                    break
            earlier.setdefault(node.inputs, node.name)
    return known | changed


class _Ways:
    """The branches of a graph; each node is visited once."""

    def __init__(self, known: dict[str, Node], source: str) -> None:
        self.known = known
        self.used: set[str] = set()
        self.above: dict[str, str] = {}  # each node's dominator: the last node that all paths to it cross
        self.depth = {source: 0}
        for node in known.values():
            at = node.inputs[0]
            for other in node.inputs[1:]:
                at = self._meeting(at, other)
            self.above[node.name], self.depth[node.name] = at, self.depth[at] + 1

    def _meeting(self, one: str, other: str) -> str:
        """The last node on the path to both."""
        while one != other:
            if self.depth[one] < self.depth[other]:
                one, other = other, one
            one = self.above[one]
        return one

    def between(self, start: str, end: str, level: int = 0) -> list[Step]:
        """The steps from one node to another, which is the last of them; all paths there cross ``start``."""
        if level > MOST_DEPTH:
            raise ValueError(f"the graph has branches inside branches, more than {MOST_DEPTH} deep; expected fewer")
        way: list[Step] = []
        while end != start:
            node, above = self.known[end], self.above[end]
            if end in self.used:
                raise ValueError(
                    f"node {end!r} branches in a way that Residual and Parallel cannot express: its branches must meet "
                    "in one sum or concatenation, and nothing else may use what lies between. Write this network as a "
                    "dn.Graph."
                )
            self.used.add(end)
            if isinstance(node.does, Layer):
                way.append((end, node.does))
            else:
                way.append((end, self._region(node.does, above, node.inputs, level + 1)))
            end = above
        return way[::-1]

    def _region(self, merge: str, above: str, names: tuple[str, ...], level: int) -> Region:
        """The branches from ``above`` to these nodes.

        Neighbours in a concatenation that share a path, and split only later, are concatenated where they split.
        """
        runs: list[list[str]] = []
        for name in names:
            together = merge == "concat" and bool(runs) and self._meeting(runs[-1][-1], name) != above
            runs[-1].append(name) if together else runs.append([name])
        ways = []
        for run in runs:
            opens = run[0]
            for name in run[1:]:
                opens = self._meeting(opens, name)
            way = self.between(above, opens, level)
            if len(run) > 1:
                way.append((run[-1], self._region(merge, opens, tuple(run), level + 1)))
            ways.append(way)
        return Region(merge, ways)


def _layer(step: Step, place: str, places: dict[str, str]) -> Layer:
    """A step as a layer; the place of each node in it goes to ``places``."""
    name, does = step
    if isinstance(does, Layer):
        places[name] = place
        return does
    if does.merge == "add" and len(does.ways) == 2:
        way, shortcut = sorted(does.ways, key=len, reverse=True)  # the order of the two changes no bit of the sum
        if way:
            layer = _chain(way, f"{place}.layer", places)
            return Residual(layer, _chain(shortcut, f"{place}.shortcut", places) if shortcut else None)
    return Parallel([_chain(way, f"{place}.{at}", places) for at, way in enumerate(does.ways)], does.merge)


def _chain(way: list[Step], place: str, places: dict[str, str]) -> Layer:
    """The steps of a branch as one layer."""
    if len(way) == 1:
        return _layer(way[0], place, places)
    layers = [_layer(step, f"{place}.{at}", places) for at, step in enumerate(way)]
    return Sequential(layers) if layers else Identity()
