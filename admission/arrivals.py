"""Who came lately: the reserve and the last slots depend on who else is about."""

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
    singles_until: float = -math.inf


class Arrivals:
    """Who came within ten minutes: the two callers who came last, and the last single call, are all that matters."""

    def __init__(self) -> None:
        self._new: dict[tuple[str, bool], None] = {}
        self._latest = ""
        self._latest_until = -math.inf
        self._other_until = -math.inf
        """When the last arrival of any other caller than the latest is ten minutes old."""
        self._singles_until = -math.inf

    def note(self, caller: str, batch: str | None) -> None:
        """A caller brings tickets. They count from the next `stamp`. Unproven callers do not count."""
        if caller != UNPROVEN:
            self._new[caller, batch is None] = None

    def stamp(self, now: float) -> None:
        """Those who were noted since the last time came at `now`."""
        if not self._new:
            return
        until = now + ABOUT
        for caller, is_single in self._new:
            if caller != self._latest:
                self._latest, self._other_until = caller, self._latest_until
            self._latest_until = until
            if is_single:
                self._singles_until = until
        self._new.clear()

    def others_than(self, flow: Flow, now: float) -> bool:
        """Whether another caller, or a single call beside this batch, came within ten minutes."""
        until = self._other_until if flow.owner.name == self._latest else self._latest_until
        return now < until or (flow.batch is not None and now < self._singles_until)

    def has_singles(self, now: float) -> bool:
        """Whether a single call came within ten minutes."""
        return now < self._singles_until

    def next_end(self, now: float) -> float:
        """When the next of them has been gone for ten minutes; infinity if all have been."""
        moments = (self._latest_until, self._other_until, self._singles_until)
        return min([moment for moment in moments if moment > now], default=math.inf)

    def state(self) -> ArrivalsState:
        """All that `restore` needs."""
        return ArrivalsState(self._latest, self._latest_until, self._other_until, self._singles_until)

    def restore(self, state: ArrivalsState) -> None:
        """Take over another's state, and forget who was noted here."""
        self._new.clear()
        self._latest = state.latest
        self._latest_until = state.latest_until
        self._other_until = state.other_until
        self._singles_until = state.singles_until
