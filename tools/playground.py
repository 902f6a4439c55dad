"""Build the playground: its page, its Python, and dualnet's wheel, in one folder that any web server can serve.

    python tools/playground.py OUT
    python tools/playground.py OUT --pyodide FOLDER     for use without a network

The page loads its interpreter, Pyodide, from a pinned public address. With ``--pyodide`` it is copied from FOLDER into
OUT, the page loads it from there, and no request leaves the server. FOLDER holds the files of that release that are
named in ``NEEDED``; the release's archive has them all. Then:  python -m http.server --directory OUT
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "playground"
COMMON = ROOT / "dualnet" / "seeing" / "explain" / "common.css"
"""The colours, which the page of ``dn.explain`` has too."""
NEEDED = ("pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip", "pyodide-lock.json")
PINNED = r"https://cdn\.jsdelivr\.net/pyodide/v[\d.]+/full/"
SOURCES = ("dualnet", "backends", "LICENSE", "README.md", "MANIFEST.in", "pyproject.toml", "setup.cfg")


def put_together(out: Path, pyodide: Path | None = None) -> Path:
    """Copy the page to ``out``, with the wheel beside it and, if a folder is given, with Pyodide; returns ``out``."""
    numpy = None if pyodide is None else _checked(pyodide)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(PAGE, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(COMMON, out)
    wheel(out)
    if pyodide is not None:
        (out / "pyodide").mkdir(exist_ok=True)
        for name in (*NEEDED, numpy):
            shutil.copy(pyodide / str(name), out / "pyodide")
        page = out / "index.html"
        text = re.sub(f'content="{PINNED}"', 'content="pyodide/"', page.read_text("utf-8"))
        text = re.sub(f" {PINNED}", "", text)  # from the policy, where 'self' is then enough
        page.write_text(text, "utf-8")
    return out


def _checked(pyodide: Path) -> str:
    """The name of NumPy's wheel in the folder; raises ``FileNotFoundError`` with a list of everything that is
    missing."""
    missing = [name for name in NEEDED if not (pyodide / name).is_file()]
    if "pyodide-lock.json" not in missing:
        lock = json.loads((pyodide / "pyodide-lock.json").read_text("utf-8"))
        numpy = lock["packages"]["numpy"]["file_name"]
        missing += [] if (pyodide / numpy).is_file() else [numpy]
    if missing:
        raise FileNotFoundError(f"{pyodide} has no {', '.join(missing)}; the archive of the Pyodide release has them")
    return numpy


def wheel(out: Path) -> Path:
    """Build dualnet's wheel from a copy of the sources, as ``out/dualnet.whl``."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "sources"
        copy.mkdir()
        for name in SOURCES:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy(source, copy / name)
        build = "import setuptools.build_meta as b; print(b.build_wheel('..'))"
        told = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, encoding="utf-8")
        if told.returncode:
            raise RuntimeError(f"dualnet's wheel could not be built (pip install setuptools):\n{told.stderr}")
        (built,) = Path(scratch).glob("*.whl")
        return Path(shutil.copy(built, out / "dualnet.whl"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pyodide", type=Path, metavar="FOLDER")
    given = parser.parse_args(arguments)
    try:
        put_together(given.out, given.pyodide)
    except (FileNotFoundError, RuntimeError) as error:
        print(f"playground: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: python -m http.server --directory {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
