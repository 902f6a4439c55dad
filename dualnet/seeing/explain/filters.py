"""Convolution, its adjoint and the dense layer: E4, E9, E11, E12, E13 and E16, one entry at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy

from ...geometry import Windows, transposed
from ...layers import convolution as conv
from ...layers import dense
from ...layers.layer import Layer
from .run import Use
from .target import Target
from .terms import Account, Cell, Term, cell, met_by, place, place_back, read_by, readers_of


@dataclass
class Bank:
    """A convolution's arrays, by their roles in E4: what is read, and what the grid holds."""

    use: Use
    at: Windows
    groups: int
    turned: bool  # E3: the filters are rotated first
    read: tuple[str, str] = ("x", "dx")
    grid: tuple[str, str] = ("y", "dy")

    def tap(self, m: int, n: int) -> tuple[int, int]:
        (k1, k2) = self.at.window
        return (k1 - 1 - m, k2 - 1 - n) if self.turned else (m, n)

    def weight(self, m: int, n: int, c: int, d: int) -> Cell:
        w = self.use.parameters["w"]
        return cell("w", w, *self.tap(m, n), c % w.shape[2], d)

    def channels(self, d: int) -> range:
        """Filter d reads only the channels of its group (E6)."""
        w = self.use.parameters["w"]
        first = d // (w.shape[3] // self.groups) * w.shape[2]
        return range(first, first + w.shape[2])

    def filters(self, c: int) -> range:
        w = self.use.parameters["w"]
        each = w.shape[3] // self.groups
        first = c // w.shape[2] * each
        return range(first, first + each)


def of_conv2d(target: Target, use: Use) -> Account:
    layer = use.layer
    bank = Bank(use, layer._windows(use.x.shape[1:3]), layer.groups, layer.mode == "convolution")
    rows = {"y": window_sum, "dx": spread_sum, "dw": filter_sum, "db": bias_sum}
    return rows[target.name](target, bank)


def of_transpose(target: Target, use: Use) -> Account:
    """The adjoint: input and output change roles, so y is spread out and windows read dx."""
    layer = use.layer
    at = transposed(
        "explain",
        use.x.shape[1:3],
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        output_padding=layer.output_padding,
        dilation=layer.dilation,
    )
    bank = Bank(use, at, layer.groups, False, read=("dy", "y"), grid=("dx", "x"))
    rows = {"y": spread_sum, "dx": window_sum, "dw": filter_sum, "db": bias_sum}
    return rows[target.name](target, bank)


def window_sum(target: Target, bank: Bank) -> Account:
    """E4: a window of the map meets the filter."""
    k, i, j, d = target.index
    source, read = bank.read[0], getattr(bank.use, bank.read[0])
    terms = [
        Term((bank.weight(m, n, c, d), cell(source, read, k, row, column, c)))
        for m, n, row, column in read_by(bank.at, i, j)
        for c in bank.channels(d)
    ]
    outside = bank.at.taps - len({t.cells[0].index[:2] for t in terms})
    bias = bank.use.parameters.get("b") if target.name == "y" else None
    if bias is not None:
        terms.insert(0, Term((cell("b", bias, d),)))
    tap = "k1−1−m,k2−1−n" if bank.turned else "m,n"
    grid, (row, column) = bank.grid[0], place(bank.at)
    plus = "b[d] + " if bias is not None else ""
    formula = f"{grid}[k,i,j,d] = {plus}Σ_m Σ_n Σ_c w[{tap},c,d] · {source}[k,{row},{column},c]"
    title = f"{type(bank.use.layer).__name__} {'forward' if grid == 'y' else 'backward, to the input'}"
    return Account(
        "E4", title, formula, {"k": k, "i": i, "j": j, "d": d}, terms, notes=[*_padding(outside), *_turned(bank)]
    )


def filter_sum(target: Target, bank: Bank) -> Account:
    """E11: a tap read one cell of every window; here that cell meets the window's delta."""
    tm, tn, cl, d = target.index
    m, n = bank.tap(tm, tn)
    c, use = bank.channels(d)[cl], bank.use
    (source, met), read, grid = (bank.read[0], bank.grid[1]), getattr(use, bank.read[0]), getattr(use, bank.grid[1])
    images, places = range(use.x.shape[0]), list(met_by(bank.at, m, n))
    terms = [
        Term((cell(met, grid, k, i, j, d), cell(source, read, k, row, column, c)))
        for k in images
        for i, j, row, column in places
    ]
    row, column = place(bank.at)
    if bank.turned:
        row, column = row.replace("m", "(k1−1−m)"), column.replace("n", "(k2−1−n)")
    formula = f"dw[m,n,c,d] = Σ_k Σ_i Σ_j {met}[k,i,j,d] · {source}[k,{row},{column},c]"
    outside = bank.at.grid[0] * bank.at.grid[1] - len(places)
    notes = [f"{outside} of the {outside + len(places)} windows read the padding here, which is 0."] if outside else []
    return Account(
        "E11",
        f"{type(use.layer).__name__} backward, to the weights",
        formula,
        {"m": tm, "n": tn, "c": cl, "d": d},
        terms,
        notes=[*notes, *_turned(bank), *_groups(bank)],
    )


def spread_sum(target: Target, bank: Bank) -> Account:
    """E13: every window that read the cell sends its delta back by the weight that read it."""
    k, row, column, c = target.index
    source = bank.grid[1]
    grid = getattr(bank.use, source)
    terms = [
        Term((cell(source, grid, k, i, j, d), bank.weight(m, n, c, d)))
        for m, n, i, j in readers_of(bank.at, row, column)
        for d in bank.filters(c)
    ]
    bias = bank.use.parameters.get("b") if target.name == "y" else None
    if bias is not None:
        terms.insert(0, Term((cell("b", bias, c),)))
    tap = "k1−1−m,k2−1−n" if bank.turned else "m,n"
    name, (i, j) = bank.read[1], place_back(bank.at)
    plus = "b[c] + " if bias is not None else ""
    formula = f"{name}[k,i,j,c] = {plus}Σ_m Σ_n Σ_d {source}[k,{i},{j},d] · w[{tap},c,d]"
    notes = [] if bank.at.stride == (1, 1) else ["Only whole quotients count: the deltas are a stride apart."]
    title = f"{type(bank.use.layer).__name__} {'forward' if name == 'y' else 'backward, to the input'}"
    return Account(
        "E13", title, formula, {"k": k, "i": row, "j": column, "c": c}, terms, notes=[*notes, *_turned(bank)]
    )


def bias_sum(target: Target, bank: Bank) -> Account:
    """E12: the bias was added everywhere, so it collects every delta of its filter."""
    (d,) = target.index
    dy = bank.use.dy
    terms = [Term((cell("dy", dy, *index, d),)) for index in numpy.ndindex(dy.shape[:-1])]
    title = f"{type(bank.use.layer).__name__} backward, to the bias"
    return Account("E12", title, "db[d] = Σ_k Σ_i Σ_j dy[k,i,j,d]", {"d": d}, terms)


def _padding(outside: int) -> list[str]:
    return [f"{outside} tap(s) of the window read the padding, which is 0."] if outside else []


def _turned(bank: Bank) -> list[str]:
    return ['mode="convolution": the filter is turned by 180° before it is slid (E3).'] if bank.turned else []


def _groups(bank: Bank) -> list[str]:
    return [f"With {bank.groups} groups, c counts inside the group of filter d."] if bank.groups > 1 else []


# -- the fully-connected layer -----------------------------------------------------------------------------------------


def of_dense(target: Target, use: Use) -> Account:
    """E9 and E16: the same three sums without windows."""
    x, w, b, dy = use.x, use.parameters["w"], use.parameters.get("b"), use.dy
    if target.name == "y":
        *row, d = target.index
        terms = [Term((cell("x", x, *row, q), cell("w", w, q, d))) for q in range(w.shape[0])]
        if b is not None:
            terms.insert(0, Term((cell("b", b, d),)))
        formula = f"y[k,d] = {'b[d] + ' if b is not None else ''}Σ_q x[k,q] · w[q,d]"
        return Account("E9", "Dense forward", formula, _row(row) | {"d": d}, terms)
    if target.name == "dx":
        *row, q = target.index
        terms = [Term((cell("dy", dy, *row, d), cell("w", w, q, d))) for d in range(w.shape[1])]
        return Account(
            "E16", "Dense backward, to the input", "dx[k,q] = Σ_d dy[k,d] · w[q,d]", _row(row) | {"q": q}, terms
        )
    rows = list(numpy.ndindex(x.shape[:-1]))
    if target.name == "dw":
        q, d = target.index
        terms = [Term((cell("dy", dy, *row, d), cell("x", x, *row, q))) for row in rows]
        return Account(
            "E16", "Dense backward, to the weights", "dw[q,d] = Σ_k dy[k,d] · x[k,q]", {"q": q, "d": d}, terms
        )
    (d,) = target.index
    terms = [Term((cell("dy", dy, *row, d),)) for row in rows]
    return Account("E16", "Dense backward, to the bias", "db[d] = Σ_k dy[k,d]", {"d": d}, terms)


def _row(row: Any) -> dict[str, int]:
    return {"k": row[0]} | {f"k{place}": i for place, i in enumerate(row[1:], start=1)}


KINDS: list[tuple[type[Layer], Callable[[Target, Use], Account]]] = [
    (conv.Conv2D, of_conv2d),
    (conv.Conv2DTranspose, of_transpose),
    (dense.Dense, of_dense),
]
