"""The reserve: the last places of the window, which batches take paced and single calls take first.

Turns do not help a single call once a batch has spent the minute in its first seconds. So batches leave places, as
many as single calls are about to want:

- **None**, if no single call came for ten minutes and no batch needs more than ten windows. A batch that is alone
  wastes nothing.
- **A base of 25 places** (a third of a window below 75), if more than ten windows' worth of batches waits. It costs
  them at most one window, and the first single call finds a place within some seconds.
- **The whole window**, if a single call came within ten minutes. Batches then take a place every 60 seconds / limit
  instead of all at once. Batches whose items fit into the window, apart from the base, still go at once.

A paced place that no single call took goes to a batch. The pace is a little faster than even, so that the places that
were left over for a moment are used soon. Measured in virtual time: tests/unit/test_reserve.py.
"""

import math
from dataclasses import dataclass
from typing import Final

from admission.sliding_window import WINDOW, SlidingWindow

_BASE: Final = 25
_BASE_SHARE: Final = 3
"""The base is at most this part of the window: of 60 places 20, so that one is free every 3 seconds."""

_LONG: Final = 10
"""Windows. Batches that need more keep the base."""

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
    """How many of the last places batches take paced now, and whose turn it is there.

    `share` is the largest share of the window for which single calls go before batches; 0 turns the reserve off. Call
    `follow` before each round of admissions.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"interactive_reserve must be from 0 to below 1, got {share}")
        self._share = share
        self.places = SlidingWindow(0)
        """The places of the last minute that were taken from the reserve. Its limit is the reserve's size."""
        self.singles = SlidingWindow(0)
        """The places of the last minute that single calls took. Its limit is their share."""
        self._kept = 0
        """The base, as long as there is a reserve."""
        self.paced_until = -math.inf
        """When the next batch may take a place of the reserve."""
        self._is_long = False

    def follow(self, limit: int, batched: int, *, has_singles: bool) -> None:
        """Follow the demand. `limit` is the window's, `batched` the waiting tickets of batches, and `has_singles`
        whether a single call came within ten minutes."""
        if not self._share:
            return
        self._is_long = batched > _LONG * limit or (self._is_long and batched > 0)
        base = min(_BASE, limit // _BASE_SHARE)
        self.singles.limit = int(self._share * limit)
        self.places.limit = limit if has_singles else base if self._is_long else 0
        self._kept = base if self.places.limit else 0

    def left(self, now: float) -> int:
        """How many places of the reserve are left: the last of those that are free in the window."""
        return max(0, self.places.free(now)) if self.places.limit else 0

    def is_paced(self, free: int, now: float, batched: int) -> bool:
        """Whether batches wait for the pace, if only the reserve is left: one took from it lately, and `batched`, the
        waiting tickets of batches, would take the base as well."""
        return now < self.paced_until and free - self._kept < batched

    def singles_first(self, now: float) -> bool:
        """Whether single calls go before batches: they have not had their share of the minute."""
        return self.singles.free(now) > 0

    def take(self, now: float) -> float:
        """Take a place from the reserve. Returns the seconds by which this puts off the next."""
        pace = self._pace()
        self.paced_until = max(self.paced_until, now) + pace
        return pace

    def give_back(self, pace: float) -> None:
        """The place was never used, so it puts nothing off."""
        self.paced_until -= pace

    def hurry(self, now: float) -> None:
        """The window has another limit: the old pace holds up nothing."""
        if self.places.limit:
            self.paced_until = min(self.paced_until, now + self._pace())

    def wait(self, nth: int, free: int, wanted: int, now: float) -> float:
        """Seconds until batches that want so many places take the nth of the reserve's, 1 for the next, while `free`
        places are left in the window."""
        if free - self._kept >= wanted:
            return 0.0
        return max(0.0, self.paced_until - now) + (nth - 1) * self._pace()

    def state(self) -> ReserveState:
        """All that `restore` needs."""
        return ReserveState(
            share=self._share,
            places=self.places.free_at(),
            single_places=self.singles.free_at(),
            paced_until=self.paced_until,
            is_long=self._is_long,
        )

    def restore(self, state: ReserveState, *, unanswered: float) -> None:
        """Take over another's state. Places without an answer are taken to be free at the moment `unanswered`."""
        self.places.restore(state.places, unanswered=unanswered)
        self.singles.restore(state.single_places, unanswered=unanswered)
        self.paced_until = state.paced_until
        self._is_long = state.is_long

    def _pace(self) -> float:
        return _PACE * WINDOW / self.places.limit
