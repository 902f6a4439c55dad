"""The Python script: it needs only NumPy, gives the library's numbers, and says how to use it."""

from __future__ import annotations

import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from bridge_nets import EVERY, apart, drawn_network, examples, filled, made

import dualnet as dn
from dualnet.bridges import numpy_layers
from dualnet.bridges.steps import plan

DTYPES = ("float32", "float64")


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess:
    """Python without the folder of the project, and told to be strict."""
    command = [sys.executable, "-I", "-W", "error", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_every_layer(name, dtype, tmp_path, rng, capsys):
    net = made(name, rng, dtype)
    x = examples(net, rng)
    module = imported(net.to_numpy(tmp_path / "net.py", x))
    y, r = module.predict(x), net.predict(x)
    assert y.dtype == r.dtype == dtype and y.shape == r.shape
    assert apart(y, r) <= plan(net, "to_numpy").tolerance
    assert module.check() == 0 and "ok" in capsys.readouterr().out


@pytest.mark.parametrize("number", range(40))
def test_a_drawn_network(number, tmp_path, rng):
    net = drawn_network(np.random.default_rng(number), dtype=DTYPES[number % 4 == 3])
    module = imported(net.to_numpy(tmp_path / "net.py"))
    x = examples(net, rng)
    assert apart(module.predict(x), net.predict(x)) <= plan(net, "to_numpy").tolerance
    assert module.check() == 0


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    (x, t), (x_test, _) = dn.data.load_digits()
    layers = [dn.Conv2D(8, 3, padding=1), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(10)]
    net = dn.Sequential(layers).init((8, 8, 1))
    net.fit(x, t, epochs=3, verbose=0)
    folder = tmp_path_factory.mktemp("digits")
    x_test = dn.to_numpy(x_test)
    np.save(folder / "images.npy", x_test)
    return net, x_test, net.to_numpy(folder / "digits.py", x_test[:4])


def test_all_test_digits(digits):
    """In a process of its own, which has never heard of dualnet."""
    net, x, script = digits
    program = "import sys, numpy; sys.path.insert(0, '.'); import digits; x = numpy.load('images.npy')\n"
    program += "numpy.save('y.npy', digits.predict(x)); print('dualnet' in sys.modules)"
    result = run(script.parent, "-c", program)
    assert result.returncode == 0 and result.stdout == "False\n", result.stderr
    y, r = np.load(script.parent / "y.npy"), net.predict(x)
    assert len(y) == 360 and (y.argmax(1) == r.argmax(1)).all()
    assert apart(y, r) <= plan(net, "to_numpy").tolerance
    assert script.stat().st_size < 30_000


def test_the_command_line(digits):
    net, x, script = digits
    folder, r = script.parent, net.predict(x)
    checked = run(folder, "digits.py", "--check")
    assert (
        checked.returncode == 0 and checked.stdout.startswith("4 inputs, 10 outputs each: ") and "ok" in checked.stdout
    )
    printed = run(folder, "digits.py", "images.npy")
    assert printed.returncode == 0 and apart(np.array(printed.stdout.split(), float).reshape(-1, 10), r) < 1e-5
    assert run(folder, "digits.py", "images.npy", "out.npy").returncode == 0
    assert apart(np.load(folder / "out.npy"), r) < 1e-5
    for arguments in ([], ["--what"], ["a", "b", "c"]):
        refused = run(folder, "digits.py", *arguments)
        assert refused.returncode == 2 and "usage: digits.py --check" in refused.stderr


def test_the_check_finds_a_wrong_weight(digits, tmp_path):
    _, _, script = digits
    text = script.read_text("utf-8")
    name, shape, body = re.search(r'"(\d\.w)": array\((.*?), """\n(.*?)\n"""\)', text, re.S).groups()
    changed = text.replace(body, body[:40] + ("AAAA" if body[40:44] != "AAAA" else "Pz8/") + body[44:])
    (tmp_path / "wrong.py").write_text(changed, "utf-8")
    result = run(tmp_path, "wrong.py", "--check")
    assert result.returncode == 1 and "WRONG" in result.stdout, (name, shape)


def test_the_check_finds_outputs_that_are_nan(digits):
    module = imported(digits[2])
    module.W = {name: np.full_like(array, np.nan) for name, array in module.W.items()}
    with np.errstate(all="ignore"):
        assert module.check() == 1


def test_what_does_not_fit_is_said(digits):
    module = imported(digits[2])
    for wrong in (np.zeros((8, 8, 1)), np.zeros((2, 1, 8, 8)), np.zeros(64)):
        with pytest.raises(ValueError, match=r"expected \(N, 8, 8, 1\)"):
            module.predict(wrong)
    assert module.predict(np.zeros((0, 8, 8, 1))).shape == (0, 10)
    x = np.random.default_rng(0).standard_normal((7, 8, 8, 1))
    assert apart(module.predict(x, batch_size=3), module.predict(x)) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_keep_their_bits(tmp_path, rng, dtype):
    net = filled(dn.Sequential([dn.Dense(50)]).init((40,), dtype=dtype), rng)
    w = (rng.standard_normal((40, 50)) * 10.0 ** rng.integers(-37, 37, (40, 50))).astype(dtype)
    net.load_state_dict({"0.w": w, "0.b": np.zeros(50, dtype)})
    module = imported(net.to_numpy(tmp_path / "net.py", np.zeros((1, 40))))
    assert module.W["0.w"].tobytes() == w.tobytes() and module.W["0.w"].dtype == dtype


def test_the_name_and_the_text(tmp_path):
    net = dn.Dense(2).init((2,))
    assert net.to_numpy(tmp_path / "net").name == "net.py"
    first = net.to_numpy(tmp_path / "net.py", seed=3).read_bytes()
    assert net.to_numpy(tmp_path / "net.py", seed=3).read_bytes() == first
    assert net.to_numpy(tmp_path / "net.py", seed=4).read_bytes() != first


def test_the_layers_are_copied_word_for_word(digits):
    text = digits[2].read_text("utf-8")
    for kind in ("conv2d", "windows", "relu", "max_pool", "dense"):
        assert inspect.getsource(getattr(numpy_layers, kind)) in text
    assert "def gelu" not in text and "import math" not in text and "batch_norm" not in text
