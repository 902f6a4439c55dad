"""Ops, losses, optimizers and BatchNorm against what PyTorch computed (``fixtures/make_fixtures.py`` made the file).

Inputs are float32 numbers and PyTorch's results on them float64, so that one result serves both dtypes: float64 must
agree to 1e-12 of the norm, float32 to within τ (docs/numerics.md) of it, and to 2τ with PyTorch's own float32 result.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import UNIT, error, tau

import dualnet as dn

FILE = np.load(Path(__file__).parent / "fixtures" / "pytorch.npz", allow_pickle=False)
VECTORS = {dtype: FILE[dtype] for dtype in ("float64", "float32")}
INDEX = json.loads(str(FILE["index"]))
DTYPES = ["float64", "float32"]


def cases(kind: str, extreme: bool = False) -> list[str]:
    """The names of the stored cases of this kind."""
    return [n for n, case in INDEX["cases"].items() if case["kind"] == kind and n.endswith("extreme") == extreme]


def load(name: str) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """A case: the name of what it is about, the options, and its arrays."""
    case = INDEX["cases"][name]
    options = {key: whole(value) for key, value in case["options"].items()}
    return case["target"], options, {role: stored(*where) for role, where in case["arrays"].items()}


def stored(dtype: str, begin: int, shape: list[int]) -> np.ndarray:
    return VECTORS[dtype][begin : begin + int(np.prod(shape))].reshape(shape)


def whole(value: Any) -> Any:
    """JSON has lists only; our options are tuples."""
    return tuple(map(whole, value)) if isinstance(value, list) else value


def numbered(arrays: dict[str, np.ndarray], role: str, count: int) -> list[np.ndarray | None]:
    """``role0, role1, …``, None where absent."""
    return [arrays.get(f"{role}{i}") for i in range(count)]


def as_tuple(result: Any) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def terms(target: str, arrays: dict[str, np.ndarray]) -> int:
    """K: how many terms the longest sum has, of the output and of the gradients."""
    if target in ("conv2d", "conv_transpose2d"):
        w = arrays["input1"]
        positions = max(a.size // a.shape[-1] for a in (arrays["input0"], arrays["dy"]))
        return max(w.size // w.shape[2], w.size // w.shape[3], positions)
    if target.endswith("norm") or target.startswith(("batch", "dense", "global")):
        return arrays["input0"].size // arrays["input0"].shape[-1]
    return 9  # a window, or the few roundings of an activation


def run(name: str, dtype: str) -> tuple[Any, tuple, list, dict]:
    target, options, arrays = load(name)
    count = sum(role.startswith("input") for role in arrays)
    given = [dn.asarray(a, dtype) for a in numbered(arrays, "input", count)]
    y, pullback = getattr(dn.ops, target)(*given, **options)
    gradients = as_tuple(pullback(dn.asarray(arrays["dy"], dtype)))
    wanted = numbered(arrays, "gradient", len(gradients))
    assert [g is None for g in gradients] == [w is None for w in wanted]
    return dn.to_numpy(y), tuple(None if g is None else dn.to_numpy(g) for g in gradients), wanted, arrays


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases("op"))
def test_op(backend: str, name: str, dtype: str) -> None:
    y, gradients, wanted, arrays = run(name, dtype)
    limit = 1e-12 if dtype == "float64" else tau(dtype, terms(INDEX["cases"][name]["target"], arrays))
    assert error(y, arrays["y"]) <= limit
    for i, (gradient, want) in enumerate(zip(gradients, wanted, strict=True)):
        assert gradient is None or error(gradient, want) <= limit, (
            f"gradient {i}: {error(gradient, want):.1e} > {limit:.1e}"
        )
    if dtype == "float32":
        assert error(y, arrays["y32"]) <= 2 * limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases("op", extreme=True))
def test_op_far_out(backend: str, name: str, dtype: str) -> None:
    """From 1e-8 to 1e30, infinities and NaN, element by element: one large element would hide the others in a norm.

    Where PyTorch multiplies 0 by ∞ (gelu and silu at −inf) it has NaN; ours is the limit, and not compared here. Its
    gelu loses the left tail in 1 + erf(x), which is an error of x·u, at most 10 u. The output at NaN is NaN; the
    gradient there has no meaning (PyTorch's relu has 1, its leaky relu the slope below 0) and is not compared.
    """
    y, gradients, wanted, arrays = run(name, dtype)
    unknown = np.isnan(arrays["input0"])
    for got, want, known in [(y, arrays["y"], unknown), (gradients[0], wanted[0], False)]:
        known = ~np.isnan(want) & ~unknown | known
        rtol = 1e-12 if dtype == "float64" else 32 * UNIT[dtype]
        np.testing.assert_allclose(got[known], want[known], rtol=rtol, atol=10 * UNIT[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases("loss") + cases("loss", extreme=True))
def test_loss(backend: str, name: str, dtype: str) -> None:
    target, packed, arrays = load(name)
    t = arrays["t"].astype("int64") if packed["labels"] else arrays["t"].astype(dtype)
    weights = (dn.asarray(arrays["weights"], dtype),) if "weights" in arrays else ()
    given = dn.asarray(arrays["y"], dtype), dn.asarray(t), *weights
    loss, pullback = getattr(dn.losses, target)(*given, **packed["options"])
    classes = arrays["y"].shape[-1]
    limit = (
        1e-12 if dtype == "float64" else UNIT[dtype] * (16 + 4 * np.sqrt(classes))
    )  # docs/numerics.md: cross-entropy
    assert error(dn.to_numpy(loss), arrays["loss"]) <= limit
    assert error(dn.to_numpy(pullback()), arrays["dy"]) <= limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", cases("optimizer"))
def test_optimizer(backend: str, name: str, dtype: str) -> None:
    """20 steps, fed with PyTorch's gradients: every step's parameters agree.

    A step adds at most a few roundings of the parameter, so float32 may be off by 4 u after each, 80 u at the end.
    """
    target, options, arrays = load(name)
    net = Slots(w=dn.asarray(arrays["w0"], dtype), b=dn.asarray(arrays["b0"], dtype))
    optimizer = getattr(dn, target)(**options)
    for step in range(len(arrays["w"])):
        optimizer.step(net, {role: dn.asarray(arrays[f"d{role}"][step], dtype) for role in ("w", "b")})
        for role, parameter in net.parameters().items():
            value = dn.to_numpy(parameter.value)
            limit = 1e-12 if dtype == "float64" else 4 * UNIT[dtype] * (step + 1)
            assert value.dtype == dtype
            assert error(value, arrays[role][step]) <= limit, f"{role} after step {step + 1}"


class Slots:
    """The least that an optimizer needs of a network."""

    def __init__(self, **values: Any) -> None:
        self.held = {name: dn.Parameter(value) for name, value in values.items()}

    def parameters(self) -> dict[str, dn.Parameter]:
        return self.held


@pytest.mark.parametrize("dtype", DTYPES)
def test_running_statistics(backend: str, dtype: str) -> None:
    """BatchNorm's running mean and (unbiased) variance over five steps of training, then inference with them."""
    _, options, arrays = load("running statistics")
    layer = dn.BatchNorm(**options).init(arrays["x0"].shape[1:], dtype=dtype)
    layer.load_state_dict({**layer.state_dict(), "gamma": arrays["gamma"], "beta": arrays["beta"]})
    limit = 1e-12 if dtype == "float64" else 4 * tau(dtype, 24)  # |μ|/σ is up to 3 here: τ·(1 + |μ|/σ)
    for step in range(5):
        y, _ = layer.forward(dn.asarray(arrays[f"x{step}"], dtype), train=True)
        assert error(dn.to_numpy(y), arrays[f"y{step}"]) <= limit
        assert error(dn.to_numpy(layer.moving_mean), arrays[f"mean{step}"]) <= limit
        assert error(dn.to_numpy(layer.moving_variance), arrays[f"variance{step}"]) <= limit
    assert error(dn.to_numpy(layer(dn.asarray(arrays["x"], dtype))), arrays["y"]) <= limit
