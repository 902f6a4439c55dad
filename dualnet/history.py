"""The history of a training: one list for each figure, one entry for each epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from . import markup

__all__ = ["History", "best_epoch", "in_one_line", "should_grow"]


class History(dict[str, list[float]]):
    """One list per figure, one entry per epoch: ``history["loss"]``, ``"accuracy"``, ``"val_loss"``, ``"seconds"``, ...

    >>> import dualnet as dn
    >>> h = dn.History(); h.add({"loss": 0.5}); h.add({"loss": 0.25}); h["loss"], h.epochs
    ([0.5, 0.25], 2)
    """

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return max(map(len, self.values()), default=0)

    def add(self, figures: dict[str, float]) -> None:
        """Append one epoch's figures."""
        for name, value in figures.items():
            if isinstance(value, (str, bytes, list, tuple, dict)):
                raise TypeError(f"History: {name} is {value!r}; expected a number, one for each epoch")
            self.setdefault(name, []).append(value)

    def __str__(self) -> str:
        rows = [{name: values[i] for name, values in self.items() if i < len(values)} for i in range(self.epochs)]
        return "\n".join(f"epoch {i + 1:>3}  {in_one_line(row)}" for i, row in enumerate(rows)) or "no epochs"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The curve and the best value of each figure, and a table of all epochs to unfold."""
        rows = [_curve(name, values) for name, values in self.items() if values]
        headings = ("figure", "curve", "first", "last", "best", "epoch")
        epochs = [
            [str(i + 1), *(markup.figure(values[i], 4) if i < len(values) else "" for values in self.values())]
            for i in range(self.epochs)
        ]
        curves = markup.table(f"{self.epochs} epochs", headings, rows, left=2, raw=(1,))
        return curves + markup.card("every epoch", markup.table("", ("epoch", *self), epochs), opened=False)


def _curve(name: str, values: list[float]) -> list[str]:
    """One row for a figure: its name, its curve, and its first, last and best value."""
    best = best_epoch(name, values)
    line = markup.sparkline(values, colour=markup.ORANGE if name.startswith("val_") else markup.BLUE)
    end = ["", ""] if best is None else [markup.figure(values[best], 4), str(best + 1)]
    return [name, line, markup.figure(values[0], 4), markup.figure(values[-1], 4), *end]


GROWING = re.compile(r"(val_|.*_)?(accuracy|top\d+|precision|recall|f1|roc_auc|average_precision)")


def should_grow(name: str) -> bool:
    """Is a larger figure better? It is for accuracy and the other metrics that ``fit`` knows.

    >>> should_grow("val_accuracy"), should_grow("val_f1"), should_grow("top5"), should_grow("loss")
    (True, True, True, False)
    """
    return GROWING.fullmatch(name) is not None


def best_epoch(name: str, values: Sequence[float]) -> int | None:
    """The position of the best value: the largest accuracy, the smallest loss. None for an unknown figure.

    >>> best_epoch("val_loss", [2.0, 1.0, 1.5]), best_epoch("f1", [0.5, 0.7]), best_epoch("seconds", [2.0, 1.0])
    (1, 1, None)
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite or not (should_grow(name) or name.endswith("loss")):
        return None
    return values.index((max if should_grow(name) else min)(finite))


def in_one_line(figures: dict[str, float]) -> str:
    """Losses and accuracies with four digits, seconds with one.

    >>> in_one_line({"loss": 0.12345, "seconds": 3.21})
    'loss 0.1235  seconds 3.2 s'
    """
    return "  ".join(
        f"{name} {value:.1f} s" if name == "seconds" else f"{name} {value:.4f}" for name, value in figures.items()
    )
