"""Limits on the threads, memory and processor time that callers share. No caller can take all of one.

A request that waits for a result holds a thread. There are more threads than such requests may hold, so `/health`,
`/status` and `/configure` always find one.
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
from interpreter import computing
from settings import Settings
from settings.capacity import FILES_AT_ONCE, LISTENERS_AT_ONCE, SLOWEST, SUBMITTING_AT_ONCE

FILE_SECONDS: Final = 10.0
"""Seconds over which the speed of a file's reader is measured."""

_JUDGED: Final = 1.0
"""The same while the quota is full."""

_PAUSE: Final = 0.1
_UNJUDGED_READERS: Final = 16
"""Readers that may wait at once while the slowest reader is determined."""


class Quota:
    """`total` units of one resource for all callers, and at most half of them for one. Safe in any thread.

    `counted` names the units in error details, such as "requests waiting for a result".
    """

    def __init__(self, total: int, *, counted: str) -> None:
        if total < 1:
            raise ValueError(f"total must be at least 1, got {total}")
        self.total: Final = total
        self.share: Final = max(1, total // 2)
        """The units that one caller may have."""
        self._counted = counted
        self._lock = threading.Lock()
        self._taken: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        """The units that all callers have."""
        with self._lock:
            return self._taken.total()

    def take(self, caller: str, amount: int = 1, *, retry_after: Callable[[], float]) -> Callable[[], None]:
        """Take `amount` units. Returns a function that gives them back, in any thread; further calls do nothing.

        Raises QueueFull with `retry_after`, in seconds."""
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
        """Take one unit for the duration of the context."""
        leave = self.take(caller, retry_after=retry_after)
        try:
            yield
        finally:
            leave()

    def _refusal(self, caller: str, amount: int) -> str | None:
        if self._taken.total() + amount > self.total:
            return f"The service allows {self.total} {self._counted}."
        if self._taken[caller] + amount > self.share:
            return f"The service allows {self.share} {self._counted} per caller."
        return None


class Turns:
    """A fair lock: start-time fair queueing by caller, by the seconds that turns took. Safe in any thread.

    The next turn goes to the caller with the fewest seconds so far, so a caller with little work waits for one turn,
    and not for all waiting turns of another. A new caller starts with the seconds of the caller whose turn it is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: dict[str, deque[threading.Event]] = {}
        self._had: dict[str, float] = {}
        """Seconds by caller, including those that a new caller starts with."""
        self._level = 0.0
        """The seconds of the caller whose turn it is, at its start."""
        self._is_taken = False

    @property
    def waiting(self) -> int:
        """How many threads wait for a turn."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    @contextmanager
    def turn(self, caller: str) -> Iterator[None]:
        """Wait for a turn, and hold it for the duration of the context."""
        admitted = threading.Event()
        with self._lock:
            self._had[caller] = max(self._had.get(caller, 0.0), self._level)
            self._queues.setdefault(caller, deque()).append(admitted)
            self._admit()
        admitted.wait()
        began = self._clock()
        try:
            with computing():
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
    """A reader's connection; `server.peer.Peer` implements it."""

    patience: float

    def rate(self, over: float) -> float | None:
        """Bytes a second that it took in the last `over` seconds of waiting for it; None if there were not so many."""

    def abort(self) -> None:
        """Close it, from any thread."""


class Readers:
    """The readers of files, each with one unit of `quota`. If it is full, a new reader replaces the slowest one."""

    def __init__(self, quota: Quota, *, pause: Callable[[float], object] = time.sleep) -> None:
        self._quota = quota
        self._pause = pause
        self._lock = threading.Lock()
        self._readers: dict[Callable[[], None], tuple[str, Connection]] = {}
        self._newcomers = threading.Semaphore(_UNJUDGED_READERS)

    def begin(self, address: str, connection: Connection | None) -> Callable[[], None]:
        """Take a unit. Returns a function that gives it back. Raises QueueFull if no reader is slow."""
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
        """Drop the slowest reader below the minimum speed: of this address, or of any if the quota is full."""
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
    """The limits on each shared resource. Each unit is one thread, but `large_bodies` counts bytes, and `parsing` is a
    lock for parsing that uses the processor."""

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
            submitting=Quota(SUBMITTING_AT_ONCE, counted="requests submitting work"),
            files=Readers(Quota(FILES_AT_ONCE, counted="file downloads at once")),
            listeners=Quota(LISTENERS_AT_ONCE, counted="listeners to events"),
            large_bodies=Quota(settings.large_bodies_bytes, counted="bytes of large bodies in memory"),
            parsing=Turns(),
        )
