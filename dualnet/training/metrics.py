"""Figures other than loss and accuracy: each batch gives an array; the device adds them up; they are read at the end.

A precision is not a mean over batches: counts of right and wrong answers add up, ratios do not. So precision, recall
and F1 come from one confusion matrix of the whole epoch, which stays on the device. The area under a curve needs all
outputs at once; scikit-learn computes it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy

from ..ops import losses
from ..ops.dense import affine
from ..shim import Array, backend_of, to_numpy

__all__ = ["Metric", "metrics_of"]

RATIOS = ("precision", "recall", "f1")
CURVES = ("roc_auc", "average_precision")
AT_ONCE = 2**22
"""The largest number of elements in a table of answers."""


class Metric:
    """One or several figures: ``of`` returns an array for each batch; these are added up, and read at the end."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.key = " ".join(names)

    def of(self, y: Array, t: Array, kept: Array | None) -> Array:
        """The contribution of a batch. ``kept``: 1 where an answer counts, else 0; None if all of them count."""
        raise NotImplementedError

    def figures(self, added: Any) -> dict[str, float]:
        """The figures, from the sum over all batches."""
        raise NotImplementedError


class TopK(Metric):
    """The share of answers whose class is among the k largest logits; of equal logits, the first counts as larger."""

    def __init__(self, k: int, name: str = "") -> None:
        super().__init__(name or f"top{k}")
        self.k = k

    def of(self, y: Array, t: Array, kept: Array | None) -> Array:
        xp, t = backend_of(y).xp, classes(y, t)
        place = xp.arange(y.shape[-1])
        mine = t[..., None] == place  # (N, ..., C)
        own = xp.sum(xp.where(mine, y, 0.0), axis=-1)[..., None]  # the logit of the class itself
        behind = (y < own) | ((y == own) & (place >= t[..., None]))  # counts the class itself, and never a NaN
        right = (xp.sum(behind, axis=-1) > y.shape[-1] - self.k).astype("float64")
        count = xp.ones_like(right) if kept is None else kept.astype("float64")
        return xp.stack([xp.sum(right * count), xp.sum(count)])

    def figures(self, added: Any) -> dict[str, float]:
        hits, count = to_numpy(added)
        return {self.names[0]: float(hits / max(1.0, count))}


class Ratios(Metric):
    """Precision, recall and F1 from the confusion matrix: row i, column j counts answers j to examples of class i.

    With several classes each figure is the mean over the classes that occur, with equal weights (scikit-learn's
    ``average="macro"``); with yes and no, it is that of yes. A ratio without any answers is 0.
    """

    def __init__(self, names: Iterable[str], yes_or_no: bool) -> None:
        super().__init__(*names)
        self.yes_or_no = yes_or_no

    def of(self, y: Array, t: Array, kept: Array | None) -> Array:
        xp = backend_of(y).xp
        if self.yes_or_no:
            answers, truth, number = (y > 0), (t > 0.5), 2
        else:
            answers, truth, number = xp.argmax(y, axis=-1), classes(y, t), int(y.shape[-1])
        answers, truth = (xp.reshape(a, (-1, 1)).astype("int64") for a in (answers, truth))
        count = None if kept is None else xp.reshape(kept, (-1, 1))
        rows, place = max(1, AT_ONCE // number), xp.arange(number)
        matrix = xp.zeros((number, number), dtype="float64")
        for start in range(0, answers.shape[0], rows):
            part = slice(start, start + rows)
            given, true = ((a[part] == place).astype("float32") for a in (answers, truth))  # one-hot   (rows, C)
            true = true if count is None else true * count[part]
            counts = affine(xp.ascontiguousarray(xp.permute_dims(true, (1, 0))), given)  # (C, C), exact up to 2²⁴
            matrix = matrix + counts.astype("float64")
        return matrix

    def figures(self, added: Any) -> dict[str, float]:
        matrix = to_numpy(added)
        right, true, given = numpy.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
        each = {
            "precision": right / numpy.maximum(1.0, given),
            "recall": right / numpy.maximum(1.0, true),
            "f1": 2 * right / numpy.maximum(1.0, given + true),
        }
        seen = numpy.array([False, True]) if self.yes_or_no else given + true > 0
        return {name: float(each[name][seen].mean()) if seen.any() else 0.0 for name in self.names}


class Mean(Metric):
    """A function of y and t, one number for each batch: the mean over batches, weighted by their examples.

    With an ``ignore_label`` the function sees the ignored targets too.
    """

    def __init__(self, function: Callable[[Array, Array], Any]) -> None:
        super().__init__(getattr(function, "__name__", type(function).__name__))
        self.function = function

    def of(self, y: Array, t: Array, kept: Array | None) -> Array:
        xp, n = backend_of(y).xp, float(y.shape[0])
        value = self.function(y, t) if n else 0.0  # one of several ranks may have no examples
        if getattr(value, "shape", ()) != () or isinstance(value, (str, tuple, list, dict, type(None))):
            got = f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{value!r:.60}"
            raise TypeError(
                f"metrics: {self.names[0]}(y, t) returned {got}; expected one number, the mean over the batch"
            )
        value = value.astype("float64") if backend_of(value) is backend_of(y) else xp.full((), float(value), "float64")
        return xp.stack([value * n, xp.full((), n, dtype="float64")])

    def figures(self, added: Any) -> dict[str, float]:
        total, count = to_numpy(added)
        return {self.names[0]: float(total / count)}


class Curve(Metric):
    """The area under a curve, by scikit-learn, from all outputs of the epoch; for several classes the macro mean."""

    def __init__(self, name: str, yes_or_no: bool) -> None:
        super().__init__(name)
        try:
            import sklearn.metrics
        except ImportError as error:
            raise ImportError(
                f'metrics: {name!r} needs scikit-learn: pip install "dualnet[sklearn]"', name=error.name
            ) from error
        self.score = getattr(sklearn.metrics, f"{name}_score")
        self.yes_or_no = yes_or_no

    def of(self, y: Array, t: Array, kept: Array | None) -> Any:
        return Collected([(y, t, kept)])

    def figures(self, added: Any) -> dict[str, float]:
        y, t, kept = (None if part[0] is None else numpy.concatenate(part) for part in zip(*added.on_host()))
        if not self.yes_or_no:
            labels = t if t.ndim < y.ndim else t.argmax(-1)
            y, labels = y.reshape(-1, y.shape[-1]).astype("float64"), labels.ravel()
            if kept is not None:
                y, labels = y[kept.ravel() > 0], labels[kept.ravel() > 0]
            if y.shape[1] == 2:
                y, t = y[:, 1] - y[:, 0], labels  # as good as a probability: only the order counts
            else:
                p = numpy.exp(y - y.max(axis=1, keepdims=True))
                y, t = p / p.sum(axis=1, keepdims=True), labels[:, None] == numpy.arange(y.shape[1])
        try:
            return {self.names[0]: float(self.score(t, y))}
        except ValueError as error:  # one class only
            warnings.warn(f"{self.names[0]} has no value: {error}", stacklevel=2)
            return {self.names[0]: float("nan")}


class Collected:
    """All batches, which ``+`` puts one after the other."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __add__(self, other: Collected) -> Collected:
        return Collected(self.batches + other.batches)

    def on_host(self) -> list[Any]:
        return [tuple(None if a is None else to_numpy(a) for a in batch) for batch in self.batches]


def classes(y: Array, t: Array) -> Array:
    """The class numbers (N, ...), from class numbers or from probabilities (N, ..., C)."""
    return t if t.ndim < y.ndim else backend_of(t).xp.argmax(t, axis=-1)


def metrics_of(op: str, given: Any, loss: Any, y: Array, t: Any) -> list[Metric]:
    """The metrics that the arguments ask for. The outputs y and targets t of some examples show what kind they are.

    >>> import dualnet as dn
    >>> y, t = dn.asarray([[0.0, 1.0, 0.0]]), dn.asarray([1])
    >>> [metric.names for metric in metrics_of("fit", ["f1", "top2", "recall"], "softmax_cross_entropy", y, t)]
    [('f1', 'recall'), ('top2',)]
    """
    asked = [given] if isinstance(given, str) or callable(given) else list(given)
    names = [name for name in asked if isinstance(name, str)]
    for name in asked:
        if not callable(name) and not (isinstance(name, str) and _is_known(name)):
            raise ValueError(
                f"{op}: unknown metric {name!r}; choose from 'accuracy', 'top5' (or another number), "
                f"{', '.join(map(repr, RATIOS + CURVES))}, or pass a function of y and t"
            )
    yes_or_no = losses.about(loss).right is losses.right_answers
    of_classes = not yes_or_no and y.ndim >= 2 and _holds_classes(loss, y, t)
    for name in names:
        if not (of_classes or (yes_or_no and not name.startswith("top"))):
            raise ValueError(
                f"{op}: the metric {name!r} needs classes, but the targets of this loss are not classes: t has shape "
                f"{tuple(t.shape)}, {t.dtype}, for outputs {tuple(y.shape)}"
            )
    found: list[Metric] = []
    ratios = [name for name in names if name in RATIOS]
    for name in asked:
        if callable(name):
            found.append(Mean(name))
        elif name in CURVES:
            found.append(Curve(name, yes_or_no))
        elif name in RATIOS and name == ratios[0]:
            found.append(Ratios(dict.fromkeys(ratios), yes_or_no))
        elif name.startswith("top"):
            found.append(_top(op, name, int(y.shape[-1])))
        elif name == "accuracy" and losses.about(loss).right is None:
            found.append(TopK(1, name))
    every = [name for metric in found for name in metric.names]
    for name in every:
        if every.count(name) > 1 or name in ("loss", "seconds"):
            raise ValueError(f"{op}: metrics has two figures with the name {name!r}")
    return found


def _is_known(name: str) -> bool:
    return name == "accuracy" or name in RATIOS + CURVES or re.fullmatch(r"top[1-9]\d*", name) is not None


def _holds_classes(loss: Any, y: Array, t: Any) -> bool:
    return (t.dtype.kind in "iu" and t.ndim == y.ndim - 1) or losses.about(loss).right is losses.right_classes


def _top(op: str, name: str, number: int) -> TopK:
    k = int(name[3:])
    if k >= number:
        raise ValueError(f"{op}: with {number} classes the metric {name!r} is 1 for every network")
    return TopK(k)
