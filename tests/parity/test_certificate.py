"""The certificate: what it compares, that each comparison can fail, and what it says where something is missing."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import fake_cudnn
import fake_cupy
import numpy as np
import pytest
from faults import in_float64, not_a_number, one_element, plant, refusing, scaled  # noqa: F401  a fixture

import dualnet as dn
from dualnet.parity import certify
from dualnet.parity.cases import case as cases
from dualnet.parity.cases import limits, truth
from dualnet.parity.certificate import sources
from dualnet.parity.certificate.certificate import Certificate, one_case
from dualnet.parity.judging import compare, controls, pieces
from dualnet.parity.judging import judge as judging
from dualnet.parity.judging import kernels as kernel_cases
from dualnet.parity.judging.ways import Way, kernels, placed

ROOT = Path(__file__).resolve().parents[2]
NUMPY, STRICT = Way("numpy"), Way("strict")


def named(way: str) -> Way:
    return Way.parse(way)


@pytest.mark.parametrize(
    ("fault", "seen"),
    [(scaled, ""), (one_element, ""), (in_float64, "exception"), (not_a_number, "nan"), (refusing, "exception")],
)
def test_each_comparison_can_fail(plant, fault, seen):  # noqa: F811
    plant(affine=fault)
    way = Way("strict", kernels=True)
    row = judging.judge("dense", "float32", [NUMPY, STRICT, way], cases=4)
    by_way = {tally["what"]: tally for tally in row["ways"]}
    assert row["verdict"] == "FAIL"
    assert by_way["strict kernels"]["failed"] > 0 and by_way["strict"]["failed"] == by_way["numpy"]["failed"] == 0
    assert not seen or by_way["strict kernels"]["mismatches"][seen] > 0
    pairs = {tally["what"]: tally["failed"] for tally in row["pairs"]}
    assert pairs["strict kernels ↔ strict"] > 0 and pairs["strict ↔ numpy"] == 0  # three culprits: this is the kernel


def test_another_dtype_is_told():
    x = np.zeros(3)
    assert compare.measure(x, x, limits.exact(x), "float32").mismatch == "dtype"


def test_another_shape_is_seen():
    case = cases.draw("relu", 0)
    right, outcome = truth.expected(case), NUMPY.run(case)
    assert compare.compare(case, "", outcome, right).ok
    outcome.values["y"] = outcome.values["y"][..., :-1]
    assert compare.compare(case, "", outcome, right).mismatches == ["shape"]


def test_infinities_of_the_other_sign_are_seen():
    limit = limits.exact(np.zeros(2))
    x, r = np.asarray([np.inf, 1.0]), np.asarray([-np.inf, 1.0])
    assert compare.measure(x, r, limit, "float64").mismatch == "inf"
    assert compare.measure(r, r, limit, "float64").ok


def test_subnormal_numbers_count_as_zero():
    x, r = np.asarray([1e-40, 1.0], "float32"), np.asarray([0.0, 1.0])
    assert compare.measure(x, r, limits.exact(r), "float32").ok
    assert not compare.measure(np.asarray([1e-30, 1.0], "float32"), r, limits.exact(r), "float32").ok


def test_results_that_change_are_seen(plant):  # noqa: F811
    runs = iter(range(10_000))

    def restless(reference, *args):
        y = reference(*args)
        return y * (1 + 1e-7 * (next(runs) % 2))

    plant(affine=restless)
    case = cases.draw("dense", 0)
    truth.expected(case)  # which gives it its dy
    assert judging.repeats(Way("strict", kernels=True), case) > 5
    assert judging.repeats(STRICT, case) == judging.repeats(NUMPY, case) == 0


def test_a_call_that_must_be_refused_and_is_not():
    case = cases.draw("softmax_cross_entropy", 6)
    assert case.refused == "ValueError" and NUMPY.run(case).error == "ValueError"
    accepted = replace(case, options=case.options | {"check_labels": False})
    found = compare.compare(case, "", NUMPY.run(accepted), None)
    assert found.mismatch == "exception" and "nothing raised, expected ValueError" in found.note


# -- cases -------------------------------------------------------------------------------------------------------------


def test_every_op_has_cases():
    assert cases.skipped() == []


@pytest.mark.parametrize("op", cases.OPS)
def test_every_op_agrees(op):
    row = judging.judge(op, "float32", [NUMPY, STRICT], seed=3, cases=10)
    assert row["verdict"] == "PASS", row
    assert set(row["kinds"]) == set(cases.KINDS)


def test_a_case_is_the_same_everywhere():
    one, other = (cases.draw("conv2d", 17, seed=5) for _ in range(2))
    assert str(one) == str(other) and np.array_equal(one.arrays["x"], other.arrays["x"])
    assert str(cases.draw("conv2d", 17, seed=6)) != str(one)
    wide = cases.draw("conv2d", 17, 5, "float64")
    assert wide.options == one.options and np.array_equal(wide.arrays["x"].astype("float32"), one.arrays["x"])


def test_cases_cover_what_they_promise():
    drawn = [cases.draw("conv2d", number) for number in range(40)]
    assert {case.layout for case in drawn} == set(cases.LAYOUTS)
    assert {0, 1} <= {case.arrays["x"].shape[0] for case in drawn}
    taps = [case.arrays["w"][..., 0].size for case in drawn if not case.refused]
    assert min(taps) == 1 and max(taps) == 10_000
    for option in ("stride", "dilation"):
        assert len({case.options.get(option) for case in drawn}) > 3
    assert {1, 2, 3} <= {case.options.get("groups", 1) for case in drawn}
    assert {str, int, tuple} <= {type(case.options["padding"]) for case in drawn if "padding" in case.options}


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts_hold_the_same_numbers(backend, layout, rng):
    for shape in [(2, 3, 4), (5,), (0, 2), ()]:
        a = rng.standard_normal(shape)
        array = placed(a, layout)
        assert np.array_equal(dn.to_numpy(array), a)
    if backend == "numpy" and layout != "together":
        assert not placed(rng.standard_normal((3, 4, 5)), layout).flags.c_contiguous


def test_the_loops_share_nothing_with_the_package():
    for path in sorted((Path(truth.__file__).parent).glob("loops*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0 or (node.level == 1 and node.module.startswith("loops")), path.name
                assert not (node.module or "").startswith("dualnet")
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("dualnet") for alias in node.names)


def test_kernels_are_off_where_they_are_to_be(monkeypatch):
    monkeypatch.setenv("DUALNET_KERNELS", "auto")
    with kernels(False):
        assert not dn.backend.kernels_allowed()
    assert dn.backend.kernels_allowed()


# -- negative controls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", cases.OPS)
def test_controls_fail_as_they_must(op):
    rows = list(controls.controls([STRICT], [op], seed=1, cases=4))
    assert rows and all(0 < row["made"] == row["found"] for row in rows), rows


def test_a_control_that_passes_makes_the_certificate_invalid(monkeypatch):
    monkeypatch.setattr(controls, "PLANTED", 0.0)
    found = certify(backends=["strict"], ops=["dense"], dtypes=["float32"], networks=[], quick=True)
    assert found.verdict == "INVALID"
    assert any("planted" in reason for reason in found.data["reasons"]["strict"])


def test_a_crash_is_no_success_of_a_control(monkeypatch):
    def broken(self, case):
        raise RuntimeError

    monkeypatch.setattr(controls.Planted, "compute", broken)
    (row,) = (r for r in controls.controls([NUMPY], ["relu"]) if "planted" in r["control"])
    assert row["found"] == 0 < row["made"]


def test_tf32_has_ten_bits(rng):
    x = rng.standard_normal(1000).astype("float32")
    rounded = controls.tf32(x)
    assert not np.any(rounded.view(np.uint32) & 0x1FFF)
    assert 1e-4 < np.max(np.abs(rounded - x) / np.abs(x)) <= 2**-11
    special = np.asarray([np.nan, np.inf, -np.inf, 0.0], "float32")
    assert np.array_equal(controls.tf32(special), special, equal_nan=True)


# -- kernels on shapes of their own ------------------------------------------------------------------------------------


def test_kernels_against_references():
    rows = kernel_cases.judge_kernels(named("numpy kernels"), ["dense", "relu"])
    assert all(row["failed"] == 0 == row["different"] for row in rows)
    assert any(row["kernels"] for row in rows)


def test_a_kernel_that_serves_only_large_shapes_is_found(plant):  # noqa: F811
    def large_only(reference, x, w, b=None):
        y = reference(x, w, b)
        return y * (1 + 1e-4) if x.shape[0] * x.shape[1] > 20_000 else y

    plant(affine=large_only)
    rows = kernel_cases.judge_kernels(Way("strict", kernels=True), ["dense"])
    assert all(row["failed"] for row in rows if row["dtype"] == "float32")


def test_kernels_that_nobody_asked_are_named():
    found = kernel_cases.reached(["numpy"], {("affine", "kernel of numpy"): 3})
    assert found["numpy"]["served"]["affine (numpy)"] == 3
    assert "affine" not in found["numpy"]["never"] and "correlate" in found["numpy"]["never"]


def test_each_library_is_counted():
    """Beside a kernel of its own, cuDNN's for the same function may not have been asked."""
    with pytest.MonkeyPatch.context() as patch, fake_cupy.in_force(patch) as cupy:
        fake_cudnn.install(patch, cupy)
        for served, times in (({}, 0), ({("correlate", "kernel of cuDNN"): 2}, 2)):
            found = kernel_cases.reached(["cupy"], {("correlate", "kernel of cupy"): 3, **served})["cupy"]
            assert found["libraries"] == {"cuDNN": times, "cupy": 3} and "correlate" not in found["never"]
            assert kernel_cases.idle(found["libraries"], dn.info()) == ([] if times else ["cuDNN"])


@pytest.mark.parametrize("allowed", ["1", "0"])
def test_a_library_that_works_and_was_not_asked_is_told(monkeypatch, allowed):
    monkeypatch.setattr(pieces, "judge_pieces", lambda *_: [])  # they take seconds
    with fake_cupy.in_force(monkeypatch) as cupy:
        fake_cudnn.install(monkeypatch, cupy)
        monkeypatch.setenv("DUALNET_CUDNN", allowed)
        found = certify(backends=["cupy"], ops=["relu"], dtypes=["float32"], networks=[], quick=True)
    told = "PARTIAL: cuDNN works here and was never asked to serve"
    assert (told in found.data["reasons"]["cupy:0"]) == (allowed == "1")


# -- the certificate ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Certificate:
    return certify(backends=["strict", "cupy"], ops=["dense", "relu"], dtypes=["float32"], networks=[], quick=True)


def test_a_certificate_says_what_ran(small):
    data = small.data
    assert data["kind"] == sources.KIND and data["seed"] == 0 and "dualnet parity" in data["command"]
    assert data["kernels"]["sha256"] == sources.fingerprint()["sha256"]
    assert {"dualnet", "python", "numpy", "blas", "threads", "precision"} <= data["backends"]["numpy"].keys()
    assert [row["op"] for row in data["ops"]] == ["dense", "relu"]
    row = data["ops"][0]
    assert row["repeats"]["times"] == 20 and not any(row["repeats"]["different"].values())
    assert {"norm", "each", "ratio", "mismatches", "worst"} <= row["ways"][0].keys()


def test_what_is_left_out_makes_it_partial(small):
    assert small.data["verdicts"]["strict"] == "PARTIAL"
    reasons = " ".join(small.data["reasons"]["strict"])
    assert "ops left out: avg_pool2d" in reasons and "networks left out" in reasons and "float64" in reasons


def test_without_a_device_it_is_not_run(small):
    if "cupy" in dn.available_backends():
        pytest.skip("there is a device")
    assert small.data["verdicts"]["cupy"] == "NOT-RUN" == small.verdict
    assert any(hint in small.data["reasons"]["cupy"][0] for hint in ("pip install", "needs an NVIDIA GPU"))


def test_a_failure_is_named_with_its_reproducer(plant):  # noqa: F811
    plant(affine=scaled)
    found = certify(backends=["strict"], ops=["dense"], dtypes=["float32"], networks=[], quick=True)
    assert found.verdict == "FAIL" and found.data["verdicts"]["numpy"] == "PARTIAL"
    (reason,) = (r for r in found.data["reasons"]["strict"] if "strict kernels:" in r and "kernels of" not in r)
    assert "dualnet parity --op dense --case" in reason
    number = int(reason.partition("--case ")[2].split()[0])
    text, ok = one_case("dense", number, seed=0, dtype="float32", backends=["strict"])
    assert not ok and "<-- wrong" in text


def test_the_reproducer_of_a_large_case(plant):  # noqa: F811
    text, ok = one_case("dense", 0, seed=0, dtype="float32", backends=["strict"], large=True)
    assert ok and "x 64x400" in text
    plant(affine=scaled)
    text, ok = one_case("dense", 0, seed=0, dtype="float32", backends=["strict"], large=True)
    assert not ok


def test_json_is_json_and_pages_are_pages(small, tmp_path):
    path = small.write(tmp_path / "certificate.json")
    again = Certificate(json.loads(path.read_text("utf-8")))
    assert again.verdict == small.verdict
    for certificate in (small, again):  # what was read back renders as well
        page, html = certificate.markdown(), certificate._repr_html_()
        assert page.startswith(f"# Parity certificate: {small.verdict}\n") and "| dense " in page
        assert small.verdict in html and "<script" not in html and "Negative controls" in html


def test_infinite_ratios_become_strings(plant, tmp_path):  # noqa: F811
    plant(rectify=one_element)
    found = certify(backends=["strict"], ops=["relu"], dtypes=["float32"], networks=[], quick=True)
    path = found.write(tmp_path / "c.json")
    assert found.verdict == "FAIL" and "Infinity" not in path.read_text()
    assert "∞" in found.markdown() and "∞" in Certificate(json.loads(path.read_text())).markdown()


# -- the age of a certificate ------------------------------------------------------------------------------------------


def test_an_old_certificate_is_told(small, tmp_path, monkeypatch):
    path = small.write(tmp_path / "h100.json")
    assert sources.outdated(path) == ""
    changed = sources.sources() | {"kernels/pool.cu": b"changed"}
    monkeypatch.setattr(sources, "sources", lambda: changed)
    assert "h100.json" in sources.outdated(path) and "kernels/pool.cu changed since" in sources.outdated(path)
    other = tmp_path / "timings.json"
    other.write_text("[1, 2]")
    assert sources.outdated(other) == ""  # no certificate: passed over


def test_the_hash_covers_kernels_of_every_kind():
    files = sources.sources()
    assert {"cpu/columns.py", "strict_backend.py"} <= files.keys()
    kernels_there = {p.relative_to(ROOT / "backends").as_posix() for p in (ROOT / "backends").rglob("*.cu")}
    assert kernels_there <= files.keys()


# -- limits ------------------------------------------------------------------------------------------------------------


def test_tau_is_that_of_the_page():
    page = (ROOT / "docs" / "numerics.md").read_text("utf-8") if (ROOT / "docs").exists() else ""
    for K in (9, 576, 4608):
        told = f"{limits.tau('float32', K):.1e}".replace("e-0", "e-")
        assert not page or f"| {K} | {told} |" in page


def test_one_wrong_element_shows_although_the_norm_is_right(rng):
    a, b = rng.standard_normal((200, 50)), rng.standard_normal((50, 200))
    r = a @ b
    limit = limits.products(r, "float32", 50, np.abs(a) @ np.abs(b))
    x = r.copy()
    x[0, 0] += 5e-5 * limit.scale[0, 0]
    found = compare.measure(x, r, limit, "float64")
    assert found.norm <= limit.norm and found.each > limit.each and not found.ok
    assert found.at == (0, 0)
