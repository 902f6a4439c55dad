"""Names that are imported on first use (PEP 562), so that ``import dualnet`` stays fast.

A package writes its names twice: for type checkers as ordinary imports, and for Python as a table::

    if TYPE_CHECKING:
        from .maps import filters
    else:
        __getattr__, __dir__ = late(__name__, {"filters": "maps"})

``tests/test_late.py`` compares the two. A :class:`LateMethod` does the same for a method of a class.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["LateMethod", "late"]


def late(
    package: str, homes: Mapping[str, str], modules: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package: ``homes`` says which of its modules defines each name.

    ``modules`` maps names of modules to their paths. Once found, a name becomes an ordinary attribute, so the next
    access costs nothing. Two threads that ask at the same time wait for one import, and get its result.

    >>> find, names = late("dualnet", {"escape": "markup"}, {"markup": "markup"})
    >>> find("escape")("<b>"), find("markup").__name__, {"escape", "markup"} <= set(names())
    ('&lt;b&gt;', 'dualnet.markup', True)
    """

    modules = modules or {}

    def find(name: str) -> Any:
        if name in homes:
            found = getattr(import_module(f"{package}.{homes[name]}"), name)
        elif name in modules:
            found = import_module(f"{package}.{modules[name]}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes, *modules})

    return find, names


class LateMethod:
    """A method whose module is imported on first use. The function then replaces this object."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name

    def __get__(self, instance: Any, owner: type) -> Any:
        found = getattr(import_module(self.module), self.name)
        for kind in owner.__mro__:
            for name, value in [*vars(kind).items()]:
                if value is self:
                    setattr(kind, name, found)
        return found if instance is None else found.__get__(instance, owner)
