"""How would a training step run on more cores than this machine has? Measures it here on one, and models 2 to 64.

    python tools/cores.py                                    # with oneDNN, if it is installed
    DUALNET_ONEDNN=0 python tools/cores.py --batch 1,64      # NumPy alone
    python tools/cores.py --markdown docs/performance-cores.md#cores-onednn

A step runs on one core, planned as if there were n: the team's work (``backends/cpu/threads.py``) is cut into the
pieces that n threads would share, and a clock runs around each piece and around each call of oneDNN. Meanwhile a second
thread asks for the interpreter's lock a thousand times a second, and notes how long it waits. It sleeps and wakes up in
C code, where it needs no lock, at moments that have nothing to do with the step. So the share of its requests that must
wait is the share of time in which the step holds the lock. (This needs a C compiler and a second core.)

On n cores a step then takes the sum of

- the work that one thread does alone: Python between two calls, and NumPy's calls outside the team;
- oneDNN's calls, divided by n, except for those that are too small to share;
- the team's calls: a free thread takes the next piece. The threads queue for the lock like customers who think
  (NumPy, without the lock) and are served (Python, with it); the mean value analysis of a closed queue says how long.
  And each call wakes the team, which takes as long as a call without work takes here.

and never less than the bytes that it reads and writes need. The model leaves out shared caches, slower clocks and the
time that oneDNN's own threads wait for each other, so a real machine is slower. Its purpose is to show what limits a
step first.
"""

from __future__ import annotations

import argparse
import ctypes
import heapq
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

import dualnet as dn
from dualnet.bench import measure, write
from dualnet.bench import nets as networks
from dualnet.bench.peers import ours, runner
from dualnet.bench.report import table

CORES = (1, 2, 4, 8, 16, 32, 64)
CHECKED = (2, 4, 8)
"""Numbers of threads with which a step is also measured, on the cores of this machine."""
PERIOD = 1e-3
"""Seconds between two requests of the probe, on average."""
FREE = 5e-6
"""Taking a free lock takes at most this many seconds more than in a process that does nothing else."""
CHANNELS = 8
"""The model assumes that the machine's memory moves this many times as much as one core can read and write."""
PROBE = """
#include <time.h>
double woken(long nanoseconds) {
    struct timespec pause = {0, nanoseconds}, now;
    nanosleep(&pause, 0);
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}
"""


# -- the model ---------------------------------------------------------------------------------------------------------


def makespan(pieces: Sequence[float], workers: int) -> float:
    """How long the pieces take if a free thread takes the next one.

    >>> makespan([1, 1, 1], 2), makespan([3, 1, 1, 1], 2), makespan([2], 8)
    (2.0, 3.0, 2.0)
    """
    busy = [0.0] * max(1, min(workers, len(pieces)))
    for piece in pieces:
        heapq.heapreplace(busy, busy[0] + piece)
    return max(busy)


def queueing(held: float, threads: int) -> float:
    """By how much waiting for the lock stretches the work of a thread that holds it in the share ``held`` of its time.

    >>> queueing(0.5, 1), queueing(0.0, 64), round(64 / queueing(0.1, 64), 1)  # 64 threads do the work of ten
    (1.0, 1.0, 10.0)
    """
    cycle, waiting = 1.0, 0.0
    for n in range(1, threads + 1):
        served = held * (
            1 + waiting
        )  # by mean value analysis: a thread that arrives finds the queue that n − 1 threads would make
        cycle = served + (1 - held)
        waiting = n * served / cycle
    return cycle


def modelled(seen: dict[str, Any], threads: int, cores: int, bandwidth: float) -> float:
    """Seconds of a step with this many threads on this many cores; ``seen`` was planned for this many threads."""
    at_once = min(threads, cores)
    team = sum(makespan(pieces, at_once) * queueing(seen["held"], min(at_once, len(pieces))) for pieces in seen["team"])
    team += seen["waking"] * sum(len(pieces) > 1 for pieces in seen["team"]) * (at_once > 1)
    total = seen["alone"] + seen["library"] / at_once + seen["small"] + team
    return max(total, seen["bytes"] / (min(at_once, CHANNELS) * bandwidth))


# -- the measurements --------------------------------------------------------------------------------------------------


class Clocks:
    """Clocks around oneDNN's calls, and around each piece of the team's work, which this thread does alone."""

    def __init__(self) -> None:
        self.library, self.small, self.team, self.inside = 0.0, 0.0, [], False  # type: ignore[var-annotated]

    @contextmanager
    def running(self) -> Iterator[None]:
        from dualnet.backends.cpu import blas, threads
        from dualnet.backends.onednn import dense, plans
        from dualnet.backends.onednn.plans import Plan

        call, alone_below = Plan.__call__, Plan.alone_below

        def one_by_one(items: Any, work: Any, alone: bool = False) -> None:
            pieces: list[float] = []
            self.inside = True
            with blas.held():
                for item in items:
                    begun = time.perf_counter()
                    work(0, item)
                    pieces.append(time.perf_counter() - begun)
            self.inside = False
            self.team.append([sum(pieces)] if alone else pieces)

        def noted(plan: Any, limit: int, work: int) -> None:
            plan.small = work < limit
            alone_below(plan, limit, work)

        def run(plan: Any, *arrays: Any) -> None:
            begun = time.perf_counter()
            call(plan, *arrays)
            took = time.perf_counter() - begun
            if vars(plan).get("small"):
                self.small += took
            else:
                self.library += took

        new: list[tuple[Any, str, Any]] = [(threads, "parallel_for", one_by_one)]
        new += [(Plan, "__call__", run), (Plan, "alone_below", noted)]
        new += [(module, "count", lambda: 1) for module in (plans, dense)]  # oneDNN itself stays on one thread
        before = [(where, name, getattr(where, name)) for where, name, _ in new]
        try:
            for where, name, function in new:
                setattr(where, name, function)
            yield
        finally:
            for where, name, function in before:
                setattr(where, name, function)

    def forget(self) -> None:
        self.library, self.small, self.team = 0.0, 0.0, []


class Probe:
    """A thread that asks for the interpreter's lock now and then, and notes how long it waits."""

    def __init__(self, woken: Any, inside: Callable[[], bool] = lambda: False) -> None:
        self.woken, self.inside, self.over = woken, inside, False
        self.waits: list[tuple[float, bool]] = []
        self.thread = threading.Thread(target=self._ask, daemon=True)

    def _ask(self) -> None:
        pauses = numpy.random.default_rng(0).uniform(0.5, 1.5, 4096) * PERIOD * 1e9
        while not self.over:
            woke = self.woken(
                int(pauses[len(self.waits) % 4096])
            )  # wakes without the lock, and then needs it to continue
            self.waits.append((time.monotonic() - woke, self.inside()))

    def __enter__(self) -> Probe:
        self.thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.over = True
        self.thread.join()

    def waited(self, longer: float, inside: bool = False) -> float:
        """The share of the requests (with ``inside``, of those during the team's work) that waited longer.

        The least of three parts of the time, since another program on the probe's core makes it late too.
        """
        waits = [wait > longer for wait, within in self.waits if within or not inside]
        third = -(-len(waits) // 3) or 1
        parts = [waits[start : start + third] for start in range(0, len(waits), third)]
        return min((sum(part) / len(part) for part in parts), default=0.0)


def probe_function(folder: Path) -> Any:
    """The probe's C function, compiled here."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise SystemExit("cores.py: needs a C compiler to watch the interpreter's lock; CC=... names one")
    source, built = folder / "probe.c", folder / "probe.so"
    source.write_text(PROBE, encoding="utf-8")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", built, source], check=True)
    woken = ctypes.CDLL(str(built)).woken
    woken.argtypes, woken.restype = [ctypes.c_long], ctypes.c_double
    return woken


def traffic(step: Callable[[], Any]) -> dict[str, list[int]]:
    """Calls, and bytes read and written, of each accelerated function in a step: its arguments and its results."""
    seen: dict[str, list[int]] = {}

    def size(value: Any) -> int:
        if isinstance(value, (list, tuple)):
            return sum(map(size, value))
        return value.nbytes if isinstance(value, numpy.ndarray) else 0

    def counted(name: str, kernel: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            result = kernel(*arguments, **options)
            if result is not NotImplemented:
                entry = seen.setdefault(name, [0, 0])
                entry[0] += 1
                entry[1] += size(arguments) + size([*options.values()]) + size(result)
            return result

        call.algorithm = getattr(kernel, "algorithm", "")  # type: ignore[attr-defined]
        return call

    kernels = dn.backend.load("numpy").kernels
    before = dict(kernels)
    try:
        for name, standing_in in before.items():
            several = (standing_in,) if callable(standing_in) else tuple(standing_in)
            kernels[name] = tuple(counted(name, kernel) for kernel in several)
        step()
    finally:
        kernels.update(before)
    return seen


def step_of(net: str, batch: int) -> Callable[[], Any]:
    """A training step as ``dualnet bench`` makes it."""
    task = {**networks.plan(net, 0), "net": net, "batch": batch, "seed": 0, "dtype": "float32", "momentum": 0.0}
    network, x, t = ours.placed(task, *runner.data(task))
    train = ours.training_step(network, task)
    return lambda: train(x, t)


def on_one_core(net: str, batch: int, seconds: float) -> dict[str, Any]:
    """What :func:`modelled` needs, for every number of threads. This process must have been started with one."""
    step, clocks = step_of(net, batch), Clocks()
    step()
    moved = sum(number for _, number in traffic(step).values())
    with tempfile.TemporaryDirectory() as folder:
        woken = probe_function(Path(folder))
        with Probe(woken) as idle:
            time.sleep(0.3)
        free = FREE + sorted(wait for wait, _ in idle.waits)[len(idle.waits) // 2]
        with clocks.running(), Probe(woken, lambda: clocks.inside) as probe:
            runner.timed(step, seconds)
    held = {"whole": probe.waited(free), "held": probe.waited(free, inside=True), "questions": len(probe.waits)}
    by = {n: planned(step, n, seconds) for n in CORES}
    common = {
        key: min(seen[key] for seen in by.values()) for key in ("alone", "library", "small")
    }  # the same for all n
    common |= {"bytes": moved, "held": held["held"], "waking": waking()}
    return {"held": held, "threads": {n: {**seen, **common} for n, seen in by.items()}}


def waking() -> float:
    """Seconds to wake another thread of the team and to get its answer, if there is nothing to do."""
    from dualnet.backends.cpu import threads

    os.environ["DUALNET_THREADS"] = "2"
    times = []
    for _ in range(300):
        begun = time.perf_counter()
        threads.parallel_for((0, 1), lambda worker, item: None)
        times.append(time.perf_counter() - begun)
    os.environ["DUALNET_THREADS"] = "1"
    return sorted(times)[len(times) // 2]


def planned(step: Callable[[], Any], threads: int, seconds: float) -> dict[str, Any]:
    """Several steps by one thread, cut into pieces for this many threads: the best time of each part and each piece."""
    clocks = Clocks()
    found: list[tuple[float, float, float, list[list[float]]]] = []
    os.environ["DUALNET_THREADS"] = str(threads)
    with clocks.running():
        step()
        until = time.perf_counter() + seconds / 4
        while len(found) < 2 or time.perf_counter() < until:
            clocks.forget()
            begun = time.perf_counter()
            step()
            took = time.perf_counter() - begun
            alone = took - clocks.library - clocks.small - sum(map(sum, clocks.team))
            found.append((alone, clocks.library, clocks.small, clocks.team))
    os.environ["DUALNET_THREADS"] = "1"
    team = [
        [min(piece) for piece in zip(*calls, strict=True)] for calls in zip(*(one[3] for one in found), strict=True)
    ]
    alone, library, small = (min(times) for times in zip(*(one[:3] for one in found), strict=True))
    return {"alone": alone, "library": library, "small": small, "team": team}


def bandwidth() -> float:
    """Bytes per second that one core reads and writes when it copies."""
    source, target = numpy.ones(2**25, numpy.float32), numpy.empty(2**25, numpy.float32)
    numpy.copyto(target, source)
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        numpy.copyto(target, source)
        times.append(time.perf_counter() - begun)
    return 2 * source.nbytes / min(times)


# -- the command -------------------------------------------------------------------------------------------------------


def ask(words: Sequence[str], threads: int) -> Any:
    """Run this program in a new process with this many threads, and return what it prints."""
    environment = {**os.environ, "DUALNET_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, timeout=600)
    return json.loads(done.stdout)


def answer(net: str, batch: int, seconds: float, what: str) -> Any:
    """The task of a new process: the time of a step, or everything on one core."""
    if what == "time":
        step = step_of(net, batch)
        for _ in range(3):
            step()
        return min(runner.timed(step, seconds))
    return on_one_core(net, batch, seconds)


def parts_row(name: list[str], parts: dict[str, Any], one: dict[str, Any], many: dict[str, Any]) -> list[str]:
    """Where a step's time on one core goes, and what the probe saw."""

    def share(part: float) -> str:
        return f"{100 * part:.0f} %"

    pieces = sorted(len(call) for call in many["team"])
    shares = [one["alone"] + one["small"], one["library"], sum(map(sum, one["team"]))]
    whole = sum(shares)
    return [
        *name,
        f"{whole * 1e3:.2f}",
        *(share(part / whole) for part in shares),
        str(pieces[len(pieces) // 2]) if pieces else "–",
        share(parts["held"]["whole"]),
        share(parts["held"]["held"]) if pieces else "–",
        f"{one['bytes'] / 1e6:.1f}",
    ]


def tables(options: argparse.Namespace, speed: float) -> Iterator[tuple[str, list[list[str]]]]:
    """Three tables with their titles: the parts, the model, and the model beside the clock."""
    here = len(os.sched_getaffinity(0))
    seen = [["net", "batch", "ms", "alone", "oneDNN", "team", "pieces", "lock", "lock in team", "MB"]]
    model = [["net", "batch", *(f"{n} cores" for n in CORES[1:])]]
    checks = [["net", "batch", *(f"{n} threads" for n in CHECKED)]]
    for net in options.nets:
        for batch in options.batch.split(","):
            words = [net, "--batch", batch, "--seconds", str(options.seconds), "--answer"]
            parts = ask([*words, "parts"], 1)
            by = {int(n): found for n, found in parts["threads"].items()}
            base = modelled(by[1], 1, 1, speed)
            seen.append(parts_row([net, batch], parts, by[1], by[CORES[-1]]))
            model.append([net, batch, *(f"{base / modelled(by[n], n, n, speed):.2f}" for n in CORES[1:])])
            took = {n: ask([*words, "time"], n) for n in (1, *CHECKED)}
            expected = {n: base / modelled(by[n], n, here, speed) for n in CHECKED}
            checks.append([net, batch, *(f"{expected[n]:.2f}, {took[1] / took[n]:.2f}" for n in CHECKED)])
            print(*(line[-1] for line in (seen, model, checks)), sep="\n", file=sys.stderr, flush=True)
    yield "**A step on one core**", seen
    yield "**The model**: how many times as fast as on one core", model
    yield f"**The model and the clock**, with several threads on {here} cores", checks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=["lenet5", "vgg6", "resnet20"])
    parser.add_argument("--batch", default="1,64", metavar="N,...", help="images in a batch (1,64)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="how long to measure each (2)")
    parser.add_argument(
        "--markdown", metavar="FILE[#MARK]", help="write the tables to a file, or between marks in a page"
    )
    parser.add_argument("--answer", choices=("time", "parts"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        print(json.dumps(answer(options.nets[0], int(options.batch), options.seconds, options.answer)))
        return
    speed = bandwidth()
    head = f"Python {sys.version.split()[0]}, {measure.instructions()}, one core copies {speed / 1e9:.1f} GB/s"
    head += "".join(f", {name}={os.environ[name]}" for name in ("DUALNET_ONEDNN",) if name in os.environ)
    blocks = ["\n".join([title, "", *table(lines)]) for title, lines in tables(options, speed)]
    text = "\n\n".join([head, *blocks]) + "\n"
    print(text)
    if options.markdown:
        write(text, options.markdown)


if __name__ == "__main__":
    main()
