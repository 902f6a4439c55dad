"""A drawing of a network, as the page sends it: made into layers and an optimizer, and written as code."""

from __future__ import annotations

import math
from typing import Any

import dualnet as dn

from .blocks import GROUPS, OPTIMIZERS, value

KINDS = {kind for kinds in GROUPS.values() for kind in kinds}
DEFAULT: dict[str, Any] = {
    "data": "digits",
    "layers": [
        ["Conv2D", {"filters": 8, "kernel_size": 3, "padding": "same"}],
        ["ReLU", {}],
        ["MaxPool2D", {"pool_size": 2}],
        ["Conv2D", {"filters": 8, "kernel_size": 3, "padding": "same"}],
        ["ReLU", {}],
        ["MaxPool2D", {"pool_size": 2}],
        ["Flatten", {}],
        ["Dense", {"units": 10}],
    ],
    "optimizer": ["Adam", {}],
    "lr": 0.01,
    "batch_size": 64,
    "epochs": 20,
    "seed": 0,
    "broken": "",
}
"""The settings that the page opens with, and the names of all settings."""

Settings = dict[str, Any]


def complete(settings: Settings) -> Settings:
    """The settings with the default for all that is missing; what has no meaning here is refused."""
    unknown = settings.keys() - DEFAULT.keys()
    if unknown:
        raise ValueError(f"playground: there is no setting {', '.join(sorted(unknown))}; they are {', '.join(DEFAULT)}")
    return DEFAULT | settings


def made(given: Any, known: set[str] | tuple[str, ...], what: str, **more: Any) -> Any:
    """A layer or an optimizer from its name and its options."""
    fits = isinstance(given, list | tuple) and len(given) == 2 and isinstance(given[1], dict)
    if not fits or not isinstance(given[0], str):
        raise ValueError(f'playground: {what} is a name and its options, such as ["Dense", {{}}]; got {given!r}')
    kind, options = given
    if kind not in known:
        raise ValueError(f"playground: {what} {kind!r} cannot be drawn here; choose from {', '.join(sorted(known))}")
    return getattr(dn, kind)(**more, **{name: value(entered) for name, entered in options.items()})


def layers(settings: Settings) -> list[Any]:
    """The layers, each in the words of its own constructor if it does not fit."""
    return [made(given, KINDS, "a block") for given in settings["layers"]]


def network(settings: Settings, input_shape: tuple[int, ...]) -> Any:
    """The network, with its first weights."""
    if not settings["layers"]:
        raise ValueError("playground: the network has no layers yet; add a block")
    net = dn.Sequential(layers(settings))
    output = net.output_shape(input_shape)
    if len(output) != 1:
        raise ValueError(
            f"playground: the network ends in {output}, and an answer is one number for each class: end with Flatten "
            "and Dense"
        )
    return net.init(input_shape, seed=value(settings["seed"]))


def optimizer(settings: Settings) -> Any:
    return made(settings["optimizer"], OPTIMIZERS, "an optimizer", lr=value(settings["lr"]))


def shapes(settings: Settings, input_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """What each block makes of the shape before it; from the first that does not fit on, the library's words."""
    rows: list[dict[str, Any]] = []
    shape, broken = tuple(input_shape), False
    for given in settings["layers"]:
        if broken:
            rows.append({})
            continue
        try:
            layer = made(given, KINDS, "a block")
            shape = layer.output_shape(shape)
            built = dn.Sequential([layer]).init(_entered(rows, input_shape))
            counted = sum(math.prod(parameter.shape) for parameter in built.parameters().values())
            rows.append({"shape": list(shape), "parameters": counted, "code": code_of(layer)})
        except (ValueError, TypeError) as error:
            rows.append({"error": str(error)})
            broken = True
    return rows


def _entered(rows: list[dict[str, Any]], input_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that comes in behind these rows."""
    return tuple(rows[-1]["shape"]) if rows else tuple(input_shape)


def drawing(net: Any) -> list[Any]:
    """The blocks of a network, the way back from :func:`layers`."""
    if not isinstance(net, dn.Sequential):
        raise ValueError(f"playground: the file holds a {type(net).__name__}; a chain of layers can be drawn here")
    blocks = []
    for layer in net.children().values():
        kind = type(layer).__name__
        if kind not in KINDS:
            raise ValueError(f"playground: the file holds the layer {kind}, which cannot be drawn here")
        blocks.append([kind, {name: _entry(given) for name, given in layer.config().items()}])
    return blocks


def _entry(given: Any) -> Any:
    """An option as JSON has it."""
    return given if given is None or isinstance(given, bool | int | float | str) else repr(given)


# -- as code -----------------------------------------------------------------------------------------------------------


def code_of(made: Any) -> str:
    """A layer as it is written: ``dn.Dense(units=10)``."""
    return f"dn.{made!r}"


def code(settings: Settings) -> str:
    """The network as code."""
    lines = "\n".join(f"    {code_of(layer)}," for layer in layers(settings))
    return f"net = dn.Sequential([\n{lines}\n])"


def code_of_optimizer(settings: Settings) -> str:
    kind, options = settings["optimizer"]
    given = {"lr": float(value(settings["lr"]))} | {name: value(entered) for name, entered in options.items()}
    return f"dn.{kind}({', '.join(f'{name}={entered!r}' for name, entered in given.items())})"
