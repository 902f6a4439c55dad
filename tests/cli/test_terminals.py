"""Wherever a command prints: encodings, closed pipes, full disks, narrow terminals, and no terminal at all."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dualnet as dn
from dualnet import cli
from dualnet.terminal import readable

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "train": ["train", "--epochs", "1", "--batch-size", "256", "--out", "FOLDER"],
    "predict": ["predict", "MODEL", "digits"],
    "summary": ["summary", "MODEL"],
    "check": ["check", "MODEL"],
    "explain": ["explain"],
    "page": ["explain", "MODEL", "--html", "FOLDER/page.html"],
    "zoo": ["zoo"],
    "exercise": ["zoo", "averaged-bias"],
    "solution": ["zoo", "averaged-bias", "--solution"],
    "exercise file": ["zoo", "averaged-bias", "--out", "FOLDER/mine.py"],
    "bench": ["bench", "MODEL", "--batch", "1", "--mode", "inference", "--rounds", "1", "--seconds", "0.01"],
    "case": ["parity", "--op", "conv2d", "--case", "1", "--backend", "strict"],
    "info": ["info"],
    "help": ["--help"],
    "mistake": ["summary", "Σ → ‖.npz"],
    "usage": ["train", "--epochs", "½"],
}
SAME = {"predict", "summary", "explain", "zoo", "exercise", "solution", "case", "help", "mistake", "usage"}
"""Commands that print the same whenever they are called."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.Flatten(), dn.Dense(10)]).init((8, 8, 1))
    return net.save(tmp_path_factory.mktemp("model") / "model.npz")


def filled(name, model, folder):
    return [word.replace("MODEL", str(model)).replace("FOLDER", str(folder)) for word in COMMANDS[name]]


def printed(monkeypatch, arguments, encoding):
    """What a command prints to a terminal of this encoding, as that terminal would show it."""
    with monkeypatch.context() as patch:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding, "strict") for _ in range(2)]
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = cli.main(arguments)
        for stream in streams:
            stream.flush()
        return code, *(stream.buffer.getvalue().decode(encoding) for stream in streams)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_every_encoding(monkeypatch, tmp_path, model, name):
    seen = {}
    for encoding in ("utf-8", "cp1252", "ascii") if name in SAME else ("ascii",):
        folder = tmp_path / encoding
        folder.mkdir()
        arguments = filled(name, model, folder)
        seen[encoding] = printed(monkeypatch, arguments, encoding)
        code, out, err = seen[encoding]
        assert code == (2 if name in ("mistake", "usage") else 0), err
        assert not re.search(r"Traceback|UnicodeEncodeError|\\u[0-9a-f]{4}|\x1b", out + err), (
            "no letter lacks a stand-in"
        )
        for path in folder.iterdir():
            if path.suffix != ".npz":
                path.read_bytes().decode("utf-8")
    if name in SAME:
        code, out, err = seen["utf-8"]
        for encoding in ("cp1252", "ascii"):
            assert seen[encoding] == (code, readable(out, encoding), readable(err, encoding))


def process(*arguments, environment=None, **options):
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONUNBUFFERED", "PYTHONIOENCODING")}
    env |= {"PYTHONPATH": str(ROOT), **(environment or {})}
    command = [sys.executable, "-m", "dualnet", *map(str, arguments)]
    return subprocess.run(command, env=env, **{"capture_output": True, "timeout": 120} | options)


ENVIRONMENTS = {
    "cp1252": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "utf-8": {"PYTHONUTF8": "1"},
}


@pytest.mark.parametrize("place", ["C", *(pytest.param(p, marks=pytest.mark.slow) for p in ENVIRONMENTS if p != "C")])
@pytest.mark.parametrize(
    "name", ["explain", *(pytest.param(n, marks=pytest.mark.slow) for n in COMMANDS if n != "explain")]
)
def test_processes_in_every_encoding(tmp_path, model, name, place):
    done = process(*filled(name, model, tmp_path), environment=ENVIRONMENTS[place])
    assert done.returncode == (2 if name in ("mistake", "usage") else 0), done.stderr
    assert b"Traceback" not in done.stderr and b"\x1b" not in done.stdout + done.stderr
    shown = done.stdout.decode("utf-8" if place == "utf-8" else "cp1252" if place == "cp1252" else "ascii")
    assert name != "explain" or ("Σ_m Σ_n" if place == "utf-8" else "sum_m sum_n") in shown
    for path in tmp_path.iterdir():
        assert path.suffix == ".npz" or path.read_bytes().decode("utf-8")


# -- pipes and devices -------------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")


def into_a_closed_pipe(*arguments, **options):
    """Run a command whose reader has gone before it prints."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return process(*arguments, capture_output=False, stdout=writing, **{"stderr": subprocess.PIPE} | options)
    finally:
        os.close(writing)


TWICE = [("summary", ""), pytest.param("summary", "1", marks=pytest.mark.slow), ("help", "1")]


@posix
@pytest.mark.parametrize("name, unbuffered", [*TWICE, pytest.param("check", "", marks=pytest.mark.slow)])
def test_a_closed_pipe_is_quiet(tmp_path, model, name, unbuffered):
    done = into_a_closed_pipe(*filled(name, model, tmp_path), environment={"PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (141, b"")


@posix
def test_a_training_into_a_closed_pipe_keeps_the_network(tmp_path, model):
    done = into_a_closed_pipe(*filled("train", model, tmp_path))
    assert (done.returncode, done.stderr) == (141, b"") and dn.load(tmp_path / "digits-digits_cnn.npz")


class Gone(io.StringIO):
    """A pipe that closed: on Windows the error is another one."""

    error = BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self):
        raise self.error


@pytest.mark.parametrize("windows", [False, True])
def test_a_closed_pipe_wins_over_a_mistake(monkeypatch, capsys, windows):
    def mistake(options):
        raise FileNotFoundError(errno.ENOENT, "No such file")

    if windows:
        monkeypatch.setattr(Gone, "error", OSError(errno.EINVAL, "Invalid argument"))
    monkeypatch.setattr(cli, "WINDOWS", windows)
    monkeypatch.setattr(sys, "stdout", Gone())
    assert cli.main(["summary", "lenet5"]) == 141
    monkeypatch.setattr(cli.summary, "run", mistake)
    assert cli.main(["summary", "lenet5"]) == 141 and not capsys.readouterr().err


full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")


@full
@pytest.mark.parametrize("name, unbuffered", TWICE)
def test_a_full_device_is_one_line(tmp_path, model, name, unbuffered):
    with open("/dev/full", "wb") as device:
        done = process(
            *filled(name, model, tmp_path),
            environment={"PYTHONUNBUFFERED": unbuffered},
            capture_output=False,
            stdout=device,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2
    assert re.fullmatch(rb"dualnet( summary)?: .*No space left on device\)?\n", done.stderr), done.stderr


@full
def test_a_training_into_a_full_device_keeps_the_network(tmp_path, model):
    with open("/dev/full", "wb") as device:
        done = process(
            *filled("train", model, tmp_path),
            environment={"PYTHONUNBUFFERED": "1"},  # so that the first line fails
            capture_output=False,
            stdout=device,
            stderr=subprocess.PIPE,
        )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and b"No space left on device" in done.stderr
    assert dn.load(tmp_path / "digits-digits_cnn.npz")


@full
def test_stderr_on_a_full_device_changes_no_exit_code(model):
    with open("/dev/full", "wb") as device:
        done = process("summary", "nothing", capture_output=False, stdout=subprocess.PIPE, stderr=device)
        assert done.returncode == 2
        done = process("summary", model, capture_output=False, stdout=device, stderr=device)
        assert done.returncode == 2


@posix
@pytest.mark.parametrize("closed", [pytest.param("0", marks=pytest.mark.slow), "1", "2"])
def test_without_stdin_stdout_or_stderr(tmp_path, model, closed):
    def close():
        os.close(int(closed))

    done = process(*filled("train", model, tmp_path), preexec_fn=close)
    assert done.returncode == 0 and not done.stderr
    assert dn.load(tmp_path / "digits-digits_cnn.npz")


# -- terminals ---------------------------------------------------------------------------------------------------------


def on_a_terminal(folder, columns, **environment):
    """What one epoch shows on a terminal of this width, and the path of the network."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {"TERM": "xterm", **environment}
    command = [sys.executable, "-m", "dualnet", "train", "--epochs", "1", "--batch-size", "256", "--out", str(folder)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    child = subprocess.Popen(command, env=env, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    shown = b""
    try:
        while piece := os.read(leader, 65536):
            shown += piece
    except OSError:  # Linux: the other end is closed
        pass
    os.close(leader)
    assert child.wait() == 0, shown.decode()
    return shown.decode().replace("\r\n", "\n")


@posix
@pytest.mark.parametrize(
    "columns", [40, pytest.param(0, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)]
)
def test_a_bar_is_as_narrow_as_the_terminal(tmp_path, columns):
    pytest.importorskip("tqdm")
    shown = on_a_terminal(tmp_path, columns)
    bars = re.findall(r"\r?(epoch 1/1:[^\r\n]*)", shown)
    assert bars and max(map(len, bars)) <= (columns or 80), "a terminal that does not know its width has 80 columns"
    assert columns < 100 or max(map(len, bars)) > 80
    assert "\x1b[3" not in shown, "no colours"


@posix
@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, pytest.param({"NO_COLOR": "1"}, marks=pytest.mark.slow)])
def test_a_dumb_terminal_and_one_without_colours(tmp_path, environment):
    shown = on_a_terminal(tmp_path, 100, **environment)
    assert "\x1b" not in shown and "test accuracy" in shown
    assert "TERM" not in environment or ("\r" not in shown and re.search(r"^epoch 1/1  loss", shown, re.M))


def test_without_a_terminal_there_is_a_line_per_epoch(tmp_path, model):
    done = process("train", "--epochs", "2", "--batch-size", "256", "--out", tmp_path)
    assert done.returncode == 0 and not done.stderr and b"\r" not in done.stdout.replace(b"\r\n", b"\n")
    assert [line[:9] for line in done.stdout.decode().splitlines()[2:4]] == ["epoch 1/2", "epoch 2/2"]
