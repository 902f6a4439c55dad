"""Dropout: known answers of Philox, loops, equal masks on every backend, the share dropped, errors."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from oracles import prove

import dualnet as dn
from dualnet.ops.dropout import philox, philox4x32

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [  # counter, key, result: as distributed with Random123 (Salmon et al. 2011)
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def words(count, seed, step):
    return dn.to_numpy(philox(dn.asarray([0.0]), count, seed, step))


def mask_of(x, rate, key, **options):
    return dn.to_numpy(dn.ops.dropout(x, rate, key=key, **options)[1].saved["mask"])


# -- the generator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counter, key, result", KNOWN_ANSWERS)
def test_philox_known_answers(backend, counter, key, result):
    assert reference.philox4x32(counter, key) == result
    got = philox4x32(tuple(dn.asarray(np.asarray([c], np.uint64)) for c in counter), key)
    assert tuple(int(dn.to_numpy(word)[0]) for word in got) == result


@pytest.mark.parametrize("seed, step", [(0, 0), (1, 0), (0, 1), (2**32 + 5, 3 * 2**32 + 7), (2**64 - 1, 2**64 - 1)])
@pytest.mark.parametrize("count", [0, 1, 4, 7, 50])
def test_words_are_those_of_the_loops(backend, seed, step, count):
    got = words(count, seed, step)
    key = (seed & ONES, seed >> 32)
    want = [reference.philox4x32((i // 4, 0, step & ONES, step >> 32), key)[i % 4] for i in range(count)]
    assert got.dtype == np.uint32 and got.tolist() == want


def test_words_are_evenly_distributed():
    drawn = words(200_000, seed=3, step=1)
    assert abs(drawn.mean() / 2**32 - 0.5) < 5 / np.sqrt(12 * drawn.size)
    share_of_ones = np.unpackbits(drawn.view(np.uint8)).reshape(drawn.size, 32).mean(axis=0)
    assert np.abs(share_of_ones - 0.5).max() < 5 * 0.5 / np.sqrt(drawn.size)
    uniform = drawn / 2**32 - 0.5
    for lag in (1, 2, 3, 4, 5):  # neighbours, and the same word of neighbouring blocks
        assert abs(np.mean(uniform[lag:] * uniform[:-lag]) * 12) < 5 / np.sqrt(drawn.size)


# -- the op ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4, 5), (), (0, 3)])
@pytest.mark.parametrize("rate, key", [(0.5, 7), (0.2, (2**40 + 1, 12)), (0.0, 3), (0.93, 2**64 - 1)])
def test_dropout(backend, rng, shape, rate, key):
    x = np.asarray(rng.standard_normal(shape))
    if x.size:
        prove("dropout", [x], {"rate": rate, "key": key}, K=1, linear=[0])
    else:
        assert dn.ops.dropout(dn.asarray(x), rate, key=key)[0].shape == shape


def test_the_mask_is_the_same_on_every_backend_and_dtype(rng):
    x, masks = rng.standard_normal((5, 6, 7)), []
    for name in dn.available_backends():
        with dn.use_backend(name):
            masks += [mask_of(dn.asarray(x, dtype), 0.4, (9, 2)) for dtype in ("float16", "float32", "float64")]
    assert all(mask.tobytes() == masks[0].tobytes() for mask in masks)
    np.testing.assert_array_equal(masks[0], reference.dropout(np.ones(x.shape), 0.4, key=(9, 2)) > 0)


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_the_share_that_is_dropped(backend, rate):
    x = dn.asarray(np.ones((400, 250), np.float32))
    y, pullback = dn.ops.dropout(x, rate, key=5)
    dropped = 1 - dn.to_numpy(pullback.saved["mask"]).mean()
    assert abs(dropped - rate) < 5 * np.sqrt(rate * (1 - rate) / 100_000)
    kept = dn.to_numpy(y)
    assert set(np.unique(kept)) == {np.float32(0), np.float32(1 / (1 - rate))}
    assert abs(kept.mean() - 1) < 5 * np.sqrt(rate / (1 - rate) / 100_000)


def test_a_key_is_a_mask(backend):
    x = dn.asarray(np.ones(4000, np.float32))
    mask = mask_of(x, 0.5, (8, 1))
    np.testing.assert_array_equal(mask, mask_of(x, 0.5, (8, 1)))
    np.testing.assert_array_equal(mask_of(x, 0.5, 8), mask_of(x, 0.5, (8, 0)))
    np.testing.assert_array_equal(mask[:2000], mask_of(x[:2000], 0.5, (8, 1)))
    assert not (mask & ~mask_of(x, 0.25, (8, 1))).any()  # a lower rate keeps all that a higher one keeps
    for other in [(8, 2), (9, 1), (8 + 2**32, 1), (8, 1 + 2**32), (1, 8)]:
        assert 0.4 < (mask == mask_of(x, 0.5, other)).mean() < 0.6


def test_what_dropout_keeps(backend):
    x = dn.asarray(np.ones((3, 5)))
    _, pullback = dn.ops.dropout(x, 0.5, key=0)
    assert list(pullback.saved) == ["mask"] and pullback.nbytes == 15  # one byte for each unit
    y, pullback = dn.ops.dropout(x, 0.0, key=0)
    assert y is x and pullback(x) is x and pullback.nbytes == 0


def test_rates_at_the_limits(backend):
    x = dn.asarray(np.ones(1000))
    assert mask_of(x, 1e-15, 0).all()
    almost = dn.ops.dropout(x, 1 - 1e-15, key=0)[0]  # ⌈rate · 2³²⌉ is 2³² here, which no word reaches
    assert not dn.to_numpy(almost).any()


@pytest.mark.parametrize("shared, small", [((1, 2), (4, 1, 1, 3)), ((0,), (1, 5, 6, 3)), ((-1, 1), (4, 1, 6, 1))])
def test_shared_axes(backend, rng, shared, small):
    x = rng.standard_normal((4, 5, 6, 3))
    prove("dropout", [x], {"rate": 0.4, "key": (1, 2), "shared_axes": shared}, K=1, linear=[0])
    mask = mask_of(dn.asarray(x), 0.4, (1, 2), shared_axes=shared)
    np.testing.assert_array_equal(mask, mask_of(dn.asarray(np.ones(small)), 0.4, (1, 2)))
    assert mask.shape == small


@pytest.mark.parametrize("rate", [1.0, 1, -0.1, float("nan"), float("inf"), 2, 1e18, None, "0.5", (0.5,), True, 1j])
def test_rates_that_are_refused(rate):
    with pytest.raises((TypeError, ValueError), match="dropout: rate"):
        dn.ops.dropout(dn.asarray([1.0]), rate, key=0)


@pytest.mark.parametrize(
    "key", [-1, 2**64, (0, -1), (0, 2**64), (1, 2, 3), (), None, 1.0, "a", (0, None), True, (0, True)]
)
def test_keys_that_are_refused(key):
    with pytest.raises((TypeError, ValueError), match="dropout: .*key"):
        dn.ops.dropout(dn.asarray([1.0]), 0.5, key=key)


@pytest.mark.parametrize("axes", [1, None, "12", (2,), (-3,), (0.5,), (True,), [None]])
def test_shared_axes_that_are_refused(axes):
    with pytest.raises((TypeError, ValueError), match="dropout: .*axes"):
        dn.ops.dropout(dn.asarray([[1.0]]), 0.5, key=0, shared_axes=axes)


def test_numpy_scalars_are_taken(backend):
    x = dn.asarray(np.ones(20, np.float32))
    y, _ = dn.ops.dropout(x, np.float64(0.5), key=(np.uint64(2**63), np.int32(1)))
    assert y.dtype == "float32"
    np.testing.assert_array_equal(dn.to_numpy(y) > 0, mask_of(x, 0.5, (2**63, 1)))


def test_rows_that_share_one_fate_share_it_wherever_they_stand(backend):
    x = dn.asarray(np.ones((6, 5), "float32"))
    whole = dn.to_numpy(dn.ops.dropout(x, 0.5, key=(3, 1), shared_axes=(0,))[0])
    part = dn.to_numpy(dn.ops.dropout(x[2:4], 0.5, key=(3, 1), shared_axes=(0,), first_row=2)[0])
    assert np.array_equal(part, whole[2:4]) and 0 < (whole[0] == 0).sum() < 5
