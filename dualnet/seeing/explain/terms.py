"""Cells, terms and accounts, the parts of an explanation; and where windows and cells meet (E6)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy

from ...geometry import Windows


@dataclass(frozen=True)
class Cell:
    """One entry of an array."""

    name: str
    index: tuple[int, ...]
    value: float

    def __str__(self) -> str:
        return f"{self.name}[{','.join(map(str, self.index))}]"


@dataclass(frozen=True)
class Term:
    """A product of cells and a ``factor`` that is not a cell, such as the 1/M of an average; ``what`` names the
    factor."""

    cells: tuple[Cell, ...]
    factor: float = 1.0
    what: str = ""
    note: str = ""

    @property
    def value(self) -> float:
        """The product."""
        return math.prod((cell.value for cell in self.cells), start=self.factor)


@dataclass
class Account:
    """A sum with its equation, its terms, their result, and how large a rounding error may be."""

    anchor: str
    title: str
    formula: str
    where: dict[str, int]
    terms: list[Term]
    how: str = "sum"
    result: float | None = None  # if it is not a plain sum
    scale: float | None = None  # the size of the numbers that are added up or rounded
    notes: list[str] = field(default_factory=list)

    @property
    def sum(self) -> float:
        return math.fsum(term.value for term in self.terms) if self.result is None else self.result

    @property
    def size(self) -> float:
        return math.fsum(abs(term.value) for term in self.terms) if self.scale is None else self.scale


def cell(name: str, array: numpy.ndarray, *index: int) -> Cell:
    return Cell(name, tuple(int(i) for i in index), float(array[index]))


# -- where windows and cells meet --------------------------------------------------------------------------------------


def read_by(at: Windows, i: int, j: int) -> Iterator[tuple[int, int, int, int]]:
    """E6: taps m, n of the window at i, j and the row and column that each reads, where that is on the map."""
    (H, W), ((top, _), (left, _)) = at.size, at.pads
    for m in range(at.window[0]):
        for n in range(at.window[1]):
            row, column = i * at.stride[0] + m * at.dilation[0] - top, j * at.stride[1] + n * at.dilation[1] - left
            if 0 <= row < H and 0 <= column < W:
                yield m, n, row, column


def readers_of(at: Windows, row: int, column: int) -> Iterator[tuple[int, int, int, int]]:
    """E6 the other way round: the taps m, n that read a cell, and the windows i, j to which they belong."""
    (P, Q), ((top, _), (left, _)) = at.grid, at.pads
    for m in range(at.window[0]):
        for n in range(at.window[1]):
            i, beside = divmod(row + top - m * at.dilation[0], at.stride[0])
            j, under = divmod(column + left - n * at.dilation[1], at.stride[1])
            if not beside and not under and 0 <= i < P and 0 <= j < Q:
                yield m, n, i, j


def met_by(at: Windows, m: int, n: int) -> Iterator[tuple[int, int, int, int]]:
    """All windows i, j whose tap m, n is on the map, with the row and column that it reads there."""
    (H, W), (P, Q), ((top, _), (left, _)) = at.size, at.grid, at.pads
    for i in range(P):
        for j in range(Q):
            row, column = i * at.stride[0] + m * at.dilation[0] - top, j * at.stride[1] + n * at.dilation[1] - left
            if 0 <= row < H and 0 <= column < W:
                yield i, j, row, column


def place(at: Windows) -> tuple[str, str]:
    """A row and a column as text: ``i·2+m−1``."""
    return tuple(  # type: ignore[return-value]
        i + (f"·{s}" if s > 1 else "") + f"+{m}" + (f"·{r}" if r > 1 else "") + (f"−{p[0]}" if p[0] else "")
        for i, m, s, r, p in zip("ij", "mn", at.stride, at.dilation, at.pads)
    )


def place_back(at: Windows) -> tuple[str, str]:
    """The same the other way round: ``(i+1−m)/2``."""
    steps = (
        i + (f"+{p[0]}" if p[0] else "") + f"−{m}" + (f"·{r}" if r > 1 else "")
        for i, m, r, p in zip("ij", "mn", at.dilation, at.pads)
    )
    return tuple(f"({step})/{s}" if s > 1 else step for step, s in zip(steps, at.stride))  # type: ignore[return-value]
