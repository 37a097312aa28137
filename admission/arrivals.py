"""Recent arrivals: the reserve and the last slots depend on which other callers were active within ten minutes."""

import math
from dataclasses import dataclass
from typing import Final

from admission.flows import UNPROVEN, Flow

RECENT: Final = 600.0
"""Seconds for which an arrival counts as recent."""


@dataclass(frozen=True, slots=True)
class ArrivalsState:
    """The latest caller, and until when three arrivals count as recent: the latest of this caller, the latest of any
    other caller, and the latest single call. Moments are by the gate's clock."""

    latest: str = ""
    latest_until: float = -math.inf
    other_until: float = -math.inf
    singles_until: float = -math.inf


class Arrivals:
    """The recent arrivals. Two callers and one single call suffice to answer every question about others."""

    def __init__(self, state: ArrivalsState = ArrivalsState()) -> None:
        self._new: dict[tuple[str, bool], None] = {}
        self.state = state

    def note(self, caller: str, batch: str | None) -> None:
        """A caller has added tickets. The arrival counts from the next `stamp`. Unproven callers do not count."""
        if caller != UNPROVEN:
            self._new[caller, batch is None] = None

    def stamp(self, now: float) -> None:
        """Date the arrivals that were noted since the last call at `now`."""
        until = now + RECENT
        for caller, is_single in self._new:
            seen = self.state
            self.state = ArrivalsState(
                latest=caller,
                latest_until=until,
                other_until=seen.other_until if caller == seen.latest else seen.latest_until,
                singles_until=until if is_single else seen.singles_until,
            )
        self._new.clear()

    def others_than(self, flow: Flow, now: float) -> bool:
        """Whether there was a recent arrival of another caller or, for a batch, a recent single call of any caller."""
        seen = self.state
        until = seen.other_until if flow.owner.name == seen.latest else seen.latest_until
        return now < until or (flow.batch is not None and now < seen.singles_until)

    def has_singles(self, now: float) -> bool:
        """Whether there was a recent single call."""
        return now < self.state.singles_until

    def next_end(self, now: float) -> float:
        """When the next of the recent arrivals stops being recent; infinity if there is none."""
        seen = self.state
        moments = (seen.latest_until, seen.other_until, seen.singles_until)
        return min([moment for moment in moments if moment > now], default=math.inf)
