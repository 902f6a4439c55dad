"""oneDNN's plans: run again, run by several threads at once, kept and destroyed, and the caller's threads restored."""

from __future__ import annotations

import gc
import threading
import types
from typing import Any

import numpy as np
import pytest
from onednn_tools import SPECIAL, convolved, float32, needs_library, served

from dualnet.backends.cpu import tracing
from dualnet.backends.cpu.recorder import Recorder
from dualnet.backends.onednn import library, plans
from dualnet.geometry import windows
from dualnet.ops.pooling import pool_windows


def network(rng: np.random.Generator) -> Any:
    """Every kernel once, as one list of results."""
    x, w, b, dy, at, _ = convolved(rng, (8, (16, 16), 16, (3, 3), 32, 1, 1, 1, 1))
    left, right, vector = float32(rng, 64, 1024), float32(rng, 1024, 256), np.ones(16, np.float32)
    pool = pool_windows("test", (16, 16), 2)

    def run() -> list[np.ndarray]:
        y, winners = served("max_pool", x, pool)
        return [
            served("correlate", x, w, b, at, relu=True),
            *served("parameter_gradients", x, dy, at, 1, True),
            served("correlate_inputs", dy, w, at),
            y,
            served("max_unpool", y, winners, pool),
            served("avg_unpool", served("avg_pool", x, pool), pool),
            *served("batch_normalise", x, vector, vector, 1e-5, True),
            served("normalise", x, vector, vector, vector, vector, 1e-5),
            *served("normalise_backward", x, x, vector, vector, vector, 1e-5),
            served("channel_sum", dy),
            served("rectify", dy),
            served("rectify_backward", dy, dy),
            served("affine", left, right),
        ]

    return run


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@needs_library
def test_results_are_bit_identical_from_run_to_run(number: str, rng: np.random.Generator) -> None:
    run = network(rng)
    first = run()
    for _ in range(5):
        assert same(first, run())


@needs_library
def test_eight_threads_at_once_get_what_one_gets(number: str, rng: np.random.Generator) -> None:
    run = network(rng)
    expected, wrong, start = run(), [], threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(5):
            if not same(expected, run()):
                wrong.append(threading.get_ident())

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@needs_library
def test_plans_that_are_long_unused_are_destroyed(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "KEPT", 4)
    x, w, b, dy, at, _ = convolved(rng, SPECIAL[2])
    first = served("correlate", x, w, b, at)
    destroyed: list[int] = []
    found = library.library()
    real = found.quick.dnnl_primitive_destroy
    monkeypatch.setattr(found.quick, "dnnl_primitive_destroy", lambda handle: destroyed.append(1) or real(handle))
    for n in range(1, 12):
        served("correlate", float32(rng, n, 5, 5, 3), w, b, windows("test", (5, 5), (3, 3)))
    gc.collect()
    assert len(plans._of_thread.plans) == 4 and len(destroyed) >= 7
    assert np.array_equal(first, served("correlate", x, w, b, at))


@needs_library
def test_the_callers_threads_are_restored(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    found = library.library()
    if found.runtime != "OpenMP":
        pytest.skip("no OpenMP")
    monkeypatch.setenv("DUALNET_THREADS", "1")
    before = found.get_threads()
    found.set_threads(3)
    try:
        network(rng)()
        assert found.get_threads() == 3
    finally:
        found.set_threads(before)


@pytest.mark.parametrize(
    ("codes", "chosen"),
    [
        (["brgconv:avx512_core", "jit:avx2", "jit:avx512_core", "jit:avx512_core", "ref:any"], 2),
        (["brgconv:avx2", "brgconv_1x1:avx2", "jit:sse41", "ref:any"], 0),  # none for the same instructions
    ],
)
def test_the_direct_code_is_that_of_the_same_instructions(codes: list[str], chosen: int) -> None:
    class Listing(plans.Plan):
        """A library that has these codes for a primitive, in this order."""

        def __init__(self) -> None:
            self.library = types.SimpleNamespace(
                engine=None, slow=types.SimpleNamespace(dnnl_primitive_desc_next_impl=self.next)
            )

        def made(self, kind: str, *arguments: Any) -> Any:
            return [0]

        def next(self, place: list[int]) -> bool:
            place[0] += 1
            return place[0] == len(codes)

        def _implementation(self, place: Any) -> str:
            return codes[place[0]]

    descriptor, words = Listing()._as_it_stands([0], codes[0], "convolution_forward", ())  # type: ignore[arg-type]
    assert (descriptor, words) == ([chosen], codes[chosen])


def test_addresses_are_those_of_the_array_interface(rng: np.random.Generator) -> None:
    whole = float32(rng, 7, 9)
    mapped = np.frombuffer(bytearray(40), np.float32)
    for array in (whole, whole[2:], whole[::-1], whole.T, whole[1:1], mapped, np.asarray(1.0)):
        assert plans.address(array) == plans._by_interface(array) == array.ctypes.data


@needs_library
def test_a_shape_that_is_refused_is_refused_only_once(rng: np.random.Generator) -> None:
    asked: list[int] = []

    def build(plan: plans.Plan, size: int) -> None:
        asked.append(size)
        raise library.Refused("not this one")

    assert plans.plan(build, 3) is plans.plan(build, 3) is None and plans.plan(build, 4) is None
    assert asked == [3, 4]


def test_where_windows_stand_as_the_library_counts_it() -> None:
    at = windows("test", (9, 8), (3, 2), stride=(1, 2), padding=((1, 2), (0, 3)), dilation=(2, 1))
    assert [list(pair) for pair in plans.placement(at)] == [[1, 2], [1, 0], [1, 0], [2, 3]]


@needs_library
def test_all_plans_work_in_one_piece_of_memory(rng: np.random.Generator) -> None:
    """Filters in the library's order and scratchpads are needed while a plan runs. Larger plans get more of it."""
    plans._of_thread.let_go()
    sizes = (16, 128, 32)
    shapes = [convolved(rng, (2, (8, 8), 32, (3, 3), D, 1, 1, 1, 1)) for D in sizes]
    first = [served("correlate", x, w, b, at) for x, w, b, _, at, _ in shapes]
    deltas = [served("correlate_inputs", dy, w, at) for _, w, _, dy, at, _ in shapes]
    kept = [plan for plan in plans._of_thread.plans.values() if plan is not None]
    needs = [plan._scratch_bytes + plan._buffer_bytes for plan in kept]
    assert len(kept) == 2 * len(sizes) and any(plan._buffers for plan in kept)
    assert max(needs) <= plans._of_thread.memory.size < max(needs) + 8192 < sum(needs)
    for (x, w, b, dy, at, _), y, dx in zip(shapes, first, deltas):
        assert (served("correlate", x, w, b, at) == y).all() and (served("correlate_inputs", dy, w, at) == dx).all()


@needs_library
def test_a_recorded_step_makes_no_primitives_anew(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes those of the thread's plans, and lives on when they are let go."""
    x, w, b, dy, at, _ = convolved(rng, (2, (8, 8), 32, (3, 3), 32, 1, 1, 1, 1))

    def step() -> Any:
        return served("correlate", x, w, b, at), served("correlate_inputs", dy, w, at)

    expected, one, made = step(), Recorder(), []
    ours = library.Library.made
    monkeypatch.setattr(library.Library, "made", lambda self, kind, *rest: made.append(kind) or ours(self, kind, *rest))
    one.record(step)
    assert set(made) == {"memory", "stream"}
    plans._of_thread.let_go()
    gc.collect()
    one.arena.spoil()
    assert one.launch() and same(list(one.outputs), list(expected))


@needs_library
def test_a_plan_keeps_nothing_that_only_building_needs(rng: np.random.Generator) -> None:
    x, w, b, _, at, _ = convolved(rng, (2, (8, 8), 32, (3, 3), 32, 1, 1, 1, 1))
    plans._of_thread.let_go()
    served("correlate", x, w, b, at)
    (plan,) = plans._of_thread.plans.values()
    assert plan is not None
    assert {destroy.__name__ for destroy, _ in plan._handles} == {"dnnl_memory_destroy", "dnnl_primitive_destroy"}


@needs_library
@pytest.mark.parametrize("rows", [2, 256])
def test_only_a_whole_result_is_written_where_it_lasts(rng: np.random.Generator, rows: int) -> None:
    """A primitive writes 256 rows: two of them have no room for that."""
    x, room = float32(rng, 256, 256), np.full((256, 256), 7, np.float32)
    last = room[:rows]
    one = Recorder()

    def step() -> np.ndarray:
        y = served("rectify", tracing.watched(x))
        np.copyto(tracing.watched(last), y[:rows])
        return tracing.watched(x)[0] * 1.0

    one.record(step)
    assert one.launch()
    np.testing.assert_array_equal(last, np.maximum(x, 0)[:rows])
    assert (room[rows:] == 7).all()


@needs_library
def test_a_convolution_does_not_write_what_it_reads(rng: np.random.Generator) -> None:
    _, w, b, _, at, _ = convolved(rng, (8, (16, 16), 16, (3, 3), 16, 1, 1, 1, 1))
    last = float32(rng, 8, 16, 16, 16)
    expected = served("correlate", last, w, b, at)
    assert expected.shape == last.shape
    one = Recorder()

    def step() -> np.ndarray:
        seen = tracing.watched(last)
        np.copyto(seen, served("correlate", seen, w, b, at))
        return tracing.watched(b) * 1.0

    one.record(step)
    assert one.launch()
    assert last.tobytes() == expected.tobytes()
