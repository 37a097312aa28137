"""Directories for the files of a request while it is received. Each is locked by its process (`flock`), so that the
next one knows which directories a killed process has left, and deletes them at once.

Where directories cannot be locked, as on NFS, they are left until they are old.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

_PREFIX: Final = "request-"


@contextmanager
def scratch_directory(parent: Path | None) -> Iterator[Path]:
    """A new directory below `parent`, or below that of temporary files, which is deleted with the block. Raises OSError
    if it cannot be made."""
    path, descriptor = _made(parent)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def remove_left(parent: Path, *, before: float) -> None:
    """Delete the directories that no process has. Where that is not known, delete those that have not changed since
    this Unix time. Raises OSError if `parent` cannot be read."""
    with suppress(FileNotFoundError), os.scandir(parent) as entries:
        for each in entries:
            if each.name.startswith(_PREFIX):
                with suppress(FileNotFoundError):  # its process has just deleted it
                    _remove_if_left(Path(each.path), is_old=each.stat().st_mtime < before)


def _made(parent: Path | None) -> tuple[Path, int]:
    while True:
        path = Path(mkdtemp(dir=parent, prefix=_PREFIX))
        with suppress(FileNotFoundError):  # another process has taken it for one that was left
            descriptor = os.open(path, os.O_RDONLY)
            if _is_mine(path, descriptor):
                return path, descriptor
            os.close(descriptor)


def _is_mine(path: Path, descriptor: int) -> bool:
    """Lock a new directory. Returns whether it is still there, and no other process is about to delete it."""
    return _lock(descriptor) is not False and path.exists()


def _remove_if_left(path: Path, *, is_old: bool) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        is_locked = _lock(descriptor)
        if is_locked or (is_locked is None and is_old):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Whether this open directory is locked now, False if another one has the lock. None if it cannot be locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in {errno.EWOULDBLOCK, errno.EACCES} else None
    return True
