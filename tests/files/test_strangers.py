"""Files from strangers: nothing but CheckpointError, quickly, in little memory, and no code is run."""

from __future__ import annotations

import errno
import json
import pickle
import re
import struct
import time
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from saving import BOTH, needs_safetensors, same_bits, small
from strangers import entry, file_of, inside, models, mutated, npy, table, zipped

import dualnet as dn
from dualnet.files import formats
from dualnet.files.formats import CheckpointError
from dualnet.files.network import load, save

ROOM = 64 * 2**20


@pytest.fixture
def on_numpy():
    with dn.use_backend("numpy"):
        yield


ON_NUMPY = pytest.mark.usefixtures("on_numpy")
"""For hundreds of files whose bytes decide; the tests below and test_formats.py load files on other backends, too."""

# -- files from strangers ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.once
@ON_NUMPY
def test_truncated_at_every_64_bytes(tmp_path, suffix):
    content = save(small(), tmp_path / f"m{suffix}").read_bytes()
    path = tmp_path / f"cut{suffix}"
    for end in range(0, len(content), 64):
        path.write_bytes(content[:end])
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(path) in str(caught.value)


@BOTH
@pytest.mark.once
@ON_NUMPY
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


@BOTH
@pytest.mark.once
@ON_NUMPY
def test_500_malformed_files(tmp_path, rng, suffix):
    content = save(small(), tmp_path / f"m{suffix}").read_bytes()
    refusals(tmp_path / f"bad{suffix}", (mutated(content, rng) for _ in range(250)), least=240)


def refusals(path: Path, contents, least: int) -> None:
    refused, slowest, most = 0, 0.0, 0
    for content in contents:
        path.write_bytes(content)
        answer, seconds, peak = judged(path)
        if isinstance(answer, CheckpointError):
            refused += 1
            assert str(path) in str(answer) and len(str(answer).splitlines()) == 1
        slowest, most = max(slowest, seconds), max(most, peak)
    assert refused >= least and slowest < 1 and most < ROOM, (refused, slowest, most)


def judged(path: Path) -> tuple[object, float, int]:
    """A network or a CheckpointError; how long that took, and at another time, as watching is slow, how much memory."""
    start = time.thread_time()
    try:
        answer = load(path)
    except CheckpointError as error:
        answer = error
    seconds = time.thread_time() - start
    tracemalloc.start()
    with suppress(CheckpointError):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return answer, seconds, peak


@BOTH
@pytest.mark.once
@ON_NUMPY
def test_500_networks_that_strangers_made(tmp_path, rng, suffix):
    """Damaged bytes, and changed and drawn descriptions with their right checksum, which anybody can compute."""
    draw = models(suffix)
    refusals(tmp_path / f"bad{suffix}", (draw(rng) for _ in range(250)), least=180)


def nested(kind: str, leaves: int, depth: int = 97) -> dict:
    """Many layers, all of them in many containers: each container around them asks every one for its shape."""
    around = [{"layer": inside(i)[0]} if kind == "Residual" else {"layers": inside(i)} for i in range(1, depth)]
    leaf = entry("Sequential", layers=inside(*[0] * leaves))
    return table(entry("ReLU"), leaf, *(entry(kind, **config) for config in around))


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
        (nested("Sequential", 650), "50000 if each layer counts"),
        (nested("Parallel", 650), "50000 if each layer counts"),
        (nested("Residual", 650), "50000 if each layer counts"),
        (table(entry("Sequential", layers=inside(0))), "has no meaning"),
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
    start = time.thread_time()
    with pytest.raises(CheckpointError, match=told):
        load(path)
    assert time.thread_time() - start < 1


@pytest.mark.parametrize(
    "document, answer",
    [
        (
            table(entry("AveragePool2D", pool_size=12000, stride=1, padding=4000), input_shape=(28000, 28000, 1)),
            (24001, 24001, 1),
        ),
        (
            table(entry("AveragePool2D", pool_size=2, stride=1, dilation=2**30, padding=2**29), input_shape=(5, 5, 1)),
            "wholly in the padding",
        ),
        (table(entry("MaxPool2D", pool_size=2, stride=1, padding=2**31 - 1), input_shape=(28, 28, 1)), "output row 0"),
        (table(entry("MaxPool2D", pool_size=3, padding=1), input_shape=(2**31, 2**31, 1)), (715827883, 715827883, 1)),
        (
            table(entry("L2Pool2D", pool_size=1, stride=1, padding=2**31 - 1), input_shape=(1, 1, 1)),
            (2**32 - 1,) * 2 + (1,),
        ),
        (
            table(
                entry("Conv2DTranspose", filters=1, kernel_size=1, stride=2**31 - 1),
                entry("Sequential", layers=inside(*[0] * 19000)),
                input_shape=(4, 4, 1),
            ),
            "the limit is 2147483647",
        ),
        (
            table(
                entry("Identity"),
                entry("Parallel", layers=inside(0, 0), merge="concat"),
                entry("Sequential", layers=inside(*[1] * 6000)),
            ),
            (4 * 2**6000,),
        ),
        (nested("Sequential", 500, 90), (4,)),
        (table(entry("ReLU"), entry("Sequential", layers=inside(*[0] * 19000))), (4,)),
        (table(entry("Conv2D", filters=1, kernel_size=10**5, padding="same"), input_shape=(4, 4, 1)), "w is missing"),
        (table(entry("Dense", units="9" * 900_000)), r"… \(9000\d\d characters\)"),
        (table(entry("LayerNorm", axis=list(range(1, 120_000)))), "axis|axes"),
    ],
)
def test_a_small_file_is_judged_in_a_second_and_64_megabytes(tmp_path, document, answer):
    """Whatever sizes it names: nothing is counted in a loop, and nothing drawn or allocated before it must be."""
    path = tmp_path / "m.npz"
    path.write_bytes(file_of(document, {}))
    assert path.stat().st_size < 2**20
    net, seconds, peak = judged(path)
    if isinstance(answer, str):
        assert re.search(answer, str(net)) and len(str(net)) < 3000
    else:
        assert net.output_shape(net.input_shape) == answer
    assert seconds < 1 and peak < ROOM, (seconds, peak)


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


def described(**members: bytes) -> bytes:
    return zipped({formats.TEXT: b"{}", **{f"{name}.npy": content for name, content in members.items()}})


HEADER = "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }"


@pytest.mark.parametrize(
    "content, told",
    [
        (b"", "it is empty; expected a .safetensors or .npz"),
        (pickle.dumps({"a": 1}), "looks like a pickle; dualnet never reads these"),
        (zipped({"archive/data.pkl": b"\x80\x02}."}), "a pickle in a zip archive; dualnet never reads these"),
        (zipped({"w.npy": npy(HEADER % ("<f4", False, "()"), bytes(4))}), "it holds w.npy"),
        (zipped({formats.TEXT: bytes(10**7)}, zipfile.ZIP_DEFLATED), "compressed"),
        (zipped({formats.TEXT: b"[" * 100_000}), "recursion"),
        (zipped({formats.TEXT: b'{"format": ' + b"9" * 5000 + b"}"}), "digits"),
        (zipped({formats.TEXT: b"[" + b"[]," * 10**6 + b"[]]"}), "longer than"),
        (zipped({formats.TEXT: b"\xff\xfe"}), "decode"),
        (
            described(w=npy(HEADER % ("|O", False, "(1,)"), pickle.dumps(print))),
            "not an array in the form that dualnet writes",
        ),
        (described(w=npy(HEADER % ("<f4", False, "(2147483647, 4)"))), "cannot have 0 bytes"),
        (described(w=npy(HEADER % ("<f4", False, "(3,)"), bytes(8))), "cannot have 8 bytes"),
        (described(w=npy(HEADER % ("<f4", True, "(2,)"), bytes(8))), "not an array in the form that dualnet writes"),
        (described(w=npy(HEADER % (">f4", False, "(2,)"), bytes(8))), "not an array in the form that dualnet writes"),
        (described(w=npy(HEADER % ("<c8", False, "(1,)"), bytes(8))), "cannot have 8 bytes"),
        (described(w=npy(HEADER % ("<m8", False, "(1,)"), bytes(8))), "cannot have 8 bytes"),
        (described(w=npy(HEADER % ("<f4", False, f"({'1, ' * 40})"), bytes(4))), "cannot have 4 bytes"),
        (described(w=npy(HEADER % ("<f4", False, "(0, 99999999999, 99999999999999)"))), "maximum|too (large|big)"),
        (described(w=b""), "not an array in the form that dualnet writes"),
        (described(w=npy("__import__('os').system('true')")), "not an array in the form that dualnet writes"),
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
    with pytest.raises(CheckpointError, match="that another program wrote.*load_state_dict"):
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
