"""Docstrings as reStructuredText: an indented block is shown as it was typed, since it is a formula or code.

Signatures say what the source says, ``x: Array`` and ``stride: Extent``, and not what these names stand for.
"""

import ast
import inspect
import itertools
import re
import textwrap
from typing import Any

from sphinx.util.inspect import stringify_signature

NAMED = re.compile(r"(?!>>>|\.\.)\S.*?\S {3,}\S")
"""A line of a list: a name, and in a column of its own what it means."""


def lists(lines: list[str]) -> list[str]:
    """Indent each paragraph that is a list of names, so that it becomes a block: else its lines would run together."""
    result: list[str] = []
    inside = example = False
    for i, line in enumerate(lines):
        begins = i > 0 and not lines[i - 1].strip()
        example = bool(line.strip()) and (example or line.startswith(">>>"))
        inside = bool(line.strip()) and not example and (inside or (begins and bool(NAMED.match(line))))
        result.append("    " + line if inside else line)
    return result


def literal_blocks(lines: list[str]) -> list[str]:
    """Make every block that is indented below a line of running text a block of code, or of plain text."""
    result: list[str] = []
    for i, line in enumerate(lines):
        begins = line.startswith("    ") and i > 1 and not lines[i - 1].strip()
        above = next((text for text in reversed(result) if text.strip()), "")
        if begins and above and not above.startswith((" ", "..", "- ", ">>>")) and not above.rstrip().endswith("::"):
            block = list(itertools.takewhile(lambda text: text.startswith("    ") or not text.strip(), lines[i:]))
            result += [f".. code-block:: {'python' if is_python(block) else 'text'}", ""]
        result.append(line)
    return result


def is_python(block: list[str]) -> bool:
    """Code, and not words beside calls or a formula."""
    text = textwrap.dedent("\n".join(block))
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return bool(re.search(r"\bdn\.|^(def|class|with) ", text, flags=re.MULTILINE))


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    shown: list[str] = []
    example = False  # code and what it prints, to the next blank line
    for line in literal_blocks(lists(lines)):
        if line.startswith(">>>"):
            example = True
        elif not line.strip():
            example = False
        shown.append(line if example else plain(line))
    lines[:] = shown


def plain(line: str) -> str:
    """|x| is an absolute value here, and no substitution; a page of the site is a link to it; outside of formulas, code
    and ``quotes``."""
    if line.startswith(" "):
        return line
    parts = re.split(r"(``.*?``)", re.sub(r"``(docs/[\w/-]+\.md)``", r"\1", line))
    return "".join(part if part.startswith("``") else linked(part.replace("|", r"\|")) for part in parts)


def linked(text: str) -> str:
    return re.sub(r"\bdocs/([\w/-]+)\.md\b", r":doc:`docs/\1.md </\1>`", text)


def signature(app: Any, what: str, name: str, obj: Any, *_: Any) -> tuple[str, str] | None:
    try:
        found = inspect.signature(inspect.unwrap(obj))
    except (TypeError, ValueError):
        return None
    parameters = list(found.parameters.values())
    bound = what == "method" and inspect.isfunction(obj)  # `self`, or `net` where a function was handed in
    returns = "" if found.return_annotation is inspect.Signature.empty else str(found.return_annotation)
    shown = [one for one in parameters[1 if bound else 0 :] if not one.name.startswith("_")]
    told = stringify_signature(found.replace(parameters=shown), show_return_annotation=False)
    told, returns = (unaliased(text, obj) for text in (valued(told), returns))
    return told, "" if what == "class" else returns  # Sphinx reads it as Python


def valued(text: str) -> str:
    """Defaults that can be read, and that Sphinx reads: a function is shown as ``...``, a class by its name."""
    text = re.sub(r"<factory>|<function .*?(<lambda>)?>", "...", text)
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)


def unaliased(text: str, obj: Any) -> str:
    """``L.Sequential`` is a Sequential: only the file of a function knows what L is."""
    names = getattr(inspect.unwrap(obj), "__globals__", {})
    ours = [name for name, one in names.items() if inspect.ismodule(one) and one.__name__.startswith("dualnet.")]
    return re.sub(rf"\b(?:{'|'.join(ours)})\.(?=[A-Z])", "", text) if ours else text


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
