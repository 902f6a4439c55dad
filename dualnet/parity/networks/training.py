"""The certificate's small networks, trained for 200 steps: in lock-step in float64, then against NumPy's own envelope.

Training magnifies: a difference of one unit in the last place of the first weights has grown a thousandfold after 200
steps, so no fixed tolerance on trained weights can be defended. NumPy's own spread is the measure: five runs with the
first weights moved by one unit in the last place. A backend may stray ten times as far, at every step. A unit (of a
ReLU, of a maximum) that switches in one run and not in the next makes a jump, and a different order of summation may
switch one at any step, not just the first. So before the verdict that a backend strays too far, up to fifteen more runs
are made, with the weights moved before every step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy

from ... import data, models
from ...layers import Dense, Flatten, ReLU, Sequential
from ...layers.layer import Layer
from ...ops import losses
from ...optimizers.rules import SGD
from ...shim import asarray, to_numpy
from ..cases import limits
from ..judging.ways import Way
from .lockstep import twin
from .network import ROOM, RUNS, moved, parity

__all__ = ["NETWORKS", "STEPS", "images", "judge_network", "make"]

STEPS, BATCH, EVERY, MOST_RUNS = 200, 16, 10, 20
SEEDS = {"lenet5": 5, "vgg6": 2, "resnet20": 2}
"""How many runs' accuracies are compared."""
RATE = {"lenet5": 0.005, "vgg6": 0.005, "resnet20": 0.001}
"""Learning rates at which training is tame: at ten times these, one unit in the last place changes everything."""


def vgg6() -> Sequential:
    """VGG-6 with 8, 16 and 16 filters instead of 32, 64 and 128."""
    stages = [layer for filters in (8, 16, 16) for layer in models._stage(filters, 2)]
    return Sequential([*stages, Flatten(), Dense(32), ReLU(), Dense(10)])


def resnet20() -> Sequential:
    """ResNet-20 with 4, 8 and 16 filters instead of 16, 32 and 64, at its full depth."""
    return models._resnet((4, 8, 16), 3, 10, "identity")


NETWORKS: dict[str, tuple[Callable[[], Sequential], tuple[int, ...]]] = {
    "lenet5": (models.lenet5, (28, 28, 1)),
    "vgg6": (vgg6, (16, 16, 3)),
    "resnet20": (resnet20, (16, 16, 3)),
}
"""The certificate's networks, narrow enough to train in minutes, and the shape of an image."""


def make(name: str, dtype: str, seed: int = 0) -> Layer:
    """One of the networks, with its first weights."""
    build, shape = NETWORKS[name]
    return build().init(shape, seed=seed, dtype=dtype)


def images(shape: tuple[int, ...], seed: int = 0) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The handwritten digits in this size, with a little noise: on a uniform background every maximum would be a
    tie."""
    (x, t), _ = data.load_digits()
    H, W, C = shape
    times = H // 8
    large = numpy.kron(x[..., 0], numpy.ones((1, times, times), numpy.float32))
    edge = (H - 8 * times) // 2
    large = numpy.pad(large, ((0, 0), (edge, H - 8 * times - edge), (edge, W - 8 * times - edge)))
    rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 2]))
    coloured = large[..., None] * numpy.linspace(1.0, 0.5, C, dtype=numpy.float32)
    return coloured + 0.1 * rng.standard_normal(coloured.shape, dtype=numpy.float32), t


def judge_network(
    name: str,
    ways: list[Way],
    *,
    seed: int = 0,
    steps: int = STEPS,
    seeds: int | None = None,
) -> dict[str, Any]:
    """Everything the certificate says about a network: logits, gradients, top-1, lock-step, envelope, accuracies."""
    x, t = images(NETWORKS[name][1], seed)
    first = {dtype: _first_step(name, dtype, ways, x[:BATCH], t[:BATCH], seed) for dtype in ("float32", "float64")}
    lock_steps = [_lock_step(name, (ways[0], other), x, t, seed, steps) for other in ways[1:]]
    envelope = _envelope(name, ways, x, t, seed, steps, SEEDS[name] if seeds is None else seeds)
    ok = all(row["ok"] for row in (*first.values(), *lock_steps, envelope))
    return {
        "network": name,
        "parameters": sum(math.prod(p.shape) for p in make(name, "float32").parameters().values()),
        "first_step": first,
        "lock_step": lock_steps,
        "training": envelope,
        "reproducer": f"dualnet parity --network {name} --seed {seed}",
        "verdict": "PASS" if ok else "FAIL",
    }


def _first_step(name: str, dtype: str, ways: list[Way], x: Any, t: Any, seed: int) -> dict[str, Any]:
    """Forward and backward once, against float64."""
    found = parity(make(name, dtype, seed), x, t, backends=ways, seed=seed)
    worst, sure = found.worst, [row for row in found.rows if not row.note]
    return {
        "ok": found.ok,
        "worst": {"result": worst.result, "way": worst.way, "error": worst.error, "limit": worst.limit},
        "ratio": {way.name: max((row.ratio for row in sure if row.way == way.name), default=0.0) for way in ways},
        "top_1": found.top_1,
        "images": found.images,
        "switched": found.switched,
        "wrong": [f"{row.way}: {row.result}" for row in found.rows if not row.ok],
        "lock_step": [str(pair) for pair in found.twins if not pair],
    }


def _lock_step(name: str, pair: tuple[Way, Way], x: Any, t: Any, seed: int, steps: int) -> dict[str, Any]:
    """Training in float64, op by op against the first way."""
    run = twin(make(name, "float64", seed), (x, t), backends=pair, steps=steps, batch_size=BATCH,
               optimizer=SGD(RATE[name], momentum=0.9), seed=seed, raises=False)  # fmt: skip
    found = {key: getattr(run, key) for key in ("ok", "steps", "compared", "worst", "worst_at")}
    return {"way": pair[1].name, **found, "told": str(run)}


def _envelope(name: str, ways: list[Way], x: Any, t: Any, seed: int, steps: int, seeds: int) -> dict[str, Any]:
    """200 free steps in float32: each way against the first, in units of the envelope."""
    base, net = ways[0], make(name, "float32", seed)
    course, accuracy = train(net, base, name, x, t, seed, steps)
    rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 4]))
    spread, scores, runs = numpy.full(len(course), limits.tau("float32", 1)), [accuracy], 0
    of_seeds = [accuracy] + [train(make(name, "float32", seed + s), base, name, x, t, seed + s, steps)[1]
                             for s in range(1, seeds)]  # fmt: skip
    tried = {way: [train(make(name, "float32", seed + s), way, name, x, t, seed + s, steps) for s in range(seeds)]
             for way in ways[1:]}  # fmt: skip
    while runs < RUNS or runs < MOST_RUNS and any(_ratio(found, course, spread) > 1 for found in tried.values()):
        first, every = (moved(net, rng), None) if runs < RUNS else (net, rng)
        other, score = train(first, base, name, x, t, seed, steps, every)
        spread = numpy.maximum.accumulate(numpy.maximum(spread, _apart(other, course)))
        scores.append(score)
        runs += 1
    low, high = min(scores + of_seeds), max(scores + of_seeds)
    rows = []
    for way, found in tried.items():
        accuracies, ratio = [score for _, score in found], _ratio(found, course, spread)
        inside = low <= sum(accuracies) / len(accuracies) <= high
        rows.append({"way": way.name, "apart": float(_apart(found[0][0], course)[-1]), "ratio": ratio,
                     "accuracies": accuracies, "ok": ratio <= 1.0 and inside})  # fmt: skip
    return {
        "steps": steps,
        "runs": runs,
        "envelope": [float(spread[0]), float(spread[-1])],
        "room": ROOM,
        "accuracies": of_seeds,
        "range": [low, high],
        "rows": rows,
        "ok": all(row["ok"] for row in rows),
    }


def _ratio(found: list[Any], course: list[numpy.ndarray], spread: numpy.ndarray) -> float:
    """How far the run of the first seed strays at worst, in units of how far it may."""
    return float(numpy.max(_apart(found[0][0], course) / (ROOM * spread)))


def train(
    net: Layer,
    way: Way,
    name: str,
    x: numpy.ndarray,
    t: numpy.ndarray,
    seed: int,
    steps: int,
    rng: numpy.random.Generator | None = None,
) -> tuple[list[numpy.ndarray], float]:
    """The weights after every tenth step, as one vector each, and the accuracy on images that were held out.

    With ``rng`` every weight moves by one unit in the last place before every step.
    """
    net, optimizer = net.copy(), SGD(RATE[name], momentum=0.9)
    held, order, course = 200, numpy.random.default_rng(numpy.random.SeedSequence([seed, 5])), []
    with way.in_force():
        net.to(way.backend)
        for step in range(steps):
            if rng is not None:
                net, optimizer = moved(net, rng), copy.deepcopy(optimizer)  # which continues with the copy
            chosen = order.integers(held, len(x), BATCH)
            y, back = net.forward(asarray(x[chosen]), train=True)
            _, dloss = losses.softmax_cross_entropy(y, asarray(t[chosen]))
            optimizer.step(net, back(dloss())[1])
            if step % EVERY == EVERY - 1 or step == steps - 1:
                course.append(numpy.concatenate([to_numpy(p.value).ravel() for p in net.parameters().values()]))
        right = numpy.argmax(to_numpy(net(asarray(x[:held]))), 1) == t[:held]
    return course, float(numpy.mean(right))


def _apart(one: list[numpy.ndarray], other: list[numpy.ndarray]) -> numpy.ndarray:
    gaps = [numpy.linalg.norm(a.astype(numpy.float64) - b) / numpy.linalg.norm(b) for a, b in zip(one, other)]
    return numpy.nan_to_num(numpy.asarray(gaps), nan=numpy.inf)
