"""Every op and loss written a second time, as plain loops in float64: all other code is compared with these.

Nothing here is fast, and nothing is shared with the ops: these files import no other part of dualnet, and each sum is
written as ``docs/derivation.md`` prints its formula, one index at a time. ``NAME(*arrays, **options)`` gives the
output of the op ``NAME`` and ``NAME_backward(dy, *arrays, **options)`` the gradient of each array argument, in order,
as a tuple; an op of one array gives that gradient itself. The losses take ``NAME(y, t, **options)`` and
``NAME_backward(y, t, **options)``.

Feature maps are (N, H, W, C), filter banks (k1, k2, C/groups, D). Inputs of any floating dtype are read as float64.
"""

from .losses import *  # noqa: F403
from .maps import *  # noqa: F403
from .units import *  # noqa: F403
