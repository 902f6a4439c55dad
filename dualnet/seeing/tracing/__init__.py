"""``net.trace(x, t)``: one pass, forward and backward, as a table, a picture and words."""

from .trace import LayerTrace, Trace, trace

__all__ = ["LayerTrace", "Trace", "trace"]
