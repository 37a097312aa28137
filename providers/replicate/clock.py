"""Measures the difference between Replicate's clock and ours, by Replicate's answers.

Replicate makes a prediction between the sending and the answer of its creation, so each `created_at` bounds
the difference of the clocks. So does the `Date` of any answer, to a second. The bounds are against the loop's
clock, which does not jump. Measures may contradict each other: a few may be wrong, or a clock may have
jumped. The majority counts (Marzullo's algorithm), and a search also covers the measures that are near it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import structlog

UNKNOWN_SKEW: Final = 600.0
"""Seconds. The assumed bound of the difference of the clocks before any measure. A measure that differs from
the majority by more than this is ignored."""

_REMEMBERED: Final = 8
"""Measures that are kept. After a clock has jumped, the old ones are forgotten after this many creations."""

_LEARNED_WITHIN: Final = 1.0
"""Seconds by which a skew that another process has measured may be wrong."""

_WARN_FROM: Final = 5.0
_WARN_EVERY: Final = 60.0
"""Seconds of skew from which a warning is logged, and seconds between two warnings."""

log = structlog.get_logger("replicate")


@dataclass(frozen=True, slots=True)
class Offset:
    """Bounds, in seconds, of the offset that turns the loop's clock into Replicate's (Unix time) when it is added."""

    least: float
    most: float

    @property
    def middle(self) -> float:
        return (self.least + self.most) / 2


class UpstreamClock:
    """Measures Replicate's clock. Belongs to one loop."""

    def __init__(self) -> None:
        self._by_creation: deque[Offset] = deque(maxlen=_REMEMBERED)
        self._by_date: Offset | None = None
        self._date: str | None = None
        self.offset: Offset | None = None
        """The bounds that currently agree with the measures. None if nothing is known."""
        self.agreed: Offset | None = None
        """The bounds that most creations share. Before the first creation, the bounds of the latest `Date`. After it,
        also those of the latest `Date` if the two are far apart: one of them is wrong, and the second creation will
        show which."""
        self._warned_at = -_WARN_EVERY

    def record_creation(self, created_at: datetime | None, *, sent: float, answered: float) -> None:
        """Use the date of a creation of ours, sent and answered at these times of the loop's clock."""
        if created_at is not None:
            made = created_at.timestamp()
            self._by_creation.append(Offset(made - answered, made - sent))
            self._measured()
            self._warn(answered)

    def record_date(self, date: str | None, *, sent: float, answered: float) -> None:
        """Use the `Date` of an answer, which has no fraction of a second: of each second, the first answer."""
        if date == self._date:
            return
        try:
            read = parsedate_to_datetime(date or "")
            written = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError):
            return
        self._date, self._by_date = date, Offset(written - answered, written + 1 - sent)
        self._measured()
        if not self._by_creation:
            self._warn(answered)

    def learn(self, skew: float) -> None:
        """Use this skew, which another process has measured, until the first own measure."""
        if self._by_date is None and not self._by_creation:
            middle = wall_offset() + skew
            self.agreed = Offset(middle, middle)
            self.offset = Offset(middle - _LEARNED_WITHIN, middle + _LEARNED_WITHIN)

    @property
    def skew(self) -> float | None:
        """Seconds by which Replicate's clock is ahead of this machine's: the smallest skew within the bounds,
        since a slow answer widens them and is no skew. None if nothing is known."""
        if (agreed := self.agreed) is None:
            return None
        same = wall_offset()
        return min(max(same, agreed.least), agreed.most) - same

    def _measured(self) -> None:
        """Compute the bounds again, after a new measure."""
        dated = [self._by_date] if self._by_date else []
        self.agreed = agreed = _majority(self._by_creation or dated)
        if len(self._by_creation) == 1 and dated and _distance(agreed, dated[0]) > UNKNOWN_SKEW:
            self.agreed = agreed = dated[0]
        near = [each for each in (*self._by_creation, *dated) if _distance(agreed, each) <= UNKNOWN_SKEW]
        self.offset = Offset(
            min([agreed.least, *(each.least for each in near)]),
            max([agreed.most, *(each.most for each in near)]),
        )

    def _warn(self, now: float) -> None:
        skew = self.skew
        if skew is not None and abs(skew) >= _WARN_FROM and now >= self._warned_at + _WARN_EVERY:
            self._warned_at = now
            log.warning("clock_skew", seconds=round(skew, 1))


def wall_offset() -> float:
    """This machine's Unix time minus the loop's time."""
    return time.time() - asyncio.get_running_loop().time()


def _distance(one: Offset, other: Offset) -> float:
    return abs(one.middle - other.middle)


def _majority(measures: Sequence[Offset]) -> Offset:
    """The bounds that most measures share; among equals, those of the latest."""
    points = [each.least for each in reversed(measures)]
    shared = max(points, key=lambda point: sum(each.least <= point <= each.most for each in measures))
    agreeing = [each for each in measures if each.least <= shared <= each.most]
    return Offset(max(each.least for each in agreeing), min(each.most for each in agreeing))
