"""A network as boxes and arrows, in the languages of two drawing programs: Mermaid and Graphviz (DOT).

Branches are drawn side by side and meet where they are added or concatenated. A shared layer has a box at each of its
places; a dashed line ties each of them to the first, because they share one set of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..layers.containers import Container, Parallel, Residual, Sequential
from ..layers.graph import Graph as GraphOfLayers
from ..layers.layer import Layer, Shape

__all__ = ["Graph", "graph"]

FORMATS = ("mermaid", "dot")
SIGNS = {"add": "+", "average": "mean", "max": "max", "multiply": "×", "concat": "concat"}
"""The sign drawn where branches meet."""
LONG = 60
"""The most characters of a layer's options that are shown."""


class Graph(str):
    """The text that :func:`graph` returns: a string, which notebooks that support Mermaid show as a picture.

    >>> import dualnet as dn
    >>> isinstance(dn.graph(dn.ReLU()), str)
    True
    """

    language: str = "mermaid"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        drawn = {"text/vnd.mermaid": str(self)} if self.language == "mermaid" else {}
        return {"text/plain": str(self), **drawn}


@dataclass
class Node:
    """A box: a layer, the input, the output, or the point where branches meet."""

    key: str
    lines: tuple[str, ...]
    kind: str  # "layer", "shared", "end" or "join"


@dataclass
class Group:
    """The part of the drawing that belongs to a container."""

    key: str
    title: str
    nodes: list[Node | Group] = field(default_factory=list)


@dataclass
class Drawing:
    """Boxes in groups, the arrows between them, and ties between the places of a shared layer."""

    top: Group
    edges: list[tuple[str, str]] = field(default_factory=list)
    ties: list[tuple[str, str]] = field(default_factory=list)
    first: dict[int, str] = field(default_factory=dict)  # a layer's id: the key of its first box
    count: int = 0

    def node(self, group: Group, lines: tuple[str, ...], kind: str, sources: list[str]) -> str:
        """A new box with an arrow from each source; returns its key."""
        self.count += 1
        key = f"n{self.count}"
        group.nodes.append(Node(key, lines, kind))
        self.edges += [(source, key) for source in sources]
        return key

    def group(self, within: Group, title: str) -> Group:
        self.count += 1
        made = Group(f"g{self.count}", title)
        within.nodes.append(made)
        return made


def graph(net: Layer, format: str = "mermaid", *, input_shape: Shape | None = None) -> Graph:
    """A network as the text of a diagram: ``"mermaid"`` or ``"dot"``.

    Code hosts and notebooks draw Mermaid (in Markdown, a block marked ``mermaid``); Graphviz draws DOT: ``dot -Tsvg``.
    Shapes are shown if the network is initialised or if you give ``input_shape`` (without the batch); nothing is
    allocated. A container of your own is one box, since only it knows how its layers are connected. Raises
    ``ValueError`` for any other format, and if ``input_shape`` does not fit.

    >>> import dualnet as dn
    >>> print(dn.graph(dn.Sequential([dn.Dense(3), dn.ReLU()]), input_shape=(2,)))
    flowchart TD
      n1(["input<br/>2"])
      n2["0 Dense<br/>units=3<br/>3"]
      n1 --> n2
      n3["1 ReLU<br/>3"]
      n2 --> n3
      n4(["output"])
      n3 --> n4
    """
    if not isinstance(net, Layer):
        raise TypeError(f"graph: expected a layer or network, got {type(net).__name__}")
    if format not in FORMATS:
        raise ValueError(f"graph: format must be {' or '.join(map(repr, FORMATS))}, got {format!r}")
    shape = net.input_shape if input_shape is None else net.check_input_shape(input_shape)
    if shape is not None:
        net.output_shape(shape)
    drawing = Drawing(Group("", ""))
    if _kind(net) is GraphOfLayers and isinstance(net, GraphOfLayers) and len(net.inputs) + len(net.ends()) > 2:
        _draw_several(drawing, net, shape)
    else:
        sources = [drawing.node(drawing.top, ("input", *_shape(shape)), "end", [])]
        sources, _ = _draw(drawing, drawing.top, "", net, sources, shape)
        drawing.node(drawing.top, ("output",), "end", sources)
    made = Graph("\n".join(_mermaid(drawing) if format == "mermaid" else _dot(drawing)))
    made.language = format
    return made


# -- what is drawn -----------------------------------------------------------------------------------------------------


def _draw(
    drawing: Drawing, group: Group, name: str, layer: Layer, sources: list[str], shape: Shape | None
) -> tuple[list[str], Shape | None]:
    """Draw a layer after its sources. Returns the sources of the next layer, and the shape that reaches it."""
    kind = _kind(layer)
    if kind is Sequential:
        for child, part in layer.children().items():
            sources, shape = _draw(drawing, group, _inside(name, child), part, sources, shape)
        return sources, shape
    output = None if shape is None else layer.output_shape(shape)
    if kind is GraphOfLayers:
        inner = drawing.group(group, f"{name} Graph".strip()) if name else group
        found = _draw_nodes(drawing, inner, name, layer, {layer.inputs[0]: sources}, shape)  # type: ignore[attr-defined]
        return found[layer.ends()[0]], output  # type: ignore[attr-defined]
    if kind is None:
        return [_box(drawing, group, name, layer, sources, output)], output
    inner = drawing.group(group, f"{name} {type(layer).__name__}".strip())
    ends: list[str] = []
    for child, part in layer.children().items():
        branch, _ = _draw(drawing, inner, _inside(name, child), part, sources, shape)
        ends += branch
    if kind is Residual and getattr(layer, "shortcut", None) is None:
        ends += sources
    joined = SIGNS[getattr(layer, "merge", "add")]
    return [drawing.node(inner, (joined, *_shape(output)), "join", ends)], output


def _draw_several(drawing: Drawing, net: GraphOfLayers, shape: Any) -> None:
    """A network with several inputs or outputs, each of them a box with its name."""
    shapes = {} if shape is None else net._by_name(shape)
    starts = {}
    for name in net.inputs:
        starts[name] = [drawing.node(drawing.top, (f"input {name}", *_shape(shapes.get(name))), "end", [])]
    found = _draw_nodes(drawing, drawing.top, "", net, starts, shape)
    for name in net.ends():
        drawing.node(drawing.top, (f"output {name}",), "end", found[name])


def _draw_nodes(
    drawing: Drawing, group: Group, name: str, layer: Any, starts: dict[str, list[str]], shape: Any
) -> dict[str, list[str]]:
    """Draw the nodes of a graph. Returns the boxes in which each node, and each input, ends."""
    ends = dict(starts)
    shapes = {} if shape is None else {child: at for child, _, at in layer._shapes(shape)}
    for child, node in layer.nodes.items():
        sources = [end for source in node.sources for end in ends[source]]
        ends[child], _ = _draw(drawing, group, _inside(name, child), node.layer, sources, shapes.get(child))
    return ends


def _box(drawing: Drawing, group: Group, name: str, layer: Layer, sources: list[str], output: Shape | None) -> str:
    shared = id(layer) in drawing.first
    kind, _, arguments = repr(layer).partition("(")
    label = f"{name} {kind}".strip() + (" (shared)" if shared else "")
    options = arguments.removesuffix(")")
    shown = (options if len(options) <= LONG else options[:LONG] + "…",) if options else ()
    key = drawing.node(group, (label, *shown, *_shape(output)), "shared" if shared else "layer", sources)
    if shared and layer.parameters():
        drawing.ties.append((drawing.first[id(layer)], key))
    drawing.first.setdefault(id(layer), key)
    return key


def _kind(layer: Layer) -> type[Container] | None:
    """How the layers inside are connected; None for a single box."""
    for kind in (Sequential, Residual, Parallel, GraphOfLayers):
        if isinstance(layer, kind) and type(layer).forward is kind.forward and layer.children():
            return kind
    return None


def _inside(name: str, child: str) -> str:
    return f"{name}.{child}" if name else child


def _shape(shape: Shape | None) -> tuple[str, ...]:
    return () if shape is None else (" × ".join(map(str, shape)),)


# -- the two languages -------------------------------------------------------------------------------------------------

MERMAID = {"end": ('(["', '"])'), "join": ('(("', '"))'), "layer": ('["', '"]'), "shared": ('["', '"]')}


def _mermaid(drawing: Drawing) -> Iterator[str]:
    yield "flowchart TD"
    arrows: dict[str, list[str]] = {}
    for source, target in drawing.edges:
        arrows.setdefault(target, []).append(source)

    def within(group: Group, indent: str) -> Iterator[str]:
        for node in group.nodes:
            if isinstance(node, Group):
                yield f'{indent}subgraph {node.key}["{_quoted(node.title)}"]'
                yield from within(node, indent + "  ")
                yield f"{indent}end"
                yield from later(node, indent)
                continue
            before, after = MERMAID[node.kind]
            yield f"{indent}{node.key}{before}{'<br/>'.join(map(_quoted, node.lines))}{after}"
            if group is drawing.top:
                yield from (f"{indent}{source} --> {node.key}" for source in arrows.get(node.key, []))

    def later(group: Group, indent: str) -> Iterator[str]:
        """Arrows after the end of the outermost group: written inside it, they would pull their sources in."""
        if group in drawing.top.nodes:
            for key in _keys(group):
                yield from (f"{indent}{source} --> {key}" for source in arrows.get(key, []))

    yield from within(drawing.top, "  ")
    yield from (f"  {first} -.-|same weights| {second}" for first, second in drawing.ties)


def _keys(group: Group) -> Iterator[str]:
    for node in group.nodes:
        if isinstance(node, Group):
            yield from _keys(node)
        else:
            yield node.key


def _quoted(text: str) -> str:
    """Text inside Mermaid's quotes: characters that could end them, or be read as markup, become entities."""
    marks = {"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "\n": " ", "\\": "#92;"}
    return "".join(marks.get(letter, letter) for letter in text)


DOT = {
    "end": 'shape=box, style="rounded,filled", fillcolor="#8b949e33"',
    "join": "shape=ellipse",
    "layer": "shape=box, style=rounded",
    "shared": 'shape=box, style="rounded,dashed"',
}


def _dot(drawing: Drawing) -> Iterator[str]:
    yield "digraph dualnet {"
    yield '  graph [rankdir=TB, fontname="Helvetica", fontsize=11, color="#8b949e", style=rounded, labeljust=l];'
    yield '  node [fontname="Helvetica", fontsize=11];'
    yield '  edge [color="#57606a", arrowsize=0.7, fontname="Helvetica"];'

    def within(group: Group, indent: str) -> Iterator[str]:
        for node in group.nodes:
            if isinstance(node, Group):
                yield f"{indent}subgraph cluster_{node.key} {{"
                yield f'{indent}  label="{_escaped(node.title)}";'
                yield from within(node, indent + "  ")
                yield f"{indent}}}"
            else:
                label = "\\n".join(map(_escaped, node.lines))
                yield f'{indent}{node.key} [label="{label}", {DOT[node.kind]}];'

    yield from within(drawing.top, "  ")
    yield from (f"  {source} -> {target};" for source, target in drawing.edges)
    yield from (
        f'  {first} -> {second} [style=dashed, dir=none, constraint=false, label="same weights", fontsize=9];'
        for first, second in drawing.ties
    )
    yield "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
