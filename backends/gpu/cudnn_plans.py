"""Plans: one convolution of cuDNN for one shape, chosen once among those that it proposes, ready to run again.

cuDNN is told of arrays as they lie in memory: feature maps (N, H, W, C). A bank of filters is told as (D, k1, k2, C/g)
and has to be turned before: cuDNN accepts the strides of (k1, k2, C/g, D), but then plans exactly as for (D, k1, k2,
C/g), without the room in which it would turn a bank that lies otherwise.

Which plan: the first time that a shape is seen, those that cuDNN's heuristics propose are run and timed, and beside
them what would compute without cuDNN. ``DUALNET_CUDNN_AUTOTUNE=0`` takes the first that cuDNN proposes. The choice
holds for the process, on all its threads; the plans themselves belong to a thread.

What is never chosen: plans that may give other bits from run to run; those that compute by transforms (Winograd, FFT)
or add up in less than float32, whose errors are not those of a sum of products; in strict float32, those that round
their factors to TF32; and those whose ReLU makes 0 of NaN, which is tried out (cuDNN promises nothing there).
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
from dualnet.shim.process import reader

from . import cudnn_library as shared

KEPT = 1024
"""So many plans are kept by each thread; then the one that was not used for longest goes."""
WORKSPACE = 2**30
"""Plans that need more bytes than this beside their arrays are passed over."""
CANDIDATES, PATIENCE = 12, 2.0
"""So many of the proposed plans are timed, from the first on; no more are made after 2 s (some are compiled first)."""
ROUNDS, REPEATS = 3, 5
FILLING, FILLINGS, MOST_FILLINGS = 2**27, 16, 512
"""What keeps the device busy until everything that is to be timed has been asked for: zeros, so many bytes so often."""
CLOSE = 1.03
"""Of plans that take the same time within 3 % the first is chosen, so that the choice hangs less on chance."""
NEVER = ("NONDETERMINISTIC", "WINOGRAD", "FFT", "REDUCED_PRECISION_REDUCTION")
IN_FULL = ("TENSOR_CORE", "DOWN_CONVERT_INPUTS")
"""What strict float32 leaves out besides: on tensor cores its factors are rounded to TF32."""
DTYPES = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}
FORWARD, INPUTS, FILTERS = "forward", "inputs", "filters"

_autotune = reader("DUALNET_CUDNN_AUTOTUNE")


class Shape(NamedTuple):
    """Everything that a plan depends on. ``way`` is which of the three sums: E4, E13 or E11."""

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

    The arrays must be contiguous and on 16 bytes, of the shapes and dtypes described: nothing checks them here.
    """

    def __init__(self, graph: Any, shape: Shape, place: int, size: int, handle: shared.Handle) -> None:
        self.graph, self.shape, self.place, self.bytes, self.handle = graph, shape, place, size, handle

    def __call__(self, xp: Any, *arrays: Array) -> None:
        stream = xp.cuda.get_current_stream()
        workspace = self.handle.workspace(xp, stream.ptr, self.bytes)
        if stream.is_capturing():
            shared.keep(self, self.handle, workspace)
        addresses = {number: array.data.ptr for number, array in enumerate(arrays, 1)}
        self.graph.execute_plan_at_index(addresses, workspace.data.ptr, self.place, self.handle.on(stream.ptr))


# -- what cuDNN is told ------------------------------------------------------------------------------------------------


def graph(cudnn: Any, shape: Shape, **where: Any) -> Any:
    """The shape as a graph of cuDNN's, with what it proposes for it. ``where``: handle=..., or a device's profile."""
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
    bank = _map(shape.D, *at.window, shape.C // shape.groups)  # (D, k1, k2, C/g), told like maps

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
    return made


def _map(N: int, H: int, W: int, C: int) -> tuple[list[int], list[int]]:
    """Dims and strides of (N, H, W, C) as it lies in memory; cuDNN counts dims as N, C, H, W."""
    return [N, C, H, W], [H * W * C, 1, W * C, C]


class Proposed(NamedTuple):
    place: int
    name: str
    bytes: int


def proposals(cudnn: Any, shape: Shape, most: int = CANDIDATES, **where: Any) -> tuple[Any, list[Proposed]]:
    """A shape's graph, and the first plans in it that work on this device and may be chosen."""
    made = graph(cudnn, shape, **where)
    found: list[Proposed] = []
    notes = (*NEVER, *(IN_FULL if shape.dtype == "float32" and not shape.tf32 else ()))
    made.deselect_numeric_notes([getattr(cudnn.numerical_note, note) for note in notes])
    end = time.monotonic() + PATIENCE
    for place in range(made.get_execution_plan_count()):
        if len(found) == most or found and time.monotonic() > end:
            break
        try:
            made.build_plan_at_index(place)
        except Exception:  # left out, or not for this device after all
            continue
        size = int(made.get_workspace_size_plan_at_index(place))
        if size <= WORKSPACE:
            found.append(Proposed(place, made.get_plan_name_at_index(place), size))
    return made, found


def chosen_alone(cudnn: Any, shape: Shape, proposed: Proposed, **where: Any) -> Any:
    """The graph with this plan and no other built. Raises ``RuntimeError`` if another is in its place."""
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
_tuning = threading.RLock()
reasons: dict[Shape, str] = {}
"""Why shapes are left to other kernels."""

Compute = Callable[..., Array]


def chosen(xp: Any, shapes: tuple[Shape, ...], compute: Compute, rival: Callable[[], Any]) -> Plan | None:
    """The plan for the first of these shapes, or for the next, which does the same by another road; None: not cuDNN.

    ``compute(plan)`` computes with a plan, ``compute(plan, spoilt=True)`` with NaN for a bias, and ``rival()`` without
    cuDNN: all three only to choose, which is when the process first sees the shape. Raises ``RuntimeError`` where this
    thread has no plan yet and its stream is captured.
    """
    cudnn = shared.library()
    if cudnn is None:
        return None
    device = xp.cuda.runtime.getDevice()
    key, plans = (cudnn, device, shapes[0]), _of_thread.plans
    if key in plans:
        plans.move_to_end(key)
        return plans[key]
    if xp.cuda.get_current_stream().is_capturing():
        raise RuntimeError(
            "cuDNN meets a shape for the first time on this thread while a CUDA graph is captured, and would have to "
            f"try out its plans: {_words(shapes[0])}. Run the step once on the same shapes before it is captured."
        )
    handle = shared.handle(cudnn, device)
    if handle is None:
        return None
    with _tuning:
        if key not in _choices:
            with handle.passing(xp.cuda.get_current_stream().ptr):
                _choices[key] = _choice(xp, cudnn, handle, shapes, compute, rival)
    choice, plan = _choices[key], None
    if choice is not None:
        shape, proposed = choice
        made = chosen_alone(cudnn, shape, proposed, handle=handle.handle)
        plan = Plan(made, shape, proposed.place, proposed.bytes, handle)
    plans[key] = plan
    while len(plans) > KEPT:
        plans.popitem(last=False)
    return plan


def _choice(
    xp: Any, cudnn: Any, handle: shared.Handle, shapes: tuple[Shape, ...], compute: Compute, rival: Callable[[], Any]
) -> Choice | None:
    tuned, timed, why = tuning(), [], "no plan keeps what is promised"
    for shape in shapes:
        try:
            made, found = proposals(cudnn, shape, handle=handle.handle)
        except Exception as error:  # cuDNN's own for what it does not support, others for what it cannot even describe
            why = shared.first_line(error)
            continue
        for proposed in found:
            plan = Plan(made, shape, proposed.place, proposed.bytes, handle)
            try:
                if shape.relu and not _passes_nan(xp, compute, plan):
                    continue
                timed.append((_seconds(xp, functools.partial(compute, plan), tuned), (shape, proposed)))
            except Exception as error:
                why = shared.first_line(error)
                continue
            if not tuned:
                return shape, proposed
    if not timed:
        reasons[shapes[0]] = why
        return None
    best = min(seconds for seconds, _ in timed)
    if shared.asked() != "all" and _seconds(xp, rival) < best:
        reasons[shapes[0]] = "sooner without"
        return None
    return next(choice for seconds, choice in timed if seconds <= best * CLOSE)


def _passes_nan(xp: Any, compute: Compute, plan: Plan) -> bool:
    """Does a ReLU of a sum that is NaN stay NaN? One look at the result, when a shape is first seen."""
    y = compute(plan, spoilt=True)
    return bool(xp.all(xp.isnan(y.astype("float32", copy=False))).item())


def _seconds(xp: Any, work: Callable[[], Any], timed: bool = True) -> float:
    """How long the device takes for this, by its own clock; infinitely long where it is not served."""
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
    """The seconds of a call, and whether all calls were in the queue before the device came to the first of them.

    Only then it is the device that is timed: Python takes longer to ask for a small convolution (with the frontend's
    look at each of a graph's plans, 20 µs) than the device for computing it, and all of its plans would look alike.
    """
    begun = time.perf_counter()
    idle, start, end = (xp.cuda.Event() for _ in range(3))
    idle.record()
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


def tuning() -> bool:
    """Whether plans are timed: ``DUALNET_CUDNN_AUTOTUNE``."""
    said = _autotune().strip()
    if said not in ("", "0", "1"):
        raise ValueError(f"DUALNET_CUDNN_AUTOTUNE is 0 or 1, got {said!r}")
    return said != "0"


def _words(shape: Shape) -> str:
    at = shape.at
    return (
        f"{shape.way}, {shape.dtype}, x {(shape.N, *at.size, shape.C)}, "
        f"w {(*at.window, shape.C // shape.groups, shape.D)}, stride {at.stride}"
    )


def describe() -> dict[str, str]:
    """The line of ``dn.info()``."""
    works, words = shared.available()
    if not works:
        return {"cudnn": f"no: {words}"}
    served = sum(choice is not None for choice in _choices.values())
    planned = f"; {served} of {len(_choices)} shapes so far" if _choices else ""
    return {"cudnn": words + planned}
