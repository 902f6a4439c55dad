"""A whole training step as one CUDA graph: recorded once, and from then on repeated without Python.

A step of a small network is a hundred short kernels, and launching them from Python takes longer than running them on
the GPU. A graph launches them all at once. On a backend without graphs (NumPy) a captured step is the step itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arguments import flag
from ..recording import CaptureError, Recording
from ..shim import Backend, asarray, backend_of, transfers
from ..shim.process import reader
from ..shim.transfers import TransferForbidden

__all__ = ["Captured", "CaptureError", "capture"]

WARM_UPS = 2
"""Steps before the recorded one: the first compiles, plans and allocates what is kept, the second finds it ready."""

_capture = reader("DUALNET_CAPTURE")


def capture(step: Callable[..., Any], *, eager: bool = False) -> Captured:
    """A training step that is recorded as a CUDA graph and then repeated without Python; also a decorator.

    ``step(x, t, ...)`` takes arrays, does all of a step (forward, loss, pullback, ``optimizer.step``) and returns
    arrays, tuples or dictionaries of them, or None. The captured step is called like the step, and trains at every
    call: the first two calls with arrays of one shape run the Python code, the third records it, and from then on the
    graph is launched. One graph is kept for each combination of shapes and dtypes, with the memory that it needs.

    It returns copies, and copies arguments on the host to the device. A captured step raises :class:`CaptureError` if
    it reads a value back (``dn.to_numpy``, ``if x:``), copies from the host, or keeps something from step to step
    without :mod:`dualnet.recording`. Learning rates, schedules, clipping, dropout, batch norm, ``load_state_dict``
    between two steps: all of that works.

    On NumPy a captured step is the step itself. With ``eager=True``, or ``DUALNET_CAPTURE=0`` in the environment, the
    same kernels run in the same order, launched by Python. The bits are the same, and a fault is easier to find.

    >>> import dualnet as dn
    >>> net, opt = dn.Sequential([dn.Dense(2)]).init((3,)), dn.SGD(lr=0.1, momentum=0.9)
    >>> @dn.capture
    ... def step(x, t):
    ...     y, pullback = net.forward(x, train=True)
    ...     loss, dloss = dn.losses.softmax_cross_entropy(y, t, check_labels=False)
    ...     _, gradients = pullback(dloss())
    ...     opt.step(net, gradients)
    ...     return loss
    >>> x, t = dn.asarray([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]]), dn.asarray([0, 1])
    >>> losses = [float(dn.to_numpy(step(x, t))) for _ in range(5)]
    >>> losses == sorted(losses, reverse=True), opt.steps
    (True, 5)
    """
    if not callable(step):
        raise TypeError(f"capture: expected a function of arrays that makes one training step, got {step!r}")
    return Captured(step, eager=flag(eager, "eager", op="capture"))


class Captured:
    """The captured step that :func:`capture` returns. ``step.graphs`` is the number of recorded graphs."""

    def __init__(self, step: Callable[..., Any], *, eager: bool = False) -> None:
        self.step, self.eager = step, eager
        self._recordings: dict[str, Recording] = {}  # by backend: all shapes share numbers and arrays
        self._takes: dict[tuple, Take] = {}

    @property
    def graphs(self) -> int:
        """How many graphs were recorded."""
        return sum(take.steps > WARM_UPS and not take.eager for take in self._takes.values())

    def __call__(self, *arguments: Any) -> Any:
        backend = _backend(arguments)
        if backend is None or backend.recorder is None:
            return self.step(*arguments)
        return _copied(self.run(backend, arguments))

    def run(self, backend: Backend, arguments: tuple) -> Any:
        """One step. Returns the step's own arrays, which the next step overwrites."""
        key = (backend.name, *map(_kind, arguments))
        take = self._takes.get(key)
        if take is None:
            recording = self._recordings.setdefault(backend.name, Recording(backend))
            take = self._takes[key] = Take(self.step, backend, recording, arguments, self.eager)
        return take(arguments)


class Take:
    """A step for arguments of one kind: their buffers, the steps to warm up, and then the graph."""

    def __init__(
        self, step: Callable[..., Any], backend: Backend, recording: Recording, arguments: tuple, eager: bool
    ) -> None:
        self.step, self.backend, self.recording = step, backend, recording
        self.recorder, self.eager = backend.recorder(), eager or _off()  # type: ignore[misc]
        self.arguments = tuple(_buffer(a, backend) for a in arguments)
        self.steps = 0
        self.moves: dict = {}
        self.kept: list = []  # arrays outside the graph's memory that it writes to

    def __call__(self, arguments: tuple) -> Any:
        for buffer, given in zip(self.arguments, arguments):
            where = backend_of(given)
            if where is not None:
                buffer[...] = given if where is self.backend else asarray(given, backend=self.backend.name)
        self.recording.prepare()
        by_python = self.eager or self.steps < WARM_UPS
        with self.recording.undoing(in_place=by_python):  # recording computes nothing, and a graph allocates nothing
            if by_python:
                self.recorder.run(self._python)
            else:
                if self.steps == WARM_UPS:
                    self._record()
                else:
                    self.recording.move(self.moves)
                self.recorder.launch()
        self.steps += 1
        return self.recorder.outputs

    def _record(self) -> None:
        before = self.recording.counts()
        self.recording.closed, self.recording.kept = True, []
        try:
            self.recorder.record(self._python)
        except (RuntimeError, NotImplementedError) as error:
            if isinstance(error, CaptureError):
                raise
            raise CaptureError(
                f"this step cannot be recorded as a CUDA graph ({error}). A captured step reads no value back and "
                "waits for nothing; train without capture to see which line does."
            ) from error
        finally:
            self.recording.closed, self.kept = False, self.recording.kept
        after = self.recording.counts()
        self.moves = {key: after[key] - before[key] for key in before if after[key] != before[key]}

    def _python(self) -> Any:
        try:
            with self.recording.running(), transfers("forbid"):
                return self.step(*self.arguments)
        except TransferForbidden as error:
            raise CaptureError(
                f"a captured step makes {error}. Compute with array functions, and read what the step returns; or "
                "train without capture."
            ) from error


def _off() -> bool:
    asked = _capture().strip().lower()
    if asked not in ("", "0", "1"):
        raise ValueError(f"DUALNET_CAPTURE is 0 (launch each kernel from Python) or 1, got {asked!r}")
    return asked == "0"


def _backend(arguments: tuple) -> Backend | None:
    """The backend of the first array on a device, or else of the first array."""
    backends = [backend for backend in map(backend_of, arguments) if backend is not None]
    return next((backend for backend in backends if not backend.on_host), backends[0] if backends else None)


def _kind(argument: Any) -> Any:
    """What two calls must have in common to share a graph."""
    if backend_of(argument) is not None:
        return tuple(argument.shape), argument.dtype
    if argument is None or isinstance(argument, (bool, int, float, str)):
        return argument
    raise TypeError(
        f"a captured step takes arrays, numbers and strings, got {argument!r}; let the function refer to other objects"
    )


def _buffer(argument: Any, backend: Backend) -> Any:
    if backend_of(argument) is None:
        return argument
    return backend.xp.empty(tuple(argument.shape), dtype=argument.dtype)


def _copied(outputs: Any) -> Any:
    if isinstance(outputs, dict):
        return {name: _copied(value) for name, value in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(map(_copied, outputs))
    return outputs if backend_of(outputs) is None else outputs.copy()
