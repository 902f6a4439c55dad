"""Small networks and trainings for the tests of several ranks, and programs that mpiexec runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import dualnet as dn
from dualnet.distributed.launching import free_port

ROOT = Path(__file__).resolve().parents[1]
CLASSES = 4
PROGRAM = ROOT / "tests" / "distributed" / "program.py"
TAU = 1e-13
LAUNCHER_SAYS_KILLED = r"EXIT CODE: 9\b|Killed \(signal 9\)|signal 9 \(Killed\)"
"""mpiexec ends all ranks as soon as it sees that one was killed: on a busy machine before another rank can say so."""


def data(examples: int = 50, seed: int = 0):
    """Images (N, 6, 6, 2) and class numbers."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(examples, 6, 6, 2)), rng.integers(0, CLASSES, examples)


def network(dtype: str = "float64", norm: bool = True, drop: bool = True, seed: int = 3):
    """A small network with all that must know of the whole batch: batch norm (with a ReLU in its pass) and dropout."""
    layers = [dn.Conv2D(3, 3), *([dn.BatchNorm()] if norm else []), dn.ReLU(), dn.MaxPool2D(2)]
    layers += [*([dn.SpatialDropout2D(0.2), dn.Flatten(), dn.Dropout(0.4)] if drop else [dn.Flatten()])]
    layers += [dn.Dense(5), *([dn.BatchNorm()] if norm else []), dn.Dense(CLASSES)]
    return dn.Sequential(layers).init((6, 6, 2), seed=seed, dtype=dtype)


def trained(ranks, net=None, examples: int = 50, given=None, **options):
    """A history and what was learned, after a short training with these ranks (False: with one)."""
    net = network() if net is None else net
    settings = {"epochs": 2, "batch_size": 16, "optimizer": dn.SGD(lr=0.1, momentum=0.9), "verbose": 0, "seed": 5}
    x, t = data(examples) if given is None else given
    history = net.fit(x, t, **settings | options, distributed=ranks)
    return history, {name: np.array(dn.to_numpy(v)) for name, v in net.state_dict().items() if hasattr(v, "shape")}


def in_ranks(number: int, function, **options):
    """The results of all ranks, which are threads; every wait has a limit, so that a hang fails the test."""
    return dn.distributed.run_in_threads(function, number, **{"timeout": 60.0} | options)


def furthest(a: dict, b: dict) -> float:
    """The largest difference between two networks."""
    assert a.keys() == b.keys()
    return max(float(np.abs(a[name].astype("float64") - b[name].astype("float64")).max()) for name in a)


def same(a: dict, b: dict) -> bool:
    """Are two networks equal to the last bit?"""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def mpiexec() -> str | None:
    """The program that starts ranks: beside this Python, or on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def environment(**more: str) -> dict[str, str]:
    """One thread for each rank, and this checkout."""
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "DUALNET_THREADS": "1"}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(paths), "DUALNET_BACKEND": "numpy", **more}


def under_mpi(number: int, program: Path, *arguments: str, limit: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a program with so many ranks. One that hangs fails the test."""
    command = [str(mpiexec()), "-n", str(number), sys.executable, str(program), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=limit, env=environment(), check=False
    )


def told(folder: Path, ranks: int) -> list[dict]:
    """What each rank of the program says of its training."""
    return [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(ranks)]


def checked(folder: Path, ranks: int, expected: dict, kind: str) -> str:
    """All ranks say the same, and have learned what one rank learns within τ. Returns the digest of all bits."""
    every = told(folder, ranks)
    assert [one["kind"] for one in every] == [kind] * ranks and [one["size"] for one in every] == [ranks] * ranks
    for one in every:
        assert {name: one[name] for name in ("hash", "figures", "loss", "seconds")} == {
            name: every[0][name] for name in ("hash", "figures", "loss", "seconds")
        }
    with np.load(folder / "learned.npz") as learned:
        assert furthest(dict(learned), expected) < TAU
    return every[0]["hash"]


def started(ranks: int, folder: Path, what: str, rank1=(), **more: str) -> list[subprocess.Popen[str]]:
    """Processes as torchrun starts them."""
    given = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, str(PROGRAM), what, str(folder)]
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment(RANK=str(rank), **given, **more, **(dict(rank1) if rank == 1 else {})),
        )
        for rank in range(ranks)
    ]
