"""Measurements as Markdown tables that are also easy to read as plain text."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..writing import replace_file
from .results import grouped

__all__ = ["markdown", "place", "write", "wrong"]

LIBRARIES = ("onednn", "cudnn", "cublas")
"""Libraries whose kernels may run beside dualnet's own, by their names in ``dn.info()``."""

NUMBER = re.compile(r"(\d[\d,]*(\.\d+)?(, \d+\.\d+)*( %| \([\w .+-]+\))?|–)?")
"""A cell of a column of numbers: 1,024, 0.5 %, 3.2 (channels_last), 1.4, 0.9, a dash or nothing; 2.4.6 is a version."""

STEPS = {"training": "training step", "inference": "batch"}
"""The name of one measured step, by mode."""

Result = dict[str, Any]
Cells = list[str]


def markdown(result: Result) -> str:
    """The tables of what :func:`run` returned.

    >>> row = {"net": "tiny", "batch": 2, "mode": "inference", "dtype": "float32", "program": "dualnet",
    ...        "variant": "", "min_ms": 0.5, "median_ms": 0.6, "peak_bytes": 2**20}
    >>> print("\\n".join(_speed({"results": [row], "ratios": []}, "inference")))
    **Inference**: best time of a batch in ms; ×: how many times the peer's speed
    <BLANKLINE>
    | net  | batch | dualnet | images/s |
    |------|------:|--------:|---------:|
    | tiny |     2 |   0.500 |    4,000 |
    """
    parts = [_about(result), _programs(result)]
    parts += [_speed(result, mode) for mode in ("training", "inference")]
    parts += [_memory(result), *(_layers(shares) for shares in result["layers"]), _kernels(result), _notes(result)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def write(text: str, target: str | os.PathLike) -> None:
    """Write the tables to a file, or between two marks of a page.

    ``page.md#numpy`` means the part between ``<!-- bench: numpy -->`` and ``<!-- bench: end -->`` in page.md; the rest
    of the page stays as it is. Raises ``ValueError`` if the page has no such marks. The file is replaced as a whole or
    not at all, so earlier results survive an interrupted process.
    """
    path, inside = place(target)
    if inside is not None:
        page, start, end = inside
        text = f"{page[:start]}\n\n{text}\n{page[end:]}"
    replace_file(path, text.encode())


def place(target: str | os.PathLike) -> tuple[Path, tuple[str, int, int] | None]:
    """The file to write; for part of a page, also the page's text and where the part begins and ends.

    >>> place("tables.md")[1] is None
    True
    """
    name, _, mark = os.fspath(target).partition("#")
    path = Path(name)
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"{name}: cannot be written; expected a file in a folder that exists")
    if not mark:
        return path, None
    page = path.read_text(encoding="utf-8")
    found = re.search(rf"<!-- bench: {re.escape(mark)} -->(.*?)<!-- bench: end -->", page, flags=re.DOTALL)
    if found is None:
        raise ValueError(f"{name}: has no '<!-- bench: {mark} -->' with '<!-- bench: end -->' after it")
    return path, (page, *found.span(1))


def wrong(result: Result) -> bool:
    """Did a measurement fail, or a peer compute something different? (Being left out is not a failure.)

    >>> wrong({"results": [{"skipped": "jax cannot be imported"}], "layers": [], "programs": {}})
    False
    """
    rows = [*result["results"], *result["layers"], *result["programs"].values()]
    return any(row.get("failed") or row.get("differs") for row in rows)


# -- tables ------------------------------------------------------------------------------------------------------------


def table(rows: Iterable[Cells]) -> list[str]:
    """Rows of cells, the headings first; columns of numbers are aligned right, the first and all others left.

    >>> print("\\n".join(table([["net", "kernels", "ms"], ["tiny", "23 of its own", "0.500"], ["wide", "MKL", "–"]])))
    | net  | kernels       |    ms |
    |------|---------------|------:|
    | tiny | 23 of its own | 0.500 |
    | wide | MKL           |     – |
    """
    rows = list(rows)
    columns = list(zip(*rows))
    widths = [max(3, *map(len, column)) for column in columns]
    numbers = [i > 0 and any(c[1:]) and all(map(NUMBER.fullmatch, c[1:])) for i, c in enumerate(columns)]
    lines = []
    for row in rows:
        cells = [cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(row, widths, numbers)]
        lines.append(f"| {' | '.join(cells)} |")
    rule = ["-" * (w + 1) + ":" if right else "-" * (w + 2) for w, right in zip(widths, numbers)]
    return [lines[0], f"|{'|'.join(rule)}|", *lines[1:]]


def _about(result: Result) -> list[str]:
    machine, settings = result["machine"], result["settings"]
    cores = f"{settings['threads']} of {machine['cores']} cores"
    environment = " ".join(f"{name}={value}" for name, value in settings["environment"].items())
    dtypes = dict.fromkeys(row["dtype"] for row in result["results"])
    processor = " with ".join(filter(None, [machine["processor"], machine.get("instructions")]))
    parts = [result["made"], f"{processor}, {cores}, {machine['system']}", _gpu(machine.get("gpu", {}))]
    rounds = f"best of {settings['rounds']} rounds" if settings["rounds"] > 1 else "one round"
    parts += [f"backend {settings['backend']}", f"{rounds} of {settings['seconds']:g} s"]
    parts += [", ".join(dtypes), f"SGD with momentum {settings['momentum']:g}" if settings["momentum"] else ""]
    parts += ["dualnet's step captured" if settings["capture"] else "", f"seed {settings['seed']}", environment]
    return ["; ".join(filter(None, parts))]


def _gpu(gpu: Result) -> str:
    if not gpu:
        return ""
    clocks = f"at most {gpu['clocks.max.sm']}, memory {gpu['clocks.mem']}, {gpu['power.limit']}"
    return f"{gpu['name']} ({clocks}), driver {gpu['driver_version']}"


def _programs(result: Result) -> list[str]:
    rows = [["program", "version", "Python", "NumPy", "threads", "BLAS", "kernels", "device", "import ms"]]
    for name, program in result["programs"].items():
        if "version" not in program:
            continue
        facts = program["facts"]
        kernels, device = facts.get("kernels", ""), facts.get("device") or facts.get("backend", "")
        if isinstance(kernels, list):
            named = [key for key in facts if any(library in key.lower() for library in LIBRARIES)]
            libraries = [f"{key}: {_without_folders(facts[key])}" for key in named]
            kernels = "; ".join([f"{len(kernels)} of its own" if kernels else "none", *libraries])
        blas, threads = str(facts.get("blas", "")), result["settings"]["threads"]
        threads = threads if name == "dualnet" else facts.get("threads", threads)
        versions = [name, program["version"], program["python"], program["numpy"]]
        rows.append([*versions, str(threads), blas, str(kernels), str(device), f"{program['import_ms']:.0f}"])
    return [*table(rows), "", "Import: the time beyond NumPy's own."]


def _without_folders(words: Any) -> str:
    """A library's name without its path, which differs from machine to machine."""
    return re.sub(r"(?:[A-Za-z]:)?[\\/](?:[^\\/,;]*[\\/])+", "", str(words))


def _speed(result: Result, mode: str) -> list[str]:
    rows = [row for row in result["results"] if row["mode"] == mode]
    peers, dtypes = _peers([row for row in rows if "min_ms" in row]), _several_dtypes(result)
    lines = [["net", *dtypes, "batch", "dualnet", "images/s", *(word for peer in peers for word in (peer, "×"))]]
    for (net, dtype, batch), here in grouped(rows, "net", "dtype", "batch").items():
        for ours in (row for row in here if row["program"] == "dualnet"):
            cells = [_named(net, ours, here), *([dtype] if dtypes else []), str(batch)]
            cells += [_ms(ours.get("min_ms")), _images_per_second(ours)]
            for peer in peers:
                several = len({row["variant"] for row in rows if row["program"] == peer}) > 1
                cells += [_fastest(here, peer, several), _times(result, ours, peer)]
            lines.append(cells)
    title = f"**{mode.capitalize()}**: best time of a {STEPS[mode]} in ms; ×: how many times the peer's speed"
    return [title, "", *table(lines)] if rows else []


def _named(net: str, ours: Result, here: list[Result]) -> str:
    """The network, and which of dualnet's two rows it is, if there are two."""
    both = len([row for row in here if row["program"] == "dualnet"]) > 1
    return f"{net}, {ours['variant']}" if both and ours["variant"] else net


def _peers(rows: list[Result]) -> list[str]:
    """The programs in these rows, without dualnet."""
    return [name for (name,) in grouped(rows, "program") if name != "dualnet"]


def _images_per_second(row: Result) -> str:
    return _number(row["batch"] / row["min_ms"] * 1e3) if "min_ms" in row else "–"


def _fastest(rows: list[Result], peer: str, several: bool) -> str:
    """The time of a peer's fastest variant, and which one it was if it has ``several``."""
    times = [(row["min_ms"], row["variant"]) for row in rows if row["program"] == peer and "min_ms" in row]
    time, variant = min(times, default=(None, ""))
    return f"{_ms(time)} ({variant})" if variant and several else _ms(time)


def _several_dtypes(result: Result) -> Cells:
    """The heading of a dtype column, unless everything is float32."""
    return ["dtype"] if any(row["dtype"] != "float32" for row in result["results"]) else []


def _times(result: Result, ours: Result, peer: str, what: str = "speed") -> str:
    cell = ("net", "batch", "mode", "dtype")
    for ratio in result["ratios"]:
        mine = ratio.get("ours", ours["variant"]) == ours["variant"]
        if mine and ratio["peer"] == peer and all(ratio[key] == ours[key] for key in cell):
            return "–" if ratio[what] is None else f"{ratio[what]:.2f}"
    return "–"


def _memory(result: Result) -> list[str]:
    rows = [row for row in result["results"] if row.get("peak_bytes") is not None]
    peers, dtypes = _peers(rows), _several_dtypes(result)
    lines = [["net", "mode", *dtypes, "batch", "dualnet", *(word for peer in peers for word in (peer, "share"))]]
    for (net, mode, dtype, batch), here in grouped(rows, "net", "mode", "dtype", "batch").items():
        for ours in (row for row in here if row["program"] == "dualnet"):
            cells = [_named(net, ours, here), mode, *([dtype] if dtypes else []), str(batch), _mib([ours], "dualnet")]
            for peer in peers:
                cells += [_mib(here, peer), _times(result, ours, peer, "memory")]
            lines.append(cells)
    title = "**Peak memory** of a step, in MiB; share: dualnet's of the peer's"
    return [title, "", *table(lines)] if rows else []


def _mib(rows: list[Result], program: str) -> str:
    peaks = [row["peak_bytes"] for row in rows if row["program"] == program]
    return f"{min(peaks) / 2**20:.1f}" if peaks else "–"


def _layers(shares: Result) -> list[str]:
    few = "" if shares["dtype"] == "float32" else f", {shares['dtype']}"
    title = f"**{shares['net']}, batch {shares['batch']}{few}, layer by layer**"
    if "rows" not in shares:
        return [f"{title}: {shares['failed']}"]
    lines = [["layer", "forward ms", "GFLOP/s", "backward ms", "GFLOP/s", "share"]]
    for row in shares["rows"]:
        cells = [f"{row['name']} {row['layer']}".strip()]
        for way in ("forward", "backward"):
            rate = row[f"{way}_gflops"]
            cells += [_ms(row[f"{way}_ms"]), "" if rate is None else f"{rate:.1f}"]
        lines.append([*cells, f"{100 * row['share']:.1f} %"])
    lines.append(["rest", "", "", _ms(shares["rest_ms"]), "", f"{100 * shares['rest_share']:.1f} %"])
    step = f"of a training step of {_ms(shares['step_ms'])} ms, clocks included; median of {shares['runs']} steps"
    return [f"{title}, {step}", "", *table(lines)]


def _kernels(result: Result) -> list[str]:
    """Which kernels served dualnet's calls, and why, for the largest batch of each network and mode."""
    last = {(row["net"], row["mode"]): row for row in result["results"] if row.get("ran")}
    lines = [["net", "mode", "ran"]]
    for (net, mode), row in last.items():
        served: dict[str, list[str]] = {}
        for key in row["ran"]:
            name, _, by = key.partition(" (")
            reason = row.get("why", {}).get(key)
            served.setdefault(by.rstrip(")"), []).append(f"{name} ({reason})" if reason else name)
        lines.append([net, mode, "; ".join(f"{by}: {', '.join(names)}" for by, names in sorted(served.items()))])
    return ["**What ran** in dualnet", "", *table(lines)] if last else []


def _notes(result: Result) -> list[str]:
    missing = {name: program["skipped"] for name, program in result["programs"].items() if "skipped" in program}
    notes = [f"- {name}: left out, {reason}" for name, reason in missing.items()]
    for row in result["results"]:
        who = f"{row['program']} {row['variant']}".rstrip()
        few = "" if row["dtype"] == "float32" else f"{row['dtype']}, "
        where = f"{row['net']}, batch {row['batch']}, {row['mode']}, {few}{who}"
        for key, word in (("failed", "failed"), ("skipped", "left out"), ("differs", "no ratio, since")):
            if row.get(key) and row["program"] not in missing:
                notes.append(f"- {where}: {word}: {row[key]}")
    return notes


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
