"""In the browser NumPy computes; so it does where a test computes beside it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import dualnet as dn


@pytest.fixture(autouse=True)
def numpy_in_force() -> Iterator[None]:
    with dn.use_backend("numpy"):
        yield
