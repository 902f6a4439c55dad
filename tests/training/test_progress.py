"""Progress: a bar, a line for each epoch, or silence; and how often the figures are read."""

from __future__ import annotations

import errno
import io
import sys
import types

import pytest
from bars import bars, small

from dualnet.training import progress
from dualnet.training.progress import Progress


def test_progress_shows_every_epoch(backend, capsys):
    x, t = bars(16)
    small().fit(x, t, epochs=2, verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"] and "accuracy" in lines[0]
    small().fit(x, t, epochs=2, verbose=0)
    assert not any(capsys.readouterr())


def test_a_bar_with_tqdm_and_a_line_without(monkeypatch, capsys):
    x, t = bars(16)
    pytest.importorskip("tqdm")
    small().fit(x, t, verbose=1)
    out = capsys.readouterr()
    assert out.out.startswith("epoch 1/1") and not out.err, "nobody watches: a line, and nothing that draws over it"
    monkeypatch.setattr(progress, "draws_over", lambda stream: True)
    small().fit(x, t, verbose=1)
    out = capsys.readouterr()
    assert "step" in out.err and "\r" in out.err and not out.out
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    small().fit(x, t, verbose=1)
    out = capsys.readouterr()
    assert out.out.startswith("epoch 1/1") and not out.err


def test_epochs_are_counted_in_one_width(capsys):
    with Progress(8, 10, 1, 2) as shown:
        shown.done("loss 1")
    assert capsys.readouterr().out == "epoch  9/10  loss 1\n"


def test_figures_are_read_a_few_times_a_second(monkeypatch):
    """Each look waits for the device: of 100 steps in two seconds, nine are looked at."""
    pytest.importorskip("tqdm")
    monkeypatch.setattr(progress, "draws_over", lambda stream: True)
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    looks = []

    def figures():
        looks.append(clock[0])
        return {"loss": 1.0}

    for verbose, most in ((1, 9), (2, 0), (0, 0)):
        looks.clear()
        with Progress(0, 1, 100, verbose) as shown:
            for _ in range(100):
                clock[0] += 0.02
                shown.step(figures)
        assert len(looks) == most


def test_three_ways_and_no_fourth():
    for verbose in (3, -1, "yes", None):
        with pytest.raises(
            ValueError, match=r"fit: verbose must be 0 \(silence\), 1 \(a bar\) or 2 \(a line per epoch\), got"
        ):
            Progress(0, 1, 1, verbose)


def test_a_notebook_has_a_bar_and_ipython_in_a_pipe_has_none(monkeypatch):
    pytest.importorskip("tqdm")
    for config, shown in (({"IPKernelApp": {}}, True), ({"TerminalIPythonApp": {}}, False)):
        shell = types.SimpleNamespace(config=config)
        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda shell=shell: shell))
        made = progress.bar("epoch", 1)
        assert (made is not None) == shown
        if made is not None:
            made.close()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert progress.bar("epoch", 1) is None


class Broken(io.StringIO):
    """A file on a disk that is full."""

    def write(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("tqdm", [True, False])
@pytest.mark.parametrize("kind", ["full", "closed", "missing", "latin"])
def test_progress_that_cannot_be_written_does_not_end_a_training(monkeypatch, tqdm, kind):
    if tqdm:
        pytest.importorskip("tqdm")
        monkeypatch.setattr(progress, "draws_over", lambda stream: stream is not None)
    else:
        monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    stream = {
        "full": Broken(),
        "closed": io.StringIO(),
        "missing": None,
        "latin": io.TextIOWrapper(io.BytesIO(), "cp1252"),
    }[kind]
    if kind == "closed":
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)

    x, t = bars(16)
    history = small().fit(x, t, epochs=2, verbose=1)
    assert history.epochs == 2
    with Progress(0, 1, 1, 1) as shown:
        shown.step(lambda: {"Σ": 1.0})
        shown.done("Σ 1 → 2")
    if kind == "latin" and not tqdm:
        stream.flush()
        assert b"sum 1 -> 2" in stream.buffer.getvalue()
