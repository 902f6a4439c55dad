"""The results of training: learning curves, and the classes and images that are mistaken for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy

from ...arguments import flag
from ...history import best_epoch
from .attention import class_names
from .canvas import CYCLE, at_most, axes_for, grey, host, image, images, one_axes, plain

__all__ = ["confusion_matrix", "learning_curves", "misclassified"]

MOST_NUMBERS = 15
"""Up to this many classes, a confusion matrix writes its counts into the cells."""


def learning_curves(history: Any, *, axes: Any = None) -> Any:
    """Draw what ``fit`` returned: one panel for each figure, training solid and validation dashed.

    ``history`` is a History, or several by name, ``{"adam": h1, "sgd": h2}``, to compare. A dot marks the best epoch of
    the validation's loss and accuracy. Returns an array of Axes: the loss, the accuracy, then any others.

    >>> import dualnet as dn
    >>> h = dn.History(loss=[2.0, 1.0], accuracy=[0.3, 0.6], val_loss=[2.1, 1.4], val_accuracy=[0.3, 0.5])
    >>> [ax.get_ylabel() for ax in dn.viz.learning_curves(h)]
    ['loss', 'accuracy']
    """
    runs = _runs(history)
    figures = [name.removeprefix("val_") for run in runs.values() for name in run if name != "seconds"]
    figures = sorted(dict.fromkeys(figures), key=lambda name: ("loss", "accuracy", name).index(name))
    panels = axes_for(len(figures), axes, "learning_curves", size=4.2, most=3)
    for ax, name in zip(panels, figures):
        for (run, values), colour in zip(runs.items(), CYCLE * len(runs)):
            _curve(ax, name, run, values, colour)
        plain(ax).set_xlabel("epoch")
        ax.set_ylabel(name)
        ax.xaxis.get_major_locator().set_params(integer=True)
        if len(ax.lines) > 1:
            ax.legend(frameon=False, fontsize=9)
    return panels


def _runs(history: Any) -> dict[str, Mapping[str, Any]]:
    """Histories by name; one alone has no name."""
    if not isinstance(history, Mapping):
        raise TypeError(
            f"viz.learning_curves: expected the history that net.fit returned, got {type(history).__name__}"
        )
    several = bool(history) and all(isinstance(value, Mapping) for value in history.values())
    runs = {str(name): run for name, run in history.items()} if several else {"": history}
    if not any(len(values) for run in runs.values() for values in run.values()):
        raise ValueError("viz.learning_curves: the history holds no epochs")
    return runs


def _curve(ax: Any, name: str, run: str, values: Mapping[str, Any], colour: str) -> None:
    for key, style, word in ((name, "-", "training"), (f"val_{name}", "--", "validation")):
        seen = numpy.asarray(values.get(key, []), numpy.float64)
        if not len(seen):
            continue
        shade = colour if run or style == "-" else CYCLE[1]
        epochs = numpy.arange(1, len(seen) + 1)
        alone = "o" if len(seen) == 1 else None
        ax.plot(epochs, seen, style, color=shade, marker=alone, label=f"{run}, {word}" if run else word, linewidth=1.8)
        best = best_epoch(key, seen.tolist()) if style == "--" else None
        if best is not None:
            ax.plot(epochs[best], seen[best], "o", color=shade, markersize=5, label="_best")


def confusion_matrix(t: Any, predictions: Any, *, classes: Any = None, normalize: bool = False, ax: Any = None) -> Any:
    """Draw how often each class (row) was taken for each other (column). Returns the Axes.

    ``t`` are the right classes (N,); ``predictions`` are classes (N,), or scores (N, classes) as ``net.predict(x)``
    returns them. Colours show fractions of a row; ``normalize`` writes them instead of counts. ``classes`` names the
    classes.

    >>> import dualnet as dn
    >>> dn.viz.confusion_matrix([0, 1, 1, 2], [0, 1, 2, 2]).get_title()
    '3 of 4 right (75.0 %)'
    """
    normalize = flag(normalize, "normalize", op="viz.confusion_matrix")
    t, said, _ = _answers(t, predictions, "confusion_matrix")
    count = int(max(t.max(), said.max())) + 1
    names = class_names(classes, count, "confusion_matrix")
    count = len(names)
    table = numpy.zeros((count, count), int)
    numpy.add.at(table, (t, said), 1)
    shares = table / numpy.maximum(1, table.sum(axis=1, keepdims=True))
    ax = one_axes(ax, "confusion_matrix", (1.8 + 0.42 * min(count, 15), 1.4 + 0.42 * min(count, 15)))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xlabel("said")
    ax.set_ylabel("right answer")
    if count <= 2 * MOST_NUMBERS:
        long = max(map(len, names)) > 3
        ax.set_xticks(range(count), names, rotation=45 if long else 0, ha="right" if long else "center")
        ax.set_yticks(range(count), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if count <= MOST_NUMBERS:
        _write(ax, table, shares, normalize)
    right = int((t == said).sum())
    ax.set_title(f"{right} of {len(t)} right ({right / len(t):.1%})".replace("%", " %"), fontsize=10)
    return ax


def _write(ax: Any, table: numpy.ndarray, shares: numpy.ndarray, normalize: bool) -> None:
    for (i, j), n in numpy.ndenumerate(table):
        if n:
            words = f"{shares[i, j]:.2f}" if normalize else str(n)
            ax.text(
                j, i, words, ha="center", va="center", fontsize=8, color="white" if shares[i, j] > 0.55 else "black"
            )


def misclassified(x: Any, t: Any, predictions: Any, *, limit: int = 12, classes: Any = None, axes: Any = None) -> Any:
    """Draw the images x (N, H, W, C) that were taken for another class, the most confident mistakes first.

    ``t`` and ``predictions`` are as in :func:`confusion_matrix`; with scores, the title shows the probability that
    softmax gives the wrong answer. At most ``limit`` are shown. Returns an array of Axes; if there are no mistakes, one
    of them says so.

    >>> import dualnet as dn
    >>> (x, t), _ = dn.data.load_digits()
    >>> dn.viz.misclassified(x[:2], t[:2], [5, 1])[0].get_title()
    '7, taken for 1'
    """
    limit = at_most(limit, "misclassified")
    pictures = images(x, "misclassified")
    t, said, sure = _answers(t, predictions, "misclassified")
    if len(pictures) != len(t):
        raise ValueError(f"viz.misclassified: x holds {len(pictures)} images, but t {len(t)} answers")
    names = class_names(classes, int(max(t.max(), said.max())) + 1, "misclassified")
    wrong = numpy.flatnonzero(t != said)
    if sure is not None:
        wrong = wrong[numpy.argsort(-sure[wrong], kind="stable")]
    panels = axes_for(max(1, min(limit, len(wrong))), axes, "misclassified", size=1.5)
    if not len(wrong):
        panels[0].set_axis_off()
        panels[0].text(0.5, 0.5, f"all {len(t)} right", ha="center", va="center", transform=panels[0].transAxes)
    for ax, i in zip(panels, wrong):
        grey(ax, image(pictures[i]))
        share = "" if sure is None else f" ({sure[i]:.0%})".replace("%", " %")
        ax.set_title(f"{names[t[i]]}, taken for {names[said[i]]}{share}", fontsize=9)
    return panels


def _answers(t: Any, predictions: Any, op: str) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray | None]:
    """Right classes, predicted classes, and the probabilities of these if there are scores."""
    t, said, sure = host(t), host(predictions), None
    if said.ndim == 2 and said.shape[1] > 1:
        shares = numpy.exp(said - said.max(axis=1, keepdims=True))
        sure = shares.max(axis=1) / shares.sum(axis=1)
        said = said.argmax(axis=1)
    for name, labels in (("t", t), ("predictions", said)):
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels) or labels.min() < 0:
            expected = "class numbers (N,), 0 and up" + ("" if name == "t" else ", or scores (N, classes)")
            raise ValueError(f"viz.{op}: {name} holds {labels.dtype} {labels.shape}; expected {expected}")
    if len(t) != len(said):
        raise ValueError(f"viz.{op}: t holds {len(t)} answers, but predictions {len(said)}; expected as many")
    return t, said, sure
