"""The state of a policy that a forecast starts from."""

import math
from dataclasses import dataclass

from admission.arrivals import ArrivalsState
from admission.fair_queue import FlowSnapshot
from admission.reserve import ReserveState


@dataclass(frozen=True, slots=True)
class GateSnapshot:
    """All that decides when a new ticket is admitted. Moments are by the gate's clock.

    Attributes:
        places: When each taken place is free again; infinity if it has no answer yet.
        reserve: The state of the reserve.
        arrivals: The recent arrivals.
        held: How long recently released slots were held, in seconds.
        paused_until: The paused callers, and when each pause ends.
        flows: How many tickets of each flow wait and run.
        unproven: As `places`, but only those of unproven callers.
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
    flows: tuple[FlowSnapshot, ...]
    unproven: tuple[float, ...] = ()
    stalled_until: float = -math.inf
