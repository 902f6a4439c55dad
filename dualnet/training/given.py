"""The data that ``fit`` was given, to learn from and to validate with, as sources."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy

from ..arguments import integer, real
from ..layers.layer import Layer
from ..shim import backend_of
from .checks import check_inputs
from .sources import EVALUATED, Arrays, Batches, Examples, Source, is_data_set, source

__all__ = ["Given", "data_of", "inputs_of", "tested"]


class Given(NamedTuple):
    """The arguments of ``fit`` that hold data."""

    x: Any
    t: Any
    sample_weight: Any
    validation_data: Any
    validation_split: Any
    steps_per_epoch: Any
    resume: Any


def data_of(given: Given, epochs: int, accumulate: int, **options: Any) -> tuple[Source, Source | None]:
    """The source to learn from for this many epochs, and the one to validate with, if there is one."""
    steps = given.steps_per_epoch
    if steps is not None:
        steps = integer(steps, "steps_per_epoch", op="fit") * accumulate
    data = source("fit", given.x, given.t, given.sample_weight, steps=steps, moving=True, **options)
    data.check_epochs(epochs)
    if data.once and given.resume is not None:
        raise ValueError(
            f"fit: resume has to begin {data.kind} again, which is impossible; pass a function that creates a new one: "
            "lambda: batches()"
        )
    share = real(given.validation_split, "validation_split", op="fit")
    if not 0 <= share < 1:
        raise ValueError(f"fit: validation_split must be a share from 0 to below 1, got {given.validation_split!r}")
    if given.validation_data is not None:
        if share:
            raise ValueError("fit: pass validation_data or validation_split, not both")
        options |= {"shuffle": False}
        return data, _validation(given.validation_data, epochs, options)
    if not share:
        return data, None
    learnt, held_out = data.split(share)
    _warn_of_sorted_classes(learnt, held_out)
    return learnt, held_out


def _validation(given: Any, epochs: int, options: dict[str, Any]) -> Source:
    op = "fit: validation_data"
    options["size"] = EVALUATED
    if isinstance(given, (tuple, list)) and len(given) in (2, 3) and not holds_batches(given):
        return source(op, *given, **options)
    if backend_of(given) is not None or isinstance(given, Mapping) or hasattr(given, "__dlpack__"):
        got = "a dictionary" if isinstance(given, Mapping) else f"an array of shape {tuple(given.shape)}"
        raise ValueError(f"{op} must be a pair (x, t), or something that yields batches (x, t); got {got}")
    found = source(op, given, **options)
    found.check_epochs(epochs)
    return found


def tested(x: Any, t: Any, w: Any, **options: Any) -> Source:
    """The source to evaluate."""
    return source("evaluate", x, t, w, **options)


def inputs_of(net: Layer, x: Any, size: int) -> Source | None:
    """The source of inputs for ``predict``; None for an array, or for anything like one, such as a list of numbers."""
    if backend_of(x) is not None or isinstance(x, Mapping) or hasattr(x, "__dlpack__") or hasattr(x, "__array__"):
        return None
    if isinstance(x, (list, tuple)) and not holds_batches(x):
        return None
    if isinstance(x, (str, bytes)):
        raise TypeError(f"predict: got the text {x!r:.60}; expected an array, or something that yields batches")
    options: dict[str, Any] = {"augment": None, "targets": False}
    if is_data_set(x):
        found: Source = Examples("predict", x, size=size, seed=0, shuffle=False, moving=False, **options)
    elif isinstance(x, Iterable) or callable(x):
        found = Batches("predict", x, **options)
    else:
        return None
    found.look = lambda x, t: check_inputs(net, x, "predict")
    return found


def holds_batches(given: Any) -> bool:
    """Is the first entry of a list a batch (x, t), where x is an array or a dictionary of arrays?

    >>> holds_batches([(numpy.zeros((2, 1)), numpy.zeros(2))]), holds_batches(([[1.0]], [0]))
    (True, False)
    """
    first = given[0] if given else None
    if isinstance(first, (tuple, list)):
        return len(first) > 0 and (hasattr(first[0], "shape") or isinstance(first[0], Mapping))
    return False


def _warn_of_sorted_classes(learnt: Source, held_out: Source) -> None:
    """Warn if the held-out examples have a class that the others lack: the data set is probably sorted."""
    if not isinstance(learnt, Arrays) or not isinstance(held_out, Arrays):
        return
    t, last = learnt.t, held_out.t
    if isinstance(t, dict) or not backend_of(t).on_host or t.dtype.kind not in "iu" or t.ndim != 1:
        return
    missing = numpy.setdiff1d(last, t)
    if missing.size:
        warnings.warn(
            f"fit: validation_split holds out the last examples, and the others have none of class {missing[0]}. Is "
            "the data set sorted? Shuffle it first, with x and t in the same order.",
            stacklevel=4,  # where fit was called
        )
