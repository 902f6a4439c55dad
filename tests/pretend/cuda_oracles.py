"""A CUDA kernel against its reference: the same numbers, and the same bits in any order of blocks and threads."""

from __future__ import annotations

import cuda_host
import ml_dtypes  # noqa: F401  makes "bfloat16" a name that NumPy knows
import numpy as np
from oracles import error, tau

import dualnet as dn
from dualnet.backend import references
from dualnet.backends import cupy_backend

DTYPES = ["float32", "float64", "float16", "bfloat16"]


def there(value):
    """Arrays, also in lists and dicts, on the device; anything else as it is."""
    if isinstance(value, dict):
        return {key: there(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [there(inner) for inner in value]
    return dn.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value


def scalar(number, dtype):
    """A number of this dtype."""
    return np.dtype(dtype).type(number)


def flat(result):
    """The arrays of a result: an array, or tuples, lists and dicts of them."""
    if isinstance(result, dict):
        result = list(result.values())
    return [p for part in result for p in flat(part)] if isinstance(result, (tuple, list)) else [result]


def agree(name, *arguments, K, scale=1.0, **options):
    """The kernel serves, gives the reference's numbers, and the same bits when blocks and threads run in reverse."""
    results = []
    for backwards in (False, True):
        cuda_host.order["backwards"] = backwards
        moved = [there(a) for a in arguments]
        before = [dn.to_numpy(a).tobytes() for a in flat(moved) if hasattr(a, "shape")]
        result = cupy_backend.OWN[name](*moved, **options)
        assert result is not NotImplemented, name
        after = [dn.to_numpy(a).tobytes() for a in flat(moved) if hasattr(a, "shape")]
        assert before == after, f"{name}: an input changed"
        results.append([dn.to_numpy(part) for part in flat(result)])
    cuda_host.order["backwards"] = False
    with np.errstate(all="ignore"):
        expected = flat(references[name].reference(*arguments, **options))
    for got, again, want in zip(*results, expected, strict=True):
        want = np.asarray(want)
        assert got.tobytes() == again.tobytes(), f"{name}: the bits depend on the order of threads"
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
        if want.dtype.kind in "bui":
            assert np.array_equal(got, want), name
            continue
        limit = 2 * scale * tau(got.dtype, K)
        assert error(got, want) <= limit, f"{name}: {error(got, want):.2e} > {limit:.2e}"
