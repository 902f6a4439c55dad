"""Trainings that are recorded, and trainings that follow a recording."""

from __future__ import annotations

import numpy
import pytest

from dualnet.parity.ranks.course import train
from dualnet.parity.ranks.subjects import BATCH, SUBJECTS, TAIL

LENET5 = SUBJECTS["lenet5"]


@pytest.fixture(scope="module")
def course():
    return train(LENET5, 0, 3)


def test_a_note_has_the_loss_the_gradients_and_the_state(course):
    assert len(course) == 3 and [note.images for note in course] == [BATCH] * 3
    net = LENET5.net(0)
    assert sorted(course[0].gradients) == sorted(net.parameters())
    assert set(course[0].state) == set(net.state_dict()) and course[0].state["0.w"].dtype == "float64"
    assert course[2].loss != course[0].loss


def test_the_same_training_has_the_same_bits(course):
    assert [note.digest for note in train(LENET5, 0, 3)] == [note.digest for note in course]
    assert [note.digest for note in train(LENET5, 1, 3)] != [note.digest for note in course]


def test_a_digest_sees_the_last_bit(course):
    before, w = course[0].digest, course[0].gradients["0.w"]
    kept = w[0, 0, 0, 0]
    w[0, 0, 0, 0] = numpy.nextafter(kept, numpy.inf)
    assert course[0].digest != before
    w[0, 0, 0, 0] = kept
    assert course[0].digest == before


def test_who_follows_begins_each_step_from_the_course(course):
    """A course whose second step came out elsewhere: the third gradient is that of the place it came out at."""
    assert [note.digest for note in train(LENET5, 0, 3, follow=course)] == [note.digest for note in course]
    other = train(LENET5, 0, 3)
    other[1].state["0.w"] = other[1].state["0.w"] + 0.01
    followed = train(LENET5, 0, 3, follow=other)
    assert followed[1].digest == course[1].digest
    assert numpy.abs(followed[2].gradients["0.w"] - course[2].gradients["0.w"]).max() > 1e-6


def test_moved_weights_move_the_gradients_a_little(course):
    rng = numpy.random.default_rng(0)
    moved = train(LENET5, 0, 3, follow=course, rng=rng)
    for one, other in zip(moved, course):
        off = numpy.abs(one.gradients["0.w"] - other.gradients["0.w"]).max()
        assert 0 < off < 1e-12


def test_an_epoch_ends_with_a_short_batch():
    notes = train(SUBJECTS["dropped"], 0, 7)
    assert [note.images for note in notes] == [*[BATCH] * 5, TAIL, BATCH]
    assert [note.images for note in train(LENET5, 0, 7, whole=15, batch_size=15)] == [15] * 7
