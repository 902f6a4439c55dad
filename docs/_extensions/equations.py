"""The derivation and its code, held together by the tags E1 … E19.

- Below each ``- Code:`` of docs/derivation.md stand the lines of that function which carry the section's tag, taken
  from the source when the page is built: they cannot drift. A tag that is gone from the function stops the build.
- Wherever a page or a docstring says E13, that is a link to the equation.
"""

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import source_pages
from docutils import nodes
from sphinx import addnodes
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform

PAGE = "derivation"
TAG = re.compile(r"\bE(?:1[0-9]|[1-9])\b")
AROUND = 2
"""Lines of context above a tagged one."""
SHORT = 4
"""Lines of a function that may carry its tag in its docstring alone, and is then shown whole."""


class Lines(NamedTuple):
    """A piece of a file: the number of its first line, its text, and which of its lines (from 1) are tagged."""

    first: int
    text: str
    tagged: list[int]


def tagged_lines(file: Path, function: str, tag: str) -> list[Lines]:
    """The pieces of ``function`` whose lines carry the tag, each with a little of what stands around it."""
    source = file.read_text("utf-8")
    node = _find(ast.parse(source), function.split("."))
    if node is None:
        raise ExtensionError(f"{file} has no {function}")
    lines = [""] + source.splitlines()  # counted from 1, as editors do
    first = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.body[0].lineno
    last = node.end_lineno
    word = re.compile(rf"\b{tag}\b")
    hits = [n for n in range(first, last + 1) if word.search(lines[n].partition("#")[2])]
    if not hits and last - node.lineno < SHORT and word.search(ast.get_docstring(node) or ""):
        return [Lines(node.lineno, _dedent(lines[node.lineno : last + 1]), [last - node.lineno + 1])]
    if not hits:
        raise ExtensionError(f"{file}: no line of {function} is tagged {tag}")
    pieces: list[list[int]] = []
    for hit in hits:
        begin, end = max(first, hit - AROUND), min(last, hit + 1)
        if pieces and begin <= pieces[-1][1] + 2:
            pieces[-1][1] = end
        else:
            pieces.append([begin, end])
    return [_piece(lines, begin, end, hits) for begin, end in pieces]


def _find(node: ast.AST, path: list[str]) -> Any:
    for name in path:
        node = next((child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == name), None)
        if node is None:
            return None
    return node


def _piece(lines: list[str], begin: int, end: int, hits: list[int]) -> Lines:
    while begin not in hits and not lines[begin].strip():
        begin += 1
    while end not in hits and not lines[end].strip():
        end -= 1
    return Lines(begin, _dedent(lines[begin : end + 1]), [hit - begin + 1 for hit in hits if begin <= hit <= end])


def _dedent(lines: list[str]) -> str:
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:] for line in lines)


class CodeOfEquations(SphinxTransform):
    """On the derivation: a short name for each section, and its code below ``Code:``."""

    default_priority = 190  # before links to sources are rewritten

    def apply(self, **_: Any) -> None:
        if self.env.docname != PAGE:
            return
        for section in self.document.findall(nodes.section):
            tag = TAG.match(section.next_node(nodes.title).astext())
            if tag is None or not isinstance(section.parent, nodes.section):
                continue
            self._name(section, tag[0])
            for item in section.findall(nodes.list_item):
                if item.astext().startswith("Code:"):
                    item.parent["classes"].append("witnesses")
                    self._show(item, tag[0])

    def _name(self, section: nodes.section, tag: str) -> None:
        section["ids"].insert(0, tag)
        standard = self.env.get_domain("std")
        standard.labels[tag.lower()] = (PAGE, tag, section.next_node(nodes.title).astext())
        standard.anonlabels[tag.lower()] = (PAGE, tag)

    def _show(self, item: nodes.list_item, tag: str) -> None:
        for place in list(item.findall(addnodes.download_reference)):
            file = (Path(self.env.doc2path(PAGE)).parent / place["reftarget"]).resolve()
            self.env.note_dependency(str(file))
            for piece in tagged_lines(file, place.astext(), tag):
                name = file.relative_to(source_pages.ROOT).as_posix()
                url = source_pages.link(self.env, PAGE, file, piece.first + piece.tagged[0] - 1)
                where = nodes.reference("", f"{name}:{piece.first + piece.tagged[0] - 1}", refuri=url, internal=True)
                code = nodes.literal_block(piece.text, piece.text, language="python", linenos=True)
                code["highlight_args"] = {"linenostart": piece.first, "hl_lines": piece.tagged}
                caption = nodes.caption("", "", where)
                box = nodes.container("", caption, code, literal_block=True, classes=["literal-block-wrapper"])
                item += box


class TagsAreLinks(SphinxTransform):
    """E13 in running text leads to the equation."""

    default_priority = 800

    def apply(self, **_: Any) -> None:
        if self.env.docname.startswith("changelog"):
            return
        closed = (nodes.reference, nodes.literal, nodes.FixedTextElement, nodes.title, nodes.math, nodes.raw)
        for text in list(self.document.findall(nodes.Text)):
            if not TAG.search(text) or inside(text, (*closed, addnodes.pending_xref, addnodes.desc_signature)):
                continue
            parts: list[nodes.Node] = []
            end = 0
            for found in TAG.finditer(text):
                parts.append(nodes.Text(text[end : found.start()]))
                parts.append(self._link(found[0]))
                end = found.end()
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])

    def _link(self, tag: str) -> nodes.Node:
        return addnodes.pending_xref(
            "",
            nodes.inline("", tag, classes=["std", "std-ref"]),
            refdomain="std",
            reftype="ref",
            reftarget=tag.lower(),
            refexplicit=True,
            refwarn=True,
            refdoc=self.env.docname,
        )


def inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    """Is one of the nodes around this one of these kinds?"""
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(CodeOfEquations)
    app.add_transform(TagsAreLinks)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
