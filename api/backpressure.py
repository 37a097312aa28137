"""What all callers share: threads, memory and the processor. No caller can take the whole of one.

Threads are finite, and a caller who waits for a result holds one. There are more threads than places for those who
hold them, so `/health`, `/status` and `/configure` always have some.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from errors import QueueFull
from settings import FILES_AT_ONCE, HANDED_IN_AT_ONCE, LISTENERS_AT_ONCE, SLOWEST, Settings

FILE_SECONDS: Final = 10.0
"""Seconds over which the reader of a file is judged."""

_JUDGED: Final = 1.0
"""The same when all places are taken."""

_PAUSE: Final = 0.1
_NEWCOMERS: Final = 16
"""Readers that may wait until it is known which reader is slow."""


class Quota:
    """So many units of one resource for all callers, and at most half of them for one. Any thread.

    `counted` says of what, as in "callers waiting for a result".
    """

    def __init__(self, total: int, *, counted: str) -> None:
        if total < 1:
            raise ValueError(f"total must be at least 1, got {total}")
        self.total: Final = total
        self.share: Final = max(1, total // 2)
        """What one caller may have."""
        self._counted = counted
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """What all callers have."""
        with self._lock:
            return self._taken.total()

    def take(self, caller: str, amount: int = 1, *, retry_after: Callable[[], float]) -> Callable[[], None]:
        """Take some. Returns what gives it back, in any thread, once; further calls do nothing.

        Raises QueueFull, with the seconds until some is likely free."""
        with self._lock:
            reason = self._refusal(caller, amount)
            if reason is None:
                self._taken[caller] += amount
        if reason is not None:
            raise QueueFull(reason, retry_after=retry_after(), retryable=amount <= self.share)
        held = [amount]

        def leave() -> None:
            with self._lock:
                if held:
                    self._taken[caller] -= held.pop()
                    self._taken += Counter()  # forgets callers who have nothing

        return leave

    @contextmanager
    def held(self, caller: str, *, retry_after: Callable[[], float]) -> Iterator[None]:
        """Have one for as long as the context lasts."""
        leave = self.take(caller, retry_after=retry_after)
        try:
            yield
        finally:
            leave()

    def _refusal(self, caller: str, amount: int) -> str | None:
        if self._taken.total() + amount > self.total:
            return f"There can be {self.total} {self._counted}, and no more."
        if self._taken[caller] + amount > self.share:
            return f"There can be {self.share} {self._counted} of one caller, and no more."
        return None


class Turns:
    """One thread at a time, in turn by caller: start-time fair queueing by the seconds that turns took. Any thread.

    The next turn is that of the caller who had least, so a caller with little to do waits for one turn of another, and
    not for all that others have in line. A newcomer begins level with the caller whose turn it is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: dict[str, deque[threading.Event]] = {}
        self._had: dict[str, float] = {}
        """By caller: what it had when it began, and seconds since."""
        self._level = 0.0
        """What the caller had whose turn it is."""
        self._is_taken = False

    @property
    def waiting(self) -> int:
        """How many threads wait for a turn."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    @contextmanager
    def turn(self, caller: str) -> Iterator[None]:
        """Wait for a turn, and have it for as long as the context lasts."""
        admitted = threading.Event()
        with self._lock:
            self._had[caller] = max(self._had.get(caller, 0.0), self._level)
            self._queues.setdefault(caller, deque()).append(admitted)
            self._admit()
        admitted.wait()
        began = self._clock()
        try:
            yield
        finally:
            with self._lock:
                self._had[caller] += self._clock() - began
                self._is_taken = False
                self._admit()

    def _admit(self) -> None:
        if self._is_taken:
            return
        if not self._queues:
            self._had.clear()
            self._level = 0.0
            return
        caller = min(self._queues, key=self._had.__getitem__)  # the first of equals
        queue = self._queues.pop(caller)
        self._level = self._had[caller]
        self._is_taken = True
        queue.popleft().set()
        if queue:
            self._queues[caller] = queue


class Connection(Protocol):
    """A reader's connection, as `server.peer` has it."""

    patience: float

    def rate(self, over: float) -> float | None:
        """Bytes a second that it took in the last `over` seconds of waiting for it; None if there were not so many."""

    def abort(self) -> None:
        """Close it, from any thread."""


class Readers:
    """The readers of files, each with a place of the `quota`. A newcomer without a place takes that of the slowest."""

    def __init__(self, quota: Quota, *, pause: Callable[[float], object] = time.sleep) -> None:
        self._quota = quota
        self._pause = pause
        self._lock = threading.Lock()
        self._readers: dict[Callable[[], None], tuple[str, Connection]] = {}
        self._newcomers = threading.Semaphore(_NEWCOMERS)

    def begin(self, address: str, connection: Connection | None) -> Callable[[], None]:
        """Take a place. Returns what gives it back. Raises QueueFull if no reader is slow."""
        free = self._place(address)

        def leave() -> None:
            with self._lock:
                self._readers.pop(free, None)
            free()

        if connection is not None:
            connection.patience = FILE_SECONDS
            with self._lock:
                self._readers[free] = (address, connection)
        return leave

    def _place(self, address: str) -> Callable[[], None]:
        take = partial(self._quota.take, address, retry_after=lambda: 1)
        try:
            return take()
        except QueueFull:
            if not self._newcomers.acquire(blocking=False):
                raise
        try:
            for _ in range(round(2 * _JUDGED / _PAUSE)):
                self._drop_slowest(address)
                with suppress(QueueFull):
                    return take()
                self._pause(_PAUSE)
            return take()
        finally:
            self._newcomers.release()

    def _drop_slowest(self, address: str) -> None:
        """Drop a reader that is too slow: of this address, or of any if all places are taken."""
        any_will_do = self._quota.taken >= self._quota.total
        with self._lock:
            rates = [
                (rate, free, connection)
                for free, (its_address, connection) in self._readers.items()
                if any_will_do or its_address == address
                if (rate := connection.rate(_JUDGED)) is not None and rate < SLOWEST
            ]
            if not rates:
                return
            _, free, connection = min(rates, key=lambda each: each[0])
            del self._readers[free]
        free()
        with suppress(OSError):
            connection.abort()


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """The resources that callers share, and how much of each one may have. All but `large_bodies`, which are bytes,
    hold a thread each. `parsing` gives turns on the processor."""

    waiting: Quota
    submitting: Quota
    files: Readers
    listeners: Quota
    large_bodies: Quota
    parsing: Turns

    @classmethod
    def from_settings(cls, settings: Settings) -> "CallerLimits":
        return cls(
            waiting=Quota(settings.MAX_WAITING_CALLERS, counted="requests waiting for a result"),
            submitting=Quota(HANDED_IN_AT_ONCE, counted="requests handing in work"),
            files=Readers(Quota(FILES_AT_ONCE, counted="files on their way")),
            listeners=Quota(LISTENERS_AT_ONCE, counted="listeners to events"),
            large_bodies=Quota(settings.large_bodies_bytes, counted="bytes of large bodies in memory"),
            parsing=Turns(),
        )
