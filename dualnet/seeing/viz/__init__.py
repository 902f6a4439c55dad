"""Pictures of networks and of what they have learned, drawn with matplotlib: ``dn.viz.filters(net)``.

``numbers`` and ``grids`` draw small maps with their numbers, as SVG, and need no library at all. Every other function
takes ``ax=`` (``axes=`` where it draws several panels) and draws there, or makes a new figure; it returns the
Axes and never calls ``show()``. A notebook shows the figure automatically; in a script, call ``plt.show()`` or
``ax.figure.savefig("filters.png")``. Arrays may be on any backend; the network is never changed.

matplotlib is imported when the first picture is drawn: ``pip install "dualnet[plot]"``. The functions themselves are
imported when you first use them, so that ``import dualnet`` stays fast.
"""

from typing import TYPE_CHECKING

from ...late import late

if TYPE_CHECKING:
    from .attention import grad_cam, saliency
    from .by_numbers import grids, numbers
    from .canvas import around_zero
    from .changes import augmented
    from .landscape import loss_landscape
    from .maps import deltas, feature_maps, filters
    from .results import confusion_matrix, learning_curves, misclassified
else:
    _HOMES = {
        "around_zero": "canvas",
        "augmented": "changes",
        "confusion_matrix": "results",
        "deltas": "maps",
        "feature_maps": "maps",
        "filters": "maps",
        "grad_cam": "attention",
        "grids": "by_numbers",
        "learning_curves": "results",
        "loss_landscape": "landscape",
        "misclassified": "results",
        "numbers": "by_numbers",
        "saliency": "attention",
    }
    __getattr__, __dir__ = late(__name__, _HOMES)

__all__ = ["around_zero", "augmented", "confusion_matrix", "deltas", "feature_maps", "filters", "grad_cam"]
__all__ += ["grids", "learning_curves", "loss_landscape", "misclassified", "numbers", "saliency"]
