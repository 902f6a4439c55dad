"""A network as one C header: weights, static buffers and its functions, with test vectors that prove it.

The C functions are in layers.c; this file writes the calls that combine them into a network, and the numbers.
"""

from __future__ import annotations

import functools
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from ..arguments import flag
from ..layers.layer import Layer
from ..ops import losses
from ..shim import asarray, backend_of, to_numpy
from ..version import __version__
from ..writing import check_writable, replace_file
from .steps import Plan, Step, plan, text_size, vectors
from .targets import target_of

__all__ = ["to_c"]

WRAPPED = {"initial_indent": "    ", "subsequent_indent": " " * 8, "break_long_words": False, "break_on_hyphens": False}
IN_PLACE = {"add", "batch_norm", "elu", "gelu", "gelu_tanh", "leaky_relu", "log_softmax", "normalise"}
IN_PLACE |= {"relu", "sigmoid", "silu", "softmax", "softplus", "tanh"}
"""Functions that may overwrite their input with their result."""
WAYS_BACK = {"conv2d": "x", "dense": "x", "batch_norm": "x", "max_pool": "x", "global_max_pool": "x"}
WAYS_BACK |= {"relu": "y", "leaky_relu": "y", "elu": "y", "sigmoid": "y", "tanh": "y", "softplus": "y"}
WAYS_BACK |= {"silu": "x", "gelu": "x", "gelu_tanh": "x"}
WAYS_BACK |= dict.fromkeys(("average_pool", "global_average_pool", "add", "concat", "padded_shortcut"), "")
"""Steps that can learn, and what their pullback reads apart from the delta: the input x, the result y, or nothing."""
SHARE = 0.1
"""The step that --check takes would lower the loss by this share of it, if the loss were linear."""


def to_c(net: Layer, path: str | os.PathLike, x: Any = None, *, backward: bool = False, seed: int = 0) -> Path:
    """Write a float32 (or float64) network as a C99 header that needs nothing but libm; returns the path written.

    ``digits.h`` gives a program ``void digits_predict(const float *x, float *y)``, from one example of the shape given
    to init, laid out row by row with the channels last, to one output. The header holds the weights, to the last bit,
    and static buffers as large as the largest maps; there is no malloc. Batch norms that follow a convolution or dense
    layer are folded into it, as ``net.fuse()`` does. ``backward=True`` adds ``float digits_learn(const float *x, int
    label, float lr)``: one step of SGD on the softmax cross-entropy of one example, which returns the loss before the
    step. Then the weights are not const, batch norms stay, with their running statistics as constants, and every map
    has its own buffer.

    The file tests itself: it holds test inputs, ``x`` (N, ...) or some drawn by ``seed``, and the outputs of this
    network for them. ``gcc -std=c99 -DDIGITS_MAIN -x c digits.h -o digits -lm && ./digits --check`` compares.

    Before it writes anything, it raises ``ValueError`` for a network with layers that cannot be written (the error
    names all of them), for numbers that are not finite, and for a text above 64 MB; ``OSError`` if the file cannot be
    written.

    >>> import dualnet as dn, tempfile, pathlib
    >>> net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.Flatten(), dn.Dense(3)]).init((5, 5, 1))
    >>> header = net.to_c(pathlib.Path(tempfile.mkdtemp()) / "small.h")
    >>> "static inline void small_predict(const float *x, float *y)" in header.read_text("utf-8")
    True
    """
    target = target_of(path, "to_c", (".h", ".hpp"))
    backward = flag(backward, "backward", op="to_c")
    made = plan(net, "to_c", fused=not backward)
    if backward:
        _check_it_can_learn(made)
    tests = vectors(net, x, seed, "to_c")
    text_size("to_c", made, sum(array.size for array in tests), 14 if made.dtype.itemsize == 4 else 22)
    check_writable(target)
    step = _one_step(net, *tests) if backward else None
    replace_file(target, _Header(made, target, tests, step).text().encode())
    return target


def _check_it_can_learn(made: Plan) -> None:
    """Raise an error that lists everything that rules out ``backward=True``."""
    refused = [f"{step.title} has no backward pass in C" for step in made.steps if step.kind not in WAYS_BACK]
    if made.steps and made.steps[-1].kind in ("softmax", "log_softmax"):
        refused[-1] = f"{made.steps[-1].title} at the end is part of the loss already: leave it out"
    uses = [name for step in made.steps for name in set(step.arrays.values())]
    refused += [f"{name} is used in several places" for name in sorted({n for n in uses if uses.count(n) > 1})]
    if not _learned(made):
        refused.append("the network has no parameters to learn")
    if len(made.output.shape) != 1 or made.output.size < 2:
        refused.append(f"the output has shape {made.output.shape}; expected one logit for each class, such as (10,)")
    if refused:
        raise ValueError(
            f"to_c: backward=True does not work for this network: {'; '.join(refused)}. Change that, or write the "
            "network without backward=True."
        )


def _learned(made: Plan) -> set[str]:
    """The names of the arrays that a step of SGD changes."""
    constants = ("mean", "inverse")
    return {name for step in made.steps for role, name in step.arrays.items() if role not in constants}


def _one_step(net: Layer, x: numpy.ndarray, y: numpy.ndarray) -> dict[str, Any]:
    """How one step of SGD in dualnet changes the loss of the first test input."""
    net = net.copy()
    label = int((y[0].argmax() + 1) % y.shape[1])  # not the answer that the network gives
    home = next(iter(net.parameters().values())).value
    x0 = asarray(x[:1], backend=backend_of(home).name)
    t = asarray(numpy.array([label]), backend=backend_of(home).name)

    def loss_and_gradients() -> tuple[float, dict[str, Any]]:
        logits, pullback = net.forward(x0, train=False)
        loss, delta = losses.softmax_cross_entropy(logits, t)
        return float(to_numpy(loss)), pullback(delta())[1]

    before, gradients = loss_and_gradients()
    slope = sum(float((to_numpy(dw).astype(numpy.float64) ** 2).sum()) for dw in gradients.values())
    rate = float(x.dtype.type(SHARE * before / slope if slope > 0 else 1))
    for name, parameter in net.parameters().items():
        parameter.value = parameter.value - rate * gradients[name]  # E17
    return {"label": label, "rate": rate, "before": before, "after": loss_and_gradients()[0]}


# -- the header --------------------------------------------------------------------------------------------------------


class _Header:
    """The text, part by part."""

    def __init__(
        self,
        made: Plan,
        target: Path,
        tests: tuple[numpy.ndarray, numpy.ndarray],
        step: dict[str, Any] | None,
    ) -> None:
        self.made, self.file, self.tests, self.step = made, target.name, tests, step
        self.prefix = identifier(target.stem)
        self.double = made.dtype.itemsize == 8
        self.names = self._c_names()
        self.kept = 0  # numbers in static buffers

    def text(self) -> str:
        network = list(self._learning() if self.step else self._predicting())
        functions = list(self._functions("\n".join(network)))
        parts = [self._top(), *functions, *self._weights(), *network, self._main(), "#endif\n"]
        return "\n".join(parts)

    def _top(self) -> str:
        made, P = self.made, self.prefix.upper()
        rows = [f"{self.file}: a network of {len(made.steps)} steps, {made.input.shape} -> {made.output.shape}."]
        weights = sum(array.size for array in made.arrays.values())
        size = made.dtype.itemsize
        rows += [
            "",
            f"Made by dualnet {__version__}. It needs a C99 compiler and libm; nothing is allocated.",
            f"{weights:,} weights ({weights * size:,} bytes), and {self.kept * size:,} bytes of static buffers, so",
            "calls in several threads at once need a copy each.",
            "",
            f"    void {self.prefix}_predict(const float *x, float *y)",
            f"        x: {made.input.size} numbers, {made.input.shape}, row by row, channels last;"
            f" y: {made.output.size}, {made.output.shape}",
        ]
        if self.step:
            rows += [
                f"    float {self.prefix}_learn(const float *x, int label, float lr)",
                "        one step of SGD; the loss before it. Batch norms keep their statistics, nothing is dropped.",
            ]
        rows += [
            "",
            "Is it right? Compare with the numbers of the network that it was made of:",
            f"    gcc -std=c99 -D{P}_MAIN -x c {self.file} -o {self.prefix} -lm && ./{self.prefix} --check",
            "",
            "E1 ... E17 are the equations in dualnet's documentation.",
        ]
        comment = "/* " + "\n * ".join(rows).replace(" * \n", " *\n") + "\n */"
        if self.double:
            comment = re.sub(r"\bfloat\b", "double", comment)
        defines = [
            f"#ifndef {P}_H",
            f"#define {P}_H",
            "",
            "#include <float.h>",
            "#include <math.h>",
            "#include <stddef.h>",
        ]
        defines += ["", f"#define {P}_INPUTS {made.input.size}", f"#define {P}_OUTPUTS {made.output.size}", ""]
        return "\n".join([comment, *defines])

    # -- numbers

    def _c_names(self) -> dict[str, str]:
        """A C name for each array: ``0.w`` is ``digits_0_w``."""
        return {name: f"{self.prefix}_{re.sub(r'[^A-Za-z0-9]', '_', name)}" for name in self.made.arrays}

    def _weights(self) -> Iterator[str]:
        yield f"/* {'-' * 30} weights {'-' * 30} */\n"
        changed = _learned(self.made) if self.step else set()
        for name, array in self.made.arrays.items():
            yield f"/* {name} {array.shape} */"
            yield self._array(self.names[name], array, "" if name in changed else "const ")
        yield f"/* {'-' * 30} network {'-' * 30} */\n"

    def _array(self, name: str, array: numpy.ndarray, qualifier: str = "const ") -> str:
        numbers = _literals(array, "" if self.double else "f")
        lines = [", ".join(numbers[i : i + 8]) for i in range(0, len(numbers), 8)]
        body = ",\n    ".join(lines)
        return f"static {qualifier}{self._float} {name}[{array.size}] = {{\n    {body}\n}};\n"

    @property
    def _float(self) -> str:
        return "double" if self.double else "float"

    def _number(self, value: Any) -> str:
        if isinstance(value, bool):
            return str(int(value))
        if isinstance(value, float):
            return _literals(numpy.array([value], self.made.dtype), "" if self.double else "f")[0]
        return str(value)

    # -- functions of layers

    def _functions(self, network: str) -> Iterator[str]:
        """The functions that the network calls, and those that they call."""
        known, needed = sections(), set[str]()
        defined = _defined()
        asked = set(re.findall(rf"\b{self.prefix}_(\w+)", network))
        while asked:
            parts = {defined[name] for name in asked if name in defined} - needed
            needed |= parts
            asked = {name for part in parts for name in re.findall(r"\bdn_(\w+)", known[part])}
        widest = [s.numbers["D"] // s.numbers["groups"] for s in self.made.steps if s.kind == "conv2d"]
        if self.step and widest:
            yield f"static {self._float} {self.prefix}_gradient[{max(widest)}]; /* of one row of weights */\n"
            self.kept += max(widest)
        for part, text in known.items():
            if part in needed:
                yield self._own(text)

    def _own(self, text: str) -> str:
        """A piece of the template with this file's prefix and type."""
        text = re.sub(r"\bdn_(?=\w)", f"{self.prefix}_", text)
        text = re.sub(r"\bDN_(?=\w)", f"{self.prefix.upper()}_", text)
        return _in_double(text) if self.double else text

    # -- the calls

    def _call(self, step: Step, number: int, x: Sequence[str], y: str) -> Iterator[str]:
        """The statements of one step, reading the buffers x and writing y; a comment before them."""
        p, n = self.prefix, step.numbers
        shapes = " and ".join(str(value.shape) for value in step.inputs)
        yield f"/* {_safe(step.title)}: {shapes} -> {step.output.shape} */"
        if step.kind == "concat":
            for name, width, first in _branches(step, x):
                yield f"{p}_concat({name}, {y}, {n['positions']}, {width}, {first}, {n['channels']});"
        else:
            yield f"{p}_{step.kind}({', '.join([*x, y, *self._arguments(step, number)])});"

    def _arguments(self, step: Step, number: int) -> list[str]:
        """The other arguments of a function: weights, positions of windows, and numbers, in the template's order."""
        arrays = [self.names[step.arrays[r]] if r in step.arrays else "NULL" for r in ARRAYS.get(step.kind, ())]
        numbers = dict(step.numbers)
        if "at" in numbers:
            numbers = {name: numbers[name] for name in ("count_include_pad",) if name in numbers}
            return [*arrays, f"&{self.prefix}_at_{number}", *map(self._number, numbers.values())]
        return [*arrays, *map(self._number, numbers.values())]

    def _windows(self) -> Iterator[str]:
        for number, step in enumerate(self.made.steps):
            if "at" in step.numbers:
                at, n = step.numbers["at"], step.numbers
                (top, bottom), (left, right) = at.pads
                row = (
                    *at.size,
                    n["C"],
                    *at.grid,
                    n["D"],
                    *at.window,
                    *at.stride,
                    *at.dilation,
                    top,
                    left,
                    bottom,
                    right,
                )
                yield f"/* {_safe(step.title)} */"
                yield f"static const {self.prefix}_windows {self.prefix}_at_{number} = {{"
                yield f"    {', '.join(map(str, row))}, {n['groups']}\n}};\n"

    def _predicting(self) -> Iterator[str]:
        """Only ``predict``: a buffer can be used again as soon as nothing reads it any more."""
        p, made = self.prefix, self.made
        yield from self._windows()
        buffers = _Buffers(f"{p}_buffer_")
        lines: list[str] = []
        names = {0: "x"}
        last = {x.place: number for number, step in enumerate(made.steps) for x in step.inputs}
        for number, step in enumerate(made.steps):
            over = [x.place for x in step.inputs if x.place and last[x.place] == number and step.kind in IN_PLACE]
            if step.output.place == made.output.place:
                names[step.output.place] = "y"
            elif over:
                names[step.output.place] = buffers.keep(names[over[0]])
            else:
                names[step.output.place] = buffers.take(step.output.size)
            lines += self._call(step, number, [names[x.place] for x in step.inputs], names[step.output.place])
            for place in {x.place for x in step.inputs if last[x.place] == number}:
                buffers.release(names[place])
        if not made.output.place:
            lines.append(f"{p}_copy(x, y, {made.output.size});")
        yield from self._declared(buffers.sizes)
        yield from self._function(f"void {p}_predict(const float *x, float *y)", lines)

    def _learning(self) -> Iterator[str]:
        """``predict`` and ``learn``: every map is kept for the backward pass; deltas are not."""
        p, made = self.prefix, self.made
        yield from self._windows()
        names = {0: "x"} | {step.output.place: f"{p}_map_{step.output.place}" for step in made.steps}
        yield from self._declared({names[step.output.place]: step.output.size for step in made.steps})
        forward: list[str] = []
        for number, step in enumerate(made.steps):
            forward += self._call(step, number, [names[x.place] for x in step.inputs], names[step.output.place])
        out = names[made.output.place]
        deltas = _Buffers(f"{p}_delta_")
        backward = list(self._backward(names, deltas))
        yield from self._declared(deltas.sizes)
        yield from self._function(f"void {p}_forward(const float *x)", forward)
        yield from self._function(
            f"void {p}_predict(const float *x, float *y)",
            [f"{p}_forward(x);", f"{p}_copy({out}, y, {made.output.size});"],
        )
        yield (
            "/* One step of SGD on the cross-entropy of one example; returns the loss before it. For a label that\n"
            " * does not exist it returns -1, and learns nothing. */"
        )
        start = [
            "float loss;",
            f"if (label < 0 || label >= {self.prefix.upper()}_OUTPUTS) return -1.0f;",
            f"{p}_forward(x);",
        ]
        yield from self._function(
            f"float {p}_learn(const float *x, int label, float lr)", [*start, *backward, "return loss;"]
        )

    def _backward(self, names: dict[int, str], deltas: _Buffers) -> Iterator[str]:
        """The chain rule, last step to first. Every function adds to dx, which is 0 before its first use."""
        p, made = self.prefix, self.made
        wanted = _wanted(made)
        delta = {made.output.place: deltas.take(made.output.size)}
        end = made.output.place
        yield f"loss = {p}_cross_entropy({names[end]}, {delta[end]}, label, {made.output.size});"
        for number, step in reversed(list(enumerate(made.steps))):
            if step.output.place not in wanted:
                continue
            dy = delta[step.output.place]
            yield f"/* {_safe(step.title)} */"
            for x in step.inputs:
                if x.place in wanted and x.place not in delta:
                    delta[x.place] = deltas.take(x.size)
                    yield f"{p}_zero({delta[x.place]}, {x.size});"
            yield from self._way_back(step, number, names, dy, delta)
            deltas.release(dy)

    def _way_back(
        self, step: Step, number: int, names: dict[int, str], dy: str, delta: dict[int, str]
    ) -> Iterator[str]:
        p, n = self.prefix, step.numbers
        into = [delta.get(x.place, "NULL") for x in step.inputs]
        if step.kind == "concat":
            for name, width, first in _branches(step, into):
                if name != "NULL":
                    yield f"{p}_concat_backward({dy}, {name}, {n['positions']}, {width}, {first}, {n['channels']});"
        elif step.kind == "add":
            for name in into:
                if name != "NULL":
                    yield f"{p}_add_backward({dy}, {name}, {n['n']});"
        else:
            read = {"x": [names[step.inputs[0].place]], "y": [names[step.output.place]], "": []}[WAYS_BACK[step.kind]]
            rate = ["lr"] if step.kind in ARRAYS else []
            arguments = [*read, dy, into[0], *self._arguments(step, number), *rate]
            yield f"{p}_{step.kind}_backward({', '.join(arguments)});"

    def _declared(self, sizes: dict[str, int]) -> Iterator[str]:
        self.kept += sum(sizes.values())
        yield "".join(f"static {self._float} {name}[{size}];\n" for name, size in sizes.items())

    def _function(self, head: str, lines: list[str]) -> Iterator[str]:
        body = "\n".join(textwrap.fill(line, 116, **WRAPPED) for line in lines)  # type: ignore[arg-type]
        text = f"static inline {head}\n{{\n{body}\n}}\n"
        yield re.sub(r"\bfloat\b", "double", text).replace("-1.0f", "-1.0") if self.double else text

    # -- the proof

    def _main(self) -> str:
        x, y = self.tests
        P = self.prefix.upper()
        tests = [f"#define {P}_TESTS {len(x)}"]
        tests += [self._array(f"{self.prefix}_test_x", x), self._array(f"{self.prefix}_test_y", y)]
        learned = ""
        if self.step:
            tests += [
                f"#define {P}_TEST_LABEL {self.step['label']}",
                f"#define {P}_TEST_RATE {self._number(self.step['rate'])}",
                f"#define {P}_TEST_LOSS {self.step['before']!r}",
                f"#define {P}_TEST_LOSS_AFTER {self.step['after']!r}",
            ]
            learned = self._own(sections()["learned"])
        text = self._own(sections()["main"])
        values = {"tests": "\n".join(tests), "tolerance": f"{self.made.tolerance:.2e}", "learned": learned}
        values |= {"scan": "lf" if self.double else "f", "digits": "17" if self.double else "9"}
        for name, value in values.items():
            text = text.replace(f"@{name}@", value)
        return text


ARRAYS = {
    "conv2d": ("w", "b"),
    "conv2d_transpose": ("w", "b"),
    "dense": ("w", "b"),
    "batch_norm": ("gamma", "beta", "mean", "inverse"),
    "normalise": ("gamma", "beta"),
}
"""The arrays that a function takes, in its order."""


class _Buffers:
    """Static arrays that are used again when they are free; for the maps of a chain, two are enough."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.sizes: dict[str, int] = {}
        self.free: set[str] = set()
        self.kept: dict[str, int] = {}

    def take(self, size: int) -> str:
        fits = sorted((n for n in self.free if self.sizes[n] >= size), key=lambda n: (self.sizes[n], n))
        grows = sorted(self.free, key=lambda n: (-self.sizes[n], n))
        name = next(iter([*fits, *grows]), f"{self.prefix}{len(self.sizes)}")
        self.free.discard(name)
        self.sizes[name] = max(size, self.sizes.get(name, 0))
        return name

    def keep(self, name: str) -> str:
        """The buffer now belongs to another value: the next release does not free it."""
        self.kept[name] = self.kept.get(name, 0) + 1
        return name

    def release(self, name: str) -> None:
        if self.kept.get(name):
            self.kept[name] -= 1
        elif name in self.sizes:
            self.free.add(name)


def _branches(step: Step, names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Each branch's buffer, its channels, and the first of them in the whole."""
    first = 0
    for value, name in zip(step.inputs, names):
        yield name, value.shape[-1], first
        first += value.shape[-1]


def _wanted(made: Plan) -> set[int]:
    """The places whose delta leads to a parameter."""
    wanted: set[int] = set()
    learned = _learned(made)
    for step in made.steps:
        if learned & set(step.arrays.values()) or any(x.place in wanted for x in step.inputs):
            wanted.add(step.output.place)
    return wanted


# -- words of C --------------------------------------------------------------------------------------------------------


def identifier(stem: str) -> str:
    """A file's name as the beginning of C names.

    >>> identifier("my-digits.v2"), identifier("3d"), identifier("ziffern_ä")
    ('my_digits_v2', 'net_3d', 'ziffern')
    """
    name = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")
    return name if name[:1].isalpha() else f"net_{name}".rstrip("_")


def _literals(array: numpy.ndarray, suffix: str) -> list[str]:
    """The shortest decimal numbers that represent exactly these floats."""
    return [text + suffix for text in array.ravel().astype("U32").tolist()]


def _safe(title: str) -> str:
    """A title inside a comment of C, in ASCII."""
    return title.encode("ascii", "replace").decode().replace("*/", "* /").replace("/*", "/ *")


def _in_double(text: str) -> str:
    """Code for float as code for double: the type, the literals and the functions of libm."""
    text = re.sub(r"\bfloat\b", "double", text)
    text = re.sub(r"\b(\d+\.\d+)f\b", r"\1", text)
    text = re.sub(r"\b(exp|expm1|log|log1p|tanh|sqrt|fabs|erfc)f\(", r"\1(", text)
    return text.replace("FLT_MAX", "DBL_MAX")


@functools.cache
def sections() -> dict[str, str]:
    """The parts of the template, by name."""
    text = Path(__file__).with_name("layers.c").read_text("utf-8")
    parts = re.split(r"^//-- (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], (part.rstrip("\n") + "\n" for part in parts[1::2])))


@functools.cache
def _defined() -> dict[str, str]:
    """For each function and type of the template, the part that defines it."""
    heads = re.compile(r"^(?:static inline .*?|\} )\bdn_(\w+)[(;]", flags=re.MULTILINE)
    return {name: part for part, text in sections().items() for name in heads.findall(text) if part != "main"}
