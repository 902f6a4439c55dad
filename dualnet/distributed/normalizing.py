"""Batch norm with the statistics of the whole batch, over all ranks."""

from __future__ import annotations

from typing import TypeVar

from ..layers.layer import Layer
from ..layers.normalization import BatchNorm

__all__ = ["sync_batch_norm"]

Net = TypeVar("Net", bound=Layer)


def sync_batch_norm(net: Net, on: bool = True) -> Net:
    """Let every :class:`BatchNorm` of the network take its statistics from all ranks' examples, and return the network.

    Without it, each rank normalises its part of a batch by the mean and variance of that part. That is faster, but
    gives different results from one process with the whole batch. ``fit(..., sync_batch_norm=True)`` does this for one
    training. With a single rank, nothing changes.

    Source: Peng et al. (2018), "MegDet: a large mini-batch object detector", section 3.3.

    >>> import dualnet as dn
    >>> net = dn.distributed.sync_batch_norm(dn.Sequential([dn.Conv2D(4, 3), dn.BatchNorm()]))
    >>> net[1].synchronised
    True
    """
    for _, layer in net.walk():
        if isinstance(layer, BatchNorm):
            layer.synchronised = on
    return net
