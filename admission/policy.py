"""Admission: which request is admitted next, when, and why.

A request needs a *slot* (one prediction in flight, from just before its creation to its end) and a *place* (one
creation in the sliding window). It is admitted when both are free. Neither is taken alone, so waiting uses up nothing.

**Fairness.** Callers take turns, and within a caller its flows take turns: each batch is a flow, and the single calls
together are one. A flow is first in, first out (`fair_queue`). One queue for all would be simpler, but a single call
would wait behind a batch of 10,000. A fixed quota for each caller would leave places unused while a caller is absent.

Turns suffice while much is free. When little is left, `Policy._preferences` refines them:

- **The last slots** (`slots`). A turn does not help a caller who arrives while all slots are held for minutes. So flows
  that hold less than half of all slots go first. While predictions are long and other callers are active, the last
  tenth of the slots is for flows that hold none. Stopping a running prediction would help too, but it is paid for.
- **The last places** (`reserve`). A turn does not help a single call after a batch has spent the window. So batches
  take the last places evenly over the minute, and single calls take them first. A fixed reserve would be simpler, but
  would waste places while no single call arrives.
- **Unproven callers** (`unproven`), whose tokens may be invented, share one turn and a twentieth of the window.

**Semaphores** (`semaphores`) are further limits, each on the tickets that name it. A ticket gets its permit together
with its slot and place, and no ticket waits behind one that gets none.

**Own limits** (`own_limits`) of a caller make its tickets wait while those of others go.

**Boots** (`boots`): predictions of one version that wait for it to boot hold at most half of the slots. A ticket beyond
that is passed over until one of them has started or ended.

**The window is exact**: a log of times. A leaky bucket of 600 a minute lets 1,199 creations into one 60-second window.
A place is taken from the admission until 60 seconds after the *answer*. The request reaches Replicate between its
sending and its answer, so any two requests that use one place reach Replicate at least 60 seconds apart.

**Stall** (`stall`). If the answer to a creation is lost, the creation may still arrive. It keeps its slot and its place
until a search has found it or ruled it out. Meanwhile no creation is admitted before the upstream has answered a later
request, and then one at a time until a creation is answered. Retries with a backoff would add further creations whose
outcome is unknown, and each may be billed.

The policy is pure: `now` is an argument, in seconds of any monotonic clock. A *ticket* identifies one request and is
any hashable value: the gate uses leases, and `forecast` uses numbers on a simulated clock.
"""

import math
from collections.abc import Iterable, Iterator

from admission import slots
from admission.admitted import Admission, Step
from admission.arrivals import Arrivals
from admission.boots import Boots, Ticket
from admission.durations import Durations
from admission.fair_queue import FairQueue
from admission.flows import Flow, FlowFilter, all_of, is_single
from admission.own_limits import OwnLimits
from admission.reserve import LONG, Reserve
from admission.semaphores import Semaphores
from admission.sliding_window import WINDOW, SlidingWindow
from admission.snapshot import GateSnapshot
from admission.stall import Stall
from admission.unproven import Unproven, is_unproven, queue_batch

UNDER_WAY = 1.0
"""Seconds within which most pending creations are answered."""


class Policy:
    """Slots, an exact sliding window, and a fair queue before both.

    Report each event by a method, then call `step`. `queue`, `window`, `stall` and `semaphores` take the events that
    concern only them, and `boots` only counts. `interactive_reserve` is the `share` of a `Reserve`, `bounds_unproven`
    the `is_bounded` of `Unproven`. `durations` records how long slots are held.
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
        self._in_flight: dict[Ticket, Admission] = {}
        self.queue = FairQueue()
        self.semaphores = Semaphores()
        self.boots = Boots()
        self.window = SlidingWindow(0)
        self.stall = Stall()
        self._expected_until: dict[Ticket, float] = {}
        self.reserve = Reserve(interactive_reserve)
        self._arrivals = Arrivals()
        self._unproven = Unproven(is_bounded=bounds_unproven)
        self.durations = durations
        self._set_limits(concurrent_limit, requests_per_minute)

    def enqueue(
        self,
        tickets: Iterable[Ticket],
        caller: str,
        *,
        batch: str | None = None,
        max_concurrent: float | None = None,
        semaphore: str | None = None,
        boots: str | None = None,
    ) -> None:
        """Add waiting tickets, in this order: of one batch or, without `batch`, single calls. `max_concurrent` limits
        the batch below `concurrent_limit`. Each needs a permit of the `semaphore`, if there is one with this id.
        `boots` is the version that they may have to wait for."""
        self._arrivals.note(caller, batch)
        named, boot = self.semaphores.find(semaphore), self.boots.of(boots)
        self.queue.add(tickets, caller, queue_batch(caller, batch), max_concurrent, named, boot)

    def withdraw(self, ticket: Ticket) -> None:
        """Remove a ticket that waits, or that was admitted and sent nothing. Its slot and place are free at once. An
        unknown ticket is ignored."""
        admission = self._in_flight.pop(ticket, None)
        if admission is None:
            self.queue.discard(ticket)
            return
        admission.flow.released(ticket)
        self.stall.gone(ticket)
        admission.give_back()
        self.reserve.give_back(admission.pace)

    def adopt(
        self,
        ticket: Ticket,
        caller: str,
        *,
        batch: str | None = None,
        max_concurrent: float | None = None,
        semaphore: str | None = None,
        boots: str | None = None,
        now: float,
        lost: float | None = None,
        expected: Ticket | None = None,
        is_pending: bool = False,
    ) -> None:
        """Add a ticket that was admitted elsewhere. It takes a slot and a permit even if none is free, and waits for a
        boot unless `boots` is None, as it is once its prediction has started.

        Its place must be counted in `window`. But if the answer to its creation was lost, `lost` is the moment of its
        sending, and it takes a place here: the one that was `expected` under that name, if any. It also takes one if it
        `is_pending`: the creation may be sent still, or may be answered."""
        named = self.semaphores.find(semaphore)
        flow = self.queue.flow(caller, queue_batch(caller, batch), max_concurrent, named)
        flow.adopted(ticket, self.boots.of(boots))
        admission = self._in_flight[ticket] = Admission(flow, now, now)
        if lost is not None:
            self.window.forget(self._expected_until.pop(expected, math.inf))
            admission.take(self.window)
            self.stall.lost(ticket, lost)
        elif is_pending:
            admission.take(self.window)
            self.stall.admitted(ticket)

    def may_arrive(self, ticket: Ticket) -> bool:
        """Whether the lost creation of this ticket may arrive still: no later request was answered."""
        return not self.stall.has_answered(self._in_flight[ticket].sent)

    def sent(self, ticket: Ticket, now: float) -> None:
        """The creation of an admitted ticket is sent."""
        self._in_flight[ticket].sent = now

    def lost(self, ticket: Ticket) -> None:
        """The answer to a creation is lost. It keeps its slot and place until `answered`, which then reports the result
        of a search, or `release`."""
        self.stall.lost(ticket, self._in_flight[ticket].sent)

    def answered(self, ticket: Ticket, now: float) -> None:
        """The creation of an admitted ticket is answered at `now`, which may be in the future. Its place is free 60
        seconds later. A second call has no effect."""
        admission = self._in_flight[ticket]
        if admission.unanswered and ticket not in self.stall.in_doubt:
            self.stall.created(ticket, admission.sent)
        self._start_expiry(now, ticket, admission)

    def started(self, ticket: Ticket, now: float) -> None:
        """The prediction of an admitted ticket has started, so it waits for no boot. A second call has no effect."""
        admission = self._in_flight[ticket]
        if (boot := admission.flow.started(ticket)) is not None:
            self.boots.note_wait(boot.version, now - admission.since)

    def release(self, ticket: Ticket, now: float) -> None:
        """An admitted ticket has ended and frees its slot. If there was no answer, its place is free in 60 seconds."""
        admission = self._in_flight.pop(ticket)
        self._start_expiry(now, ticket, admission)
        admission.flow.released(ticket)
        self.durations.note_slot(now - admission.since)

    def expect(self, name: Ticket, until: float) -> None:
        """Count the place of a creation that an earlier process sent and that may arrive until then. `adopt` replaces
        it."""
        self.window.count((0.0,), until)
        self._expected_until[name] = until + WINDOW

    def refuse(self, caller: str, batch: str | None, now: float) -> bool:
        """A creation was refused for lack of credit. One refusal is not conclusive: this caller pauses until pending
        creations should be answered, and then has one ticket admitted at a time until `proceed`. Returns whether it was
        the second refusal of its batch since then."""
        self.queue.pause(caller, now + UNDER_WAY)
        return self.queue.refuse(caller, batch)

    def proceed(self, caller: str, now: float, *, exhausted_for: float = 0.0) -> None:
        """A creation of this caller was accepted. This ends the caution that follows a pause, unless the creation was
        sent before the pause.

        If a cautious caller's limit at Replicate is used up for `exhausted_for` seconds, the caller pauses again. A
        caller who was never paused does not pause, since this window is stricter than Replicate's limit."""
        self.queue.proceed(caller, unless_until=now + exhausted_for if exhausted_for > 0 else -math.inf)

    def configure(
        self, now: float, *, concurrent_limit: int | None = None, requests_per_minute: int | None = None
    ) -> None:
        """Change both limits, or neither if one is invalid (ValueError). Running predictions continue."""
        self._set_limits(
            self.concurrent_limit if concurrent_limit is None else concurrent_limit,
            self.window.limit if requests_per_minute is None else requests_per_minute,
        )
        self.update(now)
        self.reserve.shorten_pause(now)

    def limit_caller(
        self, caller: str, *, max_concurrent: int | None = None, per_minute: int | None = None
    ) -> None:
        """Change the own limits of a caller (None: it has none), or neither if one is invalid (ValueError). Its running
        tickets continue."""
        self.queue.limit(caller, OwnLimits(max_concurrent, per_minute))

    def count(self, spent: Iterable[float], now: float, caller: str | None = None) -> None:
        """Count places of an earlier process, also in the window of this caller: see `SlidingWindow.count`."""
        ago = tuple(spent)
        self.window.count(ago, now)
        if caller is not None:
            self.queue.count(caller, ago, now)

    def restore(self, seen: GateSnapshot, *, unanswered: float) -> None:
        """Copy the windows, the own limits, the reserve, the arrivals, the turns and the pauses of another policy. Call
        it after `adopt` and `enqueue` have added the tickets. Places without an answer become free at the moment
        `unanswered`."""
        self.queue.restore_limits(seen.own_limits, unanswered=unanswered)
        self.window.restore(seen.places, unanswered=unanswered)
        self._unproven.places.restore(seen.unproven, unanswered=unanswered)
        self.reserve.restore(seen.reserve, unanswered=unanswered)
        self._arrivals = Arrivals(seen.arrivals)
        self.stall.expect(seen.stalled_until)
        for version, seconds in seen.boots.items():
            self.boots.note_wait(version, seconds)
        self.queue.restore_turns(seen.flows, self.semaphores)
        for caller, until in seen.paused_until.items():
            self.queue.pause(caller, until)

    def step(self, now: float) -> Step:
        """Admit every ticket that may go now."""
        self.update(now)
        self.queue.unpark(now)
        if self.semaphores.closed:
            self.semaphores.unpark(now)
        admitted: list[Ticket] = []
        while (
            self.window.free(now) > 0
            and self.free_slots() > 0
            and self.stall.admits(now) > 0
            and (tickets := self._admit_next(now))
        ):
            admitted += tickets
        return Step(admitted, *self._next_chance(now))

    def snapshot(self, now: float, semaphore: str | None = None, caller: str | None = None) -> GateSnapshot:
        """The state that `restore` copies, the number of tickets of each flow, and the semaphores for which tickets
        wait, with this one. It has the own limits of callers with tickets, and of this one."""
        self.update(now)
        return GateSnapshot(
            now=now,
            concurrent_limit=self.concurrent_limit,
            requests_per_minute=self.window.limit,
            places=self.window.free_at(),
            reserve=self.reserve.state(),
            arrivals=self._arrivals.state,
            unproven=self._unproven.places.free_at(),
            held=self.durations.slots(),
            paused_until=self.queue.paused_until(now),
            flows=self.queue.snapshot(),
            stalled_until=self.stall.expected_until(now),
            semaphores=self.semaphores.waited_for(semaphore),
            boots=self.boots.waits(),
            own_limits=self.queue.own_limits(now, caller),
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
        self._unproven.set_limit(requests_per_minute)
        self.boots.set_slots(concurrent_limit)

    def update(self, now: float) -> None:
        self._arrivals.stamp(now)
        has_singles, batched = self._arrivals.has_singles(now), self.queue.ready_batched(now)
        within = self.queue.batched_within(LONG * WINDOW, mean_held=self.durations.mean_slot())
        self.reserve.update(self.window.limit, batched, within, has_singles=has_singles)

    def free_slots(self) -> int:
        return self.concurrent_limit - len(self._in_flight)

    def _kept_slots(self) -> int:
        return slots.kept(self.concurrent_limit, self.durations.mean_slot())

    def _by_turns_alone(self, now: float) -> int:
        """How many tickets may go by turns, before only slots or places are left for which there are preferences."""
        if self.queue.has_unproven:
            return 0
        shared = self.free_slots() - self._kept_slots()
        if self.queue.is_contested():
            half = (self.concurrent_limit + 1) // 2
            shared = min(shared, half - len(self._in_flight))
        return min(shared, self.window.free(now) - self.reserve.left(now))

    def _admit_next(self, now: float) -> list[Ticket]:
        """Admit the next ticket, or several if only one flow waits. Empty if none may go."""
        from_reserve = self.window.free(now) <= self.reserve.left(now)
        by_turns = self._by_turns_alone(now)
        most = int(min(by_turns, self.stall.admits(now))) if by_turns > 0 else 1
        for allowed in [None] if by_turns > 0 else self._preferences(now, from_reserve=from_reserve):
            if taken := self.queue.take(now, most, allowed):
                tickets, flow = taken
                for ticket in tickets:
                    self._admit(ticket, flow, now, from_reserve=from_reserve)
                return tickets
        return []

    def _preferences(self, now: float, *, from_reserve: bool) -> Iterator[FlowFilter | None]:
        """Which flows may go, the preferred first: those with few slots, and among them single calls."""
        batches_wait = from_reserve and self._is_paced(self.window.free(now), now)
        kinds: list[FlowFilter | None] = [] if batches_wait else [None]
        if from_reserve and self.queue.singles and (batches_wait or self.reserve.singles_first(now)):
            kinds.insert(0, is_single)
        required = slots.for_newcomers(self._arrivals, now) if self._only_kept_slots() else None
        if self.queue.has_unproven:
            required = all_of(required, self._unproven.allowed(self._arrivals, now))
        for holding in (slots.holds_little(self.concurrent_limit), None):
            for kind in kinds:
                yield all_of(required, holding, kind)

    def _only_kept_slots(self) -> bool:
        return self.free_slots() <= self._kept_slots()

    def _is_paced(self, free: int, now: float) -> bool:
        """Whether batches wait for the pace of the reserve while the window has so many free places."""
        return self.reserve.is_paced(free, now, self.queue.ready_batched(now))

    def _admit(self, ticket: Ticket, flow: Flow, now: float, *, from_reserve: bool) -> None:
        admission = self._in_flight[ticket] = Admission(flow, now, now)
        windows = [self.window]
        if flow.batch is None:
            windows.append(self.reserve.singles)
        if is_unproven(flow):
            windows.append(self._unproven.places)
        if from_reserve:
            windows.append(self.reserve.places)
            admission.pace = self.reserve.take(now)
        admission.take(*windows)
        self.stall.admitted(ticket)

    def _start_expiry(self, answered: float, ticket: Ticket, admission: Admission) -> None:
        """Let its place expire 60 seconds after this moment, unless it has an answer already."""
        self.stall.gone(ticket)
        admission.answered(answered)

    def _next_chance(self, now: float) -> tuple[float, bool]:
        """`next_chance` and `only_time` of a `Step`."""
        free, full = self.window.free(now), self.free_slots() <= 0
        if not self.queue:
            return math.inf, False
        if not self.stall.admits(now):
            return self.stall.next_chance(), self.stall.next_chance() < math.inf
        if free <= 0:
            return self.window.next_expiry(), True
        is_paced = free <= self.reserve.left(now) and self._is_paced(free, now)
        only_time = is_paced and not self.queue.singles
        if full and not only_time:
            return math.inf, False
        chances = [self.queue.next_pause_end(now), self.queue.parked.next_room()]
        if is_paced:
            chances += [self.reserve.paced_until, self.window.next_expiry()]
        if self.semaphores.closed:
            chances += [self.semaphores.next_chance(now)]
        if self.queue.has_unproven:
            chances += [self._unproven.next_chance(now)]
        if self.queue.has_unproven or self._arrivals.has_singles(now) or self._only_kept_slots():
            chances += [self._arrivals.next_end(now)]
        return min(chances), only_time
