"""The window: at most so many requests in any 60 seconds, counted from their answers.

An arrival at Replicate lies between its sending and its answer, so a place that is free again only 60 seconds after the
answer keeps the limit there, whatever the network does in between.
"""

import math
from bisect import insort
from collections import deque
from collections.abc import Iterable
from typing import Final

from window_log import WindowLog

WINDOW: Final = 60.0
"""Seconds. Replicate counts requests by the minute."""


class SlidingWindow:
    """At most `limit` places in any 60 seconds, counted until 60 seconds after each place's answer.

    Times are seconds on one monotonic clock. An expiry is computed once and compared as it is, since a sum
    computed twice can differ by a rounding and wake a sleeper just before its time, again and again.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._log: WindowLog | None = None
        self._unanswered = 0
        self._expiries: deque[float] = deque()

    def used(self, now: float) -> int:
        while self._expiries and self._expiries[0] <= now:
            self._expiries.popleft()
        return self._unanswered + len(self._expiries)

    def free(self, now: float) -> int:
        return self.limit - self.used(now)

    def next_expiry(self) -> float:
        """When the next answered place is free again; infinity when none is answered yet."""
        return self._expiries[0] if self._expiries else math.inf

    def free_at(self) -> tuple[float, ...]:
        """When each place taken is free again: never (infinity) as long as its answer is not here."""
        return (*self._expiries, *[math.inf] * self._unanswered)

    def take(self) -> None:
        self._unanswered += 1
        if self._log:
            self._log.taken()

    def answered(self, now: float) -> None:
        self._unanswered -= 1
        expiry = now + WINDOW
        if self._expiries and self._expiries[-1] > expiry:  # behind what an earlier process had on its way
            insort(self._expiries, expiry)
        else:
            self._expiries.append(expiry)
        if self._log:
            self._log.answered()

    def give_back(self) -> None:
        """The place was never used."""
        self._unanswered -= 1
        if self._log:
            self._log.given_back()

    def count(self, spent: Iterable[float], now: float) -> None:
        """Count places that were answered so many seconds ago, or will be in less than none; in whatever order, and by
        clocks that were set."""
        left = sorted(WINDOW - min(max(-WINDOW, seconds), WINDOW) for seconds in spent)
        self._expiries.extend(now + seconds for seconds in left)

    def resume(self, log: WindowLog, now: float) -> None:
        """Go on where the process before left off, and keep the log from here on."""
        self._log = log
        for seconds, places in log.left(if_unknown=self.limit):
            self._expiries.extend([now + seconds] * places)
