"""The example of ``dualnet explain`` and of the documentation: one digit and a small network."""

from __future__ import annotations

from typing import Any

from ... import data
from ...layers import Conv2D, Dense, Flatten, MaxPool2D, ReLU, Sequential
from . import explain
from .explanation import Explanation


def example(target: str | None = None, *, image: int = 0, seed: int = 0) -> Explanation:
    """Explain a small network, fresh from ``init``, on one of the digits that come with the package.

    >>> from dualnet.seeing.explain.example import example
    >>> why = example("0.dw[1,2,0,0]")
    >>> why.anchor, len(why.terms), why.ok
    ('E11', 36, True)
    """
    net, x, t = subject(image, seed)
    return explain(net, x, target, t=t)


def subject(image: int = 0, seed: int = 0) -> tuple[Sequential, Any, Any]:
    """The network, one digit (1, 8, 8, 1) and its class (1,)."""
    net = Sequential([Conv2D(3, 3), ReLU(), MaxPool2D(2), Flatten(), Dense(10)])
    net.init((8, 8, 1), seed=seed)
    (x, t), _ = data.load_digits()
    if not 0 <= image < len(x):
        raise ValueError(f"explain: there are {len(x):,} digits to learn from, 0 … {len(x) - 1}; got image {image}")
    return net, x[image : image + 1], t[image : image + 1]
