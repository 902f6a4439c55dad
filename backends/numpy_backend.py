"""NumPy on the host: the default, and the measure for every other backend."""

import numpy

from dualnet.backend import Backend, BackendUnavailable

from . import numpy_kernels, numpy_passes


def load(device: int | None = None) -> Backend:
    """The NumPy backend. There is one host, so only device 0 exists."""
    if device not in (None, 0):
        raise BackendUnavailable(f"numpy:{device}: NumPy has no devices; say 'numpy'")
    return Backend(
        name="numpy",
        xp=numpy,
        array_types=(numpy.ndarray, numpy.generic),
        from_host=lambda host: host,
        to_host=numpy.asarray,  # a NumPy scalar becomes an array
        on_host=True,
        kernels={**numpy_kernels.KERNELS, **numpy_passes.KERNELS},
    )
