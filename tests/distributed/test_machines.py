"""Ranks on several machines, with a slow and lossy network: the same bits, and clear messages when it breaks."""

from __future__ import annotations

import re
import sys
import time

import machines
import pytest
from distributing import PROGRAM, checked, environment, started, trained

import dualnet as dn

pytestmark = pytest.mark.slow
RANKS = 4
PORT = "29511"


@pytest.fixture(autouse=True, scope="module")
def possible():
    if why := machines.why_not():
        pytest.skip(why)


def begun(network: machines.Machines, folder, what: str):
    """One rank on each machine; the first one's address is all that they know."""
    given = {"WORLD_SIZE": str(network.count), "MASTER_ADDR": network.address(0), "MASTER_PORT": PORT}
    pipes = {"stdout": -1, "stderr": -1, "text": True, "encoding": "utf-8"}
    command = [sys.executable, str(PROGRAM), what, str(folder)]
    return [
        network.start(rank, command, env=environment(RANK=str(rank), **given), **pipes) for rank in range(network.count)
    ]


def ended(processes, limit: float = 240.0):
    return [process.communicate(timeout=limit) for process in processes]


@pytest.fixture(scope="module")
def expected():
    with dn.use_backend("numpy"):
        return trained(False, epochs=4)[1]


@pytest.fixture(scope="module")
def bits(tmp_path_factory, expected):
    """What four ranks of this machine train, with no network between them."""
    folder = tmp_path_factory.mktemp("here")
    told = ended(processes := started(RANKS, folder, "train"))
    assert [process.returncode for process in processes] == [0] * RANKS, told
    return checked(folder, RANKS, expected, "tcp")


@pytest.mark.parametrize(
    "network",
    [{}, {"delay": 0.005}, {"delay": 0.005, "loss": 0.02}, {"rate": 2e5}],
    ids=["plain", "delayed", "lossy", "slow"],
)
def test_four_machines_train_the_same_bits(tmp_path, expected, bits, network):
    with machines.Machines(RANKS, **network) as several:
        before = time.monotonic()
        told = ended(processes := begun(several, tmp_path, "train"))
        assert [process.returncode for process in processes] == [0] * RANKS, told
        print(f"{network}: {time.monotonic() - before:.1f} s, {several.carried} packets, {several.lost} lost")
        assert several.carried > 500 and (several.lost > 10) == ("loss" in network)
    assert checked(tmp_path, RANKS, expected, "tcp") == bits


def step(process, what: str) -> None:
    """Wait until the last rank is in the middle of the training."""
    for line in process.stdout:
        if line.startswith(what):
            return
    raise AssertionError(process.stderr.read())


def test_a_network_that_stands_still_for_a_while_ends_nothing(tmp_path, expected, bits):
    with machines.Machines(RANKS, delay=0.005) as several:
        processes = begun(several, tmp_path, "sleep")
        step(processes[-1], "sleep")
        several.hold(2.0)  # the ranks of the program wait for each other for 4 s
        told = ended(processes)
        assert [process.returncode for process in processes] == [0] * RANKS, told
    assert checked(tmp_path, RANKS, expected, "tcp") == bits


@pytest.mark.parametrize("machine", [0, 3])
def test_a_cable_that_is_pulled_ends_all_and_names_who_is_gone(tmp_path, machine):
    with machines.Machines(RANKS, delay=0.005, loss=0.01) as several:
        processes = begun(several, tmp_path, "pulled")
        step(processes[-1], "pulled")
        several.cut(machine)
        cut = time.time()
        for rank, (out, errors) in enumerate(ended(processes, 60.0)):
            seconds = float(re.search(r"ended at ([\d.]+)", out)[1]) - cut
            told = errors.strip().splitlines()[-1]
            print(f"machine {machine} cut, rank {rank}: {seconds:.1f} s: {told}")
            missing = machine if rank != machine else "0" if machine else "[123]"
            assert processes[rank].returncode == 1 and seconds < 12
            assert re.search(rf"rank {missing} \(process \d+ on .+\) has said nothing for", told), told
