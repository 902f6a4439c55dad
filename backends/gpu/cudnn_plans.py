"""Plans: one convolution of cuDNN for one shape, chosen once among its proposals, ready to run again.

cuDNN gets the layout of each array in memory: (N, H, W, C) for feature maps, (D, k1, k2, C/g) for filter banks, which
are transposed first. It would accept the strides of (k1, k2, C/g, D), but then it makes the same plans as for (D, k1,
k2, C/g), without any memory in which it could transpose the bank itself.

Which plan: when a shape is first seen, the plans that cuDNN's heuristics propose are timed, and so is the kernel that
would run without cuDNN. ``DUALNET_CUDNN_AUTOTUNE=0`` takes the first proposal. The choice holds for the process, on all
threads, and with a file for later processes too (see ``cudnn_choices``); each thread has plans of its own.

Some plans are never chosen: those that may give different bits from run to run; those that compute by transforms
(Winograd, FFT) or add up in less than float32, because their errors are not those of a sum of products; in strict
float32, those that round their factors to TF32; and those whose ReLU turns NaN into 0. That last point is tested, since
cuDNN promises nothing about it.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from dualnet.geometry import Windows
from dualnet.shim import Array
from dualnet.shim.process import lock

from . import cudnn_choices, cudnn_library
from .graph import lasting

KEPT = 1024
"""Each thread keeps this many plans; a new one replaces the least recently used."""
WORKSPACE = 2**30
"""Plans that need a larger workspace, in bytes, are passed over."""
CANDIDATES, PATIENCE = 12, 2.0
"""At most this many proposals are timed, and none is built after 2 s (some are compiled first)."""
ROUNDS, REPEATS = 3, 5
FILLING, FILLINGS, MOST_FILLINGS = 2**27, 16, 512
"""Zeros written to keep the device busy until all timed calls are queued: bytes at a time, and how often."""
CLOSE = 1.03
"""Of the plans within 3 % of the fastest, the first is chosen, so that the choice depends less on chance."""
NEVER = ("NONDETERMINISTIC", "WINOGRAD", "FFT", "REDUCED_PRECISION_REDUCTION")
IN_FULL = ("TENSOR_CORE", "DOWN_CONVERT_INPUTS")
"""Left out in strict float32 as well: tensor cores round its factors to TF32."""
DTYPES = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}
FORWARD, INPUTS, FILTERS = "forward", "inputs", "filters"


class Shape(NamedTuple):
    """Everything that a plan depends on. ``way`` is the sum: FORWARD (E4), INPUTS (E13) or FILTERS (E11)."""

    way: str
    N: int
    C: int
    D: int
    groups: int
    at: Windows
    dtype: str
    tf32: bool = False
    biased: bool = False
    relu: bool = False


class Plan:
    """``plan(xp, x, w, y)``: inputs in the order of E4 (x, bank, bias), E13 (dy, bank) or E11 (x, dy), then the output.

    The arrays must be contiguous, aligned to 16 bytes, and of the planned shapes and dtypes: nothing is checked here.
    """

    def __init__(self, graph: Any, shape: Shape, place: int, size: int, handle: cudnn_library.Handle) -> None:
        self.graph, self.shape, self.place, self.bytes, self.handle = graph, shape, place, size, handle

    def __call__(self, xp: Any, *arrays: Array) -> None:
        stream = xp.cuda.get_current_stream()
        workspace = self.handle.workspace(xp, stream.ptr, self.bytes)
        if stream.is_capturing():
            cudnn_library.keep(self, self.handle, workspace)
        addresses = {number: array.data.ptr for number, array in enumerate(arrays, 1)}
        self.graph.execute_plan_at_index(addresses, workspace.data.ptr, self.place, self.handle.on(stream.ptr))


# -- describing a convolution to cuDNN ---------------------------------------------------------------------------------


def graph(cudnn: Any, shape: Shape, **where: Any) -> Any:
    """The shape as a cuDNN graph with its proposed plans. Those that may not be chosen are deselected and cannot be
    built.

    ``where`` is handle=..., or the profile of a device.
    """
    io, at = getattr(cudnn.data_type, DTYPES[shape.dtype]), shape.at
    wide = cudnn.data_type.FLOAT
    made = cudnn.pygraph(io_data_type=io, intermediate_data_type=wide, compute_data_type=wide, **where)
    (top, bottom), (left, right) = at.reach
    places = {
        "pre_padding": [top, left],
        "post_padding": [bottom, right],
        "stride": list(at.stride),
        "dilation": list(at.dilation),
    }
    maps, results = _map(shape.N, *at.size, shape.C), _map(shape.N, *at.grid, shape.D)
    bank = _map(shape.D, *at.window, shape.C // shape.groups)  # (D, k1, k2, C/g), described like a map

    def tensor(number: int, described: tuple[list[int], list[int]]) -> Any:
        return made.tensor(dim=described[0], stride=described[1], data_type=io, name=f"t{number}", uid=number)

    if shape.way == FORWARD:
        y, described, number = made.conv_fprop(image=tensor(1, maps), weight=tensor(2, bank), **places), results, 3
        if shape.biased:
            y, number = made.bias(input=y, bias=tensor(3, _map(1, 1, 1, shape.D))), 4
        if shape.relu:
            y = made.relu(input=y)
    elif shape.way == INPUTS:
        y, described, number = made.conv_dgrad(loss=tensor(1, results), filter=tensor(2, bank), **places), maps, 3
    else:
        y, described, number = made.conv_wgrad(image=tensor(1, maps), loss=tensor(2, results), **places), bank, 3
    y.set_output(True).set_data_type(io).set_dim(described[0]).set_stride(described[1]).set_uid(number)
    made.validate()
    made.build_operation_graph()
    made.create_execution_plans([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    notes = (*NEVER, *(IN_FULL if shape.dtype == "float32" and not shape.tf32 else ()))
    made.deselect_numeric_notes([getattr(cudnn.numerical_note, note) for note in notes])
    return made


def _map(N: int, H: int, W: int, C: int) -> tuple[list[int], list[int]]:
    """Dims and strides of (N, H, W, C) in memory; cuDNN orders dims as N, C, H, W."""
    return [N, C, H, W], [H * W * C, 1, W * C, C]


class Proposed(NamedTuple):
    """A plan's index in its graph, its name, and the bytes of workspace that it needs."""

    place: int
    name: str
    bytes: int


def proposals(cudnn: Any, shape: Shape, most: int = CANDIDATES, **where: Any) -> tuple[Any, list[Proposed]]:
    """A shape's graph, and the first plans in it that this device can run and that may be chosen."""
    made = graph(cudnn, shape, **where)
    found: list[Proposed] = []
    end = time.monotonic() + PATIENCE
    for place in range(made.get_execution_plan_count()):
        if len(found) == most or found and time.monotonic() > end:
            break
        try:
            made.build_plan_at_index(place)
        except Exception:  # deselected, or this device cannot run it after all
            continue
        size = int(made.get_workspace_size_plan_at_index(place))
        if size <= WORKSPACE:
            found.append(Proposed(place, made.get_plan_name_at_index(place), size))
    return made, found


def chosen_alone(cudnn: Any, shape: Shape, proposed: Proposed, **where: Any) -> Any:
    """The graph with only this plan built. Raises ``RuntimeError`` if another plan has its index."""
    made = graph(cudnn, shape, **where)
    if made.get_plan_name_at_index(proposed.place) != proposed.name:
        raise RuntimeError(f"cuDNN no longer proposes {proposed.name} for {_words(shape)}")
    made.build_plan_at_index(proposed.place)
    return made


# -- which plan --------------------------------------------------------------------------------------------------------


class _Kept(threading.local):
    def __init__(self) -> None:
        self.plans: OrderedDict[Any, Plan | None] = OrderedDict()


Choice = tuple[Shape, Proposed]

_of_thread = _Kept()
_choices: dict[Any, Choice | None] = {}
_tuning = lock(again=True)
reasons: dict[Shape, str] = {}
"""Why cuDNN does not compute these shapes."""

Compute = Callable[..., Array]


def chosen(xp: Any, shapes: tuple[Shape, ...], compute: Compute, rival: Callable[[], Any]) -> Plan | None:
    """The plan for one of these shapes, which are different ways to the same result; None leaves it to other kernels.

    ``compute(plan)`` computes with a plan, ``compute(plan, spoilt=True)`` with a bias of NaN, and ``rival()`` without
    cuDNN. They run only to choose, when the process first sees the shape. Raises ``RuntimeError`` if this thread has no
    plan yet while its stream is captured.
    """
    cudnn = cudnn_library.library()
    if cudnn is None:
        return None
    device = xp.cuda.runtime.getDevice()
    key, plans = (cudnn, device, shapes[0]), _of_thread.plans
    if key in plans:
        plans.move_to_end(key)
        return plans[key]
    if xp.cuda.get_current_stream().is_capturing():
        raise RuntimeError(
            "cuDNN sees a shape for the first time on this thread while a CUDA graph is captured, and would have to "
            f"try out plans for it: {_words(shapes[0])}. Run the step once on the same shapes before you capture it."
        )
    handle = cudnn_library.handle(cudnn, device)
    if handle is None:
        return None
    with _tuning:
        if key not in _choices:
            with handle.passing(xp.cuda.get_current_stream().ptr):
                _choices[key] = _kept_choice(xp, cudnn, handle, shapes, compute, rival)
    choice, plan = _choices[key], None
    if choice is not None:
        shape, proposed = choice
        made = chosen_alone(cudnn, shape, proposed, handle=handle.handle)
        size = int(made.get_workspace_size_plan_at_index(proposed.place))
        plan = Plan(made, shape, proposed.place, size, handle)
    plans[key] = plan
    while len(plans) > KEPT:
        plans.popitem(last=False)
    return plan


def _kept_choice(
    xp: Any,
    cudnn: Any,
    handle: cudnn_library.Handle,
    shapes: tuple[Shape, ...],
    compute: Compute,
    rival: Callable[[], Any],
) -> Choice | None:
    """The choice in the file that ``DUALNET_CUDNN_AUTOTUNE`` names, or a new one, which is added to it."""
    path = cudnn_choices.file()
    if path is None:
        return _choice(xp, cudnn, handle, shapes, compute, rival)
    name = xp.cuda.runtime.getDeviceProperties(xp.cuda.runtime.getDevice())["name"].decode()
    machine = f"{name}, cuDNN {cudnn_library.available()[1]}, DUALNET_CUDNN={cudnn_library.asked()}"
    kept = cudnn_choices.kept(path, machine).get(str(shapes[0]))
    if kept is not None and "without" in kept:
        reasons[shapes[0]] = str(kept["without"])
        return None
    if kept is not None and (again := _found_again(cudnn, handle, shapes, kept)) is not None:
        return again
    choice = _choice(xp, cudnn, handle, shapes, compute, rival)
    if choice is None:
        new: dict[str, Any] = {"without": reasons[shapes[0]]}
    else:
        new = {"engine": choice[1].name, "place": choice[1].place, "way": shapes.index(choice[0])}
    cudnn_choices.keep(path, machine, str(shapes[0]), new)
    return choice


def _found_again(
    cudnn: Any, handle: cudnn_library.Handle, shapes: tuple[Shape, ...], kept: dict[str, Any]
) -> Choice | None:
    """A choice from a file, if cuDNN still proposes that plan in that place."""
    try:
        shape, place, name = shapes[kept["way"]], kept["place"], kept["engine"]
        if graph(cudnn, shape, handle=handle.handle).get_plan_name_at_index(place) != name:
            return None
    except Exception:  # the place is gone, or cuDNN's own error for a shape that it no longer supports
        return None
    return shape, Proposed(place, name, 0)


def _choice(
    xp: Any,
    cudnn: Any,
    handle: cudnn_library.Handle,
    shapes: tuple[Shape, ...],
    compute: Compute,
    rival: Callable[[], Any],
) -> Choice | None:
    tuned, timed, why = cudnn_choices.tuning(), [], "no plan that may be chosen"
    for shape in shapes:
        try:
            made, found = proposals(cudnn, shape, handle=handle.handle)
        except Exception as error:  # cuDNN's own for unsupported shapes, others if it cannot even describe one
            why = cudnn_library.first_line(error)
            continue
        for proposed in found:
            plan = Plan(made, shape, proposed.place, proposed.bytes, handle)
            try:
                if shape.relu and not _passes_nan(xp, compute, plan):
                    continue
                timed.append((_seconds(xp, functools.partial(compute, plan), tuned), (shape, proposed)))
            except Exception as error:
                why = cudnn_library.first_line(error)
                continue
            if not tuned:
                return shape, proposed
    if not timed:
        reasons[shapes[0]] = why
        return None
    best = min(seconds for seconds, _ in timed)
    if cudnn_library.asked() != "all" and _seconds(xp, rival) < best:
        reasons[shapes[0]] = "faster without"
        return None
    return next(choice for seconds, choice in timed if seconds <= best * CLOSE)


def _passes_nan(xp: Any, compute: Compute, plan: Plan) -> bool:
    """Is the ReLU of NaN still NaN? Reads one result back, when a shape is first seen."""
    y = compute(plan, spoilt=True)
    return bool(xp.all(xp.isnan(y.astype("float32", copy=False))).item())


def _seconds(xp: Any, work: Callable[[], Any], timed: bool = True) -> float:
    """How long the device takes, by its own clock; infinity if a kernel declines the work, or if it cannot be timed."""
    if work() is NotImplemented or not timed:
        return float("inf")
    taken: list[float] = []
    fillings = FILLINGS
    while len(taken) < ROUNDS:
        seconds, queued = _round(xp, work, fillings)
        if queued or fillings >= MOST_FILLINGS:
            taken.append(seconds)
        else:
            fillings *= 2
    return min(taken)


def _round(xp: Any, work: Callable[[], Any], fillings: int) -> tuple[float, bool]:
    """The seconds of one call, and whether all calls were queued before the device reached the first of them.

    Only then does this time the device: Python takes longer to launch a small convolution (20 µs, since the frontend
    looks at each plan of a graph) than the device takes to compute it, and all plans would look alike.
    """
    begun = time.perf_counter()
    idle, start, end = (xp.cuda.Event() for _ in range(3))
    idle.record()
    with lasting(xp):  # a graph that is about to be recorded would keep this memory in its own pool
        for _ in range(fillings):
            xp.zeros((FILLING,), dtype="uint8")
    start.record()
    for _ in range(REPEATS):
        work()
    end.record()
    asking = time.perf_counter() - begun
    end.synchronize()
    filling = xp.cuda.get_elapsed_time(idle, start) / 1000
    return xp.cuda.get_elapsed_time(start, end) / 1000 / REPEATS, asking < filling


def _words(shape: Shape) -> str:
    at = shape.at
    return (
        f"{shape.way}, {shape.dtype}, x {(shape.N, *at.size, shape.C)}, "
        f"w {(*at.window, shape.C // shape.groups, shape.D)}, stride {at.stride}"
    )


def describe() -> dict[str, str]:
    """The line about cuDNN in ``dn.info()``."""
    works, words = cudnn_library.available()
    if not works:
        return {"cudnn": f"no: {words}"}
    served = sum(choice is not None for choice in _choices.values())
    planned = f"; {served} of {len(_choices)} shapes so far" if _choices else ""
    return {"cudnn": words + planned}
