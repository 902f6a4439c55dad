"""Python code as HTML for notebooks: keywords, strings and comments in colour, the numbers of equations in bold.

In JupyterLab the colours are the editor's own, and follow its theme. Elsewhere they are colours that read on white and
on black.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from itertools import accumulate

from ..markup import BLUE, ORANGE, escape, scrolling

__all__ = ["highlighted", "monospaced"]

FONT = "font-family:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace)"
COLOURS = {
    "keyword": f"var(--jp-mirror-editor-keyword-color,{BLUE});font-weight:600",
    "string": "var(--jp-mirror-editor-string-color,#2e9e5b)",
    "comment": "var(--jp-mirror-editor-comment-color,#7d8590)",
}
ANCHOR = re.compile(r"\bE\d+\b")
BOLD = rf'<b style="color:{ORANGE}">\g<0></b>'


def highlighted(code: str) -> str:
    """Python code in colour. It needs no style sheet.

    >>> html = highlighted("return dx  # E13")
    >>> html.count("<span"), html.count(">E13</b>")
    (2, 1)
    """
    begins = [0, *accumulate(len(line) for line in code.splitlines(keepends=True))]
    html, done = "", 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if kind := _kind(token):
            begin, end = (begins[row - 1] + column for row, column in (token.start, token.end))
            text = escape(code[begin:end])
            text = ANCHOR.sub(BOLD, text) if kind == "comment" else text
            html += f'{escape(code[done:begin])}<span style="color:{COLOURS[kind]}">{text}</span>'
            done = end
    return monospaced(html + escape(code[done:]))


def monospaced(html: str) -> str:
    """Lines as they are, in the font of code. A long line scrolls."""
    return scrolling(f'<pre style="{FONT};line-height:1.35">{html}</pre>')


def _kind(token: tokenize.TokenInfo) -> str | None:
    """Which colour a token has, if any."""
    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type == tokenize.STRING:
        return "string"
    return "keyword" if token.type == tokenize.NAME and keyword.iskeyword(token.string) else None
