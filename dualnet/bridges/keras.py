"""Weights that Keras saved: ``.keras``, ``.weights.h5`` and the ``.h5`` of Keras 2, as arrays by name. Only data.

A ``.keras`` file is a zip archive of ``config.json``, the layers with their options in the order of the model, and
``model.weights.h5``. There, and in ``.weights.h5`` files, each layer is a group named after its class, ``conv2d_1``,
whose ``vars`` are numbered: ``layers/conv2d_1/vars/0``. They are read in the order of their numbers, since HDF5 sorts
them alphabetically. The ``.h5`` of Keras 2 lists layers and weights in the attributes ``layer_names`` and
``weight_names``.

Nothing in a file is run: the code of a Lambda layer is only text here. No link is followed, and before an array is
read, its claimed size is compared with the bytes that the file holds for it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from ..files.formats import CheckpointError
from ..geometry import elements
from ..layers import BatchNorm, Conv2D, Conv2DTranspose, Dense, GroupNorm, LayerNorm
from ..layers.layer import Layer

__all__ = ["SUFFIXES", "KerasFile", "KerasLayer", "read"]

SUFFIXES = (".h5", ".hdf5", ".keras")
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
HDF5 = b"\x89HDF\r\n\x1a\n"
MOST_CONFIG = 64 * 2**20
MOST_PACKED = 1032
"""How much larger than its compressed bytes an array may be: no deflate does better."""

KINDS: dict[str, tuple[type[Layer], tuple[str, ...]]] = {
    "Conv2D": (Conv2D, ("kernel", "bias")),
    "Conv2DTranspose": (Conv2DTranspose, ("kernel", "bias")),
    "DepthwiseConv2D": (Conv2D, ("kernel", "bias")),
    "SeparableConv2D": (Conv2D, ("depthwise.kernel", "pointwise.kernel", "pointwise.bias")),
    "Dense": (Dense, ("kernel", "bias")),
    "BatchNormalization": (BatchNorm, ("gamma", "beta", "moving_mean", "moving_variance")),
    "LayerNormalization": (LayerNorm, ("gamma", "beta")),
    "GroupNormalization": (GroupNorm, ("gamma", "beta")),
}
"""Keras' layers that we have: ours, and Keras' names of its variables, in the order of their numbers."""
OPTIONAL = {"use_bias": "bias", "scale": "gamma", "center": "beta"}
"""Keras options without which a variable does not exist."""
SEPARABLE = {"depthwise_kernel": "depthwise.kernel", "pointwise_kernel": "pointwise.kernel", "bias": "pointwise.bias"}
"""The names of SeparableConv2D's variables in the files of Keras 2, and here."""
SAME_OPTIONS = {
    "epsilon": "epsilon",
    "momentum": "momentum",
    "strides": "stride",
    "dilation_rate": "dilation",
    "groups": "groups",
}
"""Options that change how a layer uses its weights: Keras' name, and ours."""
NO_WEIGHTS = re.compile(r"(^|/)(optimizer(_weights)?|_?metrics|seed_generator(_\d+)?|_trainer)(/|$)")
"""Groups that hold no weights: the optimizer's state, the metrics', and the seeds of Dropout."""


@dataclass(frozen=True)
class KerasLayer:
    """What a file says about one layer: its Keras class ("" if unknown), and its options (empty if unknown)."""

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def goes_into(self, layer: Layer) -> bool:
        """Can a layer of ours be the counterpart of this one?"""
        return self.kind not in KINDS or isinstance(layer, KINDS[self.kind][0])

    def differences(self, layer: Any) -> list[str]:
        """The options that differ from those of its counterpart here, in words."""
        told = []
        for theirs, ours in SAME_OPTIONS.items():
            here = getattr(layer, ours, None)
            there = self.options.get(theirs)
            there = tuple(there) if isinstance(there, list) else there
            if theirs == "groups" and (self.kind not in ("GroupNormalization", "Conv2D") or there == -1):
                continue  # a depthwise convolution's are its channels, and so are those of -1
            if there is not None and here is not None and there != here:
                told.append(f"{theirs} is {there} in Keras but {'' if ours == theirs else f'{ours} is '}{here} here")
        return told


@dataclass
class KerasFile:
    """Arrays by name, such as ``block.conv2d_1.kernel``, in the order of the layers; and the layers by name."""

    arrays: dict[str, numpy.ndarray] = field(default_factory=dict)
    layers: dict[str, KerasLayer] = field(default_factory=dict)

    def add(self, name: str, key: str, layer: KerasLayer, array: numpy.ndarray) -> None:
        """Add one array of a layer."""
        full = ".".join(filter(None, (name, key)))
        if full in self.arrays:
            raise CheckpointError(f"it holds two arrays called {full}; expected one")
        self.arrays[full] = array
        options = {} if key.startswith("pointwise.") else layer.options  # strides and the like are the depthwise one's
        self.layers[full.rpartition(".")[0]] = KerasLayer(layer.kind, options)


def read(path: Path) -> KerasFile:
    """The weights in a file of Keras 2 or 3, with kernels (k1, k2, C, D) and (in, out), like ours.

    Raises ``CheckpointError`` if it is not such a file, is damaged, or holds a model with ``channels_first``.
    """
    h5py = _need_h5py(path)
    with open(path, "rb") as file:
        start = file.read(8)
    if start != HDF5 and start[:4] != b"PK\3\4":
        got = f"starts with the bytes {start.hex(' ')}" if start else "is empty"
        raise CheckpointError(f"it is not a Keras file: it {got}; expected HDF5, or the zip archive of a .keras file")
    config, source = (None, path) if start == HDF5 else _unzipped(path)
    size = path.stat().st_size
    try:
        with h5py.File(source, "r") as file:
            return _read(file, config, size)
    except (OSError, KeyError, RuntimeError) as error:  # h5py raises these for a damaged file
        if getattr(error, "errno", None):
            raise
        raise CheckpointError(f"the HDF5 file is damaged ({error}). Save or download it again") from error


def _need_h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise ImportError(
            f'load_weights: {path} is a Keras file, which needs h5py: pip install "dualnet[keras]"'
        ) from None
    return h5py


def _unzipped(path: Path) -> tuple[Any, io.BytesIO]:
    """``config.json`` and the HDF5 file of a ``.keras`` file."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        if absent := [name for name in (CONFIG, WEIGHTS) if name not in members]:
            held = ", ".join(list(members)[:3]) or "nothing"
            raise CheckpointError(
                f"it is a zip archive without {' and '.join(absent)}, so it is no Keras model; it holds {held}"
            )
        packed = [name for name in (CONFIG, WEIGHTS) if members[name].compress_type]
        if packed:
            raise CheckpointError(
                f"it holds {' and '.join(packed)} compressed; Keras never does that. Save the model again"
            )
        if members[CONFIG].file_size > MOST_CONFIG:
            raise CheckpointError(
                f"its {CONFIG} has {members[CONFIG].file_size:,} bytes; expected at most {MOST_CONFIG:,}"
            )
        return json.loads(archive.read(CONFIG)), io.BytesIO(archive.read(WEIGHTS))


def _read(file: Any, config: Any, size: int) -> KerasFile:
    tree = _Tree(file, size)
    legacy = next((at for at in ("", "model_weights") if tree.strings(at, "layer_names")), None)
    if legacy is None:
        return _numbered(tree, dict(_described(config)))
    if config is None and "model_config" in file.attrs:
        config = json.loads(_text(file.attrs["model_config"]))
    return _legacy(tree, legacy, {place.name: place.layer for place in dict(_described(config)).values()})


# -- HDF5 --------------------------------------------------------------------------------------------------------------


class _Tree:
    """All groups and arrays of an HDF5 file by their paths, walked without following a link."""

    def __init__(self, file: Any, size: int) -> None:
        self.groups: dict[str, Any] = {"": file}
        self.arrays: dict[str, Any] = {}
        self._room = size
        self._walk(file, "", {_address(file)})

    def _walk(self, group: Any, path: str, seen: set[int]) -> None:
        import h5py

        for name in group:
            at = f"{path}/{name}" if path else name
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise CheckpointError(
                    f"{at} is a link. For safety, links are not followed: save the weights without links"
                )
            item = group[name]
            if isinstance(item, h5py.Group):
                if _address(item) in seen:
                    raise CheckpointError(f"the group {at} appears in two places in the file; expected one")
                seen.add(_address(item))
                self.groups[at] = item
                self._walk(item, at, seen)
            elif isinstance(item, h5py.Dataset):
                self.arrays[at] = item

    def attributes(self, path: str) -> Any:
        return self.groups[path].attrs if path in self.groups else {}

    def strings(self, path: str, name: str) -> list[str]:
        """An attribute that lists names; a long one is cut into ``name0``, ``name1``, ..."""
        attributes = self.attributes(path)
        parts = [name] if name in attributes else []
        while not parts[:1] == [name] and f"{name}{len(parts)}" in attributes:
            parts.append(f"{name}{len(parts)}")
        return [_text(value) for part in parts for value in numpy.asarray(attributes[part]).reshape(-1).tolist()]

    def array(self, path: str) -> numpy.ndarray:
        """Read an array, if the file holds as many bytes as it claims."""
        found = self.arrays.get(path)
        if found is None:
            raise CheckpointError(f"it lists an array {path}, but does not contain it")
        if found.external or found.is_virtual:
            raise CheckpointError(
                f"the array {path} is in another file. For safety, only this file is read: save everything in one file"
            )
        brain = found.dtype == numpy.dtype("V2") and _text(found.attrs.get("dtype", "")) == "bfloat16"
        if not brain and found.dtype.kind not in "fiub":
            raise CheckpointError(f"the array {path} holds {found.dtype}; expected numbers")
        stored = found.id.get_storage_size()
        self._room -= stored
        claimed = elements(found.shape or ()) * found.dtype.itemsize
        if found.shape is None or claimed > stored * (MOST_PACKED if found.compression else 1) or self._room < 0:
            raise CheckpointError(
                f"the array {path} claims to have shape {found.shape}, but the file has too few bytes for it"
            )
        value = numpy.asarray(found[()])
        if brain:  # the upper half of a float32
            return (value.view(numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
        return value.astype(value.dtype.newbyteorder("="), copy=False)


def _address(item: Any) -> int:
    import h5py

    return int(h5py.h5o.get_info(item.id).addr)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# -- config.json -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """A layer of the model: its dotted name, which includes the layers around it, and its description."""

    name: str
    layer: KerasLayer


def _described(config: Any, path: str = "", name: str = "") -> Iterator[tuple[str, _Place]]:
    """Each layer that holds no others, by the path of its group in the weights file; in the order of the model."""
    inside = config.get("config") if isinstance(config, dict) else None
    layers = inside.get("layers") if isinstance(inside, dict) else inside
    used: dict[str, int] = {}
    for layer in layers if isinstance(layers, list) else []:
        kind, options = str(layer["class_name"]), layer.get("config") or {}
        own = _numbered_name(_snake(kind), used)
        at, called = f"{path}layers/{own}", name + str(options["name"] if isinstance(options, dict) else own)
        if isinstance(options, list) or isinstance(options.get("layers"), list):
            yield from _described(layer, f"{at}/", f"{called}.")
            continue
        if options.get("data_format") == "channels_first":
            raise CheckpointError(f"layer {called} has data_format='channels_first'; expected 'channels_last'")
        yield at, _Place(called, KerasLayer(kind, options))


def _numbered_name(name: str, used: dict[str, int]) -> str:
    """``conv2d``, ``conv2d_1``, ``conv2d_2``, ..., as Keras counts within a model."""
    used[name] = used.get(name, -1) + 1
    return f"{name}_{used[name]}" if used[name] else name


def _snake(name: str) -> str:
    """A class's name as Keras writes it.

    >>> _snake("Conv2DTranspose"), _snake("BatchNormalization")
    ('conv2d_transpose', 'batch_normalization')
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


SNAKES = {_snake(kind): kind for kind in KINDS}
LISTS = ("layers", "_layer_checkpoint_dependencies")
"""Groups that hold a model's layers."""


# -- the layout of Keras 3 ---------------------------------------------------------------------------------------------


def _numbered(tree: _Tree, places: dict[str, _Place]) -> KerasFile:
    """Groups of numbered ``vars``: in the order of the model if it is known, else in the order of their numbers."""
    paths = [at.removesuffix("vars").rstrip("/") for at in tree.groups if at == "vars" or at.endswith("/vars")]
    paths = [at for at in paths if not NO_WEIGHTS.search(at)]
    if not paths:
        raise CheckpointError(
            "it is an HDF5 file without Keras weights: it has neither layer_names nor vars. Save it with "
            "model.save_weights"
        )
    standing = {at: number for number, at in enumerate(places)}
    inside: dict[str, list[str]] = {}
    for path in tree.arrays:
        inside.setdefault(path.rpartition("/")[0], []).append(path)
    found = KerasFile()
    for at in sorted(paths, key=lambda at: (standing.get(at, len(standing)), _natural(at))):
        numbers = sorted(inside.get(f"{at}/vars" if at else "vars", []), key=_natural)
        place = places.get(at) or _guessed(tree, at)
        if not numbers:
            continue
        name = place.name if place.name not in found.layers else at.replace("/", ".")
        names = _variables(place.layer, len(numbers))
        for key, path in zip(names, numbers):
            found.add(name, key, place.layer, tree.array(path))
    return found


def _guessed(tree: _Tree, at: str) -> _Place:
    """What is known about a layer without ``config.json``: in lists Keras names it after its class or an attribute."""
    parts, names, own, listed = at.split("/"), [], "", False
    for number, part in enumerate(parts, 1):
        own = _text(tree.attributes("/".join([*parts[:number], "vars"])).get("name", ""))
        if part not in LISTS:
            listed = number > 1 and parts[number - 2] in LISTS
            names.append(own if listed and own else part)
    return _Place(".".join(names), KerasLayer(_kind(parts[-1] if listed else own)))


def _kind(name: str) -> str:
    """The class for a name such as ``conv2d_3``; "" if we do not have it.

    >>> _kind("conv2d_transpose_1"), _kind("stem")
    ('Conv2DTranspose', '')
    """
    return SNAKES.get(re.sub(r"_\d+$", "", name), "")


def _variables(layer: KerasLayer, count: int) -> list[str]:
    """Keras' names for the variables of a layer; ``vars/0``, ... if they are unknown."""
    names = list(KINDS[layer.kind][1]) if layer.kind in KINDS else []
    if layer.options:
        without = {name for option, name in OPTIONAL.items() if layer.options.get(option) is False}
        names = [name for name in names if name.rpartition(".")[2] not in without]
    elif count < len(names) and "gamma" not in names:
        names = names[:count]  # only the bias, which is last, may be missing
    return names if len(names) == count else [f"vars/{number}" for number in range(count)]


def _natural(path: str) -> list[tuple[str, int]]:
    """A key that sorts conv2d, conv2d_1, conv2d_2, conv2d_10."""
    parts = [re.fullmatch(r"(.*?)_?(\d*)", part) for part in path.split("/")]
    return [(part[1], int(part[2] or 0)) for part in parts if part]


# -- the layout of Keras 2 ---------------------------------------------------------------------------------------------


def _legacy(tree: _Tree, root: str, places: dict[str, KerasLayer]) -> KerasFile:
    """Groups named after the layers, each with the list of its ``weight_names``."""
    if _text(tree.attributes(root).get("backend", "")) == "theano":
        raise CheckpointError(
            "Keras saved it on Theano, which flips the kernels. Open it with Keras on TensorFlow, and save it again"
        )
    found = KerasFile()
    for layer in tree.strings(root, "layer_names"):
        at = "/".join(filter(None, (root, layer)))
        if at not in tree.groups:
            raise CheckpointError(f"it lists a layer {layer}, but does not contain it")
        weights = tree.strings(at, "weight_names")
        for weight in weights:
            *inside, last = weight.partition(":")[0].split("/")
            own = inside[-1] if inside else layer
            inside = inside[inside.index(layer) :] if layer in inside else [layer, *inside]
            name, key = ".".join(inside), "kernel" if last == "depthwise_kernel" else last
            if any(other.startswith(f"{weight.rpartition('/')[0]}/pointwise_kernel") for other in weights):
                key = SEPARABLE.get(last, last)
            found.add(name, key, places.get(name, KerasLayer(_kind(own))), tree.array(f"{at}/{weight}"))
    return found
