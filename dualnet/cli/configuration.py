"""``dualnet train --config run.toml --set optimizer.lr=0.1``: options in a file, and the file that a training writes.

A configuration holds the options of ``dualnet train`` under their own names, with ``_`` for ``-``, and the optimizer's
arguments in a table:

    dataset = "photos"
    epochs = 20

    [optimizer]
    name = "sgd"
    lr = 0.05
    momentum = 0.9

The command line wins over the file.
"""

from __future__ import annotations

import argparse
import inspect
import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import optimizers
from .options import count, counts, floating, loss_scale, rate, switch, whole

__all__ = ["Configured", "beside", "in_toml", "optimizer_of", "read_toml", "setting"]

OF_OPTIMIZER = "optimizer"
PLACES = {"name": "optimizer", "lr": "lr"}
"""The entries of the optimizer's table that have an option of their own."""
CHECKED: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("epochs", "batch_size", "checkpoint_every"), count),
    **dict.fromkeys(("grey", "augment", "capture", "resume", "distributed", "sync_batch_norm"), switch),
    **{"lr": rate, "seed": whole, "size": counts, "dtype": floating, "loss_scale": loss_scale},
}
"""How to read each option that is not a plain word."""


def setting(text: str) -> tuple[str, Any]:
    """``optimizer.lr=0.1`` as a name and a value, which is read as TOML or, if that fails, as a word.

    >>> setting("optimizer.lr=0.1"), setting("model=lenet5"), setting("augment=true")
    (('optimizer.lr', 0.1), ('model', 'lenet5'), ('augment', True))
    """
    name, equals, value = text.partition("=")
    if not (name.strip() and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, such as optimizer.lr=0.1")
    try:
        return name.strip(), tomllib.loads(f"x = {value}")["x"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


class Configured:
    """Fills in the options that the command line leaves open, from a configuration.

    ``names`` are the options that a file may set, and ``given`` those on the command line.
    """

    def __init__(self, options: argparse.Namespace, names: Sequence[str], given: Sequence[str]) -> None:
        self.options, self.names, self.given = options, tuple(names), set(given)
        self.of_optimizer: dict[str, Any] = {}

    def take(self, table: Mapping[str, Any], where: str) -> None:
        """Set the options in ``table``. If one does not exist, raises a ``ValueError`` that names ``where``."""
        for name, value in table.items():
            if name == OF_OPTIMIZER and isinstance(value, Mapping):
                for inner, argument in value.items():
                    self._set(f"{OF_OPTIMIZER}.{inner}", argument, where)
            else:
                self._set(name, value, where)

    def _set(self, name: str, value: Any, where: str) -> None:
        table, dot, inner = name.partition(".")
        if dot and table == OF_OPTIMIZER:
            if inner not in PLACES:
                self.of_optimizer[inner] = value
                return
            option = PLACES[inner]
        else:
            option = name.replace("-", "_")
            if option not in self.names:
                known = ", ".join([*self.names, f"{OF_OPTIMIZER}.NAME"])
                raise ValueError(f"{where}: there is no option {name!r}; there are {known}")
        if option not in self.given:
            setattr(self.options, option, _checked(option, value, where))


def _checked(option: str, value: Any, where: str) -> Any:
    """The value as the command line would read it. A list means numbers separated by commas."""
    if isinstance(value, list):
        text = ",".join(map(str, value))
    else:
        text = str(value).lower() if isinstance(value, bool) else str(value)
    if option not in CHECKED:
        if not isinstance(value, str):
            raise ValueError(f"{where}: {option}: expected a word in quotes, got {text}")
        return value
    try:
        return CHECKED[option](text)
    except argparse.ArgumentTypeError as error:
        raise ValueError(f"{where}: {option}: {error}") from None


def read_toml(path: str) -> dict[str, Any]:
    """The table in a TOML file. If it cannot be read, raises a ``ValueError`` that says where."""
    with open(path, "rb") as file:
        try:
            return tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: {error}") from None


def optimizer_of(name: str, arguments: Mapping[str, Any]) -> optimizers.Optimizer:
    """The optimizer of this name with these arguments; an unknown argument is an error that lists those it has."""
    usual = optimizers.get(name)
    kind = type(usual)
    known = [word for word in inspect.signature(kind).parameters if word != "lr"]
    for word in arguments:
        if word not in known:
            raise ValueError(f"optimizer.{word}: {kind.__name__} has no such argument; it has {', '.join(known)}")
    return kind(lr=usual.current_lr, **arguments)


def in_toml(table: Mapping[str, Any]) -> str:
    """A table of words, numbers, lists and one level of tables as TOML; None is left out.

    >>> print(in_toml({"epochs": 3, "augment": True, "data": None, "optimizer": {"name": "sgd", "lr": 0.05}}), end="")
    epochs = 3
    augment = true
    <BLANKLINE>
    [optimizer]
    name = "sgd"
    lr = 0.05
    """
    plain = [f"{name} = {_value(value)}" for name, value in table.items() if not _left_out(value)]
    for name, inner in table.items():
        if isinstance(inner, Mapping):
            plain += ["", f"[{name}]", *(f"{key} = {_value(v)}" for key, v in inner.items() if not _left_out(v))]
    return "\n".join(plain) + "\n"


def _left_out(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _value(value: Any) -> str:
    """Words, numbers, true, false and lists of them: JSON writes these as TOML does."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def beside(model: Path) -> Path:
    """The configuration beside a saved model. Its name will not clash with a file of yours.

    >>> beside(Path("digits-digits_cnn.npz")).name
    'digits-digits_cnn.run.toml'
    """
    return model.with_suffix(".run.toml")
