"""Are the gradients of another framework right? ``dn.against`` runs one step and judges each layer by itself."""

from __future__ import annotations

from typing import Any

from ..pytorch import need_torch
from .report import Report, Row

__all__ = ["Report", "Row", "against"]


def against(module: Any, x: Any, t: Any = None, *, loss: Any = None) -> Report:
    """Run one step of a PyTorch module, forward and backward, and judge each of its layers on its own input.

    ``module`` is a ``torch.nn.Module``, in training or not; x and t are a batch in its form, tensors or arrays
    (N, C, H, W). ``loss`` is a function of y and t, such as ``nn.BCEWithLogitsLoss()``; by default softmax
    cross-entropy for class numbers, and the mean squared error for a t of the output's shape. A copy runs: the module,
    its statistics, its gradients and PyTorch's generators stay as they are.

    Each layer's output, delta and gradients are compared with dualnet's for the same input, within the limits that
    rounding explains (docs/numerics.md). So errors do not add up from layer to layer, and the first layer that is off
    is the one that is wrong. If the two differ, float64 and the slope of the forward pass decide which one is wrong. A
    layer that dualnet does not have, such as your own ``torch.autograd.Function``, is judged by the slope of its own
    forward pass.

    If you pass the path of an ONNX file, or an ``onnx.ModelProto``, onnxruntime runs it, and the output of each node is
    judged in the same way; a node without a layer here is compared with ``onnx.reference`` in float64. ONNX has no
    backward pass, so there is no t.

    The :class:`Report` is true if nothing is off; ``report.first`` names the first layer that is. Raises ``TypeError``
    if the argument is not a module or the module does not return a tensor, and ``ValueError`` for an x or t that do not
    fit, weights of several dtypes, and weights without numbers. Needs PyTorch, or onnx and onnxruntime: ``ImportError``
    says how to install them.

    >>> import dualnet as dn
    >>> import torch
    >>> module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten())
    >>> report = dn.against(module, torch.randn(2, 3, 6, 6), torch.tensor([5, 7]))
    >>> bool(report), report.first
    (True, None)
    """
    from .onnx_pass import against_onnx, is_onnx

    if is_onnx(module):
        if t is not None or loss is not None:
            raise ValueError(
                "against: an ONNX model has no backward pass, so leave out t and loss. For gradients, "
                "dn.check.gradient(dn.from_onnx(path))"
            )
        return against_onnx(module, x)
    torch = need_torch("against")
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"against: expected a torch.nn.Module, got {type(module).__name__}")
    if t is None:
        raise TypeError("against: t is missing; expected what the loss compares the output with, such as class numbers")
    from .torch_module import against_module

    return against_module(module, x, t, loss)
