"""How a batch will go, told before anything is spent: a rehearsal of the gate with durations as they were lately.

`plan` lets the batch pass through a copy of the gate's state on a clock of its own. Nothing here touches the gate, so
it runs in any thread; `Gate.outlook` is the copy, taken on the loop. Three choices make the estimate good:

- **The rule is the gate's own** (`concurrency.Gate`): a slot and a place together, places that count until 60 seconds
  after their answer, the paced reserve, a batch's own bound, turns with whoever else waits.
- **A duration is drawn, not averaged.** A batch ends with its slowest, of which a mean knows nothing. Each item gets
  one of its model's latest, drawn by a generator with a fixed seed, so the same question has the same answer; and a
  small batch, in which a draw weighs much, is rehearsed many times.
- **What cannot be known is spread evenly**: how far those in flight have come. What may go wrong is left out: a
  batch with retries, fallbacks or pauses yet to come takes longer than its plan says.
"""

import math
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from statistics import fmean
from typing import Any, Final, Literal

from concurrency import Outlook
from sliding_window import WINDOW

Strategy = Literal["immediate", "window", "queue"]

REMEMBERED: Final = 64
"""Generations of a model that its next ones are expected to resemble."""

_KEPT: Final = 16
"""So many are kept at first, and later the newer two thirds of all: a model nobody has called for long starts cold,
and nobody knows yet when to look, so its first generations are no example for those that follow."""

_REHEARSED: Final = 2_000
_MOST_REHEARSALS: Final = 50
"""A plan rehearses about so many admissions in all, and the batch so many times at the most. At least once."""


@dataclass(frozen=True, slots=True)
class Item:
    """What planning needs to know of one generation. `usual_seconds` is believed until one was measured."""

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

    def as_json(self) -> dict[str, Any]:
        return {
            "strategy": self.strategy,
            "estimated_seconds": round(self.seconds, 3),
            "estimated_cost_usd": self.cost_usd,
            "credits": self.credits,
        }


@dataclass(frozen=True, slots=True)
class Took:
    """How long one generation took: seconds that it held its slot, the first of them until the answer to its creation;
    and seconds from the slot's release to its end, while its files were fetched."""

    held: float
    after: float = 0.0
    answered: float = 0.0


class Pace:
    """How long the latest generations of each model took. Noted on the loop, asked in any thread."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[Took, ...]] = {}
        self._noted: Counter[str] = Counter()

    def note(self, model: str, *, held: float, after: float = 0.0, answered: float = 0.0) -> None:
        """Seconds, as in `Took`, of a generation that succeeded at its first attempt: others are no example."""
        self._noted[model] += 1
        latest = (*self._latest.get(model, ()), Took(held, after, answered))
        kept = min(max(_KEPT, 2 * self._noted[model] // 3), REMEMBERED)
        self._latest[model] = latest[-kept:]

    def of(self, model: str) -> tuple[Took, ...] | None:
        """The latest, oldest first; None before any."""
        return self._latest.get(model)


def plan(items: Sequence[Item], outlook: Outlook, pace: Pace, *, max_concurrent: int | None) -> Plan:
    """How these items, in this order, would go as one batch that comes right now. `max_concurrent` is its own bound.

    Any thread. Takes about 5 microseconds for each admission that is rehearsed: 40 ms for 10,000 items."""
    chance = random.Random(0)  # noqa: S311 - the same question has the same answer
    expected = {item.model: pace.of(item.model) or (Took(item.usual_seconds),) for item in items}
    admissions = len(items) + sum(line.waiting for line in outlook.lines)
    rehearsals = (
        _Rehearsal([chance.choice(expected[item.model]) for item in items], outlook, max_concurrent).seconds()
        for _ in range(max(1, min(_MOST_REHEARSALS, _REHEARSED // max(1, admissions))))
    )
    return Plan(
        strategy=_strategy(len(items), outlook, max_concurrent),
        seconds=fmean(rehearsals),
        cost_usd=round(math.fsum(item.cost_usd for item in items), 6),
        credits=sum(item.credits for item in items),
    )


def _strategy(items: int, outlook: Outlook, max_concurrent: int | None) -> Strategy:
    if items > outlook.requests_per_minute:
        return "queue"
    free_slots = outlook.concurrent_limit - sum(line.in_flight for line in outlook.lines)
    free_places = outlook.requests_per_minute - sum(free_at > outlook.now for free_at in outlook.places)
    fits = items <= min(free_slots, free_places, math.inf if max_concurrent is None else max_concurrent)
    is_paused = _paused_until(outlook, outlook.caller) > outlook.now
    somebody_waits = any(line.waiting for line in outlook.lines)
    return "immediate" if fits and not (is_paused or somebody_waits) else "window"


def _paused_until(outlook: Outlook, caller: str | None) -> float:
    return -math.inf if caller is None else outlook.paused_until.get(caller, -math.inf)


# ── The rehearsal ───────────────────────────────────────────────────────────────────────────────────


class _Window:
    """`concurrency.SlidingWindow`, told of each answer beforehand."""

    def __init__(self, limit: int, places: Iterable[float], *, unanswered: float) -> None:
        self.limit = limit
        self._free_at = [unanswered if free_at == math.inf else free_at for free_at in places]
        heapify(self._free_at)

    def free(self, now: float) -> int:
        while self._free_at and self._free_at[0] <= now:
            heappop(self._free_at)
        return self.limit - len(self._free_at)

    def next_expiry(self) -> float:
        return self._free_at[0] if self._free_at else math.inf

    def take(self, free_at: float) -> None:
        heappush(self._free_at, free_at)


class _Line:
    """`fairness.Flow`, of whom only the number counts."""

    __slots__ = ("batched", "bound", "in_flight", "waiting")

    def __init__(self, *, batched: bool, waiting: int, bound: float) -> None:
        self.batched = batched
        self.waiting = waiting
        self.in_flight = 0
        self.bound = bound


class _Turns:
    """`fairness.FairQueue` of those who all wait already: callers take turns, and then each caller's lines."""

    def __init__(self) -> None:
        self._callers: list[tuple[float, list[_Line]]] = []
        self.batched = 0

    def line_up(self, lines: list[_Line], *, paused_until: float) -> None:
        waiting = [line for line in lines if line.waiting]
        self.batched += sum(line.waiting for line in waiting if line.batched)
        if waiting:
            self._callers.append((paused_until, waiting))

    def take(self, now: float, *, batches: bool) -> _Line | None:
        """The next line of which somebody may go, or None."""
        for turn, caller in enumerate(self._callers):
            paused_until, lines = caller
            if paused_until > now:
                continue
            for own_turn, line in enumerate(lines):
                if line.in_flight < line.bound and (batches or not line.batched):
                    self.batched -= line.batched
                    line.waiting -= 1
                    _to_the_end(lines, own_turn, stays=line.waiting > 0)
                    _to_the_end(self._callers, turn, stays=bool(lines))
                    return line
        return None

    def pauses(self) -> Iterable[float]:
        return (paused_until for paused_until, _ in self._callers)


def _to_the_end(parties: list[Any], turn: int, *, stays: bool) -> None:
    party = parties.pop(turn)
    if stays:
        parties.append(party)


class _Rehearsal:
    """One way the batch may go: `draws` are what its items take, in input order."""

    def __init__(self, draws: Sequence[Took], outlook: Outlook, max_concurrent: int | None) -> None:
        self._outlook = outlook
        self._now = self._end = outlook.now
        self._draws = iter(draws)
        self._own = _Line(batched=True, waiting=len(draws), bound=max_concurrent or math.inf)
        answered = fmean([took.answered for took in draws] or [0.0])
        held_by_others = outlook.held or [took.held for took in draws] or [0.0]
        self._others = [Took(held, answered=min(held, answered)) for held in held_by_others]
        self._chance = random.Random(1)  # noqa: S311 - others change no draw of the batch's
        self._slots: list[tuple[float, int, _Line]] = []
        self._serial = count()
        self._turns = _Turns()
        self._line_up(usual=fmean(held_by_others))
        unanswered = outlook.now + answered + WINDOW
        self._window = _Window(outlook.requests_per_minute, outlook.places, unanswered=unanswered)
        self._reserve = _Window(outlook.reserve, outlook.reserve_places, unanswered=unanswered)
        self._paced_until = outlook.paced_until

    def seconds(self) -> float:
        """From now until the last item has ended."""
        while self._own.waiting:
            while self._slots and self._slots[0][0] <= self._now:
                _, _, line = heappop(self._slots)
                line.in_flight -= 1
            if not self._admit():
                self._now = self._next_chance()
        return self._end - self._outlook.now

    def _line_up(self, *, usual: float) -> None:
        lines: dict[str | None, list[_Line]] = {}
        for seen in self._outlook.lines:
            line = _Line(batched=seen.batched, waiting=seen.waiting, bound=seen.max_concurrent)
            lines.setdefault(seen.caller, []).append(line)
            for number in range(seen.in_flight):
                self._hold(line, self._now + usual * (number + 0.5) / seen.in_flight)
        lines.setdefault(self._outlook.caller, []).append(self._own)
        for caller, own in lines.items():
            self._turns.line_up(own, paused_until=_paused_until(self._outlook, caller))

    def _hold(self, line: _Line, until: float) -> None:
        line.in_flight += 1
        heappush(self._slots, (until, next(self._serial), line))

    def _admit(self) -> bool:
        """`Gate._admit` of one; whether anybody could go."""
        now, free = self._now, self._window.free(self._now)
        if free <= 0 or len(self._slots) >= self._outlook.concurrent_limit:
            return False
        from_reserve = free <= self._reserve.free(now)
        paced = from_reserve and now < self._paced_until and free < self._turns.batched
        line = self._turns.take(now, batches=not paced)
        if line is None:
            return False
        took = next(self._draws) if line is self._own else self._chance.choice(self._others)
        self._window.take(now + took.answered + WINDOW)
        if from_reserve:
            self._reserve.take(now + took.answered + WINDOW)
            self._paced_until = max(self._paced_until, now) + WINDOW / self._reserve.limit
        self._hold(line, now + took.held)
        if line is self._own:
            self._end = max(self._end, now + took.held + took.after)
        return True

    def _next_chance(self) -> float:
        next_release = self._slots[0][0] if self._slots else math.inf
        if len(self._slots) >= self._outlook.concurrent_limit:
            return next_release
        if self._window.free(self._now) <= 0:
            return self._window.next_expiry()
        chances = [next_release, self._window.next_expiry(), self._paced_until, *self._turns.pauses()]
        return min(when for when in chances if when > self._now)
