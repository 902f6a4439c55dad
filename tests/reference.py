"""The loops that everything is compared with. They ship with the package, since ``dualnet parity`` needs them too."""

from dualnet.parity.loops import *  # noqa: F403
