"""Results from machines with a GPU: the page shows the files in docs/gpu/, and old certificates fail."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

from dualnet.parity import certify
from dualnet.parity.certificate import sources

ROOT = Path(__file__).resolve().parents[1]
FOLDER, PAGE = ROOT / "docs" / "gpu", ROOT / "docs" / "gpu.md"
if not (ROOT / "tools").exists():
    pytest.skip("the tools are in the checkout, not in the package", allow_module_level=True)


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "tools"))  # as when it is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return module


tables = tool("gpu_tables")
RESULTS = sorted(FOLDER.glob("*.json"))
CERTIFICATES = [path for path in RESULTS if path.stem.endswith("-parity")]

# -- what is committed -------------------------------------------------------------------------------------------------


@pytest.mark.skipif("GPU_SUITE_JSON" in os.environ, reason="tools/gpu_run.py is writing results at this moment")
def test_the_page_shows_the_files_in_the_folder():
    page = PAGE.read_text("utf-8")
    assert tables.placed(page, tables.tables(FOLDER)) == page, "run python tools/gpu_tables.py --page docs/gpu.md"


def test_without_a_certificate_the_page_says_not_run():
    measured = PAGE.read_text("utf-8").partition("<!-- gpu: measured -->")[2]
    if not CERTIFICATES:
        assert "NOT-RUN" in measured
    if not RESULTS:
        assert "**NOT-RUN.**" in measured and "\npython3 tools/gpu_run.py first\n" in measured


def test_the_page_begins_with_what_was_run_and_what_not():
    headlines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("## ")]
    assert headlines[0] == "## What has been run, and what has not"


@pytest.mark.skipif(not CERTIFICATES, reason="no certificate is committed in docs/gpu/: no GPU has been asked yet")
@pytest.mark.parametrize("path", CERTIFICATES, ids=lambda path: path.name)
def test_a_committed_certificate_is_as_new_as_the_kernels(path):
    assert not (why := sources.outdated(path)), why


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_results_say_how_they_came_about(path):
    found, text = json.loads(path.read_text("utf-8")), path.read_text("utf-8")
    assert found["date"] and found["command"] and len(found["kernels"]["sha256"]) == 64
    assert not re.findall(r"/(?:home|root|tmp|work)/", text), "folders of a machine"


# -- a certificate that is too old -------------------------------------------------------------------------------------


def test_an_old_certificate_fails_by_name(tmp_path, monkeypatch):
    certificate = certify(backends=["strict"], ops=["relu"], networks=[], dtypes=["float32"])
    path = certificate.write(tmp_path / "h100-parity.json")
    test_a_committed_certificate_is_as_new_as_the_kernels(path)
    now = sources.sources()
    assert "gpu/kernels/batch.cu" in now
    monkeypatch.setattr(sources, "sources", lambda: now | {"gpu/kernels/batch.cu": b"another"})
    with pytest.raises(
        AssertionError, match=r"h100-parity.json .* is older than the kernels: gpu/kernels/batch.cu changed since"
    ):
        test_a_committed_certificate_is_as_new_as_the_kernels(path)


# -- tables ------------------------------------------------------------------------------------------------------------

HEAD = {
    "date": "2026-01-02 03:04 UTC",
    "gpu": {"name": "NVIDIA H100", "driver_version": "580.1", "clocks.max.sm": "1980 MHz", "power.limit": "700.00 W"},
    "versions": {"dualnet": "0.1.0", "python": "3.12.3", "numpy": "2.5", "cuda": "13.0", "cupy": "14.2.0",
                 "cublas": "13.1.0", "cudnn": "9.18.1, frontend 1.28.0; 3 of 4 shapes so far",
                 "packages": {"torch": "2.11.0", "nvidia-cublas": "13.0", "nvidia-cudnn-cu13": "9.19"}},
}  # fmt: skip


def row(program, ms, dtype="bfloat16", **more):
    return {"net": "resnet18", "dtype": dtype, "batch": 256, "mode": "training", "program": program, **more} | (
        {"min_ms": ms} if ms else {}
    )


def results(folder):
    """Results of one machine; torch.compile was not measured in TF32."""
    settings = {"capture": True, "rounds": 3, "momentum": 0.9}
    speed = {"net": "resnet18", "dtype": "bfloat16", "batch": 256}
    runs = [
        {"settings": settings, "results": [row("dualnet", 5.0), row("torch", 10.0)],
         "ratios": [speed | {"peer": "torch", "speed": 2.0}]},
        {"settings": settings,
         "results": [row("dualnet", 4.0), row("torch.compile", 4.8),
                     row("torch.compile", None, "tf32", failed="no gcc")],
         "ratios": [speed | {"peer": "torch.compile", "speed": 1.2}]},
    ]  # fmt: skip
    parts = {
        "bench": {"runs": runs},
        "tests": {"backend": "cupy", "switches": {"DUALNET_CUDNN": "all"},
                  "counts": {"passed": 3000, "failed": 1}, "complete": True, "seconds": 99.0,
                  "failures": [{"test": "tests/test_x.py::test_y", "why": "assert 1 == 2"}]},
        "smoke": {"seconds": 31.4, "steps": [{"step": "one", "ok": True}, {"step": "two", "ok": False, "why": "no"}],
                  "state": "FAILED", "outcome": "1 of 2 steps; two: no"},
        "profile": {"profiles": [{"program": "dualnet", "net": "resnet18", "dtype": "bfloat16", "busy_us": 3900.0,
                                  "launches": 140, "kernels": [{"kernel": "void sm90_conv<int>(x)", "us": 800.0}]}]},
    }  # fmt: skip
    for part, found in parts.items():
        (folder / f"h100-{part}.json").write_text(json.dumps({**HEAD, **found}), "utf-8")
    certificate = certify(backends=["strict"], ops=["relu"], networks=[], dtypes=["float32"])
    runs = [{"command": "DUALNET_CUDNN=0 dualnet parity --quick", "verdict": "PARTIAL"}]
    found = {**json.loads(certificate.json()), **HEAD, "runs": runs}
    (folder / "h100-parity.json").write_text(json.dumps(found), "utf-8")
    (folder / "notes.json").write_text("{}")  # no part of a check: ignored


def test_tables_of_all_parts(tmp_path):
    results(tmp_path)
    text = tables.tables(tmp_path)
    for words in (
        "### NVIDIA H100\n",
        "driver 580.1, CUDA 13.0, cuBLAS 13.1.0, cuDNN 9.18.1, frontend 1.28.0, CuPy 14.2.0, ",
        "PyTorch 2.11.0, NumPy 2.5, Python 3.12.3",
        "clocks up to 1980 MHz, 700.00 W.",
        "**Certificate: PARTIAL**",
        "In turn: `DUALNET_CUDNN=0 dualnet parity --quick` PARTIAL.",
        "**Tests** with `DUALNET_BACKEND=cupy DUALNET_CUDNN=all` (2026-01-02 03:04 UTC): ",
        " UTC): 1 failed, 3,000 passed in 99 s.",
        "- `tests/test_x.py::test_y`: assert 1 == 2",
        "| net | numbers | batch | dualnet ms | images/s | PyTorch ms | × | torch.compile ms | × |",
        "| resnet18 | bfloat16 | 256 | 4.000 | 64,000 | 10.0 | 2.00 | 4.800 | 1.20 |",
        "| resnet18 | tf32 | 256 | – | – | – | – | – | – |",
        "- resnet18, tf32, torch.compile: no gcc",
        "**smoke: FAILED**: 1 of 2 steps; two: no",
        "**First steps** (2026-01-02 03:04 UTC): 1 of 2 work, in 31 s.",
        "- two: no",
        "| resnet18 | bfloat16 | 3,900 | 140 | 0 | `sm90_conv` 800 |",
    ):
        assert words in text, words
    assert "NOT-RUN" not in text and "Without cuDNN" not in text


def test_results_without_cudnn_say_so_and_show_no_version_of_it(tmp_path):
    """PyTorch may have installed the library, although nothing called it."""
    results(tmp_path)
    for part in ("bench", "tests"):
        path = tmp_path / f"h100-{part}.json"
        found = json.loads(path.read_text("utf-8"))
        found["versions"]["cudnn"] = 'no: not installed; pip install "nvidia-cudnn-frontend"'
        found["date"] = "2026-01-03 00:00 UTC"
        path.write_text(json.dumps(found), "utf-8")
    text = tables.tables(tmp_path)
    assert '**Without cuDNN** (bench, tests): not installed; pip install "nvidia-cudnn-frontend". Every' in text
    assert "cuDNN 9" not in text and "cuBLAS 13.1.0, CuPy 14.2.0" in text


def test_missing_parts_are_named(tmp_path):
    results(tmp_path)
    for part in ("bench", "profile"):
        (tmp_path / f"h100-{part}.json").unlink()
    assert "NOT-RUN on this machine: bench, profile." in tables.tables(tmp_path)
    assert tables.tables(tmp_path / "nothing") == tables.NOT_RUN


@pytest.mark.parametrize("part", list(tables.CONTENT))
def test_a_part_that_was_not_begun_says_so_and_shows_nothing(tmp_path, part):
    results(tmp_path)
    path = tmp_path / f"h100-{part}.json"
    path.write_text(
        json.dumps({**HEAD, "state": "NOT-RUN", "outcome": "no time was left", "verdict": "NOT-RUN"}), "utf-8"
    )
    assert f"**{part}: NOT-RUN**: no time was left" in tables.tables(tmp_path)


def test_tables_are_put_between_their_marks(tmp_path):
    page = "a\n<!-- gpu: measured -->\nold\n<!-- gpu: end -->\nb\n"
    once = tables.placed(page, "new \\1\n")
    assert once == "a\n<!-- gpu: measured -->\n\nnew \\1\n\n<!-- gpu: end -->\nb\n" == tables.placed(once, "new \\1\n")
    with pytest.raises(ValueError, match="the page has no '<!-- gpu: measured -->'"):
        tables.placed("nothing here", "new")
