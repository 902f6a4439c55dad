"""``fit(..., resume=folder)``: it continues as if nothing had happened, whatever ended the training, and wherever."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dualnet as dn
from dualnet.files.state import read_state, write_state

pytestmark = pytest.mark.usefixtures("ordinary_signals")
X, T = (array[:256] for array in dn.data.load_digits()[0])
STEPS = 8  # of 32 examples, in an epoch


def network() -> dn.Sequential:
    layers = [dn.Conv2D(4, 3), dn.BatchNorm(), dn.ReLU(), dn.Dropout(0.3), dn.MaxPool2D(2), dn.Flatten(), dn.Dense(10)]
    return dn.Sequential(layers)


class Ends(dn.Callback):
    """Ends the training as a signal does, after this step."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def on_batch_end(self, run):
        if run.step == self.step:
            signal.raise_signal(self.number)


def options(**changed):
    given = {"epochs": 4, "batch_size": 32, "augment": dn.data.Augment(shift=1, flip=False), "verbose": 0}
    given["optimizer"] = dn.Adam(lr=dn.schedules.OneCycle(0.01, 4 * STEPS))
    given["validation_data"] = (X[:64], T[:64])
    return given | changed


def learned(net: dn.Layer, *others) -> str:
    sums = hashlib.sha256()
    for state in (net.state_dict(), *(other.state_dict() for other in others)):
        for name, value in sorted(state.items()):
            sums.update(name.encode())
            sums.update(dn.to_numpy(value).tobytes() if hasattr(value, "dtype") else repr(value).encode())
    return sums.hexdigest()


def figures(history: dn.History) -> dict[str, list[float]]:
    return {name: values for name, values in history.items() if name != "seconds"}


def watching() -> list[dn.Callback]:
    return [dn.callbacks.EMA(0.9), dn.EarlyStopping(patience=9)]


@pytest.fixture(scope="module")
def unbroken():
    net, given = network(), options(callbacks=watching())
    history = net.fit(X, T, **given)
    return learned(net, given["optimizer"]), figures(history)


@pytest.mark.parametrize("step", [1, 5, STEPS, STEPS + 1, 3 * STEPS, 4 * STEPS])
def test_ctrl_c_after_any_step_and_the_same_call_goes_on(tmp_path, unbroken, step):
    net = network()
    with pytest.raises(KeyboardInterrupt) as caught:
        net.fit(X, T, **options(callbacks=[*watching(), Ends(step)], resume=tmp_path))
    assert "the same call continues there" in caught.value.__notes__[0]
    assert f"stopped in epoch {(step - 1) // STEPS + 1} of 4" in caught.value.__notes__[0]
    assert (tmp_path / f"checkpoint-{step:09}.npz").exists()
    net, given = network(), options(callbacks=[*watching(), Ends(0)], resume=tmp_path)
    history = net.fit(X, T, **given)
    assert (learned(net, given["optimizer"]), figures(history)) == unbroken
    assert history is net.history


@pytest.mark.parametrize("capture", [False, True])
def test_ended_again_and_again(tmp_path, unbroken, capture):
    for step in (3, 4, 11, 21, 30):
        with pytest.raises(KeyboardInterrupt):
            network().fit(X, T, **options(callbacks=[*watching(), Ends(step)], resume=tmp_path, capture=capture))
    net, given = network(), options(callbacks=watching(), resume=tmp_path, capture=capture)
    assert figures(net.fit(X, T, **given)) == unbroken[1]
    assert learned(net, given["optimizer"]) == unbroken[0]


def test_on_every_backend_and_in_16_bits(tmp_path, backend):
    """The loss scale, the metrics' sums and the arrays of all states go back to where the network is."""

    def train(folder, *more):
        net = network().init((8, 8, 1), dtype="float16")
        net.fit(X, T, **options(callbacks=[*watching(), *more], resume=folder, epochs=2))
        return learned(net)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Ends(5))
    assert train(tmp_path) == train(None)


def test_without_a_folder_nothing_is_written_and_the_note_says_how(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = network()
    with pytest.raises(KeyboardInterrupt) as caught:
        net.fit(X, T, **options(callbacks=Ends(9)))
    assert list(tmp_path.iterdir()) == [] and net.history.epochs == 1
    assert "net.history holds 1 epoch. With fit(..., resume=FOLDER)" in caught.value.__notes__[0]


def test_every_so_many_steps_and_three_are_kept(tmp_path):
    seen = []

    def look(run):
        seen.append(sorted(int(path.stem[-9:]) for path in tmp_path.glob("checkpoint-*.npz")))

    network().fit(X, T, **options(epochs=3, resume=tmp_path, checkpoint_every=3, callbacks=look))
    # at the end of an epoch, before its own checkpoint
    assert seen == [[3, 6], [9, 12, 15], [16, 18, 21]]
    assert sorted(int(path.stem[-9:]) for path in tmp_path.iterdir()) == [18, 21, 24]


def test_a_finished_training_returns_its_history_and_its_weights_at_once(tmp_path, unbroken):
    network().fit(X, T, **options(callbacks=watching(), resume=tmp_path))
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    stepped = []

    class Steps(dn.Callback):
        def on_batch_end(self, run):
            stepped.append(run.step)

    net, given = network(), options(callbacks=[*watching(), Steps()], resume=tmp_path)
    history = net.fit(X, T, **given)
    assert (learned(net, given["optimizer"]), figures(history)) == unbroken and stepped == []
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_a_finished_training_goes_on_if_there_are_more_epochs(tmp_path):
    rate = {"optimizer": dn.SGD(0.05, momentum=0.9)}
    network().fit(X, T, **options(epochs=2, resume=tmp_path, **rate))
    net = network()
    history = net.fit(X, T, **options(epochs=5, resume=tmp_path, optimizer=dn.SGD(0.05, momentum=0.9)))
    whole = network()
    assert figures(whole.fit(X, T, **options(epochs=5, optimizer=dn.SGD(0.05, momentum=0.9)))) == figures(history)
    assert learned(net) == learned(whole)


def test_a_training_that_a_callback_has_stopped_stays_stopped(tmp_path):
    def stop(run):
        run.stop = run.epoch == 1

    first, again = network(), network()
    first.fit(X, T, **options(callbacks=stop, resume=tmp_path))
    assert again.fit(X, T, **options(callbacks=stop, resume=tmp_path)).epochs == 2
    assert learned(first) == learned(again)


def test_stopped_within_an_epoch_by_a_callback_and_a_signal_at_once(tmp_path):
    class Stops(Ends):
        def on_batch_end(self, run):
            run.stop = run.step == 11
            super().on_batch_end(run)

    whole = network()
    expected = figures(whole.fit(X, T, **options(callbacks=Stops(0))))
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=Stops(11), resume=tmp_path))
    net = network()
    assert figures(net.fit(X, T, **options(callbacks=Stops(0), resume=tmp_path))) == expected
    assert learned(net) == learned(whole) and net.history.epochs == 2


def test_ctrl_c_waits_for_the_end_of_the_epoch_and_of_its_callbacks(tmp_path):
    """Half of the callbacks know of the epoch: no checkpoint may be written there."""
    told = []

    def press(run):
        signal.raise_signal(signal.SIGINT)
        told.append("pressed")

    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=[press, lambda run: told.append("told")], resume=tmp_path))
    assert told == ["pressed", "told"]
    (path,) = tmp_path.iterdir()
    place = read_state(path)["place"]
    assert (place["epoch"], place["batch"], place["begun"]) == (1, 0, False)


def test_what_breaks_off_within_a_step_leaves_no_checkpoint_of_it(tmp_path, unbroken):
    class Breaks(dn.Callback):
        def on_batch_end(self, run):
            if run.step == 11:
                raise KeyboardInterrupt  # not a signal: at once, and the callbacks after this one never know

    with pytest.raises(KeyboardInterrupt) as caught:
        network().fit(X, T, **options(callbacks=[Breaks(), *watching()], resume=tmp_path))
    assert "continues from the newest checkpoint" in caught.value.__notes__[0]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000000008.npz"]
    net, given = network(), options(callbacks=watching(), resume=tmp_path)
    assert figures(net.fit(X, T, **given)) == unbroken[1]
    assert learned(net, given["optimizer"]) == unbroken[0]


# -- damaged checkpoints -----------------------------------------------------------------------------------------------


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def one_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def another_state(path: Path) -> None:
    write_state(path, {"net": {}})


def a_network(path: Path) -> None:
    network().init((8, 8, 1)).save(path)


@pytest.mark.parametrize("damage", [cut_off, emptied, zeros, one_bit, another_state, a_network])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path, unbroken, damage):
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=[*watching(), Ends(21)], resume=tmp_path, checkpoint_every=5))
    newest = max(tmp_path.iterdir())
    damage(newest)
    net, given = network(), options(callbacks=watching(), resume=tmp_path)
    with pytest.warns(UserWarning, match=f"skipping a damaged checkpoint: .*{newest.name}"):
        history = net.fit(X, T, **given)
    assert (learned(net, given["optimizer"]), figures(history)) == unbroken


def test_if_all_are_damaged_it_begins_again_and_soon_has_sound_ones(tmp_path, unbroken):
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=[*watching(), Ends(30)], resume=tmp_path, checkpoint_every=5))
    for path in tmp_path.iterdir():
        zeros(path)
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=[*watching(), Ends(12)], resume=tmp_path, checkpoint_every=5))
    net, given = network(), options(callbacks=watching(), resume=tmp_path)
    with pytest.warns(UserWarning, match="damaged"):
        net.fit(X, T, **given)
    assert learned(net, given["optimizer"]) == unbroken[0]


def smoothed(y, t):
    return dn.losses.softmax_cross_entropy(y, t)


OTHERS = {
    "seed is 0 in the checkpoint, 1 here": {"seed": 1},
    "batch_size is 32 in the checkpoint, 16 here": {"batch_size": 16},
    "shuffle": {"shuffle": False},
    "augment": {"augment": None},
    "the optimizer is Adam in the checkpoint, SGD here": {"optimizer": dn.SGD(0.1)},
    "the loss is softmax_cross_entropy in the checkpoint, smoothed here": {"loss": smoothed},
}


@pytest.mark.parametrize("told", OTHERS)
def test_another_training_is_refused_before_anything_changes(tmp_path, told):
    refused(tmp_path, told, network(), X, T, OTHERS[told])


@pytest.mark.parametrize(
    "told, layer",
    [
        (r"layer 3 is Dropout\(rate=0.3\) in the checkpoint, Dropout\(rate=0.5\) here", dn.Dropout(0.5)),
        (r"layer 3 is Dropout\(rate=0.3\) in the checkpoint, Identity\(\) here", dn.Identity()),
        (r"layer 3 is .*\) in the checkpoint, Dropout\(rate=0.3\) \(frozen\) here", dn.Dropout(0.3).freeze()),
    ],
)
def test_another_network_is_refused(tmp_path, told, layer):
    other = network()
    other.layers[3] = layer
    refused(tmp_path, told, other, X, T, {})


def test_other_data_are_refused(tmp_path):
    refused(tmp_path, "the number of examples is 256 in the checkpoint, 255 here", network(), X[1:], T[1:], {})


def refused(folder, told, net, x, t, changed):
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=Ends(10), resume=folder))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    net.init((8, 8, 1))
    had, trained_with = learned(net), vars(net).get("loss")
    with pytest.raises(ValueError, match=f"of a different training: .*{told}") as caught:
        net.fit(x, t, **options(resume=folder, **changed) if changed else options(resume=folder))
    assert "Nothing was changed." in str(caught.value) and learned(net) == had
    assert vars(net).get("loss") == trained_with
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_other_arguments_of_the_optimizer_and_other_versions_are_warned_of(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=Ends(10), resume=tmp_path))
    monkeypatch.setattr("dualnet.training.resume.__version__", "0.0.1")
    with pytest.warns(UserWarning) as caught:
        network().fit(X, T, **options(resume=tmp_path, optimizer=dn.Adam(dn.schedules.Cosine(0.01, 32), beta_1=0.5)))
    told = " ".join(str(warning.message) for warning in caught)
    assert "Adam's lr is" in told and "Adam's beta_1 is 0.9 in the checkpoint, 0.5 here" in told and "0.0.1" in told


def test_callbacks_that_came_or_went(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=[Ends(10), dn.EarlyStopping(9)], resume=tmp_path))
    with pytest.warns(UserWarning, match="the checkpoint has no state for EMA, which starts afresh"):
        network().fit(X, T, **options(callbacks=[dn.EarlyStopping(9), dn.callbacks.EMA()], resume=tmp_path))


def test_states_come_after_the_moments_that_reset_them(tmp_path):
    class Counts(dn.Callback):
        """Steps of this epoch: reset when one begins."""

        def on_fit_begin(self, run):
            self.fit = 0

        def on_epoch_begin(self, run):
            self.epoch = 0

        def on_batch_end(self, run):
            self.fit, self.epoch = self.fit + 1, self.epoch + 1

        def state_dict(self):
            return {"fit": self.fit, "epoch": getattr(self, "epoch", 0)}

        def load_state_dict(self, state):
            self.fit, self.epoch = state["fit"], state["epoch"]

    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=[Counts(), Ends(STEPS + 3)], resume=tmp_path))
    counts = Counts()
    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=[counts, Ends(STEPS + 5)], resume=tmp_path))
    assert (counts.fit, counts.epoch) == (STEPS + 5, 5)


def test_the_batch_of_a_nan_is_told_as_if_the_training_had_not_stopped(tmp_path):
    class Spoils(dn.Callback):
        def on_batch_end(self, run):
            if run.step == STEPS + 4:
                run.net[-1].w.value = run.net[-1].w.value * float("nan")

    with pytest.raises(KeyboardInterrupt):
        network().fit(X, T, **options(callbacks=Ends(STEPS + 2), resume=tmp_path, check_finite=True))
    with pytest.raises(FloatingPointError, match="epoch 2, batch 5: "):
        network().fit(X, T, **options(callbacks=Spoils(), resume=tmp_path, check_finite=True))


class Order:
    """Batches in an order of their own; how many were read is noted."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        for start in range(0, len(X), 32):
            self.read += 1
            yield X[start : start + 32], T[start : start + 32]

    def __len__(self):
        return STEPS


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batches_of_ones_own_are_read_again_and_skipped(tmp_path, accumulate):
    def train(net, *callbacks, **more):
        given = {"epochs": 3, "optimizer": dn.SGD(0.05, momentum=0.9), "verbose": 0, "metrics": ["f1"]}
        return net.fit(Order(), accumulate=accumulate, callbacks=callbacks, **given, **more)

    whole, net = network(), network()
    expected = figures(train(whole))
    with pytest.raises(KeyboardInterrupt):
        train(network(), Ends(6), resume=tmp_path)
    assert figures(train(net, resume=tmp_path)) == expected and learned(net) == learned(whole)


def test_arguments_that_make_no_sense(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for changed, told in [
        ({"resume": tmp_path / "file"}, "is a file; expected a folder"),
        ({"checkpoint_every": 3}, "needs a folder; pass one"),
        ({"resume": tmp_path, "checkpoint_every": 0}, "checkpoint_every must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=told):
            network().fit(X, T, **options(**changed))


def test_a_full_disk_warns_and_training_goes_on(tmp_path, monkeypatch, unbroken):
    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dualnet.training.resume.write_state", full)
    net, given = network(), options(callbacks=watching(), resume=tmp_path)
    with pytest.warns(UserWarning, match="could not write a checkpoint .*No space left"):
        net.fit(X, T, **given)
    assert learned(net, given["optimizer"]) == unbroken[0]


def test_a_callback_whose_state_no_file_can_hold_is_named(tmp_path):
    class Odd(dn.Callback):
        def state_dict(self):
            return {"function": print}

    with pytest.raises(TypeError, match="callbacks/0/state/function is <built-in function print>"):
        network().fit(X, T, **options(callbacks=Odd(), resume=tmp_path))


# -- killed outright ---------------------------------------------------------------------------------------------------

PROGRAM = """
import hashlib, signal, sys, time
import dualnet as dn

stop, seconds = int(sys.argv[1]), float(sys.argv[2])
(x, t), test = dn.data.load_digits()
x, t = x[:512], t[:512]
net = dn.models.digits_cnn()
net.layers.insert(-1, dn.Dropout(0.3))
optimizer = dn.AdamW(lr=dn.schedules.Warmup(dn.schedules.Cosine(0.003, 40), 8), clip_norm=1.0)
keep = [dn.callbacks.EMA(0.95), dn.EarlyStopping(9), dn.callbacks.ModelCheckpoint("models", keep=2)]
keep += [dn.callbacks.JSONLLogger("log.jsonl"), dn.callbacks.CSVLogger("log.csv")]

class Tell(dn.Callback):
    def on_batch_end(self, run):
        global stop
        if 0 < stop <= run.step:
            stop = 0
            if seconds:  # that long from now it dies on the spot, wherever it is then, however busy the machine
                signal.setitimer(signal.ITIMER_REAL, seconds)
            else:
                print("now", flush=True)
                sys.stdin.readline()
        if seconds and run.step == 40:
            time.sleep(60)  # it does not outrun its death

history = net.fit(x, t, epochs=5, batch_size=64, optimizer=optimizer, augment=dn.data.Augment(shift=1, flip=False),
                  validation_data=test, callbacks=[*keep, Tell()], resume="run", checkpoint_every=3, verbose=0)
sums = hashlib.sha256(repr({k: v for k, v in history.items() if k != "seconds"}).encode())
for state in (net.state_dict(), optimizer.state_dict(), keep[0].trained()):
    for name, value in sorted(state.items()):
        sums.update(name.encode() + (dn.to_numpy(value).tobytes() if hasattr(value, "dtype") else repr(value).encode()))
print(sums.hexdigest())
"""
CAN_KILL = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system cannot kill a process outright")


def start(folder: Path, stop: int = 0, seconds: float = 0.0) -> subprocess.Popen:
    """The training. After step ``stop`` it waits for a line, or is killed so many seconds later."""
    environment = os.environ | {"DUALNET_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(stop), str(seconds)],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def over(process: subprocess.Popen, line: str | None = None) -> tuple[int, str, str]:
    """Its exit code and what it said. One that hangs is ended, so that no other test finds it."""
    with process:
        try:
            out, errors = process.communicate(line, timeout=600)
        finally:
            process.kill()
    return process.returncode, out, errors


def killed(folder: Path, step: int, seconds: float) -> bool:
    """A process that no handler saves, as after ``kill -9``: the alarm's signal ends it by default."""
    return over(start(folder, step, seconds + 1e-6))[0] == -signal.SIGALRM


def ended(folder: Path, number: int, step: int) -> int:
    process = start(folder, step)
    assert process.stdout.readline() == "now\n"
    process.send_signal(number)  # before the line that it waits for
    return over(process, "\n")[0]


def finished(folder: Path) -> tuple[str, list[str]]:
    code, out, errors = over(start(folder))
    assert code == 0, errors
    logs = [line.rsplit(",", 1)[0] for line in (folder / "log.csv").read_text(encoding="utf-8").splitlines()]
    logs += [line.split('"seconds"')[0] for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    best = {path.name: learned(dn.load(path)) for path in (folder / "models").iterdir()}
    return out.split()[-1], logs, best


@pytest.fixture(scope="module")
def to_the_end(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("unbroken"))


@CAN_KILL
def test_killed_three_times(to_the_end, tmp_path):
    chance = random.Random(0)
    for first in (2, 12, 25):
        assert killed(tmp_path, first + chance.randrange(6), chance.random() * 0.02)
    assert finished(tmp_path) == to_the_end


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process without asking")
def test_ended_by_signals(to_the_end, tmp_path):
    for number, code, step in ((signal.SIGTERM, 143, 5), (signal.SIGHUP, 129, 14), (signal.SIGINT, -signal.SIGINT, 31)):
        assert ended(tmp_path, number, step) == code
        newest = max(int(path.stem[-9:]) for path in (tmp_path / "run").iterdir())
        assert newest == step  # not only the last third step: that of the signal
    assert finished(tmp_path) == to_the_end


@pytest.mark.slow
@CAN_KILL
def test_killed_at_many_places(to_the_end, tmp_path, rng):
    for place in range(10):
        folder = tmp_path / str(place)
        folder.mkdir()
        for _ in range(3):
            assert killed(folder, int(rng.integers(1, 40)), float(rng.random()) * 0.05)
        assert finished(folder) == to_the_end
