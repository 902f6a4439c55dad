"""Files from strangers: good files of each kind, and ways to damage them, or to make them claim something false.

A damaged file is a good one with some bytes or fields changed. Where the format has a checksum, half of the damaged
files get the right one: somebody who makes a bad file on purpose can compute it too, and a wrong one would hide all
later checks.
"""

from __future__ import annotations

import copy
import functools
import gzip
import inspect
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from saving import small

import dualnet as dn
from dualnet.files import formats, network
from dualnet.layers.sketch import sketch

Draw = np.random.Generator
LENGTHS = (0, 1, 2, 255, 2**16 - 1, 2**16, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)

# -- any file ----------------------------------------------------------------------------------------------------------


def mutated(content: bytes, rng: Draw, header: int = 60) -> bytes:
    """One to four changes, half of them in the header: bytes, pieces, lengths, digits, and the end cut off."""
    made = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, (min(len(made), header) if rng.random() < 0.5 else len(made)) + 1))
        match rng.integers(0, 8):
            case 0:
                made[at : at + 1] = rng.bytes(1)
            case 1:
                del made[at : at + int(rng.integers(1, 50))]
            case 2:
                made[at:at] = rng.bytes(int(rng.integers(1, 50)))
            case 3:
                del made[at:]
            case 4:
                size, order = int(rng.choice([1, 2, 4, 8])), "<>"[rng.integers(0, 2)]
                made[at : at + size] = struct.pack(f"{order}Q", _one(LENGTHS, rng))[slice(*_part(size, order))]
            case 5 if digits := [i for i, byte in enumerate(made[:3000]) if chr(byte).isdigit()]:
                place = int(rng.choice(digits))
                if rng.random() < 0.5:
                    made[place : place + 1] = str(rng.integers(0, 10)).encode()
                else:
                    made[place:place] = b"9" * int(rng.integers(1, 20))
            case 6 if made:
                start = int(rng.integers(0, len(made)))
                made[at:at] = made[start : start + int(rng.integers(1, 50))]
            case 7 if made:
                made[at : at + 1] = bytes([made[min(at, len(made) - 1)] ^ 1 << int(rng.integers(0, 8))])
    return bytes(made)


def _part(size: int, order: str) -> tuple[int | None, int | None]:
    return (0, size) if order == "<" else (8 - size, None)


def _one(values: Any, rng: Draw) -> Any:
    return values[int(rng.integers(0, len(values)))]


def noise(rng: Draw) -> bytes:
    """Random bytes, behind the first bytes of some format."""
    return _one(MAGIC, rng) + rng.bytes(int(rng.integers(0, 200)))


MAGIC = (
    *(b"", b"\x93NUMPY\1\0", b"\x93NUMPY\2\0", b"PK\3\4", b"PK\5\6", b"\x80\4", b"\x1f\x8b\x08", b"\0\0\x08\x03"),
    *(b"\x89PNG\r\n\x1a\n", b"GIF89a", b"II*\0", b"MM\0*", b"BM", b"\xff\xd8\xff\xe0", b"RIFF\x40\0\0\0WEBP", b"P6 9"),
)

# -- networks ----------------------------------------------------------------------------------------------------------


def table(*entries: dict, input_shape: Any = (4,), **more: Any) -> dict:
    """The description of a network of these layers; the last one is the outermost."""
    return {
        **{"format": 1, "dualnet": "0", "layers": list(entries), "network": len(entries) - 1, "numbers": {}},
        **{"input_shape": list(input_shape), "dtype": "float32", "tied": {}, **more},
    }


def entry(kind: str, **config: Any) -> dict:
    return {"class": kind, "config": config}


def inside(*numbers: int) -> list:
    return [{"layer": number} for number in numbers]


def file_of(document: dict, arrays: formats.Arrays, suffix: str = ".npz") -> bytes:
    """A file with the right checksum, as :func:`dualnet.save` would write it."""
    text = json.dumps({**document, "crc32": formats._checksum(document, arrays)}, sort_keys=True)
    if suffix == ".npz":
        return formats._npz(text, arrays)
    import safetensors.numpy

    return safetensors.numpy.save(arrays, {formats.KEY: text})


@functools.cache
def good_network() -> tuple[dict, formats.Arrays]:
    """A network with everything that a file carries, an optimizer's state too."""
    net, optimizer = small(), dn.Adam(1e-3)
    y, pullback = net.forward(dn.asarray(np.ones((2, *net.input_shape)), net.dtype), train=True)
    optimizer.step(net, pullback(y)[1])
    document, arrays = network._describe(net)
    return document, arrays | network._describe_optimizer(optimizer, document)


def models(suffix: str) -> Callable[[Draw], bytes]:
    """Files of networks: damaged bytes, damaged descriptions with their right checksum, and drawn networks."""

    @functools.cache
    def good() -> bytes:
        return file_of(*good_network(), suffix)

    def draw(rng: Draw) -> bytes:
        kind = rng.random()
        if kind < 0.05:
            return noise(rng)
        if kind < 0.35:
            return mutated(good(), rng)
        if kind < 0.5:
            return reassembled(good(), rng) if suffix == ".npz" else mutated(good(), rng, header=3000)
        if kind < 0.75:
            document, arrays = good_network()
            return file_of(changed(document, rng), changed_arrays(arrays, rng), suffix)
        return file_of(*drawn_network(rng), suffix)

    return draw


def reassembled(content: bytes, rng: Draw) -> bytes:
    """A zip archive of which members were damaged, before the archive's own checksums were computed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(rng.integers(1, 3)):
        name = _one(list(members), rng)
        members[name] = mutated(members[name], rng, header=128)
    if rng.random() < 0.1:
        del members[_one(list(members), rng)]
    return zipped(members, zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 12000, 60000, 10**9, 2**31 - 1, 2**31, 2**53, 2**63, 10**30, 10**4000),
    *(
        0.5,
        1e-320,
        1e308,
        -1e308,
        "",
        "same",
        "full",
        "valid",
        "Conv2D",
        "zeros",
        "concat",
        "9" * 5000,
        "\ud800",
        "é\0",
    ),
    *([], [[]], [0], [1, 2, 3], [10**9] * 3, [[1, 2], [3, 4]], [[10**9, 0], [0, 10**9]], {}, {"layer": 0}),
    *({"layer": 99}, {"layer": -1}, {"layer": True}, {"float": "nan"}, {"float": "inf"}, {"float": "1"}, {"eval": "1"}),
    *(
        {"tuple": [2**31 - 1] * 2},
        {"tuple": [3, 3]},
        {"dict": {"a": 1}},
        {"a": 1, "b": 2},
        [0] * 30000,
        [[[[[[[[]]]]]]]],
    ),
]


def changed(document: Any, rng: Draw) -> Any:
    """A description of which one to three parts were replaced, removed, doubled or moved."""
    made = json.loads(json.dumps(document))
    for _ in range(rng.integers(1, 4)):
        spots = _spots(made, [])
        if not spots:
            return made
        node, key = _one(spots, rng)
        match rng.integers(0, 8):
            case 0 if isinstance(node, dict):
                del node[key]
            case 1 if isinstance(node, dict):
                node[_one(["", "layers", "w", "x" * 999, "units", "é"], rng)] = node.pop(key)
            case 2 if isinstance(node, list):
                node.insert(key, json.loads(json.dumps(node[key])))
            case 3:
                other, place = _one(spots, rng)
                node[key] = json.loads(json.dumps(other[place]))
            case _:
                node[key] = copy.deepcopy(_one(VALUES, rng))
    return made


def _spots(node: Any, found: list) -> list:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        found.append((node, key))
        if isinstance(value, (dict, list)):
            _spots(value, found)
    return found


def changed_arrays(arrays: formats.Arrays, rng: Draw) -> formats.Arrays:
    """Arrays of which, as a rule, none was changed."""
    made = dict(arrays)
    if rng.random() < 0.3:
        name = _one(list(made), rng)
        match rng.integers(0, 4):
            case 0:
                del made[name]
            case 1:
                made[name] = made[name].astype(_one(formats.DTYPES, rng))
            case 2:
                made[name] = np.zeros(tuple(int(n) for n in rng.integers(0, 5, rng.integers(0, 5))), "float32")
            case 3:
                made[_one(["", "0.w", "x" * 999, "../w", "optimizer/", "é"], rng)] = made.pop(name)
    return made


# A few arguments have values of their own; whatever else a layer asks for is a number.
NAMED: dict[str, list[Any]] = {
    "padding": [
        0,
        1,
        2,
        "same",
        "full",
        "valid",
        {"tuple": [{"tuple": [0, 1]}, {"tuple": [2, 0]}]},
        4000,
        60000,
        10**9,
    ],
    "stride": [1, 2, 3, None, {"tuple": [1, 2]}, 4000, 2**31 - 1],
    **dict.fromkeys(("pool_size", "kernel_size"), [1, 2, 3, 5, {"tuple": [1, 3]}, 100, 12000, 100000, 2**31 - 1]),
    **dict.fromkeys(("filters", "units", "depth_multiplier"), [1, 2, 3, 4, 8, 1000, 10**9, 2**31 - 1]),
    "axis": [-1, 1, {"tuple": [1, 2]}, {"tuple": [-1, 1]}, -8, 9],
    **dict.fromkeys(("rate", "momentum", "alpha", "negative_slope", "epsilon"), [0.5, 0.1, 1e-5, 0, 1, 1e30]),
    **dict.fromkeys(("dilation", "groups", "output_padding"), [1, 1, 2, 3, 0, 5000, 2**31 - 1]),
    "mode": ["correlation", "convolution"],
    "merge": ["add", "concat"],
    "initializer": ["he_normal", "zeros", "orthogonal", "glorot_uniform"],
}
FLAGS = ("use_bias", "ceil_mode", "count_include_pad", "center", "scale", "keepdims")


def drawn_layer(rng: Draw, made: int) -> dict:
    """A layer with drawn arguments; ``made`` layers stand in the table before it."""
    name = _one(sorted(network.BUILT_IN), rng)
    config: dict[str, Any] = {}
    for argument, parameter in inspect.signature(network.BUILT_IN[name].__init__).parameters.items():
        if argument == "self" or (parameter.default is not inspect.Parameter.empty and rng.random() < 0.6):
            continue
        if argument == "layers":
            times = int(rng.choice([1, 2, 3, 50, 2000], p=[0.4, 0.3, 0.2, 0.07, 0.03]))
            config[argument] = inside(*(int(n) for n in rng.integers(0, max(made, 1), rng.integers(1, 4)))) * times
        elif argument in ("layer", "shortcut"):
            config[argument] = inside(int(rng.integers(0, max(made, 1))))[0]
        elif rng.random() < 0.03:
            config[argument] = copy.deepcopy(_one(VALUES, rng))
        else:
            likely = [True, False] if argument in FLAGS else NAMED.get(argument, [1, 2, 3])
            config[argument] = likely[min(int(rng.exponential(1.5)), len(likely) - 1)]
    return entry(name, **config)


def drawn_network(rng: Draw) -> tuple[dict, formats.Arrays]:
    """A table of layers with drawn arguments, and arrays that fit if they are small."""
    entries: list[dict] = []
    for _ in range(int(rng.integers(1, 8))):
        entries.append(drawn_layer(rng, len(entries)))
    for _ in range(int(rng.integers(0, 120)) if rng.random() < 0.15 else int(rng.integers(0, 2))):
        last = len(entries) - 1  # containers around containers
        times = int(rng.choice([1, 2, 3]))
        around = _one([{"layers": inside(last) * times}, {"layer": inside(last)[0]}], rng)
        entries.append(entry("Residual" if "layer" in around else _one(["Sequential", "Parallel"], rng), **around))
    sizes = [1, 2, 4, 5, 7, 28, 5000, 10**6, 2**31 - 1, 10**30]
    axes = int(rng.choice([1, 3, 3, 3, 4]))
    shape = [sizes[min(int(rng.exponential(2)), len(sizes) - 1)] for _ in range(axes)]
    document = table(*entries, input_shape=shape, dtype=_one(["float32", "float32", "float16", "float64"], rng))
    return document, _arrays_that_fit(document)


def _arrays_that_fit(document: dict) -> formats.Arrays:
    """Zeros for all that the network needs, if it needs little; else nothing."""
    try:
        net = network._assemble(document, {})
        state = sketch(net, tuple(document["input_shape"]), document["dtype"]).state_dict()
    except formats.MALFORMED:
        return {}
    document["numbers"] = {name: value for name, value in state.items() if not hasattr(value, "dtype")}
    arrays = {name: value for name, value in state.items() if hasattr(value, "dtype")}
    if sum(value.nbytes for value in arrays.values()) > 200_000:
        return {}
    return {name: np.zeros(value.shape, value.dtype) for name, value in arrays.items()}


# -- arrays and data sets ----------------------------------------------------------------------------------------------


@functools.cache
def good_npys() -> list[bytes]:
    files = []
    for array in (
        np.arange(24, dtype="float32").reshape(2, 3, 4),
        np.arange(8 * 8 * 3, dtype="uint8").reshape(1, 8, 8, 3),
        np.asfortranarray(np.ones((3, 2), ">f8")),
        np.zeros((0, 3), "int16"),
        np.array(3, "float16"),
    ):
        buffer = io.BytesIO()
        np.save(buffer, array)
        files.append(buffer.getvalue())
    return files


DESCR = "<f4 |u1 >i2 <f8 |b1 |O <c8 <U9 |S3 <M8[s] |V2 =f4 f4 <f2 q <q9 <f99999999999 é".split()


def npy(header: str, body: bytes = b"", version: int = 1) -> bytes:
    """An .npy file with this header."""
    text = header.encode("utf-8") + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + body


def npys(rng: Draw) -> bytes:
    """Arrays in .npy files: damaged, or with a drawn header."""
    kind = rng.random()
    if kind < 0.05:
        return noise(rng)
    if kind < 0.6:
        return mutated(_one(good_npys(), rng), rng, header=128)
    shape = ", ".join(str(_one((*LENGTHS, 3, 4, 10**30), rng)) for _ in range(int(rng.integers(0, 5))))
    fields = [
        f"'descr': '{_one(DESCR, rng)}'",
        f"'fortran_order': {_one(['True', 'False', '0', 'None'], rng)}",
        f"'shape': ({shape}{_one([',', ''], rng)})",
    ]
    if rng.random() < 0.1:
        fields[int(rng.integers(0, 3))] = _one(["'a': 1", "", "(" * 5000, "1" * 5000, "'descr': [('a', '<f4')]"], rng)
    text = "{" + ", ".join(fields) + ", }"
    if rng.random() < 0.3:
        text = mutated(text.encode(), rng).decode("latin-1")
    return npy(text[:9000], rng.bytes(int(rng.choice([0, 4, 64, 200]))), int(rng.choice([1, 1, 2, 3])))


def idx(shape: tuple[int, ...], body: bytes = b"", code: int = 8) -> bytes:
    return struct.pack(f">4B{len(shape)}I", 0, 0, code, len(shape), *shape) + body


def idxs(rng: Draw) -> bytes:
    """IDX files, gzipped or not: damaged before they are zipped, after that, or with a drawn header."""
    good = idx((5, 4, 3), bytes(range(60)))
    kind = rng.random()
    if kind < 0.05:
        return noise(rng)
    if kind < 0.2:
        return mutated(gzip.compress(good, mtime=0), rng, header=20)
    if kind < 0.25:  # a bomb: far more follows than the header promises
        return gzip.compress(idx((100,)) + bytes(int(rng.integers(10**5, 10**7))), 1)
    if kind < 0.7:
        content = mutated(good, rng, header=16)
    else:
        axes = int(rng.integers(0, 18))
        shape = tuple(min(int(_one(LENGTHS, rng)), 2**32 - 1) for _ in range(axes))
        content = idx(shape, rng.bytes(int(rng.integers(0, 99))), int(_one([8, 9, 11, 12, 13, 14, 7], rng)))
    return gzip.compress(content, mtime=0) if rng.random() < 0.5 else content


def cifars(rng: Draw) -> bytes:
    """A batch of CIFAR-10, damaged."""
    records = rng.integers(0, 256, (2, 3073), "uint8")
    records[:, 0] %= 10
    return noise(rng) if rng.random() < 0.1 else mutated(records.tobytes(), rng, header=3)


# -- images ------------------------------------------------------------------------------------------------------------

IMAGES = ("png", "gif", "tiff", "bmp", "jpeg", "webp", "ppm")
HAS_PILLOW, HAS_SAFETENSORS = find_spec("PIL") is not None, find_spec("safetensors") is not None


@functools.cache
def good_images() -> list[tuple[str, bytes]]:
    """Images of all formats, modes and packings."""
    from PIL import Image, features

    rgba = Image.frombytes("RGBA", (5, 6), bytes(range(120)))
    sixteen = Image.frombytes("I;16", (5, 6), bytes(range(60)))
    pictures = [sixteen, *(rgba.convert(mode) for mode in ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK"))]
    found = []
    for kind in IMAGES:
        if kind == "webp" and not features.check("webp"):
            continue
        for picture in pictures:
            for options in ({}, {"compression": "tiff_lzw"}) if kind == "tiff" else ({},):
                buffer = io.BytesIO()
                try:
                    picture.save(buffer, kind, **options)
                except (OSError, ValueError, KeyError):  # a mode that the format lacks
                    continue
                found.append((kind, buffer.getvalue()))
    frames = [rgba.convert("P"), rgba.convert("L").convert("P")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "gif", save_all=True, append_images=frames[1:], transparency=3)
    return [*found, ("gif", buffer.getvalue())]


def images(rng: Draw) -> bytes:
    """Images, damaged; of PNG, half with the right checksums."""
    if rng.random() < 0.03:
        return noise(rng)
    kind, content = _one(good_images(), rng)
    made = mutated(content, rng, header=100)
    return with_checksums(made) if kind == "png" and rng.random() < 0.5 else made


def with_checksums(png: bytes) -> bytes:
    """A PNG whose chunks have their right checksums, as far as its lengths lead."""
    made, at = bytearray(png), 8
    while at + 12 <= len(made):
        length = int.from_bytes(made[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(made):
            break
        made[end : end + 4] = zlib.crc32(made[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(made)


# -- answers to the zoo's exercises ------------------------------------------------------------------------------------

NONSENSE = (
    *("None", "'text'", "3", "[]", "object()", "lambda *a: 0", "float('nan')", "x[None]", "x * float('nan')", "x > 0"),
    *("(x, x, x, x)", "x.astype('float64')", "x.astype('complex64')", "x[:0]", "{}", "x.T", "print", "..."),
)
BLOWS = (
    *("raise ValueError", "raise SystemExit(0)", "raise SystemExit('text')", "raise RecursionError", "1 / 0", "return"),
    *("raise MemoryError", "raise Exception('two\\nlines')", "class E(Exception): __str__ = None", "import nothing"),
    *("assert False", "f = lambda: f(); f()", "exit()", "yield 1", "raise StopIteration", "raise GeneratorExit"),
    *(
        "x *= 0",
        "del x",
        "global y",
        "import warnings; warnings.warn('odd')",
        "raise KeyError(('a', 1))",
        "print('é\\0')",
    ),
    *("class B(Exception):\n        def __str__(self): raise ValueError\n    raise B",),
)


def answers(rng: Draw) -> bytes:
    """Answers to an exercise: its name in the first line, then code that a learner might hand in, or anybody."""
    exercise = _one(dn.zoo.exercises(), rng)
    code = f"{exercise.preamble}\n\n\n{exercise.repaired if rng.random() < 0.7 else exercise.code}"
    lines = code.splitlines()
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(lines)))
        indent = " " * (len(lines[at]) - len(lines[at].lstrip()))
        match rng.integers(0, 6):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, indent + _one(BLOWS, rng).replace("\n    ", f"\n{indent}"))
            case 2 if "return" in lines[at]:
                lines[at] = f"{indent}return {_one(NONSENSE, rng)}"
            case 3 if "=" in lines[at]:
                lines[at] = f"{lines[at].partition('=')[0]}= {_one(NONSENSE, rng)}"
            case 4:
                other = int(rng.integers(0, len(lines)))
                lines[at], lines[other] = lines[other], lines[at]
            case 5:
                pairs = [("+", "-"), ("*", "/"), (".", ","), ("(", ""), (":", ""), ("x", "w"), ("dy", "y"), ("1", "0")]
                lines[at] = lines[at].replace(*_one(pairs, rng))
        if not lines:
            break
    text = "\n".join(lines).encode()
    if rng.random() < 0.05:
        text = rng.bytes(int(rng.integers(0, 99)))
    return f"# {exercise.name}\n".encode() + text


# -- words for the command line ----------------------------------------------------------------------------------------

FILES: dict[str, Callable[[Draw], bytes]] = {
    "bad.npz": models(".npz"),
    "bad.npy": npys,
    "bad.idx": idxs,
    "bad.py": answers,
    "good.npz": lambda rng: file_of(*good_network()),
    "good.npy": lambda rng: good_npys()[int(rng.integers(0, 5))],
    "fits.npy": lambda rng: npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 6, 5, 2), }", rng.bytes(120)),
    **({"bad.png": images} if HAS_PILLOW else {}),
}
"""The files in the folder where a command runs, and how they are drawn."""

WORDS = (
    *("", "-", "--", "0", "1", "-1", "3", "10" * 30, "nan", "inf", "1e308", "0.1", "é", "\udcff", "a b", "digits", "."),
    *("lenet5", "digits_cnn", "nowhere", "nowhere/x.npz", "../x", "/dev/null", "numpy", "strict", "cupy", "auto"),
    *("28,28,1", "6,5,2", "1x1x1", "0,0", "float32", "bfloat16", "sgd", "averaged-bias", "0.dw[0,0,0,0]", "0.y"),
    *("[" * 50, "%s", "{}", "*", "~", "--help", "--version", "\t", "x" * 5000, *FILES, *FILES),
)
OPTIONS: dict[str, tuple[str, ...]] = {
    "train": tuple(
        "--data --model --epochs --batch-size --lr --optimizer --augment --dtype --loss-scale --seed --quiet".split()
    ),
    "predict": ("--data", "--backend"),
    "summary": ("--input-shape", "--backend"),
    "check": ("--seed", "--backend"),
    "explain": ("--target", "--images", "--image", "--label", "--data", "--seed", "--backend"),
    "zoo": ("--hint", "--solution", "--grade"),
    "info": ("--backend",),
    "bench": ("--batch", "--mode", "--against", "--dtype", "--rounds", "--seconds"),
    "parity": ("--backend",),
}
LIKELY = (
    *("predict good.npz fits.npy", "predict bad.npz fits.npy", "predict good.npz bad.npy", "predict good.npz bad.idx"),
    *("predict good.npz bad.png", "summary bad.npz", "summary good.npz", "zoo averaged-bias --grade bad.py"),
    *("explain good.npz --images fits.npy", "explain bad.npz --images fits.npy", "explain good.npz --images bad.npy"),
    *("explain good.npz --images fits.npy --html page.html", "zoo averaged-bias", "info", "check bad.npz"),
    "train --epochs 1 --batch-size 500 --quiet --out out.npz --model digits_cnn",
)
# What must be among the words of a command that would train or measure for long: then it ends at once.
ENDS_AT_ONCE = {"train": "--model=nowhere", "bench": "--nonsense", "parity": "--nonsense", "check": "nowhere"}


def commands(rng: Draw) -> bytes:
    """Words for the command line, one in each line, which write nowhere else and do not train for long."""
    if rng.random() < 0.4:
        words = _one(LIKELY, rng).split()
        if words[0] == "train":
            return "\n".join([*words, f"--seed={_one(WORDS, rng)}"]).encode("utf-8", "surrogateescape")
        if rng.random() < 0.5:
            words.insert(int(rng.integers(1, len(words) + 1)), _one(WORDS, rng))
        return "\n".join(words).encode("utf-8", "surrogateescape")
    name = _one([*OPTIONS, *OPTIONS, "", "trian", "--help", "--version"], rng)
    words = [name]
    for _ in range(int(rng.integers(0, 5))):
        option, value = _one(OPTIONS.get(name, ("--help",)), rng), _one(WORDS, rng)
        words += [[option, value], [f"{option}={value}"], [value], [option]][rng.integers(0, 4)]
    return "\n".join([*words, *([ENDS_AT_ONCE[name]] if name in ENDS_AT_ONCE else [])]).encode(
        "utf-8", "surrogateescape"
    )
