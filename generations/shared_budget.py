"""The server's budget per day if several processes share the ledger.

Each process has a row for each day, with what it has spent on that day and what it has reserved now. A row is complete
by itself, and written with the generations that it counts. Before a process accepts work, it writes the reservation and
claims it: the claim fails if the sum over all processes is above the limit. Claims are made one after the other, so
each counts the reservations before it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

from contract.callers import ADMIN, pays_with_server_token
from errors import LedgerDown
from generations.archive import Archive
from generations.budget import TOLERANCE, Budget
from ledger import DAY, Ledger, Queries
from ledger.claims import ClaimBudget
from ledger.money_records import BudgetRecord

_LEAST: Final = 1e-6
"""USD. Smaller differences between sums are those of floats."""


class SharedBudget(Budget):
    """A source for the ledger: its record is that of this process and this day."""

    id = "budget"

    def __init__(
        self,
        usd_per_day: float,
        *,
        ledger: Ledger,
        archive: Archive,
        process: str,
        simulated: bool = False,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(usd_per_day, simulated=simulated, **({} if clock is None else {"clock": clock}))
        self._ledger = ledger
        self._archive = archive
        self._process = process
        self._claiming = asyncio.Lock()
        self._total = 0.0
        """USD that all processes have spent today and reserved, as last read."""

    def record(self) -> BudgetRecord:
        today = self._today()
        return BudgetRecord(self._process, today, self._simulated, self.spent[today], self.reserved)

    def load(self, queries: Queries) -> Mapping[int, float]:
        """What was spent since the beginning of this day without being in the rows: before there was a budget."""
        today = self._today()
        costs = queries.cost_by_day(ADMIN, today * DAY, simulated=self._simulated)
        counted = queries.budget_spent(today, simulated=self._simulated)
        rest = {day: usd - counted.get(day, 0.0) for day, usd in costs.items()}
        return {day: usd for day, usd in rest.items() if usd > _LEAST}

    def begin(self, spent: Mapping[int, float]) -> None:
        super().begin(spent)
        self._ledger.mark_dirty(self)

    async def refresh(self) -> None:
        with suppress(LedgerDown):  # then it stays as last read
            self._total = await self._archive.read(self._sum)

    @asynccontextmanager
    async def admitted(self, caller_id: str, usd: float) -> AsyncGenerator[None, None]:
        if not pays_with_server_token(caller_id):
            yield
            return
        async with self._claiming:
            self.hold(caller_id, usd)
            try:
                is_within = await self._ledger.claim(
                    ClaimBudget(ADMIN, self._most + TOLERANCE, self._today(), self._simulated)
                )
            except BaseException:
                self._release(usd)
                raise
            if not is_within:
                self._release(usd)
                await self._ledger.flush()
                await self.refresh()
                raise self._exceeded(usd)
        try:
            yield
        finally:
            self._release(usd)

    def reserve(self, caller_id: str, usd: float) -> float:
        """Reserve USD for work that is `admitted`."""
        self.hold(caller_id, usd)
        return usd

    def hold(self, caller_id: str, usd: float) -> None:
        super().hold(caller_id, usd)
        self._ledger.mark_dirty(self)

    def settle(self, caller_id: str, *, reserved: float, cost: float) -> None:
        super().settle(caller_id, reserved=reserved, cost=cost)
        self._ledger.mark_dirty(self)

    def _release(self, usd: float) -> None:
        """Release the amount that was held during a claim."""
        self.settle(ADMIN, reserved=usd, cost=0.0)

    def _left(self) -> float:
        return round(self._most - self._total, 9)

    def _sum(self, queries: Queries) -> float:
        return queries.budget_total(ADMIN, self._today(), simulated=self._simulated)
