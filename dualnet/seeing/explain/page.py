"""The interactive page: the numbers of a network's layers, packed into one HTML file with a style and a script."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy

from ... import markup
from ...layers.convolution import Conv2D
from ...layers.dense import Dense
from ...layers.layer import Layer
from ...shim import to_numpy
from ...shim.dtypes import finfo
from ...writing import replace_file
from .ending import step_of, view_of_loss
from .run import Call, Use
from .smallest import smallest
from .target import Target
from .views import View, view_of_convolution, viewer_of

HERE = Path(__file__).parent
STYLES = ("common.css", "page.css")
SCRIPTS = ("model.js", "units.js", "draw.js", "story.js", "page.js")
LARGEST = 32
"""The most rows or columns of a map that fit on a screen."""
LONGEST = 1024
"""The most numbers of a vector that fit on a screen."""
NUMBERS = 24_000
"""How many numbers fit into a page of 300 KB, beside its script."""
CHANNELS = (16, 8, 4, 2, 1)
"""Numbers of channels and filters to try: the page shows the most that fit."""

Numbers = numpy.ndarray


@dataclass(frozen=True)
class Page:
    """The page as text. ``save(path)`` writes it; a notebook shows it in a frame."""

    html: str
    title: str

    @classmethod
    def of(cls, call: Call, target: Target, value: float, title: str | None = None) -> Page:
        """Make the page of a network and its input, opened at the entry that was explained and had this value."""
        data = gather(call, target, value)
        title = title or f"{target} of {type(call.net).__name__}"
        return cls(filled(title, data), title)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file and return its path; a name without an ending gets ``.html``."""
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
    """Fill in the template, in one pass, so that a title that looks like a mark stays a title."""
    parts = {
        "@TITLE@": markup.escape(title),
        "/*@STYLE@*/": "".join(map(_lean, STYLES)),
        "/*@SCRIPT@*/": "".join(map(_lean, SCRIPTS)),
        "@DATA@": json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),  # no </script>, no <!--
    }
    marks = re.compile("|".join(map(re.escape, parts)))
    return marks.sub(lambda mark: parts[mark[0]], (HERE / "page.html").read_text("utf-8"))


def _lean(name: str) -> str:
    """A style or a script without indentation and without lines that are only a comment."""
    return re.sub(r"^ +|^ *//.*\n|\n(?=\n)", "", (HERE / name).read_text("utf-8"), flags=re.MULTILINE)


def gather(call: Call, target: Target, value: float) -> View:
    """Run once more, record every layer that can be drawn, and pack what fits; the target's layer comes first."""
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
    ending = call.ending()
    if ending is not None and (loss := view_of_loss(call, ending, image)) is not None:
        chain.append({"path": "loss", "kind": "loss", "title": loss["loss"], "view": _pack(loss, ending.y.dtype)})
    _link(chain, {path: uses[0] for path, uses in found.items()}, None if ending is None else ending.dy)
    opened: View = {"path": target.path, "name": target.name, "index": list(target.index)}
    if target.path not in views:  # this layer is not drawn: take the nearest one that is
        opened = {"path": next(path for path in near if path in views), "name": "", "index": []}
    return {
        "layers": chain,
        "target": opened,
        "source": call.source,
        "net": type(call.net).__name__,
        "image": image,
        "untrained": looks_untrained(call.net),
        "step": None if ending is None else step_of(call, ending),
        "story": {"view": _story()},
    }


def looks_untrained(net: Layer) -> bool:
    """Does it have biases that are all still 0? The first training step changes them."""
    biases = [parameter for name, parameter in net.parameters().items() if name.rpartition(".")[2] == "b"]
    return bool(biases) and not any(to_numpy(parameter.value).any() for parameter in biases)


def _story() -> View:
    """The small convolution of the story, run like any other."""
    layer, x, dy = smallest()
    use = Call(layer, x, None, dy, None, True).everything([""])[""][0]
    return _pack(view_of_convolution(use, 0, ([0], [0])), use.x.dtype)


def _link(chain: list[View], uses: dict[str, Use], dy: Numbers | None) -> None:
    """Find the layer that sent each layer's delta: it read the layer's output, and its dx is the layer's dy."""
    for place, layer in enumerate(chain):
        use = uses.get(layer["path"])
        for later in chain[place + 1 :] if use else []:
            other = uses.get(later["path"])
            sent = dy if later["path"] == "loss" else None if other is None else other.dx
            if sent is not None and sent.shape == use.dy.shape and numpy.array_equal(sent, use.dy, equal_nan=True):
                if other is None or numpy.array_equal(other.x, use.y, equal_nan=True):
                    layer["after"], later["before"] = later["path"], layer["path"]
                    break


def _views(target: Target, image: int, uses: dict[str, Use]) -> dict[str, View]:
    """What fits: first a channel of every layer, nearest layers first; then as much as possible of the target's layer,
    and for each other layer half of the room that is left.
    """
    least: dict[str, View] = {}
    spare = NUMBERS
    for path, use in uses.items():
        view = _fitting(use, image, target.name, _wanted(target, path), spare, (1,))
        if view is not None:
            least[path] = view
            spare -= view["numbers"]
    views = {}
    for path, view in least.items():
        room = view["numbers"] + (spare if path == target.path else spare // 2)
        views[path] = _fitting(uses[path], image, target.name, _wanted(target, path), room) or view
        spare -= views[path]["numbers"] - view["numbers"]
    return views


def _wanted(target: Target, path: str) -> tuple[int, ...]:
    return target.index if path == target.path else ()


def _check_unchanged(target: Target, explained: float, found: dict[str, list[Use]]) -> None:
    """Check that the entry has the value that was explained; for a parameter of a shared layer, it comes from all its
    places."""
    use = found[target.path][0]
    uses = [use] if target.parameter is None else [u for us in found.values() for u in us if u.layer is use.layer]
    value = float(sum(float(u.array(target)[target.index]) for u in uses))
    if value != explained and not math.isnan(value):
        raise ValueError(
            "explain: the network has changed since it was explained; explain it again, then make the page"
        )


def _check_drawn(path: str, views: dict[str, View], drawn: list[str], use: Use) -> None:
    if path in views:
        return
    name = f"layer {path} ({use.title})" if path else use.title
    if path in drawn:
        raise ValueError(
            f"explain: the page draws maps of at most {LARGEST} × {LARGEST} and rows of {LONGEST:,} numbers; {name} "
            f"has {use.x.shape[1:]} → {use.y.shape[1:]}. Explain a smaller image, or a later layer; the text has no "
            "such limit."
        )
    if not views:
        raise ValueError(f"explain: the page cannot draw {name}; print the explanation instead")


def _fitting(
    use: Use, image: int, name: str, index: tuple[int, ...], room: int, channels: tuple[int, ...] = CHANNELS
) -> View | None:
    """The view with as many channels as there is room for, or None."""
    if not all(_drawable(array.shape) for array in (use.x, use.y)):
        return None
    viewer = viewer_of(use.layer)
    for most in channels:
        view = viewer(use, image, _chosen(use, name, index, most)) if viewer else None
        if view is None:
            return None
        packed = [value for value in view.values() if isinstance(value, numpy.ndarray)]
        size = sum(value.size * (2 if use.x.dtype.itemsize == 8 else 1) for value in packed)
        if size <= room:
            return _pack(view, use.x.dtype) | {"numbers": size}
    return None


def _drawable(shape: tuple[int, ...]) -> bool:
    return (len(shape) == 4 and max(shape[1:3]) <= LARGEST) or (len(shape) == 2 and shape[1] <= LONGEST)


def _pack(view: View, of: numpy.dtype) -> View:
    """A view with its arrays as bytes, and the unit roundoff of the network's dtype."""
    dtype = "float64" if of.itemsize == 8 else "float32"
    arrays = {key: _packed(value, dtype) for key, value in view.items() if isinstance(value, numpy.ndarray)}
    return view | arrays | {"u": float(finfo(of).eps) / 2}


def _packed(array: Numbers, dtype: str) -> View:
    """Shape and bytes: every float32 arrives bit for bit."""
    little = numpy.ascontiguousarray(array, dtype=numpy.dtype(dtype).newbyteorder("<"))
    return {"shape": list(array.shape), "dtype": dtype, "bytes": base64.b64encode(little.tobytes()).decode()}


def _chosen(use: Use, name: str, index: tuple[int, ...], most: int) -> tuple[list[int], list[int]]:
    """Which channels of x and of y are shown: a few neighbours, among them the target's."""
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
    if isinstance(use.layer, Dense):
        c = 0
    elif not isinstance(use.layer, Conv2D):  # each channel by itself
        c = d = c if name == "dx" else d
    return _some(C, c, most), _some(D, d, most)


def _some(total: int, wanted: int, most: int) -> list[int]:
    """``most`` channels in a row, the wanted one among them."""
    first = 0 if wanted < most else min(wanted, total - most)
    return list(range(max(first, 0), min(max(first, 0) + most, total)))
