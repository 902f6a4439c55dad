"""``dualnet info``: versions, backends and what runs here."""

from __future__ import annotations

import argparse
from typing import Any

import dualnet as dn

from .options import command


def add(commands: Any) -> None:
    command(commands, "info", run, "show versions, backends and what runs here")


def run(options: argparse.Namespace) -> None:
    print(dn.info())
