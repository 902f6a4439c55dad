"""``dualnet bench``: measure networks, alone and against other frameworks."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .. import bench
from ..terminal import say
from ..writing import check_writable
from .options import EXIT_WRONG, command, count, counts, rate, words


def add(commands: Any) -> None:
    parser = command(commands, "bench", run, "measure networks: speed, memory, alone and against others")
    parser.add_argument("nets", nargs="*", metavar="NET", help="saved networks or models (lenet5 vgg6 resnet20 wide)")
    parser.add_argument(
        "--batch", type=counts, default=(1, 64, 256), metavar="N,...", help="images in a batch (1,64,256)"
    )
    parser.add_argument(
        "--mode", type=words, default=("training", "inference"), metavar="M,...", help="training, inference or both"
    )
    parser.add_argument("--layers", action="store_true", help="also show where the time of a training step goes")
    parser.add_argument(
        "--against",
        type=words,
        action="extend",
        default=[],
        metavar="PEER[=PYTHON],...",
        help="torch, torch.compile, torch.reduce-overhead, jax, chainer, mygrad, tinygrad; "
        "PYTHON is the interpreter that has it installed (this one)",
    )
    parser.add_argument(
        "--rounds", type=count, default=3, metavar="N", help="how many times to measure each; the best counts (3)"
    )
    parser.add_argument(
        "--seconds", type=rate, default=1.0, metavar="S", help="how long to measure each in a round (1)"
    )
    parser.add_argument(
        "--dtype", type=words, default=("float32",), metavar="D,...", help="float32, tf32, bfloat16, float16 (float32)"
    )
    parser.add_argument("--momentum", type=float, default=0.0, metavar="M", help="the momentum of SGD (0)")
    parser.add_argument(
        "--capture",
        action="store_true",
        help="also measure dualnet's captured step: recorded, then repeated without Python",
    )
    parser.add_argument("--stay", action="store_true", help="keep each process alive between rounds, as on a GPU")
    parser.add_argument("--limit", type=rate, metavar="S", help="start nothing new after S seconds")
    parser.add_argument("--threads", type=count, metavar="N", help="threads of each program (this process's cores)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the seed of the weights and the data (0)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers to a file")
    parser.add_argument(
        "--markdown", metavar="FILE[#MARK]", help="write the tables to a file, or between marks in a page"
    )


def run(options: argparse.Namespace) -> int:
    targets = [target for target in (options.markdown, options.json) if target]
    for target in targets:
        check_writable(bench.place(target)[0])  # before anything is measured

    def keep(seen: dict[str, Any]) -> None:
        if options.json:  # so that nothing is lost, whatever happens later
            bench.write(json.dumps(seen, indent=1) + "\n", options.json)

    result = bench.run(
        options.nets or bench.DEFAULT,
        batches=options.batch,
        modes=options.mode,
        layers=options.layers,
        against={name: python or None for name, _, python in (peer.partition("=") for peer in options.against)},
        rounds=options.rounds,
        seconds=options.seconds,
        threads=options.threads,
        seed=options.seed,
        dtypes=options.dtype,
        momentum=options.momentum,
        capture=options.capture,
        stay=options.stay or None,
        limit=options.limit,
        tell=lambda line: say(line, "stderr"),
        keep=keep,
    )
    text = bench.markdown(result)
    print(text)
    if options.json:
        bench.write(json.dumps(result, indent=1) + "\n", options.json)
    if options.markdown:
        bench.write(text, options.markdown)
    return EXIT_WRONG if bench.wrong(result) else 0
