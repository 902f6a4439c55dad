"""Start ranks on this machine: with ``mpiexec`` if it is installed, otherwise each as a separate process."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..shim.process import cores
from .mesh import WINDOWS, reserve

__all__ = ["Launched", "free_port", "launch", "mpiexec"]

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "DUALNET_THREADS")
OF_OTHERS = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"),
)
"""Variables that this process has from its own launcher; the new ranks get others."""
NOISE = ("Abort(", "=", "YOUR APPLICATION", "This typically", "Please see")
ROOT = str(Path(__file__).resolve().parents[2])


class Launched:
    """How the ranks ended: ``how`` they were started, the first exit code that is not 0, and what they printed."""

    def __init__(self, how: str, code: int, words: str) -> None:
        self.how, self.code, self.words = how, code, words

    @property
    def last_words(self) -> str:
        """The last line worth reading; what MPI adds when it ends the other ranks is nothing new."""
        lines = [line.strip() for line in self.words.splitlines() if line.strip() and not line.startswith(NOISE)]
        return lines[-1] if lines else f"ended with exit code {self.code}"


def mpiexec() -> str | None:
    """The program that starts MPI ranks, beside this Python or on the path; None without mpi4py."""
    if importlib.util.find_spec("mpi4py") is None:
        return None
    beside = Path(sys.executable).parent
    return shutil.which("mpiexec", path=str(beside)) or shutil.which("mpiexec")


def launch(ranks: int, words: Sequence[str], *, timeout: float, threads: int | None = None) -> Launched:
    """Run ``python WORDS`` on this many ranks of this machine, and wait until all have ended.

    Each gets its share of the cores, or ``threads`` threads. After ``timeout`` seconds all are ended.
    """
    each = str(threads or max(1, cores() // ranks))
    environment = {name: value for name, value in os.environ.items() if name not in OF_OTHERS}
    environment |= {**dict.fromkeys(THREADS, each), "PYTHONUTF8": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH", "")]))
    program, command = mpiexec(), [sys.executable, *words]
    with tempfile.TemporaryFile() as said:
        if program is not None:
            started = [_start([program, "-n", str(ranks), *command], environment, said)]
        else:
            started = [_start(command, {**environment, **place}, said) for place in _places(ranks)]
        code = _wait(started, time.monotonic() + timeout)
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if code is None:
        return Launched("", 124, f"the ranks did not end within {timeout:g} s")
    return Launched("mpiexec" if program is not None else "processes", code, text)


def _start(command: list[str], environment: dict[str, str], said: object) -> subprocess.Popen:
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said)  # type: ignore[call-overload]


def _places(ranks: int) -> list[dict[str, str]]:
    """The variables that torchrun gives to each rank."""
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def free_port() -> int:
    """A port of this machine at which rank 0 can listen soon.

    Until then, no other program that asks for any free port may get it. So this makes one connection there: for a
    minute afterwards, the system gives the port only to a program that asks for exactly this one. Not on Windows, where
    rank 0 could not get the port either while such a connection lingers.
    """
    with socket.socket() as door, socket.socket() as caller:
        reserve(door)
        door.bind(("127.0.0.1", 0))
        if not WINDOWS:
            door.listen(1)
            caller.connect(door.getsockname())
            door.accept()[0].close()  # the side that closes first keeps the port
            caller.recv(1)
        return int(door.getsockname()[1])


def _wait(started: list[subprocess.Popen], until: float) -> int | None:
    """The first exit code that is not 0; None if the time was up."""
    try:
        for process in started:
            process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        for process in started:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(5.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    return next((process.returncode for process in started if process.returncode), 0)
