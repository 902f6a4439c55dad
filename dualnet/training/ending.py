"""SIGTERM and SIGHUP end a program the way Ctrl-C does: with an exception, so that files are closed and work is saved.

Batch systems, containers and ``kill`` send SIGTERM; a terminal that closes sends SIGHUP. By default both stop Python
on the spot: no ``finally`` runs, and hours of training are lost.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Ending", "Terminated", "ends_like_ctrl_c", "unbroken"]

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))  # Windows has one


class Terminated(KeyboardInterrupt, SystemExit):
    """Raised, wherever the program is, when a signal asks it to end. Code that handles Ctrl-C handles this as well.

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


class Ending:
    """How :func:`ends_like_ctrl_c` handles signals: the first one raises; later ones are ignored, as the program ends.

    ``with ending:`` finishes a block first, even for Ctrl-C: a signal that comes meanwhile raises at its end. A
    second Ctrl-C in the same block raises at once. Entering such a block takes a fraction of a microsecond.
    """

    def __init__(self) -> None:
        self.raised = False
        self.holds = 0  # how many blocks are running that SIGTERM and SIGHUP must not interrupt
        self.blocks = 0  # how many blocks are running that Ctrl-C must not interrupt either
        self.waiting: int | None = None  # the signal that came meanwhile

    def __call__(self, number: int, frame: Any) -> None:
        if number == signal.SIGINT:
            if not self.blocks or self.waiting == number:
                raise KeyboardInterrupt
            self.waiting = number
        elif self.holds or self.blocks:
            self.waiting = self.waiting or number
        elif not self.raised:
            self.raised = True
            raise Terminated(number)

    def raise_waiting(self) -> None:
        """If no block is running any more, raise the exception for a signal that came meanwhile."""
        number = self.waiting
        if number is not None and not self.holds and not self.blocks:
            self.waiting = None
            self(number, None)

    def __enter__(self) -> Ending:
        self.blocks += 1
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.blocks -= 1
        if kind is None and self.waiting is not None:
            self.raise_waiting()


@contextmanager
def ends_like_ctrl_c() -> Iterator[Ending]:
    """Inside, SIGTERM and SIGHUP raise :class:`Terminated` instead of ending Python on the spot.

    Only the default handlers are replaced, and they are restored afterwards: a handler of your own stays, and so does
    the one that ``nohup`` sets. Signals belong to the main thread; in any other thread this changes nothing. The first
    signal raises. Later ones are ignored, so that they cannot interrupt a save. Ctrl-C raises ``KeyboardInterrupt`` as
    usual.

    >>> with ends_like_ctrl_c() as ending:
    ...     with ending:
    ...         pass  # a block that no signal interrupts, such as a training step and its counters
    """
    handler, replaced = _in_force() or Ending(), []
    defaults = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    try:
        if threading.current_thread() is threading.main_thread():
            for number, default in defaults.items():
                if signal.getsignal(number) is default:
                    signal.signal(number, handler)
                    replaced.append(number)
        yield handler
    finally:
        for number in replaced:
            if signal.getsignal(number) is handler:
                signal.signal(number, defaults[number])


@contextmanager
def unbroken() -> Iterator[None]:
    """Inside :func:`ends_like_ctrl_c`, finish this block first: a signal that comes meanwhile raises after it.

    Ctrl-C still interrupts it: somebody who presses it again means it.

    >>> with unbroken():
    ...     pass  # put back the best weights here
    """
    handler = _in_force() or Ending()
    handler.holds += 1
    try:
        yield
    finally:
        handler.holds -= 1
        handler.raise_waiting()


def _in_force() -> Ending | None:
    """The ``Ending`` that handles signals now; None in any thread but the main one."""
    if threading.current_thread() is not threading.main_thread():
        return None
    found = (signal.getsignal(number) for number in (*SIGNALS, signal.SIGINT))
    return next((handler for handler in found if isinstance(handler, Ending)), None)
