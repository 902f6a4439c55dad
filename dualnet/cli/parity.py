"""``dualnet parity``: compare backends with float64 and each other."""

from __future__ import annotations

import argparse
from typing import Any

from ..parity.certificate import command as parity
from .options import sentence


def add(commands: Any) -> None:
    text = "compare backends with float64 and each other: the certificate"
    parser = commands.add_parser("parity", help=text, description=sentence(text))
    parity.add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if options.ranks is not None:
        from ..parity.ranks import command as ranks

        text, code = ranks.run(options, options.words)
    else:
        text, code = parity.run(options, options.words)
    print(text)
    return code
