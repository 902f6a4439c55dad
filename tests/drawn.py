"""Drawn arguments: Hypothesis makes them and shrinks those that fail. The same in every run, and no files left."""

from __future__ import annotations

from hypothesis import settings

drawn = settings(max_examples=500, derandomize=True, database=None, deadline=None)
"""Decorate a test with this and with ``@given``."""
