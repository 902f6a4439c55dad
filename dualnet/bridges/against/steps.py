"""What one node of a foreign network did in one pass, and who can say whether it was right. It needs no framework.

Whoever runs a foreign network notes a :class:`NodeRun` for each of its nodes, in the order of computation, with the
arrays exactly as that framework had them. :func:`.judging.judge` takes one of them at a time: since a node is judged on
what it was given, no error of another node is counted against it.
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
        """y, and with a ``dy`` the gradient of each of ``values`` by its name, in the dtype of ``values``.

        ``values`` holds all arguments that a gradient may be asked for. Each call begins from the same state (running
        statistics, generators of random numbers). Raises anything if their code cannot take such numbers.
        """
        ...


class Twin(Protocol):
    """The same node as dualnet computes it. Names are those of :class:`NodeRun`; arrays are turned to our order.

    ``kind`` says in one word by what it is judged, for the report: ``"Conv2D"``.
    """

    kind: str

    def turned(self, name: str, array: numpy.ndarray) -> numpy.ndarray:
        """Their array as we order it. ``name`` is ``"y"``, for dy too, or a value's, for its gradient too."""
        ...

    def run(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        """As :class:`Runner`, with our code; everything, ``values`` and ``dy`` too, is already turned."""
        ...

    def expected(self, values: Arrays, dy: numpy.ndarray | None = None) -> dict[str, Expected]:
        """R in float64 and its limit for ``"y"`` and, with a ``dy``, each gradient; limits for the dtype of ``values``.

        Everything is already turned. A quantity that the twin cannot judge is left out.
        """
        ...


@dataclass
class NodeRun:
    """One node in one pass: what went in, what came out, and the same on the way back. Host arrays, in their layout.

    ``gradients`` holds, by the names in ``values``, what the node sent back for the ``dy`` that arrived. Without a
    backward pass (ONNX) ``dy`` is None and ``gradients`` is empty; then y alone is judged. A value that needs no
    gradient, such as labels or a frozen weight, has none there. One that should have a gradient but got none (a
    ``backward`` that returns None) has zeros.

    ``twin`` is None if dualnet has nothing like it, and ``again`` if it cannot be run again; one of the two must be
    there for a verdict. ``note`` is anything that the reader of the row should know.

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
        """What the node computed in."""
        return self.y.dtype.name

    def label(self, name: str) -> str:
        """What the gradient of this value is called in the report."""
        return f"d{name}" if name == "x" or (name[0] == "x" and name[1:].isdigit()) else name
