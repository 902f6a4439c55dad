"""Seeing: a network as a table and as a graph, what a pass through it did and why, and pictures of both.

``summary``, ``plan``, ``graph`` and ``tracing`` are imported when a network first needs them.
"""

from . import viz
from .explain import explain

__all__ = ["explain", "viz"]
