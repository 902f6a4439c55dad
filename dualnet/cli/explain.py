"""``dualnet explain``: where a number comes from, as a sum and as a page."""

from __future__ import annotations

import argparse
from typing import Any

import dualnet as dn

from ..writing import check_writable
from .images import images_in
from .options import command, whole
from .subjects import DATASETS, fresh_or_saved, load


def add(commands: Any) -> None:
    parser = command(commands, "explain", run, "show where a number comes from, as a sum and as a page")
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a saved network, a model's name, or a data set, for a small fresh network",
    )
    parser.add_argument("--target", metavar="T", help='such as "0.dw[0,1,0,2]" (the first convolution\'s largest dx)')
    parser.add_argument("--images", metavar="IMAGES", help="an .npy or IDX file, or a data set, such as digits")
    parser.add_argument("--image", type=whole, default=0, metavar="N", help="which of the images (0, the first)")
    parser.add_argument("--label", type=whole, metavar="N", help="the image's class, if the images come without labels")
    parser.add_argument("--data", metavar="DIR", help="the folder with the files of the data set (the usual places)")
    parser.add_argument("--html", metavar="FILE", help="write the interactive page to a file")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of a fresh network's weights (0)")


def run(options: argparse.Namespace) -> None:
    if options.html:
        check_writable(options.html)  # fail before computing anything
    net, x, t = subject(options)
    why = dn.explain(net, x, options.target, t=t)
    path = why.to_html(options.html) if options.html else None
    print(why)
    if path:
        print(f"\n{path}: the page, {path.stat().st_size / 1000:.0f} kB; open it in a browser")


def subject(options: argparse.Namespace) -> tuple[dn.Layer, Any, Any]:
    """A network, one image and its class."""
    if options.model is None and options.images is None:
        from ..seeing.explain.example import subject

        example, x, t = subject(options.image, options.seed)
        return example, x, t if options.label is None else [options.label]
    name = options.model or "digits_cnn"
    net = fresh_or_saved(name, options.seed)
    images = options.images or (name if name in DATASETS else "digits" if net.input_shape == (8, 8, 1) else None)
    if images is None:
        raise ValueError("choose an image, with --images FILE, or --images mnist --data DIR")
    x, t = load(images, options.data)[1] if images in DATASETS else (images_in(images, net), None)
    if not 0 <= options.image < len(x):
        raise ValueError(f"--image {options.image}: there are {len(x):,} images, 0 … {len(x) - 1}")
    one = slice(options.image, options.image + 1)
    if options.label is not None:
        return net, x[one], [options.label]
    return net, x[one], None if t is None else t[one]
