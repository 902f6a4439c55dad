"""Copies between host and device are counted or forbidden, and an op makes none."""

from __future__ import annotations

import numpy as np
import pytest

import dualnet as dn


def test_copies_are_counted_in_every_open_block():
    with dn.transfers() as outer:
        x = dn.asarray(np.ones(4, np.float32), backend="strict")
        with dn.transfers("count") as inner:
            dn.to_numpy(x)
        dn.asarray(x, backend="strict")  # is there already
        dn.to_numpy(dn.asarray([1.0], backend="numpy"))  # stays on the host
    assert (outer.to_device, outer.to_host, outer.nbytes) == (1, 1, 32)
    assert (inner.to_device, inner.to_host, inner.nbytes) == (0, 1, 16)
    dn.to_numpy(x)
    assert outer.to_host == 1


def test_copies_can_be_forbidden():
    x = dn.asarray(np.ones(4, np.float32), backend="strict")
    with dn.transfers() as counted, dn.transfers("forbid"):
        with pytest.raises(dn.TransferForbidden, match="a copy of 16 bytes from the device to the host, inside"):
            dn.to_numpy(x)
        with pytest.raises(dn.TransferForbidden, match="a copy of 4 bytes from the host to the device"):
            dn.asarray([1.0], backend="strict")
        dn.asarray([1.0], backend="numpy")
    assert counted.nbytes == 0
    dn.to_numpy(x)
    with pytest.raises(ValueError, match="policy must be 'count' or 'forbid', got 'deny'"), dn.transfers("deny"):
        pass


def test_a_forward_and_a_backward_pass_copy_nothing(backend, rng):
    x, w = dn.asarray(rng.standard_normal((2, 5, 5, 2))), dn.asarray(rng.standard_normal((3, 3, 2, 3)))
    with dn.transfers("forbid"):
        y, pullback = dn.ops.conv2d(x, w)
        pullback(y)
