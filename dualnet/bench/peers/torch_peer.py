"""The same step in PyTorch, in the layout that the task names: contiguous (NCHW) or channels_last (NHWC).

The other dtypes are TF32 and automatic mixed precision (in float16 with a gradient scaler). "compiled" is
``torch.compile`` over network and loss, on CUDA with ``mode="max-autotune"``; "reduce-overhead" is that mode: it uses
CUDA graphs as well, but is ready in a fraction of the time, because it does not try out kernels. On CUDA, cuDNN tries
its algorithms, and the update is one fused kernel.
"""

from __future__ import annotations

import re
from typing import Any

COMPILED = {"compiled": "max-autotune", "reduce-overhead": "reduce-overhead"}
"""The mode of ``torch.compile`` on CUDA, by variant."""


def facts(task: dict) -> dict[str, Any]:
    """Threads, BLAS and kernels; on CUDA also the device and Triton."""
    import torch

    torch.set_num_threads(task["threads"])
    build = torch.__config__.show()
    blas, mkl = re.search(r"BLAS_INFO=(\w+)", build), re.search(r"Math Kernel Library Version ([\d.]+)", build)
    kernels = re.search(r"MKL-DNN (v[\d.]+)", build) if torch.backends.mkldnn.is_available() else None
    found = {
        "threads": torch.get_num_threads(),
        "blas": f"MKL {mkl[1]}" if mkl else blas[1] if blas else "unknown",
        "kernels": f"oneDNN {kernels[1]}" if kernels else "no oneDNN",
        "device": "cpu",
    }
    if task["device"] == "cuda":
        version = torch.backends.cudnn.version()
        found |= {
            "device": torch.cuda.get_device_name(),
            "blas": f"cuBLAS of CUDA {torch.version.cuda}",
            "kernels": f"cuDNN {version // 10000}.{version % 10000 // 100}.{version % 100}" if version else "no cuDNN",
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "triton": _version_of("triton"),
        }
    return found


def _version_of(library: str) -> str:
    import importlib

    try:
        return str(importlib.import_module(library).__version__)
    except Exception as error:
        return f"none ({type(error).__name__})"


def waiting(task: dict) -> Any:
    """A function that waits for the device."""
    import torch

    return torch.cuda.synchronize if task["device"] == "cuda" else lambda: None


def build(task: dict, x: Any, t: Any, weights: dict) -> Any:
    """A step of the network in the task: ``run``, and ``value`` of its result."""
    import torch
    from torch.nn import functional

    on_cuda, compiled = task["device"] == "cuda", COMPILED.get(task["variant"])
    set_precision(task)
    layout = torch.contiguous_format if task["variant"] == "contiguous" else torch.channels_last
    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(task["dtype"])
    net = chain(task["layers"], weights).to(task["device"])
    x, t = (torch.from_numpy(first(a)).to(task["device"]) for a in (x, t))
    if x.ndim == 4:
        net, x = net.to(memory_format=layout), x.to(memory_format=layout)
    if half is not None and not task["need_dx"]:
        x = x.to(half)  # as autocast would in every step

    def squared(y: Any, t: Any) -> Any:
        return 0.5 * functional.mse_loss(y, t, reduction="sum") / len(y)

    loss = functional.cross_entropy if task["loss"] == "softmax_cross_entropy" else squared

    def forward(x: Any) -> Any:
        with torch.autocast(task["device"], half, enabled=half is not None):
            return net(x)

    def value_of(x: Any, t: Any) -> Any:
        return loss(forward(x).float(), t)

    def quick(function: Any) -> Any:
        how: Any = {"mode": compiled} if on_cuda else {}
        return torch.compile(function, dynamic=False, **how) if compiled else function

    if task["mode"] == "inference":
        net.train(False)
        outputs = quick(forward)

        def infer() -> Any:
            with torch.inference_mode():
                return outputs(x)

        return infer, lambda y: y.float().cpu().numpy()

    optimizer = torch.optim.SGD(net.parameters(), lr=task["lr"], momentum=task["momentum"], fused=on_cuda or None)
    scaler = torch.amp.GradScaler(task["device"], enabled=on_cuda and half is torch.float16)
    x.requires_grad_(task["need_dx"])

    quick_value_of = quick(value_of)

    def train() -> Any:
        optimizer.zero_grad(set_to_none=True)
        x.grad = None
        value = quick_value_of(x, t)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        return value

    return train, lambda value: value.detach().cpu().numpy()


def set_precision(task: dict) -> None:
    """TF32 only if the task asks for it: cuDNN uses it by default."""
    import torch

    if task["device"] == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = task["dtype"] != "float32"
        torch.set_float32_matmul_precision("highest" if task["dtype"] == "float32" else "high")


def after(task: dict) -> dict[str, Any]:
    """The memory that PyTorch reserved on the device."""
    import torch

    if task["device"] != "cuda":
        return {}
    return {"device": {"memory": f"{torch.cuda.max_memory_reserved() / 2**20:.0f} MiB reserved"}}


def first(array: Any) -> Any:
    """(N, H, W, C) as (N, C, H, W); anything else as it is."""
    import numpy

    return numpy.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


def chain(layers: list, weights: dict) -> Any:
    """Layers, one after the other."""
    from torch import nn

    return nn.Sequential(*(module(kind, at, weights) for kind, at in layers))


def module(kind: str, at: dict, weights: dict) -> Any:
    """One layer, with the network's weights."""
    from torch import nn

    if kind in ("relu", "flatten"):
        return nn.ReLU() if kind == "relu" else nn.Flatten()
    if kind == "pool":
        return nn.MaxPool2d(at["size"], at["stride"], at["padding"])
    if kind == "mean":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if kind == "dropout":
        return nn.Dropout(at["rate"])
    if kind == "residual":
        return _residual(chain(at["layer"], weights), _shortcut(at["shortcut"], weights))
    if kind == "conv":
        w = weights[at["w"]].transpose(3, 2, 0, 1)  # (k1, k2, C/groups, D) -> (D, C/groups, k1, k2)
        sizes = at["stride"], at["padding"], 1, at["groups"], at["b"] is not None
        result = nn.Conv2d(w.shape[1] * at["groups"], w.shape[0], w.shape[2:], *sizes)
        return _set(result, weight=w, bias=weights.get(at["b"]))
    if kind == "dense":
        w = channels_first(weights[at["w"]], at["map"]).T
        return _set(nn.Linear(w.shape[1], w.shape[0], at["b"] is not None), weight=w, bias=weights.get(at["b"]))
    if kind == "norm":
        gamma, beta, mean, variance = (weights[at[name]] for name in ("gamma", "beta", "mean", "variance"))
        result = nn.BatchNorm2d(len(gamma), eps=at["epsilon"], momentum=1 - at["momentum"])
        return _set(result, weight=gamma, bias=beta, running_mean=mean, running_var=variance)
    raise NotImplementedError(f"the step in PyTorch has no {kind}")


def channels_first(w: Any, shape: list | None) -> Any:
    """A dense layer's w (H·W·C, M) with its rows in the order in which (C, H, W) is flattened."""
    if not shape:
        return w
    H, W, C = shape
    return w.reshape(H, W, C, -1).transpose(2, 0, 1, 3).reshape(H * W * C, -1)


def _set(result: Any, **values: Any) -> Any:
    import numpy
    import torch

    for name, value in values.items():
        if value is not None:
            getattr(result, name).data.copy_(torch.from_numpy(numpy.array(value)))  # a copy: it may be read-only
    return result


def _shortcut(shortcut: Any, weights: dict) -> Any:
    from torch import nn

    if shortcut is None:
        return nn.Identity()
    return _padded(shortcut["added"], shortcut["stride"]) if isinstance(shortcut, dict) else chain(shortcut, weights)


def _residual(body: Any, shortcut: Any) -> Any:
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x: Any) -> Any:
            return self.body(x) + self.shortcut(x)

    return Residual()


def _padded(added: int, stride: int) -> Any:
    from torch import nn
    from torch.nn import functional

    class Padded(nn.Module):
        """Every stride-th row and column, with channels of zeros after the others."""

        def forward(self, x: Any) -> Any:
            return functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, added))

    return Padded()
