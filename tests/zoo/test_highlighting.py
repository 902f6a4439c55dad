"""Code in a notebook: every character is there, keywords, strings and comments have colours, equations are bold."""

from __future__ import annotations

import html
import re

import pytest

import dualnet as dn
from dualnet.zoo.highlighting import highlighted

COLOURED = re.compile(r'<span style="color:var\(--jp-mirror-editor-(\w+)-color[^>]*>(.*?)</span>', re.DOTALL)


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page))


@pytest.mark.parametrize("exercise", dn.zoo.exercises(), ids=lambda exercise: exercise.name)
def test_no_character_is_lost(exercise):
    code = f"{exercise.preamble}\n\n\n{exercise.code}"
    page = highlighted(code)
    assert text_of(page) == code
    bold = re.findall(r"<b [^>]*>(E\d+)</b>", page)
    assert bold == re.findall(r"\bE\d+\b", "\n".join(re.findall("#.*", code))) and set(exercise.anchors) & set(bold)


def test_what_has_which_colour():
    code = 'def f(x):\n    """x < 1\n\n    & E4"""\n    return "# E5" if x else None  # E13, <b>\n'
    page = highlighted(code)
    found = [(kind, text_of(text)) for kind, text in COLOURED.findall(page)]
    assert found == [
        ("keyword", "def"),
        ("string", '"""x < 1\n\n    & E4"""'),
        ("keyword", "return"),
        ("string", '"# E5"'),
        ("keyword", "if"),
        ("keyword", "else"),
        ("keyword", "None"),
        ("comment", "# E13, <b>"),
    ]
    assert text_of(page) == code and page.count("<b ") == 1 and "<b>" not in page


def test_code_without_a_last_line_break():
    assert text_of(highlighted("x = 'é'  # ∂")) == "x = 'é'  # ∂"
