"""tools/cores.py: the model by hand, the counted bytes, and the probe of the interpreter's lock."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from test_gpu_results import ROOT, tool

import dualnet as dn
from dualnet.backends.cpu import threads

cores = tool("cores")
SEEN = {"alone": 2.0, "library": 8.0, "small": 1.0, "team": [[3.0] * 4, [5.0]], "bytes": 10, "held": 0.0}
SEEN["waking"] = 0.5


def test_the_model_by_hand():
    assert cores.modelled(SEEN, 1, 1, bandwidth=1e9) == 2 + 8 + 1 + 12 + 5
    assert cores.modelled(SEEN, 4, 4, bandwidth=1e9) == 2 + 2 + 1 + 3 + 5 + 0.5  # one piece is not shared: nobody wakes
    assert cores.modelled(SEEN, 8, 8, bandwidth=1e9) == 2 + 1 + 1 + 3 + 5 + 0.5  # four pieces for eight
    assert cores.modelled(SEEN, 4, 2, bandwidth=1e9) == 2 + 4 + 1 + 6 + 5 + 0.5
    assert cores.modelled(SEEN, 2, 2, bandwidth=0.1) == 10 / (2 * 0.1)
    assert cores.modelled(SEEN, 64, 64, bandwidth=0.01) == 10 / (cores.CHANNELS * 0.01)


def test_a_lock_that_is_held_all_the_time_makes_threads_useless():
    always = {**SEEN, "held": 1.0, "team": [[1.0] * 8], "waking": 0.0}
    assert cores.modelled(always, 8, 8, 1e9) - cores.modelled(always, 1, 1, 1e9) == pytest.approx(8 / 8 - 8)
    assert cores.queueing(0.25, 2) == pytest.approx(0.25 * (1 + 0.25) + 0.75)


def test_bytes_are_those_of_arguments_and_results():
    x, w, b = (dn.asarray(np.ones(shape, np.float32), backend="numpy") for shape in ((64, 100), (100, 30), (30,)))
    moved = cores.traffic(lambda: dn.ops.dense(x, w, b))
    assert moved["affine"] == [1, 4 * (64 * 100 + 100 * 30 + 30 + 64 * 30)]
    assert cores.traffic(lambda: None) == {}


@pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="needs a C compiler")
def test_the_probe_tells_a_lock_that_is_held_from_a_free_one(tmp_path):
    woken = cores.probe_function(tmp_path)

    def share(work):
        with cores.Probe(woken) as probe:
            until = time.perf_counter() + 0.5
            while time.perf_counter() < until:
                work()
        assert len(probe.waits) > 10
        return probe.waited(1e-4)

    held, free = share(lambda: sum(range(20_000))), share(lambda: time.sleep(0.05))
    assert held > 0.1 and free < held / 2, (held, free)  # 1 and 0, where nobody else computes


def test_the_command(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- bench: cores -->\n<!-- bench: end -->\n")
    command = [sys.executable, ROOT / "tools" / "cores.py", "digits_cnn", "--batch", "2", "--seconds", "0.01"]
    done = subprocess.run(
        [*command, "--markdown", f"{page}#cores"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "DUALNET_ONEDNN": "0"},
    )
    if "needs a C compiler" in done.stderr:
        pytest.skip("needs a C compiler")
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert done.stdout.strip() in text and text.count("| digits_cnn |     2 |") == 3
    assert all(f"{n} cores" in text for n in cores.CORES[1:]) and "DUALNET_ONEDNN=0" in text


def test_the_best_time_of_each_piece():
    """One slow moment must not look like a piece that is too large to be shared."""
    slow = [0.02, 0.0, 0.0, 0.0]

    def step():
        def work(worker, item):
            if item == 1:
                time.sleep(0.002 + slow.pop(0) if slow else 0.002)

        threads.parallel_for(range(3), work)

    parts = cores.planned(step, 3, 0.05)
    (pieces,) = parts["team"]
    assert len(pieces) == 3 and pieces[1] > 0.0019 and max(pieces[0], pieces[2]) < pieces[1]
    assert parts["alone"] >= 0 and parts["library"] == parts["small"] == 0 and json.dumps(parts)
