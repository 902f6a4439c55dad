"""The C header: compiled without a warning, it gives the library's numbers, and learns what the library learns."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import bridge_nets
import numpy as np
import pytest
from bridge_nets import EVERY, apart, drawn_network, examples, made

import dualnet as dn
from dualnet.bridges import c_code
from dualnet.bridges.c_code import WAYS_BACK, identifier
from dualnet.bridges.steps import plan

GCC, CXX = shutil.which("gcc"), shutil.which("g++")
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic")
compiled = pytest.mark.skipif(GCC is None, reason="no gcc here")
pytestmark = pytest.mark.once  # C knows no backend; test_the_text_does_not_depend_on_the_backend has what is left
DTYPES = ("float32", "float64")
LEARNING = [
    name
    for name, (layer, shape) in EVERY.items()
    if all(step.kind in WAYS_BACK for step in plan(layer.copy().init(shape), "to_c").steps)
]
STEPS = 3


@pytest.fixture(scope="module", autouse=True)
def on_numpy():
    with dn.use_backend("numpy"):
        yield


def gcc(folder: Path, source: str, *options: str) -> Path:
    program = folder / f"{source}.run"
    command = [GCC, "-std=c99", *STRICT, *options, "-o", program, source, "-lm"]
    result = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[:4000]
    return program


def check(program: Path) -> tuple[int, str]:
    result = subprocess.run([program, "--check"], capture_output=True, text=True, timeout=60)
    return result.returncode, result.stdout


def numbers(program: Path, *arguments: object, read: np.ndarray) -> np.ndarray:
    text = " ".join(map(repr, read.astype(np.float64).ravel().tolist()))
    command = [str(program), *map(str, arguments)]
    result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return np.array(result.stdout.split(), np.float64)


def all_in_one(folder: Path, nets: Mapping[str, dn.Layer], learning: Iterable[str] = ()) -> Path:
    """One program with many headers. ``NAME predict COUNT`` prints outputs; ``NAME learn STEPS LR LABEL...`` prints the
    losses of so many steps, each on one more example, and then every parameter in its order."""
    lines = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>"]
    cases = []
    for name, net in nets.items():
        real, scan = ("float", "%f") if np.dtype(net.dtype).itemsize == 4 else ("double", "%lf")
        net.to_c(folder / f"{name}.h", backward=name in learning)
        lines.append(f'#include "{name}.h"')
        big = name.upper()
        cases.append(f"""
    if (strcmp(argv[1], "{name}") == 0) {{
        static {real} x[{big}_INPUTS], y[{big}_OUTPUTS];
        int t, i;
        for (t = 0; t < atoi(argv[3]); t++) {{
            for (i = 0; i < {big}_INPUTS; i++) if (scanf("{scan}", x + i) != 1) return 2;
            if (strcmp(argv[2], "predict") == 0) {{
                {name}_predict(x, y);
                for (i = 0; i < {big}_OUTPUTS; i++) printf("%.17g ", (double)y[i]);
            }}""")
        if name in learning:
            sizes = {f"{name}_{re.sub('[^a-z0-9]', '_', key)}": p.value.size for key, p in names_in_c(net).items()}
            shown = [f'for (i = 0; i < {n}; i++) printf("%.17g ", (double){w}[i]);' for w, n in sizes.items()]
            cases.append(f"""
            else printf("%.17g ", (double){name}_learn(x, atoi(argv[5 + t]), ({real})atof(argv[4])));
        }}
        if (strcmp(argv[2], "learn") == 0) {{ {" ".join(shown)} }}
        return 0;
    }}""")
        else:
            cases.append("        }\n        return 0;\n    }")
    lines += ["int main(int argc, char **argv)\n{", "    if (argc < 4) return 2;", *cases, "    return 2;\n}"]
    (folder / "all.c").write_text("\n".join(lines) + "\n", "utf-8")
    return gcc(folder, "all.c", "-O0")


def names_in_c(net: dn.Layer) -> dict[str, dn.Parameter]:
    """The parameters, under the names that they have in the header: a turned filter bank has one of its own."""
    turned = {f"{path}.w" for path, layer in net.walk() if getattr(layer, "mode", "") == "convolution"}
    return {f"{name}.turned" if name in turned else name: p for name, p in net.parameters().items()}


def learned_by_the_library(net: dn.Layer, x: np.ndarray, labels: list[int], lr: float) -> np.ndarray:
    """Losses, and the parameters after a step of SGD on each example; batch norms by their running statistics."""
    net, found = net.copy(), []
    optimizer = dn.SGD(lr)
    for image, label in zip(x, labels):
        y, pullback = net.forward(dn.asarray(image[None]), train=False)
        loss, delta = dn.losses.softmax_cross_entropy(y, dn.asarray([label]))
        optimizer.step(net, pullback(delta())[1])
        found.append(np.array([float(dn.to_numpy(loss))]))
    for name, p in names_in_c(net).items():
        w = dn.to_numpy(p.value)
        found.append((w[::-1, ::-1] if name.endswith(".turned") else w).ravel())
    return np.concatenate(found)


# -- every layer, and networks drawn at random -------------------------------------------------------------------------


def name_of(name: str, dtype: str) -> str:
    return identifier(name).lower() + dtype.removeprefix("float")


@pytest.fixture(scope="module")
def layers_in_c(tmp_path_factory):
    rng = np.random.default_rng(1)
    nets = {name_of(name, dtype): made(name, rng, dtype) for name in EVERY for dtype in DTYPES}
    return nets, all_in_one(tmp_path_factory.mktemp("layers"), nets)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EVERY)
def test_every_layer(name, dtype, layers_in_c, rng):
    nets, program = layers_in_c
    net = nets[name_of(name, dtype)]
    x = examples(net, rng)
    y = numbers(program, name_of(name, dtype), "predict", len(x), read=x)
    assert apart(y, net.predict(x).ravel()) <= plan(net, "to_c").tolerance


@pytest.fixture(scope="module")
def drawn_in_c(tmp_path_factory):
    nets = {f"net{i}": drawn_network(np.random.default_rng(i), dtype=DTYPES[i % 4 == 3]) for i in range(40)}
    return nets, all_in_one(tmp_path_factory.mktemp("drawn"), nets)


@compiled
@pytest.mark.parametrize("number", range(40))
def test_a_drawn_network(number, drawn_in_c, rng):
    nets, program = drawn_in_c
    net = nets[f"net{number}"]
    x = examples(net, rng)
    y = numbers(program, f"net{number}", "predict", len(x), read=x)
    assert apart(y, net.predict(x).ravel()) <= plan(net, "to_c").tolerance


def headed(name: str, rng: np.random.Generator, dtype: str) -> dn.Layer:
    """The layer between two that learn, so that a delta reaches it and another must leave it."""
    layer, shape = EVERY[name]
    net = dn.Sequential([dn.Dense(shape[-1]), layer.copy(), dn.Flatten(), dn.Dense(4)])
    return bridge_nets.filled(net.init(shape, seed=2, dtype=dtype), rng)


@pytest.fixture(scope="module")
def learning_in_c(tmp_path_factory):
    rng = np.random.default_rng(2)
    nets = {name_of(name, dtype): headed(name, rng, dtype) for name in LEARNING for dtype in DTYPES}
    for i in range(20):
        nets[f"net{i}"] = drawn_network(np.random.default_rng(100 + i), learns=True, dtype=DTYPES[i % 2])
    return nets, all_in_one(tmp_path_factory.mktemp("learning"), nets, learning=nets)


@compiled
@pytest.mark.parametrize(
    "name", [name_of(name, dtype) for name in LEARNING for dtype in DTYPES] + [f"net{i}" for i in range(20)]
)
def test_learning(name, learning_in_c, rng):
    """The losses of three steps and all parameters after them. The rate makes a step as large as the gradient."""
    nets, program = learning_in_c
    net, lr = nets[name], 0.5
    x = examples(net, rng, STEPS)
    labels = [int(t) for t in rng.integers(0, net.output_shape(net.input_shape)[0], STEPS)]
    found = numbers(program, name, "learn", STEPS, lr, *labels, read=x)
    expected = learned_by_the_library(net, x, labels, lr)
    bound = 2 * STEPS * plan(net, "to_c").tolerance  # forward and back, step after step
    start = np.concatenate([np.zeros(STEPS), learned_by_the_library(net, x[:0], [], lr)])
    assert np.linalg.norm(expected - start) > 1e-3 * np.linalg.norm(start)  # it did learn something
    assert apart(found, expected) <= bound
    assert np.linalg.norm(found - expected) <= 20 * bound * np.linalg.norm(expected - start)


def test_what_learns_is_what_the_page_says():
    assert {"Conv2D", "Dense", "MaxPool2D", "AveragePool2D.ceil", "BatchNorm", "SeparableConv2D"} <= set(LEARNING)
    assert {"ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Sigmoid", "Tanh", "Softplus", "Residual"} <= set(LEARNING)


# -- the digits --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    (x, t), (x_test, t_test) = dn.data.load_digits()
    net = dn.Sequential(
        [
            *(dn.Conv2D(8, 3, padding=1, use_bias=False), dn.BatchNorm(), dn.ReLU(), dn.MaxPool2D(2)),
            *(dn.Conv2D(8, 3), dn.ReLU(), dn.Flatten(), dn.Dropout(0.2), dn.Dense(10)),
        ]
    ).init((8, 8, 1))
    net.fit(x, t, epochs=5, optimizer=dn.Adam(5e-3), verbose=0)
    assert net.evaluate(x_test, t_test)["accuracy"] > 0.8
    return net, dn.to_numpy(x_test), dn.to_numpy(t_test)


@compiled
@pytest.mark.parametrize("backward", [False, True])
def test_all_test_digits(digits, tmp_path, backward):
    net, x, _ = digits
    header = net.to_c(tmp_path / "digits.h", x[:4], backward=backward)
    program = main_of(tmp_path, "digits.h")
    code, told = check(program)
    assert code == 0 and "4 inputs, 10 outputs each" in told and "WRONG" not in told
    assert ("one step: loss" in told) == backward
    y, r = numbers(program, read=x).reshape(-1, 10), net.predict(x)
    assert len(y) == 360 and (y.argmax(1) == r.argmax(1)).all()
    assert apart(y, r) <= plan(net, "to_c").tolerance
    assert header.stat().st_size < 60_000


def main_of(folder: Path, header: str, compiler: str | None = GCC, *options: str) -> Path:
    """The header compiled by itself, as its first lines say."""
    name = Path(header).stem
    flags = options or ("-std=c99", *STRICT, "-x", "c")
    command = [str(compiler), f"-D{name.upper()}_MAIN", *flags, header, "-o", f"{name}.run", "-lm"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[:4000]
    return folder / f"{name}.run"


@compiled
def test_the_check_finds_a_wrong_weight(digits, tmp_path):
    net, x, _ = digits
    header = net.to_c(tmp_path / "digits.h", x[:2])
    text = header.read_text("utf-8")
    place = text.index("digits_4_w") if "digits_4_w" in text else text.index("digits_3_w")
    first = re.compile(r"(?<=\{\n    )[-0-9.e]+f")
    found = first.search(text, place)
    header.write_text(text[: found.start()] + "0.9f" + text[found.end() :], "utf-8")
    code, told = check(main_of(tmp_path, "digits.h"))
    assert code == 1 and "WRONG" in told


@compiled
def test_the_check_finds_a_wrong_step(digits, tmp_path):
    net, x, _ = digits
    header = net.to_c(tmp_path / "digits.h", x[:2], backward=True)
    text = header.read_text("utf-8")
    wrong = text.replace("if (y[i] > 0.0f) dx[i] += dy[i];", "if (y[i] >= 0.0f) dx[i] += dy[i];")
    assert wrong != text
    header.write_text(wrong, "utf-8")
    code, told = check(main_of(tmp_path, "digits.h"))
    assert code == 1 and told.count("WRONG") == 1


@compiled
@pytest.mark.skipif(CXX is None, reason="no g++ here")
def test_it_is_cplusplus_too(digits, tmp_path):
    net, x, _ = digits
    net.to_c(tmp_path / "digits.h", x[:2], backward=True)
    flags = ("-std=c++11", *STRICT, "-x", "c++")
    assert check(main_of(tmp_path, "digits.h", CXX, *flags))[0] == 0


@compiled
def test_the_program_says_what_it_expects(digits, tmp_path):
    net, x, _ = digits
    net.to_c(tmp_path / "digits.h", x[:1])
    program = main_of(tmp_path, "digits.h")
    for arguments, text in ((["--help"], ""), ([], "1 2 3"), ([], "one")):
        result = subprocess.run([program, *arguments], input=text, capture_output=True, text=True, timeout=60)
        assert result.returncode == 2 and "64 for each input" in result.stderr and not result.stdout
    assert subprocess.run([program], input="", capture_output=True, timeout=60).returncode == 0


@compiled
def test_it_learns_digits_on_its_own(tmp_path):
    """From weights that know nothing to most digits, in C alone, with the library's losses along the way."""
    (x, t), (x_test, t_test) = dn.data.load_digits()
    x, t = dn.to_numpy(x)[:1000], dn.to_numpy(t)[:1000]
    net = dn.Sequential([dn.Conv2D(4, 3), dn.ReLU(), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(10)]).init((8, 8, 1))
    program = all_in_one(tmp_path, {"net": net}, learning=["net"])
    found = numbers(program, "net", "learn", len(x), 0.05, *map(int, t), read=x)
    losses, weights = found[: len(x)], found[len(x) :]
    assert losses[:50].mean() > 1.5 and losses[-200:].mean() < 0.6
    expected = learned_by_the_library(net, x, [int(label) for label in t], 0.05)
    assert np.abs(losses - expected[: len(x)]).max() < 1e-3  # a thousand steps, each on the rounding of those before
    state, start = {}, 0
    for name, p in net.parameters().items():
        state[name], start = weights[start : start + p.value.size].reshape(p.shape), start + p.value.size
    net.load_state_dict({name: value.astype("float32") for name, value in state.items()})
    assert net.evaluate(x_test, t_test)["accuracy"] > 0.8


@compiled
def test_a_label_that_is_none_teaches_nothing(tmp_path, rng):
    net = dn.Sequential([dn.Dense(3)]).init((2,))
    program = all_in_one(tmp_path, {"net": net}, learning=["net"])
    x = examples(net, rng, 2)
    found = numbers(program, "net", "learn", 2, 0.1, 3, -1, read=x)
    assert found[:2].tolist() == [-1.0, -1.0]
    assert (found[2:] == np.concatenate([dn.to_numpy(p.value).ravel() for p in net.parameters().values()])).all()


@compiled
def test_extreme_inputs(layers_in_c):
    """At infinity and NaN the header answers as the library does."""
    nets, program = layers_in_c
    few = np.array([-np.inf, -1e4, -0.0, 1e4, np.inf, np.nan, 1e-30, -1e-30, 88, -88, 700, -700], "float32")
    rows = np.array([[3, np.inf, 0, 0, -np.inf], [-np.inf] * 5, [np.inf, 1, np.inf, -1e4, 1e4]], "float32")
    for name, (layer, shape) in EVERY.items():
        if type(layer) in (dn.Softmax, dn.LogSoftmax):
            axis = layer.axis % (len(shape) + 1) - 1
            values = np.moveaxis(
                np.resize(rows[:, : shape[axis]], (3, *np.delete(shape, axis), shape[axis])), -1, axis + 1
            )
        elif shape == (4, 3):  # the other activations
            values = few.reshape(1, 4, 3)
        else:
            continue
        with np.errstate(all="ignore"):
            expected = nets[name_of(name, "float32")].predict(values).ravel()
        found = numbers(program, name_of(name, "float32"), "predict", len(values), read=values)
        assert np.allclose(found, expected, rtol=1e-6, atol=1e-7, equal_nan=True), name


@compiled
@pytest.mark.parametrize("pool", [dn.MaxPool2D(2), dn.GlobalMaxPool2D()])
def test_the_first_of_equal_maxima_gets_the_error(tmp_path, pool):
    net = dn.Sequential([dn.Conv2D(1, 1), pool, dn.Flatten(), dn.Dense(3)]).init((2, 2, 2))
    net.load_state_dict(net.state_dict() | {"0.w": np.ones((1, 1, 2, 1), "float32")})
    x = np.array([[[[0, 1], [1, 2]], [[2, 1], [3, 0]]]], "float32")  # the sums are 1, 3, 3, 3
    program = all_in_one(tmp_path, {"net": net}, learning=["net"])
    found = numbers(program, "net", "learn", 1, 0.5, 0, read=x)
    assert apart(found, learned_by_the_library(net, x, [0], 0.5)) < 1e-6


# -- the text ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_text_does_not_depend_on_the_backend(tmp_path, monkeypatch, dtype):
    """Every layer, forward and back, and some networks: from arrays of a device the same bytes."""
    monkeypatch.setenv("DUALNET_KERNELS", "reference")  # the outputs to check against are rounded alike
    texts = []
    for backend in ("numpy", "strict"):
        with dn.use_backend(backend):
            rng = np.random.default_rng(1)
            nets = {name: made(name, rng, dtype) for name in EVERY}
            nets |= {f"{name} back": headed(name, rng, dtype) for name in LEARNING}
            nets |= {f"net{i}": drawn_network(np.random.default_rng(i), dtype=dtype) for i in range(10)}
            written = ((name, net.to_c(tmp_path / "net.h", backward="back" in name)) for name, net in nets.items())
            texts.append({name: path.read_text("utf-8") for name, path in written})
    assert [name for name in nets if texts[0][name] != texts[1][name]] == [] and len(set(texts[0].values())) > 80


def arrays_in(text: str, kind: type) -> dict[str, np.ndarray]:
    found = re.findall(r"^static (?:const )?(?:float|double) (\w+)\[\d+\] = \{\n(.*?)\n\};", text, re.M | re.S)
    return {name: np.array([kind(n.strip().rstrip("f")) for n in body.split(",")], kind) for name, body in found}


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_keep_their_bits(tmp_path, rng, dtype):
    net = dn.Sequential([dn.Dense(50)]).init((40,), dtype=dtype)
    w = (rng.standard_normal((40, 50)) * 10.0 ** rng.integers(-37, 37, (40, 50))).astype(dtype)
    w[0, :6] = [0.0, -0.0, 1e-40, 1.0, 16777216.0, np.finfo(dtype).max]
    net.load_state_dict({"0.w": w, "0.b": np.zeros(50, dtype)})
    text = net.to_c(tmp_path / "net.h", np.zeros((1, 40), dtype)).read_text("utf-8")
    read = arrays_in(text, np.dtype(dtype).type)
    assert read["net_0_w"].tobytes() == w.tobytes()


def test_a_chain_runs_in_two_buffers_in_turn(tmp_path):
    layers = [
        dn.Conv2D(4, 3),
        dn.ReLU(),
        dn.Conv2D(2, 3),
        dn.Tanh(),
        dn.Conv2D(8, 3),
        dn.ReLU(),
        dn.Flatten(),
        dn.Dense(3),
    ]
    text = dn.Sequential(layers).init((12, 12, 1)).to_c(tmp_path / "net.h").read_text("utf-8")
    assert re.findall(r"^static float (net_buffer_\d)\[(\d+)\];$", text, re.M) == [
        ("net_buffer_0", str(10 * 10 * 4)),
        ("net_buffer_1", str(8 * 8 * 2)),
    ]
    assert f"{4 * (400 + 128):,} bytes of static buffers" in text and "malloc" not in text


def test_batch_norms_are_folded_in_but_for_learning(digits, tmp_path):
    net, x, _ = digits
    assert "batch_norm" not in net.to_c(tmp_path / "net.h", x[:1]).read_text("utf-8")
    text = net.to_c(tmp_path / "net.h", x[:1], backward=True).read_text("utf-8")
    assert "net_batch_norm_backward" in text and "static const float net_1_moving_mean" in text
    assert "static float net_0_w[" in text and "static float net_1_gamma[" in text


def test_the_same_network_makes_the_same_text(digits, tmp_path):
    net, x, _ = digits
    first = net.to_c(tmp_path / "net.h", seed=3).read_bytes()
    assert net.to_c(tmp_path / "net.h", seed=3).read_bytes() == first
    assert net.to_c(tmp_path / "net.h", seed=4).read_bytes() != first


def test_names(tmp_path):
    net = dn.Dense(2).init((2,))
    assert net.to_c(tmp_path / "my digits-v2").name == "my digits-v2.h"
    text = (tmp_path / "my digits-v2.h").read_text("utf-8")
    assert "void my_digits_v2_predict(" in text and "#ifndef MY_DIGITS_V2_H" in text and "my_digits_v2_w[4]" in text
    assert [identifier(stem) for stem in ("3d", "ä", "_x", "a..b")] == ["net_3d", "net", "x", "a_b"]


def test_only_what_is_needed_is_written(tmp_path):
    text = dn.Dense(2).init((2,)).to_c(tmp_path / "net.h").read_text("utf-8")
    assert re.findall(r"^static inline \w+ (\w+)", text, re.M) == ["net_dense", "net_predict"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_all_that_cannot_learn_is_named_at_once(tmp_path):
    shared = dn.Dense(4)
    net = dn.Sequential([shared, dn.LayerNorm(), dn.ReLU(), shared, dn.Softmax()]).init((4,))
    with pytest.raises(ValueError) as error:
        net.to_c(tmp_path / "net.h", backward=True)
    told = str(error.value)
    assert "1 LayerNorm() has no backward pass" in told and "leave it out" in told
    assert "0.w is used in several places" in told and "0.b is used" in told
    with pytest.raises(ValueError, match="no parameters to learn"):
        dn.ReLU().init((4,)).to_c(tmp_path / "net.h", backward=True)
    with pytest.raises(ValueError, match=r"the output has shape \(3, 4\)"):
        dn.Dense(4).init((3, 2)).to_c(tmp_path / "net.h", backward=True)
    assert not list(tmp_path.iterdir())


def test_a_shared_layer_is_written_once(tmp_path):
    shared = dn.Dense(4)
    net = dn.Sequential([shared, dn.ReLU(), shared]).init((4,))
    text = net.to_c(tmp_path / "net.h").read_text("utf-8")
    assert text.count("net_0_w[16] = ") == 1 and "net_2_w" not in text


def test_numbers_that_are_none_are_refused(tmp_path):
    net = dn.Dense(2).init((2,))
    with pytest.raises(ValueError, match="x holds NaN or infinity"):
        net.to_c(tmp_path / "net.h", [[np.nan, 1.0]])
    net.load_state_dict({"w": np.array([[1.0, np.inf], [0.0, 0.0]], "float32"), "b": np.zeros(2, "float32")})
    with pytest.raises(ValueError, match="to_c: w holds NaN or infinity"):
        net.to_c(tmp_path / "net.h")
    assert not list(tmp_path.iterdir())


def test_every_part_of_the_template_is_used():
    text = "\n".join(c_code.sections())
    kinds = {step.kind for name in EVERY for step in plan(made(name, np.random.default_rng(0)), "to_c").steps}
    assert kinds <= set(text.split()) and {f"{kind}_backward" for kind in WAYS_BACK} <= set(text.split())
    rest = set(text.split()) - kinds - {f"{kind}_backward" for kind in kinds}
    assert rest == {"windows", "units_of", "logistic", "normal_cdf", "copy", "zero", "cross_entropy", "main", "learned"}


# -- the page ----------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "one-file.md"


@compiled
@pytest.mark.skipif(not PAGE.exists(), reason="the pages are in the checkout, not in the package")
def test_the_programs_on_the_page(digits, tmp_path):
    net, x, _ = digits
    net.to_c(tmp_path / "digits.h", x[:4])
    net.to_c(tmp_path / "learner.h", x[:4], backward=True)
    page = PAGE.read_text("utf-8")
    told = []
    for source in re.findall(r"^```c\n(.*?)^```", page, re.M | re.S):
        (tmp_path / "main.c").write_text(source, "utf-8")
        program = gcc(tmp_path, "main.c")
        told.append(subprocess.run([program], capture_output=True, text=True, timeout=60).stdout)
    assert re.fullmatch(r"it is a \d\n", told[0]) and told[1:] == ["it learned\n"]
    (command,) = re.findall(r"^gcc .*$", page, re.M)
    result = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "ok" in result.stdout, result.stderr
