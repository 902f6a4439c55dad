"""Examples of code end with their last line: the empty one that ends an example for doctest is not shown."""

from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform


class Trimmed(SphinxTransform):
    default_priority = 400

    def apply(self, **_: Any) -> None:
        for block in self.document.findall(nodes.literal_block):
            text = block.astext()
            if text != text.rstrip() and len(block.children) == 1:
                block.rawsource = text.rstrip()
                block.replace(block[0], nodes.Text(text.rstrip()))


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(Trimmed)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
