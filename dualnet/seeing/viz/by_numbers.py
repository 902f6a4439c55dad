"""Maps with their numbers: a convolution forward and backward in one picture, and any maps side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy

from ... import ops
from ...shim import asarray, to_numpy
from .canvas import host
from .drawing import Box, Drawing, Line, Shape, Words, check_theme

__all__ = ["grids", "numbers"]

Place = tuple[int, int]
CELLS = {1: 30, 2: 30, 3: 36, 4: 46}
"""The size of a cell, by the number of characters that it holds."""
LARGEST = 16
"""The most rows or columns of a map whose numbers can be read."""
LETTER = 9.1
"""The width of a monospaced letter; a large one is a fifth wider."""
COUNT = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def numbers(
    x: Any,
    w: Any,
    dy: Any = None,
    *,
    at: Place | None = None,
    tap: Place | None = None,
    theme: str = "auto",
    upright: bool = False,
) -> Drawing:
    """Draw one convolution with its numbers: forward and, with ``dy``, backward to the input and to the weights.

    x (H, W), w (k1, k2) and the deltas dy (H − k1 + 1, W − k2 + 1) are maps of at most 16 rows and columns, of any
    dtype, on any backend. dualnet computes the rest, in float64. The sums of y[at], dx[at] and dw[tap] are marked and
    written out; by default y[1,1], dx[1,1] and dw[0,1]. Above 0 is orange and below 0 blue, as in :func:`grids`.
    ``theme`` is "light", "dark" or "auto", which follows the reader's system settings. ``upright`` puts the words below
    the maps: with small maps the picture is then narrow enough for a phone.

    Returns a :class:`~dualnet.seeing.viz.drawing.Drawing`: a notebook shows it, ``.save("a.svg")`` needs no other
    library, ``.save("a.png")`` needs matplotlib. Raises ``ValueError`` for other shapes, or if ``at`` or ``tap`` lies
    outside.

    >>> import dualnet as dn
    >>> picture = dn.viz.numbers([[1, 2, 0], [3, 1, 2], [0, 2, 1]], [[1, 2], [3, 4]], [[1, -1], [0, 2]])
    >>> "dx[1,1] = 1·4 + (−1)·3" in picture.svg()
    True
    """
    maps = _computed(x, w, dy)
    (P, Q), k2 = maps["y"].shape, maps["w"].shape[1]
    at, tap = at or (min(1, P - 1), min(1, Q - 1)), tap or (0, min(1, k2 - 1))
    _check_inside("at", at, (P, Q), "y")
    _check_inside("tap", tap, maps["w"].shape, "w")
    return (_Upright if upright else _Page)(maps, at, tap).drawing(check_theme(theme))


def grids(*maps: tuple[str, Any], frames: Any = (), theme: str = "auto") -> Drawing:
    """Draw maps side by side with their numbers, above 0 in orange and below 0 in blue, each map on its own scale.

    ``maps`` are pairs of a title and an array (rows, columns) of at most 16 each. ``frames`` mark windows: each is the
    number of a map, counted from 0, the first row and column, and the size, an integer or (rows, columns). ``theme``
    and the result are as in :func:`numbers`.

    >>> import dualnet as dn
    >>> picture = dn.viz.grids(("x", [[1, 2], [3, -4]]), ("w", [[5]]), frames=[(0, 0, 0, 1)])
    >>> picture.width, picture.height, picture.words
    (171, 112, 'x, 2 by 2: 1, 2; 3, −4. w, 1 by 1: 5.')
    """
    arrays = [(title, _map(array, f"{title!r}", "grids")) for title, array in maps]
    if not arrays:
        raise ValueError('viz.grids: give at least one map, such as ("x", x)')
    shapes: list[Shape] = []
    corners: list[tuple[float, float]] = []
    tallest, left, cell = max(len(array) for _, array in arrays), 24.0, _cell(array for _, array in arrays)
    for title, array in arrays:
        rows, columns = array.shape
        room = max(columns * cell, int(len(title) * 7.6))
        corner = left + (room - columns * cell) / 2, 38 + (tallest - rows) * cell / 2
        corners.append(corner)
        scale = _largest(array)
        for (i, j), value in numpy.ndenumerate(array):
            shapes += _signed(corner[0] + j * cell, corner[1] + i * cell, value, scale, cell)
        shapes.append(Words(left + room / 2, corner[1] - 10, title, "name"))
        left += room + 33
    for frame in frames:
        shapes.append(_frame(frame, arrays, corners, cell))
    width, height = round(left - 33 + 24), 38 + tallest * cell + 14
    told = " ".join(
        f"{title}, {len(a)} by {len(a[0])}: {'; '.join(', '.join(map(_told, r)) for r in a)}." for title, a in arrays
    )
    card = Box(0.5, 0.5, width - 1, height - 1, "card", round=10)
    return Drawing(", ".join(title for title, _ in arrays), told, width, height, [card, *shapes], check_theme(theme))


def _largest(array: numpy.ndarray) -> float:
    return float(numpy.max(numpy.abs(array[numpy.isfinite(array)]), initial=0.0))


def _signed(
    x: float, y: float, value: float, scale: float, cell: int, look: str = "cell", bold: bool = False
) -> list[Shape]:
    """A cell whose colour shows the sign and the size of the number."""
    share = min(abs(float(value)) / scale, 1.0) if scale and numpy.isfinite(value) else 0.0
    cells: list[Shape] = [Box(x, y, cell, cell, look)]
    if share:
        cells.append(Box(x + 0.5, y + 0.5, cell - 1, cell - 1, "positive" if value > 0 else "negative", share))
    return [*cells, Words(x + cell / 2, y + cell * 2 / 3, _told(value), "number", bold=bold)]


def _frame(frame: Any, arrays: list[tuple[str, numpy.ndarray]], corners: list[tuple[float, float]], cell: int) -> Box:
    try:
        which, row, column, size = frame
        height, width = (size, size) if isinstance(size, int) else size
        rows, columns = arrays[which][1].shape
    except (TypeError, ValueError, IndexError):
        raise ValueError(f"viz.grids: a frame must be (number of the map, row, column, size); got {frame!r}") from None
    if min(which, row, column) < 0 or row + height > rows or column + width > columns:
        raise ValueError(
            f"viz.grids: the frame {frame!r} does not fit on map {which}, which has {rows} × {columns} cells"
        )
    x, y = corners[which]
    return Box(x + column * cell, y + row * cell, width * cell, height * cell, "frame-mark")


# -- the convolution ---------------------------------------------------------------------------------------------------


def _map(array: Any, name: str, op: str) -> numpy.ndarray:
    result = numpy.asarray(host(array))
    if result.ndim != 2 or 0 in result.shape or max(result.shape) > LARGEST:
        raise ValueError(
            f"viz.{op}: {name} has shape {result.shape}; expected a map (rows, columns) of at most {LARGEST} each"
        )
    return result


def _computed(x: Any, w: Any, dy: Any) -> dict[str, numpy.ndarray]:
    """Run the op and its pullback on the maps: x, w, y and, with deltas, dy, dx and dw, all float64."""
    maps = {"x": _map(x, "x", "numbers").astype("float64"), "w": _map(w, "w", "numbers").astype("float64")}
    if any(k > n for k, n in zip(maps["w"].shape, maps["x"].shape)):
        raise ValueError(f"viz.numbers: the kernel w {maps['w'].shape} does not fit on x {maps['x'].shape}")
    one, bank = (asarray(maps[name]) for name in ("x", "w"))
    y, way = ops.conv2d(one[None, :, :, None], bank[:, :, None, None])
    maps["y"] = to_numpy(y)[0, :, :, 0]
    if dy is None:
        return maps
    maps["dy"] = _map(dy, "dy", "numbers").astype("float64")
    if maps["dy"].shape != maps["y"].shape:
        raise ValueError(
            f"viz.numbers: dy has shape {maps['dy'].shape}; expected that of the output, {maps['y'].shape}"
        )
    dx, dw, _ = way(asarray(maps["dy"])[None, :, :, None])
    return maps | {"dx": to_numpy(dx)[0, :, :, 0], "dw": to_numpy(dw)[:, :, 0, 0]}


def _check_inside(name: str, place: Place, shape: tuple[int, ...], of: str) -> None:
    if len(place) != 2 or not all(0 <= i < n for i, n in zip(place, shape)):
        raise ValueError(f"viz.numbers: {name}={place!r} is outside {of}, which has shape {shape}")


def _cell(arrays: Iterable[numpy.ndarray]) -> int:
    """How large the cells must be for their numbers."""
    return CELLS[min(max(len(_told(value)) for array in arrays for value in array.flat), 4)]


class _Page:
    """The picture in bands, one below the other. Each has three maps in columns, and words with a sum beside them."""

    margin, gaps = 34, (58, 55)
    large, letter, leading = False, LETTER, (20, 22)
    """Of the words and the sums: their size, the width of a letter of a sum, and from line to line."""
    rooms = 92, 128, 106
    """The widest name below a map of each column."""

    def __init__(self, maps: dict[str, numpy.ndarray], at: Place, tap: Place) -> None:
        self.maps, self.at, self.tap, self.cell = maps, at, tap, _cell(maps.values())
        (_, W), (_, k2), (_, Q) = (maps[name].shape for name in "xwy")
        last = Q + 2 * (k2 - 1) if "dy" in maps else Q
        self.halves = W * self.cell / 2, k2 * self.cell / 2, last * self.cell / 2
        self.columns = self.centres(*self.halves)
        self.text = self.beside()
        self.longest, self.top = 0, 34
        self.shapes: list[Shape] = []

    def centres(self, first: float, second: float, third: float) -> tuple[float, float, float]:
        """Where the middles of the three columns are, by half of the width of each: maps and names stay apart."""
        left, middle, right = (max(half, room / 2) for half, room in zip((first, second, third), self.rooms))
        centre = self.margin + left + max(first + self.gaps[0] + second, left + 4 + middle)
        return self.margin + left, centre, centre + max(second + self.gaps[1] + third, middle + 4 + right)

    def beside(self) -> int:
        """Where the words begin."""
        return round(self.columns[2] + self.halves[2] + 39)

    def width(self) -> int:
        return round(self.text + max(344, self.longest * LETTER + 24))

    def drawing(self, theme: str) -> Drawing:
        self.forward()
        if "dy" in self.maps:
            self.to_the_input()
            self.to_the_weights()
        width, height = self.width(), self.top - 26
        card = Box(0.5, 0.5, width - 1, height - 1, "card", round=10)
        rules: list[Shape] = [Line(((24, y), (width - 24, y)), "rule") for y in self.rules]
        title = "One convolution, forward and backward, with its numbers" if "dy" in self.maps else "One convolution"
        return Drawing(title, self.words(), width, height, [card, *rules, *self.shapes], theme)

    rules: tuple[int, ...] = ()

    def words(self) -> str:
        (H, W), (k1, k2), (P, Q) = (self.maps[name].shape for name in "xwy")
        told = (
            f"Forward, from left to right: a {H} by {W} input map, correlated with a {k1} by {k2} kernel, gives a "
            f"{P} by {Q} output; one window and its sum are marked."
        )
        if "dy" in self.maps:
            told += (
                " Backward, from right to left: the deltas of the output, correlated with the kernel turned by 180 "
                "degrees, give the gradient of the input; the input, correlated with the deltas, gives the gradient "
                "of the kernel. One cell of each is marked, with its sum written out."
            )
        return told

    def forward(self) -> None:
        (i, j), (k1, k2), n = self.at, self.maps["w"].shape, self.maps
        y = self.band("→", "Forward (E4)", [n["x"], n["w"], n["y"]], k1)
        self.grid(n["x"], 0, y, "x, the input", chosen=(i, j, k1, k2))
        self.grid(n["w"], 1, y, "w, the kernel")
        self.grid(n["y"], 2, y, "y, the output", chosen=(i, j, 1, 1))
        self.signs(y, "⊗", "=")
        self.say("Lay the kernel on a window of x.", "Multiply, and add up:")
        self.total(f"y[{i},{j}]", n["x"][i : i + k1, j : j + k2], n["w"], n["y"][i, j])
        self.next()

    def to_the_input(self) -> None:
        (i, j), (k1, k2), n = self.at, self.maps["w"].shape, self.maps
        turned, ringed = n["w"][::-1, ::-1], numpy.pad(n["dy"], ((k1 - 1, k1 - 1), (k2 - 1, k2 - 1)))
        y = self.band("←", "Backward, to the input (E13)", [n["dx"], turned, ringed], k1)
        self.grid(n["dx"], 0, y, "dx", chosen=(i, j, 1, 1))
        self.grid(turned, 1, y, "w, turned by 180°")
        self.grid(ringed, 2, y, "dy, the deltas", chosen=(i, j, k1, k2), ring=(k1 - 1, k2 - 1))
        self.signs(y, "=", "⊗")
        P, Q = n["y"].shape
        count = (min(i, P - 1) - max(i - k1 + 1, 0) + 1) * (min(j, Q - 1) - max(j - k2 + 1, 0) + 1)
        if count > 1:
            told = f"{_counted(count)} windows read x[{i},{j}]. Their deltas", "come back, each times its weight."
        else:
            told = f"One window reads x[{i},{j}]. Its delta", "comes back times its weight."
        self.say(*told, "So lay the turned kernel on dy:")
        self.total(f"dx[{i},{j}]", ringed[i : i + k1, j : j + k2], turned, n["dx"][i, j])
        self.next()

    def to_the_weights(self) -> None:
        (m, o), (P, Q), n = self.tap, self.maps["y"].shape, self.maps
        y = self.band("→←", "Backward, to the weights (E11)", [n["x"], n["dw"], n["dy"]], P)
        self.grid(n["x"], 0, y, "x", chosen=(m, o, P, Q))
        self.grid(n["dw"], 1, y, "dw = x ⊗ dy", chosen=(m, o, 1, 1))
        self.grid(n["dy"], 2, y, "dy", chosen=(0, 0, P, Q))
        windows = f"all {_counted(P * Q).lower()} windows" if P * Q > 1 else "the one window"
        self.say(f"w[{m},{o}] is used in {windows}.", "Add up input times delta:")
        self.total(f"dw[{m},{o}]", n["x"][m : m + P, o : o + Q], n["dy"], n["dw"][m, o])
        self.next()

    # -- parts of a band

    def band(self, way: str, title: str, maps: list[numpy.ndarray], lines: int) -> float:
        """Begin a band: its title, the direction in which to read it. Returns the height at which its maps stand."""
        self.arrows(way, self.top - 6)
        self.head(title)
        self.tall = max(*(len(each) * self.cell for each in maps), 22 * lines + 45)
        self.line = self.top + 32
        return self.top + 34 + self.tall / 2

    def next(self) -> None:
        self.top += self.tall + 100

    def head(self, title: str) -> None:
        if self.top > 34:
            self.rules = (*self.rules, self.top - 32)
        self.shapes.append(Words(self.text, self.top, title, "title", bold=True, large=self.large))

    def arrows(self, way: str, y: float) -> None:
        left, right, middle = self.columns[0] - self.halves[0], self.columns[2] + self.halves[2], self.columns[1]
        if way == "→←":
            self.arrow(left, middle - 12, y)
            self.arrow(right, middle + 12, y)
        else:
            self.arrow(*((left, right) if way == "→" else (right, left)), y)

    def arrow(self, start: float, end: float, y: float) -> None:
        back = -9 if end > start else 9
        self.shapes.append(Line(((start, y), (end + back, y)), "way"))
        self.shapes.append(Line(((end, y), (end + back, y - 5), (end + back, y + 5)), "head", closed=True))

    def grid(
        self,
        values: numpy.ndarray,
        column: int,
        y: float,
        name: str,
        chosen: tuple[int, int, int, int] | None = None,
        ring: tuple[int, int] = (0, 0),
    ) -> None:
        """A map around a centre. ``chosen`` is the marked part: first row, first column, rows, columns."""
        rows, columns = values.shape
        left, top = self.columns[column] - columns * self.cell / 2, y - rows * self.cell / 2
        first, start, height, width = chosen or (0, 0, rows, columns)
        scale = _largest(values)
        for (i, j), value in numpy.ndenumerate(values):
            marked = first <= i < first + height and start <= j < start + width
            inside = ring[0] <= i < rows - ring[0] and ring[1] <= j < columns - ring[1]
            look = "cell" if inside else "zero"
            self.shapes += _signed(left + j * self.cell, top + i * self.cell, value, scale, self.cell, look, marked)
        if chosen is not None:
            a, b = left + start * self.cell, top + first * self.cell
            self.shapes.append(Box(a, b, width * self.cell, height * self.cell, "frame-mark"))
        self.shapes.append(Words(self.columns[column], top + rows * self.cell + 19, name, "name"))

    def signs(self, y: float, *signs: str) -> None:
        edges = [(c - half, c + half) for c, half in zip(self.columns, self.halves)]
        for (_, left), (right, _), sign in zip(edges, edges[1:], signs):
            self.shapes.append(Words((left + right) / 2, y + 8, sign, "sign"))

    def say(self, *lines: str) -> None:
        for line in lines:
            self.shapes.append(Words(self.text, self.line, line, "words", large=self.large))
            self.line += self.leading[0]
        self.line += 16

    def total(self, name: str, values: numpy.ndarray, weights: numpy.ndarray, result: float) -> None:
        """A sum of products, written out in the shape of its window."""
        for i, (row, by) in enumerate(zip(values, weights)):
            products = " + ".join(f"{_factor(a)}·{_factor(b)}" for a, b in zip(row, by))
            text = f"{name} = {products}" if i == 0 else " " * (len(name) + 1) + f"+ {products}"
            text += f" = {_told(result, 6)}" if i == len(values) - 1 else ""
            self.longest = max(self.longest, len(text))
            self.shapes.append(Words(self.text, self.line, text, "sum", large=self.large))
            self.line += self.leading[1]


class _Upright(_Page):
    """The same bands for a narrow window: the title above the maps, the words and the sum below them, and larger."""

    margin, gaps = 24, (30, 30)
    large, letter, leading = True, 1.2 * LETTER, (24, 26)

    def beside(self) -> int:
        return self.margin

    def width(self) -> int:
        maps = self.columns[2] + max(self.halves[2], self.rooms[2] / 2)
        return round(max(maps, self.margin + 390, self.margin + self.longest * self.letter) + self.margin)

    def band(self, way: str, title: str, maps: list[numpy.ndarray], lines: int) -> float:
        self.arrows(way, self.top + 22)
        self.head(title)
        tall = max(len(each) * self.cell for each in maps)
        self.line = round(self.top + 42 + tall + 19 + 34)
        return self.top + 42 + tall / 2

    def next(self) -> None:
        self.top = self.line + 38


def _told(value: float, most: int = 4) -> str:
    """A number in at most ``most`` characters if possible, without needless zeros.

    >>> [_told(v) for v in (3.0, -0.25, 1234.5, 0.0004)]
    ['3', '−.25', '1234', '.0004']
    """
    value = float(value) + 0.0
    if not numpy.isfinite(value):
        return str(value)
    for digits in range(most, 0, -1):
        text = f"{value:.{digits}g}"
        if "e" in text:
            mantissa, exponent = text.split("e")
            text = f"{mantissa}e{int(exponent)}"
        text = text.replace("-", "−")
        if most <= 4 and text.lstrip("−").startswith("0."):
            text = text.replace("0.", ".", 1)
        if len(text) <= most or most > 4:
            break
    return text


def _factor(value: float) -> str:
    return _told(value) if value >= 0 else f"({_told(value)})"


def _counted(count: int) -> str:
    return (COUNT[count] if count < len(COUNT) else str(count)).capitalize()
