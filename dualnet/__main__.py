"""``python -m dualnet`` is ``dualnet``."""

import sys

from .cli import main

sys.exit(main())
