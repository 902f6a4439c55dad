"""dn.explain: the sum of any entry is the library's number, and lists the entries that take part."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest

import dualnet as dn
from dualnet import cli
from dualnet.seeing.explain.example import example
from dualnet.seeing.explain.explanation import tolerance

LAYERS = {
    "plain": (dn.Conv2D(3, 3), (5, 6, 2)),
    "one channel": (dn.Conv2D(2, (2, 3), use_bias=False), (4, 5, 1)),
    "strided": (dn.Conv2D(4, (3, 2), stride=(2, 3), padding=((1, 0), (2, 1)), groups=2), (7, 8, 4)),
    "turned": (dn.Conv2D(2, (2, 3), padding="full", dilation=2, mode="convolution"), (5, 4, 2)),
    "depthwise": (dn.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (5, 5, 2)),
    "transposed": (dn.Conv2DTranspose(2, 3, stride=2, padding=1, output_padding=1, groups=2), (3, 4, 4)),
    "max": (dn.MaxPool2D(3, stride=2, padding=1), (5, 6, 2)),
    "average": (dn.AveragePool2D((2, 3), stride=1, ceil_mode=True), (5, 6, 2)),
    "average with padding": (
        dn.AveragePool2D(3, stride=2, padding=1, count_include_pad=True, ceil_mode=True),
        (6, 6, 1),
    ),
    "l2": (dn.L2Pool2D(2, stride=1), (4, 4, 2)),
    "global average": (dn.GlobalAveragePool2D(), (4, 5, 3)),
    "global max": (dn.GlobalMaxPool2D(keepdims=True), (4, 5, 3)),
    "dense": (dn.Dense(4), (6,)),
    "dense on rows": (dn.Dense(3, use_bias=False), (4, 5)),
    "flatten": (dn.Flatten(), (3, 2, 2)),
    **{
        kind.__name__: (kind(), (4, 3, 2))
        for kind in (dn.ReLU, dn.LeakyReLU, dn.ELU, dn.Sigmoid, dn.Tanh, dn.Softplus, dn.SiLU, dn.GELU, dn.Identity)
    },
    **{kind.__name__: (kind(), (4, 3, 2)) for kind in (dn.Mish, dn.ReLU6, dn.Hardsigmoid, dn.Hardswish)},
    "GELU with tanh": (dn.GELU(approximate=True), (4, 3, 2)),
    "Softmax": (dn.Softmax(), (3, 5)),
    "LogSoftmax": (dn.LogSoftmax(axis=1), (3, 5)),
    "BatchNorm": (dn.BatchNorm(), (3, 4, 2)),
    "LayerNorm": (dn.LayerNorm(axis=(1, 3)), (3, 4, 2)),
    "GroupNorm": (dn.GroupNorm(2), (3, 2, 4)),
    "InstanceNorm": (dn.InstanceNorm(), (3, 4, 2)),
    "Dropout": (dn.Dropout(0.4), (4, 5)),
}


def entries(array: np.ndarray, rng: np.random.Generator, most: int = 6) -> list[tuple[int, ...]]:
    """Corners, and a few places in between."""
    drawn = [tuple(int(rng.integers(n)) for n in array.shape) for _ in range(most)]
    return [(0,) * array.ndim, tuple(n - 1 for n in array.shape), *drawn]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LAYERS)
def test_every_sum_is_the_librarys_number(backend, rng, name, dtype):
    layer, shape = LAYERS[name]
    layer = layer.copy().init(shape, dtype=dtype)
    for parameter in layer.parameters().values():
        parameter.value = dn.asarray(rng.standard_normal(parameter.shape), dtype)
    x = dn.asarray(rng.standard_normal((3, *shape)), dtype)
    y, pullback = layer.copy().forward(x, train=True)
    dy = dn.asarray(rng.standard_normal(y.shape), dtype)
    dx, gradients = pullback(dy)
    computed = {"y": y, "dx": dx, **{f"d{name}": gradient for name, gradient in gradients.items()}}
    for word, array in computed.items():
        array = dn.to_numpy(array)
        for index in entries(array, rng):
            why = dn.explain(layer, x, f"{word}[{','.join(map(str, index))}]", dy=dy)
            assert why.value == array[index]
            assert why.ok and bool(why), str(why)
            assert why.limit < 1e-3 * max(1.0, why.account.size)  # a limit that could be missed
            assert re.fullmatch(r"E\d+", why.anchor)


def test_the_anchors_are_those_of_the_derivation():
    net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(3)]).init((6, 6, 1))
    x = np.ones((1, 6, 6, 1), "float32")
    expected = {
        "0.y[0,0,0,0]": "E4", "0.dw[0,0,0,0]": "E11", "0.db[0]": "E12", "0.dx[0,0,0,0]": "E13",
        "1.y[0,0,0,0]": "E7", "1.dx[0,0,0,0]": "E14", "2.y[0,0,0,0]": "E8", "2.dx[0,0,0,0]": "E15",
        "3.y[0,0]": "E9", "4.y[0,0]": "E9", "4.dw[0,0]": "E16", "4.db[0]": "E16", "4.dx[0,0]": "E16",
    }  # fmt: skip
    assert {target: dn.explain(net, x, target).anchor for target in expected} == expected


# -- which cells met ---------------------------------------------------------------------------------------------------


def test_the_cells_that_met():
    layer = dn.Conv2D(1, 2, stride=2, padding=1).init((4, 4, 1))
    x = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    why = dn.explain(layer, x, "y[0,0,1,0]")
    assert why.cells["x"] == [(0, 0, 1, 0), (0, 0, 2, 0)] and why.cells["w"] == [(1, 0, 0, 0), (1, 1, 0, 0)]
    assert "2 tap(s) of the window read the padding" in str(why)
    why = dn.explain(layer, x, "dw[1,0,0,0]")
    assert why.cells["x"] == [(0, i, j, 0) for i in (0, 2) for j in (1, 3)] or len(why.cells["x"]) == len(why.terms)
    assert all((cell.index[1] + 1) % 2 == 1 for term in why.terms for cell in term.cells if cell.name == "x")
    why = dn.explain(layer, x, "dx[0,1,1,0]")
    assert why.cells == {"dy": [(0, 1, 1, 0)], "w": [(0, 0, 0, 0)]}  # one window reads it: they stand side by side
    assert "(i+1−m)/2" in why.formula


def test_true_convolution_reads_the_kernel_backwards():
    x = np.arange(9, dtype="float32").reshape(1, 3, 3, 1)
    layer = dn.Conv2D(1, 2, mode="convolution").init((3, 3, 1))
    why = dn.explain(layer, x, "y[0,0,0,0]")
    first = next(term for term in why.terms if term.cells[0].name == "w")
    assert [cell.index for cell in first.cells] == [(1, 1, 0, 0), (0, 0, 0, 0)]
    assert "w[k1−1−m,k2−1−n,c,d]" in why.formula and "(E3)" in str(why)


def test_a_tie_has_one_winner():
    layer, x = dn.MaxPool2D(2, stride=1).init((3, 3, 1)), np.zeros((1, 3, 3, 1), "float32")
    why = dn.explain(layer, x, "dx[0,0,0,0]")
    assert why.cells == {"dy": [(0, 0, 0, 0)]}
    centre = dn.explain(layer, x, "dx[0,1,1,0]")
    assert centre.cells == {"dy": [(0, 1, 1, 0)]} and "4 window(s) read x[0,1,1,0]; it won 1" in str(centre)
    last = dn.explain(layer, x, "dx[0,2,2,0]")
    assert last.terms == [] and last.sum == last.value == 0 and last.ok
    x[0, 1, 1, 0] = np.nan
    assert math.isnan(dn.explain(layer, x, "y[0,0,0,0]").sum) and dn.explain(layer, x, "y[0,0,0,0]").ok


# -- inside networks ---------------------------------------------------------------------------------------------------


def network() -> dn.Layer:
    branch = dn.Sequential([dn.Conv2D(3, 3, padding=1), dn.BatchNorm(), dn.ReLU()])
    layers = [branch, dn.Residual(dn.SeparableConv2D(3, 3, padding="same")), dn.Dropout(0.5), dn.MaxPool2D(2)]
    return dn.Sequential([*layers, dn.Flatten(), dn.Dense(4)]).init((6, 6, 2), seed=3)


def test_gradients_of_a_network_are_those_of_its_pullback(backend, rng):
    net, t = network(), np.array([1, 3])
    x = dn.asarray(rng.standard_normal((2, 6, 6, 2)), "float32")
    y, pullback = net.copy().forward(x, train=True)
    _, dloss = dn.losses.softmax_cross_entropy(y, dn.asarray(t, "int64"))
    dx, gradients = pullback(dloss())
    wanted = {f"{path}.d{word}": g for (path, _, word), g in ((k.rpartition("."), g) for k, g in gradients.items())}
    for name, array in {**wanted, "dx": dx, "y": y}.items():
        array = dn.to_numpy(array)
        index = tuple(int(i) for i in np.unravel_index(np.abs(array).argmax(), array.shape))
        why = dn.explain(net, x, f"{name}[{','.join(map(str, index))}]", t=t)
        assert why.ok, str(why)
        np.testing.assert_allclose(why.value, array[index], rtol=2e-5)
        if name not in ("y",):
            assert "softmax_cross_entropy" in why.source or name.endswith(("db", "dbeta")) or why.source


def test_nothing_is_disturbed(rng):
    net, x = network(), rng.standard_normal((2, 6, 6, 2)).astype("float32")
    before, kinds = (
        {k: dn.to_numpy(v).copy() for k, v in net.state_dict().items()},
        [type(layer) for _, layer in net.walk()],
    )
    first, second = (dn.explain(net, x, "0.0.dw[0,0,0,0]") for _ in range(2))
    assert first.value == second.value  # also the same dropout mask
    assert all(np.array_equal(before[k], dn.to_numpy(v)) for k, v in net.state_dict().items())
    assert [type(layer) for _, layer in net.walk()] == kinds


def test_inference_is_explained_with_running_statistics(rng):
    net, x = network(), rng.standard_normal((2, 6, 6, 2)).astype("float32")
    net[0][1].moving_mean = net[0][1].moving_mean + 0.5
    for target in ("0.1.y[1,2,3,1]", "0.1.dx[1,2,3,1]", "0.1.dgamma[1]", "2.dx[0,1,1,1]"):
        assert dn.explain(net, x, target, train=False).ok
    assert len(dn.explain(net, x, "0.1.dx[1,2,3,1]", train=False).terms) == 1
    assert len(dn.explain(net, x, "0.1.dx[1,2,3,1]").terms) == 2 * 6 * 6  # in training, the whole batch


def test_a_shared_layer_collects_from_all_its_places(rng):
    shared = dn.Conv2D(2, 3, padding=1)
    net = dn.Sequential([shared, dn.Tanh(), shared]).init((4, 4, 2))
    x = dn.asarray(rng.standard_normal((1, 4, 4, 2)), "float64")
    net = net.init((4, 4, 2), dtype="float64")
    y, pullback = net.forward(x, train=True)
    dy = dn.asarray(rng.standard_normal(y.shape), "float64")
    _, gradients = pullback(dy)
    why = dn.explain(net, x, "0.dw[1,1,0,1]", dy=dy)
    assert why.ok and "2 places" in str(why)
    np.testing.assert_allclose(why.value, dn.to_numpy(gradients["0.w"])[1, 1, 0, 1], rtol=1e-12)
    ys = [dn.explain(net, x, f"{place}.y[0,1,1,0]", dy=dy) for place in (0, 2)]
    assert ys[0].value != ys[1].value and ys[1].value == dn.to_numpy(y)[0, 1, 1, 0] and all(ys)


def test_without_a_target_it_is_the_largest_gradient_of_the_first_convolution():
    why = example()
    assert why.target.startswith("0.dx[") and why.ok
    small = dn.explain(dn.ReLU().init((3,)), np.array([[1.0, -2.0, 3.0]], "float32"))
    assert small.target.startswith("dx[") and "drawn at random" in str(small)
    assert dn.explain(dn.Dense(2).init((3,)), np.ones((2, 3), "float32")).target.startswith("dw[")


# -- it can fail -------------------------------------------------------------------------------------------------------


def test_a_wrong_backward_pass_is_told(monkeypatch):
    right = dn.ops.conv2d

    def wrong(x, w, b=None, **options):
        y, pullback = right(x, w, b, **options)
        return y, pullback.then("conv2d", lambda result: (result[0], result[1][::-1], result[2]))

    monkeypatch.setattr(dn.ops, "conv2d", wrong)
    why = example("0.dw[2,1,0,2]")
    assert not why.ok and not why and "THEY DISAGREE" in str(why) and "THEY DISAGREE" in why._repr_html_()
    assert example("0.dx[0,3,4,0]").ok


def test_the_limit_follows_tau():
    why = example("0.dw[1,1,0,0]")
    u = np.finfo("float32").eps / 2
    expected = u * (8 + 4 * math.sqrt(36)) * sum(abs(term.value) for term in why.terms)
    assert why.limit == pytest.approx(expected, rel=1e-6)
    assert tolerance(np.dtype("float16"), why.account) > 1000 * why.limit


@pytest.mark.parametrize(
    ("value", "result", "ok"), [(math.nan, 1.0, False), (1.0, math.nan, False), (math.nan,) * 2 + (True,)]
)
def test_nan_agrees_with_nan_alone(value, result, ok):
    why = example("0.dw[1,1,0,0]")
    why = dataclasses.replace(why, value=value, account=dataclasses.replace(why.account, result=result))
    assert why.ok is ok and ("they agree" in str(why)) is ok


# -- what it tells -----------------------------------------------------------------------------------------------------


def test_text_shows_the_largest_terms_and_sums_up_the_others():
    why = example("0.dw[1,1,0,2]")
    assert len(why.terms) == 36
    lines = str(why).splitlines()
    assert lines[0].startswith("0.dw[1,1,0,2] = ") and "(E11, Conv2D backward, to the weights)" in lines[0]
    assert sum("· x[0," in line for line in lines) <= 11 and any("… and" in line for line in lines)
    assert sum("· x[0," in line for line in why.text(None).splitlines()) == 36
    assert "m=1 n=1 c=0 d=2" in str(why) and repr(why) == str(why)
    assert why.sum == pytest.approx(sum(term.value for term in why.terms))
    shown, hidden = ([abs(term.value) for term in terms] for terms in why._shown(5))
    assert len(shown) == 4 and min(shown) >= max(hidden), "a large negative term is as telling as a positive one"
    assert "−" in str(example("0.y[0,2,2,0]")) and "-" not in re.sub(r"softmax_cross_entropy", "", str(why))


def test_a_notebook_shows_a_table():
    text = example("0.dw[1,1,0,2]")._repr_html_()
    assert text.count("<tr>") > 5 and "E11" in text and "<script" not in text and "they agree" in text


def test_numbers_in_the_text_line_up():
    lines = [line for line in str(example("0.y[0,2,2,1]")).splitlines() if " = " in line and line.startswith("  w[")]
    assert len({line.index("=") for line in lines}) == 1 and len({len(line) for line in lines}) == 1


MISTAKES = [
    (3, TypeError, "got 3"),
    ("dw", ValueError, r'such as "y\[0,3,4,1\]".*got \'dw\''),
    ("dw[0,1", ValueError, "got 'dw"),
    ("0.dw[a,b]", ValueError, r"an index holds integers, such as \[0,1,2,5\]; got \[a,b\]"),
    ("0.dw[]", ValueError, r"0 indices, but dw of layer 0 has shape \(3, 3, 1, 3\); expected 4"),
    ("0.dw[0,1,2]", ValueError, "3 indices.*expected 4"),
    ("0.dw[0,3,0,0]", ValueError, r"index 3 of axis 1 is outside; dw of layer 0 has shape .* expected 0 … 2"),
    ("0.dw[0,-4,0,0]", ValueError, "index -4 of axis 1 is outside"),
    ("7.dw[0,0,0,0]", ValueError, "there is no layer '7'; the layers are 0 Conv2D, 1 ReLU"),
    ("dw[0,0,0,0]", ValueError, r'Sequential is made of layers; name one of them, such as "0.dw\[…\]"'),
    ("1.dw[0,0,0,0]", ValueError, r"layer 1 \(ReLU\) computes no 'dw'; it has y, dx. dw is computed by layer 0, 4"),
    ("0.w[0,0,0,0]", ValueError, "w is a parameter; ask for its gradient, dw"),
    ("1.x[0,0,0,0]", ValueError, "x comes from the layer before; ask for that layer's y"),
    ("1.dy[0,0,0,0]", ValueError, "dy comes from the layer after; ask for that layer's dx"),
    ("0.dq[0]", ValueError, "computes no 'dq'; it has y, dx, dw, db"),
]


@pytest.mark.parametrize("target, kind, words", MISTAKES, ids=[str(m[0]) for m in MISTAKES])
def test_mistakes_in_a_target_are_told(target, kind, words):
    with pytest.raises(kind, match=words):
        example(target)


def test_other_mistakes_are_told():
    net, x = dn.Sequential([dn.Conv2D(2, 3)]).init((5, 5, 1)), np.ones((1, 5, 5, 1), "float32")
    with pytest.raises(TypeError, match="expected a layer or network, got ndarray"):
        dn.explain(x, net, "y[0,0,0,0]")
    with pytest.raises(ValueError, match="not initialised"):
        dn.explain(dn.Conv2D(2, 3), x, "y[0,0,0,0]")
    with pytest.raises(ValueError, match=r"expected \(N, 5, 5, 1\)"):
        dn.explain(net, x[0], "y[0,0,0]")
    with pytest.raises(ValueError, match="give t or dy, not both"):
        dn.explain(net, x, "y[0,0,0,0]", t=[1], dy=x)
    with pytest.raises(ValueError, match=r"dy has shape \(1, 5, 5, 1\); the output has \(1, 3, 3, 2\)"):
        dn.explain(net, x, "dx[0,0,0,0]", dy=x)
    with pytest.raises(ValueError, match="choose from"):
        dn.explain(net, x, "y[0,0,0,0]", t=[1], loss="softmax")
    double = dn.Lambda(lambda x: 2 * x, lambda dy, x, y: 2 * dy).init((3,))
    with pytest.raises(ValueError, match="Lambda cannot be explained"):
        dn.explain(double, np.ones((1, 3), "float32"), "y[0,0]")


def test_negative_indices_count_from_the_end():
    assert example("0.dw[-1,-2,0,-1]").target == "0.dw[2,1,0,2]"
    assert example(" 0.dw[ 2, 1, 0, 2 ] ").target == "0.dw[2,1,0,2]"


# -- on the command line -----------------------------------------------------------------------------------------------


def command(capsys, *arguments):
    code = cli.main(["explain", *map(str, arguments)])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_command_needs_no_model(capsys, tmp_path):
    code, out, _ = command(capsys)
    assert code == 0 and out == f"{example()}\n"
    code, out, _ = command(capsys, "--target", "2.dx[0,1,2,0]", "--html", tmp_path / "page", "--seed", 3, "--image", 5)
    page = tmp_path / "page.html"
    assert code == 0 and f"{page}: the page, " in out and page.stat().st_size < 300_000
    assert str(example("2.dx[0,1,2,0]", image=5, seed=3)) in out


def test_the_command_explains_saved_networks(capsys, tmp_path):
    net = dn.Sequential([dn.Conv2D(2, 3), dn.Flatten(), dn.Dense(10)]).init((8, 8, 1), seed=4)
    path = net.save(tmp_path / "net")
    _, (x, t) = dn.data.load_digits()
    code, out, _ = command(capsys, path, "--target", "dx[0,3,4,0]", "--image", 7)
    assert code == 0 and out == f"{dn.explain(net, x[7:8], 'dx[0,3,4,0]', t=t[7:8])}\n"
    np.save(tmp_path / "x.npy", x[:2])
    code, out, _ = command(capsys, path, "--images", tmp_path / "x.npy", "--label", 3)
    assert code == 0 and out == f"{dn.explain(net, x[:1], t=[3])}\n"
    code, out, _ = command(capsys, path, "--images", tmp_path / "x.npy")
    assert code == 0 and "drawn at random" in out
    assert command(capsys, "digits", "--target", "0.db[2]")[0] == 0


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere.npz"], "'nowhere.npz' is neither a file, a model nor a data set; the models are digits_cnn, lenet5"),
        (["nowhere.npz"], ", and the data sets digits, mnist, fashion_mnist"),
        (["lenet5"], "choose an image, with --images FILE"),
        (["lenet5", "--images", "mnist"], "DUALNET_OFFLINE forbids downloading it"),
        (["mnist"], "DUALNET_OFFLINE forbids downloading it"),
        (["digits", "--image", "9999"], "--image 9999: there are 360 images, 0 … 359"),
        (["--image", "-1"], "there are 1,437 digits"),
        (["--target", "q"], "a target is an array and an index"),
        (["--html", "nowhere/page.html"], "no such folder; create it first"),
        (["--label", "11"], "label"),
        (["digits", "--target", "0.db[2]", "--images", "nothing.npy"], "'nothing.npy' is neither a file"),
    ],
)
def test_the_commands_mistakes_are_one_line(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DUALNET_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DUALNET_DATA", raising=False)
    code, out, err = command(capsys, *arguments)
    assert code == 2 and not out and words in err and err.startswith("dualnet explain: ") and err.count("\n") == 1
    assert "explain: explain" not in err and not list(tmp_path.iterdir())
