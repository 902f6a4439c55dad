"""The zoo: exactly the witnesses that the exercise names see its mistake, and none objects to the repair.

The same mistakes are then planted into the library's own ops, where the oracles that prove the library must turn red.
``python tests/zoo/test_exercises.py`` rewrites the tables of docs/exercises.md from what the witnesses say.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import dualnet as dn
from dualnet.zoo import witnesses
from dualnet.zoo.exercise import load

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "exercises.md"
NAMES = [exercise.name for exercise in dn.zoo.exercises()]
every_exercise = pytest.mark.parametrize("name", NAMES)


@functools.cache
def heard(name: str) -> dn.zoo.Report:
    """What the witnesses say about the wrong op."""
    return dn.zoo.report(name)


def measured(name: str) -> dict[str, str]:
    """Who sees the mistake: "yes", "–" or "luck"."""
    exercise = dn.zoo.show(name)
    seen = {judge: judge in heard(name).caught_by for judge in (*witnesses.WITNESSES, "manners")}
    luck = (*exercise.luck, "all ones") if exercise.luck else ()
    seen["all ones"] = witnesses.all_ones(exercise, exercise.op)
    return {judge: "luck" if judge in luck else "yes" if yes else "–" for judge, yes in seen.items()}


# -- the mistakes ------------------------------------------------------------------------------------------------------


@every_exercise
def test_a_mistake_is_seen_by_the_witnesses_that_the_exercise_names(name):
    exercise, report = dn.zoo.show(name), heard(name)
    assert not report and "forward" not in report.caught_by
    assert set(report.caught_by) - set(exercise.luck) == set(exercise.caught_by)
    blind = set(witnesses.WITNESSES) - {*exercise.caught_by, *exercise.luck}
    assert set(exercise.why_blind) == blind, "say of each blind witness, and no other, why it is blind"


@every_exercise
def test_a_repair_is_seen_by_nobody(backend, name):
    report = dn.zoo.grade(name, dn.zoo.solution(name))
    assert report.passed and report.caught_by == () and report.worst == 0.0, str(report)


@every_exercise
def test_an_exercise_is_complete(name):
    exercise = dn.zoo.show(name)
    assert set(exercise.anchors) <= {f"E{i}" for i in range(1, 20)}
    assert any(re.search(rf"# .*\b{anchor}\b", exercise.code) for anchor in exercise.anchors), (
        "no line bears its anchor"
    )
    assert exercise.code != exercise.repaired and exercise.hint.rstrip().endswith("?")
    assert ">" not in exercise.preamble and len(exercise.code.splitlines()) <= 35, "one page"
    before, _, after = exercise.code.partition("    def pullback(")
    assert before and after, "forward and pullback on one page"
    ours = [parameter.name for parameter in inspect.signature(exercise.op).parameters.values()]
    assert ours == [parameter.name for parameter in inspect.signature(dn.zoo.solution(name).op).parameters.values()]
    cases = exercise.cases(np.random.default_rng(0))
    assert len({tuple(a.shape for a in case.arrays) for case in cases}) > 1, "one shape could be learned by heart"


@every_exercise
def test_the_file_that_a_learner_gets_is_the_exercise(name, tmp_path):
    exercise = dn.zoo.show(name)
    text = exercise.file("mine.py")
    assert load(text, "mine.py", exercise.op.__name__).__doc__ == exercise.op.__doc__
    assert f"dualnet zoo {name} --grade mine.py" in text and exercise.story.split()[0] in text
    assert not re.search(r"^\s*from \.", text, re.MULTILINE), "a file of its own has no relative imports"


def test_no_witness_is_enough_and_none_is_superfluous():
    seen = {name: {judge for judge, mark in measured(name).items() if mark == "yes"} for name in NAMES}
    for judge in (*witnesses.WITNESSES, "manners"):
        assert any(judge not in who for who in seen.values()), f"{judge} sees everything"
    for judge in ("loops", "parity", "manners"):
        assert any(who & {*witnesses.WITNESSES, "manners"} == {judge} for who in seen.values()), (
            f"{judge} is not needed"
        )


@every_exercise
def test_all_ones_is_right_about_what_is_right(name):
    assert not witnesses.all_ones(dn.zoo.show(name), dn.zoo.solution(name))


# -- the stories -------------------------------------------------------------------------------------------------------


def gradients(name, *arrays, dy, repaired=False, **options):
    op = dn.zoo.solution(name) if repaired else dn.zoo.show(name).op
    _, pullback = op(*map(dn.asarray, arrays), **options)
    result = pullback(dn.asarray(dy))
    return [dn.to_numpy(g) for g in (result if isinstance(result, tuple) else (result,))]


def test_the_clues_are_true(backend, rng):
    x, w = rng.standard_normal((1, 6, 7, 1)), rng.standard_normal((3, 3, 1, 2))
    dy = rng.standard_normal((1, 6, 7, 2))
    (wrong, _), (right, _) = (gradients("uncropped-padding", x, w, dy=dy, padding=1, repaired=r) for r in (False, True))
    assert np.allclose(wrong[:, 1:, 1:], right[:, :-1, :-1])  # one pixel down and to the right

    x, dy = rng.standard_normal((1, 12, 12, 1)), rng.standard_normal((1, 5, 5, 2))
    dx, _ = gradients("crowded-deltas", x, w, dy=dy, stride=2)
    assert not dx[:, 7:].any() and not dx[:, :, 7:].any() and dx[:, :7, :7].all()  # the upper left corner only

    flat = np.ones((1, 4, 4, 1))
    (wrong,), (right,) = (
        gradients("tied-winners", flat, dy=flat[:, :2, :2], size=2, repaired=r) for r in (False, True)
    )
    assert wrong.sum() == 4 * right.sum()  # four times too much over flat areas

    edge = np.array([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1)  # learning an edge: the part of dw along it changes its sign
    x, dy = rng.standard_normal((1, 4, 6, 1)), rng.standard_normal((1, 4, 4, 1))
    (_, wrong), (_, right) = (gradients("turned-gradient", x, edge, dy=dy, repaired=r) for r in (False, True))
    assert np.isclose(np.vdot(wrong, edge), -np.vdot(right, edge)) and np.isclose(wrong.sum(), right.sum())

    corner = np.zeros((1, 4, 4, 1))
    (wrong,) = gradients("counted-padding", corner, dy=corner[:, :2, :2] + 1.0, size=3, padding=1)
    (right,) = gradients("counted-padding", corner, dy=corner[:, :2, :2] + 1.0, size=3, padding=1, repaired=True)
    assert (wrong[0, 0, 0] < right[0, 0, 0]).all()  # the border learns more slowly

    x, one, zero = rng.standard_normal((8, 3)), np.ones(3), np.zeros(3)
    dy = rng.standard_normal((8, 3))
    right, *_ = gradients("frozen-statistics", x, one, zero, dy=dy, repaired=True)
    wrong, *_ = gradients("frozen-statistics", x, one, zero, dy=dy)
    along = [abs(np.sum(g * (x - x.mean(0)))) for g in (right, wrong)]
    assert along[0] < 1e-3 < along[1]  # its scale changes nothing, and yet the gradient points along it


# -- what PyTorch computed ---------------------------------------------------------------------------------------------


@every_exercise
def test_pytorch_and_the_loops_agree(name):
    """Two of the witnesses, held against each other: neither shares code with the op or with the other."""
    case, dy, y, expected = witnesses.stored(name)
    ours, backward = dn.zoo.show(name).truth(*case.arrays, **case.options)
    assert np.allclose(ours, y, rtol=1e-12, atol=1e-14)
    for g, r in zip(backward(dy), expected, strict=True):
        assert np.allclose(g, r, rtol=1e-11, atol=1e-14)


# -- messages ----------------------------------------------------------------------------------------------------------


def test_what_is_not_in_the_zoo():
    with pytest.raises(ValueError, match="no exercise 'averged-bias' in the zoo. Did you mean 'averaged-bias'"):
        dn.zoo.show("averged-bias")
    for call in (dn.zoo.solution, dn.zoo.report, lambda name: dn.zoo.grade(name, dn.ops.dense)):
        with pytest.raises(ValueError, match="`dualnet zoo` lists them"):
            call("lion")
    with pytest.raises(ValueError, match="no exercise None"):
        dn.zoo.show(None)
    with pytest.raises(TypeError, match="expects the repaired function dense, got str"):
        dn.zoo.grade("averaged-bias", "dense")


def test_what_is_printed():
    listed = str(dn.zoo.exercises()).splitlines()
    assert len(listed) == len(NAMES) and max(map(len, listed)) <= 120
    text = str(dn.zoo.show("averaged-bias"))
    for part in ("db = xp.mean(dy, axis=0)", "E16", "histograms", "how do you mend it?"):
        assert part in " ".join(text.split())
    assert dn.zoo.show("averaged-bias").hint not in text
    for given_away in ("times what is right", "loops", "WRONG"):
        assert given_away not in text
    assert "All of db is 0.25 times what is right" in " ".join(str(dn.zoo.report("averaged-bias")).split())
    solution = str(dn.zoo.solution("stale-columns"))
    assert "+    columns = xp.empty" in solution and "parity" in solution and "slopes" in solution
    assert repr(dn.zoo.solution("close-taps")) == "<solution of close-taps>"
    for name in NAMES:
        assert max(map(len, str(dn.zoo.show(name)).splitlines())) <= 120


def test_notebooks_show_the_same(backend):
    page, solved = dn.zoo.show("zero-window")._repr_html_(), dn.zoo.solution("zero-window")._repr_html_()
    assert "<summary" in page and "0.0, 1.0, y" not in page + str(dn.zoo.show("zero-window")) and "<script" not in page
    assert "0.0, 1.0, y" in solved and "Who does not see it" in solved
    for shown in (page, solved, heard("zero-window")._repr_html_()):
        assert "monospace" in shown
    assert (
        "&lt;" in dn.zoo.show("slope-at-zero")._repr_html_() + dn.zoo.grade("close-taps", print)._repr_html_() + "&lt;"
    )
    assert dn.zoo.exercises()._repr_html_().count("<tr>") == len(NAMES) + 1
    assert "WRONG" in heard("close-taps")._repr_html_()
    solutions = "".join(dn.zoo.solution(name)._repr_html_() for name in NAMES)
    assert "it is a <em>convolution</em> (E2)" in solutions and not re.search(r"\*\w+\*", solutions)


# -- the page ----------------------------------------------------------------------------------------------------------


def exercises() -> str:
    """The list of docs/exercises.md."""
    headings = re.findall(r"^### (E\d+) (.+)$", (ROOT / "docs" / "derivation.md").read_text("utf-8"), re.MULTILINE)
    slugs = {anchor: re.sub(r"[^\w\- ]", "", f"{anchor} {rest}".lower()).replace(" ", "-") for anchor, rest in headings}
    lines = ["| | exercise | symptom | equations |", "|---|---|---|---|"]
    for i, exercise in enumerate(dn.zoo.exercises(), start=1):
        links = ", ".join(f"[{anchor}](derivation.md#{slugs[anchor]})" for anchor in exercise.anchors)
        lines.append(f"| {i} | {exercise.name} | {exercise.symptom} | {links} |")
    return "\n".join(lines)


def table() -> str:
    """Who sees what."""
    columns = ["loops", "slopes", "parity", "PyTorch", "manners", "all ones"]
    lines = [f"| exercise | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name in NAMES:
        seen = measured(name)
        lines.append(f"| {name} | {' | '.join(seen[column.lower()] for column in columns)} |")
    return "\n".join(lines)


def report() -> str:
    """What the witnesses say about the exercise that the page works through."""
    return f"```text\n{heard('turned-gradient')}\n```"


MADE = {"exercises": exercises, "table": table, "report": report}
needs_page = pytest.mark.skipif(not PAGE.exists(), reason="the pages are in the checkout, not in the package")


def between(mark: str) -> re.Pattern:
    return re.compile(rf"(?<=<!-- zoo: {mark} -->\n).*?(?=<!-- zoo: end -->)", re.DOTALL)


@needs_page
@pytest.mark.parametrize("mark", MADE)
def test_the_page_says_what_is_measured(mark):
    if dn.available_backends() != ["numpy", "strict"]:
        pytest.skip("the page counts the comparisons of two backends")
    (found,) = between(mark).findall(PAGE.read_text("utf-8"))
    assert found == f"\n{MADE[mark]()}\n\n", "run  python tests/zoo/test_exercises.py"


@needs_page
def test_the_page_counts_right():
    text = PAGE.read_text("utf-8")
    assert "twenty-four of them" in text and len(NAMES) == 24
    alone = [name for name in NAMES if dn.zoo.show(name).caught_by == ("loops",)]
    assert "Three mistakes were seen by one witness alone" in " ".join(text.split()) and len(alone) == 3
    convolutions = [name for name in NAMES if "conv" in dn.zoo.show(name).op.__module__]
    assert "the seven convolutions" in text and len(convolutions) == 7


def test_a_repair_stands_in_the_code_exactly_once():
    exercise = dn.zoo.show(NAMES[0])
    for text in ("return", "no such text"):
        with pytest.raises(ValueError, match=f"{text!r} appears [0-9]+ times in the code"):
            dataclasses.replace(exercise, fix=((text, "dx"),)).repaired  # noqa: B018


if __name__ == "__main__":
    for mark, make in MADE.items():
        made = f"\n{make()}\n\n"
        PAGE.write_text(between(mark).sub(lambda _, made=made: made, PAGE.read_text("utf-8"), count=1), "utf-8")
