"""``dualnet summary``: a network's layers, shapes, parameters and multiply-adds."""

from __future__ import annotations

import argparse
from typing import Any

from .. import models
from .options import command, shape
from .subjects import network


def add(commands: Any) -> None:
    parser = command(commands, "summary", run, "show a network's layers, shapes, parameters and multiply-adds")
    parser.add_argument("model", metavar="MODEL", help=f"a saved network, or one of {', '.join(models.NAMES)}")
    parser.add_argument("--input-shape", type=shape, metavar="H,W,C", help="the shape of one image")


def run(options: argparse.Namespace) -> None:
    print(network(options.model, options.input_shape).summary())
