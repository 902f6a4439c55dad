"""Training: ``net.fit``, ``evaluate`` and ``predict``, callbacks, and captured steps."""

from .callbacks import Callback, EarlyStopping, History, Run
from .capture import CaptureError, capture
from .loop import evaluate, fit, predict

__all__ = ["Callback", "CaptureError", "EarlyStopping", "History", "Run", "capture", "evaluate", "fit", "predict"]
