"""``dualnet against``: exit codes, and what is printed."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dualnet as dn
from dualnet import cli

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def run(capsys, *arguments):
    """Run a command in this process: exit code, stdout, stderr."""
    code = cli.main(["against", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def model(tmp_path):
    net = dn.Sequential([dn.Conv2D(3, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((5, 5, 2))
    return net.to_onnx(tmp_path / "net.onnx")


def test_a_model_that_agrees(model, capsys):
    code, out, err = run(capsys, model)
    assert (code, err) == (0, "") and out.startswith("agrees: 6 layers") and "Conv2D in float64" in out


def test_the_input_is_random_or_from_a_file(model, capsys, tmp_path):
    told = [json.loads(run(capsys, model, "--json", "--seed", seed, "--batch", 4)[1])["rows"] for seed in (1, 1, 2)]
    assert [told[0] == other for other in told] == [True, True, False]
    np.save(tmp_path / "x.npy", np.random.default_rng(1).standard_normal((4, 5, 5, 2)))
    assert json.loads(run(capsys, model, "--json", "--input", tmp_path / "x.npy")[1])["rows"] == told[0]


def test_a_model_that_is_off_ends_in_exit_code_1(model, capsys, monkeypatch):
    from dualnet.bridges.against import onnx_pass

    real = onnx_pass._outputs
    monkeypatch.setattr(
        onnx_pass, "_outputs", lambda *args, **options: {n: a * 2 for n, a in real(*args, **options).items()}
    )
    code, out, _ = run(capsys, model)
    assert code == 1 and out.startswith("OFF at ") and "The fault is in onnxruntime." in out
    code, out, _ = run(capsys, model, "--json")
    assert code == 1 and not json.loads(out)["ok"]


def test_mistakes_of_the_user_end_in_exit_code_2(model, capsys, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 4, 5, 2)))
    (tmp_path / "text.npy").write_text("numbers", "utf-8")
    for arguments, told in (
        ([tmp_path / "none.onnx"], "dualnet against: No such file or directory"),
        ([tmp_path / "x.npy"], "it is not an ONNX file"),
        ([model, "--input", tmp_path / "x.npy"], "x has shape (2, 4, 5, 2); expected (any, 5, 5, 2)"),
        ([model, "--input", "x.txt"], "--input takes an .npy file, got 'x.txt'"),
        ([model, "--input", tmp_path / "text.npy"], "is not an .npy file of numbers"),
        ([model, "--batch", "0"], "0 is not at least 1"),
    ):
        code, out, err = run(capsys, *arguments)
        assert code == 2 and not out and told in err, err
