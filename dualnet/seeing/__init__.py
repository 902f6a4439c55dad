"""Seeing: the table and the graph of a network, what a pass through it did and why, and pictures of both."""

from . import viz
from .explain import explain
from .graph import graph
from .plan import plan
from .summary import network_html, summary
from .tracing import trace

__all__ = ["explain", "graph", "network_html", "plan", "summary", "trace", "viz"]
