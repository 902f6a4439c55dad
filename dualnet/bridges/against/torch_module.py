"""A PyTorch module against dualnet: one step of it, each node judged, and the two whole networks side by side."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from ...parity.cases.limits import UNIT
from ...shim import asarray, to_numpy, use_backend
from ..pytorch import _dtype_of, _without_root, converted, need_torch
from .judging import judge
from .report import Report, Row, distance, in_order
from .torch_losses import chosen, twin_of_loss
from .torch_pass import Pass, Slot, host
from .torch_twins import Finder
from .tracing import traced

__all__ = ["against_module"]

HIDDEN = 1e4
"""How many units of round-off the whole step may be from the sum of its nodes: they add up in a different order."""


def against_module(module: Any, x: Any, t: Any, loss: Any) -> Report:
    """:func:`dualnet.against` for a ``torch.nn.Module``."""
    start = time.perf_counter()
    torch = need_torch("against")
    dtype = _dtype_of(module, "against")
    x, t = _input(torch, module, x, dtype), _tensor(torch, t, "t")
    t = t.to(x.device)
    report = Report(f"{type(module).__name__} of PyTorch, {'training' if module.training else 'inference'}")
    with _as_it_was(torch, x), torch.enable_grad():
        whole = _Whole(torch, module, x, t, loss)
        _judged(torch, module, x, t, whole, report)
        _compared_whole(torch, module, x, t, whole, report)
    report.seconds = time.perf_counter() - start
    return report


# -- what comes in -----------------------------------------------------------------------------------------------------


def _tensor(torch: Any, value: Any, name: str) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach()
    try:
        return torch.from_numpy(numpy.array(value))
    except (TypeError, ValueError) as error:
        raise TypeError(f"against: {name} is a {type(value).__name__}; expected a tensor or an array") from error


def _input(torch: Any, module: Any, x: Any, dtype: str | None) -> Any:
    given = isinstance(x, torch.Tensor)
    x = _tensor(torch, x, "x")
    if not x.ndim or not len(x):
        raise ValueError(f"against: x has shape {tuple(x.shape)}; expected a batch of at least one example")
    if not given:  # arrays come without a device, and often as float64
        first = next(iter(module.parameters()), None)
        x = x if first is None else x.to(first.device)
        x = x.to(getattr(torch, dtype or "float32")) if x.is_floating_point() else x
    if x.device.type == "meta":
        raise ValueError("against: x is on the device 'meta', where it has no numbers")
    if dtype and x.is_floating_point() and x.dtype != getattr(torch, dtype):
        raise ValueError(
            f"against: x is {str(x.dtype).removeprefix('torch.')}, and the module's weights are {dtype}; expected one "
            f"dtype, as in x.to(torch.{dtype})"
        )
    return x


@contextmanager
def _as_it_was(torch: Any, x: Any) -> Iterator[None]:
    """Inside, random numbers may be drawn; afterwards the generators are restored."""
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        yield


def _random_states(torch: Any, x: Any) -> list[Any]:
    """The states of the generators: that of the CPU and, if x is on a GPU, that of the GPU."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if x.device.type == "cuda" else [])]


def _draw_from(torch: Any, states: list[Any], device: Any = None) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


class _Whole:
    """The whole module, run on a copy: its nodes must add up to this."""

    def __init__(self, torch: Any, module: Any, x: Any, t: Any, loss: Any) -> None:
        self.random = _random_states(torch, x)
        try:
            self.copy = copy.deepcopy(module)
        except Exception as error:
            raise ValueError(
                f"against: {type(module).__name__} cannot be copied ({type(error).__name__}: {error}), but only "
                "a copy is run. Build the module again, and call against before any forward pass"
            ) from error
        try:
            y = self.copy(x)
        except Exception as error:  # any error of a module that cannot take x
            raise ValueError(
                f"against: {type(module).__name__} does not take x {tuple(x.shape)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(y, torch.Tensor) or not y.is_floating_point():
            what = f"a tensor of {y.dtype}" if isinstance(y, torch.Tensor) else f"a {type(y).__name__}"
            raise TypeError(f"against: {type(module).__name__} returns {what}; expected one tensor of real numbers")
        self.y, self.loss = y.detach(), loss
        self.name, self.function = chosen(loss, y, t)
        try:
            value = self.function(y, t)
        except Exception as error:
            raise ValueError(
                f"against: {self.name} does not take y {tuple(y.shape)} and t {tuple(t.shape)} of "
                f"{str(t.dtype).removeprefix('torch.')}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(value, torch.Tensor) or value.ndim:
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"against: {self.name} returns {shape}; expected one number, as with reduction='mean'")
        self.value = float(value.detach())
        learned = {name: p for name, p in self.copy.named_parameters() if p.requires_grad}
        self.gradients: dict[str, Any] = dict.fromkeys(learned)
        if learned and value.requires_grad:  # not backward(), which would write to everything that forward has used
            self.gradients = dict(zip(learned, torch.autograd.grad(value, list(learned.values()), allow_unused=True)))


# -- the nodes ---------------------------------------------------------------------------------------------------------


def _judged(torch: Any, module: Any, x: Any, t: Any, whole: _Whole, report: Report) -> None:
    """One step of a traced copy, node by node from the last to the first."""
    root = torch.nn.Sequential(copy.deepcopy(module))
    root.training = module.training
    _draw_from(torch, whole.random, x.device)
    nodes, closed = traced(root)
    report.notes += [f"{_without_root(name)} is one node: torch.fx cannot follow it ({why})"
                     for name, why in closed.items()]  # fmt: skip
    _draw_from(torch, whole.random, x.device)
    step = Pass(root, nodes)
    y = step.forward(x)
    if not isinstance(y, Slot):
        raise TypeError(f"against: {type(module).__name__} returns a {type(y).__name__} here; expected one tensor")
    finder = Finder(root, nodes, str(whole.y.dtype).removeprefix("torch."))
    shapes = {name: tuple(v.tensor.shape) for name, v in step.values.items() if isinstance(v, Slot)}
    finder.read(nodes, shapes, {name: v for name, v in step.values.items() if not isinstance(v, Slot)})
    last = step.loss(whole.name, whole.function, y, t)
    same = _distance(y.tensor, whole.y)
    found: list[list[Row]] = []
    for done, run in step.backward():
        run.twin = (
            twin_of_loss(whole.loss or whole.function, whole.name, run, t) if done is last else finder.twin(done, run)
        )
        rows = [] if _is_plumbing(done) else judge(run)
        if not rows and not _is_plumbing(done):
            report.unjudged.insert(0, run.name)
        report.notes += [f"{run.name}: {run.note}"] if run.note else []
        report.notes += [f"{row.name}: {row.story}" for row in rows if row.ok and row.story]
        found.append(rows)
    report.rows = in_order(reversed(found)) + list(_hidden(module, root, step, whole, same))
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    report.notes += [f"left out, since they require no gradient: {_listed(frozen)}"] if frozen else []


PLUMBING = ("getattr", "size", "dim", "detach")
"""Nodes that only pass on a tensor, or facts about it."""


def _is_plumbing(done: Any) -> bool:
    if done.node.op == "call_module":
        return False
    return done.kind in PLUMBING or (done.kind == "getitem" and len(done.uses) > 1)  # one of several tensors


def _hidden(module: Any, root: Any, step: Pass, whole: _Whole, same: float) -> Iterator[Row]:
    """Does the module do what its nodes do together? If not, something is hidden from torch.fx, such as a hook."""
    unit = UNIT.get(str(whole.y.dtype).removeprefix("torch."), 6e-8)
    allowed = HIDDEN * unit if whole.y.device.type == "cpu" else 0.1  # there a second run may round otherwise
    told = "Something in its forward is hidden from torch.fx, such as a hook."

    def row(name: str, what: str, error: float) -> Row:
        story = f"the module's own {what} is {error:.1e} from that of its nodes, one by one. {told}"
        return Row(
            name,
            type(module).__name__,
            what,
            error,
            allowed,
            error / allowed,
            "undecided",
            "the module as a whole",
            "",
            story,
        )

    if not same <= allowed:
        yield row("module", "y", same)
    theirs = dict(whole.copy.named_parameters())
    for name, parameter in root[0].named_parameters():
        real, sum_of_nodes = whole.gradients.get(name), step.totals.get(parameter)
        if name not in theirs or (real is None and sum_of_nodes is None):
            continue
        if real is None or sum_of_nodes is None:
            present = real if real is not None else sum_of_nodes
            error = 1.0 if bool(present.any()) else 0.0
        else:
            error = _distance(sum_of_nodes, real)
        if not error <= allowed and _size(real, sum_of_nodes) > 1e-7:
            yield row(name.rpartition(".")[0] or "module", f"gradient of {name}", error)


def _size(*tensors: Any) -> float:
    return max((float(t.detach().cpu().double().norm()) for t in tensors if t is not None), default=0.0)


def _distance(one: Any, other: Any) -> float:
    one, other = (tensor.detach().cpu().double().numpy() for tensor in (one, other))  # some devices have no float64
    return distance(one, other)


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# -- the whole ---------------------------------------------------------------------------------------------------------


def _compared_whole(torch: Any, module: Any, x: Any, t: Any, whole: _Whole, report: Report) -> None:
    """The losses: theirs, ours, and theirs in float64."""
    report.losses["theirs"] = whole.value
    if _is_random(module):
        report.notes.append(
            "dropout is on, and each framework draws its own masks, so the whole networks are not compared"
        )
        return
    wide = _in_float64(torch, module, x, t, whole.function)
    if wide is not None:
        report.losses["theirs in float64"] = wide
    shape = tuple(x.shape[1:]) if x.ndim != 4 else (*x.shape[2:], x.shape[1])
    try:
        ours = _ours(module, shape, host(x))
    except (ValueError, TypeError, ImportError, MemoryError):
        report.notes.append("dn.from_torch does not convert the whole module, so there is no loss of ours")
        return
    y = torch.from_numpy(numpy.ascontiguousarray(ours.astype("float64"))).to(x.device)
    if tuple(y.shape) == tuple(whole.y.shape):
        report.losses["ours"] = float(whole.function(y.to(whole.y.dtype), t))
        report.logits = _distance(y, whole.y)


def _ours(module: Any, shape: tuple[int, ...], x: numpy.ndarray) -> numpy.ndarray:
    with use_backend("numpy"):
        net, train = converted(module, shape, "against").net, module.training
        x = numpy.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x
        y = to_numpy(net.forward(asarray(x), train=True)[0] if train else net(asarray(x)))
    return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


def _is_random(module: Any) -> bool:
    return any(part.training and "ropout" in type(part).__name__ and getattr(part, "p", 0) for part in module.modules())


def _in_float64(torch: Any, module: Any, x: Any, t: Any, function: Callable[..., Any]) -> float | None:
    try:
        with torch.no_grad():
            y = copy.deepcopy(module).double()(x.double() if x.is_floating_point() else x)
            return float(function(y, t.double() if t.is_floating_point() else t))
    except Exception:  # code that takes no float64
        return None
