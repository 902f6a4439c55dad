"""The Python half of the playground: it runs in the page's worker, and anywhere else that dualnet runs.

desk        what the page may ask, in JSON, and the answers
blocks      the layers that can be drawn, with every option and its meaning
plan        a drawing -> a network and an optimizer, and both as code
pictures    the images: digits, drawings, uploads
training    one step at a time, back to any step, files
looking     maps, filters, deltas, sums and Grad-CAM, in numbers
breaking    the zoo's wrong backward passes inside a network that trains
exercises   the zoo's exercises by themselves: the task, help, and the verdict on a repair
notebook    the same run as a notebook
console     a line of Python
printed     what a reader's code prints, up to a limit
"""

from .desk import Desk

__all__ = ["Desk"]
