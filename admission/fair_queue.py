"""The fair queue: callers take turns, and the flows of each caller take turns (start-time fair queueing).

Each turn has a start tag: the end of the party's last turn, or the current turn of the queue if that is later. The
smallest tag goes next. So an absent caller accumulates no turns, a caller who returns again and again gets one turn a
round like the others, and no caller starves. Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996. Every turn
has length one here, except that of `UNPROVEN`.

Adding, taking and discarding cost O(log n) for n waiting parties. A party that may not go now (a paused caller, a batch
at its `max_concurrent`, a batch that waits for the pace) is skipped at a cost of O(log n).
"""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import Any, Final, Generic, TypeAlias, TypeVar

UNPROVEN: Final = "unproven"
"""The name under which all callers without a known account share one caller. It takes one turn where others take
`UNPROVEN_TURN`: however many such callers there are, the others get 95 per cent of what they would get alone."""

UNPROVEN_TURN: Final = 20

Ticket: TypeAlias = Any
"""Identifies one item that waits or runs: any hashable value."""

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


class Party(ABC):
    """A caller or a flow that takes turns. `waiting` is truthy while it has waiting tickets."""

    turn_end = 0
    turn_length = 1
    is_queued = False
    waiting: Any

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
            start = max(self.turn, party.turn_end)
            heappush(self.heap, (start, next(self._arrivals), party))

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
                heapreplace(heap, (party.turn_end, next(self._arrivals), party))
                continue
            heappop(heap)
            if party.waiting:
                skipped.append((start, arrival, party))
            else:
                party.is_queued = False
        for start, arrival, party in skipped:
            heappush(heap, (max(start, self.turn), arrival, party))  # a skipped party accumulates no turns
        if taken is not None and not heap:
            self.turn += 1  # nothing waits: the next parties start equal
        return taken


class Flow(Party):
    """The tickets of one batch, or of the caller's single calls if `batch` is None: first in, first out.
    `was_refused`: a creation was refused since the caller was last unrestricted."""

    def __init__(self, owner: "_Caller", batch: str | None) -> None:
        self.owner = owner
        self.batch = batch
        self.max_concurrent = math.inf
        self.in_flight = 0
        self.was_refused = False
        self.waiting: OrderedDict[Ticket, None] = OrderedDict()

    def take(self, now: float, most: int, allowed: FlowFilter | None) -> Taken | None:  # noqa: ARG002
        owner, waiting = self.owner, self.waiting
        count = min(1 if owner.cautious else most, self.max_concurrent - self.in_flight, len(waiting))
        if count <= 0 or (allowed is not None and not allowed(self)):
            return None
        tickets = [waiting.popitem(last=False)[0] for _ in range(int(count))]
        owner.waiting -= len(tickets)
        owner.in_flight += len(tickets)
        self.in_flight += len(tickets)
        if owner.cautious:
            owner.probe = tickets[0]
        return tickets, self

    def is_busy(self) -> bool:
        return bool(self.waiting) or self.in_flight > 0

    def holds(self) -> int:
        """How many slots count as held by it: for a batch all slots of its caller, for single calls their own."""
        return self.in_flight if self.batch is None else self.owner.in_flight

    def adopted(self) -> None:
        """Count a running ticket that was admitted elsewhere. It was sent before any pause here, so it is no probe."""
        self.in_flight += 1
        self.owner.in_flight += 1

    def released(self, ticket: Ticket) -> None:
        self.in_flight -= 1
        self.owner.in_flight -= 1
        if self.owner.probe == ticket:
            self.owner.probe = None


class _Caller(Party):
    """`cautious`: one ticket at a time is admitted. `probe` is the one whose outcome is not known yet."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.turns: Turns[Flow] = Turns()
        self.flows: dict[str | None, Flow] = {}
        self.waiting: int = 0
        self.in_flight = 0
        self.paused_until = -math.inf
        self.cautious = False
        self.probe: Ticket | None = None

    def take(self, now: float, most: int, allowed: FlowFilter | None) -> Taken | None:
        return None if self.is_held_back(now) else self.turns.take(now, most, allowed)

    def is_held_back(self, now: float) -> bool:
        return now < self.paused_until or self.probe is not None

    def flow(self, batch: str | None) -> Flow:
        found = self.flows.get(batch)
        if found is None:
            # A batch never returns, so a new flow is the moment to forget the finished ones.
            self.flows = {name: flow for name, flow in self.flows.items() if flow.is_busy()}
            found = self.flows[batch] = Flow(self, batch)
        return found


@dataclass(frozen=True, slots=True)
class FlowSnapshot:
    """How many tickets of one flow wait and run."""

    caller: str
    batch: str | None
    waiting: int
    in_flight: int
    max_concurrent: float


class FairQueue:
    """Waiting tickets by caller and flow. `batched` is how many of them belong to batches. `callers` are all who have
    tickets here or are restricted."""

    def __init__(self) -> None:
        self._turns: Turns[_Caller] = Turns()
        self.callers: dict[str, _Caller] = {}
        self._flow_of: dict[Ticket, Flow] = {}
        self._paused: set[_Caller] = set()
        self._tidy_at = 64
        self.batched = 0

    def __len__(self) -> int:
        return len(self._flow_of)

    @property
    def has_unproven(self) -> bool:
        """Whether tickets of `UNPROVEN` wait."""
        unproven = self.callers.get(UNPROVEN)
        return unproven is not None and unproven.waiting > 0

    @property
    def singles(self) -> int:
        """How many waiting tickets are single calls."""
        return len(self._flow_of) - self.batched

    def add(
        self,
        tickets: Iterable[Ticket],
        caller: str,
        batch: str | None = None,
        max_concurrent: float | None = None,
    ) -> None:
        """Add tickets in this order behind those of the same flow."""
        flow = self.flow(caller, batch, max_concurrent)
        owner, before = flow.owner, len(self._flow_of)
        for ticket in tickets:
            flow.waiting[ticket] = None
            self._flow_of[ticket] = flow
        added = len(self._flow_of) - before
        owner.waiting += added
        if batch is not None:
            self.batched += added
        if added:
            owner.turns.add(flow)
            self._turns.add(owner)

    def flow(self, caller: str, batch: str | None, max_concurrent: float | None) -> Flow:
        """A batch of a caller, or its single calls if `batch` is None."""
        flow = self._caller(caller).flow(batch)
        if max_concurrent is not None:
            flow.max_concurrent = max_concurrent
        return flow

    def position(self, caller: str, batch: str | None, ahead: int, *, singles_first: bool = False) -> int:
        """The position in the queue, from 1, of a ticket with `ahead` tickets of its own flow before it, if all later
        turns are equal. With `singles_first`, all single calls go before batches."""
        owner = self.callers.get(caller)
        turns = own = ahead + 1
        if owner is not None and not singles_first:
            turns += sum(min(len(flow.waiting), own) for name, flow in owner.flows.items() if name != batch)
        others = [each for each in self.callers.values() if each is not owner]
        waiting = [each.waiting for each in others]
        if singles_first:
            waiting = [len(each.flows[None].waiting) if None in each.flows else 0 for each in others]
        return turns + sum(min(count, turns) for count in waiting)

    def is_contested(self) -> bool:
        """Whether tickets of several flows wait. May be true while the tickets of only one do."""
        heap = self._turns.heap
        return len(heap) > 1 or (bool(heap) and len(heap[0][2].turns.heap) > 1)

    def discard(self, ticket: Ticket) -> None:
        """Remove a waiting ticket. An unknown ticket is ignored."""
        flow = self._flow_of.pop(ticket, None)
        if flow is not None:
            del flow.waiting[ticket]
            flow.owner.waiting -= 1
            self.batched -= flow.batch is not None

    def take(self, now: float, most: int = 1, allowed: FlowFilter | None = None) -> Taken | None:
        """Take the next ticket of an allowed flow, or up to `most` if only this flow waits. The tickets are in flight
        until `Flow.released`. None if no ticket may go."""
        taken = self._turns.take(now, most, allowed)
        if taken is not None:
            tickets, flow = taken
            for ticket in tickets:
                del self._flow_of[ticket]
            if flow.batch is not None:
                self.batched -= len(tickets)
        return taken

    def pause(self, caller: str, until: float) -> None:
        """Admit nothing of this caller until the moment `until`, then one ticket at a time until `proceed`."""
        paused = self._caller(caller)
        paused.paused_until = max(paused.paused_until, until)
        paused.cautious = True
        paused.probe = None
        self._paused.add(paused)

    def slow_down(self, caller: str) -> None:
        """Admit one ticket of this caller at a time until `proceed`. Tickets in flight do not count."""
        self._caller(caller).cautious = True

    def refuse(self, caller: str, batch: str | None) -> bool:
        """A creation of this batch was refused. Returns whether it was the second since the caller was unrestricted."""
        flow = self.flow(caller, batch, None)
        before, flow.was_refused = flow.was_refused, True
        return before

    def proceed(self, caller: str, *, unless_until: float = -math.inf) -> None:
        """End the caution of a caller if a ticket was admitted since the pause. With `unless_until`, pause a cautious
        caller until that moment instead."""
        cautious = self.callers.get(caller)
        if cautious is None or not cautious.cautious:
            return
        if unless_until > -math.inf:
            self.pause(caller, unless_until)
        elif cautious.probe is not None:
            cautious.cautious = False
            cautious.probe = None
            for flow in cautious.flows.values():
                flow.was_refused = False

    def clear(self, caller: str | None = None, batch: str | None = None) -> list[Ticket]:
        """Remove all waiting tickets, or those of one batch of one caller. Returns them."""
        tickets = list(self._flow_of if caller is None else self._caller(caller).flow(batch).waiting)
        for ticket in tickets:
            self.discard(ticket)
        return tickets

    def in_flight(self, caller: str) -> int:
        """How many tickets of a caller are in flight."""
        found = self.callers.get(caller)
        return found.in_flight if found else 0

    def snapshot(self) -> tuple[FlowSnapshot, ...]:
        """Every flow with tickets that wait or run."""
        return tuple(
            FlowSnapshot(name, flow.batch, len(flow.waiting), flow.in_flight, flow.max_concurrent)
            for name, caller in self.callers.items()
            for flow in caller.flows.values()
            if flow.is_busy()
        )

    def paused_until(self, now: float) -> dict[str, float]:
        """The paused callers, and when each pause ends."""
        return {
            name: caller.paused_until for name, caller in self.callers.items() if caller.paused_until > now
        }

    def next_pause_end(self, now: float) -> float:
        """When the first pause of a caller with waiting tickets ends; infinity if there is none."""
        if not self._paused:
            return math.inf
        paused = self._still_paused(now)
        return min((caller.paused_until for caller in paused if caller.waiting), default=math.inf)

    def longest_pause(self, now: float) -> float:
        """Seconds until the last pause ends."""
        return max((caller.paused_until - now for caller in self._still_paused(now)), default=0.0)

    def _still_paused(self, now: float) -> set[_Caller]:
        self._paused = {caller for caller in self._paused if caller.paused_until > now}
        return self._paused

    def _caller(self, name: str) -> _Caller:
        found = self.callers.get(name)
        if found is None:
            if len(self.callers) >= self._tidy_at:
                self._tidy()
            found = self.callers[name] = _Caller(name)
            found.turn_length = UNPROVEN_TURN if name == UNPROVEN else 1
        return found

    def _tidy(self) -> None:
        """Forget callers that have no tickets, no pause, and no turn that ends later than the current one."""
        self.callers = {
            name: caller
            for name, caller in self.callers.items()
            if caller.waiting
            or caller.in_flight
            or caller.turn_end > self._turns.turn
            or caller in self._paused
        }
        self._tidy_at = 2 * len(self.callers) + 64


def room(limit: int, *, waiting: int, own: int) -> int:
    """How many more tickets a caller may add, if at most `limit` may wait, `waiting` do, and `own` of them are the
    caller's. The last quarter is for callers who then have at most a quarter, so one caller cannot fill the queue."""
    quarter = limit // 4
    return max(0, limit - quarter - waiting, min(quarter - own, limit - waiting))
