"""A record of what one node of another framework's network did in one pass. It needs no framework.

The code that runs such a network records a :class:`NodeRun` for each of its nodes, in the order of computation, with
the arrays exactly as that framework had them. :func:`.judging.judge` takes one of them at a time: since a node is
judged on its own input, it is not blamed for the errors of other nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy

from ...parity.cases.truth import Expected

__all__ = ["Arrays", "NodeRun", "Runner", "Twin"]

Arrays = dict[str, numpy.ndarray]
"""Host arrays by name: ``x`` (or ``x0``, ``x1``, ... if a node takes several), then parameters such as ``weight``."""


class Runner(Protocol):
    """Computes their node again, with other numbers or in another dtype."""

    def __call__(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        """y and, with a ``dy``, the gradient of each of ``values`` by its name, in the dtype of ``values``.

        ``values`` holds all arguments that may have a gradient. Each call begins from the same state (running
        statistics, random number generators). It may raise any error if their code cannot take such numbers.
        """
        ...


class Twin(Protocol):
    """The same node as dualnet computes it. Names are those of :class:`NodeRun`; arrays are in our order of axes.

    ``kind`` is one word for the report, such as ``"Conv2D"``.
    """

    kind: str

    def turned(self, name: str, array: numpy.ndarray) -> numpy.ndarray:
        """Their array in our order. ``name`` is ``"y"`` (also for dy), or a value's name (also for its gradient)."""
        ...

    def run(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        """Like :class:`Runner`, with our code; everything, even ``values`` and ``dy``, is already in our order."""
        ...

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        """R in float64 and its limit for ``"y"`` and, with a ``dy``, each gradient; limits for the dtype of ``values``.

        Everything is already turned. A quantity that the twin cannot judge is left out.
        """
        ...


@dataclass
class NodeRun:
    """One node in one pass: its inputs and outputs, forward and backward, as host arrays in their layout.

    ``gradients`` holds, by the names in ``values``, the gradients that the node returned for ``dy``. Without a
    backward pass (ONNX) ``dy`` is None and ``gradients`` is empty; then only y is judged. A value that needs no
    gradient, such as labels or a frozen weight, has none there. If a value should have a gradient but got none (a
    ``backward`` that returns None), its gradient is zeros.

    ``twin`` is None if dualnet has no such node, and ``again`` is None if it cannot be run again; a verdict needs one
    of the two. ``note`` is anything that the reader of the row should know.

    >>> import numpy as np
    >>> x = np.array([[-1.0, 2.0]], "float32")
    >>> run = NodeRun("features.1", "ReLU", {"x": x}, np.maximum(x, 0), dy=np.ones_like(x), gradients={"x": x > 0})
    >>> run.dtype, run.label("x"), run.label("weight")
    ('float32', 'dx', 'weight')
    """

    name: str  # as the framework calls it: "layer1.0.conv1"
    kind: str  # "Conv2d", "add", "MyFunction"
    values: Arrays
    y: numpy.ndarray
    dy: numpy.ndarray | None = None
    gradients: Arrays = field(default_factory=dict)
    twin: Twin | None = None
    again: Runner | None = None
    note: str = ""
    device: str = "cpu"
    quantity: str = "y"  # what y is called in the report; "loss" for a loss

    @property
    def dtype(self) -> str:
        """The dtype in which the node computed."""
        return self.y.dtype.name

    def label(self, name: str) -> str:
        """The name of this value's gradient in the report."""
        return f"d{name}" if name == "x" or (name[0] == "x" and name[1:].isdigit()) else name
