"""``dualnet tune``: the file that it writes, and mistakes in one clear line."""

from __future__ import annotations

import json
import os

import pytest

import dualnet as dn
from dualnet import cli
from dualnet.backend import load
from dualnet.backends import choice, measuring
from dualnet.cli import tune


@pytest.fixture(autouse=True)
def on_numpy():
    """The command chooses among NumPy's algorithms; no other backend has them."""
    with dn.use_backend("numpy"):
        yield


@pytest.fixture(autouse=True)
def as_new(monkeypatch):
    """Nothing is known, and measuring takes no time."""
    for name in tune.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(measuring, "SECONDS", 0.0)
    monkeypatch.setattr(measuring, "ROUNDS", 1)
    choice.forget()
    load("numpy")
    yield
    choice.forget()


def run(capsys, *arguments):
    code = cli.main(["tune", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_every_convolution_of_a_network_is_measured(capsys, tmp_path):
    path = tmp_path / "lenet5.json"
    code, out, err = run(capsys, "lenet5", "--batch", "1,3", "--out", path)
    assert code == 0 and not err
    choices = json.loads(path.read_text())["choices"]
    assert len(choices) == 12, "two layers, three functions, two batches"
    assert "correlate 3x28x28x1 to 6, 5x5, padding 2 2 2 2, float32" in choices
    lines = out.splitlines()
    for what, times in choices.items():
        (line,) = (line for line in lines if line.startswith(f"{what} "))
        assert line.endswith(", ".join(f"{name} {ms:.3g} ms" for name, ms in times)) and times
    assert lines[-1] == f"saved as {path}. To use it: DUALNET_TUNED={path} dualnet train …"
    assert not set(tune.VARIABLES) & set(os.environ), "the environment is as it was"


def test_the_file_is_used_and_added_to(capsys, tmp_path, monkeypatch):
    path = tmp_path / "tuned.json"
    run(capsys, "lenet5", "--batch", 2, "--out", path)
    before = json.loads(path.read_text())["choices"]
    run(capsys, "digits_cnn", "--batch", 2, "--out", path)
    after = json.loads(path.read_text())["choices"]
    assert before.items() < after.items()
    choice.forget()
    monkeypatch.setenv("DUALNET_TUNED", str(path))
    dn.models.lenet5().init((28, 28, 1)).to("numpy").predict(dn.to_numpy(dn.asarray([[[[0.5]] * 28] * 28] * 2)))
    assert any(f"tuned in {path}" in why for why in dn.info()["why"].values())


def test_a_file_from_another_machine_is_an_error_and_stays(capsys, tmp_path):
    path = tmp_path / "tuned.json"
    run(capsys, "lenet5", "--batch", 2, "--out", path)
    text = path.read_text().replace(f'"dualnet": "{dn.__version__}"', '"dualnet": "0.0.0"')
    path.write_text(text)
    choice.forget()
    code, out, err = run(capsys, "lenet5", "--batch", 2, "--out", path)
    assert code == 2 and not out and path.read_text() == text
    assert "was measured with dualnet '0.0.0', here" in err and err.rstrip().endswith("name another file with --out")
    path.write_text('{"format": 2}')
    choice.forget()
    code, out, err = run(capsys, "lenet5", "--batch", 2, "--out", path)
    assert code == 2 and "its format is 2, and this version knows 1" in err and path.read_text() == '{"format": 2}'


@pytest.mark.parametrize("text", ['{"a": 1}', "hello", ""])
def test_a_file_of_something_else_is_refused_before_anything_is_measured(capsys, tmp_path, monkeypatch, text):
    monkeypatch.setattr(tune, "step", None)
    path = tmp_path / "mine.json"
    path.write_text(text)
    code, out, err = run(capsys, "lenet5", "--batch", 1, "--out", path)
    assert code == 2 and not out and path.read_text() == text
    assert err.startswith(f"dualnet tune: {path} is not a file of dualnet tune, or it is damaged: got ")


def test_mistakes(capsys, tmp_path):
    code, _, err = run(capsys, "lenet6")
    assert code == 2 and err.startswith("dualnet tune: 'lenet6' is neither a file nor a model")
    code, _, err = run(capsys, "lenet5", "--out", tmp_path / "none" / "tuned.json")
    assert code == 2 and "none" in err
    with dn.use_backend("strict"):
        code, _, err = run(capsys, "lenet5", "--out", tmp_path / "tuned.json")
    assert (
        code == 2
        and err
        == "dualnet tune: it measures the kernels of NumPy and oneDNN, but the backend is strict; use --backend numpy\n"
    )


def test_a_network_without_convolutions(capsys, tmp_path):
    net = dn.Sequential([dn.Dense(3)]).init((4,))
    net.save(tmp_path / "dense.npz")
    code, out, _ = run(capsys, tmp_path / "dense.npz", "--out", tmp_path / "tuned.json")
    assert code == 0 and "has no convolutions to measure" in out and not (tmp_path / "tuned.json").exists()
