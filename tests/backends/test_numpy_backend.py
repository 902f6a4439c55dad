"""The NumPy backend: which algorithm serves which shape, in what order, and what happens when one declines."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from cpu_tools import REFERENCES, arrays, drawn
from onednn_tools import needs_library
from oracles import error, tau

import dualnet as dn
from dualnet.backend import calls, references
from dualnet.backends import choice, numpy_backend
from dualnet.backends.cpu import blas, machine
from dualnet.geometry import windows
from dualnet.shim.kernels import reasons

needs_blas = pytest.mark.skipif(blas.product("float32") is None, reason="this BLAS has no product that can be called")


@pytest.fixture(autouse=True)
def intel(monkeypatch):
    """The table for Intel's processors with AVX-512, wherever the tests run."""
    monkeypatch.setattr(machine, "kind", lambda: machine.INTEL)
    choice.forget()
    with dn.use_backend("numpy"):
        yield
    choice.forget()


@pytest.fixture
def alone(monkeypatch):
    """NumPy's kernels without oneDNN."""
    monkeypatch.setenv("DUALNET_ONEDNN", "0")
    monkeypatch.setenv("DUALNET_KERNELS", "auto")


@pytest.fixture
def ran(monkeypatch):
    """``ran(name, *arguments)``: what served this call, without "kernel of"."""
    monkeypatch.setenv("DUALNET_KERNELS", "auto")
    before, whys = calls.copy(), reasons.copy()

    def who(name, *arguments):
        calls.clear()
        reasons.clear()
        with np.errstate(all="ignore"):
            references[name](*arguments)
        return next(by.removeprefix("kernel of ") for served, by in calls if served == name)

    yield who
    for counter, known in ((calls, before), (reasons, whys)):
        counter.clear()
        counter.update(known)


# -- the order ---------------------------------------------------------------------------------------------------------


def test_every_kernel_has_a_reference_of_its_name():
    assert numpy_backend.KERNELS.keys() == numpy_backend.ORDER.keys() <= references.keys()
    for name, kernels in numpy_backend.KERNELS.items():
        assert [kernel.__name__ for kernel in kernels] == [name] * len(kernels)


def test_every_kernel_of_a_module_is_in_the_order():
    modules = set(itertools.chain.from_iterable(numpy_backend.ORDER.values()))
    for module in modules:
        own = {name for name, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__}
        for name in own & references.keys():
            assert module in numpy_backend.ORDER[name], f"{module.__name__}.{name} would never be asked"


def test_onednn_is_asked_first():
    for kernels in numpy_backend.KERNELS.values():
        names = [kernel.algorithm for kernel in kernels]
        assert names == sorted(names, key=lambda name: name != "oneDNN") and len(names) == len(set(names))


def test_who_comes_first_on_numpy_alone():
    names = {name: [k.algorithm for k in kernels] for name, kernels in numpy_backend.KERNELS.items()}
    rest, last = ["numpy bands", "numpy rows"], ["numpy columns", "numpy taps"]
    winograd = ["numpy winograd rows", "numpy winograd"]
    assert names["correlate"] == ["oneDNN", "numpy tiny", *winograd, *rest, *last]
    assert names["correlate_filters"] == ["oneDNN", *winograd, *rest, *last]
    tail = ["numpy tiny", "numpy columns", "numpy scatter", "numpy taps"]
    assert names["correlate_inputs"] == ["oneDNN", *winograd, "numpy lines", *rest, *tail]
    assert names["parameter_gradients"] == ["oneDNN", *winograd]
    assert names["affine"] == ["oneDNN", "numpy"]


# -- which algorithm ---------------------------------------------------------------------------------------------------

LAYERS = {  # N, size, C, D, k, stride, padding -> what serves E4, E11 and E13
    "LeNet-5, layer 1": ((64, 28, 1, 6, 5, 1, 2), "bands", "bands", "bands"),
    "LeNet-5, layer 2": ((64, 14, 6, 16, 5, 1, 0), "bands", "bands", "lines"),
    "LeNet-5, layer 1, one image": ((1, 28, 1, 6, 5, 1, 2), "tiny", "columns", "rows"),
    "LeNet-5, layer 2, one image": ((1, 14, 6, 16, 5, 1, 0), "tiny", "rows", "rows"),
    "VGG-6, layer 1": ((64, 32, 3, 32, 3, 1, 1), "columns", "columns", "rows"),
    "VGG-6, layer 2": ((64, 32, 32, 32, 3, 1, 1), "winograd rows", "winograd rows", "winograd rows"),
    "VGG-6, layer 6": ((64, 8, 128, 128, 3, 1, 1), "winograd", "winograd", "winograd"),
    "ResNet-20, a stride": ((64, 32, 16, 32, 3, 2, 1), "rows", "rows", "rows"),
    "ResNet-20, a shortcut": ((64, 32, 16, 32, 1, 2, 0), "columns", "columns", "scatter"),
    "few units, many filters": ((1, 4, 2, 3, 3, 1, 1), "tiny", "columns", "tiny"),
    "little to do, in narrow windows": ((8, 14, 1, 6, 5, 1, 2), "tiny", "bands", "tiny"),
    "single units": ((3, 16, 32, 32, 1, 1, 0), "tiny", "columns", "tiny"),
    "single units, more of them": ((4, 16, 32, 32, 1, 1, 0), "columns", "columns", "columns"),
}


@needs_blas
@pytest.mark.parametrize("layer, forward, filters, inputs", LAYERS.values(), ids=LAYERS)
def test_which_algorithm_serves(alone, ran, rng, layer, forward, filters, inputs):
    N, size, C, D, k, stride, padding = layer
    at = windows("t", (size, size), (k, k), stride=stride, padding=padding)
    x, w, b, dy, _ = arrays(rng, at, N, C, D)
    found = (
        ran("correlate", x, w, b, at),
        ran("correlate_filters", x, dy, at),
        ran("correlate_inputs", dy, w, at),
    )
    assert found == (f"numpy {forward}", f"numpy {filters}", f"numpy {inputs}")
    both = f"numpy {filters}" if filters.startswith("winograd") else "reference"
    assert ran("parameter_gradients", x, dy, at, 1, True) == both


@pytest.mark.parametrize(
    "layer, forward, filters, inputs",
    [
        ((64, 28, 1, 6, 5, 1, 2), "columns", "bands", "rows"),  # a row of x is too short
        ((64, 28, 6, 2, 5, 1, 2), "rows", "bands", "columns"),  # a row of deltas is too short, and is still gathered
        ((3, 16, 32, 32, 3, 1, 1), "rows", "columns", "rows"),  # dw by rows would be NaN, and may be 0 · ∞
        ((3, 16, 32, 80, 3, 1, 1), "rows", "columns", "rows"),
    ],
)
@needs_blas
def test_who_serves_what_is_not_finite(alone, ran, rng, layer, forward, filters, inputs):
    """Bands and Winograd decline a map with a NaN; a bank with an infinity is scattered."""
    N, size, C, D, k, stride, padding = layer
    at = windows("t", (size, size), (k, k), stride=stride, padding=padding)
    x, w, b, dy, _ = arrays(rng, at, N, C, D)
    x[0, 0, 0, 0] = dy[1, 2, 3, 1] = np.nan
    assert ran("correlate", x, w, b, at) == f"numpy {forward}"
    assert ran("correlate_filters", x, dy, at) == f"numpy {filters}"
    assert ran("correlate_inputs", dy, w, at) == f"numpy {inputs}"
    w[0, 0, 0, 0] = np.inf
    assert ran("correlate_inputs", np.nan_to_num(dy), w, at) == "numpy scatter"


def test_without_a_blas_to_call_columns_stand_in_for_rows(alone, ran, monkeypatch, rng):
    monkeypatch.setattr(blas, "_found", [None])
    at = windows("t", (16, 16), (5, 5), stride=2)
    x, w, b, dy, _ = arrays(rng, at, 32, 16, 32)
    assert ran("correlate", x, w, b, at) == ran("correlate_filters", x, dy, at) == "numpy columns"
    assert ran("correlate_inputs", dy, w, at) == "numpy scatter"


@needs_library
def test_onednn_serves_float32_and_leaves_the_rest(ran, rng):
    at = windows("t", (16, 16), (3, 3), padding=1)
    x, w, b, dy, _ = arrays(rng, at, 32, 16, 16)
    assert ran("correlate", x, w, b, at) == ran("parameter_gradients", x, dy, at, 1, True) == "oneDNN"
    assert ran("correlate", x.astype("f8"), w.astype("f8"), None, at) == "numpy winograd rows"
    many = rng.standard_normal((3, 3, 128, 128), dtype="f4")
    assert ran("correlate", rng.standard_normal((8, 16, 16, 128), dtype="f4"), many, None, at) == "numpy winograd"


@pytest.mark.parametrize("dtype, groups", [("float16", 1), ("float32", 2), ("int32", 1)])
def test_what_no_kernel_of_numpy_serves_is_computed_by_the_reference(alone, ran, rng, dtype, groups):
    at = windows("t", (8, 8), (3, 3), padding=1)
    x = (rng.standard_normal((2, 8, 8, 4)) * 9).astype(dtype)
    w = (rng.standard_normal((3, 3, 4 // groups, 4)) * 9).astype(dtype)
    assert ran("correlate", x, w, None, at, groups) == ran("correlate_filters", x, x, at, groups) == "reference"
    assert ran("correlate_inputs", x, w, at, groups) == "reference"
    assert ran("parameter_gradients", x, x, at, groups, False) == "reference"


def test_info_names_the_algorithm(alone, ran, rng):
    at = windows("t", (6, 6), (3, 3))
    x, w, b, _, _ = arrays(rng, at, 1, 2, 2)
    ran("correlate", x, w, b, at)
    table = dn.info()
    assert table["ran"] == {"correlate (kernel of numpy tiny)": "1 times"}
    assert table["why"] == {"correlate (kernel of numpy tiny)": "table for AVX-512, Intel"}


# -- the same numbers --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["1 thread", "2 threads", "3 threads", "no BLAS of its own"])
def team(request, monkeypatch):
    if request.param.startswith("no"):
        monkeypatch.setattr(blas, "_found", [None])
    else:
        monkeypatch.setenv("DUALNET_THREADS", request.param[0])


def agree(at, x, w, b, dy, K):
    """Whatever serves, the numbers are the reference's, and the same bits in a second run."""
    for name, arguments in {
        "correlate": (x, w, b, at, 1, True),
        "correlate_filters": (x, dy, at),
        "correlate_inputs": (dy, w, at),
    }.items():
        got, want = references[name](*arguments), REFERENCES[name](*arguments)
        assert got.dtype == want.dtype and error(got, want) <= 2 * tau(got.dtype, K), name
        assert got.tobytes() == references[name](*arguments).tobytes(), "not the same bits from run to run"


@pytest.mark.parametrize("case", range(20))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_drawn_shapes(alone, team, rng, case, dtype):
    at, x, w, b, dy, K = drawn(rng, dtype, stride=1 + case % 3)
    agree(at, x, w, b, dy, K)


@pytest.mark.parametrize("layer", [layer for layer, *_ in LAYERS.values()], ids=LAYERS)
def test_layers_of_real_networks(alone, team, rng, layer):
    N, size, C, D, k, stride, padding = layer
    at = windows("conv2d", (size, size), (k, k), stride=stride, padding=padding)
    agree(at, *arrays(rng, at, min(N, 9), C, D))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("C, D", [(32, 80), (32, 48), (2, 6)])
def test_what_is_not_finite_stays_where_it_belongs(alone, rng, value, C, D):
    at = windows("conv2d", (17, 15), (3, 3), padding="same")
    x, w, b, dy, _ = arrays(rng, at, 9, C, D)
    x[1, 8, 8, 1] = dy[1, 8, 8, 3] = value
    with np.errstate(all="ignore"):
        for name, arguments in {
            "correlate": (x, w, b, at, 1, True),
            "correlate_inputs": (dy, w, at),
            "correlate_filters": (x, dy, at),
        }.items():
            got, want = references[name](*arguments), REFERENCES[name](*arguments)
            assert np.array_equal(np.isfinite(got), np.isfinite(want)), name
        sums = references["parameter_gradients"](x, dy, at, 1, True)[1]
    assert np.array_equal(np.isfinite(sums), np.isfinite(REFERENCES["channel_sum"](dy)))


def test_a_network_trains_to_the_same_numbers(team, monkeypatch, rng):
    """A step with the kernels and one without: the gradients agree within τ, layer by layer."""
    x, t = rng.standard_normal((6, 32, 32, 3), dtype="f4"), rng.integers(0, 10, 6)
    net = dn.models.vgg6().init((32, 32, 3)).to("numpy")
    found = []
    for mode in ("auto", "reference"):
        monkeypatch.setenv("DUALNET_KERNELS", mode)
        y, pullback = net.forward(x, train=True)
        found.append(pullback(dn.losses.softmax_cross_entropy(y, t)[1]())[1])
    for name, g in found[0].items():
        assert error(g, found[1][name]) <= 10 * tau("float32", 6 * 1024), name


# -- the backend itself ------------------------------------------------------------------------------------------------


def test_there_is_one_host():
    assert numpy_backend.load(0).name == numpy_backend.load().name == "numpy"
    with pytest.raises(dn.BackendUnavailable, match="numpy:1: NumPy has no devices; use 'numpy'"):
        numpy_backend.load(1)


def test_arrays_stay_where_they_are():
    backend, x = numpy_backend.load(), np.ones(3)
    assert backend.from_host(x) is x and backend.to_host(x) is x and backend.on_host
    assert isinstance(backend.to_host(np.float32(2)), np.ndarray), "a scalar becomes an array"


def test_it_describes_its_threads(monkeypatch):
    monkeypatch.setenv("DUALNET_THREADS", "1")
    table = numpy_backend.load().describe()
    assert table["kernel threads"] == 1 and "onednn" in table
