"""A signpost for running from a checkout: the backends live in the top-level folder ``backends/``.

An installed dualnet has that folder itself in this place, and this file is never shipped.
"""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parents[2] / "backends")]
