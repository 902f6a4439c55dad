"""Measurements as tables, in files and in pages."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dualnet import bench
from dualnet.bench import measure, report
from dualnet.bench.results import ratios


def test_a_table_is_written_into_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- bench: one -->\nold\n<!-- bench: end -->\nb\n<!-- bench: two -->\n<!-- bench: end -->\nc\n"
    )
    bench.write("| new |\n", f"{page}#one")
    bench.write("| new |\n", f"{page}#one")
    text = page.read_text()
    assert text == (
        "a\n<!-- bench: one -->\n\n| new |\n\n<!-- bench: end -->\nb\n<!-- bench: two -->\n<!-- bench: end -->\nc\n"
    )
    with pytest.raises(ValueError, match="has no '<!-- bench: three -->'"):
        bench.place(f"{page}#three")
    assert page.read_text() == text


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path, link = tmp_path / "found.json", tmp_path / "link.json"
    bench.write("{}", path)
    link.symlink_to(path)
    bench.write("[1]", link)
    assert path.read_text() == "[1]" and link.is_symlink() and len(list(tmp_path.iterdir())) == 2

    def broken(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(report.os, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        bench.write("[1, 2]", path)
    assert path.read_text() == "[1]"
    bench.write("nothing", os.devnull)  # it is written to, and stays a device
    assert not Path(os.devnull).is_file()


def test_tables_have_equal_rows():
    lines = report.table([["a", "number"], ["long name", "1"]])
    assert lines == ["| a         | number |", "|-----------|-------:|", "| long name |      1 |"]


def test_words_are_aligned_left_and_numbers_right():
    """Whichever column they stand in: what ran, a version and a device are words."""
    cells = ["1,024", "0.817 (channels_last)", "9 %", "–", "2.4.6", "23 of its own", "cpu", "2.14.1+cu130"]
    rule = report.table([["net", *["x"] * len(cells)], ["lenet5", *cells], ["vgg6", *["–"] * len(cells)]])[1]
    assert [part.endswith(":") for part in rule.strip("|").split("|")] == [False, *[True] * 4, *[False] * 4]
    assert report.table([["net", "dnn", "x"], ["a", "", "3.2 (dnn 3.2+cpu)"]])[1] == "|-----|-----|------------------:|"


def test_each_of_dualnets_rows_has_its_own_ratio():
    common = {"net": "a", "batch": 1, "mode": "training", "dtype": "float32", "values": [1.0], "peak_bytes": 2**20}
    rows = [
        {**common, "program": program, "variant": variant, "min_ms": ms, "median_ms": ms}
        for program, variant, ms in (("dualnet", "", 2.0), ("dualnet", "captured", 1.0), ("torch", "", 3.0))
    ]
    lines = report._speed({"results": rows, "ratios": ratios(rows)}, "training")
    assert [line.split("|")[-2].strip() for line in lines[-2:]] == ["1.50", "3.00"]


@pytest.mark.parametrize(
    "library, shown",
    [
        ("3.2.0, OpenMP, /home/me/my env/lib/libdnnl.so.3", "3.2.0, OpenMP, libdnnl.so.3"),
        (r"3.2.0, OpenMP, C:\Users\me\dnnl.dll", "3.2.0, OpenMP, dnnl.dll"),
        ("no: switched off by DUALNET_ONEDNN=0", "no: switched off by DUALNET_ONEDNN=0"),
        (2, "2"),
    ],
)
def test_tables_name_a_library_and_not_its_folder(library, shown):
    assert report._without_folders(library) == shown


def test_tables_name_every_library_that_may_run():
    facts = {
        "kernels": ["affine"],
        "cudnn": "9.19, /opt/lib/libcudnn.so.9",
        "cublas": "13.1",
        "backend": "cupy:0",
        "cupy": "14",
    }
    ours = {"version": "1", "python": "3", "numpy": "2", "import_ms": 1.0, "facts": facts}
    rows = report._programs({"programs": {"dualnet": ours}, "settings": {"threads": 2}})
    assert "1 of its own; cudnn: 9.19, libcudnn.so.9; cublas: 13.1" in "\n".join(rows)


@pytest.mark.parametrize("fault", ["failed", "differs"])
def test_a_row_that_failed_or_computes_something_else_is_wrong(fault):
    right = {"results": [{"min_ms": 1.0}], "layers": [{}], "programs": {"dualnet": {"version": "1"}}}
    assert not report.wrong(right)
    for rows in ({"results": [{fault: "why"}]}, {"layers": [{fault: "why"}]}, {"programs": {"jax": {fault: "why"}}}):
        assert report.wrong(right | rows)


@pytest.mark.parametrize(
    "simd, said",
    [
        ({"baseline": ["SSE", "SSE2", "SSE3"], "found": ["SSSE3", "AVX2", "AVX512F"]}, "AVX-512"),  # NumPy to 2.3
        ({"baseline": ["X86_V2"], "found": ["X86_V3", "X86_V4", "AVX512_ICL"], "not found": ["AVX512_SPR"]}, "AVX-512"),
        ({"baseline": ["X86_V2"], "found": ["X86_V3"], "not found": ["X86_V4"]}, "AVX2"),
        ({"baseline": ["NEON", "ASIMD"]}, "NEON"),
        ({"baseline": ["VSX4"]}, ""),
    ],
)
def test_the_first_line_tells_the_machines_instructions(monkeypatch, simd, said):
    monkeypatch.setattr(measure.numpy, "show_config", lambda mode: {"SIMD Extensions": simd})
    machine = measure._machine()
    assert machine["instructions"] == said
    settings = {
        "threads": 2,
        "backend": "numpy",
        "rounds": 1,
        "seconds": 1.0,
        "momentum": 0.0,
        "capture": False,
        "seed": 0,
    }
    result = {"machine": machine, "settings": {**settings, "environment": {}}, "made": "today", "results": []}
    (line,) = report._about(result)
    assert line.startswith(f"today; {machine['processor']}{f' with {said}' if said else ''}, 2 of ")


def test_what_ran_says_why_where_there_was_a_choice():
    row = {"net": "a", "mode": "training", "ran": {"correlate (kernel of numpy rows)": 2, "affine (reference)": 1}}
    row["why"] = {"correlate (kernel of numpy rows)": "table for AVX2"}
    text = "\n".join(report._kernels({"results": [row]}))
    assert "kernel of numpy rows: correlate (table for AVX2); reference: affine" in text
