"""Layers: an op together with the parameters it uses, and the containers that make networks of them."""

from . import activation, containers, convolution, dense, dropout, layer, normalization, pooling
from .activation import *  # noqa: F403
from .containers import *  # noqa: F403
from .convolution import *  # noqa: F403
from .dense import *  # noqa: F403
from .dropout import *  # noqa: F403
from .layer import *  # noqa: F403
from .normalization import *  # noqa: F403
from .pooling import *  # noqa: F403

__all__ = [
    name
    for module in (activation, containers, convolution, dense, dropout, layer, normalization, pooling)
    for name in module.__all__
]
