"""Arrays in files: every form of array comes back, and a disk that fails leaves the old file."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from saving import BOTH, same_bits, small

import dualnet as dn
from dualnet import writing
from dualnet.files import formats
from dualnet.files.network import load, save

# -- arrays in every form ----------------------------------------------------------------------------------------------


class Holder(dn.Layer):
    """Holds arrays as they come."""

    state_names = ("a", "b")

    def __init__(self) -> None:
        self.a = self.b = None

    def build(self, input_shape, draw):
        self.a, self.b = self.source

    def forward(self, x, train=False):
        return x, dn.Pullback("Holder", lambda dy: (dy, {}), x)


FORMS = {
    "transposed": np.arange(12.0).reshape(3, 4).T,
    "sliced": np.arange(24.0).reshape(4, 6)[::2, 1::3],
    "backwards": np.arange(12.0).reshape(3, 4)[::-1, ::-1],
    "Fortran": np.asfortranarray(np.arange(12.0, dtype="float32").reshape(3, 4)),
    "broadcast": np.broadcast_to(np.arange(3.0), (4, 3)),
    "big-endian": np.arange(12, dtype=">f4").reshape(3, 4),
    "big-endian transposed": np.arange(12, dtype=">i8").reshape(3, 4).T,
    "0-d": np.array(2.5),
    "empty": np.zeros((0, 3), "float32"),
    "bool": np.array([True, False, True]),
    "int8": np.arange(-3, 3, dtype="int8"),
    "float16": np.arange(5, dtype="float16"),
    "special": np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324]),
}


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_arrays_in_every_form(tmp_path, suffix, form):
    array = FORMS[form]
    Holder.source = array, array  # tied: one memory under two names
    net = Holder().init((2,))
    back = load(save(net, tmp_path / f"m{suffix}"), custom={"Holder": Holder})
    for value in (back.a, back.b):
        assert value.shape == array.shape and value.dtype == array.dtype.newbyteorder("=")
        assert np.array_equal(value, array, equal_nan=array.dtype.kind == "f")
        assert np.array_equal(np.signbit(value), np.signbit(array)) if array.dtype.kind == "f" else True
    assert back.a is not back.b
    assert save(back, tmp_path / f"again{suffix}").read_bytes() == (tmp_path / f"m{suffix}").read_bytes()


@BOTH
def test_other_programs_can_read_the_arrays(tmp_path, suffix):
    net = small()
    path = save(net, tmp_path / f"m{suffix}")
    if suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != formats.TEXT}
    else:
        import safetensors.numpy

        arrays = safetensors.numpy.load_file(path)
    state = {name: dn.to_numpy(value) for name, value in net.state_dict().items() if hasattr(value, "dtype")}
    assert arrays.keys() == state.keys() and all(np.array_equal(arrays[k], state[k]) for k in state)


def test_a_zip_archive_carries_no_time_and_no_compression(tmp_path):
    with zipfile.ZipFile(save(small(), tmp_path / "m.npz")) as archive:
        members = archive.infolist()
        assert {m.date_time for m in members} == {(1980, 1, 1, 0, 0, 0)}
        assert {m.compress_type for m in members} == {zipfile.ZIP_STORED} and {m.create_system for m in members} == {3}
        assert members[0].filename == "dualnet.json" and json.loads(archive.read(members[0]))["format"] == 1


# -- disks that fail ---------------------------------------------------------------------------------------------------


class FaultyFile(io.FileIO):
    """Fails at one of its operations, after half of the bytes."""

    fault = ("", 0)

    def write(self, data):
        if self.fault[0] == "write":
            super().write(bytes(data)[: len(data) // 2])
            raise OSError(self.fault[1], os.strerror(self.fault[1]))
        return super().write(data)

    def close(self):
        was_open = not self.closed
        super().close()
        if self.fault[0] == "close" and was_open:
            raise OSError(self.fault[1], os.strerror(self.fault[1]))


@BOTH
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EINTR, errno.EDQUOT])
@pytest.mark.parametrize("place", ["open", "write", "fsync", "close", "replace"])
def test_a_failing_disk_leaves_the_old_file(tmp_path, monkeypatch, suffix, place, number):
    old = small(seed=1)
    path = save(old, tmp_path / f"m{suffix}")
    content = path.read_bytes()

    def fail(*args, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if place in ("fsync", "replace"):
            patch.setattr(os, place, fail)
        elif place == "open":
            patch.setattr(io, "FileIO", fail)
        else:
            patch.setattr(FaultyFile, "fault", (place, number))
            patch.setattr(io, "FileIO", FaultyFile)
            if place == "close":  # which comes before the renaming only where no open file can be renamed
                patch.setattr(writing, "fcntl", None)
        with pytest.raises(OSError) as caught:
            save(small(seed=2), path)
        assert caught.value.errno == number
    assert path.read_bytes() == content and same_bits(load(path), old)
    assert os.listdir(tmp_path) == [path.name], "the temporary file is gone"


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = save(small(seed=1), tmp_path / "m.npz")
    content = path.read_bytes()

    def interrupt(handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(small(seed=2), path)
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["m.npz"]


def test_the_order_is_write_sync_replace_sync_folder(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle):
        done.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "fsync file")
        fsync(handle)

    def watched_replace(source, target):
        assert os.path.dirname(source) == os.path.dirname(target)
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    save(small(), tmp_path / "m.npz")
    if Path("/proc/self/fd").exists():
        assert done == ["fsync file", "replace", "fsync folder"]


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on file sizes")
def test_a_disk_that_is_really_full(tmp_path):
    path = save(small(seed=1), tmp_path / "m.npz")
    content = path.read_bytes()
    program = (
        "import resource, sys; import dualnet as dn; from dualnet.files import load, save\n"
        "net = load(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    save(net, sys.argv[1])\nexcept OSError as error:\n    print('OSError', error.errno)"
    )
    run = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, cwd=Path.cwd())
    assert run.stdout.strip() == f"OSError {errno.EFBIG}", run.stderr
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["m.npz"]
