"""Kernels against the references that they stand in for, on the shapes that they are made for.

Loops would take minutes here. The truth is the reference itself in float64, which the small cases compare with the
loops; so a difference here is the kernel's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy

from ...shim import load
from ..cases.case import Case
from ..cases.truth import expected
from ..networks.lockstep import references
from .compare import compare
from .judge import Tally, repeats
from .ways import Way, titles

__all__ = ["LARGE", "idle", "judge_kernels", "large_cases", "reached"]

Shapes = dict[str, tuple[int, ...]]

_CONVOLUTIONS: list[tuple[Shapes, dict[str, Any]]] = [
    ({"x": (16, 28, 28, 1), "w": (5, 5, 1, 6), "b": (6,)}, {"padding": 2}),
    ({"x": (16, 14, 14, 6), "w": (5, 5, 6, 16), "b": (16,)}, {}),
    ({"x": (8, 32, 32, 3), "w": (3, 3, 3, 32), "b": (32,)}, {"padding": "same"}),
    ({"x": (8, 16, 16, 64), "w": (3, 3, 64, 64)}, {"padding": 1}),
    ({"x": (8, 16, 16, 32), "w": (3, 3, 32, 64)}, {"padding": 1, "stride": 2}),
    ({"x": (8, 16, 16, 32), "w": (1, 1, 32, 64)}, {"stride": 2}),
    ({"x": (4, 15, 17, 16), "w": (3, 2, 8, 12), "b": (12,)}, {"groups": 2, "dilation": (2, 1), "stride": (1, 2)}),
    ({"x": (4, 16, 16, 32), "w": (3, 3, 1, 32)}, {"groups": 32, "padding": 1}),
]
_DENSE: list[tuple[Shapes, dict[str, Any]]] = [
    ({"x": (64, 400), "w": (400, 120), "b": (120,)}, {}),
    ({"x": (256, 512), "w": (512, 512), "b": (512,)}, {}),
]
_MAPS: list[tuple[Shapes, dict[str, Any]]] = [
    ({"x": (16, 32, 32, 32)}, {"pool_size": 2}),
    ({"x": (8, 33, 31, 16)}, {"pool_size": (3, 2), "stride": (2, 1), "padding": (1, 0)}),
    ({"x": (8, 28, 28, 6)}, {"pool_size": 3, "stride": 2, "ceil_mode": True}),
]
_NORMED: list[tuple[Shapes, dict[str, Any]]] = [
    ({"x": (16, 32, 32, 16), "gamma": (16,), "beta": (16,)}, {}),
    ({"x": (64, 7, 7, 64), "gamma": (64,), "beta": (64,)}, {}),
    ({"x": (256, 128), "gamma": (128,), "beta": (128,)}, {}),
]
_PLAIN: list[tuple[Shapes, dict[str, Any]]] = [({"x": (16, 32, 32, 16)}, {}), ({"x": (256, 513)}, {})]

LARGE: dict[str, list[tuple[Shapes, dict[str, Any]]]] = {
    "conv2d": _CONVOLUTIONS,
    "conv2d_relu": _CONVOLUTIONS,
    "conv_transpose2d": [({"x": (4, 8, 8, 32), "w": (3, 3, 16, 32), "b": (16,)}, {"stride": 2, "padding": 1})],
    "dense": _DENSE,
    "dense_relu": _DENSE,
    "max_pool2d": _MAPS,
    "max_pool2d_relu": _MAPS,
    "avg_pool2d": _MAPS,
    "l2_pool2d": _MAPS,
    "global_avg_pool2d": _PLAIN[:1],
    "global_max_pool2d": _PLAIN[:1],
    "batch_norm": _NORMED,
    "batch_norm_relu": _NORMED,
    "layer_norm": [({"x": (64, 16, 64), "gamma": (64,), "beta": (64,)}, {})],
    "group_norm": [({"x": (16, 16, 16, 32), "gamma": (32,), "beta": (32,)}, {"groups": 4})],
    "relu": _PLAIN,
    "leaky_relu": _PLAIN,
    "gelu": _PLAIN,
    "sigmoid": _PLAIN,
    "tanh": _PLAIN,
    "softmax": _PLAIN[1:],
    "dropout": [({"x": (16, 32, 32, 16)}, {"rate": 0.5, "key": (5, 1)})],
    "softmax_cross_entropy": [({"y": (256, 10), "t": (256,)}, {}), ({"y": (64, 1000), "t": (64,)}, {})],
}
"""Shapes that occur in networks, by op."""


def large_cases(op: str, dtype: str, seed: int) -> list[Case]:
    """The large cases of one op, numbered from 0."""
    found = []
    for number, (shapes, options) in enumerate(LARGE[op]):
        rng = numpy.random.default_rng(numpy.random.SeedSequence([seed, 6, number]))
        arrays: dict[str, Any] = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
        if "t" in arrays:
            arrays["t"] = rng.integers(0, shapes["y"][1], shapes["t"])
        if op.startswith(("conv", "dense")):
            arrays.setdefault("b", None)
        found.append(Case(op, number, seed, dtype, "large", arrays, dict(options)))
    return found


def judge_kernels(way: Way, ops: Iterable[str], seed: int = 0) -> list[dict[str, Any]]:
    """One row for each op and dtype: a backend's kernels against its references in float64."""
    rows = []
    for op in ops:
        for dtype in ("float32", "float64"):
            tally, served, drawn = Tally(way.name), set(), large_cases(op, dtype, seed)
            for case in drawn:
                truth = expected(case, references)
                outcome = way.run(case)
                tally.add(compare(case, way.name, outcome, truth))
                tally.served += bool(outcome.kernels)
                served |= titles(outcome.kernels)
            different = repeats(way, drawn[0]) if served else 0
            row = tally.row() | {"different": different}
            row["worst"]["reproducer"] = (
                f"dualnet parity --op {op} --large {row['worst']['case']} --seed {seed} --dtype {dtype}"
            )
            rows.append({"op": op, "dtype": dtype, **row, "kernels": sorted(served)})
    return rows


def reached(
    backends: Iterable[str], served: dict[tuple[str, str], int], facts: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """For each backend: how often each kernel served, the functions whose kernels never did, and how often each library
    served. (Where two libraries have a kernel for one function, one of them may take all calls.)

    ``facts`` are what ``dn.info()`` says on each backend. Kernels of libraries that do not work here do not count.
    """
    found = {}
    for backend in backends:
        counts: dict[str, int] = {}
        never, libraries = [], Counter[str]()
        for name, standing_in in load(backend).kernels.items():
            several = (standing_in,) if callable(standing_in) else standing_in
            names = [getattr(kernel, "algorithm", backend) for kernel in several]
            asked = {library: served.get((name, f"kernel of {library}"), 0) for library in names}
            counts |= {f"{name} ({library})": times for library, times in asked.items()}
            libraries.update(asked)
            if not any(asked.values()) and not all(_absent(library, facts[backend]) for library in names):
                never.append(name)
        found[backend] = {"served": counts, "never": never, "libraries": dict(libraries)}
    return found


def _absent(library: str, facts: dict[str, Any]) -> bool:
    """Does ``dn.info()`` say that this library does not work here? It says nothing of our own kernels."""
    return str(facts.get(library.lower(), "")).startswith("no:")


def idle(libraries: dict[str, int], facts: dict[str, Any]) -> list[str]:
    """Libraries that work here according to ``dn.info()`` but never served: nothing is known about their kernels.

    >>> idle({"cuDNN": 0, "oneDNN": 0, "numpy": 5}, {"cudnn": "9.19.0", "onednn": "no: no library found"})
    ['cuDNN']
    """
    works = {name for name, words in facts.items() if words and not str(words).startswith("no")}
    return [library for library, times in libraries.items() if not times and library.lower() in works]
