"""What tools/lite.py makes of the tutorials; and, with JupyterLite and Pyodide, one that runs in a browser."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import playground_server
import pytest
from browsing import CHROMIUM, DESKTOP, browser

TOOLS = playground_server.PAGE.parents[1] / "tools"
pytestmark = pytest.mark.skipif(not TOOLS.exists(), reason="the tools are in the checkout")
if importlib.util.find_spec("setuptools") is None:
    pytest.skip("the wheel is built with setuptools", allow_module_level=True)


@pytest.fixture
def lite(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.delitem(sys.modules, "playground", raising=False)
    spec = importlib.util.spec_from_file_location("lite_tool", TOOLS / "lite.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_tutorial_is_a_notebook(lite):
    text = """---
kernelspec: x
---

# Title

To follow along: `pip install "dualnet[plot]"`.

See [the derivation](../derivation.md#e4), [above](#title), {download}`a file <a.npz>` and [Pyodide](https://x.org).

```{code-cell} ipython3
:tags: [hide-input]
a = 1

a
```

```python
not_run()
```
"""
    cells = json.loads(lite.notebook(text))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["code", "markdown", "code", "markdown"]
    assert cells[0]["source"].startswith("%pip install") and cells[2]["source"] == "a = 1\n\na"
    words = "See the derivation, above, a file and [Pyodide](https://x.org)."
    assert cells[1]["source"] == f"# Title\n\n{words}" and "not_run" in cells[3]["source"]


def test_every_tutorial_keeps_its_code(lite, tmp_path):
    lite.write_notebooks(tmp_path)
    for name in lite.NOTEBOOKS:
        cells = json.loads((tmp_path / f"{name}.ipynb").read_text("utf-8"))["cells"]
        tutorial = (lite.TUTORIALS / f"{name}.md").read_text("utf-8")
        code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
        assert len(code) == 1 + tutorial.count("```{code-cell}") > 5
        for source in code[1:]:
            compile(source.replace("%", "#"), name, "exec")
        prose = "".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
        assert "code-cell" not in prose and ".md" not in prose and "To follow along" not in prose, name
    assert (tmp_path / "pytorch-model.npz").is_file()


def test_what_the_notebooks_need_of_pyodide_is_followed_to_its_end(lite, tmp_path):
    packages = {
        "ipython": {"file_name": "ipython.whl", "depends": ["stack_data", "gone"]},
        "stack-data": {"file_name": "stack.whl", "depends": ["ipython"]},
    }
    assert lite.closure(packages, ["ipython", "micropip"]) == ["ipython", "stack-data"]
    (tmp_path / "pyodide-lock.json").write_text(json.dumps({"packages": packages}), "utf-8")
    (tmp_path / "ipython.whl").write_text("x", "utf-8")
    with pytest.raises(FileNotFoundError, match="has no pyodide.mjs, .*, stack.whl; the archive"):
        lite.needed(tmp_path)
    assert lite.main([str(tmp_path / "out"), "--pyodide", str(tmp_path)]) == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{}, {"pyodideUrl": "https://x.org/", "disablePyPIFallback": True}])
def test_a_site_that_would_reach_another_server_is_refused(lite, tmp_path, settings):
    told = {"jupyter-config-data": {"litePluginSettings": {lite.KERNEL: settings}}}
    (tmp_path / "jupyter-lite.json").write_text(json.dumps(told), "utf-8")
    with pytest.raises(RuntimeError, match="not from"):
        lite.close(tmp_path)
    settings |= {"pyodideUrl": "./static/pyodide/pyodide.mjs", "disablePyPIFallback": True}
    (tmp_path / "jupyter-lite.json").write_text(json.dumps(told), "utf-8")
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "index.html").write_text("<html><head><title>", "utf-8")
    kernel(tmp_path, lite.WORKER)
    lite.close(tmp_path)
    assert "Content-Security-Policy" in (tmp_path / "lab" / "index.html").read_text("utf-8")


def kernel(site, *starts):
    """Scripts that start a kernel's worker as they say."""
    folder = site / "extensions" / "@jupyterlite" / "pyodide-kernel-extension" / "static"
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(starts):
        (folder / f"{number}.js").write_text(f"const t=e=>{start};", "utf-8")
    return folder


def test_the_kernel_starts_with_the_policy_of_its_page(lite, tmp_path):
    folder = kernel(tmp_path, "0", lite.WORKER)
    lite.wrap_worker(tmp_path)
    assert (folder / "1.js").read_text("utf-8") == f"const t=e=>{lite.WRAPPED};" and "new Blob" in lite.WRAPPED
    for starts in (["new Worker(e)"] * 2, [lite.WORKER] * 2):  # another version of the kernel
        kernel(tmp_path, *starts)
        with pytest.raises(RuntimeError, match="once in the scripts of the kernel"):
            lite.wrap_worker(tmp_path)


def test_every_tutorial_is_a_notebook_or_excused(lite):
    tutorials = sorted(path.stem for path in lite.TUTORIALS.glob("*.md"))
    assert sorted([*lite.NOTEBOOKS, *lite.LEFT_OUT]) == tutorials
    page = " ".join((lite.TUTORIALS.parent / "playground.md").read_text("utf-8").split())
    assert "Six of the [tutorials]" in page and len(lite.NOTEBOOKS) == 6


def test_the_page_names_the_versions_of_the_tool(lite):
    (line,) = (line.strip() for line in lite.__doc__.splitlines() if "pip install" in line)
    assert line in (lite.TUTORIALS.parent / "playground.md").read_text("utf-8")
    assert all("==" in package for package in [*line.split()[2:], lite.COMM])


@pytest.mark.slow
@pytest.mark.skipif("DUALNET_PYODIDE" not in os.environ, reason="DUALNET_PYODIDE names no folder with Pyodide")
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (chromium, google-chrome)")
def test_a_tutorial_runs_in_a_browser(lite, tmp_path):
    pytest.importorskip("jupyterlite_core")
    pytest.importorskip("jupyterlite_pyodide_kernel")
    try:
        lite.needed(Path(os.environ["DUALNET_PYODIDE"]))
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    site = lite.build(tmp_path / "site", Path(os.environ["DUALNET_PYODIDE"]))
    settings = site / "jupyter-lite.json"
    text = settings.read_text("utf-8")
    settings.write_text(text.replace('data": {', 'data": {"exposeAppInBrowser": true,', 1), "utf-8")
    with (
        playground_server.served(site, playground_server.Folder) as url,
        playground_server.served(site, playground_server.Folder) as elsewhere,
        browser() as tab,
    ):
        tab.show(DESKTOP)
        tab.open(f"{url}lab/index.html?path=by-hand.ipynb")
        tab.wait("window.jupyterapp && document.querySelector('.jp-Notebook .jp-CodeCell')", 120)
        tab.run("""(() => { window.book = jupyterapp.shell.currentWidget; book.sessionContext.ready
            .then(() => book.sessionContext.session.kernel.info)
            .then(() => jupyterapp.commands.execute("notebook:run-all-cells"))
            .then(() => { window.ran = true; }); })()""")
        tab.wait("window.ran", 600)
        cells = tab.run("book.content.model.sharedModel.toJSON().cells")
        code = [cell for cell in cells if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in code)
        assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
        assert all(request.startswith((url, "blob:", "data:")) for request in tab.requests)
        asking = f"import js\nawait js.fetch('{elsewhere}icon-120x120.png', mode='no-cors')"
        tab.run(f"""(() => {{ book.content.model.sharedModel.insertCell(0, {{ cell_type: "code",
            source: {json.dumps(asking)} }});
            book.content.activeCellIndex = 0;
            jupyterapp.commands.execute("notebook:run-cell").then(() => {{ window.asked = true; }}); }})()""")
        tab.wait("window.asked", 60)
        (told,) = tab.run("book.content.model.sharedModel.toJSON().cells[0].outputs")
        assert told["output_type"] == "error" and "Failed to fetch" in told["evalue"]
        assert any("Content Security Policy" in error for error in tab.errors)
        assert not any(request.startswith(elsewhere) for request in tab.requests)
