"""The checks that users run: they find every mistake, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.backend import backend_of


def on(*arrays):
    return [dn.asarray(a) for a in arrays]


def wrong(change):
    """conv2d with a mistake in its pullback."""

    def op(x, w, b=None, **options):
        y, pullback = dn.ops.conv2d(x, w, b, **options)
        return y, lambda dy: change(*pullback(dy), x=x, w=w, dy=dy)

    return op


MISTAKES = {
    "dw not rotated back": lambda dx, dw, db, **_: (dx, dw[::-1, ::-1], db),
    "db averaged, not summed": lambda dx, dw, db, **_: (dx, dw, db / 2.0),
    "dx moved by one pixel": lambda dx, dw, db, **_: (backend_of(dx).xp.roll(dx, 1, axis=2), dw, db),
    "dw off by one part in ten thousand": lambda dx, dw, db, **_: (dx, dw * (1 + 1e-4), db),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found(backend, rng, name):
    arrays = on(rng.standard_normal((2, 5, 6, 2)), rng.standard_normal((3, 2, 2, 3)), rng.standard_normal(3))
    right, bad = dn.ops.conv2d, wrong(MISTAKES[name])
    for check in (dn.check.gradient, dn.check.adjoint):
        assert check(right, *arrays, stride=2)
        with pytest.raises(dn.check.CheckError, match="DISAGREES(.|\n)*<-- wrong"):
            check(bad, *arrays, stride=2)
        report = check(bad, *arrays, stride=2, raises=False)
        assert not report and not report.ok and report.worst > report.rows[0].limit


def test_each_argument_along_every_direction(backend, rng):
    arrays = on(rng.standard_normal((2, 5, 6, 2)), rng.standard_normal((3, 2, 2, 3)))
    for check in (dn.check.gradient, dn.check.adjoint):
        rows = check(dn.ops.conv2d, *arrays, directions=3).rows
        assert [row.argument for row in rows] == ["argument 0"] * 3 + ["argument 1"] * 3
        assert len({row.analytic for row in rows}) == 6
        assert rows == check(dn.ops.conv2d, *arrays, directions=3).rows != check(dn.ops.conv2d, *arrays, seed=1).rows


def test_only_the_wrong_argument_is_named(backend, rng):
    arrays = on(rng.standard_normal((2, 5, 6, 2)), rng.standard_normal((3, 2, 2, 3)), rng.standard_normal(3))
    report = dn.check.gradient(wrong(MISTAKES["db averaged, not summed"]), *arrays, raises=False)
    assert {row.argument for row in report.rows if not row.ok} == {"argument 2"}
    assert dn.check.gradient(wrong(MISTAKES["db averaged, not summed"]), *arrays, wrt=[0, 1])


def test_an_op_that_is_not_linear_fails_the_adjoint(backend, rng):
    (x,) = on(rng.standard_normal((3, 4)))
    assert dn.check.gradient(dn.ops.tanh, x)
    with pytest.raises(dn.check.CheckError):
        dn.check.adjoint(dn.ops.tanh, x)


def test_kinks_are_redrawn(backend):
    """A ReLU standing exactly at 0 has no slope there; the check moves on instead of blaming the pullback."""
    (x,) = on(np.zeros((4, 5)))
    assert dn.check.gradient(dn.ops.relu, x)
    (x,) = on(np.full((4, 5), 3e-7))
    assert dn.check.gradient(dn.ops.relu, x)


@pytest.mark.parametrize("seed", range(3))
def test_kinks_of_many_units_are_passed_by_in_shorter_steps(rng, seed):
    """Any step of 1e-6 crosses some of 60,000 kinks: the check takes shorter ones, and still sees a wrong slope."""
    (x,) = on(1e-3 * rng.standard_normal(60_000))
    assert dn.check.gradient(dn.ops.relu, x, seed=seed)
    with pytest.raises(dn.check.CheckError):
        dn.check.gradient(lambda x: (dn.ops.relu(x)[0], lambda dy: dy * (x > 1e-6)), x, seed=seed)


def test_losses(backend, rng):
    y, t = on(rng.standard_normal((4, 3)), np.array([0, 2, 1, 1]))
    assert dn.check.gradient(dn.losses.softmax_cross_entropy, y, t, label_smoothing=0.1)


def test_a_network_keeps_its_state(backend, rng):
    net = dn.Sequential([dn.Conv2D(3, 3), dn.BatchNorm(), dn.ReLU(), dn.Dropout(0.4), dn.Flatten(), dn.Dense(2)])
    net.init((5, 5, 2))
    net.forward(dn.asarray(rng.standard_normal((4, 5, 5, 2))), train=True)
    before = {name: np.array(dn.to_numpy(v)) for name, v in net.state_dict().items()}
    assert dn.check.gradient(net) and dn.check.gradient(net, train=False)
    after = net.state_dict()
    assert all(np.array_equal(before[name], dn.to_numpy(after[name])) for name in before)
    assert net.dtype == "float32" and net.parameters()["0.w"].dtype == "float32"


def test_what_cannot_be_checked():
    with pytest.raises(ValueError, match="no parameters yet; call init"):
        dn.check.gradient(dn.Conv2D(2, 3))
    layer = dn.Conv2D(2, 3).init((4, 4, 1))
    with pytest.raises(ValueError, match="takes one batch x, got 2"):
        dn.check.gradient(layer, 1, 2)


def scaled(writes: str):
    """y = g · x, whose pass writes into something that belongs to its caller; or changes what its pullback keeps."""

    def op(x, g):
        y, kept, calls = x * g, {"x": x}, []
        if writes == "x":
            x *= 2.0

        def pullback(dy):
            if writes == "calls":
                calls.append(1)
            dx, dg = dy * g * max(1, len(calls)), backend_of(x).xp.sum(kept["x"] * dy, axis=0)
            if writes == "dy":
                dy *= 2.0 * g
            if writes == "g":
                g[:] = 0.0
            return dx, dg

        return y, dn.Pullback("scaled", pullback, y)

    return op


WRITES = {
    "x": "the forward pass writes into argument 0, which belongs to its caller",
    "dy": "the pullback writes into dy, which belongs to its caller",
    "g": "the pullback writes into argument 1, which belongs to its caller",
    "calls": "a second call of the pullback returns a different gradient of argument 0",
}


@pytest.mark.parametrize("writes", WRITES)
def test_what_belongs_to_the_caller_stays_as_it_is(rng, writes):
    """A pullback that writes into dy is right by itself, and makes a layer elsewhere wrong: its check was green."""
    with dn.use_backend("numpy"):
        x, g = dn.asarray(rng.standard_normal((4, 3))), dn.asarray(rng.standard_normal(3))
        before = x.copy()
        assert dn.check.gradient(scaled("nothing"), x, g).ok
        for prove in (dn.check.gradient, dn.check.adjoint):
            report = prove(scaled(writes), x, g, raises=False)
            assert not report.ok and WRITES[writes] in report.manners
            assert f"{WRITES[writes]}   <-- wrong" in str(report) and WRITES[writes] in report.line()
            assert WRITES[writes] in report._repr_html_()
            with pytest.raises(dn.check.CheckError, match=WRITES[writes]):
                prove(scaled(writes), x, g)
        assert (x == before).all()


class Once(dn.Layer):
    """x², whose pullback throws away what it kept."""

    def output_shape(self, input_shape):
        return input_shape

    def forward(self, x, train=False):
        kept = [x]
        return x * x, dn.Pullback("once", lambda dy: (2.0 * kept.pop() * dy, {}), x)


def test_a_pullback_that_can_be_called_once_only_is_told(rng):
    told = "a second call of the pullback raises IndexError: pop from empty list"
    report = dn.check.gradient(Once().init((3,)), raises=False)
    assert report.manners == [told] and all(row.ok for row in report.rows)
    with pytest.raises(dn.check.CheckError, match=told):
        dn.check.gradient(Once().init((3,)))


@pytest.mark.parametrize(("off", "ok"), [(1e-12, True), (1e-6, False)])
def test_a_second_call_may_differ_by_rounding(off, ok):
    """Where large terms cancel, a sum in another order is off by much of the small result."""

    def op(x):
        calls = []

        def pullback(dy):
            calls.append(1)
            small = dy * 0.0
            small[0] = off * len(calls)
            return dy * np.array([0.0, 1.0, 1.0]) + small

        return x * np.array([0.0, 1.0, 1.0]), pullback

    with dn.use_backend("numpy"):
        report = dn.check.gradient(op, np.ones(3), raises=False)
        assert bool(report.manners) is not ok


def test_an_output_of_several_is_named_as_such():
    class Doubles(dn.Layer):
        def output_shape(self, input_shape):
            return input_shape

        def forward(self, x, train=False):
            def back(dy):
                dy *= 2.0
                return dy, {}

            return 2.0 * x, dn.Pullback("doubles", back, x)

    with dn.use_backend("numpy"):
        net = dn.Graph("x", [("a", dn.Dense(2), "x"), ("b", Doubles(), "x")]).init((3,))
        found = dn.check.gradient(net, raises=False).manners
        assert found == ["the pullback writes into dy['b'], which belongs to its caller"]


@pytest.mark.parametrize("writes", WRITES)
def test_a_layer_leaves_what_belongs_to_its_caller(writes):
    class Scaled(dn.Layer):
        def build(self, input_shape, draw):
            self.g = draw.parameter("ones", input_shape)

        def forward(self, x, train=False):
            y, pullback = scaled(writes)(x, self.g.value)

            def back(dy):
                dx, dg = pullback(dy)
                return dx, {"g": dg}

            return y, dn.Pullback("Scaled", back, y)

    with dn.use_backend("numpy"):
        net = dn.Sequential([dn.Residual(Scaled()), dn.Dense(2)]).init((3,))
        report = dn.check.gradient(net[0].layer, raises=False)
        assert report.manners and not dn.check.gradient(net, raises=False).ok


def test_a_gradient_of_another_shape_is_named(rng):
    def unsummed(x, g):
        y = x * g
        return y, dn.Pullback("unsummed", lambda dy: (dy * g, x * dy), y)

    x, g = dn.asarray(rng.standard_normal((4, 3))), dn.asarray(rng.standard_normal(3))
    words = r"a gradient of argument 1 of shape \(4, 3\); expected \(3,\)"
    with pytest.raises(ValueError, match=words):
        dn.check.gradient(unsummed, x, g)


def test_a_report_of_nothing_is_not_a_proof():
    assert not dn.check.Report("nothing", "difference")


def test_the_error_is_the_distance_of_the_two_numbers(backend, rng):
    """What a difference's own rounding explains is allowed, not taken off: no error of 0 beside numbers that differ."""
    (x,) = on(1e-3 * rng.standard_normal((40, 30)))

    def shifted(x):
        y, pullback = dn.ops.tanh(x)
        return y + 1e4, pullback  # a large sum with a small slope

    report = dn.check.gradient(shifted, x, directions=6)
    v = np.random.default_rng(0).standard_normal(x.shape)
    g = np.random.default_rng(0).standard_normal((2, *x.shape))[1]
    norm = np.linalg.norm(v) * np.linalg.norm(g)
    assert report.rows[0].error == pytest.approx(abs(report.rows[0].analytic - report.rows[0].numeric) / norm, rel=1e-3)
    for row in report.rows:
        assert (row.error > 0) == (row.analytic != row.numeric) and row.limit > 2 * dn.check.DIFFERENCE
    lines = str(report).splitlines()
    assert lines[1].split() == ["argument", "pullback", "difference", "error", "allowed"]
    first = report.rows[0]
    assert lines[2].split()[2:] == [
        f"{first.analytic:+.9e}",
        f"{first.numeric:+.9e}",
        f"{first.error:.1e}",
        f"{first.limit:.1e}",
    ]
    assert len({len(line) for line in lines[1:]}) == 1
    plain = dn.check.gradient(dn.ops.tanh, on(rng.standard_normal((3, 4)))[0])
    assert all(dn.check.DIFFERENCE < row.limit < 2 * dn.check.DIFFERENCE for row in plain.rows)


def test_the_worst_row_is_the_nearest_to_its_own_limit():
    row = dn.check.Comparison
    report = dn.check.Report("net", "difference", [row("a", 1.0, 1.0, 3e-6, 1e-5), row("b", 1.0, 1.0, 2e-7, 1e-7)])
    assert report.worst == 2e-7 and report.line() == "WRONG  worst error 2.0e-07, allowed 1.0e-07"
    assert str(report).count("<-- wrong") == 1 and str(report).splitlines()[3].endswith("1.0e-07   <-- wrong")
    for rows in ([row("a", 1.0, 1.0, 1e-9, 1e-7), row("b", np.nan, 1.0, np.nan, 1e-7)], [row("b", 1, 1, np.nan, 1e-7)]):
        for order in (rows, rows[::-1]):
            report = dn.check.Report("net", "difference", order)
            assert np.isnan(report.worst) and not report.ok and report.line().startswith("WRONG  worst error nan")
    assert dn.check.Report("net", "difference").line() == "WRONG  nothing was compared"


@pytest.mark.parametrize("check", [dn.check.gradient, dn.check.adjoint])
def test_an_array_without_elements_proves_nothing(backend, check):
    with pytest.raises(
        ValueError, match=r"argument 0 has shape \(0, 3\); it has no elements, so there is nothing to compare"
    ):
        check(dn.ops.dense, *on(np.zeros((0, 3)), np.ones((3, 2))))


def test_a_missing_gradient_is_named(backend, rng):
    y, t = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    with pytest.raises(ValueError, match=r"no gradient for argument 1, only for argument 0.*wrt=\[0\]"):
        dn.check.gradient(dn.losses.huber, y, t)
    assert dn.check.gradient(dn.losses.huber, y, t, wrt=[0])
    for arrays, got in (((), "got nothing"), ((np.arange(3),), "got int64")):
        with pytest.raises(ValueError, match=got):
            dn.check.gradient(dn.ops.relu, *arrays)


def test_mistakes_in_the_call_are_told(backend, rng):
    x = dn.asarray(rng.standard_normal((2, 3)))
    for act, kind, words in [
        (lambda: dn.check.gradient("relu", x), TypeError, "got 'relu'; expected a layer, or a function"),
        (lambda: dn.check.gradient(lambda x: 2.0 * x, x), TypeError, r"expected a pair \(y, pullback\)"),
        (lambda: dn.check.gradient(dn.ops.relu, x, wrt=[1]), ValueError, r"wrt=\[1\], but there are 1 arrays"),
        (lambda: dn.check.gradient(dn.ops.relu, x, directions=0), ValueError, "directions must be at least 1"),
        (lambda: dn.check.adjoint(dn.ops.flatten, x, seed=-1), ValueError, "check: seed must be at least 0"),
    ]:
        with pytest.raises(kind, match=words):
            act()
    assert dn.check.gradient(dn.ops.relu, x, wrt=[-1])


def test_what_cancels_in_the_sum_is_no_mistake(backend):
    """Batch norm of two values is ±1, whatever they are: the slope is next to nothing beside its terms' rounding."""
    layers = [dn.Conv2D(4, 3), dn.GlobalAveragePool2D(), dn.BatchNorm(), dn.Dense(2)]
    for seed in range(40 if backend == "numpy" else 8):
        assert dn.check.gradient(dn.Sequential(layers).init((5, 5, 1), seed=seed), seed=seed)
        assert dn.check.gradient(dn.BatchNorm().init((1, 1, 1)), seed=seed)
