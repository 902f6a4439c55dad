"""PyTorch as an array library: devices, tensors that stay where they are, unsigned numbers, and training."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from bars import bars, small
from oracles import error, tau

import dualnet as dn
from dualnet.backends import torch_backend
from dualnet.ops.dropout import philox
from dualnet.shim import backend_of, loading


@pytest.fixture
def torch():
    pytest.importorskip("array_api_compat.torch")
    return pytest.importorskip("torch")


@pytest.mark.parametrize("missing", ["torch", "array_api_compat.torch"])
def test_without_the_libraries(monkeypatch, missing):
    if missing != "torch":
        pytest.importorskip("torch")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(dn.BackendUnavailable, match=r'^torch: .*Install it with: pip install "dualnet\[torch\]"'):
        torch_backend.load()


# -- devices -----------------------------------------------------------------------------------------------------------


def test_the_default_is_the_cpu(torch):
    assert loading.load("torch") is loading.load("torch:cpu") is loading.load(" TORCH ")
    assert loading.load("torch").name == "torch:cpu" and "torch" in dn.available_backends()
    with dn.use_backend("torch"):
        assert dn.info()["library"] == f"torch {torch.__version__} on cpu"
        assert dn.asarray([1.0]).held.device.type == "cpu"
    dn.backend.load("torch").synchronize()


@pytest.mark.parametrize("device", ["mps", "cuda:7", "tpu", "cpu:1", "meta", "0"])
def test_a_device_that_is_not_there(torch, device):
    there = ", ".join(f"torch:{name}" for name in torch_backend.devices(torch))
    if device in torch_backend.devices(torch) or f"{device}:0" in torch_backend.devices(torch):
        pytest.skip("it is there")
    with pytest.raises(dn.BackendUnavailable, match=f"^torch:{device}: there is no such device here; .* are {there}$"):
        dn.set_backend(f"torch:{device}")


def test_devices_are_counted(torch, monkeypatch):
    class Two:
        is_available = staticmethod(lambda: True)
        device_count = staticmethod(lambda: 2)

    monkeypatch.setattr(torch, "xpu", Two)
    assert {"cpu", "xpu:0", "xpu:1"} <= set(torch_backend.devices(torch))


def test_a_device_that_computes_nothing_is_unavailable(torch, monkeypatch):
    monkeypatch.setattr(torch, "ones", lambda *args, **options: torch.zeros((2, 2)))
    with pytest.raises(dn.BackendUnavailable, match="torch:cpu: a tiny product gave 0.0, not 12.0"):
        torch_backend.load("cpu")


def test_tf32_follows_the_precision(torch):
    products, cuda = torch.backends.cuda.matmul, torch.device("cuda", 0)
    before = products.allow_tf32
    try:
        torch_backend._set_precision(torch, cuda, "tf32")
        assert products.allow_tf32 is True
        torch_backend._set_precision(torch, torch.device("cpu"), "strict")
        assert products.allow_tf32 is True  # is no business of the CPU
        torch_backend._set_precision(torch, cuda, "strict")
        assert products.allow_tf32 is False
    finally:
        products.allow_tf32 = before


# -- tensors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint8", "bool"])
def test_a_tensor_stays_where_it_is(torch, dtype):
    t = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    with dn.use_backend("torch"), dn.transfers("forbid"):
        x = dn.asarray(t, copy=False)
        assert x.held.data_ptr() == t.data_ptr() and x.dtype == dtype
        twin = dn.asarray(t, copy=True)
        x[0, 0] = 1
        assert t[0, 0] == 1
        assert dn.asarray(t, torch.float64).dtype == np.float64
    assert dn.to_numpy(twin)[0, 0] == 0


def test_the_gradient_of_a_tensor_is_left_behind(torch):
    with dn.use_backend("torch"):
        x = dn.asarray(torch.nn.Parameter(torch.ones(2)))
        assert not x.held.requires_grad and not dn.ops.relu(x)[0].held.requires_grad


def test_only_the_torch_backend_keeps_tensors(torch):
    """Elsewhere a tensor becomes an array of that backend, as ever; and no op takes a tensor itself."""
    loading.load("torch")
    for place in ("numpy", "strict"):
        with dn.use_backend(place):
            assert backend_of(dn.asarray(torch.ones(2))).name == place
    assert backend_of(torch.ones(2)) is None
    with pytest.raises(TypeError, match=r"relu: x is a Tensor; expected an array. Make one with dn.asarray\(x\)"):
        dn.ops.relu(torch.ones(2))


def test_a_tensor_that_cannot_stay(torch):
    with dn.use_backend("torch"):
        for refused in (torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.ones(2, device="meta")):
            with pytest.raises(TypeError, match="asarray"):
                dn.asarray(refused)


def test_there_and_back(torch):
    x = dn.asarray([[1.0, 2.0]], backend="torch")
    assert torch.from_dlpack(x).data_ptr() == x.held.data_ptr()
    with dn.transfers() as moved:
        assert dn.to_numpy(dn.asarray(x, backend="strict")).tolist() == [[1, 2]]
    assert moved.to_host == 2 and moved.to_device == 1


def test_bfloat16(torch):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    host = np.array([1.0, 3e38, -2.5]).astype(ml_dtypes.bfloat16)
    with dn.use_backend("torch"):
        x = dn.asarray(host)
        assert x.held.dtype == torch.bfloat16 and x.dtype == ml_dtypes.bfloat16
        assert dn.to_numpy(x[::-1]).tobytes() == host[::-1].tobytes()
        assert dn.asarray(torch.ones(2).bfloat16()).dtype == ml_dtypes.bfloat16


def test_a_tensor_has_memory_of_its_own(torch):
    host = np.ones(3, np.float32)
    x = dn.asarray(host, backend="torch")
    host += 1
    assert dn.to_numpy(x).tolist() == [1, 1, 1]


# -- computing ---------------------------------------------------------------------------------------------------------


def test_random_words_are_those_of_numpy(torch):
    """32 × 32 -> 64 bits, which PyTorch has no unsigned numbers for."""
    wanted = philox(np.zeros(1), 1001, seed=2**63 + 11, step=2**40 + 5)
    with dn.use_backend("torch"):
        found = philox(dn.asarray([0.0]), 1001, seed=2**63 + 11, step=2**40 + 5)
    assert found.dtype == np.uint32 and np.array_equal(dn.to_numpy(found), wanted)


def test_what_would_come_out_wrong_in_uint64_is_refused(torch):
    x = dn.asarray(np.array([2**64 - 7], np.uint64), backend="torch")
    for compute in (lambda: x // 2, lambda: x % 10, lambda: x**2, lambda: abs(x)):
        with pytest.raises(TypeError, match=r"torch: \w+ is not computed in uint64; convert with x.astype\('int64'\)"):
            compute()


def test_fit_learns_and_moves_on(torch):
    x, t = bars()
    with dn.use_backend("torch"):
        net = small()
        net.fit(x, t, epochs=8, batch_size=16, optimizer=dn.Adam(lr=0.02), verbose=0)
        assert (np.argmax(net.predict(x), axis=1) == t).mean() > 0.9
        logits = net.predict(x[:8])
    net.to("numpy")
    with dn.use_backend("numpy"):
        assert error(net.predict(x[:8]), logits) < 10 * tau("float32", 100)


def test_autograd_finds_the_same_gradients(torch):
    """PyTorch's own derivative of the same network."""
    net = dn.Sequential([dn.Dense(4), dn.Tanh(), dn.Dense(2)]).init((3,), dtype="float64")
    x = np.random.default_rng(0).standard_normal((5, 3))
    net.to("torch")
    y, pullback = net.forward(dn.asarray(x, backend="torch"), train=True)
    dx, grads = pullback(y)
    leaf = {name: p.value.held.clone().requires_grad_() for name, p in net.parameters().items()}
    given = torch.tensor(x, requires_grad=True)
    out = torch.tanh(given @ leaf["0.w"] + leaf["0.b"]) @ leaf["2.w"] + leaf["2.b"]
    out.backward(out.detach())
    assert torch.allclose(dx.held, given.grad, rtol=1e-12)
    for name, gradient in grads.items():
        assert torch.allclose(gradient.held, leaf[name].grad, rtol=1e-12), name
