"""The queries of the ledger in SQL: one generation, a caller's list, usage, unfinished work."""

import string
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from operator import eq, ge, gt, lt
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    and_,
    cast,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.sql.selectable import TableValuedAlias

from contract.callers import KEY_PREFIX
from contract.ids import TRAINING_KIND
from contract.states import State
from ledger import Page, Place, Progress
from ledger.access import SqlAccess
from ledger.column_types import JsonText, MembersOf
from ledger.lost_calls import SqlLostCalls
from ledger.money import SqlMoney
from ledger.past_calls import SqlPastCalls
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
from ledger.sql_reader import after, conditions_of, in_parts
from ledger.tables import (
    API_KEYS,
    ATTEMPTS,
    BATCHES,
    DELIVERIES,
    GENERATIONS,
    IS_NO_TRAINING,
    IS_TRAINING,
    KEYS,
    META,
    USAGE_BY_DAY,
    mapping,
)

R = TypeVar("R", bound=Record)

_KEYS_AT_ONCE: Final = 10_000

_B: Final = BATCHES.c
_G: Final = GENERATIONS.c
_U: Final = USAGE_BY_DAY.c
_UNFINISHED: Final = _G.ended_at.is_(None)

_TRAININGS: Final = (IS_TRAINING, _G.id >= TRAINING_KIND, _G.id < f"{TRAINING_KIND[:-1]}o")
"""The conditions of trainings. They are few, and the index of ids finds them, also if it is sorted by the rules of a
language: all their ids have the same letters at the beginning."""

_BEGIN: Final = {"sqlite": "BEGIN", "postgresql": "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"}
"""Begins a transaction that sees one moment, by dialect."""


class SqlQueries(SqlMoney, SqlModels, SqlAccess, SqlLostCalls, SqlPastCalls):
    """`ledger.Queries` on a database. Each query takes a connection from the pool."""

    def generation(self, generation_id: str) -> GenerationRecord | None:
        return next(iter(self._generations(_G.id == generation_id)), None)

    def batch(self, batch_id: str) -> BatchRecord | None:
        return next(iter(self._records(BatchRecord, BATCHES.c.id == batch_id)), None)

    def batches(
        self, caller_id: str | None, *, key_name: str | None = None, limit: int, before: Place | None = None
    ) -> Sequence[BatchRecord]:
        conditions = conditions_of((_B.caller_id, eq, caller_id))
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
        joined = _joined()
        counted_of_others = (
            select(_B.id, _G.state, func.count())
            .select_from(BATCHES.join(joined, true()).join(GENERATIONS, _G.id == joined.c.value))
            .where(_B.id.in_(batch_ids), _B.joined.is_not(None))
            .group_by(_B.id, _G.state)
        )
        with self._reading() as connection:
            for batch_id, state, count, usd in connection.execute(counted):
                found[batch_id][state] = count, float(usd)
            for batch_id, state, count in connection.execute(counted_of_others):
                own, usd = found[batch_id].get(state, (0, 0.0))
                found[batch_id][state] = own + count, usd
        return found

    def batch_items(self, batch_id: str) -> Sequence[GenerationRecord]:
        return self._generations(_G.batch_id == batch_id, order=_G.position)

    def members(self, work_ids: Collection[str]) -> Sequence[GenerationRecord]:
        return [
            each
            for some in in_parts(work_ids)
            for each in self._generations(or_(_G.id.in_(some), _G.batch_id.in_(some)))
        ]

    def progress(self, work_ids: Collection[str]) -> Mapping[str, Progress]:
        return {name: each for some in in_parts(work_ids) for name, each in self._progress(some).items()}

    def _progress(self, work_ids: Sequence[str]) -> Mapping[str, Progress]:
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
        conditions = conditions_of(
            # The index of callers is of no use for trainings: a caller may have millions of other rows.
            (_G.caller_id.op("||")("") if page.training else _G.caller_id, eq, page.caller_id),
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
        if page.training is not None:
            conditions += _TRAININGS if page.training else (IS_NO_TRAINING,)
        conditions += [JsonText(_G.metadata, literal(name)) == value for name, value in page.metadata]
        if page.prompt is not None:
            conditions.append(_contains(_G.prompt, page.prompt, self._engine.dialect.name))
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
        return self._records(AttemptRecord, ATTEMPTS.c.generation_id.in_(_recent(since, _G.id)))

    def recent_work_of_keys(self, since: float) -> Mapping[str, str]:
        is_of_key = _G.caller_id.startswith(KEY_PREFIX, autoescape=True)
        with self._reading() as connection:
            rows = connection.execute(_recent(since, _G.id, _G.caller_id, where=is_of_key))
            return {row.id: row.caller_id for row in rows}

    def key(self, caller_id: str, key: str) -> KeyRecord | None:
        return next(iter(self._records(KeyRecord, KEYS.c.caller_id == caller_id, KEYS.c.key == key)), None)

    def keys(self, caller_id: str, keys: Collection[str]) -> Sequence[KeyRecord]:
        return [
            each
            for some in in_parts(keys)
            for each in self._records(KeyRecord, KEYS.c.caller_id == caller_id, KEYS.c.key.in_(some))
        ]

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

    def metas(self, prefix: str) -> Mapping[str, bytes]:
        value = cast(META.c.value, LargeBinary)
        query = select(META.c.name, value.label("value")).where(
            func.substr(META.c.name, 1, len(prefix)) == prefix
        )
        with self._reading() as connection:
            return {row.name: row.value for row in connection.execute(query)}

    def oldest_doubt(self) -> float | None:
        query = select(func.min(ATTEMPTS.c.submitted_at)).where(
            ATTEMPTS.c.generation_id.in_(select(_G.id).where(_UNFINISHED)),
            ATTEMPTS.c.open,
            ATTEMPTS.c.prediction_id.is_(None),
            ATTEMPTS.c.prompt_tokens.is_(None),  # nothing searches for a call
        )
        with self._reading() as connection:
            oldest: float | None = connection.scalar(query)
        return oldest

    def forgettable(
        self, before: float, *, files_before: float, weights_before: float | None = None, most: int
    ) -> Sequence[tuple[type[Record], str]]:
        keyed = select(KEYS.c.work_id)
        joined = _joined()
        of_batches = (
            select(joined.c.value).select_from(BATCHES.join(joined, true())).where(_B.joined.is_not(None))
        )
        pending = select(DELIVERIES.c.id).where(DELIVERIES.c.state == "pending")
        weights_are_old = (
            false() if weights_before is None else and_(not_(IS_NO_TRAINING), _G.ended_at < weights_before)
        )
        may_go = and_(
            _G.ended_at < before,
            or_(_G.files == "[]", and_(_G.ended_at < files_before, IS_NO_TRAINING), weights_are_old),
            *(_G.id.not_in(each) for each in (pending, keyed, of_batches)),
        )
        item_stays = exists().where(_G.batch_id == BATCHES.c.id, or_(_UNFINISHED, not_(may_go)))
        batches = select(BATCHES.c.id, BATCHES.c.total).where(
            BATCHES.c.ended_at < before,
            BATCHES.c.id.not_in(keyed),
            BATCHES.c.id.not_in(pending),
            not_(item_stays),
        )
        single = select(_G.id).where(may_go, _G.batch_id.is_(None))
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

    def failures(self, since: float, *, simulated: bool) -> Mapping[str, int]:
        query = (
            select(_G.error_code, func.count())
            .where(_G.ended_at >= since, _G.state == "failed", _G.simulated == simulated)
            .where(_G.error_code.is_not(None))
            .group_by(_G.error_code)
        )
        with self._reading() as connection:
            return {str(code): int(count) for code, count in connection.execute(query)}

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


def _joined() -> TableValuedAlias:
    """The rows of the items that a batch has joined, beside the row of the batch."""
    return MembersOf(_B.joined).table_valued("key", "value")


def _of_keys(caller_id: ColumnElement[str], name: str | None) -> Sequence[ColumnElement[bool]]:
    """The condition that the caller is a key of this name. No condition without a name."""
    return () if name is None else (caller_id.in_(select(API_KEYS.c.id).where(API_KEYS.c.name == name)),)


def _contains(text: ColumnElement[str], part: str, dialect: str) -> ColumnElement[bool]:
    """Whether a text contains this part, in any case. What small letters are depends on the locale of a database in
    PostgreSQL, so there each letter is named in all its forms."""
    if dialect == "postgresql":
        return text.regexp_match("".join(map(_any_case, part)))
    return func.instr(func.lowered(text), part.lower()) > 0  # `lowered` is in `sqlite.py`


def _any_case(character: str) -> str:
    """A regular expression of PostgreSQL for this character, small or capital."""
    if character.isalpha():
        forms = {character, character.lower(), character.upper()}
        return f"[{''.join(sorted(each for each in forms if len(each) == 1))}]"
    return f"\\{character}" if character in string.punctuation else character


def _is_unfinished(work_id: ColumnElement[str]) -> ColumnElement[bool]:
    return or_(
        exists().where(_G.id == work_id, _UNFINISHED),
        exists().where(BATCHES.c.id == work_id, BATCHES.c.ended_at.is_(None)),
    )


def _recent(since: float, *columns: ColumnElement[Any], where: ColumnElement[bool] | None = None) -> Any:
    """These columns of generations that ended at or after `since`, or have not ended."""
    # Two selects and no OR, so that each has its own partial index.
    query = select(*columns) if where is None else select(*columns).where(where)
    return query.where(_G.ended_at >= since).union_all(query.where(_UNFINISHED))


def _taken_by(process: str | None, columns: Any) -> Sequence[ColumnElement[bool]]:
    """The conditions of what this process has taken over and not resumed yet. No condition if it is None."""
    return () if process is None else (columns.process == process, columns.taken_at.is_not(None))
