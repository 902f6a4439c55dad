"""Training in float16: the loss is scaled so that small gradients do not vanish, and a step that overflows is skipped.

float16 has no numbers between 0 and 6e-8 and few digits below 6e-5, but most of a network's deltas are that small. The
chain rule is linear: the gradients of s · E are s times those of E. So the backward pass starts from s · ∂E/∂y, its
results are divided by s in float32, and in between nothing is lost as long as nothing exceeds 65504.

How large is s? As large as possible (Micikevicius et al. 2018): it is doubled after 2000 steps without overflow. If a
gradient is infinite or NaN, the step changes neither the parameters nor the optimizer's memory, and s is halved.
bfloat16 has the range of float32 and needs none of this.

Nothing is read back in a step: s, the number of good steps and that of skipped ones are 0-d arrays on the network's
backend, and everything that depends on them is chosen there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import integer, positive
from ..layers.layer import Layer
from ..ops.sums import wide
from ..recording import Stateful, assign, owned
from ..shim import Array, accelerated, backend_of, to_numpy
from .gradients import Gradients

__all__ = ["FixedLossScale", "LossScale", "all_finite", "as_loss_scale", "guarded", "unscale"]

SMALLEST = 2.0**-126
"""The smallest float32 with all its digits; 1 divided by it is the second largest power of two."""


class LossScale(Stateful):
    """A loss scale that adjusts itself: doubled after ``interval`` good steps, halved by an overflow.

    It begins with ``scale`` and stays between ``least`` and ``most``; ``growth`` and ``backoff`` are the factors. All
    are numbers above 0; powers of two change no digit of a gradient. ``fit(..., loss_scale="auto")`` creates one for a
    float16 network. A training step by hand:

    >>> import dualnet as dn
    >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2)]).init((4,), dtype="float16")
    >>> x, t = dn.asarray([[0.5, -1.0, 2.0, 1.0]]), dn.asarray([1])
    >>> optimizer, scale = dn.Adam(), dn.LossScale()
    >>> y, pullback = net.forward(x, train=True)
    >>> loss, dloss = dn.losses.softmax_cross_entropy(y.astype("float32"), t)  # sums, exp and log in float32
    >>> dx, grads = pullback(dloss(scale.on(y)).astype(y.dtype))               # s · ∂E/∂y, in float16
    >>> grads, finite = scale.unscale(grads)                                   # float32, divided by s
    >>> optimizer.step(net, grads, finite=finite)                              # skipped if they are not finite
    >>> scale.update(finite)
    >>> scale.state_dict()
    {'scale': 65536.0, 'good': 1, 'skipped': 0}
    """

    names = ("scale", "good", "skipped")

    def __init__(
        self,
        scale: float = 2.0**16,
        *,
        growth: float = 2.0,
        backoff: float = 0.5,
        interval: int = 2000,
        least: float = 1.0,
        most: float = 2.0**24,
    ) -> None:
        op = type(self).__name__
        self.initial = positive(scale, "scale", op=op)
        self.growth, self.backoff = positive(growth, "growth", op=op), positive(backoff, "backoff", op=op, most=1)
        self.interval = integer(interval, "interval", op=op)
        self.least, self.most = positive(least, "least", op=op), positive(most, "most", op=op)
        if self.growth < 1 or not self.least <= self.initial <= self.most:
            raise ValueError(
                f"{op}: expected growth of at least 1, got {growth!r}, and least <= scale <= most, got {least!r}, "
                f"{scale!r} and {most!r}"
            )
        if self.least < SMALLEST or self.most > 1 / SMALLEST:  # the scale is a float32, and so is 1 / scale
            raise ValueError(
                f"{op}: a scale must be from {SMALLEST:.3g} to {1 / SMALLEST:.3g}, got {least!r} to {most!r}"
            )
        self._state: dict[str, Any] = {"scale": self.initial, "good": 0, "skipped": 0}

    def on(self, array: Array) -> Array:
        """The scale on the array's backend, a 0-d float32 array: call the pullback of the loss with it."""
        backend = backend_of(array)
        if backend_of(self._state["scale"]) is not backend:
            for name, dtype in zip(self.names, ("float32", "int64", "int64")):
                value = self._state[name]
                number = value if backend_of(value) is None else to_numpy(value).item()
                assign(self, ("_state", name), backend.xp.full((), number, dtype=dtype))
        return self._state["scale"]

    def unscale(self, grads: Gradients) -> tuple[Gradients, Array]:
        """The gradients in float32, divided by the scale; and whether all of them are finite, as a 0-d bool array."""
        if not grads:
            raise ValueError(f"{type(self).__name__}.unscale: expected at least one gradient")
        scale, values = self.on(next(iter(grads.values()))), tuple(grads.values())
        finite = all_finite(*values)
        return dict(zip(grads, unscale(1.0 / scale, *values))), finite

    def update(self, finite: Array) -> None:
        """After the step: a good one counts towards a larger scale, an overflow makes the scale smaller."""
        xp, scale = backend_of(finite).xp, self.on(finite)
        good = self._state["good"] + 1
        grows = good >= self.interval
        larger = xp.where(grows, xp.minimum(scale * self.growth, self.most), scale)
        smaller = xp.maximum(scale * self.backoff, self.least)
        self._set("scale", xp.where(finite, larger, smaller))
        self._set("good", xp.where(finite & ~grows, good, 0))
        self._count(finite)

    def _count(self, finite: Array) -> None:
        self._set("skipped", self._state["skipped"] + (~finite).astype("int64"))

    def _set(self, name: str, value: Array) -> None:
        assign(self, ("_state", name), value.astype(self._state[name].dtype, copy=False))

    def state_dict(self) -> dict[str, Any]:
        """``scale``, ``good`` (steps since the scale changed) and ``skipped``, as numbers. Waits for the device."""
        read = {name: v if backend_of(v) is None else to_numpy(v).item() for name, v in self._state.items()}
        return {"scale": float(read["scale"]), "good": int(read["good"]), "skipped": int(read["skipped"])}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state. Raises ``ValueError``, and changes nothing, if it is not one."""
        op = f"{type(self).__name__}.load_state_dict"
        if not isinstance(state, dict) or set(state) != set(self.names):
            raise ValueError(f"{op}: expected {', '.join(self.names)}; got {state!r}")
        counts = {name: integer(state[name], name, op=op, least=0) for name in ("good", "skipped")}
        scale = positive(state["scale"], "scale", op=op, most=1 / SMALLEST)
        self._state = {"scale": max(scale, SMALLEST), **counts}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.initial:g})"


class FixedLossScale(LossScale):
    """A loss scale that never changes; a step that overflows is still skipped.

    >>> import dualnet as dn
    >>> dn.FixedLossScale(1024.0)
    FixedLossScale(1024)
    """

    def __init__(self, scale: float) -> None:
        super().__init__(scale, least=scale, most=scale)

    def update(self, finite: Array) -> None:
        self.on(finite)
        self._set("good", self._state["good"] + finite.astype("int64"))
        self._count(finite)


def as_loss_scale(loss_scale: Any, dtype: Any) -> LossScale | None:
    """A loss scale or None, from "auto" (for float16, one that adjusts itself), None, a number, or a loss scale.

    >>> import dualnet as dn, numpy
    >>> as_loss_scale("auto", numpy.dtype("float32")) is None, as_loss_scale(128, numpy.dtype("float32"))
    (True, FixedLossScale(128))
    """
    if loss_scale is None or isinstance(loss_scale, LossScale):
        return loss_scale
    if loss_scale == "auto":
        return LossScale() if dtype.name == "float16" else None
    if isinstance(loss_scale, str):
        raise ValueError(f"loss_scale must be 'auto', None, a number or a dn.LossScale, got {loss_scale!r}")
    return FixedLossScale(positive(loss_scale, "loss_scale", op="fit"))


# -- over all gradients ------------------------------------------------------------------------------------------------


@accelerated
def all_finite(first: Array, *others: Array) -> Array:
    """Is every number of every array finite? A 0-d bool array, on their backend."""
    xp = backend_of(first).xp
    finite = xp.all(xp.isfinite(wide(first)))
    for array in others:
        finite = finite & xp.all(xp.isfinite(wide(array)))
    return finite


@accelerated
def unscale(by: Array, *gradients: Array) -> tuple[Array, ...]:
    """Every gradient times ``by``, a 0-d array; 16-bit gradients become float32."""
    return tuple(wide(g) * by.astype(wide(g).dtype, copy=False) for g in gradients)


# -- running statistics ------------------------------------------------------------------------------------------------


def guarded(net: Layer) -> Callable[[Array], None]:
    """Remember the running statistics; the returned function restores them if ``finite`` is False.

    A batch whose activations overflow would spoil them for good. Call this before the forward pass:

    >>> import dualnet as dn
    >>> norm = dn.BatchNorm().init((1,))
    >>> put_back = guarded(norm)
    >>> norm.moving_mean = dn.asarray([float("nan")])  # as after an overflow
    >>> put_back(dn.asarray(False))
    >>> dn.to_numpy(norm.moving_mean)
    array([0.], dtype=float32)
    """
    remembered: dict[tuple[int, str], tuple[Layer, str, Array]] = {}
    for _, layer in net.walk():
        for name in layer.state_names:
            value = getattr(layer, name)
            if backend_of(value) is not None and (id(layer), name) not in remembered:
                remembered[id(layer), name] = layer, name, value.copy() if owned(layer, name) else value

    def put_back(finite: Array) -> None:
        for layer, name, old in remembered.values():
            new = getattr(layer, name)
            if new is not old:
                assign(layer, name, backend_of(finite).xp.where(finite, new, old))

    return put_back
