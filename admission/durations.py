"""Recent durations, for plans, estimates, the turnover of slots, and the schedule of polls.

There are three kinds: how long a successful generation held its slot and fetched its files, how long its prediction ran
by the provider's clock, and how long each slot was held, for every outcome. Only the event loop adds durations. Any
thread may read those of a model's generations.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from dataclasses import dataclass
from statistics import fmean
from typing import Final

REMEMBERED: Final = 64
"""How many durations are kept for each model: enough for a quantile, and few enough to follow a change of its speed."""

_KEPT: Final = 16
"""At first this many generations are kept, later the newest two thirds of all. The first generations of an idle model
are slow (a cold start, and few polls), so they should not affect later estimates for long."""

_SLOTS_REMEMBERED: Final = 256


@dataclass(frozen=True, slots=True)
class Took:
    """How long one generation took, in seconds: `held` its slot, of which `answered` until its creation was answered,
    and `after` from the release of the slot to the end, while its files were fetched. The wait for a boot is left out,
    since the next prediction of that version may need none."""

    held: float
    after: float = 0.0
    answered: float = 0.0


class Lengths:
    """The latest durations of one model's predictions, in seconds. `ordered` has the shortest first."""

    def __init__(self) -> None:
        self._by_age: deque[float] = deque()
        self.ordered: list[float] = []

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
        """Record a generation that succeeded at its first attempt. Others would distort the estimates."""
        self._noted[model] += 1
        kept = min(max(_KEPT, 2 * self._noted[model] // 3), REMEMBERED)
        self._latest[model] = (*self.of(model), took)[-kept:]

    def of(self, model: str) -> tuple[Took, ...]:
        """The latest generations of a model, the oldest first. Any thread may call it."""
        return self._latest.get(model, ())

    def usual(self, model: str, declared: float) -> float:
        """The mean seconds from admission to end of this model's generations; `declared` if none was recorded."""
        took = self.of(model)
        return fmean(each.held + each.after for each in took) if took else declared

    def lengths(self, model: str) -> Lengths:
        """The durations of a model's predictions. The watcher adds to them and schedules its polls by them."""
        return self._lengths.setdefault(model, Lengths())

    def note_slot(self, seconds: float) -> None:
        """Record how long a slot was held, for every model and outcome."""
        slots = self._slots
        if len(slots) == _SLOTS_REMEMBERED:
            self._slots_sum -= slots[0]
        slots.append(seconds)
        self._slots_sum += seconds

    def slots(self) -> tuple[float, ...]:
        """How long the latest slots were held, in seconds, the oldest first."""
        return tuple(self._slots)

    def mean_slot(self, unknown: float = 0.0) -> float:
        """How long the latest slots were held on average, in seconds; `unknown` if none was released yet."""
        return self._slots_sum / len(self._slots) if self._slots else unknown
