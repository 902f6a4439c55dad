"""On a phone each row of a table is a card: every cell carries the heading of its column as its label.

docs/_static/site.css draws the cards, for tables of three columns and more. Tables of numbers stay tables, which
scroll: there readers compare one row with the next.
"""

from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

COLUMNS = 3
"""A table with fewer fits on a phone as it is."""
SHORT = 28
"""Characters of a cell that may stand beside others."""


class Cards(SphinxTransform):
    """Labels for the cells of tables with headings."""

    default_priority = 810  # after the texts of links are known

    def apply(self, **_: Any) -> None:
        for table in self.document.findall(nodes.table):
            heads = list(table.findall(nodes.thead))
            if len(heads) != 1 or any("morecols" in entry for entry in table.findall(nodes.entry)):
                continue
            labels = [entry.astext() for entry in heads[0].findall(nodes.entry)]
            if len(labels) < COLUMNS or _holds_numbers(table):
                continue
            table["classes"].append("cards")
            for body in table.findall(nodes.tbody):
                for row in body.findall(nodes.row):
                    for label, entry in zip(labels, row.findall(nodes.entry)):
                        entry["label"] = label
                        if len(label) + len(entry.astext()) <= SHORT:
                            entry["classes"].append("short")


def _holds_numbers(table: nodes.table) -> bool:
    """Do most cells beside the first column begin with a digit?"""
    rows = [
        list(row.findall(nodes.entry))[1:] for body in table.findall(nodes.tbody) for row in body.findall(nodes.row)
    ]
    cells = [entry.astext() for row in rows for entry in row]
    return 2 * sum(cell[:1].isdigit() for cell in cells) > len(cells)


def visit(writer: Any, node: nodes.entry) -> None:
    type(writer).visit_entry(writer, node)  # the method of its class, which this one stands before
    if label := node.get("label"):
        writer.body[-1] = writer.body[-1].replace("<td", f'<td data-label="{writer.attval(label)}"', 1)


def depart(writer: Any, node: nodes.entry) -> None:
    type(writer).depart_entry(writer, node)


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(Cards)
    app.add_node(nodes.entry, override=True, html=(visit, depart))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
