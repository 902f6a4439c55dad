"""An explanation: a sum with its numbers, as text, as a table, and as the interactive page."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy

from ... import markup
from ...shim.dtypes import finfo
from .target import Target
from .terms import Account, Cell, Term

if TYPE_CHECKING:
    from .page import Page
    from .run import Call

ROWS = 12
"""How many terms are printed; if there are more, the largest."""


@dataclass(frozen=True)
class Explanation:
    """One number of a pass, and the sum that gives it. Made by :func:`dualnet.explain`.

    ``bool(e)`` and ``e.ok`` say whether the sum, added up here in float64, agrees with the library's number within
    ``limit``, the rounding of its dtype.
    """

    target: str
    layer: str
    account: Account
    value: float  # the library's number
    limit: float
    source: str  # where dy comes from
    _target: Target = field(repr=False)
    _call: Call = field(repr=False)

    @classmethod
    def of(cls, target: Target, account: Account, call: Call) -> Explanation:
        """Compare a sum with the library's number."""
        uses = call.uses(target)
        arrays = [use.array(target) for use in uses]
        value = float(sum(float(array[target.index]) for array in arrays))
        limit = tolerance(arrays[0].dtype, account)
        source = call.source if any(c.name == "dy" for t in account.terms for c in t.cells) else ""
        return cls(str(target), uses[0].title, account, value, limit, source, target, call)

    @property
    def terms(self) -> list[Term]:
        """The products that are added up, each with its cells, in the order of the sum."""
        return self.account.terms

    @property
    def cells(self) -> dict[str, list[tuple[int, ...]]]:
        """The entries that take part, each once."""
        found: dict[str, dict[tuple[int, ...], None]] = {}
        for term in self.terms:
            for cell in term.cells:
                found.setdefault(cell.name, {})[cell.index] = None
        return {name: list(indices) for name, indices in found.items()}

    @property
    def sum(self) -> float:
        """The sum of the terms, in float64."""
        return self.account.sum

    @property
    def anchor(self) -> str:
        """The number of the equation in the derivation, such as ``"E11"``."""
        return self.account.anchor

    @property
    def formula(self) -> str:
        """The equation, in the names of the code."""
        return self.account.formula

    @property
    def distance(self) -> float:
        """How far the sum is from the library's number; 0 if both are NaN, or the same infinity."""
        both = self.sum, self.value
        return 0.0 if both[0] == both[1] or all(map(math.isnan, both)) else abs(both[0] - both[1])

    @property
    def ok(self) -> bool:
        """Whether the two agree."""
        return self.distance <= self.limit

    def __bool__(self) -> bool:
        return self.ok

    def text(self, rows: int | None = ROWS) -> str:
        """The explanation in lines; ``rows`` is how many terms are shown (None for all)."""
        shown, hidden = self._shown(rows)
        below = [(_others(hidden), math.fsum(t.value for t in hidden), "")] if hidden else []
        below += [(self.account.how, self.sum, ""), ("the library's", self.value, self._verdict())]
        where = " ".join(f"{name}={i}" for name, i in self.account.where.items())
        lines = [f"{self.target} = {_number(self.value)}   ({self.anchor}, {self.account.title})", ""]
        lines += [f"  {self.formula}", *([f"  at {where}"] if where else []), "", *_aligned(shown, below)]
        notes = self._notes()
        return "\n".join([*lines, *([""] if notes else []), *(f"  {note}" for note in notes)])

    __str__ = text

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        shown, hidden = self._shown(ROWS)
        rows = [_cells(term) for term in shown]
        if hidden:
            rows.append((_others(hidden), _number(math.fsum(t.value for t in hidden))))
        caption = f"{self.target} = {_number(self.value)} ({self.anchor}, {self.account.title})"
        totals = (f"{self.account.how}; the library's {_number(self.value)}: {self._verdict()}", _number(self.sum))
        below = [f"<code>{markup.escape(self.formula)}</code>", *map(markup.escape, self._notes())]
        lines = "".join(f"<div>{line}</div>" for line in below)
        return markup.table(caption, ("term", "product"), rows, totals) + lines

    def page(self, title: str | None = None) -> Page:
        """The interactive page of the network on this input, opened at this entry; a notebook shows it."""
        from .page import Page  # imported only when needed: few explanations become a page

        return Page.of(self._call, self._target, self.value, title)

    def to_html(self, path: str | Path, title: str | None = None) -> Path:
        """Write the interactive page to a single file that works offline; returns its path."""
        return self.page(title).save(path)

    def _shown(self, rows: int | None) -> tuple[list[Term], list[Term]]:
        """The terms to show, in their order, and those to leave out: zeros, and the smallest."""
        if rows is None or len(self.terms) <= rows:
            return self.terms, []
        order = sorted(range(len(self.terms)), key=lambda i: (-abs(self.terms[i].value), i))
        largest = {i for i in order[: max(rows - 1, 1)] if self.terms[i].value}
        return (
            [term for i, term in enumerate(self.terms) if i in largest],
            [term for i, term in enumerate(self.terms) if i not in largest],
        )

    def _notes(self) -> list[str]:
        return [*self.account.notes, *([self.source + "."] if self.source else [])]

    def _verdict(self) -> str:
        distance = _number(float(f"{self.distance:.0e}"))
        if self.ok:
            return f"they agree (distance {distance})"
        return f"THEY DISAGREE: distance {distance}, limit {_number(float(f'{self.limit:.0e}'))}"


def tolerance(dtype: numpy.dtype, account: Account) -> float:
    """τ of docs/numerics.md, for one entry: relative to the size of its terms."""
    kind = finfo(dtype)
    u = float(kind.eps) / 2
    tau = u * (8 + 4 * math.sqrt(max(len(account.terms), 1)))
    size = account.size
    return tau * size + float(kind.tiny) if math.isfinite(size) else math.inf


def _valued(cell: Cell) -> str:
    return f"{cell}  {_number(cell.value)}"


def _others(hidden: list[Term]) -> str:
    return f"… and {len(hidden)} " + ("smaller" if any(term.value for term in hidden) else "that are 0")


def _cells(term: Term) -> tuple[str, str]:
    parts = [_valued(cell) for cell in term.cells] + ([f"{term.what} {_number(term.factor)}"] if term.what else [])
    return " · ".join(parts) + (f"   ({term.note})" if term.note else ""), _number(term.value)


def _aligned(terms: list[Term], below: list[tuple[str, float, str]]) -> list[str]:
    """The terms in aligned columns, and below them their sum."""
    table = []
    for term in terms:
        first, *others = term.cells
        factor = [f"{term.what} {_number(term.factor)}"] if term.what else []
        rest = "".join(f"  · {part}" for part in [*map(_valued, others), *factor])
        table.append((str(first), _number(first.value), rest))
    a, b, c = (max((len(row[i]) for row in table), default=0) for i in range(3))
    lefts = [f"{name.ljust(a)}  {value.rjust(b)}{rest.ljust(c)}  =" for name, value, rest in table]
    products = [_number(term.value) for term in terms] + [_number(value) for _, value, _ in below]
    notes = [term.note for term in terms] + [note for *_, note in below]
    left = max(map(len, [*lefts, *(name for name, *_ in below)]))
    right = max(map(len, products))
    return [
        f"  {text.ljust(left)} {product.rjust(right)}{f'   {note}' if note else ''}"
        for text, product, note in zip([*lefts, *(name for name, *_ in below)], products, notes)
    ]


def _number(value: float) -> str:
    return f"{value + 0.0:.6g}".replace("-", "−").replace("e−0", "e−").replace("e+0", "e+")
