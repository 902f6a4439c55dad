"""One palette: below 0 is the same blue and above 0 the same orange, in every picture and on every page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dualnet import markup
from dualnet.seeing import explain
from dualnet.seeing.viz import canvas
from dualnet.seeing.viz.drawing import BOXES, INK

COMMON = Path(explain.__code__.co_filename).with_name("common.css")
OTHERS = [COMMON.with_name("page.css"), *(Path(__file__).parents[2] / "docs" / "playground").glob("*.css")]

MACHADO = {  # Machado et al. (2009): what who lacks one kind of cones sees, of linear RGB
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    f = np.cbrt(to_xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def rules(css: Path) -> list[str]:
    """The rules of a style sheet that stand on a line of their own."""
    return [line for line in css.read_text("utf-8").splitlines() if line.endswith("}") and "{" in line]


def test_no_style_sheet_repeats_what_all_have():
    """The page of ``dn.explain`` and the playground get their colours from one file, and no rule stands in two."""
    assert len(rules(COMMON)) > 5
    for css in OTHERS:
        text = css.read_text("utf-8")
        assert not re.findall(r"--\w+: *#\w+", text) and "prefers-color-scheme" not in text, css
        assert not set(rules(css)) & set(rules(COMMON)), css


def test_the_page_has_the_palettes_colours():
    blocks = {"light": [], "dark": []}
    for block in re.findall(r"\{[^{}]*--pos:[^{}]*\}", COMMON.read_text("utf-8")):
        theme = "dark" if "color-scheme: dark" in block else "light"
        blocks[theme].append(
            {name: re.search(rf"--{name}: (#\w+)", block)[1] for name in ("neg", "pos", "ink", "cell")}
        )
    assert [len(blocks["light"]), len(blocks["dark"])] == [1, 2]
    for theme, found in blocks.items():
        for colours in found:
            assert (colours["neg"], colours["pos"]) == (markup.NEGATIVE[theme], markup.POSITIVE[theme])
            for fill in ("neg", "pos", "cell"):  # the numbers can be read on it
                assert contrast(colours["ink"], colours[fill]) >= 4.5, (theme, fill)


def test_the_pictures_have_the_palettes_colours():
    for theme in ("light", "dark"):
        assert BOXES["negative"][theme][0] == markup.NEGATIVE[theme]
        assert (
            BOXES["positive"][theme][0] == markup.POSITIVE[theme]
            and contrast(INK[theme], BOXES["cell"][theme][0]) > 4.5
        )
    colours = pytest.importorskip("matplotlib.colors")
    around = canvas.around_zero()
    assert [colours.to_hex(around(share)) for share in (0.0, 1.0)] == [
        markup.NEGATIVE["light"],
        markup.POSITIVE["light"],
    ]
    assert min(around(0.5)[:3]) > 0.99 and canvas.CYCLE[:2] == (markup.BLUE, markup.ORANGE)


@pytest.mark.parametrize("cones", MACHADO)
def test_colour_blind_readers_tell_the_signs_apart(cones):
    """A difference of 25 is plain to see; a red and a green of the same lightness come to less than 10."""
    pairs = [(markup.NEGATIVE[theme], markup.POSITIVE[theme]) for theme in ("light", "dark")] + [
        (markup.BLUE, markup.ORANGE)
    ]
    for pair in pairs:
        one, other = (lab(np.array(MACHADO[cones]) @ linear(colour)) for colour in pair)
        assert np.linalg.norm(one - other) > 25, pair
