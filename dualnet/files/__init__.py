"""Networks in files: ``net.save`` and ``dn.load``, and the bytes of ``.npz`` and ``.safetensors``."""

from .formats import CheckpointError
from .network import load, save

__all__ = ["CheckpointError", "load", "save"]
