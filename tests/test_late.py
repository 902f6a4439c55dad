"""Names and methods that are imported on first use: the same as if they had always been there."""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dualnet as dn
from dualnet.late import LateMethod, late

PACKAGE = Path(dn.__file__).parent
LATE = sorted(path for path in PACKAGE.rglob("__init__.py") if "late(__name__" in path.read_text("utf-8"))


def dotted(path: Path) -> str:
    return ".".join(["dualnet", *path.parent.relative_to(PACKAGE).parts])


def alone(code: str) -> str:
    """What a new process prints: here, most names have been asked for already."""
    command = [sys.executable, "-c", "import dualnet as dn\n" + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def promised(path: Path) -> set[str]:
    """The public names that a package imports for type checkers alone."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for part in node.body:
                assert isinstance(part, ast.ImportFrom), f"{path}:{part.lineno}"
                found |= {alias.asname or alias.name for alias in part.names}
    return found


def test_there_are_such_packages():
    assert {"dualnet", "dualnet.seeing.viz", "dualnet.training.callbacks"} <= {*map(dotted, LATE)}


@pytest.mark.parametrize("path", LATE, ids=dotted)
def test_type_checkers_and_python_see_the_same_names(path):
    package = importlib.import_module(dotted(path))
    cells = inspect.getclosurevars(package.__getattr__).nonlocals
    table, hidden = {*cells["homes"], *cells["modules"]}, promised(path)
    assert hidden & {*package.__all__} <= table, "a type checker knows these names, and Python does not"
    assert table <= hidden, "Python knows these names, and a type checker does not"
    assert {*package.__all__} <= {*dir(package)}
    for name in package.__all__:
        assert getattr(package, name) is getattr(package, name)


def test_every_name_in_a_new_process():
    """Each as the first that is asked for would take long: in order and in reverse."""
    code = "print(all(getattr(dn, name) is not None for name in {order}(dn.__all__)), set(dn.__all__) <= set(dir(dn)))"
    assert alone(code.format(order="sorted")) == alone(code.format(order="reversed")) == "True True\n"


def test_ways_to_import():
    code = """
    from dualnet import *
    from dualnet import Callback, check, data, load, models
    import dualnet.models, dualnet.training.callbacks, dualnet.callbacks, dualnet.seeing.graph
    print(load is dn.load, models is dn.models is dualnet.models, Callback is dn.callbacks.Callback is dn.Callback)
    print(dualnet.callbacks is dualnet.training.callbacks, callable(graph) and graph is dn.graph, data is dn.data)
    print(dn.training.fit is dn.Layer.fit)
    """
    assert alone(code) == "True True True\nTrue True True\nTrue\n"


def test_a_name_that_does_not_exist():
    for package in ("dualnet", "dualnet.callbacks"):
        module = importlib.import_module(package)
        with pytest.raises(AttributeError, match=f"^module '{module.__name__}' has no attribute 'no_such_name'$"):
            _ = module.no_such_name


def test_what_was_found_stays(monkeypatch):
    find, names = late("dualnet", {"escape": "markup"}, {"parameter": "layers.parameter"})
    monkeypatch.setattr(dn, "escape", None, raising=False)
    monkeypatch.setattr(dn, "parameter", None, raising=False)
    assert find("escape") is dn.escape is dn.markup.escape
    assert find("parameter") is dn.parameter is sys.modules["dualnet.layers.parameter"]
    assert {"escape", "parameter", "Layer"} <= {*names()} and names() == sorted(names())


def test_threads_that_ask_at_once_get_the_same():
    code = """
    import threading
    start, found = threading.Barrier(8), []
    def ask():
        start.wait()
        found.append((dn.load, dn.models.lenet5, dn.callbacks.EMA, dn.Layer.fit, dn.viz.filters))
    threads = [threading.Thread(target=ask) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    print(len(found), len(set(found)))
    """
    assert alone(code) == "8 1\n"


def test_pickles_and_copies_find_their_class():
    for thing in (dn.CheckpointError("torn"), dn.EarlyStopping(patience=3), dn.data.MixUp(0.2)):
        code = f"import pickle; print(type(pickle.loads({pickle.dumps(thing)!r})).__name__)"
        assert alone(code) == f"{type(copy.copy(thing)).__name__}\n"


# -- methods -----------------------------------------------------------------------------------------------------------


def subject() -> type:
    class Base:
        shown = LateMethod("dualnet.markup", "badge")
        also = LateMethod("dualnet.markup", "escape")

    class Derived(Base):
        def also(self):  # type: ignore[override]
            return "mine, " + super().also()

    return Derived


def test_a_method_takes_its_place_when_first_asked_for(monkeypatch):
    from dualnet import markup

    monkeypatch.setattr(markup, "escape", lambda self: type(self).__name__)
    derived = subject()
    base = derived.__mro__[1]
    assert isinstance(vars(base)["also"], LateMethod)
    assert derived().also() == "mine, Derived"  # by way of super()
    assert vars(base)["also"] is markup.escape and isinstance(vars(base)["shown"], LateMethod)
    assert derived.shown is markup.badge and vars(base)["shown"] is markup.badge
    assert not any(isinstance(value, LateMethod) for value in vars(derived).values())


def test_networks_have_their_methods_from_the_start():
    code = """
    import inspect
    net = dn.Sequential([dn.Dense(2)])
    print(*(name for name in ("fit", "save", "summary", "to_onnx", "trace", "graph") if not hasattr(net, name)))
    print(next(iter(inspect.signature(dn.Layer.fit).parameters)), dn.Layer.fit.__name__, "loss" in dn.Layer.fit.__doc__)
    print(dn.Sequential.fit is dn.Layer.fit, net.fit.__self__ is net)
    """
    said = alone(code).splitlines()
    assert said[0] == "" and said[1].endswith("fit True") and said[2] == "True True"
