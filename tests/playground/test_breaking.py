"""The zoo in the playground's network: forward stays right, backward is wrong where it should be, and can be mended
again."""

from __future__ import annotations

import json

import numpy as np
import playground_server
import pytest

import dualnet as dn

pytestmark = pytest.mark.skipif(not playground_server.PAGE.exists(), reason="the pages are in the checkout")
if playground_server.PAGE.exists():
    playground_server.desk()
    from session import breaking, plan

END = [["Flatten", {}], ["Dense", {"units": 10}]]
CONV = {"filters": 4, "kernel_size": 3, "padding": "same"}


def net(*layers, seed=0):
    return plan.network(plan.complete({"layers": [*layers, *END], "seed": seed}), (8, 8, 1))


NETS = {
    "averaged-bias": [],
    "square-weights": [["Flatten", {}], ["Dense", {"units": 64}], ["Tanh", {}]],
    "delta-mask": [["Conv2D", CONV], ["ReLU", {}]],
    "slope-at-zero": [["Conv2D", CONV], ["ReLU", {}]],
    "frozen-statistics": [["Conv2D", CONV], ["BatchNorm", {}]],
    "overwritten-windows": [["Conv2D", CONV | {"padding": 0}]],
    "turned-gradient": [["Conv2D", CONV]],
    "unturned-kernel": [["Conv2D", CONV | {"kernel_size": "(3, 2)"}]],
    "uncropped-padding": [["Conv2D", CONV | {"use_bias": False}]],
    "close-taps": [["Conv2D", CONV | {"dilation": 2}]],
    "crowded-deltas": [["Conv2D", CONV | {"stride": 2}]],
    "crossed-groups": [["Conv2D", CONV], ["Conv2D", {"filters": 8, "kernel_size": 3, "groups": 2}]],
    "stale-columns": [["Conv2D", CONV]],
    "unwritten-pixels": [["Conv2D", {"filters": 4, "kernel_size": 1, "stride": 2}]],
    "tied-winners": [["MaxPool2D", {"pool_size": 2}]],
    "lost-winners": [["MaxPool2D", {"pool_size": 3, "stride": 2}]],
    "zero-window": [["L2Pool2D", {"pool_size": 2}]],
    "counted-padding": [["AveragePool2D", {"pool_size": 3, "padding": 1}]],
    "second-draw": [["Dropout", {"rate": 0.5}]],
}


@pytest.fixture(autouse=True)
def on_numpy():
    with dn.use_backend("numpy"):
        yield


def passed(net, x, seed=0):
    """y, dx and the gradients for a random dy."""
    y, pullback = net.forward(net.enter(x), train=True)
    dy = np.random.default_rng(seed).standard_normal(y.shape).astype("f4")
    dx, gradients = pullback(dn.asarray(dy))
    return dn.to_numpy(y), {"x": dn.to_numpy(dx)} | {name: dn.to_numpy(g) for name, g in gradients.items()}


def test_the_table_is_whole():
    assert NETS.keys() == breaking.PLACES.keys()
    assert NETS.keys() | {breaking.FORGOTTEN_MEAN} < {exercise.name for exercise in dn.zoo.exercises()}


@pytest.mark.parametrize("name", NETS)
def test_forward_is_right_and_backward_is_wrong(name):
    x = np.round(np.random.default_rng(3).random((5, 8, 8, 1)), 1).astype("f4")  # with ties
    x[:, :2] = 0
    right, wrong, mended = net(*NETS[name]), net(*NETS[name]), net(*NETS[name])
    assert breaking.break_network(wrong, name) == name
    breaking.break_network(mended, name)
    breaking.break_network(mended, "")
    with np.errstate(all="ignore"):
        (y, good), (same_y, bad), (_, again) = passed(right, x), passed(wrong, x), passed(mended, x)
    np.testing.assert_allclose(same_y, y, rtol=2e-5, atol=2e-5)
    assert bad.keys() == good.keys() and all(bad[what].shape == good[what].shape for what in good)
    assert all(np.array_equal(again[what], good[what]) for what in good)
    differs = [what for what in good if not np.allclose(bad[what], good[what], rtol=1e-3, atol=1e-4)]
    if name in ("stale-columns", "unwritten-pixels"):  # two calls, or old memory, would show it
        return
    assert differs
    reached = {f"{path}.{p}" for path in breaking.fitting(right, name) for p in ("w", "b", "gamma", "beta")}
    before = {path for path in good if "." in path and path.partition(".")[0] < min(breaking.fitting(right, name))}
    assert set(differs) <= reached | before | {"x"}  # layers behind it get the right delta


@pytest.mark.parametrize("name", [*NETS, breaking.FORGOTTEN_MEAN])
def test_the_check_says_what_the_zoo_says(name):
    """It is the witness "slopes": it sees what that one sees, and is blind where that one is."""
    layers = NETS.get(name, [])
    wrong = net(*layers)
    assert breaking.report(wrong, "")["ok"]
    breaking.break_network(wrong, name)
    told = breaking.report(wrong, name)
    exercise = dn.zoo.show(name)
    if name != "unwritten-pixels":  # by luck
        assert told["ok"] == ("slopes" not in exercise.caught_by), told["text"]
    assert told["ok"] or "<-- wrong" in told["text"]
    assert exercise.lesson.split()[0] in told["lesson"] and told["diff"] == exercise.diff and told["layers"]


def test_the_menu_holds_the_whole_zoo():
    rows = {row["name"]: row for row in breaking.menu(net(["Conv2D", CONV], ["ReLU", {}]))}
    assert list(rows) == [exercise.name for exercise in dn.zoo.exercises()]
    assert rows["delta-mask"]["layers"] == ["1"] and rows["unturned-kernel"]["layers"] == ["0"]
    assert rows["forgotten-mean"]["layers"] == ["loss"]
    assert all(row["needs"] for row in rows.values() if not row["layers"])


@pytest.mark.parametrize("name", [name for name in NETS if name not in ("stale-columns", "unwritten-pixels")])
def test_what_breaks_only_dx_is_what_leaves_the_parameters_alone(name):
    """And with a layer in front that learns, it is not hidden any more."""
    x = np.round(np.random.default_rng(3).random((5, 8, 8, 1)), 1).astype("f4")
    x[:, :2] = 0
    right, wrong = net(*NETS[name]), net(*NETS[name])
    breaking.break_network(wrong, name)
    with np.errstate(all="ignore"):
        good, bad = passed(right, x)[1], passed(wrong, x)[1]
    own = [f"{path}.{p}" for path in breaking.fitting(right, name) for p in ("w", "b", "gamma", "beta")]
    same = all(np.allclose(bad[what], good[what], rtol=1e-3, atol=1e-4) for what in own if what in good)
    if breaking.fitting(right, name) != breaking.fitting(right, name)[:1]:
        pytest.skip("one broken layer is in front of another")
    (row,) = (row for row in breaking.menu(right) if row["name"] == name)
    assert row["only_dx"] == same
    first = row["layers"][0]
    learns = any(path.partition(".")[0] < first for path in good if "." in path)
    assert row["hidden"] == (same and not learns)
    if row["hidden"]:
        front = net(["Conv2D", CONV], *NETS[name])
        (row,) = (row for row in breaking.menu(front) if row["name"] == name)
        assert row["hidden"] is False


def test_a_broken_network_is_still_what_it_is():
    wrong = net(["Conv2D", CONV], ["ReLU", {}])
    breaking.break_network(wrong, "unturned-kernel")
    layer = wrong.children()["0"]
    assert isinstance(layer, dn.Conv2D) and repr(layer) == repr(net(["Conv2D", CONV]).children()["0"])
    breaking.break_network(wrong, "delta-mask")
    assert type(layer) is dn.Conv2D and breaking.fitting_broken(wrong) == ["1"]
    with pytest.raises(ValueError, match="averaging-bias.*averaged-bias"):
        breaking.break_network(wrong, "averaging-bias")
    with pytest.raises(ValueError, match="uphill-decay needs a network that cannot be drawn"):
        breaking.break_network(wrong, "uphill-decay")


def test_training_shows_it():
    """A kernel that is not turned: the second convolution learns, and the first one is sent astray."""
    layers = [["Conv2D", CONV], ["Tanh", {}], ["Conv2D", CONV], ["ReLU", {}], ["MaxPool2D", {"pool_size": 2}], *END]
    found = {}
    for broken in ("", "forgotten-mean", "unturned-kernel"):
        desk = playground_server.desk()
        settings = {"layers": layers, "broken": broken, "optimizer": ["SGD", {}], "lr": 0.1}
        json.loads(desk.ask("begin", json.dumps({"settings": settings})))
        told = json.loads(desk.ask("advance", '{"steps": 46}'))["answer"]
        found[broken] = told["losses"], desk.training.net.state_dict()
    losses = {broken: losses[-1] for broken, (losses, _) in found.items()}
    first = {broken: losses[0] for broken, (losses, _) in found.items()}
    assert first[""] == pytest.approx(first["unturned-kernel"], rel=1e-5) == first["forgotten-mean"]
    assert losses["unturned-kernel"] != pytest.approx(losses[""], rel=1e-3)
    assert losses["forgotten-mean"] is None or losses["forgotten-mean"] > 2 * losses[""]
