"""Give dualnet very many odd files and arguments, and check that it raises the errors that it documents.

    python tools/fuzz.py                             100,000 inputs of each kind, a process for each core
    python tools/fuzz.py --only npz,npy --seed 3     different ones, of two kinds
    python tools/fuzz.py --seconds 600               as many as fit in ten minutes
    python tools/fuzz.py --only npy --first 4711 --inputs 1 --seed 0      one of them again

Whatever the input, there must be an answer or the documented error, in one line that names the file, within 0.3 s of
processor time and 64 MB of memory. An input that breaks this rule is saved in a file, and the exit code is 1.

The inputs are those of tests/strangers.py. Kind, seed and number make an input the same on every machine. An answer to
one of the zoo's exercises is code, and is run: it may take longer, but must still be judged.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    for library in ("OMP", "OPENBLAS", "MKL"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")  # before NumPy: there are enough processes already
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy  # noqa: E402
import strangers  # noqa: E402

import dualnet as dn  # noqa: E402
from dualnet import cli  # noqa: E402
from dualnet.data import DataError  # noqa: E402
from dualnet.data.reading import read_npy  # noqa: E402
from dualnet.zoo.exercise import read as read_answer  # noqa: E402

SECONDS, SECONDS_OF_CODE = 0.3, 30.0
MEGABYTES = 64
HANGS = 60
CHUNK = 500
KEPT = 3
M_MMAP_THRESHOLD = -3


class Wrong(Exception):
    """An input that was not answered as documented."""


# -- the kinds ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How inputs are drawn, and how one is judged: ``judge(content, folder)`` returns the outcome."""

    draw: Callable[[numpy.random.Generator], bytes]
    judge: Callable[[bytes, Path], str]
    seconds: float = SECONDS
    megabytes: float = MEGABYTES
    chunk: int = CHUNK


def refusing(name: str, error: type[Exception], read: Callable[[Path], Any]) -> Callable[[bytes, Path], str]:
    """A judge of files: each must be read, or raise this error in one line that names the file."""

    def judge(content: bytes, folder: Path) -> str:
        path = folder / name
        path.write_bytes(content)
        try:
            read(path)
        except error as refused:
            told = str(refused)
            if str(path) not in told or len(told.splitlines()) != 1:
                raise Wrong(f"the message does not name the file in one line: {told[:500]!r}") from refused
            return "refused"
        return "read"

    return judge


def _whole_npy(path: Path) -> None:
    images = read_npy(path)
    images.sum()  # every promised byte must be there


def _cifar(path: Path) -> None:
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        if not (path.parent / name).exists():
            (path.parent / name).write_bytes(bytes(3073))
    dn.data.load_cifar10(path.parent)


def _network(path: Path) -> None:
    with path.open("rb") as file:
        remembered = b"optimizer" in file.read()
    try:
        dn.load(path, optimizer=dn.Adam(1e-3) if remembered else None)
    except dn.CheckpointError:
        raise
    except ValueError as error:  # a good file that was saved without an optimizer
        if "holds no optimizer's state" not in str(error):
            raise


def _answer(content: bytes, folder: Path) -> str:
    name = re.match(rb"# ([\w-]+)\n", content)
    exercise = dn.zoo.show(name[1].decode() if name else "averaged-bias")
    path = folder / "answer.py"
    path.write_bytes(content)
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            report = dn.zoo.grade(exercise.name, read_answer(path, exercise.op.__name__))
            str(report)
        except ValueError as error:
            if str(path) not in str(error):
                raise Wrong(f"the message does not name the file: {error}") from error
            return "refused"
    return "passed" if report.passed else "wrong"


def _command(content: bytes, folder: Path) -> str:
    """The command line with the words in ``content``, each on a line of its own."""
    words = content.decode("utf-8", "surrogateescape").split("\n")
    out, error = io.StringIO(), io.StringIO()
    before = os.getcwd()
    rng = numpy.random.default_rng(list(content))
    for name, draw in strangers.FILES.items():
        (folder / name).write_bytes(draw(rng))
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error), dn.use_backend("numpy"):
            try:
                code = cli.main(words)
            except SystemExit as ending:
                code = ending.code
    finally:
        os.chdir(before)
        dn.set_backend("numpy")
    if code not in (0, 1, 2, None) or "Traceback" in error.getvalue():
        raise Wrong(f"exit code {code}: {error.getvalue()[-500:]}")
    if code == 2 and not error.getvalue().strip():
        raise Wrong("exit code 2 without a message")
    return f"exit code {code or 0}"


def kinds() -> dict[str, Kind]:
    """All kinds whose libraries are installed."""
    found = {
        "npz": Kind(strangers.models(".npz"), refusing("model.npz", dn.CheckpointError, _network)),
        "safetensors": Kind(
            strangers.models(".safetensors"), refusing("model.safetensors", dn.CheckpointError, _network)
        ),
        "npy": Kind(strangers.npys, refusing("x.npy", DataError, _whole_npy)),
        "idx": Kind(strangers.idxs, refusing("x-idx", DataError, lambda path: dn.data.read_idx(path))),
        "cifar": Kind(strangers.cifars, refusing("data_batch_3.bin", DataError, _cifar)),
        "image": Kind(strangers.images, refusing("image", DataError, lambda path: dn.data.read_image(path, 8))),
        "zoo": Kind(strangers.answers, _answer, SECONDS_OF_CODE, 512, chunk=20),
        "cli": Kind(strangers.commands, _command, SECONDS_OF_CODE, 512, chunk=50),
    }
    lacking = {"safetensors": not strangers.HAS_SAFETENSORS, "image": not strangers.HAS_PILLOW}
    return {name: kind for name, kind in found.items() if not lacking.get(name)}


# -- one input ---------------------------------------------------------------------------------------------------------


@dataclass
class Failure:
    """An input that was not answered as documented."""

    kind: str
    number: int
    reason: str
    content: bytes = b""

    @property
    def group(self) -> str:
        """A key that failures with one cause share."""
        return re.sub(r"\d+", "N", self.reason.strip().splitlines()[-1])[:120]


@dataclass
class Tally:
    """The outcomes of the inputs of one kind."""

    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    worst: float = 0.0
    most: float = 0.0
    busy: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.inputs, self.busy = self.inputs + other.inputs, self.busy + other.busy
        self.outcomes += other.outcomes
        self.worst, self.most = max(self.worst, other.worst), max(self.most, other.most)
        self.failures += other.failures


def drawn(kind: Kind, name: str, seed: int, number: int) -> bytes:
    """Input ``number`` of a kind: the same for the same seed."""
    return kind.draw(numpy.random.default_rng([seed, *name.encode(), number]))


def judged(kind: Kind, content: bytes, folder: Path) -> tuple[str, float]:
    """The outcome of an input, and the seconds of processor time that it took."""
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = kind.judge(content, folder)
    seconds = time.process_time() - start
    if seconds > kind.seconds:
        raise Wrong(f"{seconds:.2f} s; at most {kind.seconds} are allowed")
    return outcome, seconds


def peak() -> float:
    """The most megabytes that this process ever had."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def needed(kind: Kind, content: bytes, folder: Path) -> float:
    """How many megabytes an input takes. On Linux it is judged again, after the peak has been reset."""
    try:
        _begin_peak_anew()
        before = _peak_on_linux()
        with contextlib.suppress(Exception, SystemExit):
            judged(kind, content, folder)
        return _peak_on_linux() - before
    except OSError:
        return float("inf")


def _begin_peak_anew() -> None:
    """On Linux; elsewhere an ``OSError``."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_on_linux() -> float:
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text(encoding="utf-8", errors="replace"))
    return int(found[1]) / 1024 if found else 0.0


def run_chunk(name: str, seed: int, first: int, count: int, folder: Path, current: Any) -> Tally:
    """Judge inputs ``first`` … ``first + count − 1`` in this process; ``current.value`` is the current one."""
    kind, tally = kinds()[name], Tally()
    with contextlib.suppress(Exception, SystemExit):  # imports on first use must not count for an input
        judged(kind, drawn(kind, name, seed, first), folder)
    with contextlib.suppress(OSError):
        _begin_peak_anew()  # the peak from before the fork says nothing about these inputs
    floor = reached = peak()
    for number in range(first, first + count):
        content = drawn(kind, name, seed, number)
        current.value = number  # in case this process dies
        tally.inputs += 1
        signal.alarm(HANGS)
        start = time.perf_counter()
        try:
            outcome, seconds = judged(kind, content, folder)
            tally.worst = max(tally.worst, seconds)
            if (
                peak() > max(reached, floor + kind.megabytes)
                and (most := needed(kind, content, folder)) > kind.megabytes
            ):
                raise Wrong(f"{most:.0f} MB; at most {kind.megabytes} are allowed")
            tally.outcomes[outcome] += 1
        except (Exception, SystemExit, GeneratorExit) as error:
            tally.outcomes["FAILED"] += 1
            reason = "".join(traceback.format_exception(error))
            tally.failures.append(Failure(name, number, reason, content))
        tally.busy += time.perf_counter() - start
        reached = peak()
    tally.most = reached - floor
    return tally


# -- many inputs, in processes that may die ----------------------------------------------------------------------------


def _work(pipe: Any, task: tuple[str, int, int, int], folder: Path, current: Any) -> None:
    os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), 2)  # image libraries write to it
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # so that a process that hangs is ended
    with contextlib.suppress(AttributeError):  # otherwise glibc keeps freed memory, which would not be counted again
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**20)
        library.malloc_trim(0)
    pipe.send(run_chunk(*task, folder, current))


def tallies(tasks: Iterator[tuple[str, int, int, int]], processes: int) -> Iterator[tuple[str, Tally]]:
    """Run the tasks (kind, seed, first, count), each in a process of its own, and yield their results."""
    context, running = multiprocessing.get_context("fork"), []
    # In memory, if there is such a folder: a disk takes milliseconds to rewrite a file.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="dualnet-fuzz-", dir=place) as base:
        for number, task in enumerate(tasks):
            folder, current = Path(base) / str(number), context.Value("q", task[2])
            folder.mkdir()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(theirs, task, folder, current))
            process.start()
            theirs.close()
            running.append((process, ours, task, folder, current))
            while len(running) >= processes:
                yield _ended(running)
        while running:
            yield _ended(running)


def _ended(running: list) -> tuple[str, Tally]:
    """The result of the process that ends first."""
    ready = connection.wait([pipe for _, pipe, *_ in running])
    index = next(i for i, (_, pipe, *_) in enumerate(running) if pipe in ready)
    process, pipe, (name, seed, first, _), folder, current = running.pop(index)
    try:
        tally = pipe.recv()
    except EOFError:
        process.join()
        told = (folder / "stderr").read_bytes()[-2000:].decode(errors="replace") if (folder / "stderr").exists() else ""
        end = f"{told}\nthe process ended with {process.exitcode}; the rest of its inputs were not tried"
        end = f"no answer in {HANGS} s" if process.exitcode == -signal.SIGALRM else end
        number = current.value
        failure = Failure(name, number, end, drawn(kinds()[name], name, seed, number))
        tally = Tally(number - first + 1, Counter(FAILED=1), failures=[failure])
    process.join()
    shutil.rmtree(folder, ignore_errors=True)
    return name, tally


def tasks(names: list[str], inputs: int, seed: int, first: int, seconds: float) -> Iterator[tuple[str, int, int, int]]:
    """The work in pieces, with the kinds in turn, until everything is done or the time is up."""
    end, known, begun = time.monotonic() + seconds, kinds(), dict.fromkeys(names, first)
    while time.monotonic() < end and any(begun[name] < first + inputs for name in names):
        for name in names:
            count = min(known[name].chunk, first + inputs - begun[name])
            if count > 0:
                yield name, seed, begun[name], count
                begun[name] += count


# -- the report --------------------------------------------------------------------------------------------------------


def report(found: dict[str, Tally], out: Path, seed: int, seconds: float) -> int:
    """Print the outcomes, save the inputs that failed, and return the exit code."""
    print(f"{'kind':<12}{'inputs':>9}{'per s':>8}{'worst s':>9}{'most MB':>9}{'failed':>8}  outcomes")
    for name, tally in found.items():
        outcomes = ", ".join(f"{word} {n:,}" for word, n in sorted(tally.outcomes.items()) if word != "FAILED")
        rate = tally.inputs / tally.busy if tally.busy else 0
        numbers = f"{tally.inputs:>9,}{rate:>8,.0f}{tally.worst:>9.3f}{tally.most:>9.1f}{tally.outcomes['FAILED']:>8,}"
        print(f"{name:<12}{numbers}  {outcomes}")
    total, failures = sum(tally.inputs for tally in found.values()), [f for t in found.values() for f in t.failures]
    print(f"\n{total:,} inputs in {seconds:,.0f} s; {len(failures):,} were not answered as documented")
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.kind, failure.group), []).append(failure)
    for (kind, group), members in groups.items():
        out.mkdir(parents=True, exist_ok=True)
        print(f"\n{kind}, {len(members)} times: {group}")
        for failure in members[:KEPT]:
            path = out / f"{kind}-{failure.number}"
            path.write_bytes(failure.content)
            path.with_name(f"{path.name}.txt").write_text(failure.reason, "utf-8", errors="backslashreplace")
            print(f"  {path}  (--only {kind} --first {failure.number} --inputs 1 --seed {seed})")
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Run the command, and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = kinds()
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="of each kind (100,000)")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="the number of the first one (0)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="a different seed gives different inputs (0)")
    parser.add_argument("--only", default=",".join(known), metavar="KIND,...", help=f"of {', '.join(known)}")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="S", help="begin nothing more after S")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="at a time (the cores)")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"), help="the folder for inputs that failed")
    options = parser.parse_args(argv)
    names = options.only.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown kind {unknown[0]!r}; the kinds are {', '.join(known)}")
    found, start = {name: Tally() for name in names}, time.monotonic()
    work = tasks(names, options.inputs, options.seed, options.first, options.seconds)
    for name, tally in tallies(work, max(1, options.processes)):
        found[name].add(tally)
    return report(found, options.out, options.seed, time.monotonic() - start)


if __name__ == "__main__":
    sys.exit(main())
