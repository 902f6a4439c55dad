"""Python code as HTML for notebooks: keywords, strings and comments in colour, the numbers of equations in bold.

In JupyterLab the colours are the editor's own, and follow its theme. Elsewhere they are colours that read on white and
on black.
"""

from __future__ import annotations

import io
import keyword
import re
import tokenize
from collections.abc import Iterator
from itertools import accumulate

from ..markup import BLUE, ORANGE, escape, scrolling

__all__ = ["highlighted", "monospaced", "pieces", "prose"]

FONT = "font-family:var(--jp-code-font-family,ui-monospace,Menlo,Consolas,monospace)"
COLOURS = {
    "keyword": f"var(--jp-mirror-editor-keyword-color,{BLUE});font-weight:600",
    "string": "var(--jp-mirror-editor-string-color,#2e9e5b)",
    "comment": "var(--jp-mirror-editor-comment-color,#7d8590)",
}
ANCHOR = re.compile(r"\bE\d+\b")
STRESSED = re.compile(r"\*(\w|\w[^*]*\w)\*")
BOLD = rf'<b style="color:{ORANGE}">\g<0></b>'


def highlighted(code: str) -> str:
    """Python code in colour. It needs no style sheet.

    >>> html = highlighted("return dx  # E13")
    >>> html.count("<span"), html.count(">E13</b>")
    (2, 1)
    """
    html = ""
    for kind, piece in pieces(code):
        text = ANCHOR.sub(BOLD, escape(piece)) if kind == "comment" else escape(piece)
        html += f'<span style="color:{COLOURS[kind]}">{text}</span>' if kind else text
    return monospaced(html)


def pieces(code: str) -> Iterator[tuple[str, str]]:
    """The code in pieces, each after its kind: "keyword", "string", "comment", or "" for anything else.

    >>> list(pieces("return dx  # E13"))
    [('keyword', 'return'), ('', ' dx  '), ('comment', '# E13'), ('', '')]
    """
    begins = [0, *accumulate(len(line) for line in io.StringIO(code))]
    done = 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if kind := _kind(token):
            begin, end = (begins[row - 1] + column for row, column in (token.start, token.end))
            if done < begin:
                yield "", code[done:begin]
            yield kind, code[begin:end]
            done = end
    yield "", code[done:]


def prose(text: str) -> str:
    """Sentences as HTML, in which a word between asterisks is stressed.

    >>> prose("a *wrong* sign in 2 * x")
    'a <em>wrong</em> sign in 2 * x'
    """
    return STRESSED.sub(r"<em>\1</em>", escape(text))


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
