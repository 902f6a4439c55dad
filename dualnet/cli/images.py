"""The images in a file that a command is given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy

import dualnet as dn

from .. import data
from .subjects import DATASETS


def images_in(name: str, net: dn.Layer) -> numpy.ndarray:
    """Images (N, H, W, C) as the network takes them; bytes are scaled to [0, 1], floating numbers stay as they are."""
    path, shape = Path(name), net.input_shape or ()
    if not path.is_file():
        folder = "a folder; expected one file of images" if path.is_dir() else "neither a file nor one of "
        raise ValueError(f"{name!r} is {folder}{'' if path.is_dir() else ', '.join(DATASETS)}")
    x = _fitted(_read(path, shape), path, shape)
    if x.dtype == numpy.uint8:
        return x.astype(numpy.float32) / 255
    if x.dtype.kind in "iu":
        raise data.DataError(f"{name}: it holds {x.dtype}; expected bytes (uint8), or floating numbers as in training")
    return x


def _read(path: Path, shape: tuple[int, ...]) -> numpy.ndarray:
    """An array, whatever its shape: from an .npy or IDX file, by its first bytes or its name; else from a photo."""
    with open(path, "rb") as file:
        head = file.read(6)
    if path.suffix == ".npy" or head == b"\x93NUMPY":
        return data.reading.read_npy(path)
    zeros, kind, axes = head[:2] == b"\0\0", head[2:3], head[3:4]
    is_idx = zeros and kind != b"" and kind[0] in data.idx.TYPES and axes > b"\0"
    if is_idx or head[:2] == data.idx.GZIP or "idx" in path.name.lower():
        return data.read_idx(path)
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"{path}: an image file is for networks of (height, width, 1 or 3); this one takes {shape}")
    with _without_libtiff():
        return data.read_image(path, shape[:2], grey=shape[2] == 1)


def _fitted(x: numpy.ndarray, path: Path, shape: tuple[int, ...]) -> numpy.ndarray:
    """With the axis of examples and, for grey images, that of channels."""
    if len(shape) == 3 and shape[2] == 1 and x.shape[-2:] == shape[:2]:
        x = x[..., None]
    if x.shape == shape:
        x = x[None]
    if x.shape[1:] != shape or not shape:
        labels = " These look like labels." if x.ndim == 1 else ""
        raise data.DataError(
            f"{path}: it holds an array of {x.shape}; the network takes images of {shape}, any number of them.{labels}"
        )
    if len(x) == 0:
        raise data.DataError(f"{path}: it holds no images, only the shape {x.shape}")
    return x


@contextmanager
def _without_libtiff() -> Iterator[None]:
    """Without what libtiff, below Python, writes to stderr of a damaged file; the error says it in a line."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
