"""The backend on which new arrays are created."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from .loading import Backend, BackendUnavailable, resolve

__all__ = ["current", "get_backend", "set_backend", "use_backend"]


@dataclass(frozen=True)
class Choice:
    """A backend, what chose it, and why ``auto`` fell back, if it did.

    >>> with use_backend("strict"):
    ...     chosen().by, chosen().backend.name
    ('use_backend', 'strict')
    """

    backend: Backend
    by: str
    fell_back: str = ""


@dataclass
class _Process:
    """The choices for the whole process."""

    called: Choice | None = None  # by set_backend
    environment: Choice | None = None  # by DUALNET_BACKEND when it was first needed, or the default
    seen: str = ""  # the value of DUALNET_BACKEND when it was last looked at


_process = _Process()


_in_context: ContextVar[Choice | None] = ContextVar("dualnet_backend", default=None)


def set_backend(name: str) -> None:
    """Choose the backend on which new arrays are created, for the whole process.

    Raises ``ValueError`` for an unknown name and :class:`BackendUnavailable` for one that cannot run here.

    >>> import dualnet as dn
    >>> before = dn.get_backend()
    >>> dn.set_backend("numpy"); dn.get_backend()
    'numpy'
    >>> dn.set_backend(before)
    """
    _process.called = _choose(name, "set_backend")


@contextmanager
def use_backend(name: str) -> Iterator[str]:
    """Choose the backend inside a ``with`` block, for this thread (or task) alone.

    >>> import dualnet as dn
    >>> with dn.use_backend("strict"):
    ...     dn.get_backend()
    'strict'
    """
    choice = _choose(name, "use_backend")
    token = _in_context.set(choice)
    try:
        yield choice.backend.name
    finally:
        _in_context.reset(token)


def get_backend() -> str:
    """The name of the backend on which new arrays are created, such as ``"numpy"`` or ``"cupy:0"``.

    >>> import dualnet as dn
    >>> dn.get_backend() in dn.available_backends() + ["cupy:0"]
    True
    """
    return current().name


def current() -> Backend:
    """The current backend (:mod:`dualnet.shim` lists what decides it).

    >>> import dualnet as dn
    >>> current().name == dn.get_backend()
    True
    """
    return chosen().backend


def chosen() -> Choice:
    """The current backend, and what chose it.

    >>> import dualnet as dn
    >>> with dn.use_backend("numpy"):
    ...     chosen().by
    'use_backend'
    """
    return _in_context.get() or _process.called or _from_environment()


def _from_environment() -> Choice:
    asked = os.environ.get("DUALNET_BACKEND", "").strip().lower()
    choice = _process.environment
    if choice is None:
        try:
            choice = _choose(asked or "numpy", f"DUALNET_BACKEND={asked}" if asked else "default")
        except (ValueError, BackendUnavailable) as error:
            raise type(error)(f"DUALNET_BACKEND={asked}: {error}") from None
        _process.environment, _process.seen = choice, asked
    elif asked != _process.seen:
        _process.seen = asked
        wanted = asked or "numpy"
        if wanted not in (choice.backend.name, choice.by.partition("=")[2]):
            warnings.warn(
                f"DUALNET_BACKEND became {asked!r} after {choice.backend.name!r} was already in use, and is not read "
                f"again. To change the backend now, call dn.set_backend({wanted!r}).",
                stacklevel=5,
            )
    return choice


def _choose(name: str, by: str) -> Choice:
    backend, cause = resolve(name)
    return Choice(backend, by, cause)
