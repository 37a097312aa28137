"""Estimates of a policy: the position of a ticket in the queue, its wait, and how fast slots turn over.

They assume that later turns are equal and that slots are held for as long as recently. Semaphores make them coarser: it
is not known how long other services hold their permits, and which tickets overtake one that waits for a permit.
"""

from collections.abc import Callable

from admission.durations import Durations
from admission.policy import Policy
from admission.semaphores import Semaphore, SemaphoreSnapshot
from admission.sliding_window import WINDOW, SlidingWindow
from admission.snapshot import GateSnapshot, GateStats, StallStats
from admission.unproven import queue_batch


class Estimates:
    """The estimates and figures of a policy, at the moments of a `clock`."""

    def __init__(self, policy: Policy, clock: Callable[[], float]) -> None:
        self._policy = policy
        self._clock = clock

    @property
    def durations(self) -> Durations:
        """How long slots are held."""
        return self._policy.durations

    def statistics(self) -> GateStats:
        now, policy = self._clock(), self._policy
        return GateStats(
            concurrent_limit=policy.concurrent_limit,
            current_concurrent=policy.in_flight,
            waiting=len(policy.queue),
            requests_per_minute_limit=policy.window.limit,
            current_rate_per_minute=policy.window.used(now),
            paused_seconds=policy.queue.longest_pause(now),
            stall=StallStats(in_doubt=len(policy.stall.in_doubt)),
            booting=policy.boots.booting,
        )

    def snapshot(self, semaphore: str | None = None, caller: str | None = None) -> GateSnapshot:
        """The state that `forecast.plan` starts from, if it is for work of this caller that names this semaphore."""
        return self._policy.snapshot(self._clock(), semaphore, caller)

    def semaphores(self) -> list[SemaphoreSnapshot]:
        return [each.snapshot() for each in self._policy.semaphores]

    def semaphore(self, semaphore: str) -> SemaphoreSnapshot | None:
        found = self._policy.semaphores.find(semaphore)
        return None if found is None else found.snapshot()

    def estimated_wait(
        self,
        caller: str,
        batch: str | None,
        ahead: int,
        semaphore: str | None = None,
        *,
        usual: float,
        bound: int | None = None,
        boots: str | None = None,
    ) -> float:
        """Estimate the seconds until a ticket is admitted that has `ahead` tickets of its own flow before it.

        `usual` is how long such a generation takes, in seconds; before any slot was released, it is also taken for how
        long a slot is held. `bound` is the `max_concurrent` of the batch, and `boots` the version that may have to
        boot."""
        now, policy = self._clock(), self._policy
        policy.update(now)
        reserve, window = policy.reserve, policy.window
        position = self.queue_position(caller, batch, ahead, semaphore)
        batch = queue_batch(caller, batch)
        named = policy.semaphores.find(semaphore)
        turns = policy.queue.turns(caller, batch, ahead, semaphore=named)
        free = window.free(now)
        slot_wait = max(0.0, policy.stall.expected_until(now) - now)
        slot_wait += max(0, position - policy.free_slots()) * self._turnover(usual)
        own_wait = 0.0 if bound is None else (ahead + 1) * usual / bound
        if named is not None:
            own_wait = max(own_wait, self._permit_wait(named, caller, batch, ahead, usual))
        own_wait = max(own_wait, self._boot_wait(boots, position), self._limit_wait(caller, turns, usual))
        batched = max(policy.queue.ready_batched(now), ahead + 1 if batch is not None else 0)
        unpaced = max(0, free - reserve.left(now))
        starts = [0.0] * unpaced  # when each free place is taken if only these tickets wait
        starts += [reserve.wait(nth, free, batched, now) for nth in range(1, free - unpaced + 1)]
        if position <= free:
            return max(slot_wait, own_wait, 0.0 if batch is None else starts[position - 1])
        expiries = [min(free_at - now, WINDOW) for free_at in window.free_at()]
        expiries += [start + WINDOW for start in starts]
        windows, index = divmod(position - free - 1, len(expiries))
        is_paced = batch is not None and reserve.places.limit == window.limit
        paced = reserve.wait(position, free, batched, now) if is_paced else 0.0
        return max(slot_wait, own_wait, paced, expiries[index] + windows * WINDOW)

    def queue_position(self, caller: str, batch: str | None, ahead: int, semaphore: str | None = None) -> int:
        """The position in the queue, from 1, of a ticket with `ahead` tickets of its own flow before it, if all later
        turns are equal. The ticket itself need not be in the queue yet. Tickets that need no permit of its semaphore
        count as before it if they will probably be admitted while it waits for one. So do tickets of others if the own
        limits of its caller let it wait."""
        now, policy = self._clock(), self._policy
        queue, batch, named = policy.queue, queue_batch(caller, batch), policy.semaphores.find(semaphore)
        only_reserve = policy.window.free(now) <= policy.reserve.left(now)
        singles_first = batch is None and only_reserve and policy.reserve.singles_first(now)
        turns = queue.turns(caller, batch, ahead, singles_first=singles_first, semaphore=named)
        position = turns + queue.before(caller, turns, now, singles_first=singles_first)
        if wait := self._limit_wait(caller, turns, 0.0):
            own = queue.callers[caller].waiting if caller in queue.callers else 0
            position = max(position, turns + min(len(queue) - own, self._overtaking(wait)))
        if named is None:
            return position
        others = len(queue) - named.waiting
        overtaking = self._overtaking(self._permit_wait(named, caller, batch, ahead, 0.0))
        return max(position, queue.rank(named, caller, batch, ahead) + min(others, overtaking))

    def seconds_per_release(self) -> float:
        """Seconds between two admissions while others wait: by the slower of the window and recent slot times. If
        all waiting tickets name semaphores, only so many slots turn over as these have permits."""
        policy = self._policy
        slots = policy.concurrent_limit
        waited_for = [each for each in policy.semaphores if each.waiting]
        if waited_for and sum(each.waiting for each in waited_for) == len(policy.queue):
            slots = min(slots, sum(_permits(each) for each in waited_for))
        return max(WINDOW / policy.window.limit, policy.durations.mean_slot() / slots)

    def seconds_to_admit(self, caller: str, count: int) -> float:
        """Estimate the seconds until so many of the waiting tickets of a caller are admitted."""
        now, policy = self._clock(), self._policy
        position = count + policy.queue.before(caller, count, now)
        free = max(0, min(policy.free_slots(), policy.window.free(now)))
        shared = max(0, position - free) * self.seconds_per_release()
        return max(shared, self._limit_wait(caller, count, 0.0))

    def _overtaking(self, wait: float) -> int:
        """How many tickets are probably admitted in so many seconds."""
        return int(wait / max(WINDOW / self._policy.window.limit, self._turnover(0.0)))

    def _limit_wait(self, caller: str, turns: int, usual: float) -> float:
        """Estimate the seconds until the own limits of a caller let so many more of its tickets go."""
        now, queue = self._clock(), self._policy.queue
        if (limits := queue.limits.get(caller)) is None:
            return 0.0
        found, wait = queue.callers.get(caller), 0.0
        if (most := limits.max_concurrent) is not None:
            beyond = turns - most + (0 if found is None else found.in_flight)
            wait = max(0, beyond) * max(usual, self._policy.durations.mean_slot(usual)) / most
        if limits.per_minute is not None:
            window = found.window if found is not None and found.window else SlidingWindow(limits.per_minute)
            wait = max(wait, window.wait(turns, now))
        return wait

    def _permit_wait(
        self, semaphore: Semaphore, caller: str, batch: str | None, ahead: int, usual: float
    ) -> float:
        """Estimate the seconds until there is a permit for a ticket. If other services hold all permits, the first one
        returns when its lease expires."""
        now, policy = self._clock(), self._policy
        beyond = policy.queue.rank(semaphore, caller, batch, ahead) - semaphore.room(now)
        if beyond <= 0:
            return 0.0
        held = max(usual, policy.durations.mean_slot(usual))
        leased = len(semaphore.leases) >= semaphore.limit
        first = min(semaphore.leases.values(), default=now) - now if leased else 0.0
        return max(0.0, first) + beyond * held / _permits(semaphore)

    def _boot_wait(self, version: str | None, position: int) -> float:
        """Estimate the seconds until the boot of a version has room for a ticket at this position in the queue."""
        boots = self._policy.boots
        if (boot := boots.find(version)) is None:
            return 0.0
        beyond = min(position, max(1, boot.waiting)) - boot.room
        return max(0, beyond) * boots.usual_wait(boot.version) / boot.limit

    def _turnover(self, usual: float) -> float:
        """Seconds from one release of a slot to the next while all are held."""
        return self._policy.durations.mean_slot(usual) / self._policy.concurrent_limit


def _permits(semaphore: Semaphore) -> int:
    """How many permits tickets may use while other services keep theirs, but at least one."""
    return max(1, semaphore.limit - len(semaphore.leases))
