"""Exact windows with weights: the sum of the last so many seconds, and the largest sum so far.

Times are of a monotonic clock, in whole nanoseconds, so rounding decides no admission.
"""

from collections import deque
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns nanoseconds."""

SECOND = 10**9
MINUTE = 60 * SECOND


class Window:
    """The entries of the last `span` nanoseconds, each with a weight. `peak` is the largest sum so far."""

    def __init__(self, span: int = MINUTE) -> None:
        self.span = span
        self.peak = 0
        self._entries: deque[tuple[int, int]] = deque()
        self._sum = 0

    def add(self, now: int, weight: int = 1) -> None:
        """Add an entry at `now`."""
        self._expire(now)
        self._entries.append((now, weight))
        self._sum += weight
        self.peak = max(self.peak, self._sum)

    def used(self, now: int) -> int:
        """The sum of the weights at `now`."""
        self._expire(now)
        return self._sum

    def wait(self, now: int, weight: int, limit: int) -> int:
        """The nanoseconds until an entry of this weight fits; `span` if it never does."""
        excess = self.used(now) + weight - limit
        if excess <= 0:
            return 0
        for stamp, each in self._entries:
            excess -= each
            if excess <= 0:
                return stamp + self.span - now
        return self.span

    def _expire(self, now: int) -> None:
        while self._entries and now - self._entries[0][0] >= self.span:
            self._sum -= self._entries.popleft()[1]
