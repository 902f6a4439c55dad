"""The package's sources and tests as pages of the site, so that a link to a line of code works without a network.

Links of the pages to ``../dualnet/....py`` and the like lead there; what nothing links to gets no page. A link that
names a page's file, as those of docstrings do, shows the page's title instead.
"""

import inspect
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("dualnet", "backends", "tests", "tools", "docs")
HOME = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
    "SECURITY.md": "security",
}


def page_of(file: Path) -> str | None:
    """The name of the page that shows a file of the checkout, ``code/dualnet/ops/dense``; None for any other file."""
    try:
        place = file.resolve().relative_to(ROOT)
    except ValueError:
        return None
    if str(place) in HOME:
        return HOME[str(place)]
    fits = place.parts[0] in FOLDERS and (ROOT / place).is_file() and place.suffix in (".py", ".md")
    return "code/" + place.with_suffix("").as_posix() if fits else None


def wanted(env: Any) -> set[str]:
    """The files that get a page, as paths in the checkout."""
    if not hasattr(env, "dualnet_sources"):
        env.dualnet_sources = set()
    return env.dualnet_sources


def link(env: Any, docname: str, file: Path, line: int | None = None) -> str | None:
    """The way from a page to the page of a file, or None where it has none."""
    page = page_of(file)
    if page is None:
        return None
    if page.startswith("code/"):
        wanted(env).add(file.resolve().relative_to(ROOT).as_posix())
    relative = os.path.relpath(page, os.path.dirname(docname) or ".").replace(os.sep, "/")
    return f"{relative}.html" + (f"#L-{line}" if line else "")


class LinksToSources(SphinxTransform):
    """Markdown's links to files of the checkout lead to their pages."""

    default_priority = 200

    def apply(self, **_: Any) -> None:
        docname = self.env.docname
        folder = Path(self.env.doc2path(docname)).parent
        for kind in (addnodes.download_reference, addnodes.pending_xref):
            for node in list(self.document.findall(kind)):
                target = node.get("reftarget", "")
                if node.get("refdomain") == "doc" and Path(target).is_absolute():  # Markdown beside docs/
                    target += ".md"
                top = docname in HOME.values() and docname != "index"  # a file beside docs/, shown as a page
                local = kind is addnodes.pending_xref and not (top or "../" in target or target.startswith("/"))
                if local or not target.endswith((".py", ".md")):
                    continue
                url = link(self.env, docname, (ROOT if top else folder) / target)
                if url is None:
                    continue
                found = nodes.reference("", "", *node.children, refuri=url, internal=True)
                node.replace_self(found)


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """[source] beside every name of the reference; its pages all lie one folder deep."""
    try:
        found: Any = sys.modules[info["module"]]
        for part in info["fullname"].split("."):
            found = getattr(found, part)
        found = inspect.unwrap(found.fget if isinstance(found, property) else found)
        file, (_, line) = Path(inspect.getsourcefile(found) or ""), inspect.getsourcelines(found)
    except (AttributeError, KeyError, TypeError, OSError):
        return None
    page = page_of(file)
    SHOWN.add(file.resolve().relative_to(ROOT).as_posix() if page else "")
    return f"../{page}.html#L-{line}" if page else None


SHOWN: set[str] = set()
"""Files that the reference links to."""


def keep(app: Any, env: Any) -> None:
    """Remember them, for the builds that read changed pages only."""
    wanted(env).update(SHOWN - {""})


def pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    for place in sorted(wanted(app.env)):
        file = ROOT / place
        language = "python" if file.suffix == ".py" else "markdown"
        code = app.builder.highlighter.highlight_block(
            file.read_text("utf-8"), language, linenos="inline", lineanchors="L", anchorlinenos=True, force=True
        )
        name = place.replace("/", "/<wbr>")
        body = f'<h1><code>{name}</code></h1><div class="source-page">{code}</div>'
        yield page_of(file) or "", {"title": place, "body": body, "parents": []}, "page.html"


NAMED = re.compile(r"[\w/-]+\.md")


def titles(app: Any, document: nodes.document, docname: str) -> None:
    """``docs/gpu.md`` is what an editor opens; a reader of the site wants "On a GPU"."""
    for link in document.findall(nodes.reference):
        file = posixpath.join(posixpath.dirname(docname), link.get("refuri", "").partition("#")[0])
        page = posixpath.normpath(file).removesuffix(".html")
        if NAMED.fullmatch(link.astext()) and page in app.env.titles:
            link.children = [nodes.inline("", *(node.deepcopy() for node in app.env.titles[page].children))]


def merge(app: Any, env: Any, docnames: Any, other: Any) -> None:
    wanted(env).update(wanted(other))


def setup(app: Any) -> dict[str, Any]:
    app.add_transform(LinksToSources)
    app.connect("env-updated", keep)
    app.connect("html-collect-pages", pages)
    app.connect("doctree-resolved", titles)
    app.connect("env-merge-info", merge)
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": 1}
