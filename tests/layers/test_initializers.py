"""Initial weights: the right spread, the right streams."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dualnet as dn
from dualnet.layers.initializers import NAMES, Draw, as_initializer

VARIANCE = {  # for fan_in 300, fan_out 100
    "zeros": 0,
    "ones": 0,
    "he_normal": 2 / 300,
    "he_uniform": 2 / 300,
    "glorot_normal": 2 / 400,
    "glorot_uniform": 2 / 400,
    "lecun_normal": 1 / 300,
    "lecun_uniform": 1 / 300,
}


@pytest.mark.parametrize("name", VARIANCE)
def test_spread(name, rng):
    w = as_initializer(name)(rng, (300, 400), 300, 100)
    assert w.var() == pytest.approx(VARIANCE[name], rel=0.02)
    assert w.mean() == (1 if name == "ones" else pytest.approx(0, abs=4 * math.sqrt(VARIANCE[name] / w.size)))
    if name.endswith("uniform"):
        assert abs(w).max() <= math.sqrt(3 * VARIANCE[name])


def test_every_initializer_is_tested():
    assert set(NAMES) == {*VARIANCE, "orthogonal"}


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (2, 2, 1, 9), (5, 5)])
def test_orthogonal(shape, rng):
    w = as_initializer("orthogonal")(rng, shape, 1, 1)
    m = w.reshape(-1, shape[-1])
    square = m.T @ m if m.shape[0] >= m.shape[1] else m @ m.T
    assert w.shape == shape and np.allclose(square, np.eye(len(square)), atol=1e-14)


def test_fans_count_what_meets():
    """A convolution's output unit sees k1·k2·C/g inputs: unit variance in, variance 2 out before the ReLU."""
    seen = []
    layer = dn.Conv2D(6, (3, 2), groups=2, initializer=lambda r, s, i, o: seen.append((s, i, o)) or np.zeros(s))
    layer.init((8, 8, 4))
    assert seen == [((3, 2, 2, 6), 12, 18)]
    seen.clear()
    dn.Conv2DTranspose(6, (3, 2), groups=2, initializer=layer.initializer).init((8, 8, 4))
    assert seen == [((3, 2, 3, 4), 12, 18)]


def test_streams_do_not_depend_on_the_neighbours(backend):
    short = dn.Sequential([dn.Conv2D(2, 3), dn.Conv2D(2, 3)]).init((9, 9, 1), seed=4)
    long = dn.Sequential([dn.Conv2D(2, 3), dn.Conv2D(2, 3, use_bias=False), dn.Conv2D(3, 3)]).init((9, 9, 1), seed=4)
    for name in ("0.w", "1.w"):
        assert np.array_equal(*(dn.to_numpy(net.parameters()[name].value) for net in (short, long)))
    assert not np.array_equal(*(dn.to_numpy(short.parameters()[name].value)[..., 0, 0] for name in ("0.w", "1.w")))


def test_nested_places_have_streams_of_their_own():
    keys = {Draw(0, path=path).key() for path in [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]}
    assert len(keys) == 6


def test_an_initializer_of_the_wrong_shape():
    with pytest.raises(ValueError, match="returned shape .2,., expected .3, 3, 1, 2."):
        dn.Conv2D(2, 3, initializer=lambda rng, shape, fan_in, fan_out: np.zeros(2)).init((4, 4, 1))
    with pytest.raises(ValueError, match="returned shape .2,., expected .3, 3, 1, 2."):
        dn.Conv2D(2, 3, initializer=lambda rng, shape, fan_in, fan_out: [0.0, 0.0]).init((4, 4, 1))


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True])
def test_seeds_are_counts(seed):
    with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
        dn.Conv2D(2, 3).init((4, 4, 1), seed=seed)


def test_equal_layers_get_different_weights(backend):
    net = dn.Sequential([dn.Conv2D(2, 3), dn.Conv2D(2, 3), dn.Sequential([dn.Conv2D(2, 3)])]).init((9, 9, 2), seed=4)
    banks = {dn.to_numpy(net.parameters()[name].value).tobytes() for name in ("0.w", "1.w", "2.0.w")}
    assert len(banks) == 3


def test_orthogonal_draws_have_both_signs():
    """What QR returns has signs by convention; a 1 × 1 matrix would always be 1."""
    drawn = [as_initializer("orthogonal")(np.random.default_rng(seed), (1, 1), 1, 1).item() for seed in range(20)]
    assert set(drawn) == {-1.0, 1.0}
