"""What an all-reduce costs, from the latency α and the bandwidth 1/β of the links.

A message of n bytes takes α + n β (Hockney, "The communication challenge for MPP", Parallel Computing 20, 1994). With p
ranks, the sum of n bytes on every rank takes

    ring           2 (p - 1) α + 2 (p - 1)/p n β     Patarasu and Yuan, J. Parallel Distrib. Comput. 69 (2009)
    halving        2 ⌈lg p⌉ α + 2 (p - 1)/p n β      Rabenseifner; Thakur, Rabenseifner and Gropp, "Optimization of
                                                     collective communication operations in MPICH", Int. J. High
                                                     Performance Computing Applications 19 (2005)
    tree           2 ⌈lg p⌉ (α + n β)                the same paper: a binomial reduce, then a broadcast
    hierarchical   inside a node of m ranks reduce-scatter and all-gather, 2 (m - 1)(α' + n/m β'), and between the
                   nodes halving, for whose pieces the m ranks share the node's link
    direct         2 (p - 1) α + 2 m (p - m)/p n β   dualnet's, to add up in the order of the ranks: every rank
                                                     gets a piece from all, adds it up and sends it to all; the m ranks
                                                     of a node share its link

2 (p - 1)/p n β is the least that any algorithm can do with one link for each rank (Patarasu and Yuan). If the number of
ranks is not a power of 2, halving needs two messages more: some ranks pass their sums to a neighbour and get the result
back. The papers count the additions separately (γ); here they are part of β.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["REDUCTIONS", "Links", "all_reduce"]

REDUCTIONS = ("direct", "ring", "halving", "tree", "hierarchical")
"""Ways to add up an array over all ranks."""


@dataclass(frozen=True)
class Links:
    """The links of a cluster: seconds for a message, and bytes per second, between nodes and inside one.

    ``bandwidth`` is what really arrives over a node's link, each way: the nominal rate in bits, divided by 8, minus the
    cost of the protocol. ``per_node`` ranks share it; among these, the numbers that begin with ``inner`` apply.
    """

    latency: float = 5e-6
    bandwidth: float = 12.5e9
    per_node: int = 1
    inner_latency: float = 2e-6
    inner_bandwidth: float = 50e9


def all_reduce(size: float, ranks: int, links: Links, kind: str | None = None) -> tuple[float, str]:
    """Seconds to add up ``size`` bytes over ``ranks``, and the way; by default the fastest way.

    Rings, trees and halving follow the nodes: a node's link carries one message at a time. The slowest link counts.
    Raises ``ValueError`` for a way that does not exist.

    >>> seconds, kind = all_reduce(100e6, 4, Links(latency=1e-5, bandwidth=1e9), "ring")
    >>> round(seconds, 5), kind
    (0.15006, 'ring')
    """
    if kind is not None and kind not in REDUCTIONS:
        raise ValueError(f"all_reduce: unknown way {kind!r}; the ways are {', '.join(REDUCTIONS)}")
    if ranks == 1:
        return 0.0, kind or "ring"
    ways = REDUCTIONS if kind is None else (kind,)
    return min((_seconds(size, ranks, links, way), way) for way in ways)


def _seconds(n: float, p: int, links: Links, way: str) -> float:
    m = min(p, links.per_node)
    nodes = -(-p // m)
    if way == "hierarchical":
        inside = 2 * (m - 1) * (links.inner_latency + n / m / links.inner_bandwidth)
        return inside + (_flat(n, nodes, links.latency, links.bandwidth, "halving") if nodes > 1 else 0.0)
    if way == "direct" and nodes > 1:
        return 2 * (p - 1) * links.latency + 2 * m * (p - m) / p * n / links.bandwidth
    if nodes == 1 and m > 1:
        return _flat(n, p, links.inner_latency, links.inner_bandwidth, way)
    slowest = links.bandwidth if m == 1 else min(links.bandwidth, links.inner_bandwidth)
    return _flat(n, p, links.latency, slowest, way)


def _flat(n: float, p: int, latency: float, bandwidth: float, way: str) -> float:
    rounds, beta = math.ceil(math.log2(p)), 1.0 / bandwidth
    if way == "tree":
        return 2 * rounds * (latency + n * beta)
    share = 2 * (p - 1) / p * n * beta
    if way in ("ring", "direct"):
        return 2 * (p - 1) * latency + share
    even = p == 2**rounds
    return 2 * (rounds if even else rounds - 1) * latency + share + (0.0 if even else 2 * (latency + n * beta))
