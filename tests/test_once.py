"""A second run on another backend leaves out what cannot differ, and nothing else."""

from __future__ import annotations

import os

import once
import pytest

import dualnet as dn


@pytest.mark.parametrize("folder", ["ops", "layers", "optimizers", "training", "files", "bridges", "seeing", "zoo"])
def test_what_computes_on_the_backend_in_force_is_run_again(folder):
    inside = [path for path in (once.HERE / folder).rglob("test_*.py") if once.is_listed(path)]
    assert (once.HERE / folder).is_dir() and inside == []


@pytest.mark.parametrize("entry", once.ONCE)
def test_what_is_listed_is_there(entry):
    assert (once.HERE / entry).exists() and once.is_listed(once.HERE / entry)


def test_tests_of_each_backend_in_turn_are_marked(backend, request):
    assert request.node.get_closest_marker("once") and dn.get_backend().partition(":")[0] == backend.partition(":")[0]


def test_others_are_not_marked(request):
    assert not request.node.get_closest_marker("once")
    assert dn.get_backend()  # and may ask


@pytest.mark.once
def test_what_is_marked_may_not_ask_and_nor_may_its_processes():
    with pytest.raises(AssertionError, match="marked `once` asked which backend"):
        dn.asarray([1.0])
    assert "DUALNET_BACKEND" not in os.environ
