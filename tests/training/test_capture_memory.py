"""The memory of a captured step: its own while the graph exists, given back with it, and never taken away before."""

from __future__ import annotations

import gc

import fake_cupy
import numpy as np
import pytest

import dualnet as dn


@pytest.fixture
def cupy(monkeypatch):
    with fake_cupy.in_force(monkeypatch) as module:
        yield module


def network(dtype):
    layers = [dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dropout(0.3), dn.Dense(3)]
    return dn.Sequential(layers).init((8, 8, 1), seed=0, dtype=dtype)


def training_step(net, opt):
    def step(x, t):
        y, pullback = net.forward(x, train=True)
        loss, dloss = dn.losses.softmax_cross_entropy(y, t, check_labels=False)
        opt.step(net, pullback(dloss())[1])
        return loss

    return step


def batch(rng, dtype="float32", n=4):
    return dn.asarray(rng.standard_normal((n, 8, 8, 1)).astype(dtype)), dn.asarray(rng.integers(0, 3, n))


@pytest.mark.parametrize("found", ["at once", "by the collector"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_dropped_graph_gives_all_of_its_memory_back(cupy, rng, dtype, found):
    """Network and optimizer go on: what is theirs does not lie in it."""
    device, net, opt = cupy.now.graphs.device, network(dtype), dn.Adam(clip_norm=1.0)
    step = dn.capture(training_step(net, opt))
    for n in (4, 4, 4, 4, 2, 2, 2, 4):
        loss = step(*batch(rng, dtype, n))
    assert step.graphs == 2 and device.beside_the_default_pool() > 0
    if found == "by the collector":
        step.itself = step  # a recorder is then told that it goes while all the others are still there
    del step
    if found == "by the collector":
        gc.collect()
    assert device.beside_the_default_pool() == 0
    assert np.isfinite(dn.to_numpy(loss))
    training_step(net, opt)(*batch(rng, dtype))


def test_a_graph_keeps_what_it_writes_to_elsewhere(cupy, rng):
    """Its parameters in 16 bits, which the next forward pass without it makes anew."""
    net = network("float16")
    step, (x, t) = dn.capture(training_step(net, dn.SGD(lr=0.1))), batch(rng, "float16")
    for _ in range(3):
        step(x, t)
    (take,) = step._takes.values()
    shadows = [parameter._shadow for parameter in net.parameters().values() if parameter._shadow is not None]
    assert len(shadows) == 4 and all(any(shadow is kept for kept in take.kept) for shadow in shadows)


def test_also_where_a_step_failed(cupy, rng):
    device, calls = cupy.now.graphs.device, []

    def step(x):
        calls.append(x * 2.0)
        if len(calls) == 3:
            raise ValueError("no")
        return calls.pop() if len(calls) > 3 else x * 3.0

    captured, x = dn.capture(step), batch(rng)[0]
    captured(x), captured(x)
    with pytest.raises(ValueError, match="no"):
        captured(x)
    calls.clear()
    del captured
    gc.collect()
    assert device.beside_the_default_pool() == 0


def test_memory_that_is_given_back_under_a_recording_is_an_error(cupy, rng):
    """CuPy returns free blocks where the device has no room; recorded launches may use them."""
    device, net = cupy.now.graphs.device, network("float32")
    opt, sizes = dn.Adam(), [1, 1, 2, 4, 4]
    inner = training_step(net, opt)

    def step(x, t):
        cupy.empty((sizes.pop(0), 2**20), dtype="uint8")
        return inner(x, t)

    captured, (x, t) = dn.capture(step), batch(rng)
    captured(x, t), captured(x, t)
    before = {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()}
    room, device.room = device.room, device.taken + 3 * 2**19
    with pytest.raises(MemoryError, match="out of memory while a step was recorded as a CUDA graph"):
        captured(x, t)
    assert opt.steps == 2 and not cupy.now.graphs.launched and captured.graphs == 0
    assert before == {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()}
    device.room = device.taken
    with pytest.raises(MemoryError, match="Out of memory allocating 4,1"):  # CuPy's own, where nothing helps
        captured(x, t)
    device.room = room
    captured(x, t), captured(x, t)
    assert opt.steps == 4 and captured.graphs == 1


def test_fit_leaves_nothing_behind(cupy, rng):
    x, t = rng.standard_normal((10, 8, 8, 1)).astype("f4"), rng.integers(0, 3, 10)
    net = network("float16")
    net.fit(x, t, epochs=4, batch_size=4, optimizer=dn.SGD(lr=0.05, momentum=0.9), loss_scale="auto", verbose=0,
            capture=True)  # fmt: skip
    gc.collect()
    assert cupy.now.graphs.launched and cupy.now.graphs.device.beside_the_default_pool() == 0


def test_what_a_step_gave_away_is_given_back_once_it_is_free(cupy, rng):
    device, kept = cupy.now.graphs.device, []

    def step(x):
        kept.append(x * 2.0)
        return kept[-1] + 1.0

    captured, x = dn.capture(step), batch(rng)[0]
    for _ in range(4):
        captured(x)
    del captured
    gc.collect()
    assert device.beside_the_default_pool() >= kept[0].nbytes
    kept.clear()
    other = dn.capture(lambda x: x)
    other(x)  # the next one looks at what was left
    assert device.beside_the_default_pool() == 0
