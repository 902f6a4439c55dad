"""How much memory a network will need: against what it really takes, and against numbers worked out by hand."""

from __future__ import annotations

import gc
import importlib
import tracemalloc

import fake_cupy
import numpy as np
import pytest

import dualnet as dn
from dualnet.ops import losses
from dualnet.training.loop import train_step

PLAN = importlib.import_module("dualnet.seeing.plan")

NETS = {
    "VGG": (lambda: dn.models.vgg6(), (32, 32, 3), 32),
    "residual": (lambda: dn.models.resnet20(), (32, 32, 3), 22),
    "U-Net": (lambda: dn.models.unet(10, filters=8, depth=2), (48, 48, 1), 16),
    "mobile": (lambda: dn.models.mobilenetv2(10), (64, 64, 3), 8),
    "wide": (lambda: dn.Sequential([dn.Dense(1024), dn.ReLU(), dn.Dense(1024), dn.ReLU(), dn.Dense(10)]), (784,), 32),
    "graph": (
        lambda: dn.Graph(
            "x",
            [
                ("a", dn.Sequential([dn.Conv2D(16, 3, padding=1), dn.ReLU()]), "x"),
                ("b", dn.Sequential([dn.Conv2D(16, 3, padding=1), dn.ReLU()]), "a"),
                *(("sum", dn.Add(), ["a", "b"]), ("pool", dn.MaxPool2D(2), "sum"), ("flat", dn.Flatten(), "pool")),
                ("end", dn.Dense(10), "flat"),
            ],
        ),
        (48, 48, 3),
        32,
    ),
}


class Nothing:
    def add(self, *given):
        """Keeps nothing."""


def measured(net, shape, batch):
    """The most bytes of arrays in a step of training with Adam and in inference, the network and the batch included."""
    gc.collect()
    tracemalloc.start()
    try:
        net, optimizer = net.init(shape), dn.Adam()
        x = np.zeros((batch, *shape), "float32")
        t = np.zeros((batch, *net.output_shape(shape)[:-1]), "int64")
        loss = losses.unchecked("softmax_cross_entropy")
        net(x)
        tracemalloc.reset_peak()
        net(x)
        inference = tracemalloc.get_traced_memory()[1]
        for _ in range(2):
            tracemalloc.reset_peak()
            train_step(net, optimizer, loss, None, Nothing(), x, t)
        return tracemalloc.get_traced_memory()[1], inference
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NETS)
def test_what_is_planned_is_what_it_takes(name):
    """Within a quarter; arrays alone, as NumPy asks for them. (What oneDNN asks for itself is not seen here.)"""
    make, shape, batch = NETS[name]
    with dn.use_backend("numpy"):
        planned = make().plan(batch, shape)
        training, inference = measured(make(), shape, batch)
    assert abs(planned.training / training - 1) <= 0.25, (planned.training, training)
    assert 0.75 <= planned.inference / inference <= 1.35, (planned.inference, inference)


def test_a_chain_of_dense_layers_by_hand():
    """784 → 10 in float32: the batch is kept; the optimizer's step has old and new values beside the gradients."""
    with dn.use_backend("numpy"):
        planned = dn.Dense(10).plan(100, (784,), optimizer="adam")
    P = 4 * (784 * 10 + 10)
    assert (planned.parameters, planned.gradients, planned.optimizer_state) == (P, P, 2 * P)
    assert planned.kept == 100 * 784 * 4 and planned.update == 2 * 3 * P + P
    assert planned.passing == 100 * (784 + 10) * 4 == planned.inference_activations
    assert planned.training == max(P + P + 2 * P + planned.kept + planned.passing, planned.update)


@pytest.mark.parametrize("optimizer, slots", [(dn.SGD(0.1), 0), (dn.SGD(0.1, momentum=0.9), 1), ("adam", 2)])
def test_each_optimizer_has_its_state(optimizer, slots):
    planned = dn.Dense(10).plan(2, (784,), optimizer=optimizer)
    assert planned.optimizer_state == slots * planned.parameters


def test_sixteen_bits_have_float32_parameters_and_a_copy():
    half, full = (dn.Dense(10).init((784,), dtype=dtype).plan(100) for dtype in ("float16", "float32"))
    assert half.parameters == full.parameters
    assert half.kept == full.kept / 2 + 2 * 784 * 10  # the weights in float16


def test_nothing_is_changed_or_allocated(backend):
    net = dn.models.digits_cnn()
    net.plan(64, (8, 8, 1))
    assert net.input_shape is None
    norm = dn.Sequential([dn.BatchNorm(), dn.Dropout(0.5)]).init((3,))
    before = {name: np.array(dn.to_numpy(v) if hasattr(v, "shape") else v) for name, v in norm.state_dict().items()}
    norm.plan(64)
    assert all(
        np.array_equal(before[name], dn.to_numpy(v) if hasattr(v, "shape") else v)
        for name, v in norm.state_dict().items()
    )
    assert "forward" not in vars(norm)


def test_the_batch_may_be_another_shape_than_init_had():
    net = dn.models.digits_cnn().init((8, 8, 1))
    assert net.plan(10).kept < net.plan(10, (16, 16, 1)).kept


def test_too_little_memory_is_told(monkeypatch):
    net = dn.models.vgg6()
    with dn.use_backend("numpy"):
        free = net.plan(256, (32, 32, 3))
    monkeypatch.setattr(PLAN, "machine_memory", lambda: 10**8)
    with dn.use_backend("numpy"):
        planned = net.plan(256, (32, 32, 3))
        assert not planned.fits and planned.exact and planned.training == free.training
        assert "is not enough to train with this batch; a batch of about" in str(planned)
        most = int(str(planned).rpartition("about ")[2].split()[0])
        assert net.plan(most, (32, 32, 3)).fits and not net.plan(2 * most, (32, 32, 3)).fits
    monkeypatch.setattr(PLAN, "machine_memory", lambda: 10**6)
    with dn.use_backend("numpy"):
        planned = net.plan(256, (32, 32, 3))
    assert not planned.exact and "at least" in str(planned) and "no batch would fit" in str(planned)


def test_a_gpu_is_asked_for_its_memory(monkeypatch):
    with fake_cupy.in_force(monkeypatch):  # of 80 MiB
        planned = dn.models.lenet5().plan(128, (28, 28, 1))
        initialised = dn.models.lenet5().init((28, 28, 1)).plan(128)
    assert (planned.where, planned.available) == ("the GPU", 80 * 2**20) and planned.fits
    assert initialised == planned


def test_it_prints_and_renders():
    planned = dn.models.lenet5().plan(128, (28, 28, 1))
    assert "Sequential on a batch of 128 × (28, 28, 1), float32, Adam" in str(planned)
    assert "Adam&#x27;s state" in planned._repr_html_() and "<table>" in planned._repr_html_()


def test_several_inputs():
    net = dn.Graph(["a", "b"]).add("sum", dn.Add(), ["a", "b"]).add("end", dn.Dense(2), "sum")
    planned = net.plan(10, {"a": (5,), "b": (5,)})
    assert planned.kept == 10 * 3 * 5 * 4  # both inputs, and what the dense layer reads


@pytest.mark.parametrize("batch", [0, -1, 2.5, "many", None])
def test_wrong_batches(batch):
    with pytest.raises((TypeError, ValueError), match="batch"):
        dn.Dense(2).plan(batch, (3,))


def test_a_network_without_a_shape():
    with pytest.raises(ValueError, match="not initialised"):
        dn.Dense(2).plan(3)
