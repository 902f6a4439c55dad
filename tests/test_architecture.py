"""The house keeps its shape: who imports whom, what no module may contain, what every public name must have.

A rule for all files is one test that names every file which breaks it: thousands of tests of a file each would take
longer to hand out than to run.
"""

from __future__ import annotations

import ast
import configparser
import fnmatch
import functools
import inspect
import re
import sys
from pathlib import Path

import pytest

import dualnet as dn

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, BACKENDS, TESTS = ROOT / "dualnet", ROOT / "backends", ROOT / "tests"
SIGNPOST = PACKAGE / "backends" / "__init__.py"
SOURCES = sorted(set(PACKAGE.rglob("*.py")) - {SIGNPOST})
MACHINES = sorted(BACKENDS.rglob("*.py"))
if not (ROOT / "tools").exists():
    pytest.skip("the tools are in the checkout, not in the package", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))
import house  # noqa: E402

MODULES = {path: module for module, path in house.sources(ROOT).items()}


@functools.cache
def graph() -> house.Graph:
    """Who imports whom. It is read from every file, and so only when a test asks."""
    return house.modules(ROOT)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), name(path))


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """The full name of everything that a file imports, and whether it waits until a function is called."""
    return list(house.imported(path, MODULES[path]))


# -- who imports whom --------------------------------------------------------------------------------------------------


def test_the_rooms_stand_on_floors():
    """A circle between rooms has no lowest floor: one of its imports runs upwards."""
    assert house.circles(house.rooms(graph())) == []


def test_no_circle_inside_a_room():
    found = [circle for room in house.rooms(graph()) for circle in house.circles(house.inside(graph(), room))]
    assert found == []


def test_a_circle_would_be_seen():
    drawn = {"dualnet.ops.a": {"dualnet.shim.b"}, "dualnet.shim.b": {"dualnet.shim.c"}, "dualnet.shim.c": set()}
    assert house.circles(house.rooms(drawn)) == [] and house.floors(house.rooms(drawn)) == {"ops": 2, "shim": 1}
    drawn["dualnet.shim.c"] = {"dualnet.ops.a"}
    assert house.circles(house.rooms(drawn)) == [["ops", "shim"]] and house.upward(house.rooms(drawn)) == 1
    drawn["dualnet.shim.c"] = {"dualnet.shim.b"}
    assert house.circles(house.inside(drawn, "shim")) == [["dualnet.shim.b", "dualnet.shim.c"]]


def test_nothing_below_imports_the_whole():
    below = [path for path in SOURCES if path.parent not in (PACKAGE, PACKAGE / "cli")]
    whole = {"dualnet", "dualnet.__version__"}
    assert [name(path) for path in below if {imported for imported, _ in imports(path)} & whole] == []
    assert len(below) > 100


AT_ONCE = {"dualnet/bridges/sklearn.py": "sklearn"}
"""Whose classes derive from a library's. ``import dualnet`` does not import these files."""


def test_only_numpy_comes_with_the_import():
    found = []
    for path in SOURCES:
        for imported, late in imports(path):
            library = imported.split(".")[0]
            if library == "cupy":
                found.append(f"{name(path)}: CuPy is known to backends/ alone")
            elif library not in sys.stdlib_module_names and library != "dualnet":
                if library not in ("numpy", AT_ONCE.get(name(path))) and not late:
                    found.append(f"{name(path)} imports {library}, which is optional, when imported itself")
    assert found == [] and len(SOURCES) > 150


def test_ops_and_layers_know_no_array_library():
    """But initializers.py: first values are drawn on the host, so that every backend begins with the same ones."""
    found = []
    paths = [path for path in SOURCES if path.parent.name in ("ops", "layers") and path.stem != "initializers"]
    for path in paths:
        libraries = {imported.split(".")[0] for imported, _ in imports(path)}
        libraries &= {"numpy", "cupy", "array_api_strict", "torch", "jax"}
        words = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
        found += [f"{name(path)}: {word}" for word in sorted(libraries | words & {"np", "numpy", "cp", "cupy"})]
    assert found == [] and len(paths) > 30


def test_a_backend_knows_the_shim_and_arrays_but_no_op():
    known = ("dualnet.shim.", "dualnet.geometry.", "dualnet.backends.", "dualnet.version.", "dualnet.writing.")
    anywhere, found = {*sys.stdlib_module_names, "numpy"}, []
    for path in MACHINES:
        for imported, late in imports(path):
            library = imported.split(".")[0]
            if library == "dualnet":
                if not imported.startswith(known):
                    found.append(f"{name(path)} imports {imported}")
            elif library not in anywhere and not late:
                found.append(f"{name(path)} imports {imported}, which a machine may lack, at once")
    assert found == [] and len(MACHINES) > 50


def test_no_op_asks_which_backend_it_runs_on():
    for path in SOURCES:
        if path.parent.name not in ("ops", "layers"):
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Compare):
                words = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                others = {"cupy", "strict", "torch", "array_api_strict"}
                assert not words & others, f"{name(path)}:{node.lineno} branches on a backend's name"


# -- what no module may say --------------------------------------------------------------------------------------------

UNSAFE_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec", "extractall", "__import__"}
UNSAFE_OPTIONS = {"allow_pickle", "shell"}


def unsafe(module: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(module):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name.split(".")[0] for alias in node.names} | {
                (getattr(node, "module", "") or "").split(".")[0]
            }
            found += sorted(names & UNSAFE_MODULES)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            mode = (
                isinstance(node.func, ast.Attribute) and called == "eval" and not node.args
            )  # module.eval() of PyTorch
            if (
                called in UNSAFE_CALLS
                and not mode
                or (called == "system" and getattr(node.func.value, "id", "") == "os")
            ):
                found.append(called)
            options = {
                o.arg for o in node.keywords if not (isinstance(o.value, ast.Constant) and o.value.value is False)
            }
            found += sorted(UNSAFE_OPTIONS & options)
    return found


@pytest.mark.parametrize("path", [*SOURCES, *MACHINES, SIGNPOST], ids=name)
def test_nothing_runs_what_a_file_brings(path):
    assert unsafe(tree(path)) == []


def test_the_scan_itself_can_fail():
    for text, found in [
        ("import pickle", ["pickle"]),
        ("from pickle import loads", ["pickle"]),
        ("eval('1')", ["eval"]),
        ("builtins.exec(text)", ["exec"]),
        ("builtins.eval(text)", ["eval"]),
        ("module.eval()", []),
        ("tar.extractall(path)", ["extractall"]),
        ("os.system('ls')", ["system"]),
        ("np.load(f, allow_pickle=True)", ["allow_pickle"]),
        ("np.load(f, allow_pickle=flag)", ["allow_pickle"]),
        ("np.load(f, allow_pickle=False)", []),
        ("run(command, shell=True)", ["shell"]),
    ]:
        assert unsafe(ast.parse(text)) == found, text


def test_no_user_error_is_an_assertion_and_nothing_is_printed():
    found = []
    for path in [*SOURCES, *MACHINES]:
        speaks = path.parent.name in ("cli", "training")
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Assert):
                found.append(f"{name(path)}:{node.lineno}: `python -O` removes assertions")
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print" and not speaks:
                found.append(f"{name(path)}:{node.lineno} prints")
    assert found == []


def without_encoding(module: ast.Module) -> list[int]:
    """The lines that open a file or a pipe as text and do not say in which encoding: on Windows it would be cp1252."""
    found = []
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        options = {option.arg: option.value for option in node.keywords}
        texts = [arg.value for arg in [*node.args, *options.values()] if isinstance(arg, ast.Constant)]
        binary = any(isinstance(text, str) and re.fullmatch(r"[rwxa]?\+?b|[rwxa]b\+?", text) for text in texts)
        owner = getattr(getattr(node.func, "value", None), "id", "")
        opens = called == "fdopen" or (called == "open" and owner not in NO_TEXT)
        pipes = called in ("run", "Popen", "check_output") and {"text", "universal_newlines"} & set(options)
        if (called in ("read_text", "write_text") or (opens and not binary) or pipes) and not (
            "encoding" in options or "utf-8" in texts
        ):
            found.append(node.lineno)
    return found


NO_TEXT = {"os", "image", "Image", "tarfile", "zipfile", "webbrowser"}
"""Whose ``open`` does not read text."""


def test_text_is_read_and_written_in_an_encoding_that_is_said():
    paths = [*SOURCES, *MACHINES, *sorted((ROOT / "tools").glob("*.py"))]
    assert [f"{name(path)}:{line}" for path in paths for line in without_encoding(tree(path))] == []


def test_the_scan_for_encodings_can_fail():
    for text, found in [
        ("open(path)", [1]),
        ("open(path, 'w')", [1]),
        ("open(path, 'rb')", []),
        ("open(path, mode='xb')", []),
        ("open(path, encoding='ascii')", []),
        ("os.open(path, os.O_RDONLY)", []),
        ("os.fdopen(1, 'w')", [1]),
        ("path.open()", [1]),
        ("path.read_text()", [1]),
        ("path.read_text('utf-8')", []),
        ("path.write_text(text, encoding='utf-8')", []),
        ("path.write_text(text)", [1]),
        ("subprocess.run(command, text=True)", [1]),
        ("subprocess.run(command)", []),
    ]:
        assert without_encoding(ast.parse(text)) == found, text


# -- what stands beside what -------------------------------------------------------------------------------------------


MIRRORED = ("ops", "layers", "optimizers", "training", "files", "shim", "backends")


def test_a_module_has_its_test_file_in_the_folder_of_the_same_name():
    wanted = []
    for path in [*SOURCES, *MACHINES]:
        parts = path.relative_to(ROOT).parts[path.is_relative_to(PACKAGE) :]
        if path.stem != "__init__" and parts[0] in MIRRORED:
            wanted.append(TESTS.joinpath(*parts[:-1]) / f"test_{path.stem}.py")
    assert [name(path) for path in wanted if not path.exists()] == [] and len(wanted) > 100


def test_a_file_says_what_it_is_about():
    paths = [*SOURCES, *MACHINES, *sorted(TESTS.rglob("*.py"))]
    assert [name(path) for path in paths if not ast.get_docstring(tree(path))] == []


def test_the_packages_on_disk_are_the_packages_that_ship():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = config["options"]["packages"].split()
    found = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in PACKAGE.rglob("__init__.py")}
    found |= {"dualnet." + ".".join(path.parent.relative_to(ROOT).parts) for path in BACKENDS.rglob("__init__.py")}
    assert listed == sorted(found)
    globs = {package: value.replace(" ", "").split(",") for package, value in config["options.package_data"].items()}
    for path in [p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]:
        package = str(path.parent.relative_to(ROOT)).replace("/", ".")
        assert any(fnmatch.fnmatch(path.name, glob) for glob in globs.get(package, [])), f"{name(path)} would not ship"


# -- what every public name brings -------------------------------------------------------------------------------------


HOUSES = [dn, dn.ops, dn.losses, dn.check, dn.data, dn.models, dn.optimizers, dn.schedules, dn.viz, dn.zoo]
RESULTS = {"LossPullback", "Report", "Comparison", "Run"}
"""What a function hands out: the function's own example shows it."""


def public() -> list[tuple[str, object]]:
    """Every function and class that a user can reach: dn.X, dn.ops.X, dn.data.X, ..."""
    seen = {}
    for place in HOUSES:
        for word in getattr(place, "__all__", None) or [word for word in vars(place) if not word.startswith("_")]:
            member = getattr(place, word)
            if (inspect.isclass(member) or inspect.isfunction(member)) and member.__module__.startswith("dualnet"):
                seen.setdefault(id(member), (f"{place.__name__}.{word}", member))
    return list(seen.values())


def needs_example(member: object) -> bool:
    return member.__name__ not in RESULTS and not (inspect.isclass(member) and issubclass(member, Exception))


@pytest.mark.parametrize("member", [pytest.param(member, id=word) for word, member in public()])
def test_every_public_name_is_explained_with_an_example(member):
    text = vars(member).get("__doc__") if inspect.isclass(member) else member.__doc__
    assert text, "no docstring"
    assert ">>> " in text or not needs_example(member), "no example"


@pytest.mark.parametrize("member", [pytest.param(m, id=word) for word, m in public() if inspect.isclass(m)])
def test_every_public_method_is_explained(member):
    silent = [
        word
        for word, method in vars(member).items()
        if inspect.isfunction(method) and not word.startswith("_") and not inspect.getdoc(getattr(member, word))
    ]
    assert silent == []
