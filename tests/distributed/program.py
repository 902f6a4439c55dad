"""A training that mpiexec, or a test, starts on several ranks: ``program.py WHAT FOLDER``. It is not a test itself."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from distributing import data, network, trained

import dualnet as dn

STEP = 10  # the last rank does WHAT after so many steps
WAITS = {"STOP": 8.0, "late": 8.0, "sleep": 4.0, "pulled": 4.0}
"""How many seconds ranks wait for each other, where that is tested; otherwise as long as by default."""


class Act(dn.Callback):
    """What befalls the last rank."""

    def __init__(self, ranks, what: str) -> None:
        self.last, self.what = ranks.rank == ranks.size - 1, what

    def on_batch_end(self, run):
        if run.step != STEP or not self.last:
            return
        print(f"{self.what} at {time.time()}", flush=True)
        if self.what in ("KILL", "STOP", "INT", "TERM"):
            os.kill(os.getpid(), getattr(signal, f"SIG{self.what}"))
        elif self.what == "raise":
            raise ValueError("the data are broken")
        elif self.what == "late":
            time.sleep(600)
        elif self.what == "leave":
            sys.exit(0)


def main(what: str, folder: str) -> None:
    # On a busy machine Python starts later in one process than in another: that must be no reason to give up.
    ranks = dn.distributed.init(timeout=4.0 if what == "strangers" else 100.0, overlap=what != "apart")
    ranks.timeout = ranks.mesh.timeout = WAITS.get(what, 30.0)
    options = {"epochs": 200} if what not in ("train", "apart", "resume", "sleep", "strangers") else {"epochs": 4}
    if what in ("INT", "resume"):
        options |= {"resume": Path(folder) / "run", "checkpoint_every": 3, "epochs": 4}
    net = network()
    try:
        history, learned = trained(
            ranks, net, callbacks=Act(ranks, what), validation_data=data(20, 1), sync_batch_norm=True, **options
        )
    finally:
        print(f"rank {ranks.rank} ended at {time.time()}", flush=True)
    found = hashlib.sha256(b"".join(learned[name].tobytes() for name in sorted(learned))).hexdigest()
    figures = net.evaluate(*data(20, 1), distributed=ranks)
    told = {"rank": ranks.rank, "size": ranks.size, "kind": ranks.kind, "hash": found, "figures": figures}
    told |= {"loss": history["loss"], "seconds": history["seconds"], "epochs": history.epochs}
    (Path(folder) / f"rank{ranks.rank}.json").write_text(json.dumps(told), encoding="utf-8")
    if ranks.rank == 0:
        np.savez(Path(folder) / "learned.npz", **learned)


if __name__ == "__main__":
    main(*sys.argv[1:])
