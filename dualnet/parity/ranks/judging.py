"""What each rank compares, and the verdict from the numbers of all ranks.

Each step of the R ranks begins from the weights that one rank had before it, and gets the same images. A result may be
ten times as far from that rank's as a change of one unit in the last place of every weight would move it, and at least
τ for a single sum (docs/numerics.md). In a free run the differences grow; there the limit is how far one rank's own
runs stray when their first weights are moved by one unit in the last place.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy

from ..cases.limits import tau
from ..networks.network import ROOM, RUNS, distance
from .controls import CONTROLS, broken
from .course import Note, train
from .subjects import BATCH, SUBJECTS, Subject

__all__ = ["STEPS", "judge", "of_rank"]

STEPS, FEW = 50, 8
CLOSE_RUNS, WRONG_STEPS = 3, 3
"""Runs with moved weights that follow step by step, and the steps of a training with a mistake."""
RESULTS = ("loss", "gradients", "weights", "statistics")
Row = dict[str, Any]


# -- on each rank ------------------------------------------------------------------------------------------------------


def of_rank(ranks: Any, networks: Sequence[str], steps: int, seed: int, controls: bool = True) -> dict[str, Any]:
    """One rank's findings, as plain data; all ranks call it together."""
    courses = {name: train(SUBJECTS[name], seed, steps) for name in networks}
    found: dict[str, Any] = {"rank": ranks.rank, "size": ranks.size, "kind": ranks.kind}
    found["networks"] = {name: _network(ranks, SUBJECTS[name], courses[name], seed) for name in networks}
    found["controls"] = [
        _control(ranks, mistake, courses[name], seed)
        for mistake, name in CONTROLS.items()
        if controls and name in courses
    ]
    return found


def _network(ranks: Any, subject: Subject, course: list[Note], seed: int) -> dict[str, Any]:
    steps = len(course)
    followed = train(subject, seed, steps, follow=course, distributed=ranks)
    free, again = (train(subject, seed, steps, distributed=ranks) for _ in range(2))
    found = {
        "close": _apart(followed, course),
        "free": [_weights_apart(one.state, other.state) for one, other in zip(free, course)],
        "digests": [note.digest for note in (*followed, *free)],
        "repeats": [one.digest == other.digest for one, other in zip(free, again)],
        "bits": None,
    }
    if subject.exact:
        part = max(1, BATCH // ranks.size)  # the same for each rank: 3 ranks of 16 images have 5 each
        whole = part * ranks.size
        alone = train(subject, seed, steps, whole=whole, accumulate=ranks.size, batch_size=part)
        together = train(subject, seed, steps, whole=whole, batch_size=whole, distributed=ranks)
        found["bits"] = [one.digest == other.digest for one, other in zip(alone, together)]
    if ranks.rank == 0:
        rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 6]))
        near = [_apart(train(subject, seed, steps, follow=course, rng=rng), course) for _ in range(CLOSE_RUNS)]
        far = [train(subject, seed, steps, rng=rng) for _ in range(RUNS)]
        found["near"] = near
        found["far"] = [[_weights_apart(a.state, b.state) for a, b in zip(run, course)] for run in far]
    return found


def _control(ranks: Any, mistake: str, course: list[Note], seed: int) -> dict[str, Any]:
    subject = SUBJECTS[CONTROLS[mistake]]
    with broken(ranks, mistake) as options:
        wrong = train(subject, seed, min(WRONG_STEPS, len(course)), follow=course, distributed=ranks, **options)
    return {"mistake": mistake, "network": subject.name, "close": _apart(wrong, course)}


def _apart(notes: list[Note], course: list[Note]) -> list[dict[str, float]]:
    """How far each step's results are from those of the course; the loss with its number of images."""
    return [
        {
            "loss": one.loss,
            "images": one.images,
            "right": other.loss,
            "gradients": distance(_joined(one.gradients), _joined(other.gradients)),
            "weights": _weights_apart(one.state, other.state),
            "statistics": distance(_joined(_statistics(one.state)), _joined(_statistics(other.state))),
        }
        for one, other in zip(notes, course)
    ]


def _weights_apart(one: dict[str, Any], other: dict[str, Any]) -> float:
    moving = _statistics(other)
    mine, theirs = ({k: v for k, v in state.items() if k not in moving} for state in (one, other))
    return distance(_joined(mine), _joined(theirs))


def _statistics(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if name.rpartition(".")[2].startswith("moving_")}


def _joined(several: dict[str, Any]) -> numpy.ndarray:
    arrays = [several[name] for name in sorted(several) if isinstance(several[name], numpy.ndarray)]
    return numpy.concatenate([a.ravel() for a in arrays]) if arrays else numpy.zeros(0)


# -- over all ranks ----------------------------------------------------------------------------------------------------


def judge(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows of the table, the controls, and what is wrong, from what all ranks found."""
    rows: list[Row] = []
    controls: list[Row] = []
    first = found[0]
    for name in first["networks"]:
        rows += _rows(name, [one["networks"][name] for one in found])
    for place, control in enumerate(first["controls"]):
        several = [one["controls"][place]["close"] for one in found]
        limits = _limits(first["networks"][control["network"]]["near"])
        worst = max((_worst(several, limits, result) for result in RESULTS), key=lambda row: row["ratio"])
        caught = {"mistake": control["mistake"], "network": SUBJECTS[control["network"]].title}
        controls.append({**caught, **worst, "found": worst["ratio"] > 1.0})
    return {"rows": rows, "controls": controls}


def _rows(name: str, several: list[dict[str, Any]]) -> Iterable[Row]:
    subject, first = SUBJECTS[name], several[0]
    head = {"network": subject.title, "steps": len(first["close"])}
    limits = _limits(first["near"])
    for result in RESULTS:
        if result == "statistics" and not subject.normalised:
            continue
        worst = _worst([one["close"] for one in several], limits, result)
        yield {**head, "compared": f"{result}, each step", **worst, "ok": worst["ratio"] <= 1.0}
    yield {**head, "compared": "weights, free", **(free := _free(several)), "ok": free["ratio"] <= 1.0}
    if first["bits"] is not None:
        yield {**head, "compared": "bits, parts added in order", **_equal([one["bits"] for one in several])}
    yield {**head, "compared": "bits, run to run", **_equal([one["repeats"] for one in several])}
    same = [[mine == theirs for mine, theirs in zip(one["digests"], first["digests"])] for one in several]
    yield {**head, "compared": "bits, rank to rank", **_equal(same)}


def _limits(near: list[list[dict[str, float]]]) -> dict[str, list[float]]:
    """How far each result of each step may be: ten times what moved weights do, up to this step."""
    limits: dict[str, list[float]] = {}
    for result in RESULTS:
        worst = [max([tau("float64", 1), *(_of(run[i], result) for run in near)]) for i in range(len(near[0]))]
        limits[result] = (ROOM * numpy.maximum.accumulate(worst)).tolist()
    return limits


def _of(step: dict[str, float], result: str) -> float:
    return abs(step["loss"] - step["right"]) / abs(step["right"]) if result == "loss" else step[result]


def _worst(several: list[list[dict[str, float]]], limits: dict[str, list[float]], result: str) -> Row:
    """The step that is furthest off, in units of its limit."""
    if result == "loss":
        steps = [{"loss": _mean(together), "right": together[0]["right"]} for together in zip(*several)]
        off = [_of(step, "loss") for step in steps]
    else:
        off = [max(one[result] for one in together) for together in zip(*several)]
    ratios = [_ratio(error, limit) for error, limit in zip(off, limits[result])]
    at = int(numpy.argmax(ratios))
    return {"error": off[at], "limit": limits[result][at], "ratio": ratios[at], "at": at, "result": result}


def _mean(together: Sequence[dict[str, float]]) -> float:
    """The loss over the images of all ranks."""
    images = sum(one["images"] for one in together)
    return sum(one["loss"] * one["images"] for one in together) / max(1, images)


def _free(several: list[dict[str, Any]]) -> Row:
    """Free runs: how far the weights stray, and how far those of one rank's own runs do."""
    spread = numpy.maximum.accumulate(numpy.max([several[0]["far"][i] for i in range(RUNS)], axis=0))
    limits = (ROOM * numpy.maximum(spread, tau("float64", 1))).tolist()
    off = numpy.max([one["free"] for one in several], axis=0).tolist()
    ratios = [_ratio(error, limit) for error, limit in zip(off, limits)]
    at = int(numpy.argmax(ratios))
    return {"error": off[at], "limit": limits[at], "ratio": ratios[at], "at": at}


def _ratio(error: float, limit: float) -> float:
    return float("inf") if not numpy.isfinite(error) else error / limit


def _equal(several: list[list[bool]]) -> Row:
    """Steps with equal bits on all ranks."""
    equal = [all(together) for together in zip(*several)]
    return {"equal": sum(equal), "of": len(equal), "at": equal.index(False) if False in equal else 0, "ok": all(equal)}
