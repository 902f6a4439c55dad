"""How fast a network runs here, layer by layer and against other frameworks: ``dualnet bench``.

    run(...)        measures, and returns all results as plain data
    markdown(...)   makes tables of them
    write(...)      writes the tables to a file, or between two marks in a page
    wrong(...)      says whether anything failed

``import dualnet`` does not import it: write ``from dualnet import bench``.
"""

from .measure import run
from .nets import DEFAULT
from .report import markdown, place, write, wrong

__all__ = ["DEFAULT", "markdown", "place", "run", "write", "wrong"]
