"""The simulator's time: a monotonic clock for windows, and a date that follows it, for prices and days."""

import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from simulator.windows import Clock

PACIFIC = ZoneInfo("America/Los_Angeles")


class Time:
    """The time of a simulator that began at a date.

    Args:
        clock: Monotonic nanoseconds.
        begin: The date now; None for the real one.
    """

    def __init__(self, clock: Clock, begin: datetime | None = None) -> None:
        self.clock = clock
        self.set(begin)

    def set(self, date: datetime | None) -> None:
        """Make this the date now; None for the real one."""
        self._begin = date or datetime.fromtimestamp(time.time(), UTC)
        self._at = self.clock()

    def now(self) -> datetime:
        """The date."""
        return self._begin + timedelta(microseconds=(self.clock() - self._at) / 1000)

    def to_midnight(self) -> float:
        """The seconds to midnight Pacific time."""
        return to_midnight(self.now())


def to_midnight(at: datetime) -> float:
    """The seconds to the next midnight Pacific time."""
    local = at.astimezone(PACIFIC)
    tomorrow = local.date() + timedelta(days=1)
    midnight = datetime(tomorrow.year, tomorrow.month, tomorrow.day, tzinfo=PACIFIC)
    return midnight.timestamp() - at.timestamp()
