"""Printed text stays readable in every encoding, and nothing is lost."""

from __future__ import annotations

import io
import os
import sys

import pytest

from dualnet.terminal import STAND_INS, draws_over, readable, readable_output, say


@pytest.mark.parametrize(
    "text, plain",
    [
        ("y[k] = Σ_m w[m] · x[k+m]", "y[k] = sum_m w[m] * x[k+m]"),
        ("3×3, 2 → 4, −1", "3x3, 2 -> 4, -1"),
        ("‖a − b‖ ≤ 1e-6", "||a - b|| <= 1e-6"),
        ("0 … 9, 90°", "0 ... 9, 90 degrees"),
        ("x², 10⁻³, aⁱ, 2³²", "x^2, 10^-3, a^i, 2^32"),
        ("σ(x), Φ, μ, γ, β, ∂L/∂y", "sigma(x), Phi, mu, gamma, beta, dL/dy"),
        ("½, ⌈n⌉", "1/2, ceil(n)"),
        ("x\u0302", "x^"),
        ("caf\u00e9 \u2603 \U0001f600", "caf\\xe9 \\u2603 \\U0001f600"),
        ("a name with \udcff", "a name with \\udcff"),
        ("plain", "plain"),
    ],
)
def test_stand_ins(text, plain):
    assert readable(text, "ascii") == plain
    assert readable(text.replace("\udcff", ""), "utf-8") == text.replace("\udcff", "")


def test_letters_that_an_encoding_has_stay():
    assert readable("2 × x² · ½ … Σ", "cp1252") == "2 × x² · ½ … sum"
    assert readable("Σ", None) == "Σ" and readable("Σσ", "iso8859-7") == "Σσ"


def test_a_stand_in_is_ascii():
    assert all(word.isascii() and len(letter) == 1 for letter, word in STAND_INS.items())


def test_output_is_readable_inside_and_as_it_was_afterwards(monkeypatch):
    out, err = (io.TextIOWrapper(io.BytesIO(), "ascii", "strict", write_through=True) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with readable_output():
        print("Σ")
        print("→", file=sys.stderr)
    assert out.buffer.getvalue() == b"sum" + os.linesep.encode()
    assert err.buffer.getvalue() == b"->" + os.linesep.encode()
    with pytest.raises(UnicodeEncodeError):
        print("Σ")
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with readable_output():
        pass


def test_saying_returns_what_went_wrong(monkeypatch, capsys):
    assert say("Σ") is None and capsys.readouterr().out == "Σ\n"
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert isinstance(say("Σ", "stderr"), ValueError)
    with open(os.devnull, encoding="utf-8") as only_read:
        monkeypatch.setattr(sys, "stderr", only_read)
        assert isinstance(say("Σ", "stderr"), OSError)
    monkeypatch.setattr(sys, "stderr", None)
    assert say("Σ", "stderr") is None and not capsys.readouterr().out, "not on the other one instead"


def test_what_can_be_drawn_over(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.delenv("TERM", raising=False)
    closed = io.StringIO()
    closed.close()
    assert draws_over(Terminal()) and not any(map(draws_over, (io.StringIO(), closed, None)))
    monkeypatch.setenv("TERM", "dumb")
    assert not draws_over(Terminal())
