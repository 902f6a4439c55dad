"""Does the suite see a mistake? Plant one, run the test that should notice, put the line back; 300 times over.

    python tests/mutants.py                      plant every mistake; exit code 1 if one survives
    python tests/mutants.py --only conv          only those whose name, room or file matches
    python tests/mutants.py --list               what would be planted, and who should notice
    python tests/mutants.py --jobs 4             four at a time
    python tests/mutants.py --markdown FILE      also write the tables to a file

The mistakes stand in ``tests/planted/*.toml``, a room of the house in each file. A row looks like this::

    [[mutant]]
    name = 'relu-zero-passes'
    file = 'dualnet/ops/activation.py'
    words = 'ReLU: a unit at exactly 0 passes its delta'
    old = 'dy * (y > 0.0)'                       # it stands in the file exactly once
    new = 'dy * (y >= 0.0)'
    killed_by = ['tests/ops/test_activation.py::test_at_zero']

A mistake is killed if the named tests run and one of them fails (pytest's exit code 1). A mistake that cannot even be
imported proves nothing about the tests, and is reported as an error, as is one that never ends (unless its row says
``hangs = true``). Before anything is planted, the named tests must pass.

Nothing is changed here: the mistakes are planted in copies, in a temporary folder. Everything is put back after each
one. A test (tests/test_mutants.py) keeps the tables up to date: it fails when a text is gone.
"""

from __future__ import annotations

import argparse
import ast
import functools
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 60.0
"""Seconds for the tests of one mistake; they take two or three."""
LEFT_OUT = (".git", ".venv", "build", "dist", "_build", "*.egg-info", "__pycache__", ".*_cache", ".coverage*")
KILLED, LIVES, UNTESTED = "killed", "LIVES", "not tested here"
"""What may become of a mistake; anything else is an error in its row."""


@dataclass(frozen=True)
class Mutant:
    """One planted mistake: ``old`` becomes ``new`` in ``file``, and one of the tests in ``killed_by`` must fail."""

    room: str
    name: str
    file: str
    words: str
    old: str
    new: str
    killed_by: tuple[str, ...]
    hangs: bool = False


def planted(root: Path = ROOT) -> list[Mutant]:
    """All rows of all tables, in the order of the files' names."""
    rows = []
    for path in sorted((root / "tests" / "planted").glob("*.toml")):
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        for row in table["mutant"]:
            rows.append(Mutant(table["room"], killed_by=tuple(row.pop("killed_by")), **row))
    return rows


# -- is the table up to date? ------------------------------------------------------------------------------------------


def faults(rows: Iterable[Mutant], root: Path = ROOT) -> list[str]:
    """What is wrong with the rows themselves, in words: texts and tests that are gone, names that stand twice."""
    rows = list(rows)
    twice = [name for name, times in Counter(row.name for row in rows).items() if times > 1]
    return [f"mutant {name}: the name stands twice" for name in twice] + [
        f"mutant {row.name}: {fault}; mend its row in tests/planted" for row in rows for fault in _faults(row, root)
    ]


def _faults(row: Mutant, root: Path) -> Iterable[str]:
    text = _text(root / row.file)
    if text is None:
        yield f"there is no file {row.file}"
    elif (times := text.count(row.old)) != 1:
        yield f"the text is gone from {row.file}" if not times else f"the text stands {times} times in {row.file}"
    elif row.old == row.new:
        yield "nothing changes"
    elif row.file.endswith(".py"):
        try:
            ast.parse(text.replace(row.old, row.new))
        except SyntaxError as error:
            yield f"what it makes of {row.file} is not Python ({error.msg})"
    if not row.killed_by:
        yield "no test is named"
    for test in row.killed_by:
        path, *names = test.split("::")
        if not set(names) <= _functions(root / path):
            yield f"there is no test {test}"


@functools.cache
def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


@functools.cache
def _functions(path: Path) -> set[str]:
    """The names of all functions and classes in a file."""
    tree = ast.parse(_text(path) or "")
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


# -- planting ----------------------------------------------------------------------------------------------------------


class Copy:
    """A copy of the checkout, in which mistakes can be planted and tests run."""

    def __init__(self, folder: Path, root: Path = ROOT) -> None:
        self.folder = folder / "checkout"
        shutil.copytree(root, self.folder, ignore=shutil.ignore_patterns(*LEFT_OUT))

    def run(self, tests: Sequence[str], *options: str, limit: float | None = None) -> subprocess.CompletedProcess[str]:
        """Run tests with the package in this copy, whatever is installed."""
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            *options,
            *tests,
        ]
        kept = {name: value for name, value in os.environ.items() if name == "DUALNET_DATA" or "DUALNET" not in name}
        # Python recompiles a file whose time has changed. Only originals may leave compiled files behind.
        mine = {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": "1", "MPLBACKEND": "Agg"}
        return subprocess.run(
            command, cwd=self.folder, env=kept | mine, capture_output=True, text=True, timeout=limit, errors="replace"
        )

    def passing(self, tests: Sequence[str]) -> tuple[set[str], set[str], str]:
        """Those of the tests that pass, and those that are skipped here; and what pytest says if one fails."""
        done = self.run(tests, "-vv")  # -q takes one v away
        lines = re.findall(r"^([^\[\s]+)(?:\[.*\])? (PASSED|SKIPPED)", done.stdout, re.MULTILINE)
        passed, skipped = ({test for test, outcome in lines if outcome == word} for word in ("PASSED", "SKIPPED"))
        failed = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
        return passed, skipped - passed, "\n".join(failed or [done.stdout, done.stderr] if done.returncode else [])

    def fate(self, mutant: Mutant, limit: float = LIMIT) -> str:
        """Plant a mistake, run its tests, and put the file back: what became of it?"""
        path = self.folder / mutant.file
        text, times = path.read_text(encoding="utf-8"), path.stat()
        path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        os.utime(path, (times.st_atime, times.st_mtime + 1000))  # a second would be too short to be noticed
        try:
            done = self.run(mutant.killed_by, "-x", limit=limit)
        except subprocess.TimeoutExpired:
            return KILLED if mutant.hangs else f"did not end within {limit:g} s"
        finally:
            path.write_text(text, encoding="utf-8")
            os.utime(path, (times.st_atime, times.st_mtime))
        if done.returncode in (0, 1):
            return (LIVES, KILLED)[done.returncode]
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        return f"the tests did not run (exit code {done.returncode}): {' '.join(last)}"


def fates(
    rows: Sequence[Mutant],
    *,
    jobs: int = 1,
    root: Path = ROOT,
    limit: float = LIMIT,
    tell: Callable[[str], None] = print,
) -> dict[str, str]:
    """Plant every mistake in turn: what became of each, by its name."""
    with tempfile.TemporaryDirectory(prefix="dualnet-mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        first = Copy(Path(folder) / "0", root)
        passing, skipped, wrong = first.passing(sorted({test for row in rows for test in row.killed_by}))
        if wrong:
            raise SystemExit(f"the tests must pass before anything is planted:\n{wrong}")
        for copy in (first, *(Copy(Path(folder) / str(number), root) for number in range(1, jobs))):
            copies.put(copy)

        def one(row: Mutant) -> str:
            if not passing & set(row.killed_by):  # a library is missing here; or they are slow, which is a mistake
                return UNTESTED if skipped & set(row.killed_by) else "its tests are not among those of every run"
            copy = copies.get()
            try:
                return copy.fate(row, limit)
            finally:
                copies.put(copy)

        found = {}
        for row, fate in zip(rows, pool.map(one, rows)):
            found[row.name] = fate
            tell(f"{fate:<8}  {row.name:<28}  {row.words}")
        return found


# -- words -------------------------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Mutant], found: dict[str, str]) -> str:
    """Two tables: how many of each room were killed, and every mistake with the tests that notice it."""
    lines = ["| where | planted | killed |", "|-------|--------:|-------:|"]
    for room in dict.fromkeys(row.room for row in rows):
        mine = [row for row in rows if row.room == room]
        lines.append(f"| {room} | {len(mine)} | {sum(found.get(row.name) == KILLED for row in mine)} |")
    lines += [f"| **all** | **{len(rows)}** | **{sum(fate == KILLED for fate in found.values())}** |", ""]
    lines += ["| mistake | in | noticed by |", "|---------|----|------------|"]
    for row in rows:
        fate = "" if found.get(row.name) == KILLED else f" **{found.get(row.name, 'not run')}**"
        tests = ", ".join(f"`{test.removeprefix('tests/')}`" for test in row.killed_by)
        lines.append(f"| {row.words.replace('|', chr(92) + '|')}{fate} | `{row.file}` | {tests} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """The command: exit code 0 if every mistake that could be tested was killed."""
    parser = argparse.ArgumentParser(description="Plant mistakes, one at a time: does a test notice?")
    parser.add_argument("--only", metavar="PATTERN", default="", help="a regular expression for name, room or file")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="how many at a time (1)")
    parser.add_argument("--list", action="store_true", help="list them, and plant nothing")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables to a file")
    options = parser.parse_args(argv)
    rows = [row for row in planted() if re.search(options.only, f"{row.name} {row.room} {row.file}")]
    if stale := faults(rows):
        print(*stale, sep="\n", file=sys.stderr)
        return 2
    if options.list:
        for row in rows:
            print(f"{row.name:<28}  {row.words}\n{'':<28}  {row.file}; {', '.join(row.killed_by)}")
        print(f"{len(rows)} mistakes")
        return 0
    found = fates(rows, jobs=max(1, options.jobs), tell=functools.partial(print, flush=True))
    if options.markdown:
        Path(options.markdown).write_text(markdown(rows, found), encoding="utf-8")
    return _conclude(rows, found)


def _conclude(rows: Sequence[Mutant], found: dict[str, str]) -> int:
    tested = [row for row in rows if found[row.name] != UNTESTED]
    others = [row for row in tested if found[row.name] != KILLED]
    print(
        "\n".join(["", *(f"{row.name}: {found[row.name]} ({row.file}; {', '.join(row.killed_by)})" for row in others)])
    )
    if len(tested) < len(rows):
        print(f"{len(rows) - len(tested)} were left out: their tests are skipped here (a library or g++ is missing)")
    print(f"{len(tested) - len(others)} of {len(tested)} killed")
    return 1 if others or not tested else 0


if __name__ == "__main__":
    sys.exit(main())
