"""Integers and shapes, but no arrays: where the windows are on a map, and what shape an input has.

With extent ``k`` (taps), stride ``s``, dilation ``r`` and padding ``p``, the window at output position ``i`` reads
input positions ``i·s + m·r − p_before`` for its taps ``m = 0 … k−1``, and there are

    E6   H' = ⌊(H + p_before + p_after − r·(k−1) − 1) / s⌋ + 1

of them. With ``ceil_mode`` the division rounds up, as long as the last window still starts on the map or its front
padding. Everything that cannot work raises an error here, before an array is allocated.
"""

from __future__ import annotations

import bisect
import functools
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .arguments import LIMIT, extents

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]
Extent = int | Pair
Padding = int | Pair | Pads | str

PADDINGS = ("valid", "same", "full")
"""The paddings that have a name."""
BLOCK_BYTES = 4 * 2**20
"""Columns are built in blocks of windows that fit in this many bytes."""


def not_a_padding(name: str) -> str:
    """What to say about a padding of an unknown name.

    >>> not_a_padding("SAME")
    "padding must be 'valid', 'same', 'full' or integers, got 'SAME'. Write 'same'"
    """
    small = name.strip().lower()
    hint = f". Write {small!r}" if small in PADDINGS else ""
    return f"padding must be {', '.join(map(repr, PADDINGS))} or integers, got {name!r}{hint}"


def check_padding(padding: Any, *, op: str) -> str | Pads:
    """Any form of padding, checked and in its shortest form: a name, or ``((top, bottom), (left, right))``."""
    if isinstance(padding, str):
        if padding not in PADDINGS:
            raise ValueError(f"{op}: {not_a_padding(padding)}")
        return padding
    if isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding):
        if len(padding) != 2 or not all(isinstance(side, (tuple, list)) and len(side) == 2 for side in padding):
            raise ValueError(f"{op}: padding by sides must be ((top, bottom), (left, right)), got {padding!r}")
        return (extents(padding[0], "padding", op=op, least=0), extents(padding[1], "padding", op=op, least=0))
    height, width = extents(padding, "padding", op=op, least=0)
    return ((height, height), (width, width))


@dataclass(frozen=True)
class Windows:
    """All positions of a window on a map of ``size``; there are ``grid`` of them."""

    size: Pair  # H, W of the map
    window: Pair  # k1, k2 taps
    stride: Pair
    pads: Pads  # (top, bottom), (left, right)
    dilation: Pair
    grid: Pair  # H', W' output positions
    overhang: Pair = (0, 0)  # rows and columns that ceil_mode reaches beyond the padding

    @property
    def taps(self) -> int:
        return self.window[0] * self.window[1]

    @property
    def reach(self) -> Pads:
        """The zeros around the map that the windows may read: the padding and the overhang of ceil_mode."""
        (top, bottom), (left, right) = self.pads
        return (top, bottom + self.overhang[0]), (left, right + self.overhang[1])

    @functools.cached_property
    def units(self) -> int:
        """Units of a channel in the padded map and in the output together."""
        (top, bottom), (left, right) = self.reach
        padded = (top + self.size[0] + bottom) * (left + self.size[1] + right)
        return (padded if self.reach != ((0, 0), (0, 0)) else 0) + self.grid[0] * self.grid[1]

    @functools.cached_property
    def units_of_a_row(self) -> int:
        """Units of a channel in the smallest block of columns, one row of windows, and in the padded map below it."""
        left, right = self.reach[1]
        columns = self.grid[1] * self.taps if self.taps > 1 else 0
        return columns + (self.dilation[0] * (self.window[0] - 1) + 1) * (left + self.size[1] + right)

    def slices(self) -> Iterator[tuple[slice, slice]]:
        """For each tap, in row-major order, the part of the padded map it meets: one element per output position."""
        (P, Q), (s1, s2), (r1, r2) = self.grid, self.stride, self.dilation
        for m in range(self.window[0]):
            for n in range(self.window[1]):
                yield (
                    slice(m * r1, m * r1 + (P - 1) * s1 + 1, s1) if P else slice(0, 0),
                    slice(n * r2, n * r2 + (Q - 1) * s2 + 1, s2) if Q else slice(0, 0),
                )

    def rows(self, first: int, last: int) -> tuple[slice, Windows]:
        """For output rows ``first … last − 1`` only: the input rows they read, and the windows on those."""
        (top, _), (H, _) = self.reach[0], self.size
        start = first * self.stride[0] - top
        stop = (last - 1) * self.stride[0] + self.dilation[0] * (self.window[0] - 1) + 1 - top
        inside = slice(min(max(start, 0), H), min(max(stop, 0), H))
        height = inside.stop - inside.start
        before = min(max(-start, 0), stop - start)
        pads = ((before, stop - start - height - before), self.reach[1])
        part = Windows(
            (height, self.size[1]), self.window, self.stride, pads, self.dilation, (last - first, self.grid[1])
        )
        return inside, part

    def blocks(
        self, batch: int, bytes_per_position: int, limit: int | None = None
    ) -> Iterator[tuple[slice, slice, slice, Windows]]:
        """Cut a batch so that each block's columns fit in ``limit`` (``BLOCK_BYTES``).

        Yields (images, output rows, input rows they read, windows on those rows); whole images if they fit.
        """
        P, Q = self.grid
        limit, row_bytes = BLOCK_BYTES if limit is None else limit, max(1, Q * bytes_per_position)
        rows, images = (max(1, limit // size) for size in (row_bytes, row_bytes * max(1, P)))
        spans = [(first, min(first + rows, P)) for first in range(0, P, rows)]
        parts = [(slice(*span), *self.rows(*span)) for span in spans]
        for n in range(0, batch, images):
            for span, inside, part in parts:
                yield slice(n, min(n + images, batch)), span, inside, part

    def first_empty(self) -> tuple[int | None, int | None]:
        """The first output row and the first output column whose windows lie wholly outside the map, or None."""
        return tuple(  # type: ignore[return-value]
            _first_empty(n, k, s, r, before, positions)
            for n, k, s, r, (before, _), positions in zip(
                self.size, self.window, self.stride, self.dilation, self.pads, self.grid
            )
        )


def windows(
    op: str,
    size: Pair,
    window: Pair,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Windows:
    """Place windows on a map, or say why they do not fit.

    >>> windows("conv2d", (28, 28), (5, 5), padding="same", stride=2).grid
    (14, 14)
    """
    stride, dilation = extents(stride, "stride", op=op), extents(dilation, "dilation", op=op)
    return placed(op, tuple(size), tuple(window), stride, check_padding(padding, op=op), dilation, bool(ceil_mode))


@functools.lru_cache(maxsize=1024)  # a network places the same windows in every step
def placed(
    op: str, size: Pair, window: Pair, stride: Pair, padding: str | Pads, dilation: Pair, ceil_mode: bool = False
) -> Windows:
    """:func:`windows` for arguments that are already checked, like those of a layer."""
    (pads_1, P, over_1), (pads_2, Q, over_2) = (
        _along(op, axis, n, k, s, r, padding if isinstance(padding, str) else padding[i], ceil_mode)
        for i, (axis, n, k, s, r) in enumerate(zip(("height", "width"), size, window, stride, dilation))
    )
    return Windows(size, window, stride, (pads_1, pads_2), dilation, (P, Q), (over_1, over_2))


def _along(
    op: str, axis: str, n: int, k: int, s: int, r: int, padding: str | Pair, ceil_mode: bool
) -> tuple[Pair, int, int]:
    """Padding, positions and overhang along one axis."""
    extent = r * (k - 1) + 1
    if not isinstance(padding, str):
        before, after = padding
    elif padding == "valid":
        before = after = 0
    elif padding == "full":
        before = after = extent - 1
    else:  # "same"
        total = max((-(-n // s) - 1) * s + extent - n, 0)
        before, after = total // 2, total - total // 2
    room = n + before + after - extent
    if n == 0 or room < 0:
        raise ValueError(
            f"{op}: a window of {axis} {extent} ({k} taps, dilation {r}) does not fit on a map of {axis} {n} with "
            f"padding {before} + {after}. Use a smaller window, or more padding (padding='same')."
        )
    positions = room // s + 1  # E6
    if ceil_mode and room % s and positions * s < n + before:
        positions += 1
    overhang = max(0, (positions - 1) * s + extent - (n + before + after))
    return (before, after), positions, overhang


def _first_empty(n: int, k: int, s: int, r: int, before: int, positions: int) -> int | None:
    """The first window along one axis that has no tap on the map, found without a loop over the windows.

    There are three cases. The first window may end before the map. A window that begins before the map and ends after
    it may step over it, if the gaps between its taps are wider than the map. And the last window may begin after it.
    """
    if r * (k - 1) < before:
        return 0
    starts_before = min(-(-before // s), positions)  # how many windows begin before the map
    if n < r and _steps_over(starts_before, n, s, r, before):
        return bisect.bisect_left(range(starts_before), True, key=lambda i: _steps_over(i + 1, n, s, r, before) > 0)
    return -(-(n + before) // s) if (positions - 1) * s >= n + before else None


def _steps_over(count: int, n: int, s: int, r: int, before: int) -> int:
    """How many of the first ``count`` windows step over the map: those with (i·s − before) mod r ≥ n."""
    return _sum_of_floors(count, s, r - n - before, r) - _sum_of_floors(count, s, -before, r)


def _sum_of_floors(count: int, a: int, b: int, m: int) -> int:
    """Σ ⌊(a·i + b) / m⌋ for i = 0 … count − 1, in as few rounds as Euclid's algorithm takes."""
    total = 0
    while count > 0:
        total += count * (count - 1) // 2 * (a // m) + count * (b // m)
        a, b = a % m, b % m
        # Now the floors are steps of height 1. Count along the other axis: how many i come after each step?
        count, b = divmod(a * count + b, m)
        a, m = m, a
    return total


def transposed(
    op: str, grid: Pair, window: Pair, *, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, dilation: Any = 1
) -> Windows:
    """The windows whose ``grid`` is given: which map does a convolution with that output size start from?

    ``H = (H' − 1)·s + r·(k−1) + 1 − p_before − p_after + output_padding``; ``"same"`` gives ``H = H'·s``.

    >>> transposed("conv_transpose2d", (14, 14), (5, 5), padding="same", stride=2).size
    (28, 28)
    """
    stride, dilation = extents(stride, "stride", op=op), extents(dilation, "dilation", op=op)
    extra = extents(output_padding, "output_padding", op=op, least=0)
    return _transposed(op, tuple(grid), tuple(window), stride, check_padding(padding, op=op), extra, dilation)


@functools.lru_cache(maxsize=1024)
def _transposed(
    op: str, grid: Pair, window: Pair, stride: Pair, padding: str | Pads, extra: Pair, dilation: Pair
) -> Windows:
    """:func:`transposed` for checked arguments."""
    size, pads = [], []
    for i, axis in enumerate(("height", "width")):
        P, k, s, r, more = grid[i], window[i], stride[i], dilation[i], extra[i]
        extent = r * (k - 1) + 1
        if more >= s:
            raise ValueError(f"{op}: output_padding {more} must be smaller than stride {s} along the {axis}")
        if not isinstance(padding, str):
            before, after = padding[i]
        elif padding == "valid":
            before = after = 0
        elif padding == "full":
            before = after = extent - 1
        else:  # "same"
            if more:
                raise ValueError(f"{op}: padding='same' determines the output size, so output_padding must be 0")
            total = max(extent - s, 0)
            before, after = total // 2, total - total // 2
            more = max(s - extent, 0)
        n = (P - 1) * s + extent - before - after + more
        if P == 0 or n < 1:
            raise ValueError(
                f"{op}: padding {before} + {after} leaves nothing of the {axis}: output {axis} would be {n}. "
                "Use less padding."
            )
        if n > LIMIT:
            raise ValueError(f"{op}: the output {axis} would be {n}; the limit is {LIMIT}. Use a smaller stride.")
        size.append(n)
        pads.append((before, after))
    return Windows((size[0], size[1]), window, stride, (pads[0], pads[1]), dilation, (grid[0], grid[1]))


def elements(shape: tuple[int, ...]) -> int:
    """The number of elements in an array of this shape."""
    return math.prod(shape)


def height_and_width(shape: tuple[int, ...], owner: str) -> tuple[int, int]:
    """H, W of feature maps (H, W, C); for any other shape, a ``ValueError`` says what may be missing."""
    if len(shape) != 3:
        hints = {2: "Images (N, H, W) lack their channels: x[..., None].", 4: f"Without the batch it is {shape[1:]}."}
        hint = hints.get(len(shape), "It is no longer a map.")
        raise ValueError(f"{owner}: expected feature maps (H, W, C), got {shape}. {hint}")
    return shape[0], shape[1]


def missing_axes(ndim: int) -> str:
    """The hint for an image that lacks its batch, or its batch and its channels; ``""`` for other shapes."""
    hints = {
        2: ". For one image with one channel, write x[None, :, :, None].",
        3: ". For one image, write x[None]; for images with one channel, x[..., None].",
    }
    return hints.get(ndim, "")


def check_shape(shape: Any, owner: str) -> tuple[int, ...]:
    """The shape of one input, without the batch, as a tuple of positive integers."""
    if isinstance(shape, int) and not isinstance(shape, bool):
        shape = (shape,)
    try:
        result = tuple(int(n) for n in shape)
        if any(isinstance(n, bool) or n != m or m < 1 for n, m in zip(shape, result)) or not 1 <= len(result) <= 4:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        array = len(getattr(shape, "shape", ())) > 1
        got = f"an array; its examples have the shape x.shape[1:], {tuple(shape.shape[1:])}" if array else repr(shape)
        raise ValueError(
            f"{owner}: input_shape must be a shape without the batch, such as (28, 28, 1); got {got}"
        ) from None
    return result


def warn_of_channels_first(shape: tuple[int, ...], owner: str) -> None:
    """Warn about a shape such as (3, 32, 32), which is read as maps of height 3 with 32 channels."""
    if len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2] > 4:
        warnings.warn(
            f"{owner}: input_shape {shape} is read as maps of height {shape[0]} and width {shape[1]} with {shape[2]} "
            "channels. If the channels come first, move them to the end: x.transpose(0, 2, 3, 1).",
            stacklevel=3,
        )
