"""Two backends in lock-step: they agree, and the report names the place where a fault happens."""

from __future__ import annotations

import numpy as np
import pytest
from faults import in_float64, one_element, scaled

import dualnet as dn
from dualnet.check import CheckError
from dualnet.optimizers import rules
from dualnet.parity.networks.lockstep import Twin
from dualnet.parity.networks.tape import Follower, Tape


def network(dtype="float32"):
    block = dn.Sequential([dn.Conv2D(4, 3, padding=1, use_bias=False), dn.BatchNorm(), dn.ReLU()])
    layers = [dn.Conv2D(4, 3), dn.ReLU(), dn.MaxPool2D(2), dn.Residual(block), dn.Dropout(0.2)]
    layers += [dn.Flatten(), dn.Dense(3)]
    return dn.Sequential(layers).init((8, 8, 2), seed=1, dtype=dtype)


@pytest.fixture
def data(rng):
    return rng.standard_normal((20, 8, 8, 2)).astype("float32"), rng.integers(0, 3, 20)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_two_that_agree(data, dtype, optimizer):
    net = network(dtype)
    before = {name: dn.to_numpy(p.value).tobytes() for name, p in net.parameters().items()}
    for backends in [("numpy reference", "strict"), ("numpy reference", "numpy")]:
        found = dn.twin(net, data, backends=backends, steps=3, batch_size=8, optimizer=optimizer)
        assert found and found.steps == 3 and found.compared > 100 and found.worst <= 1 and len(found.losses) == 3
    assert before == {name: dn.to_numpy(p.value).tobytes() for name, p in net.parameters().items()}


def test_every_kind_of_layer(data):
    x, t = data
    layers = [dn.Conv2DTranspose(3, 2), dn.GELU(), dn.AveragePool2D(2), dn.GroupNorm(3), dn.ELU(), dn.LayerNorm()]
    layers += [dn.SeparableConv2D(4, 2), dn.Softplus(), dn.Parallel([dn.Conv2D(2, 1), dn.Identity()], merge="concat")]
    layers += [dn.L2Pool2D(2), dn.GlobalAveragePool2D(), dn.Dense(3), dn.LogSoftmax()]
    assert dn.twin(dn.Sequential(layers).init((8, 8, 2)), data, steps=2, batch_size=4)
    layers = [
        dn.Conv2D(3, 3),
        dn.InstanceNorm(),
        dn.Hardswish(),
        dn.UpSampling2D(2, interpolation="bilinear"),
        dn.PReLU(),
    ]
    layers += [dn.ReflectionPadding2D(1), dn.Cropping2D(1), dn.ZeroPadding2D(1), dn.RMSNorm(), dn.Mish(), dn.ReLU6()]
    layers += [dn.AdaptiveAveragePool2D(4), dn.Hardsigmoid(), dn.Reshape((8, 6)), dn.Conv1D(4, 3), dn.MaxPool1D(2)]
    layers += [dn.GlobalAveragePool1D(), dn.Dense(3)]
    assert dn.twin(dn.Sequential(layers).init((8, 8, 2)), data, steps=2, batch_size=4)
    double = dn.Lambda(lambda x: 2 * x, lambda dy, x, y: 2 * dy)  # a layer without an op of its own
    assert dn.twin(dn.Sequential([double, dn.Flatten(), dn.Dense(3)]).init((8, 8, 2)), data, steps=2)


def test_where_ways_meet(data):
    """A graph, whose merges take several arrays, and every merge of branches."""
    nodes = [("a", dn.Conv2D(3, 3, padding=1), "x"), ("b", dn.Sequential([dn.Tanh(), dn.Conv2D(3, 1)]), "a")]
    nodes += [("p", dn.Multiply(), ["a", "b"]), ("q", dn.Maximum(), ["p", "b"]), ("r", dn.Average(), ["q", "a"])]
    nodes += [("s", dn.Concatenate(), ["r", "p"]), ("t", dn.Add(), ["s", "s"])]
    branches = [dn.Parallel([dn.Tanh(), dn.Conv2D(6, 1)], merge) for merge in ("add", "average", "max", "multiply")]
    net = dn.Sequential([dn.Graph("x", nodes), *branches, dn.GlobalAveragePool2D(), dn.Dense(3)]).init((8, 8, 2))
    assert dn.twin(net, data, steps=2, batch_size=4) and dn.parity(net, *data)


@pytest.mark.parametrize(
    ("kernel", "fault", "layer", "output"),
    [
        ("affine", scaled, "6 Dense", "y"),
        ("affine", one_element, "6 Dense", "y"),
        ("correlate", one_element, "0 Conv2D", "y"),
        ("correlate_filters", scaled, "3.layer.0 Conv2D", "dw"),
        ("correlate_inputs", one_element, "3.layer.0 Conv2D", "dx"),
        ("max_unpool", scaled, "2 MaxPool2D", "dx"),
    ],
)
def test_a_faulty_kernel_is_named(plant, data, kernel, fault, layer, output):
    plant(**{kernel: fault})
    found = dn.twin(network(), data, backends=("numpy reference", "strict"), steps=3, raises=False)
    assert not found and found.stopped.step == 0 and found.steps == 0
    assert layer in found.stopped.layer and found.stopped.output == output
    assert found.stopped.ratio > 1 and found.stopped.number > found.stopped.bound
    assert found.stopped.culprit == "strict kernels"  # and not NumPy: float64 says so
    text = str(found)
    assert layer in text and "step 0" in text and "strict kernels is wrong" in text and "FAIL" in found._repr_html_()


def test_it_stops_at_the_step_in_which_it_goes_wrong(plant, data):
    calls = iter(range(1000))

    def later(reference, *args):
        y = reference(*args)
        return y * (1 + 1e-4) if next(calls) >= 6 else y  # three products a step: the third step

    plant(affine=later)
    with pytest.raises(CheckError, match="step 2, layer 6 Dense"):
        dn.twin(network(), data, steps=5)


def test_a_wrong_optimizer_is_named(data, monkeypatch):
    net, step = network(), rules.sgd_updates

    def wrong(w, *rest):
        wrong_by = 1 + 1e-4 if "Strict" in type(w[0]).__name__ else 1.0
        return [(value * wrong_by, slots) for value, slots in step(w, *rest)]

    monkeypatch.setattr(rules, "sgd_updates", wrong)
    found = dn.twin(net, data, raises=False)
    assert found.stopped.layer == "optimizer" and found.stopped.output == "0.w"


def test_another_dtype_is_named(plant, data):
    plant(max_pool=lambda reference, *args: (in_float64(lambda *a: reference(*a)[0], *args), reference(*args)[1]))
    found = dn.twin(network(), data, raises=False)
    assert "2 MaxPool2D" in found.stopped.layer and found.stopped.mismatch == "dtype"
    assert ": different dtype" in str(found)


def test_equal_results_are_told_from_none_at_all():
    """ReLU and a loss without rounding; a check that has compared nothing proves nothing."""
    x, t = np.ones((4, 2), "f4"), np.zeros((4, 2), "f4")
    found = dn.twin(dn.ReLU().init((2,)), (x, t), steps=1, loss="mean_squared_error")
    assert (
        found
        and found.compared
        and str(found).endswith(f": 1 step in lock-step, {found.compared} results compared, all equal")
    )
    nothing = Twin(("numpy", "strict"), "float32", steps=2)
    assert not nothing and str(nothing).endswith(": 2 steps in lock-step, 0 results compared, so this shows nothing")


def test_what_a_block_adds_up_is_compared(data, monkeypatch):
    """The sum in a residual block is not a layer: it shows in the input of the next one."""
    net, noted = network(), []
    tape = Tape(net)
    y, back = tape.net.forward(dn.asarray(data[0][:4]), train=True)
    back(y)
    follower = Follower(net, lambda call, name, a, b: noted.append((call.path, name, np.array_equal(a, b))))
    follower.follow(tape.calls)
    follower.net.layers[3].forward = lambda x, train=False, inner=follower.net.layers[3].forward, **o: (
        lambda y, way: (y + 1, way)
    )(*inner(x, train, **o))
    follower.net.forward(dn.asarray(data[0][:4]), train=True)
    assert next(path for path, name, same in noted if not same) == "4"  # the dropout behind the block


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": ("numpy", "numpy")}, "twice"),
        ({"backends": ("numpy",)}, "two names"),
        ({"steps": 0}, "steps"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"optimizer": "sgdd"}, "unknown optimizer"),
    ],
)
def test_wrong_arguments_are_named(data, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dn.twin(network(), data, **options)


def test_a_network_without_parameters_is_refused(data):
    with pytest.raises(ValueError, match="call net.init"):
        dn.twin(dn.Sequential([dn.Flatten(), dn.Dense(3)]), data)
    with pytest.raises(ValueError, match="pair"):
        dn.twin(network(), data[0])
