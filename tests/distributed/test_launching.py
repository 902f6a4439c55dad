"""Ranks that are started here: how, with how many threads, and what happens if one fails or hangs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time

import pytest

from dualnet.distributed import launching
from dualnet.distributed.meeting import listener

SUM = """import dualnet as dn
r = dn.distributed.init()
total = int(dn.to_numpy(r.all_reduce(dn.asarray([r.rank + 1.0])))[0])
print(f"[{total} {r.kind}]", flush=True)
"""
ILL = """import dualnet as dn
r = dn.distributed.init(timeout=60)
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


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux chooses ports")
def test_nobody_else_gets_the_port_of_rank_0():
    """Among all that the system gives to others, by binding or by connecting, it is not; rank 0 can still have it."""
    ports, taken = [launching.free_port() for _ in range(20)], []
    for port in ports:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
        for _ in range(1500):
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            taken.append(one.getsockname()[1])
        for _ in range(1500):
            taken.append(stack.enter_context(socket.create_connection(server.getsockname())).getsockname()[1])
        assert not set(ports) & set(taken)
        for port in ports:
            stack.enter_context(listener(port))


def test_they_share_the_cores(how):
    told = "import os; print('<' + os.environ['OMP_NUM_THREADS'] + '>')"
    done = launching.launch(2, ["-c", told], timeout=60, threads=3)
    assert done.words.count("<3>") == 2, done.words  # the lines of two ranks may run into each other


def test_cores_that_this_process_may_not_use_are_not_shared(monkeypatch):
    monkeypatch.setattr(launching, "mpiexec", lambda: None)
    monkeypatch.setattr(launching.os, "cpu_count", lambda: 64)
    monkeypatch.setattr(launching.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    told = "import os; print('<' + os.environ['OMP_NUM_THREADS'] + '>')"
    done = launching.launch(2, ["-c", told], timeout=60)
    assert done.words.count("<3>") == 2, done.words


def test_an_error_of_one_rank_is_told(how):
    done = launching.launch(2, ["-c", ILL], timeout=60)
    assert done.code != 0 and "rank 1 is ill" in done.words


def test_the_exit_code_of_a_later_rank_counts(monkeypatch):
    """Also if it ends without a word, and rank 0 ends well."""
    monkeypatch.setattr(launching, "mpiexec", lambda: None)
    done = launching.launch(2, ["-c", "import os; os._exit(7 * int(os.environ['RANK']))"], timeout=60)
    assert done.code == 7 and done.last_words == "ended with exit code 7"


def test_ranks_that_hang_are_ended(how):
    begun = time.monotonic()
    done = launching.launch(2, ["-c", "import time; time.sleep(600)"], timeout=2)
    assert done.code == 124 and "did not end within 2 s" in done.last_words
    assert time.monotonic() - begun < 300, "they slept to their end"


def test_the_launcher_of_this_process_is_none_of_theirs(how, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = launching.launch(2, ["-c", SUM], timeout=60)
    assert done.code == 0 and done.words.count("[3 ") == 2, done.words


def test_an_mpi_that_knows_of_no_launcher_is_refused(monkeypatch, tmp_path):
    """As under the mpiexec of another MPI: started by hand, with the variable that it would set."""
    pytest.importorskip("mpi4py", reason='needs pip install "dualnet[mpi]"')
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PMI", "MPI"))}
    done = subprocess.run(
        [sys.executable, "-c", "import dualnet as dn; dn.distributed.init()"],
        env=environment | {"OMPI_COMM_WORLD_SIZE": "4"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0 and "MPI knows of only one rank" in done.stderr, done.stderr


def test_on_windows_no_connection_keeps_rank_0_out(monkeypatch):
    """There, who has a port to itself cannot have one at which a connection lingers."""
    called, connect = [], socket.socket.connect
    monkeypatch.setattr(launching, "WINDOWS", True)
    monkeypatch.setattr(socket.socket, "connect", lambda one, to: (called.append(to), connect(one, to)), raising=False)
    listener(launching.free_port()).close()
    assert not called
    monkeypatch.setattr(launching, "WINDOWS", False)
    listener(launching.free_port()).close()
    assert len(called) == 1
