"""Decides when the next poll of a prediction is due, and estimates how likely it finds the prediction over,
from its model's durations.

`lengths` are the latest durations of a model, in seconds, the shortest first (`admission.durations.Lengths`). A
prediction is first polled at the age at which a fifth of them had ended, then at shrinking intervals while most end,
and at growing ones once it is older than all of them. Without known durations, a prediction is polled each time it has
aged by another quarter. So predictions of seconds and of minutes both need few polls.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

ENOUGH = 3
"""Durations from which a model counts as known."""

SHORTEST = 0.05
"""The shortest interval between two polls, in seconds and as a share of the model's median duration. The
longer of both applies. While many short predictions run, most pages find several of them over, so 20 pages a second
cost less than the slots that would stand idle."""
_SHORTEST_SHARE = 0.02

_FIRST, _LONGEST = 0.25, 10.0
"""The shortest interval between two polls if the model is not known, and the longest for any prediction, in
seconds."""

_FIRST_OF_TRAINING = 2.0
"""The shortest interval between two polls of a training, in seconds."""

_LONGEST_BOOT = 5.0
"""The longest interval between two polls of a prediction that may wait for a boot, in seconds. Until its start is seen,
it holds room that others wait for, and its timeout cannot end it."""

_LATE = 5.0
"""Seconds that a pushed result may be late before the prediction is polled."""

_UNKNOWN = 10.0
"""The age in seconds at which a prediction with a pushed result is first polled if its model is not known."""

_SAFETY = 15.0, 60.0
"""The shortest and the longest interval between two later polls of it, in seconds."""


def next_poll(lengths: Sequence[float], age: float) -> tuple[float, float]:
    """The span of ages, in seconds, in which a prediction that was not over at `age` is polled again. The
    poll is due at the end of the span. From its start on, a page that is fetched for another prediction
    counts as the poll.
    """
    if not _is_known(lengths):
        wait = _between(_FIRST, age / 4, _LONGEST)
        return age + wait / 2, age + wait
    soon = _quantile(lengths, 0.2)
    if age + SHORTEST < soon:
        return max(age, soon - _interval(lengths, soon) / 2), soon
    wait = _interval(lengths, age)
    return age + wait / 2, age + wait


def next_training_poll(lengths: Sequence[float], age: float) -> tuple[float, float]:  # noqa: ARG001
    """As `next_poll`, for a training: however long others took, since a poll shows how far it has come."""
    wait = _between(_FIRST_OF_TRAINING, age / 4, _LONGEST)
    return age + wait / 2, age + wait


def next_start_poll(age: float) -> tuple[float, float]:
    """As `next_poll`, for a prediction that may wait for a boot: each time it has aged by another quarter."""
    wait = _between(_FIRST, age / 4, _LONGEST_BOOT)
    return age + wait / 2, age + wait


def next_safety_poll(lengths: Sequence[float], age: float) -> tuple[float, float]:
    """As `next_poll`, for a prediction whose result is pushed: first when the push is overdue, then ever more
    rarely."""
    first = _quantile(lengths, 0.9) + _LATE if _is_known(lengths) else _UNKNOWN
    if age + SHORTEST < first:
        return max(age, first - _LATE / 2), first
    wait = _between(_SAFETY[0], age - first, _SAFETY[1])
    return age + wait / 2, age + wait


def chance(lengths: Sequence[float], seen: float, age: float) -> float:
    """How likely a prediction that was not over at `seen` is over at `age`, from 0 to 1.

    It is the share of the remembered predictions longer than `seen` that ended by `age`. One imaginary
    prediction is added, which ends by then with the chance `1 - seen / age`. So the result is defined even if
    no prediction is remembered.
    """
    imagined = 1 - seen / age if age > seen else 0.0
    if not _is_known(lengths):
        return imagined
    outlasted = bisect_right(lengths, seen)
    left, over = len(lengths) - outlasted, bisect_right(lengths, age) - outlasted
    return (over + imagined) / (left + 1)


Span = Callable[[Sequence[float], float], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Pace:
    """The functions that return when to poll again: if only polls show its end, and if its result is pushed.
    Both are as `next_poll`."""

    polled: Span
    pushed: Span


OF_PREDICTIONS: Final = Pace(next_poll, next_safety_poll)
OF_TRAININGS: Final = Pace(next_training_poll, next_training_poll)
"""A push does not show how far a training has come."""


def _is_known(lengths: Sequence[float]) -> bool:
    return len(lengths) >= ENOUGH


def _quantile(lengths: Sequence[float], share: float) -> float:
    return lengths[int(share * len(lengths))]


def _interval(lengths: Sequence[float], age: float) -> float:
    late, longest = _quantile(lengths, 0.8), lengths[-1]
    wait = (late - age) / 4 if age < late else (age - longest) / 4
    wait = min(wait, age / 4)  # a model's short predictions must not be polled at the pace of its long ones
    return _between(max(SHORTEST, _SHORTEST_SHARE * _quantile(lengths, 0.5)), wait, _LONGEST)


def _between(least: float, value: float, most: float) -> float:
    return min(max(least, value), most)
