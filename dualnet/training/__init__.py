"""Training: ``net.fit``, ``evaluate`` and ``predict``, callbacks, and captured steps."""

from typing import TYPE_CHECKING

from ..history import History
from ..late import late
from ..recording import CaptureError
from . import callbacks
from .capture import capture

if TYPE_CHECKING:
    from .callbacks import Callback, EarlyStopping, Run
    from .loop import evaluate, fit, predict
else:
    _HOMES = {"Callback": "callbacks", "EarlyStopping": "callbacks", "Run": "callbacks"}
    __getattr__, __dir__ = late(__name__, {**_HOMES, "evaluate": "loop", "fit": "loop", "predict": "loop"})

__all__ = ["Callback", "CaptureError", "EarlyStopping", "History", "Run", "callbacks", "capture"]
__all__ += ["evaluate", "fit", "predict"]
