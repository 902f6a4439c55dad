"""An op that needs more memory than there is says so at once; so does one whose arguments ask for gigabytes."""

from __future__ import annotations

import tracemalloc
import warnings

import numpy as np
import pytest

import dualnet as dn
from dualnet.shim import memory
from dualnet.shim.memory import check_memory, machine_memory


@pytest.fixture
def small_machine(monkeypatch):
    """A machine of 8 GB."""
    monkeypatch.setattr(memory, "machine_memory", lambda: 8 * 10**9)


def layers():
    """Layers whose parameters are few and whose result is enormous, and the input."""
    wide = ((0, 0), (10**6, 10**6))
    one = np.ones((1, 4, 4, 1), "float32")
    yield dn.AveragePool2D(12000, stride=1, padding=60000, count_include_pad=True), one
    yield dn.AveragePool2D(60001, stride=60000, padding=60000, count_include_pad=True), one
    yield dn.L2Pool2D(3, stride=1, padding=60000), one
    yield dn.MaxPool2D(60000, stride=1, padding=59999), one
    yield dn.MaxPool2D(60001, padding=60000), one
    yield dn.Conv2D(1, 1, padding=60000), one
    yield dn.Conv2D(1, 60, padding=wide), np.ones((1, 60, 4, 1), "float32")  # one row of columns has 29 GB
    yield dn.DepthwiseConv2D(1, padding=60000), one
    yield dn.SeparableConv2D(1, 1, padding=60000), one
    yield dn.Conv2DTranspose(1, 1, stride=10**5), one
    yield dn.models.PaddedShortcut(2**31 - 1), one
    yield dn.Sequential([dn.Parallel([dn.Identity()] * 12000, merge="concat") for _ in range(2)]), one


@pytest.mark.parametrize("layer, x", list(layers()), ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("train", [False, True])
def test_more_than_the_machine_has_is_refused_before_it_is_asked_for(small_machine, layer, x, train):
    with dn.use_backend("numpy"):
        layer.init(x.shape[1:])
        tracemalloc.start()
        with pytest.raises(MemoryError, match=r"for x of shape .* needs at least .* GB; this machine has 8.0 GB\. \w+"):
            layer.forward(x, train=True) if train else layer(x)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 128 * 2**20


def test_the_error_names_the_layer(small_machine):
    net = dn.Sequential([dn.ReLU(), dn.Sequential([dn.MaxPool2D(60000, stride=1, padding=59999)])]).init((4, 4, 1))
    x = np.ones((1, 4, 4, 1), "float32")
    for run in (net, lambda x: net.forward(x, train=True)):
        with pytest.raises(MemoryError, match=r"^layer 1 \(Sequential\): layer 0 \(MaxPool2D\): \w+: for x of shape"):
            run(x)


@pytest.mark.parametrize(
    "act",
    [
        lambda x: dn.ops.max_pool2d(x, 60000, stride=1, padding=59999),
        lambda x: dn.ops.avg_pool2d(x, 3, padding=60000, count_include_pad=True),
        lambda x: dn.ops.l2_pool2d(x, 3, padding=60000),
        lambda x: dn.ops.conv2d(x, np.ones((1, 1, 1, 1), "float32"), padding=60000),
        lambda x: dn.ops.conv_transpose2d(x, np.ones((1, 1, 1, 1), "float32"), stride=10**5),
    ],
)
def test_ops_refuse_as_layers_do(small_machine, act):
    with pytest.raises(MemoryError, match=r"2d: for x of shape \(1, 4, 4, 1\)"):
        act(np.ones((1, 4, 4, 1), "float32"))


def test_gigabytes_that_fit_are_announced_if_the_input_is_small(small_machine):
    x = np.ones((1, 4, 4, 1), "float32")
    with pytest.warns(UserWarning, match=r"^conv2d: for x of shape .* needs at least 2.0 GB, 31,250,000 times as much"):
        check_memory("conv2d", x, 2 * 10**9, "the output", "Use a larger stride.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_memory("conv2d", np.broadcast_to(x, (10**6, 4, 4, 1)), 2 * 10**9, "the output", "")  # x is large itself
        check_memory("conv2d", x, 10**9, "the output", "")  # not much


def test_a_device_counts_its_own_memory(small_machine):
    with dn.use_backend("strict"):
        check_memory("conv2d", dn.asarray([1.0]), 10**18, "the output", "")


def test_numbers_that_no_float_holds_have_words(small_machine):
    with pytest.raises(MemoryError, match="more than a billion GB"):
        check_memory("conv2d", np.ones(1), 10**4000, "the output", "")


def test_a_container_has_less_than_its_machine(tmp_path, monkeypatch):
    share = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CONTAINER", str(share))
    whole = machine_memory.__wrapped__()
    for text, most in [("1073741824\n", 2**30), ("max\n", whole), ("", whole), (str(2**70), whole)]:
        share.write_text(text)
        assert machine_memory.__wrapped__() == most
    monkeypatch.delattr(memory.os, "sysconf")
    share.unlink()
    assert machine_memory.__wrapped__() > 2**60  # unknown: no limit
