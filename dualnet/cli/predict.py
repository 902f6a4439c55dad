"""``dualnet predict``: a saved network's answers for images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy

import dualnet as dn

from ..data.inputs import border_of
from ..layers.entering import one_of_each
from ..writing import check_writable, replace_file
from .answers import Answer, Reader, in_csv
from .images import Picture, as_input, in_batches, pictures
from .options import EXIT_WRONG, command, count, in_json, with_json
from .subjects import DATASETS, load

AT_ONCE = 64
"""How many photos are read and answered at a time."""
MOST_TOLD = 3


def add(commands: Any) -> None:
    parser = command(commands, "predict", run, "show what a saved network answers for images")
    parser.add_argument("model", metavar="MODEL", help="a file that `dualnet train` or net.save() wrote")
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="photos, folders of photos, .npy or IDX files (N, H, W[, C]); or a data set alone, such as digits",
    )
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of the data set (the usual places)")
    parser.add_argument("--top", type=count, default=1, metavar="K", help="show the K likeliest classes (1)")
    parser.add_argument("--csv", metavar="FILE", help="write the answers as a table too")
    with_json(parser)
    parser.add_argument(
        "--invert",
        action="store_true",
        help="black becomes white: for dark ink on paper, if the network learned light ink, as on digits and mnist",
    )


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if an image got no answer: it cannot be read, or there is NaN or infinity."""
    net = dn.load(options.model)
    one_of_each(net, "predict")
    if options.csv is not None:
        check_writable(options.csv)
    with numpy.errstate(all="ignore"):  # NaN and infinity are reported in words
        if options.images[0] in DATASETS:
            return _score(net, options)
        return _answer(net, options)


# -- the user's images -------------------------------------------------------------------------------------------------


def _answer(net: dn.Layer, options: argparse.Namespace) -> int:
    """A line for each image, as soon as there is one."""
    reader, notes, answers = Reader(net, options.top), _Notes(net), []
    for batch in in_batches(pictures(options.images, net), AT_ONCE):
        notes.look(batch)
        for answer in _answers(net, reader, batch, options.invert):
            answers.append(answer)
            if not options.json:
                print(f"{answer.image}: {answer.words}")
    if not answers:
        raise ValueError(f"there are no images in {', '.join(options.images)}")
    if options.json:
        print(in_json({"model": options.model, "images": [answer.as_json() for answer in answers]}))
    if options.csv is not None:
        replace_file(options.csv, in_csv(answers, options.top).encode("utf-8"))
    notes.tell(options, answers)
    return EXIT_WRONG if any(answer.failed for answer in answers) else 0


def _answers(net: dn.Layer, reader: Reader, batch: list[Picture], invert: bool) -> Iterator[Answer]:
    """An answer for each picture, in their order."""
    readable = [picture for picture in batch if picture.x is not None]
    found = {}
    if readable:
        x = numpy.stack([as_input(net, picture, invert) for picture in readable])
        found = dict(zip(map(id, readable), reader.read([p.name for p in readable], net.predict(x))))
    for picture in batch:
        if picture.x is None:
            yield Answer(picture.name, f"no answer: {picture.why}", failed=True)
        elif not numpy.isfinite(picture.x).all():
            yield Answer(picture.name, "no answer: the image holds NaN or infinity", failed=True)
        else:
            yield found[id(picture)]


class _Notes:
    """What a reader of the answers should know, on stderr."""

    def __init__(self, net: dn.Layer) -> None:
        self.net, self.spec = net, getattr(net, "input", None)
        self.images = self.even = self.opposite = 0

    def look(self, batch: list[Picture]) -> None:
        """Count what is odd about the pictures."""
        for x in (picture.x for picture in batch if picture.x is not None):
            self.images += 1
            self.even += bool(x.min() == x.max())
            self.opposite += self._is_opposite(x)

    def _is_opposite(self, x: numpy.ndarray) -> bool:
        """Is it dark on light although the network learned light on dark, or the other way round?"""
        learned = getattr(self.spec, "border", None)
        if learned is None or x.ndim != 3 or x.min() == x.max():
            return False
        here = float(border_of(x[None])[0])
        return bool((learned < 0.25 and here > 0.75) or (learned > 0.75 and here < 0.25))

    def tell(self, options: argparse.Namespace, answers: list[Answer]) -> None:
        self._even()
        inverted = options.invert != bool(getattr(self.spec, "inverted", False))
        if self.opposite and not inverted:
            whose = "the image is" if self.images == 1 else f"{self.opposite:,} of {self.images:,} images are"
            here, there = (
                ("dark on light", "light on dark") if self.spec.border < 0.5 else ("light on dark", "dark on light")
            )
            alone = "" if self.opposite == self.images else " on those alone"
            _note(f"{whose} {here}, but the network learned from {there}: try --invert{alone}")
        if getattr(self.net, "loss", "") is None:
            _note(
                f"{options.model} was trained with a loss of your own, or with options that its file does not "
                "hold; these are the network's outputs as they are"
            )
        shown = next((answer.outputs for answer in answers if not answer.failed), None)
        if shown is not None and shown.ndim > 1 and not options.json and options.csv is None:
            _note("for all the numbers, in Python: dn.load(MODEL).predict(x)")
        failed = [answer for answer in answers if answer.failed]
        if failed and len(answers) > MOST_TOLD:
            names = ", ".join(answer.image for answer in failed[:MOST_TOLD])
            more = f" and {len(failed) - MOST_TOLD:,} more" if len(failed) > MOST_TOLD else ""
            _note(f"{len(failed):,} of {len(answers):,} images got no answer: {names}{more}")

    def _even(self) -> None:
        if self.even:
            whose = "the image is" if self.images == 1 else f"{self.even:,} of {self.images:,} images are"
            _note(f"{whose} one even colour, so the answer says little")


def _note(words: str) -> None:
    print(f"note: {words}", file=sys.stderr)


def _without_answer(y: numpy.ndarray) -> int:
    """For how many images the outputs are NaN or infinity."""
    return int((~numpy.isfinite(y.reshape(len(y), -1).max(axis=1))).sum())


# -- the test images of a data set -------------------------------------------------------------------------------------


def _score(net: dn.Layer, options: argparse.Namespace) -> int:
    """The share of right answers, as the loss of the network counts them."""
    (name, *others) = options.images
    if others:
        raise ValueError(f"{name} is a data set, and is scored alone; leave out {', '.join(others)}")
    for option in ("invert", "csv"):
        if getattr(options, option):
            raise ValueError(f"--{option} is for your own images")
    _, (x, t) = load(name, options.data)
    if net.input_shape != x.shape[1:]:
        raise ValueError(f"{options.model} takes images of {net.input_shape}; those of {name} are {x.shape[1:]}")
    classes = int(t.max()) + 1
    loss = getattr(net, "loss", None)  # if the loss is unknown, the largest output counts, as after softmax
    about = dn.losses.about("softmax_cross_entropy" if loss is None else loss)
    outputs = net.output_shape(x.shape[1:])
    if about.right is None or outputs != (classes,):
        raise ValueError(
            f"{name} has {classes} classes, but {options.model} does not distinguish them: its output is "
            f"{outputs}, and its loss is {about.function.__name__}. In Python: net.evaluate(x, t), with your targets t"
        )
    y = net.predict(x)
    asked = numpy.eye(classes, dtype=y.dtype)[t] if about.function is dn.losses.binary_cross_entropy else t
    right = dn.to_numpy(about.right(dn.asarray(y), dn.asarray(asked)))
    failed = _without_answer(y)
    right[~numpy.isfinite(y.max(axis=1))] = False
    what = "" if asked is t else f"{right.size:,} answers of yes or no, "
    accuracy = float(numpy.mean(right))
    if options.json:
        print(in_json({"model": options.model, "data": name, "images": len(x), "accuracy": accuracy, "failed": failed}))
    else:
        print(f"{len(x):,} images, {what}accuracy {100 * accuracy:.2f} %")
    if failed:
        print(f"{failed:,} images got NaN or infinity instead of an answer; they count as wrong", file=sys.stderr)
    return EXIT_WRONG if failed else 0
