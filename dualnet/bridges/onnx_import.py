"""ONNX files as networks: nodes become layers, and the graph around them becomes containers.

For each value of the graph we know the layer that makes it, its shape here (H, W, C), and the order in which the file
lays out those axes. So a ``Transpose`` is not a layer: it only changes that order. Weights are turned from the file's
order into ours. regions.py then turns the flat list into nested containers.

Nothing in a file is run. Its claims are compared with its size before anything is allocated, and weights in separate
files are read from its own folder only.
"""

from __future__ import annotations

import os
from pathlib import Path

from .. import layers as L
from ..files.formats import MALFORMED, CheckpointError, shortened
from ..geometry import check_shape
from ..layers.layer import Shape
from .onnx_constants import Lacking
from .onnx_export import MOST_BYTES, need_onnx
from .onnx_graph import GraphReader
from .onnx_nodes import READERS

__all__ = ["from_onnx"]


def from_onnx(path: str | os.PathLike, *, input_shape: Shape | None = None) -> L.Sequential:
    """The network in an ONNX file, made of layers that you can inspect, train and save like any others.

    Images go in and maps come out as (N, H, W, C), whatever the layout of the file. ``input_shape`` (H, W, C) is needed
    only if the file leaves height or width open; the number of examples is always open. The network computes in the
    dtype of the file's input (float16, float32 or float64), on the current backend.

    It reads everything that the layers of dualnet cover: convolutions, dense layers, pooling, normalisation,
    activations, sums and concatenations of branches, even if an exporter has written an activation or a norm in small
    steps. A layer that was used twice becomes two layers with equal weights.

    Raises a ``ValueError`` that lists the nodes without a counterpart here, each kind once, or names the node at which
    the graph cannot be nested in containers; :class:`dualnet.CheckpointError` (a ``ValueError``) if the file is damaged
    or not an ONNX file; ``FileNotFoundError`` if it does not exist, and ``ImportError`` without ``dualnet[onnx]``.

    >>> import dualnet as dn, tempfile, pathlib
    >>> net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Flatten(), dn.Dense(2)]).init((5, 5, 1))
    >>> path = net.to_onnx(pathlib.Path(tempfile.mkdtemp()) / "net.onnx")
    >>> same = dn.from_onnx(path)
    >>> [type(layer).__name__ for layer in same], same.input_shape
    (['Conv2D', 'ReLU', 'Flatten', 'Dense'], (5, 5, 1))
    """
    onnx = need_onnx("from_onnx")
    found = Path(os.fsdecode(path)).expanduser()
    if found.is_dir():
        raise ValueError(f"from_onnx: {str(path)!r} is a folder; expected a file, such as model.onnx")
    with open(found, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MOST_BYTES:
            raise CheckpointError(f"{found}: it has {size:,} bytes; ONNX allows at most {MOST_BYTES:,}")
        content = file.read()
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # the package protobuf has its own errors
        raise CheckpointError(f"{found}: it is not an ONNX file ({shortened(str(error))})") from error
    given = None if input_shape is None else check_shape(input_shape, "from_onnx")
    try:
        return GraphReader(model, found, given, READERS).network()
    except CheckpointError:
        raise
    except Lacking as error:
        raise ValueError(f"{found}: {shortened(str(error))}") from error
    except (*MALFORMED, OSError) as error:
        raise CheckpointError(f"{found}: {shortened(str(error) or type(error).__name__)}") from error
