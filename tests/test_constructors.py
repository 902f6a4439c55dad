"""Constructors: for a call that does not fit, the error lists the arguments and shows the line to write."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from drawn import drawn
from hypothesis import given, settings
from hypothesis import strategies as st

import dualnet as dn
from dualnet.constructors import Constructed
from dualnet.files.network import BUILT_IN


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
        (lambda: dn.Dense(64, 10), "Write Dense(10), if 64 is the number of inputs: init infers that."),
        (lambda: dn.Conv2D(3, 16, 3, padding=1), "Write Conv2D(16, 3, padding=1), if 3 is the number of inputs"),
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
            "SGD: lr is a dict; expected a number or a schedule. Do not pass parameters here",
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
    with pytest.raises(TypeError, match="^Dense: units must be an integer, got 2.5"):
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


# -- any arguments -----------------------------------------------------------------------------------------------------

LAYERS = {name: kind for name, kind in BUILT_IN.items() if name != "Lambda"}
plain = (
    st.integers(-2, 9)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.sampled_from(["same", "full", "valid", "concat", "add", "he_normal", "convolution", "", "é"])
    | st.sampled_from([dn.ReLU(), dn.Identity(), dn.ReLU, np.int64(3), np.float32(0.5), np.ones(2), 10**400, b"3"])
)
anything = st.recursive(plain, lambda inside: st.lists(inside, max_size=3) | st.tuples(inside, inside), max_leaves=4)


fitting = {
    "layers": st.lists(st.sampled_from([dn.ReLU(), dn.Dense(3)]), min_size=1, max_size=3),
    **dict.fromkeys(("layer", "shortcut"), st.sampled_from([dn.ReLU(), dn.Dense(3)])),
    **dict.fromkeys(("rate", "momentum", "epsilon", "alpha", "slope"), st.floats(0.01, 0.5)),
    **dict.fromkeys(
        ("use_bias", "ceil_mode", "count_include_pad", "center", "scale", "keepdims", "approximate"), st.booleans()
    ),
    "padding": st.sampled_from(["same", "valid", "full"]) | st.integers(0, 3),
    "mode": st.sampled_from(["correlation", "convolution"]),
    "merge": st.sampled_from(["add", "concat"]),
    "initializer": st.sampled_from(["he_normal", "zeros"]),
}


@st.composite
def arguments_of(draw, kind):
    """Arguments for a layer: those that it needs and some others, and in half of the cases one of them is anything."""
    wanted = {k: p for k, p in inspect.signature(kind.__init__).parameters.items() if k != "self"}
    given = [argument for argument, p in wanted.items() if p.default is p.empty or draw(st.booleans())]
    odd = draw(st.sampled_from(given)) if given and draw(st.booleans()) else None
    return {k: draw(anything if k == odd else fitting.get(k, st.integers(1, 4))) for k in given}


@pytest.mark.parametrize("name", sorted(LAYERS))
@settings(drawn, max_examples=50)
@given(st.data())
def test_any_arguments_make_a_layer_that_can_be_made_again_or_the_documented_error(name, data):
    arguments = data.draw(arguments_of(LAYERS[name]), label="arguments")
    shape = data.draw(st.lists(st.integers(1, 9) | st.integers(1, 2**40), min_size=1, max_size=4), label="shape")
    try:
        layer = LAYERS[name](**arguments)
    except (TypeError, ValueError) as error:
        assert str(error)
        return
    same = type(layer)(**layer.config())
    assert repr(same) == repr(layer) and repr(layer).startswith(f"{name}(")
    try:
        made = layer.output_shape(tuple(shape))
    except ValueError as error:
        assert str(error)
        return
    assert same.output_shape(tuple(shape)) == made and all(type(n) is int and n > 0 for n in made)
