"""Ranks that are started here: how, with which threads, and what becomes of those that fail or hang."""

from __future__ import annotations

import time

import pytest

from dualnet.distributed import launching

SUM = """import dualnet as dn
r = dn.distributed.init()
total = int(dn.to_numpy(r.all_reduce(dn.asarray([r.rank + 1.0])))[0])
print(f"[{total} {r.kind}]", flush=True)
"""
ILL = """import dualnet as dn
r = dn.distributed.init(timeout=10)
if r.rank:
    raise ValueError("rank 1 is ill")
r.barrier()
"""


@pytest.fixture(params=["mpiexec", "processes"])
def how(request, monkeypatch):
    if request.param == "processes":
        monkeypatch.setattr(launching, "mpiexec", lambda: None)
    elif launching.mpiexec() is None:
        pytest.skip("mpi4py and mpiexec are not installed")
    return request.param


def test_all_ranks_meet(how):
    done = launching.launch(3, ["-c", SUM], timeout=60)
    assert done.code == 0, done.words
    assert done.words.count(f"[6 {'mpi' if how == 'mpiexec' else 'tcp'}]") == 3 and done.how == how


def test_they_share_the_cores(how):
    told = "import os; print('<' + os.environ['OMP_NUM_THREADS'] + '>')"
    done = launching.launch(2, ["-c", told], timeout=60, threads=3)
    assert done.words.count("<3>") == 2, done.words  # the lines of two ranks may run into each other


def test_an_error_of_one_rank_is_told(how):
    done = launching.launch(2, ["-c", ILL], timeout=60)
    assert done.code != 0 and "rank 1 is ill" in done.words


def test_ranks_that_hang_are_ended(how):
    begun = time.monotonic()
    done = launching.launch(2, ["-c", "import time; time.sleep(60)"], timeout=2)
    assert done.code == 124 and "did not end within 2 s" in done.last_words and time.monotonic() - begun < 20
