"""Load weights of another framework into a network of ours: which array goes where, and how its axes are ordered.

A file or a ``state_dict`` holds arrays by name. PyTorch's names end in ``weight``, ``bias``, ``running_mean`` and
``running_var``, and such arrays are turned: (D, C, k1, k2) to (k1, k2, C, D), (out, in) to (in, out), rows after a
Flatten from channel by channel to pixel by pixel. Keras' names end in ``kernel`` and ``bias``, and those arrays have
our order, except for the filters of a depthwise convolution. Arrays whose names end like ours (``w``, ``gamma``, ...)
are used as they are. The part of a name before the last dot is that of a layer, and is matched as a whole.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from ..files.formats import TEXT, CheckpointError, need_safetensors, shortened
from ..geometry import elements
from ..layers import Conv2D, Conv2DTranspose, Dense, DepthwiseConv2D, LayerNorm
from ..layers.layer import Layer, Shape
from ..layers.parameter import Parameter
from ..shim import asarray
from ..shim.dtypes import dtype_of
from . import keras
from .orders import Order, leaves
from .pytorch import need_torch

__all__ = ["LoadedWeights", "load_weights"]

THEIRS = {
    "w": "weight",
    "b": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""PyTorch's names for our attributes."""
KERAS = {"w": "kernel", "b": "bias"}
"""Keras' names for the attributes that it names differently. Arrays without a name are ``vars/0``, ``vars/1``, ..."""
COUNTER = "num_batches_tracked"
SHORTCUT = re.compile(r"downsample|shortcut|skip|_0_(conv|bn)$")
"""The names of the layers in the shortcut of a residual block, in torchvision, timm and Keras."""
INSIDE = ("state_dict", "model_state_dict", "model")
"""The keys under which training scripts store the weights in their checkpoints."""

Rename = Mapping[str, str | None] | Callable[[str], str | None] | None


def load_weights(net: Layer, source: Any, rename: Rename = None, strict: bool = True) -> LoadedWeights:
    """Load weights of another framework into an initialised network; returns a report that shows which array went
    where.

    ``source`` is a ``state_dict`` (tensors or arrays by name), or the path of a file: PyTorch reads ``.pt``, ``.pth``
    and ``.bin`` (with ``weights_only``, so no code in the file runs), ``.safetensors`` needs its package, NumPy reads
    ``.npz``, and h5py reads Keras' ``.keras``, ``.h5`` and ``.hdf5``.

    Layers are matched by name if the source has all names of the network. Otherwise each of the network's layers, from
    first to last, gets the first remaining layer of the source that has its shapes. The report lists every match; read
    it, because layers of equal shape in a different order look alike. Use ``rename`` to be sure:
    ``{"fc": "9", "aux": None}`` gives a layer or an array a new name, or leaves it out; a function gets each name and
    returns the new one.

    With ``strict`` a ``ValueError`` lists the arrays that are missing, left over or have the wrong shape. Without it,
    everything that fits is loaded, and the report lists the rest. If an error is raised, nothing changes. A warning
    lists options that differ between the file's layers and the network's, such as a different epsilon.

    >>> import dualnet as dn, numpy as np
    >>> net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.Flatten(), dn.Dense(4)]).init((4, 4, 1))
    >>> state = {"conv.weight": np.ones((2, 1, 3, 3)), "conv.bias": np.zeros(2)}
    >>> state |= {"head.weight": np.arange(32.0).reshape(4, 8), "head.bias": np.zeros(4)}
    >>> print(dn.load_weights(net, state))
    load_weights: 4 arrays, matched by shape and order
    ours  theirs       shape         turned
    0.w   conv.weight  (3, 3, 1, 2)  (D, C, k1, k2) to (k1, k2, C, D)
    0.b   conv.bias    (2,)
    3.w   head.weight  (8, 4)        (out, in) to (in, out), channels first to last
    3.b   head.bias    (4,)
    """
    if not isinstance(net, Layer):
        raise TypeError(f"load_weights: expected a network, got {type(net).__name__}")
    if net.input_shape is None:
        raise ValueError(f"load_weights: {type(net).__name__} has no parameters yet: call net.init(input_shape) first")
    arrays, told_of = _read(source)
    ours = _places(net)
    report = LoadedWeights()
    groups, renamed = _grouped(arrays, rename, report)
    values: dict[str, numpy.ndarray] = {}
    for place, group, found in _matched(ours, groups, renamed, told_of):
        _take(place, group, found, values, report)
        report.differing += [f"{told}: {place.path}" for told in _about(group, told_of).differences(place.layer)]
    taken = {row.theirs for row in report.rows} | {theirs for theirs, _, _ in report.misshaped}
    told = values.keys() | {name for _, name, _ in report.misshaped}
    report.missing = [name for place in ours for name in place.names.values() if name not in told]
    left = [full for group in groups.values() for full, _ in group.values() if full not in taken]
    report.unexpected = [full for full in left if not full.endswith(COUNTER)]
    report.ignored += [full for full in left if full.endswith(COUNTER)]
    if strict and report.faults():
        raise ValueError(
            f"load_weights: the weights do not fit this {type(net).__name__} ({report.faults()}). Change the network, "
            "pass rename, or load only what fits with strict=False."
        )
    net.load_state_dict({**net.state_dict(), **values})
    if report.differing:
        warnings.warn(
            f"load_weights: {report.differences()}. With different options the network computes different outputs; "
            "pass the same options to its layers.",
            stacklevel=2,
        )
    return report


# -- the report --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One array: its name here, its name there, its shape here, how it was turned, and how it was found."""

    ours: str
    theirs: str
    shape: Shape
    turned: str
    found: str


@dataclass
class LoadedWeights:
    """Which array :func:`load_weights` put where. ``misshaped`` holds their name, ours, and the two shapes in words."""

    rows: list[Row] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[tuple[str, str, str]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def differences(self) -> str:
        """The options of layers that differ from the file, in words."""
        layers: dict[str, list[str]] = {}
        for difference in self.differing:
            told, _, path = difference.rpartition(": ")
            layers.setdefault(told, []).append(path)
        return "; ".join(
            f"{told} ({'layer' if len(paths) == 1 else 'layers'} {_first(paths)})" for told, paths in layers.items()
        )

    def faults(self) -> str:
        """The arrays that did not fit, in words; "" if all fit."""
        shapes = [f"{theirs} for {ours}: {why}" for theirs, ours, why in self.misshaped]
        parts = {"missing": self.missing, "unexpected": self.unexpected, "of the wrong shape": shapes}
        return "; ".join(f"{fault}: {', '.join(names)}" for fault, names in parts.items() if names)

    def __repr__(self) -> str:
        found = sorted({row.found for row in self.rows})
        lines = [f"load_weights: {len(self.rows)} arrays" + (f", matched by {' and '.join(found)}" if found else "")]
        if self.rows:
            mixed = len(found) > 1
            cells = [
                (row.ours, row.theirs, str(tuple(row.shape)), row.turned + (f" [{row.found}]" if mixed else ""))
                for row in self.rows
            ]
            lines += _columns([("ours", "theirs", "shape", "turned"), *cells])
        lines += [f"not loaded: {self.faults()}"] if self.faults() else []
        lines += [f"left out: {', '.join(self.ignored)}"] if self.ignored else []
        lines += [f"other options: {self.differences()}"] if self.differing else []
        return "\n".join(lines)


def _first(names: list[str]) -> str:
    """The first few of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


# -- files -------------------------------------------------------------------------------------------------------------


def _read(source: Any) -> tuple[dict[str, Any], dict[str, keras.KerasLayer]]:
    """Tensors or arrays by name, from a mapping or a file; and what a Keras file says about its layers."""
    if not isinstance(source, (Mapping, str, os.PathLike)):
        if hasattr(source, "state_dict"):
            raise TypeError(
                "load_weights: source is a module; expected module.state_dict(). Or convert the whole module: "
                "dn.from_torch(module, input_shape)"
            )
        raise TypeError(f"load_weights: source is a {type(source).__name__}; expected a state_dict or a path")
    found = source if isinstance(source, Mapping) else _file(Path(source))
    told_of = found.layers if isinstance(found, keras.KerasFile) else {}
    arrays: Any = found.arrays if isinstance(found, keras.KerasFile) else found
    for name in INSIDE:
        if isinstance(arrays.get(name), Mapping):
            arrays = arrays[name]
    if strange := [name for name in arrays if not isinstance(name, str)]:
        raise TypeError(f"load_weights: the names in source must be strings, got {strange[0]!r}")
    return dict(arrays), told_of


def _file(path: Path) -> Mapping[str, Any] | keras.KerasFile:
    readers = {".npz": _npz, ".safetensors": _safetensors, ".pt": _pt, ".pth": _pt, ".bin": _pt}
    readers |= dict.fromkeys(keras.SUFFIXES, keras.read)
    if path.suffix not in readers:
        raise ValueError(f"load_weights: {path} ends with {path.suffix!r}; expected one of {', '.join(readers)}")
    if not path.exists():
        raise FileNotFoundError(f"load_weights: there is no file {path}")
    try:
        found = readers[path.suffix](path)
    except (ImportError, OSError, MemoryError):
        raise
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {shortened(str(error))}") from error
    except Exception as error:  # each library has its own error for a damaged file
        raise CheckpointError(
            f"{path}: it is damaged, or not a {path.suffix} file ({type(error).__name__}: {shortened(str(error))})"
        ) from error
    if not isinstance(found, (Mapping, keras.KerasFile)):
        raise CheckpointError(f"{path}: it holds a {type(found).__name__}; expected a state_dict, arrays by name")
    return found


def _npz(path: Path) -> Mapping[str, Any]:
    with numpy.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != TEXT}


def _pt(path: Path) -> Any:
    torch = need_torch("load_weights")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "GLOBAL" not in str(error) or type(error).__name__ != "UnpicklingError":  # damaged, say
            raise
        raise CheckpointError(
            "it holds a whole module or other objects, which are code, and not only weights. If you trust it, write "
            "the weights alone, in PyTorch: torch.save(torch.load(path, weights_only=False).state_dict(), 'weights.pt')"
        ) from error


def _safetensors(path: Path) -> Mapping[str, Any]:
    kinds = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
    arrays = {}
    for name, entry in need_safetensors(path).deserialize(path.read_bytes()):
        kind = entry["dtype"]
        dtype = dtype_of(kinds.get(kind) or kind.lower().replace("i", "int").replace("u", "uint"))
        arrays[name] = numpy.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    return arrays


# -- matching ----------------------------------------------------------------------------------------------------------

Group = dict[str, tuple[str, numpy.ndarray]]
"""The arrays of one layer of the source: by the last part of the name, the whole name and the array."""


@dataclass(frozen=True)
class _Place:
    """A layer of ours: the places of its arrays, and a description of its input. ``names``, ``shapes`` by attribute."""

    path: str
    layer: Layer
    names: dict[str, str]
    shapes: dict[str, Shape]
    order: Order

    def key(self, attribute: str, group: Group) -> str | None:
        """The last part of the name under which the group has this attribute."""
        if self.is_scale() and len(group) == 1:
            return next(iter(group))
        numbered = f"vars/{list(self.names).index(attribute)}"
        names = (THEIRS.get(attribute, attribute), KERAS.get(attribute, attribute), attribute, numbered)
        return next((name for name in names if name in group), None)

    def is_scale(self) -> bool:
        """Is it one factor for each channel, which other frameworks store as a plain vector?"""
        return isinstance(self.layer, DepthwiseConv2D) and set(self.shapes) == {"w"} and self._pixel()

    def _pixel(self) -> bool:
        return self.shapes["w"][:3] == (1, 1, 1)

    def expected(self, attribute: str, key: str) -> Shape:
        """The shape that the source's array should have."""
        shape = self.shapes[attribute]
        if _lies_as_ours(attribute, key):
            return shape
        if isinstance(self.layer, (Conv2D, Conv2DTranspose)) and attribute == "w":
            return shape[3], shape[2], shape[0], shape[1]
        if isinstance(self.layer, LayerNorm) and len(shape) == 3:
            return shape[2], shape[0], shape[1]
        return shape[::-1] if isinstance(self.layer, Dense) and attribute == "w" else shape

    def fits(self, attribute: str, key: str, array: numpy.ndarray) -> bool:
        same = tuple(array.shape) == self.expected(attribute, key)
        if _lies_as_ours(attribute, key) and array.shape == self._by_channel():
            return attribute == "w"
        return same or (self.is_scale() and key != "weight" and array.size == elements(self.shapes["w"]))

    def turned(self, attribute: str, key: str, array: numpy.ndarray) -> tuple[numpy.ndarray, str]:
        """The array in our order, and how it was turned, in words."""
        if self.is_scale() and key != "weight":
            return array.reshape(self.shapes["w"]), ""
        if _lies_as_ours(attribute, key):
            return self._from_keras(attribute, key, array)
        flat = "" if self.order is None else "channels first to last"
        if isinstance(self.layer, (Conv2D, Conv2DTranspose)) and attribute == "w":
            array = array.transpose(2, 3, 1, 0)
            if getattr(self.layer, "mode", "correlation") == "convolution":  # E3
                return array[::-1, ::-1], "(D, C, k1, k2) to (k1, k2, C, D), turned by 180°"
            return array, "(D, C, k1, k2) to (k1, k2, C, D)"
        if isinstance(self.layer, Dense):
            if attribute != "w":
                return array, ""
            array = array if self.order is None else array[:, self.order]
            return array.T, ", ".join(filter(None, ("(out, in) to (in, out)", flat)))
        if isinstance(self.layer, LayerNorm) and array.ndim == 3:
            return array.transpose(1, 2, 0), "(C, H, W) to (H, W, C)"
        return (array, "") if self.order is None else (array[self.order], flat)

    def _by_channel(self) -> Shape | None:
        """The shape (k1, k2, C, M) of Keras' filters, if each channel has filters of its own."""
        if not isinstance(self.layer, Conv2D) or self.shapes["w"][2] != 1:
            return None
        k1, k2, _, D = self.shapes["w"]
        return k1, k2, self.layer.groups, D // self.layer.groups

    def _from_keras(self, attribute: str, key: str, array: numpy.ndarray) -> tuple[numpy.ndarray, str]:
        turned = []
        if attribute == "w" and array.shape != self.shapes["w"]:
            array, turned = array.reshape(self.shapes["w"]), ["(k1, k2, C, M) to (k1, k2, 1, C·M)"]
        if key != attribute and attribute == "w" and getattr(self.layer, "mode", "correlation") == "convolution":  # E3
            array, turned = array[::-1, ::-1], [*turned, "turned by 180°"]
        return array, ", ".join(turned)


def _lies_as_ours(attribute: str, key: str) -> bool:
    return key in (attribute, "kernel") or key.startswith("vars/")


def _about(group: Group, told_of: Mapping[str, keras.KerasLayer]) -> keras.KerasLayer:
    """What the source says about the layer to which these arrays belong."""
    names = (full.rpartition(".")[0] for full, _ in group.values())
    return next((told_of[name] for name in names if name in told_of), keras.KerasLayer(""))


def _places(net: Layer) -> list[_Place]:
    """Every layer of the network that holds arrays, once, in the order in which data passes them."""
    names = {id(parameter): name for name, parameter in reversed(net.parameters().items())}
    found, seen = [], set()
    for path, leaf, _, order in leaves(net, tuple(net.input_shape or ())):
        for name, layer in leaf.walk(path):
            if id(layer) not in seen:
                seen.add(id(layer))
                found.append(_place(name, layer, order if layer is leaf else None, names))
    return [place for place in found if place.names]


def _place(path: str, layer: Any, order: Order, names: dict[int, str]) -> _Place:
    arrays = {name: value for name, value in vars(layer).items() if isinstance(value, Parameter)}
    statistics = {name: getattr(layer, name) for name in layer.state_names if hasattr(getattr(layer, name), "shape")}
    full = {name: names[id(value)] for name, value in arrays.items()}
    full |= {name: f"{path}.{name}" if path else name for name in statistics}
    shapes = {name: tuple(value.shape) for name, value in {**arrays, **statistics}.items()}
    return _Place(path, layer, full, shapes, order)


def _grouped(arrays: dict[str, Any], rename: Rename, report: LoadedWeights) -> tuple[dict[str, Group], set[str]]:
    """The arrays by layer, under their new names; and the layers that ``rename`` named."""
    groups: dict[str, Group] = {}
    renamed = set()
    unused = set(rename) if isinstance(rename, Mapping) else set()
    for name, value in arrays.items():
        new, rule = _renamed(name, rename)
        unused.discard(rule)
        if new is None or not (hasattr(value, "shape") or isinstance(value, (list, tuple))):
            report.ignored.append(name)
            continue
        layer, _, last = new.rpartition(".")
        own = name.rpartition(".")[2]
        key = own if own in (THEIRS.get(last), KERAS.get(last)) else last  # "fc.weight" called "9.w" is still PyTorch's
        if key in groups.setdefault(layer, {}):
            raise ValueError(
                f"load_weights: rename gives {name} and {groups[layer][key][0]} the same name {new}; expected two names"
            )
        groups[layer][key] = name, asarray(value, backend="numpy")
        if new != name:
            renamed.add(layer)
    if unused:
        raise ValueError(
            f"load_weights: rename has names that are not in the source: {', '.join(sorted(unused))}. The source has "
            f"{_first(list(arrays))}"
        )
    return groups, renamed


def _renamed(name: str, rename: Rename) -> tuple[str | None, str]:
    """The new name of an array, and the entry of ``rename`` that gave it: the longest that is the name or its start."""
    if rename is None:
        return name, ""
    if not isinstance(rename, Mapping):
        return rename(name), ""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        start = ".".join(parts[:end])
        if start in rename:
            new = rename[start]
            return (None if new is None else ".".join([*filter(None, [new]), *parts[end:]])), start
    return name, ""


def _matched(
    ours: list[_Place], groups: dict[str, Group], renamed: set[str], told_of: Mapping[str, keras.KerasLayer]
) -> list[tuple[_Place, Group, str]]:
    """Each layer of ours with the group that it gets, and how that was found. Pairs that do not fit come last."""
    kinds = {name: _about(group, told_of) for name, group in groups.items()}
    all_named = all(place.path in groups for place in ours)
    pairs = [(p, groups[p.path], "name") for p in ours if p.path in groups and (all_named or p.path in renamed)]
    free = {name: group for name, group in groups.items() if not any(group is taken for _, taken, _ in pairs)}
    left = []
    rest = [place for place in ours if not any(place is named for named, _, _ in pairs)]
    shortcuts = {name for name in free if SHORTCUT.search(name)}
    if len(shortcuts) != sum(map(_is_in_shortcut, rest)):
        shortcuts = set()  # here the names mean something else
    for place in rest:
        twins = [name for name, group in free.items() if kinds[name].goes_into(place.layer) and _all_fit(place, group)]
        inside = _is_in_shortcut(place)
        name = next((name for name in twins if (name in shortcuts) == inside), next(iter(twins), None))
        if name is None:
            left.append(place)
        else:
            pairs.append((place, free.pop(name), "shape and order"))
    for place in left:  # most likely layers of a different shape, such as the head for other classes
        for name, group in free.items():
            keys = [place.key(attribute, group) for attribute in place.names]
            if kinds[name].goes_into(place.layer) and None not in keys and len(keys) == len(_arrays(group)):
                pairs.append((place, free.pop(name), "order alone"))
                break
    return pairs


def _is_in_shortcut(place: _Place) -> bool:
    """The last layers of a block and of its shortcut often have the same shape, and sources order them differently."""
    return "shortcut" in place.path.split(".")


def _arrays(group: Group) -> list[str]:
    return [key for key in group if key != COUNTER]


def _all_fit(place: _Place, group: Group) -> bool:
    keys = {attribute: place.key(attribute, group) for attribute in place.names}
    return len(keys) == len(_arrays(group)) and all(
        key is not None and place.fits(attribute, key, group[key][1]) for attribute, key in keys.items()
    )


def _take(place: _Place, group: Group, found: str, values: dict[str, numpy.ndarray], report: LoadedWeights) -> None:
    """Record the arrays of a group for a layer of ours, or why they do not fit."""
    for attribute, name in place.names.items():
        key = place.key(attribute, group)
        if key is None:
            continue
        theirs, array = group[key]
        if not place.fits(attribute, key, array):
            why = f"{tuple(array.shape)}, expected {place.expected(attribute, key)}"
            report.misshaped.append((theirs, name, why))
        elif found != "order alone":
            values[name], turned = place.turned(attribute, key, array)
            report.rows.append(Row(name, theirs, place.shapes[attribute], turned, found))
