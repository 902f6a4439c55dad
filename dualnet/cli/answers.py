"""A network's outputs as answers, in words and in tables, with the names of its classes if the file holds them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy

import dualnet as dn

from ..ops import losses
from ..shim.dtypes import master_dtype


@dataclass(frozen=True)
class Guess:
    """A class, by its number and by its name if it has one, and its probability."""

    number: int
    name: str | None
    probability: float

    def __str__(self) -> str:
        label = f"class {self.number}" if self.name is None else self.name
        return f"{label} ({100 * self.probability:.1f} %)"


@dataclass(frozen=True)
class Answer:
    """The answer for one image. ``guesses`` are the likeliest classes, if the network has classes."""

    image: str
    words: str
    outputs: Any = None
    guesses: Sequence[Guess] = ()
    failed: bool = False

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        if self.failed:
            return {"image": self.image, "error": self.words}
        if not self.guesses:
            return {"image": self.image, "outputs": self.outputs.tolist()}
        guesses = [{"class": g.number, "name": g.name, "probability": g.probability} for g in self.guesses]
        return {"image": self.image, **guesses[0], **({"likeliest": guesses} if len(guesses) > 1 else {})}


@dataclass
class Reader:
    """Reads the outputs of a network; ``top`` is how many classes it names for each image.

    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(3)]).init((1, 1, 1))
    >>> net.input = dn.data.InputSpec((1, 1), channels=1, classes=["cat", "dog", "cow"])
    >>> [answer.words for answer in Reader(net, 2).read(["x.png"], numpy.array([[0.0, 2.0, 1.0]], "float32"))]
    ['dog (66.5 %), cow (24.5 %)']
    """

    net: dn.Layer
    top: int = 1
    names: tuple[str, ...] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.names = getattr(getattr(self.net, "input", None), "classes", None)
        words, self._contains = losses.reading(self.net)
        self._of_classes = words is losses.classes_in_words
        self._of_two = words is losses.answers_in_words and self.names is not None and len(self.names) == 2

    def read(self, images: Sequence[str], y: numpy.ndarray) -> list[Answer]:
        """An answer for each row of the outputs y (N, ...)."""
        flat = y.ndim == 2 or (y.ndim > 2 and all(extent == 1 for extent in y.shape[1:-1]))
        lines = losses.in_words(self.net, dn.asarray(y, master_dtype(y.dtype)))
        guesses = self._guesses(y.reshape(len(y), -1)) if flat else [()] * len(y)
        if self.top > 1 and not any(guesses):
            raise ValueError("--top needs a network with several classes; this one has none")
        answers = []
        for image, line, outputs, guessed in zip(images, lines, y, guesses):
            if not math.isfinite(outputs.max()):
                answers.append(Answer(image, line, failed=True))
            else:
                answers.append(Answer(image, ", ".join(map(str, guessed)) or line, outputs, guessed))
        return answers

    def _guesses(self, y: numpy.ndarray) -> list[Sequence[Guess]]:
        if self._of_two and y.shape[1] == 1:
            yes = self._probabilities(y)[:, 0]
            y = numpy.stack([1 - yes, yes], axis=1)
        elif self._of_classes and y.shape[1] > 1:
            y = self._probabilities(y)
        else:
            return [()] * len(y)
        order = numpy.argsort(-y, axis=1, kind="stable")[:, : self.top]
        return [[Guess(int(k), self._name(k), float(row[k])) for k in places] for row, places in zip(y, order)]

    def _probabilities(self, y: numpy.ndarray) -> numpy.ndarray:
        if self._contains is None or losses.ends_with(self.net, self._contains):
            return y
        return dn.to_numpy(self._contains(dn.asarray(y, master_dtype(y.dtype)))[0])

    def _name(self, number: int) -> str | None:
        return None if self.names is None else self.names[number]


def in_csv(answers: Sequence[Answer], top: int) -> str:
    """A table with a row for each image, which spreadsheets can read.

    >>> dog, none = Answer("a.png", "", guesses=[Guess(1, "dog", 0.75)]), Answer("b.png", "cut off", failed=True)
    >>> print(in_csv([dog, none], 1))
    image,class,name,probability,error
    a.png,1,dog,0.75,
    b.png,,,,cut off
    <BLANKLINE>
    """
    fine = next((answer for answer in answers if not answer.failed), None)
    if fine is None or fine.guesses:
        ends = [""] + [f"_{place}" for place in range(2, top + 1)]
        columns = [f"{name}{end}" for end in ends for name in ("class", "name", "probability")]
    else:
        columns = [f"output_{i}" for i in range(fine.outputs.size)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", *columns, "error"])
    for answer in answers:
        cells = [cell for g in answer.guesses for cell in (g.number, g.name, f"{g.probability:.6g}")]
        if not answer.failed and not answer.guesses:
            cells = [f"{value:.9g}" for value in answer.outputs.ravel()]
        cells += [""] * (len(columns) - len(cells))
        table.writerow([answer.image, *cells, answer.words if answer.failed else ""])
    return text.getvalue()
