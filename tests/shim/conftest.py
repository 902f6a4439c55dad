"""For tests of the shim: a process in which nothing is chosen yet."""

from __future__ import annotations

import pristine
import pytest


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is chosen, set or loaded; afterwards everything is as it was."""
    pristine.process(monkeypatch)
