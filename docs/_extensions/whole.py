"""Short pieces of code stay on one line: without this, a browser breaks ``--backend`` behind its hyphens.

Long names, such as those of tests, may break anywhere in a table: else they leave its other columns no room.
"""

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


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(Whole)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
