"""Ranks that are processes: under mpiexec, and over sockets as torchrun starts them; and what can happen to them."""

from __future__ import annotations

import re
import signal
import sys
import time

import pytest
from distributing import LAUNCHER_SAYS_KILLED, PROGRAM, checked, mpiexec, started, told, trained, under_mpi

import dualnet as dn
from dualnet.distributed.hosts import TCP

WITHIN = 25.0  # seconds until all have ended: sooner than anybody gives up waiting by default


@pytest.fixture
def mpi():
    pytest.importorskip("mpi4py", reason='needs pip install "dualnet[mpi]"')
    if mpiexec() is None:
        pytest.skip("mpiexec is not installed")


@pytest.fixture(scope="module")
def expected():
    with dn.use_backend("numpy"):
        return trained(False, epochs=4)[1]


@pytest.mark.parametrize("ranks", [2, 3])
def test_mpi_trains_what_one_rank_trains(mpi, tmp_path, expected, ranks):
    hashes = set()
    for what in ("train", "train", "apart"):  # run to run, and without overlap: the same bits
        done = under_mpi(ranks, PROGRAM, what, str(tmp_path))
        assert done.returncode == 0, done.stderr
        hashes.add(checked(tmp_path, ranks, expected, "mpi"))
    assert len(hashes) == 1


def test_sockets_train_the_same(tmp_path, expected):
    processes = started(3, tmp_path, "train")
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    checked(tmp_path, 3, expected, "tcp")


SAYS = {
    "KILL": r"rank 2 \(process \d+ on .+\) has died without a word",
    "STOP": r"rank 2 \(process \d+ on .+\) has said nothing for .* s: it is stopped",
    "late": r"rank 2 \(process \d+ on .+\) is alive, but has not reached the point where rank \d has waited for 8 s",
    "raise": r"rank 2: ValueError: the data are broken",
    "leave": r"rank 2 \(process \d+ on .+\) has ended its program, but rank \d still waits",
}


@pytest.mark.parametrize("what", SAYS)
def test_a_rank_in_trouble_ends_all_that_train_by_sockets(tmp_path, what):
    """Each process is looked at by itself: every one of the others ends, soon, and names the rank."""
    processes = started(3, tmp_path, what)
    begun = None
    try:
        for line in processes[2].stdout:
            if line.startswith(what):
                begun = float(line.split()[-1])
                break
        assert begun is not None, processes[2].stderr.read()
        for process in processes[:2]:
            out, errors = process.communicate(timeout=120)
            assert process.returncode == 1 and re.search(SAYS[what], errors), (out, errors)
            assert float(re.search(r"ended at ([\d.]+)", out)[1]) - begun < WITHIN
    finally:
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.communicate(timeout=20)


def test_ranks_that_sleep_all_together_go_on(tmp_path, expected):
    """As when a laptop is shut, or a virtual machine is moved: nobody has waited for anybody."""
    processes = started(3, tmp_path, "sleep")
    assert processes[2].stdout.readline().startswith("sleep at")
    for number, pause in ((signal.SIGSTOP, 6.0), (signal.SIGCONT, 0.0)):  # they wait for each other for 4 s
        for process in processes:
            process.send_signal(number)
        time.sleep(pause)
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    checked(tmp_path, 3, expected, "tcp")


@pytest.mark.parametrize("what", ["KILL", "STOP", "raise"])
def test_a_rank_in_trouble_ends_all_under_mpi(mpi, tmp_path, what):
    done = under_mpi(3, PROGRAM, what, str(tmp_path))
    ended = time.time()
    said = SAYS[what] if what != "KILL" else f"{SAYS[what]}|{LAUNCHER_SAYS_KILLED}"
    assert done.returncode != 0 and re.search(said, done.stdout + done.stderr), (done.stdout, done.stderr)
    assert ended - float(re.search(rf"{what} at ([\d.]+)", done.stdout)[1]) < WITHIN


def test_ctrl_c_on_one_rank_of_mpi_ends_all_and_any_number_goes_on(mpi, tmp_path, expected):
    done = under_mpi(2, PROGRAM, "INT", str(tmp_path))
    assert done.returncode != 0 and done.stderr.count("rank 1 was asked to end, and all ranks do") == 2, done.stderr
    newest = max((tmp_path / "run").iterdir()).name
    assert newest == "checkpoint-000000010.npz"  # epochs have 4 steps: in the middle of the third
    done = under_mpi(3, PROGRAM, "resume", str(tmp_path))
    assert done.returncode == 0, done.stderr
    checked(tmp_path, 3, expected, "mpi")
    assert told(tmp_path, 3)[0]["epochs"] == 4


def test_sigterm_on_one_rank_ends_all_after_the_same_step(tmp_path):
    processes = started(3, tmp_path, "TERM")
    out, errors = zip(*(process.communicate(timeout=120) for process in processes))
    assert processes[2].returncode == 143, errors[2]
    for process, words in zip(processes[:2], errors):
        assert process.returncode == -signal.SIGINT and "rank 2 was asked to end, and all ranks do" in words
    assert len(out) == 3


def test_strangers_need_the_token(tmp_path):
    processes = started(2, tmp_path, "train", DUALNET_TOKEN="secret")
    told = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    processes = started(2, tmp_path, "strangers", rank1={"DUALNET_TOKEN": "another"})
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1 and ("rank 1 did not come" in errors or "cannot reach rank 0" in errors)


def test_without_mpi4py(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r'pip install "dualnet\[mpi\]"'):
        dn.distributed.init("mpi")


def test_a_closed_communicator_says_so(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # puts it back
    with TCP(0, 1, "127.0.0.1", 0, timeout=5.0) as ranks:
        assert ranks.gather_words("here") == ["here"]
    with pytest.raises(dn.distributed.RankError, match="this communicator is closed"):
        ranks.barrier()
