"""The gate: `admission.Policy` on one event loop, whose clock is its only clock.

The policy decides who is admitted and when. The gate lets callers wait for that: a future for each, one timer for the
next moment at which time alone may admit more, and one step for all that happens in one tick. No lock is needed, and
none is held across an await.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, Self

import structlog

from admission.durations import Durations
from admission.policy import Policy
from admission.sliding_window import WINDOW
from admission.snapshot import GateSnapshot

_STALL_NOTED_AFTER: Final = 1.0
"""Seconds. A stall that is shorter is one lost creation, and the next search for it was answered."""

log = structlog.get_logger("gate")


@dataclass(frozen=True, slots=True)
class StallStats:
    """Whether the upstream stands still, when it last began to (`stalled_at`) and last answered again (`back_at`; both
    Unix times), and how many creations are in doubt."""

    is_on: bool = False
    stalled_at: float | None = None
    back_at: float | None = None
    in_doubt: int = 0


@dataclass(frozen=True, slots=True)
class GateStats:
    """The gate at one instant. Times in seconds."""

    concurrent_limit: int
    current_concurrent: int
    waiting: int
    requests_per_minute_limit: int
    current_rate_per_minute: int
    paused_seconds: float
    stall: StallStats = StallStats()

    @property
    def available_slots(self) -> int:
        return max(0, self.concurrent_limit - self.current_concurrent)


class Lease:
    """A slot and a place, held together: `with await gate.acquire(…) as lease`.

    The sender calls `sent`, once, when the creation leaves, and `answered` when its answer is here. If none will come
    that shows whether it arrived, the sender calls `lost`, and `answered` when a search has found out. Leaving the
    block frees the slot, and the place too if nothing was sent. `granted` is for the gate alone.
    """

    __slots__ = ("_gate", "_state", "granted")

    def __init__(self, gate: "Gate", state: Literal["held", "sent", "lost"] = "held") -> None:
        self._gate = gate
        self._state: Literal["held", "sent", "lost", "answered", "released"] = state
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def sent(self) -> None:
        if self._state != "held":
            raise RuntimeError(f"one place is one request; this one is {self._state}")
        self._state = "sent"
        self._gate.on_sent(self)

    def not_sent(self) -> None:
        """The creation did not leave after all, since there was no connection."""
        if self._state == "sent":
            self._state = "held"

    def lost(self) -> None:
        """Whether the creation arrived is not known."""
        if self._state == "sent":
            self._state = "lost"
            self._gate.on_lost(self)

    @property
    def is_in_doubt(self) -> bool:
        return self._state == "lost"

    def answered(self) -> None:
        if self._state in {"sent", "lost"}:
            self._state = "answered"
            self._gate.on_answered(self)

    def window_has_room(self) -> bool:
        """Whether its window has another place now."""
        return self._gate.has_room()

    def release(self) -> None:
        if self._state != "released":
            before, self._state = self._state, "released"
            self._gate.on_released(self, unused=before == "held")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Gate:
    """The shared gate: slots, an exact sliding window, and a fair queue before both.

    `acquire` waits; `configure` changes the limits at once and loses no waiter; `pause` holds one caller back
    and no other. `interactive_reserve` is the largest share of the window for which single calls go before batches.
    `durations` learns how long slots are held.
    """

    def __init__(
        self,
        *,
        concurrent_limit: int,
        requests_per_minute: int,
        interactive_reserve: float = 0.0,
        bounds_unproven: bool = True,
        durations: Durations | None = None,
    ) -> None:
        self.durations = durations or Durations()
        self._policy = Policy(
            concurrent_limit=concurrent_limit,
            requests_per_minute=requests_per_minute,
            interactive_reserve=interactive_reserve,
            bounds_unproven=bounds_unproven,
            durations=self.durations,
        )
        self._closed: Callable[[], Exception] | None = None
        self._admitting = False
        self._timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._stall = StallStats()

    async def acquire(
        self, caller: str, *, batch: str | None = None, max_concurrent: int | None = None
    ) -> Lease:
        """Wait for a slot and a place together, in turn with all others.

        `batch` groups the calls of one batch; without it this is a single call, for which a user waits.
        `max_concurrent` bounds the batch below the gate's own limit. Cancelling the wait, even in the very
        tick it was granted, leaves nothing behind.
        """
        if self._closed is not None:
            raise self._closed()
        lease = Lease(self)
        self._policy.enqueue((lease,), caller, batch=batch, max_concurrent=max_concurrent)
        self._admit_soon()
        try:
            await lease.granted
        except asyncio.CancelledError:
            lease.release()
            raise
        return lease

    def adopt(
        self,
        caller: str,
        *,
        batch: str | None = None,
        max_concurrent: int | None = None,
        lost: float | None = None,
        expected: str | None = None,
    ) -> Lease:
        """The slot of a prediction that an earlier process has in flight, whether one is free or not. `count` counted
        its place. With `lost`, the seconds since it was sent, its creation is in doubt and has a place as well: that
        which is `expected` under this name, if one is."""
        lease = Lease(self, "sent" if lost is None else "lost")
        now = _now()
        self._policy.adopt(
            lease,
            caller,
            batch=batch,
            max_concurrent=max_concurrent,
            now=now,
            lost=None if lost is None else now - lost,
            expected=expected,
        )
        self._admit_soon()  # so that a stall is noted
        return lease

    def place(self, caller: str, batch: str | None, behind: int) -> int:
        """About the place in line, 1 for the next, with `behind` others of the same caller and batch before it."""
        return self._policy.place(caller, batch, behind, _now())

    def wait(
        self, caller: str, batch: str | None, behind: int, *, usual: float, bound: int | None = None
    ) -> float:
        """Seconds until a newcomer at that place in line is admitted, as `Policy.wait` estimates them."""
        return self._policy.wait(caller, batch, behind, usual=usual, bound=bound, now=_now())

    def configure(
        self, *, concurrent_limit: int | None = None, requests_per_minute: int | None = None
    ) -> None:
        """Change both limits or none. Raises ValueError; running work is never touched."""
        self._policy.configure(
            _now(), concurrent_limit=concurrent_limit, requests_per_minute=requests_per_minute
        )
        self._admit_soon()

    def pause(self, caller: str, seconds: float) -> None:
        """Admit nothing of this caller for so long, then one at a time until `proceed`."""
        self._policy.pause(caller, _now() + seconds)
        self._admit_soon()

    def slow_down(self, caller: str) -> None:
        """Admit one at a time of this caller until `proceed`."""
        self._policy.slow_down(caller)

    def refuse(self, caller: str, batch: str | None) -> bool:
        """A creation was refused for want of credit. Whether that is the last word; see `Policy.refuse`."""
        is_last_word = self._policy.refuse(caller, batch, _now())
        self._admit_soon()
        return is_last_word

    def proceed(self, caller: str, *, exhausted_for: float = 0.0) -> None:
        """A creation of this caller was accepted; it may be the last for `exhausted_for` seconds. See
        `Policy.proceed`."""
        self._policy.proceed(caller, _now(), exhausted_for=exhausted_for)
        self._admit_soon()

    def upstream_answered(self, sent: float) -> None:
        """A request other than a creation, which left at this moment of the loop's clock, was answered."""
        if self._policy.upstream_answered(sent):
            self._admit_soon()

    def start_half_spent(self) -> None:
        """Use only half of the window for the first minute, since the requests of an earlier process are not recorded.
        Before any admission. Across one restart, a minute has at most one and a half times the limit, or two requests
        if the limit is 1."""
        full = self._policy.window.limit
        self.configure(requests_per_minute=max(1, full // 2))
        asyncio.get_running_loop().call_later(WINDOW, partial(self.configure, requests_per_minute=full))

    def count(self, spent: Iterable[float]) -> None:
        """Count places of an earlier process: seconds since each was answered, negative if its answer may yet come.
        Before any admission."""
        self._policy.count(spent, _now())

    def expect(self, name: str, seconds: float) -> None:
        """Count the place of a creation of an earlier process that may arrive for so many seconds yet, until it is
        adopted by its name. Before any admission."""
        self._policy.expect(name, _now() + seconds)

    def dismiss(self, caller: str, batch: str, reason: Callable[[], Exception]) -> None:
        """End the waits of a batch: `reason()` is raised in each."""
        self._send_away(self._policy.dismiss(caller, batch), reason)

    def close(self, reason: Callable[[], Exception]) -> None:
        """Admit nothing any more: `reason()` is raised in every wait, also in later ones."""
        self._closed = reason
        self._send_away(self._policy.dismiss(), reason)

    def in_flight(self, caller: str) -> int:
        """How many slots a caller holds."""
        return self._policy.queue.in_flight(caller)

    def statistics(self) -> GateStats:
        now, policy = _now(), self._policy
        return GateStats(
            concurrent_limit=policy.concurrent_limit,
            current_concurrent=policy.in_flight,
            waiting=len(policy.queue),
            requests_per_minute_limit=policy.window.limit,
            current_rate_per_minute=policy.window.used(now),
            paused_seconds=policy.queue.longest_pause(now),
            stall=replace(self._stall, in_doubt=len(policy.stall.in_doubt)),
        )

    def snapshot(self) -> GateSnapshot:
        """All that decides when a newcomer is admitted, for `forecast.plan`."""
        return self._policy.snapshot(_now())

    def has_room(self) -> bool:
        """Whether the window has a place now."""
        return self._policy.window.free(_now()) > 0

    def seconds_per_release(self) -> float:
        """Seconds until one more generation is done while others wait."""
        return self._policy.seconds_per_release()

    def on_sent(self, lease: Lease) -> None:
        """For the lease alone: the next process counts its place until its answer is known."""
        self._policy.sent(lease, _now())

    def on_lost(self, lease: Lease) -> None:
        """For the lease alone: its place counts until its creation is in doubt no more."""
        self._policy.lost(lease)
        self._admit_soon()

    def on_answered(self, lease: Lease) -> None:
        """For the lease alone: its 60 seconds begin."""
        self._policy.answered(lease, _now())
        self._admit_soon()

    def on_released(self, lease: Lease, *, unused: bool) -> None:
        """For the lease alone: its slot is free. Its place is free if it is unused, and else counts from now unless it
        was answered."""
        if unused:
            self._policy.withdraw(lease)
        else:
            self._policy.release(lease, _now())
        self._admit_soon()

    @staticmethod
    def _send_away(leases: list[Lease], reason: Callable[[], Exception]) -> None:
        for lease in leases:
            if not lease.granted.done():
                lease.granted.set_exception(reason())

    def _admit_soon(self) -> None:
        """Admit in the next tick, so that a batch, which comes in one tick, is seen whole."""
        if not self._admitting:
            self._admitting = True
            asyncio.get_running_loop().call_soon(self._admit)

    def _admit(self) -> None:
        self._admitting = False
        self._watch_stall()
        step = self._policy.step(_now())
        for lease in step.admitted:
            if not lease.granted.done():  # else it was cancelled in this tick, and its task will release it
                lease.granted.set_result(None)
        self._arm(step.next_chance)

    def _watch_stall(self) -> None:
        if self._policy.stall.is_on:
            if self._stall_timer is None and not self._stall.is_on:
                self._stall_timer = asyncio.get_running_loop().call_later(
                    _STALL_NOTED_AFTER, self._note_stall
                )
            return
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._stall.is_on:
            self._stall = replace(self._stall, is_on=False, back_at=time.time())
            log.warning("upstream_recovered", in_doubt=len(self._policy.stall.in_doubt))

    def _note_stall(self) -> None:
        self._stall_timer = None
        self._stall = replace(self._stall, is_on=True, stalled_at=time.time())
        log.warning(
            "upstream_stalled", in_doubt=len(self._policy.stall.in_doubt), waiting=len(self._policy.queue)
        )

    def _arm(self, wake: float) -> None:
        """One timer, for the first moment at which time alone may admit more."""
        if self._timer is not None:
            if self._timer.when() == wake:
                return
            self._timer.cancel()
            self._timer = None
        if wake < math.inf:
            self._timer = asyncio.get_running_loop().call_at(wake, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._admit()


def _now() -> float:
    return asyncio.get_running_loop().time()
