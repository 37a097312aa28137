"""Forecasts of batches of metered calls: as `admission.forecast`, the batch runs through a second policy on a simulated
clock, from a snapshot of its account.

Other accounts are left out. Turns start equal, in their present order. Waiting tickets of others weigh as much as they
reserve, and those of the batch as much as is expected.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Final, TypeAlias

from admission.durations import Durations, Took
from admission.forecast import Plan, Strategy
from admission.metered.demand import Demand
from admission.metered.limits import MICRO
from admission.metered.policy import MeteredPolicy
from admission.metered.snapshot import MeteredSnapshot
from admission.semaphores import Semaphores
from admission.simulation import SimulatedClock, simulated

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
    seconds, at_once = simulated(
        [(each.demand.model, each.usual_seconds) for each in items],
        durations,
        lambda draws: Simulation(items, draws, seen).run(),
        waiting=sum(waiting for _, waiting in seen.waiting),
    )
    return Plan(
        strategy=_strategy(items, seen, at_once=at_once),
        seconds=seconds,
        cost_usd=round(math.fsum(each.cost_usd for each in items), 6),
        credits=0,
    )


def _strategy(items: Sequence[MeteredItem], seen: MeteredSnapshot, *, at_once: int) -> Strategy:
    if any(len(items) > seen.limits.of(each.demand.model).rpm for each in items):
        return "queue"
    return "immediate" if at_once == len(items) and not seen.waiting else "window"


class Simulation:
    """One simulated run of the batch. `draws` are the durations of its items. In an event, a ticket is answered or
    ends, or the lease of another service expires."""

    def __init__(self, items: Sequence[MeteredItem], draws: Sequence[Took], seen: MeteredSnapshot) -> None:
        self._began = self._end = seen.now
        self._clock = SimulatedClock(seen.now)
        self._items = items
        self._draws = draws
        self._left = len(items)
        self._day_ends = seen.day_ends
        self._answer = fmean([took.answered for took in draws] or [0.0])
        self._held = seen.held or tuple(took.held for took in draws) or (0.0,)
        self._chance = random.Random(1)  # noqa: S311 - others change no draw of the batch's
        self._policy = MeteredPolicy(
            concurrent_limit=seen.concurrent_limit,
            limits=seen.limits,
            day_ends=self._end_of_day,
            semaphores=Semaphores(),
            durations=Durations(),
        )
        self._restore(seen)
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
            moment = min(wake, self._clock.next_event())
            if moment == math.inf:  # a model or the account stays closed
                return math.inf, at_once
            self._clock.advance_to(moment)
            wake = self._step()
        return self._end - self._began, at_once

    def _restore(self, seen: MeteredSnapshot) -> None:
        """Copy the semaphores, the own limits, the windows, and the closings. Calls without an answer are answered
        after the usual time."""
        for each in seen.semaphores:
            self._clock.copy_semaphore(each, self._policy.semaphores)
        for caller, own in seen.own_limits.items():
            self._policy.limit_caller(caller, max_concurrent=own.max_concurrent, per_minute=own.per_minute)
        self._policy.account(seen.account).restore(seen, answered=seen.now + self._answer)

    def _run_on(self, seen: MeteredSnapshot) -> None:
        """Let the running calls end. How far they are is not known, so they are spread evenly."""
        for number, demand in enumerate(seen.running):
            ticket = (-1, number)
            self._policy.adopt(ticket, demand, self._clock.now, sent=self._clock.now, is_counted=True)
            left = fmean(self._held) * (number + 0.5) / len(seen.running)
            self._policy.answered(ticket, self._clock.now)
            self._clock.after(left, partial(self._finish, ticket, 0))

    def _step(self) -> float:
        """Admit every ticket that may go now, and schedule its answer and its end."""
        step = self._policy.step(self._clock.now)
        for ticket in step.admitted:
            flow, number = ticket
            if flow == 0:
                item, took = self._items[number], self._draws[number]
                self._left -= 1
                self._end = max(self._end, self._clock.now + took.held + took.after)
                self._clock.after(took.answered, partial(self._answered, ticket, item.tokens))
                self._clock.after(took.held, partial(self._finish, ticket, round(item.cost_usd * MICRO)))
            else:
                held = self._chance.choice(self._held)
                self._clock.after(min(held, self._answer), partial(self._answered, ticket, None))
                self._clock.after(held, partial(self._finish, ticket, None))
        return step.next_chance

    def _answered(self, ticket: _Ticket, tokens: int | None) -> None:
        self._policy.answered(ticket, self._clock.now)
        self._policy.proceed(ticket)
        if tokens is not None:
            self._policy.measured(ticket, tokens)

    def _finish(self, ticket: _Ticket, micro_usd: int | None) -> None:
        if micro_usd is not None:
            self._policy.settled(ticket, micro_usd, self._clock.now)
        self._policy.release(ticket, self._clock.now)

    def _end_of_day(self, moment: float) -> float:
        return self._day_ends + max(0, math.floor((moment - self._day_ends) / _DAY) + 1) * _DAY
