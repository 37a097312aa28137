"""Admission: a generation starts when a slot and a place in the window are both free. Neither is taken
alone, so waiting burns no budget.

A *slot* is one prediction in flight, from just before its creation to its terminal state. A *place* is
one creation in the sliding window. Three choices make the gate what it is:

- **The window is exact**, a log of times and no bucket: at 600 a minute a leaky bucket lets 1,199 starts
  into one 60-second window. A place is counted from its admission, without end while its request is on the
  way, and for 60 seconds after its *answer*. An arrival at Replicate lies between its sending and its answer,
  so place *k + N* arrives at least 60 seconds after place *k*, whatever the network does in between.
- **Callers take turns, then each caller's batches** (start-time fair queueing, Goyal et al. 1996, with
  equal weights): one call beside a batch of 10,000 waits for a turn, not for the batch.
- **The last part of the window is paced.** Turns do not help once a batch has spent the minute in its first
  seconds. So while batches want more than there is, they take the last places (`interactive_reserve`)
  evenly over the minute, and single calls take them first. Nobody wastes a place that nobody else wants.

Everything here lives on one event loop, whose clock is the only clock; no lock is needed, and none is held
across an await.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Self

from fairness import FairQueue, Flow, Line
from sliding_window import WINDOW, SlidingWindow
from window_log import WindowLog


@dataclass(frozen=True, slots=True)
class GateStats:
    """The gate at one instant. Times in seconds."""

    concurrent_limit: int
    current_concurrent: int
    waiting: int
    requests_per_minute_limit: int
    current_rate_per_minute: int
    paused_seconds: float

    @property
    def available_slots(self) -> int:
        return max(0, self.concurrent_limit - self.current_concurrent)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What decides when a newcomer is admitted, and how long slots were `held` lately. Moments by the loop's clock."""

    now: float
    caller: str | None
    concurrent_limit: int
    requests_per_minute: int
    reserve: int
    places: tuple[float, ...]
    reserve_places: tuple[float, ...]
    paced_until: float
    held: tuple[float, ...]
    paused_until: dict[str, float]
    lines: tuple[Line, ...]


class Lease:
    """A slot and a place, held together: `with await gate.acquire(…) as lease`.

    Whoever sends the creation says so (`sent`, once) and says when its answer or failure came (`answered`).
    Leaving the block frees the slot, and the place too if nothing was sent.
    """

    __slots__ = ("_gate", "_state", "flow", "since", "windows")

    def __init__(self, gate: "Gate", flow: Flow, windows: tuple[SlidingWindow, ...], since: float) -> None:
        self._gate = gate
        self._state = "held"
        self.flow = flow
        self.windows = windows
        self.since = since

    def sent(self) -> None:
        if self._state != "held":
            raise RuntimeError(f"one place is one request; this one is {self._state}")
        self._state = "sent"

    def not_sent(self) -> None:
        """Nothing left after all: there was no connection."""
        if self._state == "sent":
            self._state = "held"

    def answered(self) -> None:
        if self._state == "sent":
            self._state = "answered"
            self._gate.on_answered(self)

    def release(self) -> None:
        if self._state != "released":
            self.answered()
            unused, self._state = self._state == "held", "released"
            self._gate.on_released(self, unused=unused)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Gate:
    """The shared gate: slots, an exact sliding window, and a fair queue before both.

    `acquire` waits; `configure` changes the limits at once and loses nobody; `pause` holds one caller back
    and no other. `interactive_reserve` is the share of the window that large batches take paced.
    """

    def __init__(
        self,
        *,
        concurrent_limit: int,
        requests_per_minute: int,
        interactive_reserve: float = 0.0,
    ) -> None:
        if not 0 <= interactive_reserve < 1:
            raise ValueError(f"interactive_reserve must be from 0 to below 1, got {interactive_reserve}")
        self._in_flight = 0
        self._window = SlidingWindow(0)
        self._reserve = SlidingWindow(0)
        self._reserve_share = interactive_reserve
        self._set_limits(concurrent_limit, requests_per_minute)
        self._paced_until = -math.inf
        self._queue = FairQueue()
        self._closed: Callable[[], Exception] | None = None
        self._admitting = False
        self._timer: asyncio.TimerHandle | None = None
        self._held_for: deque[float] = deque(maxlen=256)

    async def acquire(
        self, caller: str, *, batch: str | None = None, max_concurrent: int | None = None
    ) -> Lease:
        """Wait for a slot and a place together, in turn with everybody else.

        `batch` groups what belongs together; without it this is a single call, which somebody waits for.
        `max_concurrent` bounds the batch below the gate's own limit. Cancelling the wait, even in the very
        tick it was granted, leaves nothing behind.
        """
        if self._closed is not None:
            raise self._closed()
        granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._queue.push(granted, caller, batch, max_concurrent)
        self._admit_soon()
        try:
            return await granted
        except asyncio.CancelledError:
            self._queue.discard(granted)
            if granted.done() and not granted.cancelled() and granted.exception() is None:
                granted.result().release()
            raise

    def adopt(self, caller: str, *, batch: str | None = None, max_concurrent: int | None = None) -> Lease:
        """The slot of what a process before this one has in flight, be there one free or not. Its place was counted
        when it was taken (`count`)."""
        flow = self._queue.flow(caller, batch, max_concurrent)
        lease = Lease(self, flow, (), asyncio.get_running_loop().time())
        lease.sent()
        self._in_flight += 1
        flow.adopted()
        return lease

    def place(self, caller: str, batch: str | None, behind: int) -> int:
        """About which in line one is that has so many others of its caller and batch before it: 1 is the next."""
        return self._queue.place(caller, batch, behind)

    def configure(
        self, *, concurrent_limit: int | None = None, requests_per_minute: int | None = None
    ) -> None:
        """Change both limits or none. Raises ValueError; running work is never touched."""
        self._set_limits(
            self._slots if concurrent_limit is None else concurrent_limit,
            self._window.limit if requests_per_minute is None else requests_per_minute,
        )
        if self._reserve.limit:  # nobody waits by the pace of the old limit
            now = asyncio.get_running_loop().time()
            self._paced_until = min(self._paced_until, now + WINDOW / self._reserve.limit)
        self._admit_soon()

    def pause(self, caller: str, seconds: float) -> None:
        """Admit nothing of this caller for so long, then one at a time until `proceed`."""
        loop = asyncio.get_running_loop()
        self._queue.pause(caller, loop.time() + seconds)
        self._admit_soon()

    def proceed(self, caller: str, *, exhausted_for: float = 0.0) -> None:
        """Replicate took a creation of this caller, which ends the caution that followed a pause.

        Not if it said that this was the last for so many seconds: then the caller pauses again. Not if the
        creation was sent before the pause: it proves nothing. A caller who never was paused is left alone,
        since this window is stricter than what Replicate says of its own."""
        if not self._queue.is_cautious(caller):
            return
        if exhausted_for > 0:
            self.pause(caller, exhausted_for)
        else:
            self._queue.proceed(caller)
            self._admit_soon()

    def resume(self, log: WindowLog) -> None:
        """Count what was spent before this process began, and keep the log from now on. Before any admission."""
        self._window.resume(log, asyncio.get_running_loop().time())

    def count(self, spent: Iterable[float]) -> None:
        """Count places that a process before this one used: seconds since each was answered, less than none if it may
        yet be. Before any admission."""
        self._window.count(spent, asyncio.get_running_loop().time())

    def dismiss(self, caller: str, batch: str, reason: Callable[[], Exception]) -> None:
        """Send those of a batch away who still wait: each gets a `reason()` raised."""
        self._send_away(self._queue.clear(caller, batch), reason)

    def close(self, reason: Callable[[], Exception]) -> None:
        """Admit nobody any more: whoever waits, or comes later, gets a `reason()` raised."""
        self._closed = reason
        self._send_away(self._queue.clear(), reason)

    def statistics(self) -> GateStats:
        now = asyncio.get_running_loop().time()
        return GateStats(
            concurrent_limit=self._slots,
            current_concurrent=self._in_flight,
            waiting=len(self._queue),
            requests_per_minute_limit=self._window.limit,
            current_rate_per_minute=self._window.used(now),
            paused_seconds=self._queue.longest_pause(now),
        )

    def outlook(self, caller: str | None = None) -> Outlook:
        """What a newcomer of this caller would find, or one who has nothing here yet."""
        return Outlook(
            now=asyncio.get_running_loop().time(),
            caller=caller,
            concurrent_limit=self._slots,
            requests_per_minute=self._window.limit,
            reserve=self._reserve.limit,
            places=self._window.free_at(),
            reserve_places=self._reserve.free_at(),
            paced_until=self._paced_until,
            held=tuple(self._held_for),
            paused_until=self._queue.paused_until(),
            lines=self._queue.lines(),
        )

    def seconds_per_release(self) -> float:
        """How long it takes, while others wait, until one more generation is done: as the window allows, or
        as the slots turn over with what was held lately, whichever is slower."""
        return max(WINDOW / self._window.limit, self._turnover(usual=0.0))

    def wait(self, place: int, *, usual: float) -> float:
        """Seconds until whoever has that place in line is admitted, about. `usual` is how long a slot is held as long
        as nothing is known of that."""
        now = asyncio.get_running_loop().time()
        by_slots = max(0, place - (self._slots - self._in_flight)) * self._turnover(usual)
        free = self._window.free(now)
        if place <= free:
            return by_slots
        taken = [min(free_at - now, WINDOW) for free_at in self._window.free_at()] + [WINDOW] * free
        windows, index = divmod(place - free - 1, len(taken))
        return max(by_slots, taken[index] + windows * WINDOW)

    def _turnover(self, usual: float) -> float:
        """Seconds from one release of a slot to the next while all are held."""
        return (fmean(self._held_for) if self._held_for else usual) / self._slots

    def on_answered(self, lease: Lease) -> None:
        """For the lease alone: its 60 seconds begin."""
        now = asyncio.get_running_loop().time()
        for window in lease.windows:
            window.answered(now)
        self._admit_soon()

    def on_released(self, lease: Lease, *, unused: bool) -> None:
        """For the lease alone: its slot is free, and its place too if it is unused."""
        self._in_flight -= 1
        lease.flow.released(lease)
        if unused:
            for window in lease.windows:
                window.give_back()
        else:
            self._held_for.append(asyncio.get_running_loop().time() - lease.since)
        self._admit_soon()

    @staticmethod
    def _send_away(waiters: list[asyncio.Future[Lease]], reason: Callable[[], Exception]) -> None:
        for granted in waiters:
            if not granted.done():
                granted.set_exception(reason())

    def _set_limits(self, concurrent_limit: int, requests_per_minute: int) -> None:
        if concurrent_limit < 1:
            raise ValueError(f"concurrent_limit must be at least 1, got {concurrent_limit}")
        if requests_per_minute < 1:
            raise ValueError(f"requests_per_minute must be at least 1, got {requests_per_minute}")
        self._slots = concurrent_limit
        self._window.limit = requests_per_minute
        self._reserve.limit = int(requests_per_minute * self._reserve_share)

    def _admit_soon(self) -> None:
        """Admit in the next tick: whoever comes in one tick is seen together, so a batch is seen whole."""
        if not self._admitting:
            self._admitting = True
            loop = asyncio.get_running_loop()
            loop.call_soon(self._admit, loop)

    def _admit(self, loop: asyncio.AbstractEventLoop) -> None:
        self._admitting = False
        now = loop.time()
        while self._queue and self._in_flight < self._slots:
            free = self._window.free(now)
            if free <= 0:
                break
            # Only the reserve's part of the window is left. It is paced when a place came from it lately and
            # more of batches waits than there are places: then batches wait, and single calls still go.
            from_reserve = free <= self._reserve.free(now)
            paced = from_reserve and now < self._paced_until and free < self._queue.batched
            found = self._queue.take(now, batches=not paced)
            if found is None:
                break
            granted, flow = found
            if not granted.done():  # else it was cancelled in this tick; its task has not run yet
                granted.set_result(self._lease(flow, now, from_reserve=from_reserve))
        self._arm(loop, now)

    def _lease(self, flow: Flow, now: float, *, from_reserve: bool) -> Lease:
        windows: tuple[SlidingWindow, ...] = (self._window,)
        if from_reserve:
            windows += (self._reserve,)
            self._paced_until = max(self._paced_until, now) + WINDOW / self._reserve.limit
        for window in windows:
            window.take()
        lease = Lease(self, flow, windows, now)
        self._in_flight += 1
        flow.admitted(lease)
        return lease

    def _arm(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """One timer, for the first moment at which time alone may let somebody in."""
        wake = self._next_chance(now)
        if self._timer is not None:
            if self._timer.when() == wake:
                return
            self._timer.cancel()
            self._timer = None
        if wake < math.inf:
            self._timer = loop.call_at(wake, self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._admit(loop)

    def _next_chance(self, now: float) -> float:
        if not self._queue or self._in_flight >= self._slots:
            return math.inf
        if self._window.free(now) <= 0:
            return self._window.next_expiry()
        ends = self._queue.pause_ends(now)
        if self._paced_until > now and self._queue.batched:
            ends += [self._paced_until, self._window.next_expiry()]
        return min(ends, default=math.inf)
