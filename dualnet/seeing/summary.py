"""A network as a table: the output of each layer for an image, and its cost."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy

from .. import markup
from ..geometry import elements
from ..layers.containers import Container
from ..layers.layer import Layer, Shape
from ..layers.parameter import Parameter
from ..layers.sketch import sketch
from ..shim import backend_of
from .watching import sharing_copy

__all__ = ["LayerSummary", "Summary", "summary"]

HEADINGS = ("layer", "output shape", "parameters", "multiply-adds", "activation bytes", "weight sharing")


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a :class:`Summary`; a container's row leaves the numbers to the layers inside, which follow it."""

    name: str  # "3.layer.0"
    layer: str  # its class
    depth: int
    container: bool
    output_shape: Shape | None  # without the batch; None if it is not known, inside a container of your own
    parameters: int  # 0 at a shared layer's later places
    multiply_adds: int  # for one image
    activation_bytes: int  # of its output, for one image
    shared: bool = False
    weights: int = 0  # for a convolution: all its weights, shared or not
    dense_weights: int | None = None  # E18: the weights of the fully-connected layer between the same maps
    frozen: bool = False  # does training leave it as it is?


@dataclass(frozen=True)
class Summary:
    """What ``net.summary()`` returns: prints as a table, renders as one in a notebook, and holds its ``rows``."""

    network: str
    input_shape: Shape
    dtype: str
    rows: list[LayerSummary]

    @property
    def parameters(self) -> int:
        """All trainable parameters; shared ones count once."""
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Multiplications with a weight (and additions) for one image, forward."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """Bytes of all layers' outputs for one image."""
        return sum(row.activation_bytes for row in self.rows)

    def __str__(self) -> str:
        table = markup.ruled([HEADINGS, *map(_cells, self.rows), self._totals()])
        return "\n".join([self._title(), *table, *self._below()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        below = "".join(f"<div>{markup.escape(text)}</div>" for text in self._below())
        table = markup.table(self._title(), HEADINGS, [*map(_cells, self.rows)], self._totals())
        return table + below

    def _title(self) -> str:
        return f"{self.network} on {self.input_shape}, {self.dtype}; numbers for one image"

    def _totals(self) -> tuple[str, ...]:
        totals = self.parameters, self.multiply_adds, self.activation_bytes
        return ("total", "", *(f"{total:,}" for total in totals), "")

    def _below(self) -> list[str]:
        """What is frozen, and E18 in words for the first convolution; the last column has the factor for each."""
        frozen = sum(row.parameters for row in self.rows if row.frozen)
        told = [f"frozen: {frozen:,} of {self.parameters:,} parameters"] if frozen else []
        for row in self.rows:
            if row.dense_weights is not None and row.weights:
                return [
                    *told,
                    f"weight sharing (E18): {row.name} {row.layer}".rstrip() + f" has {row.weights:,} weights; a "
                    f"fully-connected layer between the same maps has {row.dense_weights:,}.",
                ]
        return told


def _cells(row: LayerSummary) -> tuple[str, ...]:
    own = row.name.rpartition(".")[2]
    label = "  " * row.depth + f"{own} {row.layer}".strip() + (" (shared)" if row.shared else "")
    label += " (frozen)" if row.frozen else ""
    shape = "" if row.output_shape is None else str(row.output_shape)
    numbers = (row.parameters, row.multiply_adds, row.activation_bytes)
    factor = f"1/{row.dense_weights // row.weights:,}" if row.dense_weights and row.weights else ""
    return (label, shape, *(f"{number:,}" if number or not row.container else "" for number in numbers), factor)


def summary(net: Layer, input_shape: Shape | None = None) -> Summary:
    """The table of a network's layers: shapes, parameters, multiply-adds, activation bytes, weight sharing (E18).

    A network that is not initialised needs ``input_shape``; nothing is allocated for it, and it is not changed. Raises
    ``ValueError`` if the layers do not fit together.

    >>> import dualnet as dn
    >>> print(dn.Sequential([dn.Conv2D(6, 5, padding=2), dn.ReLU()]).summary((28, 28, 1)))
    Sequential on (28, 28, 1), float32; numbers for one image
    -----------------------------------------------------------------------------------
    layer     output shape  parameters  multiply-adds  activation bytes  weight sharing
    -----------------------------------------------------------------------------------
    0 Conv2D   (28, 28, 6)         156        117,600            18,816        1/23,670
    1 ReLU     (28, 28, 6)           0              0            18,816
    -----------------------------------------------------------------------------------
    total                          156        117,600            37,632
    weight sharing (E18): 0 Conv2D has 156 weights; a fully-connected layer between the same maps has 3,692,640.
    """
    if input_shape is None and net.input_shape is None:
        raise ValueError(
            "summary: the network is not initialised; call summary(input_shape=(28, 28, 1)), or net.init first"
        )
    shape = net.check_input_shape(net.input_shape if input_shape is None else input_shape)
    if shape != net.input_shape:
        net = sketch(sharing_copy(net), shape, net.dtype)
    seen: set[int] = set()
    rows = list(_rows(net, "", shape, 0, numpy.dtype(net.dtype).itemsize, seen))
    return Summary(type(net).__name__, shape, numpy.dtype(net.dtype).name, rows if len(rows) == 1 else rows[1:])


def network_html(net: Layer) -> str:
    """A network in a notebook: one line that unfolds to its layers, their options, shapes and parameters."""
    try:
        table = None if net.input_shape is None else summary(net)
    except Exception:  # a layer of your own may not know its shape; a notebook still shows the rest
        table = None
    layers = {name: layer for name, layer in net.walk() if name} or {"": net}
    rows = {row.name: row for row in table.rows} if table else {}
    lines = [_line(name, layer, rows.get(name), min(map(len, layers)) > 0) for name, layer in layers.items()]
    count = f"{len(lines)} layers · " if net.children() else ""
    title = f"<b>{markup.escape(type(net).__name__)}</b> · {count}"
    if table is None:
        title = title + "not initialised" if net.input_shape is None else title.removesuffix(" · ")
        return markup.card(title, markup.table("", ("layer", "options"), [line[:2] for line in lines], left=2))
    home = next((f" on {backend_of(p.value).name}" for p in net.parameters().values()), "")
    title += f"{table.parameters:,} parameters · {table.input_shape} → {net.output_shape(table.input_shape)} · "
    headings = ("layer", "options", "output shape", "parameters")
    body = markup.table("", headings, lines, left=2)
    return markup.card(f"{title}{table.dtype}{home}", body, opened=len(lines) <= 30)


def _line(name: str, layer: Layer, row: LayerSummary | None, named: bool) -> tuple[str, str, str, str]:
    depth, own = name.count(".") * named, name.rpartition(".")[2]
    label = "  " * depth + f"{own} {type(layer).__name__}".strip()
    options = "" if layer.children() else repr(layer).partition("(")[2].removesuffix(")")
    if row is None:
        return label, options, "", ""
    shared = " (shared)" if row.shared else ""
    shape = "" if row.output_shape is None else str(row.output_shape)
    return label + shared, options, shape, f"{row.parameters:,}" if row.parameters else ""


def _rows(
    layer: Layer, name: str, shape: Shape | None, depth: int, itemsize: int, seen: set[int]
) -> Iterator[LayerSummary]:
    output = None if shape is None else layer.output_shape(shape)
    children = _children(layer, shape)
    shared = id(layer) in seen
    seen.add(id(layer))
    own = [parameter for parameter in vars(layer).values() if isinstance(parameter, Parameter)]
    new = {id(parameter): elements(parameter.shape) for parameter in own if id(parameter) not in seen}
    seen.update(new)
    yield LayerSummary(
        name=name,
        layer=type(layer).__name__,
        depth=max(depth - 1, 0),
        container=bool(children),
        output_shape=output,
        parameters=sum(new.values()),
        multiply_adds=0 if children or shape is None else layer.multiply_adds(shape),
        activation_bytes=0 if children or output is None else elements(output) * itemsize,
        shared=shared and bool(own),
        weights=sum(elements(parameter.shape) for parameter in own),
        dense_weights=_dense_weights(layer, shape, output),
        frozen=layer.frozen and bool(own),
    )
    for child_name, child, child_shape in children:
        yield from _rows(child, f"{name}.{child_name}" if name else child_name, child_shape, depth + 1, itemsize, seen)


def _children(layer: Layer, shape: Shape | None) -> list[tuple[str, Layer, Shape | None]]:
    """Name, layer and input shape of the layers inside."""
    if isinstance(layer, Container) and shape is not None:
        return list(layer._shapes(shape))
    return [(name, child, child.input_shape) for name, child in layer.children().items()]


def _dense_weights(layer: Layer, shape: Shape | None, output: Shape | None) -> int | None:
    """E18: (H·W·C)·(H'·W'·D) weights and H'·W'·D biases, instead of the k1·k2·C·D and D that the convolution shares."""
    if not hasattr(layer, "kernel_size") or layer.children() or shape is None or output is None:
        return None
    biases = math.prod(output) if getattr(layer, "use_bias", False) else 0
    return math.prod(shape) * math.prod(output) + biases  # E18
