"""How much memory a network will need, before you run it.

In training four things add up. Parameters, their gradients and the optimizer's state do not depend on the batch. The
activations that the pullbacks keep for the backward pass grow with the batch; in convolutional networks they are the
largest part. Some memory is needed only for a moment: the deltas on either side of a layer, and the columns of a
convolution.

What the pullbacks keep is measured, not guessed: two images, then three, go forward through a copy of the network, and
the difference is what each further image adds. The copy shares the parameters; if the network is not initialised, they
take no memory at all. Two moments may set the peak: the layer of the backward pass at which most memory is in use, and
the optimizer's step, which holds old values beside new ones, so that an interrupted step can be undone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

from .. import markup, optimizers
from ..arguments import integer
from ..layers.containers import Sequential
from ..layers.entering import home
from ..layers.graph import Graph
from ..layers.layer import Layer, Shape
from ..layers.several import each, parts
from ..layers.sketch import sketch
from ..ops.pullback import Pullback
from ..shim import Array, current, load
from ..shim.dtypes import is_half, master_dtype
from ..shim.memory import machine_memory
from .summary import summary
from .watching import Run, Visit, Watch, sharing_copy

__all__ = ["Plan", "plan"]

HEADINGS = ("memory", "training", "inference")
WORKSPACE = 2 * 2**20
"""Columns and tiles of a convolution are made in blocks of about this many bytes, whatever the batch."""
MOST = 0.5
"""The share of the memory that three images may need; above it, the plan uses shapes alone."""


@dataclass(frozen=True)
class Plan:
    """What ``net.plan(batch)`` returns: prints as a table, and holds its numbers, all in bytes."""

    network: str
    input_shape: Shape
    batch: int
    dtype: str
    optimizer: str
    parameters: int
    gradients: int
    optimizer_state: int
    kept: int  # activations for the backward pass, including the batch itself
    passing: int  # beyond that, where most memory is in use: deltas, less what the layers after have freed
    columns: int  # columns and tiles of convolutions, whatever the batch
    update: int  # the optimizer's step: old and new values, and the gradients
    inference_activations: int
    available: int  # the machine's memory, or the GPU's
    where: str
    exact: bool  # False if the images were too large to try: then the plan uses shapes alone, and is a lower bound

    @property
    def training(self) -> int:
        """The peak of a training step."""
        back = self.parameters + self.gradients + self.optimizer_state + self.kept + self.passing + self.columns
        return max(back, self.update)

    @property
    def inference(self) -> int:
        """The peak of ``net(x)``."""
        return self.parameters + self.inference_activations + self.columns

    @property
    def fits(self) -> bool:
        """Is there enough memory for a training step?"""
        return self.training <= self.available

    def __str__(self) -> str:
        return "\n".join([self._title(), *markup.ruled([HEADINGS, *self._rows(), self._totals()]), *self._words()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        below = "".join(f"<div>{markup.escape(text)}</div>" for text in self._words())
        return markup.table(self._title(), HEADINGS, self._rows(), self._totals()) + below

    def _title(self) -> str:
        return f"{self.network} on a batch of {self.batch} × {self.input_shape}, {self.dtype}, {self.optimizer}"

    def _rows(self) -> list[tuple[str, str, str]]:
        return [
            ("parameters", _size(self.parameters), _size(self.parameters)),
            ("gradients", _size(self.gradients), ""),
            (f"{self.optimizer}'s state", _size(self.optimizer_state), ""),
            ("activations for the backward pass", _size(self.kept), ""),
            ("activations and deltas in use", _size(self.passing), _size(self.inference_activations)),
            ("columns of convolutions", _size(self.columns), _size(self.columns)),
            ("(or the optimizer's step)", _size(self.update), ""),
        ]

    def _totals(self) -> tuple[str, str, str]:
        least = "" if self.exact else "at least "
        return "peak, about", least + _size(self.training), least + _size(self.inference)

    def _words(self) -> list[str]:
        words = [f"{self.where} has {_size(self.available)}"]
        if not self.fits:
            each_image = max(1, (self.kept + self.passing) // self.batch)
            fixed = self.parameters + self.gradients + self.optimizer_state + self.columns
            most = (self.available - fixed) // each_image
            advice = f"a batch of about {most} would fit" if most > 0 else "no batch would fit"
            words[0] += f", which is not enough to train with this batch; {advice}"
        elif self.training > 0.8 * self.available:
            words[0] += ", so it will be tight"
        return words


def plan(net: Layer, batch: int = 64, input_shape: Shape | None = None, *, optimizer: Any = "adam") -> Plan:
    """How much memory training and inference with this batch will need, and how much the machine has.

    A network that is not initialised needs ``input_shape``; its parameters take no memory here, and it is not changed.
    It tries two images, then three; if these would fill half of the memory, the plan uses shapes alone, and is a lower
    bound. The numbers are for arrays; Python and the libraries themselves come on top.

    >>> import dualnet as dn
    >>> plan = dn.models.lenet5().plan(128, (28, 28, 1))
    >>> plan.parameters, plan.optimizer_state == 2 * plan.parameters, plan.fits
    (246824, True, True)
    """
    batch = integer(batch, "batch", op="plan")
    table = summary(net, input_shape)
    optimizer = optimizers.get(optimizer)
    shape, dtype = table.input_shape, numpy.dtype(table.dtype)
    where, available = _available(net)
    parameters = table.parameters * numpy.dtype(master_dtype(dtype)).itemsize
    casts = table.parameters * dtype.itemsize if is_half(dtype) else 0
    state = parameters * len(optimizer.slot_names)
    columns = WORKSPACE if any(hasattr(layer, "kernel_size") for _, layer in net.walk()) else 0
    exact = 3 * table.activation_bytes + parameters < MOST * available
    if exact:
        kept, passing, running = _tried(net, shape, batch)
    else:
        kept = passing = running = batch * max(row.activation_bytes for row in table.rows)
        kept = batch * table.activation_bytes
    return Plan(
        network=table.network,
        input_shape=shape,
        batch=batch,
        dtype=dtype.name,
        optimizer=type(optimizer).__name__,
        parameters=parameters,
        gradients=parameters,
        optimizer_state=state,
        kept=kept,
        passing=passing,
        columns=columns,
        update=2 * (parameters + state) + parameters,
        inference_activations=running + casts,
        available=available,
        where=where,
        exact=exact,
    )


def _size(nbytes: int) -> str:
    """Bytes for humans, with three digits.

    >>> _size(246824), _size(3 * 10**9)
    ('247 kB', '3.00 GB')
    """
    for power, unit in ((9, "GB"), (6, "MB")):
        if nbytes >= 10**power:
            size = nbytes / 10**power
            return f"{size:,.{2 if size < 10 else 1 if size < 100 else 0}f} {unit}"
    return f"{nbytes / 1e3:,.0f} kB"


def _available(net: Layer) -> tuple[str, int]:
    """Where the network computes, in words, and how many bytes that has."""
    backend = load(home(net)) if net.parameters() else current()
    told = backend.describe().get("gpu memory", "") if not backend.on_host else ""
    numbers = [float(word) for word in str(told).replace(",", "").split() if word.replace(".", "", 1).isdigit()]
    if numbers:
        scale = 2**30 if "GiB" in told else 2**20 if "MiB" in told else 10**9
        return "the GPU", int(max(numbers) * scale)
    return "this machine", machine_memory()


# -- what is in use, layer by layer------------------------------------------------------------------------------------


def _tried(net: Layer, shape: Any, batch: int) -> tuple[int, int, int]:
    """For a batch: bytes kept, further bytes in use in the backward pass, and bytes of activations in inference.

    A straight line through what two and three images need; batch norm may raise an error for a single one.
    """
    copy = sharing_copy(net)
    if shape != net.input_shape:
        copy = sketch(copy, shape, net.dtype)
    few, more = (_Trial(copy, shape, count) for count in (2, 3))

    def line(two: int, three: int) -> int:
        return max(0, two + (three - two) * (batch - 2))

    passing, running = (max(map(line, a, b)) for a, b in ((few.back, more.back), (few.running, more.running)))
    return line(few.kept, more.kept), passing, running


class _Trial:
    """A watched forward pass: what the pullbacks keep, and what is in use at each layer, forward and backward."""

    def __init__(self, net: Layer, shape: Any, count: int) -> None:
        self._stack: list[tuple[Visit, Any]] = []  # the containers that run, each with its input
        self._leaves: list[tuple[Visit, Any, list[tuple[Visit, Any]]]] = []
        self._saved: list[list[Any]] = []  # what each of these layers keeps for the backward pass
        self.running: list[int] = []
        xp = load(home(net)).xp
        x = each(lambda one: xp.zeros((count, *one), dtype=net.dtype), shape)
        with numpy.errstate(all="ignore"), Watch(net, self._around):
            _, pullback = net.forward(x, True)
        learned = {id(_owner(parameter.value)) for parameter in net.parameters().values()}
        self.kept = _nbytes(x, *(array for array in pullback.saved.values() if id(_owner(array)) not in learned))
        self.back = [self._back(*leaf) - freed for leaf, freed in zip(self._leaves, self._freed(x, learned))]

    def _around(self, visit: Visit, run: Run, x: Array) -> tuple[Array, Pullback]:
        self._stack.append((visit, x))
        visit.y, way = run(x)
        self._stack.pop()
        inputs = [given for _, given in self._stack]
        if not visit.children:
            self._saved.append(list(way.saved.values()))
            self.running.append(_nbytes(*inputs, x, visit.y, *self._beside(visit)))
            self._leaves.append((visit, x, list(self._stack)))
        elif not isinstance(visit.layer, (Sequential, Graph)):  # where its branches meet, all of them are in use
            ways = [child.y for child in visit.children]
            self.running.append(_nbytes(*inputs, x, visit.y, *ways, *self._beside(visit)))
        return visit.y, way

    def _beside(self, visit: Visit) -> Iterator[Any]:
        """What branches beside this layer, and beside the containers around it, have made and is still needed."""
        for above, _ in reversed(self._stack):
            done = {child.name.rpartition(".")[2]: child.y for child in above.children if child is not visit}
            if isinstance(above.layer, Graph):
                nodes = above.layer.nodes
                later = list(nodes)[list(nodes).index(visit.name.rpartition(".")[2]) :]
                needed = {*above.layer.ends(), *(source for name in later for source in nodes[name].sources)}
                yield from (y for name, y in done.items() if name in needed)
            elif not isinstance(above.layer, Sequential):
                yield from done.values()
            visit = above

    def _freed(self, x: Any, learned: set[int]) -> list[int]:
        """Bytes that the layers after each one kept alone: in the backward pass they are freed before its turn."""
        arrays = [(i, _owner(array)) for i, saved in enumerate(self._saved) for array in saved]
        first: dict[int, tuple[int, int]] = {id(_owner(array)): (-1, 0) for _, array in parts(x)}
        for i, owner in arrays:
            if id(owner) not in learned:
                first.setdefault(id(owner), (i, owner.nbytes))
        return [sum(size for i, size in first.values() if i > place) for place in range(len(self._saved))]

    def _back(self, visit: Visit, x: Any, above: list[tuple[Visit, Any]]) -> int:
        """Bytes in use when this layer's pullback runs: dx and dy, the dy of every container around it, the dx that
        earlier branches have made there, and one more dy if the pullback includes a ReLU."""
        deltas = [x, visit.y, *(container.y for container, _ in above)]  # each as large as its activation
        sums = [given for container, given in above if not isinstance(container.layer, Sequential)]
        return _nbytes(*deltas) + sum(map(_nbytes, sums)) + (_nbytes(visit.y) if visit.options.get("relu") else 0)


def _nbytes(*arrays: Any) -> int:
    """Bytes of arrays, and of dictionaries and lists of them; the same memory counts once."""
    owners = [_owner(a) for several in arrays for _, a in parts(several)]
    return sum({id(owner): owner.nbytes for owner in owners}.values())


def _owner(array: Array) -> Array:
    """The array whose memory this one shows: a reshaped array is a view."""
    while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
        array = array.base
    return array
