"""How the arguments of each op are drawn. Sizes are small since plain loops must keep up, except for one long sum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy

Rng = numpy.random.Generator
LONG = 10_000  # terms of a long sum
GROUPS = 2  # of group norm


@dataclass
class Drawn:
    """Arguments, options, and the name of the exception that the call must raise."""

    arrays: dict[str, numpy.ndarray | None]
    options: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


Draw = Callable[[Rng, str], Drawn]
"""Draws the arguments of an op for a kind of case."""


# -- numbers -----------------------------------------------------------------------------------------------------------


def values(rng: Rng, kind: str, *shape: int) -> numpy.ndarray:
    """Normal random numbers; small integers for ties; a few NaN, infinities and a −0 among them in special cases."""
    if kind == "ties":
        return rng.integers(-2, 3, shape).astype(numpy.float64)
    x = rng.standard_normal(shape)
    if kind == "wide":
        x *= 10.0 ** rng.uniform(-2, 1)
    if kind == "special" and x.size:
        flat = x.reshape(-1)
        for value in (numpy.nan, numpy.inf, -numpy.inf, -0.0):
            flat[rng.integers(x.size)] = value
    return x


def weights(rng: Rng, kind: str, *shape: int) -> numpy.ndarray:
    """Like ``values``, but always finite: whether 0 · ∞ arises depends on whether padding is multiplied or skipped."""
    return values(rng, "plain" if kind == "special" else kind, *shape)


def batch(rng: Rng, kind: str, most: int = 3) -> int:
    """The size of the batch: 0 or 1 for the kinds that ask for it, else from 2 to ``most``."""
    return 0 if kind == "no image" else 1 if kind in ("one image", "long sums") else int(rng.integers(2, most + 1))


def two_of(rng: Rng, low: int, high: int) -> tuple[int, int]:
    """Two integers from low to high: height and width differ most of the time."""
    return int(rng.integers(low, high + 1)), int(rng.integers(low, high + 1))


def pads(rng: Rng, window: tuple[int, int], dilation: tuple[int, int]) -> Any:
    """Padding in each of its forms, always narrower than the window."""
    form = rng.choice(["none", "number", "pair", "sides", "valid", "same", "full"])
    below = [r * (k - 1) for k, r in zip(window, dilation)]
    if form == "number":
        return int(rng.integers(0, min(below) + 1))
    if form == "pair":
        return tuple(int(rng.integers(0, b + 1)) for b in below)
    if form == "sides":
        return tuple((int(rng.integers(0, b + 1)), int(rng.integers(0, b + 1))) for b in below)
    return 0 if form == "none" else str(form)


# -- convolution -------------------------------------------------------------------------------------------------------


def conv2d(rng: Rng, kind: str) -> Drawn:
    """Every form of padding, strides, dilations, groups, both modes, with and without a bias."""
    if kind == "long sums":  # E4 over 10⁴ products; E11 over few
        x, w = values(rng, kind, 1, 3, 1, LONG // 2), weights(rng, kind, 2, 1, LONG // 2, 2)
        return Drawn({"x": x, "w": w, "b": weights(rng, kind, 2)})
    if kind == "short sums":  # E4 over a single product; E11 over 10⁴
        x, w = values(rng, kind, 4, 50, 50, 1), weights(rng, kind, 1, 1, 1, 1)
        return Drawn({"x": x, "w": w, "b": None})
    if kind == "refused":
        x, w = values(rng, kind, 1, 4, 4, 3), weights(rng, kind, *rng.choice([(2, 2, 2), (5, 2, 3)]), 2)
        return Drawn({"x": x, "w": w, "b": None}, refused="ValueError")
    window, dilation, groups = two_of(rng, 1, 4), two_of(rng, 1, 2), int(rng.choice([1, 1, 2, 3]))
    size = tuple(r * (k - 1) + 1 + int(rng.integers(0, 6)) for k, r in zip(window, dilation))
    channels, filters = (groups * int(rng.integers(1, 4)) for _ in range(2))
    options = {
        "stride": two_of(rng, 1, 3),
        "padding": pads(rng, window, dilation),
        "dilation": dilation,
        "groups": groups,
        "mode": str(rng.choice(["correlation", "convolution"])),
        "need_dx": bool(rng.random() < 0.9),
    }
    x = values(rng, kind, batch(rng, kind), *size, channels)
    w = weights(rng, kind, *window, channels // groups, filters)
    return Drawn({"x": x, "w": w, "b": weights(rng, kind, filters) if rng.random() < 0.7 else None}, options)


def conv_transpose2d(rng: Rng, kind: str) -> Drawn:
    """Always finite: in the backward pass, a cropped unit meets 0. A product turns 0 · ∞ into NaN; a loop skips it."""
    kind = "wide" if kind == "special" else kind
    if kind == "long sums":
        x, w = values(rng, kind, 1, 1, 1, LONG), weights(rng, kind, 1, 1, 2, LONG)
        return Drawn({"x": x, "w": w, "b": weights(rng, kind, 2)})
    if kind == "short sums":
        x, w = values(rng, kind, 4, 50, 50, 1), weights(rng, kind, 1, 1, 2, 1)
        return Drawn({"x": x, "w": w, "b": None})
    if kind == "refused":
        return Drawn({"x": values(rng, kind, 1, 4, 4, 3), "w": weights(rng, kind, 2, 2, 3, 2)}, refused="ValueError")
    window, dilation, stride = two_of(rng, 1, 4), two_of(rng, 1, 2), two_of(rng, 1, 3)
    groups = int(rng.choice([1, 1, 2, 3]))
    painted, filters = (groups * int(rng.integers(1, 4)) for _ in range(2))
    padding = tuple(tuple(int(rng.integers(0, r * (k - 1) // 2 + 1)) for _ in "ab") for k, r in zip(window, dilation))
    options = {
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "output_padding": tuple(int(rng.integers(0, s)) for s in stride),
    }
    x = values(rng, kind, batch(rng, kind), *two_of(rng, 2, 5), filters)
    w = weights(rng, kind, *window, painted // groups, filters)
    return Drawn({"x": x, "w": w, "b": weights(rng, kind, painted) if rng.random() < 0.7 else None}, options)


# -- pooling -----------------------------------------------------------------------------------------------------------


def pooling(*flags: str, special: bool = True) -> Draw:
    """Pooling with windows; ``flags`` are options that may be on or off; ``special`` lets NaN and ∞ in."""

    def drawn(rng: Rng, kind: str) -> Drawn:
        if kind == "refused":
            return Drawn({"x": values(rng, kind, 1, 3, 4, 2)}, {"pool_size": (5, 2)}, refused="ValueError")
        if kind == "special" and not special:
            kind = "wide"
        if kind in ("long sums", "short sums"):
            side = 70 if kind == "long sums" else 1  # a window of 4,900 units, or of one
            return Drawn({"x": values(rng, kind, 1, side + 1, side, 2)}, {"pool_size": side, "stride": 1})
        window, dilation = two_of(rng, 1, 4), two_of(rng, 1, 2)
        size = tuple(r * (k - 1) + 1 + int(rng.integers(0, 6)) for k, r in zip(window, dilation))
        options: dict[str, Any] = {
            "pool_size": window,
            "stride": None if rng.random() < 0.3 else two_of(rng, 1, 3),
            "dilation": dilation,
            "ceil_mode": bool(rng.random() < 0.3),
            **{flag: bool(rng.random() < 0.5) for flag in flags},
        }
        if dilation == (1, 1):  # a dilated window could lie wholly in the padding, which is an error
            options["padding"] = tuple(int(rng.integers(0, k // 2 + 1)) for k in window)
        return Drawn({"x": values(rng, kind, batch(rng, kind), *size, int(rng.integers(1, 5)))}, options)

    return drawn


def whole_map() -> Draw:
    """Pooling over the whole map."""

    def drawn(rng: Rng, kind: str) -> Drawn:
        if kind == "refused":
            return Drawn({"x": values(rng, kind, 2, 0, 3, 1)}, refused="ValueError")
        sides = {"long sums": (100, 100), "short sums": (1, 1)}.get(kind) or two_of(rng, 1, 9)
        x = values(rng, kind, batch(rng, kind), *sides, int(rng.integers(1, 5)))
        return Drawn({"x": x}, {"keepdims": bool(rng.random() < 0.5)})

    return drawn


# -- flatten, dense, activations ---------------------------------------------------------------------------------------


def flatten(rng: Rng, kind: str) -> Drawn:
    """Maps of any size."""
    if kind == "refused":
        return Drawn({"x": values(rng, kind, 4)}, refused="ValueError")
    return Drawn({"x": values(rng, kind, batch(rng, kind), *two_of(rng, 1, 6), int(rng.integers(1, 6)))})


def reshape(rng: Rng, kind: str) -> Drawn:
    """Maps with two axes to be joined, and each form of the target shape."""
    if kind == "refused":
        return Drawn({"x": values(rng, kind, 2, 3, 5)}, {"shape": (4, -1)}, refused="ValueError")
    H, W, C = *two_of(rng, 1, 6), int(rng.integers(1, 6))
    shapes: list[Any] = [(H * W, C), (H, W * C), (W, 1, -1), (-1,), (C, W, H)]
    return Drawn({"x": values(rng, kind, batch(rng, kind), H, W, C)}, {"shape": shapes[int(rng.integers(len(shapes)))]})


# -- maps of another size ----------------------------------------------------------------------------------------------


def upsampling(rng: Rng, kind: str) -> Drawn:
    """Both interpolations, sizes from 1 to 4."""
    if kind == "refused":
        return Drawn({"x": values(rng, kind, 2, 3, 4)}, {"size": 2}, refused="ValueError")
    size = two_of(rng, 1, 4) if rng.random() < 0.7 else int(rng.integers(2, 4))
    map_size = two_of(rng, 1, 5)
    if kind == "long sums":
        size, map_size = (100, 50), (2, 1)
    options = {"size": size, "interpolation": str(rng.choice(["nearest", "bilinear"]))}
    return Drawn({"x": values(rng, kind, batch(rng, kind), *map_size, int(rng.integers(1, 4)))}, options)


def sides(name: str, least: tuple[int, int], refused: int) -> Draw:
    """Padding or cropping in each of its forms, on maps of at least this size; ``refused`` is too much for them."""

    def drawn(rng: Rng, kind: str) -> Drawn:
        if kind == "refused":
            return Drawn({"x": values(rng, kind, 2, 3, 3, 1)}, {name: refused}, refused="ValueError")
        form = int(rng.integers(3))
        forms: tuple[Any, ...] = (int(rng.integers(0, 3)), two_of(rng, 0, 2), (two_of(rng, 0, 2), two_of(rng, 0, 2)))
        size = two_of(rng, *least)
        return Drawn({"x": values(rng, kind, batch(rng, kind), *size, int(rng.integers(1, 5)))}, {name: forms[form]})

    return drawn


def adaptive(rng: Rng, kind: str) -> Drawn:
    """Windows that lie side by side, overlap, or repeat units."""
    if kind == "refused":
        return Drawn({"x": values(rng, kind, 2, 3, 4)}, {"output_size": 2}, refused="ValueError")
    size = (100, 100) if kind == "long sums" else two_of(rng, 1, 9)
    output: Any = 1 if kind == "long sums" else two_of(rng, 1, 5) if rng.random() < 0.7 else int(rng.integers(1, 4))
    return Drawn({"x": values(rng, kind, batch(rng, kind), *size, int(rng.integers(1, 5)))}, {"output_size": output})


def dense(rng: Rng, kind: str) -> Drawn:
    """Rows, or maps whose last axis is the row."""
    rows, K, D = batch(rng, kind, 9), int(rng.integers(1, 60)), int(rng.integers(2, 9))
    if kind == "refused":
        return Drawn({"x": values(rng, kind, 2, 3), "w": weights(rng, kind, 4, 2), "b": None}, refused="ValueError")
    if kind == "long sums":
        rows, K, D = 2, LONG, 2
    if kind == "short sums":
        rows, K, D = LONG, 1, 2
    between = [int(rng.integers(1, 4))] if rng.random() < 0.3 and rows < 100 else []
    b = weights(rng, kind, D) if rng.random() < 0.7 else None
    options = {"need_dx": bool(rng.random() < 0.9)}
    return Drawn({"x": values(rng, kind, rows, *between, K), "w": weights(rng, kind, K, D), "b": b}, options)


def without_ties(draw: Draw) -> Draw:
    """For sums with a ReLU: a sum that is exactly 0 in one order may be 1e-17 in another, and then dy passes."""
    return lambda rng, kind: draw(rng, "plain" if kind in ("ties", "special") else kind)


def elementwise(special: bool = True, **choices: list[Any]) -> Draw:
    """Functions of one number. ``choices`` are options and their possible values; ``special`` lets NaN and ∞ in."""

    def drawn(rng: Rng, kind: str) -> Drawn:
        options = {name: among[int(rng.integers(len(among)))] for name, among in choices.items()}
        kind = "wide" if kind == "special" and not special else kind
        if kind == "refused":
            return Drawn({"x": rng.integers(-3, 4, (2, 3))}, options, refused="TypeError")  # integers raise an error
        shape = (2, 700) if kind == "long sums" else (batch(rng, kind), *two_of(rng, 1, 7), int(rng.integers(1, 6)))
        return Drawn({"x": 3.0 * values(rng, kind, *shape)}, options)

    return drawn


def prelu(rng: Rng, kind: str) -> Drawn:
    """A slope for each channel, or one for all; some are 0 or negative. NaN is neither > 0 nor < 0, and so has no
    slope."""
    kind = "wide" if kind == "special" else kind
    N, size, C = batch(rng, kind, 5), two_of(rng, 1, 6), int(rng.integers(1, 6))
    if kind == "long sums":
        N, size, C = 1, (100, 50), 2
    alpha = weights(rng, kind, C if rng.random() < 0.6 else 1)
    alpha *= rng.random(alpha.shape) < 0.8
    x = 3.0 * values(rng, kind, N, *size, C)
    return Drawn(
        {"x": x, "alpha": rng.standard_normal(C + 1) if kind == "refused" else alpha},
        refused="ValueError" if kind == "refused" else "",
    )


def shares(rng: Rng, kind: str) -> Drawn:
    """Softmax and its logarithm, along any axis."""
    if kind == "refused":
        return Drawn({"x": values(rng, kind, 2, 3)}, {"axis": 5}, refused="ValueError")
    if kind == "long sums":
        return Drawn({"x": values(rng, kind, 1, LONG)})
    shape = (batch(rng, kind), *two_of(rng, 1, 6), 1 if kind == "short sums" else int(rng.integers(2, 7)))
    axis = int(rng.choice([-1, -1, 1, 2, 3]))
    return Drawn({"x": (1000.0 if kind == "wide" else 3.0) * values(rng, kind, *shape)}, {"axis": axis})


# -- normalisation, dropout --------------------------------------------------------------------------------------------


def norm(op: str) -> Draw:
    """Batch, layer or group norm. ``x`` is finite and without ties."""

    def drawn(rng: Rng, kind: str) -> Drawn:
        kind = "wide" if kind in ("special", "ties") else kind
        x = several_to_a_mean(rng, op, kind)
        axis = (1, 2, 3) if op == "layer_norm" and rng.random() < 0.3 else -1
        width = x.shape[1:] if axis == (1, 2, 3) else x.shape[-1:]
        if kind == "refused":
            width = (*width[:-1], width[-1] + 1)
        arrays: dict[str, numpy.ndarray | None] = {
            "x": x,
            "gamma": 1.0 + 0.3 * rng.standard_normal(width),
            "beta": rng.standard_normal(width),
        }
        if op == "batch_norm_inference":
            arrays |= {"mean": rng.standard_normal(width), "variance": 0.1 + rng.random(width)}
        options: dict[str, Any] = {"epsilon": 1e-5}
        if op == "group_norm":
            options["groups"] = GROUPS
        if op == "layer_norm":
            options["axis"] = axis
        empty = kind == "no image" and op == "batch_norm"  # the mean of nothing
        return Drawn(arrays, options, refused="ValueError" if kind == "refused" or empty else "")

    return drawn


def rms_norm(rng: Rng, kind: str) -> Drawn:
    """As layer norm, without β."""
    drawn = norm("layer_norm")(rng, kind)
    return Drawn({name: drawn.arrays[name] for name in ("x", "gamma")}, drawn.options, drawn.refused)


def several_to_a_mean(rng: Rng, op: str, kind: str) -> numpy.ndarray:
    """x (N, H, W, C) where several values share each mean. One alone has no variance, and its gradient is rounding."""
    N, C = batch(rng, kind), int(rng.integers(2, 7)) + (8 if op == "layer_norm" else 0)
    size = two_of(rng, 2, 6)
    if kind == "long sums":
        N, size, C = (1, (10, 10), 10) if op == "layer_norm" else (4, (25, 50), 2)
    channels = C * GROUPS if op == "group_norm" else C
    x = values(rng, kind, N, *size, channels)
    return x + rng.standard_normal(channels) * (10.0 if kind == "wide" else 1.0)  # |μ| / σ of about 10


def dropout(rng: Rng, kind: str) -> Drawn:
    """Rates for which 1 / (1 − rate) has few digits. No infinities: dropping one would give 0 · ∞."""
    kind = "wide" if kind == "special" else kind
    options: dict[str, Any] = {"rate": float(rng.choice([0.0, 0.2, 0.5, 0.75])), "key": (int(rng.integers(2**40)), 7)}
    if kind == "refused":
        return Drawn({"x": values(rng, kind, 2, 3)}, options | {"rate": 1.5}, refused="ValueError")
    shape = (1, 50, 50, 4) if kind == "long sums" else (batch(rng, kind), *two_of(rng, 1, 6), int(rng.integers(1, 6)))
    return Drawn({"x": values(rng, kind, *shape)}, options | {"shared_axes": (1, 2) if rng.random() < 0.3 else ()})


# -- losses ------------------------------------------------------------------------------------------------------------


def some_weights(rng: Rng, kind: str, *shape: int) -> numpy.ndarray | None:
    """Weights of examples or of places in half of the cases; a third of them are 0."""
    if rng.random() < 0.5:
        return None
    w = rng.uniform(0.5, 2.0, shape[: int(rng.integers(1, len(shape) + 1))])
    w *= rng.random(w.shape) < 0.7
    return w - 3.0 if kind == "refused" else w


def distributions(rng: Rng, rows: int, C: int) -> numpy.ndarray:
    """Probabilities in 64ths, which add up to 1 in 16 bits too; some are 0."""
    return rng.multinomial(64, numpy.ones(C) / C, rows) / 64.0


def cross_entropy(rng: Rng, kind: str) -> Drawn:
    """Logits, and class numbers or probabilities as targets."""
    rows, C = (3, LONG) if kind == "long sums" else (batch(rng, kind, 9), int(rng.integers(2, 12)))
    y = (300.0 if kind == "wide" else 3.0) * weights(rng, kind, rows, C)
    t: numpy.ndarray = rng.integers(0, C, rows)
    if kind == "refused":
        t = t + C  # labels out of range, which a GPU would silently take for other classes
    elif rng.random() < 0.3:
        t = distributions(rng, rows, C)
    options = {"label_smoothing": float(rng.choice([0.0, 0.0, 0.125]))}
    arrays = {"y": y, "t": t, "weights": some_weights(rng, kind, rows)}
    return Drawn(arrays, options, refused="ValueError" if kind in ("no image", "refused") else "")


def distance(weighted: int = 2, **choices: list[Any]) -> Draw:
    """Losses that compare y and t element by element; ``weighted`` is the number of axes that weights may have."""

    def drawn(rng: Rng, kind: str) -> Drawn:
        shape = (2, LONG // 2) if kind == "long sums" else (batch(rng, kind, 9), int(rng.integers(1, 12)))
        y, t = (weights(rng, kind, *shape) for _ in "yt")
        t = t[:, :1] if kind == "refused" and shape[1] > 1 else t[..., None] if kind == "refused" else t
        options = {name: among[int(rng.integers(len(among)))] for name, among in choices.items()}
        arrays = {"y": y, "t": t, "weights": some_weights(rng, kind, *shape[:weighted])}
        return Drawn(arrays, options, refused="ValueError" if kind in ("no image", "refused") else "")

    return drawn


def yes_or_no(rng: Rng, kind: str) -> Drawn:
    """Logits and targets 0 or 1."""
    drawn = distance(label_smoothing=[0.0, 0.0, 0.125])(rng, kind)
    t = drawn.arrays["t"]
    drawn.arrays["t"] = (t > 0).astype(numpy.int64)  # type: ignore[operator]
    return drawn


def focal(rng: Rng, kind: str) -> Drawn:
    """As for cross-entropy, with the exponent that plays down easy examples."""
    drawn = cross_entropy(rng, kind)
    drawn.options = {"gamma": float(rng.choice([0.0, 0.5, 1.0, 2.0, 2.5]))}
    return drawn


def binary_focal(rng: Rng, kind: str) -> Drawn:
    """Answers, with the exponent that plays down easy examples."""
    drawn = yes_or_no(rng, kind)
    drawn.options = {"gamma": float(rng.choice([0.0, 0.5, 1.0, 2.0, 2.5]))}
    return drawn


def hinge(rng: Rng, kind: str) -> Drawn:
    """Answers; no y lies on the corner of the loss."""
    drawn = yes_or_no(rng, kind)
    drawn.options = {}
    if kind == "ties":
        y: Any = drawn.arrays["y"]
        drawn.arrays["y"] = y + 0.25
    return drawn


def divergence(rng: Rng, kind: str) -> Drawn:
    """Logits, and distributions in which some probabilities are 0."""
    drawn = cross_entropy(rng, kind)
    y: Any = drawn.arrays["y"]
    q = distributions(rng, *y.shape)
    drawn.arrays["t"] = q - 1.0 if kind == "refused" else q
    drawn.options = {}
    return drawn


def regions(rng: Rng, kind: str) -> Drawn:
    """Logits of maps, and where the regions are."""
    size = (100, 50) if kind == "long sums" else two_of(rng, 1, 5)
    shape = (batch(rng, kind, 4), *size, int(rng.integers(1, 4)))
    y, t = 2.0 * weights(rng, kind, *shape), rng.integers(0, 2, shape)
    options = {"smooth": float(rng.choice([1.0, 0.125]))}
    arrays = {"y": y, "t": t + 2 if kind == "refused" else t, "weights": some_weights(rng, kind, shape[0])}
    return Drawn(arrays, options, refused="ValueError" if kind in ("no image", "refused") else "")


def directions(rng: Rng, kind: str) -> Drawn:
    """Two vectors in each row, of several numbers: one number alone has only two directions."""
    kind = "wide" if kind == "ties" else kind
    shape = (2, LONG // 2) if kind == "long sums" else (batch(rng, kind, 9), int(rng.integers(3, 12)))
    y, t = (weights(rng, kind, *shape) for _ in "yt")
    arrays = {"y": y, "t": t[:, :1] if kind == "refused" else t, "weights": some_weights(rng, kind, shape[0])}
    return Drawn(arrays, refused="ValueError" if kind in ("no image", "refused") else "")


DRAWS: dict[str, Draw] = {
    "conv2d": conv2d,
    "conv2d_relu": without_ties(conv2d),
    "conv_transpose2d": conv_transpose2d,
    "dense": dense,
    "dense_relu": without_ties(dense),
    "flatten": flatten,
    "max_pool2d": pooling(),
    "max_pool2d_relu": pooling(),
    "avg_pool2d": pooling("count_include_pad"),
    "l2_pool2d": pooling(special=False),
    "adaptive_avg_pool2d": adaptive,
    "upsample2d": upsampling,
    "zero_pad2d": sides("padding", (1, 5), -1),
    "reflect_pad2d": sides("padding", (3, 7), 3),
    "crop2d": sides("cropping", (5, 8), 2),
    "reshape": reshape,
    "global_avg_pool2d": whole_map(),
    "global_max_pool2d": whole_map(),
    "relu": elementwise(),
    "leaky_relu": elementwise(special=False, alpha=[0.01, 0.25, 0.0]),  # NaN is neither > 0 nor < 0
    "elu": elementwise(alpha=[1.0, 0.5]),
    "gelu": elementwise(approximate=[False, True]),
    "silu": elementwise(),
    "sigmoid": elementwise(),
    "tanh": elementwise(),
    "softplus": elementwise(),
    "mish": elementwise(),
    "relu6": elementwise(),
    "hardsigmoid": elementwise(),
    "hardswish": elementwise(),
    "prelu": prelu,
    "softmax": shares,
    "log_softmax": shares,
    "batch_norm": norm("batch_norm"),
    "batch_norm_relu": norm("batch_norm"),
    "batch_norm_inference": norm("batch_norm_inference"),
    "batch_norm_inference_relu": norm("batch_norm_inference"),
    "layer_norm": norm("layer_norm"),
    "group_norm": norm("group_norm"),
    "rms_norm": rms_norm,
    "dropout": dropout,
    "softmax_cross_entropy": cross_entropy,
    "mean_squared_error": distance(1),
    "binary_cross_entropy": yes_or_no,
    "huber": distance(delta=[1.0, 0.5]),
    "softmax_focal": focal,
    "binary_focal": binary_focal,
    "hinge": hinge,
    "kl_divergence": divergence,
    "dice": regions,
    "cosine_distance": directions,
}
"""How each op's arguments are drawn, by its name."""
