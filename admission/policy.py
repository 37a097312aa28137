"""Admission: a generation starts when a slot and a place in the window are both free. Neither is taken alone.

A *slot* is one prediction in flight, from just before its creation to its terminal state. A *place* is one creation in
the sliding window. Five choices make the policy:

- **The window is exact**, a log of times and no bucket: at 600 a minute a leaky bucket lets 1,199 starts into one
  60-second window. A place counts from its admission, without end while its request is on the way, and for 60 seconds
  after its *answer*. An arrival lies between its sending and its answer, so place *k + N* arrives at least 60 seconds
  after place *k*. A creation whose answer was lost may arrive at any time: it keeps slot and place until a search has
  found out, and its 60 seconds begin then.
- **A stalled upstream gets nothing more** (`stall`) until it answers a request sent after the last lost creation.
- **Callers take turns, then each caller's batches** (`fair_queue`): one call beside a batch of 10,000 waits for a
  turn, not for the batch. Callers whose accounts are not known share one turn (`unproven`).
- **The last part of the window is paced** (`reserve`), as much as single calls are about to want. Batches take these
  places evenly over the minute, single calls take them first, and none that only batches want is wasted.
- **The last slots are kept** (`slots`) for those who hold none, as long as predictions are long and others are about.

Every rule stands here, once, and `now` is an argument (seconds of any monotonic clock). What waits or runs is known by
its *ticket*, any hashable value of the caller's choice, so that a gate can be driven by futures, rows or numbers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from admission import slots
from admission.arrivals import Arrivals
from admission.durations import Durations
from admission.fair_queue import FairQueue, Flow, MayGo, Taken, Ticket, all_of, is_single
from admission.reserve import Reserve
from admission.sliding_window import WINDOW, SlidingWindow
from admission.snapshot import GateSnapshot
from admission.stall import Stall
from admission.unproven import Unproven, group, is_unproven

UNDER_WAY = 1.0
"""Seconds in which most creations under way are answered."""


class Step(NamedTuple):
    """The tickets that are admitted now, in order, and when time alone may admit more (infinity: never). With
    `only_time`, a slot that is freed before admits none of those who wait."""

    admitted: list[Ticket]
    next_chance: float
    only_time: bool


@dataclass(slots=True, eq=False)
class _Admission:
    flow: Flow
    since: float
    sent: float
    """When its creation left; until then, when it was admitted."""
    unanswered: tuple[SlidingWindow, ...] = ()
    """The windows in which its place has no answer yet."""
    pace: float = 0.0
    """Seconds by which it put off the next place of the reserve."""


class Policy:
    """Slots, an exact sliding window, and a fair queue before both.

    Report each event by a method, then call `step`. `interactive_reserve` is as in `Reserve`, `bounds_unproven` as in
    `Unproven`. `durations` learns how long slots are held. Attributes without an underscore are for reading alone.
    """

    def __init__(
        self,
        *,
        concurrent_limit: int,
        requests_per_minute: int,
        interactive_reserve: float = 0.0,
        bounds_unproven: bool = True,
        durations: Durations,
    ) -> None:
        self._in_flight: dict[Ticket, _Admission] = {}
        self.queue = FairQueue()
        self.window = SlidingWindow(0)
        self.stall = Stall()
        self._expected: dict[Ticket, float] = {}
        """When each expected place is free."""
        self._reserve = Reserve(interactive_reserve)
        self._arrivals = Arrivals()
        self._unproven = Unproven(is_bounded=bounds_unproven)
        self._durations = durations
        self._set_limits(concurrent_limit, requests_per_minute)

    # ── Inputs

    def enqueue(
        self,
        tickets: Iterable[Ticket],
        caller: str,
        *,
        batch: str | None = None,
        max_concurrent: float | None = None,
    ) -> None:
        """Let tickets wait, in this order. `batch` groups the tickets of one batch; without it they are single calls.
        `max_concurrent` bounds the batch below the policy's own limit."""
        self._arrivals.note(caller, batch)
        self.queue.add(tickets, caller, group(caller, batch), max_concurrent)

    def withdraw(self, ticket: Ticket) -> None:
        """Remove a ticket that waits, or that was admitted and sent nothing. It leaves no trace. A ticket that is
        not here is ignored."""
        admission = self._in_flight.pop(ticket, None)
        if admission is None:
            self.queue.discard(ticket)
            return
        admission.flow.released(ticket)
        self.stall.gone(ticket)
        for window in admission.unanswered:
            window.give_back()
        self._reserve.give_back(admission.pace)

    def adopt(
        self,
        ticket: Ticket,
        caller: str,
        *,
        batch: str | None = None,
        max_concurrent: float | None = None,
        now: float,
        lost: float | None = None,
        expected: Ticket | None = None,
    ) -> None:
        """A ticket that an earlier process has in flight takes a slot, free or not. `count` counted its place. A
        creation in doubt, which was sent at the moment `lost`, takes a place as well, or that which was `expected`."""
        flow = self.queue.flow(caller, group(caller, batch), max_concurrent)
        flow.adopted()  # begun before any pause that is known here, so it proves nothing of one
        admission = self._in_flight[ticket] = _Admission(flow, now, now)
        if lost is not None:
            self.window.forget(self._expected.pop(expected, math.inf))
            admission.unanswered = (self.window,)
            self.window.take()
            self.stall.lost(ticket, lost)

    def sent(self, ticket: Ticket, now: float) -> None:
        """The creation of an admitted ticket leaves."""
        self._in_flight[ticket].sent = now

    def lost(self, ticket: Ticket) -> None:
        """The answer of a creation is lost. It keeps slot and place until `answered`, which is then the verdict of a
        search, or `release`."""
        self.stall.lost(ticket, self._in_flight[ticket].sent)

    def answered(self, ticket: Ticket, now: float) -> None:
        """The creation of an admitted ticket is answered at `now`, which may lie in the future. Its place counts for 60
        seconds from then. A second call has no effect."""
        admission = self._in_flight[ticket]
        if admission.unanswered and ticket not in self.stall.in_doubt:
            self.stall.created(ticket, admission.sent)
        self._count_from(now, ticket, admission)

    def release(self, ticket: Ticket, now: float) -> None:
        """An admitted ticket is over and frees its slot. Without an answer its place counts from now."""
        admission = self._in_flight.pop(ticket)
        self._count_from(now, ticket, admission)
        admission.flow.released(ticket)
        self._durations.note_slot(now - admission.since)

    def upstream_answered(self, sent: float) -> bool:
        """Another request than a creation, which left at `sent`, is answered. Returns whether that ends a stall."""
        return self.stall.answered(sent)

    def count(self, spent: Iterable[float], now: float) -> None:
        """Count places of an earlier process: seconds since each was answered, negative if its answer may yet come."""
        self.window.count(spent, now)

    def expect(self, name: Ticket, until: float) -> None:
        """Count a place of an earlier process whose creation may arrive until then, unless `adopt` takes it over."""
        self.window.count((0.0,), until)
        self._expected[name] = until + WINDOW

    def pause(self, caller: str, until: float) -> None:
        """Admit nothing of this caller until then, afterwards one ticket at a time until `proceed`."""
        self.queue.pause(caller, until)

    def slow_down(self, caller: str) -> None:
        """Admit one ticket of this caller at a time until `proceed`."""
        self.queue.slow_down(caller)

    def refuse(self, caller: str, batch: str | None, now: float) -> bool:
        """A creation was refused for want of credit, which is not believed at once: nothing of this caller is admitted
        until those under way should be answered, and then one ticket at a time until `proceed`. True if it was the
        second of its batch since then."""
        self.pause(caller, now + UNDER_WAY)
        return self.queue.refuse(caller, batch)

    def proceed(self, caller: str, now: float, *, exhausted_for: float = 0.0) -> None:
        """A creation of this caller was accepted, which ends the caution after a pause.

        If it was the last for `exhausted_for` seconds, the caller pauses again. If it was sent before the pause, it
        proves nothing. A caller who was never paused is left alone: this window is stricter than what Replicate says of
        its own."""
        self.queue.proceed(caller, unless_until=now + exhausted_for if exhausted_for > 0 else -math.inf)

    def configure(
        self, now: float, *, concurrent_limit: int | None = None, requests_per_minute: int | None = None
    ) -> None:
        """Change both limits or none. Raises ValueError; running work is never touched."""
        self._set_limits(
            self.concurrent_limit if concurrent_limit is None else concurrent_limit,
            self.window.limit if requests_per_minute is None else requests_per_minute,
        )
        self._follow(now)
        self._reserve.hurry(now)

    def dismiss(self, caller: str | None = None, batch: str | None = None) -> list[Ticket]:
        """Take out all tickets that wait, or those of one batch of one caller."""
        return self.queue.clear(caller, batch)

    def restore(self, seen: GateSnapshot, *, unanswered: float) -> None:
        """Take over the window, the reserve, the arrivals and the pauses of another policy, after `adopt` and `enqueue`
        have brought in its tickets. Places without an answer are taken to be free again at the moment `unanswered`."""
        self.window.restore(seen.places, unanswered=unanswered)
        self._unproven.places.restore(seen.unproven, unanswered=unanswered)
        self._reserve.restore(seen.reserve, unanswered=unanswered)
        self._arrivals.restore(seen.arrivals)
        self.stall.expect(seen.stalled_until)
        for caller, until in seen.paused_until.items():
            self.queue.pause(caller, until)

    # ── Results

    def step(self, now: float) -> Step:
        """Admit all that may go now."""
        self._follow(now)
        admitted: list[Ticket] = []
        while (
            (free := self.window.free(now)) > 0
            and len(self._in_flight) < self.concurrent_limit
            and (most := self.stall.admits(now)) > 0
        ):
            reserve = self._reserve.left(now)
            from_reserve = free <= reserve
            by_turns = 0 if from_reserve else min(free - reserve, self._slots_by_turns())
            if by_turns > 0 and not self.queue.has_unproven:
                taken = self.queue.take(now, int(min(by_turns, most)))
            else:
                taken = self._choose(now, free, from_reserve=from_reserve)
            if taken is None:
                break
            tickets, flow = taken
            for ticket in tickets:
                self._admit(ticket, flow, now, from_reserve=from_reserve)
            admitted += tickets
        return self._stepped(admitted, now, free)

    def wait(
        self, caller: str, batch: str | None, ahead: int, *, usual: float, bound: int | None, now: float
    ) -> float:
        """About how many seconds pass until a ticket is admitted that has `ahead` tickets of its own flow before it.

        `usual` is how long such a generation takes. It also stands for how long slots are held, until one was. `bound`
        is the batch's `max_concurrent`."""
        batch = group(caller, batch)
        self._follow(now)
        place = self.place(caller, batch, ahead, now)
        free, free_slots = self.window.free(now), self.concurrent_limit - len(self._in_flight)
        turnover = max(0.0, self.stall.expected_until(now) - now)
        turnover += max(0, place - free_slots) * self._turnover(usual)
        own = 0.0 if bound is None else (ahead + 1) * usual / bound
        # When each place that is free now is taken, if no more than these tickets wait: the reserve's at its pace.
        wanted = max(self.queue.batched, ahead + 1 if batch is not None else 0)
        unpaced = free - self._reserve.left(now)
        starts = [0.0] * max(0, unpaced)
        starts += [self._reserve.wait(nth, free, wanted, now) for nth in range(1, free - len(starts) + 1)]
        if place <= free:
            return max(turnover, own, 0.0 if batch is None else starts[place - 1])
        taken = [min(free_at - now, WINDOW) for free_at in self.window.free_at()]
        taken += [start + WINDOW for start in starts]
        windows, index = divmod(place - free - 1, len(taken))
        is_paced = batch is not None and self._reserve.places.limit == self.window.limit
        paced = self._reserve.wait(place, free, wanted, now) if is_paced else 0.0
        return max(turnover, own, paced, taken[index] + windows * WINDOW)

    def place(self, caller: str, batch: str | None, ahead: int, now: float) -> int:
        """The place in line, 1 for the next, of a ticket with `ahead` tickets of its own flow before it, if all turns
        from now on are equal. The ticket itself need not be in the queue yet."""
        batch = group(caller, batch)
        is_first = batch is None and self.window.free(now) <= self._reserve.left(now)
        return self.queue.place(
            caller, batch, ahead, singles_first=is_first and self._reserve.singles_first(now)
        )

    def seconds_per_release(self) -> float:
        """Seconds until one more generation is done while others wait: by the window, or by recent slot times,
        whichever is slower."""
        return max(WINDOW / self.window.limit, self._turnover(usual=0.0))

    def snapshot(self, now: float) -> GateSnapshot:
        """All that `restore` needs, and the tickets by number."""
        self._follow(now)
        return GateSnapshot(
            now=now,
            concurrent_limit=self.concurrent_limit,
            requests_per_minute=self.window.limit,
            places=self.window.free_at(),
            reserve=self._reserve.state(),
            arrivals=self._arrivals.state(),
            unproven=self._unproven.places.free_at(),
            held=self._durations.slots(),
            paused_until=self.queue.paused_until(now),
            lines=self.queue.lines(),
            stalled_until=self.stall.expected_until(now),
        )

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    def _set_limits(self, concurrent_limit: int, requests_per_minute: int) -> None:
        if concurrent_limit < 1:
            raise ValueError(f"concurrent_limit must be at least 1, got {concurrent_limit}")
        if requests_per_minute < 1:
            raise ValueError(f"requests_per_minute must be at least 1, got {requests_per_minute}")
        self.concurrent_limit = concurrent_limit
        self.window.limit = requests_per_minute
        self._unproven.follow(requests_per_minute)

    def _follow(self, now: float) -> None:
        self._arrivals.stamp(now)
        has_singles = self._arrivals.has_singles(now)
        self._reserve.follow(self.window.limit, self.queue.batched, has_singles=has_singles)

    def _slots_by_turns(self) -> int:
        """How many of the free slots go by turns alone: none of those that are kept, and no more than half of all when
        those who wait may hold more or less than half."""
        most = self.concurrent_limit - slots.kept(self.concurrent_limit, self._durations.mean_slot())
        if self.queue.is_contested():
            most = min(most, (self.concurrent_limit + 1) // 2)
        return most - len(self._in_flight)

    def _choose(self, now: float, free: int, *, from_reserve: bool) -> Taken | None:
        """The next ticket to go, if any. `free` places are left in the window."""
        batches_wait = from_reserve and self._reserve.is_paced(free, now, self.queue.batched)
        kinds: list[MayGo | None] = [] if batches_wait else [None]
        if from_reserve and self.queue.singles and (batches_wait or self._reserve.singles_first(now)):
            kinds.insert(0, is_single)
        kept = slots.for_newcomers(self._arrivals, now) if self._is_kept() else None
        if self.queue.has_unproven:
            kept = all_of(kept, self._unproven.rule(self._arrivals, now))
        for holding in (slots.holds_little(self.concurrent_limit), None):
            for kind in kinds:
                if taken := self.queue.take(now, may_go=all_of(kept, holding, kind)):
                    return taken
        return None

    def _is_kept(self) -> bool:
        """Whether only slots are free that are kept for those who hold none."""
        free = self.concurrent_limit - len(self._in_flight)
        return free <= slots.kept(self.concurrent_limit, self._durations.mean_slot())

    def _admit(self, ticket: Ticket, flow: Flow, now: float, *, from_reserve: bool) -> None:
        admission = self._in_flight[ticket] = _Admission(flow, now, now, (self.window,))
        if flow.batch is None:
            admission.unanswered += (self._reserve.singles,)
        if is_unproven(flow):
            admission.unanswered += (self._unproven.places,)
        if from_reserve:
            admission.unanswered += (self._reserve.places,)
            admission.pace = self._reserve.take(now)
        for window in admission.unanswered:
            window.take()
        self.stall.admitted(ticket)

    def _count_from(self, moment: float, ticket: Ticket, admission: _Admission) -> None:
        """Let its place count for 60 seconds from this moment, unless it does already."""
        self.stall.gone(ticket)
        for window in admission.unanswered:
            window.answered(moment)
        admission.unanswered = ()

    def _stepped(self, admitted: list[Ticket], now: float, free: int) -> Step:
        if not self.queue:
            return Step(admitted, math.inf, only_time=False)
        if not self.stall.admits(now):
            return Step(admitted, self.stall.next_chance(), only_time=self.stall.next_chance() < math.inf)
        if free <= 0:
            return Step(admitted, self.window.next_expiry(), only_time=True)
        is_paced = self._reserve.is_paced(free, now, self.queue.batched) and free <= self._reserve.left(now)
        only_time = is_paced and not self.queue.singles
        if len(self._in_flight) >= self.concurrent_limit and not only_time:
            return Step(admitted, math.inf, only_time=False)
        next_chance = self.queue.next_pause_end(now)
        if is_paced:
            next_chance = min(next_chance, self._reserve.paced_until, self.window.next_expiry())
        if self.queue.has_unproven:
            next_chance = min(next_chance, self._unproven.next_chance(now), self._arrivals.next_end(now))
        if self._arrivals.has_singles(now) or self._is_kept():
            next_chance = min(next_chance, self._arrivals.next_end(now))
        return Step(admitted, next_chance, only_time)

    def _turnover(self, usual: float) -> float:
        """Seconds from one release of a slot to the next while all are held."""
        return self._durations.mean_slot(usual) / self.concurrent_limit
