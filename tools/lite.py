"""The tutorials as notebooks that run in a browser, with JupyterLite: one folder that any web server can serve.

    pip install jupyterlite-core==0.8.6 jupyterlite-pyodide-kernel==0.8.6 jupyter-server==2.21.1
    python tools/lite.py OUT --pyodide FOLDER
    python -m http.server --directory OUT        then open http://localhost:8000/lab/index.html

FOLDER is the archive of the Pyodide release, unpacked. What the notebooks need of it is copied into OUT, with dualnet's
wheel. A security policy forbids every request to another server: the pages have it, and so have the workers in which
Python runs, since each starts from a blob of its page. pip fetches one more wheel, ``comm``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import playground

import dualnet

TUTORIALS = playground.ROOT / "docs" / "tutorials"
NOTEBOOKS = ("by-hand", "by-hand-more", "first-network", "own-layer", "backends", "from-pytorch")
LEFT_OUT = ("mnist",)
"""It reads files that are not ours to hand out."""
FILES = ("pytorch-model.npz",)
PACKAGES = ("ipython", "jedi", "matplotlib", "micropip", "numpy", "packaging")
FENCE = re.compile(r"^```\{code-cell\}.*\n(?::[\w-]+:.*\n)*((?:.*\n)*?)```\n", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)|\{\w+\}`([^`<]*?) ?(?:<[^`]*>)?`")
FOLLOW = re.compile(r"^To follow along: .*\n\n?", re.MULTILINE)
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'none'; form-action 'none'"
KERNEL = "@jupyterlite/pyodide-kernel-extension:kernel"
COMM = "comm==0.2.3"
WORKER = 'new Worker(e,{type:"module"})'
WRAPPED = (
    "new Worker(URL.createObjectURL(new Blob([`import ${JSON.stringify(String(e))};`],"
    '{type:"text/javascript"})),{type:"module"})'
)
"""A worker from a blob has the security policy of its page; one from an address has none."""


def build(out: Path, pyodide: Path) -> Path:
    """Build the site in ``out``, which must not exist yet; returns it."""
    if out.exists():
        raise FileExistsError(f"{out} already exists; choose another name")
    files = needed(pyodide)
    with tempfile.TemporaryDirectory() as scratch:
        lite, wheels = Path(scratch) / "lite", Path(scratch) / "wheels"
        for folder in (lite / "files", lite / "static" / "pyodide", wheels):
            folder.mkdir(parents=True)
        for name in files:
            shutil.copy(pyodide / name, lite / "static" / "pyodide")
        write_notebooks(lite / "files")
        settings = {"litePluginSettings": {KERNEL: {"disablePyPIFallback": True}}}
        text = json.dumps({"jupyter-lite-schema-version": 0, "jupyter-config-data": settings})
        (lite / "jupyter-lite.json").write_text(text, "utf-8")
        playground.wheel(wheels).rename(wheels / f"dualnet-{dualnet.__version__}-py3-none-any.whl")
        run("pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", wheels, COMM)
        given = [part for wheel in wheels.glob("*.whl") for part in ("--piplite-wheels", wheel)]
        given += ["--apps", "lab", "--no-sourcemaps", "--no-unused-shared-packages", "--output-dir", out.resolve()]
        run("jupyterlite_core", "build", "--lite-dir", lite, "--contents", lite / "files", *given, at=lite)
    close(out)
    return out


def run(module: str, *arguments: Any, at: Path | None = None) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    told = subprocess.run(command, cwd=at, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if told.returncode:
        raise RuntimeError(f"{module} {arguments[0]} failed:\n{(told.stdout + told.stderr)[-2000:]}")


def needed(pyodide: Path) -> list[str]:
    """The files that the notebooks need; raises ``FileNotFoundError`` with all that are missing."""
    lock = pyodide / "pyodide-lock.json"
    packages = json.loads(lock.read_text("utf-8"))["packages"] if lock.is_file() else {}
    names = [*playground.NEEDED, *(packages[name]["file_name"] for name in closure(packages, PACKAGES))]
    if missing := [name for name in names if not (pyodide / name).is_file()]:
        raise FileNotFoundError(f"{pyodide} has no {', '.join(missing)}; the archive of the Pyodide release has them")
    return names


def closure(packages: dict[str, Any], wanted: Iterable[str]) -> list[str]:
    """The packages, and all that they need, in the lock's spelling; those that the lock does not have are left out."""
    found: list[str] = []
    waiting = list(wanted)
    while waiting:
        name = waiting.pop(0).replace("_", "-")
        if name in packages and name not in found:
            found.append(name)
            waiting += packages[name]["depends"]
    return found


# -- notebooks ---------------------------------------------------------------------------------------------------------


def write_notebooks(folder: Path) -> None:
    for name in NOTEBOOKS:
        text = (TUTORIALS / f"{name}.md").read_text("utf-8")
        (folder / f"{name}.ipynb").write_text(notebook(text), "utf-8")
    for name in FILES:
        shutil.copy(TUTORIALS / name, folder)


def notebook(text: str) -> str:
    """A tutorial as a notebook. Links to other pages of the site become words, for those pages are not here."""
    body = FOLLOW.sub("", text.split("---\n", 2)[2])
    cells = [cell("code", "%pip install -q dualnet matplotlib")]
    for place, part in enumerate(FENCE.split(body)):
        if source := part.strip("\n"):
            cells.append(cell("code", source) if place % 2 else cell("markdown", LINK.sub(r"\1\2", source)))
    numbered = [one | {"id": f"cell-{place}"} for place, one in enumerate(cells)]
    about = {"kernelspec": {"display_name": "Python (Pyodide)", "language": "python", "name": "python"}}
    return json.dumps({"cells": numbered, "metadata": about, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def cell(kind: str, source: str) -> dict[str, Any]:
    made = {"cell_type": kind, "metadata": {}, "source": source}
    return made | ({"execution_count": None, "outputs": []} if kind == "code" else {})


# -- nothing leaves the server -----------------------------------------------------------------------------------------


def close(out: Path) -> None:
    """See that Pyodide comes from here, and forbid every page and its workers all requests to another server."""
    told = json.loads((out / "jupyter-lite.json").read_text("utf-8"))["jupyter-config-data"]["litePluginSettings"]
    address = told[KERNEL].get("pyodideUrl", "nowhere")
    if not address.startswith("./") or not told[KERNEL].get("disablePyPIFallback"):
        raise RuntimeError(f"the notebooks would load Pyodide from {address}, not from {out}")
    meta = f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    for page in out.rglob("*.html"):
        page.write_text(page.read_text("utf-8").replace("<head>", meta, 1), "utf-8")
    wrap_worker(out)


def wrap_worker(out: Path) -> None:
    """See that the kernel's worker starts from a blob; raises ``RuntimeError`` if its start is not where it was."""
    scripts = (out / "extensions" / "@jupyterlite" / "pyodide-kernel-extension" / "static").glob("*.js")
    found = {path: text for path in scripts if WORKER in (text := path.read_text("utf-8"))}
    if sum(text.count(WORKER) for text in found.values()) != 1:
        raise RuntimeError(f"expected {WORKER} once in the scripts of the kernel; is its version the one named above?")
    for path, text in found.items():
        path.write_text(text.replace(WORKER, WRAPPED), "utf-8")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pyodide", type=Path, metavar="FOLDER", required=True)
    given = parser.parse_args(arguments)
    try:
        build(given.out, given.pyodide)
    except (FileNotFoundError, FileExistsError, RuntimeError) as error:
        print(f"lite: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    print(f"{given.out}, {size / 1e6:.0f} MB: python -m http.server --directory {given.out}, then open lab/index.html")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
