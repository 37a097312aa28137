"""The daily budget of the server's own money, and the maximum cost of one request: refusals before anything is spent.

Only work that the server's token pays for counts (`auth.ADMIN`); a user's token pays for itself. An accepted generation
reserves its expected cost and settles its real one, so waiting work counts like finished work. A day is one of UTC, and
a cost counts on the day on which its generation ended.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from auth import ADMIN
from errors import BudgetExceeded
from ledger import DAY

_NOTHING = 1e-9
"""USD. Sums of floats are compared, and the last cent may be spent."""


class Budget:
    """Belongs to the loop. `usd_per_day` None is no bound; `clock` returns Unix time.

    The costs are kept by day, so the clock may be set to another day, forward or back. Costs of later days count as
    well: a clock that was ahead for a while has recorded the costs of today there.
    """

    def __init__(self, usd_per_day: float | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._most = math.inf if usd_per_day is None else usd_per_day
        self._clock = clock
        self._spent: defaultdict[int, float] = defaultdict(float)
        """USD by day, counted from 1970."""
        self._reserved = 0.0

    def begin(self, spent: Mapping[int, float]) -> None:
        """Add the costs of earlier processes from the ledger: USD by day, counted from 1970."""
        for day, usd in spent.items():
            self._spent[day] += usd

    @property
    def left(self) -> float | None:
        """USD that today may still cost. None if there is no budget."""
        left = self._left()
        return None if math.isinf(left) else max(0.0, left)

    def reserve(self, caller_id: str, usd: float) -> float:
        """Reserve so much for this caller's work. Returns `usd`. Raises BudgetExceeded."""
        if caller_id != ADMIN:
            return usd
        left = self._left()
        if usd > left + _NOTHING:
            raise BudgetExceeded(
                f"It would cost about {usd:g} USD, and {max(0.0, left):g} of today's {self._most:g} USD are left."
            )
        return self.hold(caller_id, usd)

    def hold(self, caller_id: str, usd: float) -> float:
        """Reserve work that an earlier process accepted, even beyond the budget. Returns `usd`."""
        if caller_id == ADMIN:
            self._reserved += usd
        return usd

    def settle(self, caller_id: str, *, reserved: float, cost: float) -> None:
        """Work of this caller has ended. Releases its reservation and counts its cost."""
        if caller_id == ADMIN:
            self._reserved = max(0.0, self._reserved - reserved)
            self._spent[self._today()] += cost

    def _left(self) -> float:
        today = self._today()
        spent = sum(cost for day, cost in self._spent.items() if day >= today)
        return round(self._most - spent - self._reserved, 9)

    def _today(self) -> int:
        return int(self._clock() // DAY)


def check_cost(usd: float, most: float | None, *, where: str = "It") -> None:
    """Raises BudgetExceeded if a request says that it may not cost so much."""
    if most is not None and usd > most + _NOTHING:
        raise BudgetExceeded(f"{where} would cost about {usd:g} USD, more than max_cost_usd: {most:g}.")
