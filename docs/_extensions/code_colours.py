"""Code that can be read, and is light: colours dark enough for a light page, and no markup where there is no colour."""

import re
from typing import Any

from pygments.formatters import HtmlFormatter
from pygments.style import Style
from pygments.styles.friendly import FriendlyStyle
from pygments.token import Name, Punctuation, Whitespace
from sphinx.highlighting import PygmentsBridge

MARKED = "#f3eacc"
"""The darkest background of code on a light page: that of a marked line."""
CONTRAST = 4.6
"""A little more than the 4.5 to 1 that the guidelines for the web ask for."""


def brightness(colour: str) -> float:
    """The relative luminance of #rrggbb, plus 0.05."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05


def dark_enough(colour: str) -> str:
    """The same hue, as dark as it must be.

    >>> dark_enough("#000000"), dark_enough("#ffffff")
    ('#000000', '#686868')
    """
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[i : i + 2], 16) for i in (0, 2, 4)]
    for percent in range(100, 0, -1):
        darker = "#" + "".join(f"{part * percent // 100:02x}" for part in parts)
        if brightness(MARKED) / brightness(darker) >= CONTRAST:
            break
    return darker


class Readable(Style):
    """Pygments' friendly style, darkened."""

    background_color = FriendlyStyle.background_color
    styles = {
        token: re.sub(r"(?<!:)#[0-9a-fA-F]+", lambda found: dark_enough(found[0]), rule)
        for token, rule in FriendlyStyle.styles.items()
    }


class Light(HtmlFormatter):
    """Names, brackets and spaces have no colour of their own, so they need no markup: a third of the bytes."""

    def _get_css_classes(self, ttype: Any) -> str:
        return "" if ttype in (Name, Punctuation, Whitespace) else super()._get_css_classes(ttype)


def setup(app: Any) -> dict[str, Any]:
    PygmentsBridge.html_formatter = Light
    return {"parallel_read_safe": True, "parallel_write_safe": True}
