"""What the service may spend in a day, and what a request may cost: refused before anything is spent.

Whatever is accepted is reserved at the price it is expected to have, and settled at the price it had, so those who wait
count as much as those who are done. A day is one of UTC; what a generation cost counts for the day on which it ended.
"""

import math
import time
from collections.abc import Callable

from errors import BudgetExceeded

_DAY = 86_400
_NOTHING = 1e-9
"""USD. Sums of floats are compared, and the last cent may be spent."""


class Budget:
    """Lives on the loop. `usd_per_day` None is no bound; `clock` tells Unix time."""

    def __init__(self, usd_per_day: float | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._most = math.inf if usd_per_day is None else usd_per_day
        self._clock = clock
        self._day = self._today()
        self._spent = 0.0
        self._reserved = 0.0

    @property
    def day_began(self) -> float:
        """Unix time."""
        return self._today() * _DAY

    def begin(self, *, spent: float) -> None:
        """Know what processes before this one spent today."""
        self._day, self._spent = self._today(), spent

    def reserve(self, usd: float) -> float:
        """Reserve so much, and give it back. Raises BudgetExceeded."""
        self._turn_the_day()
        left = round(self._most - self._spent - self._reserved, 9)
        if usd > left + _NOTHING:
            raise BudgetExceeded(
                f"It would cost about {usd:g} USD, and {max(0.0, left):g} of today's {self._most:g} USD are left."
            )
        return self.hold(usd)

    def hold(self, usd: float) -> float:
        """Reserve what was accepted before, in another process, whatever is left."""
        self._reserved += usd
        return usd

    def settle(self, *, reserved: float, cost: float) -> None:
        """It has ended, and cost so much."""
        self._turn_the_day()
        self._reserved = max(0.0, self._reserved - reserved)
        self._spent += cost

    def _turn_the_day(self) -> None:
        if self._day != self._today():
            self._day, self._spent = self._today(), 0.0

    def _today(self) -> int:
        return int(self._clock() // _DAY)


def check_cost(usd: float, most: float | None, *, where: str = "It") -> None:
    """Raises BudgetExceeded if a request says that it may not cost so much."""
    if most is not None and usd > most + _NOTHING:
        raise BudgetExceeded(f"{where} would cost about {usd:g} USD, more than max_cost_usd: {most:g}.")
