"""Every op and loss, listed once with its properties. tests/ops/test_every_op.py makes its tests from this list.

Arguments and options are those of the parity certificate (:mod:`dualnet.parity.cases`): drawn from a seed, with loops
in float64 that know the right result. Listing an op here, and drawing its arguments there, gives it every test:
gradients, adjoints, parity, layouts in memory, aliasing, dtypes, wrong arguments, empty sizes, and what its pullback
refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import dualnet as dn
from dualnet.parity.cases import case as cases
from dualnet.parity.cases.case import Case
from dualnet.parity.judging import ways

__all__ = ["ENTRIES", "Entry", "cases_of", "function_of", "run"]


@dataclass(frozen=True)
class Entry:
    """What is true of one op. ``conv2d_relu`` is conv2d with ``relu=True``, and so for others."""

    name: str
    linear: tuple[str, ...] = ()
    """Arguments in which it is linear while the others are held, apart from a constant."""
    targets: tuple[str, ...] = ()
    """Arguments that may have any real dtype and get no gradient."""
    optional: tuple[str, ...] = ()
    """Arguments that may be None."""
    vectors: tuple[str, ...] = ()
    """Arguments that may be float32 beside an x of 16 bits; their gradients are then float32, too."""
    views: frozenset[tuple[str, str]] = frozenset()
    """Results that may share memory with an argument, as documented."""
    any_shape: bool = False
    """Does it take arrays without axes?"""
    channels: dict[str, int] = field(default_factory=lambda: {"x": -1})
    """The axis of each argument that has the length C."""
    refuses: str = ""
    """Which of N = 0 and C = 0 raise ValueError: "", "N", "C" or "NC"."""
    small: dict[str, tuple[int, ...]] = field(default_factory=lambda: {"x": (1, 1, 1, 1)})
    """The smallest shapes that it takes."""
    alike: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Arguments that can be one array: all of these shapes."""
    options: dict[str, Any] = field(default_factory=dict)
    """What it cannot do without, for ``small`` and ``alike``."""
    infeasible: tuple[tuple[dict[str, tuple[int, ...]], dict[str, Any], str], ...] = ()
    """Shapes by argument, options, and words of the ValueError that they must raise."""

    @property
    def base(self) -> str:
        """The name that users call, without ``_relu``; error messages begin with it."""
        return Case(self.name, 0, 0, "float32", "plain", {}).base

    @property
    def loss(self) -> bool:
        return bool(self.targets)

    @property
    def arguments(self) -> list[str]:
        """The names of its arrays, in their order."""
        return list(cases.draw(self.name, 0).arrays)

    @property
    def differentiable(self) -> list[str]:
        return [name for name in self.arguments if name not in self.targets]


# -- the list ----------------------------------------------------------------------------------------------------------


def _windows(name: str, w: tuple[int, ...], wrong: tuple[int, ...], words: str, linear: tuple[str, ...]) -> Entry:
    """A convolution: w are the smallest filters; ``wrong`` do not fit x (2, 5, 5, 4)."""
    b = (3,) if name != "conv_transpose2d" else (2,)
    return Entry(
        name,
        linear=linear,
        optional=("b",),
        channels={"x": -1, "w": -2 if name != "conv_transpose2d" else -1},
        refuses="C",
        small={"x": (1, 1, 1, 1), "w": w, "b": (1,)},
        alike={"x": (2, 2, 2, 2), "w": (2, 2, 2, 2)},
        infeasible=(
            ({"x": (2, 5, 5, 4), "w": wrong}, {}, words),
            ({"x": (2, 5, 5), "w": (2, 2, 5, 5)}, {}, "expected feature maps"),
            ({"x": (2, 5, 5, 2), "w": (2, 2, 2)}, {}, "expected a filter bank"),
            ({"x": (2, 5, 5, 2), "w": (2, 2, 2, 2), "b": (3,)}, {}, "b has shape"),
            ({"x": (2, 5, 5, 2), "w": (2, 2, 2, 2)}, {"stride": 0}, "at least 1"),
            ({"x": (2, 5, 5, 2), "w": (2, 2, 2, 2)}, {"padding": -1}, "at least 0"),
            ({"x": (2, 5, 5, 2), "w": (2, 2, 2, 2)}, {"groups": 3}, "divide"),
            ({"x": (2, 5, 5, 2), "w": (2, 2, 2, b[0])}, {"groups": 0}, "at least 1"),
        ),
    )


def _conv(name: str, linear: tuple[str, ...]) -> Entry:
    return _windows(name, (1, 1, 1, 1), (2, 2, 3, 2), "reads 3 channels", linear)


def _pool(name: str, linear: tuple[str, ...] = ()) -> Entry:
    return Entry(
        name,
        linear=linear,
        options={"pool_size": 1},
        infeasible=(
            ({"x": (2, 5, 6)}, {}, "expected feature maps"),
            ({"x": (2, 0, 6, 3)}, {}, "at least one row"),
            ({"x": (2, 5, 6, 3)}, {"pool_size": 6}, "does not fit"),
            ({"x": (2, 5, 6, 3)}, {"pool_size": 0}, "at least 1"),
            ({"x": (2, 5, 6, 3)}, {"dilation": 6, "pool_size": 2}, "does not fit"),
            ({"x": (2, 5, 6, 3)}, {"stride": 0}, "at least 1"),
        ),
    )


def _whole_map(name: str, linear: tuple[str, ...] = ()) -> Entry:
    wrong = (({"x": (2, 5, 6)}, {}, "expected feature maps"), ({"x": (2, 5, 0, 3)}, {}, "at least one row"))
    return Entry(name, linear=linear, infeasible=wrong)


def _resized(name: str, options: dict[str, Any], *wrong: tuple[dict[str, Any], str]) -> Entry:
    """Linear in a map, with fixed shares; ``wrong`` are options that do not fit maps (2, 5, 6, 3)."""
    return Entry(
        name,
        linear=("x",),
        options=options,
        infeasible=(
            ({"x": (2, 5, 6)}, {}, "expected feature maps"),
            ({"x": (2, 0, 6, 3)}, {}, "at least one row"),
            *(({"x": (2, 5, 6, 3)}, given, words) for given, words in wrong),
        ),
    )


def _dense(name: str, linear: tuple[str, ...]) -> Entry:
    return Entry(
        name,
        linear=linear,
        optional=("b",),
        channels={"x": -1, "w": 0},
        refuses="C",
        small={"x": (1, 1), "w": (1, 1), "b": (1,)},
        alike={"x": (3, 3), "w": (3, 3)},
        infeasible=(
            ({"x": (4,), "w": (4, 3)}, {}, "expected"),
            ({"x": (2, 4), "w": (3, 4)}, {}, "rows of 4"),
            ({"x": (2, 4), "w": (4, 3), "b": (4,)}, {}, "b has shape"),
        ),
    )


def _elementwise(name: str, *infeasible: dict[str, Any], **more: Any) -> Entry:
    wrong = tuple(({"x": (2, 3)}, options, next(iter(options))) for options in infeasible)
    return Entry(name, any_shape=True, infeasible=wrong, **more)


def _shares(name: str) -> Entry:
    return Entry(name, refuses="C", infeasible=(({"x": (2, 3)}, {"axis": 2}, "no axis 2"),))


def _norm(name: str, *, linear: tuple[str, ...] = ("gamma", "beta"), refuses: str = "", **options: Any) -> Entry:
    vectors = ("gamma", "beta", *(("mean", "variance") if "inference" in name else ()))
    C, x = (2,), (2, 1, 1, 2) if "batch" in name or "group" in name else (1, 1, 1, 2)
    if name == "group_norm":
        C, x = (4,), (1, 1, 1, 4)
    fit = {"x": x, **dict.fromkeys(vectors, C)}
    return Entry(
        name,
        linear=linear,
        vectors=vectors,
        channels={"x": -1, **dict.fromkeys(vectors, -1)},
        refuses=refuses,
        small=fit,
        alike={v: C for v in vectors} | {"x": x},
        options=options,
        infeasible=(
            ({**fit, "gamma": (C[0] + 1,)}, {}, "gamma has shape"),
            ({**fit, "x": (C[0],)}, {}, "x|axis"),
            (fit, {"epsilon": 0.0}, "epsilon"),
            *((({**fit, "x": (1, 1, 1, *C)}, {}, "1 value"),) if name.removesuffix("_relu") == "batch_norm" else ()),
        ),
    )


def _loss(
    name: str,
    small: dict[str, tuple[int, ...]],
    *infeasible: Any,
    alike: dict[str, tuple[int, ...]] | None = None,
) -> Entry:
    wrong = ({"y": (0, 3), "t": (0, 3)}, {}, "empty batch")
    return Entry(
        name,
        targets=("t", "weights"),
        optional=("weights",),
        channels={"y": -1, "t": -1},
        refuses="NC",
        small=small,
        alike=alike or {"y": (1, 1), "t": (1, 1)},
        infeasible=(
            wrong,
            ({"y": (4, 1), "t": (4, 2)}, {}, "t"),
            ({**small, "weights": (2,)}, {}, "weights has shape"),
            *infeasible,
        ),
    )


ENTRIES = {
    entry.name: entry
    for entry in (
        _conv("conv2d", ("x", "w", "b")),
        _conv("conv2d_relu", ()),
        _windows("conv_transpose2d", (1, 1, 1, 1), (2, 2, 2, 3), "4 channels", ("x", "w", "b")),
        _dense("dense", ("x", "w", "b")),
        _dense("dense_relu", ()),
        Entry(
            "flatten",
            linear=("x",),
            views=frozenset({("y", "x"), ("dx", "dy")}),
            infeasible=(({"x": (4,)}, {}, "expected"),),
        ),
        _pool("max_pool2d"),
        _pool("max_pool2d_relu"),
        _pool("avg_pool2d", ("x",)),
        _pool("l2_pool2d"),
        _resized(
            "adaptive_avg_pool2d",
            {"output_size": 1},
            ({"output_size": 0}, "at least 1"),
            ({"output_size": (2, 3, 4)}, "output_size must be an integer or"),
        ),
        _resized(
            "upsample2d",
            {"size": 2, "interpolation": "bilinear"},
            ({"size": 0}, "at least 1"),
            ({"size": (2, -1)}, "at least 1"),
            ({"interpolation": "bicubic"}, "'nearest' or 'bilinear', got 'bicubic'"),
        ),
        _resized("zero_pad2d", {"padding": 1}, ({"padding": -1}, "at least 0"), ({"padding": ((1, 2), 1)}, "by sides")),
        _resized(
            "reflect_pad2d",
            {"padding": 0},
            ({"padding": ((0, 5), (0, 0))}, "smaller than the map"),
            ({"padding": (0, 6)}, "smaller than the map"),
        ),
        _resized("crop2d", {"cropping": 0}, ({"cropping": (0, 3)}, "leaves nothing"), ({"cropping": -1}, "cropping")),
        Entry(
            "reshape",
            linear=("x",),
            views=frozenset({("y", "x"), ("dx", "dy")}),
            refuses="C",
            options={"shape": (-1,)},
            infeasible=(
                ({"x": (4,)}, {}, "expected"),
                ({"x": (2, 6)}, {"shape": (4,)}, "6 units, which"),
                ({"x": (2, 6)}, {"shape": (-1, 4)}, "6 units, which"),
                ({"x": (2, 6)}, {"shape": (-1, -1)}, "-1 at most once"),
                ({"x": (2, 6)}, {"shape": (0, 6)}, "positive"),
            ),
        ),
        _whole_map("global_avg_pool2d", ("x",)),
        _whole_map("global_max_pool2d"),
        _elementwise("relu"),
        _elementwise("leaky_relu", {"alpha": -0.1}, {"alpha": np.nan}),
        _elementwise("elu", {"alpha": -0.1}, {"alpha": np.inf}),
        *map(_elementwise, ("gelu", "silu", "mish", "sigmoid", "tanh", "softplus")),
        *map(_elementwise, ("relu6", "hardsigmoid", "hardswish")),
        Entry(
            "prelu",
            linear=("alpha",),
            channels={"x": -1, "alpha": -1},
            small={"x": (1, 1), "alpha": (1,)},
            alike={"x": (1, 1), "alpha": (1,)},
            infeasible=(({"x": (4,), "alpha": (4,)}, {}, "expected"), ({"x": (2, 4), "alpha": (3,)}, {}, "alpha has")),
        ),
        _shares("softmax"),
        _shares("log_softmax"),
        _norm("batch_norm", refuses="N"),
        _norm("batch_norm_relu", linear=(), refuses="N"),
        _norm("batch_norm_inference", linear=("x", "gamma", "beta", "mean")),
        _norm("batch_norm_inference_relu", linear=()),
        _norm("layer_norm", refuses="C"),
        _norm("group_norm", refuses="C", groups=2),
        Entry(
            "rms_norm",
            linear=("gamma",),
            vectors=("gamma",),
            channels={"x": -1, "gamma": -1},
            refuses="C",
            small={"x": (1, 1, 1, 2), "gamma": (2,)},
            infeasible=(
                ({"x": (2, 3), "gamma": (4,)}, {}, "gamma has shape"),
                ({"x": (2,), "gamma": (2,)}, {}, "axis"),
                ({"x": (2, 3), "gamma": (3,)}, {"epsilon": 0.0}, "epsilon"),
            ),
        ),
        _elementwise(
            "dropout",
            {"rate": 1.0},
            {"rate": -0.1},
            linear=("x",),
            views=frozenset({("y", "x"), ("dx", "dy")}),  # where the rate is 0, it is x itself
            options={"rate": 0.5, "key": (5, 1)},
        ),
        _loss("softmax_cross_entropy", {"y": (1, 1), "t": (1,)}, ({"y": (4,), "t": ()}, {}, "expected logits")),
        _loss("mean_squared_error", {"y": (1,), "t": (1,)}),
        _loss(
            "binary_cross_entropy", {"y": (1,), "t": (1,)}, ({"y": (2,), "t": (2,)}, {"label_smoothing": 2}, "label")
        ),
        _loss("softmax_focal", {"y": (1, 1), "t": (1,)}, ({"y": (4,), "t": ()}, {}, "expected logits")),
        _loss("binary_focal", {"y": (1,), "t": (1,)}, ({"y": (2,), "t": (2,)}, {"gamma": -1.0}, "gamma")),
        _loss("hinge", {"y": (1,), "t": (1,)}),
        _loss("kl_divergence", {"y": (1, 1), "t": (1, 1)}, ({"y": (4,), "t": (4,)}, {}, "expected logits")),
        _loss(
            "dice",
            {"y": (1, 1, 1), "t": (1, 1, 1)},
            ({"y": (2, 3), "t": (2, 3)}, {}, "expected maps"),
            ({"y": (2, 3, 1), "t": (2, 3, 1)}, {"smooth": 0.0}, "smooth"),
            alike={"y": (1, 1, 1), "t": (1, 1, 1)},
        ),
        _loss("cosine_distance", {"y": (1, 1), "t": (1, 1)}, ({"y": (2,), "t": (2,)}, {}, "expected vectors")),
        _loss("huber", {"y": (1,), "t": (1,)}, ({"y": (2,), "t": (2,)}, {"delta": 0.0}, "delta")),
    )
}


# -- calls -------------------------------------------------------------------------------------------------------------

PLAIN = [number for number in range(0, 40) if cases.KINDS[number % len(cases.KINDS)] == "plain"]


def cases_of(name: str, dtype: str = "float64", count: int = 4) -> list[Case]:
    """A few cases without NaN, ties or empty batches; together they go through the op's options."""
    return [cases.draw(name, number, 1, dtype) for number in PLAIN[:count]]


def case_like(entry: Entry, shapes: dict[str, tuple[int, ...]], options: dict[str, Any], dtype: str) -> Case:
    """A case of given shapes: positive numbers below 1, which are also shares, answers and variances; classes 0."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {a: np.asarray(rng.uniform(0.1, 0.9, s)).astype(dtype) for a, s in shapes.items()}
    if entry.name in ("softmax_cross_entropy", "softmax_focal", "kl_divergence"):
        y, t = arrays["y"], arrays["t"]
        arrays["t"] = np.ones_like(t) if t.shape == y.shape else np.zeros(t.shape, np.int64)
    arrays = {name: arrays.get(name) for name in entry.arguments if name in arrays or name in entry.optional}
    return Case(entry.name, 0, 0, dtype, "plain", arrays, {**entry.options, **options})


def function_of(case: Case) -> Callable[..., Any]:
    """The op or loss, with ``relu=True`` if the case includes a ReLU: arrays by name and options -> y, pullback."""
    op = ways.function(case)
    return lambda **arguments: op(**arguments)


def run(case: Case, arrays: dict[str, Any], dy: Any = None, **options: Any) -> dict[str, Any]:
    """The output and every gradient by name, as they come from the op; dy is one everywhere if it is not given."""
    y, pullback = function_of(case)(**arrays, **{**case.options, **options})
    names = [f"d{name}" for name in arrays if name not in ENTRIES[case.op].targets]
    if case.loss:
        found = pullback() if dy is None else pullback(dy)
    else:
        found = pullback(dn.asarray(np.ones(y.shape), y.dtype) if dy is None else dy)
    found = found if isinstance(found, tuple) else (found,)
    assert len(found) == len(names), f"{case.op}: {len(found)} gradients for {names}"
    return {"loss" if case.loss else "y": y, **dict(zip(names, found))}
