"""A node's verdict, without any framework: who is right, who is wrong, and which witness says so."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.bridges.against.judging import judge
from dualnet.bridges.against.report import Report, Row, distance, in_order
from dualnet.bridges.against.steps import NodeRun
from dualnet.bridges.against.twins import LayerTwin

RNG = np.random.default_rng(0)
X, W, B = RNG.standard_normal((2, 6, 5, 3)), RNG.standard_normal((3, 3, 3, 4)), RNG.standard_normal(4)
DY = RNG.standard_normal((2, 4, 3, 4))


def again(values, dy=None, *, slope=1.0, scale=1.0):
    """A convolution of "theirs", whose dw is ``slope`` times the right one and whose output ``scale`` times."""
    layer = dn.Conv2D(4, 3).init((6, 5, 3), dtype=values["x"].dtype)
    layer.w.value, layer.b.value = dn.asarray(values["weight"]), dn.asarray(values["bias"])
    y, pullback = layer.forward(dn.asarray(values["x"]))
    dx, gradients = pullback(dn.asarray(np.zeros(y.shape, values["x"].dtype) if dy is None else dy))
    found = {"x": dx, "weight": gradients["w"] * slope, "bias": gradients["b"]}
    return dn.to_numpy(y) * scale, {name: scale * dn.to_numpy(g) for name, g in found.items()}


def node(with_twin=True, with_again=True, dtype="float32", **mistake):
    values = {name: a.astype(dtype) for name, a in (("x", X), ("weight", W), ("bias", B))}

    def runner(values, dy=None):
        return again(values, dy, **mistake)

    y, gradients = runner(values, DY.astype(dtype))
    twin = LayerTwin("Conv2D", {}, dn.Conv2D(4, 3), {"weight": "w", "bias": "b"}) if with_twin else None
    return NodeRun(
        "conv", "Conv", values, y.astype(dtype), DY.astype(dtype),
        {name: g.astype(dtype) for name, g in gradients.items()}, twin, runner if with_again else None,
    )  # fmt: skip


def faults(rows):
    return {row.quantity: row.fault for row in rows}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("with_twin", "with_again"), [(True, True), (True, False), (False, True)])
def test_a_right_node(with_twin, with_again, dtype):
    rows = judge(node(with_twin, with_again, dtype))
    assert faults(rows) == {"y": "", "dx": "", "weight": "", "bias": ""}
    assert all(0 <= row.ratio <= 1 and row.error <= row.allowed for row in rows)


@pytest.mark.parametrize("slope", [-1.0, 0.0, 1 + 1e-4])
def test_the_slope_settles_a_wrong_gradient(slope):
    rows = judge(node(slope=slope))
    assert faults(rows) == {"y": "", "dx": "", "weight": "theirs", "bias": ""}
    assert {row.quantity: row.witness for row in rows}["weight"] == "the slope"
    assert faults(judge(node(with_twin=False, slope=slope)))["weight"] == "theirs"


def test_rounding_that_is_too_large_is_theirs():
    run = node()
    run.gradients["weight"] = run.gradients["weight"] * np.float32(1 + 1e-4)  # in float64 it would be right
    rows = judge(run)
    assert faults(rows)["weight"] == "theirs" and rows[2].witness == "Conv2D in float64"
    run.twin = None
    assert faults(judge(run))["weight"] == "theirs"


def test_loops_settle_another_function():
    rows = judge(node(scale=1.01))
    assert faults(rows) == {"y": "theirs", "dx": "undecided", "weight": "undecided", "bias": "undecided"}
    assert rows[0].witness == "loops"


def test_nobody_can_tell():
    assert judge(node(with_twin=False, with_again=False)) == []


def test_nan_is_told():
    run = node()
    run.y = np.where(np.arange(run.y.size).reshape(run.y.shape) == 5, np.float32(np.nan), run.y)
    row = judge(run)[0]
    assert (row.fault, row.error, row.ratio) == ("theirs", np.inf, np.inf) and "not finite" in row.story


def test_tf32_is_told_by_its_size():
    run = node()
    run.device = "cuda:0"
    run.values = {name: _tf32(array) for name, array in run.values.items()}  # what a tensor core multiplies
    rounded = node()
    rounded.device, rounded.y = "cuda:0", again(run.values)[0]
    row = judge(rounded)[0]
    assert row.fault == "theirs" and "as large as TF32 makes it" in row.story


def _tf32(array):
    return (array.view("uint32") & np.uint32(0xFFFFE000)).view("float32")


# -- the report --------------------------------------------------------------------------------------------------------


def rows_of(name, *faults):
    quantities = ("y", "dx", "weight")
    return [
        Row(
            name,
            "Kind",
            q,
            1e-7,
            1e-6,
            0.1 if not f else 5.0,
            f,
            "witness",
            story=f and "it is off.",
            backward=q != "y",
        )
        for q, f in zip(quantities, faults)
    ]


def test_the_first_is_the_first_in_the_order_of_computation():
    rows = in_order([rows_of("one", "", "theirs", ""), rows_of("two", "", "theirs", "")])
    assert [(row.name, row.quantity) for row in rows] == [
        *(("one", "y"), ("two", "y")),
        *(("two", "dx"), ("two", "weight"), ("one", "dx"), ("one", "weight")),
    ]
    assert Report("net", rows).first == "two"  # on the way back its delta comes first
    forward = Report("net", in_order([rows_of("one", "theirs", "", ""), rows_of("two", "", "theirs", "")]))
    assert forward.first == "one" and "1 more layer is off" in forward.verdict()


def test_a_report_of_nothing_is_no_proof():
    report = Report("net")
    assert not report and report.first is None and "nothing was compared" in str(report)


def test_the_table_has_the_worst_row_of_each_layer_and_all_that_are_off():
    report = Report("net", in_order([rows_of("one", "", "", ""), rows_of("two", "", "theirs", "ours")]))
    assert len(report.table().splitlines()) == 1 + 1 + 2 and len(report.table(all=True).splitlines()) == 1 + 6
    assert report._repr_html_().count("<tr>") == 1 + 1 + 2 and "FAIL" in report._repr_html_()


# -- what must be seen -------------------------------------------------------------------------------------------------


def test_short_sums_are_no_excuse():
    """K u would allow this y; but only what is summed over all examples and places is excused so."""
    run = node()
    run.y = run.y + np.float32(1.5e-6) * again({n: abs(a) for n, a in run.values.items()})[0]
    assert faults(judge(run))["y"] == "theirs"


@pytest.mark.parametrize("error", [0.0, 1e-7, 1e-3, np.nan, np.inf])
def test_the_quick_look_sees_what_the_long_one_sees(error):
    from dualnet.bridges.against import judging
    from dualnet.parity.cases import limits
    from dualnet.parity.judging.compare import measure

    r = RNG.standard_normal((300, 300))
    x = r.astype("float32")
    x[7, 9] += error
    for limit in (limits.products(r, "float32", 9, abs(r)), limits.normed(r, "float32", 1e-6, "")):
        quick, long = judging._quickly(x, r, limit), measure(x, r, limit, "float32")
        assert (quick is not None) == long.ok
        if quick is not None:
            assert quick.ratio == pytest.approx(long.ratio) and quick.norm == pytest.approx(long.norm)


def test_a_small_error_is_seen_among_many_elements():
    """x³ of half a million numbers, with a gradient that is wrong by one part in a thousand."""
    x = RNG.standard_normal(500_000)

    def cube(values, dy=None):
        return values["x"] ** 3, {} if dy is None else {"x": 3.0003 * values["x"] ** 2 * dy}

    dy = RNG.standard_normal(x.shape)
    run = NodeRun("cube", "Cube", {"x": x}, x**3, dy, cube({"x": x}, dy)[1], again=cube)
    row = judge(run)[-1]
    assert (row.quantity, row.fault) == ("dx", "theirs") and row.error > 2e-5


def test_the_distance_of_what_is_not_finite():
    inf, nan = float("inf"), float("nan")
    one = np.array([1.0, -inf, nan, 3.0])
    assert distance(one, one) == 0.0 and distance(one + np.array([0, 0, 0, 1.0]), one) == pytest.approx(1 / 10**0.5)
    for other in ([1.0, inf, nan, 3.0], [1.0, -inf, 2.0, 3.0], [inf, -inf, nan, 3.0]):
        assert distance(one, np.array(other)) == inf
