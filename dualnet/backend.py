"""The names of :mod:`dualnet.shim`, for plug-in backends, layers of your own and curious notebooks.

>>> from dualnet.backend import Backend, BackendUnavailable, backend_of
>>> import dualnet as dn
>>> backend_of(dn.asarray([1.0], backend="numpy")).name
'numpy'
"""

from .shim import *  # noqa: F403
from .shim import __all__ as __all__
