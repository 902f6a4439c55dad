"""cuDNN through NVIDIA's frontend: finding the library, its handles and workspaces, and those that graphs still need.

cuDNN is the library of convolutions that the large frameworks call on NVIDIA GPUs; CuPy 14 no longer brings it. ``pip
install "dualnet[cudnn12x]"`` or ``cudnn13x`` does: the module ``cudnn`` and the library that it loads, version 9 of
``libcudnn``. If there is a libcudnn already, as with PyTorch, the module alone is enough; a second wheel with the
library would overwrite the first.

``DUALNET_CUDNN=0`` switches it off; with ``all`` it gets every shape, even if other kernels are expected to be faster.
Nothing is imported before the first kernel call on CuPy arrays, or a call of ``dn.info()`` with that backend.

A handle belongs to one thread and one device, a workspace to one thread and one stream. Both are kept, because cuDNN
may still compute in a workspace long after the call, in order on its stream. Handles and workspaces used while a stream
was captured stay until the process ends, because the graph still uses them.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dualnet.shim import Array
from dualnet.shim.process import lock, reader

from . import installing
from .graph import lasting

OLDEST, BELOW, OLDEST_LIBRARY = (1, 24), (1, 29), 90000
"""Frontends from ``OLDEST`` on and below ``BELOW``: these were read and tried. Later ones change much."""
ALIGNED = 16
"""cuDNN reads arrays from addresses that are multiples of this."""
LIBRARY = "libcudnn.so.9"
FRONTEND = 'pip install "dualnet[cudnn]"'


# -- the library -------------------------------------------------------------------------------------------------------

_asked = reader("DUALNET_CUDNN")
_found: list[tuple[Any, str]] = []
_lock = lock()


def asked() -> str:
    """The value of ``DUALNET_CUDNN``: "0", "1" or "all"."""
    value = _asked().strip().lower()
    if value in ("", "1", "auto"):
        return "1"
    if value not in ("0", "all"):
        raise ValueError(f"DUALNET_CUDNN must be 0, 1 or all, got {value!r}")
    return value


def library() -> Any:
    """The module ``cudnn``, imported on the first call; None if it cannot be used, or if ``DUALNET_CUDNN=0``."""
    if asked() == "0":
        return None
    if not _found:
        with _lock:
            if not _found:
                _found.append(_search())
    return _found[0][0]


def available() -> tuple[bool, str]:
    """Whether cuDNN works here; and its versions, or the reason in one line."""
    try:
        if asked() == "0":
            return False, "switched off by DUALNET_CUDNN=0"
    except ValueError as error:
        return False, str(error)
    cudnn = library()
    if cudnn is None:
        return False, _found[0][1]
    return True, f"{_version(cudnn.backend_version())}, frontend {cudnn.__version__}"


def _search() -> tuple[Any, str]:
    """The module, or None with the reason."""
    _preload()
    try:
        cudnn = importlib.import_module("cudnn")
    except ModuleNotFoundError as error:
        if error.name == "cudnn":
            return None, f"not installed; {_install_line()}"
        return None, f"it cannot be imported: {first_line(error)}"
    except Exception as error:
        return None, f"it cannot be imported: {first_line(error)}"
    version = getattr(cudnn, "__version__", "")
    old, new = not hasattr(cudnn, "pygraph") or _numbers(version) < OLDEST, _numbers(version) >= BELOW
    if old or new:
        wanted = f"{'.'.join(map(str, OLDEST))} or newer" if old else f"one below {'.'.join(map(str, BELOW))}"
        found = f"frontend {version or 'of unknown version'} is too {'old' if old else 'new'}"
        return None, f"{found}, {wanted} is needed; {_install_line()}"
    try:
        number = cudnn.backend_version()
    except Exception as error:
        return None, f"frontend {version} finds no library: {first_line(error)}; {_install_line()}"
    if number < OLDEST_LIBRARY:
        return None, f"cuDNN {_version(number)} is too old, {_version(OLDEST_LIBRARY)} is needed; {_install_line()}"
    return cudnn, ""


def _preload() -> None:
    """Load libcudnn before the frontend looks for it, from wherever ``cuda.pathfinder`` or ``sys.path`` finds it.

    The frontend itself looks only where its own Python installs packages, and misses those that were installed with
    ``--target`` or ``--user``, or come with ``--system-site-packages``. CuPy brings ``cuda.pathfinder``, which knows
    many places; folders of ``--target`` are not among them. If LD_LIBRARY_PATH has a libcudnn, nothing is done: the
    loader takes all parts of cuDNN from there, and parts of two versions do not work together.
    """
    folders = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    if any((Path(folder) / LIBRARY).exists() for folder in folders):
        return
    with suppress(Exception):  # not there, too old to know cuDNN, or it finds none
        importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cudnn")
        return
    for folder in sys.path:  # several folders may hold parts of the package nvidia; one import sees only one of them
        path = Path(folder, "nvidia", "cudnn", "lib", LIBRARY)
        if path.exists():
            with suppress(OSError):  # the frontend will report the problem
                ctypes.CDLL(str(path))
            return


def _install_line() -> str:
    """The command that installs what is missing, but never a second libcudnn over the first."""
    try:
        ctypes.CDLL(LIBRARY)
        return FRONTEND
    except OSError:
        pass
    if driver := installing.driver_version():
        return f'pip install "dualnet[{"cudnn13x" if driver >= 13000 else "cudnn12x"}]"'
    return 'pip install "dualnet[cudnn12x]" (for a CUDA 13 driver: "dualnet[cudnn13x]")'


def _numbers(version: str) -> tuple[int, ...]:
    """ "1.28.0" -> (1, 28)."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _version(number: int) -> str:
    """91900 -> "9.19.0"; 8905, from before version 9, -> "8.9.5"."""
    if number < 10000:
        return f"{number // 1000}.{number // 100 % 10}.{number % 100}"
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def first_line(error: Exception) -> str:
    """The error's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


# -- handles and workspaces --------------------------------------------------------------------------------------------


class Handle:
    """A cuDNN handle, on the device that is current when it is made, with a workspace for each stream."""

    def __init__(self, cudnn: Any) -> None:
        self.cudnn, self.handle = cudnn, cudnn.create_handle()
        self.stream: int | None = None
        self.workspaces: dict[int, Array] = {}

    def on(self, stream: int) -> Any:
        """cuDNN's own handle, on this stream."""
        if stream != self.stream:
            self.cudnn.set_stream(handle=self.handle, stream=stream)
            self.stream = stream
        return self.handle

    def workspace(self, xp: Any, stream: int, size: int) -> Array:
        """At least ``size`` bytes of memory that only this stream uses."""
        held = self.workspaces.get(stream)
        if held is None or held.size < size:
            with lasting(xp):
                held = self.workspaces[stream] = xp.empty((max(size, ALIGNED),), dtype="uint8")
        return held

    @contextmanager
    def passing(self, stream: int) -> Iterator[None]:
        """Afterwards restore the stream's old workspace: plans that are only tried out may need a large one."""
        before = self.workspaces.get(stream)
        try:
            yield
        finally:
            self.workspaces.pop(stream, None)
            if before is not None:
                self.workspaces[stream] = before

    def __del__(self) -> None:
        if "handle" in self.__dict__ and not sys.is_finalizing():  # at exit the driver may be gone already
            self.cudnn.destroy_handle(self.handle)


class _Kept(threading.local):
    """What a thread keeps: its handles, by library and device."""

    def __init__(self) -> None:
        self.handles: dict[tuple[Any, int], Handle] = {}


_of_thread = _Kept()
_captured: dict[int, Any] = {}


def handle(cudnn: Any, device: int) -> Handle | None:
    """This thread's handle on the current device; None if cuDNN gives none; then cuDNN is not used any more."""
    handles = _of_thread.handles
    if (cudnn, device) not in handles:
        try:
            handles[cudnn, device] = Handle(cudnn)
        except Exception as error:  # such as a driver that is too old
            _found[:] = [(None, f"it does not start on this device: {first_line(error)}")]
            return None
    return handles[cudnn, device]


def keep(*used: Any) -> None:
    """Never free these: a captured graph uses them."""
    for each in used:
        _captured[id(each)] = each
