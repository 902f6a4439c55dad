"""``dualnet train``: where and under which name it saves the network, and what a signal or a full disk leaves."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from saving import needs_safetensors

import dualnet as dn
from dualnet import cli, writing
from dualnet.parity.certificate import certificate

pytestmark = pytest.mark.usefixtures("ordinary_signals")
ROOT = Path(__file__).resolve().parents[2]
FAST = ("--epochs", "1", "--batch-size", "256")


def run(capsys, *arguments):
    code = cli.main([str(word) for word in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def untrained(monkeypatch):
    """Training is not what is tested."""
    monkeypatch.setattr(dn.Sequential, "fit", lambda net, *args, callbacks, **options: None)


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", [True, False])
def test_the_names_of_the_readme_are_true_in_every_environment(capsys, here, untrained, monkeypatch, package):
    if not package:
        monkeypatch.setitem(sys.modules, "safetensors", None)
        monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    code, out, _ = run(capsys, "train")
    assert code == 0 and out.splitlines()[-1] == "saved as digits-digits_cnn.npz"
    assert sorted(os.listdir(here)) == ["digits-digits_cnn.npz", "digits-digits_cnn.run.toml"]
    for name in ("digits-digits_cnn.npz", "digits-digits_cnn"):
        for arguments in (
            ("predict", name, "digits"),
            ("summary", name),
            ("check", name, "--seed", 1),
            ("explain", name),
        ):
            code, out, err = run(capsys, *arguments)
            assert code == 0 and out, err


def test_training_again_takes_another_name(capsys, here, untrained):
    run(capsys, "train")
    first = Path("digits-digits_cnn.npz").read_bytes()
    for number in (2, 3):
        _, out, _ = run(capsys, "train", "--seed", number, "--quiet")
        assert out.splitlines()[-1] == (
            f"saved as digits-digits_cnn-{number}.npz (digits-digits_cnn.npz was there already)"
        )
    assert Path("digits-digits_cnn.npz").read_bytes() == first
    assert len({path.read_bytes() for path in here.glob("*.npz")}) == 3


def test_a_network_of_the_other_format_takes_the_name_too(capsys, here, untrained):
    Path("digits-digits_cnn.safetensors").touch()
    Path("digits-digits_cnn-2").mkdir()
    _, out, _ = run(capsys, "train")
    assert out.splitlines()[-1] == "saved as digits-digits_cnn-2.npz (digits-digits_cnn.safetensors was there already)"


def test_of_two_trainings_that_end_at_once_both_are_kept(capsys, here, untrained, monkeypatch):
    """The other one has taken the name between our look and our save."""
    Path("digits-digits_cnn.npz").write_bytes(b"the other one's")
    monkeypatch.setattr(cli.places, "saved", lambda path: [])
    _, out, _ = run(capsys, "train")
    assert "saved as digits-digits_cnn-2.npz" in out
    assert Path("digits-digits_cnn.npz").read_bytes() == b"the other one's"


@pytest.mark.parametrize("name", ["models/best.npz", pytest.param("models/best.safetensors", marks=needs_safetensors)])
def test_a_file_that_is_named_is_that_file(capsys, here, untrained, name):
    for there in ("", " instead of the one that was there"):
        code, out, _ = run(capsys, "train", "--out", name)
        assert code == 0 and out.splitlines()[-1] == f"saved as {name}{there}"
    assert (
        sorted(os.listdir(here / "models")) == sorted([Path(name).name, "best.run.toml"])
        and run(capsys, "summary", "models/best")[0] == 0
    )


def test_safetensors_is_asked_for_before_the_training(capsys, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    code, out, err = run(capsys, "train", "--out", "best.safetensors")
    assert code == 2 and not out and "the format .safetensors needs a package" in err


def test_bench_takes_a_name_without_its_suffix(here):
    from dualnet.bench.nets import network

    dn.Sequential([dn.Flatten(), dn.Dense(10)]).init((8, 8, 1)).save("mine.npz")
    assert network("mine").input_shape == (8, 8, 1)


def test_quiet_prints_the_result_alone(capsys, here):
    code, out, err = run(capsys, "train", *FAST, "--quiet")
    assert code == 0 and not err
    assert re.fullmatch(r"trained in \d+\.\d s, test accuracy \d+\.\d\d %\nsaved as digits-digits_cnn.npz\n", out)


# -- photos, logs, checkpoints -----------------------------------------------------------------------------------------


@pytest.fixture
def photos(here):
    """A folder of digits as photos: 12 of each of the classes "one" and "two"."""
    image = pytest.importorskip("PIL.Image")
    (x, t), _ = dn.data.load_digits()
    for label, name in ((1, "one"), (2, "two")):
        (here / "photos" / name).mkdir(parents=True)
        for i, digit in enumerate(x[t == label][:12, :, :, 0]):
            image.fromarray((255 * digit).astype("uint8")).resize((24, 24)).save(here / "photos" / name / f"{i}.png")
    return "photos"


def test_photos_in_folders_are_learned_and_recognised(capsys, here, photos):
    code, out, err = run(capsys, "train", photos, "--size", 16, "--grey", "--model", "lenet5", "--epochs", 30)
    assert code == 0, err
    heading = out.splitlines()[0]
    assert heading == "lenet5 (20,706 parameters) on photos: 20 images to learn, 4 to test; 2 classes: one, two"
    assert out.splitlines()[-1] == "saved as photos-lenet5.npz"
    net = dn.load("photos-lenet5")
    assert "val_accuracy" in out + err, "the photos held out are looked at after each epoch"
    assert (net.input.shape, net.input.classes) == ((16, 16, 1), ("one", "two")) and net.input.border < 0.25
    code, out, err = run(capsys, "predict", "photos-lenet5", *sorted(map(str, (here / photos / "two").iterdir())))
    names = [line.split(": ")[1].split()[0] for line in out.splitlines()]
    assert code == 0 and len(names) == 12 and names.count("two") >= 10


def test_what_was_passed_over_is_told_in_one_line(photos):
    Path(photos, "notes.txt").touch()
    command = [sys.executable, "-m", "dualnet", "train", photos, "--size", "8", *FAST, "--quiet"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    err = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stderr
    assert err == "note: load_folder: photos: skipped 1 file (.txt is not an image: notes.txt).\n"


def test_an_archive_of_photos_is_to_be_unpacked(capsys, here):
    Path("photos.zip").touch()
    code, _, err = run(capsys, "train", "photos.zip")
    assert code == 2 and "'photos.zip' is an archive; unpack it first; expected a folder of photos" in err


def test_what_does_not_go_with_photos_is_told(capsys, here, photos):
    for arguments, words in (
        (("--data", "mine"), "--data is for data sets with a name; photos is a folder itself"),
        (("--size", "1,2,3"), "--size: 1, 2, 3 are 3 numbers; expected H or H,W"),
        (("--log", "log.txt"), "--log log.txt: expected a name that ends with .csv or .jsonl"),
    ):
        code, out, err = run(capsys, "train", photos, *arguments, "--quiet")
        assert code == 2 and words in err and not out, err
    assert os.listdir(here) == ["photos"]


def test_json_is_the_result_alone(capsys, here):
    code, out, err = run(capsys, "train", *FAST, "--json", "--quiet")
    result = json.loads(out)
    assert code == 0 and not err and result["saved"] == "digits-digits_cnn.npz" and result["epochs"] == 1
    (_, _), test = dn.data.load_digits()
    assert result["accuracy"] == dn.load("digits-digits_cnn").evaluate(*test)["accuracy"]


def test_each_epoch_is_logged(capsys, here):
    for name in ("log.csv", "log.jsonl"):
        assert run(capsys, "train", *FAST, "--epochs", 2, "--quiet", "--log", name)[0] == 0
    rows = list(csv.DictReader(Path("log.csv").read_text("utf-8").splitlines()))
    lines = [json.loads(line) for line in Path("log.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == len(lines) == 2
    assert [float(row["loss"]) for row in rows] == [line["loss"] for line in lines] and rows[0]["epoch"] == "1"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_the_same_command_goes_on_where_it_was_ended(capsys, here):
    """Ended in the second epoch, and typed again: the network is that of the unbroken training, bit for bit."""
    words = ("train", "--epochs", 3, "--batch-size", 256, "--quiet", "--optimizer", "sgd", "--resume")
    ends = f"""
import signal, sys
from dualnet import cli
signal.signal(signal.SIGINT, signal.default_int_handler)
class Ends(cli.train._Watch):
    def on_batch_end(self, run):
        if run.step == 9:
            signal.raise_signal(signal.SIGINT)
cli.train._Watch = Ends
sys.exit(cli.main({[str(word) for word in words]}))
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", ends], cwd=here, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    kept = "saved as digits-digits_cnn-stopped.npz; with --resume the same command continues"
    assert done.stderr.endswith(f"interrupted after epoch 1 of 3; {kept}\n")
    assert run(capsys, *words)[0] == 0 and run(capsys, *words[:-1])[0] == 0
    resumed, unbroken = (dn.load(f"digits-digits_cnn{number}").state_dict() for number in ("", "-2"))
    assert all((dn.to_numpy(resumed[name]) == dn.to_numpy(unbroken[name])).all() for name in unbroken)
    before = sorted(os.listdir(here))
    code, out, _ = run(capsys, *words)
    assert code == 0 and re.fullmatch(r"trained already: digits-digits_cnn\S*; to continue, pass --epochs\n", out)
    assert sorted(os.listdir(here)) == before, "the same network again is no new file"
    code, _, err = run(capsys, *words, "--seed", 1)
    assert code == 2 and "seed" in err and "a different training" in err


# -- places that refuse ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="no folder that refuses everybody")
@pytest.mark.parametrize("out", ["/sys/kernel", "/sys/kernel/mine", "/sys/kernel/mine.npz"])
def test_a_place_that_refuses_is_found_out_before_the_training(capsys, here, monkeypatch, out):
    monkeypatch.setattr(dn.Sequential, "fit", lambda *args, **options: pytest.fail("it was trained"))
    code, printed, err = run(capsys, "train", "--out", out)
    assert code == 2 and not printed
    assert re.fullmatch(r"dualnet train: .*(denied|not permitted|No such file)[^\n]*'/sys/kernel[^\n]*\n", err), err


def test_too_little_space_is_found_out_before_the_training(capsys, here, monkeypatch):
    monkeypatch.setattr(dn.Sequential, "fit", lambda *args, **options: pytest.fail("it was trained"))
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 377_255, "total": 1}))
    code, printed, err = run(capsys, "train")  # 94,314 parameters of 4 bytes
    assert code == 2 and not printed and "377,256 bytes are needed, but only 377,255 are free" in err
    assert os.listdir(here) == []


def test_a_page_and_tables_are_tried_before_the_work(capsys, here, monkeypatch):
    for place, name in ((dn, "explain"), (cli.bench.bench, "run"), (certificate, "certify")):
        monkeypatch.setattr(place, name, lambda *args, **options: pytest.fail("it was computed"))
    for command in (["explain", "--html"], ["bench", "--json"], ["parity", "--out"]):
        code, printed, err = run(capsys, *command, "/sys/kernel/file")
        assert code == 2 and not printed and "/sys/kernel" in err, err


def full_disk(monkeypatch, folders):
    """From now on these folders are full."""
    write = writing._write

    def refuse(file, data):
        if os.path.dirname(file.name) in map(str, folders) and len(data) > 4096:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    monkeypatch.setattr(writing, "_write", refuse)


@pytest.mark.parametrize("spare", ["working folder", "temporary folder", "home", "nowhere"])
def test_a_disk_that_is_full_by_the_end_does_not_cost_the_network(
    capsys, here, tmp_path, untrained, monkeypatch, spare
):
    folders = {"out": tmp_path / "out", "working folder": here}
    for name in ("temporary folder", "home"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(folders["temporary folder"]))
    monkeypatch.setattr(Path, "home", lambda: folders["home"])
    order = list(folders)
    full_disk(monkeypatch, [folders[name] for name in (order[: order.index(spare)] if spare in order else order)])
    code, out, err = run(capsys, "train", "--out", folders["out"])
    assert code == 2 and re.search(r"test accuracy \d+\.\d\d %", out) and len(err.splitlines()) == 1
    assert "No space left on device" in err
    if spare == "nowhere":
        assert "saved" not in err
        return
    kept = folders[spare] / "digits-digits_cnn.npz"
    assert [path.name for path in tmp_path.rglob("*.npz")] == [kept.name], "no empty file where it was tried"
    assert err.endswith(f"No space left on device: '{folders['out']}'; saved as {kept} instead\n") and dn.load(kept)


# -- interrupts --------------------------------------------------------------------------------------------------------

PROGRAM = """
import signal, sys
import dualnet as dn
from dualnet import cli
number, after = int(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGINT, signal.default_int_handler)
class Ends(cli.train._Watch):
    def on_batch_end(self, run):
        if after == "step" and run.step == 9:
            signal.raise_signal(number)
        if after == "twice" and run.step == 9:
            raise KeyboardInterrupt
    def on_epoch_end(self, run):
        if after == "epoch" and run.epoch == 1:
            signal.raise_signal(number)
    def on_fit_begin(self, run):
        super().on_fit_begin(run)
        if after == "begin":
            signal.raise_signal(number)
cli.train._Watch = Ends
if after == "test":
    dn.Sequential.evaluate = lambda *args: signal.raise_signal(number)
if after in ("save", "twice"):
    save = dn.Sequential.save
    dn.Sequential.save = lambda *args: signal.raise_signal(number) or save(*args)
sys.exit(cli.main(["train", "--epochs", "3", "--batch-size", "256", "--quiet"]))
"""


def ended(number, after, folder):
    command = [sys.executable, "-c", PROGRAM, str(int(number)), after]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    "name, after, words",
    [
        ("SIGINT", "epoch", "interrupted after epoch 2 of 3; "),
        ("SIGTERM", "epoch", "ended by SIGTERM after epoch 2 of 3; "),
        ("SIGHUP", "step", "ended by SIGHUP after epoch 1 of 3; "),
        ("SIGTERM", "test", "ended by SIGTERM after epoch 3 of 3; "),
        pytest.param("SIGTERM", "save", None, marks=pytest.mark.slow),
        pytest.param("SIGHUP", "epoch", "ended by SIGHUP after epoch 2 of 3; ", marks=pytest.mark.slow),
        pytest.param("SIGINT", "step", "interrupted after epoch 1 of 3; ", marks=pytest.mark.slow),
        pytest.param("SIGINT", "begin", "", marks=pytest.mark.slow),
    ],
)
def test_a_signal_keeps_what_was_trained(tmp_path, name, after, words):
    number = getattr(signal, name)
    done = ended(number, after, tmp_path)
    assert done.returncode == 128 + number, done.stderr
    if after == "begin":
        assert done.stderr == "interrupted\n" and not list(tmp_path.iterdir()), "nothing was trained"
        return
    net = dn.load(tmp_path / "digits-digits_cnn")
    assert os.listdir(tmp_path) == ["digits-digits_cnn.npz"]
    if words is None:
        assert done.stdout.endswith("saved as digits-digits_cnn.npz\n") and done.stderr == f"ended by {name}\n"
    else:
        assert done.stderr == f"{words}saved as digits-digits_cnn.npz\n"
    (_, _), (x, t) = dn.data.load_digits()
    assert net.evaluate(x, t)["loss"] < 2.3, "log 10 is 2.3026, what a network that knows nothing comes to"


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_does_not_break_off_the_save_after_ctrl_c(tmp_path):
    done = ended(signal.SIGTERM, "twice", tmp_path)
    assert done.returncode == 143 and dn.load(tmp_path / "digits-digits_cnn")
    words = "interrupted after epoch 1 of 3; saved as digits-digits_cnn.npz\nended by SIGTERM\n"
    assert done.stderr == words


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("command", ["explain", "summary"])
def test_a_signal_ends_every_command(capsys, monkeypatch, command):
    monkeypatch.setattr(getattr(cli, command), "run", None)  # found by name below
    for error, words, code in (
        (KeyboardInterrupt, "interrupted\n", 130),
        (signal.SIGTERM, "ended by SIGTERM\n", 143),
        (signal.SIGHUP, "ended by SIGHUP\n", 129),
    ):

        def end(options, error=error):
            if error is KeyboardInterrupt:
                raise error
            signal.raise_signal(error)

        monkeypatch.setattr(getattr(cli, command), "run", end)
        assert run(capsys, command, *["lenet5"] * (command == "summary")) == (code, "", words)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_too_little_memory_is_one_line(capsys, monkeypatch):
    for words, shown in (("Unable to allocate 9 GiB", "Unable to allocate 9 GiB"), ("", "there is not enough memory")):

        def ask(options, words=words):
            raise MemoryError(words)

        monkeypatch.setattr(cli.summary, "run", ask)
        assert run(capsys, "summary", "lenet5") == (2, "", f"dualnet summary: {shown}\n")


def test_a_mistake_of_ours_is_a_traceback(monkeypatch):
    def broken(options):
        return {}["missing"]

    monkeypatch.setattr(cli.summary, "run", broken)
    with pytest.raises(KeyError):
        cli.main(["summary", "lenet5"])
