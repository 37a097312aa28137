"""Recent durations: the one memory behind plans, estimates, the gate's turnover and the watcher's schedule.

It keeps three kinds, because they differ: how long a generation held its slot and fetched its files, how long its
prediction ran by the provider's clock, and how long each slot was held, for every outcome. Only the loop adds to
them. Any thread may read the durations of a model's generations.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from dataclasses import dataclass
from statistics import fmean
from typing import Final

REMEMBERED: Final = 64
"""Durations kept of each model: enough for a quantile, and few enough to follow a model whose speed changes."""

_KEPT: Final = 16
"""At first this many generations are kept, later the newest two thirds of all. A model that was idle starts cold, and
the end of its first generations is noticed late, so these should not weigh on later estimates for long."""

_SLOTS_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class Took:
    """How long one generation took, in seconds. It held its slot for `held`, of which `answered` passed until its
    creation was answered. `after` is the time from the slot's release to its end, while its files were fetched."""

    held: float
    after: float = 0.0
    answered: float = 0.0


class Lengths:
    """The latest durations of one model's predictions, in seconds."""

    def __init__(self) -> None:
        self._by_age: deque[float] = deque()
        self.ordered: list[float] = []
        """The shortest first."""

    def learn(self, seconds: float) -> None:
        if len(self._by_age) == REMEMBERED:
            oldest = self._by_age.popleft()
            del self.ordered[bisect_left(self.ordered, oldest)]
        self._by_age.append(seconds)
        insort(self.ordered, seconds)


class Durations:
    """The durations of every model, and of all slots together."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[Took, ...]] = {}
        self._noted: Counter[str] = Counter()
        self._lengths: dict[str, Lengths] = {}
        self._slots: deque[float] = deque(maxlen=_SLOTS_REMEMBERED)
        self._slots_sum = 0.0

    def note(self, model: str, took: Took) -> None:
        """Remember a generation that succeeded at its first attempt. Others would distort the estimates."""
        self._noted[model] += 1
        kept = min(max(_KEPT, 2 * self._noted[model] // 3), REMEMBERED)
        self._latest[model] = (*self.of(model), took)[-kept:]

    def of(self, model: str) -> tuple[Took, ...]:
        """The latest generations of a model, the oldest first; empty before any. In any thread."""
        return self._latest.get(model, ())

    def usual(self, model: str, declared: float) -> float:
        """Seconds that a generation of this model takes once it is admitted. This is `declared` until one was noted."""
        took = self.of(model)
        return fmean(each.held + each.after for each in took) if took else declared

    def lengths(self, model: str) -> Lengths:
        """The durations of a model's predictions, which the watcher adds to and times its polls by."""
        return self._lengths.setdefault(model, Lengths())

    def note_slot(self, seconds: float) -> None:
        """Record how long a slot was held, for every model and outcome."""
        slots = self._slots
        if len(slots) == _SLOTS_REMEMBERED:
            self._slots_sum -= slots[0]
        slots.append(seconds)
        self._slots_sum += seconds

    def slots(self) -> tuple[float, ...]:
        """How long slots were held lately, in seconds, the oldest first."""
        return tuple(self._slots)

    def mean_slot(self, unknown: float = 0.0) -> float:
        """How long slots were held lately on the average, in seconds; `unknown` before any was."""
        return self._slots_sum / len(self._slots) if self._slots else unknown
