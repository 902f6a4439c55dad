"""What every layer is: an op together with the parameters it uses.

A layer of your own needs ``forward`` and, as far as it has any, ``build`` (make parameters) and ``output_shape``::

    class Scale(dn.Layer):
        def build(self, input_shape, draw):
            self.g = draw.parameter("ones", (input_shape[-1],))

        def forward(self, x, train=False):
            g = self.g.cast(x.dtype)  # the value; in a network of 16 bits, a copy of it
            y = x * g

            def pullback(dy):
                return dy * g, {"g": (dy * x).sum(axis=tuple(range(x.ndim - 1)))}

            return y, dn.Pullback("scale", pullback, y, x=x, g=g)

Attributes that hold a :class:`Parameter` are its parameters, under the attribute's name. Shapes leave out the batch.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from ..arguments import flag
from ..backend import Array, asarray, backend_of, current, load, to_numpy
from ..dtypes import is_real
from ..geometry import check_shape, warn_of_channels_first
from ..initializers import Draw, Parameter
from ..ops.pullback import Pullback
from ..recording import Stateful

__all__ = ["Layer"]

Shape = tuple[int, ...]
Gradients = dict[str, Array]


HABITS = {
    "backward": "forward returns the way back: y, pullback = net.forward(x, train=True); dx, grads = pullback(dy)",
    "add": "A chain is made of a list: dn.Sequential([layer, layer, ...])",
    "compile": "Optimizer and loss are given to net.fit(x, t, optimizer=..., loss=...)",
    "train": "net.fit(x, t) trains; one pass in training is net.forward(x, train=True)",
    "eval": "net(x) is inference; net.evaluate(x, t) is loss and accuracy",
}
"""What other frameworks' methods are here."""


class Layer(Stateful):
    """Base class of layers and networks.

    >>> import dualnet as dn
    >>> class Double(dn.Layer):
    ...     def forward(self, x, train=False):
    ...         y = 2 * x
    ...         return y, dn.Pullback("double", lambda dy: (2 * dy, {}), y)
    >>> dn.check.gradient(Double().init((3,))).ok
    True
    """

    takes_need_dx = False  # does forward() accept need_dx=False, to skip the gradient of the first layer's input?
    state_names: tuple[str, ...] = ()  # attributes beside the parameters that belong to the state (running statistics)
    input_shape: Shape | None = None
    dtype: Any = None

    # The loop, the table and the files live above (training.py, summary.py, files.py) and are handed in from there.
    fit: Callable[..., Any]
    evaluate: Callable[..., Any]
    predict: Callable[..., Any]
    summary: Callable[..., Any]
    save: Callable[..., Any]
    fuse: Callable[..., Any]
    trace: Callable[..., Any]
    graph: Callable[..., Any]
    _repr_html_: Callable[..., str]

    def __init__(self) -> None:
        """A layer without arguments."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(vars(self).get(name), Parameter) and backend_of(value) is not None:
            owner = type(self).__name__
            raise TypeError(f"{owner}: {name} is a parameter, not an array. Write layer.{name}.value = array")
        super().__setattr__(name, value)

    if not TYPE_CHECKING:  # who checks types is to miss what no class declares

        def __getattr__(self, name: str) -> Any:
            """What to do about an attribute that is not there (yet)."""
            hint = f". {HABITS[name]}" if name in HABITS else ""
            if vars(self).get("input_shape") is None and not name.startswith("_"):
                hint = hint or (
                    ". It has no parameters yet: call init(input_shape) on the network in which it stands, with "
                    "keep=True if the other layers are to keep theirs"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")

    # -- what a layer defines

    def build(self, input_shape: Shape, draw: Draw) -> None:
        """Make the parameters, now that the shape of the input is known."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the output, without the batch. Raises ``ValueError`` where the layer cannot stand."""
        return tuple(input_shape)

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        """``y`` and its pullback, which returns ``(dx, {"parameter": gradient})``."""
        raise TypeError(f"{type(self).__name__} defines no forward(x, train)")

    def multiply_adds(self, input_shape: Shape) -> int:
        """Multiplications with a weight (and additions) for one image."""
        return 0

    def children(self) -> dict[str, Layer]:
        """The layers inside, by name."""
        return {}

    # -- what every layer can do

    def infer(self, x: Array) -> Array:
        """The output for an x that is known to fit, keeping nothing. A layer may have a shorter way than forward."""
        return both(self, self.forward(x, train=False))[0]

    def __call__(self, x: Array) -> Array:
        """Inference: the output for x (N, ...), keeping nothing."""
        return self.infer(self.enter(x))

    def init(self, input_shape: Shape, seed: int = 0, dtype: Any = None, keep: bool = False) -> Layer:
        """Infer every shape from that of one input (without the batch), and draw the parameters. Returns the layer.

        The draw happens on the host: a seed gives the same bits on every backend. ``dtype`` is what the layers compute
        in and defaults to ``DUALNET_DTYPE`` or float32. With ``"float16"`` or ``"bfloat16"`` (which needs ``pip install
        "dualnet[bfloat16]"``) parameters and running statistics stay float32: see :class:`dualnet.LossScale`.

        Layers that have parameters get new ones, unless ``keep=True``: then they keep them, running statistics and all,
        and only the others are drawn, as for a new head on trained layers. Where they do not fit, nothing changes.

        >>> import dualnet as dn
        >>> net = dn.Sequential([dn.Conv2D(6, 5), dn.Flatten(), dn.Dense(10)]).init((28, 28, 1), seed=0)
        >>> {name: p.shape for name, p in net.parameters().items()}["2.w"]
        (3456, 10)
        """
        shape = check_shape(input_shape, type(self).__name__)
        warn_of_channels_first(shape, type(self).__name__)
        keep = flag(keep, "keep", op="init")
        before = [(name, layer, dict(vars(layer))) for name, layer in self.walk()]
        if keep and dtype is None:
            dtype = next((layer.dtype for _, layer, _ in before if layer.input_shape is not None), None)
        draw = Draw(seed, dtype)
        current()  # an unusable backend is said now, before anything is drawn
        self.output_shape(shape)  # everything must fit before anything is allocated
        try:
            self.init_from(shape, draw)
            for name, layer, had in before if keep else ():
                _keep(name, layer, had)
        except BaseException:
            for _, layer, had in before:
                vars(layer).clear()
                vars(layer).update(had)
            raise
        return self

    def init_from(self, input_shape: Shape, draw: Draw) -> Shape:
        """Build this layer once for each :meth:`init`, also where it is shared; returns the output's shape."""
        output = self.output_shape(input_shape)
        if id(self) in draw.seen:
            first = draw.seen[id(self)]
            if self.parameters() and first[-1] != input_shape[-1]:
                raise ValueError(
                    f"{type(self).__name__} is shared by two places with different inputs, {first} and {input_shape}. "
                    "Its parameters fit one number of channels only; use two layers."
                )
            return output
        draw.seen[id(self)] = input_shape
        self.input_shape, self.dtype = input_shape, draw.dtype
        self.build(input_shape, draw)
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                value.name = f"{type(self).__name__}.{name}"
        return output

    def enter(self, x: Array) -> Array:
        """Check an input against this layer's, and convert its dtype to the layer's."""
        name = type(self).__name__
        if self.input_shape is None:
            raise ValueError(f"{name} has no parameters yet: call net.init(input_shape), such as net.init((28, 28, 1))")
        backend = backend_of(x)
        if backend is None:
            raise TypeError(f"{name}: x is a {type(x).__name__}; expected an array. Make one with dn.asarray(x).")
        if x.ndim != len(self.input_shape) + 1 or (x.shape[-1] != self.input_shape[-1]):
            raise ValueError(
                f"{name}: x has shape {tuple(x.shape)}; expected (N, {', '.join(map(str, self.input_shape))}), "
                f"as given to init.{_missing_axis(x, self.input_shape)}"
            )
        if x.dtype != self.dtype:
            if not is_real(x.dtype):
                raise TypeError(f"{name}: x has dtype {x.dtype}; expected real numbers")
            x = x.astype(self.dtype)
        return x

    def parameters(self) -> dict[str, Parameter]:
        """Every trainable parameter by its name, such as ``"0.w"``; a shared one stands under its first name."""
        found: dict[str, Parameter] = {}
        self._gather("", found, set())
        return found

    def _gather(self, prefix: str, found: dict[str, Parameter], seen: set[int]) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Parameter) and id(value) not in seen:
                seen.add(id(value))
                found[prefix + name] = value
        for name, child in self.children().items():
            child._gather(f"{prefix}{name}.", found, seen)

    def state_dict(self) -> dict[str, Array]:
        """Parameters and running statistics by name: all that the layer has learned."""
        states = self._all(lambda layer: {name: layer for name in layer.state_names})
        seen: set[tuple[int, str]] = set()
        result = {name: parameter.value for name, parameter in self.parameters().items()}
        for name, layer in states:
            attribute = name.rpartition(".")[2]
            if (id(layer), attribute) not in seen:
                seen.add((id(layer), attribute))
                result[name] = getattr(layer, attribute)
        return result

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over all values of ``state``. Whatever does not fit is listed, and then nothing has changed."""
        if not isinstance(state, Mapping):
            raise TypeError(
                f"load_state_dict: state is a {type(state).__name__}; expected arrays by name, as state_dict() has "
                "them. A file is read with dn.load(path)."
            )
        mine = self.state_dict()
        missing, unexpected = mine.keys() - state.keys(), state.keys() - mine.keys()
        misshaped = [
            f"{name} {_form(state[name])}, expected {_form(mine[name])}"
            for name in mine.keys() & state.keys()
            if _form(state[name]) != _form(mine[name])
        ]
        faults = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": sorted(misshaped)}
        if any(faults.values()):
            told = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
            raise ValueError(f"load_state_dict: the state does not fit this {type(self).__name__} ({told})")
        values = {name: _like(state[name], mine[name]) for name in mine}
        parameters = self.parameters()
        for name, value in values.items():
            if name in parameters:
                parameters[name].value = value
            else:
                layer, attribute = self._at(name)
                setattr(layer, attribute, value)

    def to(self, backend: str) -> Layer:
        """Move every value to a backend. Parameters keep their identity, so an optimizer stays valid."""
        name = load(backend).name
        for parameter in self.parameters().values():
            parameter.value = asarray(parameter.value, backend=name)
        for path, value in self.state_dict().items():
            if path not in self.parameters() and backend_of(value) is not None:
                layer, attribute = self._at(path)
                setattr(layer, attribute, asarray(value, backend=name))
        return self

    def copy(self) -> Layer:
        """An independent copy; what is shared inside stays shared inside."""
        return copy.deepcopy(self)

    def walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]:
        """Every layer inside, this one first (``""``), by its dotted name; a shared one at each of its places."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.walk(f"{prefix}.{name}" if prefix else name)

    def config(self) -> dict[str, Any]:
        """The arguments that make this layer again, read from the attributes of the same names."""
        arguments = list(_arguments(type(self)))  # type: ignore[arg-type]  # a class can be hashed
        return {name: getattr(self, name) for name in arguments}

    def __repr__(self) -> str:
        arguments = _arguments(type(self))  # type: ignore[arg-type]
        try:
            config = self.config()
        except AttributeError:  # a layer of one's own keeps an argument under another name
            config = {name: value for name, value in vars(self).items() if name in arguments}
        given = [
            f"{name}={_short(value)!r}"
            for name, value in config.items()
            if arguments[name].default is inspect.Parameter.empty or _short(value) != _short(arguments[name].default)
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def _all(self, pick: Callable[[Layer], dict[str, Any]]) -> list[tuple[str, Any]]:
        found = []
        for path, layer in self.walk():
            found += [(f"{path}.{name}" if path else name, value) for name, value in pick(layer).items()]
        return found

    def _at(self, name: str) -> tuple[Layer, str]:
        path, _, attribute = name.rpartition(".")
        return dict(self.walk())[path], attribute


def both(layer: Layer, result: Any) -> tuple[Array, Pullback]:
    """What ``forward`` returned, once it is known to be y and its pullback."""
    if type(result) is tuple and len(result) == 2 and isinstance(result[1], Pullback):
        result[1].paired = True
        return result
    kinds = ", ".join(type(part).__name__ for part in (result if type(result) is tuple else (result,)))
    raise TypeError(
        f"{type(layer).__name__}: forward returned ({kinds}); expected y and its pullback, as in "
        "return y, dn.Pullback(name, function of dy, y)"
    )


def _keep(name: str, layer: Layer, had: dict[str, Any]) -> None:
    """Give a layer back the parameters and statistics that it had, if it had any."""
    if had.get("input_shape") is None:
        return
    for attribute, old in had.items():
        new = vars(layer).get(attribute)
        if isinstance(old, Parameter):
            kinds = [f"{p.value.dtype} {tuple(p.shape)}" if isinstance(p, Parameter) else "none" for p in (old, new)]
            if kinds[0] != kinds[1]:
                raise ValueError(
                    f"layer {name or 0} ({type(layer).__name__}): its {attribute} is {kinds[0]}, but an input of shape "
                    f"{layer.input_shape} needs {kinds[1]}. Put a new layer there, or call init without keep=True, "
                    "which draws all parameters anew. Nothing was changed."
                )
        if isinstance(old, (Parameter, Layer)) or attribute in layer.state_names:
            setattr(layer, attribute, old)


class OpLayer(Layer):
    """A layer without parameters that is its op: the op's options are the constructor's arguments."""

    op: Callable[..., tuple[Array, Pullback]]

    def forward(self, x: Array, train: bool = False) -> tuple[Array, Pullback]:
        y, way = self.op(x, **self.config())
        return y, with_gradients(self, way)


def merge(owner: Layer, parts: list[tuple[str, Layer, Gradients]]) -> Gradients:
    """The gradients of the layers inside, which come with their names, under the owner's names; those of a shared
    parameter add up.
    """
    parameters = owner.parameters()
    total: Gradients = {}
    for child, layer, gradients in parts:
        for local, gradient in gradients.items():
            name = f"{child}.{local}"
            if name not in parameters:  # it is shared, and stands under its first name
                inner = (layer.parameters() if layer.children() else vars(layer)).get(local)
                name = next((known for known, parameter in parameters.items() if parameter is inner), "")
            if not name:
                raise ValueError(
                    f"layer {child} ({type(layer).__name__}): its pullback returned a gradient {local!r}, but it has "
                    f"{', '.join(layer.parameters()) or 'no parameters'}. A parameter is made by draw.parameter(...), "
                    "in build, and its gradient goes by the attribute's name."
                )
            total[name] = total[name] + gradient if name in total else gradient
    return {name: total[name] for name in parameters if name in total}


def with_gradients(layer: Layer, way: Pullback, *names: str) -> Pullback:
    """An op's pullback as its layer's: ``dx, dw, db`` become ``dx, {"w": dw, "b": db}``."""

    def convert(result: Any) -> tuple[Array, Gradients]:
        dx, *gradients = result if isinstance(result, tuple) else (result,)
        return dx, {name: gradient for name, gradient in zip(names, gradients) if gradient is not None}

    return way.then(type(layer).__name__, convert)


@contextmanager
def named(name: str, layer: Layer) -> Iterator[None]:
    """Put the layer's name in front of the message of an error raised inside it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        blame(name, layer, error)


def blame(name: str, layer: Layer, error: Exception) -> NoReturn:
    """Raise the error with the layer's name in front of its message; one of a class of its own with a note."""
    if type(error) in (ValueError, TypeError):
        raise type(error)(f"layer {name} ({type(layer).__name__}): {error}") from error
    error.add_note(f"in layer {name} ({type(layer).__name__})")
    raise error


def positions(shape: Shape, owner: str) -> tuple[int, int]:
    """H, W of a feature map (H, W, C)."""
    if len(shape) != 3:
        hints = {2: "Images (N, H, W) lack their channel: x[..., None].", 4: f"Without the batch it is {shape[1:]}."}
        hint = hints.get(len(shape), "It is no map any more.")
        raise ValueError(f"{owner}: expected feature maps (H, W, C), got {shape}. {hint}")
    return shape[0], shape[1]


def product(shape: Shape) -> int:
    return math.prod(shape)


@functools.cache
def _arguments(kind: type[Layer]) -> dict[str, inspect.Parameter]:
    """The arguments of a layer's constructor, by name."""
    return {name: p for name, p in inspect.signature(kind.__init__).parameters.items() if name != "self"}


def _short(value: Any) -> Any:
    """(1, 1) as 1 and ((0, 0), (0, 0)) as 0: the way an extent is usually written."""
    while isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    return value


def _like(value: Any, mine: Any) -> Any:
    backend = backend_of(mine)
    if backend is None:
        return type(mine)(value)
    copied = to_numpy(value) if backend_of(value) is not None else value
    return asarray(copied.copy() if hasattr(copied, "copy") else copied, mine.dtype, backend=backend.name)


def _form(value: Any) -> Any:
    """The shape of an array; of a number there is none, and a list of numbers is no array."""
    return type(value).__name__ if isinstance(value, (list, tuple)) else tuple(getattr(value, "shape", ()))


def _missing_axis(x: Array, expected: Shape) -> str:
    if tuple(x.shape) == expected:
        return " The batch is missing: x[None] is a batch of one."
    if tuple(x.shape[1:]) == expected[:-1] and expected[-1] == 1:
        return " The channel is missing: x[..., None] has one."
    if tuple(x.shape[1:]) == (*expected[2:], *expected[:2]):
        return " The channels stand first: x.transpose(0, 2, 3, 1) has them last."
    return ""
