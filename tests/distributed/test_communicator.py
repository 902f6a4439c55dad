"""What all communicators promise, on ranks that are threads and on one rank."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from distributing import in_ranks

import dualnet as dn
from dualnet.distributed.communicator import SMALL, in_order


def numbers(rank: int, size: int, dtype: str = "float64"):
    """Numbers whose sum depends on the order in which they are added."""
    rng = np.random.default_rng(rank)
    return (rng.normal(size=size) * 10.0 ** rng.integers(-3, 4, size)).astype(dtype)


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 7, SMALL, SMALL + 1, 3 * SMALL + 2])
def test_sums_are_taken_in_the_order_of_the_ranks(backend, ranks, size):
    expected = numbers(0, size)
    for rank in range(1, ranks):
        expected = expected + numbers(rank, size)

    def once(communicator):
        mine = dn.asarray(numbers(communicator.rank, size), backend=backend)
        total = communicator.all_reduce(mine)
        assert dn.backend.backend_of(total) is dn.backend.backend_of(mine)
        np.testing.assert_array_equal(dn.to_numpy(mine), numbers(communicator.rank, size))  # left as it was
        return dn.to_numpy(total)

    found = in_ranks(ranks, once) if ranks > 1 else [once(dn.distributed.Null())]
    for total in found:
        assert total.tobytes() == expected.tobytes()


def test_half_precision_is_added_in_float32():
    parts = np.array([[2048.0], [1.0], [1.0]], "float16")  # in float16, 2048 + 1 is 2048
    assert in_order(parts).tolist() == [2050.0] and in_order(parts).dtype == "float16"


def test_several_sums_under_way_at_once():
    def once(ranks):
        pending = [ranks.start_all_reduce(np.full(20000, float(k + ranks.rank))) for k in range(5)]
        return [one.wait()[0] for one in reversed(pending)][::-1]

    assert in_ranks(3, once) == [[3.0 * k + 3 for k in range(5)]] * 3


def test_the_other_collectives(backend):
    def once(ranks):
        mine = dn.asarray(np.full((2, 3), ranks.rank), "float32", backend=backend)
        every = dn.to_numpy(ranks.all_gather(mine))
        assert every.shape == (3, 2, 3) and every[:, 1, 2].tolist() == [0, 1, 2]
        assert dn.to_numpy(ranks.broadcast(mine, root=2)).tolist() == [[2.0] * 3] * 2
        assert ranks.gather_words("é" * ranks.rank) == ["", "é", "éé"]
        assert ranks.broadcast_bytes(b"\0abc" if ranks.rank == 1 else None, root=1) == b"\0abc"
        assert ranks.broadcast_bytes(b"" if ranks.rank == 0 else None) == b""
        assert ranks.gather_numbers(ranks.rank, 0.5).tolist() == [[0, 0.5], [1, 0.5], [2, 0.5]]
        ranks.barrier()
        assert ranks.seconds > 0 and ranks.sent_bytes >= 2 * 6 * 4
        return repr(ranks)

    assert in_ranks(3, once)[1] == "<Threads: rank 1 of 3>"


def test_one_rank():
    ranks = dn.distributed.Null()
    x = np.arange(3.0)
    total = ranks.all_reduce(x)
    assert total is not x and total.tolist() == x.tolist()
    assert ranks.all_gather(x).tolist() == [x.tolist()] and ranks.gather_words("a") == ["a"]
    assert ranks.broadcast(x).tolist() == x.tolist() and ranks.broadcast_bytes(b"a") == b"a"


def test_a_rank_that_does_not_come_is_named():
    given_up = threading.Semaphore(0)

    def once(ranks):
        if ranks.rank != 1:
            try:
                ranks.barrier()
            finally:
                given_up.release()
        else:  # until the others wait no longer
            assert given_up.acquire(timeout=60) and given_up.acquire(timeout=60)

    with pytest.raises(dn.distributed.RankError, match="has waited 0.2 s for rank 1"):
        in_ranks(3, once, timeout=0.2)


def test_a_rank_that_raises_ends_the_others():
    seen = []

    def once(ranks):
        if ranks.rank == 1:
            raise KeyError("mine")
        try:
            ranks.barrier()
        except dn.distributed.RankError as error:
            seen.append(str(error))
            raise

    with pytest.raises(KeyError, match="mine"):
        in_ranks(3, once)
    assert len(seen) == 2 and all("KeyError" in words or "rank" in words for words in seen)
