"""Every CUDA kernel: its file, its arguments, its threads, and the structures that it is handed.

The sources are ``kernels/*.cu``; ``kernels/common.h`` is put into each of them before it is compiled, so that a file's
text is complete, and what was compiled is found again by its text alone. Signatures stand here as they stand there (a
test compares them): they decide how an argument is converted when the kernel is launched.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy

from dualnet.geometry import Windows

FOLDER = Path(__file__).parent / "kernels"
INCLUDE = '#include "common.h"\n'
THREADS = (256,)
TILE = (32, 8)
"""Threads of a block that owns 32 columns, or 8 rows by a warp each."""
TALL = (32, 32)
"""Threads of a block that adds up what others have left of 32 columns."""

REAL = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}
"""What ``real`` is in C, by NumPy's name."""
WIDE = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
"""The dtype in which sums are kept."""
TAP = {"uint8": "unsigned char", "int32": "int"}
LIMIT = 2**31 - 2**16
"""Arrays of as many elements are left to the references: kernels count in 32 bits."""

MOST, EACH = 40, 1024
"""Tensors of one launch, and elements of one block, in kernels/optimizers.cu; banks of one in kernels/banks.cu."""
SIDE = 32
"""Rows and columns that a block turns."""


@dataclass(frozen=True)
class Kernel:
    """One entry point. ``together``: the threads of a block wait for each other, or talk within a warp."""

    name: str
    file: str
    signature: str
    reference: str
    block: tuple[int, ...] = THREADS
    together: bool = False
    options: tuple[str, ...] = ("REAL",)

    @property
    def types(self) -> tuple[str, ...]:
        """The type of each argument, without its name."""
        return tuple(part.rpartition(" ")[0].strip() for part in self.signature.split(","))


def _file(file: str, options: str, *entries: tuple) -> list[Kernel]:
    named = []
    for name, reference, signature, *rest in entries:
        together = bool(rest and rest[0])
        block = rest[1] if len(rest) > 1 else TILE if together else THREADS
        named.append(Kernel(name, file, signature, reference, block, together, tuple(options.split())))
    return named


_ALL = [
    *_file(
        "columns.cu",
        "REAL PACK",
        ("im2col", "im2col", "Pack* columns, const Pack* x, int count, Windows at"),
        ("col2im", "col2im", "Pack* x, const Pack* columns, int count, Windows at"),
    ),
    *_file(
        "pooling.cu",
        "REAL PACK TAP",
        ("max_pool", "max_pool", "Pack* y, Taps* winners, const Pack* x, int count, Windows at, int relu"),
        ("avg_pool", "avg_pool", "Pack* y, const Pack* x, int count, Windows at, int counted"),
        ("l2_pool", "l2_pool", "Pack* y, const Pack* x, int count, Windows at"),
        (
            "max_unpool",
            "max_unpool",
            "Pack* dx, const Pack* dy, const Pack* y, const Taps* winners, int count, Windows at",
        ),
        ("avg_unpool", "avg_unpool", "Pack* dx, const Pack* dy, int count, Windows at, int counted"),
        ("l2_unpool", "l2_unpool", "Pack* dx, const Pack* dy, const Pack* x, const Pack* y, int count, Windows at"),
    ),
    *_file(
        "elementwise.cu",
        "REAL PACK",
        ("rectify", "rectify", "Pack* y, const Pack* x, int count"),
        ("rectify_backward", "rectify_backward", "Pack* dx, const Pack* dy, const Pack* y, int count"),
        ("add", "add", "Pack* y, const Pack* x, const Pack* other, int count, int relu"),
        ("add_bias", "affine", "Pack* y, const Pack* b, int count, Divisor by_C, int relu"),
        ("philox", "philox", "unsigned int* words, int count, Key key, const unsigned long long* steps"),
        (
            "drawn_above",
            "drawn_above",
            "unsigned char* mask, int count, Key key, const unsigned long long* steps, unsigned int limit",
        ),
        ("masked", "masked", "Pack* y, const Pack* x, const Flags* mask, int count, wide scale"),
    ),
    *_file(
        "channels.cu",
        "REAL PACK",
        ("channel_sum_part", "channel_sum", "wide* partial, const Pack* x, Layout in", True),
        ("channel_sum_end", "channel_sum", "real* out, const wide* partial, int terms, int C, wide scale", True, TALL),
        ("channel_sum_short", "channel_sum", "real* out, const real* x, int terms, int C, wide scale", True, TALL),
        ("channel_moments_part", "channel_moments", "wide* partial, const Pack* x, Layout in", True),
        (
            "channel_moments_end",
            "channel_moments",
            "wide* mean, wide* variance, const wide* partial, Layout in",
            True,
            TALL,
        ),
        (
            "follow",
            "follow",
            "wide* new_mean, wide* new_variance, const wide* moving_mean, const wide* moving_variance, "
            "const wide* mean, const wide* variance, wide keep, wide rest, wide unbias, int C",
        ),
        (
            "normalise",
            "normalise",
            "Pack* y, const Pack* x, const wide* mean, const wide* variance, const wide* gamma, const wide* beta, "
            "wide epsilon, int relu, Layout in",
            False,
            TILE,
        ),
        (
            "normalise_backward_part",
            "normalise_backward",
            "wide* partial, const Pack* dy, const Pack* x, const Pack* y, const wide* mean, Layout in",
            True,
        ),
        (
            "normalise_backward_end",
            "normalise_backward",
            "wide* roads, const wide* partial, const wide* variance, wide epsilon, Layout in",
            True,
            TALL,
        ),
        (
            "normalise_backward_dx",
            "normalise_backward",
            "Pack* dx, const Pack* dy, const Pack* x, const Pack* y, const wide* roads, const wide* mean, "
            "const wide* variance, const wide* gamma, wide epsilon, Layout in",
            False,
            TILE,
        ),
    ),
    *_file(
        "cross_entropy.cu",
        "REAL",
        (
            "cross_entropy_rows",
            "cross_entropy",
            "real* log_p, wide* losses, const real* y, const long long* t, int rows, int C, wide smoothing",
            True,
        ),
        (
            "cross_entropy_backward",
            "cross_entropy_backward",
            "real* dy, const real* log_p, const long long* t, const wide* dloss, wide factor, int count, int rows, "
            "Divisor by_C, wide smoothing",
        ),
    ),
    *_file(
        "optimizers.cu",
        "REAL",
        ("sgd_update", "sgd_update", "Tensors all, Rule rule"),
        ("adam_update", "adam_update", "Tensors all, Rule rule"),
        ("all_finite", "all_finite", "Tensors all, unsigned char* finite"),
        ("unscale", "unscale", "Tensors all, const wide* by"),
        ("round_all", "round_all", "Tensors all"),
    ),
    *_file(
        "convolution.cu",
        "REAL",
        (
            "correlate_few",
            "correlate",
            "real* y, const real* x, const real* w, const real* b, int count, Windows at, Bank bank, int relu",
        ),
        (
            "correlate_inputs_few",
            "correlate_inputs",
            "real* dx, const real* dy, const real* w, int count, Windows at, Bank bank",
        ),
        (
            "correlate_filters_few",
            "correlate_filters",
            "wide* partial, const real* x, const real* dy, int weights, int places, int chunk, Windows at, Bank bank",
        ),
    ),
    *_file(
        "banks.cu",
        "REAL",
        ("turn", "correlate", "real* to, const real* from, int rows, int columns", True),
        ("turn_all", "round_all", "Turns all", True),
    ),
    *_file(
        "batch.cu",
        "REAL PIXEL",
        (
            "gather_batch",
            "gather_batch",
            "real* y, const pixel* x, const int* order, const signed char* moves, const wide* mean, const wide* scale, "
            "int count, int H, int W, Divisor by_H, Divisor by_W, Divisor by_C",
        ),
    ),
]
KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _ALL}
FILES: tuple[str, ...] = tuple(dict.fromkeys(kernel.file for kernel in _ALL))


@functools.cache
def source(file: str) -> str:
    """A kernel file with ``common.h`` in its place: complete, and with the line numbers of the files in messages."""
    text, common = ((FOLDER / name).read_text(encoding="utf-8") for name in (file, "common.h"))
    before, found, after = text.partition(INCLUDE)
    if not found:
        raise ValueError(f"{file} does not say {INCLUDE.strip()}")
    line = before.count("\n") + 2
    return f'{before}#line 1 "common.h"\n{common}\n#line {line} "{file}"\n{after}'


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
TENSORS = numpy.dtype([("at", TENSOR, (MOST,))])
TURN = numpy.dtype(
    [(name, "u8") for name in ("to", "from")] + [(name, "i4") for name in ("rows", "columns", "blocks")], align=True
)
TURNS = numpy.dtype([("at", TURN, (MOST,))])


def rule(wide: str) -> numpy.dtype:
    """How an optimizer steps; aligned as C does it, for floats of either width."""
    numbers = "lr weight_decay first second rest_1 rest_2 epsilon correction_1 correction_2".split()
    fields = [(name, wide) for name in numbers] + [("nesterov", "i4"), ("decoupled", "i4")]
    fields += [("beta_1", "f8"), ("beta_2", "f8"), ("device_lr", "u8"), ("device_steps", "u8")]
    fields += [("unscale", "u8"), ("finite", "u8")]
    return numpy.dtype(fields, align=True)


STRUCTURES = {"Divisor": DIVISOR, "Key": KEY, "Layout": LAYOUT, "Bank": BANK, "Windows": WINDOWS, "Tensors": TENSORS}


def divisor(n: int) -> tuple[int, int, int]:
    """What divides by n with one multiplication: ⌊i / n⌋ = (high word of i · magic + i) >> shift, for 0 ≤ i < 2³¹."""
    shift = max(n - 1, 0).bit_length()
    return n, (2**32 * (2**shift - n)) // n + 1 if n else 0, shift


def divided_by(n: int) -> numpy.ndarray:
    """A divisor that a kernel is handed by itself."""
    return numpy.array(divisor(n), DIVISOR)


def structure(kind: str, **values: object) -> numpy.ndarray:
    """One structure, filled in; a field by_X is the divisor of X if nothing else is said."""
    made = numpy.zeros((), STRUCTURES[kind])
    for name in made.dtype.names or ():
        value = values[name] if name in values else divisor(values[name.removeprefix("by_")])  # type: ignore[arg-type]
        made[name] = value
    return made


@functools.lru_cache(maxsize=1024)  # a network places the same windows in every step
def windows(at: Windows, channels: int) -> numpy.ndarray:
    """Where windows stand, for maps of so many packs of channels."""
    (top, bottom), (left, right) = at.pads
    (H, W), (k1, k2), (s1, s2), (r1, r2), (P, Q) = at.size, at.window, at.stride, at.dilation, at.grid
    return structure(
        "Windows", H=H, W=W, C=channels, k1=k1, k2=k2, s1=s1, s2=s2, r1=r1, r2=r2, top=top, bottom=bottom, left=left,
        right=right, P=P, Q=Q,
    )  # fmt: skip


@functools.lru_cache(maxsize=1024)
def layout(total: int, channels: int, blocks: int) -> numpy.ndarray:
    """A map of so many packs as rows, which about so many blocks share: see kernels/channels.cu."""
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
