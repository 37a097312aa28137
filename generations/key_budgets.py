"""What named keys spend, and their budgets by calendar period.

Each process has a row for each key and day (UTC), with what it has spent of that day and what it has reserved now. All
that a generation costs counts on the day on which it was accepted, so a period is the sum of its days, also if an
administrator changes it. A row is complete by itself, and written with the generations that it counts.

If several processes share the ledger (`SharedKeyBudgets`), one writes a reservation before it accepts work, and claims
it: the claim fails if the sum over all processes is above the budget.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import structlog

from auth import Caller, Keys
from contract.callers import KEY_PREFIX
from contract.states import iso8601
from errors import BudgetExceeded, LedgerDown
from generations.archive import Archive
from generations.budget import TOLERANCE
from generations.periods import LONGEST, CalendarPeriod, date_of_moment
from ledger import DAY, Ledger, Queries
from ledger.access_records import ApiKeyRecord, SpendingRecord
from ledger.claims import ClaimNotice, ClaimSpending

LOW: Final = 0.8
"""The share of a budget after which `key_budget_low` is logged."""

_KEPT: Final = 2 * LONGEST
"""Days after which a row is deleted."""

log = structlog.get_logger("generation")


class HasKeys(Protocol):
    """What knows the named keys, such as `auth.Authenticator`."""

    @property
    def keys(self) -> Keys: ...


@dataclass(frozen=True, slots=True)
class KeySpending:
    """What a key has `used` and `reserved` in the present `period`, in USD. `left` is None without a budget; then the
    period is the month."""

    period: CalendarPeriod
    used: float
    reserved: float
    left: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "period": self.period.name,
            "begins_at": iso8601(self.period.begins_at),
            "begins_anew": iso8601(self.period.ends_at),
            "used_usd": self.used,
            "reserved_usd": self.reserved,
            "left_usd": self.left,
        }


@dataclass(frozen=True, slots=True)
class _KeyBudget:
    """The budget of one key for one period."""

    key: ApiKeyRecord
    usd: float
    period: CalendarPeriod

    def exceeded(self, usd: float, counted: float) -> BudgetExceeded:
        """The refusal of work that costs up to `usd`, when this much is spent and reserved."""
        left = max(0.0, round(self.usd - counted, 9))
        return BudgetExceeded(
            f"It may cost up to {usd:g} USD, and {left:g} of the {self.usd:g} USD are left that the key "
            f"“{self.key.name}” has for this {self.period.name}.",
            budget=self.key.name,
            period=self.period.name,
            begins_anew=iso8601(self.period.ends_at),
        )


@dataclass(eq=False, slots=True)
class _Day:
    """What this process has spent and reserved for a payer on one day. A source for the ledger."""

    payer: str
    day: str
    simulated: bool
    process: str
    spent: float = 0.0
    reserved: float = 0.0

    @property
    def id(self) -> str:
        return f"spending {self.payer} {self.day}"

    def record(self) -> SpendingRecord:
        return SpendingRecord(
            payer=self.payer,
            period=self.day,
            simulated=self.simulated,
            process=self.process,
            spent=self.spent,
            reserved=self.reserved,
        )


class KeyBudgets:
    """The spending of keys on a ledger that only this process uses. Call it on the loop. `clock` returns Unix time, and
    `at` is the Unix time at which work was accepted. Costs of later days count in a period, since a clock that was
    ahead recorded them."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        archive: Archive,
        keys: HasKeys,
        simulated: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._keys = keys
        self._simulated = simulated
        self._clock = clock
        self._days: defaultdict[str, dict[str, _Day]] = defaultdict(dict)
        """By payer and day."""
        self._noticed: dict[str, CalendarPeriod] = {}
        """By payer, the last period of which a low budget was noticed."""
        self._claiming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By payer. Claims of one process would count the reservations of each other, which may be refused."""

    def load(self, queries: Queries) -> Sequence[SpendingRecord]:
        """The rows of earlier processes for `begin`. Blocks. Raises LedgerDown."""
        return queries.spending_rows(self._ledger.process or "", before=self._oldest)

    def begin(self, rows: Sequence[SpendingRecord]) -> None:
        """Count what earlier processes have spent, and delete rows of long ago. Reservations come back with their
        work."""
        oldest = self._oldest
        for row in rows:
            if row.period < oldest:
                self._ledger.delete(SpendingRecord, row.payer, row.period, row.simulated, row.process)
            elif row.simulated == self._simulated and row.process == (self._ledger.process or ""):
                day = self._day(row.payer, row.period)
                day.spent += row.spent
                if row.reserved:
                    self._ledger.mark_dirty(day)

    async def spending(self, key: ApiKeyRecord) -> KeySpending:
        """What a key has spent and reserved in its present period. Raises LedgerDown."""
        period = CalendarPeriod.of(key.budget_period or "month", self._clock())
        used, reserved = await self._sums(key.id, period)
        left = None if key.budget_usd is None else max(0.0, round(key.budget_usd - used - reserved, 9))
        return KeySpending(period, round(used, 9), round(reserved, 9), left)

    @asynccontextmanager
    async def admitted(self, caller: Caller, usd: float, at: float) -> AsyncGenerator[None, None]:
        """Within the block, other processes cannot keep the caller from reserving so much. Raises BudgetExceeded or
        LedgerDown."""
        budget = self._budget_of(caller, usd, at)
        if budget is not None and self._checked(budget, usd) >= LOW * budget.usd:
            await self._notice(budget)
        yield

    def check(self, caller: Caller, usd: float, at: float) -> None:
        """Raises BudgetExceeded if the caller may not reserve so much."""
        if (budget := self._budget_of(caller, usd, at)) is not None:
            self._checked(budget, usd)

    def hold(self, caller_id: str, usd: float, at: float) -> None:
        """Reserve USD for a key, even beyond its budget."""
        self.settle(caller_id, reserved=-usd, cost=0.0, at=at)

    def settle(self, caller_id: str, *, reserved: float, cost: float, at: float) -> None:
        """Release the reservation of a key's work that was accepted at this time, and count its cost."""
        if not caller_id.startswith(KEY_PREFIX) or not (reserved or cost):
            return
        day = self._day(caller_id, date_of_moment(at))
        day.reserved = max(0.0, round(day.reserved - reserved, 9))
        day.spent += cost
        self._ledger.mark_dirty(day)

    def _checked(self, budget: _KeyBudget, usd: float) -> float:
        """The sum of spent and reserved USD, with these. Raises BudgetExceeded."""
        counted = sum(self._own(budget.key.id, budget.period))
        if usd > TOLERANCE and counted + usd > budget.usd + TOLERANCE:
            raise budget.exceeded(usd, counted)
        return counted + usd

    def _budget_of(self, caller: Caller, usd: float, at: float) -> _KeyBudget | None:
        """The budget from which this caller's work is paid. None if it has none, or the work is free. Raises
        BudgetExceeded for a key that no longer exists: its budget is not known."""
        if caller.kind != "key" or usd <= TOLERANCE:
            return None
        key = self._keys.keys.with_id(caller.id) or caller.key  # it may have changed since the request
        if key is None:
            raise BudgetExceeded("Its key was deleted or has expired, so no more may be spent for it.")
        if key.budget_usd is None:
            return None
        return _KeyBudget(key, key.budget_usd, CalendarPeriod.of(key.budget_period or "month", at))

    async def _sums(self, payer: str, period: CalendarPeriod) -> tuple[float, float]:
        """What a key has spent and reserved in a period, in all processes."""
        return self._own(payer, period)

    def _own(self, payer: str, period: CalendarPeriod) -> tuple[float, float]:
        """What this process has spent and reserved for a key in a period."""
        days = [day for date, day in self._days.get(payer, {}).items() if date >= period.first_day]
        return sum(each.spent for each in days), sum(each.reserved for each in days)

    def _day(self, payer: str, date: str) -> _Day:
        days = self._days[payer]
        if date not in days:
            self._forget(days)
            days[date] = _Day(payer, date, self._simulated, self._ledger.process or "")
        return days[date]

    def _forget(self, days: dict[str, _Day]) -> None:
        """Delete the rows of days that no period has any more."""
        oldest = self._oldest
        for each in [each for each in days.values() if each.day < oldest and not each.reserved]:
            del days[each.day]
            self._ledger.delete(SpendingRecord, each.payer, each.day, each.simulated, each.process)

    @property
    def _oldest(self) -> str:
        """The first day whose rows are kept."""
        return date_of_moment(self._clock() - _KEPT * DAY)

    async def _notice(self, budget: _KeyBudget) -> None:
        """Log that a budget is low, once for each period, whichever process notices it first."""
        key, period = budget.key, budget.period
        if self._noticed.get(key.id) == period:
            return
        self._noticed[key.id] = period
        with suppress(LedgerDown):
            if await self._ledger.claim(
                ClaimNotice(key.id, period.first_day, self._simulated, f"low {period.name}")
            ):
                log.warning(
                    "key_budget_low", key=key.id, name=key.name, budget_usd=budget.usd, period=period.name
                )


class SharedKeyBudgets(KeyBudgets):
    """The spending of keys on a ledger that several processes share."""

    @asynccontextmanager
    async def admitted(self, caller: Caller, usd: float, at: float) -> AsyncGenerator[None, None]:
        budget = self._budget_of(caller, usd, at)
        if budget is None:
            yield
            return
        with ExitStack() as held:
            async with self._claiming.setdefault(caller.id, asyncio.Lock()):
                self.hold(caller.id, usd, at)
                held.callback(self.settle, caller.id, reserved=usd, cost=0.0, at=at)
                is_within, is_low = await self._claimed(budget)
                if not is_within:
                    held.close()
                    await self._ledger.flush()
                    raise budget.exceeded(usd, sum(await self._sums(caller.id, budget.period)))
                if is_low:
                    await self._notice(budget)
            yield

    def check(self, caller: Caller, usd: float, at: float) -> None:
        """Work that is `admitted` was checked."""

    async def _claimed(self, budget: _KeyBudget) -> tuple[bool, bool]:
        """Whether all processes together are within a budget, and whether it is low."""
        first_day = budget.period.first_day
        claims = [
            self._ledger.claim(ClaimSpending(budget.key.id, most, first_day, self._simulated))
            for most in (budget.usd + TOLERANCE, LOW * budget.usd - TOLERANCE)
        ]
        is_within, is_high = await asyncio.gather(*claims)
        return is_within, not is_high

    async def _sums(self, payer: str, period: CalendarPeriod) -> tuple[float, float]:
        return await self._archive.read(partial(self._read_sums, payer, period.first_day))

    def _read_sums(self, payer: str, first_day: str, queries: Queries) -> tuple[float, float]:
        return queries.spending(payer, first_day, simulated=self._simulated)
