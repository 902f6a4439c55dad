"""Pooling, flatten, and the layers that only pass numbers on: sums of few terms, or of one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy

from ...geometry import Windows, windows
from ...layers import containers, dense, dropout, pooling
from ...layers.layer import Layer
from .run import Use
from .target import Target
from .terms import Account, Cell, Term, cell, read_by, readers_of


def windows_of(use: Use) -> Windows:
    """Where the windows of a pooling layer are; a global one has a single window, the whole map."""
    size = use.x.shape[1:3]
    if isinstance(use.layer, pooling._GlobalPool2D):
        return windows("explain", size, size, stride=size)
    return use.layer._windows(size)


def of_max_pool(target: Target, use: Use) -> Account:
    at, k, *_ = windows_of(use), *target.index
    if target.name == "y":
        i, j, c = _grid(target, use)
        winner = winner_of(use.x, at, k, i, j, c)
        terms = [
            Term((cell("x", use.x, k, row, column, c),), note="the winner" if (row, column) == winner else "")
            for _, _, row, column in read_by(at, i, j)
        ]
        return Account(
            "E8",
            f"{type(use.layer).__name__} forward",
            "y[k,i,j,c] = max of the window of x at i, j",
            {"k": k, "i": i, "j": j, "c": c},
            terms,
            how="largest",
            result=float(use.x[k, *winner, c]),
            scale=0.0,
        )
    _, row, column, c = target.index
    places = [(i, j) for _, _, i, j in readers_of(at, row, column)]
    won = [(i, j) for i, j in places if winner_of(use.x, at, k, i, j, c) == (row, column)]
    terms = [Term((_delta(use, k, i, j, c),), note=f"won window {i},{j}") for i, j in won]
    notes = [f"{len(places)} window(s) read x[{k},{row},{column},{c}]; it won {len(won)} of them."]
    formula = "dx[k,i,j,c] = Σ dy[k,·,·,c] over the windows that x[k,i,j,c] won"
    return Account(
        "E15",
        f"{type(use.layer).__name__} backward",
        formula,
        {"k": k, "i": row, "j": column, "c": c},
        terms,
        notes=notes,
    )


def of_average_pool(target: Target, use: Use) -> Account:
    at, k, *_ = windows_of(use), *target.index
    if target.name == "y":
        i, j, c = _grid(target, use)
        M = units(use.layer, at, i, j)
        terms = [
            Term((cell("x", use.x, k, row, column, c),), 1 / M, f"1/{M}") for _, _, row, column in read_by(at, i, j)
        ]
        formula, where = "y[k,i,j,c] = Σ x / M over the window at i, j", {"k": k, "i": i, "j": j, "c": c}
        return Account("E8", f"{type(use.layer).__name__} forward", formula, where, terms)
    _, row, column, c = target.index
    terms = []
    for _, _, i, j in readers_of(at, row, column):
        M = units(use.layer, at, i, j)
        terms.append(Term((_delta(use, k, i, j, c),), 1 / M, f"1/{M}"))
    formula = "dx[k,i,j,c] = Σ dy / M over the windows that read x[k,i,j,c]"
    return Account(
        "E15",
        f"{type(use.layer).__name__} backward",
        formula,
        {"k": k, "i": row, "j": column, "c": c},
        terms,
    )


def of_l2_pool(target: Target, use: Use) -> Account:
    at, k, *_ = windows_of(use), *target.index
    if target.name == "y":
        i, j, c = _grid(target, use)
        units = [cell("x", use.x, k, row, column, c) for _, _, row, column in read_by(at, i, j)]
        terms = [Term((unit, unit)) for unit in units]
        length = math.hypot(*(unit.value for unit in units))
        where = {"k": k, "i": i, "j": j, "c": c}
        return Account(
            "E8",
            "L2Pool2D forward",
            "y[k,i,j,c] = √ Σ x² over the window at i, j",
            where,
            terms,
            how="root of the sum",
            result=length,
            scale=length,
        )
    _, row, column, c = target.index
    terms = []
    for _, _, i, j in readers_of(at, row, column):
        y = float(use.y[k, i, j, c])
        terms.append(
            Term(
                (_delta(use, k, i, j, c), cell("x", use.x, *target.index)), 1 / y if y else 0.0, f"1/y[{k},{i},{j},{c}]"
            )
        )
    formula = "dx[k,i,j,c] = Σ dy · x / y over the windows that read x[k,i,j,c]"
    return Account(
        "E15",
        "L2Pool2D backward",
        formula,
        {"k": k, "i": row, "j": column, "c": c},
        terms,
    )


def winner_of(x: numpy.ndarray, at: Windows, k: int, i: int, j: int, c: int) -> tuple[int, int]:
    """The largest unit of a window: the first among equals, in row-major order; a NaN wins over any number."""
    best: tuple[int, int] | None = None
    for _, _, row, column in read_by(at, i, j):
        value, top = float(x[k, row, column, c]), math.nan if best is None else float(x[k, *best, c])
        if best is None or value > top or (math.isnan(value) and not math.isnan(top)):
            best = row, column
    if best is None:
        raise ValueError(f"explain: the window at {i},{j} has no unit on the map")
    return best


def units(layer: Layer, at: Windows, i: int, j: int) -> int:
    """M: how many units the window has; with ``count_include_pad`` the zeros of the padding are units too."""
    if not getattr(layer, "count_include_pad", False):
        return sum(1 for _ in read_by(at, i, j))
    (H, W), ((top, bottom), (left, right)) = at.size, at.pads
    rows = range(i * at.stride[0], i * at.stride[0] + at.dilation[0] * at.window[0], at.dilation[0])
    columns = range(j * at.stride[1], j * at.stride[1] + at.dilation[1] * at.window[1], at.dilation[1])
    return sum(row < top + H + bottom for row in rows) * sum(column < left + W + right for column in columns)


def _grid(target: Target, use: Use) -> tuple[int, int, int]:
    """i, j and c of an output; with global pooling, i = j = 0."""
    if len(target.index) == 2:
        return 0, 0, target.index[1]
    return target.index[1], target.index[2], target.index[3]


def _delta(use: Use, k: int, i: int, j: int, c: int) -> Cell:
    return cell("dy", use.dy, k, c) if use.dy.ndim == 2 else cell("dy", use.dy, k, i, j, c)


# -- numbers that only move --------------------------------------------------------------------------------------------


def of_flatten(target: Target, use: Use) -> Account:
    """E9: nothing is computed; every number moves to its place."""
    shape = use.x.shape[1:]
    if target.name == "y":
        k, q = target.index
        term = Term((cell("x", use.x, k, *map(int, numpy.unravel_index(q, shape))),))
        return Account(
            "E9", "Flatten forward", f"y[k,q] = x[k,·], the maps {shape} in one row", {"k": k, "q": q}, [term]
        )
    k, *inside = target.index
    q = int(numpy.ravel_multi_index(inside, shape))
    where = {"k": k} | dict(zip("ijc", inside))
    return Account(
        "E9",
        "Flatten backward",
        "dx[k,…] = dy[k,q], folded back",
        where | {"q": q},
        [Term((cell("dy", use.dy, k, q),))],
    )


def of_identity(target: Target, use: Use) -> Account:
    source = "x" if target.name == "y" else "dy"
    anchor, title = ("E7", "Identity forward") if target.name == "y" else ("E14", "Identity backward")
    term = Term((cell(source, getattr(use, source), *target.index),))
    return Account(anchor, title, f"{target.name}[…] = {source}[…]", {}, [term])


def of_dropout(target: Target, use: Use) -> Account:
    """The mask is a function of the layer's key: the op's own pullback shows it."""
    kept = float(use.backward(numpy.ones_like(use.y))[0][target.index])
    source, anchor = ("x", "E7") if target.name == "y" else ("dy", "E14")
    what = "m/(1−rate)" if use.train and use.layer.rate else "1"
    term = Term((cell(source, getattr(use, source), *target.index),), kept, what)
    note = "inference: nothing is dropped." if not use.train else f"This unit was {'kept' if kept else 'dropped'}."
    return Account(
        anchor,
        f"{type(use.layer).__name__} {'forward' if source == 'x' else 'backward'}",
        f"{target.name} = m · {source} / (1 − rate),  m is 0 or 1",
        {},
        [term],
        notes=[note],
    )


KINDS: list[tuple[type[Layer], Callable[[Target, Use], Account]]] = [
    (pooling.MaxPool2D, of_max_pool),
    (pooling.GlobalMaxPool2D, of_max_pool),
    (pooling.AveragePool2D, of_average_pool),
    (pooling.GlobalAveragePool2D, of_average_pool),
    (pooling.L2Pool2D, of_l2_pool),
    (dense.Flatten, of_flatten),
    (containers.Identity, of_identity),
    (dropout.Dropout, of_dropout),
]
