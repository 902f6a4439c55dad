"""The two clocks of a pretend GPU: the host launches work, the device does it.

A launch takes the host some time, and the device starts no earlier than that. If the host launches slowly, the device
idles in between, and the time between two events is Python's; work that waits in the queue is done without a gap. A
host that waits for an event continues when the device has reached it.
"""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """``busy()``: the seconds that the device needs for everything launched so far; ``calls()``: how many launches."""

    def __init__(self, busy: Callable[[], float], calls: Callable[[], int]) -> None:
        self.busy, self.calls = busy, calls
        self.each = 0.0  # seconds of the host for a launch
        self.waited = 0.0
        self.done = self.seen = 0.0  # when the device reached the last event, and how busy it had been by then

    def host(self) -> float:
        return self.each * self.calls() + self.waited

    def reach(self) -> float:
        """When the device reaches an event that is recorded now."""
        busy = self.busy()
        self.done, self.seen = max(self.done + busy - self.seen, self.host()), busy
        return self.done

    def wait(self, until: float) -> None:
        self.waited += max(0.0, until - self.host())


class Event:
    """Like ``cupy.cuda.Event``."""

    def __init__(self, clock: Clock, refuse: Callable[[str], None], count: Callable[[], None]) -> None:
        self.clock, self.refuse, self.count = clock, refuse, count
        self.at: float | None = None

    def record(self) -> None:
        self.refuse("records an event")
        self.at = self.clock.reach()

    def synchronize(self) -> None:
        self.refuse("waits for an event")
        self.count()
        self.clock.wait(self.at)


def elapsed(start: Event, end: Event) -> float:
    """Milliseconds between two events, like ``cupy.cuda.get_elapsed_time``."""
    assert end.at <= end.clock.host() + 1e-9, "cudaErrorNotReady"
    return (end.at - start.at) * 1000
