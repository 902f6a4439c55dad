"""Measuring: every program in its own process, turn by turn, so that all meet the same state of the machine."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from ..arguments import integer, number
from ..backend import get_backend, use_backend
from ..files import save
from ..layers import BatchNorm, Conv2D, Dense, Flatten, MaxPool2D, ReLU, Sequential
from ..layers.layer import Layer
from .nets import DEFAULT, NAMES, plan, weights

__all__ = ["MODES", "PROGRAMS", "Program", "run"]

HERE = Path(__file__).resolve().parent
RUNNER = HERE / "peers" / "runner.py"
MODES = ("training", "inference")
TOLERANCE = 1e-3  # between what two programs compute, relative; float32 differs by far less
LONGEST = 1200  # seconds that one measurement may take
LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "DUALNET_THREADS", "PJRT_NPROC", "NPROC")


@dataclass(frozen=True)
class Program:
    """A library to measure: what to import, the script with its step, and the variants of which the best counts."""

    library: str
    script: str
    variants: tuple[str, ...] = ("",)

    def path(self) -> str:
        return str(HERE / "peers" / self.script)


PROGRAMS = {
    "dualnet": Program("dualnet", "ours.py"),
    "torch": Program("torch", "torch_peer.py", ("contiguous", "channels_last")),
    "jax": Program("jax", "jax_peer.py"),
    "chainer": Program("chainer", "chainer_peer.py"),
    "mygrad": Program("mygrad", "mygrad_peer.py"),
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
    tell: Callable[[str], Any] = lambda line: None,
) -> dict[str, Any]:
    """Measure networks and return everything seen, as in ``docs/performance.md``; :func:`markdown` makes tables of it.

    ``nets`` are names, files that ``net.save`` wrote, or networks. ``against`` names peers; as a mapping it also says
    which Python runs each of them (None: this one). A round measures dualnet and every peer once for about ``seconds``,
    each in a process of its own; the best of ``rounds`` counts. ``threads`` defaults to the cores that this process may
    use. Runs on the backend in force. ``tell`` hears of the progress, line by line.

    Raises ``ValueError`` or ``TypeError`` for what cannot be measured, before anything is. A peer that is not installed
    is left out, and the result says so.

    >>> from dualnet import bench
    >>> result = bench.run(["digits_cnn"], batches=[1], modes=["inference"], rounds=1, seconds=0.0)
    >>> result["results"][0]["program"], result["results"][0]["min_ms"] > 0
    ('dualnet', True)
    """
    peers = _peers(against)
    batches, modes = [integer(n, "batches", op="bench") for n in batches], _known_modes(modes)
    rounds, seconds = integer(rounds, "rounds", op="bench"), number(seconds, "seconds", op="bench")
    seed = integer(seed, "seed", op="bench", least=0)
    threads = _cores() if threads is None else integer(threads, "threads", op="bench")
    with tempfile.TemporaryDirectory(prefix="dualnet-bench-") as folder:
        plans = _planned(nets, seed, Path(folder), bool(peers))
        bench = Bench(peers, rounds, seconds, threads, seed, tell, rehearsal(Path(folder)))
        programs = bench.programs()
        results = [row for at in plans for n in batches for mode in modes for row in bench.cell(at, n, mode)]
        shares = [bench.layers(at, n) for at in plans for n in batches] if layers else []
    return {
        "format": 1,
        "made": time.strftime("%Y-%m-%d"),
        "machine": _machine(),
        "settings": {
            "backend": get_backend(),
            "threads": threads,
            "rounds": rounds,
            "seconds": seconds,
            "seed": seed,
            "environment": {k: os.path.basename(v) for k, v in sorted(os.environ.items()) if k.startswith("DUALNET_")},
        },
        "programs": programs,
        "nets": [{key: value for key, value in at.items() if key not in ("layers", "weights", "net")} for at in plans],
        "results": results,
        "ratios": [ratio for cell in _cells(results) for ratio in _ratios(cell)],
        "layers": shares,
    }


class Bench:
    """One series of measurements: who takes part, and how."""

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

    def programs(self) -> dict[str, dict[str, Any]]:
        """Versions, threads and the time of an import (the best of several), by name."""
        told: dict[str, dict[str, Any]] = {}
        for name in self.pythons:
            answer = told[name] = self.ask(name, {"measure": "import"})
            if "version" in answer:
                again = [self.ask(name, {"measure": "import"}) for _ in range(self.rounds - 1)]
                answer["import_ms"] = min(one.get("import_ms", math.inf) for one in [answer, *again])
                answer.pop("ran", None)
            else:
                self.absent[name] = answer.get("skipped") or answer["failed"]
            self.tell(f"{name}: {self.absent.get(name) or told[name]['version']}")
        if "dualnet" in self.absent:
            raise ValueError(f"bench: a new process cannot import dualnet: {self.absent['dualnet']}")
        return told

    def cell(self, at: dict[str, Any], batch: int, mode: str) -> list[dict[str, Any]]:
        """One network, batch and mode: a row for every program and variant, measured in turn, to and fro."""
        where = {"net": at["name"], "batch": batch, "mode": mode}
        turns = [(name, variant) for name in self.pythons for variant in PROGRAMS[name].variants]
        answers: dict[tuple[str, str], list[dict[str, Any]]] = {turn: [] for turn in turns}
        for turn in range(self.rounds):
            for name, variant in turns if turn % 2 == 0 else reversed(turns):
                seen = answers[name, variant]
                if seen and "min_ms" not in seen[-1]:
                    continue  # it cannot; once is enough
                answer = self._absent(name, at)
                if not answer:
                    task = {**at, "batch": batch, "mode": mode, "variant": variant, "checked": 2 + (mode == MODES[0])}
                    answer = self.ask(name, {**task, "measure": "step"})
                seen.append(answer)
                self._tell_of(f"{at['name']}, batch {batch}, {mode}", turn, f"{name} {variant}".rstrip(), answer)
        return [{**where, "program": name, "variant": v, **_best(answers[name, v])} for name, v in turns]

    def layers(self, at: dict[str, Any], batch: int) -> dict[str, Any]:
        """Where a training step of ours spends its time."""
        self.tell(f"{at['name']}, batch {batch}, layer by layer")
        answer = self.ask("dualnet", {**at, "batch": batch, "mode": "training", "measure": "layers"})
        return {"net": at["name"], "batch": batch, **answer.get("layers", {"failed": answer.get("failed")})}

    def _absent(self, name: str, at: dict[str, Any]) -> dict[str, Any]:
        reason = self.absent.get(name) or (at.get("unsupported") if name != "dualnet" else None)
        return {"skipped": reason} if reason else {}

    def _tell_of(self, what: str, turn: int, who: str, answer: dict[str, Any]) -> None:
        said = answer.get("skipped") or answer.get("failed") or f"{answer['min_ms']:.2f} ms"
        self.tell(f"{what}, round {turn + 1} of {self.rounds}: {who}: {said}")

    def ask(self, name: str, task: dict[str, Any]) -> dict[str, Any]:
        """Run one task in a process of its own; its answer, or why there is none."""
        program = PROGRAMS[name]
        task = {
            **task,
            **{
                "rehearsal": self.rehearsal,
                "library": program.library,
                "script": program.path(),
                "device": self.device,
            },
            **{"threads": self.threads, "seconds": self.seconds, "seed": self.seed},
        }
        command = [self.pythons[name], str(RUNNER)]
        options: Any = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": LONGEST}
        try:
            done = subprocess.run(command, input=json.dumps(task), env=self._environment(name), **options)
        except subprocess.TimeoutExpired:
            return {"failed": f"no answer within {LONGEST} s"}
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            return {"failed": said[-1].strip() if said else f"ended with exit code {done.returncode}"}
        try:
            return json.loads(done.stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            return {"failed": f"no answer, but {done.stdout[-200:]!r}"}

    def _environment(self, name: str) -> dict[str, str]:
        environment = {**os.environ, **dict.fromkeys(LIMITS, str(self.threads)), "PYTHONUTF8": "1"}
        if self.device == "cpu":
            environment["JAX_PLATFORMS"] = "cpu"
        if name == "dualnet":
            paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
            environment["DUALNET_BACKEND"] = get_backend()
        elif self.pythons[name] != sys.executable:
            environment.pop("PYTHONPATH", None)  # it leads to packages for this Python
        return environment


# -- what was asked for ------------------------------------------------------------------------------------------------


def _peers(against: Iterable[str] | Mapping[str, str | None]) -> dict[str, str]:
    """The Python that runs each peer."""
    if isinstance(against, str):
        raise TypeError(f"bench: against is a list of peers or a mapping, got {against!r}")
    wanted = dict(against) if isinstance(against, Mapping) else dict.fromkeys(against)
    known = [name for name in PROGRAMS if name != "dualnet"]
    peers = {}
    for name, python in wanted.items():
        if name not in known:
            raise ValueError(f"bench: unknown peer {name!r}; the peers are {', '.join(known)}")
        found = sys.executable if python is None else shutil.which(os.path.expanduser(python))
        if not found:
            raise ValueError(f"bench: {name}={python}: there is no such program")
        peers[name] = found
    return peers


def _known_modes(modes: Sequence[str]) -> list[str]:
    for mode in modes:
        if mode not in MODES:
            raise ValueError(f"bench: unknown mode {mode!r}; the modes are {', '.join(MODES)}")
    return list(modes)


def _planned(nets: Sequence[str | Layer], seed: int, folder: Path, for_peers: bool) -> list[dict[str, Any]]:
    """The plan of each network, and a file with its weights for the peers."""
    if isinstance(nets, (str, Layer)):
        raise TypeError(f"bench: nets is a list of names, files or networks, got {type(nets).__name__}")
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
    """What a process runs before its memory is counted: one image of 2 × 2 through a little of everything."""
    chain = [Conv2D(1, 1), BatchNorm(), ReLU(), MaxPool2D(1), Flatten(), Dense(2)]
    with use_backend("numpy"):
        net = Sequential(chain).init((2, 2, 1), dtype="float32")
        path = str(save(net, folder / "rehearsal.npz"))
    numpy.savez(folder / "rehearsal-weights.npz", **weights(path))
    return {**plan(path), "batch": 1, "weights": str(folder / "rehearsal-weights.npz")}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> dict[str, Any]:
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        processor = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    return {"processor": processor, "cores": _cores(), "system": f"{platform.system()} {platform.machine()}"}


# -- what came of it ---------------------------------------------------------------------------------------------------


def _best(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds of one program as one: the best time, the median of medians, the memory of the middle round."""
    good = [answer for answer in answers if "min_ms" in answer]
    if not good or good != answers:
        return {key: answers[-1][key] for key in ("skipped", "failed") if answers[-1].get(key)}
    told = {
        "min_ms": min(answer["min_ms"] for answer in good),
        "median_ms": statistics.median(answer["median_ms"] for answer in good),
        "rounds": [{key: answer[key] for key in ("min_ms", "median_ms", "runs")} for answer in good],
        **{key: _middle([answer[key] for answer in good]) for key in ("peak_bytes", "above_imports_bytes")},
        "values": good[0]["values"],
    }
    return {**told, "ran": good[0]["ran"]} if "ran" in good[0] else told


def _middle(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return statistics.median_low(known) if known else None


def _cells(results: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows that belong together: one network, batch and mode."""
    cells: dict[Any, list[dict[str, Any]]] = {}
    for row in results:
        cells.setdefault((row["net"], row["batch"], row["mode"]), []).append(row)
    return list(cells.values())


def _ratios(cell: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times the speed of each peer's better variant dualnet has, and its share of that peer's least memory."""
    (ours, *_), ratios = (row for row in cell if row["program"] == "dualnet"), []
    for name in dict.fromkeys(row["program"] for row in cell if row is not ours):
        rows = [row for row in cell if row["program"] == name and "min_ms" in row]
        if not rows or "min_ms" not in ours:
            continue
        for row in rows:
            if not _same(ours["values"], row["values"]):
                row["differs"] = f"{name} computes {row['values']}, dualnet {ours['values']}"
        rows = [row for row in rows if "differs" not in row]
        if rows:
            ratios.append(_ratio(ours, rows))
    return ratios


def _ratio(ours: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    best = min(rows, key=lambda row: row["min_ms"])
    peaks = [row["peak_bytes"] for row in rows if row["peak_bytes"]]
    return {
        **{key: best[key] for key in ("net", "batch", "mode")},
        "peer": best["program"],
        "variant": best["variant"],
        "speed": best["min_ms"] / ours["min_ms"],
        "speed_of_medians": min(row["median_ms"] for row in rows) / ours["median_ms"],
        "memory": ours["peak_bytes"] / min(peaks) if peaks and ours["peak_bytes"] is not None else None,
    }


def _same(ours: list[float], theirs: list[float]) -> bool:
    return all(abs(a - b) <= TOLERANCE * max(abs(a), abs(b), 1e-3) for a, b in zip(ours, theirs))
