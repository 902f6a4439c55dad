"""Convolution of feature maps with a bank of filters, its adjoint, and their pullbacks.

With x̂ the input padded by zeros, stride s, dilation r, filters of height k1 and width k2 (one group shown):

    E4, E6   y[n,i,j,d]  =  b[d] + Σ_m Σ_n' Σ_c  w[m,n',c,d] · x̂[n, i·s + m·r, j·s + n'·r, c]

Every output position reads one window. With each window written as a row, the windows form a matrix X. The bank is a
matrix W, and

    forward    Y = X W + b
    pullback   E11  dW = Xᵀ dY        E12  db = Σ dY        E13  dX = dY Wᵀ,   dx = col2im(dX)

col2im is the adjoint of im2col: it adds back to each pixel what was read from it. Summed over the taps, E13 is the full
convolution of the deltas with the kernel, that is, the correlation with the kernel rotated by 180°. The transposed
convolution uses that same adjoint as its forward pass, so its pullback is the convolution.

Shapes: x (N, H, W, C), w (k1, k2, C/groups, D), b (D,), y (N, H', W', D).
Source: Jefkine (2016); the matrix form after Chellapilla, Puri and Simard (2006); transposed convolution after Zeiler
et al. (2010) and Dumoulin and Visin (2016).
"""

from __future__ import annotations

from typing import Any

from ..arguments import integer
from ..geometry import Extent, Padding, Windows, missing_axes, transposed, windows
from ..shim import Array, accelerated, backend_of, namespace
from ..shim.memory import check_memory
from .activation import rectify, rectify_backward
from .pullback import Pullback
from .sums import channel_sum, rounded_once

__all__ = ["conv2d", "conv_transpose2d"]


def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Extent = 1,
    padding: Padding = 0,
    dilation: Extent = 1,
    groups: int = 1,
    mode: str = "correlation",
    need_dx: bool = True,
    relu: bool = False,
) -> tuple[Array, Pullback]:
    """Slide a bank of D filters over feature maps: cross-correlation, or with ``mode`` true convolution (E4, E6).

    x (N, H, W, C), w (k1, k2, C/groups, D), b (D,) or None -> y (N, H', W', D), all of one floating dtype.
    ``pullback(dy)`` returns ``(dx, dw, db)``: E13, E11, E12; db is None without b, dx is None with ``need_dx=False``.

    ``padding`` is ``int | (height, width) | ((top, bottom), (left, right)) | "valid" | "same" | "full"``;
    ``mode="convolution"`` rotates each filter by 180° first (E2, E3). Channels and filters are split into ``groups``
    that do not see each other; ``groups=C`` is the depthwise convolution. ``relu=True`` applies ReLU to y, in
    the same pass over memory.

    Raises ``ValueError`` for shapes that do not fit and ``TypeError`` for dtypes or backends that do not.

    >>> import dualnet as dn
    >>> x, w = dn.asarray([[[[1.0], [2.0], [4.0]]]]), dn.asarray([[[[10.0]], [[1.0]]]])  # 1×3 map, 1×2 filter
    >>> y, pullback = dn.ops.conv2d(x, w)
    >>> dn.to_numpy(y).ravel()
    array([12., 24.], dtype=float32)
    >>> dx, dw, db = pullback(dn.asarray([[[[1.0], [1.0]]]]))
    >>> dn.to_numpy(dx).ravel(), dn.to_numpy(dw).ravel()
    (array([10., 11.,  1.], dtype=float32), array([3., 6.], dtype=float32))
    """
    namespace("conv2d", x=x, w=w, b=b, optional=("b",))
    groups = _check("conv2d", x, w, b, groups, mode)
    at = windows("conv2d", x.shape[1:3], w.shape[:2], stride=stride, padding=padding, dilation=dilation)
    check_room("conv2d", x, w.shape[3], at)

    biased = b is not None
    bank = rotate(w) if mode == "convolution" else w  # E1 as w is; E2, E3  I ∗ K = I ⊗ rot180(K)
    y = correlate(x, bank, b, at, groups, relu)  # E4, E6, and E7 with relu
    kept = y if relu else None

    def pullback(dy: Array) -> tuple[Array | None, Array, Array | None]:
        """dy (N, H', W', D) -> dx (N, H, W, C), dw (k1, k2, C/groups, D), db (D,)."""
        dy = rectify_backward(dy, kept) if relu else dy  # E14
        dw, db = parameter_gradients(x, dy, at, groups, biased)  # E11, E12
        dw = rotate(dw) if mode == "convolution" else dw  # E3
        dx = correlate_inputs(dy, bank, at, groups) if need_dx else None  # E13
        return dx, dw, db

    return y, Pullback("conv2d", pullback, y, x=x, w=bank, y=kept)


def conv_transpose2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Extent = 1,
    padding: Padding = 0,
    output_padding: Extent = 0,
    dilation: Extent = 1,
    groups: int = 1,
) -> tuple[Array, Pullback]:
    """The adjoint of :func:`conv2d` with the same w, as a forward pass: each input unit paints its filter on the
    output.

    x (N, P, Q, D), w (k1, k2, C/groups, D), b (C,) or None -> y (N, H, W, C): D channels in, C out, and
    ``⟨conv2d(v, w), x⟩ = ⟨v, conv_transpose2d(x, w)⟩`` for every v. ``pullback(dy)`` returns ``(dx, dw, db)``.

    H = (P − 1)·stride + dilation·(k1 − 1) + 1 − padding + output_padding; ``padding="same"`` gives H = P·stride.

    >>> import dualnet as dn
    >>> x, w = dn.asarray([[[[1.0], [2.0]]]]), dn.asarray([[[[10.0]], [[1.0]]]])  # 1×2 map, 1×2 filter
    >>> y, pullback = dn.ops.conv_transpose2d(x, w)
    >>> dn.to_numpy(y).ravel()
    array([10., 21.,  2.], dtype=float32)
    """
    namespace("conv_transpose2d", x=x, w=w, b=b, optional=("b",))
    groups = _check_transposed(x, w, b, groups)
    at = transposed(
        "conv_transpose2d",
        x.shape[1:3],
        w.shape[:2],
        stride=stride,
        padding=padding,
        output_padding=output_padding,
        dilation=dilation,
    )
    check_room_transposed("conv_transpose2d", x, w.shape[2] * groups, at)

    biased = b is not None
    y = correlate_inputs(x, w, at, groups) if b is None else paint(x, w, b, at, groups)  # E13 as a forward pass

    def pullback(dy: Array) -> tuple[Array, Array, Array | None]:
        """dy (N, H, W, C) -> dx (N, P, Q, D), dw (k1, k2, C/groups, D), db (C,)."""
        dx = correlate(dy, w, None, at, groups)  # E4  the adjoint of the adjoint
        dw = correlate_filters(dy, x, at, groups)  # E11  map and delta swap roles
        db = channel_sum(dy) if biased else None  # E12
        return dx, dw, db

    return y, Pullback("conv_transpose2d", pullback, y, x=x, w=w)


# -- the three sums ----------------------------------------------------------------------------------------------------


@accelerated
@rounded_once
def correlate(x: Array, w: Array, b: Array | None, at: Windows, groups: int = 1, relu: bool = False) -> Array:
    """E4, E6, and E7 with ``relu``: (N, H, W, C), (k1, k2, C/g, D), (D,) -> (N, H', W', D)."""
    xp = backend_of(x).xp
    (N, _, _, C), D, (P, Q) = x.shape, w.shape[3], at.grid
    bank = _bank(xp, w, groups)  # (g, k1·k2·C/g, D/g)
    y = xp.empty((N, P, Q, D), dtype=x.dtype)
    for images, rows, inside, part in at.blocks(N, at.taps * C * x.itemsize):
        columns = _by_group(xp, im2col(x[images, inside], part), at.taps, groups)  # (g, n·p·Q, k1·k2·C/g)
        block = xp.matmul(columns, bank)  # E4  Y = X W   (g, n·p·Q, D/g); E5 where C = 1
        y[images, rows] = xp.reshape(xp.permute_dims(block, (1, 0, 2)), y[images, rows].shape)
    if b is not None:
        y += b  # E4
    return rectify(y) if relu else y  # E7


@accelerated
@rounded_once
def correlate_filters(x: Array, dy: Array, at: Windows, groups: int = 1) -> Array:
    """E11: the input correlated with the deltas. (N, H, W, C), (N, H', W', D) -> (k1, k2, C/g, D)."""
    xp = backend_of(x).xp
    (N, _, _, C), D = x.shape, dy.shape[3]
    dbank = xp.zeros((groups, at.taps * (C // groups), D // groups), dtype=x.dtype)
    for images, rows, inside, part in at.blocks(N, at.taps * C * x.itemsize):
        columns = _by_group(xp, im2col(x[images, inside], part), at.taps, groups)  # (g, n·p·Q, k1·k2·C/g)
        deltas = _by_group(xp, xp.reshape(dy[images, rows], (-1, D)), 1, groups)  # (g, n·p·Q, D/g)
        dbank += xp.matmul(columns.mT, deltas)  # E11  dW = Xᵀ dY
    return xp.reshape(xp.permute_dims(dbank, (1, 0, 2)), (*at.window, C // groups, D))


@accelerated
def parameter_gradients(x: Array, dy: Array, at: Windows, groups: int, biased: bool) -> tuple[Array, Array | None]:
    """E11, E12, which read the same deltas: (N, H, W, C), (N, H', W', D) -> dw (k1, k2, C/g, D), db (D,) or None."""
    dw = correlate_filters(x, dy, at, groups)  # E11
    db = channel_sum(dy) if biased else None  # E12
    return dw, db


@accelerated
@rounded_once
def correlate_inputs(dy: Array, w: Array, at: Windows, groups: int = 1) -> Array:
    """E13: the full convolution of the deltas with the kernel. (N, H', W', D), (k1, k2, C/g, D) -> (N, H, W, C)."""
    xp = backend_of(dy).xp
    (N, _, _, D), C = dy.shape, w.shape[2] * groups
    bank = _bank(xp, w, groups)  # (g, k1·k2·C/g, D/g)
    dx = xp.zeros((N, *at.size, C), dtype=dy.dtype)
    for images, rows, inside, part in at.blocks(N, at.taps * C * dy.itemsize):
        deltas = _by_group(xp, xp.reshape(dy[images, rows], (-1, D)), 1, groups)  # (g, n·p·Q, D/g)
        columns = xp.matmul(deltas, bank.mT)  # E13  dX = dY Wᵀ   (g, n·p·Q, k1·k2·C/g)
        columns = _from_groups(xp, columns, at.taps)  # (n·p·Q, k1·k2·C)
        dx[images, inside] += col2im(columns, dx[images, inside].shape, part)  # E13  blocks of rows overlap
    return dx


@accelerated
@rounded_once
def paint(x: Array, w: Array, b: Array, at: Windows, groups: int = 1) -> Array:
    """E13 as a forward pass, and a bias: (N, H', W', D), (k1, k2, C/g, D), (C,) -> (N, H, W, C)."""
    y = correlate_inputs(x, w, at, groups)
    y += b
    return y


@accelerated
def im2col(x: Array, at: Windows) -> Array:
    """(N, H, W, C) -> (N·H'·W', k1·k2·C): every window becomes a row, tap after tap."""
    xp = backend_of(x).xp
    (N, _, _, C), (P, Q) = x.shape, at.grid
    padded = pad(x, at)
    columns = xp.empty((N, P, Q, at.taps, C), dtype=x.dtype)
    for i, (rows, cols) in enumerate(at.slices()):
        columns[:, :, :, i, :] = padded[:, rows, cols, :]  # E6  o[i·s + m·r − p, …]
    return xp.reshape(columns, (N * P * Q, at.taps * C))


@accelerated
@rounded_once
def col2im(columns: Array, shape: tuple[int, int, int, int], at: Windows) -> Array:
    """(N·H'·W', k1·k2·C) -> (N, H, W, C): the adjoint of im2col; windows that overlap add up."""
    xp = backend_of(columns).xp
    (N, H, W, C), (P, Q), ((top, bottom), (left, right)) = shape, at.grid, at.reach
    columns = xp.reshape(columns, (N, P, Q, at.taps, C))
    padded = xp.zeros((N, top + H + bottom, left + W + right, C), dtype=columns.dtype)
    for i, (rows, cols) in enumerate(at.slices()):
        padded[:, rows, cols, :] += columns[:, :, :, i, :]
    return padded[:, top : top + H, left : left + W, :]


def pad(x: Array, at: Windows, value: float = 0.0) -> Array:
    """(N, H, W, C) -> (N, top + H + bottom, left + W + right, C); the map itself if there is no padding."""
    xp = backend_of(x).xp
    (N, H, W, C), ((top, bottom), (left, right)) = x.shape, at.reach
    if not (top or bottom or left or right):
        return x
    padded = xp.full((N, top + H + bottom, left + W + right, C), value, dtype=x.dtype)
    padded[:, top : top + H, left : left + W, :] = x
    return padded


def check_room(op: str, x: Array, D: int, at: Windows) -> None:
    """Raise ``MemoryError`` unless there is memory for the output (N, H', W', D) and the columns of one row."""
    N, _, _, C = x.shape
    units = N * at.grid[0] * at.grid[1] * D + at.units_of_a_row * C
    check_memory(op, x, units * x.itemsize, "the output with its columns", "Use less padding or a larger stride.")


def check_room_transposed(op: str, x: Array, C: int, at: Windows) -> None:
    """Raise ``MemoryError`` unless there is memory for the output (N, H, W, C) and the columns of one row."""
    units = (x.shape[0] * at.size[0] * at.size[1] + at.units_of_a_row) * C
    check_memory(op, x, units * x.itemsize, "the output with its columns", "Use a smaller stride or fewer filters.")


def rotate(w: Array) -> Array:
    """E3: every filter of a bank turned by 180°, (k1, k2, C/g, D) -> (k1, k2, C/g, D)."""
    return w[::-1, ::-1]


def _bank(xp: Any, w: Array, groups: int) -> Array:
    """(k1, k2, C/g, D) -> (g, k1·k2·C/g, D/g)."""
    k1, k2, channels, D = w.shape
    return xp.permute_dims(xp.reshape(w, (k1 * k2 * channels, groups, D // groups)), (1, 0, 2))


def _by_group(xp: Any, rows: Array, taps: int, groups: int) -> Array:
    """(M, taps·C) -> (g, M, taps·C/g)."""
    if groups == 1:
        return rows[None]
    M, width = rows.shape
    split = xp.reshape(rows, (M, taps, groups, width // taps // groups))
    return xp.reshape(xp.permute_dims(split, (2, 0, 1, 3)), (groups, M, width // groups))


def _from_groups(xp: Any, rows: Array, taps: int) -> Array:
    """(g, M, taps·C/g) -> (M, taps·C): the inverse of _by_group."""
    groups, M, width = rows.shape
    if groups == 1:
        return rows[0]
    split = xp.reshape(rows, (groups, M, taps, width // taps))
    return xp.reshape(xp.permute_dims(split, (1, 2, 0, 3)), (M, groups * width))


# -- checks ------------------------------------------------------------------------------------------------------------


def _check(op: str, x: Array, w: Array, b: Array | None, groups: int, mode: str) -> int:
    groups = integer(groups, "groups", op=op)
    _check_ranks(op, x, w)
    C, D = x.shape[3], w.shape[3]
    if mode not in ("correlation", "convolution"):
        raise ValueError(f"{op}: mode must be 'correlation' or 'convolution', got {mode!r}")
    if C % groups or D % groups:
        raise ValueError(f"{op}: groups={groups} must divide both the {C} channels of x and the {D} filters of w")
    if w.shape[2] != C // groups:
        raise ValueError(
            f"{op}: w {tuple(w.shape)} reads {w.shape[2]} channels, but x {tuple(x.shape)} has {C} in {groups} "
            f"group(s), {C // groups} each. Expected w of shape (k1, k2, {C // groups}, D)"
            + (", or x.transpose(0, 2, 3, 1) if its channels come first." if x.shape[1] == w.shape[2] * groups else ".")
        )
    _check_bias(op, b, D)
    return groups


def _check_transposed(x: Array, w: Array, b: Array | None, groups: int) -> int:
    op = "conv_transpose2d"
    groups = integer(groups, "groups", op=op)
    _check_ranks(op, x, w)
    if x.shape[3] != w.shape[3]:
        raise ValueError(
            f"{op}: x {tuple(x.shape)} has {x.shape[3]} channels, but w {tuple(w.shape)} has {w.shape[3]} filters. "
            f"Expected w of shape (k1, k2, C/groups, {x.shape[3]}), as in the conv2d whose adjoint this is."
        )
    if w.shape[3] % groups:
        raise ValueError(f"{op}: groups={groups} must divide the {w.shape[3]} filters of w")
    _check_bias(op, b, w.shape[2] * groups)
    return groups


def _check_ranks(op: str, x: Array, w: Array) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"{op}: x has shape {tuple(x.shape)}; expected feature maps (N, H, W, C){missing_axes(x.ndim)}"
        )
    if w.ndim != 4 or 0 in w.shape:
        raise ValueError(f"{op}: w has shape {tuple(w.shape)}; expected a filter bank (k1, k2, C/groups, D)")


def _check_bias(op: str, b: Array | None, channels: int) -> None:
    if b is not None and tuple(b.shape) != (channels,):
        raise ValueError(f"{op}: b has shape {tuple(b.shape)}; expected ({channels},), one bias per output channel")
