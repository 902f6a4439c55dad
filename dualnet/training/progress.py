"""A progress bar for each epoch if tqdm is installed (in a terminal and in a notebook), else a line."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["Progress", "bar"]

PERIOD = 0.2  # seconds between two looks at the figures: each look waits for the device


class Progress:
    """One epoch's progress. ``verbose``: 0 nothing, 1 a bar, 2 a line."""

    def __init__(self, epoch: int, epochs: int, steps: int, verbose: int) -> None:
        if verbose not in (0, 1, 2):
            raise ValueError(f"fit: verbose is 0 (silence), 1 (a bar) or 2 (a line per epoch), got {verbose!r}")
        self.title = f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
        self.verbose, self.looked = int(verbose), time.perf_counter()
        self.bar = bar(self.title, steps) if verbose == 1 else None

    def __enter__(self) -> Progress:
        return self

    def step(self, figures: Callable[[], dict[str, float]]) -> None:
        """One step is done. ``figures()`` is called a few times a second."""
        if self.bar is None:
            return
        if time.perf_counter() - self.looked > PERIOD:
            self.bar.set_postfix_str("  ".join(f"{k} {v:.4f}" for k, v in figures().items()), refresh=False)
            self.looked = time.perf_counter()
        self.bar.update(1)

    def done(self, text: str) -> None:
        """The epoch is over, and ``text`` sums it up."""
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        elif self.verbose:
            print(f"{self.title}  {text}", flush=True)

    def __exit__(self, *error: Any) -> None:
        if self.bar is not None:
            self.bar.close()


def bar(title: str, steps: int) -> Any | None:
    """A bar of tqdm, which nobody has to install: None without it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tqdm warns where a notebook lacks widgets, and then draws text
            from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=steps, desc=title, unit="step", dynamic_ncols=True)
