"""The interface of file storages: `directory.py` stores on disk, `bucket.py` in an S3-compatible store.

A storage has names, bytes and dates; `Files` decides which files to store and delete. A name is a generation's
unguessable id (`contract/ids.py`) and the number of an output: `gen_<32 hex>/0.webp`. Any other string is refused
before it becomes part of a path or a key.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from contract.ids import GENERATION
from media.files import FILE_TYPES

MAX_OUTPUTS = 1000
"""The most outputs of one generation that are stored."""

_NAME = re.compile(rf"(?P<generation>{GENERATION})/(?P<file>[0-9]{{1,3}}(?P<extension>\.[0-9a-z]{{1,11}}))")


@dataclass(frozen=True, slots=True)
class FileName:
    """`generation` is the id, `file` is as `0.webp`. `media_type` follows from the extension."""

    generation: str
    file: str
    media_type: str

    def __str__(self) -> str:
        return f"{self.generation}/{self.file}"


def parse_name(name: str) -> FileName:
    """Split a name. Raises ValueError if it is malformed."""
    found = _NAME.fullmatch(name)
    if found is None or (media := FILE_TYPES.get(found["extension"])) is None:
        raise ValueError("not the name of a kept file")
    return FileName(found["generation"], found["file"], media.name)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An entry of a listing. `size` is in bytes, `modified` is a Unix time."""

    name: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A stored file, open for reading. The caller closes it. A file that is deleted meanwhile stays readable in a
    directory.

    `size` is in bytes, `modified` is a Unix time. `etag` is a strong one without quotes, and survives a restart. `path`
    is set for a local file. `read(start, length)` returns one or more bytes; `length` is at most `piece`.
    """

    size: int
    modified: float
    media_type: str
    etag: str
    path: Path | None
    read: Callable[[int, int], bytes]
    piece: int
    close: Callable[[], None]

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`. Raises ValueError if the file is shorter, and OSError while reading
        if a read fails."""
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"there are no bytes {start} to {stop} in {self.size}")
        return self._chunks(start, stop)

    def content(self) -> bytes:
        """The whole file. Raises as `chunks`."""
        return b"".join(self.chunks(0, self.size))

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            read = self.read(start, min(self.piece, stop - start))
            if not read:
                raise OSError("the file ended early")
            start += len(read)
            yield read


@dataclass(frozen=True, slots=True)
class Source:
    """A whole output, for `put`. `file(flushed)` returns a local file with its content, once; its content is on the
    disk if `flushed` is true. It blocks, and raises OSError if the disk is full or fails. `content` is its content if
    it is in memory; then there is no file before `file`."""

    file: Callable[[bool], Path]
    content: bytes | bytearray | None = None


class FileStorage(Protocol):
    """Every method blocks and is safe on any thread. It raises OSError if the storage fails, and ValueError for a
    malformed name."""

    def put(self, name: str, source: Source) -> None:
        """Store an output under a name, whole or not at all. It moves or deletes the file of the source, unless it
        raises."""

    def open(self, name: str) -> OpenFile | None:
        """Open the file with this name. Returns None if there is none."""

    def list(self) -> Iterator[StoredFile]:
        """All files, in any order."""

    def delete(self, name: str) -> bool:
        """Delete the file. It is no error if there is none. Returns False if the storage knows that there was none."""
