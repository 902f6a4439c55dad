"""The images in a file that a command is given."""

from __future__ import annotations

from pathlib import Path

import numpy

import dualnet as dn

from .. import data
from .subjects import DATASETS


def images_in(name: str, net: dn.Layer) -> numpy.ndarray:
    """Images (N, H, W), (N, H, W, C) or a single one; bytes are scaled to [0, 1], floating numbers stay as they are."""
    if not Path(name).is_file():
        raise ValueError(f"{name!r} is neither a file nor one of {', '.join(DATASETS)}")
    if name.endswith(".npy"):
        x = data.reading.read_npy(name)
    elif name.lower().endswith(data.folder.SUFFIXES):
        height, width, channels = net.input_shape or ()
        x = data.read_image(name, (height, width), grey=channels == 1)
    else:
        x = data.read_idx(name)
    shape = net.input_shape or ()
    if shape[-1:] == (1,) and len(shape) == 3 and x.shape[-2:] == shape[:-1]:
        x = x[..., None]
    if x.ndim == len(shape):
        x = x[None]
    return x.astype(numpy.float32) / 255 if x.dtype == numpy.uint8 else x
