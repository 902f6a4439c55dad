"""Pictures of networks and of what they learn, drawn with matplotlib: ``dn.viz.filters(net)``.

Every function takes ``ax=`` (``axes=`` where it draws several panels) and draws there, or makes a figure of its own;
it returns the Axes and never calls ``show()``. A notebook shows the figure by itself; in a script say
``plt.show()`` or ``ax.figure.savefig("filters.png")``. Arrays may lie on any backend; the network is never changed.

matplotlib is imported when the first picture is drawn: ``pip install "dualnet[plot]"``.
"""

from .attention import grad_cam, saliency
from .landscape import loss_landscape
from .maps import deltas, feature_maps, filters
from .results import confusion_matrix, learning_curves, misclassified

__all__ = ["confusion_matrix", "deltas", "feature_maps", "filters", "grad_cam"]
__all__ += ["learning_curves", "loss_landscape", "misclassified", "saliency"]
