"""For each epoch a progress bar if tqdm is installed and someone is watching (a terminal, a notebook), or else a line.

If a line cannot be written, because a disk is full or a pipe closed, training continues without it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from ..terminal import draws_over, say

__all__ = ["Progress", "bar", "drawn"]

PERIOD = 0.2  # seconds between two looks at the figures: each look waits for the device


class Progress:
    """The progress of an epoch in which ``done`` steps are done. ``verbose``: 0 nothing, 1 a bar, 2 a line."""

    def __init__(self, epoch: int, epochs: int, steps: int, verbose: int, done: int = 0) -> None:
        if verbose not in (0, 1, 2):
            raise ValueError(f"fit: verbose must be 0 (silence), 1 (a bar) or 2 (a line per epoch), got {verbose!r}")
        self.title = f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
        self.verbose, self.looked = int(verbose), time.perf_counter()
        self.bar = bar(self.title, steps) if verbose == 1 else None
        if done:
            self._draw(lambda bar: bar.update(done))

    def __enter__(self) -> Progress:
        return self

    def step(self, figures: Callable[[], dict[str, float]]) -> None:
        """One step is done. ``figures()`` is called a few times a second."""
        if self.bar is None:
            return
        if time.perf_counter() - self.looked > PERIOD:
            words = "  ".join(f"{name} {value:.4f}" for name, value in figures().items())
            self._draw(lambda bar: bar.set_postfix_str(words, refresh=False))
            self.looked = time.perf_counter()
        self._draw(lambda bar: bar.update(1))

    def done(self, text: str) -> None:
        """The epoch is over, and ``text`` sums it up."""
        if self.bar is not None:
            self._draw(lambda bar: bar.set_postfix_str(text))
        elif self.verbose:
            say(f"{self.title}  {text}")

    def __exit__(self, *error: Any) -> None:
        self._draw(lambda bar: bar.close())

    def _draw(self, change: Callable[[Any], Any]) -> None:
        """Change the bar. If that fails, continue without one."""
        if self.bar is None:
            return
        if not drawn(self.bar, change):
            self.bar = None


def bar(title: str, steps: int) -> Any | None:
    """A bar of tqdm. None if tqdm is not installed, or if stderr is a file, in which nothing can be redrawn.

    ``steps=0`` means that the number is unknown, and the bar only counts.
    """
    if not (draws_over(sys.stderr) or _in_a_notebook()):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm warns if a notebook lacks widgets, and then draws text
            from tqdm.auto import tqdm
    except ImportError:
        return None
    width = {"ncols": shutil.get_terminal_size().columns} if _without_width(sys.stderr) else {"dynamic_ncols": True}
    made = tqdm(total=steps or None, desc=title, unit="step", delay=1e-9, **width)  # delay: so that it draws only below
    return made if drawn(made, lambda bar: bar.refresh()) else None


def drawn(bar: Any, change: Callable[[Any], Any]) -> bool:
    """Change a bar on the screen. If that fails, the bar is disabled: it writes nothing more, even when deleted."""
    try:
        change(bar)
    except (OSError, ValueError):  # ValueError: a closed file, or letters that it cannot encode
        bar.disable = True
        return False
    return True


def _without_width(stream: Any) -> bool:
    """Does the terminal report a width of 0 columns? Terminals that programs open for each other often do."""
    try:
        return os.get_terminal_size(stream.fileno()).columns == 0
    except (OSError, ValueError, AttributeError):  # no terminal at all
        return False


def _in_a_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
