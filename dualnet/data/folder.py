"""Your own photos, read by Pillow: one folder for each class, with the name of the class."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy

from ..arguments import extents, flag, fraction, integer
from .reading import DataError, Split, check_dtype, check_folder, scaled

__all__ = ["load_folder", "read_image"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
HOW = "Put the images of each class into a folder of its own inside it, such as photos/cat/1.jpg and photos/dog/1.jpg."


def load_folder(
    folder: str | os.PathLike,
    size: int | tuple[int, int],
    *,
    grey: bool = False,
    held_out: float = 0.2,
    seed: int = 0,
    dtype: str = "float32",
) -> tuple[Split, Split, tuple[str, ...]]:
    """Images in folders, one folder for each class: ``(x, t), (x_test, t_test), names``.

    Each image is turned as its camera says, scaled to ``size`` (height and width; one number for a square, whatever the
    image's own shape) and converted to red, green and blue, or to ``grey``. x (N, H, W, C) is float32 in [0, 1], or
    bytes with ``dtype="uint8"``; t (N,) is int64: the place of the image's folder in ``names``, which are sorted.

    The fraction ``held_out`` of every class, at least one image, is drawn by ``seed`` and held out for testing; 0 holds
    out none. Other files, and names that start with a dot, are skipped.

    Needs Pillow (``pip install "dualnet[images]"``). Raises ``FileNotFoundError`` for a folder that does not exist and
    :class:`DataError` for one without classes, a class with too few images, or an image that cannot be read.

    >>> import dualnet as dn, tempfile, pathlib
    >>> photos = pathlib.Path(tempfile.mkdtemp())
    >>> for name, brightness in (("day", 200), ("night", 20)):
    ...     (photos / name).mkdir()
    ...     for i in range(5):
    ...         grey = bytes([brightness + i] * 12)
    ...         written = (photos / name / f"{i}.ppm").write_bytes(b"P6 2 2 255 " + grey)
    >>> (x, t), (x_test, t_test), names = dn.data.load_folder(photos, size=8)
    >>> x.shape, x_test.shape, sorted(t_test.tolist()), names
    ((8, 8, 8, 3), (2, 8, 8, 3), [0, 1], ('day', 'night'))
    """
    size, dtype = extents(size, "size", op="load_folder"), check_dtype(dtype, "load_folder")
    held_out, grey = fraction(held_out, "held_out", op="load_folder"), flag(grey, "grey", op="load_folder")
    order = numpy.random.default_rng(integer(seed, "seed", op="load_folder", least=0))
    need_pillow()
    kept: list[tuple[Path, int]] = []
    back: list[tuple[Path, int]] = []
    names = []
    for label, path in enumerate(_classes(check_folder(folder, "load_folder", HOW))):
        files = [(file, label) for file in _files(path)]
        number = max(1, round(held_out * len(files))) if held_out else 0
        if len(files) <= number:
            raise DataError(f"{path}: {len(files)} images ({', '.join(SUFFIXES)}); expected at least {number + 1}")
        chosen = set(order.permutation(len(files))[:number].tolist())
        for place, file in enumerate(files):
            (back if place in chosen else kept).append(file)
        names.append(path.name)
    return _read(kept, size, grey, dtype), _read(back, size, grey, dtype), tuple(names)


def read_image(
    path: str | os.PathLike, size: int | tuple[int, int], *, grey: bool = False, dtype: str = "float32"
) -> numpy.ndarray:
    """One image as :func:`load_folder` reads it: (H, W, 3), or (H, W, 1) if ``grey``; ``x[None]`` is a batch of it.

    >>> import dualnet as dn, tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "red.ppm"
    >>> written = file.write_bytes(b"P6 1 1 255 " + bytes([255, 0, 51]))
    >>> dn.data.read_image(file, size=1, dtype="uint8").tolist()
    [[[255, 0, 51]]]
    """
    height, width = extents(size, "size", op="read_image")
    image, operations = need_pillow()
    try:
        with image.open(path) as file:
            upright = _eight_bits(operations.exif_transpose(file), image)
            found = upright.convert("L" if grey else "RGB").resize((width, height), image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise DataError(f"{path}: Pillow cannot read it as an image ({error}). Repair it or remove it.") from error
    return scaled(numpy.asarray(found).reshape(height, width, -1), check_dtype(dtype, "read_image"))


def need_pillow() -> tuple[Any, Any]:
    """Pillow's modules for images and for operations on them."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError('reading images from files needs Pillow: pip install "dualnet[images]"') from error
    return Image, ImageOps


def _eight_bits(picture: Any, image: Any) -> Any:
    """Scale 16 bits to 8; Pillow would cut them off at 255."""
    if not picture.mode.startswith("I"):
        return picture
    return image.fromarray((numpy.asarray(picture).astype(numpy.int64) // 256).clip(0, 255).astype(numpy.uint8))


def _classes(base: Path) -> list[Path]:
    found = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(found) < 2:
        inside = f"one folder, {found[0].name!r}," if found else "no folders"
        raise DataError(f"{base}: {inside} in it; expected at least two classes. {HOW}")
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _read(files: list[tuple[Path, int]], size: tuple[int, int], grey: bool, dtype: str) -> Split:
    x = numpy.empty((len(files), *size, 1 if grey else 3), dtype)
    for place, (file, _) in enumerate(files):
        x[place] = read_image(file, size, grey=grey, dtype=dtype)
    return x, numpy.array([label for _, label in files], numpy.int64)
