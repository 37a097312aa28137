"""How long things took lately: the one memory that plans, estimates, the gate's turnover and the watcher draw on.

Three facts are kept, since they differ: how long a generation held its slot (with its answer before and its files
after), how long the prediction itself took by the upstream's account, and how long slots were held whatever became of
the work. The loop notes them; any thread may read what a model's generations took.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from dataclasses import dataclass
from statistics import fmean
from typing import Final

REMEMBERED: Final = 64
"""Durations kept of each model: enough for a quantile, few enough to follow a model that changes."""

_KEPT: Final = 16
"""So many generations are kept at first, and later the newer two thirds of all. A model that was not called for long
starts cold, and its first generations are noticed late: they are no example for those that follow."""

_SLOTS_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class Took:
    """How long one generation took, in seconds: `held` is how long it had its slot, `answered` the part of that until
    the answer to its creation, `after` the time from the slot's release to its end, while its files were fetched."""

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
    """What is remembered of every model, and of all slots together."""

    def __init__(self) -> None:
        self._latest: dict[str, tuple[Took, ...]] = {}
        self._noted: Counter[str] = Counter()
        self._lengths: dict[str, Lengths] = {}
        self._slots: deque[float] = deque(maxlen=_SLOTS_REMEMBERED)

    def note(self, model: str, took: Took) -> None:
        """A generation that succeeded at its first attempt: others are no example."""
        self._noted[model] += 1
        kept = min(max(_KEPT, 2 * self._noted[model] // 3), REMEMBERED)
        self._latest[model] = (*self.of(model), took)[-kept:]

    def of(self, model: str) -> tuple[Took, ...]:
        """The latest generations of a model, the oldest first; empty before any. In any thread."""
        return self._latest.get(model, ())

    def usual(self, model: str, declared: float) -> float:
        """Seconds that a generation of this model takes once it is admitted. `declared` is believed until one was
        noted."""
        took = self.of(model)
        return fmean(each.held + each.after for each in took) if took else declared

    def lengths(self, model: str) -> Lengths:
        """The predictions of a model, to learn of more and to time polls by."""
        return self._lengths.setdefault(model, Lengths())

    def note_slot(self, seconds: float) -> None:
        """A slot was held so long, whichever model it was and however that ended."""
        self._slots.append(seconds)

    def slots(self) -> tuple[float, ...]:
        """How long slots were held lately, in seconds, the oldest first."""
        return tuple(self._slots)
