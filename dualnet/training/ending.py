"""SIGTERM and SIGHUP end a program as Ctrl-C does: by an exception, so that what is open is closed and kept.

Batch systems, containers and ``kill`` send SIGTERM, a terminal that closes sends SIGHUP, and by default both stop
Python on the spot: no ``finally`` runs, and hours of training are lost.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Terminated", "ends_like_ctrl_c", "unbroken"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows: one


class Terminated(KeyboardInterrupt, SystemExit):
    """Raised where the program is when a signal asks it to end. Code that handles Ctrl-C handles this as well.

    If nothing catches it, Python exits without a traceback, and the exit code is 128 + the signal's number: 143 for
    SIGTERM, 129 for SIGHUP.

    >>> import signal
    >>> error = Terminated(signal.SIGTERM)
    >>> str(error), error.code, isinstance(error, KeyboardInterrupt)
    ('ended by SIGTERM', 143, True)
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.code = number, 128 + number

    def __str__(self) -> str:
        return f"ended by {signal.Signals(self.number).name}"


class _Handler:
    """Raises :class:`Terminated` at the first signal; later ones find the program on its way out already."""

    def __init__(self) -> None:
        self.raised = False
        self.holds = 0  # how many blocks run that are not to be broken off
        self.waiting: int | None = None  # the signal that came meanwhile

    def __call__(self, number: int, frame: Any) -> None:
        if self.holds:
            self.waiting = self.waiting or number
        elif not self.raised:
            self.raised = True
            raise Terminated(number)


@contextmanager
def ends_like_ctrl_c() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise :class:`Terminated` instead of ending Python on the spot.

    Only the default handlers are replaced, and they are back afterwards: a handler of your own stays, and so does the
    one that ``nohup`` sets. Signals belong to the main thread; in any other this changes nothing. The first signal
    raises. Those that follow are ignored, so that they cannot break off what is being saved.

    >>> with ends_like_ctrl_c():
    ...     pass  # train and save here
    """
    handler, replaced = _Handler(), []
    try:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, handler)
                    replaced.append(number)
        yield
    finally:
        for number in replaced:
            if signal.getsignal(number) is handler:
                signal.signal(number, signal.SIG_DFL)


@contextmanager
def unbroken() -> Iterator[None]:
    """Inside :func:`ends_like_ctrl_c`, finish this block first: a signal that comes meanwhile raises after it.

    Ctrl-C still breaks it off: whoever presses it again means it.

    >>> with unbroken():
    ...     pass  # put back the best weights here
    """
    handlers = [handler for handler in map(signal.getsignal, SIGNALS) if isinstance(handler, _Handler)]
    handler = handlers[0] if handlers and threading.current_thread() is threading.main_thread() else _Handler()
    handler.holds += 1
    try:
        yield
    finally:
        handler.holds -= 1
        number = handler.waiting
        if number is not None and not handler.holds:
            handler.waiting = None
            handler(number, None)
