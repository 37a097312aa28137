"""Outputs on their way to the storage. A small one is received into memory, so that one job of the pool does all that
blocks. A larger one goes through a temporary file.
"""

import asyncio
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Final, TypeVar

from files.storage import FileStorage, Source
from files.volume import NoRoom, Volume
from loop_thread import Pool
from media.formats import HEAD

T = TypeVar("T")

MAX_DOWNLOADS: Final = 32
"""Downloads at the same time. Each lasts until its output is stored, since that is in memory or on disk until then."""

STALE: Final = 3600.0
"""Seconds without a write after which a temporary file is deleted. Other processes may share the directory."""

BUFFER: Final = 1024 * 1024
"""An output of so many bytes is no longer only in memory: each further so many are written to a temporary file."""

Room = Callable[[int], AbstractAsyncContextManager[None]]
"""Makes room (bytes) on the volume, if it can, and promises it to one write inside the block."""


class SpooledOutput:
    """An output that is received and then stored. `size` is in bytes. `head` is its beginning, enough to detect the
    media type. `is_stored` is true once the storage has it."""

    def __init__(self, spool: "Spool") -> None:
        self.size = 0
        self.head = b""
        self.is_stored = False
        self._spool = spool
        self._descriptor: int | None = None
        """Of the temporary file while it is written."""
        self._has_file = False
        self._buffer = bytearray()
        self._has_slot = False

    async def begin(self) -> None:
        """Begin a download, once fewer than MAX_DOWNLOADS others are in progress, or restart it. Raises OSError."""
        if not self._has_slot:
            await self._spool.slots.acquire()
            self._has_slot = True
        await self._forget()
        self.size, self.head, self._buffer = 0, b"", bytearray()

    async def write(self, content: bytes) -> None:
        """Append. Raises OSError if the disk is full or fails."""
        if len(self.head) < HEAD:
            self.head += content[: HEAD - len(self.head)]
        self.size += len(content)
        self._buffer += content
        if len(self._buffer) >= BUFFER:
            await self._run(self._flush)

    async def check(self, check: Callable[[Path], T]) -> T:
        """Run a function that reads the whole output from its temporary file. Returns or raises as it does, and raises
        OSError if the disk is full or fails."""
        await self._run(self._flush)
        return await self._spool.pool.run(partial(check, self._path))

    async def store(self, storage: FileStorage, name: str) -> None:
        """Store the output under this name. Raises OSError if the storage or the disk is full or fails. If it is
        cancelled while the storage works, it may be stored nonetheless."""
        await self._run(partial(self._store, storage, name))

    async def close(self) -> None:
        """End the download, and delete the file unless it was stored."""
        try:
            await self._forget()
        finally:
            if self._has_slot:
                self._spool.slots.release()

    async def _run(self, write: Callable[[int], object]) -> None:
        """Run a job that writes, with the bytes of room that were promised to it. If there is no room, it has written
        nothing, and runs once more after room is made, if that can be made."""
        try:
            await self._spool.pool.run(partial(write, 0))
        except NoRoom as error:
            if self._spool.room is None:
                raise
            async with self._spool.room(error.wanted):
                await self._spool.pool.run(partial(write, error.wanted))

    async def _forget(self) -> None:
        if self._has_file:
            await self._spool.pool.run(self._discard)

    @cached_property
    def _path(self) -> Path:
        return self._spool.path / self._spool.new_name()

    def _store(self, storage: FileStorage, name: str, promised: int) -> None:
        content = None if self._has_file else self._buffer
        storage.put(name, Source(partial(self._whole_file, promised), content))
        self._has_file, self.is_stored = False, True

    def _whole_file(self, promised: int, flushed: bool) -> Path:
        descriptor = self._flush(promised)
        if flushed:
            os.fsync(descriptor)
        self._close()
        return self._path

    def _flush(self, promised: int) -> int:
        with (
            self._spool.volume.taking(len(self._buffer), promised=promised),
            memoryview(self._buffer) as left,
        ):
            if self._descriptor is None:
                self._descriptor = _create(self._path)
                self._has_file = True
            written = 0
            while written < len(left):
                written += os.write(self._descriptor, left[written:])
        self._buffer = bytearray()
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def _discard(self) -> None:
        """Delete the temporary file."""
        if self._has_file:
            with suppress(OSError):
                self._close()
            with suppress(OSError):
                self._path.unlink()
            self._has_file = False


class Spool:
    """Outputs and the directory of their temporary files, which only this user can read. It is created when needed."""

    def __init__(self, path: Path, pool: Pool, volume: Volume, room: Room | None = None) -> None:
        self.path = path
        self.pool = pool
        self.volume = volume
        self.room = room
        self.slots = asyncio.Semaphore(MAX_DOWNLOADS)
        self._id, self._numbers = secrets.token_hex(16), itertools.count()

    def new_name(self) -> str:
        """A name that no temporary file has, of any process. Safe on any thread."""
        return f"{self._id}.{next(self._numbers)}.part"

    @asynccontextmanager
    async def output(self) -> AsyncIterator[SpooledOutput]:
        """An empty output, which is deleted at the end of the block unless it was stored."""
        output = SpooledOutput(self)
        try:
            yield output
        finally:
            await output.close()

    def sweep(self, now: float) -> int:
        """Delete the files that crashed processes left, and return their number. Blocks. Raises OSError."""
        removed = 0
        for path in self.path.glob("*.part"):
            with suppress(FileNotFoundError):
                if now - path.stat(follow_symlinks=False).st_mtime > STALE:
                    path.unlink()
                    removed += 1
        return removed


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)
