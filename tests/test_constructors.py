"""Constructors: a call that does not fit is answered with what they take and the line to write."""

from __future__ import annotations

import pytest

import dualnet as dn
from dualnet.constructors import Constructed


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: dn.Sequential(dn.ReLU(), dn.Dense(3)), "Write Sequential([ReLU(), Dense(units=3)])."),
        (lambda: dn.Parallel(dn.ReLU(), dn.Tanh(), dn.ELU()), "Write Parallel([ReLU(), Tanh(), ELU()])."),
        (
            lambda: dn.Parallel(dn.ReLU(), dn.Tanh()),
            "expected a list of layers, got ReLU. Write Parallel([ReLU(...), ...])",
        ),
        (lambda: dn.Residual([dn.ReLU()]), "which is not a layer; write Sequential([...]) for a chain"),
        (lambda: dn.Dense(64, 10), "Write Dense(10), if 64 counts what comes in: init finds that."),
        (lambda: dn.Conv2D(3, 16, 3, padding=1), "Write Conv2D(16, 3, padding=1), if 3 counts what comes in"),
        (lambda: dn.Conv2D(16, 3, 2), "or Conv2D(16, 3, stride=2)."),
        (
            lambda: dn.Conv2D(16, 3, strides=2),
            "unexpected keyword argument 'strides'; expected Conv2D(filters, kernel_size, *, ",
        ),
        (lambda: dn.Conv2D(16, 3, strides=2), "initializer='he_normal'). Write stride=2."),
        (
            lambda: dn.MaxPool2D(2, 2),
            "MaxPool2D(2, 2): too many positional arguments; expected MaxPool2D(pool_size, *, stride=",
        ),
        (lambda: dn.MaxPool2D(2, 2), "Write MaxPool2D(2, stride=2)."),
        (
            lambda: dn.Conv2D(16),
            "Conv2D(16): missing a required argument: 'kernel_size'; expected Conv2D(filters, kernel_",
        ),
        (
            lambda: dn.ReLU(inplace=True),
            "ReLU(inplace=True): got an unexpected keyword argument 'inplace'; expected ReLU()",
        ),
        (lambda: dn.Dense(3, bias=False), "Write use_bias=False."),
        (
            lambda: dn.SGD(learning_rate=0.1),
            "missing a required argument: 'lr', and there is no 'learning_rate'; exp",
        ),
        (lambda: dn.Conv2D(4, 3, activation="relu"), "initializer='he_normal')"),  # and no guess: it is a layer here
        (lambda: dn.SGD(lambda: 0.1), "SGD: lr takes (); expected a function of the step, or a number"),
        (
            lambda: dn.Adam({"0.w": 1.0}, lr=1e-3),
            "Adam({'0.w': 1.0}, lr=0.001): multiple values for argument 'lr'; expected Ad",
        ),
        (
            lambda: dn.SGD({"0.w": 1.0}, 0.1),
            "SGD: lr is a dict; expected a number or a schedule. The parameters are not given h",
        ),
        (
            lambda: dn.schedules.Cosine(0.1),
            "Cosine(0.1): missing a required argument: 'steps'; expected Cosine(lr, steps, fin",
        ),
    ],
)
def test_a_constructor_says_what_it_takes(make, told):
    with pytest.raises(TypeError) as caught:
        make()
    assert told in str(caught.value)


def test_a_constructor_of_ones_own_says_it_too_and_other_errors_stay():
    class Half(dn.Dense):
        def __init__(self, width, *, deep=False):
            super().__init__(width, "he_normal") if deep else super().__init__(width // 2)

    assert Half(8).units == 4 and Half(8).config
    with pytest.raises(
        TypeError, match=r"^Half\(\): missing a required argument: 'width'; expected Half\(width, \*, deep"
    ):
        Half()
    with pytest.raises(
        TypeError, match=r"^Dense\(8, 'he_normal'\): too many positional arguments; expected Dense\(units"
    ):
        Half(8, deep=True)
    with pytest.raises(TypeError, match="^Dense: units takes integers, got 2.5"):
        dn.Dense(2.5)


def test_long_arguments_are_shown_by_their_type():
    class Box(Constructed):
        def __init__(self, width):
            self.width = width

    with pytest.raises(
        TypeError, match=r"^Box\(1, list\(...\)\): too many positional arguments; expected Box\(width\)$"
    ):
        Box(1, list(range(100)))
    with pytest.raises(TypeError, match=r"^Box\(height='tall'\): missing .*: 'width', and there is no 'height'"):
        Box(height="tall")


def test_a_subclass_without_a_constructor_speaks_under_its_own_name():
    class Wide(dn.Dense):
        pass

    with pytest.raises(
        TypeError, match=r"^Wide\(64, 10\): too many .*; expected Wide\(units, .* Write Wide\(10\), if 64"
    ):
        Wide(64, 10)


def test_a_constructor_keeps_its_name_and_signature():
    assert dn.Dense.__init__.__name__ == "__init__" and "units" in dn.Dense.__init__.__annotations__
