"""Forecasts of batches of metered calls: as `admission.forecast`, the batch runs through a second policy on a simulated
clock, from a snapshot of its account.

Other accounts are left out. Turns start equal, in their present order. Waiting tickets of others weigh as much as they
reserve, and those of the batch as much as is expected.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from statistics import fmean
from typing import Final, TypeAlias

from admission.durations import Durations, Took
from admission.forecast import Plan, Strategy
from admission.metered.accounts import MONEY_WINDOW
from admission.metered.demand import Demand
from admission.metered.limits import MICRO
from admission.metered.policy import MeteredPolicy
from admission.metered.snapshot import MeteredSnapshot
from admission.metered.windows import WeightedWindow
from admission.semaphores import Semaphores
from admission.sliding_window import WINDOW

_SIMULATED: Final = 2_000
_MOST_SIMULATIONS: Final = 50
"""A plan takes 1 to `_MOST_SIMULATIONS` draws of all durations, with about `_SIMULATED` admissions in all."""

_DAY: Final = 86_400.0
"""Seconds of a day after the present one."""

_Ticket: TypeAlias = tuple[int, int]
"""A flow and the number in it. Flow 0 is the planned batch."""


@dataclass(frozen=True, slots=True)
class MeteredItem:
    """One call to plan. It reserves its `demand`, and is expected to have so many `tokens` and to cost `cost_usd`.
    `usual_seconds` counts until a call to its model has been measured."""

    demand: Demand
    tokens: int
    usual_seconds: float
    cost_usd: float


def plan(items: Sequence[MeteredItem], seen: MeteredSnapshot, durations: Durations) -> Plan:
    """Forecast these calls, in this order, as one batch that is submitted now. All have the same caller, account and
    batch. Any thread may call it."""
    chance = random.Random(0)  # noqa: S311 - equal requests get equal plans
    expected = {
        each.demand.model: durations.of(each.demand.model) or (Took(each.usual_seconds),) for each in items
    }
    admissions = len(items) + sum(waiting for _, waiting in seen.waiting)
    runs = max(1, min(_MOST_SIMULATIONS, _SIMULATED // max(1, admissions)))
    drawn = [tuple(chance.choice(expected[each.demand.model]) for each in items) for _ in range(runs)]
    outcomes = {draws: Simulation(items, draws, seen).run() for draws in dict.fromkeys(drawn)}
    return Plan(
        strategy=_strategy(items, seen, at_once=outcomes[drawn[0]][1]),
        seconds=fmean(outcomes[draws][0] for draws in drawn),
        cost_usd=round(math.fsum(each.cost_usd for each in items), 6),
        credits=0,
    )


def _strategy(items: Sequence[MeteredItem], seen: MeteredSnapshot, *, at_once: int) -> Strategy:
    if any(len(items) > seen.limits.of(each.demand.model).rpm for each in items):
        return "queue"
    return "immediate" if at_once == len(items) and not seen.waiting else "window"


class Simulation:
    """One simulated run of the batch. `draws` are the durations of its items.

    An event is its moment, a serial number that keeps simultaneous events in order, and the event: a ticket is answered
    or ends.
    """

    def __init__(self, items: Sequence[MeteredItem], draws: Sequence[Took], seen: MeteredSnapshot) -> None:
        self._began = self._now = self._end = seen.now
        self._items = items
        self._draws = draws
        self._left = len(items)
        self._day_ends = seen.day_ends
        self._answer = fmean([took.answered for took in draws] or [0.0])
        self._held = seen.held or tuple(took.held for took in draws) or (0.0,)
        self._chance = random.Random(1)  # noqa: S311 - others change no draw of the batch's
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = count()
        self._policy = MeteredPolicy(
            concurrent_limit=seen.concurrent_limit,
            limits=seen.limits,
            day_ends=self._end_of_day,
            semaphores=Semaphores(),
            durations=Durations(),
        )
        self._open(seen)
        self._run_on(seen)
        for flow, (demand, waiting) in enumerate(seen.waiting, start=1):
            for number in range(waiting):
                self._policy.enqueue((flow, number), demand)
        for number, item in enumerate(items):
            self._policy.enqueue((0, number), item.demand)

    def run(self) -> tuple[float, int]:
        """The seconds until the last item has ended, and how many items were admitted at once."""
        wake = self._step()
        at_once = len(self._items) - self._left
        while self._left:
            moment = min(wake, self._events[0][0] if self._events else math.inf)
            if moment == math.inf:  # what is closed has no end
                return math.inf, at_once
            self._advance_to(moment)
            wake = self._step()
        return self._end - self._began, at_once

    def _open(self, seen: MeteredSnapshot) -> None:
        """Copy the semaphores, the own limits, the windows, and what is closed."""
        for each in seen.semaphores:
            self._policy.semaphores.set_limit(each.id, each.limit)
            semaphore = self._policy.semaphores.find(each.id)
            for number, until in enumerate(each.lease_ends):
                if semaphore is not None:
                    semaphore.leases[str(number)] = until
                    self._after(until - seen.now, partial(semaphore.leases.pop, str(number)))
        for caller, own in seen.own_limits.items():
            self._policy.limit_caller(caller, max_concurrent=own.max_concurrent, per_minute=own.per_minute)
        account = self._policy.account(seen.account)
        self._fill(account.money.window, seen.money, MONEY_WINDOW)
        for model, copied in seen.lanes.items():
            lane = account.lane(model)
            self._fill(lane.places, copied.places, WINDOW)
            self._fill(lane.tokens.window, copied.tokens, WINDOW)
            self._fill(lane.day, copied.day, seen.day_ends - seen.now)
            if copied.closed is not None:
                self._policy.close(seen.account, model, copied.closed.until, copied.closed.why)
        if seen.closed is not None:
            self._policy.close(seen.account, None, seen.closed.until, seen.closed.why)

    def _fill(self, window: WeightedWindow, weights: dict[float, int], span: float) -> None:
        """Copy a window. What has no answer is answered after the usual time."""
        for moment, weight in weights.items():
            window.add(weight, moment if moment < math.inf else self._now + self._answer + span)

    def _run_on(self, seen: MeteredSnapshot) -> None:
        """Let the running calls end. How far they are is not known, so they are spread evenly."""
        for number, demand in enumerate(seen.running):
            ticket = (-1, number)
            self._policy.adopt(ticket, demand, self._now, sent=self._now, is_counted=True)
            left = fmean(self._held) * (number + 0.5) / len(seen.running)
            self._policy.answered(ticket, self._now)
            self._after(left, partial(self._finish, ticket, 0))

    def _step(self) -> float:
        """Admit every ticket that may go now, and schedule its answer and its end."""
        step = self._policy.step(self._now)
        for ticket in step.admitted:
            flow, number = ticket
            if flow == 0:
                item, took = self._items[number], self._draws[number]
                self._left -= 1
                self._end = max(self._end, self._now + took.held + took.after)
                self._after(took.answered, partial(self._answered, ticket, item.tokens))
                self._after(took.held, partial(self._finish, ticket, round(item.cost_usd * MICRO)))
            else:
                held = self._chance.choice(self._held)
                self._after(min(held, self._answer), partial(self._answered, ticket, None))
                self._after(held, partial(self._finish, ticket, None))
        return step.next_chance

    def _answered(self, ticket: _Ticket, tokens: int | None) -> None:
        self._policy.answered(ticket, self._now)
        self._policy.proceed(ticket)
        if tokens is not None:
            self._policy.measured(ticket, tokens)

    def _finish(self, ticket: _Ticket, micro_usd: int | None) -> None:
        if micro_usd is not None:
            self._policy.settled(ticket, micro_usd, self._now)
        self._policy.release(ticket, self._now)

    def _end_of_day(self, moment: float) -> float:
        return self._day_ends + max(0, math.floor((moment - self._day_ends) / _DAY) + 1) * _DAY

    def _after(self, seconds: float, happen: Callable[[], object]) -> None:
        heappush(self._events, (self._now + max(0.0, seconds), next(self._serial), happen))

    def _advance_to(self, moment: float) -> None:
        self._now = moment
        while self._events and self._events[0][0] <= moment:
            heappop(self._events)[-1]()
