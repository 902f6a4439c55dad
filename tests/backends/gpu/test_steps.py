"""CUDA kernels of a training step, run on the host: optimizers, the loss scale, parameters of 16 bits, batches."""

from __future__ import annotations

import cuda_host
import numpy as np
import pytest
from cuda_oracles import DTYPES, agree
from oracles import error, tau

import dualnet as dn
from dualnet.backend import references
from dualnet.backends.gpu import steps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_optimizers_one_by_one(cupy, rng, dtype):
    w, g, a, b = (rng.standard_normal((37, 31)).astype(dtype) for _ in range(4))
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True)):
        slots = {"velocity": a} if momentum else {}
        agree("sgd_updates", [w], [g], [slots], 0.1, momentum, nesterov, 0.0, None, False, K=1)
    slots = {"mean": a, "mean_square": b * b}
    agree("adam_updates", [w], [g], [slots], 0.1, (0.9, 0.999), 1e-8, 2, (0.0, False), None, False, K=1)


def expected(kernel, w, g, *slots):
    """The reference's step for one parameter: without weight decay, and for Adam the fifth."""
    if kernel == "sgd_update":
        name, slots, rule = "sgd_updates", {"velocity": slots[0]}, (0.1, 0.9, True, 0.0)
    else:
        name, slots, rule = "adam_updates", dict(zip(("mean", "mean_square"), slots)), (0.1, (0.9, 0.999), 1e-8, 4)
        rule += ((0.0, False),)
    [(value, slots)] = references[name].reference([w], [g], [slots], *rule, None, False)
    return [value, *slots.values()]


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("kernel", ["sgd_update", "adam_update"])
def test_many_parameters_in_place_with_shadows(cupy, rng, kernel, on_device):
    """Fifty parameters in two launches: masters in float32, gradients and shadows in float16."""
    shapes = [(int(n),) for n in rng.integers(1, 2500, 49)] + [(3, 4)]
    w, a, b = ([rng.standard_normal(s).astype("f4") for s in shapes] for _ in range(3))
    g = [rng.standard_normal(s).astype("f2") for s in shapes]
    b = [v * v for v in b]
    shadows = [np.zeros(s, "f2") for s in shapes]
    there_w, there_a, there_b, there_g, there_s = ([dn.asarray(v) for v in part] for part in (w, a, b, g, shadows))
    cuda_host.launches.clear()
    adam = kernel == "adam_update"
    rule = {"first": 0.9, "weight_decay": 0.01, **({"second": 0.999, "epsilon": 1e-8} if adam else {"nesterov": True})}
    lr, t = (dn.asarray(np.full(1, 0.1, "f4")), dn.asarray(np.full(1, 4, "u8"))) if on_device else (np.float64(0.1), 5)
    second = there_b if adam else [None] * 50
    rows = list(zip(there_w, there_a, second, there_s, there_w, there_a, second, there_g))
    steps.update(kernel, rows, lr=lr, t=t, **rule)
    assert cuda_host.launches == [kernel] * 2
    for k in range(50):
        step = g[k].astype("f4") + np.float32(0.01) * w[k]
        for got, want in zip([there_w[k], there_a[k], there_b[k]], expected(kernel, w[k], step, a[k], b[k])):
            assert error(dn.to_numpy(got), want) <= tau("float32", 1)
        assert (dn.to_numpy(there_s[k]) == dn.to_numpy(there_w[k]).astype("f2")).all()


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kernel", ["sgd_update", "adam_update"])
def test_a_step_with_a_loss_scale(cupy, rng, kernel, dtype, finite):
    """Scaled gradients of 16 bits are unscaled on the way; if they are not finite, the new values are the old ones."""
    wide, adam = "float64" if dtype == "float64" else "float32", kernel == "adam_update"
    w, a, b = (rng.standard_normal((33, 40)).astype(wide) for _ in range(3))
    g = (64 * rng.standard_normal((33, 40))).astype(dtype)
    g[0, 1] = g[0, 1] if finite else np.inf
    there_w, there_a, there_b = (dn.asarray(v) for v in (w, a, b * b))
    new = [cupy.empty(w.shape, dtype=wide) for _ in range(3)]
    shadow, second = cupy.empty(w.shape, dtype=dtype), there_b if adam else None
    row = (new[0], new[1], new[2] if adam else None, shadow, there_w, there_a, second, dn.asarray(g))
    rule = {"first": 0.9, "lr": 0.1, **({"second": 0.999, "epsilon": 1e-8, "t": 5} if adam else {"nesterov": True})}
    by, flag = dn.asarray(np.asarray(1 / 64, wide)), dn.asarray(np.asarray(finite))
    steps.update(kernel, [row], unscale=by, finite=flag, **rule)
    wanted = expected(kernel, w, g.astype(wide) / 64, a, b * b) if finite else [w, a, b * b]
    for got, want in zip(new, wanted[: 3 if adam else 2]):
        exact = dn.to_numpy(got).tobytes() == want.tobytes()
        assert exact if not finite else error(dn.to_numpy(got), want) <= tau(wide, 1)
    assert dn.to_numpy(shadow).tobytes() == dn.to_numpy(new[0]).astype(dtype).tobytes()


@pytest.mark.parametrize("decay", [(0.0, False), (0.01, False), (0.01, True)])
@pytest.mark.parametrize("dtype, most", [("float32", 2.0**63), ("float64", 2.0**511)])
def test_adam_with_gradients_that_cannot_be_squared(cupy, rng, dtype, most, decay):
    """Every pair of a gradient and a mean square below and above the limit; and all that follows from it."""
    sizes = [0.0, 1.0, -1e3, most / 2, most, -1.001 * most, 2.0**30 * most, -(2.0**60) * most]
    kept = [0.0, 1.0, most, most * most, -1.001 * most, -(2.0**30) * most, -(2.0**60) * most]
    g, square = (np.array(a, dtype).ravel() for a in np.meshgrid(sizes, kept))
    mean = (np.sqrt(np.where(square < 0, 1.0, square)) * rng.uniform(-1, 1, g.size)).astype(dtype)
    mean = np.where(square < 0, square * rng.uniform(-1, 1, g.size).astype(dtype), mean)
    w, slots = rng.standard_normal(g.size).astype(dtype), {"mean": mean, "mean_square": square}
    for steps_before in range(3):
        rest = (0.1, (0.9, 0.999), 1e-8, steps_before + 1, decay, None, False)
        there = {name: dn.asarray(value) for name, value in slots.items()}
        cuda_host.launches.clear()
        [(got, kept)] = steps.adam_updates([dn.asarray(w)], [dn.asarray(g)], [there], *rest)
        assert cuda_host.launches == ["adam_update"]
        [(w, slots)] = references["adam_updates"].reference([w], [g], [slots], *rest)
        for name, want in {"w": w, **slots}.items():
            have = dn.to_numpy(got if name == "w" else kept[name])
            assert np.isfinite(want).all() and (have < 0).tolist() == (want < 0).tolist()
            np.testing.assert_allclose(have, want, rtol=2e-6 if dtype == "float32" else 1e-14, err_msg=name)
        g = rng.standard_normal(g.size).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_many_parameters_in_16_bits(cupy, rng, dtype):
    """Fifty in two launches, each rounded as on the host; other dtypes are left to the reference."""
    values = [rng.standard_normal(int(n)).astype("f4") for n in rng.integers(1, 2500, 50)]
    kind, there_w = np.dtype(dtype), [dn.asarray(w) for w in values]
    cuda_host.launches.clear()
    for got, w in zip(steps.round_all(there_w, kind), values, strict=True):
        assert got.dtype == kind and dn.to_numpy(got).tobytes() == w.astype(kind).tobytes()
    assert cuda_host.launches == ["round_all"] * 2
    for wrong, to in (([dn.asarray(values[0], "float64")], kind), (there_w[:1], np.dtype("f4"))):
        assert steps.round_all(wrong, to) is NotImplemented


@pytest.mark.parametrize("dtype", DTYPES)
def test_over_all_gradients(cupy, rng, dtype):
    """Fifty gradients of two dtypes, in launches of 40. The one bad number may be in any of them."""
    wide = "float64" if dtype == "float64" else "float32"
    arrays = [rng.standard_normal(int(n)).astype(dtype if n % 3 else wide) for n in rng.integers(1, 2500, 50)]
    cuda_host.launches.clear()
    agree("all_finite", *arrays, K=0)
    agree("unscale", np.asarray(2.0**-9, wide), *arrays, K=0)
    assert set(cuda_host.launches) == {"all_finite", "unscale"}
    for k in (0, 17, 49):
        for bad in (np.inf, -np.inf, np.nan):
            worse = [array.copy() for array in arrays]
            worse[k][rng.integers(worse[k].size)] = bad
            agree("all_finite", *worse, K=0)
            assert not dn.to_numpy(steps.all_finite(*map(dn.asarray, worse)))
    empty = np.zeros(0, dtype)
    assert steps.all_finite(dn.asarray(empty)) is NotImplemented
    assert steps.unscale(dn.asarray(np.asarray(0.5, wide)), dn.asarray(empty)) is NotImplemented


@pytest.mark.parametrize("source", ["uint8", "float32"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_batch_gathered_on_the_device(cupy, rng, source, moved):
    images = rng.integers(0, 256, (6, 5, 4, 3)).astype(source)
    order = rng.integers(0, 6, 7).astype("i4")
    moves = np.stack([*rng.integers(-3, 4, (2, 7)), rng.integers(0, 2, 7)], axis=1).astype("i1") if moved else None
    mean, scale = rng.random(3).astype("f4"), rng.random(3).astype("f4")
    y = steps.gather_batch(*(None if v is None else dn.asarray(v) for v in (images, order, moves, mean, scale)))
    for n, image in enumerate(images[order].astype("f4")):
        if moved:
            down, right, flipped = moves[n]
            image = np.pad(image, ((3, 3), (3, 3), (0, 0)))[3 + down : 8 + down, 3 + right : 7 + right]
            image = image[:, ::-1] if flipped else image
        assert error(dn.to_numpy(y)[n], (image - mean) * scale) <= tau("float32", 1)


def test_bfloat16_is_rounded_as_by_the_host(cupy, rng):
    """To nearest, ties to even, from 1e-30 to 1e30."""
    x = (rng.standard_normal((3, 5, 8)) * 10 ** rng.uniform(-30, 30, (3, 5, 8))).astype("f4")
    x[0, 0, :4] = np.array([0x3F808000, 0x3F818000, 0x7F7F8000, 0xFF800000], "u4").view("f4")
    rounded = x.astype("bfloat16")
    agree("rectify", rounded, K=0)
    w, shadow = dn.asarray(x), cupy.empty(x.shape, dtype="bfloat16")
    g = dn.asarray(np.zeros(x.shape, "bfloat16"))
    flag = dn.asarray(np.asarray(False))  # a step that changes nothing still rounds the masters
    steps.update("sgd_update", [(w, None, None, shadow, w, None, None, g)], lr=0.0, finite=flag)
    assert dn.to_numpy(shadow).tobytes() == rounded.tobytes()
