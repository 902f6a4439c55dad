"""What tools/playground.py builds, and that the page's pinned addresses are all the same."""

from __future__ import annotations

import importlib.util
import json
import re
import zipfile

import playground_server
import pytest

PAGE = playground_server.PAGE
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the pages are in the checkout")
if importlib.util.find_spec("setuptools") is None:  # not imported here: it would replace distutils for other tests
    pytest.skip("the wheel is built with setuptools", allow_module_level=True)


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("playground_tool", PAGE.parents[1] / "tools" / "playground.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pyodide(tool, tmp_path):
    folder = tmp_path / "pyodide"
    folder.mkdir()
    for name in tool.NEEDED:
        (folder / name).write_text("x")
    (folder / "pyodide-lock.json").write_text(json.dumps({"packages": {"numpy": {"file_name": "numpy-2.whl"}}}))
    (folder / "numpy-2.whl").write_text("x")
    return folder


def test_one_pinned_address():
    text = (PAGE / "index.html").read_text("utf-8")
    found = re.findall(r"https?://[^\s;\"]+", text)
    assert len(found) == 3 and len(set(found)) == 1
    assert "content=\"default-src 'none'; script-src 'self' 'wasm-unsafe-eval' https" in text
    assert found[0].removeprefix("https://cdn.jsdelivr.net/pyodide/v").removesuffix("/full/") in (
        PAGE.parent / "playground.md"
    ).read_text("utf-8")
    scripts = [path.read_text("utf-8") for path in [*PAGE.glob("*.js"), *PAGE.glob("*.css")]]
    assert not [script for script in scripts if re.search(r"https?://(?!www\.w3\.org/2000/svg)", script)]


def test_the_page_loads_every_module_of_the_session():
    (listed,) = re.findall(r"const MODULES = \[(.*?)\];", (PAGE / "python.js").read_text("utf-8"))
    assert sorted(re.findall(r'"(\w+)"', listed)) == sorted(path.stem for path in (PAGE / "session").glob("*.py"))


def test_a_folder_for_a_place_without_a_network(tool, pyodide, tmp_path):
    out = tool.put_together(tmp_path / "out", pyodide)
    assert (out / "pyodide" / "numpy-2.whl").exists() and (out / "session" / "desk.py").exists()
    assert "dualnet/data/digits-images-idx3-ubyte.gz" in zipfile.ZipFile(out / "dualnet.whl").namelist()
    text = (out / "index.html").read_text("utf-8")
    assert all((out / name).stat().st_size > 500 for name in re.findall(r'(?:src|href)="([\w/]+\.(?:js|css))"', text))
    assert (out / re.search(r'rel="icon" href="(.*?)"', text)[1]).read_bytes().startswith(b"<svg xmlns=")
    assert (out / "common.css").read_bytes() == playground_server.COMMON.read_bytes()
    assert "http" not in text.replace("http-equiv", "") and 'name="pyodide" content="pyodide/"' in text
    assert "script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; worker-src" in text


def test_what_is_missing_is_named_before_anything_is_written(tool, pyodide, tmp_path, capsys):
    (pyodide / "numpy-2.whl").unlink()
    (pyodide / "python_stdlib.zip").unlink()
    assert tool.main([str(tmp_path / "out"), "--pyodide", str(pyodide)]) == 1
    assert "has no python_stdlib.zip, numpy-2.whl;" in capsys.readouterr().err and not (tmp_path / "out").exists()
