"""``mpiexec -n 2 dualnet train --distributed``: one result, reported and saved once, whatever happens."""

from __future__ import annotations

import json
import os
import re
import socket
import sys

import numpy
import pytest
from distributing import LAUNCHER_SAYS_KILLED

import dualnet as dn
from dualnet import cli
from dualnet.distributed import launching

FEW = ("digits", "--epochs", "1", "--batch-size", "256")
SENT = """
import sys
import dualnet as dn
from dualnet import cli
code = cli.main(["train", *sys.argv[1:], "--distributed"])
print("sent", dn.distributed.init().sent_bytes)
sys.exit(code)
"""
ENDS = """
import os, sys
import dualnet as dn
from dualnet import cli
from dualnet.training.ending import Terminated
kind, rank = sys.argv[1], int(sys.argv[2])
class Ends(cli.train._Watch):
    def on_batch_end(self, run):
        if run.step == 2 and dn.distributed.init().rank == rank:
            if kind == "error":
                raise ValueError("there is a hair in the soup")
            os.kill(os.getpid(), int(kind))
cli.train._Watch = Ends
sys.exit(cli.main(["train", *sys.argv[3:], "--distributed"]))
"""


LOADS = """
import os, socket, sys, time
from pathlib import Path
import numpy
import dualnet as dn
from dualnet import cli
from dualnet.data import sources
from dualnet.distributed import init
machines, shared, target = eval(sys.argv[1]), sys.argv[2] == "shared", Path(sys.argv[3])
ranks = init()
from dualnet.cli import together
agreed = together.agreed
def hurried(ranks, prepare):
    before, ranks.timeout = ranks.timeout, 0.1
    try:
        return agreed(ranks, prepare)
    finally:
        ranks.timeout = before
together.agreed = hurried
machine = machines[ranks.rank]
socket.gethostname = lambda: machine
os.environ["DUALNET_DATA"] = str(target / ("disk" if shared else machine))
os.environ["HOME"] = str(target / machine)
def download(name, source, folder):
    with open(target / "loads", "a") as log:
        print(ranks.rank, file=log)
    time.sleep(1)  # longer than ranks wait for each other, unless they know that one has much to do
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        images = numpy.arange(8 * 784).astype("uint8").reshape(8, 28, 28)
        dn.data.write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        dn.data.write_idx(folder / f"{part}-labels-idx1-ubyte.gz", numpy.arange(8, dtype="uint8"))
sources._download = download
sys.exit(cli.main(["train", "mnist", "--epochs", "1", "--quiet", "--distributed"]))
"""


@pytest.fixture(params=["mpiexec", "processes"])
def ranks(request, monkeypatch, tmp_path):
    """``ranks(2, "train", ...)`` starts so many in a folder of their own."""
    if request.param == "processes":
        monkeypatch.setattr(launching, "mpiexec", lambda: None)
    elif launching.mpiexec() is None:
        pytest.skip("mpi4py and mpiexec are not installed")
    monkeypatch.chdir(tmp_path)

    def start(number: int, *words: object, code: str | None = None) -> launching.Launched:
        program = ["-m", "dualnet"] if code is None else ["-c", code]
        return launching.launch(number, [*program, *map(str, words)], timeout=100, threads=1)

    return start


def alone(capsys, *words):
    code = cli.main(["train", *words])
    return code, capsys.readouterr().out


def test_two_ranks_end_as_one_does(ranks, capsys, tmp_path):
    done = ranks(2, "train", *FEW, "--distributed", "--out", "two")
    code, out = alone(capsys, *FEW, "--out", "one")
    assert done.code == code == 0, done.words
    lines, expected = done.words.splitlines(), out.splitlines()
    assert lines[-1] == expected[-1].replace("one", "two")
    assert lines[-2].split(", ")[1] == expected[-2].split(", ")[1]  # the accuracy
    assert sum("parameters) on digits" in line for line in lines) == 1 and "2 ranks" in done.words
    assert sorted(os.listdir("two")) == ["digits-digits_cnn.npz", "digits-digits_cnn.run.toml"]
    one, two = (dn.load(f"{folder}/digits-digits_cnn.npz").state_dict() for folder in ("one", "two"))
    for name in one:
        assert numpy.allclose(dn.to_numpy(one[name]), dn.to_numpy(two[name]), atol=1e-5), name


def test_gradients_travel(ranks):
    """Two ranks that each train alone, with all of every batch, would end with the same network."""
    done = ranks(2, *FEW, "--quiet", code=SENT)
    sent = [int(number) for number in re.findall(r"sent (\d+)", done.words)]
    steps, parameters = -(-1437 // 256), 94_314
    assert len(sent) == 2 and min(sent) > 4 * steps * parameters, done.words


def test_the_configuration_is_kept_and_works_on_one_rank(ranks, capsys):
    net = ("--model", "resnet20", "--epochs", "1", "--batch-size", "512", "--dtype", "float64", "--quiet")
    assert ranks(2, "train", "digits", *net, "--distributed", "--sync-batch-norm", "--out", "a.npz").code == 0
    with open("a.run.toml", encoding="utf-8") as file:
        text = file.read()
    assert "distributed = true" in text and "sync_batch_norm = true" in text
    code, out = alone(capsys, "--config", "a.run.toml", "--out", "b.npz", "--quiet")
    assert code == 0 and out.splitlines()[-1] == "saved as b.npz"
    one, two = (dn.load(name).state_dict() for name in ("a.npz", "b.npz"))
    largest = max(float(numpy.max(numpy.abs(dn.to_numpy(one[n]) - dn.to_numpy(two[n])))) for n in one if "moving" in n)
    assert largest < 1e-9  # each rank with its own statistics: 7e-2


@pytest.mark.parametrize(("disk", "loads"), [("shared", "0"), ("apart", "0 2")])
def test_a_data_set_is_downloaded_once_for_each_disk(ranks, tmp_path, disk, loads):
    """Ranks 0, 1 and 3 on one machine, 2 on another: at the same time none, and each disk once."""
    done = ranks(4, ["a", "a", "b", "a"], disk, tmp_path, code=LOADS)
    assert done.code == 0, done.words
    assert (tmp_path / "loads").read_text().split() == loads.split()


def test_a_download_that_fails_is_told_once(ranks, monkeypatch, tmp_path):
    for name in ("DUALNET_DATA", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    monkeypatch.setenv("DUALNET_OFFLINE", "1")
    done = ranks(2, "train", "kmnist", "--distributed")
    assert done.code == 2 and done.words.count("forbids downloading it") == 1, done.words


def test_json_is_one_object(ranks):
    done = ranks(2, "train", *FEW, "--distributed", "--json", "--quiet")
    assert done.code == 0 and json.loads(done.words)["saved"] == "digits-digits_cnn.npz"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere",), "dualnet train: 'nowhere' does not exist"),
        (("digits", "--model", "none"), "dualnet train: unknown model 'none'"),
    ],
)
def test_a_mistake_is_told_once(ranks, words, told):
    done = ranks(2, "train", *words, "--distributed")
    assert done.code == 2 and done.words.count(told) == 1 and len(done.words.splitlines()) == 1, done.words


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_in_the_middle_is_told_by_one_rank(ranks, rank):
    done = ranks(2, "error", rank, *FEW, code=ENDS)
    told = [line for line in done.words.splitlines() if "hair in the soup" in line]
    assert done.code == 2 and len(told) == 1 and told[0].startswith("dualnet train: "), done.words
    if rank == 1:  # the others are sound, and keep what was trained
        assert "rank 1: ValueError: there is a hair" in told[0] and "saved as digits-digits_cnn.npz" in told[0]
        assert dn.load("digits-digits_cnn.npz").input_shape == (8, 8, 1)


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_ends_all_in_good_order(ranks, rank):
    done = ranks(2, "15", rank, *FEW, code=ENDS)
    assert done.code in (130, 143) and done.words.count("saved as digits-digits_cnn.npz") == 1, done.words
    assert ("ended by SIGTERM" if rank == 0 else "interrupted") in done.words and "Abort" not in done.words


@pytest.mark.skipif(sys.platform != "linux", reason="SIGKILL")
def test_a_rank_that_is_killed_is_named(ranks):
    done = ranks(2, "9", 1, *FEW, code=ENDS)
    said = r"rank 1 \(process \d+ on .*\) has died without a word"
    said = f"{said}|{LAUNCHER_SAYS_KILLED}" if done.how == "mpiexec" else said
    assert done.code != 0 and re.search(said, done.words), done.words


@pytest.mark.parametrize("rank", [0, 1])
def test_another_number_of_ranks_goes_on(ranks, capsys, rank):
    """Two ranks until one fails in the middle of an epoch, then three: as if one had trained all the time."""
    kept = ("--resume", "--checkpoint-every", "1")
    assert ranks(2, "error", rank, *FEW, *kept, code=ENDS).code == 2
    for model in ("digits-digits_cnn.npz", "digits-digits_cnn.run.toml"):
        if os.path.exists(model):
            os.remove(model)
    assert os.listdir("digits-digits_cnn.checkpoints")
    done = ranks(3, "train", *FEW, *kept, "--distributed")
    assert done.code == 0, done.words
    assert alone(capsys, *FEW, "--out", "one")[0] == 0
    one, three = (dn.load(f"{folder}/digits-digits_cnn.npz").state_dict() for folder in ("one", "."))
    for name in one:
        assert numpy.allclose(dn.to_numpy(one[name]), dn.to_numpy(three[name]), atol=1e-5), name


def test_one_rank_alone_says_so(capsys, tmp_path):
    code = cli.main(["train", *FEW, "--distributed", "--quiet", "--out", str(tmp_path)])
    out = capsys.readouterr()
    assert code == 0 and "this is the only rank; mpiexec -n 4 dualnet" in out.err and "saved as" in out.out


def test_a_rank_that_does_not_come_ends_in_one_line(capsys, monkeypatch, tmp_path):
    """The error was a traceback of twenty lines."""
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        assert cli.main(["train", *FEW, "--distributed", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"dualnet train: rank 0 cannot listen at port {port}: another program")
    monkeypatch.setattr("dualnet.distributed.communicator.MEETING", 0.2)
    assert cli.main(["train", *FEW, "--distributed", "--out", str(tmp_path)]) == 2
    assert re.match(
        rf"dualnet train: rank 0 has waited 0 s at port {port}, and rank 1 did not", capsys.readouterr().err
    )
    monkeypatch.delenv("WORLD_SIZE")
    assert cli.main(["train", *FEW, "--distributed", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(
        "dualnet train: init: the variable RANK='0' is set, but WORLD_SIZE is not"
    )
    assert not os.listdir(tmp_path)


def test_synchronised_batch_norm_needs_ranks(capsys, tmp_path):
    code = cli.main(["train", *FEW, "--sync-batch-norm", "--out", str(tmp_path)])
    assert code == 2 and "--sync-batch-norm needs --distributed" in capsys.readouterr().err
