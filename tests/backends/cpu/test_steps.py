"""SGD's and Adam's step on NumPy: the references' numbers to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from dualnet.backend import references
from dualnet.backends.cpu import steps

SHAPES = [(3, 3, 2, 5), (7,), (400, 300), (1,), (0,), ()]


@pytest.fixture(params=["1", "3"])
def team(request, monkeypatch):
    monkeypatch.setenv("DUALNET_THREADS", request.param)
    monkeypatch.setattr(steps, "LEAST", 0)
    monkeypatch.setattr(steps, "PIECE", 1000)


def drawn(rng, dtype, names):
    w, g = ([np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES] for _ in range(2))
    return (
        w,
        g,
        [{name: np.abs(np.asarray(rng.standard_normal(shape))).astype(dtype) for name in names} for shape in SHAPES],
    )


def agree(name, *arguments):
    before = [a.copy() for a in arguments[0]]
    made, expected = getattr(steps, name)(*arguments), references[name].reference(*arguments)
    for (value, kept), (want, slots), old in zip(made, expected, arguments[0], strict=True):
        assert value.dtype == want.dtype and value.shape == want.shape and value.tobytes() == want.tobytes()
        assert kept.keys() == slots.keys() and all(kept[k].tobytes() == slots[k].tobytes() for k in slots)
        assert not np.shares_memory(value, old)
    assert all(np.array_equal(a, b) for a, b in zip(before, arguments[0])), "the old values are left alone"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_sgd(rng, dtype, momentum, nesterov, decay):
    w, g, slots = drawn(rng, dtype, ["velocity"] if momentum else [])
    rest = (momentum, nesterov, decay)
    agree("sgd_updates", w, g, slots, 0.1, *rest, None, False)
    assert steps.sgd_updates(w, g, slots, 0.1, *rest, np.array(True), False) is NotImplemented  # may be skipped
    assert steps.sgd_updates(w, [a.astype("f2") for a in g], slots, 0.1, *rest, None, False) is NotImplemented
    assert steps.sgd_updates(w, g, slots, np.float32(0.1), *rest, None, False) is NotImplemented


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("decay", [(0.0, False), (0.01, False), (0.01, True)])
@pytest.mark.parametrize("number", [0, 7])
def test_adam(team, rng, dtype, decay, number):
    w, g, slots = drawn(rng, dtype, ["mean", "mean_square"])
    agree("adam_updates", w, g, slots, 0.1, (0.9, 0.999), 1e-8, number, decay, None, False)


@pytest.mark.parametrize("dtype, most", [("float32", 2.0**63), ("float64", 2.0**511)])
def test_adam_leaves_what_it_cannot_square_to_the_reference(team, rng, dtype, most):
    """In the last of several pieces as in the first; up to there the bits are the reference's."""
    rest = ((0.9, 0.999), 1e-8, 3, (0.0, False))

    def served(place, gradient=None, mean_square=None, decay=(0.0, False)):
        w, g, slots = drawn(rng, dtype, ["mean", "mean_square"])
        if gradient is not None:
            g[2].reshape(-1)[place] = gradient
        if mean_square is not None:
            slots[2]["mean_square"].reshape(-1)[place] = mean_square
        if steps.adam_updates(w, g, slots, 0.1, *rest, None, False) is NotImplemented:
            return False
        agree("adam_updates", w, g, slots, 0.1, *rest, None, False)
        return True

    above = np.nextafter(np.dtype(dtype).type(most), np.dtype(dtype).type(np.inf))
    for place in (0, 57_000, -1):
        assert served(place, most) and served(place, -most) and served(place, None, most)
        for gradient in (above, -above, most * 2.0**60, np.inf, np.nan):
            assert not served(place, gradient)
        for mean_square in (-most, -np.inf, np.nan):
            assert not served(place, None, mean_square)


def test_what_is_not_served(team, monkeypatch, rng):
    w, g, slots = drawn(rng, "float32", ["mean", "mean_square"])
    rest = ((0.9, 0.999), 1e-8, 3, (0.0, False))
    assert steps.adam_updates(w, g, slots, 0.1, *rest, None, False) is not NotImplemented
    assert steps.adam_updates(w, g, slots, 0.1, *rest, np.array(True), False) is NotImplemented  # may be skipped
    assert steps.adam_updates(w, [a.astype("f2") for a in g], slots, 0.1, *rest, None, False) is NotImplemented
    assert steps.adam_updates(w, g, slots, np.float32(0.1), *rest, None, False) is NotImplemented
    assert steps.adam_updates(w, list(map(np.asfortranarray, g)), slots, 0.1, *rest, None, False) is NotImplemented
    monkeypatch.setattr(steps, "LEAST", 10**9)
    assert steps.adam_updates(w, g, slots, 0.1, *rest, None, False) is NotImplemented  # little to do
