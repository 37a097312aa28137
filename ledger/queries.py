"""The queries of the ledger in SQL: one generation, a caller's list, usage, unfinished work."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import eq, ge, gt, lt
from typing import Any, Final, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    LargeBinary,
    Select,
    and_,
    cast,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    union_all,
)

from contract.states import State
from ledger import DAY, Grouping, Page, Period, Place, Progress, date_of
from ledger.access import SqlAccess, after
from ledger.access_records import SpendingRecord
from ledger.claims import BUDGET_TOTAL, SPENDING, spending_of, total_of
from ledger.column_types import JsonText, Lower
from ledger.lost_calls import SqlLostCalls
from ledger.published import SqlModels
from ledger.records import (
    AttemptRecord,
    BatchRecord,
    Delivery,
    GenerationRecord,
    KeyRecord,
    Record,
    SemaphoreLeaseRecord,
    SemaphoreRecord,
)
from ledger.tables import (
    API_KEYS,
    ATTEMPTS,
    BATCHES,
    BUDGETS,
    DAY_OF_END,
    DELIVERIES,
    FIGURES,
    GENERATIONS,
    KEYS,
    META,
    SPENDINGS,
    USAGE_BY_DAY,
    USAGE_OF_ONE,
    mapping,
    of_account,
)

R = TypeVar("R", bound=Record)

_KEYS_AT_ONCE: Final = 10_000

_B: Final = BATCHES.c
_G: Final = GENERATIONS.c
_U: Final = USAGE_BY_DAY.c
_UNFINISHED: Final = _G.ended_at.is_(None)
_START_OF_DAY: Final = cast(_U.day, Float) * DAY

_TYPES_OF_SUMS: Final = {name: Float if isinstance(_U[name].type, Float) else BigInteger for name in FIGURES}
"""PostgreSQL's sums of whole numbers are decimals."""

_BEGIN: Final = {"sqlite": "BEGIN", "postgresql": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
"""Begins a transaction that sees one moment, by dialect."""


class SqlQueries(SqlModels, SqlAccess, SqlLostCalls):
    """`ledger.Queries` on a database. Each query takes a connection from the pool."""

    def generation(self, generation_id: str) -> GenerationRecord | None:
        return next(iter(self._generations(_G.id == generation_id)), None)

    def batch(self, batch_id: str) -> BatchRecord | None:
        return next(iter(self._records(BatchRecord, BATCHES.c.id == batch_id)), None)

    def batches(
        self, caller_id: str | None, *, key_name: str | None = None, limit: int, before: Place | None = None
    ) -> Sequence[BatchRecord]:
        conditions = _conditions((_B.caller_id, eq, caller_id))
        conditions += [*_of_keys(_B.caller_id, key_name), *after(before, _B.accepted_at, _B.id)]
        latest = (_B.accepted_at.desc(), _B.id.desc())
        return self._records(BatchRecord, *conditions, order=latest, limit=limit)

    def batch_states(self, batch_ids: Collection[str]) -> Mapping[str, Mapping[State, tuple[int, float]]]:
        found: defaultdict[str, dict[State, tuple[int, float]]] = defaultdict(dict)
        counted = (
            select(_G.batch_id, _G.state, func.count(), func.sum(_G.cost_usd))
            .where(_G.batch_id.in_(batch_ids))
            .group_by(_G.batch_id, _G.state)
        )
        with self._reading() as connection:
            for batch_id, state, count, usd in connection.execute(counted):
                found[batch_id][state] = count, float(usd)
        return found

    def batch_items(self, batch_id: str) -> Sequence[GenerationRecord]:
        return self._generations(_G.batch_id == batch_id, order=_G.position)

    def members(self, work_ids: Collection[str]) -> Sequence[GenerationRecord]:
        return self._generations(or_(_G.id.in_(work_ids), _G.batch_id.in_(work_ids)))

    def progress(self, work_ids: Collection[str]) -> Mapping[str, Progress]:
        one = select(_G.id, _G.state, _G.ended_at, _G.suspended_at, literal(0)).where(_G.id.in_(work_ids))
        batch = (
            select(_B.id, literal(""), _B.ended_at, func.max(_G.suspended_at), func.count(_G.ended_at))
            .join_from(BATCHES, GENERATIONS, _G.batch_id == _B.id, isouter=True)
            .where(_B.id.in_(work_ids))
            .group_by(_B.id, _B.ended_at)
        )
        with self._reading() as connection:
            return {
                work_id: Progress(state, ended_at is not None, suspended_at is not None, ended)
                for work_id, state, ended_at, suspended_at, ended in connection.execute(union_all(one, batch))
            }

    def ended_items(self, batch_id: str) -> Collection[str]:
        ended = select(_G.id).where(_G.batch_id == batch_id, _G.ended_at.is_not(None))
        with self._reading() as connection:
            return connection.scalars(ended).all()

    def page(self, page: Page) -> Sequence[GenerationRecord]:
        conditions = _conditions(
            (_G.caller_id, eq, page.caller_id),
            (_G.batch_id, eq, page.batch_id),
            (_G.kind, eq, page.kind),
            (_G.state, eq, page.state),
            (_G.model, eq, page.model),
            (_G.accepted_at, ge, page.since),
            (_G.accepted_at, lt, page.until),
            (_G.seq, lt, page.before),
            (_G.seq, gt, page.after),
        )
        conditions += _of_keys(_G.caller_id, page.key_name)
        conditions += [JsonText(_G.metadata, literal(name)) == value for name, value in page.metadata]
        if page.prompt is not None:
            conditions.append(Lower(_G.prompt).like(Lower(literal(_pattern_of(page.prompt))), escape="/"))
        order = _G.seq.desc() if page.after is None else _G.seq
        found = self._generations(*conditions, order=order, limit=page.limit)
        return found if page.after is None else found[::-1]

    def unfinished(self, process: str | None = None) -> Sequence[GenerationRecord]:
        return self._generations(_UNFINISHED, *_taken_by(process, _G))

    def unfinished_batches(self, process: str | None = None) -> Sequence[BatchRecord]:
        return self._records(BatchRecord, BATCHES.c.ended_at.is_(None), *_taken_by(process, BATCHES.c))

    def completed_batches(self) -> Collection[str]:
        goes_on = exists().where(_G.batch_id == _B.id, _UNFINISHED)
        with self._reading() as connection:
            return connection.scalars(select(_B.id).where(_B.ended_at.is_(None), not_(goes_on))).all()

    def suspended(self, before: float) -> Sequence[GenerationRecord]:
        return self._generations(_UNFINISHED, _G.suspended_at < before)

    def recent_attempts(self, since: float) -> Sequence[AttemptRecord]:
        # Two selects and no OR, so that each has its own partial index.
        recent = select(_G.id).where(_G.ended_at >= since).union_all(select(_G.id).where(_UNFINISHED))
        return self._records(AttemptRecord, ATTEMPTS.c.generation_id.in_(recent))

    def key(self, caller_id: str, key: str) -> KeyRecord | None:
        return next(iter(self._records(KeyRecord, KEYS.c.caller_id == caller_id, KEYS.c.key == key)), None)

    def expired_keys(self, before: float) -> Sequence[KeyRecord]:
        ended = not_(_is_unfinished(KEYS.c.work_id))
        return self._records(KeyRecord, KEYS.c.created_at < before, ended, limit=_KEYS_AT_ONCE)

    def is_unfinished(self, work_id: str) -> bool:
        with self._reading() as connection:
            return bool(connection.execute(select(_is_unfinished(literal(work_id)))).scalar_one())

    def delivery(self, work_id: str) -> Delivery | None:
        return next(iter(self._records(Delivery, DELIVERIES.c.id == work_id)), None)

    def pending_deliveries(self, process: str | None = None) -> Sequence[Delivery]:
        return self._records(Delivery, DELIVERIES.c.state == "pending", *_taken_by(process, DELIVERIES.c))

    def semaphores(self) -> Sequence[SemaphoreRecord]:
        return self._records(SemaphoreRecord)

    def semaphore_leases(self) -> Sequence[SemaphoreLeaseRecord]:
        return self._records(SemaphoreLeaseRecord)

    def names_semaphore(self, semaphore_id: str) -> bool:
        query = select(exists().where(_UNFINISHED, _G.semaphore == semaphore_id))
        with self._reading() as connection:
            return bool(connection.execute(query).scalar_one())

    def meta(self, name: str) -> bytes | None:
        value = cast(META.c.value, LargeBinary)  # text or a number, if an operator has written the row
        with self._reading() as connection:
            return connection.execute(select(value).where(META.c.name == name)).scalar_one_or_none()

    def oldest_doubt(self) -> float | None:
        query = select(func.min(ATTEMPTS.c.submitted_at)).where(
            ATTEMPTS.c.generation_id.in_(select(_G.id).where(_UNFINISHED)),
            ATTEMPTS.c.open,
            ATTEMPTS.c.prediction_id.is_(None),
        )
        with self._reading() as connection:
            oldest: float | None = connection.scalar(query)
        return oldest

    def forgettable(
        self, before: float, *, files_before: float, most: int
    ) -> Sequence[tuple[type[Record], str]]:
        keyed = select(KEYS.c.work_id)
        pending = select(DELIVERIES.c.id).where(DELIVERIES.c.state == "pending")
        may_go = and_(
            _G.ended_at < before, or_(_G.files == "[]", _G.ended_at < files_before), _G.id.not_in(pending)
        )
        item_stays = exists().where(_G.batch_id == BATCHES.c.id, or_(_UNFINISHED, not_(may_go)))
        batches = select(BATCHES.c.id, BATCHES.c.total).where(
            BATCHES.c.ended_at < before,
            BATCHES.c.id.not_in(keyed),
            BATCHES.c.id.not_in(pending),
            not_(item_stays),
        )
        single = select(_G.id).where(may_go, _G.batch_id.is_(None), _G.id.not_in(keyed))
        found: list[tuple[type[Record], str]] = []
        items = 0
        with self._reading() as connection:
            for batch_id, total in connection.execute(batches.order_by(BATCHES.c.ended_at).limit(most)):
                if found and items + total > most:
                    break
                found.append((BatchRecord, batch_id))
                items += total
            if found:
                return found
            singles = connection.execute(single.order_by(_G.ended_at).limit(most)).scalars()
            return [(GenerationRecord, each) for each in singles]

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

    def spending_rows(self, process: str) -> Sequence[SpendingRecord]:
        return self._records(SpendingRecord, SPENDINGS.c.process == process)

    def failures(self, since: float, *, simulated: bool) -> Mapping[str, int]:
        query = (
            select(_G.error_code, func.count())
            .where(_G.ended_at >= since, _G.state == "failed", _G.simulated == simulated)
            .where(_G.error_code.is_not(None))
            .group_by(_G.error_code)
        )
        with self._reading() as connection:
            return {str(code): int(count) for code, count in connection.execute(query)}

    def usage(self, period: Period, *, by: Grouping | None) -> Sequence[dict[str, Any]]:
        present, deleted = _usage(_G, period, by), _usage(_U, period, by)
        sums = union_all(present, deleted).subquery().c
        figures = [
            cast(func.coalesce(func.sum(sums[name]), 0), _TYPES_OF_SUMS[name]).label(name) for name in FIGURES
        ]
        query = select(*figures)
        if by is not None:
            query = select(sums.group.label(by), *figures).group_by(sums.group)
        with self._reading() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
        if by is not None:
            rows.sort(key=lambda row: row[by])  # a database may sort texts by the rules of a language
        return [row | {"day": date_of(row["day"])} for row in rows] if by == "day" else rows

    def _generations(
        self, *conditions: Any, order: Any = _G.seq, limit: int | None = None
    ) -> list[GenerationRecord]:
        """Generations with their attempts, both as of one moment."""
        found = select(GENERATIONS).where(*conditions).order_by(order).limit(limit)
        theirs = ATTEMPTS.c.generation_id.in_(found.with_only_columns(_G.id))
        read, read_attempt = mapping(GenerationRecord), mapping(AttemptRecord)
        attempts: defaultdict[str, list[AttemptRecord]] = defaultdict(list)
        with self._reading() as connection:
            connection.exec_driver_sql(_BEGIN[connection.dialect.name])
            try:
                rows = connection.execute(found).all()
                ordered = select(ATTEMPTS).where(theirs).order_by(ATTEMPTS.c.generation_id, ATTEMPTS.c.number)
                for row in connection.execute(ordered) if rows else ():
                    attempts[row.generation_id].append(read_attempt.read(row))
            finally:
                connection.exec_driver_sql("ROLLBACK")  # the transaction only reads
        return [read.read(row, attempts=tuple(attempts[row.id])) for row in rows]


def _of_keys(caller_id: ColumnElement[str], name: str | None) -> Sequence[ColumnElement[bool]]:
    """The condition that the caller is a key of this name. No condition without a name."""
    return () if name is None else (caller_id.in_(select(API_KEYS.c.id).where(API_KEYS.c.name == name)),)


def _pattern_of(part: str) -> str:
    """A pattern for LIKE that finds this part of a text, with `/` as the escape."""
    return "%" + "".join(f"/{each}" if each in "/%_" else each for each in part) + "%"


def _is_unfinished(work_id: ColumnElement[str]) -> ColumnElement[bool]:
    return or_(
        exists().where(_G.id == work_id, _UNFINISHED),
        exists().where(BATCHES.c.id == work_id, BATCHES.c.ended_at.is_(None)),
    )


def _taken_by(process: str | None, columns: Any) -> Sequence[ColumnElement[bool]]:
    """The conditions of what this process has taken over and not resumed yet. No condition if it is None."""
    return () if process is None else (columns.process == process, columns.taken_at.is_not(None))


def _conditions(*comparisons: tuple[Any, Callable[[Any, Any], Any], Any]) -> list[ColumnElement[bool]]:
    """Conditions that compare columns with values. A value of None adds no condition."""
    return [compare(column, value) for column, compare, value in comparisons if value is not None]


def _usage(columns: Any, period: Period, by: Grouping | None) -> Select[Any]:
    """The figures of present generations (`_G`) or of deleted ones (`_U`), by group."""
    is_present = columns is _G
    ended_at = _G.ended_at if is_present else _START_OF_DAY
    groups = {
        "model": columns.model,
        "caller": columns.caller_id,
        "day": DAY_OF_END if is_present else _U.day,
        None: literal(0),
    }
    conditions = _conditions(
        (columns.simulated, eq, period.simulated),
        (columns.caller_id, eq, period.caller_id),
        (ended_at, ge, period.since),
        (ended_at, lt, period.until),
    )
    group = groups[by].label("group")
    figures = USAGE_OF_ONE if is_present else _U
    sums = select(group, *(func.sum(figures[name]).label(name) for name in FIGURES)).where(
        ended_at.is_not(None), *conditions
    )
    return sums if by is None else sums.group_by(group)
