"""A drawing of boxes, words and arrows, as SVG without any library and as PNG with matplotlib: light, dark, or both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...markup import NEGATIVE, POSITIVE, escape
from ...writing import replace_file
from .canvas import pyplot

THEMES = ("auto", "light", "dark")
MONO = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'
SANS = 'system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif'

BOXES: dict[str, dict[str, tuple[str, str]]] = {  # (fill, stroke) in each theme
    "card": {"light": ("#ffffff", "#d0d7de"), "dark": ("#14181f", "#3d444d")},
    "cell": {"light": ("#f6f8fa", "#afb8c1"), "dark": ("#1f252d", "#57606a")},
    "zero": {"light": ("none", "#afb8c1"), "dark": ("none", "#57606a")},
    "frame-mark": {"light": ("none", "#8a2be2"), "dark": ("none", "#c99bff")},
    "positive": {theme: (colour, "none") for theme, colour in POSITIVE.items()},
    "negative": {theme: (colour, "none") for theme, colour in NEGATIVE.items()},
    "rule": {"light": ("none", "#d8dee4"), "dark": ("none", "#30363d")},
    "way": {"light": ("none", "#57606a"), "dark": ("none", "#9ba5b0")},
    "head": {"light": ("#57606a", "none"), "dark": ("#9ba5b0", "none")},
}
INK = {"light": "#1f2328", "dark": "#e6edf3"}
WORDS: dict[str, tuple[int, bool, str]] = {  # size, monospaced, anchor
    "title": (17, False, "start"),
    "words": (14, False, "start"),
    "name": (14, False, "middle"),
    "sign": (22, False, "middle"),
    "number": (15, True, "middle"),
    "sum": (15, True, "start"),
}
LARGE = {"title": 20, "words": 18, "sum": 18}
"""The sizes of words that are read on a phone, where the picture is drawn smaller than it is."""


@dataclass(frozen=True)
class Box:
    x: float
    y: float
    width: float
    height: float
    look: str
    opacity: float = 1.0
    round: int = 0


@dataclass(frozen=True)
class Words:
    x: float
    y: float  # of the baseline
    text: str
    look: str
    bold: bool = False
    large: bool = False


@dataclass(frozen=True)
class Line:
    """Straight from point to point; a ``closed`` one is filled."""

    points: tuple[tuple[float, float], ...]
    look: str
    closed: bool = False


Shape = Box | Words | Line


@dataclass(frozen=True)
class Drawing:
    """A picture. A notebook shows it; ``save("a.svg")`` and ``save("a.png")`` write it; ``svg()`` returns it as text.

    ``theme`` is "light", "dark", or "auto": light or dark like the reader's system, which only SVG can do.
    """

    title: str
    words: str  # for readers who cannot see it
    width: int
    height: int
    shapes: list[Shape] = field(repr=False)
    theme: str = "auto"

    def svg(self, theme: str | None = None) -> str:
        """The picture as SVG, in its own theme or in the one given here.

        >>> import dualnet as dn
        >>> picture = dn.viz.grids(("w", [[1, 2], [3, 4]]))
        >>> picture.svg("dark")[:54]
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1'
        """
        theme = self._theme(theme)
        rules = [*_rules("light" if theme == "auto" else theme)]
        if theme == "auto":
            inner = "\n".join("  " + rule for rule in _rules("dark", words=False))
            rules.append(f"    @media (prefers-color-scheme: dark) {{\n{inner}\n    }}")
        looks = dict.fromkeys(shape.look for shape in self.shapes if isinstance(shape, Words) and shape.large)
        rules += [f"    .numbers .{look}.large {{ font-size: {LARGE[look]}px; }}" for look in looks]
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}" height="{self.height}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} class="numbers" role="img">',
            f"  <title>{escape(self.title)}</title>",
            f"  <desc>{escape(self.words)}</desc>",
            "  <style>\n" + "\n".join(rules) + "\n  </style>",
            *("  " + _element(shape) for shape in self.shapes),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path, theme: str | None = None, *, scale: float = 2.0) -> Path:
        """Write the picture and return its path; the ending of the name, .svg or .png, decides the format.

        A PNG is drawn by matplotlib (``pip install "dualnet[plot]"``), ``scale`` pixels for each unit of the SVG; it
        cannot follow the reader's system, so "auto" is light there. Raises ``ValueError`` for any other ending.
        """
        path, theme = Path(path), self._theme(theme)
        if path.suffix == ".svg":
            replace_file(path, self.svg(theme).encode())
        elif path.suffix == ".png":
            replace_file(path, self._png("light" if theme == "auto" else theme, scale))
        else:
            raise ValueError(f"viz: expected a name that ends with .svg or .png, got {path.name!r}")
        return path

    def _repr_svg_(self) -> str:
        return self.svg()

    def _theme(self, theme: str | None) -> str:
        return check_theme(self.theme if theme is None else theme)

    def _png(self, theme: str, scale: float) -> bytes:
        plt = pyplot("Drawing.save")
        from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle

        figure = plt.figure(figsize=(self.width / 72, self.height / 72), dpi=72 * scale)
        try:
            ax = figure.add_axes((0, 0, 1, 1))
            ax.set(xlim=(0, self.width), ylim=(self.height, 0))
            ax.set_axis_off()
            for order, shape in enumerate(self.shapes):
                if isinstance(shape, Words):
                    _write(ax, shape, theme, order)
                    continue
                fill, stroke = BOXES[shape.look][theme]
                style: dict[str, Any] = {"fc": fill, "ec": stroke, "lw": _width(shape.look), "zorder": order}
                style["ls"] = (0, (3, 3)) if shape.look == "zero" else "-"
                if isinstance(shape, Line):
                    ax.add_patch(Polygon(shape.points, closed=shape.closed, **style))
                elif shape.round:
                    corner, r = (shape.x + shape.round, shape.y + shape.round), shape.round
                    box = f"round,pad={r},rounding_size={r}"
                    ax.add_patch(FancyBboxPatch(corner, shape.width - 2 * r, shape.height - 2 * r, box, **style))
                else:
                    ax.add_patch(Rectangle((shape.x, shape.y), shape.width, shape.height, alpha=shape.opacity, **style))
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=72 * scale, facecolor=BOXES["card"][theme][0])
            return buffer.getvalue()
        finally:
            plt.close(figure)


def check_theme(theme: str) -> str:
    if theme not in THEMES:
        raise ValueError(f"viz: theme must be {', '.join(map(repr, THEMES[:-1]))} or {THEMES[-1]!r}; got {theme!r}")
    return theme


def _rules(theme: str, words: bool = True) -> Sequence[str]:
    """The style, one rule a line; every rule begins with the picture's class, so that a page keeps its own."""
    rules = [f"    .numbers text {{ fill: {INK[theme]}; }}"]
    if words:
        for look, (size, mono, anchor) in WORDS.items():
            rules.append(f"    .numbers .{look} {{ font: {size}px {MONO if mono else SANS}; text-anchor: {anchor}; }}")
        rules.append("    .numbers .bold { font-weight: 700; }")
    for look, themes in BOXES.items():
        fill, stroke = themes[theme]
        more = f" stroke-width: {_width(look)};" if words and stroke != "none" else ""
        more += " stroke-dasharray: 3 3;" if words and look == "zero" else ""
        rules.append(f"    .numbers .{look} {{ fill: {fill}; stroke: {stroke};{more} }}")
    return rules


def _width(look: str) -> float:
    return 2.5 if look.startswith("frame") else 2 if look == "way" else 1


def _element(shape: Shape) -> str:
    if isinstance(shape, Words):
        look = shape.look + (" bold" if shape.bold else "") + (" large" if shape.large else "")
        space = ' xml:space="preserve"' if shape.text.startswith(" ") else ""
        return f'<text class="{look}"{space} x="{shape.x:g}" y="{shape.y:g}">{escape(shape.text)}</text>'
    if isinstance(shape, Line):
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in shape.points) + ("z" if shape.closed else "")
        return f'<path class="{shape.look}" d="{path}"/>'
    opacity = f' fill-opacity="{shape.opacity:.2f}"' if shape.opacity < 1 else ""
    corner = f' rx="{shape.round}"' if shape.round else ""
    size = f'width="{shape.width:g}" height="{shape.height:g}"'
    return f'<rect class="{shape.look}" x="{shape.x:g}" y="{shape.y:g}" {size}{corner}{opacity}/>'


def _write(ax: Any, words: Words, theme: str, order: int) -> None:
    size, mono, anchor = WORDS[words.look]
    size = LARGE[words.look] if words.large else size
    ax.text(
        words.x,
        words.y,
        words.text,
        fontsize=size * (0.93 if mono else 0.9),  # matplotlib's fonts are wider than a browser's
        family="monospace" if mono else "sans-serif",
        weight="bold" if words.bold else "normal",
        ha="center" if anchor == "middle" else "left",
        va="baseline",
        color=INK[theme],
        zorder=order,
    )
