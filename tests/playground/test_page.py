"""The page in a headless Chromium: every part used by hand or by keys, with a stand-in for the interpreter."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import playground_server
import pytest
from browsing import CHROMIUM, DESKTOP, PHONE, browser, pale, sticks_out

import dualnet as dn

PAGE = playground_server.PAGE
pytestmark = [
    pytest.mark.skipif(not PAGE.exists(), reason="the pages are in the checkout"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (chromium, google-chrome)"),
]
HELD = """(window.ask ??= playground.python.ask, window.reached = false, window.held = new Promise((go) => {{
    window.go = go; }}), playground.python.ask = async function (method, given) {{
        if (method === "{}") {{ window.reached = true; await held; }} return ask.call(this, method, given); }}, null)"""
IDLE = "window.playground?.begun && document.querySelector('#blocks').children.length && playground.breaking.rows"
ENTER = ("Enter", 13, "\r")
LINES = "\n\n\n"


@pytest.fixture(autouse=True)
def on_numpy():
    with dn.use_backend("numpy"):  # what the page says is compared with what the library says
        yield


@pytest.fixture(scope="module")
def address():
    with playground_server.served() as url:
        yield url


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


@pytest.fixture
def page(tab, address):
    """The page, just opened and ready."""
    tab.requests.clear()
    tab.errors.clear()
    tab.show(DESKTOP)
    opened(tab, address)
    yield tab
    assert not tab.errors
    assert {re.match(r"(\w+:)(//[^/]*/)?", url)[0] for url in tab.requests} <= {
        address,
        "blob:",
        "data:",
        f"blob:{address}",
    }


def opened(tab, url):
    tab.open("about:blank")
    tab.open(url)
    tab.wait(IDLE)


def text(tab, selector):
    return tab.run(f"document.querySelector({json.dumps(selector)}).innerText")


def enter(tab, selector, value):
    tab.run(f"""(() => {{ const it = document.querySelector({json.dumps(selector)}); it.value = {json.dumps(value)};
        it.dispatchEvent(new Event("change", {{ bubbles: true }})); }})()""")


def hold(tab, method):
    """Questions of one kind wait until the page runs ``go()``; ``reached`` is true once there is one."""
    tab.run(HELD.format(method))


def train(tab, steps):
    tab.run(f"playground.python.train({steps})")
    tab.wait(f"playground.step >= {steps} && !playground.python.training")


# -- training ----------------------------------------------------------------------------------------------------------


def test_train_pause_step_and_go_back(page):
    assert text(page, "#state").startswith("Ready")
    page.click("#train")
    page.wait("playground.step > 30")
    assert "Pause" in text(page, "#train")
    page.click("#train")
    page.wait("!playground.python.training")
    here = page.run("playground.step")
    time.sleep(0.3)
    assert page.run("playground.step") == here and "Train" in text(page, "#train")
    page.click("#one-step")
    page.wait(f"playground.step == {here + 1}")
    before = page.run("playground.run.losses")
    assert len(before) == here + 1 and before[-1] < before[0] / 2
    assert text(page, "#figure-step") == str(here + 1) and "%" in text(page, "#figure-accuracy")
    assert "M" in page.run("document.querySelector('#curves path.loss').getAttribute('d')")
    assert page.run("document.querySelector('#live-filters').children.length") == 8

    enter(page, "#rewind", 10)
    page.wait("playground.step == 10")
    assert page.run("document.querySelector('#rewind').max") == str(here + 1)  # what was stays in the picture
    enter(page, "#rewind", 20)
    page.wait("playground.step == 20")
    train(page, here + 1)
    assert page.run("playground.run.losses") == before  # the same again


def test_the_words_at_the_top_follow_the_step(page):
    train(page, 20)
    page.click("#one-step")
    page.wait("document.querySelector('#state').innerText == 'Paused after step 21.'")
    enter(page, "#rewind", 10)
    page.wait("document.querySelector('#state').innerText == 'Paused after step 10.'")
    enter(page, "#rewind", 0)
    page.wait("document.querySelector('#state').innerText.startsWith('Ready')")
    page.run("playground.change({ batch_size: 0 })")
    page.wait("document.querySelector('#state').innerText == 'Not ready.'")
    page.run("playground.change({ batch_size: 64 })")
    page.wait("playground.begun")
    page.click("#block-0")
    enter(page, "#option-kernel_size", "11")
    enter(page, "#option-padding", "valid")
    page.wait("document.querySelector('#state').innerText.startsWith('Not ready: ')")


def test_a_pause_before_the_first_step_tells_no_figures(page):
    page.run("(document.querySelector('#live').textContent = '', playground.stopped())")
    time.sleep(0.5)  # what is told to a screen reader waits for 0.3 s
    assert page.run("document.querySelector('#live').textContent") == ""


def test_training_ends_after_its_epochs(page):
    enter(page, "#epochs", 2)
    page.click("#train")
    page.wait("playground.step == 46 && !playground.python.training")
    assert len(page.run("playground.run.trials")) == 2
    page.wait("document.querySelector('#live').textContent.includes('Paused after step 46')")


def test_marks_that_are_close_can_both_be_read(page):
    train(page, 60)
    for name in ("averaged-bias", "", "averaged-bias"):
        page.run(f"playground.break_({json.dumps(name)})")
        page.wait(f"playground.settings.broken == {json.dumps(name)}")
        page.click("#one-step")
        page.wait("playground.run.marks.at(-1)[0] < playground.step")
    boxes = page.run("""[...document.querySelectorAll("#curves text.event")].map((it) => it.getBoundingClientRect())
        .map(({ left, right, top, bottom }) => [left, right, top, bottom])""")
    assert len(boxes) == 3
    for i, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            assert right < other[0] or left > other[1] or top >= other[3] - 2 or bottom <= other[2] + 2


def test_two_runs_beside_each_other(page):
    train(page, 23)
    page.click("#compare")
    enter(page, "#lr", "0.1")
    page.wait("playground.settings.lr == 0.1")
    page.click("#again")
    page.wait("playground.run.losses.length == 0")
    train(page, 23)
    table = text(page, ".compared")
    assert "0.01" in table and "0.1" in table and "learning rate" in table and "seed" not in table
    assert page.run("document.querySelectorAll('#curves path.kept').length") == 2
    page.click("#compared button")
    assert page.run("document.querySelector('#compared').children.length") == 0


def test_a_learning_rate_on_the_way_is_marked(page):
    train(page, 5)
    enter(page, "#lr", "0.5")
    page.wait("document.querySelector('#curves text.event')?.textContent == 'lr 0.5'")
    enter(page, "#lr", "1e30")
    enter(page, "#optimizer", "SGD")
    page.wait("playground.settings.optimizer[0] == 'SGD' && playground.begun")
    enter(page, "#lr", "1e30")
    page.wait("playground.settings.lr == 1e30")
    page.click("#train")
    page.wait("!document.querySelector('#trouble').hidden")
    assert "learning rate is too large" in text(page, "#trouble")


# -- the network -------------------------------------------------------------------------------------------------------


def test_a_click_is_not_lost_while_the_same_layers_are_drawn_again(page):
    page.run("(window.pressed = document.querySelector('#block-0'), playground.network.show(playground.rows))")
    assert page.run("pressed.isConnected")
    page.click("#block-0")
    page.wait("!pressed.isConnected && document.querySelector('#block-0').getAttribute('aria-pressed') == 'true'")


def test_draw_a_network_by_keys_alone(page):
    page.run("document.querySelector('#block-1').focus()")
    page.key(*ENTER)
    page.wait("document.querySelector('#block-1').getAttribute('aria-pressed') == 'true'")
    enter(page, "#add-kind", "BatchNorm")
    page.run("document.querySelector('#add button').focus()")
    page.key(*ENTER)
    page.wait("playground.settings.layers.length == 9 && playground.begun")
    assert page.run("playground.settings.layers.map(([kind]) => kind)")[1:4] == ["ReLU", "BatchNorm", "MaxPool2D"]
    assert "share of the old value" in text(page, "#option-momentum-help")
    page.click("#move-up")
    page.wait("playground.settings.layers[1][0] == 'BatchNorm' && playground.begun")
    enter(page, "#option-epsilon", "0.001")
    page.wait("playground.settings.layers[1][1].epsilon == 0.001 && playground.begun")
    page.click("#option-center")
    page.wait("playground.settings.layers[1][1].center === false && playground.begun")
    page.click("#remove")
    page.wait("playground.settings.layers.length == 8 && playground.begun")


def test_what_does_not_fit_is_said_in_the_librarys_words(page):
    page.click("#block-0")
    enter(page, "#option-kernel_size", "11")
    enter(page, "#option-padding", "valid")
    page.wait("document.querySelector('#options .bad')")
    assert "Conv2D" in text(page, "#options .bad") and "does not fit" in text(page, "#blocks")
    assert page.run("document.querySelector('#train').disabled")
    enter(page, "#option-kernel_size", "(3, 2)")
    page.wait("playground.begun && !document.querySelector('#options .bad')")
    assert "kernel_size=(3, 2)" in page.run("playground.rows[0].code")
    page.run("playground.change({ layers: playground.settings.layers.slice(0, 2) })")
    page.wait("!document.querySelector('#trouble').hidden")
    assert "end with Flatten and Dense" in text(page, "#trouble")


# -- looking -----------------------------------------------------------------------------------------------------------


def test_point_at_a_cell_and_its_sum_is_there(page):
    page.wait("document.querySelector('#inside [data-name=dw] canvas')")
    page.click("#inside [data-name=dw] canvas")
    page.wait("document.querySelector('.account h3')")
    assert text(page, ".account h3").startswith("0.dw[1,1,0,0] = ")
    assert "they agree" in text(page, ".account .verdict") and "E11" in text(page, ".account")
    page.wait("document.querySelector('#live').textContent.startsWith('0.dw[1,1,0,0] is')")
    page.click("#inside [data-name=dy] canvas")  # follow the delta to the layer behind
    page.wait("document.querySelector('.account h3')?.innerText.startsWith('1.dx[0,')")
    page.run("playground.inside.choose(7, { name: 'dy', index: [3] })")
    page.wait("document.querySelector('.account').innerText.includes('The backward pass begins here')")
    page.run("playground.inside.pick('w', [5, 3])")
    page.wait("document.querySelector('.account h3')?.innerText.startsWith('7.dw[5,3]')")


def test_the_focus_follows_a_delta_unless_the_reader_has_moved_on(page):
    page.wait("document.querySelector('#inside [data-name=dy] canvas')")
    for layer, there in ((0, "dx"), (1, None)):
        page.wait(f"playground.inside.told.layer == {layer} && !playground.inside.busy")
        page.run("document.querySelector('#inside [data-name=dy] .sheets').focus()")
        hold(page, "inside")
        page.key(*ENTER)
        page.wait("reached")
        if not there:
            page.run("document.querySelector('#lr').focus()")
        page.run("go()")
        page.wait(f"playground.inside.drawn.startsWith('{layer + 1}') && !playground.inside.busy")
        time.sleep(0.5)
        assert page.run("document.activeElement.closest('[data-name]')?.dataset.name ?? null") == there
    assert page.run("document.activeElement.id") == "lr"


def test_the_keys_walk_through_a_map(page):
    page.wait("document.querySelector('#inside [data-name=y] canvas')")
    page.run("document.querySelector('#inside [data-name=y] .sheets').focus()")
    for key, code in (("ArrowRight", 39), ("ArrowDown", 40), ("ArrowDown", 40)):
        page.key(key, code)
    page.wait("document.querySelector('.account h3')?.innerText.startsWith('0.y[0,2,1,0]')")
    page.run("playground.inside.views.get('y').place = { sheet: 0, r: 2, c: 7 }")
    page.key("ArrowRight", 39)  # on to the next channel
    page.wait("document.querySelector('.account h3')?.innerText.startsWith('0.y[0,2,0,1]')")


def test_the_pictures_hold_the_numbers(page):
    """A cell's colour: orange above 0, blue below, and the strongest where the array is largest."""
    shades = page.run("""import("./maps.js").then((maps) => { maps.readColours();
        return [1, 0.5, 0, -1].map((value) => maps.colour(value, 1).match(/\\d+/g).map(Number)); })""")
    above, half, zero, below = shades
    assert above[0] > above[2] and below[2] > below[0] and zero == [255, 255, 255] and above[2] < half[2] < 255
    places = page.run("""import("./maps.js").then((maps) => maps.sheets([2, 3, 4, 5])
        .map((sheet) => maps.offset([2, 3, 4, 5], sheet.index(1, 2))))""")
    assert places == [np.ravel_multi_index((1, 2, c, d), (2, 3, 4, 5)) for c in range(4) for d in range(5)]


def test_break_it_and_mend_it(page):
    page.click("#tab-breaking")
    enter(page, "#mistake", "averaged-bias")
    page.wait("!document.querySelector('#broken').hidden")
    assert (
        "averaged-bias" in text(page, "#broken") and page.run("document.querySelectorAll('.blocks .wrong').length") == 1
    )
    page.click("#check")
    page.wait("document.querySelector('.report pre')")
    assert "finds the mistake" in text(page, ".report") and "7.b" in text(page, ".report pre .bad")
    assert "%22broken%22" in page.run("location.hash")
    page.click("#tab-inside")
    page.run("playground.inside.choose(7, { name: 'db', index: [1] })")
    page.wait("document.querySelector('.account h3')?.innerText.startsWith('7.db[1]')")
    page.click("#mend")
    page.wait("document.querySelector('#broken').hidden && playground.settings.broken == ''")
    page.click("#tab-breaking")
    page.click("#check")
    page.wait("document.querySelector('.report .verdict.good')")


def test_a_broken_layer_disagrees_with_its_sum(page):
    page.run("playground.break_('unturned-kernel')")
    page.run("playground.inside.pick('dx', [4, 4, 0])")
    page.wait("document.querySelector('.account .verdict.bad')")
    assert "THEY DISAGREE" in text(page, ".account .verdict")


def test_a_wrong_dx_shows_in_the_curve_of_the_first_network(page):
    """The question of the project: what if the kernel is not turned? The network that the page opens with answers."""
    curves = {}
    page.click("#tab-breaking")
    for name in ("", "unturned-kernel", "uncropped-padding"):
        page.run(f"playground.break_({json.dumps(name)})")
        page.click("#again")
        page.wait(f"playground.run.losses.length == 0 && playground.settings.broken == {json.dumps(name)}")
        train(page, 46)
        curves[name] = np.mean(page.run("playground.run.losses")[-10:])
        assert not name or ("in layers 0 and 3" in text(page, ".story") and "Only dx" in text(page, ".story"))
        assert page.run("document.querySelector('#in-front') === null")
    assert curves["unturned-kernel"] > 1.3 * curves[""] < curves["uncropped-padding"] / 1.3


def test_where_no_curve_can_show_it_a_convolution_is_offered(page):
    end = "['Flatten', {}], ['Dense', { units: 10 }]]"
    conv = "[['Conv2D', { filters: 4, kernel_size: 3, padding: 'same' }], "
    page.run(f"playground.change({{ layers: {conv}{end}, broken: 'unturned-kernel' }})")
    page.click("#tab-breaking")
    page.wait("document.querySelector('#in-front')")
    assert "no curve shows it" in text(page, ".story") and "see-it" in page.run(
        "document.querySelector('.story a').href"
    )
    page.click("#in-front")
    page.wait("playground.begun && playground.settings.layers.length == 5 && !document.querySelector('#in-front')")
    assert page.run("playground.settings.broken") == "unturned-kernel" and "layers 0 and 2" in text(page, ".story")
    assert len(page.run("[...document.querySelectorAll('#mistake optgroup')].map((group) => group.label)")) == 3
    assert "cannot be drawn" not in page.run("document.querySelector('#mistake').textContent")


def test_on_a_phone_a_tapped_cell_opens_a_sheet(page):
    page.show(PHONE)
    page.wait("document.querySelector('#inside [data-name=y] canvas')")
    page.click("#inside [data-name=y] canvas")
    page.wait("document.querySelector('.account.chosen h3')")
    top, bottom, tall = page.run("""(() => { const box = document.querySelector(".account").getBoundingClientRect();
        return [box.top, box.bottom, innerHeight]; })()""")
    assert tall * 0.4 < top < bottom <= tall + 1
    place = "document.querySelector('#inside [data-name=y] canvas').getBoundingClientRect()"
    assert 0 <= page.run(f"{place}.top") and page.run(f"{place}.bottom") <= top  # the map is in sight, too
    page.click(".account .close")
    page.wait("!document.querySelector('.account.chosen')")
    assert page.run("document.activeElement.closest('[data-name]').dataset.name") == "y"
    page.click("#inside [data-name=y] canvas")
    page.wait("document.querySelector('.account.chosen h3')")
    page.key("Escape", 27)
    page.wait("!document.querySelector('.account.chosen')")


def test_the_state_the_slider_and_the_colours_follow(page):
    page.run("playground.python.train(40)")
    train(page, 40)
    page.wait("document.querySelector('#state').innerText == 'Paused after step 40.'")
    page.click("#compare")
    page.click("#again")
    page.wait("playground.run.losses.length == 0")
    page.click("#train")
    page.wait("document.querySelector('#state').innerText == 'Training …'")
    page.wait("playground.step >= 10")
    page.click("#train")
    page.wait("!playground.python.training")
    wide, steps = page.run("""[document.querySelector("#rewind").getBoundingClientRect().width
        / document.querySelector(".rewind").clientWidth, playground.run.losses.length]""")
    last = max(40, steps)
    curve = page.run("document.querySelector('#curves').clientWidth")
    assert wide * curve == pytest.approx((curve - 90) * steps / last, abs=40)
    shown = "document.querySelector('#live-filters canvas').toDataURL()"
    before = page.run(shown)
    page.click("#theme input[value=dark]")
    page.wait(f"{shown} != {json.dumps(before)}")
    page.click("#theme input[value=auto]")


def test_draw_a_digit(page):
    train(page, 200)
    page.click("#tab-answer")
    assert page.run("document.querySelector('#answer figure button').disabled")  # there is no drawing yet
    x, y, side = page.run("""(() => { const pad = document.querySelector("#answer .pad");
        pad.scrollIntoView({ block: "center" });
        const box = pad.getBoundingClientRect(); return [box.x, box.y, box.width]; })()""")
    page.drag([(x + side * a, y + side * b) for a, b in ((0.5, 0.15), (0.5, 0.4), (0.5, 0.6), (0.5, 0.85))])
    page.wait("document.querySelector('.odds .best b')")
    assert text(page, ".odds .best b") == "1" and "takes it for 1" in text(page, "#answer .says")
    pixels = page.run("playground.answer.pixels()")
    assert len(pixels) == 64 and max(pixels) > 0.8 and sum(pixels[i] for i in range(0, 64, 8)) == 0
    page.run("playground.answer.pad.clear()")
    page.run("document.querySelector('#answer .pad').focus()")
    for key in [" ", *["ArrowDown"] * 4, " "]:  # a line, by keys
        page.key(key, 32 if key == " " else 40)
    page.wait("document.querySelector('.odds .best')")
    page.click("#answer figure button")
    page.wait("document.querySelector('.about').innerText.startsWith('your drawing')")


def test_an_answer_that_comes_after_clear_is_not_shown(page):
    page.click("#tab-answer")
    page.wait("document.querySelector('#answer .says').innerText.includes('Draw one of')")
    hold(page, "answer")
    page.run("(playground.answer.pad.strokes = [[[0.5, 0.1], [0.5, 0.9]]], playground.answer.refresh(), null)")
    page.wait("reached")
    page.click("#answer .pad-field button")
    page.run("(go(), null)")
    page.run("ask.call(playground.python, 'shapes', { settings: playground.settings })")  # is answered after it
    assert "Draw one of" in text(page, "#answer .says") and text(page, ".odds") == ""


def test_on_a_phone_the_answer_stands_below_the_drawing(page):
    page.show(PHONE)
    page.click("#tab-answer")
    page.wait("document.querySelector('#answer .says').innerText.includes('Draw one of')")
    clear, says, seen = page.run("""["#answer .pad-field button", "#answer .says", "#answer figure"].map((it) =>
        document.querySelector(it).getBoundingClientRect()).map((box, i) => (i ? box.top : box.bottom))""")
    assert clear < says < clear + 40 < seen


# -- exercises ---------------------------------------------------------------------------------------------------------

MENDED = "db = xp.sum(dy, axis=0)  # E16"


@pytest.fixture
def exercises(page):
    """The tab with an exercise in it, and nothing remembered."""
    page.run("localStorage.removeItem('dualnet-exercises')")
    page.click("#tab-exercises")
    page.wait("playground.exercises.task && document.querySelector('.code-keyword')")
    enter(page, "#exercise", "averaged-bias")
    page.wait("playground.exercises.task.name == 'averaged-bias'")
    yield page
    page.run("localStorage.removeItem('dualnet-exercises')")


def kept(tab):
    return json.loads(tab.run("localStorage.getItem('dualnet-exercises')") or "{}")


def type_over(tab, old, new):
    """Choose a piece of the code, and type over it."""
    area = "document.querySelector('#repair')"
    at = tab.run(f"{area}.value.indexOf({json.dumps(old)})")
    assert at >= 0
    tab.run(f"({area}.focus(), {area}.setSelectionRange({at}, {at + len(old)}))")
    tab.send("Input.insertText", text=new)


def grade(tab):
    tab.run("playground.exercises.verdict.replaceChildren()")
    tab.click("#grade")
    tab.wait("document.querySelector('#verdict .verdict') && !playground.exercises.grading")
    return text(tab, "#verdict")


def test_an_exercise_is_mended_by_hand_and_remembered(exercises, address):
    page, exercise = exercises, dn.zoo.show("averaged-bias")
    told = text(page, "#exercises")
    assert exercise.symptom in told and " ".join(exercise.story.split()) in told and "0 of 24 mended" in told
    assert page.run("document.querySelector('#repair').value") == f"{exercise.preamble}\n\n\n{exercise.code}"
    before = grade(page)
    assert str(dn.zoo.report("averaged-bias")) in page.run("document.querySelector('#verdict pre').textContent")
    assert "Not mended yet." in before and not kept(page)
    type_over(page, "db = xp.mean(dy, axis=0)  # E16", MENDED)
    assert MENDED in kept(page)["averaged-bias"]["code"]
    after = grade(page)
    assert "Mended: every witness agrees." in after and "averaged-bias: PASSED" in after
    assert " ".join(exercise.lesson.split()) in after and exercise.why_blind["parity"] in after
    page.wait("document.querySelector('#live').textContent.startsWith('Mended')")
    assert "1 of 24 mended" in text(page, "#mended") and "averaged-bias ✓" in text(page, "#exercise")
    page.click("#next-exercise")
    page.wait("playground.exercises.task.name == 'square-weights' && document.activeElement.id == 'exercise'")
    opened(page, address)  # the next visit
    page.click("#tab-exercises")
    page.wait("playground.exercises.task?.name == 'forgotten-mean'")  # the first that is not mended
    enter(page, "#exercise", "averaged-bias")
    page.wait("playground.exercises.task.name == 'averaged-bias'")
    assert MENDED in page.run("document.querySelector('#repair').value") and "1 of 24" in text(page, "#mended")
    stored = set(page.run("Object.keys(localStorage)")) - {"dualnet-theme"}
    assert stored == {"dualnet-exercises"} and not page.run("document.cookie")
    page.run("window.confirm = () => true")
    page.click("#begin-again")
    assert kept(page) == {"averaged-bias": {"mended": True}}
    page.click("#forget")
    page.wait("document.querySelector('#mended').innerText.startsWith('0 of 24')")
    assert not kept(page)


def test_nothing_tells_the_solution_before_it_is_found(exercises):
    page, exercise = exercises, dn.zoo.show("averaged-bias")
    page.click("#hint")
    page.wait("document.querySelector('.task-help p')")
    assert exercise.hint in text(page, ".task-help")
    page.click("#witnesses")
    page.wait("document.querySelector('.task-help pre')")
    assert page.run("document.querySelector('.task-help pre').textContent") == str(dn.zoo.report("averaged-bias"))
    grade(page)
    shown = page.run("document.querySelector('#exercises').textContent + document.querySelector('#repair').value")
    right = exercise.fix[0][1].split("#")[0].strip()
    assert right not in shown and " ".join(exercise.lesson.split())[:40] not in shown


def test_an_error_in_a_repair_names_its_line_and_goes_there(exercises):
    page = exercises
    line = page.run("playground.exercises.editor.text.split('\\n').findIndex((line) => line.includes('dx = '))") + 1
    marked = "[...document.querySelectorAll('.editor-line')].findIndex((it) => it.matches('.wrong')) + 1"
    for new, words in (("dx = (dy @ w.T", "was never closed"), ("dx = dz @ w.T", "NameError in line")):
        type_over(page, "dx = dy @ w.T" if words.startswith("was") else "dx = (dy @ w.T", new)
        told = grade(page)
        assert words in told and f"line {line} raises an error" in told and page.run(marked) == line
    page.click("#go-to-line")
    chosen = page.run("""(() => { const it = document.activeElement;
        return it.id == "repair" && it.value.slice(it.selectionStart, it.selectionEnd); })()""")
    assert chosen.strip() == "dx = dz @ w.T  # E16"
    holds = """(() => { let at = document.querySelector(".editor-line").parentElement;
        while (["visible", "clip"].includes(getComputedStyle(at).overflowX)) at = at.parentElement;
        return at.className; })()"""
    assert page.run(holds) == "editor"  # the numbers of the lines stand still where the code scrolls
    page.key("x", 88, "x")
    assert page.run(marked) == 0  # as soon as something changes, the mark is gone
    for code, words in (("raise RuntimeError('so')", "RuntimeError in line 1: so"), ("x = 1", "no function 'dense'")):
        page.run(f"playground.exercises.editor.text = {json.dumps(code)}")
        assert words in grade(page)
    page.show(PHONE)
    page.run("document.querySelector('.editor').scrollLeft = 100")
    page.run("playground.exercises.editor.text = 'print(6 * 7)'")
    assert page.run("document.querySelector('.editor').scrollLeft") == 0
    grade(page)
    assert page.run("document.querySelector('#verdict details pre').textContent") == "42\n"


def test_the_editor_by_keys(exercises):
    page, shown = exercises, "document.querySelector('#repair').value"
    area = "document.querySelector('#repair')"
    page.run("playground.exercises.editor.text = 'def f(x):'")
    page.run(f"({area}.focus(), {area}.setSelectionRange(9, 9))")
    page.key(*ENTER)
    assert page.run(shown) == "def f(x):\n    "
    page.send("Input.insertText", text="if x:")
    page.key(*ENTER)
    page.send("Input.insertText", text="return")
    page.key(*ENTER)
    assert page.run(shown) == "def f(x):\n    if x:\n        return\n        "
    page.run(f"{area}.setSelectionRange(0, 5)")
    page.key("Tab", 9)
    assert page.run(shown).startswith("    def f(x):\n    if x:")
    page.run("document.execCommand('undo')")
    assert page.run(shown).startswith("def f(x):\n    if x:")
    end = page.run(f"{shown}.length")
    page.run(f"{area}.setSelectionRange({end}, {end})")
    page.send("Input.dispatchKeyEvent", type="keyDown", key="Tab", windowsVirtualKeyCode=9, modifiers=8)
    assert page.run(shown).endswith("return\n    ") and page.run("document.activeElement.id") == "repair"
    page.key("Tab", 9)
    assert page.run(shown).endswith("return\n        ")
    page.key("Escape", 27)
    page.key("Tab", 9)
    assert page.run("document.activeElement.id") != "repair"  # no trap for those without a mouse
    page.run(f"{area}.focus()")
    page.send("Input.dispatchKeyEvent", type="keyDown", key="Enter", windowsVirtualKeyCode=13, modifiers=2)
    page.wait("document.querySelector('#verdict .bad')")
    lines = page.run("[...document.querySelectorAll('.editor-line')].map((it) => it.textContent).join('')")
    assert lines == page.run(shown) + "\n"  # the colours lie below the same text
    page.wait("document.querySelectorAll('.code-keyword').length == 3")


def test_the_editor_on_empty_lines(exercises):
    page, area = exercises, "document.querySelector('#repair')"

    def pressed(text, at, end, back=False):
        page.run(f"(playground.exercises.editor.text = {json.dumps(text)}, {area}.focus())")
        page.run(f"{area}.setSelectionRange({at}, {end})")
        page.send("Input.dispatchKeyEvent", type="keyDown", key="Tab", windowsVirtualKeyCode=9, modifiers=8 * back)
        return page.run(f"[{area}.value, {area}.selectionStart]")

    assert pressed("a\n\nb", 2, 2, back=True) == ["a\n\nb", 2]
    assert pressed("a\n\nb", 2, 3) == ["a\n\nb", 2]
    assert pressed("a\n    \nb", 6, 6, back=True) == ["a\n\nb", 2]
    assert pressed("\na", 0, 0) == ["    \na", 4]
    assert pressed("\n  a", 0, 0, back=True) == ["\n  a", 0]
    assert pressed("\n  a", 0, 4, back=True) == ["\na", 0]


def test_an_address_opens_an_exercise(tab, address):
    tab.errors.clear()
    opened(tab, f"{address}?exercise=turned-gradient")
    tab.wait("playground.exercises.task?.name == 'turned-gradient'")
    assert not tab.run("document.querySelector('#exercises').hidden") and "?exercise=" in tab.run("location.href")
    opened(tab, f"{address}?exercise=<img>")
    tab.wait("!document.querySelector('#trouble').hidden && playground.exercises.task?.name == 'forgotten-mean'")
    assert "no exercise '<img>'" in text(tab, "#trouble") and not tab.errors
    assert "The menu “Exercise” lists them." in text(tab, "#trouble")


def test_a_storage_that_others_have_written_to(exercises, address):
    for stored in ("[1]", "{", '{"averaged-bias": 3, "delta-mask": {"mended": true}}'):
        exercises.run(f"localStorage.setItem('dualnet-exercises', {json.dumps(stored)})")
        opened(exercises, address)
        exercises.click("#tab-exercises")
        exercises.wait("playground.exercises.task?.name == 'forgotten-mean'")
        type_over(exercises, "return dE", "return  dE")
        assert "return  dE" in kept(exercises)["forgotten-mean"]["code"]


def test_a_repair_that_does_not_end_is_stopped(exercises):
    page = exercises
    type_over(page, "from dualnet", "import time; time.sleep(4)\nfrom dualnet")
    page.click("#grade")
    page.wait("!document.querySelector('#stop-grading').hidden")
    page.click("#stop-grading")
    page.wait("playground.awake && playground.begun && !playground.exercises.grading")
    assert page.run("document.activeElement.id") == "grade"  # the button that was pressed is hidden now
    assert "Python was restarted" in text(page, "#verdict") and "time.sleep(4)" in text(page, ".editor-lines")
    type_over(page, "import time; time.sleep(4)\n", "")
    assert "averaged-bias: WRONG" in grade(page)


def test_stop_while_a_training_is_asked_to_pause(exercises):
    page = exercises
    page.run("playground.python.training = true")  # one that does not answer
    page.click("#grade")
    page.click("#stop-grading")
    page.wait("!playground.exercises.grading")
    assert "Python was restarted" in text(page, "#verdict")
    assert "averaged-bias: WRONG" in grade(page)
    page.wait("playground.begun")
    asked = "playground.python.ask('hint', { name: 'averaged-bias' }).then((told) => told.text)"
    assert page.run(f"(playground.restart(), {asked})") == dn.zoo.show("averaged-bias").hint  # it waits for Python
    page.wait("playground.begun")


def test_a_verdict_belongs_to_the_exercise_that_was_graded(exercises):
    page = exercises
    exercise = dn.zoo.show("averaged-bias")
    page.run(f"playground.exercises.editor.text = {json.dumps(exercise.preamble + LINES + exercise.repaired)}")
    for settle, after in (("waiting[0]()", {"mended": True}), ("waiting[1](new Error('lost'))", {})):
        page.run("""(window.pause = playground.pause,
            playground.pause = () => new Promise((go, no) => { window.waiting = [go, no]; }))""")
        page.click("#grade")
        page.run("playground.pause = pause")
        enter(page, "#exercise", "square-weights")
        page.wait("playground.exercises.task.name == 'square-weights'")
        page.run(settle)
        page.wait("!playground.exercises.grading")
        assert kept(page).get("averaged-bias", {}) == after and "square-weights" not in kept(page)
        assert page.run("document.querySelector('#verdict').children.length") == 0
        page.run("localStorage.removeItem('dualnet-exercises')")
        enter(page, "#exercise", "averaged-bias")
        page.wait("playground.exercises.task.name == 'averaged-bias'")


def test_grading_by_keys_and_with_a_screen_reader(exercises):
    page = exercises
    page.run("playground.exercises.editor.text = 'print(1)\\n('")
    page.run("document.querySelector('#grade').focus()")
    page.key(*ENTER)
    page.wait("document.querySelector('#verdict .verdict') && !playground.exercises.grading")
    assert page.run("document.activeElement.id") == "grade"
    assert page.run("document.querySelector('#repair').getAttribute('aria-invalid')") == "true"
    page.run("document.querySelector('#go-to-line').click()")
    page.send("Input.insertText", text="2")
    assert page.run("document.querySelector('#repair').getAttribute('aria-invalid')") is None
    assert "What your code printed" in grade(page)
    page.click("#witnesses")
    page.wait("document.querySelector('.task-help pre')")
    scrolling = page.run("""[...document.querySelectorAll("#exercises pre[tabindex='0']")]
        .map((it) => [it.getAttribute("role"), it.getAttribute("aria-label")])""")
    assert len(scrolling) == 3 and all(role == "region" and name for role, name in scrolling)


# -- keeping -----------------------------------------------------------------------------------------------------------


def test_the_address_holds_the_settings(page, address):
    page.run("playground.change({ layers: [['Flatten', {}], ['Dense', { units: 10 }]], seed: 7 })")
    page.wait("playground.begun && playground.settings.layers.length == 2")
    link = page.run("location.href")
    assert len(link) < 200
    opened(page, link)
    assert page.run("playground.settings.seed") == 7 and page.run("playground.rows.map((row) => row.shape[0])") == [
        64,
        10,
    ]
    assert page.run("location.href") == link


@pytest.mark.parametrize(
    "hash_, words",
    [
        ("#nonsense", "holds no settings"),
        ('#{"layers":[["<img src=x onerror=alert(1)>",{}]]}', "<img src=x onerror=alert(1)>"),
        ('#{"speed":1}', "no setting speed"),
        ('#{"lr":"x"}', "lr must be a number, got 'x'"),
        ('#{"broken":"<b>"}', "<b>"),
    ],
)
def test_an_address_from_a_stranger(tab, address, hash_, words):
    opened(tab, address + hash_)
    assert (
        words in text(tab, "#trouble")
        and "The page begins with the default settings instead." in text(tab, "#trouble")
        and "playground:" not in text(tab, "#trouble")
        and tab.run("playground.settings.layers.length") == 8
    )
    assert tab.run("document.querySelectorAll('main img').length") == 0


def test_save_and_open_the_network(page, tmp_path):
    page.run("playground.save = (name, content) => { window.saved = [name, content]; }")
    train(page, 46)
    page.click("#tab-keep")
    page.run("playground.keep.save('save')")
    name, data = page.run("[saved[0], btoa(String.fromCharCode(...saved[1]))]")
    (tmp_path / name).write_bytes(base64.b64decode(data))
    net = dn.load(tmp_path / "model.npz")
    _, (xv, tv) = dn.data.load_digits()
    assert net.evaluate(xv, tv)["accuracy"] == page.run("playground.run.trials.at(-1).accuracy")
    page.run(f"""(() => {{ const bytes = Uint8Array.from(atob({json.dumps(data)}), (c) => c.charCodeAt(0));
        return playground.keep.open({{ files: [new File([bytes], "mine.npz")] }}); }})()""")
    page.wait("playground.step == 0")
    page.run("playground.keep.save('notebook')")
    assert json.loads(page.run("saved[1]"))["nbformat"] == 4 and page.run("saved[0]") == "playground.ipynb"
    page.run("playground.inside.page()")
    assert page.run("saved[0]") == "explain.html" and page.run("saved[1].length") > 20_000
    page.run("playground.keep.open({ files: [new File(['x'], 'other.npz')] })")
    assert text(page, "#trouble").startswith("other.npz: it is not a .safetensors or .npz file")


def test_images_of_ones_own(page):
    page.click("#tab-images")
    for i in range(8):
        page.run(f"""(() => {{ const own = playground.images, i = {i}, low = 0.7 + i / 50;
            const cross = [[[0.2, 0.2], [0.8, 0.8]], [[0.8, 0.2], [0.2, low]]], bar = [[[0.5, 0.1], [0.5, low]]];
            own.pad.strokes = i % 2 ? cross : bar;
            own.name.value = i % 2 ? "cross" : "bar"; own.add(); }})()""")
    assert text(page, ".classes").split() == ["bar", "4", "cross", "4"]
    corners = """["#images .pad", ".classes canvas"].map((it) =>
        [...document.querySelector(it).getContext("2d").getImageData(0, 0, 1, 1).data.slice(0, 3)])"""
    for name, paper in (("dark", [15, 19, 24]), ("light", [255, 255, 255]), ("auto", [255, 255, 255])):
        page.click(f"#theme input[value={name}]")
        assert page.run(corners) == [paper, paper], name
    page.run("playground.images.upload({ files: [new File(['x'], 'mine.npz')] })")
    page.wait("document.querySelector('#images .bad')")
    reading = """playground.newImages(() => { const { className, textContent } = playground.images.opened;
        window.meanwhile = [className, textContent]; return playground.python.ask("upload", { data: "eA==" }); },
        playground.images.opened).then(() => meanwhile)"""
    assert page.run(reading) == ["quiet", "Reading the images …"]  # what is read now may be right
    told = text(page, "#images div:has(> .file)")  # beside the button, with what mends it, and nothing of pickles
    assert "not an .npz file" in told and "np.savez" in told and "pickle" not in told
    page.click("#images button.main")
    page.wait("playground.data.name == 'drawings' && playground.begun")
    train(page, 30)
    assert page.run("playground.run.trials.at(-1).accuracy") == 1
    page.click("#tab-answer")
    page.run("(playground.answer.pad.strokes = [[[0.5, 0.1], [0.5, 0.9]]], playground.answer.refresh())")
    page.wait("document.querySelector('.odds .best b')?.innerText == 'bar'")
    bars = page.run("[...document.querySelectorAll('.odds .track')].map((it) => it.getBoundingClientRect().left)")
    assert len(bars) == 10 and len(set(bars)) == 1  # below each other, though the names differ in length
    enter(page, "#data", "digits")
    page.wait("playground.data.name == 'digits' && playground.begun")


def test_a_hint_after_a_failure_is_not_red(page):
    page.click("#tab-images")
    page.run("playground.newImages(() => Promise.reject(new Error('so')), playground.images.told)")
    assert text(page, "#images .bad") == "so"
    page.run("playground.images.empty()")
    assert page.run("document.querySelector('#images .bad') === null")
    assert page.run("playground.images.told.textContent").startswith("You need two classes")


def test_the_console(page):
    page.click("#tab-console")
    page.run("document.querySelector('#code').focus()")
    page.run("document.querySelector('#code').value = 'net(x[:1]).shape'")
    page.key(*ENTER)
    page.wait("document.querySelector('.log').innerText.includes('(1, 10)')")
    page.key("ArrowUp", 38)
    assert page.run("document.querySelector('#code').value") == "net(x[:1]).shape"
    page.run("(playground.console.line.value = '1 / 0', playground.console.run())")
    page.wait("document.querySelector('.log .bad')?.innerText.includes('ZeroDivisionError')")
    page.run("playground.restart()")
    page.wait("playground.begun")


# -- the page itself ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_everything_has_a_name(page, dark):
    page.show(PHONE, dark)
    for tab in ("inside", "answer", "breaking", "exercises", "images", "console", "keep"):
        page.click(f"#tab-{tab}")
        page.click("#block-0") if tab == "answer" else None
        time.sleep(0.2)
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0], tab
        nameless = page.run("""[...document.querySelectorAll("button, input, select, textarea, [tabindex='0']")]
            .filter((it) => it.offsetParent && !it.innerText?.trim() && !it.labels?.length)
            .filter((it) => !it.getAttribute("aria-label") && !it.getAttribute("aria-labelledby"))
            .map((it) => it.outerHTML.slice(0, 120))""")
        assert nameless == []
    assert page.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(15, 19, 24)" if dark else "rgb(255, 255, 255)"
    )
    ids = page.run("[...document.querySelectorAll('[id]')].map((it) => it.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_what_it_says_fits_a_phone_and_can_be_read(exercises, dark):
    """Reports, code, prints and errors: long lines scroll in a box of their own, and no text is pale."""
    page = exercises

    def looked_at(where):
        page.run("for (const folded of document.querySelectorAll('main details')) folded.open = true")
        assert page.run("document.documentElement.scrollWidth") <= PHONE[0], where
        assert page.run(sticks_out("main")) == [] == page.run(pale("body")), where

    page.show(PHONE, dark)
    train(page, 30)
    page.run("playground.exercises.editor.text = `print('x' * 300)\n${playground.exercises.editor.text}`")
    grade(page)
    page.click("#witnesses")
    page.wait("document.querySelector('.task-help pre')")
    looked_at("a wrong repair")
    page.run(f"playground.exercises.editor.text = {json.dumps(dn.zoo.show('averaged-bias').repaired)}")
    grade(page)
    looked_at("an error")
    page.click("#tab-breaking")
    enter(page, "#mistake", "averaged-bias")
    page.wait("!document.querySelector('#broken').hidden")
    page.click("#check")
    page.wait("document.querySelector('.report pre')")
    looked_at("what dn.check says")
    page.click("#tab-console")
    page.run("(playground.console.line.value = 'print(\"x\" * 300)\\n1 / 0', playground.console.run())")
    page.wait("document.querySelector('.log .bad')")
    looked_at("the console")
    page.click("#compare")
    enter(page, "#optimizer", "SGD")
    page.wait("playground.settings.optimizer[0] == 'SGD' && playground.begun")
    page.run("playground.trouble(new Error('x'.repeat(300)))")
    page.click("#tab-inside")
    page.click("#block-0")
    page.wait("document.querySelector('#option-filters')")
    looked_at("two runs, a layer's options and a message")


def test_a_finger_finds_what_it_looks_for(page):
    """On a phone every control is at least 36 pixels tall and wide, but for links in a text and cells of a map."""
    page.show(PHONE)
    page.run("playground.trouble(new Error('so'))")
    page.click("#block-0")
    page.wait("document.querySelector('#option-filters')")
    small = """[...document.querySelectorAll("button, select, summary, textarea, label:has(input), input")]
        .filter((it) => it.checkVisibility() && !it.matches("[type=checkbox], [type=radio], [type=file], [type=range]"))
        .map((it) => [it, it.getBoundingClientRect()]).filter(([, box]) => Math.min(box.width, box.height) < 36)
        .map(([it, box]) => `${it.outerHTML.slice(0, 60)} ${box.width} x ${box.height}`)"""
    for tab in ("inside", "answer", "breaking", "exercises", "images", "console", "keep"):
        page.click(f"#tab-{tab}")
        assert page.run(small) == [], tab
    apart = page.run("""[...document.querySelectorAll(".blocks .name")].map((it) => {
        const parts = [it, it.firstElementChild, it.lastElementChild];
        const [all, first, last] = parts.map((part) => part.getBoundingClientRect());
        return Math.abs(first.top + last.bottom - all.top - all.bottom); })""")
    assert len(apart) == 8 and max(apart) < 2  # and its words stand in the middle of it


def test_a_layers_options_stand_beside_each_other(page):
    """Ten fields below each other would push the maps of the layer off the screen."""
    page.click("#block-0")
    page.wait("document.querySelector('#option-initializer')")
    below, above = page.run("""[".panels", ".network"].map((it) => document.querySelector(it).getBoundingClientRect())
        .map((box, i) => (i ? box.bottom : box.top))""")
    assert below - above < 0.7 * DESKTOP[1]
    page.click("#block-0")
    page.wait("document.querySelector('#options').hidden")
    assert "Choose a layer" in text(page, ".network")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_words_that_an_option_offers_are_seen_whole(page, size):
    page.show(size)
    page.click("#block-0")
    page.wait("document.querySelector('#option-initializer')")
    cut = page.run("""[...document.querySelectorAll("#options input[list]")].flatMap((it) =>
        [...it.list.options].map(({ value }) => (it.value = value, [value, it.scrollWidth - it.clientWidth])))""")
    assert len(cut) > 9 and not [word for word, more in cut if more > 0]


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_tab_key_reaches_every_control_and_shows_where_it_is(page, size):
    page.show(size)
    page.click("#tab-inside")
    page.wait("document.querySelector('#inside [data-name=dy] canvas')")
    controls = """[...document.querySelectorAll("a, button, select, input:not([type=radio]), summary, [tabindex='0']")]
        .filter((it) => it.checkVisibility({ visibilityProperty: true }) && !it.disabled && it.tabIndex === 0)"""
    expected = page.run(f"(document.querySelector('.skip').focus(), {controls}).length")
    reached, hidden = {0}, []
    for _ in range(60):
        page.key("Tab", 9)
        at, seen, drawn = page.run(f"""(() => {{ const it = document.activeElement, box = it.getBoundingClientRect();
            return [{controls}.indexOf(it), box.top < innerHeight && box.bottom > 0,
                it.matches("[type=radio]") || getComputedStyle(it).outlineStyle !== "none"]; }})()""")
        if at >= 0:
            reached.add(at)
        if not (seen and drawn):
            hidden.append(page.run("document.activeElement.outerHTML.slice(0, 80)"))
        if len(reached) == expected:
            break
    missed = set(range(expected)) - reached
    assert not missed and expected > 30 and not hidden, page.run(f"{controls}[{min(missed, default=0)}].outerHTML")
    assert "parameters" in page.run("document.querySelector('#block-0').getAttribute('aria-label')")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_tab_key_visits_network_and_training_as_they_are_seen(page, size):
    page.show(size)
    page.run("document.querySelector('.skip').focus()")
    visited = []
    while len(visited) < 2:
        page.key("Tab", 9)
        card = page.run("document.activeElement.closest('.network, .training')?.id ?? null")
        if card and card not in visited:
            visited.append(card)
    seen = page.run("""["network", "training"].map((id) => [id, document.getElementById(id).getBoundingClientRect()])
        .sort(([, a], [, b]) => a.top - b.top || a.left - b.left).map(([id]) => id)""")
    assert visited == seen == (["network", "training"] if size == DESKTOP else ["training", "network"])


def test_tabs_follow_the_arrow_keys(page):
    page.run("document.querySelector('#tab-inside').focus()")
    page.key("ArrowRight", 39)
    assert page.run("document.activeElement.id") == "tab-answer" and not page.run(
        "document.querySelector('#answer').hidden"
    )


def test_the_policy_lets_nothing_out(tab, address):
    opened(tab, address)
    assert tab.run("fetch('http://127.0.0.1:9/').then(() => 'let through', () => 'refused')") == "refused"
    assert (
        tab.run("import('data:text/javascript,export default 1').then(() => 'let through', () => 'refused')")
        == "refused"
    )
    assert sum("Content Security Policy" in error for error in tab.errors) >= 2
    tab.errors.clear()


def test_the_policy_lets_the_icon_in(page):
    wide = """(async () => { const icon = new Image(); icon.src = document.querySelector("link[rel=icon]").href;
        await icon.decode(); return icon.naturalWidth; })()"""
    assert page.run(wide) > 0


def test_nothing_can_be_used_before_there_are_settings(page):
    hold(page, "begin")
    page.run("(playground.asleep(true), playground.settings = undefined, playground.ready(), null)")
    page.wait("reached")
    inert = "[...document.querySelectorAll('.network, .training, [role=tabpanel]')].map((it) => it.inert)"
    assert set(page.run(inert)) == {True}
    page.run("go()")
    page.wait("!document.querySelector('.network').inert")
    assert set(page.run(inert)) == {False} and page.run("playground.settings.layers.length") == 8


def test_a_restart_leaves_no_worker_file_behind(page):
    page.run("""(window.alive = new Set(), ["createObjectURL", "revokeObjectURL"].forEach((name) => {
        const real = URL[name].bind(URL);
        URL[name] = (it) => { const url = real(it); alive.add(url); alive.delete(it); return url; };
    }), null)""")
    page.run("playground.restart()")
    page.wait("playground.begun")
    assert not [url for url in page.run("[...alive]") if url]


def test_if_python_cannot_be_loaded_the_page_says_so(tab):
    with playground_server.served(handler=playground_server.Folder) as url:  # no wheel, no Pyodide, no network
        tab.open(url)
        tab.wait("window.playground && !document.querySelector('#trouble').hidden")
        told = tab.run("playground.python.ask('about').catch((error) => error.message)")
        assert told == "Python could not be loaded."
        assert re.search(r"could not be loaded from https://\S+ \(Failed to fetch .*\)", text(tab, "#trouble"))
        assert "could not be loaded" in text(tab, "#state") and tab.run("document.querySelector('#train').disabled")
        for name, button in (("exercises", "#hint"), ("breaking", "#check"), ("inside", "#inside .far")):
            tab.click(f"#tab-{name}")
            tab.click(button)  # nothing but the tabs can be used
        tab.click("#add button")
        assert not [error for error in tab.errors if "TypeError" in error]
        assert tab.run("document.querySelector('.report').innerText") == ""
    tab.errors.clear()


# -- the real thing ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif("DUALNET_PYODIDE" not in os.environ, reason="DUALNET_PYODIDE names no folder with Pyodide")
def test_the_real_thing(tab, tmp_path):
    """Pyodide itself: the default network learns in the page, and neither page nor console reaches another server."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("playground_tool", PAGE.parents[1] / "tools" / "playground.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.put_together(tmp_path, Path(os.environ["DUALNET_PYODIDE"]))
    tab.requests.clear()
    tab.errors.clear()
    with playground_server.served(tmp_path, playground_server.Folder) as url:
        tab.open(url)
        tab.wait(IDLE, 300)
        tab.run("playground.python.train(460)")
        tab.wait("playground.step >= 460 && !playground.python.training", 300)
        assert tab.run("playground.run.trials.at(-1).accuracy") >= 0.95
        tab.run("playground.inside.pick('dw', [1, 0, 0, 3])")
        tab.wait("document.querySelector('.account .verdict.good')")
        tab.run("playground.break_('turned-gradient')")
        tab.run("playground.breaking.check()")
        assert "0.w" in text(tab, ".report pre .bad")
        tab.run("playground.goTo(100)")
        tab.run("document.querySelector('#tab-exercises').click()")  # while the page still moves
        tab.wait("playground.exercises.task")
        for exercise in dn.zoo.exercises():  # every one: as it is, and mended
            tab.run(f"playground.exercises.choose({json.dumps(exercise.name)})")
            verdicts = []
            for code in (exercise.code, exercise.repaired):
                tab.run(f"playground.exercises.editor.text = {json.dumps(f'{exercise.preamble}{LINES}{code}')}")
                verdicts.append(grade(tab).partition("\n")[0])
            assert verdicts[1] == "Mended: every witness agrees.", exercise.name
            assert verdicts[0].startswith("Not mended") or exercise.luck, exercise.name
        for code in ("import js; js.fetch('http://127.0.0.1:9/')", "net.save('/tmp/a.npz').exists()"):
            tab.run(f"(playground.console.line.value = {json.dumps(code)}, playground.console.run())")
        tab.wait("document.querySelector('.log').textContent.includes('True')")
        tab.run("playground.save = (name, content) => { window.saved = [name, content]; }")
        tab.run("playground.keep.save('save')")
        (tmp_path / "model.npz").write_bytes(base64.b64decode(tab.run("btoa(String.fromCharCode(...saved[1]))")))
        assert dn.load(tmp_path / "model.npz").children()["0"].filters == 8
        assert all(other.startswith((url, "blob:", "data:", "http://127.0.0.1:9/")) for other in tab.requests)
        assert any("Content Security Policy" in error for error in tab.errors)  # what the console asked for
        tab.errors.clear()
