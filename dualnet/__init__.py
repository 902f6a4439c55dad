"""Convolutional networks whose forward and backward passes are written to be read, on NumPy and on CUDA alike."""

import sys as _sys
import typing as _typing
from importlib import import_module as _import_module

from . import backend, check, data, distributed, models, ops, optimizers, recording
from .backend import (
    BackendUnavailable,
    TransferForbidden,
    Transfers,
    asarray,
    available_backends,
    get_backend,
    info,
    set_backend,
    set_precision,
    to_numpy,
    transfers,
    use_backend,
)
from .bridges import FUNCTIONS as _FUNCTIONS
from .bridges import METHODS as _METHODS
from .bridges import LateMethod as _LateMethod
from .bridges import function as _bridge
from .files import CheckpointError, load, save
from .layers import (
    ELU,
    GELU,
    AdaptiveAveragePool2D,
    Add,
    Average,
    AveragePool1D,
    AveragePool2D,
    BatchNorm,
    Concatenate,
    Conv1D,
    Conv2D,
    Conv2DTranspose,
    Cropping2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool1D,
    GlobalAveragePool2D,
    GlobalMaxPool1D,
    GlobalMaxPool2D,
    Graph,
    GroupNorm,
    Hardsigmoid,
    Hardswish,
    Identity,
    InstanceNorm,
    L2Pool2D,
    Lambda,
    Layer,
    LayerNorm,
    LeakyReLU,
    LogSoftmax,
    Maximum,
    MaxPool1D,
    MaxPool2D,
    Mish,
    Multiply,
    Parallel,
    PReLU,
    ReflectionPadding2D,
    ReLU,
    ReLU6,
    Reshape,
    Residual,
    RMSNorm,
    SeparableConv2D,
    Sequential,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    SpatialDropout2D,
    Tanh,
    UpSampling2D,
    ZeroPadding2D,
)
from .layers.fusing import fuse
from .layers.initializers import Draw
from .layers.parameter import Parameter
from .ops import LossPullback, Pullback, losses
from .optimizers import SGD, Adam, AdamW, RMSProp, clip_by_global_norm, clip_by_value, schedules
from .optimizers.loss_scale import FixedLossScale, LossScale
from .parity import parity, twin
from .seeing import explain, graph, network_html, plan, summary, trace, viz
from .training import (
    Callback,
    CaptureError,
    EarlyStopping,
    History,
    Run,
    callbacks,
    capture,
    evaluate,
    fit,
    predict,
)
from .version import __version__

if _typing.TYPE_CHECKING:
    from . import zoo
    from .bridges import sklearn
    from .bridges.against import against
    from .bridges.onnx_import import from_onnx
    from .bridges.pytorch import from_torch
    from .bridges.pytorch_export import to_torch
    from .bridges.weights import load_weights

__all__ = [
    "Adam",
    "AdamW",
    "AdaptiveAveragePool2D",
    "Add",
    "Average",
    "AveragePool1D",
    "AveragePool2D",
    "BackendUnavailable",
    "BatchNorm",
    "Callback",
    "CaptureError",
    "CheckpointError",
    "Concatenate",
    "Conv1D",
    "Conv2D",
    "Conv2DTranspose",
    "Cropping2D",
    "Dense",
    "DepthwiseConv2D",
    "Draw",
    "Dropout",
    "ELU",
    "EarlyStopping",
    "FixedLossScale",
    "Flatten",
    "GELU",
    "GlobalAveragePool1D",
    "GlobalAveragePool2D",
    "GlobalMaxPool1D",
    "GlobalMaxPool2D",
    "Graph",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "History",
    "Identity",
    "InstanceNorm",
    "L2Pool2D",
    "Lambda",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LogSoftmax",
    "LossPullback",
    "LossScale",
    "MaxPool1D",
    "MaxPool2D",
    "Maximum",
    "Mish",
    "Multiply",
    "PReLU",
    "Parallel",
    "Parameter",
    "Pullback",
    "RMSNorm",
    "RMSProp",
    "ReLU",
    "ReLU6",
    "ReflectionPadding2D",
    "Reshape",
    "Residual",
    "Run",
    "SGD",
    "SeparableConv2D",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SpatialDropout2D",
    "Tanh",
    "TransferForbidden",
    "Transfers",
    "UpSampling2D",
    "ZeroPadding2D",
    "__version__",
    "against",
    "asarray",
    "available_backends",
    "backend",
    "callbacks",
    "capture",
    "check",
    "clip_by_global_norm",
    "clip_by_value",
    "data",
    "distributed",
    "explain",
    "from_onnx",
    "from_torch",
    "get_backend",
    "graph",
    "info",
    "load",
    "load_weights",
    "losses",
    "models",
    "ops",
    "optimizers",
    "parity",
    "recording",
    "schedules",
    "set_backend",
    "set_precision",
    "to_numpy",
    "to_torch",
    "transfers",
    "twin",
    "use_backend",
    "viz",
    "zoo",
]

# Training, files and pictures stand above the layers, which never look up: networks get them as methods here.
_given = (fit, evaluate, predict, summary, plan, save, fuse, trace, graph)
_methods: dict[str, _typing.Any] = {method.__name__: method for method in _given}
_methods |= {name: _LateMethod(name) for name in _METHODS}
for _name, _method in (_methods | {"_repr_html_": network_html}).items():
    setattr(Layer, _name, _method)
del evaluate, fit, fuse, network_html, plan, predict, save, summary, trace

# ``import dualnet.schedules`` works too, although the file lies in optimizers/.
for _module in ("ops.losses", "optimizers.schedules", "seeing.explain", "seeing.viz", "training.callbacks"):
    _sys.modules[f"{__name__}.{_module.rpartition('.')[2]}"] = _sys.modules[f"{__name__}.{_module}"]


if not _typing.TYPE_CHECKING:  # a type checker that saw this would take any name for one of ours

    def __getattr__(name: str) -> _typing.Any:
        if name == "zoo":  # exercises: imported when they are first asked for
            return _import_module(".zoo", __name__)
        if name == "sklearn":  # needs scikit-learn; not in __all__, where it would hide that library's own name
            return _import_module(".bridges.sklearn", __name__)
        if name in _FUNCTIONS:
            return _bridge(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
