"""Networks for tests of programs that run elsewhere: one for every kind of layer, and some drawn at random."""

from __future__ import annotations

import numpy as np

import dualnet as dn

EVERY = {
    "Conv2D": (dn.Conv2D(6, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2), (9, 8, 4)),
    "Conv2D.same": (dn.Conv2D(3, 4, stride=3, padding="same", use_bias=False), (8, 7, 2)),
    "Conv2D.full": (dn.Conv2D(3, (2, 3), padding="full", mode="convolution"), (4, 5, 2)),
    "Conv2DTranspose": (dn.Conv2DTranspose(4, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2)), (4, 3, 6)),
    "Conv2DTranspose.same": (dn.Conv2DTranspose(4, 4, stride=2, padding="same", groups=2, use_bias=False), (4, 3, 6)),
    "Conv2DTranspose.dilation": (dn.Conv2DTranspose(2, (3, 2), dilation=(2, 3), padding="full"), (7, 6, 3)),
    "DepthwiseConv2D": (dn.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (5, 6, 3)),
    "SeparableConv2D": (dn.SeparableConv2D(5, 3, stride=2, padding=1, mode="convolution"), (7, 6, 3)),
    "MaxPool2D": (dn.MaxPool2D((3, 2), stride=2, padding=1, ceil_mode=True), (8, 7, 3)),
    "MaxPool2D.dilation": (dn.MaxPool2D(2, dilation=3, stride=1), (6, 7, 2)),
    "AveragePool2D": (dn.AveragePool2D(3, stride=2, padding="same"), (8, 7, 3)),
    "AveragePool2D.ceil": (dn.AveragePool2D(3, stride=2, padding=1, ceil_mode=True), (8, 7, 3)),
    "AveragePool2D.count": (
        dn.AveragePool2D((3, 2), stride=2, padding=((1, 1), (0, 1)), ceil_mode=True, count_include_pad=True),
        (8, 7, 3),
    ),
    "L2Pool2D": (dn.L2Pool2D((2, 3), stride=2, padding=1, ceil_mode=True), (7, 8, 3)),
    "GlobalAveragePool2D": (dn.GlobalAveragePool2D(), (5, 4, 3)),
    "GlobalAveragePool2D.keepdims": (dn.GlobalAveragePool2D(keepdims=True), (5, 4, 3)),
    "GlobalMaxPool2D": (dn.GlobalMaxPool2D(), (5, 4, 3)),
    "GlobalMaxPool2D.keepdims": (dn.GlobalMaxPool2D(keepdims=True), (5, 4, 3)),
    "Flatten": (dn.Flatten(), (3, 2, 2)),
    "Dense": (dn.Dense(7), (12,)),
    "Dense.rows": (dn.Dense(3, use_bias=False), (4, 2, 5)),
    "ReLU": (dn.ReLU(), (4, 3)),
    "LeakyReLU": (dn.LeakyReLU(0.3), (4, 3)),
    "ELU": (dn.ELU(0.7), (4, 3)),
    "GELU": (dn.GELU(), (9, 8)),
    "GELU.approximate": (dn.GELU(approximate=True), (9, 8)),
    "SiLU": (dn.SiLU(), (4, 3)),
    "Sigmoid": (dn.Sigmoid(), (4, 3)),
    "Tanh": (dn.Tanh(), (4, 3)),
    "Softplus": (dn.Softplus(), (4, 3)),
    "Softmax": (dn.Softmax(), (5,)),
    "Softmax.axis": (dn.Softmax(axis=2), (3, 4, 5)),
    "LogSoftmax": (dn.LogSoftmax(axis=-3), (3, 4, 5)),
    "BatchNorm": (dn.BatchNorm(epsilon=1e-3), (3, 4, 5)),
    "BatchNorm.plain": (dn.BatchNorm(center=False, scale=False), (6,)),
    "LayerNorm": (dn.LayerNorm(), (3, 4, 5)),
    "LayerNorm.map": (dn.LayerNorm((1, 2, 3), epsilon=1e-2), (3, 4, 5)),
    "LayerNorm.apart": (dn.LayerNorm((1, 3), scale=False), (3, 4, 5)),
    "LayerNorm.rows": (dn.LayerNorm(2, center=False), (3, 4, 5)),
    "LayerNorm.two_runs": (dn.LayerNorm((2, 4)), (3, 4, 5, 2)),
    "GroupNorm": (dn.GroupNorm(3), (4, 3, 6)),
    "GroupNorm.plain": (dn.GroupNorm(2, center=False, scale=False), (6,)),
    "InstanceNorm": (dn.InstanceNorm(epsilon=1e-3), (4, 3, 6)),
    "InstanceNorm.plain": (dn.InstanceNorm(center=False, scale=False), (9, 6)),
    "Dropout": (dn.Dropout(0.5), (6,)),
    "SpatialDropout2D": (dn.SpatialDropout2D(0.5), (3, 2, 6)),
    "Identity": (dn.Identity(), (6,)),
    "Residual": (dn.Residual(dn.Conv2D(4, 3, padding=1), shortcut=dn.Conv2D(4, 1)), (4, 5, 3)),
    "Residual.twice": (dn.Sequential([dn.Tanh(), dn.Residual(dn.Identity())]), (6,)),
    "Parallel.add": (dn.Parallel([dn.Tanh(), dn.Identity(), dn.ReLU()]), (4, 5, 3)),
    "Parallel.concat": (
        dn.Parallel([dn.Conv2D(2, 1), dn.Identity()], merge="concat"),
        (4, 5, 3),
    ),
    "Parallel.twice": (dn.Parallel([dn.Identity(), dn.Identity()], merge="concat"), (4, 5, 3)),
    "PaddedShortcut": (dn.models.PaddedShortcut(5, stride=2), (5, 4, 3)),
}
"""For every layer that has an inference form, by name: the layer, and the shape of an input."""

NOT_IN_C = {
    "Mish": (dn.Mish(), (4, 3)),
    "ReLU6": (dn.Sequential([dn.Conv2D(4, 1), dn.ReLU6()]), (4, 5, 3)),
    "Hardsigmoid": (dn.Hardsigmoid(), (4, 3)),
    "Hardswish": (dn.Sequential([dn.Conv2D(4, 1), dn.Hardswish()]), (4, 5, 3)),
    "PReLU": (dn.Sequential([dn.Conv2D(4, 1), dn.PReLU()]), (4, 5, 3)),
    "PReLU.shared": (dn.PReLU(0.3, shared=True), (4, 3)),
    "PReLU.flat": (dn.Sequential([dn.Conv2D(4, 1), dn.Flatten(), dn.PReLU(), dn.Dense(3)]), (2, 3, 3)),
    "RMSNorm": (dn.RMSNorm(), (3, 4, 5)),
    "RMSNorm.apart": (dn.RMSNorm((1, 3), epsilon=1e-2), (3, 4, 5)),
    "RMSNorm.plain": (dn.RMSNorm(scale=False), (6,)),
    "UpSampling2D": (dn.UpSampling2D((3, 2)), (4, 3, 2)),
    "UpSampling2D.bilinear": (dn.UpSampling2D((2, 3), interpolation="bilinear"), (4, 3, 2)),
    "ZeroPadding2D": (dn.ZeroPadding2D(((1, 0), (2, 3))), (4, 3, 2)),
    "ReflectionPadding2D": (dn.ReflectionPadding2D(((1, 0), (2, 1))), (4, 3, 2)),
    "Cropping2D": (dn.Cropping2D(((1, 0), (2, 1))), (4, 5, 2)),
    "Reshape": (dn.Sequential([dn.Conv2D(4, 1), dn.Reshape((3, -1)), dn.Dense(2)]), (2, 3, 3)),
    "AdaptiveAveragePool2D": (dn.AdaptiveAveragePool2D((3, 2)), (7, 4, 3)),
    "Conv1D": (dn.Conv1D(6, 3, stride=2, padding=(4, 0), dilation=2, groups=2), (11, 4)),
    "Conv1D.true": (dn.Sequential([dn.Conv1D(3, 2, mode="convolution", padding="same"), dn.Conv1D(2, 1)]), (7, 2)),
    "MaxPool1D": (dn.MaxPool1D(3, stride=2, padding=1, ceil_mode=True), (10, 3)),
    "AveragePool1D": (dn.AveragePool1D(3, stride=2, padding="same"), (10, 3)),
    "GlobalAveragePool1D": (dn.GlobalAveragePool1D(), (10, 3)),
    "GlobalMaxPool1D": (dn.GlobalMaxPool1D(keepdims=True), (10, 3)),
}
"""The same, for layers that no program in C or NumPy is written of yet."""


def made(name: str, rng: np.random.Generator, dtype: str = "float32") -> dn.Layer:
    """The network of that name, with numbers in every parameter and every running statistic."""
    layer, shape = EVERY[name]
    return filled(layer.copy().init(shape, seed=1, dtype=dtype), rng)


def filled(net: dn.Layer, rng: np.random.Generator) -> dn.Layer:
    """Draw what init leaves at 0 or 1: biases, γ, β and running statistics."""
    state = {name: dn.to_numpy(value) for name, value in net.state_dict().items() if hasattr(value, "dtype")}
    rest = {name: value for name, value in net.state_dict().items() if name not in state}
    for name, value in state.items():
        kind = name.rpartition(".")[2]
        if kind in ("b", "beta", "moving_mean"):
            state[name] = rng.normal(0, 0.5, value.shape)
        elif kind in ("gamma", "moving_variance"):
            state[name] = rng.uniform(0.5, 2, value.shape)
    net.load_state_dict({name: value.astype(net.dtype) for name, value in state.items()} | rest)
    return net


def drawn_network(rng: np.random.Generator, learns: bool = False, dtype: str = "float32") -> dn.Sequential:
    """A network of maps, a head, and classes; with ``learns`` only of layers that have a way back in C."""

    def pick(*choices):
        return choices[rng.integers(len(choices))]()

    def activation():
        some = [dn.ReLU, dn.LeakyReLU, dn.ELU, dn.GELU, dn.SiLU, dn.Sigmoid, dn.Tanh, dn.Softplus]
        return pick(*some, lambda: dn.GELU(approximate=True))

    def conv(filters, groups=1):
        k, s, r = (tuple(int(n) for n in rng.integers(1, top, 2)) for top in (4, 3, 3))
        padding = pick(lambda: "same", lambda: 2, lambda: ((2, 1), (0, 2)), lambda: "full")
        mode = pick(lambda: "correlation", lambda: "convolution")
        options = {"stride": s, "padding": padding, "dilation": r, "mode": mode, "use_bias": bool(rng.integers(2))}
        return dn.Conv2D(filters, k, groups=groups, **options)

    def pool():
        ceil = bool(rng.integers(2))
        kinds = [lambda: dn.MaxPool2D(2, ceil_mode=ceil), lambda: dn.MaxPool2D(3, stride=2, padding=1, ceil_mode=ceil)]
        kinds += [lambda: dn.AveragePool2D(3, stride=2, padding="same", count_include_pad=ceil)]
        return pick(*kinds, *([] if learns else [lambda: dn.L2Pool2D(2, stride=1, padding="same")]))

    def norm():
        more = [dn.LayerNorm, lambda: dn.GroupNorm(2), lambda: dn.LayerNorm((1, 2, 3))]
        return pick(dn.BatchNorm, dn.Identity, *([] if learns else more))

    def block(filters):
        def detour():
            return dn.Sequential([dn.Conv2D(filters, 3, padding=1), norm(), activation()])

        kinds = [
            lambda: dn.Residual(detour()),
            lambda: dn.Residual(detour(), shortcut=dn.Conv2D(filters, 1)),
            lambda: dn.Parallel([detour(), dn.Identity(), activation()], merge="concat"),
            lambda: dn.Parallel([detour(), dn.Conv2D(filters, 1)]),
            lambda: dn.SeparableConv2D(filters, 3, padding="same", depth_multiplier=2),
            lambda: dn.DepthwiseConv2D((2, 3), padding="same"),
            lambda: dn.models.PaddedShortcut(filters + 2, stride=1),
        ]
        return pick(*kinds, *([] if learns else [lambda: dn.Conv2DTranspose(filters, 3, stride=2, padding="same")]))

    width = 2 * int(rng.integers(1, 4))
    body = [conv(width), norm(), activation(), block(width), norm(), pool(), dn.Conv2D(4, 3, padding=1, groups=2)]
    head = pick(
        lambda: [dn.Flatten(), dn.Dense(6), activation(), dn.Dropout(0.5)],
        lambda: [dn.GlobalAveragePool2D()],
        lambda: [dn.GlobalMaxPool2D(), dn.Dense(5), dn.BatchNorm()],
    )
    end = [] if learns else [pick(dn.Softmax, dn.LogSoftmax, dn.Identity)]
    shape = (*(int(n) for n in rng.integers(6, 11, 2)), int(rng.integers(1, 4)))
    net = dn.Sequential([*body, *head, dn.Dense(int(rng.integers(2, 6))), *end])
    return filled(net.init(shape, seed=int(rng.integers(1000)), dtype=dtype), rng)


def examples(net: dn.Layer, rng: np.random.Generator, count: int = 3) -> np.ndarray:
    return rng.standard_normal((count, *net.input_shape)).astype(net.dtype)


def tau(terms: int, dtype: str = "float32") -> float:
    """docs/numerics.md: u (8 + 4 √K)."""
    return float(np.finfo(dtype).eps) / 2 * (8 + 4 * terms**0.5)


def apart(y: np.ndarray, r: np.ndarray) -> float:
    """‖y − r‖ / ‖r‖."""
    r = np.asarray(r, np.float64)
    return float(np.linalg.norm(np.asarray(y, np.float64) - r) / np.linalg.norm(r))
