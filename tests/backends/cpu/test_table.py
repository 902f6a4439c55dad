"""The shipped table: which algorithm comes first for the layers of real networks, on each kind of processor."""

from __future__ import annotations

import pytest

from dualnet.backends import numpy_backend
from dualnet.backends.cpu import machine, table
from dualnet.backends.cpu.table import ALL, FILTERS, FORWARD, INPUTS, Shape
from dualnet.geometry import windows

KINDS = (machine.INTEL, machine.AMD, machine.AVX2, machine.OTHER)


@pytest.fixture
def first(monkeypatch):
    """``first(kind, function, N, size, C, D, …)``: the algorithm that the table asks first."""

    def ask(kind, function, N, size, C, D, k=3, stride=1, padding=1):
        monkeypatch.setattr(machine, "kind", lambda: kind)
        at = windows("t", (size, size), (k, k), stride=stride, padding=padding)
        return (*table.first(Shape(function, N, C, D, at, "f")), "")[0]

    return ask


LAYERS = {  # N, size, C, D -> forward, dx and dw, for each kind
    "VGG-6, layer 2": ((64, 32, 32, 32), ("oneDNN",) * 3, ("numpy winograd rows",) * 3, ("oneDNN", "oneDNN", "rows")),
    "VGG-6, layer 4": ((64, 16, 64, 64), ("oneDNN",) * 3, ("numpy winograd",) * 3, ("oneDNN", "oneDNN", "rows")),
    "VGG-6, layer 6": ((64, 8, 128, 128), ("oneDNN",) * 3, ("numpy winograd",) * 3, ("numpy winograd",) * 3),
    "ResNet-20, layer 1": ((64, 32, 16, 16), ("oneDNN",) * 3, ("oneDNN",) * 3, ("oneDNN",) * 3),
    "ResNet-20, layer 8": ((64, 16, 32, 32), ("oneDNN",) * 3, ("oneDNN",) * 3, ("oneDNN",) * 3),
    "ResNet-18, layer 6": (
        (16, 16, 128, 128),
        ("numpy winograd", "numpy winograd", "oneDNN"),
        ("numpy winograd",) * 3,
        ("numpy winograd",) * 3,
    ),
    "ResNet-18, layer 10": ((16, 8, 256, 256), ("oneDNN",) * 3, ("oneDNN",) * 3, ("oneDNN", "oneDNN", "winograd")),
    "ResNet-18, the last": (
        (16, 4, 512, 512),
        ("oneDNN",) * 3,
        ("oneDNN", "oneDNN", "numpy taps"),
        ("numpy columns", "oneDNN", "numpy taps"),
    ),
    "one image": ((1, 8, 64, 64), ("oneDNN",) * 3, ("oneDNN",) * 3, ("oneDNN",) * 3),
}


@pytest.mark.parametrize("layer, intel, amd, avx2", LAYERS.values(), ids=LAYERS)
def test_the_layers_of_real_networks(first, layer, intel, amd, avx2):
    short = {"rows": "numpy winograd rows", "winograd": "numpy winograd"}
    for kind, wanted in ((machine.INTEL, intel), (machine.AMD, amd), (machine.AVX2, avx2), (machine.OTHER, intel)):
        found = [first(kind, function, *layer) for function in (FORWARD, INPUTS, FILTERS)]
        assert found == [short.get(name, name) for name in wanted], kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("function", ALL)
def test_what_is_no_3x3_at_stride_1_keeps_the_usual_order(first, kind, function):
    assert first(kind, function, 64, 28, 1, 6, k=5, padding=2) == ""
    assert first(kind, function, 64, 32, 64, 128, stride=2) == ""
    assert first(kind, function, 64, 8, 256, 256, k=1, padding=0) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_names_algorithms_and_functions_that_exist(kind):
    for rule in table.TABLES[kind]:
        for function in rule.functions:
            assert set(rule.first) <= {kernel.algorithm for kernel in numpy_backend.KERNELS[function]}


def test_without_onednn_the_next_one_serves_the_fewest_channels_by_rows(monkeypatch):
    at = windows("t", (32, 32), (3, 3), padding=1)
    for kind, most in ((machine.INTEL, 2**11), (machine.AMD, 2**11), (machine.AVX2, 2**12)):
        monkeypatch.setattr(machine, "kind", lambda kind=kind: kind)
        for pairs, wanted in ((most, "numpy winograd rows"), (2 * most, "numpy winograd")):
            assert table.first(Shape(INPUTS, 1, pairs // 32, 32, at, "f"))[:2] == ("oneDNN", wanted)


def test_what_a_rule_may_look_at():
    shape = Shape(FORWARD, 16, 8, 512, windows("t", (4, 4), (3, 3), padding=1), "f")
    assert (shape.pairs, shape.map, shape.work) == (8 * 512, 16, 16 * 16 * 9 * 8 * 512)
    assert shape.winograd and not shape.small and not shape.tall
    assert shape._replace(channels=256).small and shape._replace(images=256).tall
