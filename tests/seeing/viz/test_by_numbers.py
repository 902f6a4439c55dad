"""Maps with their numbers: the picture shows what dualnet computes, as SVG and PNG, light and dark."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

import dualnet as dn
from dualnet.seeing.explain.smallest import DY, W, X
from dualnet.seeing.viz.drawing import BOXES, INK, Drawing

NAME = "{http://www.w3.org/2000/svg}"


def texts(drawing: Drawing, look: str) -> list[str]:
    root = ElementTree.fromstring(drawing.svg("light"))
    return [e.text or "" for e in root.iter(NAME + "text") if (e.get("class") or "").split()[0] == look]


def value(text: str) -> float:
    return float(text.strip("() ").replace("−", "-"))


def sums(drawing: Drawing) -> dict[str, tuple[float, float]]:
    """What each sum of the picture adds up to, from its words; and what it says that it is."""
    found: dict[str, str] = {}
    name = ""
    for line in texts(drawing, "sum"):
        match = re.match(r"(\w+\[\d+,\d+\]) =(.*)", line)
        name, rest = (match[1], match[2]) if match else (name, line)
        found[name] = found.get(name, "") + rest
    result = {}
    for name, text in found.items():
        products, _, told = text.rpartition(" = ")
        pairs = [part.split("·") for part in products.split(" + ")]
        result[name] = sum(value(a) * value(b) for a, b in pairs), value(told)
    return result


def test_the_sums_that_are_written_out_are_dualnets():
    found = sums(dn.viz.numbers(X, W, DY))
    assert found == {"y[1,1]": (15, 15), "dx[1,1]": (3, 3), "dw[0,1]": (16, 16)}


@pytest.mark.parametrize(
    ("H", "W", "k1", "k2", "at", "tap"),
    [
        (5, 6, 3, 2, (0, 4), (2, 1)),
        (4, 4, 4, 4, (0, 0), (3, 2)),
        (6, 3, 1, 3, (5, 0), (0, 2)),
        (16, 16, 3, 3, (13, 2), (1, 1)),
    ],
)
def test_any_shape_at_any_place(H, W, k1, k2, at, tap):
    rng = np.random.default_rng(0)
    x, w = rng.integers(-9, 10, (H, W)), rng.integers(-9, 10, (k1, k2))
    dy = rng.integers(-9, 10, (H - k1 + 1, W - k2 + 1))
    picture = dn.viz.numbers(x, w, dy, at=at, tap=tap)
    y, way = dn.ops.conv2d(*(dn.asarray(a.astype("float64")) for a in (x[None, :, :, None], w[:, :, None, None])))
    dx, dw, _ = way(dn.asarray(dy[None, :, :, None].astype("float64")))
    y, dx, dw = map(dn.to_numpy, (y, dx, dw))
    expected = {"y": float(y[(0, *at, 0)]), "dx": float(dx[(0, *at, 0)]), "dw": float(dw[(*tap, 0, 0)])}
    for name, (added, told) in sums(picture).items():
        assert added == told == expected[name.partition("[")[0]]
    numbers = [value(text) for text in texts(picture, "number")]
    assert len(numbers) == 3 * H * W + 3 * k1 * k2 + 2 * dy.size + (dy.shape[0] + 2 * k1 - 2) * (
        dy.shape[1] + 2 * k2 - 2
    )
    words = " ".join(texts(picture, "words"))
    readers = sum(0 <= at[0] - m < dy.shape[0] and 0 <= at[1] - n < dy.shape[1] for m in range(k1) for n in range(k2))
    counts = [
        "",
        "One window",
        "Two windows",
        "Three windows",
        "Four windows",
        "",
        "Six windows",
        "",
        "",
        "Nine windows",
    ]
    assert counts[readers] in words


def test_forward_alone_floats_and_other_backends():
    picture = dn.viz.numbers(dn.asarray([[0.126, -0.13, 1234.5]]), dn.asarray([[0.5, 2.0]]))
    assert list(sums(picture)) == ["y[0,1]"] and texts(picture, "number")[:3] == [".126", "−.13", "1234"]
    assert all(len(text) <= 5 for text in texts(picture, "number"))
    strict = dn.viz.numbers(*(dn.asarray(np.array(a, "float64"), backend="strict") for a in (X, W, DY)))
    assert strict.svg() == dn.viz.numbers(X, W, DY).svg()


def test_the_corner_of_a_ring_takes_part_with_zero():
    words = [line for line in texts(dn.viz.numbers(X, W, DY, at=(0, 0)), "sum") if "0·" in line]
    assert any(line.startswith("dx[0,0] = 0·4 + 0·3") for line in words)
    assert "One window reads x[0,0]. Its delta" in texts(dn.viz.numbers(X, W, DY, at=(0, 0)), "words")


def test_nothing_sticks_out_of_the_picture():
    rng = np.random.default_rng(1)
    for picture in (
        dn.viz.numbers(X, W, DY),
        dn.viz.numbers(rng.normal(size=(7, 9)), rng.normal(size=(4, 5)), rng.normal(size=(4, 5))),
        dn.viz.numbers(X, W, DY, upright=True),
        dn.viz.numbers(rng.normal(size=(7, 9)), rng.normal(size=(4, 5)), rng.normal(size=(4, 5)), upright=True),
        dn.viz.numbers([[1]], [[2]], [[3]], upright=True),
        dn.viz.grids(("a long title over a small map", [[1]]), ("x", rng.normal(size=(4, 16)))),
    ):
        root = ElementTree.fromstring(picture.svg())
        for box in root.iter(NAME + "rect"):
            x, y, width, height = (float(box.get(key) or 0) for key in ("x", "y", "width", "height"))
            assert x >= 0 and y >= 0 and x + width <= picture.width and y + height <= picture.height
        for text in root.iter(NAME + "text"):
            look = (text.get("class") or "").split()
            letter = {"sum": 9.1, "number": 9.1}.get(look[0], 7.6) * (1.2 if "large" in look else 1)
            letters = len(text.text or "") * letter
            start = float(text.get("x") or 0) - (letters / 2 if text.get("class") in ("name", "number") else 0)
            assert -2 <= start and start + letters <= picture.width + 2 and float(text.get("y") or 0) <= picture.height


def test_upright_has_the_same_numbers_and_words_on_a_narrow_page():
    flat, upright = dn.viz.numbers(X, W, DY), dn.viz.numbers(X, W, DY, upright=True)
    assert sums(upright) == sums(flat) and upright.words == flat.words
    for look in ("title", "words", "name", "sign", "number", "sum"):
        assert texts(upright, look) == texts(flat, look)
    assert upright.width <= 460 < flat.width, "at 350 pixels its numbers are still 11 pixels high"
    assert upright.svg().count(" large") == sum(len(texts(upright, look)) for look in ("title", "words", "sum"))
    for size in re.findall(r"large { font-size: (\d+)px", upright.svg()):
        assert 350 / upright.width * int(size) >= 13.5, "and its words are as large as those of a page"
    assert "large" not in flat.svg()


def boxes(drawing: Drawing) -> list[tuple[float, float, float, float]]:
    """The cells, and about the room of each text: left, top, right, bottom."""
    root, found = ElementTree.fromstring(drawing.svg()), []
    for cell in root.iter(NAME + "rect"):
        if cell.get("class") in ("cell", "zero"):
            x, y, width, height = (float(cell.get(key) or 0) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    for text in root.iter(NAME + "text"):
        look = (text.get("class") or "").split()[0]
        if look != "number":  # those stand in their cells
            width = len(text.text or "") * {"sum": 9.1, "sign": 16}.get(look, 6.9)
            width *= 1.2 if "large" in (text.get("class") or "") else 1
            x, y = float(text.get("x") or 0), float(text.get("y") or 0)
            x -= width / 2 if look in ("name", "sign") else 0
            found.append((x, y - 12, x + width, y + 2))
    return found


@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize(("H", "W", "k1", "k2"), [(4, 4, 2, 2), (1, 1, 1, 1), (5, 6, 3, 1), (9, 3, 2, 3), (3, 9, 3, 7)])
def test_nothing_overlaps(H, W, k1, k2, upright):
    picture = dn.viz.numbers(
        np.ones((H, W)), np.ones((k1, k2)), np.ones((H - k1 + 1, W - k2 + 1)), tap=(0, 0), upright=upright
    )
    found = boxes(picture)
    for i, (left, top, right, bottom) in enumerate(found):
        for a, b, c, d in found[:i]:
            assert right <= a + 0.01 or c <= left + 0.01 or bottom <= b + 0.01 or d <= top + 0.01


def test_grids_say_the_sign_by_colour_and_mark_windows():
    picture = dn.viz.grids(("x", [[2.0, -1.0], [0.0, np.nan]]), ("w", [[7]]), frames=[(0, 0, 0, (1, 2)), (1, 0, 0, 1)])
    root = ElementTree.fromstring(picture.svg())
    looks = [(box.get("class"), box.get("fill-opacity")) for box in root.iter(NAME + "rect")]
    signs = [look for look in looks if look[0] in ("positive", "negative")]
    assert signs == [("positive", None), ("negative", "0.50"), ("positive", None)]
    assert [look for look, _ in looks].count("frame-mark") == 2
    assert texts(picture, "number") == ["2", "−1", "0", "nan", "7"] and texts(picture, "name") == ["x", "w"]
    assert picture.words == "x, 2 by 2: 2, −1; 0, nan. w, 1 by 1: 7."


def test_the_numbers_of_a_convolution_have_the_colours_of_grids():
    """Colours show signs alone, and one kind of frame marks what takes part: nothing positive is blue."""

    def cells(drawing):
        found, root = [], ElementTree.fromstring(drawing.svg())
        for element in root.iter():
            look = (element.get("class") or "").split()
            if element.tag == NAME + "rect" and look[0] in ("cell", "zero"):
                found.append([look[0], None, None])
            elif element.tag == NAME + "rect" and look[0] in ("positive", "negative"):
                found[-1][1] = look[0], element.get("fill-opacity")
            elif element.tag == NAME + "text" and look[0] == "number":
                found[-1][2] = element.text
        return found

    x, w, d = (np.array(each, "float64") for each in (X, W, DY))
    y, way = dn.ops.conv2d(dn.asarray(x[None, :, :, None]), dn.asarray(w[:, :, None, None]))
    dx, dw, _ = way(dn.asarray(d[None, :, :, None]))
    y, dx, dw = dn.to_numpy(y)[0, :, :, 0], dn.to_numpy(dx)[0, :, :, 0], dn.to_numpy(dw)[:, :, 0, 0]
    picture = dn.viz.numbers(X, W, DY)
    maps = [x, w, y, dx, w[::-1, ::-1], np.pad(d, 1), x, dw, d]
    shown = [[None if cell[0] == "zero" else cell[1], cell[2]] for cell in cells(picture)]
    assert shown == [cell[1:] for cell in cells(dn.viz.grids(*(("", each) for each in maps)))]
    frames = [box.get("class") for box in ElementTree.fromstring(picture.svg()).iter(NAME + "rect")]
    assert {look for look in frames if look.startswith("frame")} == {"frame-mark"} and frames.count("frame-mark") == 7


def test_themes(tmp_path):
    picture = dn.viz.numbers(X, W, DY)
    auto, light, dark = (picture.svg(theme) for theme in ("auto", "light", "dark"))
    assert picture.svg() == picture._repr_svg_() == auto and "prefers-color-scheme: dark" in auto
    for text, theme, other in ((light, "light", "dark"), (dark, "dark", "light")):
        assert "prefers-color-scheme" not in text and INK[theme] in text and INK[other] not in text
        assert BOXES["positive"][theme][0] in text and BOXES["positive"][other][0] not in text
    assert dn.viz.numbers(X, W, DY, theme="dark").svg() == dark
    for rule in re.findall(r"^ *(\S.*?) \{", auto, re.MULTILINE):  # inside a page it changes nothing else
        assert rule.startswith((".numbers ", "@media"))
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", auto)
    with pytest.raises(ValueError, match="theme must be 'auto', 'light' or 'dark'; got 'blue'"):
        picture.svg("blue")


def test_svg_needs_no_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    picture = dn.viz.numbers(X, W, DY)
    assert picture.save(tmp_path / "a.svg").read_text("utf-8") == picture.svg()
    with pytest.raises(ImportError, match=r'pip install "dualnet\[plot\]"'):
        picture.save(tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_png_for_slides(tmp_path):
    from matplotlib import image

    picture = dn.viz.numbers(X, W, DY)
    shown = image.imread(picture.save(tmp_path / "light.png"))
    dark = image.imread(picture.save(tmp_path / "dark.png", "dark", scale=1))
    assert shown.shape[:2] == (2 * picture.height, 2 * picture.width)
    assert dark.shape[:2] == (picture.height, picture.width)
    assert shown[..., :3].mean() > 0.9 and dark[..., :3].mean() < 0.25
    fill = [int(BOXES["positive"]["light"][0][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    assert (abs(shown[..., :3] - fill).max(axis=-1) < 0.01).sum() > 2 * 4 * 30 * 30  # the largest number of each map
    with pytest.raises(ValueError, match=r"expected a name that ends with .svg or .png, got 'a.pdf'"):
        picture.save(tmp_path / "a.pdf")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dn.viz.numbers([1, 2], W), r"x has shape \(2,\); expected a map \(rows, columns\) of at most 16"),
        (lambda: dn.viz.numbers(np.zeros((17, 2)), W), r"x has shape \(17, 2\)"),
        (lambda: dn.viz.numbers([[1]], W), r"the kernel w \(2, 2\) does not fit on x \(1, 1\)"),
        (lambda: dn.viz.numbers(X, W, W), r"dy has shape \(2, 2\); expected that of the output, \(3, 3\)"),
        (lambda: dn.viz.numbers(X, W, at=(3, 0)), r"at=\(3, 0\) is outside y, which has shape \(3, 3\)"),
        (lambda: dn.viz.numbers(X, W, DY, tap=(0, 2)), r"tap=\(0, 2\) is outside w"),
        (lambda: dn.viz.grids(), "give at least one map"),
        (lambda: dn.viz.grids(("x", [1, 2])), r"'x' has shape \(2,\)"),
        (lambda: dn.viz.grids(("x", X), frames=[(0, 3, 3, 2)]), r"frame \(0, 3, 3, 2\) does not fit on map 0"),
        (lambda: dn.viz.grids(("x", X), frames=[(1, 0, 0, 1)]), r"a frame must be \(number of the map"),
    ],
)
def test_what_cannot_be_drawn_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
