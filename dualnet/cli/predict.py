"""``dualnet predict``: what a saved network says about images."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy

import dualnet as dn

from ..shim.dtypes import master_dtype
from .images import images_in
from .options import EXIT_WRONG, command
from .subjects import DATASETS, load


def add(commands: Any) -> None:
    parser = command(commands, "predict", run, "show what a saved network answers for images")
    parser.add_argument("model", metavar="MODEL", help="a file that `dualnet train` or net.save() wrote")
    parser.add_argument(
        "images", metavar="IMAGES", help="a photo, an .npy or IDX file (N, H, W[, C]), or digits, mnist or cifar10"
    )
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of mnist or cifar10")
    parser.add_argument(
        "--invert",
        action="store_true",
        help="black becomes white: for dark ink on paper, where the network learned light ink, as on digits and mnist",
    )


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if an image got no answer, because of NaN or infinity."""
    net = dn.load(options.model)
    with numpy.errstate(all="ignore"):  # NaN and infinity are told in words
        if options.images in DATASETS:
            return _score(net, options)
        return _answer(net, images_in(options.images, net), options)


# -- images of the user's ----------------------------------------------------------------------------------------------


def _answer(net: dn.Layer, x: numpy.ndarray, options: argparse.Namespace) -> int:
    """A line for each image."""
    x = 1 - x if options.invert else x
    rows = x.reshape(len(x), -1)
    usable = numpy.isfinite(rows).all(axis=1)
    y = net.predict(x)
    lines = dn.losses.in_words(net, dn.asarray(y, master_dtype(y.dtype)))
    for i, words in enumerate(lines):
        print(f"image {i}: {words if usable[i] else 'no answer: the image holds NaN or infinity'}")
    _note(net, rows, y.ndim, options)
    return EXIT_WRONG if _without_answer(y) or not usable.all() else 0


def _note(net: dn.Layer, rows: numpy.ndarray, axes: int, options: argparse.Namespace) -> None:
    """What a reader of the answers should know, on stderr."""
    even = int((rows.min(axis=1) == rows.max(axis=1)).sum())
    if even:
        whose = "the image is" if len(rows) == 1 else f"{even:,} of {len(rows):,} images are"
        print(f"note: {whose} one even colour, so the answer says little", file=sys.stderr)
    if getattr(net, "loss", "") is None:
        print(
            f"note: {options.model} was trained with a loss of your own, or with options, which its file does not "
            "hold; these are the network's outputs as they are",
            file=sys.stderr,
        )
    if axes > 2:
        print("note: for all the numbers, in Python: dn.load(MODEL).predict(x)", file=sys.stderr)


def _without_answer(y: numpy.ndarray) -> int:
    """For how many images the outputs are NaN or infinity."""
    return int((~numpy.isfinite(y.reshape(len(y), -1).max(axis=1))).sum())


# -- the test images of a data set -------------------------------------------------------------------------------------


def _score(net: dn.Layer, options: argparse.Namespace) -> int:
    """The share of right answers, as the loss of the network counts them."""
    if options.invert:
        raise ValueError("--invert is for images of your own")
    _, (x, t) = load(options.images, options.data)
    if net.input_shape != x.shape[1:]:
        raise ValueError(
            f"{options.model} takes images of {net.input_shape}; those of {options.images} are {x.shape[1:]}"
        )
    classes = int(t.max()) + 1
    loss = getattr(net, "loss", None)  # of an unknown loss, the largest output counts, as after softmax
    about = dn.losses.about("softmax_cross_entropy" if loss is None else loss)
    outputs = net.output_shape(x.shape[1:])
    if about.right is None or outputs != (classes,):
        raise ValueError(
            f"{options.images} has {classes} classes, which {options.model} does not tell apart: its output is "
            f"{outputs}, and its loss is {about.function.__name__}. In Python: net.evaluate(x, t), with your targets t"
        )
    y = net.predict(x)
    asked = numpy.eye(classes, dtype=y.dtype)[t] if about.function is dn.losses.binary_cross_entropy else t
    right = dn.to_numpy(about.right(dn.asarray(y), dn.asarray(asked)))
    failed = _without_answer(y)
    right[~numpy.isfinite(y.max(axis=1))] = False
    what = "" if asked is t else f"{right.size:,} answers of yes or no, "
    print(f"{len(x):,} images, {what}accuracy {100 * float(numpy.mean(right)):.2f} %")
    if failed:
        print(f"{failed:,} images got no answer, but NaN or infinity; they count as wrong", file=sys.stderr)
    return EXIT_WRONG if failed else 0
