"""The data that fit gets: which part is held out, and what validation data may be."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from bars import bars, small

import dualnet as dn
from dualnet.training.given import holds_batches, inputs_of

X, T = bars(40)


def trained(x=X, t=T, **options):
    net = small()
    history = net.fit(x, t, epochs=2, batch_size=8, optimizer=dn.SGD(lr=0.05), verbose=0, **options)
    return {n: v for n, v in history.items() if n != "seconds"}, net


@pytest.mark.parametrize("split, held", [(0.1, 4), (0.25, 10), (0.9, 36)])
def test_the_last_examples_are_kept_back(backend, split, held):
    found, _ = trained(validation_split=split)
    expected, _ = trained(X[:-held], T[:-held], validation_data=(X[-held:], T[-held:]))
    assert found == expected and "val_loss" in found


def test_weights_are_split_as_well(backend):
    w = np.linspace(0.5, 2, 40)
    found, _ = trained(validation_split=0.25, sample_weight=w)
    expected, _ = trained(X[:30], T[:30], sample_weight=w[:30], validation_data=(X[30:], T[30:], w[30:]))
    assert found == expected


def test_arrays_on_the_device_and_data_sets_are_split(backend):
    class Pairs:
        def __len__(self):
            return 40

        def __getitem__(self, i):
            return X[i], T[i]

    expected, _ = trained(validation_split=0.25)
    assert trained(dn.asarray(X), dn.asarray(T), validation_split=0.25)[0] == expected
    assert trained(Pairs(), None, validation_split=0.25)[0] == expected


def test_images_kept_back_are_not_moved(backend):
    augment = dn.data.Augment(1, mean=0.1)
    found, net = trained(validation_split=0.25, augment=augment)
    assert found["val_loss"][-1] == net.evaluate(X[30:], T[30:], augment=augment)["loss"]


def test_a_sorted_data_set_is_warned_of():
    order = np.argsort(T, kind="stable")
    first = int((T == 0).sum())
    with pytest.warns(UserWarning, match="the others have none of class 1. Is the data set sorted") as caught:
        trained(X[order], T[order], validation_split=1 - first / 40)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(validation_split=0.1)


def test_what_cannot_be_split_says_so():
    batches = [(X, T)]
    for wrong, words in (
        (
            {"x": batches, "t": None, "validation_split": 0.1},
            "validation_split=0.1 needs arrays, or a data set with a l",
        ),
        ({"validation_split": 0.1, "validation_data": (X, T)}, "validation_data or validation_split, not both"),
        ({"validation_split": 1.0}, "validation_split must be a share from 0 to below 1"),
        ({"validation_split": "tenth"}, "validation_split must be a number"),
        ({"validation_split": 0.001, "x": X[:1], "t": T[:1]}, "validation_split=0.001 leaves nothing on one side of 1"),
    ):
        with pytest.raises((ValueError, TypeError), match=f"fit: .*{words}"):
            trained(**wrong)


def test_validation_data_of_one_pass_serve_one_epoch():
    with pytest.raises(
        ValueError, match="fit: validation_data: a generator yields its batches only once, but there are 2"
    ):
        trained(validation_data=(batch for batch in [(X, T)]))
    history = small().fit(X, T, validation_data=iter([(X, T)]), verbose=0)
    assert len(history["val_loss"]) == 1


def test_wrong_batches_of_validation_data_are_told():
    with pytest.raises(ValueError, match="fit: validation_data: batch 2: label 3 is out of range"):
        trained(validation_data=[(X, T), (X, T + 2)])
    with pytest.raises(ValueError, match="fit: validation_data: label 2 is out of range"):
        trained(validation_data=[(X, T + 1)])


def test_a_pair_of_arrays_or_of_batches():
    assert holds_batches([(X, T), (X, T)]) and holds_batches([[X, T]]) and not holds_batches((X, T))
    assert not holds_batches([]) and not holds_batches(([[1.0]], [0]))
    assert inputs_of(small(), X, 8) is None and inputs_of(small(), X.tolist(), 8) is None
    pair, _ = trained(validation_data=(X.tolist(), T.tolist()))
    assert pair == trained(validation_data=[X, T])[0]
    assert trained(validation_data=[(X[:20], T[:20]), (X[20:], T[20:])])[0]["val_accuracy"] == pair["val_accuracy"]
