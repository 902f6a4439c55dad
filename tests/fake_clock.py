"""The two clocks of a pretend GPU: the host's, on which work is asked for, and the device's, on which it is done.

Asking takes the host a while, and the device begins no sooner than it was asked. So work that is asked for slowly
leaves the device idle in between, and between two events there is Python's time; what waits in a queue is done without
a gap. A host that waits for an event goes on when the device has come to it.
"""

from __future__ import annotations

from collections.abc import Callable


class Clock:
    """``busy``: the seconds that the device needs for all that it was asked so far; ``calls``: how often that was."""

    def __init__(self, busy: Callable[[], float], calls: Callable[[], int]) -> None:
        self.busy, self.calls = busy, calls
        self.each = 0.0  # seconds of the host for a call
        self.waited = 0.0
        self.done = self.seen = 0.0  # when the device came to the last event, and how busy it had been

    def host(self) -> float:
        return self.each * self.calls() + self.waited

    def reach(self) -> float:
        """When the device comes to an event that is recorded now."""
        busy = self.busy()
        self.done, self.seen = max(self.done + busy - self.seen, self.host()), busy
        return self.done

    def wait(self, until: float) -> None:
        self.waited += max(0.0, until - self.host())


class Event:
    """As ``cupy.cuda.Event``."""

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
    """Milliseconds between two events, as ``cupy.cuda.get_elapsed_time``."""
    assert end.at <= end.clock.host() + 1e-9, "cudaErrorNotReady"
    return (end.at - start.at) * 1000
