"""All budgets: that of the server and those of named keys. Work reserves in all that apply, or in none. And the
maximum cost of one request."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from auth import Caller
from errors import BudgetExceeded
from generations.budget import TOLERANCE, Budget
from generations.key_budgets import KeyBudgets
from ledger import Queries
from ledger.access_records import SpendingRecord
from ledger.records import GenerationRecord

Spent = tuple[Mapping[int, float], Sequence[SpendingRecord]]
"""What was spent of the server's budget (USD by day since 1970), and what was spent for keys."""


class Budgets:
    """Call it on the loop. `at` is the Unix time at which work was accepted."""

    def __init__(self, server: Budget, keys: KeyBudgets, *, simulated: bool) -> None:
        self.server = server
        self.keys = keys
        self._simulated = simulated

    def load(self, queries: Queries) -> Spent:
        """What earlier processes have spent, for `begin`. Blocks. Raises LedgerDown."""
        return self.server.load(queries), self.keys.load(queries)

    def begin(self, spent: Spent) -> None:
        """Count what earlier processes have spent."""
        of_server, of_keys = spent
        self.server.begin(of_server)
        self.keys.begin(of_keys)

    @asynccontextmanager
    async def admitted(self, caller: Caller, usd: float, at: float) -> AsyncGenerator[None, None]:
        """Within the block, `reserve` of these USD is certain to succeed as far as other processes are concerned.
        Raises BudgetExceeded or LedgerDown."""
        async with self.keys.admitted(caller, usd, at), self.server.admitted(caller.id, usd):
            yield

    def reserve(self, caller: Caller, usd: float, at: float) -> float:
        """Reserve USD for work of this caller. Returns `usd`. Raises BudgetExceeded."""
        self.keys.check(caller, usd, at)
        self.server.reserve(caller.id, usd)
        self.keys.hold(caller.id, usd, at)
        return usd

    def hold(self, caller_id: str, usd: float, at: float) -> None:
        """Reserve USD for work that an earlier process accepted, even beyond the budgets."""
        self.server.hold(caller_id, usd)
        self.keys.hold(caller_id, usd, at)

    def settle(self, caller_id: str, *, reserved: float, cost: float, at: float) -> None:
        """Release the reservation of work that has ended, and count its cost."""
        self.server.settle(caller_id, reserved=reserved, cost=cost)
        self.keys.settle(caller_id, reserved=reserved, cost=cost, at=at)

    def count(self, ended: GenerationRecord) -> None:
        """Count the cost of work of an earlier process that has ended without being resumed."""
        if ended.simulated == self._simulated:
            self.settle(ended.caller_id, reserved=0.0, cost=ended.cost_usd, at=ended.accepted_at)


def check_cost(usd: float, most: float | None, *, where: str = "It") -> None:
    """Raises BudgetExceeded if `usd` is more than the maximum cost of a request (None: no maximum)."""
    if most is not None and usd > most + TOLERANCE:
        raise BudgetExceeded(f"{where} may cost up to {usd:g} USD, more than max_cost_usd: {most:g}.")
