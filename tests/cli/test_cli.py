"""The command line: what it prints, where it fails, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dualnet as dn
from dualnet import cli


def run(capsys, *arguments):
    """Run a command in this process: exit code, stdout, stderr."""
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def accuracy(out: str) -> float:
    """The test accuracy that ``dualnet train`` printed, in per cent."""
    return float(re.search(r"test accuracy (\S+) %", out)[1])


@pytest.fixture
def trained(tmp_path, capsys):
    """A network trained for one epoch, as a file."""
    code, out, err = run(capsys, "train", "--epochs", 1, "--out", tmp_path)
    assert code == 0, err
    return tmp_path / "digits-digits_cnn.npz", out


def test_train_ends_with_the_accuracy(trained):
    path, out = trained
    *_, result, where = out.splitlines()
    assert re.fullmatch(r"trained in \d+\.\d s, test accuracy \d+\.\d\d %", result) and accuracy(out) > 50
    assert where == f"saved as {path}" and "1,437 images to learn, 360 to test" in out
    (_, _), (x, t) = dn.data.load_digits()
    score = dn.load(path).evaluate(x, t)["accuracy"]
    assert f"{100 * score:.2f}" == f"{accuracy(out):.2f}"


def test_train_is_seeded(tmp_path, capsys):
    every = ("train", "--epochs", 1, "--seed", 1, "--out", tmp_path)
    scores = [accuracy(run(capsys, *every, *more)[1]) for more in ((), ("--capture",))]  # which NumPy passes over
    assert scores[0] == scores[1]


def test_a_description_keeps_the_capitals_of_names(capsys):
    assert "Judge each node of an ONNX model" in run(capsys, "against", "--help")[1]


@pytest.mark.slow
def test_digits_reach_97_per_cent(tmp_path, capsys):
    code, out, _ = run(capsys, "train", "digits", "--out", tmp_path)
    assert code == 0 and accuracy(out) >= 97


def test_summary_with_a_batch_tells_the_memory(capsys):
    code, out, _ = run(capsys, "summary", "lenet5", "--batch", "128")
    assert code == 0 and str(dn.models.lenet5().plan(128, (28, 28, 1))) in out
    code, out, _ = run(capsys, "summary", "lenet5", "--batch", "128", "--json")
    assert code == 0 and json.loads(out)["memory"]["training"] == dn.models.lenet5().plan(128, (28, 28, 1)).training
    assert run(capsys, "summary", "lenet5", "--batch", "0")[0] == 2


def test_summary(trained, capsys):
    code, out, _ = run(capsys, "summary", "lenet5")
    assert code == 0 and "61,706" in out
    code, out, _ = run(capsys, "summary", trained[0])
    assert code == 0 and "Conv2D" in out
    code, out, _ = run(capsys, "summary", "resnet20", "--input-shape", "16,16,3")
    assert code == 0 and "(16, 16, 16)" in out


def test_info(capsys):
    code, out, _ = run(capsys, "info", "--backend", "strict")
    assert code == 0 and re.search(r"^backend +strict$", out, re.M) and dn.__version__ in out


def test_check(capsys, monkeypatch):
    code, out, _ = run(capsys, "check")
    assert code == 0 and re.search(r"^\d\d passed, 0 failed$", out, re.M)
    right = dn.ops.conv2d

    def wrong(x, w, b, **options):
        y, pullback = right(x, w, b, **options)
        return y, pullback.then("conv2d", lambda result: (result[0], result[1][::-1], result[2]))

    monkeypatch.setattr(dn.ops, "conv2d", wrong)
    code, out, _ = run(capsys, "check")
    assert code == 1 and re.search(r"^\d\d passed, [1-9] failed$", out, re.M) and "DISAGREES" in out


MISTAKES = [
    (["train", "imagenet"], "'imagenet' does not exist; expected a folder of photos, or one of digits, mnist, "),
    (["train", "--data", "mine"], "--data is for the files of other data sets; the digits come with the package"),
    (["train", "--size", "32"], "--size is for photos in folders; the images of digits have a fixed size"),
    (["train", "--set", "epochs"], "--set: 'epochs' is not NAME=VALUE"),
    (["train", "--set", "epoch=3"], "dualnet train: --set epoch: there is no option 'epoch'; there are dataset, "),
    (["train", "--set", "epochs=0"], "dualnet train: --set epochs: epochs: 0 is not at least 1"),
    (["train", "--set", "optimizer.momentum=0.9"], "optimizer.momentum: Adam has no such argument; it has beta_1, "),
    (["train", "--config", "nowhere.toml"], "dualnet train: .*nowhere.toml"),
    (["train", "--epochs", "0"], "--epochs: 0 is not at least 1"),
    (["train", "--epochs", "1.5"], "--epochs: '1.5' is not a whole number"),
    (["train", "--lr", "nan"], "--lr: nan is not a positive number"),
    (["train", "--model", "lenet6"], "lenet6.*lenet5"),
    (["train", "--model", "lenet5"], "dualnet train: .*does not fit"),
    (["train", "--optimizer", "adamm"], "dualnet train: .*adamm.*adamw"),
    (["train", "--backend", "cuda"], "dualnet train: unknown backend 'cuda'"),
    (["train", "--seed", "-1"], "dualnet train: seed must be"),
    (["train", "mnist"], "dualnet train: mnist: .*DUALNET_OFFLINE"),
    (["train", "mnist", "--data", "nowhere"], "dualnet train: .*nowhere"),
    (["train", "cifar10", "--data", "nowhere"], "dualnet train: .*nowhere"),
    (["predict", "nothing.npz", "digits"], "dualnet predict: .*nothing.npz"),
    (["predict", "nothing.npz", "nowhere.npy"], "dualnet predict: .*nothing.npz"),
    (["summary", "lenet6"], "neither a file nor a model; the models are .*lenet5"),
    (["summary", "lenet5", "--input-shape", "28"], "dualnet summary: .*feature maps"),
    (["summary", "lenet5", "--input-shape", "a,b"], "--input-shape: 'a' is not a whole number"),
    (["bench", "--batch", "1,a"], "--batch: 'a' is not a whole number"),
    (["train", "--lr", "fast"], "--lr: fast is not a positive number"),
    (["train", "--out", "/proc/nowhere"], "^dualnet train: No such file or directory: '/proc/nowhere'$"),
    (["check", "digits_cnn", "--seed", "-1"], "dualnet check: seed must be at least 0, got -1"),
    (["explain", "--seed=--"], "argument --seed: expected one argument"),
    (["explain", "--label", "1" * 60], "argument --label: 1{20}... is too large"),
    (["explode"], "invalid choice: 'explode'"),
    (
        ["train", "--optimiser=sgd"],
        r"^dualnet train: error: there is no option --optimiser; did you mean --optimizer\?$",
    ),
    (["train", "--foo"], "^dualnet train: error: there is no option --foo; `dualnet train --help` lists the options$"),
    (["train", "--layrs", "3"], "there is no option --layrs; `dualnet train --help` lists"),
    (["predict", "m.npz", "--images", "x.png"], "^dualnet predict: error: .* --images; `dualnet predict --help` lists"),
    (["info", "numpy"], "^dualnet info: error: unexpected: numpy; `dualnet info --help` shows what it takes$"),
    ([], "the following arguments are required: COMMAND"),
]


@pytest.mark.parametrize("arguments, words", MISTAKES, ids=[" ".join(a) or "nothing" for a, _ in MISTAKES])
def test_mistakes_are_one_clear_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALNET_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DUALNET_DATA", raising=False)
    code, out, err = run(capsys, *arguments)
    assert code == 2 and re.search(words, err, re.MULTILINE), err
    assert "Traceback" not in err and not out
    told = [line for line in err.splitlines() if not line.startswith(("usage:", " "))]
    assert len(told) == 1, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["summary", "predict", "check", "explain", "bench"])
def test_a_network_with_layers_of_ones_own_is_for_python(capsys, tmp_path, command):
    class Scale(dn.Identity):
        pass

    path = dn.Sequential([Scale(), dn.Flatten(), dn.Dense(10)]).init((8, 8, 1)).save(tmp_path / "own.npz")
    code, out, err = run(capsys, command, str(path), *["digits"] * (command == "predict"))
    assert code == 2 and not out
    assert "unknown layer class 'Scale'" in err and 'in Python, net = dn.load(path, custom={"Scale": Scale})' in err


def test_out_is_a_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, err = run(capsys, "train", "--out", tmp_path / "file")
    assert (
        code == 2
        and "is a file; expected a folder, or a name that ends with .safetensors or .npz" in err
        and (tmp_path / "file").read_text() == "mine"
    )


def test_interrupting_is_no_traceback(capsys, tmp_path, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(dn.Sequential, "fit", interrupted)
    code, _, err = run(capsys, "train", "--out", tmp_path)
    assert code == 130 and err == "interrupted\n"


def test_python_m_dualnet():
    where = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(dn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([sys.executable, "-m", "dualnet", "--version"], capture_output=True, text=True, env=where)
    assert done.stdout == f"dualnet {dn.__version__}\n" and done.returncode == 0


@pytest.mark.slow
def test_mnist(capsys, tmp_path):
    folder = Path(os.environ.get("DUALNET_DATA", "")) / "mnist"
    if not os.environ.get("DUALNET_DATA") or not folder.is_dir():
        pytest.skip("DUALNET_DATA names no folder with mnist/")
    code, out, _ = run(capsys, "train", "mnist", "--data", folder, "--epochs", 5, "--out", tmp_path)
    assert code == 0 and accuracy(out) >= 98.9


def test_a_file_knows_its_input_shape(tmp_path, capsys):
    path = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((4, 4, 1)).save(tmp_path / "m.npz")
    assert run(capsys, "summary", str(path), "--input-shape", "4,4,1")[0] == 0
    code, _, told = run(capsys, "summary", str(path), "--input-shape", "8,8,1")
    assert code == 2 and "was made for inputs of (4, 4, 1); --input-shape is for models" in told
