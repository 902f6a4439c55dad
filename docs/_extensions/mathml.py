"""Equations as MathML, written into the page when it is built: browsers draw it themselves, without script or font."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert


def drawn(formula: str, display: str) -> str:
    math = convert(formula.replace("{aligned}", "{split}"), display=display)  # the name that the converter knows
    return re.sub("<mi>([←∗⊗×])</mi>", r"<mo>\1</mo>", math)  # operators, with room on both sides


def inline(writer: Any, node: nodes.math) -> None:
    writer.body.append(drawn(node.astext(), "inline"))
    raise nodes.SkipNode


def block(writer: Any, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="equation">{drawn(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
