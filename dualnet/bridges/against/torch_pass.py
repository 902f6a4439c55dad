"""One step of a PyTorch module, node by node: forward, loss and backward, with everything recorded.

Each node runs on fresh copies of its inputs, cut off from the nodes before it. So autograd returns the delta of each
*use* of a tensor separately, and the deltas are added up here, in the same order in which autograd does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy

from ...shim import asarray
from ..pytorch import _attribute, _called, _place, _without_root, need_torch
from .steps import Arrays, NodeRun
from .tracing import GRAD, Applied

__all__ = ["Done", "Pass", "host"]

ROLES: dict[str, tuple[str, ...]] = {"linear": ("input", "weight", "bias")}
ROLES |= dict.fromkeys(("conv2d", "conv_transpose2d", "conv1d", "conv3d"), ROLES["linear"])
ROLES |= {"batch_norm": ("input", "running_mean", "running_var", "weight", "bias")}
ROLES |= {"layer_norm": ("input", "normalized_shape", "weight", "bias")}
ROLES |= {"group_norm": ("input", "num_groups", "weight", "bias")}
"""The names of the arguments of functions, in order."""
CUTS = ("detach", "detach_")
"""Functions that stop a gradient on purpose."""


@dataclass
class Slot:
    """A tensor between nodes, and the delta that has arrived for it."""

    tensor: Any
    needs: bool  # a gradient
    delta: Any = None

    def add(self, delta: Any) -> None:
        self.delta = delta if self.delta is None else self.delta + delta


@dataclass
class Use:
    """A tensor as one argument of one node."""

    name: str
    slot: Slot
    leaf: Any


@dataclass
class Done:
    """A node that has run."""

    node: Any
    name: str
    kind: str
    uses: list[Use]
    outputs: list[Any]  # still with their graphs
    slots: list[Slot]
    parameters: dict[str, Any]
    again: Again
    note: str = ""
    cut: bool = False
    quantity: str = "y"

    def tensors(self) -> bool:
        """Does it compute with numbers, rather than with shapes?"""
        return bool(self.slots) and bool(self.uses or self.parameters)


class Pass:
    """A traced module at work. ``root`` is a copy of the user's module, inside a Sequential; ``nodes`` its graph."""

    def __init__(self, root: Any, nodes: list[Any]) -> None:
        self.torch = need_torch("against")
        self.root, self.nodes = root, nodes
        self.values: dict[str, Any] = {}
        self.done: list[Done] = []
        self.names: dict[str, int] = {}
        self.totals: dict[Any, Any] = {}  # gradients by the parameter

    # -- forward

    def forward(self, x: Any) -> Any:
        """The output as the module returns it, with slots instead of tensors."""
        for node in self.nodes:
            if node.op == "placeholder":
                given = any(other.op == "placeholder" for other in self.nodes[: self.nodes.index(node)])
                first = Slot(x, False) if self._real(x) else x
                self.values[node.name] = first if not given else (node.args or (None,))[0]
            elif node.op == "get_attr":
                self.values[node.name] = self._attribute(node)
            elif node.op == "output":
                return self._slots_of(node.args[0])
            else:
                self.values[node.name] = self._run(node)
        return None

    def _attribute(self, node: Any) -> Any:
        found = _attribute(self.root, node.target)
        return Slot(found, found.requires_grad) if self._real(found) else found

    def _run(self, node: Any) -> Any:
        module = self.root.get_submodule(node.target) if node.op == "call_module" else None
        uses: list[Use] = []
        args, kwargs = self._arguments(node, uses)
        parameters = {} if module is None else dict(module.named_parameters())
        buffers = {} if module is None else {name: b.detach().clone() for name, b in module.named_buffers()}
        again = Again(self.torch, node, module, args, kwargs, buffers, self._random())
        given = [self._given(use, node, module) for use in uses]
        with self.torch.set_grad_enabled(node.meta.get(GRAD, True)):
            result = called(node, module, *again.filled([tensor for tensor, _ in given]))
        if result is None:  # x.__setitem__(...)
            result = next((tensor for tensor, version in given if tensor._version != version), None)
        outputs: list[Any] = []
        needs = any(use.slot.needs for use in uses)
        cut = _called(node) in CUTS if module is None else False
        structure = self._structure(result, outputs, needs and not cut)
        slots = list(_slots(structure))
        name = self._named(node)
        kind = type(module).__name__ if module is not None else _called(node).removeprefix("_operator.")
        done = Done(node, name, kind, uses, outputs, slots, parameters, again, cut=cut)
        if needs and not cut and slots and not any(tensor.requires_grad for tensor in outputs):
            done.note = "it runs without gradients" + ("" if node.meta.get(GRAD, True) else ", under torch.no_grad()")
        again.uses, again.parameters = [use.name for use in uses], parameters
        again.wants = {use.name for use in uses if use.slot.needs} | {
            n for n, p in parameters.items() if p.requires_grad
        }
        self.done.append(done)
        for use, (tensor, version) in zip(uses, given):
            if tensor is not use.leaf and tensor._version != version and len(slots) == 1:
                self._replace(use.slot, slots[0])  # x.relu_(): everything that reads x from now on reads the result
        return structure

    def _given(self, use: Use, node: Any, module: Any) -> tuple[Any, int]:
        """The tensor that the node gets, which it may overwrite, and its version."""
        if not _may_overwrite(node, module):
            return use.leaf, use.leaf._version
        tensor = use.leaf.clone()
        return tensor, tensor._version

    def _replace(self, old: Slot, new: Slot) -> None:
        self.values = {name: _mapped(value, lambda slot: new if slot is old else slot)
                       for name, value in self.values.items()}  # fmt: skip

    def _arguments(self, node: Any, uses: list[Use]) -> tuple[Any, Any]:
        roles = ROLES.get(_called(node).removesuffix("_"), ()) if node.op != "call_module" else ()
        args = tuple(self._used(a, uses, roles[i] if i < len(roles) else "") for i, a in enumerate(node.args))
        kwargs = {key: self._used(value, uses, key if key in roles else "") for key, value in node.kwargs.items()}
        data = [use for use in uses if not use.name]
        for i, use in enumerate(data):
            use.name = "x" if len(data) == 1 else f"x{i}"
        taken: set[str] = set()
        for use in uses:  # two parameters of the same name
            use.name = next(n for n in (use.name, *(f"{use.name}_{i}" for i in range(2, 99))) if n not in taken)
            taken.add(use.name)
        return args, kwargs

    def _used(self, argument: Any, uses: list[Use], role: str) -> Any:
        """An argument, with a :class:`Use` for each tensor."""

        def use(slot: Slot, name: str) -> Use:
            uses.append(Use(name, slot, slot.tensor.detach().requires_grad_(slot.needs)))
            return uses[-1]

        if isinstance(argument, self.torch.fx.Node):
            name = "" if role in ("", "input") else role
            if argument.op == "get_attr" and not name:
                name = str(argument.target).rpartition(".")[2]
            return _mapped(self.values[argument.name], lambda slot: use(slot, name))
        if isinstance(argument, (tuple, list)):
            kind = tuple if isinstance(argument, tuple) else list
            return kind(self._used(part, uses, role) for part in argument)
        if isinstance(argument, dict):
            return {key: self._used(part, uses, role) for key, part in argument.items()}
        if isinstance(argument, slice):
            parts = (self._used(part, uses, role) for part in (argument.start, argument.stop, argument.step))
            return slice(*parts)
        return argument

    def _structure(self, result: Any, outputs: list[Any], needs: bool) -> Any:
        if self._real(result):
            outputs.append(result)
            return Slot(result.detach(), result.requires_grad or needs)
        if isinstance(result, (tuple, list)) and type(result) in (tuple, list):
            return type(result)(self._structure(part, outputs, needs) for part in result)
        if isinstance(result, dict):
            return {key: self._structure(part, outputs, needs) for key, part in result.items()}
        return result

    def _slots_of(self, argument: Any) -> Any:
        if isinstance(argument, self.torch.fx.Node):
            return self.values[argument.name]
        if isinstance(argument, (tuple, list)):
            return tuple(map(self._slots_of, argument))
        if isinstance(argument, dict):
            return {key: self._slots_of(part) for key, part in argument.items()}
        return argument

    def _real(self, value: Any) -> bool:
        return isinstance(value, self.torch.Tensor) and value.is_floating_point()

    def _random(self) -> dict[Any, Any]:
        """The states of the generators: that of the host, and those of the devices."""
        devices = {slot.tensor.device for value in self.values.values() for slot in _slots(value)}
        states = {device: self.torch.cuda.get_rng_state(device) for device in devices if device.type == "cuda"}
        return {"cpu": self.torch.get_rng_state(), **states}

    def _named(self, node: Any) -> str:
        if node.op == "call_module":
            name = _without_root(node.target)
        else:
            bare = re.sub(r"_\d+$", "", node.name)  # torch.fx numbers all nodes of a kind
            inside = _place(node)
            name = f"{inside}.{bare}" if inside else bare
        times = self.names[name] = self.names.get(name, 0) + 1
        return name if times == 1 else f"{name} ({times})"

    # -- loss and backward

    def loss(self, name: str, function: Callable[..., Any], y: Slot, t: Any) -> Done:
        """The loss as one more node."""
        leaf = y.tensor.detach().requires_grad_(True)
        value = function(leaf, t)
        node = _LossNode(function)
        again = Again(self.torch, node, None, (Use("x", y, leaf), t), {}, {}, self._random())
        again.uses, again.wants = ["x"], {"x"}
        done = Done(node, name, name, [Use("x", y, leaf)], [value], [Slot(value.detach(), True)], {}, again)
        done.quantity = "loss"
        self.done.append(done)
        return done

    def backward(self) -> Iterator[tuple[Done, NodeRun]]:
        """Each node from last to first, with its gradients. Its graph is dropped before the next one runs."""
        if self.done and self.done[-1].quantity == "loss":
            self.done[-1].slots[0].add(self.torch.ones_like(self.done[-1].slots[0].tensor))
        self.values.clear()
        while self.done:
            done = self.done.pop()
            gradients = self._pulled(done)
            if done.tensors():
                yield done, self._noted(done, gradients)

    def _pulled(self, done: Done) -> dict[str, Any] | None:
        """The gradients by name; None if no delta arrived."""
        arrived = [(y, slot.delta) for y, slot in zip(done.outputs, done.slots) if slot.delta is not None]
        if not arrived or done.cut:
            return None
        wanted = {use.name: use.leaf for use in done.uses if use.slot.needs}
        wanted |= {name: p for name, p in done.parameters.items() if p.requires_grad}
        pulled = [(y, delta) for y, delta in arrived if y.requires_grad]
        found: tuple[Any, ...] = (None,) * len(wanted)
        if pulled and wanted:
            ys, deltas = zip(*pulled)
            found = self.torch.autograd.grad(ys, list(wanted.values()), deltas, allow_unused=True)
        gradients = {
            name: self.torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(wanted.items(), found)
        }
        for use in done.uses:
            if use.slot.needs:
                use.slot.add(gradients[use.name])
                if isinstance(use.slot.tensor, self.torch.nn.Parameter):
                    self._total(use.slot.tensor, gradients[use.name])
        for name, parameter in done.parameters.items():
            if name in gradients and pulled:
                self._total(parameter, gradients[name])
        return gradients

    def _total(self, parameter: Any, gradient: Any) -> None:
        known = self.totals.get(parameter)
        self.totals[parameter] = gradient if known is None else known + gradient

    def _noted(self, done: Done, gradients: dict[str, Any] | None) -> NodeRun:
        values = {use.name: host(use.leaf) for use in done.uses}
        values |= {name: host(parameter) for name, parameter in done.parameters.items() if self._real(parameter)}
        tensors = [slot.tensor for slot in done.slots]
        dy = None
        if gradients is not None:
            deltas = [self.torch.zeros_like(s.tensor) if s.delta is None else s.delta for s in done.slots]
            dy = host(_joined(self.torch, deltas))
        return NodeRun(
            done.name, done.kind, values, host(_joined(self.torch, tensors)), dy,
            {name: host(gradient) for name, gradient in (gradients or {}).items()},
            again=done.again, note=done.note, device=str(tensors[0].device), quantity=done.quantity,
        )  # fmt: skip


class _LossNode:
    """A loss in the form of a node."""

    op = "call_function"
    name = "loss"
    meta: dict[str, Any] = {}

    def __init__(self, function: Callable[..., Any]) -> None:
        self.target = function


@dataclass
class Again:
    """Runs a node again, with other numbers or in another dtype: a :class:`.steps.Runner`."""

    torch: Any
    node: Any
    module: Any
    args: Any
    kwargs: Any
    buffers: dict[str, Any]
    random: Any
    uses: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    wants: set[str] = field(default_factory=set)  # the values whose gradients are needed

    def filled(self, tensors: list[Any]) -> tuple[Any, Any]:
        """The arguments, with these tensors instead of the uses."""
        rest = iter(tensors)
        return _mapped(self.args, lambda _: next(rest), Use), _mapped(self.kwargs, lambda _: next(rest), Use)

    def __call__(self, values: Arrays, dy: numpy.ndarray | None = None) -> tuple[numpy.ndarray, Arrays]:
        torch = self.torch
        tensors = {name: self._tensor(array, dy is not None and name in self.wants) for name, array in values.items()}
        dtype = next(iter(tensors.values())).dtype
        given = [tensors[name].clone() for name in self.uses]  # a clone may be overwritten
        grad = dy is not None and self.node.meta.get(GRAD, True)
        devices = [device for device in self.random if device != "cpu"]
        with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(grad):
            torch.set_rng_state(self.random["cpu"])
            for device in devices:
                torch.cuda.set_rng_state(self.random[device], device)
            args, kwargs = self.filled(given)
            if self.module is None:
                result = called(self.node, None, args, kwargs)
            else:
                state = {n: b.to(dtype) if b.is_floating_point() else b.clone() for n, b in self.buffers.items()}
                state |= {name: tensors[name] for name in self.parameters if name in tensors}
                result = torch.func.functional_call(self.module, state, args, kwargs)
        y = _joined(
            torch, [part for part in _parts(result) if isinstance(part, torch.Tensor) and part.is_floating_point()]
        )
        if dy is None:
            return host(y), {}
        wanted = {name: tensor for name, tensor in tensors.items() if name in self.wants}
        found: Any = [None] * len(wanted)
        if y.requires_grad and wanted:
            delta = self._tensor(numpy.asarray(dy), False).reshape(y.shape)
            found = torch.autograd.grad(y, list(wanted.values()), delta, allow_unused=True)
        pairs = zip(wanted.items(), found)
        return host(y), {n: host(torch.zeros_like(t) if g is None else g) for (n, t), g in pairs}

    def _tensor(self, array: numpy.ndarray, needs: bool) -> Any:
        if array.dtype.name == "bfloat16":
            tensor = self.torch.from_numpy(numpy.array(array).view("int16")).view(self.torch.bfloat16)
        else:
            tensor = self.torch.from_numpy(numpy.array(array))
        return tensor.to(self._device()).requires_grad_(needs and tensor.is_floating_point())

    def _device(self) -> Any:
        first = next((use.leaf for use in _parts((self.args, self.kwargs)) if isinstance(use, Use)), None)
        return "cpu" if first is None else first.device


# -- helpers -----------------------------------------------------------------------------------------------------------


def called(node: Any, module: Any, args: Any, kwargs: Any) -> Any:
    """The result of a node."""
    if module is not None:
        return module(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)
    return node.target(*args, **kwargs)


def host(tensor: Any) -> numpy.ndarray:
    """The tensor's numbers on the host."""
    return asarray(tensor.detach().cpu(), backend="numpy")


def _joined(torch: Any, tensors: list[Any]) -> Any:
    """Several tensors as one row."""
    return tensors[0] if len(tensors) == 1 else torch.cat([tensor.reshape(-1) for tensor in tensors])


def _may_overwrite(node: Any, module: Any) -> bool:
    """Might it change its arguments? PyTorch's own functions have a flag or a name that says so; others are unknown."""
    if module is not None:
        if any(getattr(part, "inplace", False) for part in module.modules()):
            return True
        return not type(module).__module__.startswith("torch.nn.modules.") or bool(module._forward_pre_hooks)
    name = _called(node)
    if isinstance(node.target, Applied) or node.kwargs.get("inplace") or True in node.args:
        return True
    return name.endswith("_") or name in ("iadd", "imul", "isub", "itruediv", "setitem")


def _mapped(value: Any, change: Callable[[Any], Any], kind: type = Slot) -> Any:
    """A structure with each slot (or use) changed."""
    if isinstance(value, kind):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(_mapped(part, change, kind) for part in value)
    if isinstance(value, dict):
        return {key: _mapped(part, change, kind) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(*(_mapped(part, change, kind) for part in (value.start, value.stop, value.step)))
    return value


def _slots(value: Any) -> Iterator[Slot]:
    return (part for part in _parts(value) if isinstance(part, Slot))


def _parts(value: Any) -> Iterator[Any]:
    """The leaves of a structure."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _parts(part)
    elif isinstance(value, dict):
        yield from _parts(list(value.values()))
    elif isinstance(value, slice):
        yield from _parts((value.start, value.stop, value.step))
    else:
        yield value
