"""One rank of ``dualnet parity --ranks R``: ``python -m dualnet.parity.ranks.rank FOLDER NETWORKS STEPS SEED``.

It writes its findings to FOLDER, in a file named after its number.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ...distributed import init
from .judging import of_rank

PATIENCE = 600.0
"""Seconds that a rank waits for the others: on a busy machine one may be far ahead."""
BUCKET = 2**15
"""Bytes: small, so that even these networks have several buckets."""


def main(folder: str, networks: str, steps: str, seed: str) -> None:
    """Compare, and write what was found."""
    with init(timeout=PATIENCE, bucket_bytes=BUCKET) as ranks:
        found = of_rank(ranks, networks.split(","), int(steps), int(seed))
        (Path(folder) / f"{ranks.rank}.json").write_text(json.dumps(found), encoding="utf-8")
        ranks.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
