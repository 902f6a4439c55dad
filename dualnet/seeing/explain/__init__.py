"""``dn.explain``: where one number of a forward or backward pass comes from, as a sum and as an interactive page.

The sum is the equation of docs/derivation.md, evaluated here index by index in float64. It shares no code with the ops,
so an explanation is also a check: it says whether the library computed the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...layers.layer import Layer

if TYPE_CHECKING:
    from .explanation import Explanation

__all__ = ["explain"]


def explain(
    layer: Layer,
    x: Any,
    target: str | None = None,
    *,
    t: Any = None,
    dy: Any = None,
    loss: Any = None,
    train: bool = True,
) -> Explanation:
    """One entry of what a layer or network computes on a batch x (N, ...), written as a sum with its numbers.

    ``target`` names an array and an index: ``"y[0,3,4,1]"`` (the output), ``"dx[0,3,4,1]"`` (the gradient of the
    input), ``"dw[0,1,2,5]"``, ``"db[5]"`` (the gradients of the parameters); inside a network, put the layer's name
    first: ``"0.dw[0,1,2,5]"``. By default the target is the largest dx of the first convolution.

    A backward pass needs dy, the gradient of the loss with respect to the output. Give targets ``t`` and a ``loss`` (by
    default the one that the network was last trained with, or softmax cross-entropy), or give ``dy`` itself. Without
    either, dy is drawn at random, always the same. ``train=False`` explains inference (running statistics, no dropout).
    The layer itself is not changed.

    The :class:`~dualnet.seeing.explain.explanation.Explanation` prints as text and as a table in notebooks; it has
    ``.terms``, ``.cells``, ``.value``, ``.anchor``, ``.ok``, and ``.to_html(path)`` writes the interactive page. Raises
    ``ValueError`` if the target does not exist, ``TypeError`` if an argument is not a target, layer or array.

    >>> import dualnet as dn
    >>> x = dn.asarray([1, 2, 0, 1, 3, 1, 2, 0, 0, 2, 1, 3, 1, 0, 2, 1], "float32").reshape(1, 4, 4, 1)
    >>> layer = dn.Conv2D(1, 2).init((4, 4, 1))
    >>> layer.w.value = dn.asarray([1, 2, 3, 4], "float32").reshape(2, 2, 1, 1)
    >>> why = dn.explain(layer, x, "y[0,1,1,0]")
    >>> print(why)
    y[0,1,1,0] = 15   (E4, Conv2D forward)
    <BLANKLINE>
      y[k,i,j,d] = b[d] + Σ_m Σ_n Σ_c w[m,n,c,d] · x[k,i+m,j+n,c]
      at k=0 i=1 j=1 d=0
    <BLANKLINE>
      b[0]        0                   =  0
      w[0,0,0,0]  1  · x[0,1,1,0]  1  =  1
      w[0,1,0,0]  2  · x[0,1,2,0]  2  =  4
      w[1,0,0,0]  3  · x[0,2,1,0]  2  =  6
      w[1,1,0,0]  4  · x[0,2,2,0]  1  =  4
      sum                               15
      the library's                     15   they agree (distance 0)
    >>> why.value, why.anchor, why.cells["x"]
    (15.0, 'E4', [(0, 1, 1, 0), (0, 1, 2, 0), (0, 2, 1, 0), (0, 2, 2, 0)])
    """
    from . import reading, run  # imported when they are needed: `import dualnet` stays fast
    from .explanation import Explanation
    from .sums import account

    if not isinstance(layer, Layer):
        raise TypeError(f"explain: expected a layer or network, got {type(layer).__name__}")
    call = run.Call(layer, x, t, dy, loss, train)
    wanted = reading.default(call) if target is None else reading.read(target, layer)
    uses = call.uses(wanted)
    wanted = reading.located(wanted, uses)
    return Explanation.of(wanted, account(wanted, uses), call)
