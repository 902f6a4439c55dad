"""Convolutional networks whose forward and backward passes are written to be read, on NumPy and on CUDA alike."""

import sys as _sys
import typing as _typing

from . import backend, ops, optimizers, recording
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
from .history import History
from .late import LateMethod as _LateMethod
from .late import late as _late
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
from .layers.initializers import Draw
from .layers.parameter import Parameter
from .ops import LossPullback, Pullback, losses
from .optimizers import SGD, Adam, AdamW, RMSProp, clip_by_global_norm, clip_by_value, schedules
from .optimizers.loss_scale import FixedLossScale, LossScale
from .parity import parity, twin
from .recording import CaptureError
from .seeing import explain, viz
from .training import callbacks, capture
from .version import __version__

if _typing.TYPE_CHECKING:
    from . import check, data, distributed, models, zoo
    from .bridges import sklearn
    from .bridges.against import against
    from .bridges.onnx_import import from_onnx
    from .bridges.pytorch import from_torch
    from .bridges.pytorch_export import to_torch
    from .bridges.weights import load_weights
    from .files.formats import CheckpointError
    from .files.network import load, save
    from .seeing.graph import graph
    from .training.callbacks import Callback, EarlyStopping, Run
else:  # imported on first use
    _HOMES = {
        "Callback": "training.callbacks",
        "CheckpointError": "files.formats",
        "EarlyStopping": "training.callbacks",
        "Run": "training.callbacks",
        "against": "bridges.against",
        "from_onnx": "bridges.onnx_import",
        "from_torch": "bridges.pytorch",
        "graph": "seeing.graph",
        "load": "files.network",
        "load_weights": "bridges.weights",
        "save": "files.network",
        "to_torch": "bridges.pytorch_export",
    }
    _MODULES = {name: name for name in ("check", "data", "distributed", "models", "zoo")}
    _MODULES["sklearn"] = "bridges.sklearn"  # not in __all__, where it would hide the library of that name
    __getattr__, __dir__ = _late(__name__, _HOMES, _MODULES)

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

# Training, files and pictures are above the layers, which never import upwards: networks get them as methods here.
_METHODS = {
    "_repr_html_": ("seeing.summary", "network_html"),
    "evaluate": ("training.loop", "evaluate"),
    "fit": ("training.loop", "fit"),
    "fuse": ("layers.fusing", "fuse"),
    "graph": ("seeing.graph", "graph"),
    "plan": ("seeing.plan", "plan"),
    "predict": ("training.loop", "predict"),
    "save": ("files.network", "save"),
    "summary": ("seeing.summary", "summary"),
    "to_c": ("bridges.c_code", "to_c"),
    "to_numpy": ("bridges.numpy_code", "to_numpy"),
    "to_onnx": ("bridges.onnx_export", "to_onnx"),
    "trace": ("seeing.tracing.trace", "trace"),
}
for _name, (_module, _function) in _METHODS.items():
    setattr(Layer, _name, _LateMethod(f"{__name__}.{_module}", _function))

# ``import dualnet.schedules`` works too, although the file is in optimizers/.
for _module in ("ops.losses", "optimizers.schedules", "seeing.explain", "seeing.viz", "training.callbacks"):
    _sys.modules[f"{__name__}.{_module.rpartition('.')[2]}"] = _sys.modules[f"{__name__}.{_module}"]
