"""EMA: weights averaged over the last steps, which are often better than those of the last step alone."""

from __future__ import annotations

from typing import Any

from ...arguments import fraction
from ...shim import asarray, backend_of
from ...shim.dtypes import is_floating
from .base import Callback, Run

__all__ = ["EMA"]


class EMA(Callback):
    """An exponential moving average of all parameters and running statistics, taken after each step.

        average ← d · average + (1 − d) · w          d = min(decay, (1 + t) / (10 + t)) at step t = 1, 2, …

    During an epoch the network has the weights that the optimizer changes. After the epoch's last step it has the
    average: validation figures, :class:`EarlyStopping`, :class:`ModelCheckpoint` and everything else that looks at the
    end of an epoch see the average. The next epoch begins with the optimizer's weights again. After ``fit``, even if it
    was interrupted, **the average is in the network**, and :meth:`trained` returns the optimizer's weights.

    Put it before the other callbacks: they are called in order.

    Source: Polyak and Juditsky (1992); Tarvainen and Valpola (2017). As in TensorFlow, d is smaller at the beginning,
    so that the first weights are soon forgotten.

    >>> import dualnet as dn
    >>> (x, t), test = dn.data.load_digits()
    >>> net, ema = dn.Sequential([dn.Flatten(), dn.Dense(10)]), dn.callbacks.EMA(0.99)
    >>> history = net.fit(x, t, epochs=3, optimizer=dn.Adam(0.01), callbacks=ema, verbose=0)
    >>> net.evaluate(*test)["accuracy"] > 0.8, sorted(ema.trained())
    (True, ['1.b', '1.w'])
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = fraction(decay, "decay", op="EMA")
        self.average: dict[str, Any] = {}
        self._raw: dict[str, Any] | None = None
        self._steps = 0

    def trained(self) -> dict[str, Any]:
        """The optimizer's own weights, by name, while the average is in the network."""
        if self._raw is None:
            raise ValueError("EMA: the network has the optimizer's own weights now; get them with net.state_dict()")
        return dict(self._raw)

    def on_fit_begin(self, run: Run) -> None:
        self._raw, self._steps, self.average = None, 0, run.net.state_dict()

    def on_epoch_begin(self, run: Run) -> None:
        if self._raw is not None:
            run.net.load_state_dict({**self._raw, **_counters(run.net.state_dict())})
            self._raw = None

    def on_batch_end(self, run: Run) -> None:
        self._steps += 1
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        for name, value in run.net._state().items():
            if _averages(value):
                old = asarray(self.average[name], backend=backend_of(value).name)
                self.average[name] = old + (1 - decay) * (value - old)

    def on_steps_end(self, run: Run) -> None:
        self._exchange(run)

    def on_fit_end(self, run: Run) -> None:
        self._exchange(run)

    def _exchange(self, run: Run) -> None:
        """Put the average into the network, and keep the weights that were there."""
        if self._raw is None:
            self._raw = run.net.state_dict()
            run.net.load_state_dict({**self.average, **_counters(self._raw)})

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "average": dict(self.average), "raw": self._raw}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps, self.average, self._raw = int(state["steps"]), dict(state["average"]), state["raw"]


def _averages(value: Any) -> bool:
    return backend_of(value) is not None and is_floating(value.dtype)


def _counters(state: dict[str, Any]) -> dict[str, Any]:
    """The parts of the state that have no average: the seeds and counters of dropout."""
    return {name: value for name, value in state.items() if not _averages(value)}
