"""All checks before the first step of a training: arguments, data, network and loss together."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy

from ..arguments import integer
from ..layers import activation
from ..layers.containers import Container, Lambda, Parallel, Residual, Sequential
from ..layers.entering import home
from ..layers.graph import Graph
from ..layers.layer import Layer
from ..layers.normalization import BatchNorm, Normalization
from ..layers.several import each, parts
from ..ops import losses
from ..ops.sums import wide
from ..optimizers.optimizer import Optimizer
from ..shim import Array, asarray, backend_of, to_numpy
from ..shim.dtypes import is_floating
from . import several

__all__ = [
    "check_inputs",
    "check_lengths",
    "check_mixing",
    "check_training",
    "check_trial",
    "examples",
    "initialise",
    "norm_of_rows",
    "output_of_one",
]

Data = tuple[Any, Any]
Loss = Callable[..., Any]


# -- one argument after another ----------------------------------------------------------------------------------------


def check_lengths(epochs: Any, initial_epoch: Any, batch_size: Any) -> tuple[int, int, int]:
    """The lengths of a training, as integers: its epochs, the first epoch, and the batch size."""
    epochs = integer(epochs, "epochs", op="fit", least=0)
    initial_epoch = integer(initial_epoch, "initial_epoch", op="fit", least=0)
    if initial_epoch > epochs:
        raise ValueError(
            f"fit: initial_epoch={initial_epoch} is after epochs={epochs}, where the training ends. Both count from "
            f"the beginning; for {epochs} more epochs, pass epochs={initial_epoch + epochs}."
        )
    return epochs, initial_epoch, integer(batch_size, "batch_size", op="fit")


def examples(op: str, x: Any, t: Any) -> Data:
    """Inputs x (N, ...) and targets t (N, ...) as arrays, on the backend where they are."""
    if isinstance(x, Mapping) or isinstance(t, Mapping):
        return several.examples(op, x, t)
    x, t = (a if backend_of(a) is not None else to_numpy(asarray(a, backend="numpy")) for a in (x, t))
    if x.ndim < 2 or t.ndim < 1:
        hint = ". x[:, None] has one number for each example." if x.ndim == 1 else ""
        shapes = f"x has shape {tuple(x.shape)} and t {tuple(t.shape)}"
        raise ValueError(f"{op}: {shapes}; expected a batch of each, (N, ...) and (N,) or more{hint}")
    if len(x) != len(t):
        raise ValueError(f"{op}: x holds {len(x)} examples and t {len(t)}; expected a target for each example")
    if len(x) == 0:
        raise ValueError(f"{op}: x holds no examples; expected at least one")
    return x, t


def check_mixing(augment: Any, class_weight: Any, ignore_label: Any) -> None:
    """Raise if ``augment`` mixes images but their weights depend on a single class."""
    if getattr(augment, "mixes", False) and not (class_weight is None and ignore_label is None):
        what = "ignore_label" if class_weight is None else "class_weight"
        raise ValueError(
            f"fit: {what} needs one class for each image, but MixUp and CutMix make images with two. Leave out one or "
            "the other."
        )


def initialise(net: Layer, x: Any, seed: int, augment: Any = None) -> None:
    """Draw the parameters of layers that have none yet, for inputs like x, which ``augment`` may crop."""
    inside = (child for _, part in net.walk() if isinstance(part, Container) for child in part.children().values())
    if any(layer.input_shape is None for layer in (net, *inside)):  # even a single new layer in a trained network
        seen = x if augment is None or isinstance(x, dict) else augment.batch(x, numpy.zeros(1, int))
        net.init(net.input_shape or each(lambda a: tuple(a.shape[1:]), seen), seed=seed, keep=True)


# -- network, data and loss together -----------------------------------------------------------------------------------


def check_training(
    net: Layer,
    data: Data,
    held_out: Data | None,
    loss: Loss,
    extent: tuple[int, int],
    augment: Any,
    optimizer: Any,
    callbacks: Any = None,
) -> bool:
    """Raise if training would fail, and warn if it would not do what you mean. Returns whether all data are finite.

    ``extent`` is the number of examples, and the size of a batch; the last batch may be smaller.
    """
    check_trial(net, *data, loss, "fit", augment)
    if held_out is not None:
        check_trial(net, *held_out, loss, "fit: validation_data", augment)
    _check_shift(augment, data[0])
    _check_last_batch(net, *extent)
    _warn_of_squashing_twice(net, loss)
    if isinstance(optimizer, Optimizer):
        optimizer.check_network(net, "fit")
        if not callbacks:  # which may set the learning rate later
            _warn_of_standing_still(optimizer)
    return _warn_of_numbers(net, data, held_out, loss, augment)


def check_trial(net: Layer, x: Any, t: Any, loss: Loss, op: str, augment: Any = None) -> None:
    """Try one example, and check all targets: once before the first step, instead of in every step."""
    if augment is not None and not (hasattr(augment, "batch") and hasattr(augment, "moves")):
        raise TypeError(f"{op}: augment must be a dn.data.Augment, got {augment!r}")
    if augment is not None and isinstance(x, dict):
        raise ValueError(f"{op}: augment takes one array of images, but x is a dictionary; augment the images before")
    one = each(lambda a: a[:1], x) if augment is None else augment.batch(x, numpy.zeros(1, int), dtype=net.dtype)
    outputs = output_of_one(net, one, each(lambda a: tuple(a.shape), x), op)
    for who, y, targets, loss_of_y in several.terms(op, outputs, t, loss):
        _check_loss(y, targets, loss_of_y, who)
        check = losses.about(loss_of_y).check
        if check is not None:
            check(who, y, targets)


def output_of_one(net: Layer, one: Any, shape: Any, op: str) -> Any:
    """The output for one example of inputs of this shape. (The first step will reveal any other problem with them.)"""
    try:
        with numpy.errstate(all="ignore"):
            return net(each(lambda a: asarray(a, backend=home(net)), net.enter(one)))
    except (ValueError, TypeError) as error:
        if net.input_shape is None or isinstance(shape, dict) or shape[1:] == net.input_shape:
            raise
        if shape == net.input_shape:
            raise ValueError(f"{op}: x has shape {shape}, like a single example; x[None] is a batch of one") from error
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{op}: x has shape {shape}, but init was given {net.input_shape}; {error}") from error


def check_inputs(net: Layer, x: Any, op: str) -> None:
    """Raise if the network does not take these inputs; if their shape is new, it tries one of them."""
    if net.input_shape is None or isinstance(x, dict):
        net.enter(x)  # its error says what to do
    elif tuple(x.shape[1:]) != net.input_shape or x.dtype.kind not in "biufV":
        output_of_one(net, x[:1], tuple(x.shape), op)


def _check_loss(y: Array, t: Any, loss: Loss, op: str) -> None:
    """Check that the loss takes one output of the network with its target, and returns what a loss should return."""
    if t.dtype.kind not in "biufV":
        raise TypeError(
            f"{op}: t has dtype {t.dtype}; expected numbers. To turn names into class numbers, use "
            "numpy.unique(t, return_inverse=True)."
        )
    try:
        with numpy.errstate(all="ignore"):
            result = losses.unchecked(loss)(wide(y), asarray(t[:1], backend=backend_of(y).name))
    except (ValueError, TypeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{op}: the loss does not take outputs of shape (N, {', '.join(map(str, y.shape[1:]))}) with targets t of "
            f"shape {tuple(t.shape)}, {t.dtype}: {error}"
        ) from error
    parts = result if isinstance(result, (tuple, list)) else (result,)
    if len(parts) != 2 or not callable(parts[1]) or getattr(parts[0], "shape", ()) != ():
        got = ", ".join(f"a {type(part).__name__} {getattr(part, 'shape', '')}".rstrip() for part in parts)
        raise TypeError(f"{op}: the loss returned {got}; expected one number, the batch's mean, and its pullback")


def _check_shift(augment: Any, x: Any) -> None:
    shift = getattr(augment, "shift", 0)
    if shift and shift >= min(x.shape[1:3]):
        raise ValueError(
            f"fit: augment shifts images of {tuple(x.shape[1:])} by up to {shift} pixels, completely out of view"
        )


def _check_last_batch(net: Layer, count: int, batch_size: int) -> None:
    """Raise if batch norm would get a single number, which has no variance, in the last batch."""
    if count % batch_size == 1 and (name := norm_of_rows(net)) is not None:
        what = f"{count} examples in batches of {batch_size} leave one over" if count > 1 else "there is one example"
        fix = "Choose a different batch_size, or leave out one example." if count > 1 else "Pass more examples."
        raise ValueError(f"fit: {what}, but layer {name} (BatchNorm) needs two in a batch. {fix}")


def norm_of_rows(net: Layer) -> str | None:
    """The name of a batch norm that gets one value per channel and example, and so needs at least two examples."""
    for name, layer in _trained("", net):
        if isinstance(layer, BatchNorm) and math.prod((layer.input_shape or (0, 0))[:-1]) == 1:
            return name or "0"
    return None


def _trained(name: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    """Every layer that is sure to be trained; a container of your own may freeze the layers inside."""
    yield name, layer
    for child, inside in layer.children().items() if type(layer) in (Sequential, Residual, Parallel, Graph) else ():
        yield from _trained(f"{name}.{child}" if name else child, inside)


def _warn_of_squashing_twice(net: Layer, loss: Loss) -> None:
    """Warn if a network ends with softmax and its loss applies softmax again."""
    last, about = net, losses.about(loss)
    while isinstance(last, Sequential) and last.layers:
        last = last.layers[-1]
    if about.contains is not None and getattr(last, "op", None) is about.contains:
        warnings.warn(
            f"fit: the network ends with {type(last).__name__}, but {about.function.__name__} applies that itself. "
            "Leave out the layer.",
            stacklevel=4,  # where fit was called
        )


def _warn_of_standing_still(optimizer: Optimizer) -> None:
    """Warn about a learning rate of 0 that no schedule changes."""
    if isinstance(optimizer.lr, (int, float)) and optimizer.lr == 0:
        warnings.warn(
            "fit: the learning rate is 0, so the network learns nothing. Set optimizer.lr to a number above 0.",
            stacklevel=4,  # where fit was called
        )


# -- the numbers in the data -------------------------------------------------------------------------------------------

LOOKED_AT = 64
"""How many examples are checked if checking all would take too long: for data on a disk, and for whole numbers."""


def _warn_of_numbers(net: Layer, data: Data, held_out: Data | None, loss: Loss, augment: Any) -> bool:
    """Warn once about NaN and infinities, or about unscaled images. Returns whether all numbers are finite."""
    if _mends_numbers(net):
        return True
    known = losses.about(loss).function in losses.NAMES.values()  # a loss of your own may use NaN for "unknown"
    for what, (x, t) in {"": data, **({} if held_out is None else {"of the validation data ": held_out})}.items():
        inputs = [(name, a, _least_and_largest(a)) for name, a in parts(x, "x")]
        targets = [(name, a, _least_and_largest(a)) for name, a in parts(t, "t") if known and is_floating(a.dtype)]
        for name, _, found in inputs + targets:
            if not all(map(math.isfinite, found)):
                spoilt = "its figures" if what else "the network"
                _warn(
                    f"{name} {what}holds NaN or infinite numbers, which spoil {spoilt}. "
                    f"Keep only the others: keep = numpy.isfinite({name}.reshape(len({name}), -1)).all(axis=1)."
                )
                return False
        for name, a, ends in inputs:
            if not _unscaled(a, ends, augment) or _normalises_first(net):
                continue
            _warn(
                f"{name} {what}holds whole numbers up to {ends[1]:.0f}, like images straight from a file. Most "
                "networks learn badly from these. Divide them here, and wherever you use the network: "
                'x = x.astype("float32") / 255.'
            )
            return True
    return True


def _warn(words: str) -> None:
    warnings.warn(f"fit: {words}", stacklevel=5)  # where fit was called


def _least_and_largest(x: Any) -> tuple[float, float]:
    """The smallest and the largest number in x; NaN if x holds one. A device waits for one small copy."""
    backend, a = backend_of(x), x[:: max(1, len(x) // LOOKED_AT)] if _on_disk(x) else x
    if not a.size or not (is_floating(a.dtype) or (a.dtype.kind in "iu" and a.ndim == 4)):
        return 0.0, 1.0
    xp = backend.xp
    with numpy.errstate(invalid="ignore"):
        least, largest = to_numpy(xp.stack([xp.min(a), xp.max(a)]))
    return float(least), float(largest)


def _on_disk(x: Any) -> bool:
    while x is not None and not isinstance(x, numpy.memmap):
        x = getattr(x, "base", None)
    return x is not None


def _unscaled(x: Any, ends: tuple[float, float], augment: Any) -> bool:
    """Is x images (N, H, W, C) of whole numbers from 0 to 255 that nothing divides on the way?"""
    if x.ndim != 4 or x.shape[3] > 4 or not (ends[0] >= 0 and 128 <= ends[1] <= 255):
        return False
    if augment is not None and (x.dtype == "uint8" or getattr(augment, "scale", None) is not None):
        return False
    few = to_numpy(x[:: max(1, len(x) // LOOKED_AT)][:LOOKED_AT, :LOOKED_AT, :LOOKED_AT])
    return bool((few == numpy.rint(few)).all())


def _mends_numbers(net: Layer) -> bool:
    """Does a layer of your own, which may do anything to the data, come before the first weights?"""
    for _, layer in net.walk():
        if isinstance(layer, Lambda) or not type(layer).__module__.startswith("dualnet."):
            return True
        if not layer.children() and layer.parameters():
            return False
    return False


def _normalises_first(net: Layer) -> bool:
    """Does a layer normalise before the first activation? Then the size of the input cancels out."""
    for _, layer in net.walk():
        if isinstance(layer, Normalization) or type(layer).__name__ in activation.__all__:
            return isinstance(layer, Normalization)
    return False
