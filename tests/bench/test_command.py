"""``dualnet bench``: the whole command, and mistakes in one clear line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dualnet import bench, cli


def command(capsys, *arguments):
    code = 0
    try:
        code = cli.main(["bench", *map(str, arguments)])
    except SystemExit as stop:  # argparse
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_whole_command(tiny, tmp_path, capsys):
    page, numbers = tmp_path / "page.md", tmp_path / "numbers.json"
    page.write_text("before\n<!-- bench: here -->\n<!-- bench: end -->\nafter\n")
    options = ["--batch", "1,2", "--rounds", 1, "--seconds", 0.001, "--threads", 1, "--layers"]
    code, out, err = command(capsys, tiny, *options, "--json", numbers, "--markdown", f"{page}#here")
    assert code == 0, err
    assert "tiny, batch 2, inference, round 1 of 1: dualnet: " in err
    for title in ("**Training**", "**Inference**", "**tiny, batch 2, layer by layer**", "**What ran**"):
        assert title in out
    assert page.read_text() == f"before\n<!-- bench: here -->\n\n{out[:-1]}\n<!-- bench: end -->\nafter\n"
    result = json.loads(numbers.read_text())
    assert result["format"] == 1 and bench.markdown(result) == out[:-1]
    assert str(tmp_path) not in numbers.read_text() and str(tmp_path) not in out  # no paths of this machine
    described = Path(__file__).parents[2] / "docs" / "measuring.md"
    if described.exists():
        keys = {*result, *result["settings"], *result["results"][0], *result["layers"][0], *result["machine"]}
        missing = {key for key in keys if f"`{key}`" not in described.read_text("utf-8")}
        assert not missing, f"docs/measuring.md does not explain {missing}"


MISTAKES = [
    (["lenet6"], "dualnet bench: 'lenet6' is neither a file nor a network; the networks are .*lenet5.*wide"),
    (
        ["--against", "keras"],
        "unknown peer 'keras'; the peers are torch, torch.compile, torch.reduce-overhead, jax, chainer, mygrad",
    ),
    (["--against", "torch=/nowhere/python"], "torch=/nowhere/python: no such program"),
    (["--mode", "learning"], "unknown mode 'learning'; the modes are training, inference"),
    (["--batch", "0"], "--batch: 0 is not at least 1"),
    (["--batch", "1,many"], "--batch: 'many' is not a whole number"),
    (["--rounds", "0"], "--rounds: 0 is not at least 1"),
    (["--dtype", "float8"], "unknown dtype 'float8'; the dtypes are float32, tf32, float16, bfloat16"),
    (["--momentum", "1"], "momentum must be a number from 0 to below 1"),
    (["--limit", "0"], "--limit: 0 is not a positive number"),
    (["--threads", "-1"], "--threads: -1 is not at least 1"),
    (["--seconds", "0"], "--seconds: 0 is not a positive number"),
    (["--seed", "-1"], "seed must be at least 0"),
    (["--backend", "cuda"], "unknown backend 'cuda'"),
    (["--json", "nowhere/x.json"], "nowhere/x.json: cannot be written"),
    (["--markdown", "."], "cannot be written"),
    (["--markdown", "page.md#here"], "page.md"),
    (["damaged.npz"], "damaged.npz"),
]


@pytest.mark.parametrize("arguments, words", MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_mistakes_are_one_clear_line_and_exit_code_2(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 nothing")
    code, out, err = command(capsys, *arguments)
    assert code == 2 and re.search(words, err), err
    lines = [line for line in err.splitlines() if not line.startswith(("usage:", " "))]
    assert len(lines) == 1 and not out and "Traceback" not in err, err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged.npz"]


@pytest.mark.parametrize("wrong, expected", [(False, 0), (True, 1)])
def test_the_exit_code_says_whether_something_went_wrong(monkeypatch, capsys, wrong, expected):
    for name, value in (("run", {}), ("markdown", "tables"), ("wrong", wrong)):
        monkeypatch.setattr(bench, name, lambda *_, value=value, **options: value)
    assert command(capsys, "lenet5") == (expected, "tables\n", "")
