"""How much each answer counts: ``sample_weight``, ``class_weight`` and ``ignore_label`` as weights of the loss.

A weighted loss is the weighted mean E = Σ wᵢ Eᵢ / Σ wᵢ, as in PyTorch's ``cross_entropy(weight=...)``. (Keras divides
by the number of examples instead.) So weights make some examples count more than others, but do not change the size of
the loss: doubling all of them changes nothing. The losses do the weighting themselves, with ``weights=``; this file
computes the weights of a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from ..arguments import index, number
from ..layers.entering import home
from ..layers.layer import Layer
from ..shim import Array, asarray, backend_of, to_numpy

__all__ = ["WeightedLoss", "Weighting", "sample_weights", "total", "weighing"]


class Weighting:
    """The weights of a batch, from its class numbers t and the weights w of its examples.

    ``table`` (C,) holds the weight of each class, or is None; ``ignore`` is the label of answers that do not count.

    >>> import dualnet as dn
    >>> weighting = Weighting(dn.asarray([1.0, 5.0]), ignore=-1)
    >>> dn.to_numpy(weighting(dn.asarray([0, 1, -1]), dn.asarray([2.0, 2.0, 2.0])))
    array([ 2., 10.,  0.], dtype=float32)
    """

    def __init__(self, table: Array | None = None, ignore: int | None = None) -> None:
        self.table, self.ignore = table, ignore

    def __call__(self, t: Array, w: Array | None = None) -> Array:
        """Weights (N,), or (N, ...) like t if they depend on t."""
        xp = backend_of(t).xp
        kept = self.kept(t)
        if self.table is None:
            weights = kept
        else:
            weights = xp.take(self.table, self.cleaned(t).astype("int64"), axis=0)
            weights = weights if kept is None else weights * kept
        if weights is None:
            return xp.ones((t.shape[0],), dtype="float32") if w is None else w
        return weights if w is None else weights * xp.reshape(w, (w.shape[0], *(1 for _ in t.shape[1:])))

    def kept(self, t: Array) -> Array | None:
        """1 where an answer counts and 0 where it is ignored, float32; None if no label is ignored."""
        return None if self.ignore is None else (t != self.ignore).astype("float32")

    def cleaned(self, t: Array) -> Array:
        """The targets, with a class number instead of the ignored label."""
        return t if self.ignore is None else backend_of(t).xp.where(t == self.ignore, 0, t).astype(t.dtype)

    @classmethod
    def asked(
        cls, op: str, net: Layer, t: Any, loss: Callable[..., Any], *, samples: bool, classes: Any, ignore: Any
    ) -> Weighting | None:
        """The weighting that the arguments ask for, or None. t are targets of some examples."""
        if not samples and classes is None and ignore is None:
            return None
        shape = net.output_shape(net.input_shape)  # type: ignore[arg-type]
        what = "sample_weight" if samples else "class_weight" if classes is not None else "ignore_label"
        if isinstance(shape, dict) or isinstance(t, dict):
            raise ValueError(f"{op}: {what} is for networks with one output; this one has several")
        for name, given in (("class_weight", classes), ("ignore_label", ignore)):
            if given is not None and not (t.dtype.kind in "iu" and t.ndim == len(shape)):
                raise ValueError(
                    f"{op}: {name} needs class numbers, integers with one axis less than the outputs "
                    f"(N, {', '.join(map(str, shape))}); t has shape {tuple(t.shape)}, {t.dtype}"
                )
        if not _takes_weights(loss):
            raise ValueError(
                f"{op}: {what} needs a loss that takes weights; write yours as def loss(y, t, weights=None), with "
                "weights (N,) or like t; a weight of 0 leaves an answer out"
            )
        ignore = None if ignore is None else index(ignore, "ignore_label", op=op)
        table = None if classes is None else asarray(_table(op, classes, int(shape[-1])), backend=home(net))
        return cls(table, ignore)


class WeightedLoss:
    """A loss of y, t and, if there are any, the weights w of the examples."""

    def __init__(self, function: Callable[..., Any], weighting: Weighting) -> None:
        self.function, self.weighting = function, weighting

    def __call__(self, y: Array, t: Array, w: Array | None = None) -> Any:
        return self.function(y, t, weights=self.weighting(t, w))


def weighing(loss: Callable[..., Any], w: Array | None) -> Callable[..., Any]:
    """The loss of y and t with the weights w of the examples, if there are any.

    >>> weighing(len, None) is len
    True
    """
    return loss if w is None else lambda y, t: loss(y, t, w)


def total(weights: Array) -> Array:
    """Σ w in float64, without axes."""
    return backend_of(weights).xp.sum(weights, dtype="float64")


def _takes_weights(loss: Callable[..., Any]) -> bool:
    """Does the loss have an argument ``weights``?"""
    try:
        return "weights" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return False


def sample_weights(op: str, given: Any, count: int) -> numpy.ndarray | None:
    """``sample_weight`` as an array (N,) on the host, checked.

    >>> sample_weights("fit", [1, 0.5], 2)
    array([1. , 0.5])
    """
    if given is None:
        return None
    w = to_numpy(given if backend_of(given) is not None else asarray(given, backend="numpy")).astype("float64")
    if w.shape != (count,):
        raise ValueError(f"{op}: sample_weight has shape {w.shape}; expected one number for each example, ({count},)")
    if not (numpy.isfinite(w).all() and w.min() >= 0 and w.max() > 0):
        raise ValueError(
            f"{op}: sample_weight must hold finite numbers of at least 0, not all of them 0; got values from "
            f"{w.min():g} to {w.max():g}"
        )
    return w


def _table(op: str, given: Any, classes: int) -> numpy.ndarray:
    """The weight of each class, from a dictionary (classes that are not in it weigh 1) or from an array."""
    if isinstance(given, Mapping):
        weights = numpy.ones(classes)
        for label, weight in given.items():
            place = index(label, "a key of class_weight", op=op)
            if not 0 <= place < classes:
                raise ValueError(f"{op}: class_weight has class {place}, but the network has classes 0 … {classes - 1}")
            weights[place] = number(weight, f"class_weight[{place}]", op=op)
    else:
        try:
            weights = numpy.asarray(to_numpy(asarray(given, backend="numpy")), "float64")
        except TypeError:
            raise TypeError(
                f"{op}: class_weight must be {{class: weight}}, or a weight for each of the {classes} classes; got "
                f"{given!r:.60}"
            ) from None
        if weights.shape != (classes,):
            raise ValueError(
                f"{op}: class_weight has shape {weights.shape}; expected {{class: weight}}, or a weight for each of "
                f"the {classes} classes"
            )
    if not (numpy.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
        raise ValueError(f"{op}: class_weight must hold finite numbers of at least 0, not all 0; got {given!r}")
    return weights
