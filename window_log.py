"""What a sliding window holds, kept beside the process, so that the limits hold across a restart.

The file is mapped into memory: writing costs nothing, and what was written survives its process, however that
dies. It is about a kilobyte and never grows: the places that were answered, counted by the second and rounded up, and
how many were still unanswered. Nobody knows when those arrive, so whoever starts next counts them as answered
at that moment. A file that cannot be read counts as a window that was spent just now.

Dates are by the machine's clock, the only one two processes share. If it is set back, places count a little
longer, but never more than a window; only if it jumps ahead between two processes may they count too short.

It stands in for the stamps of a ledger: once each creation is on record, the window can be read from there.
"""

import contextlib
import errno
import fcntl
import io
import math
import mmap
import struct
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

_HEAD = struct.Struct("<8s8sQ")
_SECOND = struct.Struct("<QQ")
_MAGIC = b"window 1"
_SECONDS = 64
"""More than a window has, so that no second overwrites another that still counts."""
_SIZE = _HEAD.size + _SECONDS * _SECOND.size


class WindowLog:
    """One window's places on file. `of` names whose window it is; `window` is its length in seconds.

    What was spent elsewhere is forgotten. Raises OSError if nothing can be kept, also because another process
    keeps the window of something else there.
    """

    def __init__(self, path: Path, *, of: str, window: float, clock: Callable[[], float] = time.time) -> None:
        if not 0 < window <= _SECONDS - 2:
            raise ValueError(f"window must be above 0 and at most {_SECONDS - 2} seconds, got {window}")
        self._window = window
        self._clock = clock
        self._of = sha256(of.encode()).digest()[:8]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            size = file.seek(0, io.SEEK_END)
            self.is_shared = not _lock(file)
            """Whether another process writes it, too: one that still ends, or one that spends the same allowance."""
            file.truncate(_SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)  # holds the file, and the lock, by itself
        magic, kept, _ = _HEAD.unpack_from(self._map)
        self.is_readable = size == 0 or (size == _SIZE and magic == _MAGIC)
        """Whether it is known what the process before this one spent."""
        if not self.is_readable or kept != self._of:
            if self.is_shared:
                self._map.close()
                raise BlockingIOError(errno.EWOULDBLOCK, "another process keeps something else there")
            self._map[:] = bytes(_SIZE)
            self._unanswered = 0

    def left(self) -> list[tuple[float, int]]:
        """Places that still count, as seconds left and how many, soonest first. Unanswered ones are answered now."""
        now = self._clock()
        unanswered = self._unanswered
        if unanswered:
            self._count(now, unanswered)
            self._unanswered = 0
        counted = [
            (min(second + self._window - now, self._window), places) for second, places in self._seconds()
        ]
        return sorted((seconds, places) for seconds, places in counted if places and seconds > 0)

    def taken(self) -> None:
        self._unanswered += 1

    def answered(self) -> None:
        self._count(self._clock(), 1)  # first: whoever dies between the two counts it twice, not never
        self._unanswered -= 1

    def given_back(self) -> None:
        self._unanswered -= 1

    def close(self) -> None:
        """Leave the file to whoever comes next. Twice is no error."""
        self._map.close()

    def _seconds(self) -> Iterator[tuple[int, int]]:
        yield from _SECOND.iter_unpack(self._map[_HEAD.size :])

    def _count(self, now: float, places: int) -> None:
        second = math.ceil(now)
        at = _HEAD.size + second % _SECONDS * _SECOND.size
        stood, counted = _SECOND.unpack_from(self._map, at)
        _SECOND.pack_into(self._map, at, second, places + (counted if stood == second else 0))

    @property
    def _unanswered(self) -> int:
        number: int = _HEAD.unpack_from(self._map)[2]
        return number

    @_unanswered.setter
    def _unanswered(self, number: int) -> None:
        _HEAD.pack_into(self._map, 0, _MAGIC, self._of, max(0, number))


def _lock(file: BinaryIO) -> bool:
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
