"""The images that a command is given: photos, folders of photos, and arrays in files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

import dualnet as dn

from .. import data
from ..data.folder import photos_in
from ..data.inputs import InputSpec
from ..terminal import say
from .subjects import DATASETS


@dataclass(frozen=True)
class Picture:
    """An image x (H, W, C) from 0 to 1, or with the numbers of a floating-point array; or why there is none."""

    name: str
    x: numpy.ndarray | None
    why: str = ""
    ready: bool = False  # floating-point numbers, as the network takes them


def pictures(names: Sequence[str], net: dn.Layer) -> Iterator[Picture]:
    """All images in these files and folders, one at a time. If a photo cannot be read, its picture says why.

    Raises ``ValueError`` at once for a name that is neither a file nor a folder, or for a single file that cannot be
    read.
    """
    paths = [Path(name).expanduser() for name in names]
    for name, path in zip(names, paths):
        if not path.exists():
            raise ValueError(f"{name!r} is neither a file, a folder nor one of {', '.join(DATASETS)}")
    return _each(paths, net)


def images_in(name: str, net: dn.Layer) -> numpy.ndarray:
    """Images (N, H, W, C) in one file, as the network takes them."""
    if not Path(name).is_file():
        what = "is a folder; expected one file of images" if Path(name).is_dir() else "is neither a file nor one of "
        raise ValueError(f"{name!r} {what}{'' if Path(name).is_dir() else ', '.join(DATASETS)}")
    return numpy.stack([as_input(net, picture) for picture in pictures([name], net)])


def as_input(net: dn.Layer, picture: Picture, invert: bool = False) -> numpy.ndarray:
    """The picture as the network takes it."""
    spec: InputSpec | None = getattr(net, "input", None)
    x: Any = 1 - picture.x if invert else picture.x  # type: ignore[operator]
    return x if spec is None or picture.ready else spec.normalised(x)


def _each(paths: list[Path], net: dn.Layer) -> Iterator[Picture]:
    alone = len(paths) == 1 and not paths[0].is_dir()
    for path in paths:
        if path.is_dir():
            photos, skipped = photos_in(path)
            for photo in photos:
                yield _photo(photo, net)
            if skipped:
                say(f"note: {path}: {skipped}", "stderr")
        elif alone:
            yield from _in_file(path, net, "image {}")
        else:
            try:
                yield from _in_file(path, net, f"{path}[{{}}]")
            except (data.DataError, OSError) as error:
                yield Picture(str(path), None, _without(path, error))


def _photo(path: Path, net: dn.Layer) -> Picture:
    try:
        return Picture(str(path), _read_photo(path, net.input_shape or ()))
    except (data.DataError, OSError) as error:
        return Picture(str(path), None, _without(path, error))


def _without(path: Path, error: Exception) -> str:
    """What is wrong, without the file's name."""
    return str(error).removeprefix(f"{path}: ")


def _in_file(path: Path, net: dn.Layer, name: str) -> Iterator[Picture]:
    """The images in a file: one of a photo, several of an array."""
    shape = net.input_shape or ()
    array = _array(path)
    if array is None:
        yield Picture(str(path), _read_photo(path, shape))
        return
    x = _fitted(array, path, shape)
    if x.dtype.kind in "iu" and x.dtype != numpy.uint8:
        raise data.DataError(
            f"{path}: it holds {x.dtype}; expected bytes (uint8), or floating-point numbers as in training"
        )
    for i, image in enumerate(x):
        ready = x.dtype != numpy.uint8
        yield Picture(name.format(i), image if ready else image.astype(numpy.float32) / 255, ready=ready)


def _array(path: Path) -> numpy.ndarray | None:
    """An array, whatever its shape, from an .npy or IDX file, recognized by its first bytes or its name; None if the
    file is a photo."""
    with open(path, "rb") as file:
        head = file.read(6)
    if path.suffix == ".npy" or head == b"\x93NUMPY":
        return data.reading.read_npy(path)
    zeros, kind, axes = head[:2] == b"\0\0", head[2:3], head[3:4]
    is_idx = zeros and kind != b"" and kind[0] in data.idx.TYPES and axes > b"\0"
    if is_idx or head[:2] == data.idx.GZIP or "idx" in path.name.lower():
        return data.read_idx(path)
    return None


def _read_photo(path: Path, shape: tuple[int, ...]) -> numpy.ndarray:
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise ValueError(f"{path}: an image file is for networks of (height, width, 1 or 3); this one takes {shape}")
    with _without_libtiff():
        return data.read_image(path, shape[:2], grey=shape[2] == 1)


def _fitted(x: numpy.ndarray, path: Path, shape: tuple[int, ...]) -> numpy.ndarray:
    """With an axis for examples and, for grey images, one for channels."""
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


def in_batches(given: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """This many pictures at a time."""
    batch: list[Picture] = []
    for picture in given:
        batch.append(picture)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _without_libtiff() -> Iterator[None]:
    """Hide what libtiff, below Python, writes to stderr about a damaged file; our error says it in one line."""
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
