"""When the next look at a prediction is due, and how likely it tells, by how long its model's predictions took.

`lengths` are the latest durations of a model, in seconds, the shortest first (`admission.durations.Lengths`). Its
predictions are first looked at when a fifth of them were done, then at shrinking intervals while most of them end,
and at growing ones once a prediction is older than any before it. A model that is not known yet is looked at after
another quarter of a prediction's age. So seconds and minutes both get few looks.
"""

from bisect import bisect_right
from collections.abc import Sequence

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


def next_look(lengths: Sequence[float], age: float) -> tuple[float, float]:
    """The least and the greatest age, in seconds, to look again at a prediction not over at `age`.

    The greatest is when it is wanted; from the least on, a look made for another will do as well.
    """
    if not _is_known(lengths):
        wait = _between(_FIRST, age / 4, _LONGEST)
        return age + wait / 2, age + wait
    soon = _quantile(lengths, 0.2)
    if age + SHORTEST < soon:
        return max(age, soon - _interval(lengths, soon) / 2), soon
    wait = _interval(lengths, age)
    return age + wait / 2, age + wait


def next_safety_look(lengths: Sequence[float], age: float) -> tuple[float, float]:
    """The same for a prediction that will be told of: the first when it should have been, then ever fewer."""
    first = _quantile(lengths, 0.9) + _LATE if _is_known(lengths) else _UNKNOWN
    if age + SHORTEST < first:
        return max(age, first - _LATE / 2), first
    wait = _between(_SAFETY[0], age - first, _SAFETY[1])
    return age + wait / 2, age + wait


def chance(lengths: Sequence[float], seen: float, age: float) -> float:
    """How likely a prediction is over at `age` that was not at `seen`, from 0 to 1.

    By how many of those remembered that outlasted `seen` were over by then, as if there were one more that
    is as likely to go on as it has gone on so far.
    """
    unheard_of = 1 - seen / age if age > seen else 0.0
    if not _is_known(lengths):
        return unheard_of
    outlasted = bisect_right(lengths, seen)
    left, over = len(lengths) - outlasted, bisect_right(lengths, age) - outlasted
    return (over + unheard_of) / (left + 1)


def _is_known(lengths: Sequence[float]) -> bool:
    return len(lengths) >= ENOUGH


def _quantile(lengths: Sequence[float], share: float) -> float:
    return lengths[int(share * len(lengths))]


def _interval(lengths: Sequence[float], age: float) -> float:
    late, longest = _quantile(lengths, 0.8), lengths[-1]
    wait = (late - age) / 4 if age < late else (age - longest) / 4
    wait = min(
        wait, age / 4
    )  # of a model of seconds or minutes, it is seconds that must not wait for minutes
    return _between(max(SHORTEST, _SHORTEST_SHARE * _quantile(lengths, 0.5)), wait, _LONGEST)


def _between(least: float, value: float, most: float) -> float:
    return min(max(least, value), most)
