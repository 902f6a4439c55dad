"""The built site: no warning, no dead link, nothing from a network, no heavy page, the code beside its equation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "docs" / "conf.py").exists():
    pytest.skip("the pages are in the checkout, not in the package", allow_module_level=True)
for package in ("sphinx", "myst_nb", "furo", "latex2mathml", "sphinx_copybutton", "matplotlib"):
    pytest.importorskip(package, reason='the site is built with pip install ".[docs]"')

pytestmark = pytest.mark.slow
HEAVIEST = 300_000
"""Bytes of a page with its styles and scripts, not compressed; sources as pages and the search count alone."""


@dataclass
class Page(HTMLParser):
    """What an HTML file links to and loads, and the names in it."""

    path: Path
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    equations: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        self.equations += tag == "math"
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical",):
            self.loads.append(given.get("href", ""))
        elif tag in ("script", "img", "iframe", "source", "video", "object", "embed") and "src" in given:
            self.loads.append(given["src"])


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (chromium, google-chrome)")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built once, offline, with the tutorials' code shown and not run: tests/test_tutorials.py runs it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(folder / "trees")]
    environment = os.environ | {"DUALNET_NOTEBOOKS": "off", "DUALNET_BACKEND": "numpy", "no_proxy": ""}
    environment |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}  # nobody listens there
    told = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder / "html")], env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def inside(link: str) -> bool:
    return not re.match(r"[a-z]+:|//", link)


def test_links_lead_somewhere(site, pages):
    dead = []
    for page in pages.values():
        for link in filter(inside, page.links + page.loads):
            path, _, anchor = unquote(link).partition("#")
            target = (page.path.parent / path.partition("?")[0]).resolve() if path else page.path
            if not target.exists():
                dead.append(f"{page.path.relative_to(site)}: {link}")
            elif anchor and target in pages and anchor not in pages[target].names:
                dead.append(f"{page.path.relative_to(site)}: {link}: no such place")
    assert not dead, "\n".join(dead)


def test_nothing_is_loaded_from_a_network(site, pages):
    found = [f"{page.path.name}: {url}" for page in pages.values() for url in page.loads if not inside(url)]
    for style in site.rglob("*.css"):
        text = style.read_text("utf-8")
        found += [
            f"{style.name}: {url}" for url in re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^)\"']+)", text)
        ]
    assert not [line for line in found if "data:" not in line], found


def test_no_page_is_heavy(site, pages):
    heavy = {}
    for path, page in pages.items():
        name, size = str(path.relative_to(site)), path.stat().st_size
        if not name.startswith(("code/", "search", "genindex")):
            files = {(path.parent / url.partition("?")[0]).resolve() for url in page.loads if inside(url)}
            size += sum(file.stat().st_size for file in files if file.suffix in (".css", ".js"))
        if size > HEAVIEST:
            heavy[name] = size
    assert not heavy


@needs_chromium
def test_no_page_is_wider_than_its_window(site):
    """From a phone to a wide screen; furo changes its columns in between, and our style its own widths."""
    pages = ("index.html", "performance.html", "derivation.html", "how-to/capture.html", "tutorials/first-network.html")
    pages += ("exercises.html", "questions.html")
    frames = [
        f'<iframe src="{page}" style="width: {width}px"></iframe>'
        for page in pages
        for width in (360, 740, 1000, 1090, 1200, 1300, 1440, 1560, 1680, 1920)
    ]
    script = """<script>onload = () => { for (const frame of document.querySelectorAll("iframe")) {
        const root = frame.contentDocument.documentElement;
        if (root.scrollWidth > root.clientWidth) document.body.append(`${frame.outerHTML} is ${root.scrollWidth};`); }
        document.body.append("all " + document.querySelectorAll("iframe").length) }</script>"""
    (site / "widths.html").write_text(f"<body>{''.join(frames)}{script}</body>", encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--virtual-time-budget=20000", "--dump-dom", (site / "widths.html").as_uri()]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout.rpartition("</script>")[2]
    (site / "widths.html").unlink()
    assert told.startswith(f"all {len(frames)}"), told


def test_the_rows_of_a_table_are_cards_on_a_phone(site):
    """Each cell knows the heading of its column; tables of numbers, and narrow ones, stay tables."""
    questions = (site / "questions.html").read_text("utf-8")
    (first, *_) = re.findall(r'<table[^>]*class="[^"]*\bcards\b.*?</table>', questions, flags=re.DOTALL)
    headings = re.findall(r'<th class="head"><p>(.*?)</p>', first)
    cells = re.findall(r"<td[^>]*>", first)
    assert len(headings) == 3 and len(cells) % 3 == 0
    assert re.findall(r'data-label="([^"]*)"', first) == headings * (len(cells) // 3)
    listed = (site / "exercises.html").read_text("utf-8")
    assert listed.count('data-label="symptom"') == 24 and 'data-label=""' not in listed, "numbers have no heading"
    assert "data-label" not in (site / "command-line.html").read_text("utf-8"), "tables of two columns"
    speeds = re.findall(r"<table.*?</table>", (site / "performance.html").read_text("utf-8"), flags=re.DOTALL)
    assert not [table for table in speeds if "images/s" in table and "data-label" in table]


def test_equations_are_drawn_without_script(site, pages):
    assert pages[site / "derivation.html"].equations > 20
    for page in pages.values():
        assert not [url for url in page.loads if "mathjax" in url.lower() or "katex" in url.lower()]


def test_every_equation_stands_beside_its_code(site):
    """Each of E1 … E19 shows lines of the source that carry its tag, as they are in the file."""
    text = (site / "derivation.html").read_text("utf-8")
    sections = dict(re.findall(r'<section id="(E\d+)">(.*?)</section>', text, flags=re.DOTALL))
    assert list(sections) == [f"E{i}" for i in range(1, 20)]
    for tag, section in sections.items():
        places = list(shown(section))
        assert places, f"{tag} shows no code"
        for file, line in places:
            source = (ROOT / file).read_text("utf-8").splitlines()
            near = " ".join(source[max(0, line - 3) : line + 1])
            assert re.search(rf"\b{tag}\b", near), f"{tag}: {file}:{line} is not tagged"


def shown(section: str) -> Iterator[tuple[str, int]]:
    for file, line in re.findall(r">((?:dualnet|backends)/[\w/]+\.py):(\d+)<", section):
        yield file, int(line)


def test_a_docstring_leads_to_the_equation(site):
    text = (site / "reference" / "ops.html").read_text("utf-8")
    assert 'href="../derivation.html#E13"' in text or 'href="../derivation.html#e13' in text
