"""The base class of all layers: a layer is an op together with the parameters it uses.

A layer of your own needs ``forward``; if it has parameters, also ``build``; if it changes the shape, ``output_shape``::

    class Scale(dn.Layer):
        def build(self, input_shape, draw):
            self.g = draw.parameter("ones", (input_shape[-1],))

        def forward(self, x, train=False):
            g = self.g.cast(x.dtype)  # the value; in a 16-bit network, a copy of it
            y = x * g

            def pullback(dy):
                return dy * g, {"g": (dy * x).sum(axis=tuple(range(x.ndim - 1)))}

            return y, dn.Pullback("scale", pullback, y, x=x, g=g)

Attributes that hold a :class:`Parameter` are its parameters, under the attribute's name. Shapes leave out the batch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..arguments import flag
from ..geometry import check_shape, warn_of_channels_first
from ..history import History
from ..ops.pullback import Pullback
from ..recording import leave
from ..shim import Array, backend_of, current
from ..shim.dtypes import is_real
from ..shim.loading import HostArray
from .hints import attribute_hint, shape_hint
from .initializers import Draw
from .parameter import Parameter
from .passing import y_and_pullback
from .state import LayerTree, name_of

__all__ = ["Layer"]


Shape = tuple[int, ...]


class Layer(LayerTree):
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
    takes_relu = False  # do forward() and infer() accept relu=True? A subclass sets its own; see joining.py
    frozen = False  # does training leave it as it is? Set by freeze()
    input_shape: Shape | None = None
    dtype: Any = None
    input: Any = None  # a network's dualnet.data.InputSpec: what it expects of images

    def __init_subclass__(cls, **options: Any) -> None:
        """A class that defines ``forward`` alone computes with it in inference too, whatever ``infer`` it inherits."""
        super().__init_subclass__(**options)
        if next(name for kind in cls.__mro__ for name in ("infer", "forward") if name in vars(kind)) == "forward":
            cls.infer = Layer.infer  # type: ignore[method-assign]

    def __init__(self) -> None:
        """A layer without arguments."""

    # -- the methods that a layer defines

    def build(self, input_shape: Shape, draw: Draw) -> None:
        """Create the parameters, now that the shape of the input is known."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """The shape of the output, without the batch. Raises ``ValueError`` if the layer cannot take such an input."""
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

    # -- shapes and parameters

    def init(self, input_shape: Shape, seed: int = 0, dtype: Any = None, keep: bool = False) -> Self:
        """Infer every shape from that of one input (without the batch), and draw the parameters. Returns the layer.

        The numbers are drawn on the host, so a seed gives the same bits on every backend. The layers compute in
        ``dtype``, by default ``DUALNET_DTYPE`` or float32. With ``"float16"`` or ``"bfloat16"`` (which needs
        ``pip install "dualnet[bfloat16]"``) parameters and running statistics stay float32: see
        :class:`dualnet.LossScale`.

        Layers that already have parameters get new ones. With ``keep=True`` they keep theirs, and their running
        statistics; only layers without parameters draw some, such as a new head on trained layers. If the old
        parameters do not fit, an error says so, and nothing changes.

        >>> import dualnet as dn
        >>> net = dn.Sequential([dn.Conv2D(6, 5), dn.Flatten(), dn.Dense(10)]).init((28, 28, 1), seed=0)
        >>> {name: p.shape for name, p in net.parameters().items()}["2.w"]
        (3456, 10)
        """
        shape = self.check_input_shape(input_shape)
        if not isinstance(shape, dict):
            warn_of_channels_first(shape, type(self).__name__)
        keep = flag(keep, "keep", op="init")
        before = [(name, layer, dict(vars(layer))) for name, layer in self.walk()]
        if keep and dtype is None:
            dtype = next((layer.dtype for _, layer, _ in before if layer.input_shape is not None), None)
        draw = Draw(seed, dtype)
        current()  # an unusable backend raises its error now, before anything is drawn
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

    def check_input_shape(self, input_shape: Any) -> Any:
        """The shape that a user passes, as a tuple; for a network with several inputs, a dictionary of shapes."""
        return check_shape(input_shape, type(self).__name__)

    def init_from(self, input_shape: Shape, draw: Draw) -> Shape:
        """Build this layer, once for each :meth:`init` even if it is shared; returns the output's shape."""
        output = self.output_shape(input_shape)
        if id(self) in draw.seen:
            first = draw.seen[id(self)]
            if self.parameters() and first[-1] != input_shape[-1]:
                raise ValueError(
                    f"{type(self).__name__} is used in two places with different inputs, {first} and {input_shape}. "
                    "Its parameters fit only one number of channels; use two layers."
                )
            return output
        draw.seen[id(self)] = input_shape
        self.input_shape, self.dtype = input_shape, draw.dtype
        self.build(input_shape, draw)
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                value.name, value.frozen = f"{type(self).__name__}.{name}", self.frozen
        return output

    # -- inference

    def __call__(self, x: Array) -> Array:
        """Inference: the output for x (N, ...); nothing is kept for a backward pass."""
        return inferred(self, self.enter(x))

    def enter(self, x: Array) -> Array:
        """Check an input against this layer's, and convert its dtype to the layer's."""
        name = type(self).__name__
        if self.input_shape is None:
            raise ValueError(f"{name} has no parameters yet: call net.init(input_shape), such as net.init((28, 28, 1))")
        return entered(name, x, self.input_shape, self.dtype)

    def infer(self, x: Array) -> Array:
        """The output for an x that is known to fit, with nothing kept. A layer may be faster here than in forward."""
        return y_and_pullback(self, self.forward(x, train=False))[0]

    # -- freezing

    def freeze(self, *names: str) -> Self:
        """Keep training from changing this layer and all layers inside, or only the named ones. Returns the layer.

        A frozen parameter gets no optimizer step and no weight decay, and its gradient does not count for
        ``clip_norm``. A frozen batch norm uses its running statistics, as in inference, and no longer updates them (as
        in Keras, and with PyTorch's ``eval()``). Everything else computes as before: dropout drops, and you can still
        look at the gradients of frozen parameters. Files and copies remember what is frozen.

        >>> import dualnet as dn
        >>> net = dn.Sequential([dn.Dense(3), dn.BatchNorm(), dn.ReLU(), dn.Dense(2)])
        >>> _ = net.init((4,)).freeze("0", "1")
        >>> [name for name, parameter in net.parameters().items() if not parameter.frozen]
        ['3.w', '3.b']
        >>> _ = net.unfreeze()
        """
        return self._set_frozen(names, True)

    def unfreeze(self, *names: str) -> Self:
        """Let training change this layer and all layers inside again, or only the named ones."""
        return self._set_frozen(names, False)

    def _set_frozen(self, names: tuple[str, ...], frozen: bool) -> Self:
        inside, op = dict(self.walk()), "freeze" if frozen else "unfreeze"
        for part in [inside[name_of(name, self, op)] for name in names] or [self]:
            for _, layer in part.walk():
                layer.frozen = frozen
                for value in vars(layer).values():
                    if isinstance(value, Parameter):
                        value.frozen = frozen
        return self

    # -- how it was trained

    @functools.cached_property
    def history(self) -> History:
        """The figures of the last :func:`fit`, one entry for each complete epoch, even if the training was interrupted.

        It is empty before the first training, and in a network loaded from a file. Copies keep it; files do not.

        >>> import dualnet as dn
        >>> net = dn.Sequential([dn.Flatten(), dn.Dense(2)])
        >>> net.history
        no epochs
        >>> net.fit([[[0.0]], [[1.0]]], [0, 1], epochs=3, verbose=0) is net.history, net.history.epochs
        (True, 3)
        """
        leave(self, "history", made := History())
        return made

    # -- its arguments, and how it is printed

    def config(self) -> dict[str, Any]:
        """The arguments that create this layer again, read from the attributes of the same names."""
        arguments = list(_arguments(type(self)))  # type: ignore[arg-type]  # a class can be hashed
        return {name: getattr(self, name) for name in arguments}

    def __repr__(self) -> str:
        arguments = _arguments(type(self))  # type: ignore[arg-type]
        try:
            config = self.config()
        except AttributeError:  # a user's layer may store an argument under a different name
            config = {name: value for name, value in vars(self).items() if name in arguments}
        given = [
            f"{name}={_short(value)!r}"
            for name, value in config.items()
            if arguments[name].default is inspect.Parameter.empty or _short(value) != _short(arguments[name].default)
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    # -- what type checkers and editors see

    if TYPE_CHECKING:

        def walk(self, prefix: str = "") -> Iterator[tuple[str, Layer]]: ...  # the tree's, whose parts are layers here

        # These are defined in folders above the layers (training/, files/ and seeing/) and attached by
        # dualnet/__init__.py. A type that is Any here is a class that only those folders may import.
        def fit(
            self,
            x: Any,
            t: Any = None,
            *,
            epochs: int = 1,
            initial_epoch: int = 0,
            batch_size: int = 64,
            optimizer: Any = "adam",
            loss: str | Callable[..., Any] | Mapping[str, Any] | None = None,
            validation_data: Any = None,
            validation_split: float = 0.0,
            steps_per_epoch: int | None = None,
            accumulate: int = 1,
            sample_weight: Any = None,
            class_weight: Any = None,
            ignore_label: int | None = None,
            metrics: Any = (),
            callbacks: Any = (),
            seed: int = 0,
            verbose: int = 1,
            shuffle: bool = True,
            augment: Any = None,
            capture: bool = False,
            loss_scale: Any = "auto",
            check_finite: bool = False,
            resume: str | PathLike[str] | None = None,
            checkpoint_every: int | None = None,
            distributed: Any = False,
            sync_batch_norm: bool = False,
        ) -> History: ...

        def evaluate(
            self,
            x: Any,
            t: Any = None,
            batch_size: int = 256,
            *,
            loss: str | Callable[..., Any] | Mapping[str, Any] | None = None,
            augment: Any = None,
            sample_weight: Any = None,
            class_weight: Any = None,
            ignore_label: int | None = None,
            metrics: Any = (),
            distributed: Any = False,
        ) -> dict[str, float]: ...

        def predict(self, x: Any, batch_size: int = 256) -> HostArray: ...

        def save(self, path: str | PathLike[str], *, optimizer: Any = None) -> Path: ...

        def fuse(self) -> Self: ...

        def to_c(self, path: str | PathLike[str], x: Any = None, *, backward: bool = False, seed: int = 0) -> Path: ...

        def to_onnx(self, path: str | PathLike[str], *, opset: int = 21, layout: str = "NHWC") -> Path: ...

        def to_numpy(self, path: str | PathLike[str], x: Any = None, *, seed: int = 0) -> Path: ...

        def summary(self, input_shape: Shape | None = None) -> Any: ...

        def plan(self, batch: int = 64, input_shape: Shape | None = None, *, optimizer: Any = "adam") -> Any: ...

        def trace(
            self, x: Any, t: Any, *, loss: str | Callable[..., Any] | None = None, optimizer: Any = "adam"
        ) -> Any: ...

        def graph(self, format: str = "mermaid", *, input_shape: Shape | None = None) -> str: ...

        def _repr_html_(self) -> str: ...

    else:  # a type checker reports attributes that no class declares, so it must not see this

        def __getattr__(self, name: str) -> Any:
            """The error for an attribute that does not exist, with a hint."""
            hint = attribute_hint(name, initialised=vars(self).get("input_shape") is not None)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{hint}")


def entered(name: str, x: Any, input_shape: Shape, dtype: Any) -> Array:
    """x (N, *input_shape), checked, in the layer's dtype; errors begin with the name."""
    backend = backend_of(x)
    if backend is None:
        raise TypeError(f"{name}: x is a {type(x).__name__}; expected an array. Make one with dn.asarray(x).")
    if x.ndim != len(input_shape) + 1 or (x.shape[-1] != input_shape[-1]):
        raise ValueError(
            f"{name}: x has shape {tuple(x.shape)}; expected (N, {', '.join(map(str, input_shape))}), "
            f"as given to init.{shape_hint(x, input_shape)}"
        )
    if x.dtype != dtype:
        if not is_real(x.dtype):
            raise TypeError(f"{name}: x has dtype {x.dtype}; expected real numbers")
        x = x.astype(dtype)
    return x


def _keep(name: str, layer: Layer, had: dict[str, Any]) -> None:
    """Give a layer its former parameters and statistics back, if it had any."""
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
                    "which draws all parameters again. Nothing was changed."
                )
        if isinstance(old, (Parameter, Layer)) or attribute in layer.state_names:
            setattr(layer, attribute, old)


def inferred(layer: Layer, x: Array, **options: Any) -> Array:
    """``layer.infer(x, **options)``; by ``forward`` if the class defines no ``infer``.

    Also by ``forward`` if it was set on the layer itself: the class's ``infer`` knows nothing of it.
    """
    own = vars(layer)
    if "infer" not in own and ("forward" in own or type(layer).infer is Layer.infer):
        return y_and_pullback(layer, layer.forward(x, train=False, **options))[0]
    return layer.infer(x, **options)


@functools.cache
def _arguments(kind: type[Layer]) -> dict[str, inspect.Parameter]:
    """The arguments of a layer's constructor, by name."""
    return {name: p for name, p in inspect.signature(kind.__init__).parameters.items() if name != "self"}


def _short(value: Any) -> Any:
    """(1, 1) as 1 and ((0, 0), (0, 0)) as 0: the way an extent is usually written."""
    while isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    return value
