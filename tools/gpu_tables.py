"""The results in docs/gpu/*.json as tables: python tools/gpu_tables.py [FOLDER] [--page docs/gpu.md]

With --page they replace the text between ``<!-- gpu: measured -->`` and ``<!-- gpu: end -->`` in that file. A test
checks that the page shows the numbers in the files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpu_facts import without_cudnn

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE = ROOT / "docs" / "gpu", ROOT / "docs" / "gpu.md"
MARKS = re.compile(r"(<!-- gpu: measured -->\n).*?(<!-- gpu: end -->)", re.DOTALL)

NOT_RUN = """\
**NOT-RUN.** No GPU has run this yet, so there is no certificate and there are no timings. Two commands remain to be
run, on a machine with an NVIDIA GPU, CuPy, and PyTorch to compare with:

```sh
python3 tools/gpu_run.py first
python3 tools/gpu_run.py second
```
"""
PARTS = ("smoke", "parity", "tests", "bench", "profile")


def tables(folder: Path = FOLDER) -> str:
    """The results in a folder as Markdown; if there are none, a text that says so."""
    found = read(folder)
    sections = [section(name, parts) for name, parts in sorted(found.items())]
    return "\n".join(sections) if sections else NOT_RUN


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """The files by GPU and part, such as ``h100-bench.json``."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        name, _, part = path.stem.rpartition("-")
        if name and part in PARTS:
            try:
                found.setdefault(name, {})[part] = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path.name} is broken: {error}") from None
    return found


def section(name: str, parts: dict[str, Any]) -> str:
    title = next((p["gpu"]["name"] for p in parts.values() if p.get("gpu", {}).get("name")), name)
    paragraphs = [f"### {title}", about(parts), *without(parts)]
    for part in PARTS:
        if part in parts:
            paragraphs += unfinished(part, parts[part])
            paragraphs += SHOWN[part](parts[part]) if has(part, parts[part]) else []
    missing = [part for part in ("parity", "tests", "bench", "profile") if part not in parts]
    if missing:
        paragraphs.append(f"NOT-RUN on this machine: {', '.join(missing)}.")
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def has(part: str, found: dict[str, Any]) -> bool:
    """Is there anything to show? A part that did not begin, or failed at once, leaves only its state."""
    return bool(found.get(CONTENT[part]))


def unfinished(part: str, found: dict[str, Any]) -> list[str]:
    """A line for a part that did not end as it should."""
    if found.get("state", "ok") in ("ok", "PASS", "PARTIAL"):
        return []
    return [f"**{part}: {found['state']}**: {found['outcome']}"]


def about(parts: dict[str, Any]) -> str:
    """The versions in the newest result that has them."""
    dated = [part for part in parts.values() if "versions" in part]
    if not dated:
        return ""
    newest = max(dated, key=lambda part: part["date"])
    versions, gpu, packages = newest["versions"], newest["gpu"], newest["versions"].get("packages", {})
    words = [f"driver {gpu['driver_version']}" if "driver_version" in gpu else ""]
    words += [f"CUDA {versions['cuda']}" if "cuda" in versions else ""]
    for key, title in (
        ("cublas", "cuBLAS"),
        ("cudnn", "cuDNN"),
    ):  # the library that ran, which may differ from the installed one
        said = str(versions.get(key, ""))
        words += [f"{title} {said.partition(';')[0]}"] if said[:1].isdigit() else []
    words += [f"CuPy {versions['cupy']}" if "cupy" in versions else ""]
    words += [f"PyTorch {packages['torch']}" if "torch" in packages else "", f"NumPy {versions['numpy']}"]
    words += [f"Python {versions['python']}", f"dualnet {versions['dualnet']}"]
    clocks = f"clocks up to {gpu['clocks.max.sm']}, {gpu['power.limit']}" if "clocks.max.sm" in gpu else ""
    return "; ".join(filter(None, [", ".join(filter(None, words)), clocks])) + "."


def without(parts: dict[str, Any]) -> list[str]:
    """Which results came without cuDNN, and how to fix that."""
    reasons: dict[str, list[str]] = {}
    for name, part in parts.items():
        if why := without_cudnn(part.get("versions", {})):
            reasons.setdefault(why, []).append(name)
    return [
        f"**Without cuDNN** ({', '.join(names)}): {why}. Every convolution ran as `im2col` and a product by cuBLAS."
        for why, names in reasons.items()
    ]


def steps(found: dict[str, Any]) -> list[str]:
    """The smoke test: what failed, by name."""
    bad = [row for row in found["steps"] if not row["ok"]]
    text = f"**First steps** ({found['date']}): {len(found['steps']) - len(bad)} of {len(found['steps'])} work, in "
    text += f"{found['seconds']:.0f} s."
    return [text, "\n".join(f"- {row['step']}: {row['why']}" for row in bad)]


def certificate(found: dict[str, Any]) -> list[str]:
    verdicts = ", ".join(f"{backend} {verdict}" for backend, verdict in found["verdicts"].items())
    controls = sum(row["made"] for row in found.get("controls", []))
    caught = sum(row["found"] for row in found.get("controls", []))
    ops = len({row["op"] for row in found.get("ops", [])})
    text = f"**Certificate: {found['verdict']}** ({found['date']}; {verdicts}). {ops} ops and "
    text += f"{len(found.get('networks', []))} networks compared; of {controls} mistakes made on purpose {caught} were "
    text += "found."
    others = [f"`{run['command']}` {run['verdict']}" for run in found.get("runs", [])]
    text += f" In turn: {', '.join(others)}." if others else ""
    reasons = list(dict.fromkeys(reason for several in found["reasons"].values() for reason in several))
    return [text, "\n".join(f"- {reason}" for reason in reasons[:12])]


def suite(found: dict[str, Any]) -> list[str]:
    counts = ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(found["counts"].items()))
    state = "" if found["complete"] else " The run was stopped before its end."
    variables = {"DUALNET_BACKEND": found["backend"], **found.get("switches", {})}
    words = " ".join(f"{name}={value}" for name, value in variables.items())
    text = f"**Tests** with `{words}` ({found['date']}): "
    text += f"{counts} in {found['seconds']:.0f} s.{state}"
    return [text, "\n".join(f"- `{failure['test']}`: {failure['why']}" for failure in found["failures"][:12])]


def speed(found: dict[str, Any]) -> list[str]:
    """A row for each network and dtype; × comes from the run that measured both in turn."""
    cells: dict[tuple, dict[str, Any]] = {}
    for run in found["runs"]:
        for row in run["results"]:
            cell = cells.setdefault((row["net"], row["dtype"], row["batch"]), {"programs": {}, "ratios": {}})
            known = cell["programs"].get(row["program"])
            if "min_ms" in row and (known is None or row["min_ms"] < known):
                cell["programs"][row["program"]] = row["min_ms"]
        for ratio in run["ratios"]:
            cells[ratio["net"], ratio["dtype"], ratio["batch"]]["ratios"][ratio["peer"]] = ratio["speed"]
    peers = list(dict.fromkeys(peer for cell in cells.values() for peer in cell["programs"] if peer != "dualnet"))
    titles = [word for peer in peers for word in (f"{TITLES.get(peer, peer)} ms", "×")]
    lines = [["net", "numbers", "batch", "dualnet ms", "images/s", *titles]]
    for (net, dtype, batch), cell in cells.items():
        ours = cell["programs"].get("dualnet")
        row = [net, dtype, str(batch), _ms(ours), f"{batch / ours * 1e3:,.0f}" if ours else "–"]
        for peer in peers:
            times = cell["ratios"].get(peer)
            row += [_ms(cell["programs"].get(peer)), f"{times:.2f}" if times else "–"]
        lines.append(row)
    settings = found["runs"][0]["settings"]
    step = "one captured graph" if settings["capture"] else "launched from Python"
    text = f"**Training** ({found['date']}): best time of a step in ms, of {settings['rounds']} rounds in turn; "
    text += f"×: how many times the peer's speed. dualnet's step is {step}; SGD with momentum {settings['momentum']:g}."
    faults = dict.fromkeys(
        f"- {row['net']}, {row['dtype']}, {TITLES.get(row['program'], row['program'])}: {word}"
        for run in found["runs"]
        for row in run["results"]
        if (word := row.get("failed") or row.get("differs") or row.get("skipped"))
        and (row.get("differs") or row["program"] not in cells[row["net"], row["dtype"], row["batch"]]["programs"])
    )
    return [text, "\n".join(_table(lines)), "\n".join(faults)]


def profiles(found: dict[str, Any]) -> list[str]:
    """The most expensive kernels of each of dualnet's steps."""
    lines = [["net", "numbers", "kernels µs", "launches", "PyTorch's µs", "the longest"]]
    steps = {(p["program"], p["net"], p["dtype"]): p for p in found["profiles"]}
    for (program, net, dtype), mine in steps.items():
        if program != "dualnet":
            continue
        theirs = steps.get(("torch", net, dtype), {})
        longest = ", ".join(f"`{_short(row['kernel'])}` {row['us']:.0f}" for row in mine["kernels"][:4])
        lines.append(
            [net, dtype, f"{mine['busy_us']:,.0f}", str(mine["launches"]), f"{theirs.get('busy_us', 0):,.0f}", longest]
        )
    return [f"**Kernels of a step** ({found['date']}), in µs", "\n".join(_table(lines))] if len(lines) > 1 else []


SHOWN: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "smoke": steps, "parity": certificate, "tests": suite, "bench": speed, "profile": profiles,
}  # fmt: skip
CONTENT = {"smoke": "steps", "parity": "verdicts", "tests": "counts", "bench": "runs", "profile": "profiles"}
"""The entry that a file has if its part has any results."""
TITLES = {"torch": "PyTorch"}


def _short(kernel: str) -> str:
    return re.sub(r"^void |<.*|\(.*|`", "", kernel).strip()[:48] or kernel[:48]


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _table(rows: list[list[str]], left: int = 2) -> list[str]:
    rule = ["---" if i < left else "--:" for i in range(len(rows[0]))]
    return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]


def placed(page: str, text: str) -> str:
    """The page with the tables between its marks. Raises ``ValueError`` if it has no marks."""
    if not MARKS.search(page):
        raise ValueError("the page has no '<!-- gpu: measured -->' with '<!-- gpu: end -->' after it")
    return MARKS.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", page)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/gpu_tables.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER, help="the folder with the files (docs/gpu)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the tables into this page")
    options = parser.parse_args()
    text = tables(options.folder)
    if options.page:
        options.page.write_text(placed(options.page.read_text(encoding="utf-8"), text), encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        sys.exit(f"gpu_tables: {error}")
