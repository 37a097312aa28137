"""The questions that the service asks its ledger, as SQL: one generation, a caller's list, usage, unfinished work."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Select,
    case,
    cast,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.exc import SQLAlchemyError

from errors import LedgerDown
from ledger import DAY, Grouping, Page, Period
from ledger.records import AttemptRecord, BatchRecord, Delivery, GenerationRecord, KeyRecord, Record
from ledger.tables import ATTEMPTS, BATCHES, DELIVERIES, GENERATIONS, KEYS, META, mapping

R = TypeVar("R", bound=Record)

_KEYS_AT_ONCE: Final = 10_000

_G: Final = GENERATIONS.c
_UNFINISHED: Final = _G.ended_at.is_(None)


class SqlQueries:
    """`ledger.Queries` on a database. Each question takes a connection of its own for a moment."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generation(self, generation_id: str) -> GenerationRecord | None:
        return next(iter(self._generations(_G.id == generation_id)), None)

    def batch(self, batch_id: str) -> BatchRecord | None:
        return next(iter(self._records(BatchRecord, BATCHES.c.id == batch_id)), None)

    def batch_items(self, batch_id: str) -> Sequence[GenerationRecord]:
        return self._generations(_G.batch_id == batch_id, order=_G.position)

    def members(self, work_id: str) -> Sequence[GenerationRecord]:
        return self._generations(or_(_G.id == work_id, _G.batch_id == work_id))

    def page(self, page: Page) -> Sequence[GenerationRecord]:
        conditions = [_G.caller_id == page.caller_id]
        if page.state is not None:
            conditions.append(_G.state == page.state)
        if page.model is not None:
            conditions.append(_G.model == page.model)
        if page.since is not None:
            conditions.append(_G.accepted_at >= page.since)
        if page.before is not None:
            conditions.append(_G.seq < page.before)
        return self._generations(*conditions, order=_G.seq.desc(), limit=page.limit)

    def unfinished(self) -> Sequence[GenerationRecord]:
        return self._generations(_UNFINISHED)

    def unfinished_batches(self) -> Sequence[BatchRecord]:
        return self._records(BatchRecord, BATCHES.c.ended_at.is_(None))

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

    def pending_deliveries(self) -> Sequence[Delivery]:
        return self._records(Delivery, DELIVERIES.c.state == "pending")

    def meta(self, name: str) -> bytes | None:
        with self._reading() as connection:
            return connection.execute(select(META.c.value).where(META.c.name == name)).scalar_one_or_none()

    def cost_by_day(self, caller_id: str, since: float, *, simulated: bool) -> Mapping[int, float]:
        day = cast(_G.ended_at / DAY, Integer)
        # The plus keeps SQLite from the index by caller, which is no help where one caller has most of the rows.
        mine = _G.caller_id.op("||")("") == caller_id
        query = select(day, func.sum(_G.cost_usd)).where(
            _G.ended_at >= since, mine, _G.simulated == simulated
        )
        with self._reading() as connection:
            return {int(day): float(usd) for day, usd in connection.execute(query.group_by(day))}

    def usage(self, period: Period, *, by: Grouping | None) -> Sequence[dict[str, Any]]:
        groups = {
            "model": _G.model,
            "caller": _G.caller_id,
            "day": func.strftime("%Y-%m-%d", _G.ended_at, "unixepoch"),
        }
        group = groups[by].label(by) if by else None
        query: Select[Any] = select(*_figures()) if group is None else select(group, *_figures())
        query = query.where(_G.ended_at.is_not(None), _G.simulated == period.simulated)
        if period.caller_id is not None:
            query = query.where(_G.caller_id == period.caller_id)
        if period.since is not None:
            query = query.where(_G.ended_at >= period.since)
        if period.until is not None:
            query = query.where(_G.ended_at < period.until)
        if group is not None:
            query = query.group_by(group).order_by(group)
        with self._reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _records(self, kind: type[R], *conditions: Any, limit: int | None = None) -> list[R]:
        read = mapping(kind)
        with self._reading() as connection:
            rows = connection.execute(select(read.table).where(*conditions).limit(limit))
            return [read.read(row) for row in rows]

    def _generations(
        self, *conditions: Any, order: Any = _G.seq, limit: int | None = None
    ) -> list[GenerationRecord]:
        """Generations with their attempts, both as of one moment."""
        found = select(GENERATIONS).where(*conditions).order_by(order).limit(limit)
        theirs = ATTEMPTS.c.generation_id.in_(found.with_only_columns(_G.id))
        read, read_attempt = mapping(GenerationRecord), mapping(AttemptRecord)
        attempts: defaultdict[str, list[AttemptRecord]] = defaultdict(list)
        with self._reading() as connection:
            connection.exec_driver_sql("BEGIN")
            try:
                rows = connection.execute(found).all()
                ordered = select(ATTEMPTS).where(theirs).order_by(ATTEMPTS.c.generation_id, ATTEMPTS.c.number)
                for row in connection.execute(ordered) if rows else ():
                    attempts[row.generation_id].append(read_attempt.read(row))
            finally:
                connection.exec_driver_sql("ROLLBACK")  # of a transaction that only read
        return [read.read(row, attempts=tuple(attempts[row.id])) for row in rows]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise LedgerDown(
                f"The ledger cannot be read: {getattr(error, 'orig', None) or error}."
            ) from error


def _is_unfinished(work_id: ColumnElement[str]) -> ColumnElement[bool]:
    return or_(
        exists().where(_G.id == work_id, _UNFINISHED),
        exists().where(BATCHES.c.id == work_id, BATCHES.c.ended_at.is_(None)),
    )


def _figures() -> Sequence[Any]:
    """The counts and sums of `GET /usage`."""

    def ended_as(state: str) -> Any:
        return func.coalesce(func.sum(case((_G.state == state, 1), else_=0)), 0)

    return (
        func.count().label("generations"),
        ended_as("succeeded").label("succeeded"),
        ended_as("failed").label("failures"),
        ended_as("canceled").label("canceled"),
        func.coalesce(func.sum(_G.images), 0).label("images"),
        func.coalesce(func.sum(_G.video_seconds), 0.0).label("video_seconds"),
        func.coalesce(func.sum(_G.cost_usd), 0.0).label("usd"),
        func.coalesce(func.sum(_G.credits), 0).label("credits"),
    )
