"""The command line: ``dualnet train | predict | summary | check | explain | zoo | bench | parity | info``.

Each command has a file, with ``add`` (its options) and ``run``. A user's mistake (a file, a name, a backend) ends in
one line on stderr and exit code 2. If an argument cannot be read, the usage stands above that line. A gradient check
that fails ends in exit code 1.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import dualnet as dn

from . import bench, check, explain, info, parity, predict, summary, train, zoo
from .options import EXIT_INTERRUPTED, EXIT_USAGE

COMMANDS = (train, predict, summary, check, explain, bench, zoo, parity, info)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    options = _parser().parse_args(argv)
    options.words = list(sys.argv[1:] if argv is None else argv)[1:]
    try:
        if getattr(options, "backend", None):
            dn.set_backend(options.backend)
        return options.run(options) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (ValueError, OSError, ImportError, dn.BackendUnavailable) as error:
        message = re.sub(r"^\[Errno \d+\] ", "", " ".join(str(error).split())).removeprefix(f"{options.command}: ")
        print(f"dualnet {options.command}: {message}", file=sys.stderr)
        return EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dualnet", description="Convolutional networks whose backward passes are written to be read."
    )
    parser.add_argument("--version", action="version", version=f"dualnet {dn.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser
