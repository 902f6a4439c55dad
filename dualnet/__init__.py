"""Convolutional networks whose forward and backward passes are written to be read, on NumPy and on CUDA alike."""

__version__ = "0.1.0"

from . import check, data, models, ops, optimizers, schedules
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
from .files import load, save
from .formats import CheckpointError
from .fusing import fuse
from .initializers import Parameter
from .layers import *  # noqa: F403
from .layers.layer import Layer
from .ops import Pullback, losses
from .optimizers import SGD, Adam, AdamW, RMSProp, clip_by_global_norm, clip_by_value
from .summary import summary
from .training import Callback, EarlyStopping, History, evaluate, fit, predict

# The loop, the table and the files stand above the layers, which never look up: networks get them as methods here.
Layer.fit, Layer.evaluate, Layer.predict = fit, evaluate, predict
Layer.summary, Layer.save, Layer.fuse = summary, save, fuse
del evaluate, fit, fuse, predict, save, summary
