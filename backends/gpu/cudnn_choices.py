"""Which of cuDNN's plans was chosen for each shape: saved in a file for the next process.

``DUALNET_CUDNN_AUTOTUNE=plans.json`` names the file. A choice holds for one kind of device, one version of cuDNN and of
its frontend, and one value of ``DUALNET_CUDNN``; the file can hold choices for several of these. Processes may share
it: each write first reads what others have written, and replaces the whole file at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dualnet.shim.process import reader

_autotune = reader("DUALNET_CUDNN_AUTOTUNE")

Choices = dict[str, dict[str, Any]]
"""For each shape its plan (the engine, its place among the proposals, the way to compute), or why there is none."""


def tuning() -> bool:
    """Are plans timed? ``DUALNET_CUDNN_AUTOTUNE`` decides."""
    value = _autotune().strip()
    if value not in ("", "0", "1") and not value.endswith(".json"):
        raise ValueError(f"DUALNET_CUDNN_AUTOTUNE must be 0, 1 or a file whose name ends in .json, got {value!r}")
    return value != "0"


def file() -> Path | None:
    """The file with the choices; None if the variable names no file."""
    value = _autotune().strip()
    return Path(value) if tuning() and value.endswith(".json") else None


def kept(path: Path, machine: str) -> Choices:
    """The choices that a file holds for one machine. Raises ``ValueError`` if the file holds something else."""
    return _read(path).get(machine, {})


def keep(path: Path, machine: str, shape: str, choice: dict[str, Any]) -> None:
    """Add one choice to the file. Raises ``OSError`` if the file cannot be written."""
    found = _read(path)
    found.setdefault(machine, {})[shape] = choice
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise OSError(f"DUALNET_CUDNN_AUTOTUNE={path}: {error.strerror}; name a file that can be written") from error


def _read(path: Path) -> dict[str, Choices]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(choices, dict) for choices in found.values()):
        raise ValueError(f"DUALNET_CUDNN_AUTOTUNE={path} holds no choices of plans; delete the file, or name another")
    return found
