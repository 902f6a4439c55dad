"""``dualnet info``: versions, backends and what runs here."""

from __future__ import annotations

import argparse
from typing import Any

import dualnet as dn

from .options import command, in_json, with_json


def add(commands: Any) -> None:
    with_json(command(commands, "info", run, "show versions, backends and what runs here"))


def run(options: argparse.Namespace) -> None:
    print(in_json(dn.info()) if options.json else dn.info())
