"""From PyTorch: a ``torch.nn.Module`` as a network of the same layers, with the same weights.

``torch.fx`` follows the module's ``forward`` once in inference and once in training, and returns a graph. Each node is
one of three things: arithmetic with shapes (``x.size(0)``), which is computed right away; a function of one map that a
layer of ours computes (torch_layers.py); or a sum or concatenation of several. One error lists all other nodes.
In the end :func:`.regions.nest` turns the graph into containers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy

from .. import layers as kinds
from ..geometry import check_shape
from ..layers.layer import Layer, Shape
from .regions import Node, nest
from .torch_layers import (
    FUNCTIONS,
    HINTS,
    MAPS,
    MODULES,
    OTHERWISE,
    Misfit,
    Step,
    Unsupported,
    Value,
    padded,
    scale,
    shown,
)

__all__ = ["Converted", "converted", "from_torch"]


def from_torch(module: Any, input_shape: Shape) -> kinds.Sequential:
    """A ``torch.nn.Module`` as an initialised network with the same weights, statistics and dtype.

    ``input_shape`` is the shape of one input in dualnet's order: (H, W, C) for maps, (K,) for rows. ``net(x)`` for x
    (N, H, W, C) equals the result of ``module.eval()`` for (N, C, H, W), and so do all gradients; in training it equals
    that of ``module.train()``, except for dropout, which draws different masks. The module does not change, and no
    memory is shared. Its device and its frozen parameters are not taken over.

    ``forward`` may use modules, functions and methods that our layers cover in any way that ``torch.fx`` can follow. If
    there are others, a ``ValueError`` lists all of them, each with its name and what to do. The same happens if
    training computes something different from inference, or if branches cross in a way that no container describes.
    Needs PyTorch: ``ImportError`` says how to install it.

    >>> import dualnet as dn
    >>> from torch import nn
    >>> module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))
    >>> net = dn.from_torch(module, input_shape=(4, 4, 3))
    >>> net.parameters()["3.w"].shape
    (32, 5)
    """
    return converted(module, input_shape).net


@dataclass(frozen=True)
class Converted:
    """A network with the names that its layers have in PyTorch: ``{"0": "conv1", "1.layer.0": "layer1.0.conv1"}``."""

    net: kinds.Sequential
    names: dict[str, str]


def converted(module: Any, input_shape: Shape, op: str = "from_torch") -> Converted:
    """:func:`from_torch`, with the names that the layers have in the module."""
    torch = need_torch(op)
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"{op}: expected a torch.nn.Module, got {type(module).__name__}")
    shape = check_shape(input_shape, op)
    reader = _Reader(_both_graphs(module, op), _dtype_of(module, op))
    value = reader.read(shape)
    if reader.problems:
        raise ValueError(_told(op, module, reader.problems))
    try:
        net, places = nest(reader.nodes, "", value.node)
    except ValueError as error:
        raise ValueError(f"{op}: {type(module).__name__}: {error}") from None
    net.init(shape, dtype=reader.dtype)
    net.load_state_dict({**net.state_dict(), **_state(net, reader.weights)})
    return Converted(net, {place: name for name, place in places.items()})


def need_torch(op: str) -> Any:
    """PyTorch, or an ``ImportError`` that says how to install it."""
    try:
        import torch
        import torch.fx
    except ImportError as error:
        raise ImportError(f'{op} needs PyTorch: pip install "dualnet[torch]"') from error
    return torch


def _state(net: Layer, weights: Mapping[Layer, dict[str, Any]]) -> dict[str, Any]:
    """The values by their names in the network; a shared layer has its first name."""
    names: dict[Layer, str] = {}
    for path, layer in net.walk():
        names.setdefault(layer, path)
    return {
        f"{names[layer]}.{attribute}": value
        for layer, values in weights.items()
        if layer in names
        for attribute, value in values.items()
    }


def _dtype_of(module: Any, op: str) -> str | None:
    tensors = [*module.parameters(), *module.buffers()]
    found = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()})
    if len(found) > 1:
        raise ValueError(
            f"{op}: the module has weights of {' and '.join(found)}; expected one dtype, as after module.float()"
        )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.device.type == "meta":
            raise ValueError(f"{op}: {name} is on the device 'meta', where it has no numbers; load the weights first")
    return found[0] if found else None


# -- the graph ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Graphs:
    """What ``forward`` does, by torch.fx, in inference; and which flag ``training`` its functions get in training."""

    root: Any
    nodes: list[Any]
    flags: dict[str, tuple[Any, Any]]
    differences: list[str]


FLAGGED = {"dropout": 2, "dropout2d": 2, "feature_dropout": 2, "stochastic_depth": 3, "batch_norm": 5}
"""Functions with an argument ``training``, and its place."""


def _both_graphs(module: Any, op: str) -> _Graphs:
    torch = need_torch(op)
    shared = {id(tensor): tensor for tensor in module.parameters()}  # a copy with parameters in common: it is only read
    root = torch.nn.Sequential(copy.deepcopy(module, memo=shared))
    traces = []
    for train in (False, True):
        root.train(train)
        try:
            traces.append(list(torch.fx.Tracer().trace(root).nodes))
        except Exception as error:  # any error that the user's forward raises when it meets a proxy
            raise ValueError(
                f"{op}: torch.fx cannot follow the forward of {type(module).__name__} "
                f"({type(error).__name__}: {error}). It must take one tensor, and must not branch on the numbers in it."
            ) from error
    flags: dict[str, tuple[Any, Any]] = {}
    differences = []
    for node, twin in zip(*traces):
        if _signature(node) != _signature(twin):
            differences.append(_place(node) or "forward")
        elif _called(node) in FLAGGED and node.op == "call_function":
            flags[node.name] = _flag(node), _flag(twin)
    if len(traces[0]) != len(traces[1]) and not differences:
        differences.append(_place(max(traces, key=len)[min(map(len, traces))]) or "forward")
    root.train(False)
    return _Graphs(root, traces[0], flags, differences[:1])


def _signature(node: Any) -> tuple[Any, ...]:
    """What a node does, without the flag ``training``."""
    args, kwargs = list(node.args), dict(node.kwargs)
    if node.op == "call_function" and _called(node) in FLAGGED:
        place = FLAGGED[_called(node)]
        args[place : place + 1] = [None] if len(args) > place else []
        kwargs.pop("training", None)
    return node.op, node.target, str(args), str(kwargs)


def _flag(node: Any) -> Any:
    place = FLAGGED[_called(node)]
    default = _called(node) != "batch_norm"
    return node.args[place] if len(node.args) > place else node.kwargs.get("training", default)


def _called(node: Any) -> str:
    """The bare name of the function or method that a node calls."""
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _place(node: Any) -> str:
    """The module whose ``forward`` contains a node."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).partition(".")[2] if stack else ""


PLAIN = ("_operator", "builtins", "math")
"""Modules whose functions may be called on shapes."""
SUMS = ("add", "iadd", "add_")
PRODUCTS = ("mul", "imul", "mul_", "multiply")
JOINS = ("cat", "concat", "concatenate")
TURNS = ("permute", "transpose", "squeeze")


# -- reading -----------------------------------------------------------------------------------------------------------


@dataclass
class Problem:
    """Something that cannot be converted: where it is, what it is, and why."""

    name: str
    kind: str
    why: str


class _Reader:
    """Goes through the graph once, and collects layers, their weights, and problems."""

    def __init__(self, graphs: _Graphs, dtype: str | None) -> None:
        self.graphs, self.dtype = graphs, dtype
        self.values: dict[str, Any] = {}
        self.nodes: list[Node] = []
        self.weights: dict[Layer, dict[str, Any]] = {}
        self.made: dict[str, tuple[Layer, Value]] = {}  # modules with parameters, by name
        self.owners: dict[Any, str] = {}  # parameters, and the module or node that was the first to use them
        self.problems: list[Problem] = []
        self.names: set[str] = {""}

    def read(self, input_shape: Shape) -> Value:
        for place in self.graphs.differences:
            self.problems.append(
                Problem(
                    place,
                    "forward",
                    "it computes different things in training and in inference. Only dropout and batch norm may differ",
                )
            )
        start = Value("", input_shape, MAPS if len(input_shape) == 3 else tuple(range(len(input_shape) + 1)))
        for node in self.graphs.nodes:
            if node.op == "placeholder":
                self.values[node.name] = self._input(node, start)
            elif node.op == "get_attr":
                self.values[node.name] = _attribute(self.graphs.root, node.target)
            elif node.op == "output":
                return self._result(self._filled(node.args[0]), start)
            else:
                self.values[node.name] = self._visited(node)
        return start

    def _input(self, node: Any, start: Value) -> Any:
        if "" in {value.node for value in self.values.values() if isinstance(value, Value)}:
            if node.args:
                return node.args[0]
            self._problem(node, "it is a second input; expected one tensor")
        return start

    def _result(self, value: Any, start: Value) -> Value:
        if not isinstance(value, Value):
            what = "several tensors" if isinstance(value, (tuple, list, dict)) else repr(value)
            self.problems.append(Problem("forward", "return", f"it returns {what}; expected one tensor"))
            return start
        natural = MAPS if len(value.shape) == 3 else tuple(range(len(value.shape) + 1))
        if value.order is not None or (value.axes != natural and not value.guessed):
            why = (
                f"it returns {shown(value.theirs)}: flattened or permuted maps, in an order that dualnet does not use. "
                "Convert the module without its last step"
            )
            self.problems.append(Problem("forward", "return", why))
        elif value.pads:
            why = f"it returns {shown(value.theirs)} with zeros around it; expected a convolution after the padding. "
            why += "Add one, or leave out the padding"
            self.problems.append(Problem("forward", "return", why))
        return value

    def _filled(self, argument: Any) -> Any:
        """An argument of a node, with values instead of nodes."""
        if hasattr(argument, "op") and hasattr(argument, "target"):
            return self.values[argument.name]
        if isinstance(argument, (tuple, list)):
            return tuple(map(self._filled, argument))
        if isinstance(argument, dict):
            return {key: self._filled(value) for key, value in argument.items()}
        if isinstance(argument, slice):
            return slice(self._filled(argument.start), self._filled(argument.stop), self._filled(argument.step))
        return argument

    def _visited(self, node: Any) -> Any:
        args, kwargs = list(self._filled(tuple(node.args))), self._filled(dict(node.kwargs))
        if "input" in kwargs:
            args.insert(0, kwargs.pop("input"))
        given = _values_in((args, kwargs))
        try:
            self._check_pads(node, given)
            result = self._called(node, args, kwargs, given)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            follows = any(value.guessed for value in given) and type(error) is not Unsupported
            if not follows:  # after something unknown, a shape that does not fit is no surprise
                told = isinstance(error, Unsupported) or type(error) is ValueError
                self._problem(node, str(error) if told else f"dualnet does not know these arguments ({error})")
            return replace(given[0], guessed=True) if given else None
        if isinstance(result, Value) and given and _in_place(node, self.graphs.root, kwargs):
            self._overwritten(given[0], result)
        return result

    def _check_pads(self, node: Any, given: list[Value]) -> None:
        """Raise if anything but a convolution follows a padding: only a convolution adds its zeros."""
        does = type(self.graphs.root.get_submodule(node.target)).__name__ if node.op == "call_module" else _called(node)
        if any(value.pads for value in given) and does.lower() not in ("conv2d", "identity", "getattr", "size"):
            raise Unsupported(
                "its input was padded with zeros; expected a convolution after the padding. Pad right before one"
            )

    def _overwritten(self, old: Value, new: Value) -> None:
        """x.relu_() changes x: everything that reads x from now on reads the result."""
        for name, value in self.values.items():
            if value is old:
                self.values[name] = new

    def _problem(self, node: Any, why: str) -> None:
        if node.op == "call_module":
            module = self.graphs.root.get_submodule(node.target)
            self.problems.append(Problem(_without_root(node.target), type(module).__name__, why))
        else:
            inside = _place(node)
            self.problems.append(Problem(f"{inside}: {node.name}" if inside else node.name, _called(node), why))

    # -- kinds of nodes

    def _called(self, node: Any, args: list[Any], kwargs: dict[str, Any], given: list[Value]) -> Any:
        if node.op == "call_module":
            return self._module(node, args, kwargs)
        called = _called(node)
        if not given:  # arithmetic with shapes and weights
            return _computed(node, args, kwargs)
        x = args[0]
        if called == "getattr":
            return _facts(x, args[1])
        if called in ("size", "dim") and node.op == "call_method":
            theirs = _facts(x, "shape" if called == "size" else "ndim")
            return theirs[args[1] if len(args) > 1 else kwargs["dim"]] if len(args) > 1 or kwargs else theirs
        if called == "pad":
            return padded(*args, **kwargs)
        if called in SUMS:
            return self._sum(node, args, kwargs)
        if called in PRODUCTS and not all(isinstance(argument, Value) for argument in args):
            x, factor = args if isinstance(args[0], Value) else args[::-1]
            return self._applied(node, _name_of(node), x, scale(x, factor), _parameters_in(factor))
        if called in JOINS:
            return self._join(node, *args, **kwargs)
        if called in TURNS:
            return self._turned(node, called, x, *args[1:], **kwargs)
        function = FUNCTIONS.get(called.removesuffix("_"))
        if function is None or not (node.op == "call_method" or _of_torch(node.target)):
            raise Unsupported(HINTS.get(called.removesuffix("_"), OTHERWISE))
        if node.name in self.graphs.flags:
            place = FLAGGED[called]
            args[place : place + 1] = []  # the arguments after it come by name
            names = ("momentum", "eps") if called == "batch_norm" else ("inplace",)
            kwargs = {**dict(zip(names, args[place:])), **kwargs, "training": self.graphs.flags[node.name]}
            args = args[:place]
        step = function(*args, **kwargs)
        return self._applied(node, _name_of(node), x, step, _parameters_in((args, kwargs)))

    def _module(self, node: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        module, name = self.graphs.root.get_submodule(node.target), _without_root(node.target)
        kind = type(module).__name__
        if kind == "ZeroPad2d" and len(args) == 1:
            return padded(args[0], module.padding)
        convert = MODULES.get(kind) if type(module).__module__.startswith("torch.nn.modules.") else None
        if convert is None:
            raise Unsupported(HINTS.get(kind, OTHERWISE))
        if module._forward_hooks or module._forward_pre_hooks:
            raise Unsupported("it has hooks, which may change its result. Remove them")
        if len(args) != 1 or kwargs or not isinstance(args[0], Value):
            raise Unsupported("it is called with several arguments; expected one tensor")
        x = args[0]
        parameters = [parameter for _, parameter in module.named_parameters(recurse=False)]
        if name in self.made:
            layer, before = self.made[name]
            if not _same_order(before, x):
                raise Unsupported(
                    "it is used twice, for flattened maps and for rows in a different order. Use two modules"
                )
            step = convert(module, x)
            if step is not None:
                step = replace(step, layer=layer)
        else:
            step = convert(module, x)
            if step is not None and (parameters or step.weights):
                self.made[name] = step.layer, x
        return self._applied(node, name, x, step, parameters)

    def _applied(self, node: Any, name: str, x: Value, step: Step | None, parameters: list[Any]) -> Value:
        if step is None:
            return x
        for parameter in parameters:
            owner = self.owners.setdefault(parameter, name)
            if owner != name:
                raise Unsupported(f"it shares its weights with {owner!r}. Call that module twice instead")
        shape = step.layer.output_shape(x.shape)
        kept = isinstance(step.order, str)
        axes = step.axes or (x.axes if len(shape) == len(x.shape) else tuple(range(len(shape) + 1)))
        value = Value(
            self._noted(name, (x.node,), step.layer), shape, axes, x.order if kept else step.order, guessed=x.guessed
        )
        if step.weights:
            self.weights[step.layer] = step.weights
        return value

    def _noted(self, name: str, inputs: tuple[str, ...], does: Layer | str) -> str:
        free, times = name, 1
        while free in self.names:
            times += 1
            free = f"{name} ({times})"
        self.names.add(free)
        self.nodes.append(Node(free, inputs, does))
        return free

    def _sum(self, node: Any, args: list[Any], kwargs: dict[str, Any]) -> Value:
        if len(args) != 2 or kwargs or not all(isinstance(value, Value) for value in args):
            raise Unsupported(
                "it adds a constant or a parameter; expected two tensors that forward computes. Use a layer with a bias"
            )
        one, other = args
        if (one.shape, one.axes) != (other.shape, other.axes) or not _same_order(one, other):
            raise Misfit(
                f"it adds {shown(one.theirs)} and {shown(other.theirs)}; expected equal shapes, and one order of units"
            )
        name = self._noted(_name_of(node), (one.node, other.node), "add")
        return replace(one, node=name, guessed=one.guessed or other.guessed)

    def _join(self, node: Any, tensors: Any, dim: int = 0) -> Value:
        if not all(isinstance(value, Value) for value in tensors):
            raise Unsupported("it joins a constant or a parameter; expected tensors that forward computes")
        first = tensors[0]
        if len(tensors) == 1:
            return first
        if first.axes[dim] != len(first.shape) or any(value.axes != first.axes for value in tensors):
            raise Misfit(f"it joins along axis {dim} of {shown(first.theirs)}; expected the channels")
        if any(value.shape[:-1] != first.shape[:-1] for value in tensors):
            raise Misfit(f"it joins maps of different sizes: {', '.join(shown(v.theirs) for v in tensors)}")
        name = self._noted(_name_of(node), tuple(value.node for value in tensors), "concat")
        shape = (*first.shape[:-1], sum(value.shape[-1] for value in tensors))
        guessed = any(value.guessed for value in tensors)
        return replace(first, node=name, shape=shape, order=_orders(tensors), guessed=guessed)

    def _turned(self, node: Any, called: str, x: Value, *dims: Any, **kwargs: Any) -> Value:
        """The same numbers with different axes."""
        if called == "squeeze":
            return self._squeezed(node, x, *dims, **kwargs)
        axes = list(x.axes)
        if called == "transpose":
            one, other = dims or kwargs.values()
            axes[one], axes[other] = axes[other], axes[one]
        else:
            places = kwargs.get("dims", dims[0] if dims and isinstance(dims[0], (tuple, list)) else dims)
            axes = [axes[place] for place in places]
        if axes[0] != 0:
            raise Unsupported("it moves the batch; expected the batch to stay axis 0")
        return replace(x, axes=tuple(axes))

    def _squeezed(self, node: Any, x: Value, *dims: Any, **kwargs: Any) -> Value:
        given = kwargs.get("dim", dims[0] if dims else None)
        if given is None:
            raise Unsupported("without an axis it also removes the batch of a single example. Write x.flatten(1)")
        places = {d % len(x.axes) for d in (given if isinstance(given, (tuple, list)) else (given,))}
        left = tuple(axis for d, axis in enumerate(x.axes) if d not in places or x.theirs[d] != 1)
        if len(left) > 2 or len(x.shape) == 1:
            return replace(x, axes=left)
        return self._applied(node, _name_of(node), x, Step(kinds.Flatten(), axes=(0, 1)), [])


def _computed(node: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A node without a map among its arguments: shapes, numbers, weights."""
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    if getattr(node.target, "__module__", "") in PLAIN or _of_torch(node.target):
        return node.target(*args, **kwargs)
    raise Unsupported(OTHERWISE)


def _of_torch(function: Any) -> bool:
    """Is it one of PyTorch's own functions? Those in ``torch`` itself have no module name."""
    module = getattr(function, "__module__", None) or "torch"
    return module.partition(".")[0] in ("torch", "torchvision", "_operator")


def _facts(x: Value, name: str) -> Any:
    facts: dict[str, Any] = {"shape": x.theirs, "ndim": len(x.axes), "is_cuda": False, "requires_grad": True}
    if name not in facts:
        raise Unsupported(f"it reads x.{name}; expected x.shape, x.size() or x.ndim")
    return facts[name]


def _orders(values: list[Value]) -> numpy.ndarray | None:
    """The order of several rows in one."""
    if all(value.order is None for value in values):
        return None
    parts, start = [], 0
    for value in values:
        K = value.shape[-1]
        parts.append(start + (numpy.arange(K) if value.order is None else value.order))
        start += K
    return numpy.concatenate(parts)


def _same_order(one: Value, other: Value) -> bool:
    if one.order is None or other.order is None:
        return one.order is other.order
    return numpy.array_equal(one.order, other.order)


def _values_in(argument: Any) -> list[Value]:
    if isinstance(argument, Value):
        return [argument]
    if isinstance(argument, dict):
        argument = list(argument.values())
    return [value for part in argument for value in _values_in(part)] if isinstance(argument, (tuple, list)) else []


def _parameters_in(argument: Any) -> list[Any]:
    """The parameters of PyTorch among the arguments."""
    if isinstance(argument, dict):
        argument = list(argument.values())
    if isinstance(argument, (tuple, list)):
        return [parameter for part in argument for parameter in _parameters_in(part)]
    return [argument] if type(argument).__name__ == "Parameter" else []


def _attribute(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name)
    return root


def _without_root(path: str) -> str:
    """The name in the user's module, which is child 0 of the root; that module itself is called by its class."""
    return path.partition(".")[2] or "module"


def _name_of(node: Any) -> str:
    inside = _place(node)
    return f"{inside}.{node.name}" if inside else node.name


def _in_place(node: Any, root: Any, kwargs: dict[str, Any]) -> bool:
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(node.target), "inplace", False))
    called = _called(node)
    return called in ("iadd", "imul") or called.endswith("_") or bool(kwargs.get("inplace"))


def _told(op: str, module: Any, problems: list[Problem]) -> str:
    """All problems in one message; problems of the same kind and cause share a line."""
    together: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        together.setdefault((problem.kind, problem.why), []).append(problem.name)
    lines = [f"  {kind} ({', '.join(names)}): {why}." for (kind, why), names in together.items()]
    count = f"{len(problems)} part{'s' * (len(problems) != 1)}"
    return "\n".join([f"{op}: cannot convert {count} of {type(module).__name__}:", *lines])
