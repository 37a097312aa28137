"""The day of Google's daily quotas, which ends at midnight in California. It has 23 to 25 hours."""

from datetime import datetime, time, timedelta
from functools import cache
from typing import Final
from zoneinfo import ZoneInfo

_ZONE: Final = "America/Los_Angeles"


def day_end(now: float) -> float:
    """The next midnight after `now`. Both are Unix times."""
    tomorrow = datetime.fromtimestamp(now, _zone()).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time.min, _zone()).timestamp()


@cache
def _zone() -> ZoneInfo:
    return ZoneInfo(_ZONE)
