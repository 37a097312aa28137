"""Temporary files. A download is written here first, and moved to the storage when it is complete."""

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Final

from loop_thread import Pool
from media.formats import HEAD

STALE: Final = 3600.0
"""Seconds without a write after which a temporary file is deleted. Other processes may share the directory."""

_BUFFER: Final = 1024 * 1024

Room = Callable[[int], AbstractAsyncContextManager[None]]
"""Reserves disk space (bytes) for a write inside the block. Raises OSError if there is not enough."""


class TemporaryFile:
    """A file being written. `size` is in bytes. `head` is its beginning, enough to detect the media type."""

    def __init__(self, path: Path, pool: Pool, room: Room) -> None:
        self.path = path
        self.size = 0
        self.head = b""
        self._pool = pool
        self._room = room
        self._file: IO[bytes] | None = None
        self._buffer = bytearray()

    async def begin(self) -> None:
        """Start or restart with an empty file. Raises OSError."""
        self._buffer.clear()
        self.size, self.head = 0, b""
        await self._pool.run(self._open)

    async def write(self, content: bytes) -> None:
        """Append. Raises OSError if the disk is full or fails."""
        if len(self.head) < HEAD:
            self.head += content[: HEAD - len(self.head)]
        self.size += len(content)
        self._buffer += content
        if len(self._buffer) >= _BUFFER:
            async with self._room(len(self._buffer)):
                await self._pool.run(self._flush)

    async def finish(self) -> None:
        """Flush and close the file. Raises OSError if the disk is full or fails."""
        async with self._room(len(self._buffer)):
            await self._pool.run(self._close)

    def discard(self) -> None:
        """Delete the file, unless it was moved. Blocks."""
        if self._file is not None:
            self._file.close()
        with suppress(OSError):
            self.path.unlink()

    def _open(self) -> None:
        self.discard()
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    def _flush(self) -> None:
        if self._file is None:
            raise ValueError("the file was not opened")
        content, self._buffer = self._buffer, bytearray()
        with memoryview(content) as left:
            written = 0
            while written < len(content):
                written += self._file.write(left[written:])

    def _close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()


class Spool:
    """The directory for temporary files. It is created when needed, and only this user can read it."""

    def __init__(self, path: Path, pool: Pool, room: Room = lambda _: nullcontext()) -> None:
        self._path = path
        self._pool = pool
        self._room = room

    @asynccontextmanager
    async def temporary(self) -> AsyncIterator[TemporaryFile]:
        """A file that is deleted at the end of the block unless it was moved. Call `begin` first."""
        file = TemporaryFile(self._path / f"{secrets.token_hex(16)}.part", self._pool, self._room)
        try:
            yield file
        finally:
            await self._pool.run(file.discard)

    def sweep(self, now: float) -> int:
        """Delete the files that crashed processes left, and return their number. Blocks. Raises OSError."""
        removed = 0
        for path in self._path.glob("*.part"):
            with suppress(FileNotFoundError):
                if now - path.stat(follow_symlinks=False).st_mtime > STALE:
                    path.unlink()
                    removed += 1
        return removed
