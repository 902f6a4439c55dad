"""Data sets as host arrays: ``(x_train, t_train), (x_test, t_test)``, ready for ``net.fit``.

Images are (N, H, W, C), float32 in [0, 1] or the file's own bytes with ``dtype="uint8"``; labels are int64. Nothing is
downloaded: a missing file raises ``FileNotFoundError`` that says how to place it by hand. A file that is not what it
says raises :class:`DataError`, and no array is made of it.
"""

from .augment import *  # noqa: F403
from .cifar import *  # noqa: F403
from .digits import *  # noqa: F403
from .folder import *  # noqa: F403
from .idx import *  # noqa: F403
from .reading import DataError as DataError
