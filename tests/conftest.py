"""Fixtures for every test: each loadable backend in turn, and random numbers that are the same in every run."""

from __future__ import annotations

import gc
import os
import signal
import zlib
from collections.abc import Iterator

import numpy as np
import once
import pytest
from once import pytest_runtest_protocol as pytest_runtest_protocol  # hooks
from once import pytest_runtest_teardown as pytest_runtest_teardown
from onednn_tools import number as number  # a fixture

import dualnet as dn
from dualnet.backends.adapter import MissingDtype
from dualnet.shim import choosing
from dualnet.shim.dtypes import HALVES

os.environ.setdefault("MPLBACKEND", "Agg")  # pictures open no window

collect_ignore = ["pretend/pretend_device.py"]
"""A plug-in that puts a pretend CuPy in place where it is imported, which looking for doctests would do."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Tens of thousands of tests are made and all are kept: collecting garbage meanwhile, and looking at them again
    with everything that a test leaves behind, takes a third of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``once`` marks a test that ends the same whatever DUALNET_BACKEND says: ``-m "not once"`` leaves it out of a run
    that repeats the suite on another backend. These are the tests with a pretend GPU of their own, those for which the
    fixture ``backend`` puts each backend in force in turn, and those that once.py lists.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if {"cupy", "gpu", "backend"} & fixtures or once.is_listed(item.path):
            item.add_marker("once")


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
