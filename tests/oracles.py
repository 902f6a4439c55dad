"""How an op is proven. Four witnesses that share no code:

1. **loops**: dualnet/parity/loops/ in float64, forward and every gradient
2. **two dot products**: ⟨A v, g⟩ = ⟨v, Aᵀ g⟩ for arguments in which the op is linear; else central differences
3. **the other backend**: the same numbers on every backend, float32 within τ of float64
4. stored PyTorch results (tests/test_fixtures.py)

The limits are derived, not tuned: with u the unit round-off and K the length of the longest sum, τ = u·(8 + 4√K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import reference

import dualnet as dn
from dualnet.parity.cases.limits import UNIT, tau  # noqa: F401  the tests' too

ADJOINT, DIFFERENCE = 1e-13, 1e-7


def error(x: Any, r: Any, least: float = 0.0) -> float:
    """‖X − R‖ / ‖R‖ over what is finite; shape and the places of NaN and ±Inf must be equal.

    ‖R‖ counts as at least ``least``: the few elements of a small sum may all cancel by chance (parity's ``products``).
    """
    x, r = np.asarray(x, np.float64), np.asarray(r, np.float64)
    assert x.shape == r.shape, f"shape {x.shape}, expected {r.shape}"
    assert np.array_equal(np.isnan(x), np.isnan(r)), "NaN in other places"
    assert np.array_equal(np.where(np.isinf(x), np.sign(x), 0), np.where(np.isinf(r), np.sign(r), 0)), "Inf elsewhere"
    finite = np.isfinite(r)
    norm = max(np.linalg.norm(r[finite]), least)
    return float(np.linalg.norm(x[finite] - r[finite]) / (norm if norm else 1.0))


def on_device(arrays: Sequence[np.ndarray | None], dtype: Any = None) -> list[Any]:
    return [None if a is None else dn.asarray(a, dtype) for a in arrays]


def gradients(pullback: Callable[..., Any], dy: Any) -> list[np.ndarray | None]:
    result = pullback(dy)
    result = result if isinstance(result, tuple) else (result,)
    return [None if g is None else dn.to_numpy(g) for g in result]


def prove(
    op: str,
    arrays: Sequence[np.ndarray | None],
    options: dict[str, Any] | None = None,
    *,
    K: int,
    linear: Sequence[int] = (),
    differentiable: Sequence[int] | None = None,
    seed: int = 0,
    scale: float = 1.0,
) -> None:
    """Run every check on one case, on the backend in force.

    ``arrays`` are float64; ``linear`` are the positions of arguments in which the op is linear while the others are
    held (with an absent or zero bias), ``differentiable`` those to check by central differences (default: the rest).
    ``scale`` widens the float32 bound where docs/numerics.md gives it a factor (conditioning of a batch norm).
    """
    options = options or {}
    function, rng = getattr(dn.ops, op), np.random.default_rng(seed)
    expected = getattr(reference, op)(*arrays, **options)
    dy = rng.standard_normal(expected.shape)
    usual = usual_sizes(op, arrays, options, dy, K) if linear else None
    wanted = getattr(reference, f"{op}_backward")(dy, *arrays, **options)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)

    for dtype in ("float64", "float32"):
        rounded = [None if a is None else a.astype(dtype).astype(np.float64) for a in arrays]
        r_dy = dy.astype(dtype).astype(np.float64)
        if dtype == "float32":  # the reference sees what the op sees
            expected = getattr(reference, op)(*rounded, **options)
            wanted = getattr(reference, f"{op}_backward")(r_dy, *rounded, **options)
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        given = on_device(rounded, dtype)
        before = [None if g is None else dn.to_numpy(g).tobytes() for g in given]
        y, pullback = function(*given, **options)
        assert y.dtype == dtype, f"{op}: y is {y.dtype} for {dtype} input"
        limit = tau(dtype, K) * scale
        assert error(dn.to_numpy(y), expected) <= limit, f"{op} {dtype}: forward differs from the loops"
        first, again = (gradients(pullback, dn.asarray(r_dy, dtype)) for _ in range(2))
        assert len(first) == len(wanted), f"{op}: {len(first)} gradients, expected {len(wanted)}"
        for i, (g, twice, w) in enumerate(zip(first, again, wanted)):
            assert (g is None) == (w is None), f"{op}: gradient {i} is {g}"
            if g is None:
                continue
            assert g.dtype == dtype, f"{op}: gradient {i} is {g.dtype} for {dtype} input"
            assert np.array_equal(g, twice, equal_nan=True), f"{op}: the second call of the pullback differs"
            off = error(g, w, usual[i] if usual else 0.0)
            assert off <= limit, f"{op} {dtype}: gradient {i} differs from the loops by {off:.2e}"
        after = [None if g is None else dn.to_numpy(g).tobytes() for g in given]
        assert before == after, f"{op}: an input was changed"
    hidden(pullback)

    for i in linear:
        check_adjoint(op, arrays, options, i, dy, rng)
    rest = [i for i, a in enumerate(arrays) if a is not None and i not in linear]
    for i in rest if differentiable is None else differentiable:
        check_difference(op, arrays, options, i, dy, rng, usual[i] if usual else 0.0)


def usual_sizes(op: str, arrays: Sequence[Any], options: dict[str, Any], dy: np.ndarray, K: int) -> list[float]:
    """How large each gradient of sums of products usually is: ‖|A||B|‖ / √K, as for K terms of random signs."""
    whole = getattr(reference, f"{op}_backward")(
        np.abs(dy), *(None if a is None else np.abs(a) for a in arrays), **options
    )
    whole = whole if isinstance(whole, tuple) else (whole,)
    return [0.0 if m is None else float(np.linalg.norm(m[np.isfinite(m)])) / np.sqrt(K) for m in whole]


def check_adjoint(op: str, arrays: Sequence[Any], options: dict[str, Any], i: int, dy: np.ndarray, rng: Any) -> None:
    """⟨A v, dy⟩ = ⟨v, Aᵀ dy⟩ with A the op as a map of argument i, made homogeneous: A v = op(v) − op(0)."""

    def run(value: np.ndarray) -> tuple[np.ndarray, Any]:
        y, pullback = getattr(dn.ops, op)(*on_device([*arrays[:i], value, *arrays[i + 1 :]]), **options)
        return dn.to_numpy(y), pullback

    v = rng.standard_normal(arrays[i].shape)
    moved = run(v)[0] - run(np.zeros_like(v))[0]
    transposed = gradients(run(arrays[i])[1], dn.asarray(dy))[i]
    scale = np.linalg.norm(moved) * np.linalg.norm(dy) + np.linalg.norm(v) * np.linalg.norm(transposed)
    gap = abs(np.vdot(moved, dy) - np.vdot(v, transposed))
    assert gap <= ADJOINT * scale, f"{op}: argument {i} is not the adjoint: {gap / scale:.2e}"


def check_difference(
    op: str, arrays: Sequence[Any], options: dict[str, Any], i: int, dy: np.ndarray, rng: Any, least: float = 0.0
) -> None:
    """The slope of ⟨op(…), dy⟩ along a random direction of argument i, by central differences."""
    h = 1e-6

    def value(step: float) -> float:
        moved = [*arrays[:i], arrays[i] + step * v, *arrays[i + 1 :]]
        return float(np.vdot(dn.to_numpy(getattr(dn.ops, op)(*on_device(moved), **options)[0]), dy))

    v = rng.standard_normal(arrays[i].shape)
    gradient = gradients(getattr(dn.ops, op)(*on_device(arrays), **options)[1], dn.asarray(dy))[i]
    numeric = (value(h) - value(-h)) / (2 * h)
    scale = np.linalg.norm(v) * max(np.linalg.norm(gradient), least)
    gap = abs(np.vdot(v, gradient) - numeric)
    assert gap <= DIFFERENCE * scale + 1e-9, (
        f"{op}: argument {i}: slope {numeric}, gradient says {np.vdot(v, gradient)}"
    )


def hidden(pullback: Any) -> None:
    """Every array that the closure keeps alive is shown in ``saved``."""
    shown = {id(a) for a in pullback.saved.values()}
    for cell in pullback._backward.__closure__ or ():
        content = cell.cell_contents
        if hasattr(content, "nbytes") and hasattr(content, "shape") and content.shape != ():
            assert id(content) in shown, f"{pullback.op}: keeps an array of shape {content.shape} that .saved hides"
