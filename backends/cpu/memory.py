"""Freed memory stays with the process, so that the next array does not cost a page fault for every 4 KiB.

A training step frees its feature maps, and the next one asks for the same sizes again. glibc returns large pieces to
the system at once and gets them back as fresh, zeroed pages, one by one; that takes 5 to 20 % of a step. This module
makes glibc keep them: freed memory goes back to the system only beyond :data:`KEPT`, and pieces up to 32 MB come from
the heap.

If you have set ``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TOP_PAD_`` or ``GLIBC_TUNABLES``,
nothing is changed; nor is it on systems without glibc.
"""

from __future__ import annotations

import ctypes
import os

KEPT = 2**30
"""Bytes of freed memory at the end of the heap that the process keeps."""
LARGEST_PIECE = 2**25  # glibc refuses more
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
SAID = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


def give_back() -> None:
    """Return freed memory to the system, once: what follows needs less."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another system's library
        pass


def keep() -> bool:
    """Make glibc keep freed memory; False if the user has settings of their own, or glibc does not comply."""
    if any(name in os.environ for name in SAID):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  # another library's mallopt may mean something else
        mallopt = libc.mallopt
    except (OSError, AttributeError, TypeError):  # TypeError: Windows has no CDLL(None)
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(TRIM_THRESHOLD, KEPT) and mallopt(MMAP_THRESHOLD, LARGEST_PIECE))
