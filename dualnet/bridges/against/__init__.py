"""Is each gradient of a foreign network right? ``dn.against`` runs one step of it and judges every layer by itself."""

from __future__ import annotations

from typing import Any

from ..pytorch import need_torch
from .report import Report, Row

__all__ = ["Report", "Row", "against"]


def against(module: Any, x: Any, t: Any = None, *, loss: Any = None) -> Report:
    """One step of a PyTorch module, forward and backward, with each of its layers judged on what it was given.

    ``module`` is a ``torch.nn.Module``, in training or not; x and t are a batch as it takes them, tensors or arrays
    (N, C, H, W). ``loss`` is a function of y and t, such as ``nn.BCEWithLogitsLoss()``; by default softmax
    cross-entropy for class numbers, and the mean squared error for a t of the output's shape. A copy runs: the module,
    its statistics, its gradients and PyTorch's generators stay as they are.

    Each layer's output, delta and gradients are compared with dualnet's for the same input, within what rounding
    explains (docs/numerics.md). So errors do not add up from layer to layer, and the first layer that is off is the one
    that is wrong. If the two differ, float64 and the slope of the forward pass decide whose fault it is. A layer that
    dualnet does not have, such as a ``torch.autograd.Function`` of your own, is judged by the slope of its own forward.

    The path of an ONNX file, or an ``onnx.ModelProto``, is run by onnxruntime, and the output of each node judged
    likewise; a node without a layer here by ``onnx.reference`` in float64. It has no backward pass, so there is no t.

    The :class:`Report` is true if nothing is off; ``report.first`` names the first layer that is. Raises ``TypeError``
    for what is no module and for a module that returns no tensor, and ``ValueError`` for an x or t that do not fit,
    weights of several dtypes, and weights without numbers. Needs PyTorch, or onnx and onnxruntime: ``ImportError`` says
    how to install them.

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
                "against: an ONNX model has no backward pass, so t and loss have no use. For gradients, "
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
