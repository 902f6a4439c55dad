"""One image file, read by Pillow as people see it: upright, over a background, from 0 (black) to 1 (white)."""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy

from ..arguments import extents, flag, integer
from .reading import DataError, check_dtype, scaled

__all__ = ["read_image"]

NOT_READ = {
    "BUFR": "Pillow only recognises it",
    "EPS": "reading it runs another program, Ghostscript",
    "GRIB": "Pillow only recognises it",
    "HDF5": "Pillow only recognises it",
    "MPEG": "it is a video",
    "WMF": "it is a drawing, not pixels",
    "XBM": "it does not say which of its two colours is the ink",
}
"""Formats that Pillow opens but we do not, and why."""

SIXTEEN_BITS = ("ICNS", "ICO", "IM", "JPEG2000", "PNG", "PPM", "TIFF")
"""Formats in which 65535 is white."""

FREE = 4 * 2**20
"""Every file may hold this many pixels ..."""
PIXELS_PER_BYTE = 2000
"""... and larger images this many per byte of their file. PNG packs up to 344 colour pixels into a byte, JPEG 85."""


def read_image(
    path: str | os.PathLike | BinaryIO,
    size: int | tuple[int, int],
    *,
    grey: bool = False,
    background: str | tuple[int, int, int] = "white",
    dtype: str = "float32",
) -> numpy.ndarray:
    """One image as an array (H, W, 3), or (H, W, 1) if ``grey``; ``x[None]`` is a batch of it.

    ``path`` names the file, or is a file that is open for reading bytes, such as ``io.BytesIO(data)``.

    The image is turned upright, scaled to ``size`` (height and width, or one number for a square, whatever the shape of
    the image), and converted to red, green and blue, or to ``grey``. x is float32 in
    [0, 1], or bytes with ``dtype="uint8"``. Transparent parts show the ``background``: the name of a colour,
    ``"#rrggbb"``, or (red, green, blue), each from 0 to 255.

    16-bit pixels are divided by 65535, so white is 1 in every depth. Floating-point pixels have to be in [0, 1]. From
    an animation, or a file with several pages, only the first picture is read. Colour profiles are ignored.

    Needs Pillow (``pip install "dualnet[images]"``). Raises ``FileNotFoundError`` or ``PermissionError`` for a file
    that cannot be opened, and :class:`DataError` for one that is damaged or cut off, whose pixels have no standard
    range (32-bit integers), or that unpacks to far more pixels than its bytes can genuinely hold.

    >>> import dualnet as dn, tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "red.ppm"
    >>> written = file.write_bytes(b"P6 1 1 255 " + bytes([255, 0, 51]))
    >>> dn.data.read_image(file, size=1, dtype="uint8").tolist()
    [[[255, 0, 51]]]
    """
    size, dtype = extents(size, "size", op="read_image"), check_dtype(dtype, "read_image")
    grey, background = flag(grey, "grey", op="read_image"), colour(background, "read_image")
    return pixels(path, size, grey, background, dtype)


def pixels(
    path: str | os.PathLike | BinaryIO, size: tuple[int, int], grey: bool, background: tuple[int, int, int], dtype: str
) -> numpy.ndarray:
    """The result of :func:`read_image`, for arguments that have been checked."""
    image = need_pillow()
    with _opened_file(path) as stream, _quiet():
        path = "the image" if stream is path else path
        try:
            picture = _flat(_upright(_opened(stream, image), image), background, image)
            return _fitted(picture, size, grey, dtype, image)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error.__cause__
        except Exception as error:  # each of Pillow's many readers raises its own error for a damaged file
            why = " ".join(str(error).split()).replace(f" {stream!r}", "") or type(error).__name__
            raise DataError(f"{path}: Pillow cannot read it as an image ({why}). Repair it or remove it.") from error


def _opened_file(path: Any) -> Any:
    """The file of this name, opened; an open file stays as it is, and its owner closes it."""
    if hasattr(path, "read") and hasattr(path, "seek"):
        return nullcontext(path)
    path = Path(path)
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: it is {'a folder' if path.is_dir() else 'not a regular file'}; expected an image")
    return open(path, "rb")


def need_pillow() -> Any:
    """Pillow's module for images, with all its formats."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading images from files needs Pillow; pip install "dualnet[images]"') from error
    Image.init()
    return Image


def suffixes() -> tuple[str, ...]:
    """The suffixes, in lower case, of the files that :func:`read_image` reads.

    >>> {".jpg", ".png", ".webp", ".jfif"} <= set(suffixes()), ".eps" in suffixes()
    (True, False)
    """
    image = need_pillow()
    named = image.registered_extensions().items()
    return tuple(sorted(end.lower() for end, name in named if name in image.OPEN and name not in NOT_READ))


def colour(background: Any, op: str) -> tuple[int, int, int]:
    """A colour as (red, green, blue), from its name or its numbers.

    >>> colour("#ff0000", "read_image"), colour((0, 0, 255), "read_image")
    ((255, 0, 0), (0, 0, 255))
    """
    if isinstance(background, str):
        need_pillow()
        from PIL import ImageColor

        try:
            red, green, blue = ImageColor.getrgb(background)[:3]
        except ValueError:
            raise ValueError(f"{op}: unknown background {background!r}; 'white' and '#ff8000' are colours") from None
        return red, green, blue
    if not isinstance(background, (tuple, list)) or len(background) != 3:
        raise TypeError(f"{op}: background must be a colour's name or (red, green, blue), got {background!r}")
    red, green, blue = (integer(part, "background", op=op, least=0) for part in background)
    if max(red, green, blue) > 255:
        raise ValueError(f"{op}: the numbers of background must be from 0 to 255, got {background!r}")
    return red, green, blue


# -- from a file to an upright picture ---------------------------------------------------------------------------------


def _opened(stream: Any, image: Any) -> Any:
    """The picture, decoded, but only after a check of its size."""
    length = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if length == 0:
        raise DataError("the file is empty")
    for width, height in _sizes_of_icons(stream, length):  # Pillow decodes these while it opens the file
        _check_size(width, height, length)
    picture = image.open(stream)
    if picture.format in NOT_READ:
        raise DataError(f"{picture.format} images are not supported: {NOT_READ[picture.format]}. Convert it to PNG.")
    width, height = picture.size
    _check_size(width, height, length)
    if getattr(picture, "lut", None):  # in the format IM
        raise DataError("its greys come from a table, which Pillow does not apply. Convert it to PNG.")
    rawmode = _rawmode(picture)
    picture.load()
    picture.rawmode = rawmode  # load() forgets it
    return picture


def _check_size(width: int, height: int, length: int) -> None:
    if width * height > max(FREE, PIXELS_PER_BYTE * length):
        raise DataError(
            f"it claims {width} x {height} pixels in {length:,} bytes, which only a damaged or malicious file does. "
            "If the picture is real, save it again as an uncompressed image."
        )


def _sizes_of_icons(stream: Any, length: int) -> Iterator[tuple[int, int]]:
    """(width, height) of each picture inside an icon file (.ico, .cur, .icns)."""
    head = stream.read(6)
    stream.seek(0)
    if head[:4] not in (b"\0\0\1\0", b"\0\0\2\0", b"icns"):
        return
    data = stream.read(min(length, 2**25))
    stream.seek(0)
    if head[:4] != b"icns":
        for place in range(6, min(len(data), 6 + 16 * struct.unpack("<H", head[4:])[0]) - 15, 16):
            start = struct.unpack_from("<I", data, place + 12)[0]
            if data[start : start + 1] == b"\x28" and len(data) >= start + 12:  # the header of a bitmap
                width, height = struct.unpack_from("<ii", data, start + 4)
                yield abs(width), abs(height)
    for signature, offset in ((b"\x89PNG\r\n\x1a\n", 16), (b"\xff\x4f\xff\x51", 8)):  # PNG, JPEG 2000
        start = data.find(signature)
        while 0 <= start <= len(data) - offset - 8:
            yield struct.unpack_from(">II", data, start + offset)
            start = data.find(signature, start + 1)


def _rawmode(picture: Any) -> str:
    """How the file stores its pixels, in Pillow's words, such as ``L;4`` for four bits each; or nothing."""
    arguments = picture.tile[0][3] if getattr(picture, "tile", None) else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _upright(picture: Any, image: Any) -> Any:
    """Turned upright, as its camera recorded. A damaged record counts as none, as in every viewer."""
    if picture.format == "TIFF":
        return picture  # Pillow has turned it, and in some versions still keeps the record
    try:
        orientation = picture.getexif().get(0x0112, 1)
    except Exception:
        return picture
    turn = image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }
    if orientation not in turns:
        return picture
    turned = picture.transpose(turns[orientation])
    turned.format, turned.rawmode = picture.format, picture.rawmode
    return turned


# -- to colours that mean what people see ------------------------------------------------------------------------------


def _flat(picture: Any, background: tuple[int, int, int], image: Any) -> Any:
    """Without transparency; deep pixels as floating numbers from 0 to 1 (mode F), all others in 8 bits."""
    mode, key = picture.mode, picture.info.get("transparency")
    signed = 2 in _tag(picture, 339)
    if signed and mode != "F":
        raise DataError(f"its pixels are signed integers, which have no standard value for white. {CONVERT}")
    opaque = _deep(picture, image) if mode[:1] in "IF" else picture
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or mode == "P" and _has_alpha(picture):
        whole = (picture.convert("LA") if mode == "La" else picture).convert("RGBA")
        return _over(background, whole, whole.getchannel("A"), image)
    if key is not None and mode != "P":
        alpha = image.fromarray(numpy.where(_is_key(picture, key), 0, 255).astype(numpy.uint8))
        return _over(background, _bytes(opaque, image).convert("RGB"), alpha, image)
    return opaque


CONVERT = 'Scale it to 0 … 255 yourself and save it as PNG: Image.fromarray(a.astype("uint8")).save("x.png").'


def _deep(picture: Any, image: Any) -> Any:
    """16-bit or floating pixels as floating numbers from 0 to 1."""
    values = numpy.asarray(picture)
    if picture.mode != "F":
        values = values / numpy.float32(_whole(picture))
    least, largest = float(values.min()), float(values.max())
    if not 0 <= least <= largest <= 1:  # NaN too
        raise DataError(f"its pixels go from {least:g} to {largest:g}; expected floating numbers in [0, 1]. {CONVERT}")
    white_is_zero = picture.format == "TIFF" and 0 in _tag(picture, 262)  # which Pillow respects only up to 8 bits
    return image.fromarray((1 - values if white_is_zero else values).astype(numpy.float32, copy=False))


def _whole(picture: Any) -> int:
    """The number that stands for white."""
    sixteen = picture.mode != "I" or picture.format in ("ICNS", "ICO", "PNG", "PPM")
    if not sixteen or picture.format not in SIXTEEN_BITS:
        bits = "16" if sixteen else "32"
        raise DataError(
            f"its pixels are {bits}-bit integers, which have no standard value for white in {picture.format}. {CONVERT}"
        )
    return 4095 if 12 in _tag(picture, 258) else 65535


def _tag(picture: Any, number: int) -> tuple[int, ...]:
    """The values of a TIFF tag."""
    value = (getattr(picture, "tag_v2", None) or {}).get(number, ())
    return value if isinstance(value, tuple) else (value,)


def _has_alpha(picture: Any) -> bool:
    return "transparency" in picture.info or str(getattr(picture.palette, "mode", "")).endswith("A")


def _is_key(picture: Any, key: Any) -> numpy.ndarray:
    """Where the pixels have the one colour that means transparent. (Pillow misses it below and above 8 bits.)"""
    values = numpy.asarray(picture)
    if picture.rawmode.startswith("RGB;16"):
        raise DataError(
            "it has 16-bit colours and one of them is transparent, but Pillow cannot tell which. Save it again."
        )
    if picture.mode == "1":
        return values == bool(key)
    if picture.mode == "RGB":
        return (values == numpy.array(key)).all(axis=-1)
    if picture.mode == "L" or picture.mode.startswith("I"):
        return values == key * {"L;2": 85, "L;4": 17}.get(picture.rawmode, 1)
    raise DataError(f"it has a transparent colour in mode {picture.mode}, which is not supported. Save it as RGBA.")


def _over(background: tuple[int, int, int], picture: Any, alpha: Any, image: Any) -> Any:
    """background · (1 − alpha) + picture · alpha, for every pixel."""
    flat = image.new("RGB", picture.size, background)
    flat.paste(picture, mask=alpha)
    return flat


def _bytes(picture: Any, image: Any) -> Any:
    if picture.mode != "F":
        return picture
    return image.fromarray(numpy.rint(255 * numpy.asarray(picture)).astype(numpy.uint8))


def _fitted(picture: Any, size: tuple[int, int], grey: bool, dtype: str, image: Any) -> numpy.ndarray:
    """Scaled to the size: (H, W, 3), or (H, W, 1) if grey."""
    (height, width), deep = size, picture.mode == "F"
    if picture.mode in ("LAB", "HSV"):
        picture = picture.convert("RGB")  # there is no direct way to grey
    found = picture if deep else picture.convert("L" if grey else "RGB")
    values = numpy.asarray(found.resize((width, height), image.Resampling.BILINEAR)).reshape(height, width, -1)
    if not deep:
        return scaled(values, dtype)
    values = numpy.repeat(values.clip(0, 1), 1 if grey else 3, axis=-1)
    return numpy.rint(255 * values).astype(numpy.uint8) if dtype == "uint8" else values


# -- quiet -------------------------------------------------------------------------------------------------------------

_lock, _readers, _filters = threading.Lock(), 0, warnings.catch_warnings()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings (odd camera records, many pixels): an image is read, or an error says why not.

    Warning filters belong to the whole process, so the first of several threads changes them, and the last one
    restores them.
    """
    global _readers, _filters
    with _lock:
        if _readers == 0:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\b|dualnet\.data\.images")
        _readers += 1
    try:
        yield
    finally:
        with _lock:
            _readers -= 1
            if _readers == 0:
                _filters.__exit__(None, None, None)
