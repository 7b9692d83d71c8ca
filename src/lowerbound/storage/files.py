"""Atomic writes, locks of folders, and plain files opened without following links."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import threading
import weakref
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, BinaryIO

from lowerbound.errors import FormatError, LockedError

TEMPORARY = ".tmp"

_LOCKS: weakref.WeakSet[IO[str]] = weakref.WeakSet()
"""The files by which this process holds locks. A lock is of an open file, which a forked child shares until it closes
it."""


_FORKS = threading.RLock()


def _drop_locks() -> None:
    """In a forked child: close the parent's, which does not unlock them."""
    for file in list(_LOCKS):
        file.close()
    _FORKS.release()


os.register_at_fork(before=_FORKS.acquire, after_in_parent=_FORKS.release, after_in_child=_drop_locks)


@contextlib.contextmanager
def atomic_write(path: Path, follow: bool = False) -> Iterator[BinaryIO]:
    """Open a binary file that appears under ``path`` when the block ends well, and never half-written.

    A temporary file in the same folder → fsync → rename → fsync of the folder; mode by umask. ``follow``: where
    ``path`` is a link, write the file that it points to.
    """
    path = path.resolve() if follow and path.is_symlink() else path
    make_folder(path.parent)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}{TEMPORARY}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def make_folder(folder: Path) -> None:
    """Make ``folder`` and its parents, so that they outlast a power cut."""
    if folder.is_symlink() and not folder.exists():
        raise OSError(
            f"{folder} is a link to {folder.readlink()}, which does not exist; make that, or choose another path."
        )
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed or removed in ``folder`` outlast a power cut."""
    with contextlib.suppress(PermissionError):  # some file systems refuse to open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` (made if absent) for writing; raise ``LockedError`` if another process or thread does.

    The lock is this process's: a child that it forks does not hold it.
    """
    make_folder(folder)
    with _FORKS:
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        _LOCKS.add(file := os.fdopen(descriptor))
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LockedError(
                f"{folder} is being written by another process; wait for it or choose another folder."
            ) from error
        try:
            yield
        finally:
            if not file.closed:  # as it is in a child
                fcntl.flock(file, fcntl.LOCK_UN)  # of itself, closing unlocks only once a child has closed it too


def open_file(path: Path) -> BufferedReader:
    """Open a plain file to read; a link, a folder or a device in its place is a ``FormatError``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FormatError(f"{path} is a link, which is not followed; put the file itself there.") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FormatError(f"{path} is not a file; put the file itself there.")
    return os.fdopen(descriptor, "rb")
