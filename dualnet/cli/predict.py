"""``dualnet predict``: what a saved network says about images."""

from __future__ import annotations

import argparse
from typing import Any

import numpy

import dualnet as dn

from ..shim.dtypes import master_dtype
from .images import images_in
from .options import command
from .subjects import DATASETS, load


def add(commands: Any) -> None:
    parser = command(commands, "predict", run, "classify images with a saved network")
    parser.add_argument("model", metavar="MODEL", help="a file that `dualnet train` or net.save() wrote")
    parser.add_argument(
        "images", metavar="IMAGES", help="a photo, an .npy or IDX file (N, H, W[, C]), or digits, mnist or cifar10"
    )
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of mnist or cifar10")


def run(options: argparse.Namespace) -> None:
    net = dn.load(options.model)
    if options.images in DATASETS:
        _, (x, t) = load(options.images, options.data)
    else:
        x, t = images_in(options.images, net), None
    y = net.predict(x)
    if t is not None:
        print(f"{len(x):,} images, accuracy {100 * float(numpy.mean(y.argmax(axis=-1) == t)):.2f} %")
        return
    for i, words in enumerate(dn.losses.in_words(net, dn.asarray(y, master_dtype(y.dtype)))):
        print(f"image {i}: {words}")
