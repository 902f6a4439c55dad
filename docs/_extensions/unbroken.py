"""What belongs together stays on one line: ``99 %``, ``130 kB``, ``3 × 3``, ``1e-2``.

And an error message breaks where its box ends: on the page of mistakes it is wrapped in the source, too, which would
break it twice.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

TOGETHER = re.compile(r"(?<=\d) (?=(?:%|[kMG]?B|[KMG]iB|[mnµ]?s|GFLOP)(?![\w-]))|(?<=\d) (?=× \d)|(?<=\d ×) (?=\d)")
SPACE = "\N{NO-BREAK SPACE}"
EXPONENT = re.compile(r"\d(?:\.\d+)?e-\d+")
WRAPPED = 88
"""Characters from which on the end of a line may be the source's and not the message's."""


class Unbroken(SphinxTransform):
    """In running text; code is broken as it is written."""

    default_priority = 420

    def apply(self, **_: Any) -> None:
        for text in list(self.document.findall(nodes.Text)):
            if _inside(text, (nodes.literal, nodes.FixedTextElement, nodes.math, nodes.raw, nodes.comment)):
                continue
            whole = TOGETHER.sub(SPACE, text)
            parts = (
                _parts(whole) if EXPONENT.search(whole) and not _inside(text, (nodes.title,)) else [nodes.Text(whole)]
            )
            if whole != text or len(parts) > 1:
                text.parent.replace(text, parts)


def _parts(text: str) -> list[nodes.Node]:
    parts: list[nodes.Node] = []
    end = 0
    for found in EXPONENT.finditer(text):
        parts += [nodes.Text(text[end : found.start()]), nodes.inline("", found[0], classes=["whole"])]
        end = found.end()
    return [part for part in [*parts, nodes.Text(text[end:])] if part.astext()]


def _inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


class Messages(SphinxTransform):
    """An error message is one line."""

    default_priority = 410

    def apply(self, **_: Any) -> None:
        for block in self.document.findall(nodes.literal_block):
            text = block.astext()
            if "\nTraceback (most recent call last):\n" in text and len(block.children) == 1:
                block.rawsource = joined(text)
                block.replace(block[0], nodes.Text(joined(text)))


def joined(example: str) -> str:
    """An example whose error messages stand in one line each."""
    lines: list[str] = []
    message = False
    for line in example.splitlines():
        if message and line and not line.startswith((" ", ">>>")) and len(lines[-1]) + len(line.split()[0]) >= WRAPPED:
            lines[-1] += f" {line}"
            continue
        message = message and line[:1] == " " or bool(re.match(r"\w+(?:Error|Unavailable|Transfer)\b.*: ", line))
        lines.append(line)
    return "\n".join(lines)


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(Messages)
    app.add_transform(Unbroken)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
