"""What belongs together stays on one line: ``99 %``, ``130 kB``, ``3 × 3``, ``1e-2``, and short pieces of code.

A browser would break ``--backend`` behind its hyphens. Long names, such as those of tests, may break in a table, after
a word: else they leave its other columns no room. And an error message breaks where its box ends: on the page of
mistakes it is wrapped in the source, too, which would break it twice.
"""

import re
from typing import Any

from docutils import nodes
from equations import inside
from sphinx.transforms import SphinxTransform

TOGETHER = re.compile(r"(?<=\d) (?=(?:%|[kMG]?B|[KMG]iB|[mnµ]?s|GFLOP)(?![\w-]))|(?<=\d) (?=× \d)|(?<=\d ×) (?=\d)")
SPACE = "\N{NO-BREAK SPACE}"
EXPONENT = re.compile(r"\d(?:\.\d+)?e-\d+")
WRAPPED = 88
"""Characters from which on the end of a line may be the source's and not the message's."""
TYPED = (nodes.literal, nodes.literal_block, nodes.doctest_block, nodes.math, nodes.math_block, nodes.raw)
"""Not nodes.FixedTextElement: a table of summaries is one, too."""
LONGEST = 24
"""Characters of code that fit beside others on a phone."""


class Unbroken(SphinxTransform):
    default_priority = 420

    def apply(self, **_: Any) -> None:
        if self.env.docname == "mistakes":
            messages(self.document)
        code(self.document)
        words(self.document)


def messages(document: nodes.document) -> None:
    """An error message is one line."""
    for block in document.findall(nodes.literal_block):
        text = block.astext()
        if "\nTraceback (most recent call last):\n" in text and len(block.children) == 1:
            block.rawsource = joined(text)
            block.replace(block[0], nodes.Text(joined(text)))


def joined(example: str) -> str:
    """An example whose error messages stand in one line each."""
    lines: list[str] = []
    message, length = False, 0
    for line in example.splitlines():
        if message and line and not line.startswith((" ", ">>>")) and length + len(line.split()[0]) >= WRAPPED:
            lines[-1] += f" {line}"
        else:
            message = message and line[:1] == " " or bool(re.match(r"[\w.]+(?:Error|Unavailable|Transfer)\b.*: ", line))
            lines.append(line)
        length = len(line)
    return "\n".join(lines)


def code(document: nodes.document) -> None:
    for piece in document.findall(nodes.literal):
        text = piece.astext()
        if len(text) <= LONGEST:
            piece["classes"].append("whole")
        elif " " not in text and inside(piece, (nodes.table,)):
            piece["classes"].append("name")


def words(document: nodes.document) -> None:
    """In running text; code is broken as it is written."""
    for text in list(document.findall(nodes.Text)):
        if inside(text, TYPED):
            continue
        whole = TOGETHER.sub(SPACE, text)
        if EXPONENT.search(whole) and not inside(text, (nodes.title,)):
            text.parent.replace(text, _parts(whole))
        elif whole != text:
            text.parent.replace(text, nodes.Text(whole))


def _parts(text: str) -> list[nodes.Node]:
    parts: list[nodes.Node] = []
    end = 0
    for found in EXPONENT.finditer(text):
        parts += [nodes.Text(text[end : found.start()]), nodes.inline("", found[0], classes=["whole"])]
        end = found.end()
    return [part for part in [*parts, nodes.Text(text[end:])] if part.astext()]


def breaks(app: Any, page: str, template: str, context: dict[str, Any], document: Any) -> None:
    """In HTML alone, so that the search finds whole names. In a long command too, ``--logdir`` stays whole."""
    if "body" in context:
        named = r'<code class="name .*?</code>'
        context["body"] = re.sub(named, lambda found: after_words(found[0]), context["body"])
        option = rf'<span class="pre">(?=--?[a-z][\w-]{{1,{LONGEST}}}</span>)'
        context["body"] = re.sub(option, '<span class="pre option">', context["body"])


def after_words(html: str) -> str:
    """Where a name may break: ``tests/ops/|test_|losses.py``, but not inside of ``__init__``."""
    return re.sub(r"(?<=[_/:])(?<!__|</)(?=[^\W_])", '</span><wbr><span class="pre">', html)


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(Unbroken)
    app.connect("html-page-context", breaks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
