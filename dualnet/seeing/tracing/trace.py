"""One forward and one backward pass in numbers, layer by layer: what stands out, and what to try.

activation spread   the standard deviation of all the layer's outputs
delta norm          ‖∂E/∂y‖₂, of the delta that came back to the layer's output
update / weight     ‖Δw‖ / ‖w‖, how much the optimizer's next step would change (1e-3 to 1e-2 is usual)
dead                the fraction of a ReLU's channels that are 0 for every image of the batch, at every place
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy

from ... import markup, optimizers
from ...layers import LogSoftmax, ReLU, Sigmoid, Softmax
from ...layers.entering import as_batch, home, one_of_each
from ...layers.layer import Layer, Shape
from ...layers.parameter import Parameter
from ...layers.passing import Gradients
from ...ops import losses
from ...shim import Array, asarray, backend_of, to_numpy
from ...writing import replace_file
from ..watching import Probe, Visit
from . import picture
from .findings import Finding, find

__all__ = ["LayerTrace", "Trace", "trace"]

HEADINGS = (
    *("layer", "output shape", "mean", "spread", "delta norm"),
    *("update/weight", "dead", "bytes kept", "ms fwd", "ms back"),
)


@dataclass(frozen=True)
class LayerTrace:
    """One layer at one of its places. A container's row describes its output; the layers inside follow it."""

    name: str  # "3.layer.0"
    layer: str  # its class
    depth: int
    container: bool
    joins: bool  # a container that combines what its layers return: a sum, a concatenation
    output_shape: Shape  # without the batch
    mean: float
    spread: float
    delta_norm: float | None  # None if no delta came back
    update_ratio: float | None  # None without weights, if they are all 0, and at a shared layer's later places
    gradients: tuple[str, ...]  # what the pullback computes: ("dx", "dw", "db")
    dead: float | None  # None unless it is a ReLU
    bytes_kept: int | None  # by its pullback, weights included; None for a container
    forward_ms: float  # a container's own time, without that of its layers
    backward_ms: float
    finite: bool
    squashed: bool  # outputs between 0 and 1, whose spread says little
    shared: bool

    @property
    def label(self) -> str:
        """``"3.layer.0 Conv2D"``."""
        return f"{self.name} {self.layer}".strip()


@dataclass(frozen=True)
class Trace:
    """What ``net.trace(x, t)`` returns: prints as a table, shows its picture in a notebook, and holds ``rows``."""

    network: str
    backend: str
    dtype: str
    batch: int
    input_shape: Shape
    input_spread: float
    loss_name: str
    loss: float
    optimizer: str
    lr: float
    bytes_kept: int  # by all pullbacks together; an array that several of them keep counts once
    rows: list[LayerTrace]
    marks: list[Finding] = field(default_factory=list)

    @property
    def findings(self) -> list[str]:
        """What stands out, one sentence each, with what to try; empty if nothing does."""
        return [mark.text for mark in self.marks]

    @property
    def forward_ms(self) -> float:
        """Milliseconds of all layers, forward."""
        return sum(row.forward_ms for row in self.rows)

    @property
    def backward_ms(self) -> float:
        """Milliseconds of all layers, backward."""
        return sum(row.backward_ms for row in self.rows)

    def __str__(self) -> str:
        table = markup.ruled([HEADINGS, *map(_cells, self.rows), self._totals()])
        words = self.findings or ["nothing stands out"]
        return "\n".join([self.title, *table, *words])

    __repr__ = __str__

    @property
    def title(self) -> str:
        """The line above the table."""
        shape = (self.batch, *self.input_shape)
        return (
            f"{self.network} on {shape}, {self.dtype}, {self.backend}; "
            f"{self.loss_name} {self.loss:.4f}; {self.optimizer}, lr {self.lr:g}"
        )

    def svg(self) -> str:
        """The picture as a file, for light and dark: forward goes down on the left, backward comes up on the right."""
        return picture.standalone(self)

    def save(self, path: str | os.PathLike) -> Path:
        """Write the picture (``.svg``) or the picture with the table (``.html``). Returns the path."""
        path = Path(path)
        if path.suffix not in (".svg", ".html"):
            raise ValueError(f"Trace.save: {path.name} ends in {path.suffix or 'nothing'}; expected .svg or .html")
        replace_file(path, (self.svg() if path.suffix == ".svg" else picture.page(self)).encode())
        return path

    def _repr_html_(self) -> str:
        words = "".join(f"<li>{markup.escape(text)}</li>" for text in self.findings)
        table = markup.table(self.title, HEADINGS, [*map(_cells, self.rows)], self._totals())
        drawn = markup.card("picture", markup.scrolling(picture.inline(self)), opened=len(self.rows) < 40)
        found = f"<ul>{words}</ul>" if words else "<p>nothing stands out</p>"
        return f"<div>{table}{found}{drawn}</div>"

    def _totals(self) -> tuple[str, ...]:
        kept, forward, backward = f"{self.bytes_kept:,}", f"{self.forward_ms:.2f}", f"{self.backward_ms:.2f}"
        return ("total", "", "", "", "", "", "", kept, forward, backward)


def trace(
    net: Layer,
    x: Any,
    t: Any,
    *,
    loss: str | Callable[..., Any] | None = None,
    optimizer: str | float | optimizers.Optimizer = "adam",
) -> Trace:
    """Run one training pass on inputs x (N, ...) and targets t, forward and backward, and report what each layer did.

    Nothing changes: neither weights nor running statistics, nor dropout's next mask, nor the optimizer. Every layer
    runs by itself (in training, a ReLU may run in one pass with the layer before it), and the clock waits for the GPU
    after each layer, so use the times only to compare layers. The first pass of a process is slower than later ones.

    ``loss`` is by default the one that the network was last trained with, or softmax cross-entropy. ``optimizer`` is as
    in ``fit``, with its state from past steps, or a number: the learning rate of plain gradient descent. Raises
    ``ValueError`` or ``TypeError`` if the network is not initialised, or if x, t and loss do not fit.

    >>> import dualnet as dn
    >>> (x, t), _ = dn.data.load_digits()
    >>> trace = dn.models.digits_cnn().init((8, 8, 1)).trace(x[:32], t[:32])
    >>> [(row.label, row.output_shape) for row in trace.rows][:2]
    [('0 Conv2D', (8, 8, 32)), ('1 ReLU', (8, 8, 32))]
    >>> trace.findings
    []
    """
    one_of_each(net, "trace")
    chosen = losses.of(net, loss)
    optimizer = _optimizer(optimizer)
    batch, target = as_batch(net, x, "trace"), asarray(t, backend=home(net))
    if target.ndim == 0 or target.shape[0] != batch.shape[0]:
        raise ValueError(f"trace: x holds {batch.shape[0]} examples, but t has shape {tuple(target.shape)}")
    probe = Probe(net)
    y, pullback = probe.run(batch, train=True)
    kept = pullback.nbytes
    value, dloss = chosen(y, target)
    _, gradients = pullback(dloss())
    lr = optimizer.current_lr  # of the next step
    ratios = _updates(probe.net, gradients, optimizer)
    with numpy.errstate(all="ignore"):  # an overflow becomes a finding, not a warning
        rows = _rows(probe.visits, ratios)
        spread = float(numpy.std(to_numpy(batch), dtype=numpy.float64))
    return Trace(
        network=type(net).__name__,
        backend=backend_of(batch).name,
        dtype=batch.dtype.name,
        batch=int(batch.shape[0]),
        input_shape=tuple(int(n) for n in batch.shape[1:]),
        input_spread=spread,
        loss_name=getattr(chosen, "__name__", "loss"),
        loss=float(to_numpy(value)),
        optimizer=type(optimizer).__name__,
        lr=lr,
        bytes_kept=kept,
        rows=rows,
        marks=find(rows, spread, _norm(probe.visits[0].dy), int(batch.shape[0]), lr),
    )


def _optimizer(optimizer: str | float | optimizers.Optimizer) -> optimizers.Optimizer:
    """A copy, so that the trial step does not change the original."""
    if isinstance(optimizer, (int, float)) and not isinstance(optimizer, bool):
        return optimizers.SGD(lr=float(optimizer))
    return copy.deepcopy(optimizers.get(optimizer))  # type: ignore[arg-type]


def _updates(net: Layer, gradients: Gradients, optimizer: optimizers.Optimizer) -> dict[int, tuple[float, float]]:
    """‖Δw‖² and ‖w‖² of each parameter, by its id, for a step on parameters with the same values."""
    parameters = net.parameters()
    tried = {name: Parameter(parameter.value.copy()) for name, parameter in parameters.items()}
    if tried:
        optimizer.step(SimpleNamespace(parameters=lambda: tried), gradients)
    squares = {}
    for name, parameter in parameters.items():
        before = to_numpy(parameter.value).astype(numpy.float64)
        after = to_numpy(tried[name].value).astype(numpy.float64)
        squares[id(parameter)] = (_norm(after - before) ** 2, _norm(before) ** 2)
    return squares


def _rows(visits: list[Visit], updates: dict[int, tuple[float, float]]) -> list[LayerTrace]:
    """A row for each visit; a chain itself is left out, as in the summary."""
    seen: set[int] = set()
    shown = visits[1:] if len(visits) > 1 and not _joins(visits[0]) else visits
    shift = min((visit.depth for visit in shown), default=0)
    return [_row(visit, visit.depth - shift, updates, seen) for visit in shown]


def _row(visit: Visit, depth: int, updates: dict[int, tuple[float, float]], seen: set[int]) -> LayerTrace:
    layer, y = visit.layer, to_numpy(visit.y)
    own = {name: p for name, p in vars(layer).items() if isinstance(p, Parameter)}
    changed, weight = (sum(updates[id(p)][i] for p in own.values() if id(p) not in seen) for i in (0, 1))
    shared = any(id(p) in seen for p in own.values())
    seen.update(id(p) for p in own.values())
    return LayerTrace(
        name=visit.name,
        layer=type(layer).__name__,
        depth=depth,
        container=bool(visit.children),
        joins=_joins(visit),
        output_shape=tuple(int(n) for n in y.shape[1:]),
        mean=float(numpy.mean(y, dtype=numpy.float64)),
        spread=float(numpy.std(y, dtype=numpy.float64)),
        delta_norm=None if visit.dy is None else _norm(visit.dy),
        update_ratio=math.sqrt(changed / weight) if weight else None,
        gradients=("dx", *(f"d{name}" for name in own)),
        dead=_dead(y) if isinstance(layer, ReLU) else None,
        bytes_kept=None if visit.children else visit.way.nbytes,
        forward_ms=visit.forward_seconds * 1e3,
        backward_ms=visit.backward_seconds * 1e3,
        finite=bool(numpy.isfinite(y).all()),
        squashed=isinstance(layer, (Sigmoid, Softmax, LogSoftmax)),
        shared=shared,
    )


def _joins(visit: Visit) -> bool:
    """Does the container return something other than what its last layer returned?"""
    return bool(visit.children) and visit.y is not visit.children[-1].y


def _dead(y: numpy.ndarray) -> float:
    """The fraction of channels (of units, after a dense layer) that are 0 in the whole batch."""
    return float((y <= 0).reshape(-1, y.shape[-1]).all(axis=0).mean())


def _norm(array: Array) -> float:
    """‖array‖₂, added up in float64."""
    return float(numpy.sqrt(numpy.sum(numpy.square(to_numpy(array), dtype=numpy.float64))))


def _cells(row: LayerTrace) -> tuple[str, ...]:
    own = row.name.rpartition(".")[2]
    label = "  " * row.depth + f"{own} {row.layer}".strip() + (" (shared)" if row.shared else "")
    return (
        label,
        str(row.output_shape),
        markup.figure(row.mean),
        markup.figure(row.spread),
        "" if row.delta_norm is None else markup.figure(row.delta_norm),
        "" if row.update_ratio is None else markup.figure(row.update_ratio),
        "" if row.dead is None else f"{row.dead:.0%}",
        "" if row.bytes_kept is None else f"{row.bytes_kept:,}",
        f"{row.forward_ms:.2f}",
        f"{row.backward_ms:.2f}",
    )
