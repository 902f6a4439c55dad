"""The verdict: the reasons against a PASS, and the backend that they concern."""

from __future__ import annotations

import copy

import pytest

from dualnet.parity.certificate import verdict
from dualnet.parity.judging.ways import Way

WAYS = [Way("numpy"), Way("numpy", kernels=True), Way("strict")]
GOOD = {"failed": 0, "cases": 10, "worst": {"reproducer": "dualnet parity --op relu --case 3"}}
FIRST = {"ok": True, "wrong": [], "lock_step": [], "ratio": {"numpy": 0.0, "strict": 0.1}}
FOUND = {
    "ops": [
        {
            "op": "relu",
            "dtype": "float32",
            "ways": [{"what": way.name, **GOOD} for way in WAYS],
            "pairs": [{"what": "strict ↔ numpy", **GOOD}],
            "repeats": {"different": {way.name: 0 for way in WAYS}},
        }
    ],
    "kernel_checks": [{"op": "dense", "dtype": "float64", "what": "numpy kernels", "different": 0, **GOOD}],
    "networks": [
        {
            "network": "lenet5",
            "first_step": {"float32": FIRST},
            "lock_step": [{"way": "strict", "ok": True, "told": "they diverge in step 3"}],
            "training": {
                "range": [0.3, 0.4],
                "rows": [{"way": "strict", "ok": True, "ratio": 0.5, "accuracies": [0.3]}],
            },
        }
    ],
    "controls": [{"control": "an error planted", "op": "relu", "way": "strict", "made": 2, "found": 2}],
}


def reasons(change, backend="strict"):
    """What speaks against a backend after this change to results that are all good."""
    found = copy.deepcopy(FOUND)
    change(found)
    return list(verdict.faults(backend, WAYS, found))


def test_nothing_speaks_against_good_results():
    assert reasons(lambda found: None) == reasons(lambda found: None, "numpy") == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f["ops"][0]["ways"][2].update(failed=4), "relu float32, strict: 4 of 10 cases, e.g. dualnet parity"),
        (lambda f: f["ops"][0]["pairs"][0].update(failed=1), "relu float32, strict ↔ numpy: 1 of 10 cases"),
        (
            lambda f: f["ops"][0]["repeats"]["different"].update(strict=7),
            "relu float32, strict: 7 of 20 repeats differ",
        ),
        (
            lambda f: f["networks"][0]["first_step"]["float32"].update(wrong=["strict: y"]),
            "lenet5: float32, first step, ",
        ),
        (
            lambda f: f["networks"][0]["first_step"]["float32"].update(ok=False),
            "first step, answers differ from those of float64",
        ),
        (lambda f: f["networks"][0]["lock_step"][0].update(ok=False), "lenet5: they diverge in step 3"),
        (
            lambda f: f["networks"][0]["training"]["rows"][0].update(ok=False),
            "training strays to 0.5 of what is allowed",
        ),
    ],
)
def test_each_fault_of_a_backend_is_a_fail(change, reason):
    found = reasons(change)
    assert {kind for kind, _ in found} == {"FAIL"} and reason in found[0][1]
    assert all("strict" not in text for _, text in reasons(change, "numpy"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f["ops"][0]["ways"][1].update(failed=1), "relu float32, numpy kernels: 1 of 10 cases"),
        (lambda f: f["kernel_checks"][0].update(failed=2), "kernels of dense float64, numpy kernels: 2 of 10 cases"),
        (
            lambda f: f["kernel_checks"][0].update(different=3),
            "kernels of dense float64, numpy kernels: 3 of 20 repeats",
        ),
    ],
)
def test_a_fault_of_numpy_counts_against_every_backend(change, reason):
    for backend in ("numpy", "strict"):
        ((kind, text),) = reasons(change, backend)
        assert kind == "FAIL" and text.startswith(reason)


def test_controls_that_pass_or_are_missing_make_it_invalid():
    ((kind, text),) = reasons(lambda found: found["controls"][0].update(found=1))
    assert (kind, text) == ("INVALID", "an error planted in relu on strict was found in 1 of 2")
    assert reasons(lambda found: found["controls"].clear()) == [("INVALID", "no negative control was run")]


def test_kernels_and_libraries_that_never_served_leave_a_gap():
    reached = {"never": ["affine"], "libraries": {"oneDNN": 0, "numpy": 5}}
    assert verdict.never_asked(reached) == [("PARTIAL", "the kernel affine was never asked to serve")]
    assert verdict.idle(reached, {"onednn": "3.2"}) == [("PARTIAL", "oneDNN works here and was never asked to serve")]
    assert verdict.idle(reached, {"onednn": "no: no library found"}) == []


def test_the_worst_reason_decides():
    several = [("PARTIAL", ""), ("INVALID", ""), ("FAIL", "")]
    assert [verdict.verdict(several[:n]) for n in range(4)] == ["PASS", "PARTIAL", "INVALID", "INVALID"]
