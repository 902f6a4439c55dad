"""Pure mathematics: functions of arrays that return their result and their backward pass, ``(y, pullback)``."""

from .activation import *  # noqa: F403
from .adaptive import *  # noqa: F403
from .convolution import *  # noqa: F403
from .dense import *  # noqa: F403
from .dropout import *  # noqa: F403
from .normalization import *  # noqa: F403
from .piecewise import *  # noqa: F403
from .pooling import *  # noqa: F403
from .resizing import *  # noqa: F403
from .rms import *  # noqa: F403

from . import losses  # isort: skip
from .pullback import LossPullback as LossPullback
from .pullback import Pullback as Pullback
