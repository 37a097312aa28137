"""The day of Google's daily quotas, which ends at midnight in California. It has 23 to 25 hours."""

from datetime import datetime, time, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

_ZONE: Final = "America/Los_Angeles"


def day_end(now: float) -> float:
    """The next midnight after `now`. Both are Unix times."""
    tomorrow = datetime.fromtimestamp(now, zone()).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time.min, zone()).timestamp()


@cache
def zone() -> ZoneInfo:
    """The time zone of the days."""
    return ZoneInfo(_ZONE)
