"""Forecasts: how long a batch will take before anything is spent, and how long a running generation still needs.

`plan` runs the batch through a copy of the gate's own `Policy` on a simulated clock. It starts from `Policy.snapshot`,
taken on the loop, and does not touch the gate, so any thread may run it. Two choices make it good:

- **A duration is drawn, not averaged.** A batch ends with its slowest item, which a mean hides. Each item gets one of
  its model's latest durations. The random generator has a fixed seed, so the same question has the same answer. A small
  batch, in which one draw weighs much, is simulated many times.
- **Unknown progress is spread evenly** over the generations in flight. Failures are left out: a batch that needs
  retries, fallbacks or pauses takes longer than its plan says.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from statistics import fmean
from typing import Final, Literal

from admission.durations import Durations, Took
from admission.fair_queue import Line
from admission.policy import Policy, Step
from admission.sliding_window import WINDOW
from admission.snapshot import GateSnapshot

Strategy = Literal["immediate", "window", "queue"]

_SIMULATED: Final = 2_000
_MOST_SIMULATIONS: Final = 50
"""A plan simulates about `_SIMULATED` admissions in all. It runs the batch at least once, at most `_MOST_SIMULATIONS`
times."""

_OVERDUE: Final = 0.1
"""A generation that has exceeded its usual time is taken to need this part of that time more."""

_NEWCOMER: Final = ""
"""The batch that is planned; no real one has this name."""


@dataclass(frozen=True, slots=True)
class Item:
    """The facts of one generation that a plan needs. `usual_seconds` is believed until one was measured."""

    model: str
    usual_seconds: float
    cost_usd: float
    credits: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a batch will go: `immediate` if all of it starts at once, `queue` if it takes more than a window has,
    `window` if it has to wait otherwise."""

    strategy: Strategy
    seconds: float
    cost_usd: float
    credits: int


def seconds_left(usual: float, *, held: float) -> float:
    """Seconds until the end of a generation that usually takes `usual` seconds and has held its slot for `held`."""
    return max(usual - held, usual * _OVERDUE)


def plan(
    items: Sequence[Item],
    seen: GateSnapshot,
    durations: Durations,
    *,
    caller: str,
    max_concurrent: int | None,
) -> Plan:
    """Forecast these items, in this order, as one batch that this caller submits now, with at most `max_concurrent` in
    flight. In any thread."""
    chance = random.Random(0)  # noqa: S311 - the same question has the same answer
    expected = {item.model: durations.of(item.model) or (Took(item.usual_seconds),) for item in items}
    admissions = len(items) + sum(line.waiting for line in seen.lines)
    runs = [
        Simulation(
            [chance.choice(expected[item.model]) for item in items], seen, caller, max_concurrent
        ).run()
        for _ in range(max(1, min(_MOST_SIMULATIONS, _SIMULATED // max(1, admissions))))
    ]
    return Plan(
        strategy=_strategy(len(items), seen, at_once=runs[0][1]),
        seconds=fmean(seconds for seconds, _ in runs),
        cost_usd=round(math.fsum(item.cost_usd for item in items), 6),
        credits=sum(item.credits for item in items),
    )


def _strategy(items: int, seen: GateSnapshot, *, at_once: int) -> Strategy:
    if items > seen.requests_per_minute:
        return "queue"
    others_wait = any(line.waiting for line in seen.lines)
    return "immediate" if at_once == items and not others_wait else "window"


class Simulation:
    """One way the batch may go: `draws` are the durations of its items, in input order.

    A ticket is the number of its line, of which the last is the batch, and its own number in that.
    """

    def __init__(
        self, draws: Sequence[Took], seen: GateSnapshot, caller: str, max_concurrent: int | None
    ) -> None:
        self._began = self._now = self._end = seen.now
        self._draws = draws
        self._left = len(draws)
        self._own = len(seen.lines)
        self._answer = fmean([took.answered for took in draws] or [0.0])
        self._held = seen.held or [took.held for took in draws] or [0.0]
        self._chance = random.Random(1)  # noqa: S311 - others change no draw of the batch's
        self._events: list[tuple[float, int, bool, tuple[int, int]]] = []
        """The moment; a serial number, which keeps events of one moment in order; whether the ticket is over then; and
        the ticket. A ticket that is not over is answered, which ends its caller's caution."""
        self._serial = count()
        self._paused = seen.paused_until
        self._callers = [*(line.caller for line in seen.lines), caller]
        durations = Durations()
        for held in seen.held:
            durations.note_slot(held)
        self._policy = Policy(
            concurrent_limit=seen.concurrent_limit,
            requests_per_minute=seen.requests_per_minute,
            interactive_reserve=seen.reserve.share,
            durations=durations,
        )
        for number, line in enumerate(seen.lines):
            self._bring_in(number, line)
        answers_again = max(seen.now, seen.stalled_until)
        self._policy.restore(seen, unanswered=answers_again + self._answer + WINDOW)
        own = ((self._own, item) for item in range(len(draws)))
        self._policy.enqueue(own, caller, batch=_NEWCOMER, max_concurrent=max_concurrent)

    def run(self) -> tuple[float, int]:
        """Seconds until the last item has ended, and how many items were admitted at once."""
        step = self._step()
        at_once = len(self._draws) - self._left
        while self._left:
            # Tickets that this step admitted are answered after it: their places may be free again first.
            first = (
                self._policy.window.next_expiry()
                if step.only_time or not self._events
                else self._events[0][0]
            )
            self._pass_until(min(step.next_chance, first))
            step = self._step()
        return self._end - self._began, at_once

    def _bring_in(self, number: int, line: Line) -> None:
        usual = fmean(self._held)
        for running in range(line.in_flight):
            ticket = (number, line.waiting + running)
            left = usual * (running + 0.5) / line.in_flight
            self._policy.adopt(ticket, line.caller, batch=line.batch, now=self._now + left - usual)
            self._after(left, ticket, is_over=True)
        self._policy.enqueue(
            ((number, waiting) for waiting in range(line.waiting)),
            line.caller,
            batch=line.batch,
            max_concurrent=line.max_concurrent,
        )

    def _step(self) -> Step:
        """Admit all that may go."""
        step = self._policy.step(self._now)
        for ticket in step.admitted:
            line, number = ticket
            if line == self._own:
                took = self._draws[number]
                held, answered = took.held, took.answered
                self._left -= 1
                self._end = max(self._end, self._now + held + took.after)
            else:
                held = self._chance.choice(self._held)
                answered = min(held, self._answer)
            self._policy.answered(ticket, self._now + answered)
            if self._paused:
                self._after(answered, ticket, is_over=False)
            self._after(held, ticket, is_over=True)
        return step

    def _after(self, seconds: float, ticket: tuple[int, int], *, is_over: bool) -> None:
        heappush(self._events, (self._now + seconds, next(self._serial), is_over, ticket))

    def _pass_until(self, moment: float) -> None:
        self._now = moment
        while self._events and self._events[0][0] <= moment:
            at, _, is_over, ticket = heappop(self._events)
            if is_over:
                self._policy.release(ticket, at)
            else:
                self._policy.proceed(self._callers[ticket[0]], at)
