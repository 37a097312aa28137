"""A storage in a local directory, with 256 subdirectories so that none grows huge.

A file is flushed to disk under a temporary name and then renamed, so it appears whole or not at all. Both names must be
on the same file system. Only this user can read the files.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from files.storage import FileName, OpenFile, Source, StoredFile, parse_name

_PIECE: Final = 256 * 1024

_NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""Symbolic links and sockets also count as missing."""


class Directory:
    """Stores `gen_0123…/0.webp` as `01/gen_0123….0.webp` below `path`. Several processes may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def put(self, name: str, source: Source) -> None:
        move_into(source.file(True), self._path_of(parse_name(name)))

    def open(self, name: str) -> OpenFile | None:
        known = parse_name(name)
        return open_file(self._path_of(known), known.media_type)

    def list(self) -> Iterator[StoredFile]:
        with suppress(FileNotFoundError), os.scandir(self._path) as subdirectories:
            for subdirectory in subdirectories:
                if len(subdirectory.name) == 2 and subdirectory.is_dir(follow_symlinks=False):
                    yield from files_in(subdirectory, _name_of)

    def delete(self, name: str) -> bool:
        try:
            self._path_of(parse_name(name)).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path_of(self, name: FileName) -> Path:
        subdirectory = name.generation.removeprefix("gen_")[:2]
        return self._path / subdirectory / f"{name.generation}.{name.file}"


def move_into(file: Path, target: Path) -> None:
    """Give a file that is flushed to disk its final name, two directories deep. Both are created if they are missing.
    Raises OSError."""
    try:
        file.replace(target)
    except FileNotFoundError:
        target.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        _flush(target.parent.parent)
        file.replace(target)
    try:
        _flush(target.parent)
    except OSError:
        with suppress(OSError):
            target.unlink()  # it would be there, although the caller learns that it was not stored
        raise


def open_file(path: Path, media_type: str) -> OpenFile | None:
    """Open a file. Returns None if there is none."""
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
    return OpenFile(
        size=status.st_size,
        modified=status.st_mtime,
        media_type=media_type,
        etag=f"{status.st_mtime_ns:x}-{status.st_size:x}",
        path=path,
        read=lambda start, length: os.pread(file.fileno(), length, start),
        piece=_PIECE,
        close=file.close,
    )


def files_in(subdirectory: os.DirEntry[str], name_of: Callable[[str], str]) -> Iterator[StoredFile]:
    """The files in a subdirectory. `name_of` returns the stored name for that of a file, and raises ValueError for
    another file."""
    with suppress(FileNotFoundError), os.scandir(subdirectory.path) as entries:
        for entry in entries:
            with suppress(ValueError, FileNotFoundError):  # other files, or deleted meanwhile
                name = name_of(entry.name)
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield StoredFile(name, status.st_size, status.st_mtime)


def _name_of(file: str) -> str:
    return str(parse_name(file.replace(".", "/", 1)))


def _flush(directory: Path) -> None:
    """Flush the names in a directory to disk, so that they survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
