"""How was the program started? By mpiexec, by Slurm, by torchrun or its like, or by itself."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from ..arguments import flag, integer, positive
from ..shim import get_backend
from .communicator import BUCKET_BYTES, Communicator, Null

__all__ = ["Start", "init", "local_rank", "started"]

KINDS = ("null", "mpi", "tcp", "nccl")
BY_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS", "PMI_RANK")
"""Variables that only an MPI launcher sets."""
HIGH = 20000
"""The first port for Slurm jobs. Each has its own, and so has each ``srun`` in a job, since several may run at once."""
APART = 7919
"""From one ``srun`` of a job to its next: neighbours of a job have the numbers beside its own."""
PORTS = 65535


class Start(NamedTuple):
    """How this process was started: ``kind`` is "null", "mpi" or "tcp"; the rest is for "tcp"."""

    kind: str
    rank: int = 0
    size: int = 1
    host: str = ""
    port: int = 0


def init(
    kind: str | None = None,
    *,
    timeout: float | None = None,
    overlap: bool = True,
    bucket_bytes: int = BUCKET_BYTES,
) -> Communicator:
    """The communicator of this process, however it was started. Every rank calls it; later calls return the same.

    ``mpiexec -n 4 python train.py`` needs ``pip install "dualnet[mpi]"``. ``torchrun``, Kubernetes and other launchers
    that set ``RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` need nothing more; nor does ``srun``, if
    Slurm starts no MPI. If an MPI launcher has set its variables too, as ``srun`` does around ``torchrun``, then
    ``RANK`` and the others count. ``kind`` ("mpi", "tcp", "nccl", "null") asks for one way in particular. With "nccl",
    arrays on GPUs travel from device to device; if the backend in use is CuPy, it is the default.

    Without MPI, rank 0 listens at ``MASTER_PORT``. If strangers can reach that port, set ``DUALNET_TOKEN`` to the same
    secret word on every rank: nobody gets in without it. With MPI, ranks look for rank 0 at the addresses of its
    machine's name; if that fails, set ``DUALNET_ADDRESS`` on rank 0 to an address that they can reach.

    An error on one rank ends them all: if ``fit`` raises on one, it raises :class:`RankError` on the others, and the
    communicator can no longer be used.

    ``timeout`` is how many seconds a rank waits for another before it gives up with a :class:`RankError` that names
    that rank: by default 30 s, and 300 s at the beginning, until all ranks have come. ``overlap=False`` sends gradients
    after the backward pass, instead of during it. ``bucket_bytes`` is the size of the buckets in which they travel.

    >>> import dualnet as dn
    >>> dn.distributed.init().size  # not started by mpiexec, srun or torchrun: one rank
    1
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"init: kind must be one of {', '.join(map(repr, KINDS))}, or None; got {kind!r}")
    options: dict[str, Any] = {
        "timeout": None if timeout is None else positive(timeout, "timeout", op="init"),
        "overlap": flag(overlap, "overlap", op="init"),
        "bucket_bytes": integer(bucket_bytes, "bucket_bytes", op="init"),
    }
    start = started(os.environ, kind)
    if start.kind == "null":
        return Null(**options)
    if not _made:
        from .hosts import MPI, TCP  # so that only programs that use sockets load them

        hosts = MPI(**options) if start.kind == "mpi" else TCP(*start[1:], **options)
        _made.append(_on_devices(hosts, kind, options))
    return _made[0]


_made: list[Communicator] = []
LOCAL = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")


def local_rank() -> int:
    """The number of this rank on its own machine, from 0. It is also the number of the GPU to use.

    >>> import dualnet as dn
    >>> f"cupy:{dn.distributed.local_rank()}"  # dn.set_backend(...) takes this, before init()
    'cupy:0'
    """
    return next((_number(os.environ, name) for name in LOCAL if name in os.environ), 0)


def _on_devices(hosts: Communicator, kind: str | None, options: dict[str, Any]) -> Communicator:
    """The communicator for devices on top of the one for hosts, if there are devices."""
    if kind != "nccl" and (kind is not None or not get_backend().startswith("cupy")):
        return hosts
    from .nccl import NCCL  # noqa: PLC0415

    return NCCL(hosts, **options)


def started(environment: Mapping[str, str], kind: str | None = None) -> Start:
    """How was this process started? ``kind`` asks for one way in particular.

    >>> started({"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"})
    Start(kind='tcp', rank=1, size=4, host='node1', port=29500)
    >>> started({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "gpu[03-04,7]", "SLURM_JOB_ID": "11"})
    Start(kind='tcp', rank=2, size=4, host='gpu03', port=20011)
    >>> started({"PMI_SIZE": "2"}).kind, started({}).kind
    ('mpi', 'null')
    >>> started({"PMI_SIZE": "2", "RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node1"}).kind  # torchrun, inside srun
    'tcp'
    """
    if kind == "null":
        return Start("null")
    if kind == "mpi":
        return Start("mpi")
    found = _in_environment(environment)
    if found is None and kind == "tcp":
        raise ValueError(
            "init: kind='tcp' needs the variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, which torchrun and "
            "others set for each process"
        )
    by_mpi = kind is None and any(name in environment for name in BY_MPI)
    if by_mpi and not _by_torchrun(environment, found) and (found is None or find_spec("mpi4py") is not None):
        return Start("mpi")
    if found is None:
        _check_whole(environment)
    return Start("null") if found is None or found.size == 1 else found


def _check_whole(environment: Mapping[str, str]) -> None:
    """Raise if only some of the launcher's variables are set: each process would then train alone."""
    for one, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        alone = one == "WORLD_SIZE" and environment.get(one) == "1"
        if one in environment and other not in environment and not alone:
            raise ValueError(
                f"init: the variable {one}={environment[one]!r} is set, but {other} is not. Set both for each process: "
                "RANK is its number, from 0, and WORLD_SIZE is how many there are; or unset both to train on one rank."
            )


def _by_torchrun(environment: Mapping[str, str], found: Start | None) -> bool:
    """Was this process started by torchrun or a similar launcher, perhaps inside an MPI job, whose variables it
    inherits?

    If so, it must not start MPI itself: every such process would be the only rank.
    """
    whole = {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= environment.keys()
    return whole and ("TORCHELASTIC_RUN_ID" in environment or (found is not None and found.size > 1))


def _in_environment(environment: Mapping[str, str]) -> Start | None:
    """What torchrun, a similar launcher or Slurm says."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        rank, size = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
        host = environment.get("MASTER_ADDR", "127.0.0.1")
        port = _number(environment, "MASTER_PORT", "29500")
        if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            port += 1  # torchrun itself listens at MASTER_PORT
    elif "SLURM_PROCID" in environment and "SLURM_NTASKS" in environment:
        rank, size = (_number(environment, name) for name in ("SLURM_PROCID", "SLURM_NTASKS"))
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "127.0.0.1")
        host = environment.get("MASTER_ADDR") or first_node(nodes)
        job, step = (_number(environment, name, "0") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = _number(environment, "MASTER_PORT", str(HIGH + (job + step * APART) % HIGH))
    else:
        return None
    if not 0 <= rank < size:
        raise ValueError(
            f"init: the environment says that this is rank {rank} of {size}; expected a rank from 0 to {size - 1}"
        )
    if not 0 < port <= PORTS:
        raise ValueError(
            f"init: the variable MASTER_PORT={environment.get('MASTER_PORT')!r} is not a port from 1 to {PORTS}"
        )
    return Start("tcp", rank, size, host, port)


def first_node(nodes: str) -> str:
    """The first name in Slurm's list of nodes.

    >>> first_node("gpu[03-04,7],login1"), first_node("a-1,b-2")
    ('gpu03', 'a-1')
    """
    found = re.match(r"([^,\[]+)(?:\[(\w+)[^\]]*\])?", nodes)
    return nodes if found is None else found[1] + (found[2] or "")


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    value = environment.get(name, default)
    if not value.isdecimal():
        raise ValueError(f"init: the variable {name}={value!r} is not a number")
    return int(value)
