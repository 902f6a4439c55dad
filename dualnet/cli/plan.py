"""``dualnet plan``: how efficiently many ranks would train a network, how many are too many, and what to change."""

from __future__ import annotations

import argparse
from typing import Any

from ..bench import scaling
from ..terminal import say
from .options import command, count, in_json, rate, shape, with_json
from .subjects import network


def add(commands: Any) -> None:
    parser = command(commands, "plan", run, "predict how well data-parallel training scales to many ranks")
    add = parser.add_argument
    add("--ranks", type=count, metavar="R", help="how many processes train together (8; with --check 4)")
    add("--net", default="resnet18", metavar="NAME", help="a saved network or the name of a model (resnet18)")
    add("--input-shape", type=shape, metavar="H,W,C", help="the shape of one image, for the name of a model")
    add("--batch", type=count, metavar="N", help="images of each rank in a step (256; with --check 64)")
    add("--global-batch", type=count, metavar="N", help="images of all ranks together in a step, instead of --batch")
    add(
        "--step-seconds",
        type=rate,
        metavar="S",
        help="a step of one rank with --batch images (measured here if not given)",
    )
    add("--bandwidth", type=rate, default=12.5e9, metavar="B/S", help="bytes per second of a node's link (12.5e9)")
    add("--latency", type=rate, default=5e-6, metavar="S", help="seconds that a message takes to start (5e-6)")
    add("--per-node", type=count, default=1, metavar="N", help="ranks in a node, which share its link (1)")
    add("--inner-bandwidth", type=rate, default=50e9, metavar="B/S", help="bytes per second inside a node (50e9)")
    add("--inner-latency", type=rate, default=2e-6, metavar="S", help="the same inside a node, in seconds (2e-6)")
    add(
        "--all-reduce",
        default="direct",
        metavar="WAY",
        help=f"{', '.join(scaling.REDUCTIONS)} or fastest (direct: dualnet's)",
    )
    add("--gradient-bits", type=int, choices=(16, 32, 64), default=32, help="bits of each number that is sent (32)")
    add(
        "--bucket",
        type=rate,
        default=scaling.BUCKET,
        metavar="BYTES",
        help="gradients that are added up together (4 MiB)",
    )
    add("--no-overlap", action="store_true", help="gradients travel after the backward pass, not during it")
    add(
        "--variation",
        type=_share,
        default=0.03,
        metavar="C",
        help="standard deviation of a step's time over its mean (0.03)",
    )
    add("--supply", type=rate, metavar="B/S", help="bytes per second that the storage gives to all ranks (no limit)")
    add("--check", action="store_true", help="measure 1, 2, 4 … ranks on this machine, beside the prediction")
    with_json(parser)


def run(options: argparse.Namespace) -> int:
    if options.batch is not None and options.global_batch is not None:
        raise ValueError("--batch is for each rank and --global-batch for all of them; give one of the two")
    if options.check:
        return _check(options)
    ranks, way = options.ranks or 8, None if options.all_reduce == "fastest" else options.all_reduce
    batch = None if options.global_batch else options.batch or 256
    scaling.all_reduce(0.0, 1, scaling.Links(), way)  # raises if there is no such way
    net = network(options.net, options.input_shape)
    if options.step_seconds:
        per_image, fixed, source = (
            options.step_seconds / (batch or options.global_batch),
            0.0,
            "as given, in proportion to the batch",
        )
    else:
        say(f"measuring steps of {options.net} on this machine", "stderr")
        per_image, fixed = scaling.measured(net)
        source = f"measured here: {1e3 * fixed:.2f} ms + {1e3 * per_image:.3f} ms for each image"
    work = scaling.work_of(
        net,
        per_image=per_image,
        fixed=fixed,
        name=options.net,
        gradient_bytes=options.gradient_bits // 8,
        bucket=options.bucket,
        overlap=not options.no_overlap,
        variation=options.variation,
        supply=options.supply,
    )
    links = scaling.Links(
        options.latency, options.bandwidth, options.per_node, options.inner_latency, options.inner_bandwidth
    )
    found = scaling.plan(work, ranks=ranks, batch=batch, global_batch=options.global_batch, links=links, reduction=way)
    print(in_json({**found.data(), "compute": source}) if options.json else f"{found}\ncompute: {source}")
    return 0


def _check(options: argparse.Namespace) -> int:
    """The prediction beside measurements on this machine."""
    if options.global_batch or options.step_seconds:
        raise ValueError(
            "--check measures steps of --batch images on each rank; leave --global-batch and --step-seconds out"
        )
    found = scaling.check(options.net, options.input_shape, options.ranks or 4, options.batch or 64)
    print(in_json(found.data()) if options.json else found)
    return 0


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return number
