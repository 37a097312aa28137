"""The parts that the forecasts of creations and of calls share: drawn durations, and events on a simulated clock."""

import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from statistics import fmean
from typing import Final

from admission.durations import Durations, Took
from admission.semaphores import Semaphores, SemaphoreSnapshot

_SIMULATED: Final = 2_000
_MOST_SIMULATIONS: Final = 50
"""A forecast takes 1 to `_MOST_SIMULATIONS` draws of all durations, with about `_SIMULATED` admissions in all."""


def simulated(
    items: Sequence[tuple[str, float]],
    durations: Durations,
    run: Callable[[tuple[Took, ...]], tuple[float, int]],
    *,
    waiting: int,
) -> tuple[float, int]:
    """Simulate a batch with drawn durations, beside so many `waiting` tickets. An item is its model, and the seconds
    that it usually takes, which count until its model has been measured. `run` simulates one draw, and returns the
    seconds until the last item ends and how many items are admitted at once. Returns the mean of these seconds, and
    that number for the first draw."""
    chance = random.Random(0)  # noqa: S311 - equal requests get equal plans
    expected = {model: durations.of(model) or (Took(usual),) for model, usual in items}
    runs = max(1, min(_MOST_SIMULATIONS, _SIMULATED // max(1, len(items) + waiting)))
    drawn = [tuple(chance.choice(expected[model]) for model, _ in items) for _ in range(runs)]
    # Equal draws have equal outcomes. Until a model of the batch has been measured, all draws are equal.
    outcomes = {draws: run(draws) for draws in dict.fromkeys(drawn)}
    return fmean(outcomes[draws][0] for draws in drawn), outcomes[drawn[0]][1]


class SimulatedClock:
    """The present moment `now` of a simulation, and its later events. Simultaneous events happen in the order in which
    they were added."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = count()

    def after(self, seconds: float, happen: Callable[[], object]) -> None:
        """Let this happen in so many seconds, or now if they are negative."""
        heappush(self._events, (self.now + max(0.0, seconds), next(self._serial), happen))

    def next_event(self) -> float:
        """The moment of the next event; infinity: there is none."""
        return self._events[0][0] if self._events else math.inf

    def advance_to(self, moment: float) -> None:
        """Let all happen until this moment."""
        self.now = moment
        while self._events and self._events[0][0] <= moment:
            heappop(self._events)[-1]()

    def copy_semaphore(self, seen: SemaphoreSnapshot, to: Semaphores) -> None:
        """Add a semaphore in the state of a snapshot. The leases of other services end when they expire."""
        to.set_limit(seen.id, seen.limit)
        semaphore = to.find(seen.id)
        for number, until in enumerate(seen.lease_ends):
            if semaphore is not None:
                semaphore.leases[str(number)] = until
                self.after(until - self.now, partial(semaphore.leases.pop, str(number)))
