"""Facts about the machine as JSON (versions, GPU, hash of the kernels), and the environment of a check's parts.

python tools/gpu_facts.py cupy
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
ROOT = TOOLS.parent
PACKAGES = ("cupy", "numpy", "ml-dtypes", "torch", "triton", "nvidia-cublas", "nvidia-cudnn", "nvidia-cuda", "pytest")
LEFT_OUT = ("ran", "kernels", "backends", "chosen by", "gpu memory")


def facts(backend: str) -> dict[str, Any]:
    """Versions, the GPU, the kernels' hash. Raises ``ValueError`` or ``dn.BackendUnavailable`` without the backend."""
    import dualnet as dn
    from dualnet.bench import measure
    from dualnet.parity.certificate.sources import fingerprint

    dn.set_backend(backend)
    table = {key: value for key, value in dn.info().items() if key not in LEFT_OUT}
    found = {str(d.metadata["Name"] or ""): d.version for d in importlib.metadata.distributions()}
    names = {name.lower().replace("_", "-"): version for name, version in found.items()}
    table["packages"] = {name: names[name] for name in sorted(names) if name.startswith(PACKAGES)}
    gpu = measure.gpu() if table["backend"].startswith("cupy") else {}
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("DUALNET_")}
    return {"versions": {**table, "environment": settings}, "gpu": gpu, "kernels": fingerprint()}


def without_cudnn(versions: dict[str, Any]) -> str:
    """Why convolutions run without cuDNN, and the fix; "" if they use it, or if there is no GPU."""
    cudnn = str(versions.get("cudnn", ""))
    return cudnn.partition(":")[2].strip() or "not there" if cudnn.startswith("no") else ""


def read(path: Path) -> Any:
    """The JSON in a file; None if there is no file, or if it is incomplete."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def slug(title: str) -> str:
    """ "NVIDIA H100 80GB HBM3" -> "h100"."""
    words = re.sub(r"[^a-z0-9]+", " ", title.lower()).split()
    kept = [
        w for w in words if w not in ("nvidia", "pcie", "sxm", "sxm4", "sxm5", "nvl") and not re.match(r"\d+gb$|hbm", w)
    ]
    return "-".join(kept) or "gpu"


def environment(**variables: str) -> dict[str, str]:
    """Environment variables for a part: yours, its own, the path of this package, and caches that can be written."""
    kept = dict(os.environ)
    paths = [str(ROOT), str(TOOLS), os.environ.get("PYTHONPATH", "")]
    kept |= {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if not os.access(os.path.expanduser("~"), os.W_OK):
        for name in ("CUPY_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
            kept.setdefault(name, os.path.join(tempfile.gettempdir(), f"dualnet-{name.lower()}"))
    return {**kept, **variables}


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    try:
        print(json.dumps(facts(sys.argv[1]), default=str))
    except (ValueError, RuntimeError) as error:  # BackendUnavailable is one
        sys.exit(str(error))
