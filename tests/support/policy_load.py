"""Runs a policy under load in virtual time: batches, single calls at random moments, and random durations of answers
and slots.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any, Self

from admission.durations import Durations
from admission.policy import Policy


@dataclass(frozen=True)
class Batch:
    caller: str
    size: int
    at: float = 0.0


@dataclass
class Load:
    """A load and its results. Moments and durations are in seconds.

    From `singles_from` on, and as long as batches wait, `per_minute` single calls a minute come, each from one of
    `callers`. Further single calls come `at` fixed moments. `took` bounds the seconds until an answer, `held` the
    seconds for which a slot is held.
    """

    window: int
    batches: Sequence[Batch] = ()
    per_minute: float = 0.0
    singles_from: float = 30.0
    at: Sequence[float] = ()
    callers: Sequence[str] = ("ann", "bob", "cid")
    slots: int = 100_000
    seed: int = 1
    took: tuple[float, float] = (0.02, 0.8)
    held: tuple[float, float] = (2.0, 15.0)
    share: float = 0.5
    until: float = math.inf
    waits: list[tuple[float, float]] = field(default_factory=list)
    """When each single call came, and how long it waited."""
    admissions: list[float] = field(default_factory=list)
    ends: dict[int, float] = field(default_factory=dict)
    """When the last ticket of each batch was admitted."""

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._serial = count()
        self._events: list[tuple[float, int, str, Any]] = []
        self._left = [batch.size for batch in self.batches]
        self._came: dict[Any, float] = {}
        self._policy = Policy(
            concurrent_limit=self.slots,
            requests_per_minute=self.window,
            interactive_reserve=self.share,
            durations=Durations(),
        )

    def run(self) -> Self:
        for number, batch in enumerate(self.batches):
            self._at(batch.at, "batch", number)
        for moment in self.at:
            self._at(moment, "single")
        if self.per_minute:
            self._at(self.singles_from + self._pause(), "arrival")
        next_chance = math.inf
        while (now := min(next_chance, self._events[0][0] if self._events else math.inf)) < self.until:
            while self._events and self._events[0][0] <= now:
                _, _, kind, what = heappop(self._events)
                self._happen(now, kind, what)
            step = self._policy.step(now)
            next_chance = step.next_chance
            for ticket in step.admitted:
                self._admit(ticket, now)
        return self

    def _happen(self, now: float, kind: str, what: Any) -> None:
        if kind == "answer":
            self._policy.answered(what, now)
        elif kind == "release":
            self._policy.release(what, now)
        elif kind == "batch":
            batch = self.batches[what]
            tickets = [(what, item) for item in range(batch.size)]
            self._policy.enqueue(tickets, batch.caller, batch=f"batch {what}")
        else:
            ticket = ("single", next(self._serial))
            self._came[ticket] = now
            self._policy.enqueue([ticket], self._chance.choice(self.callers))
            if kind == "arrival" and any(self._left):
                self._at(now + self._pause(), "arrival")

    def _admit(self, ticket: Any, now: float) -> None:
        self.admissions.append(now)
        answer = now + self._chance.uniform(*self.took)
        self._at(answer, "answer", ticket)
        self._at(max(answer, now + self._chance.uniform(*self.held)), "release", ticket)
        if ticket in self._came:
            came = self._came.pop(ticket)
            self.waits.append((came, now - came))
        else:
            self._left[ticket[0]] -= 1
            if not self._left[ticket[0]]:
                self.ends[ticket[0]] = now

    def _at(self, moment: float, kind: str, what: Any = None) -> None:
        heappush(self._events, (moment, next(self._serial), kind, what))

    def _pause(self) -> float:
        return self._chance.expovariate(self.per_minute / 60)

    @property
    def end(self) -> float:
        """When the last ticket of all batches was admitted."""
        return max(self.ends.values())

    def use(self, since: float, until: float) -> float:
        """The part of the window that was used from one moment to another."""
        places = self.window * (until - since) / 60
        return sum(since <= at < until for at in self.admissions) / places

    def waited(self, *, since: float, until: float = math.inf) -> list[float]:
        """How long each single call that came between these moments waited, in seconds."""
        return [waited for at, waited in self.waits if since <= at < until]


def p90(seconds: Sequence[float]) -> float:
    return sorted(seconds)[math.ceil(0.9 * len(seconds)) - 1]
