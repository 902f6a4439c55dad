"""Files from strangers: nothing but CheckpointError, quickly, in little memory, and no code is run."""

from __future__ import annotations

import errno
import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from saving import BOTH, needs_safetensors, same_bits, small

import dualnet as dn
from dualnet.files import formats
from dualnet.files.formats import CheckpointError
from dualnet.files.network import load, save

ROOM = 64 * 2**20

# -- files from strangers ----------------------------------------------------------------------------------------------


@BOTH
def test_truncated_at_every_64_bytes(tmp_path, suffix):
    content = save(small(), tmp_path / f"m{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    for end in range(0, len(content), 64):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(path) in str(caught.value)


@BOTH
def test_every_changed_byte_is_noticed(tmp_path, rng, suffix):
    """Not one flipped bit gives another network: the file is refused, or it is the same network."""
    net = small()
    content = save(net, tmp_path / f"m{suffix}").read_bytes()
    path = tmp_path / f"changed{suffix}"
    for at in rng.choice(len(content), 250, replace=False):
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(changed)
        try:
            back = load(path)
        except CheckpointError:
            continue
        assert same_bits(net, back) and repr(back) == repr(net), at


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    made = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, len(made) + 1)) if rng.random() < 0.7 else int(rng.integers(0, min(len(made), 60) + 1))
        match rng.integers(0, 6):
            case 0:
                made[at : at + 1] = rng.bytes(1)
            case 1:
                del made[at : at + int(rng.integers(1, 50))]
            case 2:
                made[at:at] = rng.bytes(int(rng.integers(1, 50)))
            case 3:
                del made[at:]
            case 4:
                made[at : at + 8] = struct.pack("<Q", int(rng.choice([0, 1, 2**20, 2**31, 2**32 - 1, 2**63])))
            case 5:
                digits = [i for i, byte in enumerate(made[:3000]) if chr(byte).isdigit()]
                made[rng.choice(digits) if digits else 0 : 0] = b"9" * int(rng.integers(1, 20))
    return bytes(made)


@BOTH
def test_500_malformed_files(tmp_path, rng, suffix):
    content = save(small(), tmp_path / f"m{suffix}").read_bytes()
    refusals(tmp_path / f"bad{suffix}", (mutated(content, rng) for _ in range(250)), least=240)


def refusals(path: Path, contents, least: int) -> None:
    refused, slowest = 0, 0.0
    tracemalloc.start()
    for content in contents:
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            load(path)
        except CheckpointError as error:
            refused += 1
            assert str(path) in str(error)
        slowest = max(slowest, time.perf_counter() - start)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused >= least and slowest < 1 and peak < ROOM, (refused, slowest, peak)


def test_malformed_descriptions_with_a_right_checksum(tmp_path, rng, monkeypatch):
    """Whoever computes the checksum too gets no further: 250 changed descriptions."""
    path = save(small(), tmp_path / "m.npz")
    document, arrays = formats.read(path)
    values = [None, True, -1, 0, 3, 10**30, 1e308, "", "Conv2D", "9" * 5000, [], [[]], {}, {"layer": 0}, {"layer": 99}]
    written: list[bytes] = []
    monkeypatch.setattr(formats, "replace_file", lambda path, content: written.append(bytes(content)))
    values += [{"float": "nan"}, {"tuple": [2**31 - 1] * 4}, {"dict": {"a": 1}}, {"eval": "1"}, [10**9] * 3]

    def spots(node, found):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            found.append((node, key))
            if isinstance(value, (dict, list)):
                spots(value, found)
        return found

    def contents():
        for _ in range(250):
            changed = json.loads(json.dumps(document))
            for _ in range(rng.integers(1, 3)):
                where = spots(changed, [])
                node, key = where[rng.integers(0, len(where))]
                if isinstance(node, dict) and rng.random() < 0.2:
                    del node[key]
                else:
                    node[key] = values[rng.integers(0, len(values))]
            formats.write(path, changed, arrays)
            yield written.pop()

    refusals(tmp_path / "bad.npz", contents(), least=200)


def table(*entries: dict, input_shape=(4,)) -> dict:
    return {
        **{"format": 1, "dualnet": "0", "layers": list(entries), "network": len(entries) - 1, "numbers": {}},
        **{"input_shape": list(input_shape), "dtype": "float32", "tied": {}},
    }


def entry(kind: str, **config) -> dict:
    return {"class": kind, "config": config}


def inside(*numbers: int) -> list:
    return [{"layer": number} for number in numbers]


@pytest.mark.parametrize(
    "document, told",
    [
        (table(entry("Dense", units=2**30)), "w is missing, expected float32 \\(4, 1073741824\\)"),
        (table(entry("Dense", units=2**31 - 1), input_shape=(2**31 - 1,)), "w is missing|too (large|big)|maximum"),
        (table(entry("BatchNorm"), input_shape=(2**62,)), "gamma is missing|too (large|big)|maximum"),
        (
            table(entry("ReLU"), *(entry("Sequential", layers=inside(i, i)) for i in range(99))),
            "more than 20000 layers",
        ),
        (table(entry("ReLU"), *(entry("Residual", layer=inside(i)[0]) for i in range(120))), "deeper than 100"),
        (table(entry("Sequential", layers=inside(0))), "means nothing"),
        (table(entry("Lambda", forward="print", backward="print")), "unknown layer class 'Lambda'"),
        (table(entry("Layer")), "unknown layer class 'Layer'"),
        (table(entry("os.system")), "unknown layer class"),
        (table(entry("Dense", units=3, initializer="__import__")), "unknown initializer"),
        (table(entry("Dense", units=3, more=1)), "unexpected keyword"),
        (table(entry("ReLU")) | {"tied": {"w": "b"}}, "cannot be tied"),
        (table(entry("ReLU")) | {"numbers": {"step": 3}}, "step is int, expected none"),
        (table(entry("Dropout", rate=0.5)) | {"numbers": {"seed": [1], "step": 1}}, "seed is list, expected int"),
        (table(entry("ReLU")) | {"dtype": "object"}, "dtype is 'object'"),
        (table(entry("ReLU")) | {"format": 2, "dualnet": "9.9"}, "written by dualnet 9.9 in format 2.*Upgrade"),
        (table(entry("ReLU")) | {"format": "1"}, "not written by dualnet"),
    ],
)
def test_hostile_descriptions(tmp_path, document, told):
    path = tmp_path / "m.npz"
    formats.write(path, document, {})
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=told):
        load(path)
    assert time.perf_counter() - start < 1


def test_missing_unexpected_and_misshaped_values_are_all_listed(tmp_path):
    path = save(dn.Sequential([dn.Dense(3), dn.Dense(2)]).init((4,)), tmp_path / "m.npz")
    document, arrays = formats.read(path)
    del arrays["0.b"]
    formats.write(path, document, {**arrays, "1.w": np.zeros((9, 9)), "more": np.zeros(3, "float32")})
    with pytest.raises(CheckpointError) as caught:
        load(path)
    for told in (
        "0.b is missing",
        "1.w is float64 (9, 9), expected float32 (3, 2)",
        "more is float32 (3,), expected none",
    ):
        assert told in str(caught.value)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + body


def described(**members: bytes) -> bytes:
    return zipped({formats.TEXT: b"{}", **{f"{name}.npy": content for name, content in members.items()}})


HEADER = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "it is empty; expected a .safetensors or .npz"),
        (pickle.dumps({"a": 1}), "looks like a pickle, which is never read"),
        (zipped({"archive/data.pkl": b"\x80\x02}."}), "a pickle in a zip archive, which is never read"),
        (zipped({"w.npy": npy(HEADER % ("<f4", False, "()"), bytes(4))}), "it holds w.npy"),
        (zipped({formats.TEXT: bytes(10**7)}, zipfile.ZIP_DEFLATED), "compressed"),
        (zipped({formats.TEXT: b"[" * 100_000}), "recursion"),
        (zipped({formats.TEXT: b'{"format": ' + b"9" * 5000 + b"}"}), "digits"),
        (zipped({formats.TEXT: b"[" + b"[]," * 10**6 + b"[]]"}), "longer than"),
        (zipped({formats.TEXT: b"\xff\xfe"}), "decode"),
        (described(w=npy(HEADER % ("|O", False, "(1,)"), pickle.dumps(print))), "not an array as dualnet writes it"),
        (described(w=npy(HEADER % ("<f4", False, "(2147483647, 4)"))), "cannot have 0 bytes"),
        (described(w=npy(HEADER % ("<f4", False, "(3,)"), bytes(8))), "cannot have 8 bytes"),
        (described(w=npy(HEADER % ("<f4", True, "(2,)"), bytes(8))), "not an array as dualnet writes it"),
        (described(w=npy(HEADER % (">f4", False, "(2,)"), bytes(8))), "not an array as dualnet writes it"),
        (described(w=npy(HEADER % ("<c8", False, "(1,)"), bytes(8))), "cannot have 8 bytes"),
        (described(w=npy(HEADER % ("<m8", False, "(1,)"), bytes(8))), "cannot have 8 bytes"),
        (described(w=npy(HEADER % ("<f4", False, f"({'1, ' * 40})"), bytes(4))), "cannot have 4 bytes"),
        (described(w=npy(HEADER % ("<f4", False, "(0, 99999999999, 99999999999999)"))), "maximum|too (large|big)"),
        (described(w=b""), "not an array as dualnet writes it"),
        (described(w=npy("__import__('os').system('true')")), "not an array as dualnet writes it"),
        (struct.pack("<Q", 2**62) + b"{}", "not a .safetensors or .npz file"),
        pytest.param(struct.pack("<Q", 2) + b"{}", "another program", marks=needs_safetensors),
        pytest.param(struct.pack("<Q", 8) + b"{" * 8, "damaged", marks=needs_safetensors),
    ],
)
def test_hostile_containers(tmp_path, content, told):
    path = tmp_path / "m.npz"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=told) as caught:
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value) and peak < ROOM


def test_overlapping_members_are_no_bomb(tmp_path):
    """Many entries of the directory that name one large member: more bytes promised than the file has."""
    member = bytes(2**20)
    body = b"PK\3\4" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, zlib.crc32(member), 2**20, 2**20, 12, 0)
    body += formats.TEXT.encode() + member
    names = [formats.TEXT.encode(), *(f"a{i:05}.npy".encode()[:12].ljust(12, b"_") for i in range(1000))]
    directory = b"".join(
        b"PK\1\2"
        + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 0, 0, 33, zlib.crc32(member), 2**20, 2**20, 12, 0, 0, 0, 0, 0, 0)
        + name
        for name in names
    )
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), len(body), 0)
    (tmp_path / "m.npz").write_bytes(body + directory + end)
    with pytest.raises(CheckpointError, match="compressed or overlap"):
        load(tmp_path / "m.npz")


@needs_safetensors
def test_a_foreign_safetensors_file_and_a_foreign_dtype(tmp_path):
    import safetensors.numpy

    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file({"w": np.zeros(3, "float32")}, path)
    with pytest.raises(CheckpointError, match="of another program.*load_state_dict"):
        load(path)
    header = json.dumps(
        {"__metadata__": {"dualnet": "{}"}, "w": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}
    ).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2))
    with pytest.raises(CheckpointError, match="dtypes that dualnet never writes"):
        load(path)


def test_errors_of_the_disk_are_not_called_damage(tmp_path, monkeypatch):
    path = save(small(), tmp_path / "m.npz")

    def fail(*args):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(zipfile.ZipFile, "read", fail)
    with pytest.raises(OSError) as caught:
        load(path)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError):
        load(tmp_path)  # a folder
