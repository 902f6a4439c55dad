"""Networks of 16 bits: they compute in float16 or bfloat16, are right within one rounding, and learn in float32."""

from __future__ import annotations

import copy
import functools
import pickle
import sys

import cuda_host
import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.backend import backend_of
from dualnet.files import formats
from dualnet.files import network as files
from dualnet.ops.sums import channel_sum, narrow, wide
from dualnet.parity.cases.case import OPS, draw
from dualnet.parity.cases.truth import expected
from dualnet.parity.judging.compare import compare
from dualnet.parity.judging.ways import Way
from dualnet.shim.dtypes import dtype_of, finfo, is_floating, is_half, is_real

pytest.importorskip("ml_dtypes")
HALVES = ["float16", "bfloat16"]


def small(dtype, seed=0):
    layers = [dn.Conv2D(4, 3, padding="same"), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2)]
    layers += [dn.Residual(dn.Conv2D(4, 3, padding="same")), dn.Flatten(), dn.Dense(6), dn.LayerNorm(), dn.Tanh()]
    return dn.Sequential([*layers, dn.Dense(3)]).init((6, 6, 2), dtype=dtype, seed=seed)


def batch(rng, n=8):
    return dn.asarray(rng.standard_normal((n, 6, 6, 2), dtype="f4")), dn.asarray(rng.integers(0, 3, n))


def bits(net):
    return {name: dn.to_numpy(v).tobytes() if backend_of(v) is not None else v for name, v in net.state_dict().items()}


# -- ops ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op", OPS)
def test_every_op_is_rounded_once(backend, op, dtype):
    """Within the limits of docs/numerics.md: 1e-3 and 1e-2, for what is normalised 2e-3 and 2e-2 of the loops."""
    way = Way(backend, kernels=bool(dn.backend.load(backend).kernels))
    for number in (1, 2, 3, 5, 8):  # one image, none, long sums, NaN and infinities, any
        case, truth = the_truth(op, number, dtype)
        found = compare(case, backend, way.run(case), truth)
        assert found.ok, f"{case.reproducer}: {found.mismatches or found.ratio} {found.note}"


@functools.cache
def the_truth(op, number, dtype):
    case = draw(op, number, 0, dtype)
    return case, None if case.refused else expected(case)


@pytest.mark.parametrize("dtype", HALVES)
def test_sums_go_on_where_16_bits_would_stop(backend, dtype):
    """4096 ones: in float16 a sum stops at 2048, in bfloat16 at 256."""
    ones = dn.asarray(np.ones((4096, 2)), dtype)
    assert dn.to_numpy(channel_sum(ones)).tolist() == [4096, 4096]
    y, pullback = dn.ops.dense(ones.T, ones[:, :1], dn.asarray([0.0], dtype))
    assert dn.to_numpy(y).tolist() == [[4096], [4096]] and y.dtype.name == dtype
    dw, db = pullback(dn.asarray([[1.0], [2.0]], dtype))[1:]
    assert dn.to_numpy(dw).tolist() == [[3]] * 4096 and dn.to_numpy(db).tolist() == [3]
    y = dn.ops.global_avg_pool2d(dn.asarray(np.ones((1, 64, 64, 1)), dtype))[0]
    assert dn.to_numpy(y).tolist() == [[1]]


def test_float32_and_float64_pass_untouched(backend):
    for dtype in ("float32", "float64"):
        x = dn.asarray([1.0, 2.0], dtype)
        assert wide(x) is x and narrow(x, x) is x
        w = dn.Parameter(x)
        assert w.cast(x.dtype) is x and w.cast(None) is x
    assert dn.Parameter(dn.asarray([1.0], "float64")).cast(np.dtype("float16")).dtype == "float64"


def test_what_bfloat16_is(backend):
    x = dn.asarray([1.0, 2.0 + 2.0**-7], "bfloat16")
    assert x.dtype.name == "bfloat16" and dn.to_numpy(x.astype("float32")).tolist() == [1.0, 2.0]
    assert is_floating(x.dtype) and is_real(x.dtype) and is_half(x.dtype) and not is_half(np.dtype("int16"))
    assert dtype_of("bfloat16") == x.dtype and dtype_of(">f4") == np.dtype("float32")
    assert float(finfo("bfloat16").eps) == 2**-7 and finfo("float16").max == 65504
    assert dn.asarray(x, "float32").dtype == "float32" and dn.asarray(x).dtype == x.dtype
    y, pullback = dn.ops.relu(dn.asarray([-1.0, 3.0], "bfloat16"))
    assert (y.dtype, pullback(y).dtype) == (x.dtype, x.dtype)
    net = dn.Sequential([dn.Dense(2)]).init((2,))
    assert net(x[None]).dtype == "float32", "an input of bfloat16 is converted like any other"
    q = dn.asarray([[0.3, 0.6, 0.1]], "bfloat16")  # in sum 1.0001…
    for y in (q, q.astype("float32")):
        loss, pullback = dn.losses.softmax_cross_entropy(y, q)
        assert (loss.dtype, pullback().dtype) == (y.dtype, y.dtype)


def test_bfloat16_needs_a_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    for use in (lambda: dn.asarray([1.0], "bfloat16"), lambda: dn.ReLU().init((2,), dtype="bfloat16")):
        with pytest.raises(ImportError, match=r'pip install "dualnet\[bfloat16\]"'):
            use()


def test_other_dtypes_are_refused():
    for dtype in ("int32", "bool", "complex64"):
        with pytest.raises(TypeError, match="init: dtype must be one of float16, bfloat16, float32, float64; got"):
            dn.ReLU().init((2,), dtype=dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_norms_take_vectors_of_float32(backend, rng, dtype):
    """γ = 1.001 beside a map of 16 bits; its gradient is float32 too."""
    x = dn.asarray(rng.standard_normal((8, 4)), dtype)
    gamma, beta = dn.asarray([1.001] * 4, "float32"), dn.asarray([0.5] * 4, "float32")
    for op, more in (("batch_norm", {}), ("layer_norm", {}), ("group_norm", {"groups": 2})):
        y, pullback = getattr(dn.ops, op)(x, gamma, beta, **more)
        assert [a.dtype.name for a in (y, *pullback(y))] == [dtype, dtype, "float32", "float32"], op
        for given in ((gamma.astype(x.dtype), beta), (gamma, beta.astype(x.dtype))):
            y, pullback = getattr(dn.ops, op)(x, *given, **more)
            assert [a.dtype for a in pullback(y)] == [x.dtype, *(each.dtype for each in given)], op
    y, pullback = dn.ops.batch_norm_inference(x, gamma, beta, beta, gamma)
    assert [a.dtype.name for a in (y, *pullback(y))] == [dtype, dtype, *["float32"] * 4]
    with pytest.raises(TypeError, match="batch_norm: x is .* and beta is float64"):
        dn.ops.batch_norm(x, gamma, beta.astype("float64"))
    with pytest.raises(TypeError, match="batch_norm: x is float32 and gamma is"):
        dn.ops.batch_norm(x.astype("float32"), gamma.astype(x.dtype), beta)


# -- parameters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES)
def test_masters_are_float32_everywhere(backend, rng, dtype):
    net, (x, _) = small(dtype), batch(rng)
    kept = [v for v in net.state_dict().values() if backend_of(v) is not None]
    assert {v.dtype.name for v in kept} == {"float32"} and len(kept) == 14
    assert {layer.dtype.name for _, layer in net.walk()} == {dtype}
    y, pullback = net.forward(x, train=True)
    dx, grads = pullback(y)
    assert {a.dtype.name for a in (y, dx)} == {dtype}
    assert {name: g.dtype.name for name, g in grads.items()} == {
        name: "float32" if name[0] in "17" else dtype for name in grads
    }
    optimizer = dn.Adam()
    optimizer.step(net, grads)
    kept = [v for v in (*net.state_dict().values(), *optimizer.state_dict().values()) if backend_of(v) is not None]
    assert {v.dtype.name for v in kept} == {"float32"}
    assert net(x).dtype.name == dtype and net.predict(x).dtype.name == dtype and net.summary().dtype == dtype


def test_a_step_smaller_than_16_bits_can_tell(backend):
    """1 − 1000 · 1e-5 is 0.99; in bfloat16 each step would be lost, 1 − 2⁻⁸ being the next number."""
    net = dn.BatchNorm(center=False).init((1,), dtype="bfloat16")
    for _ in range(1000):
        dn.SGD(lr=1e-5).step(net, {"gamma": dn.asarray([1.0])})
    assert abs(float(dn.to_numpy(net.gamma.value)[0]) - 0.99) < 1e-4


def test_copies_are_independent(backend, rng):
    net, (x, _) = small("float16"), batch(rng)
    before = dn.to_numpy(net(x))
    other = net.copy()
    for parameter in other.parameters().values():
        parameter.value = parameter.value * 0.0
    assert np.array_equal(dn.to_numpy(net(x)), before) and not dn.to_numpy(other(x)).any()
    w = dn.Parameter(dn.asarray([1.0], backend="numpy"))
    w.cast(np.dtype("float16"))
    for again in (copy.copy(w), copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert again._shadow is None and again.cast(np.dtype("float16")).tolist() == [1.0]


def test_shared_layers_add_up(backend, rng):
    layer = dn.Dense(4)
    net = dn.Sequential([layer, dn.Tanh(), layer]).init((4,), dtype="bfloat16")
    assert list(net.parameters()) == ["0.w", "0.b"]
    x = dn.asarray(rng.standard_normal((3, 4)))
    y, pullback = net.forward(x, train=True)
    grads = {name: dn.to_numpy(g.astype("float32")) for name, g in pullback(y)[1].items()}
    exact = net.copy()
    for _, part in exact.walk():
        part.dtype = np.dtype("float32")
    y, pullback = exact.forward(x, train=True)
    for name, g in pullback(y)[1].items():
        np.testing.assert_allclose(grads[name], dn.to_numpy(g), rtol=0.1, atol=0.05)


def test_a_layer_of_ones_own_is_told_what_to_write(backend):
    class Own(dn.Layer):
        def build(self, input_shape, draw):
            self.kernel = draw.parameter("ones", (input_shape[-1], 2))

        def forward(self, x, train=False):
            return dn.ops.dense(x, self.kernel.value)

    x = dn.asarray([[1.0, 2.0]])
    assert Own().init((2,))(x).dtype == "float32"
    for dtype in HALVES:
        told = rf"x is {dtype} and w is float32; .* self\.w\.cast\(x\.dtype\) instead of self\.w\.value"
        with pytest.raises(TypeError, match=told):
            Own().init((2,), dtype=dtype)(x)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_tools_take_networks_of_16_bits(backend, rng, dtype):
    net, (x, t) = small(dtype), batch(rng, 4)
    assert dn.check.gradient(net).ok  # as a float64 copy
    off = np.abs(net.fuse().predict(x).astype("f4") - net.predict(x).astype("f4")).max()
    assert off <= 0.1 and {p.dtype.name for p in net.fuse().parameters().values()} == {"float32"}
    for target in ("0.dw[0,1,0,2]", "0.y[0,1,1,1]", "1.dgamma[1]", "1.dx[0,1,1,1]", "6.y[0,1]", "8.dx[0,1]"):
        assert dn.explain(net, x, target, t=t).ok, target
    assert f"{dtype}, " in str(net.trace(x, t))
    if backend in ("numpy", "strict"):
        assert dn.parity(net, x, t, raises=True).ok and dn.twin(net, (x, t), steps=2).ok


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("dtype", HALVES)
def test_saved_and_loaded(backend, rng, tmp_path, dtype, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    net, (x, t) = small(dtype), batch(rng)
    net.fit(x, t, epochs=2, verbose=0)
    same = dn.load(net.save(tmp_path / f"net{suffix}"))
    assert bits(same) == bits(net) and same.dtype.name == dtype
    assert {p.dtype.name for p in same.parameters().values()} == {"float32"}
    assert dn.to_numpy(same(x)).tobytes() == dn.to_numpy(net(x)).tobytes()


def test_older_files_of_float16(backend, rng, tmp_path):
    """They hold parameters and running statistics in float16."""
    net, (x, _) = small("float16"), batch(rng)
    document, arrays = files._describe(net)
    formats.write(tmp_path / "old.npz", document, {name: a.astype("<f2") for name, a in arrays.items()})
    old = dn.load(tmp_path / "old.npz")
    assert {v.dtype.name for v in old.state_dict().values() if backend_of(v) is not None} == {"float32"}
    np.testing.assert_allclose(old.predict(x).astype("f4"), net.predict(x).astype("f4"), atol=2e-2)
    document["dtype"] = "bfloat16"  # never written so
    formats.write(tmp_path / "wrong.npz", document, {name: a.astype("<f2") for name, a in arrays.items()})
    with pytest.raises(dn.CheckpointError, match="expected float32"):
        dn.load(tmp_path / "wrong.npz")


# -- training ----------------------------------------------------------------------------------------------------------


def test_digits_are_learned_as_well_as_in_float32(backend):
    if getattr(sys.modules.get("cupy"), "__file__", "") == "fake":
        pytest.skip("the host runs the GPU's kernels, for a minute")
    (x, t), held_out = dn.data.load_digits()
    scores = {}
    for dtype in ("float32", *HALVES):
        layers = [dn.Conv2D(8, 3, padding="same"), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten()]
        net = dn.Sequential([*layers, dn.Dense(10)]).init(x.shape[1:], dtype=dtype, seed=0)
        options = {"epochs": 4, "optimizer": dn.Adam(lr=5e-3), "validation_data": held_out, "verbose": 0}
        scores[dtype] = net.fit(x[:800], t[:800], **options)["val_accuracy"][-1]
    assert scores["float32"] > 0.85 and all(scores[half] > scores["float32"] - 0.03 for half in HALVES), scores


@pytest.mark.parametrize("dtype, scale", [("bfloat16", None), ("float16", 2.0**22), ("float16", 2.0**8)])
def test_a_captured_step(monkeypatch, rng, dtype, scale):
    """The same bits as launched from Python, overflows included; and inference between two steps sees new weights."""
    host, labels = rng.standard_normal((20, 6, 6, 2), dtype="f4"), rng.integers(0, 3, 20)
    with fake_cupy.in_force(monkeypatch):
        x, t = dn.asarray(host), dn.asarray(labels)
        ends = []
        for capture in (False, True):
            net, seen = small(dtype), []
            loss_scale = None if scale is None else dn.LossScale(scale, interval=4)
            watch = lambda run: seen.append(dn.to_numpy(run.net(x)).tobytes())  # noqa: B023, E731
            options = {"optimizer": dn.Adam(0.01), "callbacks": [watch], "capture": capture, "verbose": 0}
            with np.errstate(all="ignore"):  # the pretend device's graph computes with NumPy
                history = net.fit(x, t, epochs=4, batch_size=4, loss_scale=loss_scale, **options)
            ends.append((bits(net), seen, history["loss"], loss_scale and loss_scale.state_dict()))
            assert "round_all" in cuda_host.launches
        assert ends[0] == ends[1] and len(set(seen)) == 4
        assert scale != 2.0**22 or ends[0][3]["skipped"] > 0
