"""Networks in files: their architecture as a table of layers, their weights as arrays.

The description of a network, in JSON:

    format, dualnet       version of this layout, and of the package that wrote it
    layers                a flat table: each layer's class and arguments; layers inside are named by their number,
                          so that a layer that is shared is written once and stays shared
    network               the number of the outermost layer
    input_shape, dtype    the arguments of ``init``; for several inputs, pairs (name, shape). The arrays of a 16-bit
                          network are float32
    numbers               the part of the state that is not arrays
    tied                  parameters with several names: {other name: first name}
    input                 what it expects of images, and the names of its classes (InputSpec), if that is known
    frozen                the names of frozen layers, if there are any
    loss                  the name of the loss that trained it, if one did; null for a function of your own
    optimizer             if it was saved too: its class, the numbers of its state and the arguments of its schedule;
                          its arrays are named ``optimizer/...``

Classes are looked up among dualnet's own and in ``custom``; a file can never cause an import or run code. formats.py
turns the description and the arrays into bytes.
"""

from __future__ import annotations

import errno
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from .. import layers
from ..data.inputs import InputSpec
from ..layers import initializers
from ..layers.joining import told_by_hand
from ..layers.layer import Layer
from ..layers.parameter import Parameter
from ..layers.sketch import sketch
from ..ops import losses
from ..optimizers.optimizer import Optimizer
from ..optimizers.schedules import Schedule
from ..shim import asarray, backend_of
from ..version import __version__
from .formats import (
    DTYPES,
    FORMAT,
    MALFORMED,
    SUFFIXES,
    Arrays,
    CheckpointError,
    need_safetensors,
    on_host,
    read,
    shortened,
    write,
)

__all__ = ["load", "save"]

OF_OPTIMIZER = "optimizer/"
OF_OTHERS = dict.fromkeys(
    (".pt", ".pth", ".bin", ".h5", ".hdf5", ".keras"),
    "dn.load_weights(net, path) reads weights that PyTorch or Keras saved",
) | {".onnx": "dn.from_onnx(path) reads ONNX files"}
"""What to call instead for files that other programs write, by their suffix."""
MOST_PLACES = 20_000
MOST_DEPTH = 100
MOST_VISITS = 50_000
"""Asking each container for its shape visits every layer once for each container around it."""
BUILT_IN: dict[str, type[Layer]] = {
    name: kind
    for name, kind in vars(layers).items()
    if isinstance(kind, type) and issubclass(kind, Layer) and kind not in (Layer, layers.Lambda)
}
"""The layer classes that a file may name."""


def built_in(kind: type[Layer]) -> type[Layer]:
    """A decorator for dualnet's own layers outside ``dualnet.layers``, so that files may name them."""
    BUILT_IN[kind.__name__] = kind
    return kind


# -- a network in a file -----------------------------------------------------------------------------------------------


def save(net: Layer, path: str | os.PathLike, *, optimizer: Optimizer | None = None) -> Path:
    """Write a network, its architecture and its weights, to ``path``; returns the path written.

    With ``optimizer`` the file holds its state too, so training can continue: ``dn.load(path, optimizer=...)``.

    The suffix chooses the format: ``.safetensors`` (needs ``pip install "dualnet[io]"``) or ``.npz``. Without a suffix
    it is ``.npz``. The file is replaced as a whole or not at all: after an ``OSError`` the old one is still there.

    Before it writes anything, it raises ``ValueError`` or ``TypeError`` for a network that a file cannot hold
    (``Lambda``, or a function as an initializer: functions are code), and ``ImportError`` if the format's package is
    missing.

    >>> import dualnet as dn, tempfile, pathlib
    >>> net = dn.Sequential([dn.Conv2D(4, 3), dn.Identity()]).init((5, 5, 1))
    >>> path = net.save(pathlib.Path(tempfile.mkdtemp()) / "model.npz")
    >>> same = dn.load(path)
    >>> x = dn.asarray([[[[1.0]] * 5] * 5])
    >>> bool((dn.to_numpy(same(x)) == dn.to_numpy(net(x))).all()), path.name
    (True, 'model.npz')
    """
    target = file_of(path)
    document, arrays = _checked(net, optimizer)
    if found := told_by_hand(net):
        warnings.warn(
            f"save: these layers have a forward that was set on the layer itself: {found}. The file cannot hold it: "
            "dn.load returns layers that compute what their class does. Write a class with that forward instead.",
            stacklevel=2,
        )
    write(target, document, arrays)
    return target


def check_can_be_saved(net: Layer) -> None:
    """Raise what :func:`save` would raise for this network; nothing is written.

    >>> import dualnet as dn
    >>> check_can_be_saved(dn.Sequential([dn.Dense(2)]).init((3,)))
    """
    _checked(net, None)


def _checked(net: Layer, optimizer: Optimizer | None) -> tuple[dict[str, Any], Arrays]:
    """The content of a file of the network, after a check that the network can be rebuilt from it."""
    if not isinstance(net, Layer):
        raise TypeError(f"save: expected a layer or network, got {type(net).__name__}")
    if net.input_shape is None:
        raise ValueError("save: the network has no parameters yet: call net.init(input_shape) first")
    document, arrays = _describe(net)
    remembered = _describe_optimizer(optimizer, document)
    own = _own_classes(net)
    try:
        _restore(document, arrays, own)  # try to read it back now, while the network is still here
    except MALFORMED as error:
        raise ValueError(
            f"save: this network could not be rebuilt from the arguments of its layers ({error}). If you replaced "
            "layers after init, call net.init again; a layer's config() must return the arguments of its class."
        ) from error
    return document, arrays | remembered


def load(
    path: str | os.PathLike,
    custom: Mapping[str, type[Layer]] | None = None,
    *,
    optimizer: Optimizer | None = None,
) -> Layer:
    """The network in a file that :func:`save` wrote, on the current backend.

    The content of the file, not its name, decides the format. Pass layer classes of your own as
    ``custom={"Name": Class}``. An ``optimizer``, created with the same arguments as the saved one, takes over its
    state; if their schedules differ, there is a warning.

    Raises :class:`CheckpointError` (a ``ValueError``) if the file is damaged or not a saved network, and
    ``FileNotFoundError`` if it does not exist; for a path without a suffix, both suffixes are tried.

    >>> import dualnet as dn, tempfile, pathlib
    >>> class Double(dn.Layer):
    ...     def forward(self, x, train=False):
    ...         return 2 * x, dn.Pullback("Double", lambda dy: (2 * dy, {}), x)
    >>> path = dn.Sequential([Double()]).init((1,)).save(pathlib.Path(tempfile.mkdtemp()) / "double.npz")
    >>> dn.to_numpy(dn.load(path, custom={"Double": Double})(dn.asarray([[1.5]])))
    array([[3.]], dtype=float32)
    """
    custom = _classes(custom)
    if not isinstance(optimizer, Optimizer | None):
        raise TypeError(f"load: optimizer is {optimizer!r}; expected one, created with the arguments of the saved one")
    found = _found(path)
    try:
        document, arrays = read(found)
    except CheckpointError as error:
        if (instead := OF_OTHERS.get(found.suffix)) is None:
            raise
        raise CheckpointError(f"{str(error).rstrip('.')}. {instead}") from error
    remembered = {name: arrays.pop(name) for name in list(arrays) if name.startswith(OF_OPTIMIZER)}
    if optimizer is not None and "optimizer" not in document:
        raise ValueError(f"load: {found} holds no optimizer state; save it with net.save(path, optimizer=...)")
    try:
        net = _restore(document, arrays, custom)
        net.load_state_dict({**arrays, **document["numbers"]})
        if "input" in document:
            net.input = InputSpec.from_json(document["input"])
        for name in document.get("frozen", ()):
            _freeze(dict(net.walk())[name])
        if "loss" in document:
            net.loss = _loss_in(document["loss"])
        if optimizer is not None:
            _go_on(optimizer, document["optimizer"], remembered)
    except MALFORMED as error:
        raise CheckpointError(f"{found}: {shortened(str(error) or type(error).__name__)}") from error
    return net


def _classes(custom: Any) -> Mapping[str, type[Layer]]:
    """The layer classes that a user gives to :func:`load`, by name."""
    if not isinstance(custom, Mapping | None):
        raise TypeError(f'load: custom is {custom!r}; expected classes by name, such as {{"Scale": Scale}}')
    for name, kind in (custom or {}).items():
        if not (isinstance(kind, type) and issubclass(kind, Layer)):
            raise TypeError(f"load: custom[{name!r}] is {kind!r}; expected a subclass of dn.Layer")
    return custom or {}


def file_of(path: str | os.PathLike) -> Path:
    """The file that :func:`save` would write: a path without a suffix gets ``.npz``, which needs no extra package.

    >>> file_of("model").name
    'model.npz'
    """
    target = Path(os.fsdecode(path)).expanduser()
    if target.is_dir() or os.fsdecode(path).endswith(("/", os.sep)):
        raise ValueError(f"save: {str(path)!r} is a folder; expected a file, such as {str(target / 'model.npz')!r}")
    if not target.suffix:
        return target.with_name(f"{target.name}.npz")
    if target.suffix not in SUFFIXES:
        raise ValueError(f"save: {str(path)!r} ends with {target.suffix!r}; expected {' or '.join(SUFFIXES)}")
    if target.suffix == ".safetensors":
        need_safetensors(target)
    return target


def saved(path: str | os.PathLike) -> list[Path]:
    """The files that a path may mean: the path itself or, if it has no suffix, the files with either suffix.

    >>> saved("no-such-network")
    []
    """
    given = Path(os.fsdecode(path)).expanduser()
    return [given] if given.is_file() else [candidate for candidate in _candidates(given) if candidate.exists()]


def _candidates(given: Path) -> list[Path]:
    if given.suffix in SUFFIXES or not given.name:
        return []
    return [given.with_name(given.name + suffix) for suffix in SUFFIXES]


def _found(path: str | os.PathLike) -> Path:
    given, found = Path(os.fsdecode(path)).expanduser(), saved(path)
    if len(found) > 1:
        raise ValueError(f"load: there are {' and '.join(map(str, found))}; say which one you mean")
    if found or given.exists():
        return found[0] if found else given  # a pipe, or a folder: opening it raises the right error
    names = ", ".join(repr(str(candidate)) for candidate in [given, *_candidates(given)])
    raise FileNotFoundError(errno.ENOENT, f"load: there is no file {names}")


# -- architecture <-> description --------------------------------------------------------------------------------------


def _describe(net: Layer) -> tuple[dict[str, Any], Arrays]:
    """Everything about a network, as a description and host arrays."""
    arrays, numbers = _split(net.state_dict())
    for name, value in numbers.items():
        if type(value) not in (int, float):
            raise TypeError(f"save: state {name!r} is a {type(value).__name__}; expected an array, an int or a float")
    table: list[dict[str, Any]] = []
    network = _number(net, table, {})
    document = {
        "format": FORMAT,
        "dualnet": __version__,
        "layers": table,
        "network": network,
        "input_shape": _listed(net.input_shape),
        "dtype": numpy.dtype(net.dtype).name,
        "numbers": numbers,
        "tied": _tied(net),
    }
    if "loss" in vars(net):
        document["loss"] = _loss(vars(net)["loss"])
    if isinstance(net.input, InputSpec) or (net.input is not None and BUILT_IN.get(type(net).__name__) is type(net)):
        document["input"] = _input(net)
    if frozen := [name for name, layer in net.walk() if layer.frozen]:
        document["frozen"] = frozen
    return document, arrays


def _freeze(layer: Any) -> None:
    """Freeze this layer only: the layers inside have their own names."""
    layer.frozen = True
    for value in vars(layer).values():
        if isinstance(value, Parameter):
            value.frozen = True


def _listed(input_shape: Any) -> list[Any]:
    """The input shape as JSON: a list of extents; for several inputs a list of pairs (name, extents)."""
    if isinstance(input_shape, dict):
        return [[name, list(shape)] for name, shape in input_shape.items()]
    return [list(extent) if isinstance(extent, tuple) else extent for extent in input_shape]


def _shape_of(listed: list[Any]) -> Any:
    """Undoes :func:`_listed`."""
    if listed and all(isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) for item in listed):
        return {name: tuple(shape) for name, shape in listed}
    return tuple(tuple(item) if isinstance(item, list) else item for item in listed)


def _describe_optimizer(optimizer: Optimizer | None, document: dict[str, Any]) -> Arrays:
    """Put the numbers of an optimizer into the description, and return its arrays."""
    if optimizer is None:
        return {}
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"save: optimizer is {optimizer!r}; expected the optimizer that trained the network")
    arrays, numbers = _split(optimizer.state_dict())
    numbers = {name: _plain(value, name, [], {}) for name, value in numbers.items()}
    document["optimizer"] = {"class": type(optimizer).__name__, "numbers": numbers, "schedule": _schedule(optimizer)}
    return {OF_OPTIMIZER + name: array for name, array in arrays.items()}


def _go_on(optimizer: Optimizer, described: dict[str, Any], arrays: Arrays) -> None:
    """Give an optimizer the state that a file holds."""
    saved, mine = described["class"], type(optimizer).__name__
    if saved != mine:
        raise ValueError(f"it holds the state of {saved}, which {mine} cannot take over")
    was, schedule = described.get("schedule"), _schedule(optimizer)
    if isinstance(was, str) and schedule and was != schedule:
        warnings.warn(
            f"load: the learning rate was scheduled by {was} and continues with {schedule}, at the step reached. If "
            "you do not mean that, create the optimizer with the arguments of the saved one.",
            stacklevel=3,
        )
    numbers = {name: _number_in(value) for name, value in described["numbers"].items()}
    there = {name.removeprefix(OF_OPTIMIZER): asarray(array, array.dtype) for name, array in arrays.items()}
    optimizer.load_state_dict(numbers | there)  # on the network's backend: a captured step copies nothing to a device


def _schedule(optimizer: Optimizer) -> str | None:
    """The class and arguments of an optimizer's schedule, as text to compare; None for a number or the user's code."""
    known = isinstance(optimizer.lr, Schedule) and type(optimizer.lr).__module__ == Schedule.__module__
    text = repr(optimizer.lr) if known else ""
    return text if text and " at 0x" not in text else None  # Warmup around a function: its address in memory


def _split(state: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a state, on the host, and the rest of it."""
    arrays = {name: on_host(value) for name, value in state.items() if backend_of(value) is not None}
    return arrays, {name: value for name, value in state.items() if name not in arrays}


def _input(net: Layer) -> dict[str, Any]:
    """What a network expects of its input, checked against the network."""
    if not isinstance(net.input, InputSpec):
        raise TypeError(f"save: net.input is {net.input!r}; expected a dn.data.InputSpec, or None")
    net.input.check(net)
    return net.input.as_json()


def _loss(loss: Any) -> Any:
    """The name of a loss; None for the user's own function, or one with options, which a file cannot hold.

    For several outputs, the names and the weights of their losses: ``{"kind": ["huber", 0.5]}``.
    """
    if isinstance(loss, Mapping):
        pairs = {name: one if isinstance(one, (tuple, list)) else (1.0, one) for name, one in loss.items()}
        named = {name: [_loss(one), float(weight)] for name, (weight, one) in pairs.items()}
        return None if any(one is None for one, _ in named.values()) else named
    return next((name for name, known in losses.NAMES.items() if loss == name or loss is known), None)


def _loss_in(described: Any) -> Any:
    """Undoes :func:`_loss`."""
    if isinstance(described, dict):
        return {name: (float(weight), _loss_in(one)) for name, (one, weight) in described.items()}
    return None if described is None else _one_of([*losses.NAMES], described, "loss")


def _number(layer: Layer, table: list[dict[str, Any]], known: dict[int, int]) -> int:
    """The layer's number in the table. A new layer is added, after the layers inside it."""
    if id(layer) not in known:
        name = type(layer).__name__
        try:
            arguments = layer.config()
        except AttributeError as error:
            raise TypeError(
                f"save: {name} does not keep its arguments ({error}). Store each one under its own name in __init__, "
                "or define config() to return them."
            ) from error
        config = {key: _plain(value, f"{name}.{key}", table, known) for key, value in arguments.items()}
        entry: dict[str, Any] = {"class": name, "config": config}
        if BUILT_IN.get(name) is not type(layer):
            entry["custom"] = True
        known[id(layer)] = len(table)
        table.append(entry)
    return known[id(layer)]


def _plain(value: Any, where: str, table: list[dict[str, Any]], known: dict[int, int]) -> Any:
    """An argument as JSON; a value that JSON does not have becomes an object with one key, its kind."""
    if isinstance(value, numpy.generic):
        value = value.item()
    if isinstance(value, Layer):
        return {"layer": _number(value, table, known)}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, where, table, known) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _plain(item, where, table, known) for key, item in value.items()}}
    return _plain_single(value, where)


def _plain_single(value: Any, where: str) -> Any:
    """A number, a name or None as JSON; an initializer by its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    for name, initializer in initializers.NAMES.items():
        if value is initializer:
            return name
    raise TypeError(f"save: {where} is {value!r}; a file holds numbers, names and layers, not code. {_way_out(where)}")


def _way_out(where: str) -> str:
    if where.startswith("Lambda."):
        return (
            "Write the layer as a subclass of dn.Layer with forward(x, train), and pass the class to "
            'dn.load(path, custom={"Name": Class}).'
        )
    if "initializer" in where:
        return f"Pass the initializer by its name ({', '.join(initializers.NAMES)}); it is not used after init."
    return "Pass a name instead, and let the layer look it up."


def _own_classes(net: Layer) -> dict[str, type[Layer]]:
    """The classes that are not dualnet's, by name."""
    own: dict[str, type[Layer]] = {}
    for _, layer in net.walk():
        name = type(layer).__name__
        if BUILT_IN.get(name) is not type(layer) and own.setdefault(name, type(layer)) is not type(layer):
            raise ValueError(f"save: two layer classes of the network have the name {name}; rename one")
    return own


def _tied(net: Layer) -> dict[str, str]:
    """For parameters with several names: each further name, and the first."""
    first: dict[int, str] = {}
    tied = {}
    for path, layer in net.walk():
        for attribute, value in vars(layer).items():
            if isinstance(value, Parameter):
                name = f"{path}.{attribute}" if path else attribute
                if first.setdefault(id(value), name) != name:
                    tied[name] = first[id(value)]
    return tied


def _restore(document: dict[str, Any], arrays: Arrays, custom: Mapping[str, type[Layer]]) -> Layer:
    """The described network, with parameters that have no memory yet, after a check that they fit the arrays."""
    net = _assemble(document, custom)
    sketch(net, _shape_of(document["input_shape"]), _one_of([*DTYPES, "bfloat16"], document["dtype"], "dtype"))
    places = dict(net.walk())
    for name, first in document["tied"].items():
        _tie(places, name, first)
    expected, given = _kinds(net.state_dict()), _kinds({**arrays, **document["numbers"]})
    wrong = [
        f"{name} is {given.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        for name in sorted(expected.keys() | given.keys())
        if expected.get(name) != given.get(name) and not _older(document, expected.get(name), given.get(name))
    ]
    if wrong:
        raise ValueError(f"the values do not fit the layers: {'; '.join(wrong)}")
    return net


def _older(document: dict[str, Any], expected: str | None, given: str | None) -> bool:
    """Is it an older file of a float16 network? Its parameters are float16; today they are float32."""
    older = expected is not None and expected.startswith("float32 ") and expected.replace("float32", "float16", 1)
    return document["dtype"] == "float16" and given == older


def _kinds(state: dict[str, Any]) -> dict[str, str]:
    return {
        name: type(value).__name__ if backend_of(value) is None else f"{value.dtype.name} {tuple(value.shape)}"
        for name, value in state.items()
    }


def _assemble(document: dict[str, Any], custom: Mapping[str, type[Layer]]) -> Layer:
    made: list[Layer] = []
    sizes: list[tuple[int, int, int]] = []
    for entry in document["layers"]:
        kind = _class_of(entry, custom)
        inside: list[int] = []  # the numbers of the layers in this one's arguments
        config = {name: _value_of(value, made, inside) for name, value in entry["config"].items()}
        sizes.append(_size([sizes[number] for number in inside]))
        made.append(kind(**config))
    return made[document["network"]]


def _value_of(value: Any, made: list[Layer], inside: list[int]) -> Any:
    """The argument that :func:`_plain` wrote; its layers come from ``made``, and their numbers go to ``inside``."""
    if isinstance(value, list):
        return [_value_of(item, made, inside) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "layer" and type(held) is int and 0 <= held < len(made):
        inside.append(held)
        return made[held]
    if kind == "tuple" and isinstance(held, list):
        return tuple(_value_of(item, made, inside) for item in held)
    if kind == "dict" and isinstance(held, dict):
        return {key: _value_of(item, made, inside) for key, item in held.items()}
    if kind == "float" and held in ("inf", "-inf", "nan"):
        return float(held)
    raise ValueError(f"the description holds {kind!r}: {held!r}, which has no meaning")


def _size(inside: list[tuple[int, int, int]]) -> tuple[int, int, int]:
    """How many places a layer has, how deeply they are nested, and how often they are visited."""
    places, depth = 1 + sum(n for n, _, _ in inside), 1 + max((d for _, d, _ in inside), default=0)
    visits = places + sum(v for _, _, v in inside)
    if places > MOST_PLACES or depth > MOST_DEPTH or visits > MOST_VISITS:
        raise ValueError(
            f"the network has more than {MOST_PLACES} layers, or nests them deeper than {MOST_DEPTH}, or has more than "
            f"{MOST_VISITS} if each layer counts once for every container around it"
        )
    return places, depth, visits


def _number_in(value: Any) -> Any:
    """A number of the description; inf and nan, which JSON does not have, are objects with one key."""
    return float(value["float"]) if isinstance(value, dict) else value


def _class_of(entry: dict[str, Any], custom: Mapping[str, type[Layer]]) -> type[Layer]:
    name, known = entry["class"], custom if entry.get("custom") else BUILT_IN
    if name not in known:
        hint = f'. It is not one of dualnet\'s: pass it in Python, net = dn.load(path, custom={{"{name}": {name}}})'
        raise ValueError(f"unknown layer class {name!r}{hint if entry.get('custom') else ''}")
    return known[name]


def _tie(places: dict[str, Layer], name: str, first: str) -> None:
    (path, _, attribute), (origin, _, source) = name.rpartition("."), first.rpartition(".")
    layer, mine, other = places[path], vars(places[path]).get(attribute), vars(places[origin]).get(source)
    if not isinstance(mine, Parameter) or not isinstance(other, Parameter) or mine.shape != other.shape:
        raise ValueError(f"{name} cannot be tied to {first}")
    setattr(layer, attribute, other)


def _one_of(known: list[str], value: Any, what: str) -> str:
    if value not in known:
        raise ValueError(f"{what} is {value!r}; expected one of {', '.join(known)}")
    return value
