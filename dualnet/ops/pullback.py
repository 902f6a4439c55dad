"""What every op returns along with its result: its pullback."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

from ..shim import Array, backend_of, references
from ..shim.arrays import not_an_array
from ..shim.dtypes import is_real


class TwoDeltas(NamedTuple):
    """The two deltas of an output that two branches use: their sum is the whole delta (E12).

    They have not been added up yet. Batch norm reads its delta anyway, and can add both in the same pass over memory.
    """

    first: Array
    second: Array


def added_up(delta: Array | TwoDeltas) -> Array:
    """The delta as one array: E12."""
    return references["add"](*delta) if type(delta) is TwoDeltas else delta


class Pullback:
    """Takes ``dy``, the gradient of the loss with respect to an op's output, to the gradients of its inputs.

    It is the transpose of the op's derivative at the point where the op was called, and may be called any number of
    times. ``saved`` holds the arrays that it keeps for this, by name; ``nbytes`` is their size; ``free()`` drops them.
    ``spend(dy)`` is a call and ``free()`` in one: so a network frees each layer's arrays once dy has passed the layer.

    >>> import dualnet as dn
    >>> y, pullback = dn.ops.relu(dn.asarray([-1.0, 2.0]))
    >>> dn.to_numpy(pullback(dn.asarray([10.0, 10.0])))
    array([ 0., 10.], dtype=float32)
    >>> list(pullback.saved), pullback.nbytes
    (['y'], 8)
    """

    paired = False  # True for a layer's, which returns dx and a dictionary of gradients
    takes_two = False  # True if it can be given TwoDeltas
    walks = False  # True if it calls each of its children once, and never again
    spent = False  # True if its next call is its last

    def __init__(
        self,
        op: str,
        backward: Callable[..., Any],
        y: Array,
        /,
        children: dict[str, Pullback] | None = None,
        **saved: Array | None,
    ) -> None:
        self.op = op
        self.shape = tuple(y.shape)
        self.dtype = y.dtype
        self._backend = backend_of(y)
        self._backward: Callable[..., Any] | None = backward
        self._saved = {name: array for name, array in saved.items() if array is not None}
        self.children = children or {}

    @property
    def saved(self) -> dict[str, Array]:
        """The arrays kept alive, by name; in a network the name of the layer comes first."""
        inner = {f"{child}.{name}": a for child, way in self.children.items() for name, a in way.saved.items()}
        return {**self._saved, **inner}

    @property
    def nbytes(self) -> int:
        """Bytes kept alive; an array kept under two names counts once."""
        return sum({id(array): array.nbytes for array in self.saved.values()}.values())

    def then(self, op: str, convert: Callable[[Any], Any]) -> Pullback:
        """This pullback, followed by ``convert``: this is how a layer names the gradients of its op."""
        way, backward = object.__new__(type(self)), self._backward
        way.__dict__.update(self.__dict__)
        way.op, way._backward = op, lambda dy: convert(_plain(backward(dy)))  # type: ignore[misc]
        return way

    def taking_two(self) -> Pullback:
        """This pullback, marked as able to take :class:`TwoDeltas`."""
        self.takes_two = True
        return self

    def walking(self) -> Pullback:
        """This pullback, which calls each of its children once: when it is spent, so are they."""
        self.walks = True
        return self

    def spend(self, dy: Array) -> Any:
        """``self(dy)`` for the last time: drops everything kept, part by part, as soon as it is no longer needed.

        >>> import dualnet as dn
        >>> y, pullback = dn.Dense(2).init((3,)).forward(dn.asarray([[1.0, 2.0, 3.0]]), train=True)
        >>> pullback.spend(y)[0].shape, pullback.nbytes
        ((1, 3), 0)
        """
        self.spent = True
        try:
            return self(dy)
        finally:
            self.free()

    def free(self) -> None:
        """Drop everything kept; calling the pullback afterwards raises ``RuntimeError``."""
        self._backward = None
        self._saved = {}
        for child in self.children.values():
            child.free()
        self.children = {}

    def __call__(self, dy: Array) -> Any:
        return _plain(self._through(dy))

    def onward(self, dy: Array | TwoDeltas) -> Any:
        """What a container calls: dy may be :class:`TwoDeltas`, and so may the dx that it returns."""
        if type(self).__call__ is not Pullback.__call__:  # a subclass of yours
            return self(added_up(dy))
        return self._through(dy)

    def _through(self, dy: Array | TwoDeltas) -> Any:
        for child in self.children.values() if self.spent and self.walks else ():
            child.spent = True
        if type(dy) is not TwoDeltas:
            result = self._run(self._checked(dy))
        else:
            both = TwoDeltas(*map(self._checked, dy))
            result = self._run(both if self.takes_two else added_up(both))
        if self.paired and not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            kinds = ", ".join(type(part).__name__ for part in (result if isinstance(result, tuple) else (result,)))
            raise TypeError(
                f"{self.op} pullback: it returned ({kinds}); expected dx and the gradients by parameter name, "
                'as in return dx, {"w": dw}, or return dx, {}'
            )
        if self.spent:
            self.free()
        return result

    def _checked(self, dy: Array) -> Array:
        backend = backend_of(dy)
        if backend is None:
            raise TypeError(f"{self.op} pullback: {not_an_array('dy', dy)}")
        if tuple(dy.shape) != self.shape:
            raise ValueError(
                f"{self.op} pullback: dy has shape {tuple(dy.shape)}; expected {self.shape}, the shape of the output"
                + (". Pass what the loss's pullback returns, not the loss." if dy.shape == () else "")
            )
        if backend is not self._backend:
            raise TypeError(
                f"{self.op} pullback: dy is on {backend.name}, the output on {self._backend.name}. "
                f"Move it with dn.asarray(dy, backend={self._backend.name!r})."
            )
        if dy.dtype != self.dtype:
            raise TypeError(
                f"{self.op} pullback: dy is {dy.dtype}; expected {self.dtype}, the dtype of the output. "
                f"Convert it with dn.asarray(dy, dtype='{self.dtype}')."
            )
        return dy

    def _run(self, *args: Any, **options: Any) -> Any:
        if self._backward is None:
            raise RuntimeError(f"{self.op} pullback: its memory was freed; run the forward pass again")
        return self._backward(*args, **options)

    def __repr__(self) -> str:
        state = "freed" if self._backward is None else f"{self.nbytes} bytes kept: {', '.join(self.saved) or 'nothing'}"
        return f"<pullback of {self.op}, dy {self.shape} {self.dtype}; {state}>"


class LossPullback(Pullback):
    """The pullback of a loss: its output is one number, so ``pullback()`` starts from dE/dE = 1."""

    def __call__(self, dloss: float | Array = 1.0) -> Any:
        if isinstance(dloss, Real):  # Python's numbers and NumPy's
            return self._run(float(dloss))
        backend = backend_of(dloss)
        if backend is None:
            got = "None" if dloss is None else f"a {type(dloss).__name__}"
            raise TypeError(f"{self.op} pullback: dloss is {got}; expected a number, or an array without axes.")
        if tuple(dloss.shape) != ():
            raise ValueError(f"{self.op} pullback: a loss is one number, so its gradient is too; got {dloss.shape}")
        if not is_real(dloss.dtype):
            raise TypeError(f"{self.op} pullback: dloss has dtype {dloss.dtype}; expected a real number.")
        return self._run(dloss.astype(self.dtype) if backend is self._backend else float(dloss))


def _plain(result: Any) -> Any:
    """What a pullback returned, with dx as one array: E12."""
    if type(result) is tuple and result and type(result[0]) is TwoDeltas:
        return added_up(result[0]), *result[1:]
    return result
