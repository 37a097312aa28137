"""Temporary files. A download is written here first, and moved away when it is whole."""

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Final

from loop_thread import Pool
from media.formats import HEAD

STALE: Final = 3600.0
"""Seconds after which a temporary file is no longer written. Another process may share the directory."""

_BUFFER: Final = 1024 * 1024

Room = Callable[[int], AbstractAsyncContextManager[None]]
"""Room for so many bytes, to be written inside the block. Raises OSError if there is none."""


class Temporary:
    """A file being written. `size` in bytes; `head` is its first bytes, enough to tell what it is."""

    def __init__(self, path: Path, pool: Pool, room: Room) -> None:
        self.path = path
        self.size = 0
        self.head = b""
        self._pool = pool
        self._room = room
        self._file: IO[bytes] | None = None
        self._buffer = bytearray()

    async def begin(self) -> None:
        """An empty file, whatever was written before. Raises OSError."""
        self._buffer.clear()
        self.size, self.head = 0, b""
        await self._pool.run(self._open)

    async def write(self, content: bytes) -> None:
        """Append. Raises OSError when the disk does not take it."""
        if len(self.head) < HEAD:
            self.head += content[: HEAD - len(self.head)]
        self.size += len(content)
        self._buffer += content
        if len(self._buffer) >= _BUFFER:
            async with self._room(len(self._buffer)):
                await self._pool.run(self._flush)

    async def finish(self) -> None:
        """Nothing more will be written; the file at `path` is whole. Raises OSError when the disk does not take it."""
        async with self._room(len(self._buffer)):
            await self._pool.run(self._close)

    def discard(self) -> None:
        """Delete the file, unless it was moved away. Blocks."""
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
            raise ValueError("the file was not begun")
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
    """The directory `path`. It is made when it is needed, and only this user can read it."""

    def __init__(self, path: Path, pool: Pool, room: Room = lambda _: nullcontext()) -> None:
        self._path = path
        self._pool = pool
        self._room = room

    @asynccontextmanager
    async def temporary(self) -> AsyncIterator[Temporary]:
        """A file to be begun, gone at the end of the block unless it was moved away."""
        file = Temporary(self._path / f"{secrets.token_hex(16)}.part", self._pool, self._room)
        try:
            yield file
        finally:
            await self._pool.run(file.discard)

    def sweep(self, now: float) -> int:
        """Remove the files of processes that died, and return how many. Blocks. Raises OSError."""
        removed = 0
        for path in self._path.glob("*.part"):
            with suppress(FileNotFoundError):
                if now - path.stat(follow_symlinks=False).st_mtime > STALE:
                    path.unlink()
                    removed += 1
        return removed
