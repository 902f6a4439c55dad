"""Files are replaced as a whole or not at all; the leftovers of killed processes are swept away, the files of running
ones stay."""

from __future__ import annotations

import errno
import importlib.util
import os
import signal
import stat
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from dualnet import writing
from dualnet.writing import check_writable, replace_file

ROOT = Path(__file__).resolve().parents[1]
posix = pytest.mark.skipif(os.name != "posix", reason="modes, owners and signals of POSIX")
as_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
locks = pytest.mark.skipif(writing.fcntl is None, reason="a system without flock")


def temporaries(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if writing.TEMPORARY.fullmatch(name)]


def abandoned(folder: Path, digit: str = "0") -> Path:
    path = folder / f".dualnet-{digit * 16}.tmp"
    path.write_bytes(b"half")
    return path


def python(program: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE)


# -- whose file it is --------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o664, 0o755])
def test_writing_again_keeps_the_mode(tmp_path, mode):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    path.chmod(mode)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_a_new_file_has_the_mode_of_any_new_file(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            replace_file(tmp_path / f"{mask}", b"new")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / f"{mask}").stat().st_mode) == mode


@posix
def test_a_private_file_is_private_from_its_first_moment(tmp_path, monkeypatch):
    path, seen = tmp_path / "model", []
    path.touch(0o600)
    belong = writing._belong_like

    def watched(handle, before):
        seen.append(os.fstat(handle).st_mode & 0o777)
        belong(handle, before)

    monkeypatch.setattr(writing, "_belong_like", watched)
    replace_file(path, b"new")
    assert seen == [0o600], "nobody else can have opened it when its mode was set"


@as_root
def test_writing_again_keeps_owner_and_group(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    os.chown(path, 1234, 4321)
    path.chmod(0o640)
    replace_file(path, b"new")
    now = path.stat()
    assert (now.st_uid, now.st_gid, stat.S_IMODE(now.st_mode)) == (1234, 4321, 0o640)


@as_root
@pytest.mark.parametrize("mode, expected", [(0o640, 0o600), (0o664, 0o644), (0o675, 0o655)])
def test_a_group_that_cannot_be_kept_does_not_hand_its_rights_to_another(tmp_path, monkeypatch, mode, expected):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    os.chown(path, -1, 4321)
    path.chmod(mode)

    def refuse(*args):
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(os, "fchown", refuse)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new" and stat.S_IMODE(path.stat().st_mode) == expected


@posix
def test_links(tmp_path):
    """A symbolic link is followed; of a hard link, the other name keeps what it had."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(Path("there") / "model")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "model").read_bytes() == b"new"
    os.link(tmp_path / "there" / "model", tmp_path / "other")
    replace_file(tmp_path / "link", b"newer")
    assert (tmp_path / "other").read_bytes() == b"new" and (tmp_path / "link").read_bytes() == b"newer"
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(OSError) as caught:
        replace_file(tmp_path / "round", b"new")
    assert caught.value.errno == errno.ELOOP and (tmp_path / "round").is_symlink()


@posix
def test_what_is_no_regular_file_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        replace_file(tmp_path / "pipe", b"new")
        assert reader.stdout.read() == b"new" and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    program = "from dualnet.writing import replace_file; print('a', flush=True); replace_file('/dev/stdout', b'b')"
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"a\nb"
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path, b"new")


# -- what killed processes leave ---------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from dualnet.writing import replace_file
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
replace_file(sys.argv[1], b"half")
"""
SLOW = """
import os, sys, time
from dualnet.writing import replace_file
sync = os.fsync
def slow(handle):
    print("writing", flush=True)
    sys.stdin.readline()
    sync(handle)
os.fsync = slow
replace_file(sys.argv[1], b"slow")
"""


@posix
@locks
def test_a_killed_save_leaves_a_file_and_the_next_save_sweeps_it_up(tmp_path):
    (tmp_path / "model").write_bytes(b"old")
    process = python(KILLED, tmp_path / "model")
    process.communicate()
    assert process.returncode == -signal.SIGKILL and len(temporaries(tmp_path)) == 1
    assert (tmp_path / "model").read_bytes() == b"old"
    replace_file(tmp_path / "another", b"new")
    assert sorted(os.listdir(tmp_path)) == ["another", "model"]


@posix
@locks
def test_what_a_living_process_writes_is_left_alone(tmp_path):
    command = [sys.executable, "-c", SLOW, tmp_path / "slow"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        replace_file(tmp_path / "mine", b"new")
        assert len(temporaries(tmp_path)) == 1, "it is being written"
        process.communicate(b"\n" * 2)
    assert process.returncode == 0 and (tmp_path / "slow").read_bytes() == b"slow"
    assert sorted(os.listdir(tmp_path)) == ["mine", "slow"]


@posix
def test_two_processes_save_into_one_folder(tmp_path):
    program = (
        "import sys; from dualnet.writing import replace_file\n"
        "for i in range(300): replace_file(sys.argv[1], sys.argv[2].encode() * 99)"
    )
    processes = [python(program, tmp_path / "model", word) for word in "ab"]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "model").read_bytes() in (b"a" * 99, b"b" * 99) and os.listdir(tmp_path) == ["model"]
    for process in processes:
        process.stdout.close()


@posix
@locks
def test_only_our_own_temporary_files_are_swept_up(tmp_path):
    mine = abandoned(tmp_path)
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / f".dualnet-{'1' * 16}.tmp").symlink_to("precious")
    (tmp_path / f".dualnet-{'2' * 16}.tmp").mkdir()
    os.mkfifo(tmp_path / f".dualnet-{'3' * 16}.tmp")
    (tmp_path / ".dualnet-notes.tmp").touch()
    (tmp_path / f".dualnet-{'4' * 16}.tmp.npz").touch()
    others = set(os.listdir(tmp_path)) - {mine.name}
    replace_file(tmp_path / "model", b"new")
    assert set(os.listdir(tmp_path)) == others | {"model"}


@as_root
@locks
def test_temporary_files_of_other_users_stay(tmp_path):
    os.chown(abandoned(tmp_path), 1234, 1234)
    replace_file(tmp_path / "model", b"new")
    assert len(temporaries(tmp_path)) == 1


@locks
def test_a_temporary_file_that_is_swept_up_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    flock, made = writing.fcntl.flock, []

    def late(file, how):
        made.append(file.name)
        if len(made) == 1:
            os.unlink(file.name)
        if len(made) == 2:
            raise BlockingIOError(errno.EAGAIN, "another process has it, to sweep it up")
        flock(file, how)

    monkeypatch.setattr(writing.fcntl, "flock", late)
    replace_file(tmp_path / "model", b"new")
    assert len(set(made)) == 3 and (tmp_path / "model").read_bytes() == b"new"


@locks
def test_without_locks_files_are_written_and_nothing_is_swept_up(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "no locks here")

    abandoned(tmp_path)
    monkeypatch.setattr(writing.fcntl, "flock", refuse)
    replace_file(tmp_path / "model", b"new")
    assert (tmp_path / "model").read_bytes() == b"new" and len(temporaries(tmp_path)) == 1


def test_windows_sweeps_up_what_is_a_day_old(tmp_path, monkeypatch):
    """No flock there, but an open file cannot be deleted; a file that was just closed is about to be renamed."""
    monkeypatch.setattr(writing, "fcntl", None)
    old, young = abandoned(tmp_path, "0"), abandoned(tmp_path, "1")
    os.utime(old, (time.time() - 2 * writing.ABANDONED,) * 2)
    replace_file(tmp_path / "model", b"new")
    assert not old.exists() and young.exists() and (tmp_path / "model").read_bytes() == b"new"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *args: os.stat(tmp_path / "missing"))
        with pytest.raises(FileNotFoundError):
            replace_file(tmp_path / "model", b"newer")
    assert (tmp_path / "model").read_bytes() == b"new" and temporaries(tmp_path) == [young.name]


def test_in_a_browsers_notebook_the_module_of_locks_is_empty(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", types.ModuleType("fcntl"))
    spec = importlib.util.spec_from_file_location("writing_without_locks", writing.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.replace_file(tmp_path / "model", b"new")
    module.check_writable(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == b"new" and os.listdir(tmp_path) == ["model"]


# -- before the work ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no folder that refuses everybody")
def test_a_folder_that_refuses_even_root(tmp_path):
    with pytest.raises(PermissionError, match="nothing can be written there .*: '/sys/kernel'"):
        check_writable("/sys/kernel/model.npz")


def test_trying_leaves_nothing_behind(tmp_path):
    path = tmp_path / "model"
    check_writable(path)
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"old")
    check_writable(path, size=10)
    assert os.listdir(tmp_path) == ["model"] and path.read_bytes() == b"old"
    with pytest.raises(IsADirectoryError, match="it is a folder; expected a file"):
        check_writable(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder; create it first"):
        check_writable(tmp_path / "none" / "model")


def test_a_disk_with_too_little_space(tmp_path, monkeypatch):
    with pytest.raises(OSError, match="bytes are needed, but only .* are free") as caught:
        check_writable(tmp_path / "model", size=10**18)
    assert caught.value.errno == errno.ENOSPC

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="nothing can be written there") as caught:
        check_writable(tmp_path / "model")
    assert caught.value.errno == errno.ENOSPC and os.listdir(tmp_path) == []
