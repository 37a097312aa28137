"""The room on the volume of stored outputs. They leave a reserve of it free, since the ledger may be on it too."""

import errno
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Final

RESERVE: Final = 64 * 1024 * 1024
"""Bytes of the volume that files leave free, or a hundredth of the volume if that is more."""

DiskUsage = Callable[[], tuple[int, int, int]]
"""Returns the total, used and free bytes of a volume. Raises OSError."""


class NoRoom(OSError):
    """A write of `wanted` bytes would use the reserve."""

    def __init__(self, wanted: int) -> None:
        super().__init__(errno.ENOSPC, "the rest of the volume is reserved")
        self.wanted = wanted


class Volume:
    """The free bytes of a volume beyond the reserve; unlimited without `disk_usage`. Safe on any thread. `room` and
    `taking` block."""

    def __init__(self, disk_usage: DiskUsage | None = None) -> None:
        self._disk_usage = disk_usage
        self._writing = threading.Lock()
        self._promised = 0

    def room(self) -> float:
        """Free bytes beyond the reserve, negative below it, once no write is in progress. Infinite if they are unknown:
        if the volume is gone, the write itself fails."""
        with self._writing:
            return self._room()

    @contextmanager
    def taking(self, wanted: int, *, promised: int = 0) -> Iterator[None]:
        """Write `wanted` bytes inside the block, of which `promised` were promised to this write. Only one block runs
        at a time, so that two writes do not count on the same room. Raises NoRoom."""
        with self._writing:
            if wanted > self._room() - self._promised + promised:
                raise NoRoom(wanted)
            yield

    @contextmanager
    def promise(self, wanted: int) -> Iterator[None]:
        """Keep so many bytes free for one write during the block. Blocks must not overlap."""
        self._promised = wanted
        try:
            yield
        finally:
            self._promised = 0

    def _room(self) -> float:
        if self._disk_usage is None:
            return math.inf
        try:
            total, _, free = self._disk_usage()
        except OSError:
            return math.inf
        return free - max(RESERVE, total // 100)


def disk_usage(path: Path) -> tuple[int, int, int]:
    """Total, used and free bytes of the volume of a path, which need not exist yet. Raises OSError."""
    for each in chain([path], path.parents):
        with suppress(FileNotFoundError, NotADirectoryError):
            return shutil.disk_usage(each)
    raise FileNotFoundError(errno.ENOENT, "no directory above it exists", str(path))
