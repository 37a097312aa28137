"""How fast looks are made: at once while the window has room, evenly spread beyond half of it, and the last tenth is
left to those who cancel.

Looks for followers never take more than a third of the window: the more is followed, the less often each is looked at.
"""

import asyncio
import math

from admission.sliding_window import WINDOW
from concurrency import Gate

EACH_FOLLOWED = 1.0
"""Seconds between two looks at a prediction that somebody follows, at the least."""

_EVENLY_FROM = 1 / 2
_NONE_FROM = 0.9
_FOLLOWED = 1 / 3
"""Shares of the window."""


class Pace:
    """The pace within the window `places`."""

    def __init__(self, places: Gate) -> None:
        self._places = places
        self._looked_at = -math.inf

    async def wait(self) -> None:
        """Return when the next look may be made."""
        now = asyncio.get_running_loop().time
        while self._used() >= _EVENLY_FROM:
            evenly = self._each(1 - _EVENLY_FROM)
            wait = evenly if self._used() >= _NONE_FROM else self._looked_at + evenly - now()
            if wait <= 0:
                return
            await asyncio.sleep(wait)

    def looks(self) -> None:
        """A look is made now."""
        self._looked_at = asyncio.get_running_loop().time()

    def between_follows(self, followed: int) -> float:
        """Seconds between two looks at each prediction, if so many are followed."""
        return max(EACH_FOLLOWED, followed * self._each(_FOLLOWED))

    def _used(self) -> float:
        window = self._places.statistics()
        return window.current_rate_per_minute / window.requests_per_minute_limit

    def _each(self, share: float) -> float:
        """Seconds for each place, if this share of them is spread over the window."""
        return WINDOW / (share * self._places.statistics().requests_per_minute_limit)
