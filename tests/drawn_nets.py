"""Networks drawn at random: every layer, with arguments of every kind, in chains, residual blocks and branches."""

from __future__ import annotations

from typing import Any

import numpy as np

import dualnet as dn

Draw = np.random.Generator
MOST_UNITS = 3000


def one(rng: Draw, *choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def extent(rng: Draw, most: int) -> int | tuple[int, int]:
    return one(rng, int(rng.integers(1, most + 1)), tuple(int(n) for n in rng.integers(1, most + 1, 2)))


def padding(rng: Draw) -> Any:
    sides = tuple(tuple(int(n) for n in rng.integers(0, 3, 2)) for _ in range(2))
    return one(rng, 0, 1, 2, (1, 0), "same", "valid", "full", sides)


def windowed(rng: Draw) -> dict[str, Any]:
    return {"stride": extent(rng, 3), "padding": padding(rng), "dilation": one(rng, 1, 1, 2, (1, 2), (3, 1))}


def pooled(rng: Draw) -> dict[str, Any]:
    return {**windowed(rng), "stride": one(rng, None, extent(rng, 3)), "ceil_mode": one(rng, False, True)}


def activation(rng: Draw) -> dn.Layer:
    return one(
        rng,
        dn.ReLU(),
        dn.ReLU(),
        dn.LeakyReLU(float(rng.random())),
        dn.ELU(float(rng.random() * 2)),
        dn.ELU(),
        dn.GELU(),
        dn.GELU(approximate=True),
        dn.SiLU(),
        dn.Sigmoid(),
        dn.Tanh(),
        dn.Softplus(),
    )


def any_shape(rng: Draw, axes: int, C: int) -> dn.Layer:
    """A layer that takes any shape; with its batch the input has ``axes`` axes."""
    several = tuple(int(a) for a in rng.permutation(np.arange(1, axes))[: rng.integers(1, axes)])
    learned = {"center": one(rng, True, False), "scale": one(rng, True, False), "epsilon": one(rng, 1e-5, 1e-3)}
    return one(
        rng,
        activation(rng),
        dn.BatchNorm(**learned),
        dn.LayerNorm(one(rng, -1, several), **learned),
        dn.GroupNorm(one(rng, *(g for g in range(1, C + 1) if C % g == 0)), **learned),
        dn.Softmax(one(rng, -1, int(rng.integers(1, axes)))),
        dn.LogSoftmax(one(rng, -1, int(rng.integers(1, axes)))),
        dn.Dropout(0.5),
        dn.Identity(),
        dn.Dense(int(rng.integers(1, 7)), use_bias=one(rng, True, False)),
        dn.Flatten(),
    )


def of_maps(rng: Draw, C: int) -> dn.Layer:
    D, bias, mode = int(rng.integers(1, 7)), one(rng, True, False), one(rng, "correlation", "convolution")
    groups = one(rng, 1, *(g for g in range(1, C + 1) if C % g == 0))
    k, s = extent(rng, 4), int(rng.integers(1, 4))
    more = {"multiplier": int(rng.integers(1, 3))}
    return one(
        rng,
        dn.Conv2D(D * groups, k, groups=groups, use_bias=bias, mode=mode, **windowed(rng)),
        dn.Conv2D(D, 3, padding="same", use_bias=bias),
        dn.Conv2DTranspose(
            D * groups,
            k,
            groups=groups,
            use_bias=bias,
            stride=s,
            padding=padding(rng),
            dilation=one(rng, 1, 2, (2, 1)),
            output_padding=int(rng.integers(s)),
        ),
        dn.DepthwiseConv2D(k, depth_multiplier=more["multiplier"], use_bias=bias, mode=mode, **windowed(rng)),
        dn.SeparableConv2D(D, k, depth_multiplier=more["multiplier"], use_bias=bias, mode=mode, **windowed(rng)),
        dn.MaxPool2D(k, **pooled(rng)),
        dn.AveragePool2D(k, count_include_pad=one(rng, True, False), **pooled(rng)),
        dn.L2Pool2D(k, **pooled(rng)),
        dn.GlobalAveragePool2D(keepdims=one(rng, True, False)),
        dn.GlobalMaxPool2D(keepdims=one(rng, True, False)),
        dn.SpatialDropout2D(0.5),
        dn.models.PaddedShortcut(C + int(rng.integers(3)), int(rng.integers(1, 4))),
    )


def keeps_shape(rng: Draw, shape: tuple[int, ...]) -> dn.Layer:
    if len(shape) == 3 and rng.random() < 0.7:
        return dn.Sequential([dn.Conv2D(shape[2], 3, padding="same"), activation(rng)])
    return dn.Sequential([dn.Dense(shape[-1]), activation(rng)])


def branched(rng: Draw, shape: tuple[int, ...]) -> dn.Layer:
    ways = [keeps_shape(rng, shape) for _ in range(3)]
    twice = dn.Conv2D(shape[2], 3, padding="same") if len(shape) == 3 else dn.Dense(shape[-1])
    return one(
        rng,
        dn.Residual(ways[0]),
        dn.Residual(ways[0], shortcut=ways[1]),
        dn.Parallel(ways, merge="add"),
        dn.Parallel([*ways[:2], dn.Identity()], merge="concat"),
        dn.Parallel([dn.Residual(ways[0]), ways[1]], merge="concat"),
        dn.Sequential([twice, dn.Tanh(), twice]),  # a layer that is shared
    )


def drawn_net(rng: Draw, dtype: str = "float32", most: int = 7) -> dn.Sequential:
    """A network with values of its own in every parameter and running statistic."""
    C = int(rng.integers(1, 5))
    shapes = [(int(rng.integers(4, 11)), int(rng.integers(4, 11)), C)] * 7 + [(5,), (3, C), (2, 3, 2, C)]
    first = shape = one(rng, *shapes)
    layers: list[dn.Layer] = []
    for _ in range(100):
        if len(layers) >= most:
            break
        kind = rng.random()
        if kind < 0.2:
            layer = branched(rng, shape)
        elif kind < 0.7 and len(shape) == 3:
            layer = of_maps(rng, shape[2])
        else:
            layer = any_shape(rng, len(shape) + 1, shape[-1])
        if isinstance(layer, dn.Flatten) and rng.random() < 0.5:
            continue
        try:
            after = layer.output_shape(shape)
        except ValueError:
            continue
        if np.prod(after) <= MOST_UNITS:
            layers.append(layer)
            shape = after
    net = dn.Sequential(layers)
    net.init(first, seed=int(rng.integers(1000)), dtype=dtype)
    state = net.state_dict()
    for name, value in state.items():
        if hasattr(value, "shape") and name.rpartition(".")[2] != "w":
            low = 0.3 if name.endswith(("variance", "gamma")) else -0.5
            state[name] = rng.uniform(low, 1.5, value.shape).astype(dn.to_numpy(value).dtype)
    net.load_state_dict(state)
    return net


def examples(net: dn.Layer, rng: Draw, batch: int = 3) -> np.ndarray:
    return rng.standard_normal((batch, *net.input_shape)).astype(net.dtype)
