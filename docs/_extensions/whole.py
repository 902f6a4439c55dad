"""Short pieces of code stay on one line: without this, a browser breaks ``--backend`` behind its hyphens."""

from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

LONGEST = 24
"""Characters that fit beside others on a phone."""


class Whole(SphinxTransform):
    default_priority = 400

    def apply(self, **_: Any) -> None:
        for code in self.document.findall(nodes.literal):
            if len(code.astext()) <= LONGEST:
                code["classes"].append("whole")


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(Whole)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
