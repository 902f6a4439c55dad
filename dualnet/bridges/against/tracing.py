"""The graph of a PyTorch module, from ``torch.fx``; its nodes are judged later.

Three things differ from plain ``torch.fx``. A user's own ``torch.autograd.Function`` becomes one node, whatever name
its ``apply`` has; otherwise its forward would be traced and its backward forgotten. A module that ``torch.fx`` cannot
follow becomes one node. And each node remembers whether gradients were switched off around it (``torch.no_grad()``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..pytorch import need_torch

__all__ = ["Applied", "GRAD", "traced"]

GRAD = "dualnet: gradients are on"
"""Under this name a node's ``meta`` says whether gradients were on at that place."""


class Applied:
    """Calls a ``torch.autograd.Function``; the target of its node."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.__name__ = self.__qualname__ = function.__name__
        self.__module__ = function.__module__

    def __call__(self, *args: Any) -> Any:
        return self.function.apply(*args)


def traced(root: Any) -> tuple[list[Any], dict[str, str]]:
    """The nodes of a module, and why modules inside it, by name, could not be followed and are one node each."""
    closed: dict[str, str] = {}
    while True:
        tracer = _tracer(frozenset(closed))
        try:
            with _functions_as_nodes():
                return list(tracer.trace(root).nodes), closed
        except Exception as error:  # any error that their forward raises when it meets a proxy
            inside = next((name for name in reversed(tracer.entered) if name not in closed), None)
            if inside is None:
                raise
            closed[inside] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _tracer(closed: frozenset[str]) -> Any:
    torch = need_torch("against")

    class Tracer(torch.fx.Tracer):  # type: ignore[name-defined]
        entered: list[str] = []

        def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
            if module_qualified_name in closed or isinstance(m, torch.jit.ScriptModule):
                return True
            return super().is_leaf_module(m, module_qualified_name)

        def call_module(self, m: Any, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            name = self.path_of_module(m)
            self.entered.append(name)
            result = super().call_module(m, forward, args, kwargs)
            self.entered.pop()  # not if it failed: then the last one is where it failed
            return result

        def create_node(self, *args: Any, **kwargs: Any) -> Any:
            node = super().create_node(*args, **kwargs)
            node.meta[GRAD] = torch.is_grad_enabled()
            return node

    tracer = Tracer()
    tracer.entered = []
    return tracer


@contextmanager
def _functions_as_nodes() -> Iterator[None]:
    """Inside, a ``torch.autograd.Function`` that meets a proxy becomes a node.

    ``apply`` is often stored under another name (``relu = MyReLU.apply``), so it cannot be replaced; but the forward
    that it calls can be.
    """
    torch = need_torch("against")
    before: list[tuple[Any, str, Any]] = []
    functions = list(dict.fromkeys(_subclasses(torch.autograd.Function)))
    forwards = {function: function.forward for function in functions}  # before any of them is replaced
    setups = {function: function.setup_context for function in functions}
    for function in functions:
        splits = any("setup_context" in vars(kind) for kind in function.__mro__[:-1] if not _of_torch(kind))
        replaced = {"forward": _forward(torch, function, forwards[function], splits)}
        if splits:
            replaced["setup_context"] = _setup(torch, setups[function])
        for name, call in replaced.items():  # one that is inherited too: the class may have a backward of its own
            before.append((function, name, vars(function).get(name)))
            setattr(function, name, staticmethod(call))
    try:
        yield
    finally:
        for function, name, value in before:
            if value is None:
                delattr(function, name)
            else:
                setattr(function, name, value)


def _forward(torch: Any, function: Any, forward: Callable[..., Any], splits: bool) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        given = args if splits else args[1:]  # without the context
        proxies = [a for a in given if isinstance(a, torch.fx.Proxy)]
        if not proxies:
            return forward(*args, **kwargs)
        made = proxies[0].tracer.create_proxy("call_function", Applied(function), given, kwargs, function.__name__)
        made.node.meta[GRAD] = True  # inside of apply they are always off
        return made

    return call


def _setup(torch: Any, setup: Callable[..., Any]) -> Callable[..., Any]:
    def call(ctx: Any, inputs: Any, output: Any) -> Any:
        if not any(isinstance(a, torch.fx.Proxy) for a in inputs):
            setup(ctx, inputs, output)

    return call


def _subclasses(kind: Any) -> Iterator[Any]:
    for below in type.__subclasses__(kind):
        if not _of_torch(below):
            yield below
        yield from _subclasses(below)


def _of_torch(kind: Any) -> bool:
    return kind.__module__.partition(".")[0] in ("torch", "torchvision")
