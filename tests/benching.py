"""Shared by the tests of ``dualnet bench``: the quickest options, a peer written in a few lines, and a network."""

from __future__ import annotations

import dualnet as dn
from dualnet.bench import measure

QUICK = {"rounds": 1, "seconds": 0.0, "threads": 1, "stay": False}

FAKE = """
    import os
    import numpy as np

    def facts(task):
        return {"threads": task["threads"], "limits": [os.environ[name] for name in NAMES], "blas": "none"}

    def build(task, x, t, weights):
        (flatten, _), (dense, at) = task["layers"][-2:]
        assert (flatten, dense) == ("flatten", "dense") and at["map"] in ([2, 3, 2], [2, 2, 1])  # the second rehearses
        w, b = weights[at["w"]].copy(), weights[at["b"]].copy()
        x = x.reshape(len(x), -1)

        def infer():
            return x @ w + b

        def train():
            y = x @ w + b
            p = np.exp(y - y.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            loss = -np.log(p[np.arange(len(x)), t]).mean()
            p[np.arange(len(x)), t] -= 1
            w[...] = w - SIGN * task["lr"] * (x.T @ p) / len(x)
            b[...] = b - task["lr"] * p.sum(0) / len(x)
            return loss

        return (train if task["mode"] == "training" else infer), np.asarray
"""


def honest(sign: int = 1) -> str:
    return FAKE.replace("NAMES", repr(measure.LIMITS)).replace("SIGN", str(sign))


def shared_net():
    """A network with one layer in two places."""
    again = dn.Conv2D(3, 3, padding=1)
    body = dn.Residual(dn.Sequential([again, dn.ReLU(), again]))
    return dn.Sequential([dn.Conv2D(3, 3, padding=1), body, dn.Flatten(), dn.Dense(2)]).init((6, 6, 2))
