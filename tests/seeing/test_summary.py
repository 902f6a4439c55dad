"""The table of a network, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn
from dualnet.layers.sketch import sketch

# LeNet-5 by hand: output, parameters, multiply-adds, bytes of the output in float32
LENET5 = [
    ("0", "Conv2D", (28, 28, 6), 5 * 5 * 1 * 6 + 6, 28 * 28 * 6 * 25, 28 * 28 * 6 * 4),
    ("1", "ReLU", (28, 28, 6), 0, 0, 28 * 28 * 6 * 4),
    ("2", "MaxPool2D", (14, 14, 6), 0, 0, 14 * 14 * 6 * 4),
    ("3", "Conv2D", (10, 10, 16), 5 * 5 * 6 * 16 + 16, 10 * 10 * 16 * 25 * 6, 10 * 10 * 16 * 4),
    ("4", "ReLU", (10, 10, 16), 0, 0, 10 * 10 * 16 * 4),
    ("5", "MaxPool2D", (5, 5, 16), 0, 0, 5 * 5 * 16 * 4),
    ("6", "Flatten", (400,), 0, 0, 400 * 4),
    ("7", "Dense", (120,), 400 * 120 + 120, 400 * 120, 120 * 4),
    ("8", "ReLU", (120,), 0, 0, 120 * 4),
    ("9", "Dense", (84,), 120 * 84 + 84, 120 * 84, 84 * 4),
    ("10", "ReLU", (84,), 0, 0, 84 * 4),
    ("11", "Dense", (10,), 84 * 10 + 10, 84 * 10, 10 * 4),
]


@pytest.mark.parametrize("initialised", [False, True])
def test_lenet5_by_hand(backend, initialised):
    net = dn.models.lenet5()
    table = net.init((28, 28, 1)).summary() if initialised else net.summary((28, 28, 1))
    got = [(r.name, r.layer, r.output_shape, r.parameters, r.multiply_adds, r.activation_bytes) for r in table.rows]
    assert got == LENET5
    assert (table.parameters, table.multiply_adds, table.activation_bytes) == (61_706, 416_520, 60_008)
    assert (table.network, table.input_shape, table.dtype) == ("Sequential", (28, 28, 1), "float32")


def test_weight_sharing_by_hand():
    """E18: (28·28·1)·(28·28·6) weights and 28·28·6 biases for the 156 of the first convolution."""
    first, second = (row for row in dn.models.lenet5().summary((28, 28, 1)).rows if row.layer == "Conv2D")
    assert first.weights == 156 and first.dense_weights == 784 * 4704 + 4704 == 3_692_640
    assert second.weights == 2_416 and second.dense_weights == (14 * 14 * 6) * 1600 + 1600
    text = str(dn.models.lenet5().summary((28, 28, 1)))
    assert "0 Conv2D has 156 weights; a fully-connected layer between the same maps has 3,692,640." in text
    assert "1/23,670" in text and "1/779" in text
    bare = dn.Conv2D(6, 5, padding=2, use_bias=False).summary((28, 28, 1)).rows[0]
    assert bare.weights == 150 and bare.dense_weights == 784 * 4704


def test_e18_counts_the_matrix_that_the_convolution_is():
    """The claim itself, on small maps: written as a matrix, the layer has dense_weights entries and w.size values."""
    layer = dn.Conv2D(2, 2, use_bias=False).init((3, 3, 2), dtype="float64")
    row = layer.summary().rows[0]
    basis = dn.asarray(np.eye(18).reshape(18, 3, 3, 2))
    matrix = dn.to_numpy(layer(basis)).reshape(18, -1)
    assert matrix.size == row.dense_weights
    assert len(np.unique(matrix[matrix != 0])) == row.weights, "sparse, and what is left is shared"


def test_the_text_is_aligned_and_complete():
    table = dn.models.lenet5().summary((28, 28, 1))
    lines = str(table).splitlines()
    assert lines[0] == "Sequential on (28, 28, 1), float32; numbers for one image"
    assert lines[2].split("  ")[0] == "layer" and lines[2].endswith("weight sharing")
    rows = lines[4:16]
    assert [line.split()[0] for line in rows] == [str(i) for i in range(12)]
    end = lines[2].index("parameters") + len("parameters")
    assert all(line[end - 1].isdigit() and line[end] == " " for line in rows), "right-aligned"
    assert lines[-2].split() == ["total", "61,706", "416,520", "60,008"]
    assert repr(table) == str(table)


def test_nested_layers_are_indented_under_their_container():
    body = dn.Sequential([dn.Conv2D(4, 3, padding="same"), dn.ReLU()])
    net = dn.Sequential([dn.Residual(body, dn.Conv2D(4, 1)), dn.Parallel([dn.ReLU(), dn.Tanh()], merge="concat")])
    table = net.summary((6, 6, 3))
    assert [(row.name, row.depth, row.container) for row in table.rows] == [
        ("0", 0, True),
        ("0.layer", 1, True),
        ("0.layer.0", 2, False),
        ("0.layer.1", 2, False),
        ("0.shortcut", 1, False),
        ("1", 0, True),
        ("1.0", 1, False),
        ("1.1", 1, False),
    ]
    assert [row.output_shape for row in table.rows if row.depth == 0] == [(6, 6, 4), (6, 6, 8)]
    assert table.parameters == 3 * 3 * 3 * 4 + 4 + 3 * 4 + 4
    lines = str(table).splitlines()
    assert any(line.startswith("    0 Conv2D") for line in lines) and any(
        line.startswith("  shortcut Co") for line in lines
    )


def test_shared_layers_count_once_but_work_twice():
    shared = dn.Dense(4)
    table = dn.Sequential([shared, dn.ReLU(), shared]).summary((4,))
    assert [row.parameters for row in table.rows] == [20, 0, 0]
    assert [row.shared for row in table.rows] == [False, False, True] and table.parameters == 20
    assert table.multiply_adds == 2 * 16 and "2 Dense (shared)" in str(table)


def test_another_input_shape_leaves_the_network_alone():
    net = dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm(), dn.Flatten(), dn.Dense(2)]).init((6, 6, 1))
    before = {name: dn.to_numpy(value).copy() for name, value in net.state_dict().items()}
    assert net.summary((8, 8, 1)).rows[3].parameters == 36 * 4 * 2 + 2
    assert net.summary().rows[3].parameters == 16 * 4 * 2 + 2 and net.input_shape == (6, 6, 1)
    assert all(np.array_equal(dn.to_numpy(net.state_dict()[name]), value) for name, value in before.items())
    fresh = dn.Sequential([dn.Dense(3)])
    fresh.summary((2,))
    assert fresh.input_shape is None and not fresh.parameters()


def test_dtype_decides_the_bytes():
    assert dn.ReLU().init((4,), dtype="float64").summary().activation_bytes == 32
    assert dn.ReLU().init((4,), dtype="float16").summary().activation_bytes == 8


def test_transposed_depthwise_and_separable_convolutions():
    up = dn.Conv2DTranspose(2, 2, stride=2).summary((3, 3, 5)).rows[0]
    assert up.parameters == 2 * 2 * 2 * 5 + 2 and up.dense_weights == 45 * 72 + 72
    deep = dn.DepthwiseConv2D(3, padding="same").summary((4, 4, 5)).rows[0]
    assert deep.parameters == 9 * 5 + 5 and deep.multiply_adds == 16 * 45 and deep.dense_weights == 80 * 80 + 80
    table = dn.SeparableConv2D(6, 3, padding="same").summary((4, 4, 5))
    assert table.parameters == 9 * 5 + 5 * 6 + 6 and table.multiply_adds == 16 * 45 + 16 * 30


class Twice(dn.Layer):
    """A container of one's own, which does not say what shape each layer inside gets."""

    def __init__(self, inner):
        self.inner = inner

    def children(self):
        return {"inner": self.inner}

    def build(self, input_shape, draw):
        self.g = draw.parameter("ones", (5,))
        self.inner.init_from(input_shape, draw.child(0))

    def forward(self, x, train=False):
        return self.inner.forward(x, train)


def test_a_container_of_ones_own():
    table = dn.Sequential([Twice(dn.Dense(3))]).summary((3,))
    assert [(row.name, row.parameters, row.output_shape) for row in table.rows] == [
        ("0", 5, (3,)),
        ("0.inner", 12, (3,)),
    ]


def test_html_is_a_table_without_raw_text():
    html = dn.models.lenet5().summary((28, 28, 1))._repr_html_()
    assert html.count("<table>") == 1 and html.count("<tr>") == 14 and "61,706" in html and "3,692,640" in html

    class Sly(dn.ReLU):
        pass

    Sly.__name__ = "<script>"
    assert "<script>" not in dn.Sequential([Sly()]).summary((3,))._repr_html_()


def test_what_cannot_be_summed_up():
    net = dn.Sequential([dn.Conv2D(4, 3)])
    with pytest.raises(ValueError, match="not initialised; call summary"):
        net.summary()
    with pytest.raises(ValueError, match="layer 0 .Conv2D.*does not fit"):
        net.summary((2, 2, 1))
    for shape in ("x", (0, 1, 1), (1.5, 2, 2), None if net.input_shape else (-1,)):
        with pytest.raises(ValueError, match="input_shape"):
            net.summary(shape)


def test_a_sketch_takes_no_memory(backend):
    net = sketch(dn.Sequential([dn.Dense(2**20)]), (2**20,))
    assert net.parameters()["0.w"].shape == (2**20, 2**20), "4 TiB, if it were one"
