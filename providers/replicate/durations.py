"""How long a model's predictions take, learnt as they end: when the next look is due, and how likely it tells.

A model is known by its latest durations. Its predictions are first looked at when a fifth of them were done,
then at shrinking intervals while most of them end, and at growing ones once a prediction is older than any
before it. A model that is not known yet is looked at after another quarter of a prediction's age. So seconds
and minutes both get few looks.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque

REMEMBERED = 64
"""Durations kept: enough for a quantile, few enough to follow a model that changes."""

ENOUGH = 3
"""Durations from which a model counts as known."""

SHORTEST = 0.1
"""Seconds between two looks, at the least; and the share of the usual time that is not worth a look of its own."""
_SHORTEST_SHARE = 0.02

_FIRST, _LONGEST = 0.25, 10.0
"""Seconds between two looks at a prediction nothing is known of, at the least, and at any, at the most."""


_LATE = 5.0
"""Seconds after which a prediction that will be told of is looked at, since it is then most likely over."""

_UNKNOWN = 10.0
"""Its age, in seconds, at its first look if nothing is known of its model."""

_SAFETY = 15.0, 60.0
"""Seconds between two looks at it thereafter, at the least and at the most."""


class Durations:
    """The latest durations of one model, in seconds, in order of age and of length."""

    def __init__(self) -> None:
        self._by_age: deque[float] = deque()
        self._by_length: list[float] = []

    def learn(self, seconds: float) -> None:
        if len(self._by_age) == REMEMBERED:
            oldest = self._by_age.popleft()
            del self._by_length[bisect_left(self._by_length, oldest)]
        self._by_age.append(seconds)
        insort(self._by_length, seconds)

    def next_look(self, age: float) -> tuple[float, float]:
        """The least and the greatest age, in seconds, to look again at a prediction not over at `age`.

        The greatest is when it is wanted; from the least on, a look made for another will do as well.
        """
        if not self._is_known:
            wait = _between(_FIRST, age / 4, _LONGEST)
            return age + wait / 2, age + wait
        soon = self._quantile(0.2)
        if age + SHORTEST < soon:
            return max(age, soon - self._interval(soon) / 2), soon
        wait = self._interval(age)
        return age + wait / 2, age + wait

    def next_safety_look(self, age: float) -> tuple[float, float]:
        """The same for a prediction that will be told of: the first when it should have been, then ever fewer."""
        first = self._quantile(0.9) + _LATE if self._is_known else _UNKNOWN
        if age + SHORTEST < first:
            return max(age, first - _LATE / 2), first
        wait = _between(_SAFETY[0], age - first, _SAFETY[1])
        return age + wait / 2, age + wait

    def chance(self, seen: float, age: float) -> float:
        """How likely a prediction is over at `age` that was not at `seen`, from 0 to 1.

        By how many of those remembered that outlasted `seen` were over by then, as if there were one more that
        is as likely to go on as it has gone on so far.
        """
        unheard_of = 1 - seen / age if age > seen else 0.0
        if not self._is_known:
            return unheard_of
        outlasted = bisect_right(self._by_length, seen)
        left, over = len(self._by_length) - outlasted, bisect_right(self._by_length, age) - outlasted
        return (over + unheard_of) / (left + 1)

    @property
    def _is_known(self) -> bool:
        return len(self._by_length) >= ENOUGH

    def _quantile(self, share: float) -> float:
        return self._by_length[int(share * len(self._by_length))]

    def _interval(self, age: float) -> float:
        late, longest = self._quantile(0.8), self._by_length[-1]
        wait = (late - age) / 4 if age < late else (age - longest) / 4
        wait = min(
            wait, age / 4
        )  # of a model of seconds or minutes, it is seconds that must not wait for minutes
        return _between(max(SHORTEST, _SHORTEST_SHARE * self._quantile(0.5)), wait, _LONGEST)


def _between(least: float, value: float, most: float) -> float:
    return min(max(least, value), most)
