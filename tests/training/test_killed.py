"""``kill -9`` while training: the saved files are sound, and a training that continues gives the bits of an
uninterrupted one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill a process outright")

EPOCHS = 8
PROGRAM = """
import hashlib, os, sys
import numpy as np
import dualnet as dn

x, t = (array[:256] for array in dn.data.load_digits()[0])
layers = [dn.Conv2D(6, 3), dn.BatchNorm(), dn.ReLU(), dn.Dropout(0.3), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(10)]
optimizer = dn.Adam(lr=dn.schedules.OneCycle(0.01, 8 * 8))
net = dn.load("model.npz", optimizer=optimizer) if os.path.exists("model.npz") else dn.Sequential(layers)
done = optimizer.steps // 8

def keep(run):
    with open("history", "a") as file:
        file.write(f"{run.epoch} {run.logs['loss']!r}\\n")
    run.net.save("model.npz", optimizer=run.optimizer)
    print(run.epoch, flush=True)

net.fit(x, t, epochs=8, initial_epoch=done, batch_size=32, optimizer=optimizer, callbacks=keep, verbose=0)
sums = hashlib.sha256()
for state in (net.state_dict(), optimizer.state_dict()):
    for name, value in sorted(state.items()):
        sums.update(name.encode() + (dn.to_numpy(value).tobytes() if hasattr(value, "dtype") else repr(value).encode()))
print(sums.hexdigest())
"""


def start(folder: Path) -> subprocess.Popen:
    environment = os.environ | {"DUALNET_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )


def finished(folder: Path) -> str:
    """Train to the end; the hash of all that was learned."""
    process = start(folder)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return out.split()[-1]


def losses(folder: Path) -> list[str]:
    """The loss of each epoch; one that was trained twice, since it was not saved, has the same loss both times."""
    return sorted(set((folder / "history").read_text().splitlines()))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return finished(folder), losses(folder)


def killed_and_gone_on(folder: Path, after_epoch: int, seconds: float) -> tuple[str, list[str]]:
    process = start(folder)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == str(after_epoch):
            break
    time.sleep(seconds)
    process.kill()
    process.wait()
    process.stdout.close()
    return finished(folder), losses(folder)


def test_one_kill(unbroken, tmp_path):
    assert killed_and_gone_on(tmp_path, 2, 0.004) == unbroken


@pytest.mark.slow
def test_twenty_kills(unbroken, tmp_path, rng):
    """Anywhere: an epoch takes about 20 ms, so a part of them fall into a save."""
    for i in range(20):
        folder = tmp_path / str(i)
        folder.mkdir()
        assert killed_and_gone_on(folder, int(rng.integers(0, EPOCHS - 1)), float(rng.random()) * 0.03) == unbroken
        assert not [path for path in folder.iterdir() if path.name not in ("model.npz", "history")]


@pytest.mark.slow
def test_killed_inside_a_save(unbroken, tmp_path):
    """At the calls of the system on which a save depends, one after the other."""
    stop = "import os, signal\ndef at(count):\n    calls = [count]\n"
    for name in ("fsync", "replace"):
        stop += f"    def {name}(*a, real=os.{name}, **k):\n        calls[0] -= 1\n"
        stop += "        if calls[0] == 0: os.kill(os.getpid(), signal.SIGKILL)\n        return real(*a, **k)\n"
        stop += f"    os.{name} = {name}\n"
    for call in range(1, 7):
        folder = tmp_path / str(call)
        folder.mkdir()
        code = f"{stop}at({call})\n{PROGRAM}"
        process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, timeout=120)
        assert process.returncode == -signal.SIGKILL
        assert (finished(folder), losses(folder)) == unbroken, call
        assert not [path for path in folder.iterdir() if path.name not in ("model.npz", "history")]
