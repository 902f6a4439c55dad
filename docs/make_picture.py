"""Draw docs/backprop.svg: one convolution, forward and backward, with the numbers that dualnet computes.

Run ``python docs/make_picture.py`` from the top of the checkout. A test runs it as well and compares the result with
the committed file, so that the picture cannot show what the code does not do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import dualnet as dn

PICTURE = Path(__file__).with_name("backprop.svg")

X = [[1, 2, 0, 1], [3, 1, 2, 0], [0, 2, 1, 3], [1, 0, 2, 1]]
W = [[1, 2], [3, 4]]
DY = [[1, -1, 2], [0, 2, 1], [-1, 1, 3]]

CELL = 30
COLUMNS = (94, 242, 402)  # centres: what has the shape of the input, of the kernel, of the output
TEXT = 516  # the left edge of the words
WIDTH, HEIGHT = 860, 690

STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de; }
    .rule { stroke: #d8dee4; }
    text { fill: #1f2328; font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif; }
    .title { font-size: 17px; font-weight: 600; }
    .words { font-size: 14px; }
    .name { font-size: 14px; text-anchor: middle; }
    .sign { font-size: 22px; text-anchor: middle; }
    .number, .sum { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
    .number { font-size: 15px; text-anchor: middle; }
    .sum { font-size: 15px; }
    .chosen { font-weight: 700; }
    .cell { fill: #f6f8fa; stroke: #afb8c1; }
    .zero { fill: none; stroke: #afb8c1; stroke-dasharray: 3 3; }
    .kernel { fill: #d5efdb; stroke: #57a773; }
    .read { fill: #ffe3a3; stroke: #b7791f; }
    .result { fill: #cfe3ff; stroke: #2f6fbd; }
    .frame { fill: none; stroke-width: 2.5; }
    .frame.read { stroke: #b7791f; fill: none; }
    .frame.result { stroke: #2f6fbd; fill: none; }
    .way { fill: none; stroke: #57606a; stroke-width: 2; }
    .head { fill: #57606a; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #14181f; stroke: #3d444d; }
      .rule { stroke: #30363d; }
      text { fill: #e6edf3; }
      .cell { fill: #1f252d; stroke: #57606a; }
      .zero { stroke: #57606a; }
      .kernel { fill: #1d4229; stroke: #4c9a68; }
      .read { fill: #5b4510; stroke: #e0a83e; }
      .result { fill: #1c3f6e; stroke: #6aa9f5; }
      .frame.read { stroke: #e0a83e; }
      .frame.result { stroke: #6aa9f5; }
      .way { stroke: #9ba5b0; }
      .head { fill: #9ba5b0; }
    }"""


def numbers() -> dict[str, np.ndarray]:
    """Run the op and its pullback, and return every map in the picture as integers."""
    x, w, dy = (dn.asarray(np.array(a, "float64")) for a in (X, W, DY))
    y, pullback = dn.ops.conv2d(x[None, :, :, None], w[:, :, None, None])
    dx, dw, _ = pullback(dy[None, :, :, None])
    maps = {"x": x, "w": w, "y": y[0, :, :, 0], "dy": dy, "dx": dx[0, :, :, 0], "dw": dw[:, :, 0, 0]}
    return {name: dn.to_numpy(a).round().astype(int) for name, a in maps.items()}


def picture() -> str:
    """The whole picture as SVG."""
    n = numbers()
    turned, ringed = n["w"][::-1, ::-1], np.pad(n["dy"], 1)
    parts = [
        *band(34, "→", "Forward (E4)"),
        *grid(n["x"], COLUMNS[0], 128, chosen=(1, 1, 2, 2), name="x, the input"),
        *grid(n["w"], COLUMNS[1], 128, look="kernel", name="w, the kernel"),
        *grid(n["y"], COLUMNS[2], 128, chosen=(1, 1, 1, 1), look="result", name="y, the output"),
        *signs(128, "⊗", "="),
        *words(66, "The kernel stands on a window of x.", "Products, added up, are one output:"),
        *total(122, "y[1,1]", n["x"][1:3, 1:3], n["w"], n["y"][1, 1]),
        *band(254, "←", "Backward, to the input (E13)"),
        *grid(n["dx"], COLUMNS[0], 358, chosen=(1, 1, 1, 1), look="result", name="dx"),
        *grid(turned, COLUMNS[1], 358, look="kernel", name="w, turned by 180°"),
        *grid(ringed, COLUMNS[2], 358, chosen=(1, 1, 2, 2), ring=1, name="dy, the deltas"),
        *signs(358, "=", "⊗"),
        *words(286, "Four windows read x[1,1]. Their deltas", "come back by the weights that read it:"),
        *words(326, "the kernel, turned, on the deltas."),
        *total(362, "dx[1,1]", n["dy"][0:2, 0:2], turned, n["dx"][1, 1]),
        *band(496, "→←", "Backward, to the weights (E11)"),
        *grid(n["x"], COLUMNS[0], 590, chosen=(0, 1, 3, 3), name="x"),
        *grid(n["dw"], COLUMNS[1], 590, chosen=(0, 1, 1, 1), look="result", name="dw = x ⊗ dy"),
        *grid(n["dy"], COLUMNS[2], 590, chosen=(0, 0, 3, 3), name="dy"),
        *words(528, "w[0,1] served in all nine windows. Input", "times delta, added up, is its gradient:"),
        *total(584, "dw[0,1]", n["x"][0:3, 1:4], n["dy"], n["dw"][0, 1]),
    ]
    return "\n".join([*HEAD, *("  " + part for part in parts), "</svg>", ""])


HEAD = [
    f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    ' role="img" aria-labelledby="title desc">',
    '  <title id="title">One convolution, forward and backward, with its numbers</title>',
    '  <desc id="desc">Forward, from left to right: a 4 by 4 input map, correlated with a 2 by 2 kernel, gives a 3 by 3'
    " output; one window and its sum are marked. Backward, from right to left: the deltas of the output, correlated"
    " with the kernel turned by 180 degrees, give the gradient of the input; the input, correlated with the deltas,"
    " gives the gradient of the kernel. One cell of each is marked, with its sum written out.</desc>",
    f"  <style>{STYLE}\n  </style>",
    f'  <rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>',
]


def band(top: int, way: str, title: str) -> list[str]:
    """The head of one band: its title, the direction in which to read it, and a rule above all but the first."""
    left, right, middle = COLUMNS[0] - 60, COLUMNS[2] + 75, COLUMNS[1]
    y = top - 6
    parts = [] if top < 40 else [f'<path class="rule" d="M24 {top - 32}H{WIDTH - 24}"/>']
    if way == "→":
        parts += arrow(left, right, y)
    elif way == "←":
        parts += arrow(right, left, y)
    else:
        parts += [*arrow(left, middle - 12, y), *arrow(right, middle + 12, y)]
    return [*parts, f'<text class="title" x="{TEXT}" y="{top}">{title}</text>']


def arrow(start: int, end: int, y: int) -> list[str]:
    back = -9 if end > start else 9
    return [
        f'<path class="way" d="M{start} {y}H{end + back}"/>',
        f'<path class="head" d="M{end} {y}l{back} -5v10z"/>',
    ]


def grid(
    values: np.ndarray,
    x: int,
    y: int,
    *,
    name: str,
    chosen: tuple[int, int, int, int] | None = None,
    look: str = "read",
    ring: int = 0,
) -> list[str]:
    """A map of numbers around a centre. ``chosen`` is the marked part: first row, first column, rows, columns."""
    rows, columns = values.shape
    left, top = x - columns * CELL // 2, y - rows * CELL // 2
    marked = np.zeros(values.shape, bool)
    if chosen is None:
        marked[:] = True
    else:
        first, start, height, width = chosen
        marked[first : first + height, start : start + width] = True
    cells, texts = [], []
    for (i, j), value in np.ndenumerate(values):
        outside = min(i, j, rows - 1 - i, columns - 1 - j) < ring
        kind = "zero" if outside else look if marked[i, j] else "cell"
        a, b = left + j * CELL, top + i * CELL
        cells.append(f'<rect class="{kind}" x="{a}" y="{b}" width="{CELL}" height="{CELL}"/>')
        weight = " chosen" if marked[i, j] else ""
        texts.append(f'<text class="number{weight}" x="{a + CELL // 2}" y="{b + 20}">{told(value)}</text>')
    if chosen is not None:
        a, b = left + start * CELL, top + first * CELL
        size = f'width="{width * CELL}" height="{height * CELL}"'
        cells.append(f'<rect class="frame {look}" x="{a}" y="{b}" {size}/>')
    below = top + rows * CELL + 19
    return [*cells, *texts, f'<text class="name" x="{x}" y="{below}">{name}</text>']


def signs(y: int, first: str, second: str) -> list[str]:
    places = (COLUMNS[0] + 60 + COLUMNS[1] - 30) // 2, (COLUMNS[1] + 30 + COLUMNS[2] - 60) // 2
    return [f'<text class="sign" x="{x}" y="{y + 8}">{sign}</text>' for x, sign in zip(places, (first, second))]


def words(y: int, *lines: str) -> list[str]:
    return [f'<text class="words" x="{TEXT}" y="{y + 20 * i}">{line}</text>' for i, line in enumerate(lines)]


def total(y: int, name: str, values: np.ndarray, weights: np.ndarray, result: int) -> list[str]:
    """A sum of products, written out in the shape of its window. What it adds up to must be what dualnet computed."""
    if (values * weights).sum() != result:
        raise ValueError(f"{name} is {(values * weights).sum()} by hand and {result} by dualnet")
    lines = []
    for i, (row, by) in enumerate(zip(values, weights)):
        products = " + ".join(f"{factor(a)}·{factor(b)}" for a, b in zip(row, by))
        lines.append(f"{name} = {products}" if i == 0 else " " * (len(name) + 1) + f"+ {products}")
    lines[-1] += f" = {told(result)}"
    return [
        f'<text class="sum" xml:space="preserve" x="{TEXT}" y="{y + 22 * i}">{line}</text>'
        for i, line in enumerate(lines)
    ]


def told(value: int) -> str:
    return str(value).replace("-", "−")


def factor(value: int) -> str:
    return told(value) if value >= 0 else f"({told(value)})"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE}")
