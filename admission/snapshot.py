"""The state of a policy, as another one takes it over to forecast from."""

import math
from dataclasses import dataclass

from admission.arrivals import ArrivalsState
from admission.fair_queue import Line
from admission.reserve import ReserveState


@dataclass(frozen=True, slots=True)
class GateSnapshot:
    """All that decides when a newcomer is admitted. Moments are by the gate's clock.

    Attributes:
        places: When each place taken is free again; infinity without an answer.
        reserve: The reserve, and who took places from it.
        arrivals: Who came lately.
        held: How long slots were held lately, in seconds.
        paused_until: The callers who are paused now.
        lines: The waiting and running tickets.
        unproven: As `places`, for those that unproven callers took.
        stalled_until: When a stall of the upstream is expected to end; -infinity without one.
    """

    now: float
    concurrent_limit: int
    requests_per_minute: int
    places: tuple[float, ...]
    reserve: ReserveState
    arrivals: ArrivalsState
    held: tuple[float, ...]
    paused_until: dict[str, float]
    lines: tuple[Line, ...]
    unproven: tuple[float, ...] = ()
    stalled_until: float = -math.inf
