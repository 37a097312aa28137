"""Callers and their flows, which take turns: start-time fair queueing.

Each turn has a start tag: the end of the party's last turn, or the current turn of the queue if that is later. The
smallest tag goes next. So an absent caller accumulates no turns, a caller who returns again and again gets one turn a
round like the others, and no caller starves. Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996. Every turn
has length one here, except that of `UNPROVEN`.

A party that may not go now (a paused caller, a batch at its `max_concurrent`, a batch that waits for the pace, a flow
of which every ticket waits for the room of a boot) is skipped at a cost of O(log n). A flow whose semaphore is full is
parked there (`semaphores.py`) at no cost, and so is a caller at its own limits (`own_limits.py`).
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from admission.boots import Boot, BootSnapshot, Line, Ticket
from admission.own_limits import UNLIMITED, OwnLimits, Parked
from admission.semaphores import Semaphore
from admission.sliding_window import SlidingWindow

UNPROVEN: Final = "unproven"
"""The name under which all callers without a known account share one caller. It takes one turn where others take
`UNPROVEN_TURN`: however many such callers there are, the others get 95 per cent of what they would get alone."""

UNPROVEN_TURN: Final = 20

_SINGLES: Final = (None, UNPROVEN)
"""The batches under which single calls are queued. Only they may name different semaphores."""

FlowKey: TypeAlias = str | tuple[str | None, Semaphore] | None
"""A batch, or the single calls that name a semaphore, or all others."""

FlowFilter: TypeAlias = Callable[["Flow"], bool]
"""Whether the next ticket of a flow may go. None in its place allows every flow."""


def is_single(flow: "Flow") -> bool:
    """Allows single calls and no batch."""
    return flow.batch is None


def all_of(*filters: FlowFilter | None) -> FlowFilter | None:
    """Allows a flow if each of the filters does."""
    strict = [allows for allows in filters if allows is not None]
    if len(strict) < 2:
        return strict[0] if strict else None
    return lambda flow: all(allows(flow) for allows in strict)


Taken: TypeAlias = tuple[list[Ticket], "Flow"]
"""The taken tickets, in order, and their flow."""


class Lot(Protocol):
    """Where a party is parked: a semaphore, or `Parked`."""

    def park(self, party: Any, put_back: Callable[[], None], /) -> None: ...


class Party(ABC):
    """A caller or a flow that takes turns. `waiting` is truthy while it has waiting tickets. `start` is the tag of one
    that is queued. Of parties with the same tag, the one of the lowest `arrival` goes first."""

    turn_end = 0
    turn_length = 1
    is_queued = False
    start = 0
    arrival = 0
    waiting: Any

    @abstractmethod
    def closed(self, now: float) -> Lot | None:
        """Where this party is to be parked, since it has no permit or no room now; None if it has."""

    @abstractmethod
    def take(self, now: float, most: int, allowed: FlowFilter | None) -> "Taken | None":
        """The next tickets of an allowed flow, at most `most`, and the flow; None if no ticket may go."""


P = TypeVar("P", bound=Party)


class Turns(Generic[P]):
    """Parties in the order of their start tags."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, int, P]] = []
        self._arrivals = count()
        self.turn = 0

    def add(self, party: P) -> None:
        if not party.is_queued:
            party.is_queued = True
            self._push(max(self.turn, party.turn_end), next(self._arrivals), party)

    def place(self, party: P) -> tuple[int, float]:
        """How many turns after the current one the next turn of a party starts, and its order among equals."""
        if not party.is_queued:
            return max(0, party.turn_end - self.turn), math.inf
        return max(0, party.start - self.turn), party.arrival

    def restore(self, starts: Iterable[tuple[P, int]]) -> None:
        """Let the next turn of each of these parties start so many turns after the current one, in this order among
        equals, and before all others that do."""
        parties = dict(starts)
        others = [entry for entry in self.heap if entry[2] not in parties]
        self.heap = []
        for party, start in parties.items():
            party.turn_end = self.turn + start
            if party.is_queued:
                self._push(party.turn_end, next(self._arrivals), party)
        for start, _, party in sorted(others, key=lambda entry: entry[:2]):
            self._push(start, next(self._arrivals), party)

    def take(self, now: float, most: int, allowed: FlowFilter | None) -> Taken | None:
        """The next ticket of the first party that may go, and its flow. This uses up the party's turn. A party that
        waits alone may use up several turns at once, at most `most`."""
        heap = self.heap
        skipped: list[tuple[int, int, P]] = []
        taken = None
        while heap and taken is None:
            start, arrival, party = heap[0]
            taken = party.take(now, most if len(heap) == 1 and not skipped else 1, allowed)
            if taken is not None:
                party.turn_end = start + len(taken[0]) * party.turn_length
                self.turn = max(self.turn, party.turn_end - party.turn_length)
            if taken is not None and party.waiting:
                party.start, party.arrival = party.turn_end, next(self._arrivals)
                heapreplace(heap, (party.start, party.arrival, party))
                continue
            heappop(heap)
            if not party.waiting:
                party.is_queued = False
            elif (lot := party.closed(now)) is not None:
                lot.park(party, partial(self._put_back, start, arrival, party))
            else:
                skipped.append((start, arrival, party))
        for each in skipped:
            self._put_back(*each)
        if taken is not None and not heap:
            self.turn += 1  # nothing waits: the next parties start equal
        return taken

    def _put_back(self, start: int, arrival: int, party: P) -> None:
        """Return a party that could not go. It keeps its turn, but accumulates none."""
        self._push(max(start, self.turn), arrival, party)

    def _push(self, start: int, arrival: int, party: P) -> None:
        party.start, party.arrival = start, arrival
        heappush(self.heap, (start, arrival, party))


class Flow(Party):
    """The tickets of one batch, or of the caller's single calls with the same `semaphore` if `batch` is None: first in,
    first out, as `Line` has it. `was_refused`: a creation was refused since the caller was last unrestricted."""

    def __init__(self, owner: "Caller", batch: str | None, semaphore: Semaphore | None) -> None:
        self.owner = owner
        self.batch = batch
        self.semaphore = semaphore
        self.max_concurrent = math.inf
        self.in_flight = 0
        self.was_refused = False
        self.waiting = Line()
        self._booting: dict[Ticket, Boot] = {}
        """Its admitted tickets that have not started."""

    def closed(self, now: float) -> Semaphore | None:
        return self.semaphore if self.semaphore is not None and self.semaphore.room(now) <= 0 else None

    def take(self, now: float, most: int, allowed: FlowFilter | None) -> Taken | None:
        owner, waiting = self.owner, self.waiting
        count = min(1 if owner.cautious else most, self.max_concurrent - self.in_flight, len(waiting))
        if self.semaphore is not None:
            count = min(count, self.semaphore.room(now))
        if count <= 0 or (allowed is not None and not allowed(self)):
            return None
        tickets, booting = waiting.take(int(count))
        if not tickets:
            return None
        self._booting.update(booting)
        owner.waiting -= len(tickets)
        self._hold(len(tickets))
        if self.semaphore is not None:
            self.semaphore.take(len(tickets))
        if owner.cautious:
            owner.probe = tickets[0]
        return tickets, self

    def is_busy(self) -> bool:
        return bool(self.waiting) or self.in_flight > 0

    def holds(self) -> int:
        """How many slots count as held by it: for a batch all slots of its caller, for single calls those of all single
        calls of the caller."""
        return self.owner.singles_in_flight if self.batch is None else self.owner.in_flight

    def adopted(self, ticket: Ticket, boot: Boot | None = None) -> None:
        """Count a running ticket that was admitted elsewhere. It was sent before any pause here, so it is no probe."""
        self._hold(1)
        if self.semaphore is not None:
            self.semaphore.held += 1
        if boot is not None:
            boot.booting += 1
            self._booting[ticket] = boot

    def started(self, ticket: Ticket) -> Boot | None:
        """A ticket has started, or has ended without: it leaves its room to others. None if it had none."""
        boot = self._booting.pop(ticket, None)
        if boot is not None:
            boot.booting -= 1
        return boot

    def released(self, ticket: Ticket) -> None:
        if self._booting:
            self.started(ticket)
        self._hold(-1)
        if self.semaphore is not None:
            self.semaphore.held -= 1
        if self.owner.probe == ticket:
            self.owner.probe = None

    def boots(self) -> tuple[BootSnapshot, ...]:
        """Its tickets that may boot, by version."""
        waiting = self.waiting.of_versions()
        booting = Counter(boot.version for boot in self._booting.values())
        return tuple(BootSnapshot(each, waiting[each], booting[each]) for each in waiting | booting)

    def _hold(self, more: int) -> None:
        self.in_flight += more
        self.owner.in_flight += more
        if self.batch is None:
            self.owner.singles_in_flight += more


class Caller(Party):
    """`cautious`: one ticket at a time is admitted. `probe` is the one whose outcome is not known yet. `batched` is how
    many waiting tickets belong to batches. `parked` takes callers that are at their own limits; a caller with a limit
    of admissions has a `window` for it."""

    def __init__(self, name: str, parked: Parked) -> None:
        self.name = name
        self._parked = parked
        self.limits = UNLIMITED
        self.window: SlidingWindow | None = None
        self.turns: Turns[Flow] = Turns()
        self.flows: dict[FlowKey, Flow] = {}
        self.waiting: int = 0
        self.batched = 0
        self.in_flight = 0
        self.singles_in_flight = 0
        self.paused_until = -math.inf
        self.cautious = False
        self.probe: Ticket | None = None

    def take(self, now: float, most: int, allowed: FlowFilter | None) -> Taken | None:
        room = self.room(now)
        if room <= 0 or self.is_held_back(now):
            return None
        return self.turns.take(now, int(min(most, room)), allowed)

    @property
    def singles(self) -> int:
        """How many waiting tickets are single calls."""
        return self.waiting - self.batched

    def is_held_back(self, now: float) -> bool:
        return now < self.paused_until or self.probe is not None

    def closed(self, now: float) -> Parked | None:
        return self._parked if self.room(now) <= 0 else None

    def limit(self, limits: OwnLimits) -> None:
        """Change its own limits. Running tickets continue, and taken places count still."""
        self.limits = limits
        if limits.per_minute is None:
            self.window = None
        elif self.window is None:
            self.window = SlidingWindow(limits.per_minute)
        else:
            self.window.limit = limits.per_minute

    def room(self, now: float) -> float:
        """How many tickets its own limits let go now; negative after a limit was lowered."""
        most = self.limits.max_concurrent
        room = math.inf if most is None else most - self.in_flight
        return room if self.window is None else min(room, self.window.free(now))

    def places(self, now: float) -> tuple[float, ...]:
        """When each place of its own window is free again: see `SlidingWindow.free_at`."""
        if self.window is None or self.window.used(now) <= 0:
            return ()
        return self.window.free_at()

    def next_room(self) -> float:
        """If it has no room now: the moment at which time alone may give it some; infinity: never."""
        most = self.limits.max_concurrent
        if self.window is None or not self.waiting or (most is not None and self.in_flight >= most):
            return math.inf
        return self.window.next_expiry()

    def flow(self, batch: str | None, semaphore: Semaphore | None) -> Flow:
        key: FlowKey = batch if semaphore is None or batch not in _SINGLES else (batch, semaphore)
        found = self.flows.get(key)
        if found is None:
            # A batch never returns, so a new flow is the moment to forget the finished ones.
            self.flows = {name: flow for name, flow in self.flows.items() if flow.is_busy()}
            found = self.flows[key] = Flow(self, batch, semaphore)
        elif semaphore is not None and not found.is_busy():
            found.semaphore = semaphore  # `FairQueue.refuse` finds a batch by its name alone
        return found
