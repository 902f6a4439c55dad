"""Convolutional networks whose forward and backward passes are written to be read, on NumPy and on CUDA alike."""

__version__ = "0.1.0"

from importlib import import_module as _import_module
from typing import Any as _Any

from . import check, data, models, ops, optimizers, recording, schedules
from .backend import (
    BackendUnavailable,
    TransferForbidden,
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
from .callbacks import Callback, EarlyStopping, History
from .capture import CaptureError, capture
from .explain import explain
from .files import load, save
from .formats import CheckpointError
from .fusing import fuse
from .graph import graph
from .initializers import Parameter
from .layers import *  # noqa: F403
from .layers.layer import Layer
from .loss_scale import FixedLossScale, LossScale
from .ops import LossPullback, Pullback, losses
from .optimizers import SGD, Adam, AdamW, RMSProp, clip_by_global_norm, clip_by_value
from .parity import parity, twin
from .summary import network_html, summary
from .tracing import trace
from .training import evaluate, fit, predict

# The loop, the table and the files stand above the layers, which never look up: networks get them as methods here.
Layer.fit, Layer.evaluate, Layer.predict = fit, evaluate, predict
Layer.summary, Layer.save, Layer.fuse = summary, save, fuse
Layer.trace, Layer.graph, Layer._repr_html_ = trace, graph, network_html
del evaluate, fit, fuse, network_html, predict, save, summary, trace

_LATE = ("viz", "zoo")
"""Modules that are imported when they are first asked for."""


def __getattr__(name: str) -> _Any:
    if name in _LATE:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module 'dualnet' has no attribute {name!r}")
