"""Pictures of networks and of what they learn, drawn with matplotlib: ``dn.viz.filters(net)``.

Every function takes ``ax=`` (``axes=`` where it draws several panels) and draws there, or makes a figure of its own;
it returns the Axes and never calls ``show()``. A notebook shows the figure by itself; in a script say
``plt.show()`` or ``ax.figure.savefig("filters.png")``. Arrays may lie on any backend; the network is never changed.

matplotlib is imported when the first picture is drawn: ``pip install "dualnet[plot]"``. The functions themselves are
imported when they are first asked for, so that ``import dualnet`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention import grad_cam, saliency
    from .changes import augmented
    from .landscape import loss_landscape
    from .maps import deltas, feature_maps, filters
    from .results import confusion_matrix, learning_curves, misclassified

__all__ = ["augmented", "confusion_matrix", "deltas", "feature_maps", "filters", "grad_cam"]
__all__ += ["learning_curves", "loss_landscape", "misclassified", "saliency"]

_HOMES = {
    "attention": ("grad_cam", "saliency"),
    "changes": ("augmented",),
    "landscape": ("loss_landscape",),
    "maps": ("deltas", "feature_maps", "filters"),
    "results": ("confusion_matrix", "learning_curves", "misclassified"),
}
"""The modules here, and the functions that each brings."""

if not TYPE_CHECKING:  # a type checker that saw this would take any name for one of ours

    def __getattr__(name: str) -> Any:
        for module, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f".{module}", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
