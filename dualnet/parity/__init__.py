"""Do two backends compute the same, and is it right? The certificate, and two tools for your own network.

    parity(net, x, t)     your network against float64, on several backends
    twin(net, (x, t))     two backends in lock-step, op by op
    certify(...)          everything, as "dualnet parity" does

The first two are ``dn.parity`` and ``dn.twin``. Each imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..late import late
from ..layers.layer import Layer

if TYPE_CHECKING:
    from ..optimizers.optimizer import Optimizer
    from .certificate.certificate import Certificate
    from .judging.ways import Way
    from .networks.lockstep import Divergence, Twin
    from .networks.network import NetworkParity
else:  # the classes that the functions return
    _HOMES = {"Divergence": "networks.lockstep", "NetworkParity": "networks.network", "Twin": "networks.lockstep"}
    __getattr__, __dir__ = late(__name__, _HOMES)

__all__ = ["Divergence", "NetworkParity", "Twin", "certify", "parity", "twin"]


def parity(
    net: Layer,
    x: Any,
    t: Any,
    *,
    backends: Sequence[str | Way] = ("numpy", "strict"),
    loss: str | Callable[..., Any] | None = None,
    seed: int = 0,
    raises: bool = False,
) -> NetworkParity:
    """Does a network compute the same on several backends, and is it right? Forward, loss, every gradient, top-1.

    The truth is the network in float64 on NumPy's references. A result may be ten times as far from it as a change of
    one unit in the last place of every weight would move it. Then the first backend and each of the others run one
    training step in lock-step (:func:`dualnet.twin`), with the limit of each op. A name in ``backends`` means a backend
    with its kernels; ``"numpy reference"`` is NumPy without them. ``loss`` is by default the one that the network was
    last trained with, or softmax cross-entropy. The network stays as it is. Raises :class:`dualnet.check.CheckError`
    only with ``raises=True``.

    If a unit is so near 0 that rounding decides whether it is on, or two maxima so near each other that rounding
    decides which one wins, a gradient jumps and its distance says nothing. The result notes this and leaves the
    decision to the lock-step, where every layer gets equal numbers.

    >>> import numpy, dualnet as dn
    >>> net = dn.Sequential([dn.Conv2D(2, 3), dn.Tanh(), dn.Flatten(), dn.Dense(3)]).init((5, 5, 1))
    >>> x, t = numpy.random.default_rng(0).random((4, 5, 5, 1), dtype="float32"), numpy.arange(4) % 3
    >>> bool(dn.parity(net, x, t))
    True
    """
    from .networks.network import parity as run

    return run(net, x, t, backends=backends, loss=loss, seed=seed, raises=raises)


def twin(
    net: Layer,
    data: tuple[Any, Any],
    *,
    backends: Sequence[str | Way] = ("numpy", "strict"),
    steps: int = 10,
    batch_size: int = 16,
    optimizer: str | Optimizer = "sgd",
    loss: str | Callable[..., Any] | None = None,
    seed: int = 0,
    raises: bool = True,
) -> Twin:
    """Train a network on two backends in lock-step, and stop at the first op whose results are too far apart.

    ``data`` is ``(x, t)``. The network must be initialised; copies of it are trained, and it stays as it is. A name in
    ``backends`` means a backend with its kernels; ``"numpy reference"`` is NumPy without them. The results of an op may
    differ by twice its limit (docs/numerics.md). Raises :class:`dualnet.check.CheckError` unless ``raises=False``; the
    result names the step, the layer, the op, the number and the bound.

    >>> import numpy, dualnet as dn
    >>> net = dn.Sequential([dn.Conv2D(2, 3), dn.ReLU(), dn.Flatten(), dn.Dense(3)]).init((5, 5, 1))
    >>> x, t = numpy.random.default_rng(0).random((32, 5, 5, 1), dtype="float32"), numpy.arange(32) % 3
    >>> bool(dn.twin(net, (x, t), backends=("numpy reference", "strict"), steps=2))
    True
    """
    from .networks.lockstep import twin as run

    return run(
        net,
        data,
        backends=backends,
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        loss=loss,
        seed=seed,
        raises=raises,
    )


def certify(**options: Any) -> Certificate:
    """Compare everything on every backend that works here, as ``dualnet parity`` does, and return the certificate.

    The options are keywords: ``backends``, ``ops``, ``dtypes``, ``networks``, ``seed``, ``quick``, ``command`` and
    ``tell``. ``dualnet/parity/certificate/certificate.py`` explains them.
    """
    from .certificate.certificate import certify as run

    return run(**options)
