"""ONNX files as networks: nodes become layers, and the graph around them becomes containers.

Each value of the graph is known by the layer that makes it, by its shape here (H, W, C), and by the order in which the
file lays out those axes. So a ``Transpose`` is no layer: it only changes that order. What a layer needs of its weights
is turned from the file's order into ours. regions.py then makes nested containers of the flat list.

Nothing in a file is run. What it claims is compared with its size before anything is allocated, and weights that lie
in files beside it are read from its own folder only.
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
    """The network in an ONNX file, of layers that can be looked into, trained and saved like any others.

    Images go in and maps come out as (N, H, W, C), however the file has them. ``input_shape`` (H, W, C) is needed only
    if the file leaves height or width open; the number of examples is always free. The network computes in the dtype
    of the file's input (float16, float32 or float64), on the backend in force.

    What the layers of dualnet cover is read: convolutions, dense layers, pooling, normalisation, activations, sums and
    concatenations of branches, also where an exporter has written an activation or a norm in small steps. A layer that
    was used twice becomes two of the same weights.

    Raises ``ValueError`` that lists the nodes without a counterpart here, each kind once, or says at which node the
    graph is no nest of containers; :class:`dualnet.CheckpointError` (a ``ValueError``) for a file that is damaged or
    something else; ``FileNotFoundError`` if there is none, and ``ImportError`` without ``dualnet[onnx]``.

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
            raise CheckpointError(f"{found}: it has {size:,} bytes; one ONNX file has at most {MOST_BYTES:,}")
        content = file.read()
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # the package protobuf has errors of its own
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
