"""cuDNN through NVIDIA's frontend: finding it, its handles and workspaces, and what a captured graph holds on to.

cuDNN is the library of convolutions that the large frameworks call on NVIDIA GPUs; CuPy 14 no longer brings it.
``pip install "dualnet[cudnn12x]"`` or ``cudnn13x`` does (the module ``cudnn``, and the library ``libcudnn`` of version
9 that it loads). Where a libcudnn is already, as PyTorch brings one, the module alone is enough, and a second wheel of
the library would overwrite the first.

``DUALNET_CUDNN=0`` switches it off; ``all`` gives it also the shapes that other kernels are expected to do sooner.
Nothing is imported before the first kernel call on CuPy arrays, or before ``dn.info()`` is asked there.

A handle belongs to one thread and one device, a workspace to one thread and one stream. Both are kept: cuDNN may
compute in a workspace long after the call, in order on its stream. What was used while a stream was captured is kept
for as long as the process lives, since the graph goes on using it.
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
from dualnet.shim.process import reader

from . import installing
from .graph import lasting

OLDEST, OLDEST_LIBRARY = (1, 24), 90000
ALIGNED = 16
"""cuDNN reads arrays from addresses that are multiples of this."""
LIBRARY = "libcudnn.so.9"
FRONTEND = 'pip install "dualnet[cudnn]"'


# -- the library -------------------------------------------------------------------------------------------------------

_asked = reader("DUALNET_CUDNN")
_found: list[tuple[Any, str]] = []
_lock = threading.Lock()


def asked() -> str:
    """What ``DUALNET_CUDNN`` says: "0", "1" or "all"."""
    said = _asked().strip().lower()
    if said in ("", "1", "auto"):
        return "1"
    if said not in ("0", "all"):
        raise ValueError(f"DUALNET_CUDNN is 0, 1 or all, got {said!r}")
    return said


def library() -> Any:
    """The module ``cudnn``, imported on the first call; None where it cannot be used, or ``DUALNET_CUDNN=0``."""
    if asked() == "0":
        return None
    if not _found:
        with _lock:
            if not _found:
                _found.append(_search())
    return _found[0][0]


def available() -> tuple[bool, str]:
    """Whether cuDNN serves here, and which versions, or why not, in one line."""
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
    """The module, or None and the reason."""
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
    if not hasattr(cudnn, "pygraph") or _numbers(version) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        return None, f"frontend {version or 'of unknown version'} is too old, {wanted} is needed; {_install_line()}"
    try:
        number = cudnn.backend_version()
    except Exception as error:
        return None, f"frontend {version} finds no library: {first_line(error)}; {_install_line()}"
    if number < OLDEST_LIBRARY:
        return None, f"cuDNN {_version(number)} is too old, {_version(OLDEST_LIBRARY)} is needed; {_install_line()}"
    return cudnn, ""


def _preload() -> None:
    """Load the library of the package ``nvidia.cudnn``, wherever Python has that; the frontend then gets it by name.

    By itself the frontend looks only where its own Python installs packages, and not where ``--target``, ``--user`` or
    ``--system-site-packages`` have them. With a libcudnn on LD_LIBRARY_PATH nothing is done: the loader takes all parts
    of cuDNN from there, and they do not go with the head of another.
    """
    told = filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    if any((Path(folder) / LIBRARY).exists() for folder in told):
        return
    for folder in sys.path:  # the packages named nvidia may be spread over several, which one import does not see
        path = Path(folder, "nvidia", "cudnn", "lib", LIBRARY)
        if path.exists():
            with suppress(OSError):  # then the frontend says what it finds instead
                ctypes.CDLL(str(path))
            return


def _install_line() -> str:
    """The line that installs what is missing: never a second libcudnn over one that is here."""
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
    """91900 -> "9.19.0", and 8905, as it was counted before, "8.9.5"."""
    if number < 10000:
        return f"{number // 1000}.{number // 100 % 10}.{number % 100}"
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


# -- handles and workspaces --------------------------------------------------------------------------------------------


class Handle:
    """cuDNN's handle on the device that is current when it is made."""

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
        """Memory of at least so many bytes, that work on this stream alone uses."""
        held = self.workspaces.get(stream)
        if held is None or held.size < size:
            with lasting(xp):
                held = self.workspaces[stream] = xp.empty((max(size, ALIGNED),), dtype="uint8")
        return held

    @contextmanager
    def passing(self, stream: int) -> Iterator[None]:
        """What a stream's workspace grows to inside is given back: plans that are tried out may need a lot."""
        before = self.workspaces.get(stream)
        try:
            yield
        finally:
            self.workspaces.pop(stream, None)
            if before is not None:
                self.workspaces[stream] = before

    def __del__(self) -> None:
        if "handle" in self.__dict__ and not sys.is_finalizing():  # then the driver may be gone already
            self.cudnn.destroy_handle(self.handle)


class _Kept(threading.local):
    """What a thread keeps: its handles, by library and device."""

    def __init__(self) -> None:
        self.handles: dict[tuple[Any, int], Handle] = {}


_of_thread = _Kept()
_captured: dict[int, Any] = {}


def handle(cudnn: Any, device: int) -> Handle | None:
    """This thread's handle on this device, which must be the current one; None, from now on, where cuDNN gives none."""
    handles = _of_thread.handles
    if (cudnn, device) not in handles:
        try:
            handles[cudnn, device] = Handle(cudnn)
        except Exception as error:  # such as a driver that is too old for it
            _found[:] = [(None, f"it does not start on this device: {first_line(error)}")]
            return None
    return handles[cudnn, device]


def keep(*used: Any) -> None:
    """A captured graph uses these from now on: never let go of them."""
    for each in used:
        _captured[id(each)] = each
