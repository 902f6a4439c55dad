"""What is shipped: a wheel and an archive with everything in place; and the wheel works without the checkout."""

from __future__ import annotations

import configparser
import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import dualnet as dn

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("backends", "dualnet", "tests")
BESIDE = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg")

pytestmark = pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="builds from a checkout")


def run(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DUALNET_", "PYTEST_"))}
    environment |= {"PYTHONPATH": "", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"} | variables
    return subprocess.run(map(str, command), cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def done(*command: object, cwd: Path, **variables: str) -> str:
    result = run(*command, cwd=cwd, **variables)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy, so that nothing is built inside the real one."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in SHIPPED:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in BESIDE:
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, copy / file)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip in this environment")
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, "."]
    if importlib.util.find_spec("setuptools") is not None:
        done(*build, "--no-build-isolation", cwd=checkout)
    elif (result := run(*build, cwd=checkout)).returncode:
        pytest.skip(f"no setuptools here, and none to be had: {result.stderr.strip().splitlines()[-1]}")
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def target(wheel, tmp_path_factory):
    """A folder into which the wheel is installed, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    done(*install, "--target", folder, wheel, cwd=folder)
    return folder


# -- what is in it -----------------------------------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if not name.startswith(f"dualnet-{dn.__version__}.dist-info/")}
    sources = {f"dualnet/{path.relative_to(ROOT / 'dualnet')}" for path in (ROOT / "dualnet").rglob("*.py")}
    machines = {f"dualnet/{path.relative_to(ROOT)}" for path in (ROOT / "backends").rglob("*.py")}
    assert {name for name in inside if name.endswith(".py")} == sources | machines
    assert {"dualnet/py.typed", "dualnet/data/digits-images-idx3-ubyte.gz", "dualnet/data/DIGITS-LICENSE.md"} <= inside
    assert {name.partition("/")[0] for name in inside} == {"dualnet"}  # no `backends` of its own, no tests


def test_the_signpost_stays_at_home(wheel):
    shipped = zipfile.ZipFile(wheel).read("dualnet/backends/__init__.py").decode()
    assert shipped == (ROOT / "backends" / "__init__.py").read_text()
    assert "__path__" not in shipped
    assert "__path__" in (ROOT / "dualnet" / "backends" / "__init__.py").read_text()


def test_what_the_wheel_says_of_itself(wheel):
    archive, info = zipfile.ZipFile(wheel), f"dualnet-{dn.__version__}.dist-info"
    said = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert (said["Name"], said["Version"], said["Requires-Python"]) == ("dualnet", dn.__version__, ">=3.11")
    core = [need for need in said.get_all("Requires-Dist") if "extra ==" not in need]
    assert [re.sub(r"[\s()]", "", need) for need in core] == ["numpy<3,>=2.0"]
    points = configparser.ConfigParser()
    points.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == {"dualnet": "dualnet.cli:main"}
    needs = " ".join(said.get_all("Requires-Dist"))
    assert "safetensors!=0.8.0" in needs  # 0.8.0 writes arrays that are not contiguous wrongly
    assert re.search(r"numpy>=2\.1\.2\s*; *extra == .bfloat16", needs)  # CuPy knows the type beside no older one
    assert not re.search(r"\bcupy\b(?!-cuda)", needs)  # never CuPy without its CUDA version
    assert any(name.endswith("LICENSE") for name in archive.namelist())


def test_the_extras_that_messages_name_are_there():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(config["options.extras_require"])
    sources = [*(ROOT / "dualnet").rglob("*.py"), *(ROOT / "backends").glob("*.py"), *ROOT.glob("*.md")]
    named = {word for path in sources for word in re.findall(r"dualnet\[(\w+)\]", path.read_text(encoding="utf-8"))}
    assert named and named <= extras
    everything = config["options.extras_require"]["all"]
    assert not re.search("cuda", everything)  # two CuPy wheels break each other


@pytest.mark.slow
def test_a_bundle_trains(target, tmp_path):
    """docs/how-to/bundle.md, from the installed wheel: backends by name and data files are all in the one file."""
    if importlib.util.find_spec("PyInstaller") is None:
        pytest.skip("pip install pyinstaller")
    page = (ROOT / "docs" / "how-to" / "bundle.md").read_text(encoding="utf-8")
    command = next(line for line in page.splitlines() if line.startswith("pyinstaller"))
    lines = [line[4:] for line in page.splitlines() if line.startswith(">>> ")]
    *program, accuracy = lines
    saved = ['path = net.save("model.npz")', f"print(dn.load(path).{accuracy.removeprefix('net.')})"]
    (tmp_path / "app.py").write_text("\n".join([*program, *saved]), encoding="utf-8")
    done(sys.executable, "-m", "PyInstaller", *command.split()[1:], cwd=tmp_path, PYTHONPATH=str(target))
    far = tmp_path / "far"
    far.mkdir()
    assert done(tmp_path / "dist" / "app", cwd=far).split() == ["True"]


def test_the_archive_can_build_the_same_wheel(checkout, wheel, tmp_path):
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("no setuptools in this environment")
    build = "import setuptools.build_meta as b, sys; getattr(b, sys.argv[1])(sys.argv[2])"
    done(sys.executable, "-c", build, "build_sdist", tmp_path, cwd=checkout)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    assert (unpacked / "dualnet" / "backends" / "__init__.py").read_text().count("__path__") == 1
    assert (unpacked / "tests" / "test_packaging.py").exists()
    done(sys.executable, "-c", build, "build_wheel", tmp_path, cwd=unpacked)
    (again,) = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


# -- that it works -----------------------------------------------------------------------------------------------------

STEP = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy
import dualnet as dn
assert dn.__file__.startswith(sys.argv[1]), dn.__file__
net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(10)]).init((8, 8, 1), seed=0)
losses = []
optimizer = dn.SGD(0.1)
x, t = numpy.random.default_rng(0).random((16, 8, 8, 1), dtype="float32"), numpy.arange(16) % 10
for _ in range(5):
    y, pullback = net.forward(x, train=True)
    loss, dloss = dn.losses.softmax_cross_entropy(y, t)
    optimizer.step(net, pullback(dloss())[1])
    losses.append(float(dn.to_numpy(loss)))
assert losses[-1] < losses[0], losses
with dn.use_backend("strict"):
    dn.to_numpy(dn.ops.relu(dn.asarray([1.0]))[0])
for name, module in sys.modules.items():
    if name.partition(".")[0] in ("dualnet", "backends") and getattr(module, "__file__", None):
        assert module.__file__.startswith(sys.argv[1]), module.__file__
print("learned")
"""


def test_it_learns_where_it_is_installed(target, tmp_path):
    assert done(sys.executable, "-I", "-c", STEP, target, cwd=tmp_path) == "learned\n"


def test_its_command_runs(target, tmp_path):
    table = done(sys.executable, "-m", "dualnet", "info", cwd=tmp_path, PYTHONPATH=str(target))
    assert re.search(rf"^dualnet\s+{re.escape(dn.__version__)}$", table, re.MULTILINE)
    assert re.search(r"^backends\s+numpy: available$", table, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_its_tests_pass_against_the_installed_package(target, tmp_path):
    tests = tmp_path / "tests"
    shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tests / "test_place.py").write_text(
        "import dualnet, dualnet.backends.strict_backend as machine\n"
        "def test_place():\n"
        f"    assert dualnet.__file__.startswith({str(target)!r})\n"
        f"    assert machine.__file__.startswith({str(target)!r})\n"
    )
    topics = ("test_place", "backends/test_strict_backend", "shim/test_choosing", "test_geometry", "ops/test_pullback")
    chosen = [tests / f"{topic}.py" for topic in topics]
    options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=", "--import-mode=importlib"]
    path = os.pathsep.join(map(str, (target, tests, tests / "pretend")))
    report = done(sys.executable, "-m", "pytest", *options, *chosen, cwd=tmp_path, PYTHONPATH=path)
    passed = re.search(r"(\d+) passed", report)
    assert passed and int(passed[1]) > 150 and "failed" not in report


def test_two_checkouts_do_not_mix(checkout, tmp_path):
    ask = "import dualnet, dualnet.backends.numpy_backend as n; print(dualnet.__file__); print(n.__file__)"
    for root in (checkout, ROOT):
        where = done(sys.executable, "-c", ask, cwd=tmp_path, PYTHONPATH=str(root)).split()
        assert where == [str(root / "dualnet" / "__init__.py"), str(root / "backends" / "numpy_backend.py")]


# -- what a stranger types ---------------------------------------------------------------------------------------------


def test_continuous_integration_runs_the_two_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    readme = (ROOT / "README.md").read_text()
    for command in ('pip install ".[progress]" && dualnet train', 'pip install -e ".[test]" && pytest -n auto'):
        assert f"'{command}'" in script
        assert command in readme
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
