"""The cases to compare, drawn from ``SeedSequence(seed, op, number)``: the same on every machine.

A case is an op, its arrays and its options. Its number decides what is special about it (an empty batch, ties, NaN and
∞, a sum of 10⁴ terms, a call that must raise an error); everything else is random, and so is how its arrays lie in
memory.
"""

from __future__ import annotations

import inspect
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy

from ... import ops
from ...shim.dtypes import dtype_of
from . import draws

__all__ = ["KINDS", "LAYOUTS", "OPS", "Case", "draw", "skipped"]

KINDS = ("plain", "one image", "no image", "long sums", "ties", "special", "refused", "wide", "plain", "short sums")
"""What is special about case number i: ``KINDS[i % 10]``."""

LAYOUTS = ("together", "sliced", "reversed", "transposed")
"""How arrays lie in memory: contiguous, every second element, back to front, axes exchanged."""

FACTORS = ("alpha", "delta")
"""Options that multiply arrays. They are rounded like the arrays, so that the op and the truth use the same number."""

OPS = tuple(draws.DRAWS)
"""Every op and loss that has cases. ``conv2d_relu`` is conv2d with ``relu=True``; the others are named likewise."""


@dataclass
class Case:
    """One call of an op. ``arrays`` are host arrays by argument, rounded to the case's dtype; ``dy`` is added later."""

    op: str
    number: int
    seed: int
    dtype: str
    kind: str
    arrays: dict[str, numpy.ndarray | None]
    options: dict[str, Any] = field(default_factory=dict)
    layout: str = "together"
    refused: str = ""  # the name of the exception that this call must raise
    dy: numpy.ndarray | None = None

    @property
    def reproducer(self) -> str:
        """The command that runs this case alone and shows its numbers."""
        return f"dualnet parity --op {self.op} --case {self.number} --seed {self.seed} --dtype {self.dtype}"

    @property
    def rectified(self) -> bool:
        """Does the op include a ReLU in the same pass?"""
        return self.op.endswith("_relu") and self.op not in ("leaky_relu",)

    @property
    def base(self) -> str:
        """The op's name without ``_relu``."""
        return self.op.removesuffix("_relu") if self.rectified else self.op

    @property
    def loss(self) -> bool:
        """Is it a loss?"""
        return self.op in ops.losses.NAMES

    def __str__(self) -> str:
        shapes = ", ".join(
            f"{name} {'x'.join(map(str, a.shape)) or 'scalar'}" for name, a in self.arrays.items() if a is not None
        )
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.op} case {self.number} ({self.kind}, {self.layout}): {shapes}{'; ' if options else ''}{options}"


def draw(op: str, number: int, seed: int = 0, dtype: str = "float32") -> Case:
    """Case ``number`` of an op: the same options in every dtype, and the same values rounded to this one.

    >>> case = draw("dense", 3)
    >>> case.kind, case.arrays["w"].shape[0]
    ('long sums', 10000)
    """
    if op not in draws.DRAWS:
        raise ValueError(f"parity: no cases for op {op!r}; the ops with cases are {', '.join(OPS)}")
    rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, zlib.crc32(op.encode()), number]))
    kind = KINDS[number % len(KINDS)]
    layout = LAYOUTS[0] if kind in ("plain", "refused") and number < len(KINDS) else str(rng.choice(LAYOUTS))
    drawn = draws.DRAWS[op](rng, kind)
    arrays = {name: _rounded(a, dtype) for name, a in drawn.arrays.items()}
    options = drawn.options | {
        k: float(numpy.asarray(v, dtype_of(dtype))) for k, v in drawn.options.items() if k in FACTORS
    }
    return Case(op, number, seed, dtype, kind, arrays, options, layout, drawn.refused)


def with_dy(case: Case, shape: tuple[int, ...], allowed: numpy.ndarray | None = None) -> Case:
    """The case with a random upstream gradient of this shape (a gradient of all ones hides bugs).

    If the case has a ``dy`` already, that is used. Where ``allowed`` is false, ``dy`` becomes 0.
    """
    if case.dy is not None:
        case.dy = case.dy if allowed is None else case.dy * allowed.astype(case.dy.dtype)
        return case
    rng = numpy.random.default_rng(numpy.random.SeedSequence([case.seed, zlib.crc32(case.op.encode()), case.number, 1]))
    dy = rng.standard_normal(shape)
    case.dy = _rounded(dy if allowed is None else dy * allowed, case.dtype)
    return case


def skipped() -> list[str]:
    """The ops and losses of dualnet that have no cases.

    >>> skipped()
    []
    """
    public = [name for name, f in vars(ops).items() if inspect.isfunction(f) and f.__module__.startswith(ops.__name__)]
    return sorted({*public, *ops.losses.NAMES} - set(OPS))


def _rounded(array: numpy.ndarray | None, dtype: str) -> numpy.ndarray | None:
    """Floating values rounded to the dtype; integers (labels) as they are."""
    if array is None or array.dtype.kind != "f":
        return array
    with numpy.errstate(over="ignore"):
        return array.astype(dtype_of(dtype))
