"""Graphs as containers: every graph that a tree of containers can express comes back as one, and every other raises an
error."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.bridges.regions import MOST_DEPTH, Node, nest


class Times(dn.Layer):
    """Multiplies by a number: sums of ways tell which ways were taken, and how often."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def forward(self, x, train=False):
        return self.factor * x, dn.Pullback("Times", lambda dy: (self.factor * dy, {}), x)


def evaluate(nodes: list[Node], x: np.ndarray, result: str) -> np.ndarray:
    """The graph, node by node."""
    values = {"x": x}
    for node in nodes:
        inputs = [values[name] for name in node.inputs]
        if node.does == "add":
            values[node.name] = sum(inputs[1:], inputs[0])
        elif node.does == "concat":
            values[node.name] = np.concatenate(inputs, axis=-1)
        else:
            values[node.name] = node.does.factor * inputs[0]
    return values[result]


def agree(nodes: list[Node], result: str) -> dn.Sequential:
    net, places = nest(nodes, "x", result)
    x = np.array([[1.0, 10.0]], "float64")
    y = dn.to_numpy(net.init((2,), dtype="float64")(dn.asarray(x, "float64")))
    np.testing.assert_array_equal(y, evaluate(nodes, x, result))
    inside = dict(net.walk())
    for node in nodes:
        if node.name in places:
            assert inside[places[node.name]] is node.does
    assert len(set(places.values())) == len(places)
    return net


def times(name: str, source: str, factor: float = 2.0) -> Node:
    return Node(name, (source,), Times(factor))


def test_a_chain():
    net = agree([times("a", "x"), times("b", "a", 3)], "b")
    assert [type(layer) for layer in net] == [Times, Times]


def test_no_layer_at_all():
    assert len(agree([], "x")) == 0


def test_the_shortcut_is_the_shorter_way_wherever_it_stands():
    for inputs in (("b", "s"), ("s", "b")):
        net = agree([times("a", "x"), times("b", "a", 3), times("s", "x", 7), Node("sum", inputs, "add")], "sum")
        assert isinstance(net[0], dn.Residual) and net[0].shortcut.factor == 7 and len(net[0].layer) == 2
    for inputs in (("a", "x"), ("x", "a")):
        net = agree([times("a", "x"), Node("sum", inputs, "add")], "sum")
        assert isinstance(net[0], dn.Residual) and net[0].shortcut is None


def test_twice_the_same():
    assert isinstance(agree([Node("sum", ("x", "x"), "add")], "sum")[0], dn.Parallel)


def test_concatenation_keeps_its_order_and_a_sum_of_three_is_parallel():
    nodes = [times("a", "x"), times("b", "x", 3), Node("c", ("b", "x", "a"), "concat")]
    net = agree(nodes, "c")
    assert net[0].merge == "concat" and [type(way) for way in net[0].layers] == [Times, dn.Identity, Times]
    net = agree([*nodes[:2], Node("c", ("b", "x", "a"), "add")], "c")
    assert isinstance(net[0], dn.Parallel) and net[0].merge == "add"


def test_regions_inside_regions():
    nodes = [
        times("a", "x"),
        times("b", "a", 3),
        Node("inner", ("b", "a"), "add"),
        times("c", "inner", 5),
        Node("outer", ("c", "x"), "add"),
        times("d", "outer", 7),
    ]
    net = agree(nodes, "d")
    assert [type(layer) for layer in net[0].layer] == [Times, dn.Residual, Times]


def test_sums_one_behind_the_other_that_open_at_the_same_node():
    nodes = [times("a", "x"), times("b", "x", 3), Node("one", ("a", "b"), "add"), Node("two", ("one", "x"), "add")]
    agree(nodes, "two")


def test_a_dense_block_in_which_every_layer_takes_all_before_it():
    nodes = [times("a", "x"), Node("c1", ("x", "a"), "concat"), times("b", "c1", 3)]
    nodes += [Node("c2", ("x", "a", "b"), "concat"), times("c", "c2", 5), Node("c3", ("x", "a", "b", "c"), "concat")]
    net = agree(nodes, "c3")
    assert [type(layer) for layer in net] == [dn.Parallel] * 3


def test_a_flat_concatenation_of_ways_that_part_later():
    """As Inception's last block is written: the ways b and c go on together through a."""
    nodes = [times("a", "x"), times("b", "a", 3), times("c", "a", 5), Node("all", ("x", "b", "c", "x"), "concat")]
    net = agree(nodes, "all")
    assert [type(way) for way in net[0].layers] == [dn.Identity, dn.Sequential, dn.Identity]
    assert isinstance(net[0].layers[1][1], dn.Parallel)


def test_a_shared_layer_stands_in_both_places():
    layer = Times(3)
    net = agree([Node("a", ("x",), layer), Node("b", ("a",), layer)], "b")
    assert net[0] is net[1]


def test_what_does_not_lead_to_the_result_is_left_out():
    net, places = nest([times("a", "x"), times("dead", "a"), times("b", "a")], "x", "b")
    assert len(net) == 2 and "dead" not in places


def test_a_node_that_leaves_its_region_is_refused_by_name():
    nodes = [times("a", "x"), times("b", "a"), Node("m", ("x", "b"), "add"), Node("r", ("m", "a"), "concat")]
    with pytest.raises(ValueError, match="node 'a' branches in a way"):
        nest(nodes, "x", "r")


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([times("a", "b"), times("b", "a")], "no earlier node is called so"),
        ([times("a", "x"), times("a", "x")], "two nodes called"),
        ([times("x", "x")], "two nodes called"),
        ([Node("a", ("x", "x"), Times(2))], "is a layer with 2 inputs; expected one"),
        ([Node("a", ("x", "x"), "multiply")], "expected a layer"),
        ([Node("a", (), "add")], "expected a layer"),
        ([times("b", "x")], "no node 'a'"),
    ],
)
def test_a_graph_that_is_none(nodes, message):
    with pytest.raises(ValueError, match=message):
        nest(nodes, "x", "a")


def test_nesting_has_an_end():
    nodes, last = [], "x"
    for place in range(MOST_DEPTH + 2):  # each sum opens at x
        nodes += [times(f"a{place}", "x"), Node(f"s{place}", (last, f"a{place}"), "add")]
        last = f"s{place}"
    with pytest.raises(ValueError, match="branches inside branches"):
        nest(nodes, "x", last)


def test_drawn_graphs_agree_or_are_refused(rng):
    """Random graphs: what comes back computes the same. Those without a container form are refused, not bent."""
    counts = {"made": 0, "refused": 0}
    for _ in range(300):
        names, widths, nodes = ["x"], {"x": 2}, []
        for place in range(int(rng.integers(1, 9))):
            name, recent = f"n{place}", names[-3:]
            if rng.random() < 0.5:
                nodes.append(times(name, str(rng.choice(recent)), int(rng.integers(2, 9))))
                widths[name] = widths[nodes[-1].inputs[0]]
            else:
                inputs = tuple(str(one) for one in rng.choice(recent, int(rng.integers(1, 4))))
                same = len({widths[one] for one in inputs}) == 1
                nodes.append(Node(name, inputs, "add" if same and rng.random() < 0.6 else "concat"))
                widths[name] = widths[inputs[0]] if nodes[-1].does == "add" else sum(widths[one] for one in inputs)
            names.append(name)
        try:
            agree(nodes, names[-1])
            counts["made"] += 1
        except ValueError as error:
            assert "branches in a way" in str(error)
            counts["refused"] += 1
    assert counts["made"] > 100 and counts["refused"] > 20, counts
