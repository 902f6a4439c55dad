"""Bridges to other frameworks, and networks as files of other languages. Each is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

METHODS = {"to_c": "c_code", "to_numpy": "numpy_code", "to_onnx": "onnx_export"}
"""Methods of networks, and the file in which each is defined."""
FUNCTIONS = {
    "against": "against",
    "from_onnx": "onnx_import",
    "from_torch": "pytorch",
    "load_weights": "weights",
    "to_torch": "pytorch_export",
}
"""Functions of ``dualnet``, and their files."""


def function(name: str) -> Any:
    """The function of this name in one of the tables above."""
    return getattr(import_module(f".{(METHODS | FUNCTIONS)[name]}", __name__), name)


class LateMethod:
    """A method whose file is imported when it is first asked for, and which then takes this one's place."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, network: Any, owner: type) -> Any:
        found = function(self.name)
        for kind in owner.__mro__:
            if vars(kind).get(self.name) is self:
                setattr(kind, self.name, found)
        return found if network is None else found.__get__(network, owner)
