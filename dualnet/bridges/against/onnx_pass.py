"""One forward pass of an ONNX model in onnxruntime, with the output of every node; each node is judged by itself."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy

from ...files.formats import MALFORMED, CheckpointError, shortened
from ...parity.cases.limits import UNIT
from ...shim import use_backend
from ..onnx_constants import FLOATS, Constants
from ..onnx_export import MOST_BYTES, need_onnx
from ..onnx_graph import GraphReader
from ..onnx_nodes import READERS
from .judging import judge
from .onnx_twins import OneNode, is_real, turn
from .report import Report, Row, distance
from .steps import Arrays, NodeRun, Twin

__all__ = ["against_onnx", "is_onnx", "random_input"]

WHOLE = 1e4
"""How many units of round-off the optimised graph may be from the plain one: it adds up in a different order."""
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
REFERENCE = "onnx.reference in float64"


def is_onnx(source: Any) -> bool:
    """Is it a path, or a model of the package ``onnx``?"""
    return isinstance(source, (str, os.PathLike)) or type(source).__name__ == "ModelProto"


def against_onnx(source: Any, x: Any) -> Report:
    """The report for a model and one batch."""
    begun = time.perf_counter()
    model, name = _loaded(source)
    entry = _entry(model)
    x = _input(entry, x)
    report = Report(name, them="onnxruntime")
    values = {entry.name: x, **_outputs(model, {entry.name: x}, _kept(model), optimised=False)}
    report.rows += _judged(model, entry.name, values, report)
    result = model.graph.output[0].name
    report.rows += _optimised(model, entry.name, x, values.get(result))
    _whole(model, entry, x, values.get(result), report)
    report.seconds = time.perf_counter() - begun
    return report


# -- the model and its input -------------------------------------------------------------------------------------------


def _loaded(source: Any) -> tuple[Any, str]:
    """A copy of the model that contains all its numbers, and its name."""
    onnx = need_onnx("against")
    if not isinstance(source, (str, os.PathLike)):
        model, name, path = onnx.ModelProto.FromString(source.SerializeToString()), "the model", Path()
    else:
        path = Path(os.fsdecode(source)).expanduser()
        if path.is_dir():
            raise ValueError(f"against: {str(source)!r} is a folder; expected a file, such as model.onnx")
        if path.stat().st_size > MOST_BYTES:
            raise CheckpointError(f"{path}: it is too large; ONNX allows at most {MOST_BYTES:,} bytes")
        try:
            model, name = onnx.ModelProto.FromString(path.read_bytes()), path.name
        except Exception as error:  # the package protobuf has errors of its own
            raise CheckpointError(f"{path}: it is not an ONNX file ({shortened(str(error))})") from error
    if not model.graph.node:
        raise CheckpointError(f"{path if path.name else name}: it is not an ONNX file, or it holds no graph")
    constants = Constants(model, path)
    try:
        for one in model.graph.initializer:
            if one.data_location == onnx.TensorProto.EXTERNAL:  # read from its own folder only
                one.CopyFrom(onnx.numpy_helper.from_array(constants.array(one.name), one.name))
    except MALFORMED as error:
        raise CheckpointError(f"{path}: {shortened(str(error))}") from error
    return model, name


def _entry(model: Any) -> Any:
    """The only input without a value."""
    filled = {one.name for one in model.graph.initializer}
    found = [one for one in model.graph.input if one.name not in filled]
    if len(found) != 1 or found[0].type.tensor_type.elem_type not in FLOATS:
        told = ", ".join(one.name for one in found) or "none"
        raise ValueError(f"against: the model has the inputs {told}; expected one, of real numbers")
    return found[0]


def _dims(entry: Any) -> list[int | None]:
    """The extents of the input; None where it is open."""
    dims = entry.type.tensor_type.shape.dim
    return [one.dim_value if one.HasField("dim_value") and one.dim_value > 0 else None for one in dims]


def _input(entry: Any, x: Any) -> numpy.ndarray:
    dtype, dims = FLOATS[entry.type.tensor_type.elem_type], _dims(entry)
    array = numpy.asarray(x)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"against: x has dtype {array.dtype}; expected numbers")
    if entry.type.tensor_type.HasField("shape"):
        fits = array.ndim == len(dims) and all(n in (None, m) for n, m in zip(dims, array.shape))
        if not fits or not array.size:
            told = ", ".join("any" if n is None else str(n) for n in dims)
            raise ValueError(f"against: x has shape {array.shape}; expected ({told})")
    return array.astype(dtype)


def random_input(source: Any, batch: int, seed: int) -> numpy.ndarray:
    """Normal random numbers in the shape of the model's input; ``batch`` examples if it leaves their number open."""
    entry = _entry(_loaded(source)[0])
    dims = _dims(entry)
    if not dims or None in dims[1:]:
        told = ", ".join("any" if n is None else str(n) for n in dims)
        raise ValueError(f"against: the model takes inputs of shape ({told}). Pass one as x")
    shape = (dims[0] or batch, *(n for n in dims[1:] if n))
    return numpy.random.default_rng(seed).standard_normal(shape).astype(FLOATS[entry.type.tensor_type.elem_type])


# -- the forward pass --------------------------------------------------------------------------------------------------


def _kept(model: Any) -> list[str]:
    return [name for node in model.graph.node for name in node.output if name and node.op_type != "Constant"]


def _outputs(model: Any, feeds: Arrays, names: list[str], optimised: bool) -> Arrays:
    """The tensors that onnxruntime computes, by name; other values are left out."""
    runtime, onnx = _need_onnxruntime(), need_onnx("against")
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    copy.graph.ClearField("output")
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        with redirect_stdout(io.StringIO()):  # onnxruntime would print here that it tries a rejected model again
            session = runtime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = dict(zip(names, session.run(names, feeds)))
    except Exception as error:  # onnxruntime has a family of its own
        raise ValueError(f"against: onnxruntime cannot run the model: {shortened(str(error))}") from error
    return {name: array for name, array in found.items() if isinstance(array, numpy.ndarray)}


def _need_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            'against needs onnxruntime, which runs ONNX files: pip install "dualnet[onnxruntime]"'
        ) from error
    return onnxruntime


# -- the nodes ---------------------------------------------------------------------------------------------------------


def _judged(model: Any, entry: str, values: Arrays, report: Report) -> Iterator[Row]:
    """Rows for each node that computes with real numbers."""
    constants = Constants(model, Path())
    computed, untold = {entry}, []
    for node in model.graph.node:
        if computed.intersection(node.input):
            computed.update(node.output)
        given = {name: _value(constants, values, report, name) for name in node.input if name}
        for output in node.output:
            if not is_real(values.get(output)) or not any(map(is_real, given.values())):
                continue  # shapes, and other integers
            rows = list(_rows(node, given, computed, output, values[output], model)) if _whole_node(node, given) else []
            untold += [] if rows else [f"{node.name or output} ({node.op_type})"]
            yield from rows
    if untold:
        more = f" and {len(untold) - 5} more" if len(untold) > 5 else ""
        report.notes.append(f"nothing could be compared at {', '.join(untold[:5])}{more}")


def _value(constants: Constants, values: Arrays, report: Report, name: str) -> Any:
    """The input of a node with this name; None if it is unknown."""
    if name in values:
        return values[name]
    try:
        return constants.get(name)
    except ValueError:  # of a dtype that is not read
        return None


def _whole_node(node: Any, given: dict[str, Any]) -> bool:
    """Is everything known on which its result depends?"""
    inside = any(attribute.type in (5, 10) for attribute in node.attribute)  # graphs: what they take is not listed
    return not inside and node.op_type not in RANDOM and all(array is not None for array in given.values())


def _rows(node: Any, given: Arrays, computed: set[str], output: str, y: numpy.ndarray, model: Any) -> Iterator[Row]:
    one = OneNode(node, given, computed, output, model.opset_import)
    twin, arrays = one.twin(y)
    run = NodeRun(node.name or output, node.op_type, arrays, y, twin=twin, again=one.again)
    for row in judge(run):
        if row.witness == "itself in float64":
            row = replace(row, witness=REFERENCE, story=row.story.replace("its own code in float64", REFERENCE))
        elif not row.ok and twin is not None:
            row = _umpired(row, run, twin, one)
        yield row


def _umpired(row: Row, run: NodeRun, twin: Twin, one: OneNode) -> Row:
    """Compare theirs and ours with the standard's reference: the one that is much further from it is wrong."""
    try:
        truth = one.again({name: a.astype("float64") if is_real(a) else a for name, a in run.values.items()})[0]
    except Exception:  # an operator that the reference does not have
        return row
    ours = twin.run({name: twin.turned(name, array) for name, array in run.values.items()})[0]
    here, there = distance(ours, twin.turned("y", truth)), distance(run.y, truth)
    fault = "ours" if here > 4 * there else "theirs" if there > 4 * here else "undecided"
    if fault == row.fault:
        return row
    story = f"its output is {there:.1e} from {REFERENCE}, dualnet's {twin.kind} is {here:.1e} from it."
    return replace(row, fault=fault, witness=REFERENCE, story=story)


# -- the whole ---------------------------------------------------------------------------------------------------------


def _optimised(model: Any, entry: str, x: numpy.ndarray, plain: Any) -> Iterator[Row]:
    """The output of the graph as onnxruntime optimises it, compared with that of the nodes one by one."""
    if not is_real(plain):
        return
    result = model.graph.output[0].name
    y = _outputs(model, {entry: x}, [result], optimised=True)[result]
    error, allowed = distance(y, plain), WHOLE * UNIT[plain.dtype.name]
    story = f"with its graph optimisations on, the output is {error:.1e} from that of the nodes, allowed {allowed:.1e}."
    fault = "" if error <= allowed else "theirs"
    yield Row("whole graph", "optimised", "y", error, allowed, error / allowed, fault, "its own nodes", "", story)


def _whole(model: Any, entry: Any, x: numpy.ndarray, plain: Any, report: Report) -> None:
    """How far the output of our whole network is from theirs."""
    if not is_real(plain):
        return
    for axis, extent in zip(entry.type.tensor_type.shape.dim, x.shape):
        axis.dim_value = extent
    reader = GraphReader(model, Path(), None, READERS)
    try:
        with use_backend("numpy"):
            net = reader.network()
            before: Any = reader.values[entry.name]
            after: Any = reader.values[model.graph.output[0].name]
            y = net.predict(turn(before.order, x.ndim, (len(x), *before.shape))(x))
    except MALFORMED as error:
        why = str(error).partition(": ")[0] if "no counterpart" in str(error) else shortened(str(error))
        report.notes.append(f"dn.from_onnx does not read the whole model, so it has no output of ours: {why}")
        return
    report.logits = distance(y, turn(after.order, plain.ndim, y.shape)(plain))
