"""``dualnet tune``: measure which algorithm is the fastest for each convolution of a network, and save it in a file."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy

import dualnet as dn

from ..layers.layer import Layer
from ..writing import check_writable
from .options import command, counts, shape
from .subjects import network

VARIABLES = ("DUALNET_AUTOTUNE", "DUALNET_TUNED")


def add(commands: Any) -> None:
    parser = command(commands, "tune", run, "measure which algorithm is the fastest for each convolution of a network")
    parser.add_argument("net", metavar="NET", help="a saved network or a model's name")
    parser.add_argument("--input-shape", type=shape, metavar="H,W,C", help="the shape of one image, for a model")
    parser.add_argument("--batch", type=counts, default=(64,), metavar="N,...", help="images in a batch (64)")
    parser.add_argument(
        "--out",
        default="tuned.json",
        metavar="FILE",
        help="the file to write; if it exists, it is added to (tuned.json)",
    )


def run(options: argparse.Namespace) -> int:
    if dn.get_backend() != "numpy":
        raise ValueError(
            f"it measures the kernels of NumPy and oneDNN, but the backend is {dn.get_backend()}; use --backend numpy"
        )
    check_writable(options.out)
    net = network(options.net, options.input_shape)
    with measuring(options.out):
        importlib.import_module("dualnet.backends.choice").ready()
        for batch in options.batch:
            step(net, batch)
    if not os.path.exists(options.out):
        print(f"{options.net} has no convolutions to measure, so no file was written")
        return 0
    print(report(options.out))
    print(f"\nsaved as {options.out}. To use it: DUALNET_TUNED={options.out} dualnet train …")
    return 0


@contextmanager
def measuring(path: str) -> Iterator[None]:
    """Inside, every new shape is measured and added to the file. A file from another machine is an error, and stays as
    it is."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(dict(zip(VARIABLES, ("1", path))))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".* was measured with ")
            yield
    except UserWarning as warning:
        raise ValueError(f"{warning}, or name another file with --out") from None
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def step(net: Layer, batch: int) -> None:
    """One forward and backward pass on random images."""
    x = numpy.random.default_rng(0).random((batch, *net.input_shape), numpy.float32)  # type: ignore[misc]
    y, pullback = net.forward(dn.asarray(x, net.dtype), train=True)
    pullback(y)


def report(path: str) -> str:
    """The file as a table: for each shape the algorithms with their times in ms, the one that will run first."""
    with open(path, encoding="utf-8") as file:
        choices = json.load(file)["choices"]
    width = max(map(len, choices), default=0)
    return "\n".join(
        f"{what:<{width}}  {', '.join(f'{name} {ms:.3g} ms' for name, ms in times)}" for what, times in choices.items()
    )
