"""The ends of days in a time zone, by the clock of the loop. Some days have 23 or 25 hours."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from datetime import time as time_of_day


class Days:
    """When each day of this zone ends. `clock` is that of the loop, and `wall` returns the Unix time.

    The end of a day is computed once and then the same number, as long as the day is the present one.
    """

    def __init__(
        self, zone: tzinfo, clock: Callable[[], float], wall: Callable[[], float] = time.time
    ) -> None:
        self._zone = zone
        self._clock = clock
        self._wall = wall
        self._began = self._ends = 0.0

    def end(self, moment: float) -> float:
        """When the day ends that contains this moment."""
        if self._began <= moment < self._ends:
            return self._ends
        now = self._clock()
        ahead = self._wall() - now
        ends = self.midnight_after(moment + ahead) - ahead
        if moment <= now:
            self._began, self._ends = moment, ends
        return ends

    def began(self, unix: float) -> float:
        """The Unix time of the last midnight in this zone."""
        today = datetime.fromtimestamp(unix, self._zone).date()
        return datetime.combine(today, time_of_day.min, self._zone).timestamp()

    def midnight_after(self, unix: float) -> float:
        """The Unix time of the next midnight in this zone."""
        tomorrow = datetime.fromtimestamp(unix, self._zone).date() + timedelta(days=1)
        return datetime.combine(tomorrow, time_of_day.min, self._zone).timestamp()
