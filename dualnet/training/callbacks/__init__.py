"""Callbacks: what watches a training, may stop it, and keeps what it brings. ``dn.callbacks`` is this module."""

from .average import EMA
from .base import Callback, History, Run, as_callbacks, notify, notify_end
from .finder import LearningRateFinder
from .logs import CSVLogger, JSONLLogger, TensorBoard
from .saving import ModelCheckpoint
from .stopping import EarlyStopping, TerminateOnNaN

__all__ = ["CSVLogger", "Callback", "EMA", "EarlyStopping", "History", "JSONLLogger", "LearningRateFinder"]
__all__ += ["ModelCheckpoint", "Run", "TensorBoard", "TerminateOnNaN", "as_callbacks", "notify", "notify_end"]
