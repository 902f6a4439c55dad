"""The exercises as the page gets them: nothing of the solution too early, and the verdicts of the library."""

from __future__ import annotations

import contextvars
import json

import playground_server
import pytest

import dualnet as dn
from dualnet.shim import choosing

pytestmark = pytest.mark.skipif(not playground_server.PAGE.exists(), reason="the pages are in the checkout")
if playground_server.PAGE.exists():
    playground_server.desk()
    from session import exercises

ALL = dn.zoo.exercises()


@pytest.fixture(autouse=True)
def on_numpy():
    with dn.use_backend("numpy"):
        yield


def asked(method, **given):
    told = json.loads(playground_server.desk().ask(method, json.dumps(given)))
    return told["answer"] if "answer" in told else told


def whole(exercise, code):
    return f"{exercise.preamble}\n\n\n{code}"


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.name)
def test_every_exercise_is_graded(exercise):
    told = asked("exercise", name=exercise.name)
    assert told["code"] == whole(exercise, exercise.code) and told["op"] == exercise.op.__name__
    help_, nothing = asked("hint", name=exercise.name), asked("grade", name=exercise.name, code="")
    before = "\n".join(map(str, [*told.values(), *help_.values(), *nothing.values()]))
    assert exercise.hint in before and " ".join(exercise.lesson.split()) not in before
    assert all(before.count(right) == told["code"].count(right) for _, right in exercise.fix)  # no more than it says
    after = asked("grade", name=exercise.name, code=whole(exercise, exercise.repaired))
    assert after["passed"] and after["line"] is None and after["text"].startswith(f"{exercise.name}: PASSED")
    assert after["lesson"] == " ".join(exercise.lesson.split()) and after["blind"] == exercise.why_blind
    if not exercise.luck:
        wrong = asked("grade", name=exercise.name, code=told["code"])
        assert not wrong["passed"] and wrong.keys() == {"passed", "text", "line", "printed"}
        assert wrong["text"] == str(dn.zoo.report(exercise.name)) == asked("witnesses", name=exercise.name)["text"]


def test_the_course_is_in_order():
    rows = asked("exercises")["rows"]
    assert [row["name"] for row in rows] == [exercise.name for exercise in ALL]
    following = [asked("grade", name=e.name, code=whole(e, e.repaired))["next"] for e in (ALL[0], ALL[-1])]
    assert following == [ALL[1].name, ""]


@pytest.mark.parametrize(
    "code, line, words",
    [
        ("def dense(x, w, b):\n    return (x", 2, "averaged-bias.py, line 2: '(' was never closed"),
        ("\n\nraise KeyError('no')", 3, "cannot be imported: KeyError in line 3: 'no'"),
        ("import nowhere_at_all", 1, "cannot be imported: ModuleNotFoundError in line 1"),
        ("def dense(x, w, b):\n    return x @ w + b, lambda dy: 1 / 0", 2, "ZeroDivisionError in line 2"),
        ("def dense(x, w, b):\n    y = x @ w + b\n    return y, lambda dy: None.what", 3, "AttributeError in line 3"),
        ("def other(x): pass", None, "averaged-bias.py has no function 'dense'; keep the name"),
        ("raise KeyboardInterrupt", None, "averaged-bias.py raises KeyboardInterrupt"),
        ("raise SystemExit", 1, "SystemExit in line 1"),
        ("\neval('1 +')", 2, "cannot be imported: SyntaxError in line 2: invalid syntax (<string>, line 1)"),
        ("\n\nraise SyntaxError('so')", 3, "cannot be imported: SyntaxError in line 3: so"),
    ],
)
def test_an_error_has_its_line(code, line, words):
    told = asked("grade", name="averaged-bias", code=code)
    assert not told["passed"] and told["line"] == line and words in " ".join(told["text"].split())


def test_what_a_repair_prints_is_shown_and_ends():
    told = asked("grade", name="averaged-bias", code="print('here')\ndef dense(x, w, b):\n    print('x' * 999); 1 / 0")
    assert told["printed"].startswith("here\nxxx") and told["printed"].endswith("… and more")
    assert len(told["printed"]) < 4100
    lines = "import sys\nfor _ in range(100): print('x' * 999)\nraise RuntimeError(len(sys.stdout.getvalue()))"
    told = asked("grade", name="averaged-bias", code=lines)
    assert told["text"].endswith("RuntimeError in line 3: 4000") and told["printed"].endswith("x\n\n… and more")


def test_a_repair_that_chooses_a_backend(monkeypatch):
    monkeypatch.setattr(choosing, "_process", choosing._Process())
    exercise, here = ALL[0], contextvars.Context()  # a process of its own, and no backend for this block alone
    here.run(dn.set_backend, "numpy")
    for end in (exercise.repaired, "1 / 0"):
        code = whole(exercise, f"import dualnet as dn\ndn.set_backend('strict')\n{end}")
        told = here.run(asked, "grade", name=exercise.name, code=code)
        assert told["passed"] == (end != "1 / 0") and here.run(dn.get_backend) == "numpy"


def test_a_name_that_does_not_exist():
    assert "Did you mean 'averaged-bias'" in asked("exercise", name="average-bias")["error"]
    assert "zoo. The menu “Exercise” lists them." in asked("exercise", name="lion")["error"]  # no `dualnet zoo` here


@pytest.mark.parametrize("exercise", ALL[:3], ids=lambda exercise: exercise.name)
def test_the_colours_lose_no_character(exercise):
    code = whole(exercise, exercise.code)
    for text in (code, code[:-30], code + "\n    'open", "\x0c" + code, "", "  (", "é\u2028 = 'x'  # E1\n" + code):
        lines = exercises.coloured(text)
        assert ["".join(piece for _, piece in line) for line in lines] == text.split("\n")
    assert ("keyword", "def") in exercises.coloured(code)[3]
    assert ("keyword", "def") in exercises.coloured(code + "\n)(")[3]  # what reads has its colour all the same


def test_a_text_of_several_lines_is_coloured_in_each():
    assert exercises.coloured('x = """a\nb"""\n# E1') == [
        [("", "x = "), ("string", '"""a')],
        [("string", 'b"""')],
        [("comment", "# E1")],
    ]
