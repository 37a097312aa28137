"""Forecasts: how long a batch will take before anything is spent, and how long a running generation still needs.

`plan` runs the batch through a second `Policy` on a simulated clock, starting from a snapshot of the gate. It does not
touch the gate, so any thread may run it.

- **Durations are drawn, not averaged**, from the latest of each item's model. A batch ends with its slowest item, which
  a mean hides. The random generator has a fixed seed, so equal requests get equal plans. A small batch, in which one
  draw matters, is simulated many times.
- **Progress is spread evenly** over the predictions in flight, since it is not known.
- **Boots** are simulated for versions whose latest predictions waited for one, for as long as they usually did.
- **Other services** return a permit of a semaphore when its lease expires. They may renew it, or return it earlier.
- **Failures are left out.** A batch that needs retries, fallbacks or pauses takes longer than planned.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from statistics import fmean
from typing import Any, Final, Literal, TypeAlias

from admission.admitted import Step
from admission.durations import Durations, Took
from admission.fair_queue import FlowSnapshot
from admission.policy import Policy
from admission.simulation import SimulatedClock, simulated
from admission.sliding_window import WINDOW
from admission.snapshot import GateSnapshot

Strategy = Literal["immediate", "window", "queue"]

_Ticket: TypeAlias = tuple[int, int]

_OVERDUE: Final = 0.1
"""The part of its usual time that an overdue generation is assumed to need still."""

_NEWCOMER: Final = ""
"""The planned batch; no real batch has this name."""


@dataclass(frozen=True, slots=True)
class Item:
    """One generation to plan. `usual_seconds` counts until a generation of its model has been measured. `boots` is the
    version that may have to boot."""

    model: str
    usual_seconds: float
    cost_usd: float
    credits: int
    boots: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """The forecast of a batch. `strategy` is `immediate` if all items start at once, `queue` if there are more items
    than places in a window, and otherwise `window`."""

    strategy: Strategy
    seconds: float
    cost_usd: float
    credits: int


def seconds_left(usual: float, *, held: float) -> float:
    """The remaining seconds of a generation that usually takes `usual` seconds and has held its slot for `held`."""
    return max(usual - held, usual * _OVERDUE)


def plan(
    items: Sequence[Item],
    seen: GateSnapshot,
    durations: Durations,
    *,
    caller: str,
    max_concurrent: int | None,
    semaphore: str | None = None,
) -> Plan:
    """Forecast these items, in this order, as one batch that this caller submits now, with at most `max_concurrent` in
    flight and a permit of the `semaphore` for each. Any thread may call it."""
    boots = [item.boots for item in items]
    seconds, at_once = simulated(
        [(item.model, item.usual_seconds) for item in items],
        durations,
        lambda draws: Simulation(draws, seen, caller, max_concurrent, semaphore, boots).run(),
        waiting=sum(flow.waiting for flow in seen.flows),
    )
    return Plan(
        strategy=_strategy(len(items), seen, at_once=at_once),
        seconds=seconds,
        cost_usd=round(math.fsum(item.cost_usd for item in items), 6),
        credits=sum(item.credits for item in items),
    )


def _strategy(items: int, seen: GateSnapshot, *, at_once: int) -> Strategy:
    if items > seen.requests_per_minute:
        return "queue"
    others_wait = any(flow.waiting for flow in seen.flows)
    return "immediate" if at_once == items and not others_wait else "window"


class Simulation:
    """One simulated run of the batch. `draws` are the durations of its items, in input order, and `boots` the versions
    that may have to boot for them.

    A ticket is the number of its flow and its number in that flow. The last flow is the batch. In an event, a ticket
    starts or ends, or is answered, which ends the caution of its caller, or the lease of another service expires.
    """

    def __init__(
        self,
        draws: Sequence[Took],
        seen: GateSnapshot,
        caller: str,
        max_concurrent: int | None,
        semaphore: str | None = None,
        boots: Sequence[str | None] = (),
    ) -> None:
        self._began = self._end = seen.now
        self._clock = SimulatedClock(seen.now)
        self._draws = draws
        self._left = len(draws)
        self._own = len(seen.flows)
        self._answer = fmean([took.answered for took in draws] or [0.0])
        self._held = seen.held or [took.held for took in draws] or [0.0]
        self._chance = random.Random(1)  # noqa: S311 - others change no draw of the batch's
        self._paused = seen.paused_until
        self._waits = seen.boots
        self._version: dict[_Ticket, str] = {}
        self._callers = [*(flow.caller for flow in seen.flows), caller]
        durations = Durations()
        for held in seen.held:
            durations.note_slot(held)
        self._policy = Policy(
            concurrent_limit=seen.concurrent_limit,
            requests_per_minute=seen.requests_per_minute,
            interactive_reserve=seen.reserve.share,
            durations=durations,
        )
        for each in seen.semaphores:
            self._clock.copy_semaphore(each, self._policy.semaphores)
        for number, flow in enumerate(seen.flows):
            self._add(number, flow)
        answers_again = max(seen.now, seen.stalled_until)
        self._policy.restore(seen, unanswered=answers_again + self._answer + WINDOW)
        limits = {"batch": _NEWCOMER, "max_concurrent": max_concurrent, "semaphore": semaphore}
        self._enqueue(self._own, boots or [None] * len(draws), caller, **limits)

    def run(self) -> tuple[float, int]:
        """The seconds until the last item has ended, and how many items were admitted at once."""
        step = self._step()
        at_once = len(self._draws) - self._left
        while self._left:
            # If only time helps, the next place to expire may be one that this step admitted.
            first = (
                self._policy.window.next_expiry()
                if step.only_time or self._clock.next_event() == math.inf
                else self._clock.next_event()
            )
            # The same holds for a caller at its own limit.
            first = min(first, self._policy.queue.parked.next_room())
            self._clock.advance_to(min(step.next_chance, first))
            step = self._step()
        return self._end - self._began, at_once

    def _add(self, number: int, flow: FlowSnapshot) -> None:
        usual = fmean(self._held)
        for running, version in enumerate(flow.running()):
            ticket = (number, flow.waiting + running)
            left = usual * (running + 0.5) / flow.in_flight
            self._policy.adopt(
                ticket,
                flow.caller,
                batch=flow.batch,
                semaphore=flow.semaphore,
                boots=version,
                now=self._clock.now + left - usual,
            )
            if version is not None:
                wait = self._waits.get(version, 0.0) * (running + 0.5) / flow.in_flight
                self._start_after(min(wait, left), ticket)
            self._clock.after(left, partial(self._policy.release, ticket, self._clock.now + left))
        limits = {"batch": flow.batch, "max_concurrent": flow.max_concurrent, "semaphore": flow.semaphore}
        self._enqueue(number, flow.queued(), flow.caller, **limits)

    def _enqueue(self, flow: int, versions: Iterable[str | None], caller: str, **limits: Any) -> None:
        """Add the tickets of a flow, each with the version that may have to boot for it."""
        for version, tickets in groupby(enumerate(versions), key=itemgetter(1)):
            together = [(flow, number) for number, _ in tickets]
            if version is not None:
                self._version.update(dict.fromkeys(together, version))
            self._policy.enqueue(together, caller, boots=version, **limits)

    def _step(self) -> Step:
        """Admit every ticket that may go now, and schedule its answer, its start and its end."""
        step = self._policy.step(self._clock.now)
        for ticket in step.admitted:
            flow, number = ticket
            version = self._version.get(ticket)
            wait = 0.0 if version is None else self._waits.get(version, 0.0)
            if flow == self._own:
                took = self._draws[number]
                answered = took.answered
                held = took.held + max(0.0, wait - answered)
                self._left -= 1
                self._end = max(self._end, self._clock.now + held + took.after)
            else:
                held = self._chance.choice(self._held)
                answered = min(held, self._answer)
            self._policy.answered(ticket, self._clock.now + answered)
            if self._paused:
                self._clock.after(
                    answered, partial(self._policy.proceed, self._callers[flow], self._clock.now + answered)
                )
            if version is not None:
                self._start_after(min(wait, held), ticket)
            self._clock.after(held, partial(self._policy.release, ticket, self._clock.now + held))
        return step

    def _start_after(self, seconds: float, ticket: _Ticket) -> None:
        self._clock.after(seconds, partial(self._policy.started, ticket, self._clock.now + seconds))
