"""Callers whose accounts are not known: one turn for all, and a twentieth of the window while others are about.

A turn alone does not bound them. Callers who wait for their results are not in line all the time, so a flood of
invented tokens would take each place that is free at that moment, for creations that are all refused.
"""

from admission.arrivals import Arrivals
from admission.fair_queue import UNPROVEN, UNPROVEN_TURN, Flow, MayGo
from admission.sliding_window import SlidingWindow


class Unproven:
    """The share of unproven callers. `places` are those of the last minute that they took. If it is not `is_bounded`,
    turns alone bound them."""

    def __init__(self, *, is_bounded: bool = True) -> None:
        self.places = SlidingWindow(0)
        self._is_bounded = is_bounded

    def follow(self, limit: int) -> None:
        """The window has this limit."""
        self.places.limit = max(1, limit // UNPROVEN_TURN)

    def rule(self, arrivals: Arrivals, now: float) -> MayGo | None:
        """Which flows may go: all, or all that are proven when the share is used up and others are about."""
        if not self._is_bounded or self.places.free(now) > 0:
            return None
        return lambda flow: not is_unproven(flow) or not arrivals.others_than(flow, now)

    def next_chance(self, now: float) -> float:
        """When the next of their places is free again."""
        self.places.free(now)  # drops those that are
        return self.places.next_expiry()


def is_unproven(flow: Flow) -> bool:
    """Whether a flow is one of unproven callers."""
    return flow.owner.name == UNPROVEN


def group(caller: str, batch: str | None) -> str | None:
    """The batch that tickets count to. Those of unproven callers are no single calls, which would go first."""
    return UNPROVEN if caller == UNPROVEN and batch is None else batch
