"""What a training step launches on a GPU, counted: batch norm's neighbours need no pass of their own."""

from __future__ import annotations

import counting
import cuda_host
import numpy as np
import pytest

import dualnet as dn
from dualnet.backends.gpu import sums
from dualnet.layers import containers

pytestmark = pytest.mark.skipif(cuda_host.COMPILER is None, reason="g++ is not installed")


def test_a_launch_counts_what_it_reads_and_what_it_writes():
    with counting.pretend():
        x, other = (dn.asarray(np.zeros((4, 3, 5, 8), "f4")) for _ in range(2))
        vector = dn.asarray(np.zeros(8, "f4"))
        one = counting.counted(lambda: sums.normalise_add(x, other, *[vector] * 4, 1e-5, True))
        assert one.launches == {"normalise": 1}
        assert one.read["normalise"] == 2 * x.nbytes + 4 * vector.nbytes and one.written["normalise"] == x.nbytes
        many = [vector] * 3
        follow = counting.counted(lambda: sums.follow(many, many, many, many, [0.9] * 3, [7] * 3))
        assert follow.launches == {"follow": 1} and follow.bytes == 3 * 6 * vector.nbytes
        assert "follow" in "\n".join(follow.lines())


def test_the_step_of_a_residual_network(monkeypatch):
    """ResNet-20: nine blocks, ten batch norms without another branch, the first of which gets two deltas."""
    fused = counting.of_network("resnet20", 4, "bfloat16")
    monkeypatch.setattr(containers, "takes_other", lambda layer: False)
    apart = counting.of_network("resnet20", 4, "bfloat16")
    once = ("follow", "turn_all", "turn_gradients", "add")
    assert [fused.launches[name] for name in once] == [1] * 4
    assert fused.launches["joined_backward_part"] == 9 and fused.launches["normalise_backward_part"] == 10
    assert fused.launches["rectify_backward"] == 0 < apart.launches["rectify_backward"] == 9
    assert apart.launches["add"] == 18
    last = 2 * 4 * 8 * 8 * 64  # bytes of a block's output; the last one's went one way
    outputs = 2 * 4 * 3 * (32 * 32 * 16 + 16 * 16 * 32 + 8 * 8 * 64)
    vectors = 2 * 4 * 3 * (16 + 32 + 64)  # σ² and γ, which a mask that is read does not need
    assert apart.bytes - fused.bytes == (2 + 3) * outputs - 2 * last + vectors, "there 5 → 3 maps, and back 11 → 8"
