"""Several processes train one network: each takes its share of every batch, and gradients are added up over all.

Each process is a *rank*. All have the same network and make the same steps; a batch is cut into as many parts as there
are ranks. The gradient of the whole batch's mean is the sum of the parts' gradients, each weighted by its share of the
examples, so the result is that of one process with the whole batch, but for the order of sums.

    ranks = dn.distributed.init()                 # started by mpiexec, srun or torchrun; alone: one rank
    net.fit(x, t, distributed=ranks, batch_size=256)   # 256 over all ranks
    if ranks.rank == 0: net.save("net.npz")

``communicator`` defines what ranks can send to each other; ``hosts``, ``nccl`` and ``threads`` send it; ``starting``
finds out how the program was started; ``meeting`` connects the ranks; ``mesh`` notices those that die or hang;
``buckets`` packs gradients.
"""

from .communicator import Communicator, Null, RankError
from .normalizing import sync_batch_norm
from .starting import init, local_rank
from .threads import run_in_threads

__all__ = ["Communicator", "Null", "RankError", "init", "local_rank", "run_in_threads", "sync_batch_norm"]
