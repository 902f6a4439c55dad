"""CUDA kernels on feature maps: convolution, dense, ReLU, pooling, dropout.

Each has the name and signature of its reference, and returns ``NotImplemented`` for calls that it does not serve: empty
arrays, and arrays of about 2³¹ elements or more. Arrays are made C-contiguous before a kernel reads them.

cuBLAS computes the matrix products, always over two axes, so that any layout works without a copy. All of these can be
captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dualnet.geometry import Windows
from dualnet.shim import Array, backend_of, references

from . import cublas
from .launch import launch, packing, served
from .registry import LIMIT, WIDE, bank, divided_by, structure, windows

COLUMN_BYTES = 32 * 2**20
"""The columns of one block of the batch stay in the L2 cache (50 MiB on an H100) until the product has read them."""
FEW = 6
"""With up to this many channels in a group, convolution needs no columns. The gradient of the filters goes without them
only if there are several groups: for one group a matrix product needs far fewer instructions."""
FILTER_BLOCKS = 1024
"""Blocks that add up the gradient of the filters without columns."""


def product(a: Array, b: Array, out: Array | None = None, add: bool = False) -> Array:
    """(M, K) × (K, D) -> (M, D) by cuBLAS, through our own handle, or through CuPy's, which cannot be captured.

    ``out`` may be of a wider dtype than the factors; with ``add`` the product is added to it.
    """
    y = cublas.product(a, b, out, add)
    if y is not NotImplemented:
        return y
    xp = backend_of(a).xp
    if out is None or (out.dtype == a.dtype and not add):
        return xp.matmul(a, b, out=out).astype(a.dtype, copy=False)
    term = xp.matmul(a.astype(out.dtype, copy=False), b.astype(out.dtype, copy=False))
    out[...] = out + term if add else term
    return out


# -- convolution (E4, E11, E13) ----------------------------------------------------------------------------------------


def correlate(x: Array, w: Array, b: Array | None, at: Windows, groups: int = 1, relu: bool = False) -> Any:
    """Convolution: E4, E6, and E7 with ``relu``."""
    if not served(x, w) or not _fits(x.shape[0], at, w.shape[3], x.shape[3]):
        return NotImplemented
    xp, (N, _, _, C), D = backend_of(x).xp, x.shape, w.shape[3]
    x, w, b = xp.ascontiguousarray(x), xp.ascontiguousarray(w), None if b is None else xp.ascontiguousarray(b)
    if w.shape[2] <= FEW:
        y = xp.empty((N, *at.grid, D), dtype=x.dtype)
        where, filters = windows(at, C), bank(tuple(w.shape), groups)
        launch(xp, "correlate_few", y.size, y, x, w, b, y.size, where, filters, relu, real=x.dtype.name)
        return y
    if groups != 1:
        return _by_groups(lambda x, w, b=None: correlate(x, w, b, at, 1, relu), groups, x, w, *_given(b))
    y, matrix = xp.empty((N, *at.grid, D), dtype=x.dtype), xp.reshape(w, (-1, D))  # (k1·k2·C, D)
    for images, rows, inside, part in _blocks(at, x):
        target = xp.reshape(y[images, rows], (-1, D))  # a view: whole images, or rows of one
        product(_columns(x[images, inside], part), matrix, out=target)  # E4  Y = X W
    return biased(y, b, relu)


def correlate_filters(x: Array, dy: Array, at: Windows, groups: int = 1) -> Any:
    """The gradient of the filters: E11."""
    if not served(x, dy) or not _fits(x.shape[0], at, dy.shape[3], x.shape[3]):
        return NotImplemented
    xp, C, D = backend_of(x).xp, x.shape[3], dy.shape[3]
    x, dy = xp.ascontiguousarray(x), xp.ascontiguousarray(dy)
    if groups != 1 and C // groups <= FEW:
        return _filters_of_few(xp, x, dy, at, groups)
    if groups != 1:
        return _by_groups(lambda x, dy: correlate_filters(x, dy, at), groups, x, dy)
    blocks = list(_blocks(at, x))
    # The sum of several products is as wide as cuBLAS's sums, so that it is rounded to 16 bits once, at the end.
    dtype = x.dtype if len(blocks) == 1 else WIDE[x.dtype.name]
    dw = xp.empty((at.taps * C, D), dtype=dtype)
    for number, (images, rows, inside, part) in enumerate(blocks):
        columns, deltas = _columns(x[images, inside], part), xp.reshape(dy[images, rows], (-1, D))
        product(columns.T, deltas, out=dw, add=number > 0)  # E11  dW = Xᵀ dY
        del columns  # the next block takes its memory: two blocks would not fit into the L2 cache
    return xp.reshape(dw.astype(x.dtype, copy=False), (*at.window, C, D))


def _filters_of_few(xp: Any, x: Array, dy: Array, at: Windows, groups: int) -> Array:
    C, D, places = x.shape[3], dy.shape[3], dy.size // dy.shape[3]
    shape, real = (*at.window, C // groups, D), x.dtype.name
    weights = shape[0] * shape[1] * shape[2] * D
    chunk = max(32, -(-places * -(-weights // 256) // FILTER_BLOCKS))
    chunks = -(-places // chunk)
    partial, dw = xp.empty((chunks, weights), dtype=WIDE[real]), xp.empty(shape, dtype=x.dtype)
    grid, where, filters = (-(-weights // 256), chunks), windows(at, C), bank(shape, groups)
    launch(xp, "correlate_filters_few", grid, partial, x, dy, weights, places, chunk, where, filters, real=real)
    launch(xp, "channel_sum_end", (-(-weights // 32),), dw, partial, chunks, weights, 1.0, real=real)
    return dw


def correlate_inputs(dy: Array, w: Array, at: Windows, groups: int = 1) -> Any:
    """The gradient of the inputs: E13."""
    (N, _, _, D), C = dy.shape, w.shape[2] * groups
    if not served(dy, w) or not _fits(N, at, D, C):
        return NotImplemented
    xp = backend_of(dy).xp
    dy, w = xp.ascontiguousarray(dy), xp.ascontiguousarray(w)
    dx = xp.empty((N, *at.size, C), dtype=dy.dtype)
    if w.shape[2] <= FEW:
        where, filters = windows(at, C), bank(tuple(w.shape), groups)
        launch(xp, "correlate_inputs_few", dx.size, dx, dy, w, dx.size, where, filters, real=dy.dtype.name)
        return dx
    if groups != 1:
        return _by_groups(lambda dy, w: correlate_inputs(dy, w, at), groups, dy, w)
    matrix, step = xp.reshape(w, (-1, D)), max(1, COLUMN_BYTES // _image_bytes(at, C, dy.itemsize))
    for first in range(0, N, step):  # whole images: the windows of blocks of rows overlap
        deltas = xp.reshape(dy[first : first + step], (-1, D))
        columns = product(deltas, matrix.T)  # E13  dX = dY Wᵀ
        _gather(columns, dx[first : first + step], at)
        del columns  # as above
    return dx


def paint(x: Array, w: Array, b: Array, at: Windows, groups: int = 1) -> Any:
    """E13 as a forward pass, by the fastest kernel for it, and the bias in a second pass."""
    if not served(x, w) or not _fits(x.shape[0], at, x.shape[3], w.shape[2] * groups):
        return NotImplemented
    return biased(references["correlate_inputs"](x, w, at, groups), b, relu=False)


def _by_groups(one: Callable[..., Any], groups: int, *arrays: Array) -> Array:
    """One group after another: channels, filters, biases and gradients are split and joined along the last axis."""
    xp, widths = backend_of(arrays[0]).xp, [a.shape[-1] // groups for a in arrays]
    parts = [
        one(*(a[..., group * width : (group + 1) * width] for a, width in zip(arrays, widths)))
        for group in range(groups)
    ]
    return xp.concat(parts, axis=-1)


def _given(b: Array | None) -> tuple:
    return () if b is None else (b,)


def im2col(x: Array, at: Windows) -> Any:
    """(N, H, W, C) -> (N·H'·W', k1·k2·C)."""
    N, C = x.shape[0], x.shape[3]
    if not served(x) or not 0 < N * at.grid[0] * at.grid[1] * at.taps * C < LIMIT:
        return NotImplemented
    return _columns(backend_of(x).xp.ascontiguousarray(x), at)


def col2im(columns: Array, shape: tuple[int, int, int, int], at: Windows) -> Any:
    """(N·H'·W', k1·k2·C) -> (N, H, W, C)."""
    if not served(columns) or not 0 < shape[0] * shape[1] * shape[2] * shape[3] < LIMIT:
        return NotImplemented
    xp = backend_of(columns).xp
    x = xp.empty(shape, dtype=columns.dtype)
    _gather(xp.ascontiguousarray(columns), x, at)
    return x


def _columns(x: Array, at: Windows) -> Array:
    xp, (N, _, _, C) = backend_of(x).xp, x.shape
    if at.window == at.stride == (1, 1) and at.reach == ((0, 0), (0, 0)):
        return xp.reshape(x, (-1, C))
    columns = xp.empty((N * at.grid[0] * at.grid[1], at.taps * C), dtype=x.dtype)
    pack = packing(C, x)
    count = columns.size // pack
    launch(xp, "im2col", count, columns, x, count, windows(at, C // pack), real=x.dtype.name, pack=pack)
    return columns


def _gather(columns: Array, x: Array, at: Windows) -> None:
    xp, C = backend_of(x).xp, x.shape[3]
    pack = packing(C, x, columns)
    count = x.size // pack
    launch(xp, "col2im", count, x, columns, count, windows(at, C // pack), real=x.dtype.name, pack=pack)


def _blocks(at: Windows, x: Array) -> Iterator[tuple[slice, slice, slice, Windows]]:
    """Blocks of the batch whose columns fit the cache: whole images, or rows of one image; each contiguous."""
    for images, rows, inside, part in at.blocks(x.shape[0], at.taps * x.shape[3] * x.itemsize, COLUMN_BYTES):
        yield (images, rows, slice(None), at) if part.grid == at.grid else (images, rows, inside, part)


def _image_bytes(at: Windows, C: int, itemsize: int) -> int:
    return max(1, at.grid[0] * at.grid[1] * at.taps * C * itemsize)


def _fits(N: int, at: Windows, D: int, C: int) -> bool:
    """Can 32 bits count the elements of every map and of one image's columns, and is no map empty?"""
    units, outputs, columns = N * at.size[0] * at.size[1] * C, N * at.grid[0] * at.grid[1] * D, _image_bytes(at, C, 1)
    return 0 < units < LIMIT and 0 < outputs < LIMIT and columns < LIMIT


# -- dense (E9, E16) ---------------------------------------------------------------------------------------------------


def affine(x: Array, w: Array, b: Array | None = None) -> Any:
    """x w + b: the product by cuBLAS, then the bias in one pass."""
    if not served(x, w):
        return NotImplemented
    return biased(product(x, w), b, relu=False)


def affine_relu(x: Array, w: Array, b: Array | None = None) -> Any:
    """max(0, x w + b)."""
    if not served(x, w):
        return NotImplemented
    return biased(product(x, w), b, relu=True)


def biased(y: Array, b: Array | None, relu: bool) -> Array:
    """y ← y + b, and E7 with ``relu``, in place."""
    if b is None:
        return rectify(y) if relu else y
    xp, D = backend_of(y).xp, y.shape[-1]
    b = xp.ascontiguousarray(b)
    pack = packing(D, y, b)
    count, by_D = y.size // pack, divided_by(D // pack)
    launch(xp, "add_bias", count, y, b, count, by_D, relu, real=y.dtype.name, pack=pack)
    return y


# -- ReLU (E7, E14), and the sum of two branches -----------------------------------------------------------------------


def rectify(x: Array) -> Any:
    """E7: max(0, x)."""
    return _pass("rectify", x)


def rectify_backward(dy: Array, y: Array) -> Any:
    """E14: dy where y > 0, else 0."""
    return _pass("rectify_backward", dy, y)


def add(x: Array, other: Array, relu: bool = False) -> Any:
    """x + other, and E7 with ``relu``."""
    return _pass("add", x, other, more=(relu,))


def _pass(name: str, *arrays: Array, more: tuple = ()) -> Any:
    """One thread for each pack of units, in any arrays of one shape."""
    if not served(*arrays) or any(a.shape != arrays[0].shape for a in arrays):
        return NotImplemented
    xp, shape = backend_of(arrays[0]).xp, arrays[0].shape
    arrays = tuple(map(xp.ascontiguousarray, arrays))
    y = xp.empty(shape, dtype=arrays[0].dtype)
    pack = packing(y.size, *arrays)
    launch(xp, name, y.size // pack, y, *arrays, y.size // pack, *more, real=y.dtype.name, pack=pack)
    return y


# -- pooling (E8, E15) -------------------------------------------------------------------------------------------------


def max_pool(x: Array, at: Windows, relu: bool = False) -> Any:
    """E8: the largest unit of every window, and its tap."""
    xp, tap = backend_of(x).xp, _tap(at)
    winners = xp.empty((x.shape[0], *at.grid, x.shape[3]), dtype=tap)
    y = _pool("max_pool", x, at, winners, more=(relu,), tap=tap)
    return NotImplemented if y is NotImplemented else (y, winners)


def max_pool_relu(x: Array, at: Windows) -> Any:
    """E8, and E7."""
    return max_pool(x, at, relu=True)


def largest(x: Array, at: Windows) -> Any:
    """E8: the largest unit of every window."""
    return _pool("max_pool", x, at, None, more=(False,))


def max_unpool(dy: Array, winners: Array, at: Windows) -> Any:
    """E15: the whole delta goes to the winning unit."""
    if winners.dtype.name != _tap(at):
        return NotImplemented
    return _unpool("max_unpool", dy, at, None, winners, tap=_tap(at))


def max_unpool_relu(dy: Array, y: Array, winners: Array, at: Windows) -> Any:
    """E15, after E14."""
    if winners.dtype.name != _tap(at) or y.dtype != dy.dtype:
        return NotImplemented
    return _unpool("max_unpool", dy, at, y, winners, tap=_tap(at))


def avg_pool(x: Array, at: Windows, count_include_pad: bool = False) -> Any:
    """E8: the mean of every window."""
    return _pool("avg_pool", x, at, more=(count_include_pad,))


def avg_unpool(dy: Array, at: Windows, count_include_pad: bool = False) -> Any:
    """E15: 1 / M of the delta goes to every unit."""
    return _unpool("avg_unpool", dy, at, more=(count_include_pad,))


def l2_pool(x: Array, at: Windows) -> Any:
    """E8: √Σ x² of every window."""
    return _pool("l2_pool", x, at)


def l2_unpool(dy: Array, x: Array, y: Array, at: Windows) -> Any:
    """E15: x / y of the delta goes to every unit."""
    return _unpool("l2_unpool", dy, at, x, y)


def _pool(name: str, x: Array, at: Windows, *outputs: Array | None, more: tuple = (), tap: str = "uint8") -> Any:
    xp, (N, _, _, C) = backend_of(x).xp, x.shape
    if not served(x) or not 0 < N * at.grid[0] * at.grid[1] * C < LIMIT:
        return NotImplemented
    x = xp.ascontiguousarray(x)
    y = xp.empty((N, *at.grid, C), dtype=x.dtype)
    pack = packing(C, x)
    count, where = y.size // pack, windows(at, C // pack)
    launch(xp, name, count, y, *outputs, x, count, where, *more, real=x.dtype.name, pack=pack, tap=tap)
    return y


def _unpool(name: str, dy: Array, at: Windows, *others: Array | None, more: tuple = (), tap: str = "uint8") -> Any:
    xp, N, C = backend_of(dy).xp, dy.shape[0], dy.shape[3]
    if not served(dy) or not 0 < N * at.size[0] * at.size[1] * C < LIMIT:
        return NotImplemented
    dy, *others = (None if a is None else xp.ascontiguousarray(a) for a in (dy, *others))  # type: ignore[assignment]
    dx = xp.empty((N, *at.size, C), dtype=dy.dtype)
    pack = packing(C, dy, *(a for a in others if a is not None))
    count, where = dx.size // pack, windows(at, C // pack)
    launch(xp, name, count, dx, dy, *others, count, where, *more, real=dy.dtype.name, pack=pack, tap=tap)
    return dx


def _tap(at: Windows) -> str:
    return "uint8" if at.taps <= 256 else "int32"


# -- dropout -----------------------------------------------------------------------------------------------------------


def philox(like: Array, count: int, seed: int, step: int, first: int = 0) -> Any:
    """``count`` random words, the same ones as the reference draws."""
    if first or not 0 < count < LIMIT:
        return NotImplemented
    xp = backend_of(like).xp
    words = xp.empty((count,), dtype="uint32")
    launch(xp, "philox", -(-count // 4), words, count, *_key(seed, step), real="float32")
    return words


def drawn_above(like: Array, count: int, seed: int, step: int, limit: int, first: int = 0) -> Any:
    """Where the random words are above ``limit``; the words themselves are not stored."""
    if first or not 0 < count < LIMIT:
        return NotImplemented
    xp = backend_of(like).xp
    mask = xp.empty((count,), dtype="bool")
    launch(xp, "drawn_above", -(-count // 4), mask, count, *_key(seed, step), limit, real="float32")
    return mask


def _key(seed: int, step: int | Array) -> tuple[Any, Array | None]:
    """The key and, in a captured step, the device array with the step's number."""
    low, on_device = 0xFFFFFFFF, None if isinstance(step, int) else step
    step = 0 if on_device is not None else step
    key = structure("Key", seed_low=seed & low, seed_high=seed >> 32, step_low=step & low, step_high=step >> 32)
    return key, on_device


def masked(x: Array, mask: Array, scale: float) -> Any:
    """x · scale where the mask is 1, else 0."""
    if not served(x) or mask.shape != x.shape or mask.dtype.name != "bool":
        return NotImplemented
    xp, y = backend_of(x).xp, backend_of(x).xp.empty(x.shape, dtype=x.dtype)
    x, mask = xp.ascontiguousarray(x), xp.ascontiguousarray(mask)
    pack = packing(x.size, x, mask)
    launch(xp, "masked", x.size // pack, y, x, mask, x.size // pack, scale, real=x.dtype.name, pack=pack)
    return y


KERNELS = {
    kernel.__name__: kernel
    for kernel in (
        add,
        affine,
        affine_relu,
        avg_pool,
        avg_unpool,
        col2im,
        correlate,
        correlate_filters,
        correlate_inputs,
        drawn_above,
        im2col,
        l2_pool,
        l2_unpool,
        largest,
        masked,
        max_pool,
        max_pool_relu,
        max_unpool,
        max_unpool_relu,
        paint,
        philox,
        rectify,
        rectify_backward,
    )
}
