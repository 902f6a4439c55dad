"""Files are replaced as a whole or not at all, and can be tested before the work whose result they will hold.

Everything in dualnet that writes a file for its user calls :func:`replace_file`.
"""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

try:
    import fcntl

    fcntl.flock  # noqa: B018
except (ImportError, AttributeError):  # Windows, where an open file cannot be deleted anyway; notebooks in a browser
    fcntl = None  # type: ignore[assignment]

__all__ = ["check_writable", "replace_file"]

TEMPORARY = re.compile(r"\.dualnet-[0-9a-f]{16}\.tmp")
ABANDONED = 24 * 3600
"""Without locks: after how many seconds without a change a temporary file counts as abandoned."""
NO_FOLDER = "no such folder; create it first"


def replace_file(path: str | os.PathLike, data: bytes) -> None:
    """Replace the whole file by ``data``, or leave everything as it was and raise ``OSError``.

    A temporary file in the same folder is written and flushed to the disk, and replaces the file in one step; then the
    folder is flushed too. If only that last step fails, the new file is already there. Temporary files that killed
    processes left in the folder are removed first.

    The file keeps its mode and, if the system allows it, its owner and group; a new file gets those of any new file.
    A link stays a link: the file that it points to is replaced. Anything that is not a regular file, such as
    ``/dev/stdout`` or a named pipe, is written to.
    """
    before = _status(path)
    if before is not None and _is_a_stream(before):
        with open(path, "ab") as stream:
            stream.write(data)
        return
    target = os.path.realpath(path)
    folder = _folder_of(target)
    _sweep(folder)
    with _temporary(folder, before) as file:
        _write(file, data)
        if fcntl is None:
            file.close()  # Windows cannot rename an open file
        os.replace(file.name, target)
    if os.name == "posix":
        _flush_folder(folder)


def check_writable(path: str | os.PathLike, size: int = 4096) -> None:
    """Raise ``OSError`` if :func:`replace_file` could not write ``size`` bytes there now. Nothing is left behind.

    A temporary file is created, written to and removed: for root, and on read-only mounts, the permissions alone are
    not enough to know.
    """
    before = _status(path)
    if before is not None and stat.S_ISDIR(before.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder; expected a file", os.fspath(path))
    if before is not None and _is_a_stream(before):
        return
    folder = _folder_of(os.path.realpath(path))
    try:
        with _temporary(folder, before) as file:
            _write(file, bytes(min(size, 4096)))
            space = shutil.disk_usage(folder)
            if space.free < size and space.total:  # some file systems do not report it
                raise OSError(errno.ENOSPC, f"{size:,} bytes are needed, but only {space.free:,} are free")
    except OSError as error:
        raise type(error)(error.errno, f"nothing can be written there ({error.strerror})", os.fspath(folder)) from error


def _status(path: str | os.PathLike) -> os.stat_result | None:
    """The status of the file, or of the one that a link points to; None if it does not exist yet."""
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _is_a_stream(status: os.stat_result) -> bool:
    """Is it a pipe, a device, or a file that is this process's output, as in ``--json /dev/stdout > FILE``?"""
    if stat.S_ISDIR(status.st_mode):
        return False  # and replacing it fails
    for output in (1, 2):
        with suppress(OSError):
            if os.path.samestat(status, os.fstat(output)):
                return True
    return not stat.S_ISREG(status.st_mode)


def _folder_of(target: str) -> str:
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, NO_FOLDER, folder)
    return folder


@contextmanager
def _temporary(folder: str, before: os.stat_result | None) -> Iterator[io.FileIO]:
    """A new file in the folder, open and locked, with the mode and owner of the old file. It is removed afterwards.

    The lock is held until the file is removed or renamed to the target: so no other process removes it meanwhile.
    """
    file = _locked(folder, 0o666 if before is None else 0o600)
    try:
        if before is not None and os.name == "posix":
            _belong_like(file.fileno(), before)
        yield file
    finally:
        with suppress(OSError):
            if fcntl is None:
                file.close()  # Windows cannot delete an open file
        with suppress(OSError):
            os.unlink(file.name)  # after os.replace the name no longer exists
        with suppress(OSError):
            file.close()  # the data is on the disk by now, or an error is on its way


def _locked(folder: str, mode: int) -> io.FileIO:
    """A new temporary file, locked while it is open: if its process dies, the system unlocks it."""
    while True:
        name = os.path.join(folder, f".dualnet-{os.urandom(8).hex()}.tmp")
        file = io.FileIO(name, "xb", opener=lambda path, flags: os.open(path, flags, mode))
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                return file
        except BlockingIOError:
            pass  # another process is about to remove it
        except OSError:  # a file system without locks: no other process gets a lock either, so none removes it
            return file
        file.close()


def _belong_like(handle: int, before: os.stat_result) -> None:
    """Give a file the owner, group and mode of another one, as far as the system allows."""
    mode, mine = stat.S_IMODE(before.st_mode), os.fstat(handle)
    if mine.st_uid != before.st_uid:
        with suppress(OSError):
            os.fchown(handle, before.st_uid, -1)
    if mine.st_gid != before.st_gid:
        try:
            os.fchown(handle, -1, before.st_gid)
        except OSError:
            mode &= ~0o070 | (mode & 0o007) << 3  # a different group gets no more rights than everybody has
    with suppress(OSError):
        os.fchmod(handle, mode)


def _write(file: io.FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]  # one call writes less than 2 GiB
    os.fsync(file.fileno())


def _flush_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush folders
            raise
    finally:
        os.close(handle)


def _sweep(folder: str) -> None:
    """Remove the temporary files of killed processes. It fails silently, since it is only a side job."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_abandoned(entry.path)


def _remove_abandoned(path: str) -> None:
    """Remove a temporary file of this user if no living process uses it.

    The process that writes a file holds its lock, and the system releases the lock when the process dies. A process ID
    would not do: another process may have it by now, and it means nothing in another container.
    """
    status = os.lstat(path)
    if not stat.S_ISREG(status.st_mode):
        return
    if fcntl is None:
        if time.time() - status.st_mtime > ABANDONED:
            os.unlink(path)  # fails while a process has it open
        return
    if status.st_uid != os.geteuid():
        return
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if another process holds it
        os.unlink(path)
    finally:
        os.close(handle)
