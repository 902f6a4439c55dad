"""Dropout, and the counter-based random numbers that decide which units are dropped.

    E7    forward    y = m · x / (1 − rate),   m is 0 for the dropped units, 1 for the others
    E14   pullback   dx = m · dy / (1 − rate)

m does not come from a stream of random numbers: it depends only on the key and on the unit's position. Unit i, counted
in row-major order, gets word i mod 4 of Philox(counter = ⌊i/4⌋ and step, key = seed), and stays if that word is at
least rate · 2³². So the same key drops the same units on every backend, in any order of calls, and the state of the
generator is just two integers.

Source: Srivastava et al. (2014), but scaled during training, so that inference needs no factor; Philox4x32-10 from
Salmon, Moraes, Dror and Shaw (2011), *Parallel random numbers: as easy as 1, 2, 3*, section 3.3.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from ..arguments import fraction, integer
from ..shim import Array, accelerated, backend_of, namespace
from .pullback import Pullback
from .sums import rounded_once

__all__ = ["dropout"]

Key = int | tuple[int, int]

WORD = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # each round adds these to the key: the golden ratio and √3 − 1, times 2³²


def dropout(
    x: Array, rate: float, *, key: Key, shared_axes: Sequence[int] = (), first_row: int = 0
) -> tuple[Array, Pullback]:
    """Drop each unit with probability ``rate``, and scale the others by 1 / (1 − rate), which keeps the mean (E7).

    x of any shape and floating dtype -> y of the same; ``pullback(dy)`` returns dx, which is 0 for a dropped unit
    (E14). A dropped unit is exactly 0, even if it was infinite or NaN. ``rate`` is the share that is DROPPED,
    0 <= rate < 1; with 0 the result is x itself. ``key`` is a seed or ``(seed, step)``, both at least 0 and below
    2**64; the same key drops the same units. Units along ``shared_axes`` are dropped together: ``(1, 2)`` drops whole
    channels of a feature map. The pullback keeps the mask, 1 byte per unit.

    ``first_row``: x holds the rows of a larger batch from this row on, and gets the same mask as those rows.

    Raises ``ValueError`` or ``TypeError`` for an invalid rate, key or axis.

    >>> import dualnet as dn
    >>> x = dn.asarray([[1.0, 2.0, 3.0, 4.0]])
    >>> y, pullback = dn.ops.dropout(x, 0.5, key=(0, 3))
    >>> dn.to_numpy(y), dn.to_numpy(pullback(x))
    (array([[2., 0., 6., 8.]], dtype=float32), array([[2., 0., 6., 8.]], dtype=float32))
    """
    xp = namespace("dropout", x=x)
    rate = fraction(rate, "rate", op="dropout")
    seed, step = check_key(key)
    shape = shared_shape(x.shape, shared_axes)
    first = integer(first_row, "first_row", op="dropout", least=0) * math.prod(shape[1:])  # words before those of x
    if any(axis % len(x.shape) == 0 for axis in shared_axes):
        first = 0  # all rows share one mask, so their position does not matter
    if rate == 0.0:
        return x, Pullback("dropout", lambda dy: dy, x)
    limit = math.ceil(rate * 2**32) - 1  # word > limit is word >= ⌈rate · 2³²⌉, which may not fit a word
    mask = xp.reshape(drawn_above(x, math.prod(shape), seed, step, limit, first), shape)
    scale = 1.0 / (1.0 - rate)
    y = masked(x, mask, scale)  # E7

    def pullback(dy: Array) -> Array:
        return masked(dy, mask, scale)  # E14

    return y, Pullback("dropout", pullback, y, mask=mask)


@accelerated
@rounded_once
def masked(x: Array, mask: Array, scale: float) -> Array:
    """E7, E14: x · scale where the mask is 1, and exactly 0 where it is 0, for any x."""
    return backend_of(x).xp.where(mask, x, 0.0) * scale


@accelerated
def drawn_above(x: Array, count: int, seed: int, step: int, limit: int, first: int = 0) -> Array:
    """Which of ``count`` random words, from word ``first`` on, are above ``limit``, on the backend of x."""
    return philox(x, count, seed, step, first) > limit


@accelerated
def philox(x: Array, count: int, seed: int, step: int, first: int = 0) -> Array:
    """``count`` random words (uint32), from word ``first`` on, on the backend of x: Philox4x32-10, four per counter.

    Word i is word i mod 4 of the block with counter words ⌊i/4⌋ low, ⌊i/4⌋ high, step low, step high and key words
    seed low, seed high.

    >>> import dualnet as dn
    >>> [f"{word:08x}" for word in dn.to_numpy(philox(dn.asarray([0.0]), 4, seed=0, step=0))]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    xp = backend_of(x).xp
    before, skipped = divmod(first, 4)  # whole blocks, and words of the first block that is needed
    block = xp.arange((skipped + count + 3) // 4, dtype="uint64") + before
    words = philox4x32((block & WORD, block >> 32, step & WORD, step >> 32), (seed & WORD, seed >> 32))
    words = xp.stack([word.astype("uint32") for word in words], axis=-1)  # (⌈count/4⌉, 4)
    return xp.reshape(words, (-1,))[skipped : skipped + count]


def philox4x32(counter: tuple, key: tuple[int, int]) -> tuple:
    """The ten rounds. A word is the lower half of a uint64: an array, or a Python int if it is the same for all."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]  # 32 × 32 -> 64 bits
        c0, c1 = (product1 >> 32) ^ c1 ^ k0, product1 & WORD
        c2, c3 = (product0 >> 32) ^ c3 ^ k1, product0 & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def check_key(key: Any) -> tuple[int, Any]:
    """``seed | (seed, step)`` as two integers of 64 bits."""
    both = key if isinstance(key, (tuple, list)) else (key, 0)
    if len(both) != 2:
        raise ValueError(f"dropout: key must be a seed or (seed, step), got {key!r}")
    if any(isinstance(n, bool) or not hasattr(n, "__index__") for n in both if not _on_device(n)):
        raise TypeError(f"dropout: key must be one integer or two, (seed, step), got {key!r}")
    if _on_device(both[1]):  # in a captured step the device counts
        return operator.index(both[0]), both[1]
    seed, step = map(operator.index, both)
    if not (0 <= seed < 2**64 and 0 <= step < 2**64):
        raise ValueError(f"dropout: seed and step of a key must be at least 0 and below 2**64, got {key!r}")
    return seed, step


def _on_device(number: Any) -> bool:
    """Is this an array on a device? While a step is recorded, arrays on the host count too: they have no value yet."""
    backend = backend_of(number)
    return backend is not None and (not backend.on_host or hasattr(number, "recorded"))


def shared_shape(shape: Sequence[int], shared_axes: Any) -> tuple[int, ...]:
    """The shape of the mask: that of x, but 1 along the shared axes."""
    if not isinstance(shared_axes, (tuple, list)) or any(
        isinstance(axis, bool) or not hasattr(axis, "__index__") for axis in shared_axes
    ):
        raise TypeError(f"dropout: shared_axes must be integers such as (1, 2), got {shared_axes!r}")
    if any(not -len(shape) <= axis < len(shape) for axis in shared_axes):
        raise ValueError(f"dropout: x has shape {tuple(shape)}, which lacks some of shared_axes={tuple(shared_axes)}")
    shared = {operator.index(axis) % len(shape) for axis in shared_axes}
    return tuple(1 if axis in shared else n for axis, n in enumerate(shape))
