"""Limits of single callers, below those of all: how many tickets of a caller hold a slot, and how many are admitted in
any 60 seconds.

A caller at its own limit is *parked*, as a flow without a permit is (`semaphores.py`): it leaves the turns with its
start tag, and returns when it has room again. So the others go first. While it waits,
a step only checks whether it has room.

Its window counts as that of all callers does. It counts from the moment at which the limit is set: earlier admissions
have no place in it. A caller without tickets is only an entry in a mapping of limits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from admission.sliding_window import WINDOW


@dataclass(frozen=True, slots=True)
class OwnLimits:
    """How many tickets of a caller may hold a slot, and how many are admitted in 60 seconds; None: as many as of all.
    Raises ValueError for a limit below 1."""

    max_concurrent: int | None = None
    per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_concurrent", "per_minute"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, got {limit}")

    def most_within(self, seconds: float, *, mean_held: float) -> float:
        """The most tickets that are admitted in about so many seconds if they hold a slot for `mean_held` seconds."""
        by_minute = math.inf if self.per_minute is None else self.per_minute * seconds / WINDOW
        if self.max_concurrent is None or mean_held <= 0:
            return by_minute
        return min(by_minute, self.max_concurrent * seconds / mean_held)


UNLIMITED = OwnLimits()


@dataclass(frozen=True, slots=True)
class OwnLimitsSnapshot:
    """The limits of a caller, and when each place that it has taken is free again: infinity as long as it has no
    answer."""

    limits: OwnLimits
    places: tuple[float, ...] = ()


class Parked:
    """Callers that are at their own limits, and how each returns to its turns. A caller is a `flows.Caller`."""

    def __init__(self) -> None:
        self._callers: dict[Any, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._callers)

    def park(self, caller: Any, put_back: Callable[[], None]) -> None:
        """Keep a caller out of the turns until it has room."""
        self._callers[caller] = put_back

    def unpark(self, now: float) -> None:
        """Let the callers that have room return to their turns."""
        for caller in [each for each in self._callers if each.room(now) > 0]:
            self._callers.pop(caller)()

    def next_room(self) -> float:
        """When time alone gives room to a caller; infinity: never."""
        return min((each.next_room() for each in self._callers), default=math.inf)
