"""Metered admission at one instant: its statistics, and the state from which a forecast starts, as frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from admission.metered.closing import Closed
from admission.metered.demand import Demand
from admission.metered.limits import MeteredLimits
from admission.own_limits import OwnLimits
from admission.semaphores import SemaphoreSnapshot

DayCounts: TypeAlias = Sequence[tuple[str, str, int]]
"""How many calls each account has sent to each model in the present day."""


@dataclass(frozen=True, slots=True)
class WindowStats:
    """How much of a window is used, and its limit; None: it has none."""

    used: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class ClosedStats:
    """A refusal of the upstream closed something for so many `seconds` from now. At 0, a probe is to open it. `why` is
    the kind of the limit."""

    seconds: float
    why: str


@dataclass(frozen=True, slots=True)
class LaneStats:
    """One model in one account. `lowered` are the limits that the upstream showed to be lower than was configured."""

    model: str
    in_flight: int
    waiting: int
    requests_per_minute: WindowStats
    tokens_per_minute: WindowStats
    requests_per_day: WindowStats
    closed: ClosedStats | None = None
    lowered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AccountStats:
    """One account. `micro_usd` is its money in ten minutes, reserved or spent."""

    account: str
    concurrent_limit: int
    in_flight: int
    waiting: int
    micro_usd: WindowStats
    lanes: tuple[LaneStats, ...] = ()
    closed: ClosedStats | None = None

    @property
    def available_slots(self) -> int:
        return max(0, self.concurrent_limit - self.in_flight)


@dataclass(frozen=True, slots=True)
class MeteredStats:
    """All accounts together, and how many there are."""

    concurrent_limit: int
    in_flight: int
    waiting: int
    accounts: int


@dataclass(frozen=True, slots=True)
class LaneSnapshot:
    """One model in an account. The windows have the weight that expires at each moment; that of calls without an answer
    at infinity."""

    places: dict[float, int]
    tokens: dict[float, int]
    day: dict[float, int]
    closed: Closed | None = None


@dataclass(frozen=True, slots=True)
class MeteredSnapshot:
    """All that decides when a new ticket of an account is admitted. Moments are by the gate's clock.

    Attributes:
        limits: Those in force, with the lowered ones.
        day_ends: When the present day ends.
        money: As the windows of a `LaneSnapshot`.
        waiting: What waits: the number of tickets of each flow, in the order of their turns, and their mean need.
        running: What each ticket that holds a slot needs.
        held: How long recently released slots were held, in seconds.
        own_limits: The own limits of callers that have tickets.
    """

    now: float
    account: str
    concurrent_limit: int
    limits: MeteredLimits
    day_ends: float
    money: dict[float, int]
    lanes: dict[str, LaneSnapshot]
    waiting: tuple[tuple[Demand, int], ...]
    running: tuple[Demand, ...]
    held: tuple[float, ...]
    closed: Closed | None = None
    semaphores: tuple[SemaphoreSnapshot, ...] = ()
    own_limits: dict[str, OwnLimits] = field(default_factory=dict)
