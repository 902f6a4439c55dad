"""On a phone each row of a table is a card: every cell carries the heading of its column as its label.

docs/_static/site.css draws what becomes of a table, by its class:

- ``cards``: most tables
- ``numbers``: stays a table, which scrolls beside its first column, since readers compare one row with the next
- ``pairs``: two columns, in which each option or name stands above its meaning
- none: two columns of few words stay a plain table
"""

from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

WIDE = 3
"""A table of so many columns is too wide for a phone."""
SHORT = 28
"""Characters of a cell that may stand beside others."""
NAME, MEANING = 12, 60
"""Characters of a name that leave room for its meaning beside it, and of a meaning that fits there in a few lines."""
WORD = 4
"""Characters of a cell that is read at a glance."""


class Cards(SphinxTransform):
    """Labels for the cells of tables with headings."""

    default_priority = 810  # after the texts of links are known

    def apply(self, **_: Any) -> None:
        for table in self.document.findall(nodes.table):
            heads = list(table.findall(nodes.thead))
            if not heads and _explains(table):
                table["classes"].append("pairs")  # names and their first sentences, in the reference
            if len(heads) != 1 or any("morecols" in entry for entry in table.findall(nodes.entry)):
                continue
            labels = [entry.astext() for entry in heads[0].findall(nodes.entry)]
            if len(labels) >= WIDE and _compares(table):
                table["classes"].append("numbers")
                continue
            if len(labels) < WIDE and (_explains(table) or not _wordy(table)):
                table["classes"] += ["pairs"] if _explains(table) else []
                for first, *_rest in _rows(table):
                    first["classes"] += ["short"] if len(first.astext()) <= SHORT else []
                continue
            table["classes"].append("cards")
            for row in _rows(table):
                for label, entry in zip(labels, row):
                    if not entry.astext():  # a label alone would say nothing
                        entry["classes"].append("empty")
                        continue
                    entry["label"] = label
                    if len(label) + len(entry.astext()) <= SHORT:
                        entry["classes"].append("short")


def _rows(table: nodes.table) -> list[list[nodes.entry]]:
    return [list(row.findall(nodes.entry)) for body in table.findall(nodes.tbody) for row in body.findall(nodes.row)]


def _explains(table: nodes.table) -> bool:
    """Two columns: a name, in code or bold, and its meaning."""
    return all(len(row) == 2 and any(row[0].findall(_names)) for row in _rows(table)) and _wordy(table)


def _names(node: nodes.Node) -> bool:
    return isinstance(node, nodes.literal | nodes.strong)


def _wordy(table: nodes.table) -> bool:
    """Are two columns too long to stand beside each other on a phone?"""
    first, second = (max((len(row[i].astext()) for row in _rows(table) if len(row) == 2), default=0) for i in (0, 1))
    return second > MEANING or (first > NAME and second > SHORT)


def _compares(table: nodes.table) -> bool:
    """No cell beside the first column is long, and most begin with a digit or hold a word such as yes."""
    cells = [entry.astext() for row in _rows(table) for entry in row[1:]]
    glances = sum(cell[:1].isdigit() or 0 < len(cell) <= WORD for cell in cells)
    return 2 * glances > len(cells) and all(len(cell) <= SHORT for cell in cells)


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
