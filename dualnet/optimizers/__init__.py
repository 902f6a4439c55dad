"""Gradient descent and its variants: how parameters change once their gradients are known."""

from . import loss_scale, schedules
from .gradients import clip_by_global_norm, clip_by_value
from .optimizer import Optimizer
from .rules import NAMES, SGD, Adam, AdamW, RMSProp, get

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSProp", "clip_by_global_norm", "clip_by_value", "get"]
