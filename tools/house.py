"""The shape of the code in numbers: rooms, floors, circles, long and branching functions, repeated blocks.

    python tools/house.py                  # this checkout
    python tools/house.py ANOTHER-CHECKOUT # the same table for another one, such as the commit before

A *room* is a folder of ``dualnet/`` or ``backends/``, or a module directly in one of the two. A room's *floor* is one
above the highest room that it imports. A *circle* is a group of rooms, or of modules inside one room, that import each
other, directly or when a function is called. ``tests/test_architecture.py`` reads the same graph and fails on a circle.
The last two rows need ``pip install ruff pylint``; without them they are left out.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

Graph = dict[str, set[str]]

LONG, BRANCHING, REPEATED = 60, 15, 6


def sources(root: Path) -> dict[str, Path]:
    """Every module of the package by its dotted name. The signpost ``dualnet/backends`` does not count as a module."""
    found = {}
    for folder in ("dualnet", "backends"):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[:2] != ("dualnet", "backends"):
                parts = ("dualnet", *parts) if folder == "backends" else parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path, module: str) -> Iterator[tuple[str, bool]]:
    """The full name of everything that a file imports, and whether the import waits until a function is called."""
    package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    for node, late in _statements(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module.split(".") if node.module else [])]
            yield from ((".".join([*base, alias.name]), late) for alias in node.names)


def _statements(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every statement, and whether it stands in a function. No expression holds one, so none is looked into."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child, late
            yield from _statements(child, late or isinstance(child, ast.FunctionDef))


def modules(root: Path) -> Graph:
    """Which module of ours imports which: ``{"dualnet.ops.dense": {"dualnet.shim", ...}}``."""
    files = sources(root)

    def owner(name: str) -> str | None:
        while name and name not in files:
            name = name.rpartition(".")[0]
        return name or None

    return {
        module: {there for name, _ in imported(path, module) if (there := owner(name)) not in (None, module)}
        for module, path in files.items()
    }


def room(module: str) -> str:
    """``dualnet.ops.dense`` -> ``ops``; ``dualnet.backends.gpu.sums`` -> ``backends.gpu``; ``dualnet`` itself stays."""
    parts = module.split(".")[1:]
    if not parts:
        return "dualnet"
    return ".".join(parts[:2]) if parts[0] == "backends" else parts[0]


def rooms(graph: Graph) -> Graph:
    """The graph between rooms, without ``dualnet`` itself, which only passes on names, and which the outermost rooms
    import."""
    result: Graph = {}
    for module, there in graph.items():
        result.setdefault(room(module), set()).update(room(other) for other in there)
    return {one: others - {one, "dualnet"} for one, others in result.items() if one != "dualnet"}


def circles(graph: Graph) -> list[list[str]]:
    """The groups whose members all reach each other."""
    reach = {node: _reachable(graph, node) for node in graph}
    groups = {tuple(sorted(other for other in reach[node] if node in reach.get(other, ()))) for node in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph.get(node, ())
    return seen


def inside(graph: Graph, one: str) -> Graph:
    """The graph between the modules of one room, without the package's own ``__init__``, which only passes on names."""
    members = {module for module in graph if room(module) == one}
    members = {module for module in members if not any(other.startswith(f"{module}.") for other in members)}
    return {module: graph[module] & members for module in members}


def floors(graph: Graph) -> dict[str, int]:
    """The floor of each room, from 1; the members of a circle share theirs."""
    together = {node: tuple(group) for group in circles(graph) for node in group}
    heights: dict[str, int] = {}

    def height(node: str) -> int:
        group = together.get(node, (node,))
        if node not in heights:
            below = {other for member in group for other in graph[member]} - {*group}
            for member in group:
                heights[member] = 0
            level = 1 + max(map(height, below), default=0)
            for member in group:
                heights[member] = level
        return heights[node]

    return {node: height(node) for node in graph}


def upward(graph: Graph) -> int:
    """How many imports run upwards, if the rooms of each circle are stacked in the best order."""

    def against(stack: tuple[str, ...]) -> int:
        return sum(upper in graph[lower] for lower, upper in itertools.combinations(stack, 2))

    return sum(min(map(against, itertools.permutations(group))) for group in circles(graph))


def functions(root: Path) -> Iterator[tuple[str, int, int]]:
    """Every function, its lines without the docstring, and its complexity."""
    for module, path in sources(root).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                said = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                spoken = (first.end_lineno or 0) - first.lineno + 1 if said else 0
                yield f"{module}.{node.name}", (node.end_lineno or 0) - node.lineno + 1 - spoken, complexity(node)


def complexity(function: ast.FunctionDef) -> int:
    """One more than the number of places where the path forks (McCabe 1976): branches, loops, handlers, conditions."""
    forks = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.comprehension, ast.match_case)
    count = 1
    for node in ast.walk(function):
        count += isinstance(node, forks)
        count += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        count += len(node.ifs) if isinstance(node, ast.comprehension) else 0
    return count


def undocumented(root: Path) -> int | None:
    """Public modules, classes, functions and methods without a docstring."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "D1", "--ignore", "D105,D107"]
    done = subprocess.run([*command, "--output-format", "json", "dualnet", "backends"], cwd=root, capture_output=True)
    return len(json.loads(done.stdout)) if done.stdout else None


def repeated(root: Path) -> int | None:
    """Pairs of places that share six or more lines."""
    options = ["--disable=all", "--enable=duplicate-code", f"--min-similarity-lines={REPEATED}", "--jobs=1"]
    files = [str(path) for path in sources(root).values()]
    command = [sys.executable, "-m", "pylint", "--rcfile=/dev/null", "--persistent=n", *options, *files]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", errors="replace")
    if "No module named pylint" in done.stderr:
        return None
    return len(re.findall(r"Similar lines in \d+ files", done.stdout))


def report(root: Path) -> list[tuple[str, str]]:
    graph = modules(root)
    between = rooms(graph)
    named = floors(between)
    within = [group for one in between for group in circles(inside(graph, one))]
    crowd = {one: sum(room(module) == one for module in graph) for one in between}
    alone = sorted(one for one in between if crowd[one] == 1)
    full = sorted(set(between) - set(alone), key=lambda one: -crowd[one])
    rows = [
        ("rooms", str(len(between))),
        ("modules by themselves", f"{len(alone)}: {', '.join(alone)}"),
        ("modules in each folder", ", ".join(f"{one} {crowd[one]}" for one in full)),
        ("floors", str(max(named.values()))),
        ("upward imports", str(upward(between))),
        ("circles between rooms", "; ".join(" ~ ".join(group) for group in circles(between)) or "0"),
        ("circles inside rooms", "; ".join(" ~ ".join(group) for group in within) or "0"),
    ]
    long = [f"{name} {lines}" for name, lines, _ in functions(root) if lines > LONG]
    tangled = [f"{name} {forks}" for name, _, forks in functions(root) if forks > BRANCHING]
    rows.append((f"functions of more than {LONG} lines", f"{len(long)}: {', '.join(long)}"))
    rows.append((f"functions above complexity {BRANCHING}", f"{len(tangled)}: {', '.join(tangled)}"))
    if (found := undocumented(root)) is not None:
        rows.append(("public definitions without docstring", str(found)))
    if (pairs := repeated(root)) is not None:
        rows.append((f"repeated blocks of {REPEATED} lines", str(pairs)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="The shape of the code in numbers.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[1], help="a checkout")
    root = parser.parse_args().root.resolve()
    rows = report(root)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
    for floor in range(max(floors(rooms(modules(root))).values()), 0, -1):
        print(
            f"floor {floor:2d}  {' · '.join(sorted(o for o, f in floors(rooms(modules(root))).items() if f == floor))}"
        )


if __name__ == "__main__":
    main()
