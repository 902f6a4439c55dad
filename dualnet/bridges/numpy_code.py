"""A network as one Python script that needs only NumPy, with test vectors that prove it.

The layers are copied from numpy_layers.py; this file writes the calls that combine them into a network, and the
numbers.
"""

from __future__ import annotations

import ast
import base64
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy

from ..layers.layer import Layer
from ..version import __version__
from ..writing import check_writable, replace_file
from .steps import Plan, Step, plan, text_size, vectors
from .targets import target_of

__all__ = ["to_numpy"]

HEAD = '''\
"""{file}: a network of {steps} steps, {input} -> {output}.

Made by dualnet {version}. It needs NumPy alone:

    import {module};  y = {module}.predict(x)    x (N, {shape}), channels last -> y {outputs}
    python {file} images.npy [outputs.npy]   print the outputs for an array (N, {shape}), or save them
    python {file} --check                    compare with the numbers of the network that it was made of

E1 ... E17 are the equations in dualnet's documentation.
"""

from __future__ import annotations

import base64
import math
import sys

import numpy as np

INPUT_SHAPE = {input}
OUTPUT_SHAPE = {output}
DTYPE = np.dtype("{dtype}")
TOLERANCE = {tolerance:.3g}  # how far two right results may be apart: |y - r| / |r| over all numbers together
Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


# -- layers ------------------------------------------------------------------------------------------------------------
'''

PREDICT = '''\
# -- the network -------------------------------------------------------------------------------------------------------


def predict(x, batch_size: int = 64) -> np.ndarray:
    """The network's outputs for x (N, {shape}): {outputs}."""
    x = np.asarray(x, DTYPE)
    if x.shape[1:] != INPUT_SHAPE or x.ndim != len(INPUT_SHAPE) + 1:
        raise ValueError(f"x has shape {{x.shape}}; expected (N, {shape})")
    parts = [network(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
    return np.concatenate([np.empty((0, *OUTPUT_SHAPE), DTYPE), *parts])


def network(x: np.ndarray) -> np.ndarray:
'''

MAIN = '''\
# -- the proof ---------------------------------------------------------------------------------------------------------


def check() -> int:
    """Compare with the numbers of the network that this file was made of; 0 if they agree, else 1."""
    y = predict(TEST_X)
    off = y.astype(np.float64) - TEST_Y
    apart, size = np.sqrt((off**2).sum()), np.sqrt((TEST_Y.astype(np.float64) ** 2).sum())
    ok = y.shape == TEST_Y.shape and bool(apart <= TOLERANCE * size)
    print(
        f"{len(y)} inputs, {y[0].size} outputs each: largest difference {np.abs(off).max():.2g}, |y - r| / |r| = "
        f"{apart / size if size else apart:.2g} of at most {TOLERANCE:.2g}: {'ok' if ok else 'WRONG'}"
    )
    return 0 if ok else 1


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        return check()
    if not 1 <= len(arguments) <= 2 or arguments[0].startswith("-"):
        print(f"usage: {sys.argv[0]} --check, or {sys.argv[0]} images.npy [outputs.npy]", file=sys.stderr)
        return 2
    y = predict(np.load(arguments[0]))
    if len(arguments) == 2:
        np.save(arguments[1], y)
    else:
        np.savetxt(sys.stdout, y.reshape(len(y), -1), fmt="%.9g")
    return 0


# -- numbers -----------------------------------------------------------------------------------------------------------


def array(shape: tuple[int, ...], text: str) -> np.ndarray:
    """An array from its bytes in base64, little-endian and row by row."""
    return np.frombuffer(base64.b64decode(text), DTYPE.newbyteorder("<")).reshape(shape).astype(DTYPE)


'''


def to_numpy(net: Layer, path: str | os.PathLike, x: Any = None, *, seed: int = 0) -> Path:
    """Write a float32 or float64 network as a Python script that needs only NumPy; returns the path written.

    The script is a module, ``digits.predict(x)`` for a batch x, and a program, ``python digits.py images.npy``. Its
    layers are readable NumPy code, and it contains the weights, to the last bit. Batch norms that follow a convolution
    or dense layer are folded into it, as ``net.fuse()`` does.

    The file tests itself: it holds test inputs, ``x`` (N, ...) or some drawn by ``seed``, and the outputs of this
    network for them; ``python digits.py --check`` compares.

    Before it writes anything, it raises ``ValueError`` for a network with layers that cannot be written (the error
    names all of them), for numbers that are not finite, and for a text above 64 MB; ``OSError`` if the file cannot be
    written.

    >>> import dualnet as dn, tempfile, pathlib
    >>> net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.Flatten(), dn.Dense(3)]).init((5, 5, 1))
    >>> script = net.to_numpy(pathlib.Path(tempfile.mkdtemp()) / "small.py")
    >>> "import dualnet" in script.read_text("utf-8")
    False
    """
    target = target_of(path, "to_numpy", (".py",))
    made = plan(net, "to_numpy", fused=True)
    tests = vectors(net, x, seed, "to_numpy")
    text_size("to_numpy", made, sum(each.size for each in tests), 1.36 * made.dtype.itemsize)
    check_writable(target)
    replace_file(target, _script(made, target, tests).encode())
    return target


def _script(made: Plan, target: Path, tests: tuple[numpy.ndarray, numpy.ndarray]) -> str:
    axes = made.input.shape
    words = {
        "file": target.name,
        "module": target.stem,
        "steps": len(made.steps),
        "input": axes,
        "output": made.output.shape,
        "shape": ", ".join(map(str, axes)),
        "outputs": f"(N, {', '.join(map(str, made.output.shape))})",
        "version": __version__,
        "dtype": made.dtype.name,
        "tolerance": made.tolerance,
    }
    network = "".join(f"    {line}\n" for line in _calls(made))
    layers = "\n\n".join(_needed({step.kind for step in made.steps}))
    numbers = [f"TEST_X = {_written(tests[0])}\n", f"TEST_Y = {_written(tests[1])}\n", "W = {\n"]
    numbers += [f'    "{name}": {_written(array)},\n' for name, array in made.arrays.items()]
    end = '}\n\nif __name__ == "__main__":\n    sys.exit(main(sys.argv[1:]))\n'
    head = HEAD.format(**words)
    if "math." not in layers:
        head = head.replace("import math\n", "")
    return (
        "\n\n".join([head, *([layers] if layers else []), PREDICT.format(**words) + network, MAIN])
        + "".join(numbers)
        + end
    )


def _written(array: numpy.ndarray) -> str:
    data = numpy.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[i : i + 110] for i in range(0, len(text), 110))
    return f'array({array.shape}, """\n{lines}\n""")'


def _calls(made: Plan) -> Iterator[str]:
    """The lines of ``network``: a comment and a call for each step."""
    names, shapes = {0: "x"}, {0: made.input.shape}
    for step in made.steps:
        came = " and ".join(str(x.shape) for x in step.inputs)
        yield f"# {' '.join(step.title.split())}: {came} -> {step.output.shape}"
        read = [_read(names[x.place], x.shape, shapes[x.place]) for x in step.inputs]
        place = step.output.place
        names[place], shapes[place] = f"v{place}", step.output.shape
        yield f"v{place} = {_call(step, read)}"
    place = made.output.place
    yield f"return {_read(names[place], made.output.shape, shapes[place])}"


def _read(name: str, shape: tuple[int, ...], made_as: tuple[int, ...]) -> str:
    """The name of an array, with a different layout after a Flatten."""
    return name if shape == made_as else f"{name}.reshape(len({name}), {', '.join(map(str, shape))})"


def _call(step: Step, read: list[str]) -> str:
    if step.kind == "add":
        return " + ".join(read)
    arrays = [f'W["{step.arrays[role]}"]' if role in step.arrays else "None" for role in ARRAYS.get(step.kind, ())]
    options = [f"{name}={value!r}" for name, value in OPTIONS.get(step.kind, _alpha)(step).items()]
    return f"{step.kind}({', '.join([*read, *arrays, *options])})"


ARRAYS = {
    "conv2d": ("w", "b"),
    "conv2d_transpose": ("w", "b"),
    "dense": ("w", "b"),
    "batch_norm": ("gamma", "beta", "mean", "inverse"),
    "normalise": ("gamma", "beta"),
}
"""The arrays that a function takes, in its order."""


def _alpha(step: Step) -> dict[str, Any]:
    return {"alpha": step.numbers["alpha"]} if "alpha" in step.numbers else {}


def _conv2d(step: Step) -> dict[str, Any]:
    at = step.numbers["at"]
    return {"stride": at.stride, "dilation": at.dilation, "pads": at.pads, "groups": step.numbers["groups"]}


def _conv2d_transpose(step: Step) -> dict[str, Any]:
    return {"size": step.numbers["at"].size, **_conv2d(step)}


def _pool(step: Step) -> dict[str, Any]:
    at = step.numbers["at"]
    return {"taps": at.window, "stride": at.stride, "dilation": at.dilation, "pads": at.reach}


def _average_pool(step: Step) -> dict[str, Any]:
    at = step.numbers["at"]
    counted = at.pads if step.numbers["count_include_pad"] else ((0, 0), (0, 0))
    return {**_pool(step), "pads": at.pads, "counted": counted, "overhang": at.overhang}


def _global_pool(step: Step) -> dict[str, Any]:
    return {"keepdims": len(step.output.shape) == 3}


def _softmax(step: Step) -> dict[str, Any]:
    outer, axis = 1, 0  # the axis before which `outer` elements lie, counted with the batch
    shape, numbers = step.output.shape, step.numbers
    while outer != numbers["outer"] or shape[axis] != numbers["n"]:
        outer, axis = outer * shape[axis], axis + 1
    return {"axis": axis + 1}


def _normalise(step: Step) -> dict[str, Any]:
    n = step.numbers
    own = (n["n1"], 1, n["n2"], 1) if n["of_n1"] else (1, n["B"], n["n2"], 1)
    return {"sets": (n["A"], n["n1"], n["B"], n["n2"], n["I"]), "own": own, "epsilon": n["epsilon"]}


def _padded_shortcut(step: Step) -> dict[str, Any]:
    return {"stride": step.numbers["stride"], "filters": step.numbers["D"]}


OPTIONS: dict[str, Callable[[Step], dict[str, Any]]] = {
    "conv2d": _conv2d,
    "conv2d_transpose": _conv2d_transpose,
    "max_pool": _pool,
    "average_pool": _average_pool,
    "l2_pool": _pool,
    "global_average_pool": _global_pool,
    "global_max_pool": _global_pool,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "normalise": _normalise,
    "padded_shortcut": _padded_shortcut,
}
"""A step's other arguments, by the names that its function gives them."""


# -- functions that are copied -----------------------------------------------------------------------------------------


@functools.cache
def functions() -> dict[str, tuple[str, frozenset[str]]]:
    """The text of every function of numpy_layers.py, and the names that it uses."""
    text = Path(__file__).with_name("numpy_layers.py").read_text("utf-8")
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            used = frozenset(name.id for name in ast.walk(node) if isinstance(name, ast.Name))
            found[node.name] = (
                f"{ast.get_source_segment(text, node)}\n".replace("  # type: ignore[arg-type]", ""),
                used,
            )
    return found


def _needed(kinds: set[str]) -> Iterator[str]:
    """The functions of these steps and those that they call, in the order of the file."""
    known, wanted, asked = functions(), set[str](), set(kinds)
    while asked:
        wanted |= asked
        asked = {name for kind in wanted & known.keys() for name in known[kind][1]} & known.keys() - wanted
    return (text for name, (text, _) in known.items() if name in wanted)
