"""One measurement in its own process: it reads the task from stdin as JSON, and writes the answer as one line of
JSON.

It needs NumPy and the library to measure, but not dualnet, so that another Python can run it.
The task says which library to import and which script builds the step. The script has

    facts(task) -> dict                     versions, threads, BLAS
    build(task, x, t, weights) -> run, value
        run()            one step, complete when it returns, unless the script has ``waiting``
        value(result)    what ``run`` returned, as a NumPy array: a loss in training, an output in inference

and may have ``waiting(task) -> wait`` (then ``run`` only queues the step on a device, and ``wait()`` waits for it),
``after(task) -> dict`` (what to report at the end) and ``layers(task, x, t, weights) -> dict``.

A task with ``stay`` gets several answers: one when the step is built, and one for each further line of input, the
result of another round. The end of the input ends the process.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

Answer = dict  # as JSON
BURST = 0.05  # seconds


def main() -> None:
    """Read the task, measure, and write the answer."""
    task = json.loads(sys.stdin.readline())
    if not task.get("stay"):
        sys.stdout.write("\n" + json.dumps(measure(task), default=str) + "\n")
        return
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # so that nothing that a library prints looks like an answer
    for answer in rounds(task):
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


def rounds(task: dict) -> Iterator[Answer]:
    """Build once, and measure for each line of input."""
    answer, library = imported(task)
    if library is None:
        yield answer
        return
    script = load(task["script"])
    answer["facts"] = script.facts(task)
    try:
        run, value = script.build(task, *data(task), weights(task))
        values = [size(value(run())) for _ in range(task["checked"])]
    except NotImplementedError as error:
        yield {"skipped": str(error)}
        return
    wait = script.waiting(task) if hasattr(script, "waiting") else lambda: None
    yield {**answer, "values": values}
    while sys.stdin.readline():
        times = times_of(bursts(run, wait, task["seconds"])) | {"peak_bytes": None, "above_imports_bytes": None}
        yield times | (script.after(task) if hasattr(script, "after") else {})


def measure(task: dict) -> Answer:
    """The answer to a task: import time and facts, and for ``task["measure"]`` "step" or "layers" the measurement."""
    answer, library = imported(task)
    if library is None:
        return answer
    script = load(task["script"])
    answer["facts"] = script.facts(task)
    if task["measure"] == "step":
        answer.update(step(task, script))
    elif task["measure"] == "layers":
        answer["layers"] = script.layers(task, *data(task), weights(task))
    answer.update(script.after(task) if hasattr(script, "after") else {})
    return answer


def imported(task: dict) -> tuple[Answer, Any]:
    """Versions and import times, and the library, or None if it cannot be imported."""
    begun = time.perf_counter()
    import numpy

    middle = time.perf_counter()
    try:
        library = importlib.import_module(task["library"])
    except Exception as error:  # an old library on a new NumPy may raise anything
        return {"skipped": f"{task['library']} cannot be imported ({type(error).__name__}: {error})"}, None
    ended = time.perf_counter()
    answer: Answer = {
        "version": version_of(library),
        "python": sys.version.split()[0],
        "numpy": numpy.__version__,
        "numpy_import_ms": (middle - begun) * 1e3,
        "import_ms": (ended - middle) * 1e3,
    }
    return answer, library


def version_of(library: Any) -> str:
    """The version that the library reports or, without one, that of the installed package."""
    if hasattr(library, "__version__"):
        return str(library.__version__)
    from importlib import metadata  # not at the top: its import time belongs to the library's

    try:
        return metadata.version(library.__name__)
    except metadata.PackageNotFoundError:
        return "unknown"


def load(path: str) -> Any:
    """The script that builds the step."""
    spec = importlib.util.spec_from_file_location("measured", path)
    script = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(script)
    return script


def step(task: dict, script: Any) -> Answer:
    """Times of a step in ms, its peak memory in bytes, and the results of the first runs.

    A tiny network runs first, since libraries import modules, start threads and load code at the first call, which is
    not part of a step. Memory counts from there, without code that is loaded later, and freed memory does not count:
    PyTorch's tiny network leaves more of it than a step of LeNet-5 takes.
    """
    after_imports = resident()
    try:
        rehearse(task, script)
        give_back()
        before, code_before = resident(), code()
        run, value = script.build(task, *data(task), weights(task))
        values = [size(value(run())) for _ in range(task["checked"])]  # also the warm-up
        for _ in range(2 if task.get("variant") == "captured" else 0):
            run()  # records and checks; the memory for that is not part of a step
    except NotImplementedError as error:
        return {"skipped": str(error)}
    wait = script.waiting(task) if hasattr(script, "waiting") else None
    give_back()
    forget_peak()
    times = timed(run if wait is None else lambda: (run(), wait()), task["seconds"])
    peak, loaded = resident(peak=True), code() - code_before
    return {
        **times_of(times),
        "peak_bytes": None if peak is None or before is None else max(0, peak - before - loaded),
        "above_imports_bytes": None if peak is None or after_imports is None else max(0, peak - after_imports),
        "values": values,
    }


def times_of(times: list[float]) -> Answer:
    """The best and the median time in ms, and the number of runs."""
    return {"min_ms": min(times) * 1e3, "median_ms": sorted(times)[len(times) // 2] * 1e3, "runs": len(times)}


def rehearse(task: dict, script: Any) -> None:
    """Steps of the tiny network in the task: two, and where steps are captured those that are recorded and checked."""
    tiny = {**task, **task["rehearsal"]}
    run, value = script.build(tiny, *data(tiny), weights(tiny))
    for _ in range(2 + (3 if task.get("variant") == "captured" else 0)):
        value(run())
    del run, value


def timed(run: Any, seconds: float) -> list[float]:
    """Seconds of each run: as many as fit, at least three (one, if three take more than four times as long)."""
    times: list[float] = []
    begun = time.perf_counter()
    while True:
        a = time.perf_counter()
        run()
        b = time.perf_counter()
        times.append(b - a)
        if b - begun >= seconds and (len(times) >= 3 or b - begun >= 4 * seconds):
            return times


def bursts(run: Any, wait: Any, seconds: float) -> list[float]:
    """Seconds of a step, measured in bursts so long that the wait for the device at their end hardly counts."""
    several = 1
    while True:
        took = burst(run, wait, several)
        if took >= BURST or several >= 4096:
            break
        several = min(4096, max(several + 1, round(1.2 * several * BURST / max(took, BURST / 50))))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        times.append(burst(run, wait, several) / several)
    return times


def burst(run: Any, wait: Any, several: int) -> float:
    """Seconds of ``several`` runs in a row."""
    wait()
    begun = time.perf_counter()
    for _ in range(several):
        run()
    wait()
    return time.perf_counter() - begun


def size(array: Any) -> float:
    """One number by which to compare two programs: the mean of all magnitudes."""
    import numpy

    return float(numpy.mean(numpy.abs(array), dtype="float64"))


# -- the input ------------------------------------------------------------------------------------------------------


def data(task: dict) -> tuple[Any, Any]:
    """x (N, H, W, C) or (N, K) float32, and t: classes (N,) or, for squared errors, the wanted outputs."""
    import numpy

    rng = numpy.random.default_rng(task["seed"])
    x = rng.standard_normal((task["batch"], *task["input_shape"]), dtype="float32")
    if task["loss"] == "softmax_cross_entropy":
        return x, rng.integers(0, task["output_shape"][0], task["batch"])
    return x, rng.standard_normal((task["batch"], *task["output_shape"]), dtype="float32")


def weights(task: dict) -> dict[str, Any]:
    """The network's state by name, in dualnet's layout; {} for a task without weights."""
    import numpy

    if not task.get("weights"):
        return {}
    with numpy.load(task["weights"], allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


# -- memory ------------------------------------------------------------------------------------------------------------


def resident(peak: bool = False) -> int | None:
    """Bytes of this process in memory, now or at the peak; None if the system does not report them.

    Linux reports both. Elsewhere only the peak since the start is known, and is returned for both. (On Linux that
    number, ``ru_maxrss``, would be wrong: a child starts with its parent's.)
    """
    reported = status().get("VmHWM" if peak else "VmRSS")
    if reported is not None:
        return reported
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def code() -> int:
    """Bytes of files in memory, mostly programs and libraries; 0 if the system does not report them."""
    return status().get("RssFile", 0)


def status() -> dict[str, int]:
    """What Linux reports about this process's memory, in bytes."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    return {words[0][:-1]: int(words[1]) * 1024 for words in lines if words[-1] == "kB"}


def give_back() -> None:
    """Return freed memory to the system: a step that uses what a library has kept of it would seem to need nothing."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another system's library
        pass


def forget_peak() -> None:
    """Reset the peak, so that compiling and warming up do not count (Linux only)."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as control:
            control.write("5")
    except OSError:
        pass


if __name__ == "__main__":
    main()
