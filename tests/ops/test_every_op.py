"""The tests of every op and loss, from one list (registry.py): if you add an op there, it gets all of them."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ops.registry import ENTRIES, Entry, case_like, cases_of, function_of, run

import dualnet as dn
from dualnet.parity.cases.case import OPS, Case, skipped
from dualnet.parity.cases.truth import Expected, expected
from dualnet.parity.judging.compare import compare, measure
from dualnet.parity.judging.kernels import LARGE, large_cases
from dualnet.parity.judging.ways import Outcome, Way, kernels_on
from dualnet.parity.networks.lockstep import references
from dualnet.shim.dtypes import HALVES

pytestmark = pytest.mark.once  # each test puts the backends that it computes on in force itself
EACH = pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
DTYPES = ("float16", *(("bfloat16",) if find_spec("ml_dtypes") else ()), "float32", "float64")
OTHERS = [Way(dn.backend.load(name).name) for name in ("array_api_strict", "torch") if name in dn.available_backends()]
SINGLE = Way.parse("numpy"), Way("numpy"), Way("strict"), *OTHERS


def host(found: dict[str, Any]) -> dict[str, np.ndarray | None]:
    return {name: None if a is None else dn.to_numpy(a) for name, a in found.items()}


def bits(found: dict[str, Any]) -> dict[str, Any]:
    return {name: None if a is None else (a.dtype.str, a.shape, a.tobytes()) for name, a in host(found).items()}


def placed(case: Case, dtype: str | None = None) -> dict[str, Any]:
    """The case's arrays on the backend in force."""
    return {name: None if a is None else dn.asarray(a.copy(), dtype) for name, a in case.arrays.items()}


def upstream(case: Case) -> Any:
    return None if case.loss else dn.asarray(case.dy.copy())


@functools.cache
def truths(name: str, dtype: str, count: int = 4) -> list[tuple[Case, dict[str, Expected]]]:
    """Cases with what the loops find; each has its dy."""
    return [(case, expected(case)) for case in cases_of(name, dtype, count)]


def check(case: Case, truth: dict[str, Expected], found: dict[str, Any], what: str) -> None:
    """Are the results those of the loops, within their limits?"""
    comparison = compare(case, what, Outcome(host(found)), truth)
    assert comparison.ok, f"{case} as {what}: {comparison}"


# -- the list ----------------------------------------------------------------------------------------------------------


def test_every_public_op_is_listed():
    """An op without an entry has none of these tests."""
    public = {name for name in vars(dn.ops) if callable(getattr(dn.ops, name)) and name[0].islower()}
    named = {entry.base for entry in ENTRIES.values()}
    assert named == public | set(dn.losses.NAMES) and not skipped()
    assert set(ENTRIES) == set(OPS), "each has cases in dualnet/parity/cases/draws.py"


@EACH
def test_the_cases_go_through_the_options(entry: Entry):
    """Every option is there with several values, every array that may be missing is missing once."""
    drawn = cases_of(entry.name, count=8)
    for option in drawn[0].options:
        values = {repr(case.options.get(option)) for case in drawn}
        fixed = option in ("epsilon", "groups") and "norm" in entry.name or option == "need_dx"
        assert len(values) > 1 or fixed, f"{entry.name}: {option} is always {values}"
    for optional in entry.optional:
        assert {case.arrays[optional] is None for case in drawn} == {True, False}


# -- right results -----------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_those_of_the_loops(entry: Entry, dtype: str):
    """NumPy with its kernels and without, the strict backend, and other libraries: forward, and every gradient."""
    for way, (case, truth) in itertools.product(SINGLE, truths(entry.name, dtype)):
        if way.backend == "array_api_strict" and dtype in HALVES:
            continue
        with way.in_force():
            check(case, truth, run(case, placed(case), upstream(case)), way.name)


@EACH
def test_gradients_are_slopes(backend: str, entry: Entry):
    for case in cases_of(entry.name, count=3):
        case.options.pop("need_dx", None)
        function = positional(case)
        assert dn.check.gradient(function, *placed(case).values(), wrt=positions(case, entry.differentiable))


@EACH
def test_linear_ops_are_adjoints(backend: str, entry: Entry):
    """⟨A v, g⟩ = ⟨v, Aᵀ g⟩; and where an op is not listed as linear, this fails: it is sharp enough to tell."""
    bent: set[int] = set()
    others = set(entry.differentiable) - {*entry.linear, "variance"}  # which may not be drawn with any sign
    for case in cases_of(entry.name, count=3):
        case.options.pop("need_dx", None)
        function, arrays = positional(case), placed(case).values()
        if linear := positions(case, entry.linear):
            assert dn.check.adjoint(function, *arrays, wrt=linear)
        for i in positions(case, others):
            if not dn.check.adjoint(function, *arrays, wrt=[i], raises=False):
                bent.add(i)
    assert bent == {i for i, name in enumerate(entry.arguments) if name in others}


def positional(case: Case) -> Callable[..., Any]:
    def op(*arrays: Any) -> Any:
        return function_of(case)(**dict(zip(case.arrays, arrays)), **case.options)

    op.__name__ = case.op
    return op


def positions(case: Case, names: Any) -> list[int]:
    return [i for i, name in enumerate(case.arrays) if name in names and case.arrays[name] is not None]


# -- layouts in memory -------------------------------------------------------------------------------------------------


def turned(a: np.ndarray) -> np.ndarray:
    """Another order of axes in memory."""
    order = np.roll(np.arange(a.ndim), 1)
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


def backwards(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.flip(a))[(slice(None, None, -1),) * a.ndim]


def every_second(a: np.ndarray) -> np.ndarray:
    wide = np.zeros([2 * n + 1 for n in a.shape], a.dtype)
    inside = wide[tuple(slice(1, None, 2) for _ in a.shape)]
    inside[...] = a
    return inside


def frozen(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a: np.ndarray) -> np.ndarray:
    """A column of records: each number begins at an odd address."""
    records = np.zeros(a.shape, [("odd", "u1"), ("value", a.dtype)])
    records["value"] = a
    return records["value"]


def mapped(a: np.ndarray, folder: Path) -> np.ndarray:
    file = np.memmap(folder / f"{len(list(folder.iterdir()))}.bin", a.dtype, "w+", shape=(a.size + 1,))[1:]
    file[:] = a.ravel()
    return file.reshape(a.shape)


LAYOUTS: dict[str, Callable[..., np.ndarray]] = {
    "Fortran": np.asfortranarray,
    **{f.__name__: f for f in (turned, backwards, every_second, frozen, unaligned)},
}


@EACH
@pytest.mark.parametrize("kernels", [True, False])
def test_any_layout_in_memory(entry: Entry, kernels: bool, tmp_path: Path):
    """Each argument and dy in each layout gives what the loops find for the numbers."""
    layouts = {**LAYOUTS, "memmap": functools.partial(mapped, folder=tmp_path)}
    with dn.use_backend("numpy"), kernels_on(kernels):
        for dtype in ("float32", "float64"):
            case, truth = truths(entry.name, dtype)[1]
            names = [name for name, a in case.arrays.items() if a is not None]
            for (what, lay), name in itertools.product(layouts.items(), [*names, "dy"]):
                given, dy = dict(case.arrays), case.dy
                if name != "dy":
                    given[name] = lay(given[name])
                elif not case.loss:
                    dy = lay(dy)
                check(case, truth, run(case, given, dy), f"{name} {what}")
            everything = {name: None if a is None else backwards(a) for name, a in case.arrays.items()}
            check(case, truth, run(case, everything, None if case.loss else turned(case.dy)), "all at once")


@pytest.mark.parametrize("name", LARGE)
def test_kernels_of_large_arrays_read_any_layout(name: str):
    """Some kernels serve large arrays only, and some read memory by its address."""
    large_in_any_layout(large_cases(name, "float32", 0)[:1], {f.__name__: f for f in (turned, every_second)})


@pytest.mark.slow
@pytest.mark.parametrize("onednn", ["1", "0"])
@pytest.mark.parametrize("name", LARGE)
def test_every_kernel_reads_any_layout(name: str, onednn: str, tmp_path: Path, monkeypatch: Any):
    monkeypatch.setenv("DUALNET_ONEDNN", onednn)
    layouts = {**LAYOUTS, "memmap": functools.partial(mapped, folder=tmp_path)}
    large_in_any_layout(large_cases(name, "float32", 0), layouts)


def large_in_any_layout(drawn: list[Case], layouts: dict[str, Callable[..., np.ndarray]]) -> None:
    """All arguments and dy in one layout after the other; none is written to."""
    with Way.parse("numpy").in_force():
        for case in drawn:
            truth = expected(case, references)
            for what, lay in layouts.items():
                given = {arg: None if a is None else lay(a) for arg, a in case.arrays.items()}
                dy = None if case.loss else lay(case.dy)
                check(case, truth, run(case, given, dy), what)
                assert all(a is None or np.array_equal(given[arg], a) for arg, a in case.arrays.items())
                assert case.loss or np.array_equal(dy, case.dy)


@EACH
@pytest.mark.parametrize("kernels", [True, False])
def test_one_image_many_times(entry: Entry, kernels: bool):
    """A broadcast array has strides of 0: it reads as its copy, and is not written to."""
    (case, truth), first = truths(entry.name, "float32")[1], entry.arguments[0]
    with dn.use_backend("numpy"), kernels_on(kernels):
        spread = np.broadcast_to(case.arrays[first][:1], case.arrays[first].shape)
        dy = None if case.loss else np.broadcast_to(case.dy[:1], case.dy.shape)
        once = run(case, {**case.arrays, first: spread}, dy)
        copied = run(case, {**case.arrays, first: spread.copy()}, None if dy is None else dy.copy())
        for name, result in once.items():
            if result is not None:
                limit = truth[name].limit.times(2.0)
                assert measure(result, copied[name].astype(np.float64), limit, "float32").ok, name


@EACH
def test_a_foreign_byte_order_is_refused_or_read(entry: Entry):
    """Floating arrays must be native (dn.asarray makes them so); targets of another order are read."""
    for (case, truth), way in itertools.product(truths(entry.name, "float32"), SINGLE[:2]):
        for name in [name for name, a in case.arrays.items() if a is not None]:
            foreign = case.arrays[name].astype(case.arrays[name].dtype.newbyteorder(">"))
            with way.in_force():
                if name in entry.targets:
                    check(case, truth, run(case, {**case.arrays, name: foreign}), f"{way.name} big-endian targets")
                else:
                    with pytest.raises(TypeError, match=f"^{entry.base}: .*{name}.*>f4"):
                        run(case, {**case.arrays, name: foreign})
                    given = {**case.arrays, name: dn.asarray(foreign)}
                    check(case, truth, run(case, given, upstream(case)), f"{way.name} made native")


# -- whose memory ------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("way", SINGLE, ids=lambda way: way.name)
def test_arguments_stay_and_results_are_new(entry: Entry, way: Way):
    """Nothing is written into an argument or dy; results share memory with none, nor with each other."""
    for case, _ in truths(entry.name, "float32"):
        with way.in_force():
            given, dy = placed(case), upstream(case)
            arrays = {**{name: a for name, a in given.items() if a is not None}, **({} if dy is None else {"dy": dy})}
            before = bits(arrays)
            found = run(case, given, dy)
            assert bits(arrays) == before, f"{case}: an argument was changed"
            results = {name: a for name, a in found.items() if a is not None}
            for (name, one), (other, two) in itertools.product(results.items(), arrays.items()):
                shared = np.may_share_memory(dn.to_numpy(one), dn.to_numpy(two))
                assert not shared or (name, other) in entry.views, f"{case}: {name} shares memory with {other}"
            for (name, one), (other, two) in itertools.combinations(results.items(), 2):
                assert not np.may_share_memory(dn.to_numpy(one), dn.to_numpy(two)), f"{case}: {name} and {other}"


@EACH
@pytest.mark.parametrize("way", SINGLE, ids=lambda way: way.name)
def test_one_array_in_two_places(entry: Entry, way: Way):
    """The same array twice is as good as two equal ones; so is the output as its own dy."""
    shapes = entry.alike or {name: s for name, s in entry.small.items() if name not in entry.optional}
    case = case_like(entry, shapes, {}, "float32")
    with way.in_force():
        for one, other in itertools.combinations(shapes, 2):
            if shapes[one] == shapes[other]:
                same = placed(case)
                if entry.name in ("softmax_cross_entropy", "softmax_focal", "kl_divergence"):
                    same[one] = dn.asarray(np.ones(shapes[one], "float32"))  # a share of the only class
                same[other] = same[one]
                apart = {**same, other: dn.asarray(dn.to_numpy(same[one]).copy())}
                assert bits(run(case, same)) == bits(run(case, apart)), f"{entry.name}: {one} is {other}"
        if not entry.loss:
            given = placed(case)
            y, pullback = function_of(case)(**given, **case.options)
            before = bits({"y": y})
            found = pullback(y)
            assert bits({"y": y}) == before
            again = function_of(case)(**given, **case.options)[1](dn.asarray(dn.to_numpy(y).copy()))
            for a, b in zip(*(r if isinstance(r, tuple) else (r,) for r in (found, again)), strict=True):
                assert bits({"": a}) == bits({"": b})


# -- dtypes ------------------------------------------------------------------------------------------------------------


def in_numpy(value: Any) -> Any:
    """Options as they come out of NumPy: a float64 must not widen anything."""
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, tuple):
        return tuple(map(in_numpy, value))
    return np.float64(value) if isinstance(value, float) else np.int64(value)


@EACH
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_stays(backend: str, entry: Entry, dtype: str):
    for case, truth in truths(entry.name, dtype):
        options = {name: in_numpy(value) for name, value in case.options.items()}
        found = run(case, placed(case), upstream(case), **options)
        assert {a.dtype.name for a in found.values() if a is not None} == {dtype}, f"{case}"
        check(case, truth, found, "options from NumPy")
        if entry.loss:
            found = run(case, placed(case), np.float64(2.5))
            assert {a.dtype.name for a in found.values()} == {dtype}


@EACH
def test_vectors_may_be_single_beside_half(backend: str, entry: Entry):
    """γ, β, μ and σ² keep their dtype, and so do their gradients; where that is not allowed, it is refused."""
    case, _ = truths(entry.name, "float16")[1]
    for name in entry.differentiable[1:]:
        given = placed(case)
        if given[name] is None:
            continue
        given[name] = given[name].astype("float32")
        if name in entry.vectors:
            found = run(case, given, upstream(case))
            wanted = {"y": "float16", **{f"d{n}": "float32" if n == name else "float16" for n in entry.arguments}}
            assert {n: a.dtype.name for n, a in found.items()} == wanted
        else:
            with pytest.raises(TypeError, match=f"{entry.base}: .*{name} is float32; expected one dtype"):
                run(case, given)


# -- what is refused ---------------------------------------------------------------------------------------------------

NO_ARRAYS = {
    "None": None,
    "a list": [[1.0, 2.0]],
    "a tuple": (1.0,),
    "a str": "conv",
    "a float": 1.5,
    "an int": 3,
    "a generator": (x for x in ()),
    "a matrix": np.ones((1, 1)).view(np.matrix),
    "a masked array": np.ma.masked_array([1.0], [True]),
}


@EACH
@pytest.mark.parametrize("what", NO_ARRAYS)
def test_what_is_no_array(backend: str, entry: Entry, what: str):
    """The error names the op, the argument and what it got; before anything else."""
    case, _ = truths(entry.name, "float32")[1]
    wrong = NO_ARRAYS[what]
    for name in entry.arguments:
        if wrong is None and name in entry.optional:
            run(case, {**placed(case), name: None}, upstream(case))
            continue
        got = "is None" if wrong is None else f"is a {type(wrong).__name__}"
        with pytest.raises(TypeError, match=f"^{entry.base}: {name} {got}; expected an array"):
            run(case, {**placed(case), name: wrong})


OTHER_DTYPES = ("int64", "uint8", "bool", "complex64", "object", "longdouble", "U3", "M8[s]", "V4")


@EACH
@pytest.mark.parametrize("dtype", OTHER_DTYPES)
def test_dtypes_that_are_refused(entry: Entry, dtype: str):
    with dn.use_backend("numpy"):
        case, _ = truths(entry.name, "float32")[1]
        for name, a in case.arrays.items():
            if a is None or name in entry.targets and np.dtype(dtype).kind in "biuf":
                continue
            with pytest.raises(TypeError, match=f"^{entry.base}: .*{name}.*{re.escape(str(np.dtype(dtype)))}"):
                run(case, {**case.arrays, name: np.zeros(a.shape, dtype)})


@EACH
def test_arrays_that_do_not_go_together(entry: Entry):
    """Of another floating dtype, or on another backend: both are named."""
    with dn.use_backend("numpy"):
        case, _ = truths(entry.name, "float32")[1]
        for name in [name for name in entry.arguments[1:] if case.arrays[name] is not None]:
            if name not in entry.targets:
                with pytest.raises(
                    TypeError, match=f"^{entry.base}: .* is float32 and {name} is float64; expected one"
                ):
                    run(case, {**case.arrays, name: case.arrays[name].astype("float64")})
            away = dn.asarray(case.arrays[name], backend="strict")
            with pytest.raises(TypeError, match=f"^{entry.base}: .* lives on numpy and {name} on strict; expected all"):
                run(case, {**case.arrays, name: away})


@EACH
def test_infeasible_shapes_and_options(backend: str, entry: Entry):
    """Every entry of the list, and a case of the certificate's own that must be refused."""
    for shapes, options, words in entry.infeasible:
        case = case_like(entry, shapes, options, "float32")
        with pytest.raises(ValueError, match=f"^{entry.base}: .*({words})"):
            run(case, placed(case))
    if not entry.any_shape:
        case = cases_of(entry.name, "float32", 2)[1]
        for name in entry.arguments:
            with pytest.raises((ValueError, TypeError), match=f"^{entry.base}: "):
                run(case, {**placed(case), name: dn.asarray(np.float32(0.5))})
        for name in entry.arguments[1:]:
            if case.arrays[name] is not None:
                with pytest.raises(ValueError, match=f"^{entry.base}: .*{name}"):
                    run(case, {**placed(case), name: dn.asarray(case.arrays[name][..., None])})


@EACH
def test_what_a_pullback_refuses(backend: str, entry: Entry):
    case, _ = truths(entry.name, "float32")[1]
    y, pullback = function_of(case)(**placed(case), **case.options)
    title, what = f"^{entry.base} pullback: ", "dloss" if entry.loss else "dy"
    for wrong, words in ((None, "None"), ([1.0], "a list"), ("abc", "a str"), ((1.0,), "a tuple"), (1j, "a complex")):
        with pytest.raises(TypeError, match=f"{title}{what} is {words}"):
            pullback(wrong)
    if entry.loss:
        for shape in [(1,), (0,), (2, 3)]:
            with pytest.raises(ValueError, match=f"{title}.*one number"):
                pullback(dn.asarray(np.ones(shape)))
    else:
        dy = upstream(case)
        for wrong in (dy[None], dy[..., None], dy[:-1], dy[..., :-1], dy[..., 0], dn.asarray(np.float32(1))):
            with pytest.raises(ValueError, match=f"{title}dy has shape"):
                pullback(wrong)
        for dtype in ("float64", "int32", "bool", "float16"):
            with pytest.raises(TypeError, match=f"{title}dy is {dtype}; expected float32"):
                pullback(dy.astype(dtype))
        other = next(name for name in ("strict", "numpy") if name != backend)
        with pytest.raises(TypeError, match=f"{title}dy is on {other}"):
            pullback(dn.asarray(case.dy, backend=other))
        with pytest.raises(TypeError, match=f"{title}dy is a float"):
            pullback(1.0)


# -- empty and small ---------------------------------------------------------------------------------------------------


@EACH
def test_nothing_at_all(backend: str, entry: Entry):
    """No images, or maps without channels: refused where that has no meaning, else empty, with gradients of 0."""
    for case in cases_of(entry.name, "float32", 2):
        if "axis" in case.options and "softmax" in entry.name:
            case.options["axis"] = -1
        for size, given in (("N", _no_images(entry, case)), ("C", _no_channels(entry, case))):
            arrays = {name: None if a is None else dn.asarray(a) for name, a in given.items()}
            if size in entry.refuses:
                with pytest.raises(ValueError, match=f"^{entry.base}: "):
                    run(case, arrays)
                continue
            found = host(run(case, arrays))
            y = found.pop("y")
            assert y.size == 0 and y.dtype == "float32"
            for name, gradient in found.items():
                if gradient is not None:
                    assert gradient.shape == given[name[1:]].shape and gradient.dtype == "float32"
                    assert not gradient.any(), f"{case}: {name}"


def _no_images(entry: Entry, case: Case) -> dict[str, Any]:
    moving = (entry.arguments[0], *entry.targets)
    return {name: a[:0] if name in moving and a is not None else a for name, a in case.arrays.items()}


def _no_channels(entry: Entry, case: Case) -> dict[str, Any]:
    def cut(name: str, a: Any) -> Any:
        if a is None or name not in entry.channels or a.ndim < case.arrays[entry.arguments[0]].ndim and entry.loss:
            return a
        return np.take(a, [], axis=entry.channels[name]).astype(a.dtype)

    return {name: cut(name, a) for name, a in case.arrays.items()}


@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_smallest_of_all(backend: str, entry: Entry, dtype: str):
    """One image of one pixel, one window, one class."""
    case = case_like(entry, entry.small, {}, dtype)
    truth = expected(case)
    check(case, truth, run(case, placed(case), upstream(case)), "the smallest")


# -- pullbacks ---------------------------------------------------------------------------------------------------------


@EACH
def test_a_pullback_serves_any_number_of_times(backend: str, entry: Entry):
    """Called twice it gives the same bits; a second forward pass between does not matter; freed, it says so."""
    (case, _), (other, _) = truths(entry.name, "float32")[1:3]
    first, dy = placed(case), upstream(case)
    y, pullback = function_of(case)(**first, **case.options)

    def back() -> dict[str, Any]:
        found = pullback() if entry.loss else pullback(dy)
        return bits(dict(enumerate(found if isinstance(found, tuple) else (found,))))

    once = back()
    run(other, placed(other), upstream(other))
    assert back() == once and back() == once
    assert set(map(type, pullback.saved)) <= {str} and pullback.nbytes == sum(
        {id(a): a.nbytes for a in pullback.saved.values()}.values()
    )
    pullback.free()
    assert pullback.nbytes == 0 and not pullback.saved
    with pytest.raises(RuntimeError, match=f"{entry.base} pullback: its memory was freed; run the forward pass again"):
        back()
