"""``dualnet summary``: a network's layers, shapes, parameters and multiply-adds; how much memory a batch needs."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from .. import models
from .options import command, count, in_json, shape, with_json
from .subjects import network


def add(commands: Any) -> None:
    parser = command(commands, "summary", run, "show a network's layers, shapes, parameters and multiply-adds")
    parser.add_argument("model", metavar="MODEL", help=f"a saved network, or one of {', '.join(models.NAMES)}")
    parser.add_argument("--input-shape", type=shape, metavar="H,W,C", help="the shape of one image")
    parser.add_argument("--batch", type=count, metavar="N", help="also say how much memory training with it will need")
    with_json(parser)


def run(options: argparse.Namespace) -> None:
    net = network(options.model, options.input_shape)
    table = net.summary()
    totals = {name: getattr(table, name) for name in ("parameters", "multiply_adds", "activation_bytes")}
    memory = None if options.batch is None else net.plan(options.batch)
    if options.json:
        peaks = {} if memory is None else {"memory": {**asdict(memory), "training": memory.training}}
        print(in_json({**asdict(table), **totals, **peaks}))
        return
    print(table)
    if memory is not None:
        print("", memory, sep="\n")
