"""HTML and SVG for notebooks: tables, small curves, words.

Everything carries its own style and takes its text colour from the page, so it is readable in light and dark mode, and
in hosts that remove style sheets and scripts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

__all__ = ["BLUE", "GREY", "NEGATIVE", "ORANGE", "POSITIVE"]
__all__ += ["badge", "card", "escape", "figure", "ruled", "scrolling", "sparkline", "table", "wrapped"]

BLUE, ORANGE, GREY = "#3b82c4", "#d9772b", "#8b949e"
"""For lines: two colours that colour-blind readers can tell apart, and a neutral one; all work on white and black."""
NEGATIVE = {"light": "#58a0ee", "dark": "#2867b8"}
POSITIVE = {"light": "#f08c32", "dark": "#a84f0a"}
"""For areas with text on them: below 0 is blue and above 0 orange, in every picture and on every page."""
RULE = "1px solid rgba(128,128,128,.35)"

VERDICTS = {"PASS": "#23804a", "FAIL": "#c93a3a", "INVALID": "#c93a3a", "PARTIAL": "#96620c", "NOT-RUN": "#6b7480"}
"""Backgrounds of a badge: dark enough for white letters, 4.5 to 1 as the guidelines for the web ask for."""

FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML forbids, even as entities: with one of them in a name, no program opens the SVG."""


def escape(text: str) -> str:
    r"""Text that appears unchanged in HTML and SVG, between tags and in attributes. Forbidden characters become �.

    >>> escape('<b title="x">'), escape("\x1b[1m")
    ('&lt;b title=&quot;x&quot;&gt;', '�[1m')
    """
    import html  # its tables of names take 2 ms

    return html.escape(FORBIDDEN.sub("\ufffd", text))


def table(
    caption: str,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    totals: Sequence[str] | None = None,
    *,
    left: int = 1,
    raw: Sequence[int] = (),
) -> str:
    """A table that scrolls sideways if it is wider than the page. The first ``left`` columns are words, the others
    numbers. Columns in ``raw`` already hold HTML.

    >>> html = table("fruit", ["name", "count"], [["<apple>", "3"]])
    >>> "overflow-x:auto" in html, "&lt;apple&gt;</td>" in html
    (True, True)
    """

    def line(cells: Sequence[str], tag: str) -> str:
        body = ""
        for column, cell in enumerate(cells):
            side = "left;white-space:pre" if column < left else "right;white-space:nowrap"
            weight = "font-weight:600;" if tag == "th" else ""
            style = f"text-align:{side};padding:2px 8px;{weight}font-variant-numeric:tabular-nums"
            body += f'<{tag} style="{style}">{cell if column in raw else escape(cell)}</{tag}>'
        return f"<tr>{body}</tr>"

    body = "".join(line(row, "td") for row in rows)
    foot = "" if totals is None else f'<tfoot style="border-top:{RULE}">{line(totals, "th")}</tfoot>'
    above = f'<caption style="text-align:left;padding:2px 8px;white-space:nowrap">{escape(caption)}</caption>'
    head = f'<thead style="border-bottom:{RULE}">{line(headings, "th")}</thead>'
    return scrolling(f"<table>{above if caption else ''}{head}<tbody>{body}</tbody>{foot}</table>")


def wrapped(text: str) -> str:
    """Text for a cell of a table, as HTML: it wraps, in a column that is wide enough to be read."""
    return f'<span style="display:inline-block;min-width:22em;white-space:normal">{escape(text)}</span>'


def scrolling(content: str) -> str:
    """Content in a box that scrolls sideways if it is wider than the page."""
    return f'<div style="overflow-x:auto;max-width:100%">{content}</div>'


def card(title: str, content: str, *, opened: bool = True) -> str:
    """Content that can be folded away under a title. The title is HTML."""
    state = ' open=""' if opened else ""
    return (
        f'<details{state} style="margin:4px 0"><summary style="cursor:pointer;padding:2px 0">{title}</summary>'
        f"{content}</details>"
    )


def badge(verdict: str) -> str:
    """A verdict in its colour.

    >>> badge("PASS")[-11:]
    'PASS</span>'
    """
    colour = VERDICTS.get(verdict, VERDICTS["NOT-RUN"])
    style = f"display:inline-block;padding:1px 10px;border-radius:9px;font-weight:600;color:#fff;background:{colour}"
    return f'<span style="{style}">{escape(verdict)}</span>'


def figure(number: float | None, digits: int = 3) -> str:
    """A number with three digits, in few characters; an en dash for None.

    >>> figure(0.01234), figure(123456.0), figure(1e-7), figure(0.0), figure(None)
    ('0.0123', '1.23e+05', '1e-07', '0', '–')
    """
    return "–" if number is None else f"{number:.{digits}g}"


def sparkline(values: Sequence[float], *, width: int = 160, height: int = 32, colour: str = BLUE) -> str:
    """A curve without axes, its last point marked. Values that are not finite are left out.

    >>> sparkline([1.0, 0.5, 0.25])[:5]
    '<svg '
    """
    points = [(i, value) for i, value in enumerate(values) if math.isfinite(value)]
    label = f"{len(values)} values" + (f", from {figure(points[0][1])} to {figure(points[-1][1])}" if points else "")
    lines = ""
    if points:
        low, high = min(v for _, v in points), max(v for _, v in points)
        across = (width - 8) / max(1, len(values) - 1)
        up = (height - 8) / (high - low) if high > low else 0.0
        half = 0.0 if high > low else (height - 8) / 2
        at = [(4 + i * across, height - 4 - half - (v - low) * up) for i, v in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        lines = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-linejoin="round"/>'
        lines += f'<circle cx="{at[-1][0]:.1f}" cy="{at[-1][1]:.1f}" r="2.5" fill="{colour}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(label)}" style="vertical-align:middle;display:inline-block">{lines}</svg>'
    )


def ruled(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of plain text: the headings, the rows and the totals, with a rule between them.

    >>> print("\\n".join(ruled([("layer", "ms"), ("Dense", "1.5"), ("all", "1.5")])))
    ----------
    layer   ms
    ----------
    Dense  1.5
    ----------
    all    1.5
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return [rule, lines[0], rule, *lines[1:-1], rule, lines[-1]]


def listed(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table as lines of plain text, with the headings first and no totals.

    >>> print("\\n".join(listed([("ranks", "ms"), ("1", "1.5"), ("2", "1.75")])))
    -----------
    ranks    ms
    -----------
    1       1.5
    2      1.75
    """
    return ruled([*rows, [""] * len(rows[0])])[:-2]
