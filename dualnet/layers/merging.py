"""Where branches meet: several arrays become one, and in the backward pass its delta goes to each of them.

    add         y = Σ aᵢ         every branch gets dy
    average     y = Σ aᵢ / n     every branch gets dy / n, like each unit of a window in average pooling (E15)
    max         y = max aᵢ       the branch that won gets dy; the first, if several are equal, as in max pooling (E15)
    multiply    y = Π aᵢ         branch i gets dy times all the others, its slope there (E14)
    concat      side by side     every branch gets its own channels of dy

:class:`Parallel` merges its branches like this, and in a :class:`Graph` the layers ``Add``, ``Average``, ``Maximum``,
``Multiply`` and ``Concatenate`` do: their input is a list of arrays.

Only a product may *stretch*: if a branch has extent 1 along an axis, its number applies to all places. So (1, 1, C) is
a gate for each channel of (H, W, C). A number that was used in several places gets the sum of their deltas, like a bias
(E12).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..geometry import check_shape, elements
from ..ops.activation import add
from ..ops.pullback import Pullback
from ..ops.sums import narrow, rounded_once, summed, wide
from ..shim import Array, backend_of, namespace
from ..shim.memory import check_memory
from .layer import Layer, Shape, entered
from .passing import Gradients

__all__ = ["MERGES", "Add", "Average", "Concatenate", "Maximum", "Merge", "Multiply", "merged", "merged_shape"]

MERGES = ("add", "average", "max", "multiply", "concat")
Back = Callable[[Array], list[Array]]
"""From the delta of the merged array to the delta of each branch."""


def merged_shape(owner: str, merge: str, shapes: Sequence[Shape]) -> Shape:
    """The shape, without the batch, after merging branches of these shapes; ``ValueError`` if they do not fit.

    >>> merged_shape("Multiply", "multiply", [(6, 6, 8), (1, 1, 8)])
    (6, 6, 8)
    """
    first = shapes[0]
    if merge == "concat":
        fits = all(shape[:-1] == first[:-1] for shape in shapes)
        shape = (*first[:-1], sum(shape[-1] for shape in shapes))
        wanted = "heights and widths"
    elif merge == "multiply":
        axes = list(zip(*shapes)) if len({len(shape) for shape in shapes}) == 1 else [(1, 2, 3)]
        fits = all(len({1, *extents}) <= 2 for extents in axes)
        shape = tuple(max(extents) for extents in axes)
        wanted = "numbers of axes, and along each the same extent or 1; GlobalAveragePool2D(keepdims=True) keeps them"
    else:
        fits, shape, wanted = all(shape == first for shape in shapes), first, "shapes"
    if not fits:
        raise ValueError(f"{owner}: the branches have shapes {', '.join(map(str, shapes))}; expected equal {wanted}.")
    return shape


def merged(owner: str, merge: str, ways: Sequence[Array]) -> tuple[Array, Back, dict[str, Array]]:
    """Merge arrays (N, ...): the result, its pullback, and the arrays that the pullback keeps, by name.

    >>> import dualnet as dn
    >>> y, back, kept = merged("Maximum", "max", [dn.asarray([[1.0, 5.0]]), dn.asarray([[2.0, 5.0]])])
    >>> dn.to_numpy(y).tolist(), [dn.to_numpy(d).tolist() for d in back(dn.asarray([[10.0, 10.0]]))]
    ([[2.0, 5.0]], [[[0.0, 10.0]], [[10.0, 0.0]]])
    """
    return {"add": _add, "average": _average, "max": _max, "multiply": _multiply, "concat": _concat}[merge](owner, ways)


def _add(owner: str, ways: Sequence[Array]) -> tuple[Array, Back, dict[str, Array]]:
    n, total = len(ways), ways[0]
    for a in ways[1:]:
        total = add(total, a)
    return total, lambda dy: [dy] * n, {}


def _average(owner: str, ways: Sequence[Array]) -> tuple[Array, Back, dict[str, Array]]:
    n = len(ways)
    return _sum_over(ways[0], n, *ways[1:]), lambda dy: [_sum_over(dy, n)] * n, {}  # E15


@rounded_once
def _sum_over(first: Array, n: int, *others: Array) -> Array:
    total = first
    for a in others:
        total = total + a
    return total / n


def _max(owner: str, ways: Sequence[Array]) -> tuple[Array, Back, dict[str, Array]]:
    xp, n = backend_of(ways[0]).xp, len(ways)
    y, winner = ways[0], xp.zeros(ways[0].shape, dtype="uint8" if n < 256 else "int32")
    for place, a in enumerate(ways[1:], start=1):
        wins = xp.logical_or(a > y, xp.logical_and(xp.isnan(a), xp.logical_not(xp.isnan(y))))  # the first of equals
        y, winner = xp.where(wins, a, y), xp.where(wins, place, winner).astype(winner.dtype, copy=False)

    def back(dy: Array) -> list[Array]:
        return [xp.where(winner == place, dy, 0.0).astype(dy.dtype, copy=False) for place in range(n)]  # E15

    return y, back, {"winner": winner}


def _multiply(owner: str, ways: Sequence[Array]) -> tuple[Array, Back, dict[str, Array]]:
    y = _product(*ways)

    def back(dy: Array) -> list[Array]:
        deltas = []
        for place, a in enumerate(ways):
            others = [b for at, b in enumerate(ways) if at != place]
            deltas.append(_unstretched(_product(dy, *others), a.shape))  # E14, E12
        return deltas

    return y, back, {f"way {place}": a for place, a in enumerate(ways)}


@rounded_once
def _product(*ways: Array) -> Array:
    product = ways[0]
    for a in ways[1:]:
        product = product * a
    return product


def _unstretched(delta: Array, shape: tuple[int, ...]) -> Array:
    """E12: along the axes in which a branch has extent 1, the sum of the deltas of all places that used its number."""
    axes = [axis for axis, extent in enumerate(shape) if extent == 1 and delta.shape[axis] != 1]
    return narrow(summed(wide(delta), axes), delta) if axes else delta


def _concat(owner: str, ways: Sequence[Array]) -> tuple[Array, Back, dict[str, Array]]:
    nbytes = sum(elements(a.shape) * a.itemsize for a in ways)
    check_memory(owner, ways[0], nbytes, "the output", "Concatenate fewer branches.")
    widths = [a.shape[-1] for a in ways]

    def back(dy: Array) -> list[Array]:
        deltas, start = [], 0
        for width in widths:
            deltas.append(dy[..., start : start + width])
            start += width
        return deltas

    return backend_of(ways[0]).xp.concat(list(ways), axis=-1), back, {}


class Merge(Layer):
    """Base class of the layers whose input is a list of arrays."""

    merge: str

    def check_input_shape(self, input_shape: Any) -> Any:
        owner = type(self).__name__
        if not isinstance(input_shape, (tuple, list)) or not all(isinstance(s, (tuple, list)) for s in input_shape):
            raise ValueError(f"{owner}: its input is a list of arrays; expected their shapes, got {input_shape!r}")
        if not input_shape:
            raise ValueError(f"{owner}: expected at least one shape")
        return tuple(check_shape(shape, owner) for shape in input_shape)

    def output_shape(self, input_shape: Any) -> Shape:
        return merged_shape(type(self).__name__, self.merge, self.check_input_shape(input_shape))

    def enter(self, x: Any) -> Any:
        owner = type(self).__name__
        if self.input_shape is None:
            return super().enter(x)  # its error says what to do
        if not isinstance(x, (tuple, list)) or len(x) != len(self.input_shape):
            got = f"{len(x)} of them" if isinstance(x, (tuple, list)) else f"a {type(x).__name__}"
            raise TypeError(f"{owner}: expected a list of {len(self.input_shape)} arrays, got {got}")
        return [entered(owner, a, shape, self.dtype) for a, shape in zip(x, self.input_shape)]  # type: ignore[arg-type]

    def forward(self, x: Any, train: bool = False) -> tuple[Array, Pullback]:
        owner = type(self).__name__
        namespace(owner, **{f"way {place}": a for place, a in enumerate(x)})
        merged_shape(owner, self.merge, [tuple(a.shape) for a in x])
        y, back, kept = merged(owner, self.merge, x)

        def pullback(dy: Array) -> tuple[list[Array], Gradients]:
            return back(dy), {}

        return y, Pullback(owner, pullback, y, **kept)


class Add(Merge):
    """The sum of several arrays of one shape, each (N, ...). Its input, in a :class:`Graph`, is a list of arrays.

    >>> import dualnet as dn
    >>> dn.Add().output_shape([(4, 4, 8), (4, 4, 8)])
    (4, 4, 8)
    """

    merge = "add"


class Average(Merge):
    """The mean of several arrays of one shape, each (N, ...). Its input, in a :class:`Graph`, is a list of arrays.

    >>> import dualnet as dn
    >>> layer = dn.Average().init([(2,), (2,)])
    >>> dn.to_numpy(layer([dn.asarray([[1.0, 4.0]]), dn.asarray([[3.0, 0.0]])]))
    array([[2., 2.]], dtype=float32)
    """

    merge = "average"


class Maximum(Merge):
    """The largest of several arrays of one shape, unit by unit. Its input, in a :class:`Graph`, is a list of arrays.

    The delta goes to the array that won; if several are equal, to the first.

    >>> import dualnet as dn
    >>> layer = dn.Maximum().init([(2,), (2,)])
    >>> dn.to_numpy(layer([dn.asarray([[1.0, 4.0]]), dn.asarray([[3.0, 0.0]])]))
    array([[3., 4.]], dtype=float32)
    """

    merge = "max"


class Multiply(Merge):
    """The product of several arrays, unit by unit. Its input, in a :class:`Graph`, is a list of arrays.

    All have the same number of axes. If one has extent 1 along an axis, its number applies to all places there.

    >>> import dualnet as dn
    >>> dn.Multiply().output_shape([(4, 4, 8), (1, 1, 8), (4, 4, 1)])
    (4, 4, 8)
    """

    merge = "multiply"


class Concatenate(Merge):
    """Several arrays side by side along the last axis. Its input, in a :class:`Graph`, is a list of arrays.

    >>> import dualnet as dn
    >>> dn.Concatenate().output_shape([(4, 4, 8), (4, 4, 3)])
    (4, 4, 11)
    """

    merge = "concat"
