"""The calendar periods of budgets, in UTC: days, weeks that begin on Monday, and months."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

PeriodName = Literal["day", "week", "month"]

LONGEST: Final = 31
"""Days of the longest period."""


@dataclass(frozen=True, slots=True)
class CalendarPeriod:
    """One period, from `begins_at` to before `ends_at` (Unix times)."""

    name: PeriodName
    begins_at: float
    ends_at: float

    @classmethod
    def of(cls, name: PeriodName, moment: float) -> "CalendarPeriod":
        """The period of this name that a moment (Unix time) is in."""
        day = datetime.fromtimestamp(moment, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        match name:
            case "day":
                first, after = day, day + timedelta(days=1)
            case "week":
                first = day - timedelta(days=day.weekday())
                after = first + timedelta(days=7)
            case "month":
                first = day.replace(day=1)
                after = (first + timedelta(days=LONGEST)).replace(day=1)
        return cls(name, first.timestamp(), after.timestamp())

    @property
    def first_day(self) -> str:
        """Such as `2026-11-01`."""
        return date_of_moment(self.begins_at)


def date_of_moment(moment: float) -> str:
    """The date (UTC) of a Unix time, such as `2026-11-27`."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")
