"""The tutorials run: each page's cells in order, in a process and a folder of its own, offline, on NumPy.

A page is run under its own file name and line numbers, so a traceback points into the page. The value of a cell's last
line is shown, as in a notebook. Warnings are errors. Claims that help a reader are asserts in a cell; the others are in
CLAIMS.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import dualnet as dn

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "tutorials"
if not FOLDER.exists():
    pytest.skip("the pages are in the checkout, not in the package", allow_module_level=True)

PAGES = sorted(page for page in FOLDER.glob("*.md") if page.stem not in ("README", "index"))
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# """

WIDTH = 88
"""So many letters of code fit beside the side bar of the built page."""

CLAIMS: dict[str, list[str]] = {
    "first-network": ["accuracy > 0.95", "history.epochs == 15", "answer == t_test[0]"],
    "by-hand": ["worst < 1e-7", "errors[299] < 0.1 * errors[0]", "dw.tolist()[0] == [-1, 5, 3]", "db == 1"],
    "by-hand-more": [
        "back[0, 1] == 3",
        "by_hand.tolist() == [[0, 3, 0], [0, 0, 4], [3, 0, 0]]",
        "dx_same.shape == (5, 5)",
    ],
    "mnist": ["len(results) == 6", "min(results.values()) > 80", "x.shape[1:] == (28, 28, 1)"],
    "backends": ["min(scores.values()) > 0.8", "dn.get_backend() == 'numpy'", "'DUALNET_KERNELS' not in os.environ"],
    "own-layer": ["accuracy > 0.9", "not report.ok"],
    "from-pytorch": ["tau < 3e-6", "distance(ours, file['y']) < tau"],
}
"""What must hold in a page's names after its last cell."""


@dataclass(frozen=True)
class Cell:
    """The code of one cell, and the page's line on which it begins."""

    line: int
    code: str
    tags: tuple[str, ...]


def name(page: Path) -> str:
    return page.stem


def cells(page: Path) -> list[Cell]:
    text = page.read_text("utf-8")
    found = []
    for block in re.finditer(r"^```\{code-cell\} ipython3\n((?::[^\n]*\n)*)(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        options, code = block.groups()
        tags = re.search(r"^:tags: \[(.*)\]$", options, re.MULTILINE)
        line = text.count("\n", 0, block.start(2)) + 1
        found.append(Cell(line, code, tuple(re.findall(r"[\w-]+", tags[1])) if tags else ()))
    return found


# -- running a page, in a process of its own ---------------------------------------------------------------------------


def play(page: Path, claims: list[str]) -> None:
    """Run the cells and print what each ends with, as a notebook does; then see whether the claims hold."""
    names: dict[str, object] = {"__name__": "__main__", "__show__": show, "display": show}  # as notebooks have it
    for cell in cells(page):
        exec(compile(with_output(cell), str(page), "exec"), names)
    for claim in claims:
        assert eval(claim, names), claim


def with_output(cell: Cell) -> ast.Module:
    """The cell at its place in the page; its last line is shown if it is a value and does not end with a semicolon."""
    tree = ast.parse("\n" * (cell.line - 1) + cell.code)
    if tree.body and isinstance(last := tree.body[-1], ast.Expr) and not cell.code.rstrip().endswith(";"):
        call = ast.Call(ast.Name("__show__", ast.Load()), [last.value], [])
        tree.body[-1] = ast.copy_location(ast.Expr(ast.copy_location(call, last)), last)
        ast.fix_missing_locations(tree)
    return tree


def show(value: object) -> None:
    if value is not None:
        print(repr(value))
        for kind in ("_repr_html_", "_repr_svg_"):
            if hasattr(value, kind):
                assert isinstance(getattr(value, kind)(), str)


def run(page: Path, folder: Path, *claims: str, **variables: str) -> subprocess.CompletedProcess:
    """Play a page in ``folder`` as a stranger would: none of the variables that change what dualnet does are set."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DUALNET_", "PYTEST_"))}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]), "PYTHONIOENCODING": "utf-8"}
    environment |= {"MPLBACKEND": "agg", "DUALNET_THREADS": "1"} | variables  # threads that wait spin on a busy machine
    code = f"import pathlib, test_tutorials; test_tutorials.play(pathlib.Path({str(page)!r}), {list(claims)!r})"
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=1200)


def needs_pictures(page: Path) -> bool:
    return bool(re.search(r"matplotlib|\bdn\.viz\b", "".join(cell.code for cell in cells(page))))


# -- tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.environ.get("DUALNET_BACKEND", "numpy") != "numpy", reason="pages choose their own backends")
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page_runs(page, tmp_path):
    if needs_pictures(page) and importlib.util.find_spec("matplotlib") is None:
        pytest.skip('the page draws pictures: pip install "dualnet[docs]"')
    for file in FOLDER.glob("*.npz"):
        shutil.copy(file, tmp_path)
    before = sorted(tmp_path.iterdir())
    result = run(page, tmp_path, *CLAIMS.get(page.stem, ()))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert result.stdout.strip()
    assert sorted(tmp_path.iterdir()) == before, "a page leaves nothing behind where the site is built"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_page_is_a_notebook(page):
    text = page.read_text("utf-8")
    assert text.startswith(HEADER), "jupytext and MyST-NB read the kernel from this header"
    assert len(cells(page)) == text.count("```{code-cell}") > 5
    install = re.match(r"[^\n]+\n\nTo follow along: `pip install (.+)`\.\n", text.removeprefix(HEADER))
    assert install and "dualnet" in install[1], "a page begins with its title and the line that installs what it needs"
    assert ("plot" in install[1]) == needs_pictures(page)
    for cell in cells(page):
        assert not re.search(r"^\s*[%!]", cell.code, re.MULTILINE), f"line {cell.line}: plain Python, no magic"
        wide = [line for line in cell.code.splitlines() if len(line) > WIDTH]
        assert not wide, f"line {cell.line}: wider than the page, so it scrolls: {wide}"


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("assert 1 + 1 == 3", "AssertionError"),
        ("x = dn.asarray([1.0], dtype='float31')", "TypeError"),
        ("import warnings; warnings.warn('old')", "UserWarning"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_broken_page_is_noticed(broken, error, tmp_path):
    page = tmp_path / "broken.md"
    page.write_text(f"# Broken\n\n```{{code-cell}} ipython3\nimport dualnet as dn\n\n{broken}\n```\n", "utf-8")
    result = run(page, tmp_path)
    assert result.returncode != 0
    assert error in result.stderr and 'broken.md", line 6' in result.stderr


def test_mnist_is_read_where_it_is(tmp_path):
    """With DUALNET_DATA the page takes the real files: here two images in their place."""
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        dn.data.write_idx(folder / f"{part}-images-idx3-ubyte.gz", np.full((1, 28, 28), 51, "uint8"))
        dn.data.write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.array([7], "uint8"))
    page = tmp_path / "beginning.md"
    page.write_text(
        (FOLDER / "mnist.md").read_text("utf-8").partition("```{code-cell} ipython3\nfrom matplotlib")[0], "utf-8"
    )
    claims = "name == 'MNIST'", "x.shape == (1, 28, 28, 1) and t.tolist() == [7]"
    result = run(page, tmp_path, *claims, DUALNET_DATA=str(tmp_path / "data"))
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.skipif("DUALNET_DATA" not in os.environ, reason="DUALNET_DATA names no folder with mnist/")
def test_the_table_of_mnist(tmp_path):
    """The whole of MNIST and five epochs, as the page's table says: each row within 0.2 of what comes out."""
    text = (FOLDER / "mnist.md").read_text("utf-8")
    short, full = "images = 6_000", "images = 60_000"
    assert short in text
    page = tmp_path / "mnist.md"
    page.write_text(text.replace(short, full), "utf-8")
    table = re.findall(r"^\| ([^|]+) \| ([\d.]+) % \| (\d+) \|", text, re.MULTILINE)
    assert len(table) == 6 and all(round(100 * (100 - float(right))) == int(wrong) for _, right, wrong in table)
    claims = [f"abs(results[{idea!r}] - {accuracy}) < 0.2" for idea, accuracy, _ in table]
    result = run(page, tmp_path, *claims, DUALNET_DATA=os.environ["DUALNET_DATA"])
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_page_has_claims():
    assert sorted(CLAIMS) == sorted(page.stem for page in PAGES)


def test_a_claim_that_does_not_hold_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```{code-cell} ipython3\n:tags: [hide-input]\naccuracy = 0.5\n```\n", "utf-8")
    assert run(page, tmp_path, "accuracy > 0.4").returncode == 0
    assert "accuracy > 0.9" in run(page, tmp_path, "accuracy > 0.9").stderr
