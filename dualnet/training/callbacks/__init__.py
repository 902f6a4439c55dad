"""Callbacks watch a training, may stop it, and save its results. ``dn.callbacks`` is this module."""

from typing import TYPE_CHECKING

from ...late import late

if TYPE_CHECKING:
    from .average import EMA
    from .base import Callback, History, Run, as_callbacks, notify, notify_end
    from .finder import LearningRateFinder
    from .logs import CSVLogger, JSONLLogger, TensorBoard
    from .saving import ModelCheckpoint
    from .stopping import EarlyStopping, TerminateOnNaN
else:
    _HOMES = {
        "CSVLogger": "logs",
        "Callback": "base",
        "EMA": "average",
        "EarlyStopping": "stopping",
        "History": "base",
        "JSONLLogger": "logs",
        "LearningRateFinder": "finder",
        "ModelCheckpoint": "saving",
        "Run": "base",
        "TensorBoard": "logs",
        "TerminateOnNaN": "stopping",
        "as_callbacks": "base",
        "notify": "base",
        "notify_end": "base",
    }
    __getattr__, __dir__ = late(__name__, _HOMES)

__all__ = ["CSVLogger", "Callback", "EMA", "EarlyStopping", "History", "JSONLLogger", "LearningRateFinder"]
__all__ += ["ModelCheckpoint", "Run", "TensorBoard", "TerminateOnNaN", "as_callbacks", "notify", "notify_end"]
