"""Networks as ONNX files: what every layer computes in inference, in operators that other programs can run.

ONNX stores maps as (N, C, H, W), a network here as (N, H, W, C). Each value in the graph knows its layout, and a layer
asks for the layout that it needs. So the file has a transpose only where the layout changes, usually once after the
input. A flattened map stays in ONNX's order, and the rows of the ``Dense`` after it are put in that order instead.

onnx_export_graph.py defines the graph, onnx_export_layers.py exports each layer. Your own layer brings its own
method for that; see :class:`OnnxGraph`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy

from ..arguments import integer
from ..layers.entering import one_of_each
from ..layers.joining import check_classes
from ..layers.layer import Layer
from ..writing import replace_file
from .onnx_constants import FLOATING
from .onnx_export_graph import (
    FIRST,
    MOST_BYTES,
    ROWS,
    OnnxGraph,
    Value,
    by_own_method,
    exporter_of,
    no_exporter,
    told_shape,
)
from .onnx_export_layers import EXPORTERS
from .targets import AS_FLOAT32, target_of

__all__ = ["OnnxGraph", "to_onnx"]

LEAST_OPSET = 18
DTYPES = ("float16", "float32", "float64")


def to_onnx(net: Layer, path: str | os.PathLike, *, opset: int = 21, layout: str = "NHWC") -> Path:
    """Write the network as an ONNX file, for inference; returns the path written.

    The file's input ``"input"`` and output ``"output"`` are those of ``net(x)``, with any number of examples, in the
    network's dtype (float16, float32 or float64). With ``layout="NCHW"``, maps go in and come out with their channels
    first, as PyTorch and most ONNX tools have them. Dropout is left out.

    ``opset`` is ONNX's own version, from 18 to the newest that the package ``onnx`` knows; programs read files up to
    some opset. The file is replaced as a whole or not at all. Read it again with :func:`dualnet.from_onnx`.

    A layer of your own needs a method ``onnx_nodes(graph, x)``; see :class:`dualnet.bridges.onnx_export.OnnxGraph`.

    Raises a ``TypeError`` that names all layers that ONNX cannot hold (``Lambda`` is code), a ``ValueError`` for other
    networks and options, ``OSError`` if nothing can be written, and ``ImportError`` without ``dualnet[onnx]``.

    >>> import dualnet as dn, tempfile, pathlib
    >>> net = dn.models.lenet5().init((28, 28, 1))
    >>> net.to_onnx(pathlib.Path(tempfile.mkdtemp()) / "lenet5.onnx").name
    'lenet5.onnx'
    """
    target = target_of(path, "to_onnx", (".onnx",), any_ending=True)
    model = onnx_model(net, opset=opset, layout=layout)
    if model.ByteSize() > MOST_BYTES:
        raise ValueError(
            f"to_onnx: the file would have {model.ByteSize():,} bytes; ONNX allows at most {MOST_BYTES:,}. Keep the "
            "network with net.save(path)"
        )
    replace_file(target, model.SerializeToString())
    return target


def onnx_model(net: Layer, *, opset: int = 21, layout: str = "NHWC") -> Any:
    """The network as a model of the package ``onnx``."""
    if not isinstance(net, Layer):
        raise TypeError(f"to_onnx: expected a layer or network, got {type(net).__name__}")
    if net.input_shape is None:
        raise ValueError("to_onnx: the network has no parameters yet: call net.init(input_shape) first")
    if layout not in ("NHWC", "NCHW"):
        raise ValueError(f"to_onnx: layout must be 'NHWC' or 'NCHW', got {layout!r}")
    one_of_each(net, "to_onnx")
    check_classes(net, "to_onnx")
    _check_exporters(net)
    onnx = need_onnx("to_onnx")
    newest = onnx.defs.onnx_opset_version()
    if not LEAST_OPSET <= integer(opset, "opset", op="to_onnx") <= newest:
        raise ValueError(
            f"to_onnx: opset must be from {LEAST_OPSET} to {newest} (with onnx {onnx.__version__}), got {opset}"
        )
    dtype = numpy.dtype(net.dtype).name
    if dtype not in DTYPES:
        raise ValueError(f"to_onnx: the network computes in {dtype}; expected {FLOATING}. {AS_FLOAT32}")

    graph = OnnxGraph(opset, dtype, EXPORTERS)
    shape, first = tuple(net.input_shape), layout == "NCHW"
    y = graph.layer(net, "", Value("input", shape, FIRST if first and len(shape) == 3 else ROWS))
    first_out = first and len(y.shape) == 3
    result = graph.first(y) if first_out else graph.rows(y)
    return graph.model(told_shape(shape, first and len(shape) == 3), result, told_shape(y.shape, first_out), layout)


def need_onnx(op: str) -> Any:
    """The package ``onnx``, or how to install it."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError(f'{op}: ONNX files need the package onnx: pip install "dualnet[onnx]" ({error})') from error
    return onnx


def _check_exporters(net: Layer) -> None:
    lacking: dict[int, tuple[str, Layer]] = {}
    waiting = [("", net)]
    while waiting:
        path, layer = waiting.pop()
        exporter = exporter_of(layer, EXPORTERS)
        if exporter is None:
            lacking.setdefault(id(layer), (path, layer))
        elif exporter is not by_own_method:  # a layer with its own method also exports the layers inside
            inside = [(f"{path}.{name}" if path else name, child) for name, child in layer.children().items()]
            waiting += reversed(inside)
    if lacking:
        raise TypeError(no_exporter(list(lacking.values())))
