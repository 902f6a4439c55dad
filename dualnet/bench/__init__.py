"""How fast a network runs here, layer by layer and against other frameworks: ``dualnet bench``.

    run(...)        measures, and returns everything seen as plain data
    markdown(...)   makes tables of it
    write(...)      writes them to a file, or between two marks of a page
    wrong(...)      says whether anything failed

``import dualnet`` does not import it: write ``from dualnet import bench``.
"""

from .measure import run
from .nets import DEFAULT
from .report import markdown, place, write, wrong

__all__ = ["DEFAULT", "markdown", "place", "run", "write", "wrong"]
