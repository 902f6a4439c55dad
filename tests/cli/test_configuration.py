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


def configured(folder: Path, model: str = "digits-digits_cnn") -> dict:
    """The configuration that the training of this model left."""
    return tomllib.loads((folder / f"{model}.run.toml").read_text("utf-8"))


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
        ("[model]\nname = 3", "model: expected a word in quotes"),
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


@pytest.mark.parametrize("word, wanted", [("none", None), ("auto", "auto"), ("128", 128.0)])
def test_the_loss_scale_is_what_was_said(capsys, fits, tmp_path, word, wanted):
    assert run(capsys, "--loss-scale", word, "--quiet")[0] == 0
    assert fits[0]["loss_scale"] == wanted
    assert run(capsys, "--config", "digits-digits_cnn.run.toml", "--quiet")[0] == 0
    assert fits[1]["loss_scale"] == wanted and configured(tmp_path, "digits-digits_cnn-2")["dtype"] == "float32"


@pytest.mark.parametrize(
    "setting, words",
    [
        ("dtype=float8", "dtype: 'float8' is not one of float16, "),
        ("optimizer=3", "optimizer: expected a word in quotes, got 3"),
        ("capture=1", "capture: '1' is neither true nor false"),
        ("augment=no", "augment: 'no' is neither true nor false"),
        ("seed=x", "seed: 'x' is not a whole number"),
        ("size=[3, -1]", "size: -1 is not at least 1"),
        ("loss_scale=much", "loss_scale: much is not auto, none or a positive number"),
        ("model=true", "model: expected a word in quotes, got true"),
    ],
)
def test_values_are_read_as_on_the_command_line(capsys, fits, setting, words):
    code, out, err = run(capsys, "--set", setting)
    assert code == 2 and not out and words in err and not fits, err


def test_a_size_is_a_number_or_two(capsys, fits, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("one", "two"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(3):
            image.new("L", (20, 10), 20 * i + 7 * (name == "two")).save(tmp_path / "photos" / name / f"{name}{i}.png")
    for i, (size, shape) in enumerate((("size=16", (16, 16)), ("size=[16, 24]", (16, 24)), ("size=16,24", (16, 24)))):
        code, _, err = run(capsys, "photos", "--set", size, "--set", "augment=false", "--quiet", "--out", f"{i}.npz")
        assert code == 0, err
        assert dn.load(f"{i}.npz").input.size == shape and configured(tmp_path, str(i))["size"] == list(shape)
