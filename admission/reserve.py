"""The reserve: the last places of the window. Batches take them at an even pace, and single calls take them first.

Turns do not help a single call after a batch has spent the window within seconds. So batches leave a reserve, as large
as the expected demand of single calls:

- **No reserve**, if no single call arrived for ten minutes and no batch needs more than ten windows. A batch that is
  alone uses every place at once.
- **A base of 25 places** (a third of a window below 75), if the waiting batches need more than ten windows. This costs
  them at most one window, and the first single call is admitted within seconds.
- **The whole window**, if a single call arrived within ten minutes. Batches then take one place every 60 seconds /
  limit. Batches that fit into the window beside the base still take their places at once.

A paced place that no single call takes goes to a batch. The pace is three per cent faster than even, so that places
that were left over for a moment are used soon. Measured in virtual time: tests/unit/test_reserve.py.
"""

import math
from dataclasses import dataclass
from typing import Final

from admission.sliding_window import WINDOW, SlidingWindow

_BASE: Final = 25
_BASE_SHARE: Final = 3
"""The base is at most this part of the window: of 60 places 20, so that one is free every 3 seconds."""

LONG: Final = 10
"""Windows. The base is kept while batches need more than this."""

_PACE: Final = 0.97


@dataclass(frozen=True, slots=True)
class ReserveState:
    """A reserve at one instant, by the gate's clock: see `Reserve`. A place without an answer is free at infinity."""

    share: float = 0.0
    places: tuple[float, ...] = ()
    single_places: tuple[float, ...] = ()
    paced_until: float = -math.inf
    is_long: bool = False


class Reserve:
    """The size of the reserve, its pace for batches, and whether single calls go first there.

    `share` is the largest share of the window for which single calls go before batches; 0 turns the reserve off. Call
    `update` before each round of admissions. `places` are those taken from the reserve in the last minute, and its
    limit is the size of the reserve. `singles` are those that single calls took, and its limit is their share.
    `paced_until` is when a batch may take the next place of the reserve.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"interactive_reserve must be from 0 to below 1, got {share}")
        self._share = share
        self.places = SlidingWindow(0)
        self.singles = SlidingWindow(0)
        self._base = 0
        self.paced_until = -math.inf
        self._is_long = False

    def update(self, limit: int, batched: int, within: float, *, has_singles: bool) -> None:
        """Adapt the size to the demand. `limit` is that of the window, and `has_singles` is whether a single call
        arrived within ten minutes. `batched` is how many waiting tickets of batches may go now if there is a place for
        each, and `within` how many of them within `LONG` windows."""
        if not self._share:
            return
        self._is_long = within > LONG * limit or (self._is_long and batched > 0)
        base = min(_BASE, limit // _BASE_SHARE)
        self.singles.limit = int(self._share * limit)
        self.places.limit = limit if has_singles else base if self._is_long else 0
        self._base = base if self.places.limit else 0

    def left(self, now: float) -> int:
        """How many places of the reserve are left. They are the last free places of the window."""
        return max(0, self.places.free(now)) if self.places.limit else 0

    def is_paced(self, free: int, now: float, batched: int) -> bool:
        """Whether batches wait for the pace if only the reserve is left: one took a place of it recently, and the
        `batched` waiting tickets do not fit beside the base."""
        return now < self.paced_until and free - self._base < batched

    def singles_first(self, now: float) -> bool:
        """Whether single calls go before batches: they have not used up their share of the window."""
        return self.singles.free(now) > 0

    def take(self, now: float) -> float:
        """Take a place of the reserve. Returns the seconds by which this delays the next."""
        pace = self._pace()
        self.paced_until = max(self.paced_until, now) + pace
        return pace

    def give_back(self, pace: float) -> None:
        """The place was not used, so it delays nothing."""
        self.paced_until -= pace

    def shorten_pause(self, now: float) -> None:
        """The limit of the window changed: wait no longer than the new pace."""
        if self.places.limit:
            self.paced_until = min(self.paced_until, now + self._pace())

    def wait(self, nth: int, free: int, wanted: int, now: float) -> float:
        """Seconds until batches with `wanted` tickets take the `nth` place of the reserve, from 1, while the window has
        `free` places."""
        if free - self._base >= wanted:
            return 0.0
        return max(0.0, self.paced_until - now) + (nth - 1) * self._pace()

    def state(self) -> ReserveState:
        return ReserveState(
            share=self._share,
            places=self.places.free_at(),
            single_places=self.singles.free_at(),
            paced_until=self.paced_until,
            is_long=self._is_long,
        )

    def restore(self, state: ReserveState, *, unanswered: float) -> None:
        """Replace the state. Places without an answer become free at the moment `unanswered`."""
        self.places.restore(state.places, unanswered=unanswered)
        self.singles.restore(state.single_places, unanswered=unanswered)
        self.paced_until = state.paced_until
        self._is_long = state.is_long

    def _pace(self) -> float:
        return _PACE * WINDOW / self.places.limit
