"""The numbers in an ONNX file, read on demand, after a check that their size is what the file claims."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy

from ..files.formats import MALFORMED, CheckpointError, shortened
from .onnx_patterns import Call

FLOATS = {1: "float32", 10: "float16", 11: "float64"}  # ONNX's numbers of dtypes
FLOATING = "float16, float32 or float64"
MOST_FOLDED = 1000
"""Elements of an array that is computed from others: it is the shape for a Reshape."""


class Lacking(ValueError):
    """There is no layer for this. The text follows the name of the node: "it pads twice, ..."."""


class Constants:
    """The numbers in a file, read on demand."""

    def __init__(self, model: Any, path: Path) -> None:
        self.folder = path.parent
        self.known: dict[str, Any] = {one.name: one for one in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.output:
                self.known[node.output[0]] = node

    def get(self, name: str) -> numpy.ndarray | None:
        """A constant; None for anything else."""
        return self.array(name) if name in self.known else None

    def array(self, name: str) -> numpy.ndarray:
        found = self.known[name]
        if not isinstance(found, numpy.ndarray):
            try:
                found = _of_node(found, self.folder) if hasattr(found, "op_type") else _array(found, self.folder)
            except MALFORMED as error:
                raise CheckpointError(f"constant {name!r}: {error}") from error
            self.known[name] = found
        return found

    def fold(self, call: Call) -> bool:
        arrays = [self.array(name) if name else None for name in call.inputs]
        if not arrays or arrays[0] is None or call.operator not in FOLDS:
            return False
        self.known[call.outputs[0]] = numpy.asarray(FOLDS[call.operator](call, *arrays))
        return True


def dtype_name(number: int) -> str:
    """The name of ONNX's dtype with this number, as NumPy spells it: 7 is "int64"."""
    from onnx import TensorProto

    names = {kind: name.lower() for name, kind in TensorProto.DataType.items()}
    return {"float": "float32", "double": "float64"}.get(found := names.get(number, f"number {number}"), found)


def _of_node(node: Any, folder: Path) -> numpy.ndarray:
    """The value of a Constant."""
    given = {one.name: one for one in node.attribute}
    if "value" in given:
        return _array(given["value"].t, folder)
    for name, dtype in (("value_int", "int64"), ("value_float", "float32")):
        if name in given:
            return numpy.array(given[name].i if name == "value_int" else given[name].f, dtype)
    if "value_ints" in given or "value_floats" in given:
        ints = "value_ints" in given
        return numpy.array(
            list(given["value_ints"].ints if ints else given["value_floats"].floats), "int64" if ints else "float32"
        )
    raise ValueError("it is a Constant node without numbers")


def _array(tensor: Any, folder: Path) -> numpy.ndarray:
    """A tensor of the file, after a check that its size is what it claims."""
    from onnx import TensorProto, helper, numpy_helper

    kinds = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32}
    if tensor.data_type not in kinds:
        raise ValueError(
            f"it has dtype {dtype_name(tensor.data_type)}; expected float16, float32, float64, int32 or int64"
        )
    dtype, dims = numpy.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)), tuple(tensor.dims)
    if len(dims) > 8 or any(n < 0 for n in dims):
        raise ValueError(f"it has the shape {dims[:9]}; expected at most 8 axes, none of them negative")
    count = math.prod(dims)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _beside(tensor, folder, dtype, count).reshape(dims)
    held = len(tensor.raw_data) // dtype.itemsize if tensor.HasField("raw_data") else None
    if held is None:
        held = len(getattr(tensor, helper.tensor_dtype_to_field(tensor.data_type)))
    if held != count or len(tensor.raw_data) % dtype.itemsize:
        raise ValueError(f"its shape {dims} has {count} elements, but the file holds {held}")
    return numpy_helper.to_array(tensor)


def _beside(tensor: Any, folder: Path, dtype: numpy.dtype, count: int) -> numpy.ndarray:
    """Numbers in a separate file: in the model's folder or one inside it, never anywhere else."""
    told = {one.key: one.value for one in tensor.external_data}
    home = os.path.realpath(folder)
    where = os.path.realpath(os.path.join(home, told.get("location", "")))
    if "location" not in told or os.path.commonpath([home, where]) != home or not os.path.isfile(where):
        raise CheckpointError(
            f"its numbers should be in {shortened(told.get('location', ''))!r}, but the model's folder has no such "
            "file. Copy it there"
        )
    offset, size = int(told.get("offset", 0)), count * dtype.itemsize
    if int(told.get("length", size)) != size or offset < 0 or offset + size > os.path.getsize(where):
        raise CheckpointError(
            f"its {count} elements do not fit into {told['location']!r} at byte {offset}. Export both files again"
        )
    return numpy.fromfile(where, dtype.newbyteorder("<"), count, offset=offset)


def _folded(make: Callable[..., numpy.ndarray]) -> Callable[..., numpy.ndarray]:
    """For nodes that make one array from several: only small ones, such as shapes."""

    def fold(call: Call, *arrays: numpy.ndarray) -> numpy.ndarray:
        size = sum(array.size for array in arrays if array is not None)
        if size > MOST_FOLDED:
            raise Lacking(f"it joins constants of {size:,} elements; expected at most {MOST_FOLDED:,}")
        return make(call, *arrays)

    return fold


def _axes_of(call: Call, array: numpy.ndarray, axes: numpy.ndarray | None) -> tuple[int, ...]:
    given = call.attributes.get("axes") if axes is None else axes.ravel().tolist()
    return tuple(int(axis) for axis in given or ())


FOLDS: dict[str, Callable[..., numpy.ndarray]] = {
    "Identity": lambda call, array: array,
    "Cast": lambda call, array: array.astype(FLOATS.get(call.attributes["to"], "int64")),
    "Transpose": lambda call, array: array.transpose(call.attributes.get("perm")),
    "Reshape": lambda call, array, shape: array.reshape([int(n) for n in shape.ravel()]),
    "Unsqueeze": lambda call, array, axes=None: numpy.expand_dims(array, _axes_of(call, array, axes)),
    "Squeeze": lambda call, array, axes=None: numpy.squeeze(array, _axes_of(call, array, axes) or None),
    "Concat": _folded(lambda call, *arrays: numpy.concatenate(arrays, axis=call.attributes["axis"])),
    "Gather": _folded(lambda call, array, at: numpy.take(array, at, axis=call.attributes.get("axis", 0))),
}
