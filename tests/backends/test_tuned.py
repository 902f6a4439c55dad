"""Files of measured choices: what they hold, and the message for one that does not fit."""

from __future__ import annotations

import json
import warnings

import pytest

import dualnet as dn
from dualnet.backends import choice, measuring, tuned
from dualnet.backends.cpu import machine, threads
from dualnet.backends.cpu.table import FILTERS, FORWARD, Shape
from dualnet.geometry import windows

SHAPE = Shape(FORWARD, 2, 3, 4, windows("t", (6, 5), (3, 3), padding=1), "f")
TIMES = [("numpy rows", 0.0012345678), ("oneDNN", 0.002)]


@pytest.fixture(autouse=True)
def anew():
    dn.backend.load("numpy")  # which says what algorithms there are
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


def written(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def choices(rows):
    """A file of this machine with these rows, as JSON."""
    return f'{{"format": 1, "measured on": {json.dumps(tuned.facts(2))}, "choices": {{{rows}}}}}'


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "got an empty file, expected JSON"),
        ("hello", "got Expecting value in line 1, column 1, expected JSON"),
        ('{"format": 1,\n "choices"', "got Expecting ':' delimiter in line 2, column 11"),
        ("[" * 10**6, "got lists nested too deeply"),
        ("[]", "got JSON of type list, without a format"),
        ("{}", "got JSON of type dict, without a format"),
        ('{"format": "1"}', "got JSON of type dict, without a format"),
        ('{"format": 1, "measured on": [], "choices": {}}', 'got a list for "measured on"'),
        ('{"format": 1, "measured on": {}}', 'got nothing for "choices"'),
        ('{"format": 1, "measured on": {}, "choices": []}', 'got a list for "choices"'),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(path, text, said):
    written(path, text)
    with pytest.raises(ValueError, match="tuned.json is not a file of dualnet tune, or it is damaged: ") as error:
        tuned.order(path, SHAPE, 2, missing=True)
    assert said in str(error.value) and "Name another file, or delete this one" in str(error.value)


def test_bytes_that_are_no_text(path):
    with open(path, "wb") as file:
        file.write(bytes(range(128, 256)))
    with pytest.raises(ValueError, match="tuned.json is not a file of .*: got bytes that are not UTF-8 text"):
        tuned.order(path, SHAPE, 2, missing=True)


ROW = "correlate 2x6x5x3 to 4, 3x3, padding 1 1 1 1, float32"


@pytest.mark.parametrize(
    "row, times, got, expected",
    [
        (ROW, "[]", r"got \[\]", "expected at least one pair"),
        (ROW, "null", "got None", "expected at least one pair"),
        (ROW, '[["oneDNN"]]', r"got \['oneDNN'\]", "expected a pair"),
        (ROW, '[["oneDNN", -1]]', r"got \['oneDNN', -1\]", "expected a pair"),
        (ROW, '[["oneDNN", true]]', r"got \['oneDNN', True\]", "expected a pair"),
        (ROW, '[["oneDNN", NaN]]', r"got \['oneDNN', nan\]", "expected a pair"),
        (ROW, '[["oneDNN", 1], [1, 1]]', r"got \[1, 1\]", "expected a pair"),
        (ROW, '[["oneDNN", 1], ["numpy colums", 2]]', "got the algorithm 'numpy colums'", "expected one of oneDNN, "),
        (ROW, '[["oneDNN", 1], ["oneDNN", 2]]', "got the algorithm 'oneDNN' twice", "expected each algorithm once"),
        ("corelate 2x6", '[["oneDNN", 1]]', "got 'corelate'", r"expected a function with a choice \(correlate, "),
    ],
)
def test_a_row_that_is_wrong_is_an_error_that_names_it(path, row, times, got, expected):
    written(path, choices(f'"{ROW} ": [["oneDNN", 1.0]], "{row}": {times}'))
    with pytest.raises(ValueError, match=rf"tuned.json, row '{row}': {got}, {expected}.*Fix the row, or delete it"):
        tuned.order(path, SHAPE, 2, missing=True)


def test_what_another_version_wrote_is_ignored_with_one_warning(path):
    """Its algorithms may have names that this one does not know, and a later format may hold anything."""
    other = choices(f'"{ROW}": [["new", 1.0]]').replace(f'"dualnet": "{dn.__version__}"', '"dualnet": "99.0"')
    for text, told in (('{"format": 2}', "its format is 2, and this version knows 1"), (other, "dualnet '99.0', here")):
        written(path, text)
        tuned.forget()
        with pytest.warns(UserWarning, match=f"was measured with .*{told}.* It is ignored") as said:
            assert tuned.order(path, SHAPE, 2, missing=False) is tuned.order(path, SHAPE, 2, missing=True) is None
        assert len(said) == 1
        tuned.ready(path, 2)
        tuned.add(path, SHAPE, 2, TIMES)
        with open(path, encoding="utf-8") as file:
            assert file.read() == text


def test_every_algorithm_that_can_be_measured_is_known():
    assert tuned.ALGORITHMS == {
        name: tuple(kernel.algorithm for kernel in kernels) for name, kernels in choice.CANDIDATES.items()
    }


def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_measured(tmp_path, monkeypatch, rng):
    def times(*given):
        raise AssertionError("measured")

    monkeypatch.setattr(measuring, "times", times)
    monkeypatch.setenv("DUALNET_AUTOTUNE", "1")
    monkeypatch.setenv("DUALNET_TUNED", str(tmp_path / "none" / "tuned.json"))
    choice.forget()
    told = r"DUALNET_TUNED=.*none.tuned.json cannot be written: no such folder; create it first .*Nothing was measured"
    with dn.use_backend("numpy"), pytest.raises(ValueError, match=told):
        dn.ops.conv2d(*(rng.standard_normal((3, 3, 3, 3), dtype="f4") for _ in range(2)))
    choice.forget()


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
