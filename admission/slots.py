"""The last slots: which flows may take them, and which go first.

A caller who is alone may use all slots, and no running prediction is stopped. But a prediction may hold its slot for
minutes, and a caller who arrives when all slots are held waits that long. So while predictions are long and other
callers were active within ten minutes, the last tenth of the slots is kept for flows that hold none. A free slot also
goes to a flow that holds less than half of all slots before it goes to one that holds more.

A batch counts as holding all slots of its caller. Single calls count only their own: they may take a kept slot beside
their caller's batch, and they are other callers to that batch.
"""

from typing import Final

from admission.arrivals import Arrivals
from admission.flows import FlowFilter

_LONG: Final = 30.0
"""Seconds. Shorter predictions free a slot soon enough."""

_KEPT: Final = 10
"""One in so many slots is kept, but at least one."""

_FEWEST: Final = 3
"""If there are fewer slots, none is kept."""


def kept(limit: int, mean_held: float) -> int:
    """How many of `limit` slots are kept if predictions hold a slot for `mean_held` seconds on average."""
    return max(1, limit // _KEPT) if limit >= _FEWEST and mean_held > _LONG else 0


def for_newcomers(arrivals: Arrivals, now: float) -> FlowFilter:
    """Allows flows that hold no slot, and flows without recent arrivals of others."""
    return lambda flow: flow.holds() == 0 or not arrivals.others_than(flow, now)


def holds_little(limit: int) -> FlowFilter:
    """Allows flows that hold less than half of the slots."""
    return lambda flow: 2 * flow.holds() < limit
