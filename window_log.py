"""What a sliding window holds, kept beside the process, so that the limits hold across a restart.

The file is about a kilobyte and never grows: the places that were answered, counted by the second and rounded up, and
how many were still unanswered. It is written at each change, which takes microseconds, and what was written survives
its process, however that dies. What a dead process had on its way is taken to have arrived by the start of the next.
A file that cannot be read counts as a window that was spent just now. Nothing is flushed to the disk: after a crash of
the whole machine the file may be old.

Dates are by the machine's clock, the only one two processes share. If it is set back, places count from then on once
more, but never longer than a window; if it jumps ahead, places from before may count too short for the next process.

Creations are on record in the ledger, and their window is read back from there (`Gate.count`); this is for the rest.
"""

import contextlib
import fcntl
import io
import math
import os
import struct
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

_HEAD = struct.Struct("<8s8sQ")
_SECOND = struct.Struct("<QQ")
_MAGIC = b"window 1"
_SECONDS = 64
"""More than a window has, so that no second overwrites another that still counts."""
_SIZE = _HEAD.size + _SECONDS * _SECOND.size


class WindowLog:
    """One window's places on file. `of` names whose window it is; `window` is its length in seconds.

    Call `left` before anything is taken. The file keeps one window: what was spent of another is forgotten. Raises
    OSError if nothing can be kept, also because another process keeps something else there.
    """

    def __init__(self, path: Path, *, of: str, window: float, clock: Callable[[], float] = time.time) -> None:
        if not 0 < window <= _SECONDS - 2:
            raise ValueError(f"window must be above 0 and at most {_SECONDS - 2} seconds, got {window}")
        self._window = window
        self._clock = clock
        self._of = sha256(of.encode()).digest()[:8]
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._file, is_first = path.open("x+b", buffering=0), True
        except FileExistsError:
            self._file, is_first = path.open("r+b", buffering=0), False
        try:
            self._open(is_first=is_first)
        except BaseException:
            self._file.close()
            raise

    def _open(self, *, is_first: bool) -> None:
        self.is_shared = not _lock(self._file)
        """Whether another process writes it, too: one that still ends, or one that spends the same allowance."""
        head = self._file.read(_HEAD.size)
        magic, kept, _ = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", b"", 0)
        self.is_readable = is_first or (magic == _MAGIC and self._file.seek(0, io.SEEK_END) == _SIZE)
        """Whether it is known what the process before this one spent."""
        self._is_new = is_first or not self.is_readable or kept != self._of
        if self._is_new and self.is_shared:
            raise BlockingIOError("another process keeps the window of another upstream there")
        # A full disk is noticed here. Not the head: until `left` has written it, the file says nothing.
        self._file.truncate(_SIZE)
        os.pwrite(self._file.fileno(), self._read(_HEAD.size, _SIZE - _HEAD.size), _HEAD.size)

    def left(self, *, if_unknown: int) -> list[tuple[float, int]]:
        """Places that still count, as seconds left and how many, soonest first; so many if the file does not say."""
        now = self._clock()
        if self._is_new:
            self._write(_HEAD.size, bytes(_SIZE - _HEAD.size))
            unknown = 0 if self.is_readable else if_unknown
        else:
            unknown = self._unanswered
        for second, places in self._seconds():
            if second > math.ceil(now):  # the clock was set back
                self._set(second, 0)
                unknown += places
        if unknown:
            self._count(now, unknown)
        if not self.is_shared:  # else the other process may still get its own answers
            self._unanswered = 0  # last: after a crash in here the next process counts again
        counted = [(second + self._window - now, places) for second, places in self._seconds()]
        return sorted((min(left, self._window), places) for left, places in counted if places and left > 0)

    def taken(self) -> None:
        self._unanswered += 1

    def answered(self) -> None:
        self._count(self._clock(), 1)  # first: a crash between the two counts the place twice, and not never
        self._unanswered -= 1

    def given_back(self) -> None:
        self._unanswered -= 1

    def close(self) -> None:
        """Leave the file to the next process. A second call has no effect."""
        self._file.close()

    def _seconds(self) -> list[tuple[int, int]]:
        return list(_SECOND.iter_unpack(self._read(_HEAD.size, _SIZE - _HEAD.size)))

    def _count(self, now: float, places: int) -> None:
        second = math.ceil(now)
        stood, counted = _SECOND.unpack(self._read(_place(second), _SECOND.size))
        self._set(second, places + (counted if stood == second else 0))

    def _set(self, second: int, places: int) -> None:
        self._write(_place(second), _SECOND.pack(second, places))

    @property
    def _unanswered(self) -> int:
        number: int = _HEAD.unpack(self._read(0, _HEAD.size))[2]
        return number

    @_unanswered.setter
    def _unanswered(self, number: int) -> None:
        self._write(0, _HEAD.pack(_MAGIC, self._of, max(0, number)))

    def _read(self, at: int, size: int) -> bytes:
        """The bytes there, and zeros where the file was cut off."""
        read = b""
        with contextlib.suppress(OSError, ValueError):
            read = os.pread(self._file.fileno(), size, at)
        return read.ljust(size, b"\0")

    def _write(self, at: int, content: bytes) -> None:
        with contextlib.suppress(
            OSError, ValueError
        ):  # the window in memory holds, whatever becomes of the file
            os.pwrite(self._file.fileno(), content, at)


def _place(second: int) -> int:
    return _HEAD.size + second % _SECONDS * _SECOND.size


def _lock(file: Any) -> bool:
    """Whether no other process had the file. The lock is shared from now on, so that the next process notices this one.

    Where files cannot be locked, no other process is known to have it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        alone = False
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_SH)
    return alone
