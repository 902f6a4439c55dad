"""Measuring as on a GPU: processes that stay, fewer digits, and a time limit."""

from __future__ import annotations

import sys

import pytest
from benching import QUICK, honest

from dualnet import bench
from dualnet.bench import measure, workers

STAYING = {**QUICK, "rounds": 2, "stay": True, "modes": ["training"]}


def test_processes_that_stay_build_once(fake, tiny, tmp_path):
    """Odd rounds in reverse order as before, and what a library prints does not count as an answer."""
    built = f"open({str(tmp_path / 'built')!r}, 'a').write('x'); print('compiling')"
    fake(honest() + f"\n    def waiting(task):\n        {built}\n        return lambda: None\n")
    lines: list[str] = []
    result = bench.run([tiny], batches=[5], against=["fake"], **STAYING, tell=lines.append)
    ours, theirs = result["results"]
    assert len(theirs["rounds"]) == len(ours["rounds"]) == 2 and "differs" not in theirs
    assert (tmp_path / "built").read_text() == "x" and theirs["ready_seconds"] >= 0
    assert [line.split(": ")[1] for line in lines if "round" in line] == ["dualnet", "fake", "fake", "dualnet"]
    assert (
        theirs["peak_bytes"] is None
        and result["ratios"][0]["memory"] is None
        and "**Peak" not in bench.markdown(result)
    )


def test_processes_that_stay_and_fail(fake, tiny):
    """One dies while it builds, one in the second round, one never answers, one is not installed: the rest goes on."""
    fake("def facts(task):\n    return {}\ndef build(task, x, t, weights):\n    raise MemoryError('full')\n", "raises")
    later = (
        "\n    def waiting(task):\n        n = []\n        return lambda: n.append(0) or len(n) < 14 or os._exit(7)\n"
    )
    fake(honest() + later, "dies")
    fake("import time\ndef facts(task):\n    time.sleep(60)\n", "hangs")
    fake(honest(), "absent", library="no_such_library")
    peers, lines = ["raises", "dies", "absent"], []
    rows = bench.run([tiny], batches=[5], against=peers, **STAYING, tell=lines.append)["results"]
    by_name = {row["program"]: row for row in rows}
    assert by_name["raises"]["failed"] == "MemoryError: full" and "min_ms" in by_name["dualnet"]
    assert by_name["dies"]["failed"] == "ended with exit code 7" and "no_such_library" in by_name["absent"]["skipped"]
    task = measure.Bench({"hangs": sys.executable}, 1, 0.0, 1, 0, print)
    with workers.Staying([sys.executable, str(measure.RUNNER)], task._task("hangs", {}) | {"stay": True}, {}) as hangs:
        assert hangs(0.3) == {"failed": "no answer within 0 s"} == hangs(0.3)
        assert hangs.process.poll() is not None


def test_after_the_limit_the_rest_is_left_out(fake, tiny):
    fake(honest())
    seen = []
    result = bench.run([tiny], batches=[5, 6], against=["fake"], **STAYING, limit=0.001, keep=seen.append)
    assert {row["skipped"] for row in result["results"]} == {measure.NO_TIME} and not bench.wrong(result)
    assert len(seen) == 2 and seen[0] is result  # the result so far, after every network
    assert "no time was left" in bench.markdown(result)


@pytest.mark.parametrize("dtype", ["tf32", "float16", "bfloat16"])
def test_other_numbers_and_momentum(fake, dtype):
    fake(honest())
    result = bench.run(
        ["digits_cnn"], batches=[4], against=["fake"], **STAYING, dtypes=[dtype], momentum=0.9, capture=True
    )
    *both, theirs = result["results"]
    for ours, variant in zip(both, ("", "captured"), strict=True):
        assert (ours["dtype"], ours["variant"], ours["program"]) == (dtype, variant, "dualnet") and "min_ms" in ours
    assert theirs["skipped"] == "the peer's step supports float32 only, and no momentum"
    assert f"{dtype}; SGD with momentum 0.9; dualnet's step captured" in bench.markdown(result)
