"""Whose turn it is: callers take turns, then each caller's batches (start-time fair queueing).

Each turn has a start tag: the end of the party's last turn, or the queue's present turn if that is later.
The smallest tag goes next. So an absent caller saves no turns up, a caller who returns again and again gets one turn a
round like all others, and none starves. Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996, here with
turns of length one, but for the callers that are not known (`UNPROVEN`).

Adding, taking and discarding cost O(log n) for n waiting parties. A party that may not go now (a paused account, a
batch at its own bound, a batch while the window is paced) is stepped over. That costs O(log n) for each, and there are
few.
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
"""The caller that stands for all callers whose accounts are not known. It takes one turn where others take
`UNPROVEN_TURN`: however many of them there are, those who are known get 95 per cent of what they would get alone."""

UNPROVEN_TURN: Final = 20

Ticket: TypeAlias = Any
"""Identifies one item that waits or runs: any hashable value."""


MayGo: TypeAlias = Callable[["Flow"], bool]
"""Whether the next ticket of a flow may go. None instead of it lets all go."""


def is_single(flow: "Flow") -> bool:
    """Lets single calls go, and no batch."""
    return flow.batch is None


def all_of(*rules: MayGo | None) -> MayGo | None:
    """Lets a flow go if each of the rules does."""
    strict = [rule for rule in rules if rule is not None]
    if len(strict) < 2:
        return strict[0] if strict else None
    return lambda flow: all(rule(flow) for rule in strict)


Taken: TypeAlias = tuple[list[Ticket], "Flow"]
"""Tickets that were taken, in order, and their flow."""


class Party(ABC):
    """A caller or a batch that takes turns. `waiting` is truthy while tickets of it wait."""

    turn_end = 0
    turn_length = 1
    lined_up = False
    waiting: Any

    @abstractmethod
    def take(self, now: float, most: int, may_go: MayGo | None) -> "Taken | None":
        """The next tickets of a flow that may go, at most so many, and the flow, or None."""


P = TypeVar("P", bound=Party)


class Turns(Generic[P]):
    """Parties in the order of their start tags."""

    def __init__(self) -> None:
        self.line: list[tuple[int, int, P]] = []
        self._arrivals = count()
        self.turn = 0

    def line_up(self, party: P) -> None:
        if not party.lined_up:
            party.lined_up = True
            start = max(self.turn, party.turn_end)
            heappush(self.line, (start, next(self._arrivals), party))

    def take(self, now: float, most: int, may_go: MayGo | None) -> Taken | None:
        """The ticket of the first party that may give one, with its flow. The party's turn is then used up. A party
        that is alone in line may use up several turns at once, at most so many."""
        line = self.line
        stepped_over: list[tuple[int, int, P]] = []
        taken = None
        while line and taken is None:
            start, arrival, party = line[0]
            taken = party.take(now, most if len(line) == 1 and not stepped_over else 1, may_go)
            if taken is not None:
                party.turn_end = start + len(taken[0]) * party.turn_length
                self.turn = max(self.turn, party.turn_end - party.turn_length)
            if taken is not None and party.waiting:
                heapreplace(line, (party.turn_end, next(self._arrivals), party))
                continue
            heappop(line)
            if party.waiting:
                stepped_over.append((start, arrival, party))
            else:
                party.lined_up = False
        for start, arrival, party in stepped_over:
            # Being held back saves no turns up.
            heappush(line, (max(start, self.turn), arrival, party))
        if taken is not None and not line:
            self.turn += 1  # nothing waits: all parties that come next start even
        return taken


class Flow(Party):
    """One batch of one caller, or (`batch` is None) the caller's single calls: first come, first served."""

    def __init__(self, owner: "_Caller", batch: str | None) -> None:
        self.owner = owner
        self.batch = batch
        self.max_concurrent = math.inf
        self.in_flight = 0
        self.was_refused = False
        """Whether a ticket was refused since the caller's tickets went freely."""
        self.waiting: OrderedDict[Ticket, None] = OrderedDict()

    def take(self, now: float, most: int, may_go: MayGo | None) -> Taken | None:  # noqa: ARG002
        owner, waiting = self.owner, self.waiting
        count = min(1 if owner.cautious else most, self.max_concurrent - self.in_flight, len(waiting))
        if count <= 0 or (may_go is not None and not may_go(self)):
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
        """How many slots count as held by it: for a batch all of its caller, for single calls their own."""
        return self.in_flight if self.batch is None else self.owner.in_flight

    def adopted(self) -> None:
        """A ticket that was admitted elsewhere runs here."""
        self.in_flight += 1
        self.owner.in_flight += 1

    def released(self, ticket: Ticket) -> None:
        self.in_flight -= 1
        self.owner.in_flight -= 1
        if self.owner.probe == ticket:
            self.owner.probe = None


class _Caller(Party):
    def __init__(self, name: str) -> None:
        self.name = name
        self.turns: Turns[Flow] = Turns()
        self.flows: dict[str | None, Flow] = {}
        self.waiting: int = 0
        self.in_flight = 0
        self.paused_until = -math.inf
        self.cautious = False
        self.probe: Ticket | None = None
        """The one ticket admitted since the pause. The next is admitted when the outcome of this one is known."""

    def take(self, now: float, most: int, may_go: MayGo | None) -> Taken | None:
        return None if self.is_held_back(now) else self.turns.take(now, most, may_go)

    @property
    def singles(self) -> int:
        """How many single calls wait."""
        flow = self.flows.get(None)
        return len(flow.waiting) if flow else 0

    def is_held_back(self, now: float) -> bool:
        return now < self.paused_until or self.probe is not None

    def is_idle(self) -> bool:
        return not self.waiting and not self.in_flight

    def flow(self, batch: str | None) -> Flow:
        found = self.flows.get(batch)
        if found is None:
            # No batch comes twice: forget those that are done when a new one comes.
            self.flows = {name: flow for name, flow in self.flows.items() if flow.is_busy()}
            found = self.flows[batch] = Flow(self, batch)
        return found


@dataclass(frozen=True, slots=True)
class Line:
    """How many tickets of one flow wait and run."""

    caller: str
    batch: str | None
    waiting: int
    in_flight: int
    max_concurrent: float


class FairQueue:
    """Tickets, each behind its caller and its batch."""

    def __init__(self) -> None:
        self._turns: Turns[_Caller] = Turns()
        self._callers: dict[str, _Caller] = {}
        self._flow_of: dict[Ticket, Flow] = {}
        self._paused: set[_Caller] = set()
        self._tidy_at = 64
        self.batched = 0
        """How many of the tickets that wait belong to batches."""

    def __len__(self) -> int:
        return len(self._flow_of)

    @property
    def has_unproven(self) -> bool:
        """Whether tickets of unproven callers wait."""
        unproven = self._callers.get(UNPROVEN)
        return unproven is not None and unproven.waiting > 0

    @property
    def singles(self) -> int:
        """How many of the tickets that wait are single calls."""
        return len(self._flow_of) - self.batched

    def add(
        self,
        tickets: Iterable[Ticket],
        caller: str,
        batch: str | None = None,
        max_concurrent: float | None = None,
    ) -> None:
        """Line tickets up in this order, behind those of the same flow."""
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
            owner.turns.line_up(flow)
            self._turns.line_up(owner)

    def flow(self, caller: str, batch: str | None, max_concurrent: float | None) -> Flow:
        """A batch, or the single calls, of a caller."""
        flow = self._caller(caller).flow(batch)
        if max_concurrent is not None:
            flow.max_concurrent = max_concurrent
        return flow

    def place(self, caller: str, batch: str | None, ahead: int, *, singles_first: bool = False) -> int:
        """The place in line, 1 for the next, of a ticket with `ahead` tickets of its own flow before it, if all turns
        from now on are equal, or all single calls go before batches. The ticket itself need not be in the queue yet."""
        owner = self._callers.get(caller)
        turns = own = ahead + 1
        if owner is not None and not singles_first:
            turns += sum(min(len(flow.waiting), own) for name, flow in owner.flows.items() if name != batch)
        others = (each for each in self._callers.values() if each is not owner)
        return turns + sum(min(each.singles if singles_first else each.waiting, turns) for each in others)

    def is_contested(self) -> bool:
        """Whether tickets of more than one flow may wait. False is certain."""
        line = self._turns.line
        return len(line) > 1 or (bool(line) and len(line[0][2].turns.line) > 1)

    def discard(self, ticket: Ticket) -> None:
        """Forget a ticket. One that is not in the queue is ignored."""
        flow = self._flow_of.pop(ticket, None)
        if flow is not None:
            del flow.waiting[ticket]
            flow.owner.waiting -= 1
            self.batched -= flow.batch is not None

    def take(self, now: float, most: int = 1, may_go: MayGo | None = None) -> Taken | None:
        """The next tickets of a flow that may go, and the flow, or None: one ticket, or if all that wait are of this
        flow, at most so many. They are in flight until `Flow.released`."""
        taken = self._turns.take(now, most, may_go)
        if taken is not None:
            tickets, flow = taken
            for ticket in tickets:
                del self._flow_of[ticket]
            if flow.batch is not None:
                self.batched -= len(tickets)
        return taken

    def pause(self, caller: str, until: float) -> None:
        """Hold a caller back until the moment `until`, and afterwards let one ticket go at a time."""
        paused = self._caller(caller)
        paused.paused_until = max(paused.paused_until, until)
        paused.cautious = True
        paused.probe = None
        self._paused.add(paused)

    def slow_down(self, caller: str) -> None:
        """Let one ticket of a caller go at a time from now on. One that went before does not count."""
        self._caller(caller).cautious = True

    def refuse(self, caller: str, batch: str | None) -> bool:
        """A ticket of this batch was refused. True if one was before, since the caller's tickets went freely."""
        flow = self.flow(caller, batch, None)
        before, flow.was_refused = flow.was_refused, True
        return before

    def proceed(self, caller: str, *, unless_until: float = -math.inf) -> None:
        """Let a cautious caller's tickets go freely again, if one has gone since the pause. With `unless_until`, pause
        the caller until that moment instead."""
        cautious = self._callers.get(caller)
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
        """Take all tickets out, or only those of one batch of one caller."""
        tickets = list(self._flow_of if caller is None else self._caller(caller).flow(batch).waiting)
        for ticket in tickets:
            self.discard(ticket)
        return tickets

    def in_flight(self, caller: str) -> int:
        """How many tickets of a caller are in flight."""
        found = self._callers.get(caller)
        return found.in_flight if found else 0

    def lines(self) -> tuple[Line, ...]:
        """Every flow with tickets that wait or run."""
        return tuple(
            Line(name, flow.batch, len(flow.waiting), flow.in_flight, flow.max_concurrent)
            for name, caller in self._callers.items()
            for flow in caller.flows.values()
            if flow.is_busy()
        )

    def paused_until(self, now: float) -> dict[str, float]:
        """The callers that are paused now, and when each pause ends."""
        return {
            name: caller.paused_until for name, caller in self._callers.items() if caller.paused_until > now
        }

    def next_pause_end(self, now: float) -> float:
        """When the first paused caller with tickets that wait may go again; infinity if there is none."""
        if not self._paused:
            return math.inf
        paused = self._still_paused(now)
        return min((caller.paused_until for caller in paused if caller.waiting), default=math.inf)

    def longest_pause(self, now: float) -> float:
        """Seconds until the last paused caller may go again."""
        return max((caller.paused_until - now for caller in self._still_paused(now)), default=0.0)

    def _still_paused(self, now: float) -> set[_Caller]:
        self._paused = {caller for caller in self._paused if caller.paused_until > now}
        return self._paused

    def _caller(self, name: str) -> _Caller:
        found = self._callers.get(name)
        if found is None:
            if len(self._callers) >= self._tidy_at:
                self._tidy()
            found = self._callers[name] = _Caller(name)
            found.turn_length = UNPROVEN_TURN if name == UNPROVEN else 1
        return found

    def _tidy(self) -> None:
        """Forget callers without tickets, pauses, or a used turn that still counts."""
        self._callers = {
            name: caller
            for name, caller in self._callers.items()
            if not caller.is_idle() or caller.turn_end > self._turns.turn or caller in self._paused
        }
        self._tidy_at = 2 * len(self._callers) + 64


def room(limit: int, *, waiting: int, own: int) -> int:
    """How many more tickets a caller may bring, if at most `limit` may wait, `waiting` do, and `own` of them are the
    caller's. The last quarter is for callers who have no more than a quarter with it, so none can fill the queue."""
    quarter = limit // 4
    return max(0, limit - quarter - waiting, min(quarter - own, limit - waiting))
