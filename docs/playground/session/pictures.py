"""The images that a network learns from: the digits, what the reader has drawn, or an upload."""

from __future__ import annotations

import base64
import io
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy

import dualnet as dn

LEAST = 2
HELD_BACK = 5
"""Of so many images of a class, one is kept for validation."""
LARGEST = 64


@dataclass
class Pictures:
    """Images (N, H, W, C) with their classes (N,), to learn from and to be tried on."""

    name: str
    x: numpy.ndarray
    t: numpy.ndarray
    xv: numpy.ndarray
    tv: numpy.ndarray
    classes: list[str]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def about(self) -> dict[str, Any]:
        sizes = {"shape": list(self.shape), "train": len(self.x), "validation": len(self.xv)}
        return {"name": self.name, "classes": self.classes, **sizes}


def digits() -> Pictures:
    (x, t), (xv, tv) = dn.data.load_digits()
    return Pictures("digits", x, t, xv, tv, [str(digit) for digit in range(10)])


def drawn(images: list[list[float]], labels: list[str], shape: list[int]) -> Pictures:
    """The reader's drawings, each also moved by a pixel to every side, so that a few are enough."""
    if len(images) != len(labels):
        raise ValueError(f"playground: {len(images)} drawings and {len(labels)} names; each drawing needs its own")
    x = numpy.asarray(images, "float32").reshape(len(images), *shape)
    return _named("drawings", x, labels, moved=True)


def uploaded(data: str) -> Pictures:
    """An ``.npz`` file, as base64: images ``x`` (N, H, W) or (N, H, W, C), and classes ``t`` (N,)."""
    try:
        file = numpy.load(io.BytesIO(base64.b64decode(data)), allow_pickle=False)
        arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, AttributeError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
        raise ValueError(
            "playground: this is not an .npz file of arrays, or it is damaged, or x or t has dtype object. "
            'np.savez("images.npz", x=x, t=t) writes one; x must be numbers, t numbers or np.array(names, dtype=str)'
        ) from None
    if not {"x", "t"} <= arrays.keys():
        raise ValueError(
            f"playground: the file holds {', '.join(arrays) or 'nothing'}; expected the images x and the classes t"
        )
    x, t = arrays["x"], arrays["t"]
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or max(x.shape[1:3]) > LARGEST or x.dtype.kind not in "uif":
        raise ValueError(
            f"playground: x is {x.shape} of {x.dtype}; expected images (N, H, W, C) of at most {LARGEST} × {LARGEST}"
        )
    if t.shape != x.shape[:1]:
        raise ValueError(f"playground: t has shape {t.shape}; expected a class for each of the {len(x)} images")
    x = x.astype("float32") / (255 if x.dtype == "uint8" else 1)
    return _named("upload", x, [str(name) for name in t.tolist()])


def _named(name: str, x: numpy.ndarray, labels: list[str], moved: bool = False) -> Pictures:
    """Classes in the order of their names; every fifth image of a class is held back."""
    classes = sorted(set(labels), key=lambda label: (len(label), label) if label.isdigit() else (99, label))
    if len(classes) < 2:
        raise ValueError(
            f"playground: there are images of {', '.join(classes) or 'no class'} only; expected two classes or more"
        )
    t = numpy.array([classes.index(label) for label in labels])
    few = [label for place, label in enumerate(classes) if (t == place).sum() < LEAST]
    if few:
        raise ValueError(
            f"playground: only one image of {', '.join(few)}; expected {LEAST} or more of each, as one is held back"
        )
    rank = numpy.array([(t[:i] == t[i]).sum() for i in range(len(t))])
    held = rank % HELD_BACK == 1
    xs, ts = _moved(x[~held], t[~held]) if moved else (x[~held], t[~held])
    return Pictures(name, xs, ts, x[held], t[held], classes)


def _moved(x: numpy.ndarray, t: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    framed = numpy.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    (H, W) = x.shape[1:3]
    places = [(m, n) for m in range(3) for n in range(3)]
    return numpy.concatenate([framed[:, m : m + H, n : n + W] for m, n in places]), numpy.concatenate([t] * len(places))
