"""Fixtures for every test: each loadable backend in turn, and random numbers that are the same in every run."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from onednn_tools import number as number  # a fixture

import dualnet as dn
from dualnet.backends.adapter import MissingDtype
from dualnet.shim import choosing
from dualnet.shim.dtypes import HALVES

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures open no window

collect_ignore = ["pretend/pretend_device.py"]
"""A plug-in that puts a pretend CuPy in place where it is imported, which looking for doctests would do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a pretend GPU of their own heed no DUALNET_BACKEND: ``-m "not pretend"`` leaves them out."""
    for item in items:
        if {"cupy", "gpu"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("pretend")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A library without a dtype, such as array-api-strict without float16, skips what is tested in it."""
    try:
        return (yield)
    except BaseException as failure:
        error: BaseException | None = failure
        while error is not None and not isinstance(error, MissingDtype):
            error = error.__context__
        if error is not None:
            pytest.skip(str(error))
        raise


@pytest.fixture(autouse=True)
def chosen_backend() -> Iterator[None]:
    """``dn.set_backend`` lasts for the process: what a test chooses must not reach the next one."""
    before = choosing._process.called
    yield
    choosing._process.called = before


@pytest.fixture
def ordinary_signals() -> Iterator[None]:
    """Signals as in a program that was started in a terminal: ``nohup`` and background jobs ignore some of them."""
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    for kind in before:
        signal.signal(kind, signal.default_int_handler if kind == signal.SIGINT else signal.SIG_DFL)
    yield
    for kind, handler in before.items():
        signal.signal(kind, handler)


@pytest.fixture(params=dn.available_backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs once on every backend that works here, with that one in force."""
    with dn.use_backend(request.param) as name:
        for value in request.node.callspec.params.values():
            if isinstance(value, str) and value in HALVES:
                skip_without(value)
        yield name


def skip_without(dtype: str) -> None:
    """Skip the test if the backend in force has no such dtype."""
    try:
        dn.asarray(0.0, dtype)
    except (MissingDtype, ImportError) as error:
        pytest.skip(str(error))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers seeded by the test's name."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
