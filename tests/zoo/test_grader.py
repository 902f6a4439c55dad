"""The grader of the zoo: wrong repairs do not get past it; and the command that calls it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import dualnet as dn
from dualnet import cli
from dualnet.zoo.exercise import read

NAMES = [exercise.name for exercise in dn.zoo.exercises()]


# -- repairs that cheat ------------------------------------------------------------------------------------------------


def dense(change):
    """A repair of averaged-bias that is right except for what ``change`` does."""

    def op(x, w, b):
        y, pullback = dn.ops.dense(x, w, b)
        return y, lambda dy: change(pullback, dy, x, w)

    return op


def float64(pullback, dy, x, w):
    return tuple(g.astype("float64") for g in pullback(dy))


def spoils_x(pullback, dy, x, w):
    result = pullback(dy)
    x *= 2.0
    return result


def spoils_dy(pullback, dy, x, w):
    result = pullback(dy)
    dy *= 0.0
    return result


def one_shape_by_heart(pullback, dy, x, w):
    dx, dw, db = pullback(dy)
    return (dx, dw, db) if x.shape == (4, 3) else (dx, dw, db / x.shape[0])


def forgets_the_bias(pullback, dy, x, w):
    return pullback(dy)[:2]


def wrong_shape(pullback, dy, x, w):
    dx, dw, db = pullback(dy)
    return dx, dw, db[None]


def off_by_a_millionth(pullback, dy, x, w):
    dx, dw, db = pullback(dy)
    return dx, dw * (1 + 1e-6), db


def nothing(pullback, dy, x, w):
    return None


def one_short(pullback, dy, x, w):
    return pullback(dy)[:2]


def raises(pullback, dy, x, w):
    return 1 / 0


def zeros(pullback, dy, x, w):
    return (np.zeros(2),) * 3


CHEATS = {
    float64: "dx is float64 for float32 inputs",
    spoils_x: "x, which belongs to the caller, was changed",
    spoils_dy: "dy, which belongs to the caller, was changed",
    one_shape_by_heart: "All of db is 0.143 times what is right",
    forgets_the_bias: "2 gradients came back, expected 3",
    wrong_shape: "db has shape (1, 5); expected (5,)",
    off_by_a_millionth: "entries of dw are wrong|All of dw is|dw says",
    nothing: "1 gradient came back, expected 3",
    one_short: "no db came back",
    raises: "ZeroDivisionError in line",
    zeros: "has shape (2,)",
}


@pytest.mark.parametrize("change", CHEATS, ids=lambda change: change.__name__)
def test_the_grader_is_not_fooled(backend, change):
    report = dn.zoo.grade("averaged-bias", dense(change))
    found = " ".join(" ".join(str(report).split()).split())
    assert not report.passed and any(part in found for part in CHEATS[change].split("|")), str(report)
    assert dn.zoo.grade("averaged-bias", dense(lambda pullback, dy, x, w: pullback(dy)))


def test_counting_calls_and_other_state_is_found():
    calls = []

    def only_the_first_call_is_right(pullback, dy, x, w):
        calls.append(dy)
        dx, dw, db = pullback(dy)
        return dx, dw, db * (1.0 if len(calls) % 2 else 2.0)

    assert "manners" in dn.zoo.grade("averaged-bias", dense(only_the_first_call_is_right)).caught_by


def test_a_consistent_mistake_is_seen_by_forward():
    """Forward and pullback agree with each other, so slopes see nothing; but it is another function."""

    def op(x, w, b):
        y, pullback = dn.ops.dense(x, w, b)
        return y * 0.5, lambda dy: pullback(dy * 0.5)

    report = dn.zoo.grade("averaged-bias", op)
    assert {"forward", "loops", "pytorch"} <= set(report.caught_by) and "slopes" not in report.caught_by


def test_numpy_behind_the_back_of_xp_is_found_by_parity():
    def op(x, w, b):
        y = x @ w + b
        return y, lambda dy: (dy @ w.T, x.T @ dy, np.sum(dy, axis=0))

    with dn.use_backend("numpy"):
        report = dn.zoo.grade("averaged-bias", op)
    assert report.caught_by == ("parity",)


def test_any_argument_names_and_extra_options_will_do():
    assert dn.zoo.grade("averaged-bias", lambda *arrays: dn.ops.dense(*arrays))
    assert dn.zoo.grade("delta-mask", dn.ops.relu) and dn.zoo.grade("second-draw", dn.ops.dropout)


def test_a_report_without_witnesses_is_no_proof():
    assert not dn.zoo.Report("nothing")


def test_grading_changes_nothing_and_is_repeatable(backend):
    state = np.random.get_state()[1].tobytes()
    first, second = (str(dn.zoo.grade("close-taps", dn.zoo.show("close-taps").op)) for _ in range(2))
    assert first == second and dn.get_backend() == backend and np.random.get_state()[1].tobytes() == state
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "nan" in str(dn.zoo.grade("zero-window", dn.zoo.show("zero-window").op))


# -- the command -------------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    try:
        code = cli.main(["zoo", *map(str, arguments)])
    except SystemExit as stop:  # argparse
        code = stop.code
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_command_from_story_to_repair(capsys, tmp_path):
    code, out, _ = run(capsys)
    assert code == 0 and all(name in out for name in NAMES) and "dualnet zoo forgotten-mean" in out
    code, out, _ = run(capsys, "averaged-bias")
    assert code == 0 and "xp.mean" in out and "WRONG" not in out and "times what is right" not in out
    code, out, _ = run(capsys, "averaged-bias", "--report")
    assert code == 0 and "WRONG" in out and "All of db is 0.25 times what is right" in " ".join(out.split())
    mine = tmp_path / "mine.py"
    assert run(capsys, "averaged-bias", "--out", mine)[0] == 0
    code, out, _ = run(capsys, "averaged-bias", "--grade", mine)
    assert code == 1 and "db; dx and dw agree" in out and "--hint" in out
    code, out, _ = run(capsys, "averaged-bias", "--hint")
    assert code == 0 and out.strip().endswith("?")
    mine.write_text(mine.read_text("utf-8").replace("xp.mean", "xp.sum"), "utf-8")
    code, out, _ = run(capsys, "averaged-bias", "--grade", mine)
    assert code == 0 and "PASSED" in out and "Next:  dualnet zoo square-weights" in out
    code, out, _ = run(capsys, "averaged-bias", "--solution")
    assert code == 0 and "+        db = xp.sum" in out and "Who does not see it" in out
    assert list(tmp_path.iterdir()) == [mine], "grading leaves no files behind"


def test_the_last_one(capsys, tmp_path):
    mine, last = tmp_path / "mine.py", dn.zoo.show(NAMES[-1])
    mine.write_text(f"{last.preamble}\n\n\n{last.repaired}", "utf-8")
    code, out, _ = run(capsys, last.name, "--grade", mine)
    assert code == 0 and "the last one" in out


def test_what_a_user_can_get_wrong_is_one_line(capsys, tmp_path):
    mine = tmp_path / "mine.py"
    refused = [
        (["lion"], "no exercise 'lion'"),
        (["--hint"], "name the exercise"),
        (["--grade", mine], "name the exercise"),
        (["averaged-bias", "--grade", mine], "No such file"),
        (["averaged-bias", "--grade", tmp_path], "directory"),
        (["averaged-bias", "--out", tmp_path / "none" / "mine.py"], "no such folder; create it first"),
        (["averaged-bias", "--hint", "--solution"], "not allowed with"),
        (["averaged-bias", "--report", "--grade", mine], "not allowed with"),
        (["--report"], "name the exercise"),
    ]
    for text, message in [
        ("def dense(x, w, b:\n", "line 1"),
        ("import nothing_of_that_name\n", "No module named"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def tense(x, w, b): pass\n", "has no function 'dense'"),
    ]:
        path = tmp_path / f"{len(refused)}.py"
        path.write_text(text)
        refused.append((["averaged-bias", "--grade", path], message))
    binary = tmp_path / "binary.py"
    binary.write_bytes(b"\xff\xfe\x00")
    refused.append((["averaged-bias", "--grade", binary], "is not a text file"))
    for arguments, message in refused:
        code, out, err = run(capsys, *arguments)
        assert code == 2 and not out and message in err.splitlines()[-1], (arguments, err)
        assert "Traceback" not in err
    mine.write_text("my work\n")
    code, _, err = run(capsys, "averaged-bias", "--out", mine)
    assert code == 2 and "already exists" in err and mine.read_text() == "my work\n"


def test_the_zoo_is_not_loaded_before_it_is_asked_for():
    ask = "import sys, dualnet as dn; print('dualnet.zoo' in sys.modules, dn.zoo.ORDER[0], hasattr(dn, 'lion'))"
    where = {**os.environ, "PYTHONPATH": str(Path(dn.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, env=where)
    assert done.stdout == "False forgotten-mean False\n", done.stderr


BROKEN_WORDS = """
class Odd(Exception):
    def __str__(self): raise ValueError
"""


@pytest.mark.parametrize(
    "blow, named",
    [
        ("raise SystemExit(0)", "SystemExit"),
        ("exit()", "SystemExit"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise Odd", "Odd"),
        ("raise MemoryError", "MemoryError"),
        ("(lambda f: f(f))(lambda f: f(f))", "RecursionError"),
    ],
)
def test_whatever_an_answer_raises_is_reported(tmp_path, blow, named):
    """As it is imported, as it runs, and in its pullback; an answer that ends the program is no right answer."""
    path, exercise = tmp_path / "mine.py", dn.zoo.show("averaged-bias")
    begin = f"{exercise.preamble}\n{BROKEN_WORDS}\n"
    for code in (
        f"def dense(x, w, b):\n    {blow}",
        f"def dense(x, w, b):\n    def f(dy):\n        {blow}\n    return x @ w + b, f",
    ):
        path.write_text(begin + code)
        report = dn.zoo.grade("averaged-bias", read(path, "dense"))
        assert not report.passed and f"{named} in line " in str(report)
    path.write_text(begin + blow)
    with pytest.raises(ValueError, match=f"mine.py cannot be imported: {named} in line "):
        read(path, "dense")


def test_a_syntax_error_from_elsewhere_is_no_line_of_the_answer(tmp_path, monkeypatch):
    (tmp_path / "half_written_helper.py").write_text("x = 1\n\n\ndef f(:\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "mine.py"
    for code, words in (
        ("import half_written_helper", r"SyntaxError in line 2: invalid syntax \(half_written_helper.py, line 4\)"),
        ("eval('1 +')", r"SyntaxError in line 2: invalid syntax \(<string>, line 1\)"),
        ("raise SyntaxError('so')", "SyntaxError in line 2: so"),
    ):
        path.write_text(f"\n{code}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"mine.py cannot be imported: {words}"):
            read(path, "dense")
    path.write_text("\n\n(", encoding="utf-8")
    with pytest.raises(ValueError, match=r"mine.py, line 3: '\(' was never closed"):
        read(path, "dense")


def test_ctrl_c_is_the_users_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def dense(x, w, b):\n    raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        dn.zoo.grade("averaged-bias", read(path, "dense"))
