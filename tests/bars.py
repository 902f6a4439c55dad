"""Bars: a small classification problem, and a small network for it."""

from __future__ import annotations

import numpy as np

import dualnet as dn


def bars(n=96, seed=0):
    """Horizontal and vertical bars on 6×6 maps: two classes that a small network tells apart."""
    rng = np.random.default_rng(seed)
    x, t = rng.normal(0, 0.1, (n, 6, 6, 1)), rng.integers(0, 2, n)
    for i, label in enumerate(t):
        place = rng.integers(0, 6)
        x[(i, place) if label else (i, slice(None), place)] += 1
    return x.astype(np.float32), t


def small(seed=0, dtype=None):
    layers = [dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Dropout(0.1), dn.Flatten(), dn.Dense(2)]
    return dn.Sequential(layers).init((6, 6, 1), seed=seed, dtype=dtype)
