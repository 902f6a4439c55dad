"""``dualnet train --config FILE --set NAME=VALUE``, and the configuration that a training leaves beside its model."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import dualnet as dn
from dualnet import cli
from dualnet.cli.configuration import in_toml, setting

pytestmark = pytest.mark.usefixtures("ordinary_signals")


@pytest.fixture
def fits(tmp_path, monkeypatch):
    """What ``fit`` is called with, in a folder of its own; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(dn.Sequential, "fit", lambda net, *args, **options: calls.append(options))
    return calls


def run(capsys, *arguments):
    code = cli.main(["train", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


def configured(folder: Path) -> dict:
    """The configuration that the last training left."""
    newest = max(folder.glob("*.run.toml"), key=lambda path: path.stat().st_mtime_ns)
    return tomllib.loads(newest.read_text("utf-8"))


def test_a_file_sets_what_the_command_line_leaves_open(capsys, fits, tmp_path):
    Path("run.toml").write_text('epochs = 3\nbatch-size = 32\nseed = 5\n[optimizer]\nname = "sgd"\nmomentum = 0.9\n')
    code, out, err = run(capsys, "--config", "run.toml", "--epochs", 2, "--set", "optimizer.lr=0.25")
    assert code == 0, err
    (options,) = fits
    assert (options["epochs"], options["batch_size"], options["seed"]) == (2, 32, 5)
    optimizer = options["optimizer"]
    assert (type(optimizer), optimizer.momentum, optimizer.lr.lr) == (dn.SGD, 0.9, 0.25)
    assert configured(tmp_path)["optimizer"] == {"name": "sgd", "lr": 0.25, "momentum": 0.9}


def test_what_a_training_leaves_trains_the_same_again(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = ("--epochs", 1, "--optimizer", "adamw", "--seed", 3, "--set", "optimizer.weight_decay=0.5", "--quiet")
    assert run(capsys, *first)[0] == 0
    assert run(capsys, "--config", "digits-digits_cnn.run.toml", "--quiet")[0] == 0
    one, again = (dn.load(name).state_dict() for name in ("digits-digits_cnn.npz", "digits-digits_cnn-2.npz"))
    assert all((dn.to_numpy(one[name]) == dn.to_numpy(again[name])).all() for name in one)
    texts = {Path(f"digits-digits_cnn{number}.run.toml").read_text("utf-8") for number in ("", "-2")}
    assert len(texts) == 1
    assert (
        run(capsys, "--config", "digits-digits_cnn.run.toml", "--quiet", "--set", "optimizer.weight_decay=0.0")[0] == 0
    )
    other = dn.load("digits-digits_cnn-3.npz").state_dict()
    assert any((dn.to_numpy(one[name]) != dn.to_numpy(other[name])).any() for name in one)


@pytest.mark.parametrize(
    "text, words",
    [
        ("epochs = ", "run.toml: Invalid value"),
        ("epoch = 3", "run.toml: there is no option 'epoch'; there are dataset, "),
        ("epochs = -1", "run.toml: epochs: -1 is not at least 1"),
        ('epochs = "many"', "run.toml: epochs: 'many' is not a whole number"),
        ("[optimizer]\nbeta = 0.9", "optimizer.beta: Adam has no such argument; it has beta_1, "),
        ("[model]\nname = 3", "unknown model"),
        ("\xff", "run.toml: "),
    ],
)
def test_a_file_that_is_wrong_is_told(capsys, fits, text, words):
    Path("run.toml").write_bytes(text.encode("latin-1"))
    code, out, err = run(capsys, "--config", "run.toml")
    assert code == 2 and not out and words in err and not fits, err


def test_values_are_toml_or_words():
    pairs = [setting(text) for text in ("a=1", "a=1.5", "a=true", "a=word", 'a="1"', "a=[1, 2]", "a=b=c")]
    assert [value for _, value in pairs] == [1, 1.5, True, "word", "1", [1, 2], "b=c"]


def test_toml_comes_back_as_it_went():
    table = {"a": 1, "b": [2, 3], "c": 'wörd "quoted" \\ \n', "d": False, "optimizer": {"lr": 1e-05, "name": "sgd"}}
    assert tomllib.loads(in_toml(table)) == table
