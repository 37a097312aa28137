"""A gate at one instant: its statistics, and the state that a forecast starts from."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from admission.arrivals import ArrivalsState
from admission.fair_queue import FlowSnapshot
from admission.own_limits import OwnLimitsSnapshot
from admission.reserve import ReserveState
from admission.semaphores import SemaphoreSnapshot


@dataclass(frozen=True, slots=True)
class StallStats:
    """Whether the upstream is stalled, when the last stall was noted and when it ended (Unix times), and how many
    creations are in doubt."""

    is_on: bool = False
    stalled_at: float | None = None
    back_at: float | None = None
    in_doubt: int = 0


@dataclass(frozen=True, slots=True)
class GateStats:
    """The gate at one instant. `paused_seconds` is the time until the last pause ends. `booting` predictions hold a
    slot and may still wait for their version to boot."""

    concurrent_limit: int
    current_concurrent: int
    waiting: int
    requests_per_minute_limit: int
    current_rate_per_minute: int
    paused_seconds: float
    stall: StallStats = StallStats()
    booting: int = 0

    @property
    def available_slots(self) -> int:
        return max(0, self.concurrent_limit - self.current_concurrent)


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
        semaphores: The named semaphores.
        boots: How long predictions of each version usually wait for their start, in seconds.
        own_limits: The own limits of callers with tickets or taken places.
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
    semaphores: tuple[SemaphoreSnapshot, ...] = ()
    boots: dict[str, float] = field(default_factory=dict)
    own_limits: dict[str, OwnLimitsSnapshot] = field(default_factory=dict)

    def shifted(self, by: float) -> "GateSnapshot":
        """The same by another clock, which is ahead by so many seconds."""

        def moments(every: Iterable[float]) -> tuple[float, ...]:
            return tuple([each + by for each in every])

        reserve, arrivals = self.reserve, self.arrivals
        return replace(
            self,
            now=self.now + by,
            places=moments(self.places),
            unproven=moments(self.unproven),
            stalled_until=self.stalled_until + by,
            paused_until={caller: until + by for caller, until in self.paused_until.items()},
            reserve=replace(
                reserve,
                places=moments(reserve.places),
                single_places=moments(reserve.single_places),
                paced_until=reserve.paced_until + by,
            ),
            arrivals=replace(
                arrivals,
                latest_until=arrivals.latest_until + by,
                other_until=arrivals.other_until + by,
                singles_until=arrivals.singles_until + by,
            ),
            semaphores=tuple(replace(each, lease_ends=moments(each.lease_ends)) for each in self.semaphores),
            own_limits={
                caller: replace(own, places=moments(own.places)) for caller, own in self.own_limits.items()
            },
        )
