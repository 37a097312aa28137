"""What a ledger in memory knows of money: costs, budgets, what keys have spent, and usage."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from contract.callers import account_of
from ledger import DAY, Period
from ledger.access_records import ApiKeyRecord, SpendingRecord
from ledger.claims import ClaimBudget, ClaimNotice, ClaimSpending
from ledger.memory_rows import MemoryRows
from ledger.money_records import BudgetRecord, UsageRecord
from ledger.records import GenerationRecord
from ledger.sums import moment_of
from ledger.tables import MAPPINGS
from ledger.usage import KeyFacts, figures, grouped, groups_of, usage_of


class MemoryMoney(MemoryRows):
    """The queries about money on `rows`, and their claims."""

    def claimed_money(self, claim: ClaimBudget | ClaimSpending | ClaimNotice) -> bool:
        """Make the claim, and return whether it was made."""
        match claim:
            case ClaimBudget(account, most, day, simulated):
                return self.budget_total(account, day, simulated=simulated) <= most
            case ClaimSpending(payer, most, since, simulated):
                return sum(self.spending(payer, since, simulated=simulated)) <= most
            case ClaimNotice(payer, since, simulated, notice):
                record = SpendingRecord(
                    payer=payer, period=since, simulated=simulated, process=notice, spent=0.0, reserved=0.0
                )
                place = MAPPINGS[SpendingRecord].key_of(record)
                return self.rows[SpendingRecord].setdefault(place, record) is record

    def cost_by_day(self, account: str, since: float, *, simulated: bool) -> Mapping[int, float]:
        days: defaultdict[int, float] = defaultdict(float)
        for each, _ in self._counted(Period(simulated, since=since)):
            if account_of(each.caller_id) == account:
                days[each.day] += each.usd
        return days

    def budget_spent(self, day: int, *, simulated: bool) -> Mapping[int, float]:
        days: defaultdict[int, float] = defaultdict(float)
        for each in self.all(BudgetRecord):
            if each.day >= day and each.simulated == simulated:
                days[each.day] += each.spent
        return days

    def budget_total(self, account: str, day: int, *, simulated: bool) -> float:
        rows = sorted(self.all(BudgetRecord), key=lambda each: each.day)
        reserved = {each.process: each.reserved for each in rows if each.simulated == simulated}
        taken = [
            each
            for each in self.all(GenerationRecord)
            if each.taken_at is not None and each.simulated == simulated
        ]
        left = sum(each.reserved_usd for each in taken if account_of(each.caller_id) == account)
        return sum(self.budget_spent(day, simulated=simulated).values()) + sum(reserved.values()) + left

    def spending(self, payer: str, since: str, *, simulated: bool) -> tuple[float, float]:
        rows = [
            each
            for each in self.all(SpendingRecord)
            if (each.payer, each.simulated) == (payer, simulated) and each.period >= since
        ]
        left = sum(
            each.reserved_usd
            for each in self.all(GenerationRecord)
            if (each.caller_id, each.simulated) == (payer, simulated)
            and each.taken_at is not None
            and each.accepted_at >= moment_of(since)
        )
        return sum(each.spent for each in rows), sum(each.reserved for each in rows) + left

    def spending_rows(self, process: str, *, before: str) -> Sequence[SpendingRecord]:
        return [each for each in self.all(SpendingRecord) if each.process == process or each.period < before]

    def usage(self, period: Period, *, by: Sequence[str] = ()) -> Sequence[dict[str, Any]]:
        counted = self._counted(period)
        if not by:
            return [figures([each for each, _ in counted])]
        rows = [(groups_of(each, metadata, by), figures([each])) for each, metadata in counted]
        return grouped(by, rows, {each.id: KeyFacts(each.name, each.tags) for each in self.all(ApiKeyRecord)})

    def _counted(self, period: Period) -> list[tuple[UsageRecord, str | None]]:
        """The usage of each ended generation with its metadata, and of deleted ones by day."""
        present = [
            (each.ended_at, usage_of(each), each.metadata)
            for each in self.all(GenerationRecord)
            if each.ended_at is not None
        ]
        deleted = [(float(each.day * DAY), each, None) for each in self.all(UsageRecord)]
        since, until = period.since, period.until
        return [
            (each, metadata)
            for ended_at, each, metadata in (*present, *deleted)
            if each.simulated == period.simulated
            and period.caller_id in {None, each.caller_id}
            and (since is None or ended_at >= since)
            and (until is None or ended_at < until)
        ]
