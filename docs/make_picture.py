"""Draw docs/backprop.svg: one convolution, forward and backward, with the numbers that dualnet computes.

Run ``python docs/make_picture.py`` from the top of the checkout. A test runs it as well and compares the result with
the committed file, so that the picture cannot show what the code does not do.
"""

from __future__ import annotations

from pathlib import Path

import dualnet as dn
from dualnet.seeing.explain.smallest import DY, W, X

PICTURE = Path(__file__).with_name("backprop.svg")


def picture(theme: str = "auto", upright: bool = False) -> str:
    """The whole picture as SVG; upright for a phone."""
    return dn.viz.numbers(X, W, DY, upright=upright).svg(theme)


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    print(f"wrote {PICTURE}")
