"""All-reduces, computed by hand: latency 1 ms, 1 MB/s, 8 MB."""

from __future__ import annotations

import pytest

from dualnet.bench.scaling import REDUCTIONS, Links, all_reduce

SLOW = Links(latency=1e-3, bandwidth=1e6)
BY_HAND = [
    ("ring", 2, 2 * 1e-3 + 8.0),
    ("ring", 8, 14 * 1e-3 + 14.0),
    ("direct", 8, 14 * 1e-3 + 14.0),
    ("halving", 8, 6 * 1e-3 + 14.0),
    ("halving", 6, 4 * 1e-3 + 2 * 5 / 6 * 8.0 + 2 * (1e-3 + 8.0)),  # 2 of 6 hand their sums over before and after
    ("tree", 8, 6 * (1e-3 + 8.0)),
    ("tree", 5, 6 * (1e-3 + 8.0)),  # three rounds, as for 8
]


@pytest.mark.parametrize(("way", "ranks", "seconds"), BY_HAND)
def test_one_rank_in_a_node(way, ranks, seconds):
    assert all_reduce(8e6, ranks, SLOW, way) == (pytest.approx(seconds, rel=1e-12), way)


def test_two_levels():
    """4 nodes of 2: inside 8 / 2 MB there and back at 4 MB/s, between the nodes 2 · 3/4 · 8 MB in 2 · 2 messages."""
    links = Links(1e-3, 1e6, per_node=2, inner_latency=1e-4, inner_bandwidth=4e6)
    inside = 2 * (1e-4 + 4.0 / 4.0)
    assert all_reduce(8e6, 8, links, "hierarchical")[0] == pytest.approx(inside + 4e-3 + 12.0, rel=1e-12)


def test_ranks_of_a_node_share_its_link_where_all_talk_to_all():
    """2 nodes of 2: each of 2 ranks sends a quarter to 2 ranks of the other node, twice."""
    links = Links(0.0, 1e6, per_node=2, inner_latency=0.0, inner_bandwidth=1e9)
    assert all_reduce(8e6, 4, links, "direct")[0] == pytest.approx(2 * 2 * 2 / 4 * 8.0)
    assert all_reduce(8e6, 4, links, "ring")[0] == pytest.approx(2 * 3 / 4 * 8.0)


@pytest.mark.parametrize("way", REDUCTIONS)
def test_inside_one_node_only_its_own_links_count(way):
    slow = Links(1.0, 1.0, per_node=8, inner_latency=1e-6, inner_bandwidth=1e9)
    assert 0 < all_reduce(1e6, 8, slow, way)[0] < 0.1


@pytest.mark.parametrize("way", [*REDUCTIONS, None])
def test_one_rank_has_nothing_to_send(way):
    assert all_reduce(1e9, 1, SLOW, way)[0] == 0.0


@pytest.mark.parametrize("ranks", [2, 3, 8, 100, 1024])
@pytest.mark.parametrize("way", ["ring", "direct", "halving", "tree"])
def test_no_way_beats_the_lower_bound_of_patarasu_and_yuan(ranks, way):
    assert all_reduce(8e6, ranks, SLOW, way)[0] >= 2 * (ranks - 1) / ranks * 8.0


def test_the_fastest_way_is_the_fastest():
    for size in (1e2, 1e5, 1e8):
        for ranks in (2, 6, 64, 1000):
            seconds, way = all_reduce(size, ranks, Links(per_node=4))
            others = [all_reduce(size, ranks, Links(per_node=4), other)[0] for other in REDUCTIONS]
            assert seconds == min(others) == all_reduce(size, ranks, Links(per_node=4), way)[0]


def test_a_way_that_does_not_exist():
    with pytest.raises(ValueError, match="unknown way 'star'; the ways are direct, ring, halving, tree, hierarchical"):
        all_reduce(1.0, 2, SLOW, "star")
