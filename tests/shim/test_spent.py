"""Gradients that nobody reads again: the update is written into them, with the same bits, and only then."""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import pytest

import dualnet as dn
from dualnet.shim.spent import reusable, spent
from dualnet.training import loop

OPTIMIZERS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"weight_decay": 0.1},
}


def test_only_what_nobody_else_holds():
    kept, seen = np.zeros((20, 20)), np.zeros((20, 20))
    read_only, twice, half = np.zeros(300), np.zeros(300), np.zeros(400)[:200]
    read_only.flags.writeable = False
    view = seen.reshape(400)
    arrays = {"mine": np.zeros(300), "mine, a view": np.zeros(400).reshape(20, 20), "kept": kept, "seen": view,
              "half": half, "read-only": read_only, "turned": np.zeros((20, 30)).T, "twice": twice, "again": twice,
              "a class of its own": np.zeros(300).view(np.recarray), "none": None, "small": np.zeros(9)}  # fmt: skip
    del read_only, twice, half
    with spent(arrays):
        assert [name for name, array in arrays.items() if reusable(array)] == ["mine", "mine, a view"]
        assert not reusable(np.zeros(3))
    assert not any(map(reusable, arrays.values()))


def test_only_memory_that_numpy_owns():
    buffer = bytearray(1600)
    arrays = {"mine": np.zeros((10, 20)).reshape(200), "a buffer's": np.frombuffer(buffer),
              "a buffer's, turned": np.frombuffer(buffer).reshape(10, 20),
              "another library's": np.from_dlpack(np.zeros(200)), "its view": np.from_dlpack(np.zeros(200)).view(),
              "an interface's": np.asarray(memoryview(np.zeros(200))).reshape(10, 20)}  # fmt: skip
    with spent(arrays):
        assert [name for name, array in arrays.items() if reusable(array)] == ["mine"]


def trained(how, **options):
    """A network after three steps, with small and large parameters, and where these lie."""
    with dn.use_backend("numpy"):
        net = dn.Sequential([dn.Flatten(), dn.Dense(300), dn.ReLU(), dn.Dense(3)]).init((12, 12, 1), seed=0)
        x = np.random.default_rng(0).standard_normal((12, 12, 12, 1)).astype("f4")
        net.fit(x, np.arange(12) % 3, epochs=3, batch_size=12, optimizer=dn.SGD(lr=0.1, **how), verbose=0, **options)
        return {name: dn.to_numpy(value).tobytes() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("how", OPTIMIZERS)
def test_the_bits_of_an_update_elsewhere(monkeypatch, how):
    used = []
    for module in ("dualnet.backends.cpu.steps", "dualnet.backends.onednn.passes"):
        monkeypatch.setattr(f"{module}.reusable", lambda array: reusable(array) and not used.append(array.size))
    here = trained(OPTIMIZERS[how])
    assert used or how == "decay"
    monkeypatch.setattr(loop, "spent", lambda arrays: contextlib.nullcontext())
    assert here == trained(OPTIMIZERS[how])


@pytest.mark.parametrize("size", [500, 70000])
@pytest.mark.parametrize("how", OPTIMIZERS)
def test_who_keeps_a_gradient_finds_it_as_it_was(size, how):
    with dn.use_backend("numpy"):
        net, kept = dn.Sequential([dn.Dense(size // 10)]).init((10,), seed=0), []
        dense = net.layers[0]
        forward = dense.forward

        def keeping(x, train=False, **options):
            y, way = forward(x, train, **options)
            return y, way.then("Keeping", lambda result: kept.append((result[1]["w"], result[1]["w"].copy())) or result)

        vars(dense)["forward"] = keeping
        x = np.random.default_rng(0).standard_normal((4, 10)).astype("f4")
        net.fit(x, np.arange(4), epochs=2, batch_size=4, optimizer=dn.SGD(lr=0.1, **OPTIMIZERS[how]), verbose=0)
    assert len(kept) >= 2 and all(array.tobytes() == copy.tobytes() for array, copy in kept)


def test_an_optimizer_with_a_step_of_its_own_may_look_again():
    class Looking(dn.SGD):
        def step(self, net, grads, finite=None):
            before = {name: g.copy() for name, g in grads.items()}
            super().step(net, grads, finite)
            self.same = all(g.tobytes() == before[name].tobytes() for name, g in grads.items())

    with dn.use_backend("numpy"):
        net, optimizer = dn.Sequential([dn.Dense(3)]).init((10,), seed=0), Looking(lr=0.1)
        net.fit(np.ones((4, 10), "f4"), np.arange(4) % 3, epochs=1, batch_size=4, optimizer=optimizer, verbose=0)
    assert optimizer.same


class Own(dn.Layer):
    """y = x · w, whose dw lies in memory of the layer's own."""

    def build(self, input_shape, draw):
        self.w = draw.parameter("ones", (input_shape[-1],))
        self.memory = mmap.mmap(-1, 4 * input_shape[-1])
        self.returned = []

    def forward(self, x, train=False):
        w = self.w.value

        def pullback(dy):
            np.sum(dy * x, axis=0, out=np.frombuffer(self.memory, "f4"))
            return dy * w, {"w": np.frombuffer(self.memory, "f4").reshape(w.shape)}

        return x * w, dn.Pullback("own", pullback, x)


def test_memory_of_the_users_stays_the_users():
    with dn.use_backend("numpy"):
        net = Own().init((400,))
        net.fit(np.ones((4, 400), "f4"), np.arange(4), batch_size=4, optimizer=dn.SGD(0.1), verbose=0)
    assert not np.shares_memory(net.w.value, np.frombuffer(net.memory, "f4"))


class KeepsItsDictionary(Own):
    """Keeps the very dictionary that its pullback returns."""

    def forward(self, x, train=False):
        y, way = super().forward(x, train)

        def keep(result):
            dx, gradients = result
            self.returned.append({name: g.copy() for name, g in gradients.items()})
            self.first = [g.copy() for g in self.returned[-1].values()]
            return dx, self.returned[-1]

        return y, way.then("keeping", keep)


def test_a_network_may_keep_the_dictionary_that_it_returned():
    with dn.use_backend("numpy"):
        net = KeepsItsDictionary().init((400,))
        net.fit(np.ones((4, 400), "f4"), np.arange(4), batch_size=4, optimizer=dn.SGD(0.1), verbose=0)
    assert net.returned[-1]["w"].tobytes() == net.first[0].tobytes()


@pytest.mark.parametrize("name", loop.SEE_GRADIENTS)
@pytest.mark.parametrize("on", ["class", "instance"])
def test_an_optimizer_may_keep_what_it_sees(name, on):
    kept = []

    def keeping(self, *arguments, **options):
        for one in arguments:
            arrays = one.values() if isinstance(one, dict) else one if isinstance(one, list) else [one]
            kept.extend((a, a.copy()) for a in arrays if isinstance(a, np.ndarray) and a.nbytes >= 1024)
        return getattr(dn.SGD, name)(self, *arguments, **options)

    with dn.use_backend("numpy"):
        net, optimizer = dn.Sequential([dn.Dense(300)]).init((10,), seed=0), dn.SGD(0.1)
        if on == "class":
            optimizer = type("Keeping", (dn.SGD,), {name: keeping})(0.1)
        else:
            setattr(optimizer, name, keeping.__get__(optimizer))
        net.fit(np.ones((4, 10), "f4"), np.arange(4), epochs=2, batch_size=4, optimizer=optimizer, verbose=0)
    assert (kept or (name, on) == ("update", "instance")) and all(a.tobytes() == b.tobytes() for a, b in kept)
