"""The certificate as Markdown, as HTML for notebooks, and as JSON without NaN; and single cases as plain text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ...markup import badge, card, escape, table, wrapped

__all__ = ["case_text", "html", "markdown", "network_html", "plain", "twin_html"]

Rows = list[list[str]]


def number(value: Any) -> str:
    """A number with two digits.

    >>> number(0.0), number(1.234e-7), number(0.129), number(None), number(math.inf)
    ('0', '1.2e-07', '0.13', '–', '∞')
    """
    if value is None:
        return "–"
    if not isinstance(value, (int, float)):
        return str(value).replace("inf", "∞")  # read back from JSON
    return "∞" if math.isinf(value) else "NaN" if math.isnan(value) else f"{value:.2g}"


def plain(data: Any) -> Any:
    """JSON has no infinity and no NaN: they become strings."""
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data


# -- the tables --------------------------------------------------------------------------------------------------------

Table = tuple[str, list[str], Rows, int]  # title, headings, rows, how many columns hold words


def tables(data: dict[str, Any]) -> list[Table]:
    """Those tables of the certificate that have rows."""
    several = [_verdicts(data), _ops(data), _pairs(data), _kernels(data), _networks(data), _training(data)]
    return [t for t in (*several, _controls(data), _machine(data)) if t[2]]


def _verdicts(data: dict[str, Any]) -> Table:
    rows = []
    for name, verdict in data["verdicts"].items():
        reasons = data["reasons"].get(name, [])
        why = [text.partition(": ")[2] for text in reasons if text.startswith(verdict)]
        rows.append([f"numpy ↔ {name} ↔ float64" if name != "numpy" else "numpy ↔ float64", verdict, _some(why)])
    return "Verdicts", ["compared", "verdict", "why"], rows, 3


def _some(texts: list[str], most: int = 3) -> str:
    return "; ".join([*texts[:most], *([f"and {len(texts) - most} more"] if len(texts) > most else [])])


def _ops(data: dict[str, Any]) -> Table:
    names = list(dict.fromkeys(tally["what"] for row in data["ops"] for tally in row["ways"]))
    headings = ["op", "dtype", "cases", "worst / limit", "mismatches", "repeats", "worst case"]
    headings += [*(f"{n}: norm" for n in names), *(f"{n}: each" for n in names)]
    return "Ops against float64 loops", headings, [_op(row, names) for row in data["ops"]], 2


def _op(row: dict[str, Any], names: list[str]) -> list[str]:
    ways = {tally["what"]: tally for tally in row["ways"]}
    worst = max(ways.values(), key=lambda tally: _order(tally["ratio"]))
    different = sum(row["repeats"]["different"].values())
    cells = [row["op"], row["dtype"], str(row["cases"]), number(worst["ratio"]), _mismatches(row["ways"])]
    cells.append(f"{row['repeats']['times']} equal" if not different else f"{different} DIFFER")
    figures = [number(ways[n][what]) if n in ways else "–" for what in ("norm", "each") for n in names]
    return [*cells, _short(worst), *figures]


def _mismatches(tallies: list[dict[str, Any]]) -> str:
    """How often something that must be equal differed: "shape 2, nan 1"."""
    counts = {name: sum(tally["mismatches"][name] for tally in tallies) for name in tallies[0]["mismatches"]}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _order(ratio: Any) -> float:
    """A ratio to sort by; if it was read back from JSON, it may be a string."""
    return float(ratio) if not isinstance(ratio, str) else float(ratio.replace("∞", "inf"))


def _short(tally: dict[str, Any]) -> str:
    worst = tally["worst"]
    return "–" if not worst else f"--case {worst['case']} ({worst['kind']}, {worst['output'] or 'exception'})"


def _pairs(data: dict[str, Any]) -> Table:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in data["ops"]:
        for tally in row["pairs"]:
            found.setdefault((tally["what"], row["dtype"]), []).append({**tally, "op": row["op"]})
    rows = []
    for (what, dtype), tallies in found.items():
        worst = max(tallies, key=lambda tally: _order(tally["ratio"]))
        cases, failed = (str(sum(t[key] for t in tallies)) for key in ("cases", "failed"))
        rows.append([what, dtype, cases, failed, number(worst["ratio"]), f"{worst['op']} {_short(worst)}"])
    headings = ["pair", "dtype", "cases", "failed", "worst / 2 limits", "where"]
    return "Backends and kernels against each other", headings, rows, 2


def _kernels(data: dict[str, Any]) -> Table:
    rows = []
    for row in data["kernel_checks"]:
        if row["kernels"]:
            cells = [row["what"], row["op"], row["dtype"], f"{row['served']} of {row['cases']}", str(row["failed"])]
            rows.append([*cells, number(row["norm"]), number(row["ratio"]), ", ".join(row["kernels"])])
    headings = ["backend", "op", "dtype", "served", "failed", "norm", "worst / limit", "kernels that ran"]
    return "Kernels against their references in float64", headings, rows, 3


def _networks(data: dict[str, Any]) -> Table:
    rows = []
    for row in data["networks"]:
        for dtype, first in row["first_step"].items():
            for way, ratio in first["ratio"].items():
                switched = first["switched"].get(way, 0)
                answers = f"{first['top_1'].get(way, '–')} of {first['images']}"
                rows.append([row["network"], dtype, way, number(ratio), answers, str(switched)])
    headings = ["network", "dtype", "backend", "logits, gradients / 10 envelopes", "top-1 as float64", "units switched"]
    return "Networks: the first step", headings, rows, 3


def _training(data: dict[str, Any]) -> Table:
    rows = []
    for row in data["networks"]:
        locks, run = {step["way"]: step for step in row["lock_step"]}, row["training"]
        for found in run["rows"]:
            step = locks.get(found["way"])
            lock = "–" if step is None else f"{step['steps']} steps, {number(step['worst'])} of the limit"
            accuracy = sum(found["accuracies"]) / len(found["accuracies"])
            rows.append([
                *(row["network"], found["way"], lock if step is None or step["ok"] else "PARTED"),
                *(number(found["apart"]), number(run["envelope"][-1]), number(found["ratio"])),
                *(f"{100 * accuracy:.1f} %", f"{100 * run['range'][0]:.1f}–{100 * run['range'][1]:.1f} %"),
            ])  # fmt: skip
    headings = ["network", "backend", "float64 in lock-step", "weights apart", "envelope", "worst / 10 envelopes"]
    return "Networks: training", [*headings, "accuracy", "NumPy's range"], rows, 2


def _controls(data: dict[str, Any]) -> Table:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in data["controls"]:
        found.setdefault((row["control"], row["way"]), []).append(row)
    rows = []
    for (control, way), several in found.items():
        least = min(several, key=lambda row: _order(row["least_ratio"]))
        made, seen = sum(r["made"] for r in several), sum(r["found"] for r in several)
        verdict = "fails, as it must" if made == seen else "PASSES: the certificate is invalid"
        rows.append([control, way, verdict, f"{seen} of {made}", f"{number(least['least_ratio'])} ({least['op']})"])
    return "Negative controls", ["mistake", "made on", "the certificate", "found", "least / limit"], rows, 3


def _machine(data: dict[str, Any]) -> Table:
    rows = [["date", f"{data['date']}, {data['seconds']} s"], ["command", data["command"]], ["seed", str(data["seed"])]]
    rows += [[key, str(data["machine"][key])] for key in ("platform", "processor")]
    shown: dict[str, str] = {}
    for name, facts in data["backends"].items():
        for key, value in facts.items():
            text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            if shown.get(key) != text and key != "backend":
                rows.append([key if key not in shown else f"{key} ({name})", text])
                shown[key] = text
    rows.append(["kernel sources", f"sha256 {data['kernels']['sha256'][:16]}…, {len(data['kernels']['files'])} files"])
    return "What ran", ["", ""], rows, 2


# -- pages -------------------------------------------------------------------------------------------------------------


def markdown(data: dict[str, Any]) -> str:
    """The certificate in Markdown."""
    lines = [f"# Parity certificate: {data['verdict']}", ""]
    for title, headings, rows, left in tables(data):
        lines += [f"## {title}", "", *_aligned([headings, *rows], left), ""]
    return "\n".join(lines)


def _aligned(rows: Iterable[list[str]], left: int) -> list[str]:
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
    rule = ["-" * (w + 2) if i < left else "-" * (w + 1) + ":" for i, w in enumerate(widths)]
    padded = [[c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in rows]
    return [f"| {' | '.join(padded[0])} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in padded[1:])]


def html(data: dict[str, Any]) -> str:
    """The certificate for a notebook: the verdict, the reasons for it, and tables that fold up."""
    head = f"{badge(data['verdict'])} <b>Parity certificate</b>, {escape(data['date'])}, seed {data['seed']}"
    verdicts = [[a, badge(b), wrapped(c)] for a, b, c in _verdicts(data)[2]]
    parts = [table("", ["compared", "verdict", "why"], verdicts, left=3, raw=(1, 2))]
    for title, headings, rows, left in tables(data)[1:]:
        opened = title == "Negative controls"
        parts.append(card(escape(f"{title} ({len(rows)})"), table("", headings, rows, left=left), opened=opened))
    return f'<div style="margin:4px 0">{head}</div>{"".join(parts)}'


def page(data: dict[str, Any]) -> str:
    """A whole page for a browser."""
    style = "body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:110ch;padding:0 1em}"
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head += f'<meta name="color-scheme" content="light dark"><title>Parity: {data["verdict"]}</title>'
    body = html(data)
    return f"<!doctype html>\n<html lang='en'><head>{head}<style>{style}</style></head><body>{body}</body></html>\n"


def twin_html(found: Any) -> str:
    """What :func:`dualnet.twin` found."""
    return f"{badge('PASS' if found.ok else 'FAIL')} {escape(str(found))}"


def network_html(found: Any) -> str:
    """What :func:`dualnet.parity` found."""
    ways = list(dict.fromkeys(row.way for row in found.rows))
    head = f"{badge('PASS' if found.ok else 'FAIL')} <b>{escape(found.name)}</b>, {found.dtype}, {found.images} images"
    rows = []
    for result in dict.fromkeys(row.result for row in found.rows):
        mine = {row.way: row for row in found.rows if row.result == result}
        cells = [_cell(mine[way]) if way in mine else "–" for way in ways]
        rows.append([result, *cells, number(max((row.limit for row in mine.values()), default=None))])
    if found.top_1:
        rows.append(["top-1 as in float64", *(f"{found.top_1.get(way, '–')} of {found.images}" for way in ways), ""])
    body = table("‖X − R‖ / ‖R‖, R in float64", ["result", *ways, "limit"], rows)
    return f"<div>{head}</div>{body}" + "".join(f"<div>{twin_html(t)}</div>" for t in found.twins)


def _cell(row: Any) -> str:
    if row.mismatch:
        return f"✗ different {row.mismatch}"
    return f"{number(row.error)}{' (switched)' if row.note else '' if row.ok else ' ✗'}"


def case_text(compared: list[Any], truth: dict[str, Any] | None) -> str:
    """One case: every output in every way, with its limit and the element that is furthest off."""
    lines = []
    for comparison in compared:
        if comparison.mismatch or not comparison.results:
            lines.append(f"  {comparison.what}: {comparison.note or 'raised what it must'}")
        for name, m in comparison.results.items():
            why = "" if truth is None or truth[name].limit is None else truth[name].limit.why
            distance = f"norm {number(m.norm)}, each {number(m.each)}, {number(m.ratio)} of the limit ({why})"
            if m.mismatch:
                distance = f"different {m.mismatch}"
            place = f"; at {m.at}: {m.got!r}, float64 {m.wanted!r}" if m.at else ""
            lines.append(f"  {comparison.what}: {name}: {distance}{place}{'' if m.ok else '   <-- wrong'}")
    return "\n".join(lines)
