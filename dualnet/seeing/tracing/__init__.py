"""``net.trace(x, t)``: one pass forward and back, as a table, a picture and words."""

from .trace import Row, Trace, trace

__all__ = ["Row", "Trace", "trace"]
