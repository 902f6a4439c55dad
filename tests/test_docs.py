"""The pages tell the truth: examples run, quotes are in the source, links lead somewhere, commands parse."""

from __future__ import annotations

import argparse
import doctest
import importlib.util
import inspect
import pkgutil
import re
import shlex
from pathlib import Path

import pytest
import test_architecture
from test_architecture import house

import dualnet as dn
from dualnet import cli

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / "README.md").exists():
    pytest.skip("the pages are in the checkout, not in the package", allow_module_level=True)

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md"]
PAGES += [page for page in sorted(DOCS.rglob("*.md")) if page.relative_to(DOCS).parts[0] not in ("_build", "_made")]
PAGES += [page for page in [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"] if page.exists()]
SOURCES = [*(ROOT / "dualnet").rglob("*.py"), *(ROOT / "backends").rglob("*.py")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


# -- code --------------------------------------------------------------------------------------------------------------


LIBRARIES = {"h5py", "keras", "onnx", "onnxruntime", "sklearn", "torch"}
"""What a page about a bridge may import; where one is missing, its examples are skipped."""


@pytest.mark.parametrize("page", [page for page in PAGES if ">>> " in page.read_text("utf-8")], ids=name)
def test_examples_run(backend, page, tmp_path, monkeypatch):
    if "matplotlib" in page.read_text("utf-8"):
        pytest.importorskip("matplotlib").use("agg")
    for library in set(re.findall(r"^>>> (?:import|from) (\w+)", page.read_text("utf-8"), re.MULTILINE)) & LIBRARIES:
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    examples = doctest.DocTestParser().get_doctest(page.read_text("utf-8"), {}, name(page), str(page), 0)
    wrapped = doctest.NORMALIZE_WHITESPACE if page.stem == "mistakes" else 0  # long messages in several lines
    result = doctest.DocTestRunner(verbose=False, optionflags=wrapped).run(examples, out=told.append)
    if any("MissingDtype" in line for line in told):
        pytest.skip(f"{backend} lacks a dtype of this page")
    assert result.attempted > 0 and result.failed == 0, "".join(told)


WIDEST = 112
"""Characters of a line of code that fit the column of the site on a desktop. Messages and printed sentences wrap."""


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_example_needs_scrolling_on_a_desktop(page):
    examples = [block for block in blocks(page, "python") if "Traceback (most recent call last)" not in block]
    long = [line for block in examples for line in block.splitlines() if len(line) > WIDEST]
    assert not [line for line in long if line.startswith((">>>", "...")) or "  " in line], "code, or columns of a table"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_is_an_example_or_a_quote(page):
    """A block of Python without prompts is taken from the source, line by line."""
    sources = [stripped(path.read_text("utf-8")) for path in SOURCES]
    for block in blocks(page, "python"):
        if ">>> " in block:
            assert block.endswith("\n\n"), f"{name(page)}: an example ends with an empty line, or ``` is its output"
        else:
            assert any(stripped(block) in source for source in sources), f"{name(page)}: not in the source:\n{block}"


def stripped(code: str) -> str:
    """Without indentation and empty lines."""
    return "\n".join(line.strip() for line in code.splitlines() if line.strip())


# -- links and words ---------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The names under which headings can be linked to, as code hosts make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href|srcset)="([^"]+)"', text):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{name(page)}: {link}: no such heading"


def test_every_page_can_be_reached():
    """The side bar of the site, which begins at docs/index.md, has every page; and README leads to it."""
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        waiting += [entry for entry in listed(page) if entry not in reached]
    pages = {page for page in [*PAGES, *DOCS.rglob("*.rst")] if page.is_relative_to(DOCS)}
    pages = {page for page in pages if not page.read_text("utf-8").startswith("---\norphan: true\n")}  # signposts
    assert not pages - reached, f"in no toctree: {sorted(map(name, pages - reached))}"


def listed(page: Path) -> list[Path]:
    """The pages in the toctrees of a page."""
    text = page.read_text("utf-8")
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    trees += re.findall(r"^\.\. toctree::\n((?:   .*\n|\n)*)", text, flags=re.MULTILINE)
    entries = [line.strip() for tree in trees for line in tree.splitlines() if line.strip()]
    stems = [page.parent / entry for entry in entries if not entry.startswith(":")]
    return [stem.with_name(stem.name + end) for stem in stems for end in (".md", ".rst") if file(stem, end)]


def file(stem: Path, end: str) -> bool:
    return stem.with_name(stem.name + end).exists()


def test_thirty_questions_have_a_page():
    rows = re.findall(
        r"^\| (.+\?.*?) \| .+ \| (\[.+\]\(.+\)) \|$", (DOCS / "questions.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) >= 30


# -- the reference -----------------------------------------------------------------------------------------------------


def documented() -> list[str]:
    """What docs/reference/*.rst describes, such as ``dualnet.ops.conv2d``."""
    text = "\n".join(page.read_text("utf-8") for page in sorted((DOCS / "reference").glob("*.rst")))
    return re.findall(r"^\.\. auto(?:function|class|exception):: (\S+)$", text, flags=re.MULTILINE)


def test_every_public_name_is_in_the_reference():
    named = {identity(resolved(entry)) for entry in documented() if loadable(entry)}
    modules = [dn, dn.ops, dn.losses, dn.check, dn.data, dn.models, dn.optimizers, dn.schedules, dn.backend]
    modules += [
        importlib.import_module(f"dualnet.{extra}") for extra in ("bench", "bench.scaling", "distributed", "explain")
    ]
    modules += [importlib.import_module(f"dualnet.{extra}") for extra in ("parity", "viz", "zoo")]
    modules += [dn.training]
    modules += [importlib.import_module(f"dualnet.seeing.{one}") for one in ("summary", "tracing")]
    missing = set()
    for module in modules:
        for public in getattr(module, "__all__", [entry for entry in vars(module) if not entry.startswith("_")]):
            found = getattr(module, public)
            if getattr(found, "__module__", "").startswith("dualnet") and identity(found) not in named:
                missing.add(f"{module.__name__}.{public}")
    assert not missing, f"not in docs/reference: {sorted(missing)}"


def loadable(entry: str) -> bool:
    """Not in a file that needs a library at once, which is missing here."""
    library = test_architecture.AT_ONCE.get(f"{entry.rpartition('.')[0].replace('.', '/')}.py")
    return library is None or importlib.util.find_spec(library) is not None


def resolved(entry: str) -> object:
    """The attribute, also where a module has the same name: dualnet.ops.dense is a function."""
    parent, _, attribute = entry.rpartition(".")
    return getattr(pkgutil.resolve_name(parent), attribute)


def identity(found: object) -> int:
    return id(inspect.unwrap(found) if callable(found) else found)


def test_the_reference_names_nothing_twice_and_lists_it_above():
    entries = documented()
    assert len(entries) == len(set(entries))
    for page in (DOCS / "reference").glob("*.rst"):
        text = page.read_text("utf-8")
        objects = re.compile(r"^\.\. auto(?:function|class|exception):: (\S+)$", flags=re.MULTILINE)
        sections = [objects.findall(section) for section in re.split(r"^[=-]+$", text, flags=re.MULTILINE)]
        alone = [found[0] for found in sections if len(found) == 1]  # the heading is its list
        listed = re.findall(r"^   ~(dualnet\.\S+)$", text, flags=re.MULTILINE)
        assert listed == [one for one in sum(sections, []) if one in listed or one not in alone], name(page)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_page_is_a_promise(page):
    found = re.findall(
        r"\bTODO\b|\bFIXME\b|\bTBD\b|coming soon|to be written|work in progress", page.read_text("utf-8")
    )
    assert not found, f"{name(page)}: {found}"


def test_changelog_has_this_version():
    assert f"## {dn.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


# -- commands ----------------------------------------------------------------------------------------------------------


def test_the_two_commands():
    text = (ROOT / "README.md").read_text("utf-8")
    assert 'pip install ".[progress]" && dualnet train\n' in text
    assert 'pip install -e ".[test]" && pytest -n auto\n' in text


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_parse(page):
    for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            if words[:1] == ["dualnet"] and words[1:] != ["--version"]:
                cli._parser().parse_args(words[1:])


def test_every_command_and_option_is_described():
    first, proofs = ((DOCS / f"{page}.md").read_text("utf-8") for page in ("command-line", "command-line-proofs"))
    (commands,) = (action for action in cli._parser()._actions if isinstance(action, argparse._SubParsersAction))
    for command, parser in commands.choices.items():
        page = first if f"\n## {command}\n" in first else proofs
        assert f"\n## {command}\n" in page
        assert f"| [`{command}`](" in first, "the first page lists all commands"
        told = page.partition(f"\n## {command}\n")[2].partition("\n## ")[0] + first.partition("\n## ")[0]
        for option in set(re.findall(r"--[a-z][a-z-]+", parser.format_help())) - {"--help"}:
            assert option in told, f"docs/command-line*.md do not tell of {command} {option}"


def test_every_variable_is_described():
    page = (ROOT / "docs" / "backends.md").read_text("utf-8")
    read = {name for path in SOURCES for name in re.findall(r"\bDUALNET_[A-Z]+\b", path.read_text("utf-8"))}
    assert read == set(re.findall(r"\bDUALNET_[A-Z]+\b", page))


def test_the_floors_are_those_of_the_house():
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    told = re.findall(r"^\| (`.*?`) \|", page, flags=re.MULTILINE)
    between = house.rooms(test_architecture.graph())
    heights = house.floors(
        {one: {o for o in others if "." not in o} for one, others in between.items() if "." not in one}
    )
    levels = {}
    for one, floor in heights.items():
        levels.setdefault(floor, set()).add(one)
    assert [set(re.findall(r"\w+", rooms)) for rooms in told] == [
        levels[floor] - {"backends"} for floor in sorted(levels, reverse=True)
    ]


# -- the picture -------------------------------------------------------------------------------------------------------


def test_the_picture_is_what_dualnet_computes(backend):
    spec = importlib.util.spec_from_file_location("make_picture", ROOT / "docs" / "make_picture.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.PICTURE.read_text("utf-8") == make.picture(), "run python docs/make_picture.py"


def test_the_picture_is_self_contained():
    text = (ROOT / "docs" / "backprop.svg").read_text("utf-8")
    assert "<title" in text and "<desc" in text and "prefers-color-scheme: dark" in text
    assert not re.findall(r"(?:href|src|url\()[=\"']*(?:https?:|//)", text)
