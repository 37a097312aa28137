"""Estimates of a policy: the position of a ticket in the queue, its wait, and how fast slots turn over.

They assume that later turns are equal and that slots are held for as long as recently. Semaphores make them coarser: it
is not known how long other services hold their permits, and which tickets overtake one that waits for a permit.
"""

from admission.policy import Policy
from admission.semaphores import Semaphore
from admission.sliding_window import WINDOW
from admission.unproven import queue_batch


def estimated_wait(
    policy: Policy,
    caller: str,
    batch: str | None,
    ahead: int,
    *,
    usual: float,
    bound: int | None = None,
    semaphore: str | None = None,
    now: float,
) -> float:
    """Estimate the seconds until a ticket is admitted that has `ahead` tickets of its own flow before it.

    `usual` is how long such a generation takes, in seconds; before any slot was released, it is also taken for how
    long a slot is held. `bound` is the `max_concurrent` of the batch."""
    policy.update(now)
    reserve, window = policy.reserve, policy.window
    position = queue_position(policy, caller, batch, ahead, semaphore=semaphore, now=now)
    batch = queue_batch(caller, batch)
    free = window.free(now)
    slot_wait = max(0.0, policy.stall.expected_until(now) - now)
    slot_wait += max(0, position - policy.free_slots()) * _turnover(policy, usual)
    own_wait = 0.0 if bound is None else (ahead + 1) * usual / bound
    if (named := policy.semaphores.find(semaphore)) is not None:
        own_wait = max(own_wait, _permit_wait(policy, named, caller, batch, ahead, usual, now))
    wanted = max(policy.queue.batched, ahead + 1 if batch is not None else 0)
    unpaced = max(0, free - reserve.left(now))
    starts = [0.0] * unpaced  # when each free place is taken if only these tickets wait
    starts += [reserve.wait(nth, free, wanted, now) for nth in range(1, free - unpaced + 1)]
    if position <= free:
        return max(slot_wait, own_wait, 0.0 if batch is None else starts[position - 1])
    expiries = [min(free_at - now, WINDOW) for free_at in window.free_at()]
    expiries += [start + WINDOW for start in starts]
    windows, index = divmod(position - free - 1, len(expiries))
    is_paced = batch is not None and reserve.places.limit == window.limit
    paced = reserve.wait(position, free, wanted, now) if is_paced else 0.0
    return max(slot_wait, own_wait, paced, expiries[index] + windows * WINDOW)


def queue_position(
    policy: Policy, caller: str, batch: str | None, ahead: int, *, semaphore: str | None = None, now: float
) -> int:
    """The position in the queue, from 1, of a ticket with `ahead` tickets of its own flow before it, if all later
    turns are equal. The ticket itself need not be in the queue yet. Tickets that need no permit of its semaphore
    count as before it if they will probably be admitted while it waits for one."""
    queue, batch, named = policy.queue, queue_batch(caller, batch), policy.semaphores.find(semaphore)
    only_reserve = policy.window.free(now) <= policy.reserve.left(now)
    singles_first = batch is None and only_reserve and policy.reserve.singles_first(now)
    position = queue.position(caller, batch, ahead, singles_first=singles_first, semaphore=named)
    if named is None:
        return position
    wait = _permit_wait(policy, named, caller, batch, ahead, 0.0, now)
    overtaken = int(wait / max(WINDOW / policy.window.limit, _turnover(policy, 0.0)))
    others = len(queue) - named.waiting
    return max(position, queue.rank(named, caller, batch, ahead) + min(others, overtaken))


def seconds_per_release(policy: Policy) -> float:
    """Seconds between two admissions while others wait: by the slower of the window and recent slot times. If
    all waiting tickets name semaphores, only so many slots turn over as these have permits."""
    slots = policy.concurrent_limit
    waited_for = [each for each in policy.semaphores if each.waiting]
    if waited_for and sum(each.waiting for each in waited_for) == len(policy.queue):
        slots = min(slots, sum(_permits(each) for each in waited_for))
    return max(WINDOW / policy.window.limit, policy.durations.mean_slot() / slots)


def _permit_wait(
    policy: Policy,
    semaphore: Semaphore,
    caller: str,
    batch: str | None,
    ahead: int,
    usual: float,
    now: float,
) -> float:
    """Estimate the seconds until there is a permit for a ticket. If other services hold all permits, the first one
    returns when its lease expires."""
    beyond = policy.queue.rank(semaphore, caller, batch, ahead) - semaphore.room(now)
    if beyond <= 0:
        return 0.0
    held = max(usual, policy.durations.mean_slot(usual))
    leased = len(semaphore.leases) >= semaphore.limit
    first = min(semaphore.leases.values(), default=now) - now if leased else 0.0
    return max(0.0, first) + beyond * held / _permits(semaphore)


def _permits(semaphore: Semaphore) -> int:
    """How many permits tickets may use while other services keep theirs, but at least one."""
    return max(1, semaphore.limit - len(semaphore.leases))


def _turnover(policy: Policy, usual: float) -> float:
    """Seconds from one release of a slot to the next while all are held."""
    return policy.durations.mean_slot(usual) / policy.concurrent_limit
