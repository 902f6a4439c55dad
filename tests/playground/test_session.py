"""The playground's Python, without a browser: what it draws, trains, undoes, explains, keeps and reports."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import playground_server
import pytest

import dualnet as dn

pytestmark = pytest.mark.skipif(not playground_server.PAGE.exists(), reason="the pages are in the checkout")
if playground_server.PAGE.exists():
    playground_server.desk()
    from session import blocks, notebook, plan, training
    from session.pictures import digits

SMALL = {
    "layers": [["Conv2D", {"filters": 3, "kernel_size": 3}], ["ReLU", {}], ["Flatten", {}], ["Dense", {"units": 10}]]
}
RANDOM = {
    "layers": [
        ["Conv2D", {"filters": 4, "kernel_size": 3, "padding": "same"}],
        ["BatchNorm", {}],
        ["ReLU", {}],
        ["MaxPool2D", {"pool_size": "(2, 2)"}],
        ["Dropout", {"rate": 0.5}],
        ["Flatten", {}],
        ["Dense", {"units": 10}],
    ]
}


@pytest.fixture(autouse=True)
def on_numpy():
    with dn.use_backend("numpy"):
        yield


class Asked:
    """A desk, asked as the page asks it."""

    def __init__(self, **settings):
        self.desk = playground_server.desk()
        self.begin(settings=settings)

    def __getattr__(self, method):
        def ask(**given):
            told = json.loads(self.desk.ask(method, json.dumps(given)))
            if "error" in told:
                raise RuntimeError(told["error"])
            return told["answer"]

        return ask

    @property
    def state(self):
        now = self.desk.training
        held = now.net.state_dict() | now.optimizer.state_dict()
        return {name: dn.to_numpy(v) if hasattr(v, "shape") else v for name, v in held.items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# -- the blocks --------------------------------------------------------------------------------------------------------


def described():
    catalogue = blocks.catalogue()
    return [pytest.param(block, id=block["kind"]) for block in catalogue["blocks"] + catalogue["optimizers"]]


@pytest.mark.parametrize("block", described())
def test_every_option_has_a_meaning_and_its_choices_are_taken(block):
    kind, options = getattr(dn, block["kind"]), {o["name"]: o["default"] for o in block["options"] if o["required"]}
    rate = {"lr": 0.1} if block["group"] == "optimizer" else {}
    rate |= {"momentum": 0.9} if block["kind"] == "SGD" else {}  # which nesterov needs
    for option in block["options"]:
        assert option["name"] in blocks.SAID or option["name"] in option["meaning"], option
        first = re.search(r"`(\w+)`", option["meaning"])
        assert option["name"] in blocks.SAID or first[1] == option["name"], "its own sentence"
        assert not re.match(r"(So|But|And|Then|It|They)\b", option["meaning"]), "a sentence that stands alone"
        assert option["meaning"].rstrip(".") != block["summary"].rstrip("."), "said once"
        for choice in option["choices"]:
            kind(**rate | options | {option["name"]: blocks.value(choice)})
        if option["form"] == "switch":
            kind(**rate | options | {option["name"]: not option["default"]})


def test_the_choices_are_all_that_there_are():
    (conv,) = [block for block in blocks.catalogue()["blocks"] if block["kind"] == "Conv2D"]
    offered = {option["name"]: option["choices"] for option in conv["options"]}
    assert offered["mode"] == ["correlation", "convolution"]
    from dualnet.layers.initializers import NAMES

    assert set(offered["initializer"]) == set(NAMES)


@pytest.mark.parametrize("kind", sorted(plan.KINDS))
def test_every_block_is_written_and_read_again(kind):
    options = {
        o["name"]: o["default"] for o in blocks.described(kind, getattr(dn, kind), "")["options"] if o["required"]
    }
    net = dn.Sequential([plan.made([kind, options], plan.KINDS, "a block")])
    again = plan.layers({"layers": plan.drawing(net)})
    assert repr(again) == repr(list(net.children().values()))
    assert repr(eval(plan.code_of(again[0]), {"dn": dn})) == repr(again[0])


def test_shapes_stop_at_the_first_block_that_does_not_fit():
    rows = plan.shapes(
        plan.complete({"layers": [["Conv2D", {"filters": 2, "kernel_size": 9}], ["ReLU", {}]]}), (8, 8, 1)
    )
    assert "Conv2D" in rows[0]["error"] and "9" in rows[0]["error"] and rows[1] == {}
    rows = plan.shapes(plan.complete(SMALL), (8, 8, 1))
    assert [row["shape"] for row in rows] == [[6, 6, 3], [6, 6, 3], [108], [10]]
    assert [row["parameters"] for row in rows] == [30, 0, 0, 1090]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"layers": []}, "add a block"),
        ({"layers": [["Lambda", {}]]}, "cannot be drawn here"),
        ({"layers": ["Dense"]}, "a name and its options"),
        ({"layers": [["Dense", {"units": 0}]]}, "Dense: units"),
        ({"layers": [["Dense", {"width": 3}]]}, "expected Dense\\(units"),
        ({"layers": [["Conv2D", {"filters": 2, "kernel_size": 3}]]}, "end with Flatten and Dense"),
        ({"layers": [["Flatten", {}], ["Dense", {"units": 5}]]}, "evaluate: .*label"),
        ({"lr": "fast"}, "could not convert|lr"),
        ({"batch_size": 0}, "batch_size"),
        ({"speed": 3}, "no setting speed"),
        ({"data": "upload"}, "draw or upload them again"),
        ({"broken": "no-such"}, "no exercise"),
        ({"broken": "lost-winners"}, "needs max pooling with windows that overlap"),
    ],
)
def test_what_does_not_fit_is_said_and_the_old_training_stays(settings, words):
    asked = Asked(**SMALL)
    asked.advance(steps=2)
    with pytest.raises(RuntimeError, match=words):
        asked.begin(settings=settings)
    assert asked.advance(steps=1)["step"] == 3


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SMALL, RANDOM, RANDOM | {"optimizer": ["SGD", {"momentum": 0.9}], "seed": 3}])
def test_the_notebook_is_the_same_run(settings):
    """Bit for bit: weights, running statistics and the figures of every epoch; rates that change on the way too."""
    asked = Asked(**settings, batch_size=100)
    asked.advance(steps=7)
    asked.set_lr(lr="0.003")
    trials = asked.advance(steps=2 * 15 - 7)["trials"]
    names = {}
    exec(notebook.code(asked.desk.training).replace("verbose=2", "verbose=0"), names)
    net, history = names["net"], names["history"]
    assert same({n: dn.to_numpy(v) for n, v in net.state_dict().items()}, {n: asked.state[n] for n in net.state_dict()})
    assert history["val_accuracy"] == [trial["accuracy"] for trial in trials]
    assert names["optimizer"].lr == 0.003


@pytest.mark.parametrize("room", [training.ROOM, 40_000])
def test_every_step_comes_back_as_it_was(room, monkeypatch):
    """With all snapshots, and with so little room that most are made again from earlier ones."""
    monkeypatch.setattr(training, "ROOM", room)
    asked, were = Asked(**RANDOM), {}
    for step in range(31):
        were[step] = asked.state
        asked.advance(steps=1)
        if step == 12:
            asked.set_lr(lr=0.5)
            were_12_to_13 = asked.state
    held = asked.desk.training
    assert (held.spacing > 1) == (room == 40_000) and held.kept == sum(one.size for one in held.snapshots.values())
    if room == 40_000:
        assert held.kept <= 2 * room and len(held.snapshots) < 20
    for step in (30, 17, 14, 12, 5, 0):
        told = asked.rewind(step=step)
        assert told["step"] == step and len(held.losses) == step and same(asked.state, were[step]), step
    asked.advance(steps=13)
    assert not same(asked.state, were_12_to_13)  # the rate that was set later is gone with the steps
    assert asked.state["lr"] == 0.01
    with pytest.raises(RuntimeError, match="the steps 0 … 13; got 14"):
        asked.rewind(step=14)


def test_a_rate_that_was_taken_back_is_not_in_the_notebook():
    asked = Asked(**SMALL)
    asked.advance(steps=5)
    asked.set_lr(lr=0.5)
    assert "0.5" in asked.notebook()["code"]
    asked.rewind(step=2)
    assert "0.5" not in asked.notebook()["code"]


def test_a_change_stays_where_it_was_made():
    asked = Asked(**SMALL)
    asked.advance(steps=5)
    asked.break_(name="averaged-bias")
    asked.advance(steps=5)
    assert asked.rewind(step=4)["broken"] == ""
    assert asked.advance(steps=3)["broken"] == ""  # it was made in a future that is not any more


def test_it_stops_at_a_loss_that_is_no_number():
    asked = Asked(**SMALL, lr=1e30, optimizer=["SGD", {}])
    told = asked.advance(steps=50)
    assert not told["fine"] and told["step"] < 50 and "learning rate is too large" in told["message"]
    assert told["losses"][-1] is None  # JSON has no NaN
    assert asked.rewind(step=0)["fine"]


def test_the_default_network_learns():
    asked = Asked()
    assert asked.advance(steps=999, until=20 * 23)["trials"][-1]["accuracy"] >= 0.95
    assert asked.advance(steps=999, until=3)["step"] == 460  # never back


def test_it_trains_to_until_and_no_further():
    asked = Asked(**SMALL)
    assert asked.advance(steps=9, until=3)["step"] == 3
    assert asked.advance(steps=9, until=2)["step"] == 3  # never back


# -- looking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["0.dw[1,0,0,2]", "0.dx[0,3,3,0]", "0.y[0,2,2,1]", "3.dw[7,4]", "3.dx[0,5]", "1.dx[0,1,1,0]"]
)
def test_what_is_shown_of_a_sum_adds_up(target):
    asked = Asked(**SMALL)
    asked.advance(steps=3)
    why = asked.explain(target=target, place=4)
    assert why["ok"] and why["target"] == target
    shown = sum(term["value"] for term in why["terms"]) + why["rest"]
    assert shown == pytest.approx(why["sum"], rel=1e-9, abs=1e-15) and len(why["terms"]) <= 13
    assert why["zeros"] == (why["rest"] == 0)
    net, pictures = asked.desk.training.net, asked.desk.pictures
    direct = dn.explain(net, pictures.xv[4:5], target, t=pictures.tv[4:5], train=False)
    assert why["value"] == direct.value


def test_a_broken_layer_disagrees_with_its_sum():
    asked = Asked(**SMALL, broken="unturned-kernel")
    assert not asked.explain(target="0.dx[0,3,3,0]")["ok"] and asked.explain(target="0.dw[1,0,0,2]")["ok"]


def test_inside_holds_the_arrays_of_the_pass():
    asked = Asked(**SMALL)
    told = asked.inside(layer="0", place=2)
    net, x = asked.desk.training.net, asked.desk.pictures.xv[2:3]
    y, _ = net.children()["0"].forward(dn.asarray(x))
    packed = told["arrays"]["y"]
    shown = np.frombuffer(base64.b64decode(packed["bytes"]), "<f4").reshape(packed["shape"])
    assert np.array_equal(shown, dn.to_numpy(y)[0]) and told["whole"]["w"] == [3, 3, 1, 3]
    assert told["next"] == "1" and asked.inside(layer="3")["last"]
    assert asked.inside(layer="0", place=-1)["place"] == 359
    with pytest.raises(RuntimeError, match="there is no layer '9'; they are 0, 1, 2, 3"):
        asked.inside(layer="9")


def test_the_answer_is_the_networks():
    asked = Asked(**SMALL)
    asked.advance(steps=100)
    pixels = asked.desk.pictures.xv[3].ravel().tolist()
    told = asked.answer(pixels=pixels)
    y = dn.to_numpy(asked.desk.training.net(asked.desk.pictures.xv[3:4]))[0]
    assert told["probabilities"] == pytest.approx((np.exp(y) / np.exp(y).sum()).tolist(), rel=1e-5)
    assert told["cam"]["shape"] == {"Grad-CAM": [6, 6], "saliency": [8, 8]}[told["how"]]
    maps = Asked(
        layers=[["Conv2D", {"filters": 8, "kernel_size": 3}], ["GlobalAveragePool2D", {}], ["Dense", {"units": 10}]]
    )
    maps.advance(steps=100)
    seen = [maps.answer(pixels=maps.desk.pictures.xv[i].ravel().tolist())["how"] for i in range(10)]
    assert "Grad-CAM" in seen
    flat = Asked(layers=[["Flatten", {}], ["Dense", {"units": 10}]]).answer(pixels=pixels)
    assert flat["how"] == "saliency" and flat["cam"]["shape"] == [8, 8] and "maps" in flat["why"]


# -- images of one's own -----------------------------------------------------------------------------------------------


def test_a_few_drawings_are_enough():
    side, labels = 12, ["bar", "dot"] * 6
    images = np.zeros((12, side, side))
    for i in range(12):
        images[i, 5 - i % 3 : 7, 1:11] = i % 2 == 0
        images[i, 4:7, 4 : 7 + i % 3] += i % 2
    asked = Asked(**SMALL)
    about = asked.draw(images=images.reshape(12, -1).tolist(), labels=labels, shape=[side, side, 1])
    assert about == {
        "name": "drawings",
        "classes": ["bar", "dot"],
        "shape": [12, 12, 1],
        "train": 9 * 10,
        "validation": 2,
    }
    asked.begin(settings=SMALL | {"data": "drawings"})
    assert asked.advance(steps=60)["trials"][-1]["accuracy"] == 1.0
    file = np.load(io.BytesIO(base64.b64decode(asked.images()["bytes"])))
    assert file["x"].shape == (90, 12, 12, 1) and 'np.load("playground-data.npz")' in asked.notebook()["code"]
    assert asked.begin(settings=SMALL)["data"]["name"] == "digits"


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"x": np.zeros((4, 5, 5))}, "expected the images x and the classes t"),
        ({"x": np.zeros((4, 5)), "t": np.arange(4)}, "expected images"),
        ({"x": np.zeros((4, 99, 5)), "t": np.arange(4)}, "at most 64"),
        ({"x": np.zeros((4, 5, 5)), "t": np.array(["a", None] * 2)}, r"has dtype object.*np.array\(names, dtype=str\)"),
        ({"x": np.zeros((4, 5, 5)), "t": np.arange(3)}, "each of the 4 images"),
        ({"x": np.zeros((4, 5, 5)), "t": np.zeros(4)}, "two classes or more"),
        ({"x": np.zeros((4, 5, 5)), "t": np.array([0, 0, 0, 1])}, "only one image of 1"),
    ],
)
def test_an_upload_that_does_not_fit(arrays, words, tmp_path):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(RuntimeError, match=words):
        Asked(**SMALL).upload(data=base64.b64encode((tmp_path / "data.npz").read_bytes()).decode())


def test_an_upload(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", x=rng.integers(0, 256, (20, 8, 8), "uint8"), t=np.arange(20) % 12 % 3)
    asked = Asked(**SMALL)
    about = asked.upload(data=base64.b64encode((tmp_path / "data.npz").read_bytes()).decode())
    assert about["classes"] == ["0", "1", "2"] and about["train"] + about["validation"] == 20
    assert asked.desk.pictures.x.max() <= 1 and asked.begin(settings=SMALL | {"data": "upload"})["step"] == 0
    with pytest.raises(RuntimeError, match="not an .npz file"):
        asked.upload(data=base64.b64encode(b"PK nothing").decode())


@pytest.mark.parametrize("save, at, new", [(np.savez, 26, 0), (np.savez, -116, 9), (np.savez_compressed, 28, 255)])
def test_a_damaged_upload(save, at, new, tmp_path):
    save(tmp_path / "data.npz", x=np.random.default_rng(0).random((4, 5, 5)), t=np.arange(4) % 2)
    data = bytearray((tmp_path / "data.npz").read_bytes())
    data[at] = new  # the length of a name, a flag that says "encrypted", and where the packed bytes begin
    with pytest.raises(RuntimeError, match="not an .npz file of arrays, or it is damaged"):
        Asked(**SMALL).upload(data=base64.b64encode(data).decode())


# -- keeping -----------------------------------------------------------------------------------------------------------


def test_the_file_is_the_one_that_python_reads(tmp_path):
    asked = Asked(**RANDOM, broken="delta-mask")
    asked.advance(steps=30)
    data = asked.save()["bytes"]
    (tmp_path / "model.npz").write_bytes(base64.b64decode(data))
    net, x = dn.load(tmp_path / "model.npz"), digits().xv
    assert same({n: dn.to_numpy(v) for n, v in net.state_dict().items()}, {n: asked.state[n] for n in net.state_dict()})
    asked.break_(name="")
    assert np.array_equal(dn.to_numpy(net(x)), dn.to_numpy(asked.desk.training.net(x)))
    asked.break_(name="delta-mask")
    asked.save()
    assert not asked.check()["ok"]  # saving mends a copy

    told = Asked(**SMALL).load(data=data)
    assert [kind for kind, _ in told["settings"]["layers"]] == [kind for kind, _ in RANDOM["layers"]]
    with pytest.raises(RuntimeError, match="^playground: it is not a .*npz file"):
        asked.load(data=base64.b64encode(b"nothing").decode())


def test_a_file_that_cannot_be_drawn(tmp_path):
    residual = dn.Sequential([dn.Residual(dn.Dense(4)), dn.Dense(10)]).init((4,))
    data = base64.b64encode(residual.save(tmp_path / "a.npz").read_bytes()).decode()
    with pytest.raises(RuntimeError, match="holds the layer Residual"):
        Asked(**SMALL).load(data=data)


def test_the_notebook_is_one(tmp_path):
    asked = Asked(**SMALL, broken="averaged-bias")
    text = asked.notebook()["text"]
    book = json.loads(text)
    assert book["nbformat"] == 4 and {cell["cell_type"] for cell in book["cells"]} == {"markdown", "code"}
    assert "averaged-bias" in "".join(book["cells"][0]["source"])
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(text, 4))


def test_the_page_of_explain_is_there():
    told = Asked(**SMALL).page(target="0.dw[0,0,0,0]")
    assert told["name"] == "explain.html" and told["text"].startswith("<!doctype html>")


# -- the console, and the desk -----------------------------------------------------------------------------------------


def test_the_console_keeps_its_names_and_shows_what_python_shows():
    asked = Asked(**SMALL)
    assert asked.run(code="a = 3\nprint('six', 2 * a)\na + 1") == {"text": "six 6\n4\n", "ok": True}
    assert asked.run(code="a") == {"text": "3\n", "ok": True}
    assert "(1437, 8, 8, 1)" in asked.run(code="x.shape")["text"]
    told = asked.run(code="net.infer(3)")
    assert not told["ok"] and told["text"].count("File") == 1 and '"<console>", line 1' in told["text"]
    assert not asked.run(code="1 +")["ok"] and not asked.run(code="raise SystemExit")["ok"]
    assert asked.run(code="'a' * 100_000")["text"].endswith("… and more")


def test_what_the_console_changes_is_there_after_going_back():
    asked = Asked(**SMALL)
    asked.advance(steps=3)
    asked.run(code="net.children()['0'].w.value = net.children()['0'].w.value * 0")
    before = asked.state
    asked.advance(steps=3)
    asked.rewind(step=3)
    assert same(asked.state, before) and not before["0.w"].any()


def test_only_questions_are_answered():
    desk = playground_server.desk()
    for method in ("ask", "now", "_begun", "__init__", "console", "nothing"):
        assert "no question" in json.loads(desk.ask(method, "{}"))["error"]
    assert "no network yet" in json.loads(desk.ask("advance", '{"steps": 1}'))["error"]
    assert "error" in json.loads(desk.ask("begin", "not JSON"))
