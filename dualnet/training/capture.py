"""A whole training step, or a network's prediction, recorded once and then repeated without Python.

A step of a small network is a hundred short calls, and Python takes longer to make them than they take to compute. On a
GPU the recorded step is a CUDA graph. On the CPU it is a list of calls to NumPy and oneDNN, each with its arrays
(:mod:`dualnet.backends.cpu.recorder`). On a backend that records nothing, a captured step is the step itself.
"""

from __future__ import annotations

import functools
import inspect
import signal
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

from ..arguments import flag
from ..layers.parameter import Parameter
from ..layers.state import LayerTree
from ..optimizers.loss_scale import LossScale
from ..optimizers.optimizer import Optimizer
from ..recording import CaptureError, Named, Recording, Settings, noting, within
from ..shim import Backend, asarray, backend_of, get_precision, transfers
from ..shim.process import reader
from ..shim.transfers import TransferForbidden
from .own_code import named_by
from .results import Results

__all__ = ["Captured", "CaptureError", "capture"]

WARM_UPS = 2
"""Steps before the recorded one: the first compiles, plans and allocates what is kept; the second finds it ready."""

IN_VAIN = 5
"""After this many recordings in a row that were never repeated, make no more."""

_capture = reader("DUALNET_CAPTURE")
_switches = [reader(f"DUALNET_{name}") for name in ("KERNELS", "ONEDNN", "TUNED", "AUTOTUNE", "CUDNN")]
"""The switches that decide which kernels run. (The recorder itself handles a change in the number of threads.)"""

_python = threading.RLock()
"""Held while a step's Python runs: meanwhile attributes hold views that no other thread may see."""


def capture(step: Callable[..., Any], *, eager: bool = False) -> Captured:
    """A training step that is recorded and then repeated without Python; also a decorator.

    ``step(x, t, ...)`` takes arrays, by place or by name, does all of a step (forward, loss, pullback,
    ``optimizer.step``) and returns arrays, or tuples, lists, dictionaries and dataclasses of them, or None. Numbers and
    strings, given or returned, are constants. Call the captured step like the step itself; every call trains. The first
    two calls with arrays of one shape run the Python code, the third records it, and later calls only repeat the
    recording: as a CUDA graph on a GPU, call by call on NumPy. On NumPy the fourth call also runs the Python code, on
    copies, and every array must come out with the same bits. Each combination of shapes, dtypes and constants has its
    own recording, with the memory that it needs.

    ``step`` may also be a network, for prediction: ``predict = dn.capture(net)``, and ``predict(x)`` is ``net(x)``. It
    computes with the weights that the network has at each call. A function may predict as well; its networks are those
    that it refers to by name, and all that its first call computes with.

    It returns copies, and copies arguments on the host to the device. A captured step raises :class:`CaptureError` if
    it reads a value back (``dn.to_numpy``, ``float(x)``, ``if x:``), copies from the host to a device, or keeps
    something from step to step without :mod:`dualnet.recording`. Learning rates, schedules, clipping, dropout, batch
    norm, ``load_state_dict`` between two steps: all of that works.

    With ``eager=True``, or ``DUALNET_CAPTURE=0`` in the environment, Python calls the same kernels in the same order.
    The bits are the same, and a fault is easier to find.

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
    >>> predict = dn.capture(net)
    >>> all((dn.to_numpy(predict(x)) == dn.to_numpy(net(x))).all() for _ in range(5))
    True
    """
    if not callable(step):
        raise TypeError(
            f"capture: expected a function of arrays that makes one training step, or a network, got {step!r}"
        )
    return Captured(step, eager=flag(eager, "eager", op="capture"))


class Captured:
    """The captured step that :func:`capture` returns. ``step.graphs`` is the number of recordings.

    It has the name, the docstring and the signature of the function. In a class it is a method, and each object has its
    own recordings. A copy, or one from a pickle, begins without recordings.
    """

    def __init__(self, step: Callable[..., Any], *, eager: bool = False) -> None:
        self._static = isinstance(step, staticmethod)
        step = step.__func__ if isinstance(step, staticmethod) else step
        network = getattr(step, "__self__", None)
        self._forward = isinstance(network, LayerTree) and getattr(step, "__name__", "") == "forward"
        if self._forward:
            step = network  # type: ignore[assignment]  # a pullback would belong to one call only
        if not isinstance(step, LayerTree):
            functools.update_wrapper(self, step, updated=())
        self.step, self.eager = step, eager
        self._recordings: dict[str, Recording] = {}  # by backend: all shapes share numbers and arrays
        self._takes: dict[tuple, Take] = {}
        self._place: tuple[type, str] | None = None  # for a method: the class that has it, and its name there
        self._alone = threading.RLock()
        self._busy = False
        self._in_vain = 0  # takes in a row that a setting made stale before they were repeated once

    @property
    def graphs(self) -> int:
        """How many steps were recorded: one for each shape."""
        return sum(take.steps > WARM_UPS and not take.eager for take in self._takes.values())

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        names: tuple[str, ...] = ()
        if options or self._forward:
            arguments, options = _in_order(self.step, arguments, options, _AS_NETWORK if self._forward else "")
            names, arguments = tuple(options), (*arguments, *options.values())
        backend = _backend(arguments)
        if backend is None or backend.recorder is None or within():  # as a part of another captured step
            return _called(self.step, arguments, names)
        with self._one_at_a_time():
            take = self._take(backend, arguments, names)
            if take is None:
                given = [a if backend_of(a) is None else asarray(a, backend=backend.name) for a in arguments]
                return _called(self.step, tuple(given), names)
            arrays = take(arguments)
            if take.repeated():
                self._in_vain = 0
            return take.results.filled([array.copy() for array in arrays])

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """All calls share arguments, memory and results, so another thread waits until this one has its copies."""
        with self._alone:
            if self._busy:  # an RLock lets the same thread in: a signal handler, or a finaliser
                raise CaptureError(
                    f"the captured step {_name(self.step)} is called while it runs, by the same thread, for example by "
                    "a signal handler. Capture the step a second time for that call."
                )
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _take(self, backend: Backend, arguments: tuple, names: tuple[str, ...]) -> Take | None:
        """What runs a step with such arguments, and returns its own arrays; None if recordings do not last."""
        if self._in_vain >= IN_VAIN:
            return None
        key = (backend.name, names, *map(_kind, arguments))
        take = self._takes.get(key)
        if take is None or take.stale():
            if take is not None and self._was_in_vain(take):
                return None
            recording = self._recordings.setdefault(backend.name, Recording(backend))
            take = self._takes[key] = Take(self.step, backend, recording, arguments, names, self.eager)
        return take

    def _was_in_vain(self, take: Take) -> bool:
        """Was this one recording too many? Recording a step over and over takes far longer than running its Python."""
        changed = "" if take.eager or take.repeated() else take.settings.difference()
        if not changed:
            return False
        self._in_vain += 1
        if self._in_vain < IN_VAIN:
            return False
        warnings.warn(
            f"capture: {changed} changes so often that {IN_VAIN} recordings in a row were out of date before they were "
            "repeated once. So from now on Python runs the step, without a recording. To have it recorded, pass this "
            "number to the step as an array; in fit, make it an attribute that a layer or a loss object reads with "
            "dn.recording.live(self, name).",
            stacklevel=4,
        )
        self._takes.clear()
        for recording in self._recordings.values():
            recording.prepare()
        return True

    # -- as a method, and in copies

    def __get__(self, owner: Any, kind: type | None = None) -> Captured:
        """The captured method of this object, made once, if a function in a class was captured.

        The object keeps it under a special name: under the method's name, Python would find it before the method of a
        subclass. A shallow copy of the object also holds the captured method of the original, so check whose it is.
        """
        if owner is None or self._static or not isinstance(self.step, types.FunctionType):
            return self
        held, name = getattr(owner, "__dict__", None), self.step.__name__
        if held is None:
            raise TypeError(
                f"capture: {type(owner).__name__}.{name} is a captured method, and {type(owner).__name__} has "
                "__slots__, so its objects cannot keep recordings. Leave out the decorator, and capture the method of "
                f"one object instead: step = dn.capture(one.{name})"
            )
        key = f"_captured {self.step.__module__}.{self.step.__qualname__}"
        made = held.get(key)
        if made is None or made.step.__func__ is not self.step or made.step.__self__ is not owner:
            made = held[key] = Captured(types.MethodType(self.step, owner), eager=self.eager)
            made._place = self._found_in(type(owner))
        return made

    def _found_in(self, kind: type) -> tuple[type, str] | None:
        """The class that has this method, and the method's name there."""
        places = ((base, name) for base in kind.__mro__ for name, value in vars(base).items() if value is self)
        return next(places, None)

    def __reduce__(self) -> Any:
        """Copies and pickles hold the step, never a recording."""
        if self._place is not None:  # made by __get__
            return _method, (*self._place, self.step.__self__)  # type: ignore[attr-defined]
        name, found = getattr(self, "__qualname__", ""), sys.modules.get(self.__module__)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:
            return name  # a decorated function, as Python pickles functions
        return functools.partial(Captured, eager=self.eager), (self.step,)


def _method(kind: type, name: str, owner: Any) -> Any:
    """The captured method of an object that is copied, or comes from a pickle."""
    return vars(kind)[name].__get__(owner, type(owner))


_AS_NETWORK = (
    ". dn.capture(net.forward) is dn.capture(net), which predicts: a pullback belongs to a single call. To train, "
    "capture a function that calls net.forward and then the pullback, and returns arrays"
)


def _in_order(
    step: Callable[..., Any], arguments: tuple, options: dict[str, Any], hint: str
) -> tuple[tuple, dict[str, Any]]:
    """Arguments given by name moved to their places, so that ``step(x, t=t)`` is ``step(x, t)``; the others sorted."""
    try:
        signature = inspect.signature(step)
    except (TypeError, ValueError):  # written in C
        return arguments, dict(sorted(options.items()))
    try:
        bound = signature.bind(*arguments, **options)
    except TypeError as error:
        raise TypeError(f"{_name(step)}{signature}: {error}{hint}") from None
    return bound.args, dict(sorted(bound.kwargs.items()))


def _called(step: Callable[..., Any], arguments: tuple, names: tuple[str, ...]) -> Any:
    """Call it with the last arguments by these names."""
    if not names:
        return step(*arguments)
    first = len(arguments) - len(names)
    return step(*arguments[:first], **dict(zip(names, arguments[first:])))


def _name(step: Any) -> str:
    while isinstance(step, functools.partial):
        step = step.func
    return getattr(step, "__qualname__", type(step).__name__)


class Take:
    """A step for arguments of one kind: their buffers, the steps to warm up, and then the recorded step."""

    def __init__(
        self,
        step: Callable[..., Any],
        backend: Backend,
        recording: Recording,
        arguments: tuple,
        names: tuple[str, ...],
        eager: bool,
    ) -> None:
        self.step, self.backend, self.recording, self.names = step, backend, recording, names
        self.switches = _switched()
        self.recorder, self.eager = backend.recorder(), eager or _off()  # type: ignore[misc]
        self.arguments = tuple(_buffer(a, backend) for a in arguments)
        self.steps = 0
        self.moves: dict = {}
        self.read: dict = {}  # the attributes of layers, parameters and optimizers that the first step has read
        self.kept: list = []  # arrays outside the recorder's memory that it writes to
        self.settings = Settings()  # what the recorded step holds as constants
        self.results: Results | None = None  # how the arrays that it returns are put together
        self.alike: list = []  # buffers that have held nothing but what was recorded, each with a copy of that
        self.news: list = []  # those of them that hold something else at this call

    def repeated(self) -> bool:
        """Has the recording been repeated without Python?"""
        return self.steps > WARM_UPS + 1

    def stale(self) -> bool:
        """Has something changed that the step holds as a constant?"""
        return self.settings.changed() or self.switches != _switched()

    def __call__(self, arguments: tuple) -> Any:
        for buffer, given in zip(self.arguments, arguments):
            where = backend_of(given)
            if where is not None:
                buffer[...] = given if where is self.backend else asarray(given, backend=self.backend.name)
        if self.eager or self.steps < WARM_UPS:
            with _python:
                self.recording.prepare()
                outputs = self._run()
        else:
            try:
                with _python:
                    self.recording.prepare()
                    if self.steps == WARM_UPS:
                        self._record()
                    else:
                        self._rehearse()
                outputs = self._repeat()
            except CaptureError:
                raise
            except (RuntimeError, NotImplementedError) as error:
                raise self._explained(error) from error
        self.steps += 1
        return outputs

    def _run(self) -> Any:
        """The step, launched by Python."""
        with self.recording.undoing(in_place=True):
            outputs = self.recorder.run(self._python)
            if self.steps and (changed := self.settings.difference()):
                self._check_changed(changed)
        if self.steps == 0:
            self._follow()
        return outputs

    def _check_changed(self, changed: str) -> None:
        """The step itself changed this. A setting raises an error; a name in the user's code warns, and is ignored."""
        differences = self.settings.differences()
        if not all(isinstance(owner, Named) for owner, _ in differences):
            raise CaptureError(
                f"{changed} is changed by the captured step {_name(self.step)} itself, and would no longer change "
                "when the step is repeated without Python. Return an array instead, or keep an array and set it "
                "with dn.recording.assign(self, name, array)."
            )
        listed = ", ".join(f"{name} of {owner.label}" for owner, name in differences)
        are, it, each = ("is", "it", "it") if len(differences) == 1 else ("are", "them", "each")
        warnings.warn(
            f"capture: {listed} {are} changed by the captured step itself, but not when the step is repeated without "
            f"Python. That does no harm if you only look at {it}. If the step computes with {it}, make {each} an "
            "attribute of the layer or loss object, and read it with dn.recording.live(self, name).",
            stacklevel=2,
        )
        self.recording.changing |= {(owner.label, name) for owner, name in differences}
        self.settings = self.recording.settings(self.settings.owners)

    def _follow(self) -> None:
        """Follow weights, statistics and settings: what changes between two steps must reach the recorded one.

        Follow all of them in the networks that the step names; elsewhere, only what the step has read.
        """
        found = networks(self.step)
        for network in found:
            for parameter in network.parameters().values():
                self.recording.follow(parameter, "value")
            for layer, attribute in network._statistics().values():
                self.recording.follow(layer, attribute)
        for (_, name), owner in self.read.items():
            weight = isinstance(owner, Parameter) and name == "value"
            if weight or (isinstance(owner, LayerTree) and name in owner.state_names):
                self.recording.follow(owner, name)
        owners = list({id(owner): owner for owner in [*self.recording.owners(), *self.read.values()]}.values())
        self.read = {}
        owners = _with_settings(found, owners)
        self.settings = self.recording.settings([*owners, *named_by(self.step, owners)])

    def _repeat(self) -> Any:
        """The step without Python; with Python if it takes a different path than the recorded one."""
        with _Whole() if self.moves or getattr(self.recorder, "changes", True) else nullcontext():
            done = self.recorder.launch()
            if done:
                self.recording.move(self.moves)
        if not done:
            with _python:
                return self._run()
        if self.news and self.recorder.checked:  # compared with what Python makes of them
            self.alike = [pair for pair in self.alike if all(pair is not other for other in self.news)]
        return self.recorder.outputs

    def _record(self) -> None:
        """Run the step's Python for the recorder; it changes nothing."""
        with self.recording.undoing(in_place=False), self.recording.on_trial():
            before = self.recording.counts()
            self.recording.kept = []
            try:
                self.recorder.record(self._python)
            finally:
                self.kept = self.recording.kept
            after = self.recording.counts()
            self.moves = {key: after[key] - before[key] for key in before if after[key] != before[key]}
        self.alike = [] if self.recorder.checked else [(buffer, buffer.copy()) for buffer in self._buffers()]

    def _rehearse(self) -> None:
        """Let the recorder see what Python computes in this step, as soon as an argument differs from the recorded one.

        So if the recording holds a constant instead of an argument, we find it before it does any harm, however late
        the argument changes.
        """
        self.news = [pair for pair in self.alike if _differ(*pair)]
        if self.recorder.checked and not self.news:
            return
        with self.recording.on_trial():
            if self.news or not self.alike:
                self.recorder.rehearse(self._python)
            else:
                self._rehearse_turned()

    def _rehearse_turned(self) -> None:
        """The same batch again: turn it around, compare, and put everything back afterwards."""
        before, alike = self.recording.values(), self.alike
        for buffer, _ in self.alike:
            buffer[...] = buffer[tuple(slice(None, None, -1) for _ in buffer.shape)].copy()
        try:
            self.recorder.rehearse(self._python)
            self.recorder.launch()
            if self.recorder.checked:
                self.alike = [pair for pair in self.alike if not _differ(*pair)]
        finally:
            for array, values in before:
                array[...] = values
            for buffer, seen in alike:
                buffer[...] = seen

    def _buffers(self) -> list[Any]:
        return [buffer for buffer in self.arguments if backend_of(buffer) is not None]

    def _explained(self, error: Exception) -> CaptureError:
        """The error of a recorder that cannot record this, explained for a captured step."""
        how = "" if self.backend.on_host else " as a CUDA graph"
        return CaptureError(
            f"this step cannot be recorded{how} ({error}). A captured step must not read a value back or wait for "
            "anything; train without capture to see which line does."
        )

    def _python(self) -> Any:
        """The step's arrays; the containers around them are kept here, and must be the same in every run."""
        try:
            with self.recording.running(), transfers("forbid"):
                shown = tuple(a if backend_of(a) is None else self.recording.show(a) for a in self.arguments)
                first: AbstractContextManager[dict] = noting() if self.steps == 0 else nullcontext({})
                with first as self.read:
                    made = _called(self.step, shown, self.names)
        except TransferForbidden as error:
            raise CaptureError(
                f"a captured step makes {error}. Compute with array functions, and read what the step returns; or "
                "train without capture."
            ) from error
        results = Results(made, self.backend, _name(self.step))
        if self.results is not None:
            self.results.check(results)
        arrays, results.arrays = results.arrays, []  # the first run's would be kept alive
        self.results = self.results or results
        return arrays


def _with_settings(found: list[LayerTree], owners: list[Any]) -> list[Any]:
    """Layers, parameters, optimizers and loss scales that a step uses; frozen parameters as well."""
    layers: list[Any] = [layer for network in found for _, layer in network.walk()]
    layers += [owner for owner in owners if isinstance(owner, (LayerTree, Optimizer, LossScale))]
    parameters = [parameter for network in found for parameter in network.parameters().values()]
    for optimizer in layers:
        if isinstance(optimizer, Optimizer):
            parameters += [parameter for ref in optimizer._owners.values() if (parameter := ref()) is not None]
    parameters += [owner for owner in owners if isinstance(owner, Parameter)]
    return list({id(one): one for one in [*layers, *parameters]}.values())


def networks(step: Any) -> list[LayerTree]:
    """The networks that a step refers to: in its closure, arguments, global names or the object that it belongs to.

    >>> import dualnet as dn
    >>> net = dn.Dense(2)
    >>> networks(lambda x: net(x)) == networks(net) == [net]
    True
    """
    found: list[LayerTree] = []
    seen: set[int] = set()
    waiting = [step]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, LayerTree):
            found.append(one)
        elif isinstance(one, functools.partial):
            waiting += [one.func, *one.args, *one.keywords.values()]
        elif isinstance(one, types.MethodType):
            held = getattr(one.__self__, "__dict__", {}).values()
            waiting += [one.__func__, one.__self__, *(value for value in held if isinstance(value, LayerTree))]
        elif isinstance(one, types.FunctionType):
            waiting += _referred(one)
        elif isinstance(call := getattr(type(one), "__call__", None), types.FunctionType):  # noqa: B004
            waiting.append(types.MethodType(call, one))
    return found


def _referred(function: types.FunctionType) -> Iterator[Any]:
    """What a function refers to by name: its closure, its defaults, and global networks and functions beside it."""
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty one
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    for name in _names(function.__code__):
        value = function.__globals__.get(name)
        beside = isinstance(value, types.FunctionType) and value.__module__ == function.__module__
        if beside or isinstance(value, (LayerTree, functools.partial)):
            yield value


def _names(code: types.CodeType) -> Iterator[str]:
    """The global names that a function's code uses."""
    yield from code.co_names
    for inner in code.co_consts:  # lambdas and comprehensions
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_signals: Any = getattr(signal, "_signal", signal)
"""What CPython's ``signal`` wraps: it returns enums, which takes ten times as long."""


class _Whole:
    """Delays signals until the block ends, so that arrays and counts advance together or not at all.

    A handler may raise as soon as it is set, between any two calls here. Whatever it raises, all handlers are restored,
    and every signal that came is handled.
    """

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}  # empty in a thread that signals do not reach
        self.came: list[Any] = []
        self.over = False

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():  # signals reach only the main thread
            return
        try:
            for number in SIGNALS:
                if callable(handler := _signals.getsignal(number)):
                    self.held[number] = handler
                    _signals.signal(number, self._note)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        self.over = True
        try:
            self._put_back([*self.held])
        finally:
            self._handle()

    def _put_back(self, numbers: list[int]) -> None:
        try:
            while numbers:
                _signals.signal(numbers[0], self.held[numbers[0]])
                del numbers[0]
        finally:
            if numbers:
                self._put_back(numbers)

    def _handle(self) -> None:
        """Call the handlers in order. If several raise, the last error has the others as its context, as usual."""
        try:
            while self.came:
                number, frame = self.came.pop(0)
                self.held[number](number, frame)
        finally:
            if self.came:
                self._handle()

    def _note(self, number: int, frame: Any) -> None:
        self.came.append((number, frame))
        if self.over:  # this handler should be gone: an error came in between
            _signals.signal(number, self.held[number])
            self._handle()


def _switched() -> list[str]:
    """The switches that a recorded step obeyed."""
    return [_capture(), get_precision(), *[switch() for switch in _switches]]


def _off() -> bool:
    asked = _capture().strip().lower()
    if asked not in ("", "0", "1"):
        raise ValueError(f"DUALNET_CAPTURE must be 0 (launch each kernel from Python) or 1, got {asked!r}")
    return asked == "0"


def _backend(arguments: tuple) -> Backend | None:
    """The backend of the first array on a device, or else of the first array."""
    backends = [backend for backend in map(backend_of, arguments) if backend is not None]
    return next((backend for backend in backends if not backend.on_host), backends[0] if backends else None)


def _kind(argument: Any) -> Any:
    """What two calls must have in common to share a recording."""
    if backend_of(argument) is not None:
        return tuple(argument.shape), argument.dtype
    if isinstance(argument, float):
        return type(argument), float.__repr__(argument)  # NaN equals itself here, and -0.0 is not 0.0
    if argument is None or isinstance(argument, (bool, int, str)):
        return type(argument), argument
    raise TypeError(
        f"a captured step takes arrays, numbers and strings, got {argument!r}; let the function refer to other objects"
    )


def _buffer(argument: Any, backend: Backend) -> Any:
    if backend_of(argument) is None:
        return argument
    return backend.xp.empty(tuple(argument.shape), dtype=argument.dtype)


def _differ(one: Any, other: Any) -> bool:
    return bool((one != other).any())
