"""The server's budget per day, which refuses work before anything is spent.

Only work on the server's token counts, not work on users' tokens. An accepted generation reserves its
expected cost until it ends and settles its real cost, so waiting work counts as well. Days are in UTC; a cost counts on
the day on which its generation ended. If several processes share the ledger, `shared_budget.py` adds up theirs.
"""

import math
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

from contract.callers import ADMIN, pays_with_server_token
from contract.states import iso8601
from errors import BudgetExceeded
from ledger import DAY, Queries

TOLERANCE: Final = 1e-9
"""USD, for the comparison of sums of floats."""

_HORIZON: Final = 90 * DAY
"""Seconds of past costs that count if the clock is set back."""


class Budget:
    """The budget of `usd_per_day`, None for no limit. Call it on the loop. `clock` returns Unix time, and may
    be set forward or back to another day. Costs of later days count today, since a clock that was ahead
    recorded them.
    """

    def __init__(
        self,
        usd_per_day: float | None = None,
        *,
        simulated: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._most = math.inf if usd_per_day is None else usd_per_day
        self._simulated = simulated
        self._clock = clock
        self.spent: defaultdict[int, float] = defaultdict(float)
        """USD by day since 1970."""
        self.reserved = 0.0

    def load(self, queries: Queries) -> Mapping[int, float]:
        """Read the costs of earlier processes for `begin`. Blocks. Raises LedgerDown."""
        return queries.cost_by_day(ADMIN, self._clock() - _HORIZON, simulated=self._simulated)

    def begin(self, spent: Mapping[int, float]) -> None:
        """Add the costs of earlier processes: USD by day since 1970."""
        for day, usd in spent.items():
            self.spent[day] += usd

    @property
    def left(self) -> float | None:
        """USD left for today; None without a limit."""
        left = self._left()
        return None if math.isinf(left) else max(0.0, left)

    async def refresh(self) -> None:
        """Bring `left` up to date with other processes."""

    @asynccontextmanager
    async def admitted(self, caller_id: str, usd: float) -> AsyncGenerator[None, None]:  # noqa: ARG002
        """Within the block, `reserve` of these USD is certain to succeed as far as other processes are concerned.
        Raises BudgetExceeded or LedgerDown."""
        yield

    def reserve(self, caller_id: str, usd: float) -> float:
        """Reserve USD for work of this caller. Returns `usd`. Raises BudgetExceeded."""
        if pays_with_server_token(caller_id) and usd > self._left() + TOLERANCE:
            raise self._exceeded(usd)
        self.hold(caller_id, usd)
        return usd

    def hold(self, caller_id: str, usd: float) -> None:
        """Reserve USD for work that an earlier process accepted, even beyond the budget."""
        if pays_with_server_token(caller_id):
            self.reserved += usd

    def settle(self, caller_id: str, *, reserved: float, cost: float) -> None:
        """Release the reservation of work that has ended, and count its cost."""
        if pays_with_server_token(caller_id):
            self.reserved = max(0.0, self.reserved - reserved)
            self.spent[self._today()] += cost

    def _left(self) -> float:
        today = self._today()
        spent = sum(cost for day, cost in self.spent.items() if day >= today)
        return round(self._most - spent - self.reserved, 9)

    def _exceeded(self, usd: float) -> BudgetExceeded:
        return BudgetExceeded(
            f"It may cost up to {usd:g} USD, and {max(0.0, self._left()):g} of today's {self._most:g} USD are left.",
            budget="server",
            period="day",
            begins_anew=iso8601((self._today() + 1) * DAY),
        )

    def _today(self) -> int:
        return int(self._clock() // DAY)
