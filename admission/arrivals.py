"""Recent arrivals: the reserve and the last slots depend on which other callers came lately."""

import math
from dataclasses import dataclass
from typing import Final

from admission.fair_queue import UNPROVEN, Flow

ABOUT: Final = 600.0
"""Seconds for which a caller, or a single call, counts as about."""


@dataclass(frozen=True, slots=True)
class ArrivalsState:
    """The two callers who came last, and the last single call: until when each counts as about, by the gate's clock."""

    latest: str = ""
    latest_until: float = -math.inf
    other_until: float = -math.inf
    """When the last arrival of any other caller than the latest is ten minutes old."""
    singles_until: float = -math.inf


class Arrivals:
    """Who came within ten minutes: the two callers who came last, and the last single call, are all that matters."""

    def __init__(self) -> None:
        self._new: dict[tuple[str, bool], None] = {}
        self._state = ArrivalsState()

    def note(self, caller: str, batch: str | None) -> None:
        """A caller brings tickets. They count from the next `stamp`. Unproven callers do not count."""
        if caller != UNPROVEN:
            self._new[caller, batch is None] = None

    def stamp(self, now: float) -> None:
        """Those who were noted since the last time came at `now`."""
        until = now + ABOUT
        for caller, is_single in self._new:
            seen = self._state
            self._state = ArrivalsState(
                latest=caller,
                latest_until=until,
                other_until=seen.other_until if caller == seen.latest else seen.latest_until,
                singles_until=until if is_single else seen.singles_until,
            )
        self._new.clear()

    def others_than(self, flow: Flow, now: float) -> bool:
        """Whether another caller, or a single call beside this batch, came within ten minutes."""
        seen = self._state
        until = seen.other_until if flow.owner.name == seen.latest else seen.latest_until
        return now < until or (flow.batch is not None and now < seen.singles_until)

    def has_singles(self, now: float) -> bool:
        """Whether a single call came within ten minutes."""
        return now < self._state.singles_until

    def next_end(self, now: float) -> float:
        """When the next of them has been gone for ten minutes; infinity if all have been."""
        seen = self._state
        moments = (seen.latest_until, seen.other_until, seen.singles_until)
        return min([moment for moment in moments if moment > now], default=math.inf)

    def state(self) -> ArrivalsState:
        """All that `restore` needs."""
        return self._state

    def restore(self, state: ArrivalsState) -> None:
        """Take over another's state, and forget who was noted here."""
        self._new.clear()
        self._state = state
