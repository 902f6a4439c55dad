"""``dualnet against``: a second opinion on what onnxruntime computes of a model, node by node."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy

import dualnet as dn

from .options import EXIT_WRONG, command, count


def add(commands: Any) -> None:
    parser = command(commands, "against", run, "judge each node of an ONNX model as onnxruntime runs it")
    parser.add_argument("model", metavar="MODEL", help="an .onnx file")
    parser.add_argument("--input", metavar="FILE", help="an .npy file with input for the model (random numbers)")
    parser.add_argument("--batch", type=count, default=2, metavar="N", help="how many random examples (2)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the random numbers (0)")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> int:
    """Exit code 1 if any node is too far off."""
    from ..bridges.against.onnx_pass import random_input

    if options.input is None:
        x = random_input(options.model, options.batch, options.seed)
    else:
        x = _array(options.input)
    report = dn.against(options.model, x)
    if options.json:
        print(json.dumps(_plain(asdict(report) | {"ok": report.ok, "verdict": report.verdict()}), indent=1))
    else:
        print(report)
    return 0 if report.ok else EXIT_WRONG


def _array(name: str) -> numpy.ndarray:
    if Path(name).suffix != ".npy":
        raise ValueError(f"--input takes an .npy file, got {name!r}")
    try:
        return numpy.load(name, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{name} is not an .npy file of numbers ({error})") from error


def _plain(value: Any) -> Any:
    """Numbers that JSON cannot hold, as None."""
    if isinstance(value, dict):
        return {key: _plain(inside) for key, inside in value.items()}
    if isinstance(value, list):
        return [_plain(inside) for inside in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
