"""The result of a comparison: a verdict, the losses, and a row for each quantity of each layer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy

from ... import markup

__all__ = ["Report", "Row", "distance"]

HEADINGS = ("layer", "kind", "what", "error", "allowed", "ratio", "at fault", "judged by")


@dataclass(frozen=True)
class Row:
    """One quantity of one layer: how far it is off, and how far rounding may move it.

    ``error`` and ``allowed`` are relative to the largest that the quantity could be, or counted in ``unit``. ``fault``
    is ``"theirs"``, ``"ours"``, ``"undecided"`` (the two define it differently), or ``""`` if it agrees. ``story`` says
    what was found, in words.
    """

    name: str
    kind: str
    quantity: str
    error: float
    allowed: float
    ratio: float
    fault: str
    witness: str
    unit: str = ""
    story: str = ""
    backward: bool = False

    @property
    def ok(self) -> bool:
        return not self.fault

    def cells(self) -> tuple[str, ...]:
        """The row as text for the table."""
        allowed = f"{self.allowed:.1e}" if not self.unit else f"{self.allowed:g} {self.unit}"
        error = f"{self.error:.1e}" if not self.unit else f"{self.error:.2g} {self.unit}"
        if self.allowed == 0:
            allowed = "exact"
        return (self.name, self.kind, self.quantity, error, allowed, _ratio(self.ratio), self.fault, self.witness)


def _ratio(ratio: float) -> str:
    return "inf" if math.isinf(ratio) else f"{ratio:.2f}" if ratio < 100 else f"{ratio:.1e}"


@dataclass
class Report:
    """The result of :func:`dualnet.against`. It is true if nothing is off.

    ``rows`` come in the order of computation: each layer's output in the forward pass, the loss, then deltas and
    gradients from last to first. ``losses`` holds their loss and, for comparison, ours and that of float64 if they
    could be computed; ``logits`` is the distance of the two outputs. ``unjudged`` names the layers that could not be
    judged, ``notes`` says what was left out, and ``them`` names the framework that is compared with dualnet.
    """

    subject: str
    rows: list[Row] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    logits: float = math.nan
    unjudged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    them: str = "the module"

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def culprit(self) -> Row | None:
        """The first row that is off, in the order of computation: everything before it is right."""
        return next((row for row in self.rows if not row.ok), None)

    @property
    def first(self) -> str | None:
        """The name of the first layer that is off; None if none is."""
        return None if self.culprit is None else self.culprit.name

    def verdict(self) -> str:
        """The result in one line."""
        if not self.rows:
            return f"{self.subject}: nothing was compared"
        culprit = self.culprit
        if culprit is None:
            worst = max(self.rows, key=lambda row: row.ratio)
            return (
                f"agrees: {len({row.name for row in self.rows})} layers, {len(self.rows)} quantities, worst "
                f"{worst.ratio:.2f} of what is allowed ({worst.name} {worst.quantity})"
                + (f"; nothing could be compared at {', '.join(self.unjudged)}" if self.unjudged else "")
            )
        blame = {
            "theirs": f"The fault is in {self.them}.",
            "ours": "The fault is in dualnet; please report it.",
            "undecided": "The two define it differently.",
        }[culprit.fault]
        more = len({row.name for row in self.rows if not row.ok} - {culprit.name})
        others = f" {more} more layer{'s are' if more > 1 else ' is'} off, independently of this one." if more else ""
        return f"OFF at {culprit.name} ({culprit.kind}): {culprit.story} {blame}{others}"

    def table(self, all: bool = False) -> str:
        """The rows as text: those that are off and the worst of each layer, or all."""
        cells = [HEADINGS, *(row.cells() for row in (self.rows if all else self._worst()))]
        widths = [max(map(len, column)) for column in zip(*cells)]
        return "\n".join(
            "  ".join([*map(str.ljust, row[:3], widths[:3]), *map(str.rjust, row[3:6], widths[3:6]),
                       *map(str.ljust, row[6:], widths[6:])]).rstrip()
            for row in cells
        )  # fmt: skip

    def _worst(self) -> list[Row]:
        """For each layer the row closest to its limit, and all that are off; layers in forward order."""
        layers: dict[str, list[Row]] = {}
        for row in self.rows:
            layers.setdefault(row.name, []).append(row)
        chosen: list[Row] = []
        for rows in layers.values():
            off = [row for row in rows if not row.ok]
            chosen += off or [max(rows, key=lambda row: row.ratio)]
        return chosen

    def _figures(self) -> list[str]:
        told = [f"{name} {value:.8g}" for name, value in self.losses.items()]
        lines = [f"loss: {', '.join(told)}"] if told else []
        if not math.isnan(self.logits):
            lines.append(f"outputs of the two whole networks are {self.logits:.1e} apart, relative to their norm")
        return lines + [f"note: {note}" for note in self.notes]

    def __str__(self) -> str:
        return "\n".join([self.verdict(), *self._figures(), *([self.table()] if self.rows else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        badge = markup.badge("PASS" if self.ok else "FAIL")
        head = f"{badge} <b>{markup.escape(self.subject)}</b> {markup.escape(self.verdict())}"
        figures = "".join(f"<div>{markup.escape(line)}</div>" for line in self._figures())
        table = markup.table("", HEADINGS, [row.cells() for row in self._worst()], left=3)
        return f"<div>{head}</div>{figures}{table}"


def in_order(nodes: Iterable[list[Row]]) -> list[Row]:
    """The rows of nodes, given in forward order, in the order of computation."""
    several = list(nodes)
    forward = [row for rows in several for row in rows if not row.backward]
    return forward + [row for rows in reversed(several) for row in rows if row.backward]


def distance(one: numpy.ndarray, other: numpy.ndarray) -> float:
    """‖one − other‖ / ‖other‖ over the finite numbers; infinite if their NaN and infinities are not the same."""
    one, other = one.astype("float64"), other.astype("float64")
    finite = numpy.isfinite(one) & numpy.isfinite(other)
    if not numpy.array_equal(one[~finite], other[~finite], equal_nan=True):
        return math.inf
    norm = float(numpy.linalg.norm(other[finite]))
    gap = float(numpy.linalg.norm(one[finite] - other[finite]))
    return gap / norm if norm else gap
