"""How a program was started, from the variables of its launcher."""

from __future__ import annotations

import pytest

import dualnet as dn
from dualnet.distributed.hosts import check_world
from dualnet.distributed.starting import Start, started

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}
SLURM = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "n[08-09]", "SLURM_JOB_ID": "40001"}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, Start("null")),
        (TORCHRUN, Start("tcp", 1, 2, "a", 29500)),
        (TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, Start("tcp", 1, 2, "a", 29501)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Start("null")),
        ({"WORLD_SIZE": "1"}, Start("null")),  # one rank has no need of a number
        (SLURM, Start("tcp", 1, 2, "n08", 20001)),
        (SLURM | {"SLURM_STEP_ID": "0"}, Start("tcp", 1, 2, "n08", 20001)),
        (SLURM | {"SLURM_STEP_ID": "3"}, Start("tcp", 1, 2, "n08", 23758)),  # several at once need a port each
        (SLURM | {"MASTER_ADDR": "b", "MASTER_PORT": "5"}, Start("tcp", 1, 2, "b", 5)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Start("null")),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Start("mpi")),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, Start("mpi")),
    ],
)
def test_launchers(environment, expected):
    assert started(environment) == expected


def test_slurm_with_mpi_and_without_mpi4py(monkeypatch):
    both = SLURM | {"PMIX_RANK": "1"}
    monkeypatch.setattr("dualnet.distributed.starting.find_spec", lambda name: object())
    assert started(both).kind == "mpi"
    monkeypatch.setattr("dualnet.distributed.starting.find_spec", lambda name: None)
    assert started(both).kind == "tcp"
    assert started({"PMI_SIZE": "2"}).kind == "mpi"  # and the error says what to install


def test_torchrun_inside_a_job_of_mpi(monkeypatch):
    """It starts several processes for each that Slurm has started: an MPI of its own would make each the only rank."""
    monkeypatch.setattr("dualnet.distributed.starting.find_spec", lambda name: object())
    srun = SLURM | {"PMI_RANK": "0", "PMI_SIZE": "2", "PMIX_RANK": "0"}
    torchrun = TORCHRUN | {"WORLD_SIZE": "4", "TORCHELASTIC_RUN_ID": "none"}
    assert started(srun).kind == "mpi"
    assert started(srun | torchrun) == started(srun | TORCHRUN | {"WORLD_SIZE": "4"}) == Start("tcp", 1, 4, "a", 29500)
    assert started(srun | torchrun | {"RANK": "0", "WORLD_SIZE": "1"}) == Start("null")
    stray = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "PMI_SIZE": "2"}  # in the shell of a pod, say
    assert started(stray).kind == "mpi" and started({"RANK": "0", "WORLD_SIZE": "2", "PMI_SIZE": "2"}).kind == "mpi"


@pytest.mark.parametrize("name", ["PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_an_mpi_that_is_not_the_launchers(name):
    """Open MPI's mpiexec starts four processes, and the MPICH of mpi4py knows nothing of it."""
    with pytest.raises(RuntimeError, match=f"the launcher says {name}=4, but MPI knows of only one rank"):
        check_world(1, {name: "4"})
    check_world(4, {name: "4"})
    check_world(1, {name: "1"})
    check_world(1, {})


def test_what_is_asked_for():
    assert started(TORCHRUN, "null") == Start("null") and started(TORCHRUN, "mpi") == Start("mpi")
    assert started(TORCHRUN | {"PMI_SIZE": "2"}, "tcp").kind == "tcp"
    with pytest.raises(ValueError, match="needs the variables RANK, WORLD_SIZE"):
        started({}, "tcp")
    with pytest.raises(ValueError, match="rank 2 of 2; expected a rank from 0 to 1"):
        started(TORCHRUN | {"RANK": "2"})
    with pytest.raises(ValueError, match="MASTER_PORT='x' is not a number"):
        started(TORCHRUN | {"MASTER_PORT": "x"})


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
@pytest.mark.parametrize("environment", [TORCHRUN, SLURM])
def test_a_port_that_does_not_exist(environment, port):
    with pytest.raises(ValueError, match=f"MASTER_PORT='{port}' is not a port from 1 to 65535"):
        started(environment | {"MASTER_PORT": port})


@pytest.mark.parametrize("there, missing", [("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")])
def test_half_of_the_variables(there, missing):
    """Somebody forgot one: every process would train alone, and all would write the same file."""
    with pytest.raises(ValueError, match=f"the variable {there}='2' is set, but {missing} is not"):
        started({there: "2", "MASTER_ADDR": "a", "MASTER_PORT": "29500"})
    assert started({there: "2"}, "null").kind == "null"
    assert started({there: "2", "PMI_SIZE": "2"}).kind == "mpi"
    assert started(SLURM | {there: "2"}).kind == "tcp"


def test_the_others_have_more_time_to_come_than_to_answer():
    free = dn.distributed.Null()
    assert (free.timeout, free.meeting) == (30.0, 300.0)
    given = dn.distributed.init("null", timeout=7)
    assert (given.timeout, given.meeting) == (7.0, 7.0)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"overlap": 2}, {"bucket_bytes": 0}])
def test_odd_options(options):
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        dn.distributed.init(**options)
    with pytest.raises(ValueError, match="kind must be one of 'null', 'mpi'"):
        dn.distributed.init("gloo")


def test_the_number_on_this_machine(monkeypatch):
    assert dn.distributed.local_rank() == 0
    monkeypatch.setenv("MPI_LOCALRANKID", "3")
    assert dn.distributed.local_rank() == 3
