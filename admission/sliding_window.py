"""The window: at most so many requests in any 60 seconds, counted from their answers.

A request reaches Replicate between its sending and its answer. So a place that becomes free 60 seconds after the answer
keeps the limit at Replicate, however long the network takes.
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

WINDOW: Final = 60.0
"""Seconds. Replicate counts requests by the minute."""


class SlidingWindow:
    """At most `limit` places in any 60 seconds, each counted until 60 seconds after its answer.

    Times are seconds on one monotonic clock. An expiry is computed once and compared as it is, since a sum
    computed twice can differ by a rounding and wake a sleeper just before its time, again and again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._unanswered = 0
        self._expiries: deque[float] = deque()

    def used(self, now: float) -> int:
        return self.limit - self.free(now)

    def free(self, now: float) -> int:
        """Places left; negative after the limit was lowered."""
        expiries = self._expiries
        while expiries and expiries[0] <= now:
            expiries.popleft()
        return self.limit - self._unanswered - len(expiries)

    def next_expiry(self) -> float:
        """When the next answered place is free again; infinity when none is answered yet."""
        return self._expiries[0] if self._expiries else math.inf

    def free_at(self) -> tuple[float, ...]:
        """When each taken place is free again: infinity as long as it has no answer."""
        return (*self._expiries, *[math.inf] * self._unanswered)

    def wait(self, nth: int, now: float) -> float:
        """Estimate the seconds until the `nth` further place is free, if each is answered as soon as it is taken, and
        all that have no answer are answered now."""
        free = self.free(now)
        if nth <= free:
            return 0.0
        expiries = [min(free_at - now, WINDOW) for free_at in self.free_at()] + [WINDOW] * max(0, free)
        windows, index = divmod(nth - free - 1, len(expiries))
        return expiries[index] + windows * WINDOW

    def take(self) -> None:
        self._unanswered += 1

    def answered(self, now: float) -> None:
        self._unanswered -= 1
        insort(self._expiries, now + WINDOW)

    def give_back(self) -> None:
        """The place was not used."""
        self._unanswered -= 1

    def restore(self, free_at: Iterable[float], *, unanswered: float) -> None:
        """Replace all places by those that are free again at these moments, as `free_at` returns them. Those without an
        answer become free at the moment `unanswered`."""
        self._expiries = deque(sorted(unanswered if moment == math.inf else moment for moment in free_at))

    def count(self, spent: Iterable[float], now: float) -> None:
        """Count places of an earlier process: seconds since each was answered, in any order. They are negative if the
        answer may still come."""
        left = (WINDOW - min(seconds, WINDOW) for seconds in spent)
        self._expiries = deque(sorted([*self._expiries, *(now + seconds for seconds in left)]))

    def forget(self, free_at: float) -> None:
        """Free a place that `count` counted until this moment, unless it has expired."""
        with suppress(ValueError):
            self._expiries.remove(free_at)
