"""oneDNN's C library: finding it, loading it, and its threads.

oneDNN is the open-source library that the large frameworks call for convolutions on a CPU. Any ``libdnnl`` of version 3
will do. The first of these that loads is used:

1. the path in ``DUALNET_ONEDNN_LIBRARY``; it is an error if that does not load
2. the wheel ``onednn-cpu-gomp`` (``pip install dualnet[onednn]``)
3. ``lib`` of this Python's environment (conda), then the system's

``DUALNET_ONEDNN=0`` switches it off. Nothing is loaded before the first kernel call.

oneDNN uses OpenMP's threads, as many as ``threads.count()``, and the calling thread's own number is restored after each
call. A plan does not call BLAS, so BLAS's threads sleep meanwhile, as long as NumPy's kernels hold it to one thread.
OpenMP's threads do not survive a fork, and a child would wait for them forever; so a forked child of a process that has
used them computes on one thread.

How OpenMP's threads wait for the next call (:data:`SPIN`) matters more than anything else here, and can be set only
before OpenMP is loaded. If OpenMP is loaded already, or you have set a variable for it, nothing is changed.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from ctypes import byref, c_char, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint, c_void_p
from typing import Any

from dualnet.shim.process import in_forked_child, lock, reader

from ..cpu import threads

SPIN = "30000"
"""GOMP_SPINCOUNT: turns of about 15 ns that an idle thread of GNU OpenMP waits before it sleeps, 0.45 ms in all.

So it is awake for the next layer of a small network. Waking it takes 50 µs: if it sleeps at once, LeNet-5's layers take
1.8 times as long; if it sleeps after 0.1 ms, less than its dense layers take, a step takes 1.07 times as long. And it
soon makes way for NumPy's threads and other processes. The default, at least ten times as long, slows those down by a
factor of 2 to 10."""
WHEELS = ("onednn-cpu-gomp", "onednn-cpu-iomp", "onednn-cpu-tbb")
NAMES = ("libdnnl.so.3", "libdnnl.3.dylib", "dnnl.dll")
RUNTIMES = {1: "sequential", 2: "OpenMP", 4: "TBB"}  # these have finished when execute returns

CPU = 1  # the kind of engine

_P, _I = c_void_p, c_int
_CREATED: dict[str, list[Any]] = {  # the arguments after the first, which is the new handle
    "engine": [_I, c_size_t],
    "stream": [_P, _I],
    "primitive_attr": [],
    "post_ops": [],
    "primitive": [_P],
    "memory": [_P, _P, _P],
    "memory_desc_create_with_tag": [_I, _P, _I, _I],
    "memory_desc_create_with_strides": [_I, _P, _I, _P],
    "reorder_primitive_desc": [_P] * 5,
    "convolution_forward_primitive_desc": [_P, _I, _I, *[_P] * 9],
    "convolution_backward_data_primitive_desc": [_P, _I, *[_P] * 9],
    "convolution_backward_weights_primitive_desc": [_P, _I, *[_P] * 10],
    "pooling_forward_primitive_desc": [_P, _I, _I, *[_P] * 8],
    "pooling_backward_primitive_desc": [_P, _I, *[_P] * 9],
    "binary_primitive_desc": [_P, _I, _P, _P, _P, _P],
    "batch_normalization_forward_primitive_desc": [_P, _I, _P, _P, c_float, c_uint, _P],
    "batch_normalization_backward_primitive_desc": [_P, _I, _P, _P, _P, c_float, c_uint, _P, _P],
}
_CALLED: dict[str, list[Any]] = {
    "dnnl_primitive_attr_set_scratchpad_mode": [_P, _I],
    "dnnl_primitive_attr_set_fpmath_mode": [_P, _I],
    "dnnl_primitive_attr_set_post_ops": [_P, _P],
    "dnnl_post_ops_append_eltwise": [_P, _I, c_float, c_float],
    "dnnl_post_ops_append_binary": [_P, _I, _P],
    "dnnl_primitive_desc_query": [_P, _I, _I, _P],
    "dnnl_primitive_desc_next_impl": [_P],
    "dnnl_memory_desc_equal": [_P, _P],
    "dnnl_memory_get_memory_desc": [_P, _P],
    "dnnl_memory_set_data_handle": [_P, _P],
    "dnnl_primitive_execute": [_P, _P, _I, _P],
    "dnnl_sgemm": [c_char, c_char, *[c_int64] * 3, c_float, _P, c_int64, _P, c_int64, c_float, _P, c_int64],
}
_DESTROYED = ("stream", "primitive_attr", "post_ops", "primitive", "primitive_desc", "memory", "memory_desc")


class Refused(Exception):
    """oneDNN cannot compute this shape, or not faster than plain loops."""


class _Version(ctypes.Structure):
    _fields_ = [
        ("major", c_int),
        ("minor", c_int),
        ("patch", c_int),
        ("hash", c_char_p),
        ("cpu_runtime", c_uint),
        ("gpu_runtime", c_uint),
    ]


# -- the library -------------------------------------------------------------------------------------------------------


class Library:
    """A loaded ``libdnnl``; raises ``OSError`` with the reason if it cannot be used."""

    def __init__(self, path: str) -> None:
        self.path = path
        slow = ctypes.CDLL(path)  # releases the interpreter's lock during a call
        quick = ctypes.PyDLL(path)  # keeps it, which is faster for calls of nanoseconds
        self.version, self.runtime = self._checked(slow)
        for name, arguments in _CREATED.items():
            name = f"dnnl_{name}" if "_create_" in name else f"dnnl_{name}_create"
            getattr(slow, name).argtypes = [_P, *arguments]
        for loaded in (slow, quick):
            for name, arguments in _CALLED.items():
                getattr(loaded, name).argtypes = arguments
        for name in _DESTROYED:
            getattr(quick, f"dnnl_{name}_destroy").argtypes = [_P]
        slow.dnnl_primitive_desc_query_md.argtypes, slow.dnnl_primitive_desc_query_md.restype = [_P, _I, _I], _P
        slow.dnnl_memory_desc_get_size.argtypes, slow.dnnl_memory_desc_get_size.restype = [_P], c_size_t
        self.slow, self.quick = slow, quick
        self.execute, self.set_address = slow.dnnl_primitive_execute, quick.dnnl_memory_set_data_handle
        self.get_threads: Callable[[], int] = lambda: 0
        self.set_threads: Callable[[int], Any] = lambda number: None
        if self.runtime == "OpenMP":  # the OpenMP that this library itself uses
            self.get_threads, self.set_threads = quick.omp_get_max_threads, quick.omp_set_num_threads
        self.engine = self.made("engine", CPU, 0)

    @staticmethod
    def _checked(loaded: ctypes.CDLL) -> tuple[str, str]:
        if not hasattr(loaded, "dnnl_version"):
            raise OSError("it is not oneDNN: it has no dnnl_version")
        loaded.dnnl_version.restype = ctypes.POINTER(_Version)
        found = loaded.dnnl_version().contents
        version = f"{found.major}.{found.minor}.{found.patch}"
        if found.major != 3:
            raise OSError(f"it is oneDNN {version}; expected version 3")
        if found.cpu_runtime not in RUNTIMES:
            raise OSError(f"its CPU runtime is number {found.cpu_runtime}; expected OpenMP, TBB or sequential")
        return version, RUNTIMES[found.cpu_runtime]

    def made(self, kind: str, *arguments: Any) -> c_void_p:
        """A new handle from the library's create function of this kind."""
        handle = c_void_p()
        name = f"dnnl_{kind}" if "_create_" in kind else f"dnnl_{kind}_create"
        status = getattr(self.slow, name)(byref(handle), *arguments)
        if status:
            raise Refused(f"{name}: oneDNN status {status}")
        return handle

    def call(self, name: str, *arguments: Any) -> None:
        """Call one of the library's functions; raises ``Refused`` if its status is not success."""
        status = getattr(self.slow, name)(*arguments)
        if status:
            raise Refused(f"{name}: oneDNN status {status}")


_found: list[tuple[Library | None, str]] = []
_lock = lock()
_process = {"forked": False, "parallel": False}


def library() -> Library | None:
    """The library in use, loaded on the first call; None if there is none, or with ``DUALNET_ONEDNN=0``.

    Raises ``ValueError`` if ``DUALNET_ONEDNN_LIBRARY`` names a file that cannot be used.
    """
    if not _switched_on():
        return None
    if not _found:
        with _lock:
            if not _found:
                _found.append(_search())
    return _found[0][0]


def available() -> tuple[bool, str]:
    """Whether oneDNN works here, and which library it is, or why it does not, in one line."""
    try:
        if not _switched_on():
            return False, "switched off by DUALNET_ONEDNN=0"
        found = library()
    except ValueError as error:
        return False, str(error)
    if found is None:
        return False, _found[0][1]
    return True, f"{found.version}, {found.runtime}, {found.path}"


def describe() -> dict[str, str]:
    """The lines of ``dn.info()``."""
    works, words = available()
    if not works:
        return {"onednn": f"no: {words}"}
    return {"onednn": words, "onednn threads": str(count())}


def count() -> int:
    """How many threads oneDNN uses: ``threads.count()``, or one in a forked child of a process that used more."""
    return 1 if _process["forked"] else threads.count()


def parallel(number: int) -> None:
    """Note that this many threads are about to be used."""
    if number > 1:
        _process["parallel"] = True


_asked = reader("DUALNET_ONEDNN")


def _switched_on() -> bool:
    asked = _asked()
    if asked in ("", "1", "auto"):
        return True
    if asked.strip() != "0":
        raise ValueError(f"DUALNET_ONEDNN must be 0 or 1, got {asked!r}")
    return False


def _search() -> tuple[Library | None, str]:
    asked = os.environ.get("DUALNET_ONEDNN_LIBRARY", "").strip()
    if asked:
        try:
            return _loaded(asked), ""
        except OSError as error:
            raise ValueError(
                f"DUALNET_ONEDNN_LIBRARY={asked} cannot be used: {error}. Expected the path of a libdnnl of version 3."
            ) from None
    said = ["no library found; pip install dualnet[onednn], or set DUALNET_ONEDNN_LIBRARY to a libdnnl.so.3"]
    for path in _candidates():
        try:
            return _loaded(path), ""
        except OSError as error:
            if os.path.exists(path) or "it is" in str(error):
                said = [f"{path} cannot be used: {error}"]
    return None, said[0]


def _loaded(path: str) -> Library:
    """Load it, after setting how OpenMP waits, unless the user has done so; the environment is left as it was."""
    ours = not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
    if ours:
        os.environ["GOMP_SPINCOUNT"] = SPIN
    try:
        return Library(path)
    except (AttributeError, Refused) as error:
        raise OSError(f"functions are missing: {error}") from None
    finally:
        if ours:
            del os.environ["GOMP_SPINCOUNT"]


def _candidates() -> Iterator[str]:
    for wheel in WHEELS:
        try:
            files: Iterable[Any] = importlib.metadata.files(wheel) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (os.path.abspath(f.locate()) for f in files if f.name in NAMES)
    for name in NAMES:
        yield os.path.join(sys.prefix, "lib", name)
    yield from NAMES  # where the system's loader looks


def ints(*values: int) -> Any:
    """An array of int64 for the library."""
    return (c_int64 * len(values))(*values)


def _after_fork() -> None:
    _process["forked"] = _process["forked"] or _process["parallel"]


in_forked_child(_after_fork)
