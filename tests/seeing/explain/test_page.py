"""The interactive page: what is in the file, and what a headless Chromium does with the reader's hands and keys."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import dualnet as dn
from dualnet import markup
from dualnet.seeing.explain.example import example
from dualnet.seeing.explain.page import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (chromium, google-chrome)")


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
    assert [a["value"] for t, a in tags if t == "input" and a["name"] == "pass"] == ["forward", "backward"]
    assert [a["value"] for t, a in tags if t == "input" and a["name"] == "spelling"] == ["correlation", "convolution"]
    assert all(a.get("type") == "radio" for t, a in tags if t == "input")
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
    assert [layer["kind"] for layer in layers.values()][-2:] == ["Flatten", "Dense"]
    assert layers["7"]["view"] is None and len(page.html.encode()) < 300_000
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
    with pytest.raises(ValueError, match=r"maps of at most 32 × 32; layer 0 \(Conv2D"):
        dn.explain(large, np.ones((1, 40, 40, 1), "float32"), "0.db[0]").page()
    with pytest.raises(ValueError, match="draws convolution, pooling and activations on maps, and not Dense"):
        dn.explain(dn.Dense(2).init((3,)), np.ones((1, 3), "float32"), "dw[0,0]").page()
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
    assert data_of(example("4.dw[0,1]").page())["target"] == {"path": "2", "name": "", "index": []}


# -- in a browser ------------------------------------------------------------------------------------------------------

TOOLS = """
const $ = (query) => document.querySelector(query), all = (query) => [...document.querySelectorAll(query)];
const cell = (map, r, c) => $(`[data-name="${map}"] .cell[data-r="${r}"][data-c="${c}"]`);
const hover = (element) =>
  element.dispatchEvent(new PointerEvent("pointerover", { bubbles: true, pointerType: "mouse" }));
const leave = () => $("#maps").dispatchEvent(new PointerEvent("pointerleave"));
const press = (key, element = document.activeElement) =>
  element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const radio = (name, value) => $(`input[name=${name}][value=${value}]`).click();
const choose = (id, place) => { const s = $(`#${id} select`); s.value = place; s.dispatchEvent(new Event("change")); };
const number = (query, name) => Number($(query)?.dataset[name]);
const told = () => ({
  entry: $("#account").dataset.entry,
  library: number("[data-library]", "library"),
  sum: number("[data-sum]", "sum"),
  same: $("[data-library]")?.dataset.same,
  anchor: $("#account .anchor")?.textContent,
  cards: $("#spellings").hidden || $("#spellings").dataset.entry !== $("#account").dataset.entry ? null
    : all("[data-value]").map((e) => Number(e.dataset.value)),
});
const places = (map) => [...map.querySelectorAll(".cell.lit[data-map]")].map((e) => `${e.dataset.r},${e.dataset.c}`);
const pairs = () => all(".map").map((map) => [map.dataset.name, places(map)]);
const lit = () => Object.fromEntries(pairs().filter((each) => each[1].length));
const focused = () => {
  const d = document.activeElement.dataset;
  return d.map ? `${d.map}[${d.r},${d.c}]` : document.activeElement.tagName;
};
"""


def browse(page: Page, folder: Path, script: str, width: int = 1280) -> dict:
    """Open a page, run a script in it, and return what the script put into ``out``."""
    body = f"const out = {{}};{TOOLS}\ntry {{ {script} }} catch (error) {{ out.error = String(error.stack); }}"
    done = 'document.title = "done"; const e = document.createElement("pre"); e.id = "out"; '
    done += "e.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(out)))); "
    watch = '<script>const errors = []; addEventListener("error", (e) => errors.push(e.message));</script>'
    text = page.html.replace("<head>", "<head>" + watch)
    if width > 1000:
        last = f"<script>{body} out.errors = errors; {done} document.body.append(e);</script></body>"
        (folder / "page.html").write_text(text.replace("</body>", last), "utf-8")
    else:  # the window of a headless Chromium has a least width: the page lies in a frame
        last = f"<script>{body} out.errors = errors; {done} parent.document.body.append(e);</script></body>"
        (folder / "inner.html").write_text(text.replace("</body>", last), "utf-8")
        frame = f'<!doctype html><body><iframe src="inner.html" style="width:{width}px;height:800px;border:0"></iframe>'
        (folder / "page.html").write_text(frame, "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=2000", "--window-size=1280,900"]
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
for (const button of all("#chain button").map((b) => b.dataset.path)) for (const pass of ["forward", "backward"]) {
  $(`#chain button[data-path="${button}"]`).click();
  radio("pass", pass);
  const spellings = $("#spelling").hidden ? ["correlation"] : ["correlation", "convolution"];
  for (const spelling of spellings) {
    if (spellings.length > 1) radio("spelling", spelling);
    const names = all(".map").map((map) => map.dataset.name).filter((name) => ["y", "dx", "dw", "db"].includes(name));
    for (const name of names) for (const each of all(`[data-name="${name}"] .cell[data-map]`)) {
      if ((Number(each.dataset.r) * 7 + Number(each.dataset.c)) % 3) continue;
      hover(each);
      out.seen.push({ path: button, ...told() });
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
        path, entry = seen["path"], seen["entry"]
        ways.setdefault(path, set()).add(entry.partition("[")[0])
        assert seen["same"] == "true", seen
        close = 1e-12 if dtype == "float64" else 2e-5
        if seen["cards"]:
            np.testing.assert_allclose(seen["cards"], seen["library"], rtol=close, atol=close)
    assert ways == {"0": {"y", "dx", "dw", "db"}, "2": {"y", "dx", "dw", "db"}, **{p: {"y", "dx"} for p in "1345"}}
    for seen in out["seen"][:: max(1, len(out["seen"]) // 60)]:
        why = dn.explain(net, x, f"{seen['path']}.{seen['entry']}", t=t)
        assert seen["library"] == why.value and seen["anchor"] == why.anchor
        assert abs(seen["sum"] - why.value) <= 2 * why.limit


HANDS = """
out.opened = told();
hover(cell("dx", 3, 4)); out.dx = [told(), lit()];
hover(cell("dw", 1, 2)); out.dw = [told(), lit()];
hover(cell("db", 0, 0)); out.db = lit();
hover(cell("dy", 2, 2)); out.dy = lit();
leave(); out.left = told().entry;
cell("dx", 5, 1).click(); leave(); out.clicked = [told().entry, focused()];
press("ArrowRight"); press("ArrowDown"); out.walked = [told().entry, focused()];
press("Home"); out.home = focused();
for (let i = 0; i < 9; i++) press("ArrowLeft"); out.edge = focused();
out.turned = [$('[data-name="w"]').classList.contains("turned")];
cell("w", 1, 1).focus(); press("ArrowRight"); out.against = focused();
press("r"); out.turned.push($('[data-name="w"]').classList.contains("turned"), $("input[name=spelling]:checked").value);
cell("w", 1, 1).focus(); press("ArrowRight"); out.along = focused();
press("f"); out.turned.push($('[data-name="w"]').classList.contains("turned"), $("input[name=pass]:checked").value);
radio("spelling", "correlation"); out.turned.push($('[data-name="w"]').classList.contains("turned"));
out.equation = $("#equations").textContent;
hover(cell("y", 2, 3)); out.y = [told(), lit()];
out.tabs = all('.cell[tabindex="0"]').length; out.maps = all(".map").map((m) => m.dataset.name);
choose("pick-d", 2); hover(cell("y", 0, 0)); out.filter = told();
radio("theme", "dark"); out.dark = getComputedStyle(document.body).backgroundColor;
radio("theme", "light"); out.light = getComputedStyle(document.body).backgroundColor;
$('#chain button[data-path="2"]').click(); radio("pass", "backward");
hover(cell("dy", 1, 1));
out.route = [lit(), all("#routes path").length];
out.route.push(all("#routes path.now").length, all('[data-name="dx"] .won').length);
out.spellings = $("#spellings").hidden;
$('#chain button[data-path="1"]').click(); out.relu = [all(".map").map((m) => m.dataset.name), told()];
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
    assert {len(cells) for cells in out["db"].values()} == {36} and list(out["db"]) == ["dy"]
    assert len(out["dy"]["dx"]) == len(out["dy"]["dw"]) == 9  # where a delta goes
    assert out["left"] == "dw[1,2,0,0]"
    assert out["clicked"] == ["dx[0,5,1,0]", "dx[5,1]"] and out["walked"] == ["dx[0,6,2,0]", "dx[6,2]"]
    assert out["home"] == "dx[6,0]" and out["edge"] == "dx[6,0]"
    # backward, the kernel is drawn turned; the other spelling turns it back; so does the other pass
    assert out["turned"] == [True, False, "convolution", True, "forward", False]
    assert out["against"] == "w[1,0]" and out["along"] == "w[1,2]"
    assert "y = x ⊗ w + b" in out["equation"]
    assert lit(out["y"][1]) == cells("0.y[0,2,3,0]") and out["tabs"] == len(out["maps"]) == 3
    assert out["filter"]["entry"] == "y[0,0,0,2]" and out["filter"]["library"] == example("0.y[0,0,0,2]").value
    assert out["dark"] != out["light"] == "rgb(255, 255, 255)"
    routes, paths, now, winners = out["route"]
    assert (paths, now, winners) == (9, 1, 9) and len(routes["dx"]) == 1
    r, c = map(int, routes["dx"][0].split(","))
    assert example(f"2.dx[0,{r},{c},0]").cells == {"dy": [(0, 1, 1, 0)]}
    assert out["spellings"] is True and out["relu"][0] == ["dx", "slope", "dy"] and out["relu"][1]["same"] == "true"
    assert out["unnamed"] == 0


@needs_chromium
@pytest.mark.parametrize("width", [360, 740, 1280])
def test_nothing_sticks_out(tmp_path, width):
    script = """
    out.over = [];
    for (const path of all("#chain button").map((b) => b.dataset.path)) for (const pass of ["forward", "backward"]) {
      $(`#chain button[data-path="${path}"]`).click(); radio("pass", pass);
      const frame = $("#stage").getBoundingClientRect();
      const boxes = all(".map .grid").map((grid) => grid.getBoundingClientRect());
      const outside = boxes.filter((box) => box.left < frame.left || box.right > frame.right);
      out.over.push([path, pass, document.documentElement.scrollWidth - innerWidth, outside.length]);
    }
    out.width = innerWidth;
    """
    net, x, t = deep()
    out = browse(dn.explain(net, x, "0.dw[0,0,0,0]", t=t).page(), tmp_path, script, width)
    assert out["width"] == width
    assert all(over <= 0 and outside == 0 for _, _, over, outside in out["over"]), out["over"]
