"""net.trace: its numbers are those computed by hand, it changes nothing, and it finds sick layers."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from small_nets import Twice

import dualnet as dn
from dualnet.layers.state import name_of


def host(array):
    return dn.to_numpy(array).astype(np.float64)


def batch(rng, N=8, shape=(6, 6, 2), classes=4):
    x, t = rng.standard_normal((N, *shape)), rng.integers(0, classes, N)
    return dn.asarray(x, "float32"), dn.asarray(t)


def chain():
    layers = [dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(4)]
    return dn.Sequential(layers).init((6, 6, 2))


def block():
    """Every way of connecting layers, a shared one and one inside a layer."""
    shared = dn.Conv2D(4, 3, padding="same")
    body = dn.Sequential([shared, dn.ReLU(), shared])
    branches = [dn.Conv2D(2, 1), dn.SeparableConv2D(2, 3, padding="same"), dn.Identity()]
    layers = [dn.Conv2D(4, 1), dn.Residual(body), dn.Residual(dn.Conv2D(4, 1), dn.Conv2D(4, 1))]
    layers += [dn.Parallel(branches, merge="concat"), dn.Flatten(), dn.Dense(4)]
    return dn.Sequential(layers).init((6, 6, 2))


def by_name(trace):
    return {row.name: row for row in trace.rows}


# -- the numbers -------------------------------------------------------------------------------------------------------


def test_every_number_is_the_one_computed_by_hand(backend, rng):
    net, (x, t) = chain(), batch(rng)
    trace = net.trace(x, t, optimizer=0.1)
    twin, y, ways, outputs = net.copy(), x, [], []
    for layer in twin:
        y, way = layer.forward(y, train=True)
        outputs.append(host(y))
        ways.append(way)
    loss, dloss = dn.losses.softmax_cross_entropy(y, t)
    dy, deltas, grads = dloss(), [], []
    for way in reversed(ways):
        deltas.insert(0, host(dy))
        dy, gradients = way(dy)
        grads.insert(0, {name: host(g) for name, g in gradients.items()})
    assert trace.loss == pytest.approx(float(host(loss)))
    assert trace.input_spread == pytest.approx(host(x).std())
    assert [row.label for row in trace.rows] == [f"{i} {type(layer).__name__}" for i, layer in enumerate(net)]
    for row, layer, y, dy, way, own in zip(trace.rows, net, outputs, deltas, ways, grads):
        assert row.output_shape == y.shape[1:] and row.finite and not row.container
        assert row.mean == pytest.approx(y.mean(), abs=1e-7) and row.spread == pytest.approx(y.std(), rel=1e-6)
        assert row.delta_norm == pytest.approx(np.linalg.norm(dy), rel=1e-5)
        assert row.bytes_kept == way.nbytes
        assert row.forward_ms >= 0 and row.backward_ms >= 0
        weights = {name: host(p.value) for name, p in vars(layer).items() if isinstance(p, dn.Parameter)}
        if not weights:
            assert row.update_ratio is None and row.gradients == ("dx",)
            continue
        norm = np.sqrt(sum((w * w).sum() for w in weights.values()))
        change = np.sqrt(sum((0.1 * g * 0.1 * g).sum() for g in own.values()))
        assert row.update_ratio == pytest.approx(change / norm, rel=1e-4)
        assert row.gradients == ("dx", *(f"d{name}" for name in weights))
    dead = (outputs[2].reshape(-1, 4) <= 0).all(axis=0).mean()
    assert [row.dead for row in trace.rows] == [None, None, dead, None, None, None]


def test_the_total_counts_an_array_once(backend, rng):
    net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.Conv2D(4, 1), dn.Flatten(), dn.Dense(4)]).init((6, 6, 2))
    x, t = batch(rng)
    trace = net.trace(x, t)
    assert trace.bytes_kept == sum(row.bytes_kept for row in trace.rows) - 8 * 4 * 4 * 4 * 4, (
        "what ReLU gives, Conv2D keeps"
    )
    ways, y = [], x
    for layer in net.copy():
        y, way = layer.forward(y, train=True)
        ways.append(way)
    arrays = {id(a): a.nbytes for way in ways for a in way.saved.values()}
    assert trace.bytes_kept == sum(arrays.values())


@pytest.mark.parametrize(
    "optimizer", ["adam", dn.SGD(lr=0.3, momentum=0.9, weight_decay=0.1), dn.RMSProp(clip_norm=0.1)]
)
def test_the_update_is_that_of_the_coming_step(backend, rng, optimizer):
    net, (x, t) = chain(), batch(rng)
    rows = by_name(net.trace(x, t, optimizer=optimizer))
    twin, used = net.copy(), optimizer if isinstance(optimizer, str) else dn.optimizers.get(optimizer)
    used = dn.optimizers.get(used)
    twin.together = (
        False  # as trace runs it: a bias before batch norm has a gradient of mere rounding, which Adam scales
    )
    y, pullback = twin.forward(x, train=True)
    _, grads = pullback(dn.losses.softmax_cross_entropy(y, t)[1]())
    before = {name: host(p.value) for name, p in twin.parameters().items()}
    fresh = type(used)(**{k: v for k, v in used.config().items() if k != "name"})
    fresh.step(twin, grads)
    for place in ("0", "1", "5"):
        names = [name for name in before if name.startswith(f"{place}.")]
        change = sum(((host(twin.parameters()[n].value) - before[n]) ** 2).sum() for n in names)
        weight = sum((before[n] ** 2).sum() for n in names)
        assert rows[place].update_ratio == pytest.approx(np.sqrt(change / weight), rel=1e-3)


def test_a_trained_optimizer_is_asked_with_what_it_remembers(backend, rng):
    net, (x, t) = chain(), batch(rng)
    optimizer = dn.SGD(lr=0.01, momentum=0.9)
    net.fit(x, t, epochs=3, optimizer=optimizer, verbose=0)
    state = {name: np.array(dn.to_numpy(value)) for name, value in optimizer.state_dict().items()}
    assert net.trace(x, t, optimizer=dn.SGD(lr=lambda step: 0.5 / (1 + step))).lr == 0.5, "of the next step"
    moving = by_name(net.trace(x, t, optimizer=optimizer))["5"].update_ratio
    assert moving > 1.3 * by_name(net.trace(x, t, optimizer=0.01))["5"].update_ratio
    after = optimizer.state_dict()
    assert state.keys() == after.keys() and all(np.array_equal(state[name], dn.to_numpy(after[name])) for name in state)


# -- every way of connecting layers ------------------------------------------------------------------------------------


def test_branches_shared_layers_and_layers_in_layers(backend, rng):
    net, (x, t) = block(), batch(rng)
    trace = net.trace(x, t, optimizer=0.1)
    names = [row.name for row in trace.rows]
    inside = ["1.layer", "1.layer.0", "1.layer.1", "1.layer.2"]
    assert names[:6] == ["0", "1", *inside] and names[6:9] == ["2", "2.shortcut", "2.layer"]
    assert names[9:] == ["3", "3.0", "3.1", "3.1.depthwise", "3.1.pointwise", "3.2", "4", "5"]
    rows = by_name(trace)
    assert {name for name, row in rows.items() if row.container} == {"1", "1.layer", "2", "3", "3.1"}
    assert {name for name, row in rows.items() if row.joins} == {"1", "2", "3"}
    assert rows["1.layer.2"].shared and not rows["1.layer.0"].shared
    assert rows["1.layer.2"].update_ratio is None and rows["1.layer.0"].update_ratio > 0
    assert rows["2"].delta_norm == pytest.approx(rows["2.shortcut"].delta_norm), "addition passes the error on"
    parts = [rows[name].delta_norm for name in ("3.0", "3.1", "3.2")]
    assert rows["3"].delta_norm == pytest.approx(np.linalg.norm(parts)), "concatenation shares it out"


def test_a_shared_layers_update_is_that_of_all_its_places(backend, rng):
    net, (x, t) = block(), batch(rng)
    y, pullback = net.copy().forward(x, train=True)
    _, grads = pullback(dn.losses.softmax_cross_entropy(y, t)[1]())
    names = ["1.layer.0.w", "1.layer.0.b"]
    change = 0.1 * np.sqrt(sum((host(grads[n]) ** 2).sum() for n in names))
    weight = np.sqrt(sum((host(net.parameters()[n].value) ** 2).sum() for n in names))
    assert by_name(net.trace(x, t, optimizer=0.1))["1.layer.0"].update_ratio == pytest.approx(change / weight, rel=1e-4)


@pytest.mark.parametrize("layer", [dn.Dense(3), dn.ReLU(), dn.Residual(dn.Dense(3))])
def test_one_layer_alone(backend, layer, rng):
    layer.init((3,))
    x = dn.asarray(rng.standard_normal((4, 3)), "float32")
    trace = layer.trace(x, x, loss="mean_squared_error", optimizer=0.1)
    assert trace.rows[0].layer == type(layer).__name__ and trace.rows[0].name == "" and trace.rows[0].depth == 0
    assert trace.rows[0].delta_norm > 0
    ElementTree.fromstring(trace.svg())


def test_a_container_and_a_layer_of_ones_own(backend, rng):
    net = dn.Sequential([dn.Flatten(), Twice(dn.Dense(12)), dn.Dense(4)]).init((2, 2, 3))
    x, t = batch(rng, shape=(2, 2, 3))
    assert [row.name for row in net.trace(x, t).rows] == ["0", "1", "1.inner", "1.inner", "2"]


# -- nothing changes ---------------------------------------------------------------------------------------------------


def picture_of(net):
    """All that a trace could change: values, the attributes of every layer, and what they refer to."""
    state = {name: host(v).tobytes() if hasattr(v, "shape") else v for name, v in net.state_dict().items()}
    return state, [(name, id(layer), {k: id(v) for k, v in vars(layer).items()}) for name, layer in net.walk()]


def test_the_network_is_as_before(backend, rng):
    net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.Dropout(0.5), dn.Flatten(), dn.Dense(4)])
    net.init((6, 6, 2))
    x, t = batch(rng)
    before = picture_of(net)
    first, again = net.trace(x, t), net.trace(x, t)
    assert picture_of(net) == before
    assert [row.spread for row in first.rows] == [row.spread for row in again.rows], "the same mask of dropout"
    y, _ = net.forward(x, train=True)
    assert first.rows[-1].spread == pytest.approx(host(y).std()), "the mask of the next step"


def test_nothing_is_left_behind_by_an_error(backend, rng):
    class Broken(dn.Layer):
        def forward(self, x, train=False):
            raise RuntimeError("broken")

    net = dn.Sequential([dn.Flatten(), dn.Dense(3), Broken()]).init((6, 6, 2))
    before = picture_of(net)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            net.trace(*batch(rng))
    assert picture_of(net) == before and "forward" not in vars(net[1])


def test_time_goes_to_the_layer_that_takes_it(rng, monkeypatch):
    """By a clock that moves in one layer only."""
    seconds = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: seconds[0])

    def slow(x):
        seconds[0] += 0.03
        return 1.0 * x

    def slow_back(dy, x, y):
        seconds[0] += 0.02
        return 1.0 * dy

    net = dn.Sequential([dn.Flatten(), dn.Residual(dn.Lambda(slow, slow_back)), dn.Dense(4)]).init((6, 6, 2))
    rows = by_name(net.trace(*batch(rng)))
    assert (rows["1.layer"].forward_ms, rows["1.layer"].backward_ms) == pytest.approx((30, 20))
    for name in rows.keys() - {"1.layer"}:  # a container's own time leaves out its layers'
        assert (rows[name].forward_ms, rows[name].backward_ms) == pytest.approx((0, 0), abs=1e-9), name


# -- what stands out ---------------------------------------------------------------------------------------------------


def sick(rng, layers, **options):
    net = dn.Sequential([dn.Flatten(), *layers, dn.Dense(4)]).init((6, 6, 2))
    return net, net.trace(*batch(rng, 32), **options).findings


def test_a_sound_network_has_no_findings(rng):
    (x, t), _ = dn.data.load_digits()
    assert dn.models.digits_cnn().init((8, 8, 1)).trace(x[:32], t[:32]).findings == []
    images = rng.standard_normal((32, 28, 28, 1))
    assert dn.models.lenet5().init((28, 28, 1)).trace(images, t[:32]).findings == []


def test_vanishing_deltas(rng):
    _, findings = sick(rng, [layer for _ in range(8) for layer in (dn.Dense(16), dn.Sigmoid())])
    (text,) = findings
    assert "deltas vanish" in text and "more layers before it" in text and "dn.ReLU()" in text


def test_exploding_activations_and_deltas(rng):
    def wide(rng, shape, fan_in, fan_out):
        return 10 * rng.standard_normal(shape)

    layers = [layer for _ in range(5) for layer in (dn.Dense(32, initializer=wide), dn.ReLU())]
    _, findings = sick(rng, layers, optimizer=1e-9)
    assert any("activations explode" in text and "1 Dense" not in text for text in findings)
    assert any("deltas explode" in text and "clip_norm" in text for text in findings)


def test_dead_relus(rng):
    net = dn.Sequential([dn.Flatten(), dn.Dense(16), dn.ReLU(), dn.Dense(4)]).init((6, 6, 2))
    bias = np.zeros(16, "float32")
    bias[:10] = -1e3
    net[1].b.value = dn.asarray(bias)
    (text,) = net.trace(*batch(rng, 32)).findings
    assert text.startswith("2 ReLU: dead: 10 of 16 units (62%)") and "dn.LeakyReLU()" in text
    net[1].b.value = dn.asarray(bias - 1e3)
    dead, cut = net.trace(*batch(rng, 32)).findings
    assert "all 16 units" in dead and cut.startswith("1 Dense: no delta arrives (and 1 more layer before it)")
    net[1].b.value = dn.asarray(0 * bias)
    one = net.trace(*batch(rng, 1), optimizer=1e-3)
    assert one.rows[2].dead > 0.2 and one.findings == [], "one example is silent about units"


def test_updates_that_are_too_large_or_too_small(rng):
    assert any("changes the weights by" in text and "smaller" in text for text in sick(rng, [], optimizer=50.0)[1])
    assert any("hardly at all" in text and "larger" in text for text in sick(rng, [], optimizer=1e-9)[1])
    assert sick(rng, [], optimizer=dn.SGD(lr=0.0))[1] == []


def test_nan_is_named_where_it_comes_up(backend, rng):
    net, (x, t) = chain(), batch(rng)
    net[5].w.value = net[5].w.value * float("nan")
    (text,) = net.trace(x, t).findings
    assert text.startswith("5 Dense: NaN or infinity, first here")


def test_weights_of_zero_and_answers_that_are_right(rng):
    _, findings = sick(rng, [dn.Dense(8, initializer="zeros")])
    assert any("the same number everywhere" in text for text in findings)
    net = dn.Sequential([dn.Identity()]).init((3,))
    x = dn.asarray(rng.standard_normal((4, 3)), "float32")
    (text,) = net.trace(x, x, loss="mean_squared_error").findings
    assert "no delta comes back from the loss" in text


# -- how it is shown ---------------------------------------------------------------------------------------------------


def test_the_text_is_aligned_and_complete(rng):
    trace = block().trace(*batch(rng), optimizer=0.1)
    lines = str(trace).splitlines()
    assert lines[0].startswith("Sequential on (8, 6, 6, 2), float32, ") and lines[0].endswith("; SGD, lr 0.1")
    assert len(lines) == 6 + len(trace.rows) + max(1, len(trace.findings)) and repr(trace) == str(trace)
    for heading in ("output shape", "spread", "delta norm"):
        end = lines[2].index(heading) + len(heading)
        assert all(line[end - 1 : end] not in (" ", "") for line in lines[4 : 4 + len(trace.rows)])


def test_the_picture_is_whole_and_holds_every_layer(rng, tmp_path):
    trace = block().trace(*batch(rng))
    svg = trace.svg()
    root = ElementTree.fromstring(svg)
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for row in trace.rows:
        told = row.label if not row.joins else f"{row.label}: joined"
        if not row.container or row.joins:
            assert any(
                (text or "").lstrip("…") and told.endswith(text.lstrip("…").removesuffix(" (shared)"))
                for text in texts
                if text
            ), told
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        x, y, w, h = (float(rect.get(k)) for k in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + w <= 920 and y + h <= float(root.get("height"))
    assert (
        "prefers-color-scheme:dark" in svg
        and "<script" not in svg
        and "http" not in svg.replace("http://www.w3.org", "")
    )
    assert trace.save(tmp_path / "t.svg").read_text("utf-8") == svg
    assert "<table>" in trace.save(tmp_path / "t.html").read_text("utf-8")
    with pytest.raises(ValueError, match="expected .svg or .html"):
        trace.save(tmp_path / "t.png")


def test_marks_stand_on_the_layers_that_are_named(rng):
    net = dn.Sequential([dn.Flatten(), dn.Dense(16), dn.ReLU(), dn.Dense(4)]).init((6, 6, 2))
    assert "<circle" not in net.trace(*batch(rng, 32)).svg()
    net[1].b.value = net[1].b.value - 1e3
    trace = net.trace(*batch(rng, 32))
    assert trace.svg().count("<circle") == len({(mark.layer, mark.way) for mark in trace.marks}) == 2


def test_html_has_inline_styles_only_and_raw_text_nowhere(rng):
    class Sly(dn.ReLU):
        pass

    Sly.__name__ = "<script>&"
    net = dn.Sequential([dn.Flatten(), dn.Dense(4), Sly()]).init((6, 6, 2))
    trace = net.trace(*batch(rng))
    html = trace._repr_html_()
    assert "<script" not in html and "<style" not in html and "&lt;script&gt;&amp;" in html
    ElementTree.fromstring(trace.svg())
    ElementTree.fromstring(html)


# -- what cannot be traced ---------------------------------------------------------------------------------------------


def test_errors_say_what_was_expected(rng):
    net, (x, t) = chain(), batch(rng)
    with pytest.raises(ValueError, match="trace: Sequential is not initialised; call net.init"):
        dn.Sequential([dn.Dense(3)]).trace(x, t)
    with pytest.raises(ValueError, match="8 examples, but t has shape .7,."):
        net.trace(x, t[:7])
    with pytest.raises(ValueError, match="no examples"):
        net.trace(x[:0], t[:0])
    with pytest.raises(ValueError, match="expected .N, 6, 6, 2."):
        net.trace(x[..., :1], t)
    with pytest.raises(ValueError, match="unknown optimizer"):
        net.trace(x, t, optimizer="newton")
    with pytest.raises((TypeError, ValueError), match="lr"):
        net.trace(x, t, optimizer=float("nan"))
    with pytest.raises(TypeError, match="Optimizer"):
        net.trace(x, t, optimizer=True)
    with pytest.raises(ValueError, match="unknown loss"):
        net.trace(x, t, loss="no")
    with pytest.raises(ValueError, match="label 9 is out of range"):
        net.trace(x, dn.asarray([9] * 8))
    with pytest.raises(ValueError, match="has no layer '9'; its layers are '0', "):
        name_of("9", net, "viz")


def test_inputs_from_the_host_and_the_loss_of_the_training(backend, rng):
    net = dn.Sequential([dn.Flatten(), dn.Dense(1)]).init((2, 2, 1))
    x, t = rng.standard_normal((8, 2, 2, 1)), rng.standard_normal((8, 1)).astype("float32")
    net.fit(x, t, loss="mean_squared_error", verbose=0)
    assert net.trace(x, t).loss_name == "mean_squared_error"
    assert net.trace((x * 10).astype("int64"), t).dtype == "float32"
