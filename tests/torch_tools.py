"""Two networks side by side, one in PyTorch and one in dualnet: outputs, deltas, gradients and statistics."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import dualnet as dn
from dualnet.bridges.steps import UNWRITTEN, plan

torch = pytest.importorskip("torch")
nn = torch.nn


def distance(ours, expected) -> float:
    """‖ours − expected‖ / ‖expected‖; the norm itself where nothing is expected."""
    ours, expected = dn.to_numpy(ours).astype(np.float64), dn.to_numpy(expected).astype(np.float64)
    assert ours.shape == expected.shape
    return float(np.linalg.norm(ours - expected) / (np.linalg.norm(expected) or 1.0))


def limit(net: dn.Layer, batch: int) -> float:
    """How far apart two right results may be: τ of every layer, forward and backward, with its longest sum."""
    u = np.finfo(net.dtype).eps / 2
    if any(type(layer) in UNWRITTEN for _, layer in net.walk()):  # no list of steps: each layer sums over its input
        longest = batch * int(np.prod(net.input_shape)) * max(1, len(net.parameters()))
        return 2 * sum(u * (8 + 4 * np.sqrt(longest)) for _ in net.walk())
    places = batch * max(int(np.prod(step.output.shape[:-1], dtype=int)) for step in plan(net, "test").steps)
    return 2 * sum(u * (8 + 4 * np.sqrt(max(step.terms, places))) for step in plan(net, "test").steps)


def drawn(module: nn.Module, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """The module with random statistics, so that none of them is 0 or 1."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for inside in module.modules():
            if getattr(inside, "running_mean", None) is not None:
                inside.running_mean.normal_(0, 0.1)
                inside.running_var.uniform_(0.5, 1.5)
            if "Norm" in type(inside).__name__ and getattr(inside, "weight", None) is not None:
                inside.weight.uniform_(0.5, 1.5)
                if inside.bias is not None:
                    inside.bias.normal_(0, 0.1)
    return module.to(dtype)


def first(array: torch.Tensor | np.ndarray) -> torch.Tensor:
    """(N, H, W, C) -> (N, C, H, W)"""
    tensor = torch.as_tensor(np.ascontiguousarray(array))
    return tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor


def last(tensor: torch.Tensor) -> np.ndarray:
    """(N, C, H, W) -> (N, H, W, C)"""
    tensor = tensor.detach()
    return (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).numpy()


def outputs_agree(module: nn.Module, net: dn.Layer, shape: tuple, rng: np.random.Generator, batch: int = 2) -> float:
    """How far the outputs at inference are apart; within τ."""
    x = rng.standard_normal((batch, *shape)).astype(net.dtype)
    with torch.no_grad():
        expected = last(module.eval()(first(x)))
    far = distance(dn.to_numpy(net(dn.asarray(x))), expected)
    assert far <= limit(net, batch), far
    return far


def steps_agree(
    module: nn.Module, net: dn.Layer, shape: tuple, rng: np.random.Generator, train: bool, batch: int = 2
) -> float:
    """How far the deltas, gradients and statistics of a step are apart, at most; each within τ."""
    x = rng.standard_normal((batch, *shape)).astype(net.dtype)
    theirs, ours = copy.deepcopy(module).train(train), net.copy()
    into = first(x).requires_grad_()
    y = theirs(into)
    dy = rng.standard_normal(last(y).shape).astype(net.dtype)
    y.backward(first(dy))
    result, pullback = ours.forward(dn.asarray(x), train=train)
    dx, gradients = pullback(dn.asarray(dy))
    far = {"y": distance(result, last(y)), "dx": distance(dx, last(into.grad))}
    for name, expected in gradients_of(theirs, shape).items():
        far[name] = distance(gradients[name], expected)
    after = dn.from_torch(theirs, shape).state_dict()
    for name, value in ours.state_dict().items():
        if "moving" in name:
            far[name] = distance(value, after[name])
    worst = max(far, key=far.__getitem__)
    assert far[worst] <= limit(net, batch), (worst, far[worst], limit(net, batch))
    return far[worst]


def gradients_of(module: nn.Module, shape: tuple) -> dict[str, np.ndarray]:
    """PyTorch's gradients as ours: a module whose weights are the gradients, converted."""
    holder = copy.deepcopy(module)
    with torch.no_grad():
        for into, parameter in zip(holder.parameters(), module.parameters()):
            into.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    return {name: dn.to_numpy(p.value) for name, p in dn.from_torch(holder, shape).parameters().items()}
