"""``dualnet check``: prove gradients by finite differences and dot products."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

import dualnet as dn

from .options import EXIT_WRONG, command, in_json, with_json
from .subjects import network


def add(commands: Any) -> None:
    parser = command(commands, "check", run, "prove gradients by finite differences and dot products")
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="a saved network or a model's name (every kind of layer)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the random directions (0)")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    subjects = _every_layer() if options.model is None else [network(options.model, None)]
    wrong, reports = 0, []
    for layer in subjects:
        report = dn.check.gradient(layer, seed=options.seed, raises=False)
        wrong += not report.ok
        if options.json:
            reports.append({"layer": str(layer), "ok": report.ok, **asdict(report)})
        else:
            print(report if options.model or not report.ok else f"{report.line()}  {layer}", flush=True)
    if options.json:
        print(in_json({"passed": len(subjects) - wrong, "failed": wrong, "reports": reports}))
    elif not options.model:
        print(f"{len(subjects) - wrong} passed, {wrong} failed")
    return EXIT_WRONG if wrong else 0


def _every_layer() -> list[dn.Layer]:
    """One layer of each kind, with options that matter to its backward pass."""
    maps = (6, 7, 4)
    layers: list[dn.Layer] = [
        dn.Conv2D(6, (3, 2), stride=2, padding="same", groups=2),
        dn.Conv2D(3, 3, dilation=2, padding="full", mode="convolution"),
        dn.Conv2DTranspose(3, 3, stride=2, padding=1, output_padding=1),
        dn.DepthwiseConv2D(3, depth_multiplier=2),
        dn.SeparableConv2D(5, 3, padding="same"),
        dn.MaxPool2D(3, stride=2, padding=1),
        dn.AveragePool2D((2, 3), stride=1, ceil_mode=True),
        dn.L2Pool2D(2),
        dn.GlobalAveragePool2D(),
        dn.GlobalMaxPool2D(),
        dn.Sequential([dn.Flatten(), dn.Dense(5)]),
        *(f() for f in (dn.ReLU, dn.LeakyReLU, dn.ELU, dn.GELU, dn.SiLU, dn.Sigmoid, dn.Tanh, dn.Softplus)),
        dn.Softmax(),
        dn.LogSoftmax(),
        dn.BatchNorm(),
        dn.LayerNorm(),
        dn.GroupNorm(2),
        dn.InstanceNorm(),
        dn.RMSNorm(),
        *(f() for f in (dn.Mish, dn.ReLU6, dn.Hardsigmoid, dn.Hardswish, dn.PReLU)),
        dn.UpSampling2D((2, 3), interpolation="bilinear"),
        dn.AdaptiveAveragePool2D((4, 3)),
        dn.ReflectionPadding2D(((2, 1), (0, 3))),
        dn.Sequential([dn.Reshape((7, -1)), dn.Conv1D(6, 3, stride=2, padding="same", groups=2), dn.MaxPool1D(2)]),
        dn.Dropout(0.3),
        dn.Residual(dn.Conv2D(4, 3, padding="same")),
        dn.Parallel([dn.Conv2D(2, 1), dn.Identity()], merge="concat"),
    ]
    return [layer.init(maps) for layer in layers]
