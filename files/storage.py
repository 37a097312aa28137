"""Where files are kept, behind one Protocol: `directory.py` on disk, `bucket.py` in an S3-compatible store.

A storage knows names, bytes and dates. How long a file stays, how much there may be, and where it comes from is for
`Files` to know. A name is a generation's unguessable id and the number of an output, `gen_<32 hex>/0.webp`, and
nothing else is a name. Any other string is refused before it becomes part of a path or a key.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from media.formats import BY_EXTENSION

MOST_OUTPUTS = 1000
"""Outputs of one generation that have names."""

_NAME = re.compile(r"(?P<generation>gen_[0-9a-f]{32})/(?P<file>[0-9]{1,3}(?P<extension>\.[0-9a-z]{1,4}))")


@dataclass(frozen=True, slots=True)
class Name:
    """`generation` as `gen_<32 hex>`, `file` as `0.webp`, and the `media_type` that its extension stands for."""

    generation: str
    file: str
    media_type: str

    def __str__(self) -> str:
        return f"{self.generation}/{self.file}"


def parsed(name: str) -> Name:
    """A name in its parts. Raises ValueError if it is none."""
    found = _NAME.fullmatch(name)
    if found is None or (media := BY_EXTENSION.get(found["extension"])) is None:
        raise ValueError("not the name of a kept file")
    return Name(found["generation"], found["file"], media.name)


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is kept. `size` in bytes, `modified` in seconds since the epoch."""

    name: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Opened:
    """A kept file, open to be read, also after its name is gone. Close it.

    `size` in bytes; `modified` in seconds since the epoch; `etag` strong, without quotes, the same after a restart;
    `path` where it is a local file. `read(start, length)` gives some bytes from there, at most `piece` at a time.
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
        """The bytes from `start` up to and without `stop`. Raises ValueError if there are no such bytes, and
        OSError once they cannot be read."""
        if not 0 <= start <= stop <= self.size:
            raise ValueError(f"there are no bytes {start} to {stop} in {self.size}")
        return self._chunks(start, stop)

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            read = self.read(start, min(self.piece, stop - start))
            if not read:
                raise OSError("the file ended early")
            start += len(read)
            yield read


class Storage(Protocol):
    """Every method blocks, may be called on any thread, and raises OSError when it cannot do what it promises, and
    ValueError for what is no name."""

    def put(self, name: str, source: Path) -> None:
        """Keep the whole of a local file under a name, or nothing at all. The source may be gone afterwards."""

    def open(self, name: str) -> Opened | None:
        """The file of that name; None if there is none."""

    def list(self) -> Iterator[Stored]:
        """All there is, in no order."""

    def delete(self, name: str) -> None:
        """Whether or not it is there."""
