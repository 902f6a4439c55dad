"""Several arrays where there is usually one."""

from __future__ import annotations

import pytest

from dualnet.layers.several import each, parts, rows


def test_each_part_or_the_only_one():
    assert each(lambda a, b: a + b, 1, 2) == 3
    assert each(lambda a, b: a + b, {"p": 1, "q": 2}, {"q": 20, "p": 10}) == {"p": 11, "q": 22}
    assert each(lambda a, b: a + b, [1, 2], [10, 20]) == [11, 22]
    with pytest.raises(ValueError, match="shorter"):
        each(lambda a, b: a, [1, 2], [1])


def test_what_messages_call_them():
    assert dict(parts({"p": 1}, "t")) == {"t['p']": 1}
    assert list(parts([5, 6])) == [("x[0]", 5), ("x[1]", 6)]
    assert list(parts(5, "dy")) == [("dy", 5)]


def test_rows():
    assert rows([1, 2, 3]) == rows({"p": [1, 2, 3], "q": [4, 5, 6]}) == 3
