"""The interactive page: the numbers of a network's layers, packed into one HTML file with a style and a script."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from ... import markup, ops
from ...layers import activation, pooling
from ...layers.convolution import Conv2D
from ...layers.layer import Layer
from ...shim.dtypes import finfo
from ...writing import replace_file
from .maps import units, windows_of
from .run import Call, Use
from .target import Target
from .units import curve

HERE = Path(__file__).parent
SCRIPTS = ("model.js", "draw.js", "page.js")
LARGEST = 32
"""The most rows or columns of a map that fit on a screen."""
NUMBERS = 32_000
"""How many fit into a page of 300 KB, besides its script."""
CHANNELS = (8, 4, 2, 1)
"""How many channels and filters of a layer are shown: the most that fit."""

Numbers = numpy.ndarray
View = dict[str, Any]


@dataclass(frozen=True)
class Page:
    """The page as text. ``save(path)`` writes it; a notebook shows it in a frame."""

    html: str
    title: str

    @classmethod
    def of(cls, call: Call, target: Target, value: float, title: str | None = None) -> Page:
        """The page of a network and what it is run on, opened at an entry that was explained and had this value."""
        data = gather(call, target, value)
        title = title or f"{target} of {type(call.net).__name__}"
        return cls(filled(title, data), title)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file and return its path; ``.html`` is added to a name without an ending."""
        path = Path(path)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; expected the name of a file, such as explain.html")
        path = path if path.suffix else path.with_suffix(".html")
        replace_file(path, self.html.encode())
        return path

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="{markup.escape(self.title)}" srcdoc="{markup.escape(self.html)}" loading="lazy" '
            'style="width:100%;height:920px;border:1px solid #8886;border-radius:8px"></iframe>'
        )

    def __repr__(self) -> str:
        return f"<page {self.title!r}, {len(self.html.encode()) / 1000:.0f} kB>"


def filled(title: str, data: View) -> str:
    """The template with everything in its place: in one pass, so that a title that looks like a mark stays a title."""
    parts = {
        "@TITLE@": markup.escape(title),
        "/*@STYLE@*/": (HERE / "page.css").read_text("utf-8"),
        "/*@SCRIPT@*/": "\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS),
        "@DATA@": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),  # no </script>, no <!--
    }
    marks = re.compile("|".join(map(re.escape, parts)))
    return marks.sub(lambda mark: parts[mark[0]], (HERE / "page.html").read_text("utf-8"))


def gather(call: Call, target: Target, value: float) -> View:
    """Run once more, watch every layer that can be drawn, and pack what fits; the target's layer comes first."""
    leaves = [(path, layer) for path, layer in call.net.walk() if not layer.children()]
    drawn = [path for path, layer in leaves if viewer_of(layer)]
    found = call.everything(sorted({*drawn, target.path}, key=[path for path, _ in leaves].index))
    _check_unchanged(target, value, found)
    image = target.index[0] if target.parameter is None else 0
    places = {path: place for place, (path, _) in enumerate(leaves)}
    near = sorted(drawn, key=lambda path: (abs(places[path] - places[target.path]), places[path]))
    views = _views(target, image, {path: found[path][0] for path in near})
    _check_drawn(target.path, views, drawn, found[target.path][0])
    chain = [
        {"path": path, "kind": type(layer).__name__, "title": repr(layer), "view": views.get(path)}
        for path, layer in leaves
    ]
    opened: View = {"path": target.path, "name": target.name, "index": list(target.index)}
    if target.path not in views:  # a dense layer, say: the nearest one that is drawn
        opened = {"path": next(path for path in near if path in views), "name": "", "index": []}
    return {"layers": chain, "target": opened, "source": call.source, "net": type(call.net).__name__, "image": image}


def _views(target: Target, image: int, uses: dict[str, Use]) -> dict[str, View]:
    """What there is room for: of the target's layer as much as possible, of each other one half of what is left."""
    views, room = {}, NUMBERS
    for path, use in uses.items():
        wanted = target.index if path == target.path else ()
        view = _fitting(use, image, target.name, wanted, room if path == target.path else room // 2)
        if view is not None:
            room -= view.pop("numbers")
            views[path] = view
    return views


def _check_unchanged(target: Target, explained: float, found: dict[str, list[Use]]) -> None:
    """The entry has the value that was explained; that of a shared layer's parameter comes from all its places."""
    use = found[target.path][0]
    uses = [use] if target.parameter is None else [u for us in found.values() for u in us if u.layer is use.layer]
    value = float(sum(float(u.array(target)[target.index]) for u in uses))
    if value != explained and not math.isnan(value):
        raise ValueError("explain: the network has changed since; explain it again, then make the page")


def _check_drawn(path: str, views: dict[str, View], drawn: list[str], use: Use) -> None:
    if path in views:
        return
    name = f"layer {path} ({use.title})" if path else use.title
    if path in drawn:
        raise ValueError(
            f"explain: the page draws maps of at most {LARGEST} × {LARGEST}; {name} has {use.x.shape[1:]} → "
            f"{use.y.shape[1:]}. Explain a smaller image, or a later layer; the text has no such limit."
        )
    if not views:
        raise ValueError(f"explain: the page draws convolution, pooling and activations on maps, and not {name}")


def _fitting(use: Use, image: int, name: str, index: tuple[int, ...], room: int) -> View | None:
    """The view with as many channels as there is room for, or None."""
    if use.x.ndim != 4 or max(use.x.shape[1:3]) > LARGEST or max(use.y.shape[1:3], default=1) > LARGEST:
        return None
    viewer = viewer_of(use.layer)
    for most in CHANNELS:
        view = viewer(use, image, _chosen(use, name, index, most))  # type: ignore[misc]
        packed = {key: value for key, value in view.items() if isinstance(value, numpy.ndarray)}
        size = sum(value.size * max(value.itemsize // 4, 1) for value in packed.values())
        if size <= room:
            dtype = "float64" if use.x.dtype.itemsize == 8 else "float32"
            u = float(finfo(use.x.dtype).eps) / 2
            return view | {key: _packed(value, dtype) for key, value in packed.items()} | {"numbers": size, "u": u}
    return None


def _packed(array: Numbers, dtype: str) -> View:
    """Shape and bytes: every float32 arrives bit for bit."""
    little = numpy.ascontiguousarray(array, dtype=numpy.dtype(dtype).newbyteorder("<"))
    return {"shape": list(array.shape), "dtype": dtype, "bytes": base64.b64encode(little.tobytes()).decode()}


def _chosen(use: Use, name: str, index: tuple[int, ...], most: int) -> tuple[list[int], list[int]]:
    """Which channels of x and of y are shown: a few in a row, with the one that was asked for."""
    C, D = use.x.shape[-1], use.y.shape[-1]
    c = d = 0
    if index:
        d = index[-1] if name in ("y", "dw", "db") else 0
        c = index[-1] if name == "dx" else 0
        if isinstance(use.layer, Conv2D):
            w, groups = use.parameters["w"], use.layer.groups
            first = d // (w.shape[3] // groups) * w.shape[2]
            c = c if name == "dx" else first + (index[2] if name == "dw" else 0)
            d = c // w.shape[2] * (w.shape[3] // groups) if name == "dx" else d
    elsewhere = c if name == "dx" else d
    if not isinstance(use.layer, Conv2D):  # each channel by itself
        c = d = elsewhere
    return _some(C, c, most), _some(D, d, most)


def _some(total: int, wanted: int, most: int) -> list[int]:
    """``most`` channels in a row, the wanted one among them."""
    first = 0 if wanted < most else min(wanted, total - most)
    return list(range(max(first, 0), min(max(first, 0) + most, total)))


# -- what a layer shows ------------------------------------------------------------------------------------------------


def view_of_convolution(use: Use, image: int, shown: tuple[list[int], list[int]]) -> View:
    """E4, E11, E12 and E13 between some channels of one image; ``rest…`` is what the others add to each sum."""
    layer, (cs, ds) = use.layer, shown
    at, w = layer._windows(use.x.shape[1:3]), use.parameters["w"]
    dw, db = use.gradients["w"], use.gradients.get("b")
    width, each = w.shape[2], w.shape[3] // layer.groups
    pairs = numpy.zeros((2, *at.window, len(cs), len(ds)), w.dtype)
    for i, c in enumerate(cs):
        for j, d in enumerate(ds):
            if c // width == d // each:
                pairs[0, :, :, i, j], pairs[1, :, :, i, j] = w[:, :, c % width, d], dw[:, :, c % width, d]
    view = {
        "form": "convolution",
        "size": at.size,
        "grid": at.grid,
        "window": at.window,
        "stride": at.stride,
        "dilation": at.dilation,
        "pads": at.pads,
        "mode": layer.mode,
        "perGroup": [width, each],
        "shape": [list(use.x.shape), list(w.shape), list(use.y.shape)],
        "image": image,
        "cs": cs,
        "ds": ds,
        "x": use.x[image][..., cs],
        "dx": use.dx[image][..., cs],
        "y": use.y[image][..., ds],
        "dy": use.dy[image][..., ds],
        "w": pairs[0],
        "dw": pairs[1],
    }
    if db is not None:
        view |= {"b": use.parameters["b"][ds], "db": db[ds]}
    return view | _rest(use, image, cs, ds, pairs.shape[1:])


def _rest(use: Use, image: int, cs: list[int], ds: list[int], shape: tuple[int, ...]) -> View:
    """What the channels, filters and images that are not shown add: the op in float64, with the shown ones at 0."""
    layer, (N, C, D) = use.layer, (use.x.shape[0], use.x.shape[-1], use.y.shape[-1])
    options = {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups", "mode")}
    x, w, dy = (a.astype("float64") for a in (use.x, use.parameters["w"], use.dy))
    width, each = w.shape[2], w.shape[3] // layer.groups
    rest: View = {}
    if len(cs) < C:
        hidden = x[image : image + 1].copy()
        hidden[..., cs] = 0
        rest["restY"] = ops.conv2d(hidden, w, **options)[0][0][..., ds]
    if len(ds) < D:
        hidden = dy[image : image + 1].copy()
        hidden[..., ds] = 0
        rest["restDx"] = ops.conv2d(x[image : image + 1], w, **options)[1](hidden)[0][0][..., cs]
    if N > 1:
        others = dy.copy()
        others[image] = 0
        dw = ops.conv2d(x, w, **options)[1](others)[1]
        rest["restDw"] = numpy.zeros(shape)
        for i, c in enumerate(cs):
            for j, d in enumerate(ds):
                if c // width == d // each:
                    rest["restDw"][:, :, i, j] = dw[:, :, c % width, d]
        rest["restDb"] = others.sum(axis=(0, 1, 2))[ds]
    return rest


def view_of_pooling(use: Use, image: int, shown: tuple[list[int], list[int]]) -> View:
    """E8 and E15, one channel at a time; for an average, with M of every window."""
    layer, (cs, _), at = use.layer, shown, windows_of(use)
    kinds = {pooling.MaxPool2D: "max", pooling.GlobalMaxPool2D: "max", pooling.L2Pool2D: "l2"}
    (P, Q), flat = at.grid, (*at.grid, use.y.shape[-1])
    view = {
        "form": "pooling",
        "how": next((how for kind, how in kinds.items() if isinstance(layer, kind)), "average"),
        "size": at.size,
        "grid": at.grid,
        "window": at.window,
        "stride": at.stride,
        "dilation": at.dilation,
        "pads": at.pads,
        "shape": [list(use.x.shape), [], list(use.y.shape)],
        "image": image,
        "cs": cs,
        "x": use.x[image][..., cs],
        "dx": use.dx[image][..., cs],
        "y": use.y[image].reshape(flat)[..., cs],
        "dy": use.dy[image].reshape(flat)[..., cs],
    }
    if view["how"] == "average":
        view["M"] = numpy.array([[units(layer, at, i, j) for j in range(Q)] for i in range(P)], "float32")
    return view


def view_of_activation(use: Use, image: int, shown: tuple[list[int], list[int]]) -> View:
    """E7 and E14, with the slope at every unit."""
    cs = shown[0]
    f, slope, formula, words = curve(use.layer)
    x = use.x[image][..., cs]
    return {
        "form": "activation",
        "size": x.shape[:2],
        "shape": [list(use.x.shape), [], list(use.y.shape)],
        "image": image,
        "cs": cs,
        "formula": formula,
        "words": words,
        "x": x,
        "y": use.y[image][..., cs],
        "dx": use.dx[image][..., cs],
        "dy": use.dy[image][..., cs],
        "f": numpy.vectorize(f, otypes=["float64"])(x.astype("float64")),
        "slope": numpy.vectorize(slope, otypes=["float64"])(x.astype("float64")),
    }


VIEWERS: list[tuple[tuple[type[Layer], ...], Callable[..., View]]] = [
    ((Conv2D,), view_of_convolution),
    ((pooling._Pool2D, pooling._GlobalPool2D), view_of_pooling),
    (
        (
            activation.ReLU,
            activation.LeakyReLU,
            activation.ELU,
            activation.Sigmoid,
            activation.Tanh,
            activation.Softplus,
            activation.SiLU,
            activation.GELU,
        ),
        view_of_activation,
    ),
]


def viewer_of(layer: Layer) -> Callable[..., View] | None:
    return next((viewer for kinds, viewer in VIEWERS if isinstance(layer, kinds)), None)
