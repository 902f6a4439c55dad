"""Short pieces of code stay on one line: without this, a browser breaks ``--backend`` behind its hyphens.

Long names, such as those of tests, may break in a table, after a word: else they leave its other columns no room.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

LONGEST = 24
"""Characters that fit beside others on a phone."""


class Whole(SphinxTransform):
    default_priority = 400

    def apply(self, **_: Any) -> None:
        for code in self.document.findall(nodes.literal):
            text = code.astext()
            if len(text) <= LONGEST:
                code["classes"].append("whole")
            elif " " not in text:
                code["classes"].append("name")


def breaks(app: Any, document: nodes.document, docname: str) -> None:
    for code in document.findall(nodes.literal):
        if "name" in code["classes"]:
            first, *parts = re.split(r"(?<=[_/:])(?=\w)", code.astext())
            code.children = [nodes.Text(first)]
            for part in parts:
                code += [nodes.raw("", "<wbr>", format="html"), nodes.Text(part)]


def options(app: Any, page: str, template: str, context: dict[str, Any], document: Any) -> None:
    """In a long command too, ``--logdir`` stays whole, if it fits on a phone."""
    if "body" in context:
        pattern = rf'<span class="pre">(?=--?[a-z][\w-]{{1,{LONGEST}}}</span>)'
        context["body"] = re.sub(pattern, '<span class="pre option">', context["body"])


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(Whole)
    app.connect("doctree-resolved", breaks)
    app.connect("html-page-context", options)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
