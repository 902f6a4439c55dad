"""The certificate: the work that it lists, what makes it PARTIAL, NOT-RUN or FAIL, and its pages."""

from __future__ import annotations

import json

import fake_cudnn
import fake_cupy
import pytest
from faults import one_element, scaled

import dualnet as dn
from dualnet.parity import certify
from dualnet.parity.certificate import sources
from dualnet.parity.certificate.certificate import Certificate
from dualnet.parity.certificate.reproducer import one_case
from dualnet.parity.judging import pieces


@pytest.fixture(scope="module")
def small() -> Certificate:
    return certify(backends=["strict", "cupy"], ops=["dense", "relu"], dtypes=["float32"], networks=[], quick=True)


def test_a_certificate_says_what_ran(small):
    data = small.data
    assert data["kind"] == sources.KIND and data["seed"] == 0 and "dualnet parity" in data["command"]
    assert data["kernels"] == sources.fingerprint()
    assert {"dualnet", "python", "numpy", "blas", "threads", "precision"} <= data["backends"]["numpy"].keys()
    assert [row["op"] for row in data["ops"]] == ["dense", "relu"]
    row = data["ops"][0]
    assert row["repeats"]["times"] == 20 and not any(row["repeats"]["different"].values())
    assert {"norm", "each", "ratio", "mismatches", "worst"} <= row["ways"][0].keys()


def test_what_is_left_out_makes_it_partial(small):
    assert small.data["verdicts"]["strict"] == "PARTIAL"
    reasons = " ".join(small.data["reasons"]["strict"])
    assert (
        "ops left out: adaptive_avg_pool2d, avg_pool2d" in reasons
        and "networks left out" in reasons
        and "float64" in reasons
    )


@pytest.mark.parametrize("allowed", ["1", "0"])
def test_a_library_that_works_and_was_not_asked_is_named(monkeypatch, allowed):
    monkeypatch.setattr(pieces, "judge_pieces", lambda *_: [])  # they take seconds
    with fake_cupy.in_force(monkeypatch) as cupy:
        fake_cudnn.install(monkeypatch, cupy)
        monkeypatch.setenv("DUALNET_CUDNN", allowed)
        found = certify(backends=["cupy"], ops=["relu"], dtypes=["float32"], networks=[], quick=True)
    reason = "PARTIAL: cuDNN works here and was never asked to serve"
    assert (reason in found.data["reasons"]["cupy:0"]) == (allowed == "1")


def test_without_a_device_it_is_not_run(small):
    if "cupy" in dn.available_backends():
        pytest.skip("there is a device")
    assert small.data["verdicts"]["cupy"] == "NOT-RUN" == small.verdict
    assert any(hint in small.data["reasons"]["cupy"][0] for hint in ("pip install", "needs an NVIDIA GPU"))


def test_a_failure_is_named_with_its_reproducer(plant):
    plant(affine=scaled)
    found = certify(backends=["strict"], ops=["dense"], dtypes=["float32"], networks=[], quick=True)
    assert found.verdict == "FAIL" and found.data["verdicts"]["numpy"] == "PARTIAL"
    (reason,) = (r for r in found.data["reasons"]["strict"] if "strict kernels:" in r and "kernels of" not in r)
    assert "dualnet parity --op dense --case" in reason
    number = int(reason.partition("--case ")[2].split()[0])
    text, ok = one_case("dense", number, seed=0, dtype="float32", backends=["strict"])
    assert not ok and "<-- wrong" in text


def test_json_is_json_and_pages_are_pages(small, tmp_path):
    path = small.write(tmp_path / "certificate.json")
    again = Certificate(json.loads(path.read_text("utf-8")))
    assert again.verdict == small.verdict
    for certificate in (small, again):  # one that was read back can be shown as well
        page, html = certificate.markdown(), certificate._repr_html_()
        assert page.startswith(f"# Parity certificate: {small.verdict}\n") and "| dense " in page
        assert small.verdict in html and "<script" not in html and "Negative controls" in html


def test_infinite_ratios_become_strings(plant, tmp_path):
    plant(rectify=one_element)
    found = certify(backends=["strict"], ops=["relu"], dtypes=["float32"], networks=[], quick=True)
    path = found.write(tmp_path / "c.json")
    assert found.verdict == "FAIL" and "Infinity" not in path.read_text()
    assert "∞" in found.markdown() and "∞" in Certificate(json.loads(path.read_text())).markdown()
