"""Which algorithm is asked first for a convolution, by kind of processor and shape: a fixed table, from measurements.

The first rule that fits a call says which algorithms are asked first, in this order. All others follow in the order of
``ORDER`` in numpy_backend.py, and one that cannot serve the call declines. So a rule also works without oneDNN: the
next algorithm takes over. Rules look at shapes and at the kind of processor, never at the clock, so that machines of
one kind compute the same bits.

To change a rule, measure on that kind of machine: ``dualnet tune`` does, and its file shows every time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dualnet.geometry import Windows

from . import machine

FORWARD, INPUTS, FILTERS = "correlate", "correlate_inputs", "correlate_filters"
ONEDNN, TILES, ROWS = "oneDNN", "numpy winograd", "numpy winograd rows"  # TILES: in both directions
COLUMNS, TAPS = "numpy columns", "numpy taps"
TILE = 8
"""The size of Winograd's tile, in both directions."""


class Shape(NamedTuple):
    """What the choice depends on: the function, and the shapes of its arguments."""

    function: str
    images: int
    channels: int
    filters: int
    at: Windows
    dtype: str

    @property
    def winograd(self) -> bool:
        """3 × 3 filters at stride 1?"""
        return self.at.window == (3, 3) and self.at.stride == self.at.dilation == (1, 1)

    @property
    def pairs(self) -> int:
        """C·D, the numbers of a bank in one tap."""
        return self.channels * self.filters

    @property
    def map(self) -> int:
        """H'·W', the output positions of one image."""
        return self.at.grid[0] * self.at.grid[1]

    @property
    def work(self) -> int:
        """Multiplications of the plain sum."""
        return self.images * self.map * self.at.taps * self.pairs

    @property
    def small(self) -> bool:
        """Have all maps together no more positions than channels? Then the bank is larger than the maps."""
        return self.images * self.map <= min(self.channels, self.filters)

    @property
    def tall(self) -> bool:
        """Do Winograd's products, of (tiles, C) and (C, D), have at least as many rows as columns? Otherwise the bank
        costs more than the maps."""
        return self.images * self.map >= TILE * max(self.channels, self.filters)


class Rule(NamedTuple):
    """If the condition holds, these algorithms are asked first."""

    first: tuple[str, ...]
    functions: tuple[str, ...]
    fits: Callable[[Shape], bool]


ALL = (FORWARD, INPUTS, FILTERS)

# Intel, AVX-512, 2 cores: measured in November 2026, when each kernel was written, with oneDNN 3.2, which is nearly
# always the fastest there. An unknown processor gets these rules too.
ON_INTEL = (
    Rule((TILES, ONEDNN), (FORWARD, INPUTS), lambda s: s.winograd and s.pairs >= 2**14 and s.map >= 2**8),
    Rule((ONEDNN, ROWS), ALL, lambda s: s.winograd and s.pairs <= 2**11),
    Rule((ONEDNN, TILES), ALL, lambda s: s.winograd),
)

# AMD Zen 3, AVX2, 2 cores: measured in November 2026 with oneDNN 3.2, whose dw runs at half the speed of its forward
# pass there. In GFLOP/s, oneDNN / NumPy: dw 63 / 131 for 32 → 32 on 32², 79 / 117 for 64 → 64 on 16², 74 / 133 for
# 128 → 128 on 8², 44 / 111 for 512 → 512 on 4² (by taps); forward 93 / 105 for 64 → 128 and 133 / 155 for 128 → 128 on
# 8², 54 / 80 for 512 → 512 on 4² (by columns).
ON_AVX2 = (
    Rule((TAPS, ONEDNN), (FILTERS,), lambda s: s.small and s.work >= 2**28 and s.pairs >= 2**18),
    Rule((COLUMNS, ONEDNN), (FORWARD,), lambda s: s.small and s.work >= 2**28 and s.pairs >= 2**18),
    Rule((ROWS, ONEDNN), (FILTERS,), lambda s: s.winograd and s.work >= 2**28 and 2**10 <= s.pairs <= 2**12),
    Rule(
        (TILES, ONEDNN),
        (FILTERS,),
        lambda s: s.winograd and s.work >= 2**28 and s.pairs > 2**12 and s.map >= 2**6,
    ),
    Rule((TILES, ONEDNN), (FORWARD, INPUTS), lambda s: s.winograd and s.pairs >= 2**14 and s.map >= 2**8),
    Rule(
        (TILES, ONEDNN),
        (FORWARD, INPUTS),
        lambda s: s.winograd and s.work >= 2**28 and 2**13 <= s.pairs <= 2**14 and s.map >= 2**6,
    ),
    Rule((ONEDNN, ROWS), ALL, lambda s: s.winograd and s.pairs <= 2**12),
    Rule((ONEDNN, TILES), ALL, lambda s: s.winograd),
)

# AMD Zen 4, AVX-512, 2 cores: measured in December 2026 with oneDNN 3.2 and OpenBLAS 0.3.31. Winograd's kernels are the
# fastest where the work is worth waking NumPy's threads between oneDNN's: VGG-6 trains in 0.8 times the time. With less
# work it is not: the layers of ResNet-20 with 2**27 multiplications are 5 to 15 % faster alone, and made a whole step
# 1.4 times as long. In GFLOP/s, oneDNN / NumPy: forward 219 / 290 for 32 → 32 on 32² and 265 / 386 for 128 → 128 on 8²;
# dw 77 / 132 and 253 / 358; dx 127 / 351 for 64 → 64 on 32²; dw 149 / 161 for 512 → 512 on 4² (by taps).
ON_AMD = (
    Rule((TAPS, ONEDNN), (FILTERS,), lambda s: s.small and s.work >= 2**28),
    Rule((ONEDNN, TAPS), (FILTERS,), lambda s: s.small),
    Rule((ONEDNN, TAPS), (FORWARD, INPUTS), lambda s: s.small and s.pairs >= 2**16),
    Rule((ROWS, ONEDNN), ALL, lambda s: s.winograd and s.work >= 2**28 and s.pairs <= 2**10),
    Rule((TILES, ONEDNN), ALL, lambda s: s.winograd and s.work >= 2**28 and s.tall),
    Rule((ONEDNN, ROWS), ALL, lambda s: s.winograd and s.pairs <= 2**11),
    Rule((ONEDNN, TILES), ALL, lambda s: s.winograd),
)

TABLES = {machine.INTEL: ON_INTEL, machine.AMD: ON_AMD, machine.AVX2: ON_AVX2, machine.OTHER: ON_INTEL}


def first(shape: Shape) -> tuple[str, ...]:
    """The algorithms that the table asks first for this shape on this machine; none if it has no rule."""
    for rule in TABLES[machine.kind()]:
        if shape.function in rule.functions and rule.fits(shape):
            return rule.first
    return ()
