"""Named semaphores: further limits, each on the work that names it.

A ticket whose flow names a semaphore needs a *permit* of it beside its slot and its place. All three are taken at the
same moment, so no ticket holds one while it waits for another. The permit is free again with the slot.

A flow that gets no permit is *parked*: it leaves the turns with its start tag, and returns when there is a permit. So
no other flow waits behind it, and it loses no turn.

Other services take permits as *leases*, which expire. They do not wait here: a refused service tries again later. Each
side could starve the other, so they take turns: after a permit for one side, one free permit is kept for the other if
that one wants it, for at most `KEPT` seconds.

As everywhere in this package, `now` is an argument, in seconds of any monotonic clock.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

KEPT: Final = 30.0
"""Seconds for which a free permit is kept for the other side."""

LONGEST_RETRY: Final = 25.0
"""Seconds. A refused service that tries again by then finds the permit that was kept for it."""


@dataclass(frozen=True, slots=True)
class SemaphoreSnapshot:
    """A semaphore at one instant. `held` and `waiting` count tickets; `lease_ends` are the moments at which the leases
    of other services expire."""

    id: str
    limit: int
    held: int
    waiting: int
    lease_ends: tuple[float, ...]

    @property
    def in_use(self) -> int:
        return self.held + len(self.lease_ends)


class Semaphore:
    """At most `limit` permits: `held` by tickets, or leased to other services. `waiting` counts the tickets that wait
    and name it. More than `limit` may be in use after the limit was lowered, and after a restart."""

    def __init__(self, semaphore_id: str, limit: int, closed: "set[Semaphore]") -> None:
        self.id = semaphore_id
        self.limit = limit
        self.held = 0
        self.waiting = 0
        self.leases: dict[str, float] = {}
        self.parked: dict[Any, Callable[[], None]] = {}
        """Flows that got no permit, and how each returns to its turns."""
        self._closed = closed
        self._leases_next = False
        self._wanted_until = -math.inf
        """Until then a service that was refused is expected back."""
        self._kept_until: float | None = None
        """Until then a free permit is kept for tickets."""

    @property
    def free(self) -> int:
        """Permits that are not in use; negative after the limit was lowered."""
        return self.limit - self.held - len(self.leases)

    def room(self, now: float) -> int:
        """How many permits tickets may take now."""
        return self.free - (self._leases_next and now < self._wanted_until)

    def take(self, count: int) -> None:
        """Give permits to so many waiting tickets."""
        self.waiting -= count
        self.held += count
        self._leases_next = True
        self._kept_until = None

    def lease(self, lease: str, until: float, now: float) -> bool:
        """Give a permit to another service until a moment. False if there is none for it now."""
        if self.free <= 0 or (self.free == 1 and self._is_kept_for_tickets(now)):
            self._wanted_until = now + KEPT
            return False
        self.leases[lease] = until
        self._leases_next = False
        self._kept_until = None
        return True

    def park(self, flow: Any, put_back: Callable[[], None]) -> None:
        """Keep a flow out of its turns until there is a permit for it."""
        self.parked[flow] = put_back
        self._closed.add(self)

    def unpark(self) -> None:
        """Let all parked flows return to their turns."""
        self._closed.discard(self)
        parked, self.parked = self.parked, {}
        for put_back in parked.values():
            put_back()

    def next_chance(self, now: float) -> float:
        """When time alone gives a permit to tickets: the end of the time for which one is kept."""
        return self._wanted_until if self.free > 0 and self._wanted_until > now else math.inf

    def retry_after(self, now: float, *, mean_held: float) -> float:
        """The estimated seconds until another service may get a permit, at most `LONGEST_RETRY`. Tickets hold a permit
        for `mean_held` seconds on average. Leases are expected to end when they expire."""
        ends = [max(0.0, until - now) for until in self.leases.values()]
        ends += [mean_held / self.held] if self.held else []
        turns = 1 if self._leases_next or not self.waiting else 2
        return min(turns * min(ends, default=0.0), LONGEST_RETRY)

    def snapshot(self) -> SemaphoreSnapshot:
        return SemaphoreSnapshot(self.id, self.limit, self.held, self.waiting, tuple(self.leases.values()))

    def _is_kept_for_tickets(self, now: float) -> bool:
        """Whether the last free permit is kept for tickets. The time for that begins when it is first refused."""
        if self._leases_next or not self.waiting:
            return False
        if self._kept_until is None:
            self._kept_until = now + KEPT
        return now < self._kept_until


class Semaphores:
    """All semaphores by id. `closed` are those that have parked flows."""

    def __init__(self) -> None:
        self._by_id: dict[str, Semaphore] = {}
        self.closed: set[Semaphore] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Semaphore]:
        return iter(self._by_id.values())

    def find(self, semaphore_id: str | None) -> Semaphore | None:
        """The semaphore with this id, if there is one."""
        return None if semaphore_id is None else self._by_id.get(semaphore_id)

    def set_limit(self, semaphore_id: str, limit: int) -> None:
        """Create a semaphore, or change its limit. A lower limit takes no permit back. Raises ValueError."""
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        if (found := self._by_id.get(semaphore_id)) is not None:
            found.limit = limit
        else:
            self._by_id[semaphore_id] = Semaphore(semaphore_id, limit, self.closed)

    def remove(self, semaphore_id: str) -> None:
        """Forget a semaphore that is not in use, and for which no ticket waits."""
        self._by_id.pop(semaphore_id, None)

    def unpark(self, now: float) -> None:
        """Let flows return to their turns if there is a permit for them."""
        for semaphore in [each for each in self.closed if each.room(now) > 0]:
            semaphore.unpark()

    def next_chance(self, now: float) -> float:
        """When time alone gives a permit to a parked flow."""
        return min((each.next_chance(now) for each in self.closed), default=math.inf)

    def waited_for(self, semaphore_id: str | None = None) -> tuple[SemaphoreSnapshot, ...]:
        """The semaphores for which tickets wait, and the one with this id."""
        return tuple(each.snapshot() for each in self if each.waiting or each.id == semaphore_id)
