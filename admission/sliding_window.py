"""The window: at most so many requests in any 60 seconds, counted from their answers.

An arrival at Replicate lies between its sending and its answer, so a place that is free again only 60 seconds after the
answer keeps the limit there, whatever the network does in between.
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

    def take(self) -> None:
        self._unanswered += 1

    def answered(self, now: float) -> None:
        self._unanswered -= 1
        expiry = now + WINDOW
        if (
            self._expiries and self._expiries[-1] > expiry
        ):  # behind a place that `count` stamped in the future
            insort(self._expiries, expiry)
        else:
            self._expiries.append(expiry)

    def give_back(self) -> None:
        """The place was never used."""
        self._unanswered -= 1

    def restore(self, free_at: Iterable[float], *, unanswered: float) -> None:
        """Begin with places that are free again at these moments (`free_at`). Those without an answer are taken to be
        free again at the moment `unanswered`."""
        self._expiries = deque(sorted(unanswered if moment == math.inf else moment for moment in free_at))

    def count(self, spent: Iterable[float], now: float) -> None:
        """Count places of an earlier process: seconds since each was answered, negative if its answer may yet come. In
        any order."""
        left = (WINDOW - min(seconds, WINDOW) for seconds in spent)
        self._expiries = deque(sorted([*self._expiries, *(now + seconds for seconds in left)]))

    def forget(self, free_at: float) -> None:
        """Take back a place that `count` counted until this moment, if it counts still."""
        with suppress(ValueError):
            self._expiries.remove(free_at)
