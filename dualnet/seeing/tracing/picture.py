"""A trace as a mirrored picture: forward goes down on the left, backward comes up on the right, layer facing layer.

Every element carries its own colour, and text takes the page's, so that the picture is readable in light and dark
notebooks; :func:`standalone` adds a background for a file.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...markup import BLUE, GREY, ORANGE, escape, figure

__all__ = ["inline", "page", "standalone"]

WIDTH = 920
FORWARD, BACKWARD = (200, 410), (510, 720)  # left and right edge of the two stacks
LEFT_AXIS, RIGHT_AXIS = FORWARD[0] - 12, BACKWARD[1] + 12  # where the bars begin
BAR = 118  # length of the longest
ROW, BOX, HEAD = 52, 42, 26  # heights: of a layer's place, of its box, of a container's heading
TOP = 92
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Liberation Sans, Arial, sans-serif"'
SOFT = 'fill="currentColor" fill-opacity=".68"'
FULL = 'fill="currentColor"'
LIGHT, DARK = ("#ffffff", "#1f2328"), ("#14181f", "#e6edf3")


@dataclass
class Item:
    """One line of the picture: a layer, the point where a container's branches join, or a container's heading."""

    row: Any
    kind: str  # "layer", "join" or "heading"
    linked: bool  # does its input come from the line above?
    depth: int
    y: int = 0


def standalone(trace: Any) -> str:
    """The picture as a separate file, with the findings below it."""
    lines = [line for text in trace.findings or ["nothing stands out"] for line in _wrapped(text)]
    body, height = _body(trace)
    for line in lines:
        body.append(_text(24, height + 14, line, size=13))
        height += 20
    height += 16
    style = (
        f"<style>svg.trace{{color:{LIGHT[1]};background:{LIGHT[0]}}}"
        f"@media (prefers-color-scheme:dark){{svg.trace{{color:{DARK[1]};background:{DARK[0]}}}}}</style>"
    )
    return _svg(trace, [style, *body], height, f'class="trace" width="{WIDTH}" height="{height}"') + "\n"


def inline(trace: Any) -> str:
    """The picture inside a page, in the page's colours."""
    body, height = _body(trace)
    return _svg(trace, body, height, f'style="width:100%;min-width:640px;max-width:{WIDTH}px;height:auto"')


def page(trace: Any) -> str:
    """The picture and the table as a complete page."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{escape(trace.title)}</title><style>:root{{color-scheme:light dark}}'
        "body{font:15px system-ui,sans-serif;max-width:1040px;margin:2em auto;padding:0 1em}table{border-collapse:"
        f"collapse;font-size:13px}}</style></head><body>{trace._repr_html_()}</body></html>\n"
    )


def _svg(trace: Any, body: Sequence[str], height: int, size: str) -> str:
    words = f"{len(trace.rows)} layers. " + " ".join(trace.findings or ["Nothing stands out."])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size} role="img" '
        f"{FONT}><title>{escape('Trace of ' + trace.title)}</title><desc>{escape(words)}</desc>{''.join(body)}</svg>"
    )


# -- the lines ---------------------------------------------------------------------------------------------------------


def _body(trace: Any) -> tuple[list[str], int]:
    items = list(_items(trace.rows))
    y = TOP + ROW
    for item in items:
        item.y = y
        y += HEAD if item.kind == "heading" else ROW
    shown = [item for item in items if item.kind != "heading"]
    spreads = Scale([item.row.spread for item in shown])
    deltas = Scale([item.row.delta_norm for item in shown])
    marks = {(mark.layer, mark.way) for mark in trace.marks}
    parts = [*_titles(y), *_groups(items), *_axes(spreads, deltas, y)]
    parts += _end_boxes(trace, y)
    above = TOP + BOX  # where the previous box ends
    middle = _middle((FORWARD[0], BACKWARD[1]))
    for item in items:
        if item.kind == "heading":
            parts.append(_text(middle, item.y + 17, _cut(item.row.label, 36), anchor="middle", look=SOFT))
            continue
        if item.linked:
            parts += [_arrow(_middle(FORWARD), above, item.y), _arrow(_middle(BACKWARD), item.y, above)]
        parts += _layer(item, spreads, deltas, marks)
        above = item.y + BOX
    last = shown[-1].y if shown else TOP
    parts += [_arrow(_middle(FORWARD), last + BOX, y), _arrow(_middle(BACKWARD), y, last + BOX)]
    return parts, y + BOX + 20


def _items(rows: Sequence[Any]) -> Iterator[Item]:
    """Containers open with a heading; one that joins branches also closes with a line."""
    waiting: list[Any] = []
    begins = False  # is the next layer the first of a branch that does not begin where the last one ended?
    for row in rows:
        while waiting and not row.name.startswith(waiting[-1].name + "."):
            yield _join(waiting.pop())
        if waiting and row.name.rpartition(".")[0] == waiting[-1].name:
            begins = _seen(rows, row, waiting[-1]) > 0
        if not row.container:
            yield Item(row, "layer", not begins, row.depth)
            begins = False
        elif row.joins:
            yield Item(row, "heading", True, row.depth)
            waiting.append(row)
    while waiting:
        yield _join(waiting.pop())


def _seen(rows: Sequence[Any], row: Any, parent: Any) -> int:
    """How many layers of the parent come before this one."""
    before = rows[: [id(r) for r in rows].index(id(row))]
    return sum(r.name.rpartition(".")[0] == parent.name and r.name.startswith(parent.name + ".") for r in before)


def _join(row: Any) -> Item:
    return Item(row, "join", True, row.depth)


def _titles(bottom: int) -> list[str]:
    return [
        _text(_middle(FORWARD), 26, "forward ↓", size=15, weight=600, anchor="middle"),
        _text(_middle(BACKWARD), 26, "↑ backward", size=15, weight=600, anchor="middle"),
        _text(LEFT_AXIS, 26, "activation spread", size=13, anchor="end"),
        _text(RIGHT_AXIS, 26, "delta norm", size=13),
        _text((FORWARD[1] + BACKWARD[0]) / 2, 26, "kept", size=13, anchor="middle"),
    ]


def _groups(items: Sequence[Item]) -> list[str]:
    """A background for the layers of each container that joins branches."""
    parts = []
    for place, item in enumerate(items):
        if item.kind != "heading":
            continue
        end = next(other for other in items[place:] if other.kind == "join" and other.row is item.row)
        left, top, bottom = FORWARD[0] - 6 + 3 * item.depth, item.y, end.y + BOX + 5
        parts.append(
            f'<rect x="{left}" y="{top}" width="{WIDTH - 2 * left}" height="{bottom - top}" rx="8" '
            f'fill="{GREY}" fill-opacity=".13"/>'
        )
    return parts


def _end_boxes(trace: Any, y: int) -> list[str]:
    """The input at the top and the loss at the bottom, where the pass turns round."""
    shape = "×".join(map(str, (trace.batch, *trace.input_shape)))
    middle = _middle((FORWARD[0], BACKWARD[1]))
    words = f"{trace.loss_name}  E = {figure(trace.loss, 5)}"
    return [
        _box(FORWARD, TOP, GREY, fill=False),
        _text(_middle(FORWARD), TOP + 18, "x, the batch", size=13, weight=600, anchor="middle"),
        _text(_middle(FORWARD), TOP + 34, f"{shape} · spread {figure(trace.input_spread)}", anchor="middle", look=SOFT),
        _box(BACKWARD, TOP, GREY, fill=False),
        _text(_middle(BACKWARD), TOP + 18, "dx", size=13, weight=600, anchor="middle"),
        _text(_middle(BACKWARD), TOP + 34, "training leaves it out", anchor="middle", look=SOFT),
        _box((FORWARD[0], BACKWARD[1]), y, GREY),
        _text(middle, y + 18, words, size=13, weight=600, anchor="middle"),
        _text(
            middle,
            y + 34,
            f"the delta ∂E/∂y starts here · {trace.optimizer}, lr {trace.lr:g}",
            anchor="middle",
            look=SOFT,
        ),
    ]


def _layer(item: Item, spreads: Scale, deltas: Scale, marks: set[tuple[str, str]]) -> list[str]:
    row, y = item.row, item.y
    marked = [(row.name, way) in marks for way in ("forward", "backward")]
    shape = "×".join(map(str, row.output_shape))
    name = f"{row.label}: joined" if item.kind == "join" else row.label + (" (shared)" if row.shared else "")
    parts = [_box(FORWARD, y, BLUE, marked[0]), _box(BACKWARD, y, ORANGE, marked[1])]
    parts += [
        _text(FORWARD[0] + 10, y + 18, _cut(name, 16 if row.dead else 23), size=13, weight=600),
        _text(FORWARD[0] + 10, y + 34, shape, look=SOFT),
        _text(FORWARD[1] - 10, y + 34, f"{row.forward_ms:.2f} ms", anchor="end", look=SOFT),
        _text(BACKWARD[0] + 10, y + 18, ", ".join(row.gradients), size=13, weight=600),
        _text(BACKWARD[0] + 10, y + 34, _update(row), look=SOFT),
        _text(BACKWARD[1] - 10, y + 34, f"{row.backward_ms:.2f} ms", anchor="end", look=SOFT),
    ]
    if row.dead:
        parts.append(_text(FORWARD[1] - 10, y + 18, f"{row.dead:.0%} dead", anchor="end", look=SOFT))
    if row.bytes_kept:
        middle = (FORWARD[1] + BACKWARD[0]) / 2
        parts.append(
            f'<path d="M{FORWARD[1] + 4} {y + 27}H{BACKWARD[0] - 10}" stroke="{GREY}" stroke-dasharray="3 3"/>'
            f'<path d="M{BACKWARD[0] - 4} {y + 27}l-7 -3.5v7z" fill="{GREY}"/>'
        )
        parts.append(_text(middle, y + 20, _bytes(row.bytes_kept), anchor="middle", look=SOFT))
    parts += [*_bar(row.spread, spreads, y, -1, BLUE), *_bar(row.delta_norm, deltas, y, 1, ORANGE)]
    return parts


def _update(row: Any) -> str:
    return "" if row.update_ratio is None else f"update {figure(row.update_ratio, 2)} × w"


# -- bars --------------------------------------------------------------------------------------------------------------


class Scale:
    """A logarithmic scale, from a power of ten below the smallest value to one above the largest."""

    def __init__(self, values: Sequence[float | None]) -> None:
        logs = [math.log10(v) for v in values if v is not None and 0 < v < math.inf]
        self.low = math.floor(min(logs, default=-1) - 0.3)
        self.high = max(math.ceil(max(logs, default=0)), self.low + 2)

    def length(self, value: float | None) -> float:
        if value is None or not 0 < value < math.inf:
            return 0.0
        return BAR * (math.log10(value) - self.low) / (self.high - self.low)

    @property
    def decades(self) -> list[int]:
        step = max(1, math.ceil((self.high - self.low) / 4))
        return list(range(self.low, self.high + 1, step))


def _axes(spreads: Scale, deltas: Scale, bottom: int) -> list[str]:
    parts = []
    for scale, start, sign in ((spreads, LEFT_AXIS, -1), (deltas, RIGHT_AXIS, 1)):
        for decade in scale.decades:
            x = start + sign * BAR * (decade - scale.low) / (scale.high - scale.low)
            parts.append(f'<path d="M{x:.1f} 58V{bottom - 8}" stroke="{GREY}" stroke-opacity=".3"/>')
            parts.append(_power(x, 52, decade))
    return parts


def _power(x: float, y: int, decade: int) -> str:
    exponent = str(decade).replace("-", "−")
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="11" text-anchor="middle" {SOFT}>10'
        f'<tspan font-size="8" dy="-4">{exponent}</tspan></text>'
    )


def _bar(value: float | None, scale: Scale, y: int, sign: int, colour: str) -> list[str]:
    if value is None:
        return []
    length = scale.length(value)
    start = LEFT_AXIS if sign < 0 else RIGHT_AXIS
    left = start - length if sign < 0 else start
    label = figure(value) if math.isfinite(value) else str(value)
    return [
        f'<rect x="{left:.1f}" y="{y + 12}" width="{max(length, 1.5):.1f}" height="18" fill="{colour}" rx="2"/>',
        _text(start + sign * (length + 6), y + 25, label, anchor="end" if sign < 0 else "start"),
    ]


# -- strokes -----------------------------------------------------------------------------------------------------------


def _middle(edges: tuple[int, int]) -> int:
    return (edges[0] + edges[1]) // 2


def _box(edges: tuple[int, int], y: int, colour: str, marked: bool = False, fill: bool = True) -> str:
    badge = ""
    if marked:
        x = edges[1] - 2
        badge = (
            f'<circle cx="{x}" cy="{y + 2}" r="9" fill="#d1343f"/><text x="{x}" y="{y + 7}" font-size="13" '
            'font-weight="700" text-anchor="middle" fill="#ffffff">!</text>'
        )
    stroke = f'stroke="{"#d1343f" if marked else colour}" stroke-width="{2.2 if marked else 1.2}"'
    ground = f'fill="{colour}" fill-opacity=".12"' if fill else 'fill="none"'
    width = edges[1] - edges[0]
    return f'<rect x="{edges[0]}" y="{y}" width="{width}" height="{BOX}" rx="6" {ground} {stroke}/>{badge}'


def _arrow(x: int, start: int, end: int) -> str:
    back = -5 if end > start else 5
    return (
        f'<path d="M{x} {start}V{end + back}" stroke="{GREY}" stroke-width="1.6" fill="none"/>'
        f'<path d="M{x} {end}l-4 {back}h8z" fill="{GREY}"/>'
    )


def _text(
    x: float, y: float, words: str, *, size: int = 12, weight: int = 400, anchor: str = "start", look: str = FULL
) -> str:
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    at = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}"{bold}{at} {look}>{escape(words)}</text>'


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else "…" + words[-(most - 1) :]


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def _wrapped(text: str) -> list[str]:
    first, *rest = textwrap.wrap(text, 112) or [""]
    return [f"• {first}", *(f"   {line}" for line in rest)]
