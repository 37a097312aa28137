"""The gate: `admission.policy.Policy` on one event loop, whose clock is its only clock.

The policy decides which request is admitted and when. The gate adds the waiting: a future for each request, one timer
for the next moment at which time alone may admit more, and one step for all events of one tick of the loop. All of it
runs on the loop, so it needs no lock.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Final, Literal, Self

import structlog

from admission.durations import Durations
from admission.estimates import Estimates
from admission.policy import Policy
from admission.semaphores import Semaphore, Semaphores
from admission.sliding_window import WINDOW
from admission.snapshot import GateStats, StallStats
from ledger import Ledger
from stepping import Stepper, grant, reject, until_granted

_STALL_NOTED_AFTER: Final = 1.0
"""Seconds. A shorter stall is one lost creation whose search was answered, and is not logged."""

log = structlog.get_logger("gate")


class Lease:
    """A slot and a place, held together: `with await gate.acquire(…) as lease`.

    The sender calls `sent` once, when the creation is sent, and `answered` when the answer arrives. If the answer is
    lost, the sender calls `lost`, and `answered` after a search has found the creation or ruled it out. If the
    prediction may have to wait for a boot, the sender calls `started` when it runs. Leaving the block frees the slot,
    and the place too if no creation was sent. `granted` is done once the lease has both.
    """

    __slots__ = ("_admit_soon", "_policy", "_state", "granted")

    def __init__(
        self,
        policy: Policy,
        admit_soon: Callable[[], None],
        state: Literal["held", "sent", "lost"] = "held",
    ) -> None:
        self._policy = policy
        self._admit_soon = admit_soon
        self._state: Literal["held", "sent", "lost", "answered", "released"] = state
        self.granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def sent(self, ago: float = 0.0) -> None:
        if self._state != "held":
            raise RuntimeError(f"a lease is for one request; this one is {self._state}")
        self._state = "sent"
        self._policy.sent(self, _now() - ago)

    async def persist(self, ledger: Ledger, _reference: str, _runs_for: float | None = None, /) -> None:
        """Wait until the ledger has on disk that this lease is used for the attempt with this id, whose prediction may
        run for so many seconds. Raises LedgerDown."""
        await ledger.flush()

    def not_sent(self) -> None:
        """Undo `sent`: the creation was not sent, since there was no connection."""
        if self._state == "sent":
            self._state = "held"

    def lost(self, ago: float | None = None) -> None:
        """The answer is lost, so it is not known whether the creation arrived. It was sent so many seconds `ago`, or at
        `sent`."""
        if self._state == "sent":
            self._state = "lost"
            if ago is not None:
                self._policy.sent(self, _now() - ago)
            self._policy.lost(self)
            self._admit_soon()

    @property
    def is_in_doubt(self) -> bool:
        return self._state == "lost"

    @property
    def may_arrive(self) -> bool:
        """Whether its lost creation may arrive still: no request that was sent later was answered."""
        return self._policy.may_arrive(self)

    def answered(self) -> None:
        if self._state in {"sent", "lost"}:
            self._state = "answered"
            self._policy.answered(self, _now())
            self._admit_soon()

    def started(self) -> None:
        """Its prediction runs, and waits for no boot any more. A second call has no effect."""
        if self._state in {"sent", "lost", "answered"}:
            self._policy.started(self, _now())
            self._admit_soon()

    def window_has_room(self) -> bool:
        """Whether the window has another free place now."""
        return self._policy.window.free(_now()) > 0

    def release(self) -> None:
        if self._state == "released":
            return
        if self._state == "held":
            self._policy.withdraw(self)
        else:
            self._policy.release(self, _now())
        self._state = "released"
        self._admit_soon()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Gate(Estimates, Stepper):
    """The shared gate: slots, an exact sliding window, and a fair queue before both.

    `interactive_reserve` is the largest share of the window for which single calls go before batches. `bounds_unproven`
    limits unproven callers to a part of the window. `durations` records how long slots are held.
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
        policy = Policy(
            concurrent_limit=concurrent_limit,
            requests_per_minute=requests_per_minute,
            interactive_reserve=interactive_reserve,
            bounds_unproven=bounds_unproven,
            durations=durations or Durations(),
        )
        super().__init__(policy, _now)
        self._closed: Callable[[], Exception] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._stall = StallStats()

    async def acquire(
        self,
        caller: str,
        *,
        batch: str | None = None,
        max_concurrent: int | None = None,
        semaphore: str | None = None,
        boots: str | None = None,
    ) -> Lease:
        """Wait for a slot and a place together, in turn with all other requests.

        `batch` groups the requests of one batch; without it this is a single call, for which a user waits.
        `max_concurrent` limits the batch below `concurrent_limit`. With a `semaphore`, the lease also has a permit of
        it. `boots` is the version whose boot its prediction may have to wait for. Cancelling the wait leaves nothing
        behind, even in the tick in which it is granted. Raises the exception of `close` or `dismiss`."""
        limits = {"batch": batch, "max_concurrent": max_concurrent, "semaphore": semaphore, "boots": boots}
        return await until_granted(self.request(caller, **limits))

    def request(self, caller: str, **limits: Any) -> Lease:
        """As `acquire`, without waiting: the lease is `granted` later, or never if it is released before."""
        if self._closed is not None:
            raise self._closed()
        lease = Lease(self._policy, self.admit_soon)
        self._policy.enqueue((lease,), caller, **limits)
        self.admit_soon()
        return lease

    def adopt(
        self,
        caller: str,
        *,
        lost: float | None = None,
        expected: str | None = None,
        is_pending: bool = False,
        **limits: Any,
    ) -> Lease:
        """A slot and a permit for a prediction that another process has in flight, even if none is free. `limits` are
        as in `acquire`.

        `count` must have counted its place. But if the answer to its creation was lost, `lost` is the seconds since it
        was sent: it takes a place here, the one that was `expected` under that name, if any. It also takes one if it
        `is_pending`: the creation may be sent still, or may be answered."""
        lease = Lease(self._policy, self.admit_soon, "sent" if lost is None else "lost")
        limits |= {"now": _now(), "lost": None if lost is None else _now() - lost}
        self._policy.adopt(lease, caller, expected=expected, is_pending=is_pending, **limits)
        self.admit_soon()  # the next step notices a stall
        return lease

    def configure(
        self, *, concurrent_limit: int | None = None, requests_per_minute: int | None = None
    ) -> None:
        """Change both limits, or neither if one is invalid (ValueError). Running predictions continue."""
        limits = {"concurrent_limit": concurrent_limit, "requests_per_minute": requests_per_minute}
        self._policy.configure(_now(), **limits)
        self.admit_soon()

    def limit_caller(
        self, caller: str, *, max_concurrent: int | None = None, per_minute: int | None = None
    ) -> None:
        """Change the own limits of a caller, at once for its waiting requests; see `Policy.limit_caller`."""
        self._policy.limit_caller(caller, max_concurrent=max_concurrent, per_minute=per_minute)
        self.admit_soon()

    def allot(self, places: int) -> None:
        """Set the limit of the window to the share of this process in it. While that is 0, no request is admitted."""
        self._policy.window.limit = places
        self.admit_soon()

    def pause(self, caller: str, seconds: float) -> None:
        """Admit nothing of this caller for so many seconds, then one request at a time until `proceed`."""
        self._policy.queue.pause(caller, _now() + seconds)
        self.admit_soon()

    def slow_down(self, caller: str) -> None:
        """Admit one request of this caller at a time until `proceed`."""
        self._policy.queue.slow_down(caller)

    def refuse(self, caller: str, batch: str | None) -> bool:
        """A creation was refused for lack of credit. Returns whether that is conclusive; see `Policy.refuse`."""
        is_conclusive = self._policy.refuse(caller, batch, _now())
        self.admit_soon()
        return is_conclusive

    def proceed(self, caller: str, *, exhausted_for: float = 0.0) -> None:
        """A creation of this caller was accepted; see `Policy.proceed`."""
        self._policy.proceed(caller, _now(), exhausted_for=exhausted_for)
        self.admit_soon()

    def upstream_answered(self, sent: float) -> None:
        """A request other than a creation, sent at this moment of the loop's clock, was answered."""
        if self._policy.stall.answered(sent):
            self.admit_soon()

    def start_half_spent(self) -> None:
        """Use half of the window for the first minute, since the requests of an earlier process are not recorded. So a
        minute across a restart has at most one and a half times the limit, or two requests if the limit is 1."""
        full = self._policy.window.limit
        self.configure(requests_per_minute=max(1, full // 2))
        asyncio.get_running_loop().call_later(WINDOW, partial(self.configure, requests_per_minute=full))

    def count(self, spent: Iterable[float], caller: str | None = None) -> None:
        """Count places of an earlier process: seconds since each was answered, negative if the answer may still come.
        If they are those of one `caller`, they count for its own limit, too, which must be set before. Call it before
        any admission."""
        self._policy.count(spent, _now(), caller)

    def expect(self, name: str, seconds: float) -> None:
        """Count the place of a creation that an earlier process sent and that may still arrive for so many seconds.
        `adopt` replaces it by its name. Call it before any admission."""
        self._policy.expect(name, _now() + seconds)

    def dismiss(self, caller: str, batch: str, reason: Callable[[], Exception]) -> None:
        """End the waits of a batch: each raises `reason()`."""
        reject(self._policy.queue.clear(caller, batch), reason)

    def close(self, reason: Callable[[], Exception]) -> None:
        """Admit nothing any more: every current and every later wait raises `reason()`."""
        self._closed = reason
        reject(self._policy.queue.clear(), reason)

    @property
    def slots_held(self) -> int:
        """How many slots all callers hold."""
        return self._policy.in_flight

    def in_flight(self, caller: str) -> int:
        """How many slots a caller holds."""
        return self._policy.queue.in_flight(caller)

    def statistics(self) -> GateStats:
        seen = super().statistics()
        return replace(seen, stall=replace(self._stall, in_doubt=seen.stall.in_doubt))

    @property
    def shared_semaphores(self) -> Semaphores:
        """The semaphores, for another gate that is to use them as well: see `share_semaphores_with`."""
        return self._policy.semaphores

    def set_semaphore(self, semaphore: str, limit: int) -> None:
        """Create a semaphore, or change its limit at once. Running predictions and leases continue. Raises
        ValueError."""
        self._policy.semaphores.set_limit(semaphore, limit)
        self.admit_soon()

    def remove_semaphore(self, semaphore: str) -> None:
        """Forget a semaphore that is not in use, and for which no ticket waits."""
        self._policy.semaphores.remove(semaphore)

    def lease_permit(self, semaphore: str, lease: str, until: float) -> float | None:
        """Lease a permit to another service until a moment of the loop's clock, after which the caller returns it.
        Returns None, or the estimated seconds until there is one: a request that waits goes first, but both sides take
        turns. Raises KeyError for an unknown semaphore."""
        self.step()
        if self._find(semaphore).lease(lease, until, _now()):
            return None
        return self._find(semaphore).retry_after(_now(), mean_held=self.durations.mean_slot())

    def extend_permit(self, semaphore: str, lease: str, until: float) -> None:
        """Change when a lease expires, or add one of an earlier process. Raises KeyError for an unknown semaphore."""
        self._find(semaphore).leases[lease] = until

    def return_permit(self, semaphore: str, lease: str) -> None:
        """A lease was ended or has expired. An unknown lease is ignored."""
        found = self._policy.semaphores.find(semaphore)
        if found is not None and found.leases.pop(lease, None) is not None:
            self.admit_soon()

    def _find(self, semaphore: str) -> Semaphore:
        found = self._policy.semaphores.find(semaphore)
        if found is None:
            raise KeyError(semaphore)
        return found

    def admit(self) -> float:
        self._watch_stall()
        step = self._policy.step(_now())
        grant(step.admitted)
        return step.next_chance

    def finds_permits(self) -> bool:
        return any(each.room(_now()) > 0 for each in self._policy.semaphores.closed)

    def _watch_stall(self) -> None:
        if self._policy.stall.is_on:
            if self._stall_timer is None and not self._stall.is_on:
                loop = asyncio.get_running_loop()
                self._stall_timer = loop.call_later(_STALL_NOTED_AFTER, self._note_stall)
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
        in_doubt, waiting = len(self._policy.stall.in_doubt), len(self._policy.queue)
        log.warning("upstream_stalled", in_doubt=in_doubt, waiting=waiting)


def _now() -> float:
    return asyncio.get_running_loop().time()
