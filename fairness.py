"""Whose turn it is: callers take turns, then each caller's batches (start-time fair queueing).

Each turn has a start tag: the end of the party's last turn, or the queue's present turn if that is later.
The smallest tag goes next. So whoever was away has saved nothing up, whoever comes back again and again
gets one turn a round like everybody else, and nobody starves. Goyal, Vin and Cheng, "Start-time Fair
Queueing", SIGCOMM 1996, here with equal weights and turns of length one.

Putting in, taking out and leaving cost O(log n) in those who wait. Whoever takes turns but may not go now (a
paused account, a batch at its own bound, a batch while the window is paced) is stepped over: O(log n) for each
of those, and there are few.
"""

import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Any, Generic, TypeVar

Waiter = Hashable
T = TypeVar("T")


class Party(ABC):
    """Someone who takes turns. Its length says how many wait behind it."""

    turn_end = 0
    lined_up = False

    @abstractmethod
    def __len__(self) -> int: ...


P = TypeVar("P", bound=Party)


class Turns(Generic[P]):
    """Parties in the order of their start tags."""

    def __init__(self) -> None:
        self._line: list[tuple[int, int, P]] = []
        self._arrivals = count()
        self.turn = 0

    def line_up(self, party: P) -> None:
        if not party.lined_up:
            party.lined_up = True
            start = max(self.turn, party.turn_end)
            heappush(self._line, (start, next(self._arrivals), party))

    def take(self, attempt: Callable[[P], T | None]) -> T | None:
        """What the first party gives that gives anything; its turn is then used up."""
        stepped_over: list[tuple[int, int, P]] = []
        taken = None
        while self._line and taken is None:
            start, arrival, party = heappop(self._line)
            taken = attempt(party)
            if taken is None and len(party):
                stepped_over.append((start, arrival, party))
                continue
            party.lined_up = False
            if taken is not None:
                self.turn = max(self.turn, start)
                party.turn_end = start + 1
                if len(party):
                    self.line_up(party)
        for start, arrival, party in stepped_over:
            # Being held back saves no turns up.
            heappush(self._line, (max(start, self.turn), arrival, party))
        if taken is not None and not self._line:
            self.turn += 1  # nobody waits: whoever comes next starts even with everybody else
        return taken


class Flow(Party):
    """One batch of one caller, or (`batch` is None) the caller's single calls: first come, first served."""

    def __init__(self, owner: "_Caller", batch: str | None) -> None:
        self.owner = owner
        self.batch = batch
        self.max_concurrent = math.inf
        self.in_flight = 0
        self.waiting: OrderedDict[Waiter, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.waiting)

    def is_busy(self) -> bool:
        return bool(self.waiting) or self.in_flight > 0

    def admitted(self, lease: object) -> None:
        self.in_flight += 1
        if self.owner.cautious:
            self.owner.probe = lease

    def adopted(self) -> None:
        """What was in flight before this process went before any pause that is known here, and proves nothing of it."""
        self.in_flight += 1

    def released(self, lease: object) -> None:
        self.in_flight -= 1
        if self.owner.probe is lease:
            self.owner.probe = None


class _Caller(Party):
    def __init__(self) -> None:
        self.turns: Turns[Flow] = Turns()
        self.flows: dict[str | None, Flow] = {}
        self.waiting = 0
        self.paused_until = -math.inf
        self.cautious = False
        self.probe: object | None = None
        """The one that went since the pause. The next goes when it is known what became of it."""

    def __len__(self) -> int:
        return self.waiting

    def is_held_back(self, now: float) -> bool:
        return now < self.paused_until or self.probe is not None

    def is_idle(self) -> bool:
        return not self.waiting and not any(map(Flow.is_busy, self.flows.values()))

    def flow(self, batch: str | None) -> Flow:
        found = self.flows.get(batch)
        if found is None:
            # A batch comes once: forget those that are done when the next one comes.
            self.flows = {name: flow for name, flow in self.flows.items() if flow.is_busy()}
            found = self.flows[batch] = Flow(self, batch)
        return found


@dataclass(frozen=True, slots=True)
class Line:
    """What waits and runs of one batch, or (not `batched`) of one caller's single calls."""

    caller: str
    batched: bool
    waiting: int
    in_flight: int
    max_concurrent: float


class FairQueue:
    """Waiters (any hashable), each behind its caller and its batch."""

    def __init__(self) -> None:
        self._turns: Turns[_Caller] = Turns()
        self._callers: dict[str, _Caller] = {}
        self._flow_of: dict[Waiter, Flow] = {}
        self._paused: set[_Caller] = set()
        self._tidy_at = 64
        self.batched = 0
        """How many of those who wait belong to batches."""

    def __len__(self) -> int:
        return len(self._flow_of)

    def push(
        self, waiter: Waiter, caller: str, batch: str | None = None, max_concurrent: int | None = None
    ) -> None:
        flow = self.flow(caller, batch, max_concurrent)
        owner = flow.owner
        flow.waiting[waiter] = None
        owner.waiting += 1
        self._flow_of[waiter] = flow
        self.batched += batch is not None
        owner.turns.line_up(flow)
        self._turns.line_up(owner)

    def flow(self, caller: str, batch: str | None, max_concurrent: int | None) -> Flow:
        """A batch, or the single calls, of a caller."""
        flow = self._caller(caller).flow(batch)
        if max_concurrent is not None:
            flow.max_concurrent = max_concurrent
        return flow

    def place(self, caller: str, batch: str | None, behind: int) -> int:
        """Which in line one is, if all turns from now on are equal, with so many of its own flow before it."""
        owner = self._caller(caller)
        own = behind + 1
        turns = own + sum(min(len(flow), own) for name, flow in owner.flows.items() if name != batch)
        others = (each for each in self._callers.values() if each is not owner)
        return turns + sum(min(len(each), turns) for each in others)

    def discard(self, waiter: Waiter) -> None:
        """Forget a waiter; one that is not here is no error."""
        flow = self._flow_of.pop(waiter, None)
        if flow is not None:
            del flow.waiting[waiter]
            flow.owner.waiting -= 1
            self.batched -= flow.batch is not None

    def take(self, now: float, *, batches: bool = True) -> tuple[Any, Flow] | None:
        """The next waiter that may go and its flow, or None. Without `batches`, single calls only."""

        def from_flow(flow: Flow) -> tuple[Waiter, Flow] | None:
            held_back = flow.in_flight >= flow.max_concurrent or (flow.batch is not None and not batches)
            if held_back or not flow:
                return None
            waiter = next(iter(flow.waiting))
            self.discard(waiter)
            return waiter, flow

        def from_caller(caller: _Caller) -> tuple[Waiter, Flow] | None:
            return None if caller.is_held_back(now) else caller.turns.take(from_flow)

        return self._turns.take(from_caller)

    def pause(self, caller: str, until: float) -> None:
        """Hold a caller back until then, and afterwards let one go at a time."""
        paused = self._caller(caller)
        paused.paused_until = max(paused.paused_until, until)
        paused.cautious = True
        paused.probe = None
        self._paused.add(paused)

    def is_cautious(self, caller: str) -> bool:
        return caller in self._callers and self._callers[caller].cautious

    def proceed(self, caller: str) -> None:
        """End a caller's caution, if one has gone since the pause."""
        cautious = self._caller(caller)
        if cautious.probe is not None:
            cautious.cautious = False
            cautious.probe = None

    def clear(self, caller: str | None = None, batch: str | None = None) -> list[Any]:
        """Take everybody out, or only those of one batch of one caller."""
        waiters = list(self._flow_of if caller is None else self._caller(caller).flow(batch).waiting)
        for waiter in waiters:
            self.discard(waiter)
        return waiters

    def lines(self) -> tuple[Line, ...]:
        """Everybody who waits or runs."""
        return tuple(
            Line(name, flow.batch is not None, len(flow), flow.in_flight, flow.max_concurrent)
            for name, caller in self._callers.items()
            for flow in caller.flows.values()
            if flow.is_busy()
        )

    def paused_until(self) -> dict[str, float]:
        """Until when each caller is held back; most are past."""
        return {name: caller.paused_until for name, caller in self._callers.items()}

    def pause_ends(self, now: float) -> list[float]:
        """When those who are paused may go again, of those who wait."""
        return [caller.paused_until for caller in self._still_paused(now) if caller]

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
            found = self._callers[name] = _Caller()
        return found

    def _tidy(self) -> None:
        """Forget callers who have nothing here, not even a turn that counts against them."""
        self._callers = {
            name: caller
            for name, caller in self._callers.items()
            if not caller.is_idle() or caller.turn_end > self._turns.turn or caller in self._paused
        }
        self._tidy_at = 2 * len(self._callers) + 64
