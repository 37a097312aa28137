"""Windows whose entries have a weight: requests, tokens or micro-dollars in the last minute, ten minutes or day.

As in `admission.sliding_window`, a window is an exact log of times, and each weight counts until a moment that its
owner sets. Until then it is open: it counts as long as it takes.
"""

import math
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any, Final

_LARGE: Final = 50


def is_large(weight: float, limit: float) -> bool:
    """Whether this is more than two per cent of a window."""
    return weight * _LARGE > limit


@dataclass(slots=True, eq=False)
class Entry:
    """A weight in a window. It counts until the moment `free_at`, which is infinity while the entry is open."""

    window: "WeightedWindow"
    weight: int
    free_at: float = math.inf

    def correct(self, weight: int) -> None:
        """Replace the weight in place, unless the entry has expired."""
        if self.window.has(self):
            self.window.add(weight - self.weight, self.free_at)
            self.weight = weight

    def expire_at(self, moment: float) -> None:
        """Let it count until this moment, unless it has expired."""
        if self.window.has(self):
            self.window.add(-self.weight, self.free_at)
            self.window.add(self.weight, moment)
            self.free_at = moment

    def give_back(self) -> None:
        """It was not used: the weight is free at once."""
        self.correct(0)


class WeightedWindow:
    """Entries whose weights together are at most `limit` if each is taken only while `free` has room for it.

    Moments are seconds on one monotonic clock. A moment is stored and compared as it is: computed again, it could
    differ by a rounding. Entries that expire at the same moment are one sum, so a day of calls is one number.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._used = 0
        self._expiring: dict[float, int] = {}
        """The weight that expires at each moment; that of open entries at infinity."""
        self._moments: list[float] = []
        """A heap of the moments in `_expiring`."""

    def used(self, now: float) -> int:
        while self._moments and self._moments[0] <= now:
            self._used -= self._expiring.pop(heappop(self._moments))
        return self._used

    def free(self, now: float) -> float:
        """The weight that is left; negative after the limit was lowered or an entry was corrected upwards."""
        return self.limit - self.used(now)

    def next_expiry(self) -> float:
        """When the next entry expires; infinity if all are open."""
        return self._moments[0] if self._moments else math.inf

    def take(self, weight: int) -> Entry:
        self.add(weight, math.inf)
        return Entry(self, weight)

    def has(self, entry: Entry) -> bool:
        """Whether this entry has not expired. A call of `used` decides when: nothing expires in between."""
        return entry.free_at in self._expiring

    def add(self, weight: int, free_at: float) -> None:
        """Count a weight until this moment: that of an entry, or of an earlier process. A negative weight is taken from
        what expires then."""
        if free_at not in self._expiring:
            self._expiring[free_at] = 0
            heappush(self._moments, free_at)
        self._used += weight
        self._expiring[free_at] += weight

    def wait(self, weight: float, now: float, span: float) -> float:
        """Estimate the seconds until so much further weight was free, if it is taken as soon as it is free, and each
        entry expires `span` seconds after it was taken. Open entries are taken for new ones."""
        missing = weight - self.free(now)
        if missing <= 0:
            return 0.0
        rounds, part = divmod(missing, self.limit)
        if not part:
            rounds, part = rounds - 1, self.limit
        for moment in sorted(self._expiring):
            part -= self._expiring[moment]
            if part <= 0:
                return rounds * span + min(moment - now, span)
        return (rounds + 1) * span

    def weights(self, now: float) -> dict[float, int]:
        """The weight that expires at each moment; that of open entries at infinity."""
        self.used(now)
        return {moment: weight for moment, weight in self._expiring.items() if weight}


@dataclass(slots=True, eq=False)
class Meter:
    """A window for entries of very different weight, in which a heavy ticket is neither starved nor obstructs others.

    The first ticket that does not fit is `next`, and goes before all others as soon as it fits. If it is large, lighter
    ones pass it while they fit, but together at most one whole window: then the window waits for it. If it is small,
    nothing passes it, since little is unused meanwhile.
    """

    window: WeightedWindow
    next: Any = None
    """The flow whose first ticket is the next; None if no ticket was refused since one went."""
    _taken: int = field(default=0, init=False)
    _passed_from: int = field(default=0, init=False)
    _lets_pass: bool = field(default=False, init=False)

    def admits(self, flow: Any, weight: int, now: float) -> bool:
        """Whether the first ticket of a flow may take this weight now. If not, it is the next from now on, unless
        another one is."""
        if self.next not in (None, flow) and not self._may_pass(weight):
            return False
        if weight <= self.window.free(now):
            return True
        if self.next is None:
            self.next, self._passed_from = flow, self._taken
            self._lets_pass = is_large(weight, self.window.limit)
        return False

    def take(self, flow: Any, weight: int) -> Entry:
        """Take the weight of the first ticket of a flow."""
        self.forget(flow)
        self._taken += weight
        return self.window.take(weight)

    def forget(self, flow: Any) -> None:
        """The first ticket of this flow does not wait for this window any more."""
        if self.next is flow:
            self.next = None

    def next_chance(self) -> float:
        """When time alone may admit a ticket that this window refused; infinity: never."""
        return math.inf if self.next is None else self.window.next_expiry()

    def _may_pass(self, weight: int) -> bool:
        return self._lets_pass and self._taken + weight - self._passed_from <= self.window.limit
