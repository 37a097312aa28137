"""The fair queue: callers take turns, and the flows of each caller take turns (`flows.py`).

Adding, taking and discarding cost O(log n) for n waiting parties.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby, repeat
from operator import attrgetter

from admission.boots import Boot, BootSnapshot, Ticket
from admission.flows import UNPROVEN, UNPROVEN_TURN, Caller, Flow, FlowFilter, Taken, Turns
from admission.own_limits import UNLIMITED, OwnLimits, OwnLimitsSnapshot, Parked
from admission.semaphores import Semaphore, Semaphores


@dataclass(frozen=True, slots=True)
class FlowSnapshot:
    """How many tickets of one flow wait and run. `boots` are those of them that may have to wait for a boot. `starts`
    is how many turns after the current one the next turn of its caller starts, and how many its own among the flows of
    the caller."""

    caller: str
    batch: str | None
    waiting: int
    in_flight: int
    max_concurrent: float
    semaphore: str | None = None
    boots: tuple[BootSnapshot, ...] = ()
    starts: tuple[int, int] = (0, 0)

    def queued(self) -> list[str | None]:
        """For each waiting ticket the version that it may have to wait for. Their order is not known."""
        versions = [each.version for each in self.boots for _ in range(each.waiting)]
        return [*versions, *repeat(None, self.waiting - len(versions))]

    def running(self) -> list[str | None]:
        """For each running ticket the version that it may wait for still."""
        versions = [each.version for each in self.boots for _ in range(each.booting)]
        return [*repeat(None, self.in_flight - len(versions)), *versions]


class FairQueue:
    """Waiting tickets by caller and flow. `batched` is how many of them belong to batches. `callers` are all who have
    tickets here or are restricted. `limits` are the own limits of callers, also of those without tickets, and `parked`
    are the callers at these limits."""

    def __init__(self) -> None:
        self._turns: Turns[Caller] = Turns()
        self.callers: dict[str, Caller] = {}
        self._flow_of: dict[Ticket, Flow] = {}
        self._paused: set[Caller] = set()
        self.limits: dict[str, OwnLimits] = {}
        self.parked = Parked()
        self._limited: set[Caller] = set()
        """Those of `callers` with own limits."""
        self._now = -math.inf
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
        semaphore: Semaphore | None = None,
        boot: Boot | None = None,
    ) -> None:
        """Add tickets in this order behind those of the same flow."""
        flow = self.flow(caller, batch, max_concurrent, semaphore)
        owner, tickets = flow.owner, list(tickets)
        self._flow_of.update(dict.fromkeys(tickets, flow))
        added = flow.waiting.add(tickets, boot)
        owner.waiting += added
        if batch is not None:
            self.batched += added
            owner.batched += added
        if semaphore is not None:
            semaphore.waiting += added
        if added:
            owner.turns.add(flow)
            self._turns.add(owner)

    def flow(
        self,
        caller: str,
        batch: str | None,
        max_concurrent: float | None,
        semaphore: Semaphore | None = None,
    ) -> Flow:
        """A batch of a caller, or its single calls with this semaphore if `batch` is None."""
        flow = self._caller(caller).flow(batch, semaphore)
        if max_concurrent is not None:
            flow.max_concurrent = max_concurrent
        return flow

    def turns(
        self,
        caller: str,
        batch: str | None,
        ahead: int,
        *,
        singles_first: bool = False,
        semaphore: Semaphore | None = None,
    ) -> int:
        """How many turns of its caller a ticket needs that has `ahead` tickets of its own flow before it, if all later
        turns are equal. With `singles_first`, all single calls go before batches."""
        owner = self.callers.get(caller)
        turns = own = ahead + 1
        if owner is not None and not singles_first:
            turns += sum(
                min(len(flow.waiting), own)
                for flow in owner.flows.values()
                if (flow.batch, flow.semaphore) != (batch, semaphore)
            )
        return turns

    def before(self, caller: str, turns: int, now: float, *, singles_first: bool = False) -> int:
        """How many tickets of other callers go before a ticket that needs so many turns of this caller: only as many as
        their own limits let go now. With `singles_first`, only single calls count."""
        return sum(
            int(max(0, min(each.singles if singles_first else each.waiting, turns, each.room(now))))
            for each in self.callers.values()
            if each.name != caller
        )

    def rank(self, semaphore: Semaphore, caller: str, batch: str | None, ahead: int) -> int:
        """The position among the tickets that name this semaphore, from 1, of one with `ahead` tickets of its own flow
        before it."""
        return (
            ahead
            + 1
            + sum(
                min(len(flow.waiting), ahead + 1)
                for owner in self.callers.values()
                for flow in owner.flows.values()
                if flow.semaphore is semaphore and (owner.name, flow.batch) != (caller, batch)
            )
        )

    def is_contested(self) -> bool:
        """Whether tickets of several flows wait. May be true while the tickets of only one do."""
        heap = self._turns.heap
        return len(heap) > 1 or (bool(heap) and len(heap[0][2].turns.heap) > 1)

    def discard(self, ticket: Ticket) -> None:
        """Remove a waiting ticket. An unknown ticket is ignored."""
        flow = self._flow_of.pop(ticket, None)
        if flow is not None:
            flow.waiting.discard(ticket)
            flow.owner.waiting -= 1
            self.batched -= flow.batch is not None
            flow.owner.batched -= flow.batch is not None
            if (semaphore := flow.semaphore) is not None:
                semaphore.waiting -= 1
                if not flow.waiting and semaphore.parked.pop(flow, None) is not None:
                    flow.is_queued = False

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
                flow.owner.batched -= len(tickets)
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

    def limit(self, caller: str, limits: OwnLimits) -> None:
        """Change the own limits of a caller."""
        if limits == UNLIMITED:
            self.limits.pop(caller, None)
        else:
            self.limits[caller] = limits
        if (found := self.callers.get(caller)) is not None:
            self._limit(found)

    def _limit(self, caller: Caller) -> None:
        limits = self.limits.get(caller.name, UNLIMITED)
        caller.limit(limits)
        if limits == UNLIMITED:
            self._limited.discard(caller)
        else:
            self._limited.add(caller)

    def unpark(self, now: float) -> None:
        """Let callers return to their turns if their own limits let tickets go."""
        self._now = now
        if self.parked:
            self.parked.unpark(now)

    def count(self, caller: str, spent: Iterable[float], now: float) -> None:
        """Count places of an earlier process in the window of a caller: see `SlidingWindow.count`."""
        if caller in self.limits and (window := self._caller(caller).window) is not None:
            window.count(spent, now)

    def ready_batched(self, now: float) -> int:
        """How many waiting tickets of batches the own limits of their callers let go now."""
        held_back = (max(0, each.batched - max(0, each.room(now))) for each in self._limited if each.batched)
        return self.batched - int(sum(held_back))

    def batched_within(self, seconds: float, *, mean_held: float) -> float:
        """How many waiting tickets of batches the own limits of their callers let go in so many seconds."""
        held_back = (
            max(0.0, each.batched - each.limits.most_within(seconds, mean_held=mean_held))
            for each in self._limited
            if each.batched
        )
        return self.batched - sum(held_back)

    def own_limits(self, now: float, caller: str | None = None) -> dict[str, OwnLimitsSnapshot]:
        """The limits and places of all callers with tickets or taken places, and of this one."""
        seen = {
            each.name: OwnLimitsSnapshot(each.limits, places)
            for each in self._limited
            if (places := each.places(now)) or each.waiting or each.in_flight
        }
        if caller in self.limits and caller not in seen:
            seen[caller] = OwnLimitsSnapshot(self.limits[caller])
        return seen

    def restore_limits(self, seen: Mapping[str, OwnLimitsSnapshot], *, unanswered: float) -> None:
        """Copy the limits and places that `own_limits` returned. Places without an answer become free at the moment
        `unanswered`."""
        for caller, own in seen.items():
            self.limit(caller, own.limits)
            if own.places and (window := self._caller(caller).window) is not None:
                window.restore(own.places, unanswered=unanswered)

    def clear(self, caller: str | None = None, batch: str | None = None) -> list[Ticket]:
        """Remove all waiting tickets, or those of one batch of one caller. Returns them."""
        tickets = list(self._flow_of if caller is None else self._caller(caller).flow(batch, None).waiting)
        for ticket in tickets:
            self.discard(ticket)
        return tickets

    def in_flight(self, caller: str) -> int:
        """How many tickets of a caller are in flight."""
        found = self.callers.get(caller)
        return found.in_flight if found else 0

    def snapshot(self) -> tuple[FlowSnapshot, ...]:
        """Every flow with tickets that wait or run, in the order of their next turns: of callers, and of the flows of
        each caller."""
        return tuple(
            FlowSnapshot(
                caller.name,
                flow.batch,
                len(flow.waiting),
                flow.in_flight,
                flow.max_concurrent,
                flow.semaphore.id if flow.semaphore else None,
                flow.boots(),
                (self._turns.place(caller)[0], caller.turns.place(flow)[0]),
            )
            for caller in sorted(self.callers.values(), key=self._turns.place)
            for flow in sorted(caller.flows.values(), key=caller.turns.place)
            if flow.is_busy()
        )

    def restore_turns(self, seen: Iterable[FlowSnapshot], semaphores: Semaphores) -> None:
        """Let these flows and their callers take turns as they do in the queue of the snapshot. They are in its order,
        and their tickets have been added."""
        callers: dict[Caller, int] = {}
        for name, flows in groupby(seen, key=attrgetter("caller")):
            starts: dict[Flow, int] = {}
            for each in flows:
                flow = self.flow(name, each.batch, None, semaphores.find(each.semaphore))
                callers[flow.owner], starts[flow] = each.starts
            self._caller(name).turns.restore(starts.items())
        self._turns.restore(callers.items())

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

    def _still_paused(self, now: float) -> set[Caller]:
        self._paused = {caller for caller in self._paused if caller.paused_until > now}
        return self._paused

    def _caller(self, name: str) -> Caller:
        found = self.callers.get(name)
        if found is None:
            if len(self.callers) >= self._tidy_at:
                self._tidy()
            found = self.callers[name] = Caller(name, self.parked)
            found.turn_length = UNPROVEN_TURN if name == UNPROVEN else 1
            if name in self.limits:
                self._limit(found)
        return found

    def _tidy(self) -> None:
        """Forget callers that have no tickets, no pause, no place in their own window, and no turn that ends later than
        the current one."""
        self.callers = {
            name: caller
            for name, caller in self.callers.items()
            if caller.waiting
            or caller.in_flight
            or caller.turn_end > self._turns.turn
            or caller in self._paused
            or caller.places(self._now)
        }
        self._limited &= set(self.callers.values())
        self._tidy_at = 2 * len(self.callers) + 64


def room(limit: int, *, waiting: int, own: int) -> int:
    """How many more tickets a caller may add, if at most `limit` may wait, `waiting` do, and `own` of them are the
    caller's. The last quarter is for callers who then have at most a quarter, so one caller cannot fill the queue."""
    quarter = limit // 4
    return max(0, limit - quarter - waiting, min(quarter - own, limit - waiting))
