"""``check_finite=True``: the first NaN or infinity stops the training, and the error says where it came from.

After each step one number is read back: are the loss, the gradients and the network's state finite? If not, the step
is undone and repeated with every layer watched, to find the first one that turned finite numbers into NaN or infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy

from ..layers.containers import forward_of
from ..layers.layer import Layer
from ..layers.several import as_dtype, each, first, parts, rows
from ..layers.watching import Run as Inside
from ..layers.watching import Visit, Watch, sharing_copy
from ..ops.sums import wide
from ..optimizers.loss_scale import LossScale, all_finite
from ..shim import Array, backend_of, to_numpy
from ..shim.dtypes import is_floating
from .accumulating import apart
from .callbacks import Run
from .ranks import ALONE, Alone
from .weighting import weighing

__all__ = ["FiniteSteps"]

ADVICE = 'The step was undone. What to do is in the guide "Find where a NaN comes from" (docs/how-to/nan.md).'


class NotFinite(Exception):
    """A step met a NaN or an infinity; the message says where, as far as the step itself knows."""


class FiniteSteps:
    """Training steps that raise ``FloatingPointError`` at the first NaN or infinity.

    ``step(x, t, ..., check=...)`` is :func:`dualnet.training.loop.train_step` with its first arguments given.
    """

    def __init__(
        self,
        step: Callable[..., None],
        run: Run,
        loss: Callable[..., Any],
        scale: LossScale | None,
        ranks: Alone = ALONE,
    ) -> None:
        self.step, self.run, self.loss, self.scale, self.ranks = step, run, loss, scale, ranks
        self.epoch, self.batches = -1, 0

    def __call__(self, *batches: Any) -> None:
        """A step of x and t, or of small batches as :func:`dualnet.training.loop.train_step` takes them."""
        if self.run.epoch != self.epoch:
            self.epoch, self.batches = self.run.epoch, self.run.batch * len(apart(batches))  # it may continue
        self.mends = self.scale is not None and _can_shrink(self.scale)
        try:
            self.step(*batches, check=self.look)
        except NotFinite as met:
            met_first = met
            found, batch = (str(met) if self.ranks.alone else ""), self.batches + 1
            for place, (x, t, w) in enumerate(apart(batches)):
                if not rows(x):
                    continue
                told = origin(self.run.net, x, t, weighing(self.loss, w), self.scale, self.mends)
                if told:
                    found, batch = told, batch + place
                    break
        else:
            self.batches += len(apart(batches))
            return
        found = self.ranks.words(found) or str(met_first)
        raise FloatingPointError(f"fit: epoch {self.run.epoch + 1}, batch {batch}: {found} {ADVICE}")

    def look(self, met: list[Any], gradients: dict[str, Array]) -> None:
        """Raise :class:`NotFinite` if a step met one, in its inputs and losses or in the gradients.

        A loss scale handles gradients that overflow: it skips the step and becomes smaller. That is no error, unless
        it cannot become smaller.
        """
        learned = {name: v for name, v in self.run.net.state_dict().items() if _is_floating(v)}
        arrays = [array for one in met for _, array in parts(one)]
        others = [*arrays, *(() if self.mends else gradients.values())]
        fine = bool(to_numpy(all_finite(*learned.values(), *filter(_is_floating, others))))
        if not self.ranks.any(not fine):
            return
        if not self.ranks.alone:  # each rank checks for itself
            raise NotFinite("a rank met a number that is not finite.")
        for name, array in learned.items():
            if counts := _counts(array):
                raise NotFinite(
                    f"the step leaves {counts} in {name}, though the gradients are finite: the learning rate or the "
                    "gradients are too large. Try a tenth of the rate, or clip_norm=1.0."
                )
        raise NotFinite("a number was not finite, but when the step was repeated on a copy, all were.")


def origin(
    net: Layer, x: Array, t: Array, loss: Callable[..., Any], scale: LossScale | None, mends: bool
) -> str | None:
    """Repeat a step on a copy, one layer at a time, and say where the first NaN or infinity comes from, or None."""
    copy = sharing_copy(net)
    try:
        with numpy.errstate(all="ignore"), Watch(copy, _around, apart=True):
            _check("the batch of inputs x", x, "Leave out such examples, or repair them.")
            _check("the batch of targets t", t, "Leave out such examples, or repair them.")
            y, pullback = forward_of(copy, x, train=True, need_dx=False)
            y = each(wide, y)
            value, dloss = loss(y, t)
            _check("the loss", value, "The outputs are finite; they are too large, or do not fit the targets t.")
            dy = each(as_dtype, dloss() if scale is None else dloss(scale.on(first(y))), pullback.dtype)
            if not mends:
                _check("the gradient of the loss", dy, "The loss itself is finite.")
                pullback(dy)
    except NotFinite as met:
        return str(met)
    return None


def _around(visit: Visit, run: Inside, x: Array) -> tuple[Array, Callable[[Array], Any]]:
    """Watch one layer. The layers inside a container come before it, so the first to fail is the innermost."""
    who = f"layer {visit.name} ({type(visit.layer).__name__})" if visit.name else type(visit.layer).__name__
    y, way = run(x)
    _check(f"the output of {who}", y, _reason(visit.layer, y))

    def back(dy: Array) -> Any:
        dx, gradients = way(dy)
        for name, array in (*gradients.items(), *parts(dx, "its input")):
            _check(
                f"in the backward pass, the gradient of {name} in {who}",
                array,
                "The layers after it gave finite ones. Try a tenth of the learning rate, or clip_norm=1.0.",
            )
        return dx, gradients

    return y, back


def _reason(layer: Any, y: Array) -> str:
    """Why a layer's output may be NaN or infinite although its input is finite."""
    for name, value in layer.state_dict().items():
        if counts := _counts(value):
            return f"Its {name} held {counts} before the step."
    if y.dtype.name == "float16":
        return "The largest number of float16 is 65504: use bfloat16, or scale the inputs down."
    return "Its input and its parameters were finite, but they grew too large. Try a tenth of the learning rate."


def _check(what: str, given: Any, reason: str) -> None:
    for name, array in parts(given, what):
        if counts := _counts(array):
            raise NotFinite(f"{name} {f'holds {counts}' if array.ndim else f'is {float(to_numpy(array))}'}. {reason}")


def _counts(array: Any) -> str:
    """``"3 NaN and 1 infinity among 20 numbers"``, or ``""``."""
    if not _is_floating(array):
        return ""
    values = to_numpy(wide(array))
    nan, infinite = int(numpy.isnan(values).sum()), int(numpy.isinf(values).sum())
    told = [f"{nan:,} NaN"] if nan else []
    told += [f"{infinite:,} {'infinity' if infinite == 1 else 'infinities'}"] if infinite else []
    return f"{' and '.join(told)} among {values.size:,} numbers" if told else ""


def _is_floating(array: Any) -> bool:
    return backend_of(array) is not None and is_floating(array.dtype)


def _can_shrink(scale: LossScale) -> bool:
    return scale.least < scale.state_dict()["scale"]
