"""Measuring: programs take turns, each in its own process, so that all find the machine in the same state."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from ..arguments import flag, fraction, integer, number
from ..files.network import save
from ..layers import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D, ReLU, Sequential
from ..layers.layer import Layer
from ..shim import get_backend, use_backend
from ..shim.process import cores
from .nets import DEFAULT, NAMES, plan, weights
from .results import TOLERANCE, best, ratios
from .workers import Staying, once

__all__ = ["DTYPES", "MODES", "PROGRAMS", "Program", "run"]

HERE = Path(__file__).resolve().parent
RUNNER = HERE / "peers" / "runner.py"
MODES = ("training", "inference")
DTYPES = tuple(TOLERANCE)
NO_TIME = "no time was left"
LEAST = 60  # seconds allowed for an import, whatever the limit
LONGEST = 1200  # seconds allowed for one measurement
LIMITS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "DUALNET_THREADS"),
    *("PJRT_NPROC", "NPROC", "NUM_CPU_THREADS"),  # JAX, tinygrad
)


@dataclass(frozen=True)
class Program:
    """A library to measure: its module, the script with its step, and its variants, of which the fastest counts.

    ``thorough`` programs support every dtype, and momentum; the others are measured in float32 without momentum.
    """

    library: str
    script: str
    variants: tuple[str, ...] = ("",)
    thorough: bool = False

    def path(self) -> str:
        """The script's path."""
        return str(HERE / "peers" / self.script)


PROGRAMS = {
    "dualnet": Program("dualnet", "ours.py", thorough=True),
    "torch": Program("torch", "torch_peer.py", ("contiguous", "channels_last"), thorough=True),
    "torch.compile": Program("torch", "torch_peer.py", ("compiled",), thorough=True),
    "torch.reduce-overhead": Program("torch", "torch_peer.py", ("reduce-overhead",), thorough=True),
    "jax": Program("jax", "jax_peer.py"),
    "chainer": Program("chainer", "chainer_peer.py"),
    "mygrad": Program("mygrad", "mygrad_peer.py"),
    "tinygrad": Program("tinygrad", "tinygrad_peer.py"),
}
"""dualnet and its peers, by name."""


def run(
    nets: Sequence[str | Layer] = DEFAULT,
    *,
    batches: Sequence[int] = (1, 64, 256),
    modes: Sequence[str] = MODES,
    layers: bool = False,
    against: Iterable[str] | Mapping[str, str | None] = (),
    rounds: int = 3,
    seconds: float = 1.0,
    threads: int | None = None,
    seed: int = 0,
    dtypes: Sequence[str] = DTYPES[:1],
    momentum: float = 0.0,
    capture: bool = False,
    stay: bool | None = None,
    limit: float | None = None,
    tell: Callable[[str], Any] = lambda line: None,
    keep: Callable[[dict[str, Any]], Any] = lambda result: None,
) -> dict[str, Any]:
    """Measure networks and return all results, as in ``docs/measuring.md``; :func:`markdown` makes tables of them.

    ``nets`` are names, files that ``net.save`` wrote, or networks. ``against`` names peers; a mapping also names the
    Python that runs each of them (None: this one). A round measures dualnet and every peer once for about ``seconds``,
    each in its own process; the best of ``rounds`` counts. ``threads`` is by default the number of cores that this
    process may use. dualnet runs on the backend in use. ``tell`` is called with each line of progress, and ``keep``
    with the results so far after every network.

    ``dtypes`` are ``"float32"``, ``"tf32"``, ``"bfloat16"`` and ``"float16"``: PyTorch has automatic mixed precision.
    ``momentum`` is SGD's. With ``capture`` dualnet's training step is captured (:func:`dualnet.capture`): as one CUDA
    graph, and on a CPU beside the plain one, also for inference. With
    ``stay`` (the default on a GPU) a program's process waits between the rounds instead of starting again. After
    ``limit`` seconds no new measurement begins, and the result lists what was left out.

    Raises ``ValueError`` or ``TypeError`` before the first measurement if an argument is wrong. A peer that is not
    installed is left out, and the result says so.

    >>> from dualnet import bench
    >>> result = bench.run(["digits_cnn"], batches=[1], modes=["inference"], rounds=1, seconds=0.0)
    >>> result["results"][0]["program"], result["results"][0]["min_ms"] > 0
    ('dualnet', True)
    """
    peers = _peers(against)
    batches, modes = [integer(n, "batches", op="bench") for n in batches], _known_modes(modes)
    rounds, seconds = integer(rounds, "rounds", op="bench"), number(seconds, "seconds", op="bench")
    seed = integer(seed, "seed", op="bench", least=0)
    threads = cores() if threads is None else integer(threads, "threads", op="bench")
    dtypes, momentum = _known_dtypes(dtypes), fraction(momentum, "momentum", op="bench")
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-") as folder:
        plans = _planned(nets, seed, Path(folder), bool(peers))
        bench = Bench(peers, rounds, seconds, threads, seed, tell, rehearsal(Path(folder)))
        bench.momentum, bench.capture = momentum, flag(capture, "capture", op="bench")
        bench.staying = bench.device == "cuda" if stay is None else flag(stay, "stay", op="bench")
        if limit is not None:
            bench.until = time.monotonic() + number(limit, "limit", op="bench")
        result = _begun(bench, plans)
        for at, dtype, n, mode in itertools.product(plans, dtypes, batches, modes):
            result["results"] += bench.cell(at, n, mode, dtype)
            result["ratios"] = ratios(result["results"])
            keep(result)
        if layers:
            result["layers"] = [bench.layers(at, n, dtype) for at in plans for dtype in dtypes for n in batches]
    return result


def _begun(bench: Bench, plans: list[dict[str, Any]]) -> dict[str, Any]:
    """The result before the first measurement of a network: the machine, the settings and the programs."""
    ours = {name: os.path.basename(value) for name, value in sorted(os.environ.items()) if name.startswith("DUALNET_")}
    settings = ("threads", "rounds", "seconds", "seed", "momentum", "capture")
    return {
        "format": 1,
        "made": time.strftime("%Y-%m-%d"),
        "machine": {**_machine(), **({"gpu": gpu()} if bench.device == "cuda" else {})},
        "settings": {
            "backend": get_backend(),
            **{name: getattr(bench, name) for name in settings},
            "environment": ours,
        },
        "programs": bench.programs(),
        "nets": [{key: at[key] for key in at if key not in ("layers", "weights", "net")} for at in plans],
        "results": [],
        "ratios": [],
        "layers": [],
    }


class Bench:
    """One series of measurements: which programs to measure, and how."""

    def __init__(
        self,
        peers: dict[str, str],
        rounds: int,
        seconds: float,
        threads: int,
        seed: int,
        tell: Callable[[str], Any],
        rehearsal: dict[str, Any] | None = None,
    ) -> None:
        self.pythons = {"dualnet": sys.executable, **peers}
        self.rounds, self.seconds, self.threads, self.seed, self.tell = rounds, seconds, threads, seed, tell
        self.device = "cuda" if get_backend().startswith("cupy") else "cpu"
        self.rehearsal = rehearsal
        self.absent: dict[str, str] = {}
        self.momentum, self.capture, self.staying = 0.0, False, False
        self.until = math.inf

    def programs(self) -> dict[str, dict[str, Any]]:
        """Versions, threads and the time of an import (the best of several), by name."""
        found: dict[str, dict[str, Any]] = {}
        for name in self.pythons:
            answer = found[name] = self.ask(name, {"measure": "import"})
            if "version" in answer:
                several = 0 if self.staying else self.rounds - 1
                again = [self.ask(name, {"measure": "import"}) for _ in range(several)]
                answer["import_ms"] = min(one.get("import_ms", math.inf) for one in [answer, *again])
                answer.pop("ran", None)
            else:
                self.absent[name] = answer.get("skipped") or answer["failed"]
            self.tell(f"{name}: {self.absent.get(name) or answer['version']}")
        if "dualnet" in self.absent:
            raise ValueError(f"bench: a new process cannot import dualnet: {self.absent['dualnet']}")
        return found

    def cell(self, at: dict[str, Any], batch: int, mode: str, dtype: str = DTYPES[0]) -> list[dict[str, Any]]:
        """One network, batch, mode and dtype: a row for every program and variant; odd rounds go in reverse order."""
        where = {"net": at["name"], "batch": batch, "mode": mode, "dtype": dtype}
        turns = [(name, variant) for name in self.pythons for variant in self._variants(name, mode)]
        answers: dict[tuple[str, str], list[dict[str, Any]]] = {turn: [] for turn in turns}
        task = {**at, "batch": batch, "mode": mode, "dtype": dtype, "checked": 2 + (mode == MODES[0])}
        with contextlib.ExitStack() as processes:
            asked = {turn: self._asker(turn[0], {**task, "variant": turn[1]}, processes) for turn in turns}
            for number in range(self.rounds):
                for turn in turns if number % 2 == 0 else reversed(turns):
                    if self._goes_on(answers[turn]):
                        answer = self._absent(turn[0], at, dtype) or asked[turn]()
                        answers[turn].append(answer)
                        self._tell_of(where, number, turn, answer)
            clock = gpu().get("clocks.sm") if self.device == "cuda" else None  # just after the last of them
        more = {"clock": clock} if clock else {}
        return [{**where, "program": name, "variant": v, **best(answers[name, v]), **more} for name, v in turns]

    def _goes_on(self, answers: list[dict[str, Any]]) -> bool:
        """Another round? Not after one that failed. And when the time is up, one round has to be enough."""
        return not answers or "min_ms" in answers[-1] and self._left() > 0

    def layers(self, at: dict[str, Any], batch: int, dtype: str = DTYPES[0]) -> dict[str, Any]:
        """Where our own training step spends its time."""
        self.tell(f"{at['name']}, batch {batch}, layer by layer")
        task = {**at, "batch": batch, "mode": "training", "dtype": dtype, "measure": "layers"}
        answer = self.ask("dualnet", task)
        times = answer.get("layers", {"failed": answer.get("failed")})
        return {"net": at["name"], "batch": batch, "dtype": dtype, **times}

    def _variants(self, name: str, mode: str) -> tuple[str, ...]:
        if name == "dualnet" and self.capture and self.device == "cpu":
            return ("", "captured")
        if name == "dualnet" and self.capture and mode == MODES[0]:
            return ("captured",)
        variants = PROGRAMS[name].variants
        return ("channels_last",) if self.device == "cuda" and "channels_last" in variants else variants

    def _asker(self, name: str, task: dict[str, Any], processes: contextlib.ExitStack) -> Callable[[], dict[str, Any]]:
        """A function that measures a program once more, in the process that stayed or in a new one."""
        if not self.staying:
            return lambda: self.ask(name, {**task, "measure": "step"})
        staying = processes.enter_context(
            Staying(
                [self.pythons[name], str(RUNNER)], self._task(name, {**task, "stay": True}), self._environment(name)
            )
        )
        return lambda: staying(self._left()) if self._left() > 0 else {"skipped": NO_TIME}

    def _absent(self, name: str, at: dict[str, Any], dtype: str) -> dict[str, Any]:
        reason = self.absent.get(name) or (at.get("unsupported") if name != "dualnet" else None)
        if not reason and not PROGRAMS[name].thorough and (dtype != DTYPES[0] or self.momentum):
            reason = f"the peer's step supports {DTYPES[0]} only, and no momentum"
        if not reason and self._left() <= 0:
            reason = NO_TIME
        return {"skipped": reason} if reason else {}

    def _left(self) -> float:
        return min(LONGEST, self.until - time.monotonic())

    def _tell_of(self, where: dict[str, Any], number: int, turn: tuple[str, str], answer: dict[str, Any]) -> None:
        said = answer.get("skipped") or answer.get("failed") or f"{answer['min_ms']:.2f} ms"
        if number == 0 and "ready_seconds" in answer:
            said += f" (ready after {answer['ready_seconds']:.0f} s)"
        dtype = f", {where['dtype']}" if where["dtype"] != DTYPES[0] else ""
        what = f"{where['net']}, batch {where['batch']}, {where['mode']}{dtype}"
        self.tell(f"{what}, round {number + 1} of {self.rounds}: {' '.join(filter(None, turn))}: {said}")

    def ask(self, name: str, task: dict[str, Any]) -> dict[str, Any]:
        """Run one task in its own process. Returns its answer, or the reason why there is none."""
        longest = LONGEST if self.until == math.inf else max(LEAST, self._left())
        return once([self.pythons[name], str(RUNNER)], self._task(name, task), self._environment(name), longest)

    def _task(self, name: str, task: dict[str, Any]) -> dict[str, Any]:
        program = PROGRAMS[name]
        mine = {"library": program.library, "script": program.path(), "device": self.device}
        ours = {"threads": self.threads, "seconds": self.seconds, "seed": self.seed, "momentum": self.momentum}
        return {**task, "rehearsal": self.rehearsal, **mine, **ours}

    def _environment(self, name: str) -> dict[str, str]:
        environment = {**os.environ, **dict.fromkeys(LIMITS, str(self.threads)), "PYTHONUTF8": "1"}
        if self.device == "cpu":
            environment["JAX_PLATFORMS"] = "cpu"
            environment["DEV"] = "CPU"  # tinygrad's
        if name == "dualnet":
            paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            environment["DUALNET_BACKEND"] = get_backend()
        elif self.pythons[name] != sys.executable:
            environment.pop("PYTHONPATH", None)  # it points at packages for this Python
        return environment


# -- arguments ---------------------------------------------------------------------------------------------------------


def _peers(against: Iterable[str] | Mapping[str, str | None]) -> dict[str, str]:
    """The Python that runs each peer."""
    if isinstance(against, str):
        raise TypeError(f"bench: expected against to be a list of peers or a mapping, got {against!r}")
    wanted = dict(against) if isinstance(against, Mapping) else dict.fromkeys(against)
    known = [name for name in PROGRAMS if name != "dualnet"]
    peers = {}
    for name, python in wanted.items():
        if name not in known:
            raise ValueError(f"bench: unknown peer {name!r}; the peers are {', '.join(known)}")
        found = sys.executable if python is None else shutil.which(os.path.expanduser(python))
        if not found:
            raise ValueError(f"bench: {name}={python}: no such program; expected the path of a Python")
        peers[name] = found
    return peers


def _known_modes(modes: Sequence[str]) -> list[str]:
    for mode in modes:
        if mode not in MODES:
            raise ValueError(f"bench: unknown mode {mode!r}; the modes are {', '.join(MODES)}")
    return list(modes)


def _known_dtypes(dtypes: Sequence[str]) -> list[str]:
    if isinstance(dtypes, str):
        raise TypeError(f"bench: expected dtypes to be a list such as ['float32', 'bfloat16'], got {dtypes!r}")
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"bench: unknown dtype {dtype!r}; the dtypes are {', '.join(DTYPES)}")
    return list(dtypes)


def _planned(nets: Sequence[str | Layer], seed: int, folder: Path, for_peers: bool) -> list[dict[str, Any]]:
    """The plan of each network, and a file with its weights for the peers to load."""
    if isinstance(nets, (str, Layer)):
        raise TypeError(f"bench: expected nets to be a list of names, files or networks, got {type(nets).__name__}")
    plans: dict[str, dict[str, Any]] = {}
    for place, net in enumerate(nets):
        title = net if isinstance(net, str) else type(net).__name__
        path = net if isinstance(net, str) else str(save(net, folder / f"net{place}.npz"))
        title = title if title in NAMES else Path(title).stem
        title = f"{title} ({place + 1})" if title in plans else title
        at = {"name": title, **plan(path, seed)}
        if for_peers and "layers" in at:
            at["weights"] = str(folder / f"weights{place}.npz")
            numpy.savez(at["weights"], **weights(path, seed))
        plans[title] = at
    return list(plans.values())


def rehearsal(folder: Path) -> dict[str, Any]:
    """A task that each process runs before its memory counts: one image of 2 × 2 through one layer of each kind."""
    chain = [Conv2D(1, 1), BatchNorm(), ReLU(), MaxPool2D(1), Flatten(), Dense(2)]
    with use_backend("numpy"):
        net = Sequential(chain).init((2, 2, 1), dtype="float32")
        path = str(save(net, folder / "rehearsal.npz"))
    numpy.savez(folder / "rehearsal-weights.npz", **weights(path))
    return {**plan(path), "batch": 1, "weights": str(folder / "rehearsal-weights.npz")}


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        processor = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    system = f"{platform.system()} {platform.machine()}"
    return {"processor": processor, "instructions": instructions(), "cores": cores(), "system": system}


INSTRUCTIONS = {
    "AVX-512": {"X86_V4", "AVX512_SKX", "AVX512F"},
    "AVX2": {"X86_V3", "AVX2"},
    "SVE": {"SVE"},
    "NEON": {"ASIMD", "NEON"},
}
"""Vector instructions, the widest first, with their names in releases of NumPy."""


def instructions() -> str:
    """The widest vector instructions of this machine, such as ``"AVX-512"``: they decide which kernels are fast."""
    known: Any = numpy.show_config(mode="dicts")
    found = {one for key in ("baseline", "found") for one in known.get("SIMD Extensions", {}).get(key, ())}
    return next((name for name, marks in INSTRUCTIONS.items() if found & marks), "")


def gpu() -> dict[str, str]:
    """What ``nvidia-smi`` reports about the first GPU, its clocks included; empty without it."""
    asked = "name driver_version memory.total clocks.sm clocks.max.sm clocks.mem power.limit temperature.gpu pstate"
    command = ["nvidia-smi", f"--query-gpu={','.join(asked.split())}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    return dict(zip(asked.split(), values)) if done.returncode == 0 and len(values) == len(asked.split()) else {}
