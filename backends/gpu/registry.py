"""Every CUDA kernel, and the structures that kernels take.

This file holds what a source does not say: which reference a kernel stands in for, how many threads a block has, and
which options the compiler needs. The arguments are read from the source: see ``sources.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from dualnet.geometry import Windows

from . import sources

THREADS = (256,)
TILE = (32, 8)
"""Threads of a block that owns 32 columns, or 8 rows with a warp for each."""
TALL = (32, 32)
"""Threads of a block that adds up the partial sums of 32 columns."""

REAL = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}
"""What ``real`` is in C, by NumPy's name."""
WIDE = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
"""The dtype in which sums are kept."""
TAP = {"uint8": "unsigned char", "int32": "int"}
LIMIT = 2**31 - 2**16
"""Arrays with this many elements or more are left to the references: kernels count in 32 bits."""

PER_LAUNCH, PER_BLOCK = 40, 1024
"""Tensors in one launch and elements in one block of kernels/optimizers.cu; also banks in one launch of banks.cu, and
layers in one launch of ``follow``."""
SIDE = 32
"""Rows and columns of the tile that a block of kernels/banks.cu turns."""


@dataclass(frozen=True)
class Kernel:
    """One entry point: its file, the options it is compiled with, the threads of a block, its reference."""

    name: str
    file: str
    options: tuple[str, ...]
    block: tuple[int, ...]
    reference: str

    @functools.cached_property
    def types(self) -> tuple[str, ...]:
        """The type of each argument, read from the source. Raises ``ValueError`` if the source has no such kernel."""
        found = sources.entries(self.file)
        if self.name not in found:
            raise ValueError(f"{self.file} has no ENTRY {self.name}(...); it has {', '.join(found) or 'none'}")
        return found[self.name]


def _kernels(file: str, options: str, block: tuple[int, ...], *same: str, **references: str) -> list[Kernel]:
    """Kernels that are called like their reference, and kernels with a name of their own: ``name=reference``."""
    rows = {name: name for name in same} | references
    return [Kernel(name, file, tuple(options.split()), block, reference) for name, reference in rows.items()]


_ALL = [
    *_kernels("columns.cu", "REAL PACK", THREADS, "im2col", "col2im"),
    *_kernels("pooling.cu", "REAL PACK TAP", THREADS, "max_pool", "avg_pool", "l2_pool"),
    *_kernels("pooling.cu", "REAL PACK TAP", THREADS, "max_unpool", "avg_unpool", "l2_unpool"),
    *_kernels("elementwise.cu", "REAL PACK", THREADS, "rectify", "rectify_backward", "add", add_bias="affine"),
    *_kernels("elementwise.cu", "REAL PACK", THREADS, "philox", "drawn_above", "masked"),
    *_kernels("channels.cu", "REAL PACK", TILE, channel_sum_part="channel_sum"),
    *_kernels("channels.cu", "REAL PACK", TALL, channel_sum_end="channel_sum", channel_sum_short="channel_sum"),
    *_kernels("channels.cu", "REAL PACK", TILE, channel_moments_part="channel_moments"),
    *_kernels("channels.cu", "REAL PACK", TALL, channel_moments_end="channel_moments"),
    *_kernels("channels.cu", "REAL PACK", THREADS, "follow"),
    *_kernels("channels.cu", "REAL PACK", TILE, "normalise", normalise_backward_part="normalise_backward"),
    *_kernels("channels.cu", "REAL PACK", TILE, joined_backward_part="joined_backward"),
    *_kernels("channels.cu", "REAL PACK", TALL, normalise_backward_end="normalise_backward"),
    *_kernels("channels.cu", "REAL PACK", TILE, normalise_backward_dx="normalise_backward"),
    *_kernels("cross_entropy.cu", "REAL", TILE, cross_entropy_rows="cross_entropy"),
    *_kernels("cross_entropy.cu", "REAL", THREADS, "cross_entropy_backward"),
    *_kernels("optimizers.cu", "REAL", THREADS, sgd_update="sgd_updates", adam_update="adam_updates"),
    *_kernels("optimizers.cu", "REAL", THREADS, "all_finite", "unscale", "round_all"),
    *_kernels("convolution.cu", "REAL", THREADS, correlate_few="correlate"),
    *_kernels("convolution.cu", "REAL", THREADS, correlate_inputs_few="correlate_inputs"),
    *_kernels("convolution.cu", "REAL", THREADS, correlate_filters_few="correlate_filters"),
    *_kernels("banks.cu", "REAL", TILE, turn="correlate", turn_all="round_all"),
    *_kernels("banks.cu", "REAL", TILE, turn_gradients="sgd_updates"),
    *_kernels("batch.cu", "REAL PIXEL", THREADS, "gather_batch"),
]
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _ALL}
FILES: tuple[str, ...] = tuple(dict.fromkeys(kernel.file for kernel in _ALL))


# -- structures, laid out as in C --------------------------------------------------------------------------------------

DIVISOR = numpy.dtype([("divisor", "u4"), ("magic", "u4"), ("shift", "u4")])
KEY = numpy.dtype([(name, "u4") for name in ("seed_low", "seed_high", "step_low", "step_high")])
LAYOUT = numpy.dtype([(name, "i4") for name in ("total", "width", "C", "rows", "chunks", "chunk")])
BANK = numpy.dtype(
    [(name, "i4") for name in ("D", "C_group", "D_group")]
    + [(name, DIVISOR) for name in ("by_D", "by_C_group", "by_D_group")]
)
WINDOWS = numpy.dtype(
    [(name, "i4") for name in "H W C k1 k2 s1 s2 r1 r2 top bottom left right P Q".split()]
    + [(f"by_{name}", DIVISOR) for name in "H W C k1 k2 s1 s2 r1 r2 P Q".split()]
)
TENSOR = numpy.dtype(
    [(name, "u8") for name in ("w", "a", "b", "shadow", "old_w", "old_a", "old_b", "g")]
    + [(name, "i4") for name in ("size", "blocks")]
)
TENSORS = numpy.dtype([("at", TENSOR, (PER_LAUNCH,))])
TURN = numpy.dtype(
    [(name, "u8") for name in ("to", "from")] + [(name, "i4") for name in ("rows", "columns", "blocks")], align=True
)
TURNS = numpy.dtype([("at", TURN, (PER_LAUNCH,))])


def followed(wide: str) -> numpy.dtype:
    """Running statistics of up to PER_LAUNCH layers, aligned as in C; ``wide`` is float32 or float64."""
    arrays = ("new_mean", "new_variance", "moving_mean", "moving_variance", "mean", "variance")
    fields = [(name, "u8") for name in arrays] + [(name, wide) for name in ("keep", "rest", "unbias")]
    statistics = numpy.dtype([*fields, ("C", "i4"), ("blocks", "i4")], align=True)
    return numpy.dtype([("at", statistics, (PER_LAUNCH,))])


def turns(banks: Sequence[tuple[int, int, int, int]]) -> tuple[numpy.ndarray, int]:
    """Up to PER_LAUNCH matrices to turn, (to, from, rows, columns), as a structure; and how many blocks they need."""
    table, blocks = numpy.zeros((), TURNS), 0
    for k, (to, source, rows, columns) in enumerate(banks):
        blocks += tiles(rows, columns)
        table["at"][k] = (to, source, rows, columns, blocks)
    return table, blocks


def tiles(rows: int, columns: int) -> int:
    """How many blocks turn a matrix."""
    return -(-rows // SIDE) * -(-columns // SIDE)


def rule(wide: str) -> numpy.dtype:
    """The numbers of an optimizer's step, aligned as in C; ``wide`` is float32 or float64."""
    numbers = "lr weight_decay first second rest_1 rest_2 epsilon correction_1 correction_2".split()
    fields = [(name, wide) for name in numbers] + [("nesterov", "i4"), ("decoupled", "i4")]
    fields += [("beta_1", "f8"), ("beta_2", "f8"), ("device_lr", "u8"), ("device_steps", "u8")]
    fields += [("unscale", "u8"), ("finite", "u8")]
    return numpy.dtype(fields, align=True)


STRUCTURES = {"Divisor": DIVISOR, "Key": KEY, "Layout": LAYOUT, "Bank": BANK, "Windows": WINDOWS, "Tensors": TENSORS}


def divisor(n: int) -> tuple[int, int, int]:
    """Numbers to divide by n with one multiplication: ⌊i / n⌋ = (high word of i · magic + i) >> shift, 0 ≤ i < 2³¹."""
    shift = max(n - 1, 0).bit_length()
    return n, (2**32 * (2**shift - n)) // n + 1 if n else 0, shift


@functools.lru_cache(maxsize=1024)  # every launch asks, for one of the few sizes in a network
def divided_by(n: int) -> numpy.ndarray:
    """A divisor as an argument of its own."""
    return numpy.array(divisor(n), DIVISOR)


def structure(kind: str, **values: object) -> numpy.ndarray:
    """One structure, filled in; a field by_X that is not given is the divisor of X."""
    made = numpy.zeros((), STRUCTURES[kind])
    for name in made.dtype.names or ():
        value = values[name] if name in values else divisor(values[name.removeprefix("by_")])  # type: ignore[arg-type]
        made[name] = value
    return made


@functools.lru_cache(maxsize=1024)  # a network places the same windows in every step
def windows(at: Windows, channels: int) -> numpy.ndarray:
    """Where windows stand, on maps with this many packs of channels."""
    (top, bottom), (left, right) = at.pads
    (H, W), (k1, k2), (s1, s2), (r1, r2), (P, Q) = at.size, at.window, at.stride, at.dilation, at.grid
    return structure(
        "Windows", H=H, W=W, C=channels, k1=k1, k2=k2, s1=s1, s2=s2, r1=r1, r2=r2, top=top, bottom=bottom, left=left,
        right=right, P=P, Q=Q,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def layout(total: int, channels: int, blocks: int) -> numpy.ndarray:
    """A map of ``total`` packs as rows that about ``blocks`` blocks share: see kernels/channels.cu."""
    lanes, warps = TILE
    width = channels * max(1, lanes // channels)
    rows, tiles = -(-total // width), -(-width // lanes)
    chunk = warps * -(-rows * tiles // (warps * blocks))
    return structure(
        "Layout", total=total, width=width, C=channels, rows=rows, chunks=-(-rows // chunk), chunk=chunk
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def bank(shape: tuple[int, int, int, int], groups: int) -> numpy.ndarray:
    """A filter bank (k1, k2, C/g, D)."""
    return structure("Bank", D=shape[3], C_group=shape[2], D_group=shape[3] // groups)
