"""Unproven callers, whose accounts are not known, share one turn and a twentieth of the window.

A turn alone does not limit them. Callers who wait for their results are not always in the queue, so a flood of invented
tokens would take every place that is free at that moment, for creations that are all refused.
"""

from admission.arrivals import Arrivals
from admission.flows import UNPROVEN, UNPROVEN_TURN, Flow, FlowFilter
from admission.sliding_window import SlidingWindow


class Unproven:
    """The share of unproven callers. `places` counts the places that they took in the last minute. If `is_bounded` is
    false, they only share a turn."""

    def __init__(self, *, is_bounded: bool = True) -> None:
        self.places = SlidingWindow(0)
        self._is_bounded = is_bounded

    def set_limit(self, limit: int) -> None:
        """Follow the limit of the window, in requests per minute."""
        self.places.limit = max(1, limit // UNPROVEN_TURN)

    def allowed(self, arrivals: Arrivals, now: float) -> FlowFilter | None:
        """Excludes unproven flows while their share is used up and other callers were active recently."""
        if not self._is_bounded or self.places.free(now) > 0:
            return None
        return lambda flow: not is_unproven(flow) or not arrivals.others_than(flow, now)

    def next_chance(self, now: float) -> float:
        """When the next of the places of unproven callers is free again."""
        self.places.free(now)  # drops expired places
        return self.places.next_expiry()


def is_unproven(flow: Flow) -> bool:
    return flow.owner.name == UNPROVEN


def queue_batch(caller: str, batch: str | None) -> str | None:
    """The batch under which tickets are queued. Single calls of unproven callers are queued as a batch, since single
    calls would go first."""
    return UNPROVEN if caller == UNPROVEN and batch is None else batch
