"""The kernels that a certificate is about: a hash of their sources, and whether they have changed since."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["KIND", "fingerprint", "outdated", "sources"]

KIND = "dualnet parity certificate"
SUFFIXES = (".py", ".cu", ".cuh", ".h")


def sources() -> dict[str, bytes]:
    """Every source in ``backends/`` and its folders, by its path there."""
    folder = Path(str(importlib.import_module("dualnet.backends.numpy_backend").__file__)).parent
    files = sorted(p for p in folder.rglob("*") if p.suffix in SUFFIXES and "__pycache__" not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes().replace(b"\r\n", b"\n") for p in files}


def fingerprint() -> dict[str, Any]:
    """One hash over all sources, and one for each file, to show which files changed.

    >>> sorted(fingerprint()), len(fingerprint()["sha256"])
    (['files', 'sha256'], 64)
    """
    files = {name: hashlib.sha256(text).hexdigest() for name, text in sources().items()}
    whole = hashlib.sha256("\n".join(f"{digest}  {name}" for name, digest in files.items()).encode())
    return {"sha256": whole.hexdigest(), "files": files}


def outdated(path: str | os.PathLike) -> str:
    """Why the certificate in a file no longer applies to these kernels; empty if it does.

    Also empty for a file that is not a certificate: ``docs/gpu/`` holds timings as well.
    """
    data = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("kind") != KIND:
        return ""
    then, now = data.get("kernels", {}), fingerprint()
    if then.get("sha256") == now["sha256"]:
        return ""
    old, new = then.get("files", {}), now["files"]
    changed = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    name, date, verdict = Path(path).name, data.get("date", "undated"), data.get("verdict", "without a verdict")
    return (
        f"{name} ({date}, {verdict}) is older than the kernels: {', '.join(changed) or 'their hash'} changed since. "
        f"Run `dualnet parity --out {path}` on a GPU again."
    )
