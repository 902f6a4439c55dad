"""The built site: no warning, no dead link, nothing from a network, no heavy page, the code beside its equation."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from browsing import CHROMIUM, DESKTOP, PHONE, Browser, browser, pale, sticks_out

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "docs" / "conf.py").exists():
    pytest.skip("the pages are in the checkout, not in the package", allow_module_level=True)
for package in ("sphinx", "myst_nb", "furo", "latex2mathml", "sphinx_copybutton", "matplotlib"):
    pytest.importorskip(package, reason='the site is built with pip install ".[docs]"')

pytestmark = pytest.mark.slow
HEAVIEST = 300_000
"""Bytes of a page with its styles and scripts, not compressed; sources as pages and the search count alone."""
TALLEST = 6_000
"""Pixels of a page on a desktop. Fonts differ, so a tenth more passes."""
LONG = {
    "changelog": "the newest first: nobody reads to the end",
    "derivation": "one argument, each equation beside its code",
    "mistakes": "who has a message searches one page for it",
    "reference/augmentation": "one subject, with a list of its names above",
    "reference/callbacks": "one subject, with a list of its names above",
    "reference/layer": "one class",
    "reliability": "one list, which tools/reliability.py writes",
    "tutorials/by-hand": "one notebook, from the first product to the last step",
    "tutorials/own-layer": "one notebook, in which each layer builds on the one before",
}
"""Pages that may be longer, and why. (Tutorials are measured without what their cells show.)"""

READ = ["index", "derivation", "how-to/serve", "how-to/one-file", "how-to/pytorch", "reference/ops", "reference/zoo"]
READ += ["architecture", "contributing", "command-line", "exercises", "performance-tables", "playground", "reliability"]
"""Pages with every kind of text and code that there is."""


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
        elif tag in ("script", "img", "iframe", "source", "video", "object", "embed"):
            self.loads += [given[name] for name in ("src", "srcset") if name in given]


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


@pytest.fixture
def extension(monkeypatch):
    """One of docs/_extensions by its name."""
    monkeypatch.syspath_prepend(ROOT / "docs" / "_extensions")
    return importlib.import_module


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


def test_every_page_has_an_icon(site, pages):
    """For a page that names none, the browser asks the server for /favicon.ico, in vain."""
    icons = [path for path in site.rglob("icon.svg") if path.stat().st_size < 1000]
    named = re.compile(r"data:|(?:.*/)?icon\.svg$")
    bare = [path for path, page in pages.items() if not any(named.match(url) for url in page.loads)]
    assert not bare and len({path.read_bytes() for path in icons}) == 1 and len(icons) == 2


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


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def read(site: Path, pages: dict[Path, Page]) -> Iterator[tuple[str, Path]]:
    """The pages that are written to be read, by name."""
    for path in pages:
        name = str(path.relative_to(site).with_suffix(""))
        if not name.startswith(("code/", "playground/", "search", "genindex", "_")):
            yield name, path


def opened(tab: Browser, path: Path, script: str):
    tab.open(path.as_uri())
    tab.wait(f"document.readyState === 'complete' && location.href === {path.as_uri()!r}")
    return tab.run(script)


@needs_chromium
def test_no_page_is_long_without_a_reason(site, pages, tab):
    tab.show(DESKTOP)
    heights = {name: opened(tab, path, "document.documentElement.scrollHeight") for name, path in read(site, pages)}
    long = {name: height for name, height in heights.items() if height > 1.1 * TALLEST and name not in LONG}
    assert not long, "divide it by what readers need, or give a reason in LONG"
    assert not LONG.keys() - heights.keys(), "pages that are gone"


@needs_chromium
def test_nothing_sticks_out_on_a_phone(site, pages, tab):
    """What is wider than the window must stand in a box that scrolls: the page itself hides what sticks out of it."""
    tab.show(PHONE)
    found = {name: opened(tab, path, sticks_out("article")) for name, path in read(site, pages)}
    assert not {name: what for name, what in found.items() if what}


SCROLLS = """[...document.querySelectorAll("article .table-wrapper:has(> :is(.pairs, .cards))")]
    .filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.textContent.trim().slice(0, 40))"""


@needs_chromium
@pytest.mark.parametrize("name", ["reference/layers", "glossary", "command-line", "reliability", "questions"])
def test_a_table_of_names_and_meanings_fits_a_phone(site, tab, name):
    """Its rows stand below each other, so there is nothing to scroll sideways to."""
    tab.show(PHONE)
    boxes = "document.querySelectorAll('article .table-wrapper > :is(.pairs, .cards)').length"
    found, scrolling = opened(tab, site / f"{name}.html", f"[{boxes}, {SCROLLS}]")
    assert found and not scrolling


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", READ)
def test_text_and_code_can_be_read(site, tab, name, dark):
    """4.5 to 1, as the guidelines for the web ask for."""
    tab.show(DESKTOP, dark)
    assert not opened(tab, site / f"{name}.html", pale("article"))


def test_the_picture_is_upright_on_a_phone(site):
    """The same numbers in both, light and dark, and the sizes that the page announces."""
    page = (site / "index.html").read_text("utf-8")
    for theme in ("light", "dark"):
        flat, upright = ((site / "_made" / f"backprop-{theme}{end}.svg").read_text("utf-8") for end in ("", "-upright"))
        assert re.findall(r"<text.*?>(.*?)</text>", flat) == re.findall(r"<text.*?>(.*?)</text>", upright)
        for end, text in (("", flat), ("-upright", upright)):
            size = " ".join(re.search(r' (width="\d+") (height="\d+") class', text).groups())
            assert f'_made/backprop-{theme}{end}.svg" {size}' in page


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
    commands = re.findall(r"<table.*?</table>", (site / "command-line.html").read_text("utf-8"), flags=re.DOTALL)
    assert ["data-label" in table for table in commands].count(True) == 1, "names and few words are two columns"
    peers = re.findall(r"<table.*?</table>", (site / "performance-tables.html").read_text("utf-8"), flags=re.DOTALL)[0]
    assert 'data-label="kernels"' in peers, "versions and words are no table of numbers"
    half = (site / "how-to" / "coming-from.html").read_text("utf-8")
    assert 'class="empty"' in half and not re.findall(r"<td data-label[^>]*>(?:<p></p>)?</td>", half), "a label alone"
    speeds = re.findall(r"<table.*?</table>", (site / "performance.html").read_text("utf-8"), flags=re.DOTALL)
    speeds += re.findall(r"<table.*?</table>", (site / "performance-tables.html").read_text("utf-8"), flags=re.DOTALL)
    numbers = [table for table in speeds if "images/s" in table or "captured" in table]
    assert len(numbers) > 4
    assert all("data-label" not in table and re.match(r'<table class="[^"]*\bnumbers\b', table) for table in numbers)


@needs_chromium
def test_the_buttons_of_a_phone_stand_apart(site, tab):
    tab.show(PHONE)
    script = "[...document.querySelectorAll('.mobile-header svg')].filter((one) => one.checkVisibility())"
    script += ".map((one) => one.getBoundingClientRect()).map((box) => [box.left, box.right])"
    edges = sorted(opened(tab, site / "exercises.html", script))
    assert len(edges) == 3, "the menu, the colours, the headings of the page"
    assert all(after[0] - before[1] >= 8 for before, after in zip(edges, edges[1:])), edges


@needs_chromium
def test_two_long_titles_do_not_run_into_each_other(site, tab):
    tab.show(PHONE)
    script = "['.prev-page', '.next-page'].map((side) => document.querySelector(`.related-pages ${side} .title`))"
    script += ".map((one) => one.getBoundingClientRect()).map((box) => [box.left, box.right])"
    before, after = opened(tab, site / "how-to" / "weights-and-metrics.html", script)
    assert after[0] - before[1] >= 12


@needs_chromium
@pytest.mark.parametrize("width", [1280, 1520, 1600, 1920])
def test_a_line_of_code_has_room_on_a_desktop(site, tab, width):
    """As many characters as tests/test_docs.py allows an example."""
    tab.show((width, 900))
    found = opened(
        tab,
        site / "how-to" / "loaders.html",
        """(() => { const block = document.querySelector("article .highlight pre");
        block.textContent = "x".repeat(112);
        return [block.scrollWidth, block.clientWidth]; })()""",
    )
    assert found[0] <= found[1]


@needs_chromium
@pytest.mark.parametrize(
    "name", ["derivation", "glossary", "how-to/data-sets", "how-to/add-a-backend", "numerics", "changelog"]
)
def test_the_menu_opens_at_the_page_that_is_read(site, tab, name):
    tab.show(DESKTOP)
    script = """(() => { const place = document.querySelector(".sidebar-tree .current-page").getBoundingClientRect();
        return 100 < place.top && place.top < innerHeight - 20 && scrollY === 0; })()"""
    assert opened(tab, site / f"{name}.html", script)


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_picture_follows_the_switch_of_the_page(site, tab, dark):
    """An SVG in a page asks for the colours of the element that shows it, so a dark system may have a light page."""
    tab.show(DESKTOP, not dark)
    script = f"""document.body.dataset.theme = "{"dark" if dark else "light"}";
        getComputedStyle(document.querySelector("article img")).colorScheme"""
    assert opened(tab, site / "trace.html", script) == ("dark" if dark else "light")


def test_what_belongs_together_stays_on_one_line(site):
    """A space that does not break, no hyphen that does, and a message that is wrapped once, by its box."""
    assert "<h1>MNIST from 90 to 99\N{NO-BREAK SPACE}%" in (site / "tutorials" / "mnist.html").read_text("utf-8")
    numerics = (site / "numerics.html").read_text("utf-8")
    assert '<span class="whole">1e-13</span>' in numerics and "16\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}16" in numerics
    assert (site / "reference" / "data.html").read_text("utf-8").count("(11\N{NO-BREAK SPACE}MB)") == 2, (
        "in summaries, too"
    )
    mistakes = re.sub(r"<[^>]*>", "", (site / "mistakes.html").read_text("utf-8"))
    assert "as given to init. The batch is missing: x[None] is a batch of one.\n" in mistakes
    several = re.sub(r"<[^>]*>", "", (site / "how-to" / "pytorch.html").read_text("utf-8"))
    assert "cannot convert 3 parts of Sequential:\n  Conv2d (0)" in several, "a message of several lines keeps them"


def test_a_wrapped_message_is_joined_and_a_real_new_line_stays(extension):
    joined = extension("unbroken").joined
    first, second = f"ValueError: {'x' * 80} of", "an image"
    assert joined(f"{first}\n{second}\nMake one.") == f"{first} {second}\nMake one."
    assert joined(f"dualnet.recording.CaptureError: {first}\n{second}").endswith(f"{first} {second}")
    assert joined(f"{first[12:]}\n{second}") == f"{first[12:]}\n{second}", "no message"


def test_a_long_name_may_break_in_a_table_and_the_search_finds_it(site):
    """After a word, not inside of __init__."""
    assert '"test_softmax_cross_entropi":' in (site / "searchindex.js").read_text("utf-8")
    pages = [(site / f"{name}.html").read_text("utf-8") for name in ("derivation", "architecture", "reliability")]
    tables = [table for page in pages for table in re.findall(r"<table.*?</table>", page, flags=re.DOTALL)]
    assert sum(table.count("<wbr>") for table in tables) == sum(page.count("<wbr>") for page in pages) > 0
    assert not re.search('__</span><wbr>|_</span><wbr><span class="pre">_', "".join(tables))


def test_a_link_shows_the_title_of_the_page_that_it_leads_to(extension):
    """And not that of its namesake in another folder."""
    from docutils import nodes

    named = {"backends": nodes.title("", "Choosing a backend"), "reference/backends": nodes.title("", "Backends")}
    app = SimpleNamespace(env=SimpleNamespace(titles=named))
    for address, title in {"backends.html": "Backends", "../backends.html#auto": "Choosing a backend"}.items():
        page = nodes.paragraph("", "", nodes.reference("", "backends.md", refuri=address))
        extension("source_pages").titles(app, page, "reference/augmentation")
        assert page.astext() == title


@needs_chromium
def test_the_interactive_page_needs_no_scrolling_inside_the_page(site, tab):
    tab.show(DESKTOP)
    frame = "document.querySelector('iframe.interactive')"
    opened(tab, site / "see-it.html", f"{frame}.scrollIntoView()")
    tab.wait(f"parseInt({frame}.style.height) > 1500")


PANS = """[...document.querySelectorAll("article p > img:only-child, .cell_output img")]
    .filter((one) => one.naturalWidth > 1.2 * one.width && one.width < 540)
    .map((one) => `${one.getAttribute("src")}: ${one.naturalWidth} pixels in ${one.width}`)"""


@needs_chromium
def test_wide_figures_are_not_squeezed_on_a_phone(site, tab):
    """Their words would be too small: they scroll."""
    tab.show(PHONE)
    for name in ("trace", "pictures"):
        assert not opened(tab, site / f"{name}.html", PANS)


@pytest.mark.parametrize("name", ["index", "how-to/index"])
def test_what_a_page_lists_comes_in_the_order_of_the_menu(site, pages, name):
    """So that "next" leads to the next one of the list."""
    page = site / f"{name}.html"
    article = re.search(r"<article.*?</article>", page.read_text("utf-8"), flags=re.DOTALL)[0]
    menu = re.search(r'<div class="sidebar-tree">.*?</aside>', page.read_text("utf-8"), flags=re.DOTALL)[0]
    listed = [link for link in re.findall(r'<li><p>.*?href="([^"#]+)"', article) if inside(link)]
    order = re.findall(r'href="([^"#]+)"', menu)
    places = [order.index(link) for link in listed]
    assert len(places) > 10 and places == sorted(places), [link for link in listed]


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
    checks = (site / "reference" / "check.html").read_text("utf-8")
    assert re.search(r'href="\.\./numerics\.html"[^>]*>(<[^>]*>)*Numbers that must be right', checks)


def words(page: Path) -> str:
    """The text of a page's article, without its markup and its code."""
    article = re.search(r"<article.*?</article>", page.read_text("utf-8"), flags=re.DOTALL)[0]
    return re.sub(r"<[^>]*>", "", re.sub(r"<(pre|script|style|code)\b.*?</\1>", "", article, flags=re.DOTALL))


def test_no_markup_is_left(site, pages):
    """A backtick, a role or the name of a Markdown file is what an author types, not what a reader should see."""
    found = {
        name: re.findall(r".{0,30}(?:`|:doc:|:func:|docs/[\w/-]+\.md).{0,20}", words(path))
        for name, path in read(site, pages)
    }
    assert not {name: what for name, what in found.items() if what}
    assert r"\|" not in (site / "reference" / "bench.html").read_text("utf-8"), "what an example prints is not escaped"


def test_signatures_show_what_a_caller_needs(site, pages):
    """No private field, and a class by its own name, not behind the alias of a module."""
    signatures = 0
    for name, path in read(site, pages):
        for signature in re.findall(r'<dt class="sig.*?</dt>', path.read_text("utf-8"), flags=re.DOTALL):
            signatures += 1
            told = re.sub(r"<[^>]*>|\s", "", signature)
            assert not re.search(r"[(,]_\w+:|\b(?:L|kinds)\.[A-Z]", told), (name, told)
    assert signatures > 300


@needs_chromium
def test_code_that_is_looked_up_fits_a_desktop(site, pages, tab):
    """Who looks something up reads whole lines; what a program prints wraps."""
    tab.show(DESKTOP)
    script = "[...document.querySelectorAll('article pre')].filter((one) => one.scrollWidth > one.clientWidth + 1)"
    script += ".map((one) => one.textContent.slice(0, 60))"
    looked_up = ("reference/", "performance", "distributed", "gpu")
    shown = [(name, path) for name, path in read(site, pages) if name.startswith(looked_up)]
    found = {name: opened(tab, path, script) for name, path in shown}
    assert not {name: what for name, what in found.items() if what}


@needs_chromium
@pytest.mark.parametrize("name", ["genindex", "reference/scaling"])
def test_lists_of_names_can_be_read(site, tab, name):
    """The index has one column on a phone; a docstring's list of names keeps its lines."""
    tab.show(PHONE)
    assert not opened(tab, site / f"{name}.html", sticks_out("article"))
    columns = "[...document.querySelectorAll('.indextable td')].filter((one) => one.clientWidth < 300).length"
    assert tab.run(columns) == 0
    assert re.search(r"<pre>(<span></span>)?links\.py +what", (site / "reference" / "scaling.html").read_text("utf-8"))
