"""Seeing: the table and the graph of a network, what a pass through it did and why, and pictures of both.

``summary``, ``plan``, ``graph`` and ``tracing`` are imported when a network is first asked for them.
"""

from . import viz
from .explain import explain

__all__ = ["explain", "viz"]
