"""The queries of the ledger in SQL about money: costs, budgets, what keys have spent, and usage."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import eq, ge, lt
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Select,
    Text,
    cast,
    func,
    literal,
    literal_column,
    null,
    select,
    union_all,
)

from ledger import DAY, METADATA, Period
from ledger.access_records import SpendingRecord
from ledger.column_types import JsonText
from ledger.sql_reader import SqlReader, conditions_of
from ledger.sums import BUDGET_TOTAL, SPENDING, spending_of, total_of
from ledger.tables import (
    API_KEYS,
    BUDGETS,
    DAY_OF_END,
    FIGURES,
    GENERATIONS,
    SPENDINGS,
    USAGE_BY_DAY,
    USAGE_OF_ONE,
    of_account,
)
from ledger.usage import KeyFacts, grouped, needs_keys, rounded

_G: Final = GENERATIONS.c
_U: Final = USAGE_BY_DAY.c

_MOST_OLD_ROWS: Final = 10_000
_START_OF_DAY: Final = cast(_U.day, Float) * DAY

_TYPES_OF_SUMS: Final = {name: Float if isinstance(_U[name].type, Float) else BigInteger for name in FIGURES}
"""PostgreSQL's sums of whole numbers are decimals."""


class SqlMoney(SqlReader):
    """The queries about money on a database."""

    def cost_by_day(self, account: str, since: float, *, simulated: bool) -> Mapping[int, float]:
        present = select(DAY_OF_END, func.sum(_G.cost_usd)).where(
            _G.ended_at >= since, of_account(_G.caller_id, account), _G.simulated == simulated
        )
        deleted = select(_U.day, func.sum(_U.usd)).where(
            since <= _START_OF_DAY, of_account(_U.caller_id, account), _U.simulated == simulated
        )
        days: defaultdict[int, float] = defaultdict(float)
        with self._reading() as connection:
            # One statement, so that no row is deleted between two.
            query = union_all(present.group_by(DAY_OF_END), deleted.group_by(_U.day))
            for day, usd in connection.execute(query):
                days[int(day)] += usd
        return days

    def budget_spent(self, day: int, *, simulated: bool) -> Mapping[int, float]:
        table = BUDGETS.c
        spent = select(table.day, func.sum(table.spent)).where(table.day >= day, table.simulated == simulated)
        with self._reading() as connection:
            return {int(each): usd for each, usd in connection.execute(spent.group_by(table.day))}

    def budget_total(self, account: str, day: int, *, simulated: bool) -> float:
        with self._reading() as connection:
            return float(
                connection.exec_driver_sql(BUDGET_TOTAL, total_of(account, day, simulated)).scalar_one()
            )

    def spending(self, payer: str, since: str, *, simulated: bool) -> tuple[float, float]:
        with self._reading() as connection:
            sums = connection.exec_driver_sql(SPENDING, spending_of(payer, since, simulated))
            spent, reserved = sums.one()
        return float(spent), float(reserved)

    def spending_rows(self, process: str, *, before: str) -> Sequence[SpendingRecord]:
        spending = SPENDINGS.c
        own = self._records(SpendingRecord, spending.process == process, spending.period >= before)
        return [*own, *self._records(SpendingRecord, spending.period < before, limit=_MOST_OLD_ROWS)]

    def usage(self, period: Period, *, by: Sequence[str] = ()) -> Sequence[dict[str, Any]]:
        present, deleted = _usage(_G, period, by), _usage(_U, period, by)
        sums = union_all(present, deleted).subquery().c
        figures = [
            cast(func.coalesce(func.sum(sums[name]), 0), _TYPES_OF_SUMS[name]).label(name) for name in FIGURES
        ]
        groups = [sums[f"group_{at}"] for at in range(len(by))]
        query = select(*groups, *figures).group_by(*groups)
        with self._reading() as connection:
            rows = [(tuple(row[: len(by)]), dict(row._mapping)) for row in connection.execute(query)]  # noqa: SLF001
            if not by:
                return [rounded(each) for _, each in rows]
            facts = select(API_KEYS.c.id, API_KEYS.c.name, API_KEYS.c.tags)
            keys = connection.execute(facts).all() if needs_keys(by) else ()
        # Sorted and merged here: a database may sort texts by the rules of a language.
        return grouped(by, rows, {key_id: KeyFacts(name, tags) for key_id, name, tags in keys})


def _usage(columns: Any, period: Period, by: Sequence[str]) -> Select[Any]:
    """The figures of present generations (`_G`) or of deleted ones (`_U`), by group."""
    is_present = columns is _G
    ended_at = _G.ended_at if is_present else _START_OF_DAY
    conditions = conditions_of(
        (columns.simulated, eq, period.simulated),
        (columns.caller_id, eq, period.caller_id),
        (ended_at, ge, period.since),
        (ended_at, lt, period.until),
    )
    figures = USAGE_OF_ONE if is_present else _U
    groups = [_group(each, columns).label(f"group_{at}") for at, each in enumerate(by)]
    sums = select(*groups, *(func.sum(figures[name]).label(name) for name in FIGURES)).where(
        ended_at.is_not(None), *conditions
    )
    # By their places: PostgreSQL does not see that two expressions with parameters are the same.
    return sums.group_by(*(literal_column(str(at)) for at in range(1, len(by) + 1)))


def _group(name: str, columns: Any) -> ColumnElement[Any]:
    """What usage is grouped by. Keys and their tags are grouped by the caller first."""
    is_present = columns is _G
    if name.startswith(METADATA):
        return (
            JsonText(_G.metadata, literal(name.removeprefix(METADATA))) if is_present else cast(null(), Text)
        )
    if name == "day":
        return DAY_OF_END if is_present else _U.day
    found: ColumnElement[Any] = columns.model if name == "model" else columns.caller_id
    return found
