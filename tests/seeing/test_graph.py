"""dn.graph: a box for every layer, an arrow for every connection, whatever the labels hold."""

from __future__ import annotations

import re

import pytest

import dualnet as dn
from dualnet.seeing.graph import Graph


def edges(text):
    """The arrows between labels, of either format."""
    if text.startswith("digraph"):
        found = re.findall(r'^ *(n\d+) \[label="((?:[^"\\]|\\.)*)"', text, flags=re.M)
        labels = {key: label.split("\\n")[0] for key, label in found}
        pairs = re.findall(r"^ *(n\d+) -> (n\d+);$", text, flags=re.M)
    else:
        found = re.findall(r'^ *(n\d+)[\[(]+"(.*?)"[\])]+$', text, flags=re.M)
        labels = {key: label.split("<br/>")[0] for key, label in found}
        pairs = re.findall(r"^ *(n\d+) --> (n\d+)$", text, flags=re.M)
    return sorted((labels[a], labels[b]) for a, b in pairs)


@pytest.fixture(params=["mermaid", "dot"])
def format(request):
    return request.param


def test_a_chain(format):
    net = dn.Sequential([dn.Dense(3), dn.Sequential([dn.ReLU(), dn.Dense(2)])])
    expected = [("0 Dense", "1.0 ReLU"), ("1.0 ReLU", "1.1 Dense"), ("1.1 Dense", "output"), ("input", "0 Dense")]
    assert edges(net.graph(format)) == expected


def test_a_residual_with_and_without_a_shortcut(format):
    net = dn.Sequential([dn.ReLU(), dn.Residual(dn.Sequential([dn.Dense(3), dn.Tanh()]))])
    assert edges(dn.graph(net, format)) == [
        ("+", "output"),
        ("0 ReLU", "+"),
        ("0 ReLU", "1.layer.0 Dense"),
        ("1.layer.0 Dense", "1.layer.1 Tanh"),
        ("1.layer.1 Tanh", "+"),
        ("input", "0 ReLU"),
    ]
    net = dn.Residual(dn.Dense(4), dn.Dense(4))
    assert edges(dn.graph(net, format)) == [
        ("+", "output"),
        ("input", "layer Dense"),
        ("input", "shortcut Dense"),
        ("layer Dense", "+"),
        ("shortcut Dense", "+"),
    ]


def test_branches_that_meet_and_a_container_of_ones_own(format):
    class Mine(dn.Sequential):
        def forward(self, x, train=False):
            return super().forward(x, train)

    net = dn.Parallel([dn.Identity(), Mine([dn.ReLU(), dn.Tanh()]), dn.SeparableConv2D(2, 1)], merge="concat")
    text = dn.graph(net, format)
    assert ("1 Mine", "concat") in edges(text) and ("2 SeparableConv2D", "concat") in edges(text)
    assert "Tanh" not in [a.split()[-1] for pair in edges(text) for a in pair]
    assert sum(a == "input" for a, _ in edges(text)) == 3


def test_a_shared_layer_is_tied_to_its_first_place():
    shared = dn.Dense(3)
    net = dn.Sequential([shared, dn.ReLU(), shared])
    assert "n2 -.-|same weights| n4" in dn.graph(net.init((3,)))
    assert re.search(r"n2 -> n4 \[style=dashed, dir=none", dn.graph(net, "dot"))
    assert "2 Dense (shared)" in dn.graph(net)
    relu = dn.ReLU()
    assert "same weights" not in dn.graph(dn.Sequential([relu, relu])), "without weights nothing is tied"


def test_shapes_are_shown_where_they_are_known(format):
    net = dn.models.lenet5()
    assert "28 × 28 × 6" not in net.graph(format)
    assert "28 × 28 × 6" in net.graph(format, input_shape=(28, 28, 1)) and net.input_shape is None
    assert "28 × 28 × 6" in net.init((28, 28, 1)).graph(format)
    with pytest.raises(ValueError, match="layer 3 .Conv2D.*does not fit"):
        net.graph(format, input_shape=(4, 4, 1))


def test_every_model_is_drawn_and_brackets_match(format):
    for name, make in dn.models.NAMES.items():
        text = make().graph(format, input_shape=dn.models.INPUT_SHAPES[name])
        if format == "mermaid":
            assert text.count("subgraph") == len(re.findall(r"^ +end$", text, flags=re.M))
        assert text.count("{") == text.count("}")


def test_labels_cannot_end_themselves():
    class Sly(dn.ReLU):
        def __repr__(self):
            return 'Sly("]; <b>\\x`#"\n")'

    mermaid, dot = (dn.graph(dn.Sequential([Sly()]), format) for format in ("mermaid", "dot"))
    (line,) = (line for line in mermaid.splitlines() if "Sly" in line)
    inside = line[line.index('"') + 1 : line.rindex('"')]
    assert '"' not in inside and "`" not in inside and "<b>" not in inside and "#quot;" in inside
    (line,) = (line for line in dot.splitlines() if "Sly" in line)
    assert re.fullmatch(r' *n2 \[label="(?:[^"\\]|\\.)*", shape=box, style=rounded\];', line)


def test_a_notebook_draws_mermaid():
    made = dn.graph(dn.ReLU())
    assert isinstance(made, Graph) and made.format() == made and made._repr_mimebundle_()["text/vnd.mermaid"] == made
    assert list(dn.graph(dn.ReLU(), "dot")._repr_mimebundle_()) == ["text/plain"]


def test_what_cannot_be_drawn():
    with pytest.raises(ValueError, match="format must be 'mermaid' or 'dot', got 'png'"):
        dn.graph(dn.ReLU(), "png")
    with pytest.raises(TypeError, match="expected a layer or network, got int"):
        dn.graph(3)


@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_a_graph_of_layers(format):
    """Every input and output has a box, and every arrow is there; inside a chain the nodes are a group."""
    net = dn.Graph(["p", "q"]).add("sum", dn.Add(), ["p", "q"]).add("a", dn.Dense(2), "sum").add("b", dn.ReLU(), "sum")
    text = net.graph(format, input_shape={"p": (3,), "q": (3,)})
    for label in ("input p", "input q", "sum Add", "a Dense", "b ReLU", "output a", "output b"):
        assert label in text
    arrow = "-->" if format == "mermaid" else "->"
    assert text.count(f" {arrow} ") == 6
    chain = dn.Sequential([dn.Graph("x", [("a", dn.ReLU(), "x"), ("b", dn.Multiply(), ["a", "x"])]), dn.Dense(2)])
    text = chain.graph(format, input_shape=(3,))
    assert "0 Graph" in text and "0.b Multiply" in text and text.count(f" {arrow} ") == 5


def test_the_sign_where_branches_meet():
    for merge, sign in {"add": "+", "average": "mean", "max": "max", "multiply": "×", "concat": "concat"}.items():
        assert f'(("{sign}"' in dn.Parallel([dn.ReLU(), dn.Tanh()], merge=merge).graph()
