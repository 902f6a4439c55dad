"""Files of measured choices: what they hold, and the message for one that does not fit."""

from __future__ import annotations

import json
import warnings

import pytest

import dualnet as dn
from dualnet.backends import tuned
from dualnet.backends.cpu import machine, threads
from dualnet.backends.cpu.table import FILTERS, FORWARD, Shape
from dualnet.geometry import windows

SHAPE = Shape(FORWARD, 2, 3, 4, windows("t", (6, 5), (3, 3), padding=1), "f")
TIMES = [("numpy rows", 0.0012345678), ("oneDNN", 0.002)]


@pytest.fixture(autouse=True)
def anew():
    tuned.forget()
    yield
    tuned.forget()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "tuned.json")


def test_what_is_added_is_found_again(path):
    assert tuned.order(path, SHAPE, 2, missing=True) is None
    tuned.add(path, SHAPE, 2, TIMES)
    assert tuned.order(path, SHAPE, 2, missing=False) == ("numpy rows", "oneDNN")
    tuned.forget()
    assert tuned.order(path, SHAPE, 2, missing=False) == ("numpy rows", "oneDNN")
    for other in (SHAPE._replace(images=3), SHAPE._replace(dtype="d"), SHAPE._replace(function=FILTERS)):
        assert tuned.order(path, other, 2, missing=False) is None


def test_the_file_has_a_line_for_each_shape_and_says_where_it_was_measured(path):
    tuned.add(path, SHAPE, 2, TIMES)
    tuned.add(path, SHAPE._replace(function=FILTERS), 2, TIMES[:1])
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert (
        '\n  "correlate 2x6x5x3 to 4, 3x3, padding 1 1 1 1, float32": [["numpy rows", 1.2346], ["oneDNN", 2.0]],\n'
        in text
    )
    assert json.loads(text)["measured on"] == tuned.facts(2)
    assert tuned.facts(2)["threads"] == 2 and tuned.facts(2)["dualnet"] == dn.__version__
    assert tuned.facts(2)["instructions"] == machine.kind()


@pytest.mark.parametrize("what", ["processor", "instructions", "threads", "dualnet", "numpy", "blas", "onednn"])
def test_a_file_from_elsewhere_is_ignored_with_one_warning_that_says_why(path, what):
    tuned.add(path, SHAPE, 2, TIMES)
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    document["measured on"][what] = "another"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document, file)
    tuned.forget()
    here = tuned.facts(2)[what]
    with pytest.warns(UserWarning, match="was measured with") as said:
        assert tuned.order(path, SHAPE, 2, missing=False) is tuned.order(path, SHAPE, 2, missing=True) is None
    (warning,) = said
    assert f"{what} 'another', here {here!r}. It is ignored" in str(warning.message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tuned.add(path, SHAPE._replace(images=9), 2, TIMES)
    with open(path, encoding="utf-8") as file:
        assert json.load(file) == document, "it stays as it is"


def test_another_number_of_threads_is_another_machine(path):
    tuned.add(path, SHAPE, 2, TIMES)
    with pytest.warns(UserWarning, match="threads 2, here 1"):
        assert tuned.order(path, SHAPE, 1, missing=False) is None
    assert tuned.order(path, SHAPE, 2, missing=False) == ("numpy rows", "oneDNN")


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "JSONDecodeError"),
        ("[]", "TypeError"),
        ("{}", "KeyError: 'format'"),
        ('{"format": 2, "measured on": {}, "choices": {}}', "its format is 2, expected 1"),
        ('{"format": 1, "measured on": [], "choices": {}}', "its format is 1"),
        ('{"format": 1, "measured on": {}, "choices": {"a": [["oneDNN"]]}}', "not enough values"),
        ('{"format": 1, "measured on": {}, "choices": {"a": [["oneDNN", -1]]}}', "is not an algorithm with its time"),
        ('{"format": 1, "measured on": {}, "choices": {"a": [[1, 1]]}}', "is not an algorithm with its time"),
        ('{"format": 1, "measured on": {}, "choices": []}', "AttributeError"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(path, text, said):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    with pytest.raises(ValueError, match="tuned.json is not a file of dualnet tune") as error:
        tuned.order(path, SHAPE, 2, missing=True)
    assert said in str(error.value)


def test_a_file_that_is_not_there_is_an_error_unless_it_is_to_be_written(path, monkeypatch, rng):
    assert tuned.order(path, SHAPE, 2, missing=True) is None
    tuned.forget()
    with pytest.raises(ValueError, match="cannot be read: No such file or directory. Write it with: dualnet tune"):
        tuned.order(path, SHAPE, 2, missing=False)
    monkeypatch.setenv("DUALNET_TUNED", path)
    with pytest.raises(ValueError, match="DUALNET_TUNED="):
        dn.ops.conv2d(*(rng.standard_normal((3, 3, 3, 3), dtype="f4") for _ in range(2)))


def test_every_part_of_a_shape_is_in_its_words():
    at = windows("t", (9, 8), (3, 2), stride=(2, 1), padding=((1, 0), (0, 2)), dilation=(1, 2))
    words = tuned.words(Shape(FILTERS, 5, 3, 4, at, "d"))
    assert words == "correlate_filters 5x9x8x3 to 4, 3x2, stride 2x1, padding 1 0 0 2, dilation 1x2, float64"
    assert threads.count() >= 1
