"""How networks, tables and histories look in a notebook: well-formed, styled inline, everything escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

import dualnet as dn
from dualnet import markup


def parsed(html):
    """The tree, once nothing in it needs a style sheet, a script or a network."""
    for word in ("<script", "<style", "javascript:", "class=", "onclick", "src="):
        assert word not in html, word
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    return ElementTree.fromstring(f"<div>{html}</div>")


def rows(tree):
    return [[cell.text or "" for cell in row] for row in tree.iter("tr")]


def test_a_network_tells_layers_options_shapes_and_parameters(backend):
    net = dn.Sequential([dn.Conv2D(4, 3, padding="same"), dn.Residual(dn.ReLU()), dn.Flatten(), dn.Dense(2)])
    bare = net._repr_html_()
    assert "not initialised" in bare and rows(parsed(bare))[0] == ["layer", "options"]
    net.init((4, 4, 1))
    tree = parsed(net._repr_html_())
    told = rows(tree)
    assert told[0] == ["layer", "options", "output shape", "parameters"]
    assert told[1] == ["0 Conv2D", "filters=4, kernel_size=3, padding='same'", "(4, 4, 4)", "40"]
    assert [row[0] for row in told[2:]] == ["1 Residual", "  layer ReLU", "2 Flatten", "3 Dense"]
    title = "".join(tree.find(".//summary").itertext())
    assert title == f"Sequential · 5 layers · 170 parameters · (4, 4, 1) → (2,) · float32 on {backend}"


def test_a_long_network_is_folded_and_one_layer_is_a_card_too():
    assert 'open=""' in dn.models.lenet5()._repr_html_()
    folded = dn.models.resnet20().init((32, 32, 3))._repr_html_()
    assert 'open=""' not in folded and "269,722 parameters" in folded
    alone = parsed(dn.Dense(3).init((2,))._repr_html_())
    assert rows(alone)[1] == ["Dense", "units=3", "(3,)", "9"]
    shared = dn.Dense(3)
    told = rows(parsed(dn.Sequential([shared, shared]).init((3,))._repr_html_()))
    assert told[2] == ["1 Dense (shared)", "units=3", "(3,)", ""]


def test_a_layer_that_cannot_tell_its_shape_is_shown_all_the_same():
    class Shy(dn.Layer):
        def output_shape(self, input_shape):
            if self.input_shape is not None:
                raise KeyError("shape")
            return input_shape

        def __repr__(self):
            return "Shy(<b>&)"

    html = dn.Sequential([Shy().init((3,))])._repr_html_()
    net = dn.Sequential([Shy()])
    net.input_shape = (3,)
    net[0].input_shape = (3,)
    assert rows(parsed(net._repr_html_()))[1] == ["0 Shy", "<b>&"] and "&lt;b&gt;" in html


def test_a_history_is_a_table_of_curves():
    history = dn.History(
        loss=[2.0, 1.0, 1.5], accuracy=[0.1, 0.5, 0.4], val_loss=[2.0, float("nan"), 1.0], seconds=[1.0] * 3
    )
    tree = parsed(history._repr_html_())
    told = {row[0]: row[2:] for row in rows(tree) if len(row) == 6}
    assert told["loss"] == ["2", "1.5", "1", "2"] and told["accuracy"] == ["0.1", "0.4", "0.5", "2"]
    assert told["val_loss"] == ["2", "1", "1", "3"] and told["seconds"] == ["1", "1", "", ""]
    curves = list(tree.iter("{http://www.w3.org/2000/svg}svg"))
    assert len(curves) == 4 and all(curve.get("aria-label") for curve in curves)
    assert rows(tree)[-1] == ["3", "1.5", "0.4", "1", "1"], "every epoch, folded"
    parsed(dn.History()._repr_html_())
    own = {row[0]: row[4:] for row in rows(parsed(dn.History(val_kappa=[0.1, 0.5])._repr_html_())) if len(row) == 6}
    assert own["val_kappa"] == ["", ""], "who says that a figure of one's own is to fall?"


@pytest.mark.parametrize("values", [[], [1.0], [2.0, 2.0], [float("nan")] * 3, [1.0, float("inf"), -1.0]])
def test_a_curve_stays_inside_its_frame(values):
    tree = ElementTree.fromstring(markup.sparkline(values))
    for line in tree.iter("{http://www.w3.org/2000/svg}polyline"):
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 160 and 0 <= y <= 32


def test_tables_are_well_formed_and_scroll_where_they_are_wider_than_a_phone():
    net = dn.models.lenet5().init((28, 28, 1))
    shown_as_tables = (net.summary(), net.plan(64), dn.check.gradient(net), dn.History(loss=[2.0, 1.0]), net)
    shown_as_tables += (dn.models.lenet5(), dn.zoo.exercises(), dn.zoo.solution("stale-columns"))
    for shown in shown_as_tables:
        tree = parsed(shown._repr_html_())
        boxes = [div for div in tree.iter("div") if "overflow-x:auto" in (div.get("style") or "")]
        tables = len(list(tree.iter("table")))
        assert tables and tables == sum(len(list(box.iter("table"))) for box in boxes), type(shown)


def test_a_check_shows_both_sides_of_every_identity():
    x, w = dn.asarray([[[[1.0], [2.0], [4.0]]]], "float64"), dn.asarray([[[[10.0]], [[1.0]]]], "float64")
    tree = parsed(dn.check.adjoint(dn.ops.conv2d, x, w)._repr_html_())
    assert "".join(tree.find(".//div").itertext()) == "PASS conv2d"
    assert rows(tree)[0] == ["argument", "pullback", "adjoint", "error", "allowed", ""] and len(rows(tree)) == 5
    assert rows(tree)[1][4:] == ["1.0e-13", ""]

    def doubled(x):
        return 2.0 * x, lambda dy: 4.0 * dy

    tree = parsed(dn.check.gradient(doubled, x, raises=False)._repr_html_())
    assert "FAIL" in "".join(tree.itertext()) and rows(tree)[1][5] == "✗"


def test_text_is_text_whatever_it_holds():
    """Quotes, tags, and the characters that no XML may hold: a terminal's colours in a name would break the SVG."""
    wild = "a\"b'c<d>&e\x1b[1m\x00\ud800\ufffe\t\n\u20ac\U0001f600"
    tree = ElementTree.fromstring(f'<p title="{markup.escape(wild)}">{markup.escape(wild)}</p>')
    assert tree.text == "a\"b'c<d>&e\ufffd[1m\ufffd\ufffd\ufffd\t\n\u20ac\U0001f600"
    assert tree.get("title").split() == tree.text.split()


@pytest.mark.parametrize("verdict", [*markup.VERDICTS, "a verdict that nobody knows"])
def test_white_letters_can_be_read_on_a_badge(verdict):
    """4.5 to 1, as the guidelines for the web ask for."""
    colour = re.search(r"background:#([0-9a-f]{6})", markup.badge(verdict))[1]
    parts = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    light = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    assert 1.05 / (0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] + 0.05) >= 4.5
