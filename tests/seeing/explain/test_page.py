"""The interactive page: what is in the file, and what happens when a headless Chromium moves the pointer and presses
keys."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import shutil
import subprocess
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import dualnet as dn
from dualnet import markup
from dualnet.seeing.explain.example import example, subject
from dualnet.seeing.explain.page import Page
from dualnet.seeing.explain.smallest import smallest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def needs_chromium(test):
    """A browser reads a file, and cannot see which backend made it: NumPy does."""
    there = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (chromium, google-chrome)")
    return pytest.mark.usefixtures("by_numpy")(pytest.mark.once(there(test)))


@pytest.fixture
def by_numpy():
    with dn.use_backend("numpy"):
        yield


class Reader(HTMLParser):
    """Tags with their attributes, and the text of scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._script = dict(attributes).get("id", "") if tag == "script" else None

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data


def data_of(page: Page) -> dict:
    return json.loads(Reader(page.html).scripts["data"])


def unpacked(packed: dict) -> np.ndarray:
    flat = np.frombuffer(base64.b64decode(packed["bytes"]), np.dtype(packed["dtype"]).newbyteorder("<"))
    return flat.reshape(packed["shape"])


def deep(seed: int = 0, dtype: str = "float32") -> tuple[dn.Layer, np.ndarray, np.ndarray]:
    """A network with everything that a page may meet: stride, padding, groups, a turned kernel, a batch."""
    net = dn.Sequential(
        [
            dn.Conv2D(4, (3, 2), stride=(2, 1), padding=((1, 1), (0, 1)), dilation=(1, 2)),
            dn.GELU(),
            dn.Conv2D(6, 3, padding="same", groups=2, mode="convolution"),
            dn.MaxPool2D(3, stride=2, padding=1),
            dn.L2Pool2D(2, stride=1),
            dn.AveragePool2D(2, stride=1, padding=1),
            dn.Flatten(),
            dn.Dense(5),
        ]
    )
    rng = np.random.default_rng(seed)
    net.init((9, 8, 3), seed=seed, dtype=dtype)
    return net, rng.standard_normal((2, 9, 8, 3)).astype(dtype), np.array([1, 4])


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_without_network():
    text = example().page().html
    assert len(text.encode()) < 300_000
    assert not re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?\s*(?:https?:)?//", text)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) and "@import" not in text
    for mark in ("@TITLE@", "@STYLE@", "@SCRIPT@", "@DATA@"):
        assert mark not in text
    assert "fetch(" not in text and "XMLHttpRequest" not in text and "eval(" not in text


TITLES = [
    "@DATA@",
    "@TITLE@ /*@STYLE@*/ /*@SCRIPT@*/",
    "</title></script><script>alert(1)",
    "\\1 \\g<0> & \"q\" 'r'",
    "\ud800",
]


@pytest.mark.parametrize("title", TITLES)
def test_a_title_is_only_ever_a_title(title, tmp_path):
    """A mark in a title is filled with nothing, and no title ends a tag or a script."""
    page, usual = example().page(title=title), example().page(title="usual")
    assert page.html.replace(markup.escape(title), "usual", 1) == usual.html
    reader = Reader(page.html)
    assert [tag for tag, _ in reader.tags] == [tag for tag, _ in Reader(usual.html).tags]
    assert data_of(page) == data_of(usual) and page.save(tmp_path / "page.html").stat().st_size > 50_000


def test_a_name_cannot_end_the_script(tmp_path):
    """A layer's name is data for the script: ``</script>`` would end it there, ``<!--<script>`` would never."""

    class Sly(dn.ReLU):
        def __repr__(self):
            return "Sly(</script> <!--<script> \ud800 @DATA@)"

    Sly.__name__ = "<!--<script></SCRIPT>"
    net = dn.Sequential([dn.Conv2D(2, 3), Sly()]).init((5, 5, 1))
    page = dn.explain(net, np.ones((1, 5, 5, 1), "f4"), "0.y[0,0,0,0]").page()
    assert "<" not in Reader(page.html).scripts["data"] and page.save(tmp_path / "page.html")
    layer = data_of(page)["layers"][1]
    assert layer["kind"] == Sly.__name__ and layer["title"] == repr(Sly())
    assert page.html.count("</script>") == 2 and page.html.lower().count("<script") == 2


def test_the_page_can_be_used_without_eyes_or_mouse():
    reader = Reader(example().page().html)
    tags = reader.tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert ("html", {"lang": "en"}) in tags
    assert any(a.get("aria-live") == "polite" for _, a in tags)
    assert any(t == "meta" and "width=device-width" in (a.get("content") or "") for t, a in tags)
    inputs = [a for tag, a in tags if tag == "input"]
    assert [a["value"] for a in inputs if a.get("name") == "scene"] == ["forward", "arrives", "dx", "dw"]
    assert [a["value"] for a in inputs if a.get("name") == "spelling"] == ["correlation", "convolution"]
    assert [a["type"] for a in inputs if a["type"] != "radio"] == ["range"]
    text = example().page().html
    for words in (
        "prefers-color-scheme: dark",
        "prefers-reduced-motion",
        ":focus-visible",
        "forced-colors",
        "noscript",
    ):
        assert words in text


def test_the_numbers_in_the_file_are_the_librarys():
    net, x, t = deep()
    page = dn.explain(net, x, "2.dw[1,2,0,4]", t=t).page()
    layers = {layer["path"]: layer for layer in data_of(page)["layers"]}
    assert [layer["kind"] for layer in layers.values()][-3:] == ["Flatten", "Dense", "loss"]
    assert layers["7"]["view"]["form"] == "dense" and len(page.html.encode()) < 300_000
    for path, word in [("0", "y"), ("0", "dx"), ("0", "dw"), ("2", "w"), ("3", "dx"), ("4", "y"), ("5", "dx")]:
        view = layers[path]["view"]
        array = unpacked(view[word])
        for index in np.ndindex(array.shape):
            if word == "w":
                continue
            if word == "dw":
                m, n, c, d = index
                value = dn.explain(net, x, f"{path}.dw[{m},{n},{view['cs'][c]},{view['ds'][d]}]", t=t).value
            else:
                value = dn.explain(net, x, f"{path}.{word}[0,{index[0]},{index[1]},{index[2]}]", t=t).value
            assert array[index] == value
            if np.prod(index) > 4:
                break
    w = unpacked(layers["2"]["view"]["w"])
    assert w[1, 2, 0, 0] == dn.to_numpy(net[2].w.value)[1, 2, 0, 0]
    assert w[1, 2, 0, 5] == 0 and w[1, 2, 2, 5] == dn.to_numpy(net[2].w.value)[1, 2, 0, 5]  # by groups


def test_a_loss_with_options_of_its_own_shows_no_sum_without_them():
    net = dn.Dense(3).init((2,), seed=0)
    x, t = np.ones((2, 2), "f4"), np.array([0, 2])
    plain = dn.losses.softmax_cross_entropy
    for loss, how in ((plain, "softmax"), (functools.partial(plain, label_smoothing=0.1), "other")):
        last = data_of(dn.explain(net, x, "dw[0,0]", t=t, loss=loss).page())["layers"][-1]["view"]
        assert last["how"] == how and ("p" in last) == (how == "softmax")


def test_an_infinite_answer_that_is_right_costs_nothing():
    """0 · ∞ would be NaN, and with it the row of the other images."""
    net = dn.Dense(1).init((1,), seed=0)
    net.w.value = dn.asarray([[1e30]], "float32")
    x, t = np.array([[1e-30], [1e30], [-1e30]], "f4"), np.array([[1], [1], [0]], "f4")
    with np.errstate(all="ignore"):
        page = dn.explain(net, x, "y[0,0]", t=t, loss="binary_cross_entropy").page()
        assert np.isinf(dn.to_numpy(net(dn.asarray(x)))).sum() == 2
    assert data_of(page)["layers"][-1]["view"]["restE"] == 0


def test_large_networks_fit():
    net = dn.Sequential([dn.Conv2D(64, 3, padding=1), dn.ReLU(), dn.Conv2D(64, 3, padding=1), dn.MaxPool2D(2)])
    net.init((32, 32, 16))
    x = np.random.default_rng(0).standard_normal((1, 32, 32, 16)).astype("float32")
    page = dn.explain(net, x, "2.dw[1,1,40,50]").page()
    assert len(page.html.encode()) < 300_000
    view = next(layer["view"] for layer in data_of(page)["layers"] if layer["path"] == "2")
    assert 40 in view["cs"] and 50 in view["ds"] and {"restY", "restDx"} <= view.keys()


def test_what_cannot_be_drawn_is_told(tmp_path):
    large = dn.Sequential([dn.Conv2D(1, 3)]).init((40, 40, 1))
    with pytest.raises(ValueError, match=r"maps of at most 32 × 32 and .*; layer 0 \(Conv2D"):
        dn.explain(large, np.ones((1, 40, 40, 1), "float32"), "0.db[0]").page()
    with pytest.raises(ValueError, match="the page cannot draw Conv2DTranspose.*; print the explanation instead"):
        dn.explain(dn.Conv2DTranspose(1, 2).init((3, 3, 1)), np.ones((1, 3, 3, 1), "float32"), "db[0]").page()
    with pytest.raises(IsADirectoryError, match="is a folder; expected the name of a file"):
        example().to_html(tmp_path)


def test_a_page_never_shows_other_numbers_than_its_explanation():
    net, x, t = deep()
    why = dn.explain(net, x, "0.dw[1,1,0,2]", t=t)
    net[0].w.value = net[0].w.value * 2
    with pytest.raises(ValueError, match="the network has changed since"):
        why.page()


def test_saving(tmp_path):
    why = example()
    path = why.to_html(tmp_path / "page", title="a <title> & more")
    assert path == tmp_path / "page.html"
    assert "<title>a &lt;title&gt; &amp; more</title>" in path.read_text("utf-8")
    page = why.page()
    assert page.save(tmp_path / "other.htm").exists() and page.title in repr(page) and "kB" in repr(page)
    frame = page._repr_html_()
    assert frame.startswith("<iframe") and frame.count("<script") == 0  # escaped, in srcdoc


def test_a_shared_layer_is_drawn_in_all_its_places():
    shared, x = dn.Conv2D(2, 3, padding=1), np.random.default_rng(0).standard_normal((1, 4, 4, 2)).astype("float32")
    net = dn.Sequential([shared, dn.Tanh(), shared]).init((4, 4, 2))
    first, _, second = (layer["view"] for layer in data_of(dn.explain(net, x, "0.dw[1,1,0,1]").page())["layers"])
    assert unpacked(first["w"]).tolist() == unpacked(second["w"]).tolist()
    assert unpacked(second["y"])[1, 2, 0] == dn.explain(net, x, "2.y[0,1,2,0]").value != unpacked(first["y"])[1, 2, 0]


def test_a_target_that_is_not_drawn_opens_the_nearest_layer():
    net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.Conv2DTranspose(1, 2)]).init((5, 5, 1))
    page = dn.explain(net, np.ones((1, 5, 5, 1), "float32"), "2.dw[0,0,0,0]").page()
    assert data_of(page)["target"] == {"path": "1", "name": "", "index": []}


# -- in a browser ------------------------------------------------------------------------------------------------------

TOOLS = """
const $ = (query) => document.querySelector(query), all = (query) => [...document.querySelectorAll(query)];
const cell = (map, r, c) => $(`.maps [data-name="${map}"] .cell[data-r="${r}"][data-c="${c}"]`);
const hover = (element) =>
  element.dispatchEvent(new PointerEvent("pointerover", { bubbles: true, pointerType: "mouse" }));
const leave = () => $("#maps").dispatchEvent(new PointerEvent("pointerleave"));
const press = (key, element = document.activeElement) =>
  element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const radio = (name, value) => $(`input[name=${name}][value=${value}]`).click();
const choices = (name) => all(`input[name=${name}]`).map((e) => e.value);
const open = (path, sum) => { $(`#chain button[data-path="${path}"]`).click(); radio("sum", sum); };
const choose = (id, place) => { const s = $(`#${id} select`); s.value = place; s.dispatchEvent(new Event("change")); };
const number = (query, name) => Number($(query)?.dataset[name]);
const told = () => ({
  entry: $("#account").dataset.entry,
  library: number("[data-library]", "library"),
  sum: number("[data-sum]", "sum"),
  rows: all("#account [data-part]").map((e) => e.dataset.part),
  total: $("#account [data-total]")?.dataset.total,
  ten: number("#account [data-ten]", "ten"),
  adds: $("#account .terms")?.dataset.adds,
  same: $("[data-library]")?.dataset.same,
  anchor: $("#account .anchor")?.textContent,
  cards: $("#spellings").hidden || $("#spellings").dataset.entry !== $("#account").dataset.entry ? null
    : all("#cards [data-value]").map((e) => Number(e.dataset.value)),
});
const places = (map) => [...map.querySelectorAll(".cell.lit[data-map]")].map((e) => `${e.dataset.r},${e.dataset.c}`);
const pairs = () => all(".maps .map").map((map) => [map.dataset.name, places(map)]);
const lit = () => Object.fromEntries(pairs().filter((each) => each[1].length));
const focused = () => {
  const d = document.activeElement.dataset;
  return d.map ? `${d.map}[${d.r},${d.c}]` : document.activeElement.tagName;
};
"""


def browse(page: Page, folder: Path, script: str, width: int = 1280, height: int = 800, then: str = "") -> dict:
    """Open a page, run a script in it, and return what the script put into ``out``; ``then`` runs 8 seconds later."""
    body = f"const out = {{}};{TOOLS}\ntry {{ {script} }} catch (error) {{ out.error = String(error.stack); }}"
    done = 'document.title = "done"; const e = document.createElement("pre"); e.id = "out"; '
    done += "e.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(out)))); "
    watch = '<script>const errors = []; addEventListener("error", (e) => errors.push(e.message));</script>'
    text = page.html.replace("<head>", "<head>" + watch)
    end = f"out.errors = errors; {done} parent.document.body.append(e);"
    last = f"<script>{body} {f'setTimeout(() => {{ {then} {end} }}, 8000);' if then else end}</script></body>"
    (folder / "inner.html").write_text(text.replace("</body>", last), "utf-8")
    # in a frame, which is exactly as large as it is told to be: the window of a headless Chromium is not
    frame = f'<iframe src="inner.html" style="width:{width}px;height:{height}px;border:0"></iframe>'
    (folder / "page.html").write_text(f'<!doctype html><body style="margin:0">{frame}', "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=12000", "--window-size=1400,1100"]
    environment = os.environ | {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    run = subprocess.run(
        [*command, "--dump-dom", (folder / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="out">([^<]*)</pre>', run.stdout)
    assert found, f"the page said nothing:\n{run.stderr[-2000:]}"
    out = json.loads(base64.b64decode(found[1]).decode())
    assert "error" not in out and out["errors"] == [], out
    return out


EVERYTHING = """
out.seen = [];
for (const path of all("#chain button").map((b) => b.dataset.path)) {
  $(`#chain button[data-path="${path}"]`).click();
  for (const sum of choices("sum")) {
    radio("sum", sum);
    if (sum === "new") continue;
    const spellings = $("#spelling").hidden ? ["correlation"] : ["correlation", "convolution"];
    for (const spelling of spellings) {
      if (spellings.length > 1) radio("spelling", spelling);
      const places = all(`.maps [data-name="${sum}"] .cell[data-map]`);
      for (const each of places) {
        if (places.length > 6 && (Number(each.dataset.r) * 7 + Number(each.dataset.c)) % 3) continue;
        hover(each);
        out.seen.push({ path, name: sum, maps: all(".maps .map").map((m) => m.dataset.name), ...told() });
      }
    }
  }
}
"""


@needs_chromium
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_sum_on_the_page_is_the_librarys_number(tmp_path, dtype):
    net, x, t = deep(dtype=dtype)
    page = dn.explain(net, x, "2.dw[1,2,0,4]", t=t).page()
    out = browse(page, tmp_path, EVERYTHING)
    assert len(out["seen"]) > 150
    ways: dict[str, set[str]] = {}
    for seen in out["seen"]:
        ways.setdefault(seen["path"], set()).add(seen["name"])
        assert seen["same"] == "true", seen
        close = 1e-12 if dtype == "float64" else 2e-5
        if seen["cards"]:
            np.testing.assert_allclose(seen["cards"], seen["library"], rtol=close, atol=close)
    weighted, through = {"y", "dx", "dw", "db"}, {"y", "dx"}
    assert ways == {p: weighted for p in "027"} | {p: through for p in "13456"} | {"loss": {"E", "dy"}}
    for seen in out["seen"][:: max(1, len(out["seen"]) // 60)]:
        if seen["path"] == "loss":
            continue
        why = dn.explain(net, x, f"{seen['path']}.{seen['entry']}", t=t)
        assert seen["library"] == why.value and seen["anchor"] == why.anchor
        assert abs(seen["sum"] - why.value) <= 2 * why.limit


def wide(dtype: str = "float32") -> tuple[dn.Layer, np.ndarray, np.ndarray]:
    """A network of everything that is no convolution and no pooling window."""
    net = dn.Sequential(
        [
            dn.BatchNorm(),
            dn.GroupNorm(2),
            dn.LayerNorm(),
            dn.SpatialDropout2D(0.4),
            dn.Mish(),
            dn.GlobalAveragePool2D(),
            dn.Dense(12),
            dn.LayerNorm(),
            dn.Hardswish(),
            dn.Dropout(0.5),
            dn.Dense(5),
            dn.Softmax(),
            dn.LogSoftmax(),
        ]
    )
    rng = np.random.default_rng(3)
    net.init((4, 5, 6), seed=3, dtype=dtype)
    for name, parameter in net.parameters().items():
        if "gamma" in name or "beta" in name:
            parameter.value = dn.asarray(rng.standard_normal(parameter.shape), dtype)
    return net, rng.standard_normal((3, 4, 5, 6)).astype(dtype), rng.standard_normal((3, 5)).astype(dtype)


@needs_chromium
@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_layer_can_be_opened(tmp_path, dtype, train):
    net, x, t = wide(dtype)
    why = dn.explain(net, x, "6.dx[1,2]", t=t, loss="mean_squared_error", train=train)
    page = why.page()
    assert all(layer["view"] for layer in data_of(page)["layers"])
    out = browse(page, tmp_path, EVERYTHING)
    seen = {(each["path"], each["name"]) for each in out["seen"]}
    learned = {
        ("0", "dgamma"),
        ("0", "dbeta"),
        ("7", "dgamma"),
        ("6", "dw"),
        ("10", "db"),
        ("loss", "E"),
        ("loss", "dy"),
    }
    assert learned | {(str(place), way) for place in range(13) for way in ("y", "dx")} <= seen
    for each in out["seen"]:
        assert each["same"] == "true", each
    for each in out["seen"][::7]:
        if each["path"] != "loss":
            again = dn.explain(net, x, f"{each['path']}.{each['entry']}", t=t, loss="mean_squared_error", train=train)
            assert each["library"] == again.value and each["anchor"] == again.anchor, each
            assert abs(each["sum"] - again.value) <= 2 * again.limit


def own_distance(y, t):
    return dn.losses.cosine_distance(y, t)


@needs_chromium
@pytest.mark.parametrize(
    ("loss", "t"),
    [
        ("softmax_cross_entropy", [2, 0]),
        ("mean_squared_error", [[1.0, 1, 1], [1, 1, 1]]),
        ("binary_cross_entropy", [[1.0, 0, 1], [0, 1, 0.25]]),
        ("huber", [[1.0, 1, 1], [-0.5, -1, 4]]),
        ("cosine_distance", [[1.0, 1, 1], [1, 1, 1]]),
        (own_distance, [[1.0, 1, 1], [1, 1, 1]]),
    ],
)
def test_the_deltas_begin_at_the_loss(tmp_path, loss, t):
    net = dn.Sequential([dn.Dense(3)]).init((2,), seed=1)
    x, t = np.array([[1.0, 2.0], [3.0, -1.0]], "float32"), np.array(t, "int64" if np.ndim(t) == 1 else "float32")
    page = dn.explain(net, x, "0.dx[1,0]", t=t, loss=loss).page()  # of the second image
    script = """
    $('#chain [data-path="loss"]').click(); out.sums = choices("sum"); radio("sum", "dy");
    out.dy = [0, 1, 2].map((c) => { hover(cell("dy", 0, c)); return told(); });
    out.words = $("#account .words")?.textContent;
    out.shown = all('.maps [data-name="dy"] .cell').map((e) => e.getAttribute("aria-label"));
    out.labels = all("#sums label").map((e) => e.textContent); out.formulas = [$(".formula")?.textContent];
    out.over = document.documentElement.scrollWidth - innerWidth;
    if (choices("sum").includes("E")) { radio("sum", "E"); out.E = told(); }
    if (out.E) out.formulas.push($(".formula").textContent);
    """
    out = browse(page, tmp_path, script, 360)  # on a small phone the longest formula still fits
    assert out["over"] <= 0
    y, _ = net.forward(net.enter(dn.asarray(x)), True)
    E, back = dn.losses.get(loss)(y, dn.asarray(t))
    dy = dn.to_numpy(back())
    assert [f"dy[1,{d}] = {value:.6g}".replace("-", "−") for d, value in enumerate(dy[1])] == out["shown"]
    if loss in ("cosine_distance", own_distance):  # not one of those whose sums the page can write
        assert out["sums"] == ["dy"] and "E" not in out
        name, ours = (
            ("own_distance", "")
            if loss is own_distance
            else (loss, f" Its formula is in the help of dn.losses.{loss}.")
        )
        assert out["words"] == f"This is the slope of {name} at this output.{ours}"
        return
    assert [seen["library"] for seen in out["dy"]] == dy[1].tolist() and out["E"]["library"] == float(dn.to_numpy(E))
    n = " / 2" if loss in ("softmax_cross_entropy", "mean_squared_error") else " / 6"  # images, or all their outputs
    for formula in [*out["formulas"], *(label.removesuffix("E10") for label in out["labels"])]:
        assert n in formula and not (formula.startswith("dy") and f"){n}" not in formula), formula
    assert loss != "huber" or out["formulas"][1] == "E = Σ (½ r² if |r| ≤ 1, else |r| − ½) / 6,  r = y − t"
    for seen in [*out["dy"], out["E"]]:
        assert seen["same"] == seen["adds"] == "true" and seen["anchor"] == "E10", seen
        assert added(seen["rows"]) == Decimal(seen["total"].replace("−", "-")), seen
    if loss == "huber":
        far = abs(dn.to_numpy(y)[1] - t[1]) > 1
        assert far.any() and not far.all() and [len(seen["rows"]) for seen in out["dy"]] == [1 if f else 2 for f in far]


@needs_chromium
def test_a_right_answer_whose_probability_is_rounded_to_0_still_has_its_surprise(tmp_path):
    net = dn.Sequential([dn.Dense(3)]).init((2,), seed=1)
    net[0].w.value = dn.asarray([[1000.0, 0, -1000], [0, 0, 0]], "float32")
    x = np.array([[1.0, 2.0], [1.0, -1.0]], "float32")
    page = dn.explain(net, x, "0.dx[1,0]", t=np.array([2, 1]), loss="softmax_cross_entropy").page()
    out = browse(page, tmp_path, """$('#chain [data-path="loss"]').click(); radio("sum", "E"); out.E = told();""")
    assert out["E"]["library"] == out["E"]["sum"] == 1500 and out["E"]["same"] == "true"
    assert out["E"]["rows"] == ["500", "1000"]  # this image, and the other one


@needs_chromium
def test_a_delta_can_be_followed_from_the_loss_to_the_first_pixel_and_back(tmp_path):
    script = """
    $("#step .begin").click(); out.path = [told()];
    while ($("#account .back")) { $("#account .back").click(); out.path.push(told()); }
    out.ends = $("#account .follow").textContent;
    out.home = [told()];
    while ($("#account .towards")) { press("n", document.body); out.home.push(told()); }
    """
    net, x, t = deep()
    for layer, images, labels, target in [(*subject(), "0.dw[1,2,0,0]"), (net, x, t, "2.dw[1,2,0,4]")]:
        out = browse(dn.explain(layer, images, target, t=labels).page(), tmp_path, script)
        assert len(out["path"]) == len(out["home"]) == len(layer) + 1
        assert out["path"][0]["entry"].startswith("dy[") and all(e["entry"].startswith("dx[") for e in out["path"][1:])
        assert "the backward pass ends here" in out["ends"] and all(each["same"] == "true" for each in out["path"])
        for place, each in enumerate(
            out["path"][1:]
        ):  # each is a term of the next, and the largest that the delta became
            last = len(layer) - 1 - place
            before = dn.explain(layer, images, f"{last}.{each['entry']}", t=labels)
            came, went = (tuple(map(int, re.findall(r"\d+", e["entry"]))) for e in (out["path"][place], each))
            assert came in before.cells["dy"]
            use = before._call.everything([str(last)])[str(last)][0]
            alone = np.zeros_like(use.y)
            alone[came] = 1
            parts = abs(use.backward(alone)[0])  # where that delta goes, and how much of it
            assert parts[went] == pytest.approx(parts.max(), rel=1e-5)


@needs_chromium
def test_a_step_moves_the_loss_and_can_be_undone(tmp_path):
    net, x, t = subject()
    script = """
    const output = () => $("#step output");
    const state = () => [Number(output().dataset.loss), $("#step .take").textContent, output().textContent];
    out.before = state(); $("#step .take").click(); out.after = state(); out.focus = document.activeElement.className;
    const select = $("#step select"); out.rates = [...select.options].map((o) => Number(o.text));
    select.value = 3; select.dispatchEvent(new Event("change")); out.far = state();
    open("0", "new"); out.weight = told(); out.cell = cell("new", 0, 0).getAttribute("aria-label");
    $("#step .take").click(); out.undone = state();
    """
    out = browse(dn.explain(net, x, "0.dx[0,3,4,0]", t=t).page(), tmp_path, script)

    def loss(rate: float) -> float:
        moved = net.copy()
        y, way = moved.forward(moved.enter(dn.asarray(x)), True)
        E, back = dn.losses.softmax_cross_entropy(y, dn.asarray(t))
        gradients = way(back())[1]
        for name, parameter in moved.parameters().items():
            parameter.value = parameter.value - rate * gradients[name]
        return float(dn.to_numpy(dn.losses.softmax_cross_entropy(moved(moved.enter(dn.asarray(x))), dn.asarray(t))[0]))

    assert out["rates"] == [0.001, 0.01, 0.1, 0.5, 1, 2] and out["focus"] == "take"
    assert out["before"][0] == out["undone"][0] == pytest.approx(loss(0), rel=1e-6)
    assert out["after"][0] == pytest.approx(loss(0.01), rel=1e-5) and out["after"][0] < out["before"][0]
    assert out["far"][0] == pytest.approx(loss(0.5), rel=1e-5)
    assert "undo" in out["after"][1] and "take one step" in out["undone"][1]
    assert "a straight line would give" in out["after"][2]
    moved = dn.to_numpy(net[0].w.value)[0, 0, 0, 0] - 0.5 * dn.explain(net, x, "0.dw[0,0,0,0]", t=t).value
    assert out["cell"] == f"w[0,0,0,0] = {moved:.6g}".replace("-", "−") and out["weight"]["adds"] == "true"


@needs_chromium
def test_a_reader_is_told_what_is_not_on_the_screen(tmp_path):
    """The terms of all filters are counted, and a row of each card adds what its picture leaves out."""
    script = """
    radio("sum", "dx"); cell("dx", 3, 4).click();
    out.cards = all("#cards .card").map((e) => [Number(e.querySelector("[data-more]")?.dataset.more),
      e.querySelector("[data-more] small")?.textContent, Number(e.querySelector("[data-value]").dataset.value)]);
    out.first = all("#cards .card:first-child tr td:last-child").map((e) => Number(e.textContent.replace("−", "-")));
    out.lead = $("#lead").textContent; out.titles = all(".anchor, #sums span").filter((e) => !e.title).length;
    """
    page = example("0.dx[0,3,4,0]").page()
    out = browse(page, tmp_path, script, then='out.said = $("#live").textContent;')
    why = example("0.dx[0,3,4,0]")
    assert len(why.terms) == 27 and f"the sum of {len(why.terms)} terms" in out["said"]
    others = sum(term.value for term in why.terms if any(c.name == "dy" and c.index[-1] for c in term.cells))
    assert [words for _, words, _ in out["cards"]] == ["the other filters"] * 3
    for more, _, value in out["cards"]:
        assert more == pytest.approx(others, rel=1e-5) and value == pytest.approx(why.value, rel=1e-5)
    assert sum(out["first"]) + out["cards"][0][0] == pytest.approx(why.value, abs=2e-3)
    assert "one image. It is a fresh network that has learned nothing yet" in out["lead"]
    assert out["titles"] == 0


@needs_chromium
@pytest.mark.parametrize(("path", "how"), [(1, "y = max(0, x)"), (2, "y = eˣ / Σ eˣ")])
def test_what_is_no_sum_is_told_by_its_formula(tmp_path, path, how):
    """A function of one number has no terms to count; nor has a share of the whole."""
    net = dn.Sequential([dn.Dense(3), dn.ReLU(), dn.Softmax()]).init((2,), seed=1)
    page = dn.explain(net, np.array([[1.0, 2.0]], "float32"), f"{path}.y[0,1]").page()
    out = browse(page, tmp_path, 'cell("y", 0, 1).click();', then='out.said = $("#live").textContent;')
    assert f", by {how}, equation E7. The library has the same number." in out["said"]


def test_a_network_that_has_learned_is_not_called_fresh():
    net, x, t = subject()
    assert data_of(dn.explain(net, x, t=t).page())["untrained"] is True
    net.fit(x, t, epochs=1, verbose=0)
    assert data_of(dn.explain(net, x, t=t).page())["untrained"] is False


def added(rows: list[str]) -> Decimal:
    return sum((Decimal(row.replace("−", "-")) for row in rows), Decimal(0))


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("of", "target"), [(deep, "2.dx[0,1,2,3]"), (wide, "6.dx[1,2]")])
def test_what_is_visible_adds_up_to_the_last_figure(tmp_path, of, target, width):
    """The rows as they are read, added like a pupil would, are the sum as it is read."""
    net, x, t = of()
    loss = "softmax_cross_entropy" if t.ndim == 1 else "mean_squared_error"
    out = browse(dn.explain(net, x, target, t=t, loss=loss).page(), tmp_path, EVERYTHING, width)
    sums = [seen for seen in out["seen"] if seen["adds"] == "true"]
    assert len(sums) > 150 and any(len(seen["rows"]) > 5 for seen in sums)
    assert {seen["path"] for seen in sums} == {*map(str, range(len(net))), "loss"}
    for seen in sums:
        assert added(seen["rows"]) == Decimal(seen["total"].replace("−", "-")), seen
        parts = [abs(float(row.replace("−", "-"))) for row in [*seen["rows"], seen["total"]]]
        assert abs(float(seen["total"].replace("−", "-")) - seen["sum"] / 10 ** seen["ten"]) <= max(parts) * 1e-4


@needs_chromium
def test_a_long_sum_ends_in_a_row_for_the_others_and_can_be_opened(tmp_path):
    script = """
    open("4", "y"); hover(cell("y", 0, 3)); out.short = told();
    const rows = () => all("#account .terms td:first-child").map((e) => e.textContent);
    out.last = rows().at(-1);
    $("#account .more").click(); out.all = told(); out.rows = rows(); out.more = $("#account .more") !== null;
    out.scrolls = getComputedStyle($("#account .terms")).overflowY;
    """
    out = browse(example().page(), tmp_path, script)
    why = example("4.y[0,3]")
    assert re.fullmatch(r"… and \d+ more", out["last"]) and len(out["short"]["rows"]) < len(out["all"]["rows"])
    nonzero = [term for term in why.terms if term.value]
    assert sum(" · " in row for row in out["rows"]) == len([t for t in nonzero if len(t.cells) == 2])
    assert out["more"] is False and out["scrolls"] == "visible"
    assert added(out["short"]["rows"]) == added(out["all"]["rows"]) == Decimal(out["all"]["total"].replace("−", "-"))


HANDS = """
out.opened = told();
radio("sum", "dx"); hover(cell("dx", 3, 4)); out.dx = [told(), lit(), all(".maps .map").map((m) => m.dataset.name)];
hover(cell("dy", 2, 2)); out.dy = lit();
leave();
cell("dx", 5, 1).click(); leave(); out.clicked = [told().entry, focused()];
press("ArrowRight"); press("ArrowDown"); out.walked = [told().entry, focused()];
press("Home"); out.home = focused();
for (let i = 0; i < 9; i++) press("ArrowLeft"); out.edge = focused();
const turned = () => all(".maps .turned").map((m) => m.dataset.name).join();
out.turned = [turned()];
cell("w", 1, 1).focus(); press("ArrowRight"); out.against = focused();
press("r"); out.turned.push(turned(), $("input[name=spelling]:checked").value);
cell("w", 1, 1).focus(); press("ArrowRight"); out.along = focused();
press("f"); out.turned.push(turned(), $("input[name=sum]:checked").value);
radio("spelling", "correlation"); out.turned.push(turned());
out.equation = $("#sums").textContent;
hover(cell("y", 2, 3)); out.y = [told(), lit()];
out.tabs = all('.maps .cell[tabindex="0"]').length; out.maps = all(".maps .map").map((m) => m.dataset.name);
choose("pick-d", 2); hover(cell("y", 0, 0)); out.filter = told(); choose("pick-d", 0);
radio("sum", "dw"); hover(cell("dw", 1, 2)); out.dw = [told(), lit(), all(".maps .map").map((m) => m.dataset.name)];
out.turned.push(turned()); radio("spelling", "convolution"); out.turned.push(turned());
radio("sum", "db"); hover(cell("db", 0, 0)); out.db = lit();
radio("theme", "dark"); out.dark = getComputedStyle(document.body).backgroundColor;
radio("theme", "light"); out.light = getComputedStyle(document.body).backgroundColor;
open("2", "dx");
hover(cell("dy", 1, 1));
out.route = [lit(), all("#routes path").length];
out.route.push(all("#routes path.now").length, all('.maps [data-name="dx"] .won').length);
out.spellings = $("#spellings").hidden;
open("1", "dx"); out.relu = [all(".maps .map").map((m) => m.dataset.name), told()];
out.unnamed = all('[role="gridcell"]').filter((e) => !e.getAttribute("aria-label")).length;
"""


@needs_chromium
def test_hands_and_keys(tmp_path):
    out = browse(example("0.dw[1,2,0,0]").page(), tmp_path, HANDS)

    def cells(target: str) -> dict[str, set[str]]:
        """Rows and columns that met, of the channel and filter that are shown."""
        found: dict[str, set[str]] = {}
        for term in example(target).terms:
            if any(cell.index[-1] != 0 for cell in term.cells if cell.name in ("dy", "w", "b")):
                continue
            for cell in term.cells:
                if cell.name == "b":
                    continue
                place = cell.index[:2] if cell.name == "w" else cell.index[1:3]
                found.setdefault(cell.name, set()).add(",".join(map(str, place)))
        return found

    def lit(found: dict) -> dict[str, set[str]]:
        return {name: set(places) for name, places in found.items()}

    assert out["opened"]["entry"] == "dw[1,2,0,0]" and out["opened"]["library"] == example("0.dw[1,2,0,0]").value
    assert out["dx"][0]["entry"] == "dx[0,3,4,0]" and lit(out["dx"][1]) == cells("0.dx[0,3,4,0]")
    assert out["dw"][0]["entry"] == "dw[1,2,0,0]" and lit(out["dw"][1]) == cells("0.dw[1,2,0,0]")
    # only what takes part in the sum is shown
    assert out["dx"][2] == ["dx", "dy", "w"] and out["dw"][2] == ["dw", "x", "dy"] and out["maps"] == ["y", "x", "w"]
    assert {len(cells) for cells in out["db"].values()} == {36} and list(out["db"]) == ["dy"]
    assert len(out["dy"]["dx"]) == len(out["dy"]["w"]) == 9  # where a delta goes
    assert out["clicked"] == ["dx[0,5,1,0]", "dx[5,1]"] and out["walked"] == ["dx[0,6,2,0]", "dx[6,2]"]
    assert out["home"] == "dx[6,0]" and out["edge"] == "dx[6,0]"
    # for dx the kernel is read turned; the other spelling turns it back; forward it is the other way round;
    # for dw nothing is turned, unless dy is, for a convolution
    assert out["turned"] == ["w", "", "convolution", "w", "y", "", "", "dy"]
    assert out["against"] == "w[1,0]" and out["along"] == "w[1,2]"
    assert "y = x ⊗ w + b" in out["equation"]
    assert lit(out["y"][1]) == cells("0.y[0,2,3,0]") and out["tabs"] == len(out["maps"]) == 3
    assert out["filter"]["entry"] == "y[0,0,0,2]" and out["filter"]["library"] == example("0.y[0,0,0,2]").value
    assert out["dark"] != out["light"] == "rgb(255, 255, 255)"
    routes, paths, now, winners = out["route"]
    assert (paths, now, winners) == (9, 1, 9) and len(routes["dx"]) == 1
    r, c = map(int, routes["dx"][0].split(","))
    assert example(f"2.dx[0,{r},{c},0]").cells == {"dy": [(0, 1, 1, 0)]}
    assert out["spellings"] is True and out["relu"][0] == ["dx", "dy", "slope"] and out["relu"][1]["same"] == "true"
    assert out["unnamed"] == 0


@needs_chromium
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_answer_in_a_minute(tmp_path, width, height):
    """Someone who opens the page, and neither clicks nor scrolls, reads the verdict and sees dx with its sum."""
    script = """
    const within = (e) => { const b = e.getBoundingClientRect();
      return b.width > 0 && b.top >= 0 && b.left >= 0 && b.bottom <= innerHeight && b.right <= innerWidth; };
    const top = (e) => { const b = e.getBoundingClientRect();
      return e.contains(document.elementFromPoint(b.x + b.width / 2, b.y + 4)); };
    const parts = ["h1", "#answer", ".story-words", ".scene", ".story-sum", ".play"];
    out.seen = parts.map((query) => [query, within($(query)), top($(query))]);
    out.answer = $("#answer").textContent; out.size = parseFloat(getComputedStyle($("#answer")).fontSize);
    out.scene = $("input[name=scene]:checked").value; out.sum = $(".story-sum").textContent;
    out.turned = [$(".scene .kernel").classList.contains("turned"), all(".scene .zero").length];
    out.scrolled = scrollY; out.window = [innerWidth, innerHeight];
    out.explore = $("input[name=sum]:checked").value;
    """
    out = browse(example().page(), tmp_path, script, width, height)
    assert out["window"] == [width, height] and out["scrolled"] == 0
    assert [each for each in out["seen"] if not (each[1] and each[2])] == []
    assert out["answer"] == (
        "The stored weights never turn. To write dx as a correlation, you read the kernel turned by 180°; "
        "for dw nothing is turned."
    )
    assert out["size"] >= 16 and out["scene"] == "dx" and out["explore"] == "dx"
    assert out["sum"].replace(" ", "") == "dx[1,1]=1·4+(−1)·3+0·2+2·1=3" and out["turned"] == [True, 16]


STORY = """
const slider = $(".player input"), result = {};
for (const scene of choices("scene")) {
  radio("scene", scene);
  result[scene] = Array.from({ length: Number(slider.max) + 1 }, (_, place) => {
    slider.value = place; slider.dispatchEvent(new Event("input"));
    const box = $(".glider").getBoundingClientRect();
    return { told: slider.getAttribute("aria-valuetext"), here: $(".scene .result .here").getAttribute("aria-label"),
      under: all(".scene .source .cell").filter((e) => {
        const b = e.getBoundingClientRect(), x = b.x + b.width / 2, y = b.y + b.height / 2;
        return x > box.x && x < box.right && y > box.y && y < box.bottom;
      }).map((e) => Number(e.textContent.replace("−", "-"))),
      by: all(".glider i").map((e) => Number(e.textContent.replace("×", "").replace("−", "-"))) };
  });
}
out.story = result;
"""


@needs_chromium
def test_the_story_is_computed_and_its_kernel_stands_where_its_sum_says(tmp_path):
    page = example().page()
    still = page.html.replace("<style>", "<style>* { transition: none !important }", 1)  # as for who wants no motion
    out = browse(Page(still, page.title), tmp_path, STORY)
    layer, x, dy = smallest()
    for name, entry, count in (("forward", "y", 9), ("dx", "dx", 16), ("dw", "dw", 4)):
        frames = out["story"][name]
        assert len(frames) == count
        for frame in frames:
            index = [int(i) for i in re.findall(r"\d+", frame["told"])[:2]]
            full = f"{entry}[{index[0]},{index[1]},0,0]" if entry == "dw" else f"{entry}[0,{index[0]},{index[1]},0]"
            why = dn.explain(layer, x, full, dy=dy)
            assert frame["here"] == f"{full} = {why.value:.6g}".replace("-", "−")
            assert sum(a * b for a, b in zip(frame["under"], frame["by"], strict=True)) == why.value
            words = [term.split("·") for term in frame["told"].split(" = ")[1].split(" + ")]
            assert sum(number(a) * number(b) for a, b in words) == why.value == number(frame["told"].split(" = ")[2])
    assert [frame["by"] for frame in out["story"]["forward"]] == [[1, 2, 3, 4]] * 9
    assert [frame["by"] for frame in out["story"]["dx"]] == [[4, 3, 2, 1]] * 16
    assert [frame["by"] for frame in out["story"]["dw"]] == [[1, -1, 2, 0, 2, 1, -1, 1, 3]] * 4
    assert "when y[0,1] = 13 grows a little, E falls by 1 times that" in out["story"]["arrives"][1]["told"]


def number(text: str) -> float:
    return float(text.strip("()").replace("−", "-"))


@needs_chromium
def test_the_story_plays_only_when_asked_and_stops_by_itself(tmp_path):
    script = """
    window.place = () => Number($(".player input").value);
    out.opened = [place(), all(".later").length, document.getAnimations().length];
    radio("scene", "dw"); $(".play").click();
    out.began = [place(), $(".play").textContent, all(".scene .later").length];
    $(".play").click(); out.paused = [place(), $(".play").textContent, all(".later").length];
    $(".play").click();
    """
    later = """
    out.end = [place(), $(".play").textContent, all(".later").length];
    """
    out = browse(example().page(), tmp_path, script, then=later)
    assert out["opened"] == [5, 0, 0]
    assert out["began"] == [1, "❚❚ Pause", 2] and out["paused"] == [1, "▶ Play", 0]
    assert out["end"] == [3, "▶ Play", 0]


@needs_chromium
def test_on_a_phone_a_map_has_a_row_of_its_own_and_cells_for_a_finger(tmp_path):
    script = """
    const box = (e) => e.getBoundingClientRect();
    out.maps = {};
    for (const path of all("#chain button").map((b) => b.dataset.path)) {
      $(`#chain button[data-path="${path}"]`).click();
      for (const sum of choices("sum")) {
        radio("sum", sum);
        const maps = all(".maps .map").map(box).sort((a, b) => a.top - b.top);
        const between = maps.slice(1).map((each, place) => each.top - maps[place].bottom);
        const account = box($("#account")), own = box(all(".maps .map")[0]);
        out.maps[path + " " + sum] = [Math.min(...all(".maps .cell").map((e) => Math.min(box(e).width, box(e).height))),
          Math.min(0, ...between), account.top - own.bottom];
      }
    }
    out.scene = Math.min(...all(".scene .cell").map((e) => box(e).width));
    """
    net, x, t = deep()
    out = browse(dn.explain(net, x, "0.dw[0,0,0,0]", t=t).page(), tmp_path, script, 390)
    assert out["scene"] == 36 and len(out["maps"]) > 20
    for name, (cell, overlap, below) in out["maps"].items():
        assert cell >= 36 and overlap == 0 and 0 <= below < 40, name


@needs_chromium
@pytest.mark.parametrize("width", [328, 356, 390])
def test_the_kernel_of_the_story_stands_beside_its_map_in_a_narrow_frame(tmp_path, width):
    script = """
    radio("scene", "dx");
    const [map, kernel] = [".scene .source", ".scene .kernel"].map((part) => $(part).getBoundingClientRect());
    out.beside = kernel.left >= map.right && kernel.top < map.bottom;
    """
    assert browse(example().page(), tmp_path, script, width)["beside"]


@needs_chromium
def test_the_page_around_it_chooses_the_colours_and_is_told_the_height(tmp_path):
    script = """
    const dark = () => getComputedStyle(document.body).backgroundColor === "rgb(15, 19, 24)";
    const tell = (data) => { dispatchEvent(new MessageEvent("message", { data })); return dark(); };
    out.dark = [tell({ theme: "light" }), tell({ theme: "dark" }), tell({ theme: "pink" }), tell("dark"), tell(null)];
    out.stored = localStorage.getItem("dualnet-theme");
    parent.addEventListener("message", (event) => { out.told = event.data.height; });
    """
    then = "out.height = document.body.offsetHeight;"
    out = browse(example().page(), tmp_path, script, 1280, then=then)
    assert out["dark"] == [False, True, True, True, True] and out["stored"] is None
    assert out["told"] == out["height"] > 1000


@needs_chromium
@pytest.mark.parametrize("width", [390, 700, 1280])
def test_nothing_covers_anything(tmp_path, width):
    """In a frame of the documentation, and by itself: no part of the page lies on another, wherever it is scrolled."""
    script = """
    out.stuck = all("body *").filter((e) => ["fixed", "sticky"].includes(getComputedStyle(e).position)).length;
    const names = ".top, .story > *, #explore > h2, #lead, #chain, #step, #controls, #words, .maps .map, #account";
    const parts = all(names + ", .legend, #spellings, footer")
      .filter((e) => e.offsetParent);
    out.over = [];
    for (const path of ["0", "2", "loss"]) {
      $(`#chain button[data-path="${path}"]`).click();
      for (const [i, a] of parts.entries()) for (const b of parts.slice(i + 1)) {
        const [p, q] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
        if (!p.width || !q.width || a.contains(b) || b.contains(a)) continue;
        const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
        const tall = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
        if (wide > 1 && tall > 1) out.over.push([path, a.id || a.className, b.id || b.className, wide, tall]);
      }
    }
    """
    out = browse(example().page(), tmp_path, script, width)
    assert out["stuck"] == 0 and out["over"] == []


@needs_chromium
@pytest.mark.parametrize("width", [360, 740, 1280])
def test_nothing_sticks_out(tmp_path, width):
    script = """
    out.over = [];
    const within = (selector, frame) => all(selector).filter((e) => { const box = e.getBoundingClientRect();
      return box.left < frame.left - 1 || box.right > frame.right + 1; }).length;
    for (const path of all("#chain button").map((b) => b.dataset.path)) {
      $(`#chain button[data-path="${path}"]`).click();
      for (const sum of choices("sum")) {
        radio("sum", sum);
        const outside = within(".maps .pan", $(".table").getBoundingClientRect());
        out.over.push([path, sum, document.documentElement.scrollWidth - innerWidth, outside]);
      }
    }
    for (const scene of choices("scene")) {
      radio("scene", scene);
      const outside = within(".scene .grid", $(".story").getBoundingClientRect());
      out.over.push([scene, "", document.documentElement.scrollWidth - innerWidth, outside]);
    }
    out.width = innerWidth;
    """
    net, x, t = deep()
    out = browse(dn.explain(net, x, "0.dw[0,0,0,0]", t=t).page(), tmp_path, script, width)
    assert out["width"] == width
    assert [each for each in out["over"] if each[2] > 0 or each[3]] == []
