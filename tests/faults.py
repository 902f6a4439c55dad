"""Faulty kernels to test comparisons with: each calls the reference and spoils its result."""

from __future__ import annotations


def scaled(reference, *args, **options):
    return reference(*args, **options) * (1 + 1e-4)


def one_element(reference, *args, **options):
    y = reference(*args, **options)
    y[(0,) * y.ndim] = y[(0,) * y.ndim] + 1e-4
    return y


def in_float64(reference, x, *args, **options):
    return reference(x, *args, **options).astype("float64")


def not_a_number(reference, *args, **options):
    y = reference(*args, **options)
    y[(0,) * y.ndim] = float("nan")
    return y


def cut_off(reference, *args, **options):
    return reference(*args, **options)[..., :-1]


def refusing(reference, *args, **options):
    raise RuntimeError("out of resources")
