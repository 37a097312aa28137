"""The last slots: whom they are kept for, and who goes first to a slot that was freed.

Slots are work-conserving: a caller who is alone uses all of them, and no running prediction is stopped. But one may
hold a slot for minutes, and a caller who comes when all are held waits as long. So as long as predictions are long and
others came within ten minutes, the last tenth is kept for those who hold no slot. A free slot also goes to those who
hold less than half of all before it goes to one who holds more.

A batch holds all slots of its caller. The single calls of a caller count by themselves: beside the caller's own batch
they may hold none, and they are others to it.
"""

from typing import Final

from admission.arrivals import Arrivals
from admission.fair_queue import MayGo

_LONG: Final = 30.0
"""Seconds. Shorter predictions free a slot soon enough."""

_KEPT: Final = 10
"""One slot in so many is kept, and one at least."""

_FEWEST: Final = 3
"""Of fewer slots none is kept."""


def kept(limit: int, mean_held: float) -> int:
    """How many of `limit` slots are kept for those who hold none, if a slot is held for `mean_held` seconds."""
    return max(1, limit // _KEPT) if limit >= _FEWEST and mean_held > _LONG else 0


def for_newcomers(arrivals: Arrivals, now: float) -> MayGo:
    """The slots that are kept: for those who hold none, and for all to whom no others came."""
    return lambda flow: flow.holds() == 0 or not arrivals.others_than(flow, now)


def holds_little(limit: int) -> MayGo:
    """Those who hold less than half of the slots."""
    return lambda flow: 2 * flow.holds() < limit
