"""Prepare the next item while this one is in use: an iterator runs one step ahead, in its own thread."""

from __future__ import annotations

import contextvars
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

__all__ = ["one_ahead"]

Item = TypeVar("Item")
END: Any = object()


def one_ahead(items: Iterable[Item], ahead: bool = True) -> Generator[Item, None, None]:
    """The same items in the same order. While one is in use, a thread prepares the next one, and only that one.

    Reading files, decoding images and NumPy's loops release Python's lock, so a training step can run meanwhile.
    An error in the thread is raised here, when its item is due. If you leave the generator early, close it: closing
    waits for the item in progress, and ends the thread.

    The thread uses the settings of the code that started it, such as the current backend. ``ahead=False`` starts no
    thread.

    >>> list(one_ahead(range(3)))
    [0, 1, 2]
    """
    if not ahead:
        yield from items
        return
    from concurrent.futures import ThreadPoolExecutor  # importing it takes 4 ms, and only this needs it

    iterator, context = iter(items), contextvars.copy_context()
    pool = ThreadPoolExecutor(1, thread_name_prefix="dualnet-batches")

    def following() -> Future[Item]:
        return pool.submit(lambda: context.run(next, iterator, END))

    try:
        coming = following()
        while (item := coming.result()) is not END:
            coming = following()
            yield item
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
