"""Files kept in a directory on this machine, in 256 directories, so that none grows huge.

A file appears under its name whole or not at all: it is flushed to the disk under another name and then renamed. Both
names must be on the same file system. Only this user can read the files.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from files.storage import Name, Opened, Stored, parsed

_PIECE: Final = 256 * 1024

_NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""Also what is no file of ours: a link, a socket."""


class Directory:
    """Keeps `gen_0123…/0.webp` as `01/gen_0123….0.webp` below `path`. Several processes may share one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, name: str, source: Path) -> None:
        target = self._place(parsed(name))
        with source.open("rb") as file:
            os.fsync(file.fileno())
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        source.replace(target)
        _flush(target.parent)

    def open(self, name: str) -> Opened | None:
        known = parsed(name)
        path = self._place(known)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return None
            raise
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            return None
        file = os.fdopen(descriptor, "rb", buffering=0)
        return Opened(
            size=status.st_size,
            modified=status.st_mtime,
            media_type=known.media_type,
            etag=f"{status.st_mtime_ns:x}-{status.st_size:x}",
            path=path,
            read=lambda start, length: os.pread(file.fileno(), length, start),
            piece=_PIECE,
            close=file.close,
        )

    def list(self) -> Iterator[Stored]:
        with suppress(FileNotFoundError), os.scandir(self._path) as shelves:
            for shelf in shelves:
                if len(shelf.name) == 2 and shelf.is_dir(follow_symlinks=False):
                    yield from _on(shelf)

    def delete(self, name: str) -> None:
        self._place(parsed(name)).unlink(missing_ok=True)

    def _place(self, name: Name) -> Path:
        shelf = name.generation.removeprefix("gen_")[:2]
        return self._path / shelf / f"{name.generation}.{name.file}"


def disk_usage(path: Path) -> tuple[int, int, int]:
    """Total, used and free bytes of the volume of a path, which need not be there yet."""
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists()))


def _on(shelf: os.DirEntry[str]) -> Iterator[Stored]:
    with os.scandir(shelf.path) as entries:
        for entry in entries:
            with suppress(ValueError, FileNotFoundError):  # not ours, or gone since
                name = str(parsed(entry.name.replace(".", "/", 1)))
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield Stored(name, status.st_size, status.st_mtime)


def _flush(directory: Path) -> None:
    """Flush a directory, so that its names survive a crash of the machine."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
