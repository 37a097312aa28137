"""The ledger's tables, and how records are written to them and read back.

A row is written whole each time it changes, so the latest row is the whole truth and writing it twice does no harm.
Moments are Unix times in seconds, amounts are USD. Only lists are JSON: output URLs, file names, changes, problems.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter, itemgetter
from typing import Any, Final, Generic, TypeVar, cast

from sqlalchemy import (
    Boolean,
    ClauseElement,
    Column,
    ColumnElement,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    case,
    func,
    literal,
    literal_column,
    select,
)
from sqlalchemy import cast as cast_as
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import UserDefinedType

from ledger import DAY
from ledger.records import (
    AttemptRecord,
    BatchRecord,
    Delivery,
    Failure,
    GenerationRecord,
    KeyRecord,
    MetaRecord,
    PlanRecord,
    Record,
    UsageRecord,
)

R = TypeVar("R", bound=Record)
Key = tuple[Any, ...]
Row = Sequence[Any]

METADATA: Final = MetaData()


class JsonList(UserDefinedType[tuple[Any, ...]]):
    """A JSON list, read as a tuple. Most lists are empty, and those are read without a parser."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "JSON"

    def result_processor(self, _dialect: Any, _type: Any) -> Callable[[str | None], tuple[Any, ...] | None]:
        return lambda text: () if text == "[]" else None if text is None else tuple(json.loads(text))


META: Final = Table(
    "meta", METADATA, Column("name", Text, primary_key=True), Column("value", LargeBinary, nullable=False)
)
"""What the ledger remembers for the service: the key that callers are hashed with, and the ledger's own name."""


def _failure() -> Iterator[Column[Any]]:
    """The columns of a `Failure`; all NULL if there is none."""
    yield Column("error_code", Text)
    yield Column("error_detail", Text)
    yield Column("error_retryable", Boolean)
    yield Column("error_problems", JsonList)


GENERATIONS: Final = Table(
    "generations",
    METADATA,
    Column("seq", Integer, primary_key=True),
    Column("id", Text, nullable=False),
    Column("caller_id", Text, nullable=False),
    Column("batch_id", Text),
    Column("position", Integer),
    Column("state", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("requested_model", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("file_name", Text),
    Column("lists_attempts", Boolean, nullable=False),
    Column("request", Text),
    Column("request_id", Text, nullable=False),
    Column("webhook", Text),
    Column("address", Text, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("cancelled", Boolean, nullable=False),
    Column("suspended_at", Float),
    Column("queued_seconds", Float, nullable=False),
    Column("predicting_seconds", Float, nullable=False),
    Column("total_seconds", Float, nullable=False),
    Column("outputs", JsonList, nullable=False),
    Column("files", JsonList, nullable=False),
    Column("files_error", Text),
    Column("placeholder", Boolean, nullable=False),
    *_failure(),
    Column("cost_usd", Float, nullable=False),
    Column("reserved_usd", Float, nullable=False),
    Column("images", Integer, nullable=False),
    Column("video_seconds", Float, nullable=False),
    Column("credits", Integer, nullable=False),
)
# An index is another page to write whenever something in it changes, so most cover a part of the table.
Index("generations_by_id", GENERATIONS.c.id, unique=True)
Index("generations_by_caller", GENERATIONS.c.caller_id)
Index("generations_by_end", GENERATIONS.c.ended_at, sqlite_where=GENERATIONS.c.ended_at.is_not(None))
Index("generations_by_batch", GENERATIONS.c.batch_id, sqlite_where=GENERATIONS.c.batch_id.is_not(None))
Index("generations_unfinished", GENERATIONS.c.seq, sqlite_where=GENERATIONS.c.ended_at.is_(None))

ATTEMPTS: Final = Table(
    "attempts",
    METADATA,
    Column("generation_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("prediction_id", Text),
    *_failure(),
    Column("changes", JsonList, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("open", Boolean, nullable=False),
    Column("submitted_at", Float),
    Column("answered_at", Float),
    Column("fingerprint", Text, nullable=False),
    Column("created_at", Float),
    Column("passed_over", Boolean, nullable=False),
    Column("clock_skew", Float),
    sqlite_with_rowid=False,
)

BATCHES: Final = Table(
    "batches",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("caller_id", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("request", Text, nullable=False),
    Column("max_concurrent", Integer),
    Column("max_cost_usd", Float),
    Column("webhook", Text),
    Column("plan_strategy", Text, nullable=False),
    Column("plan_seconds", Float, nullable=False),
    Column("plan_cost_usd", Float, nullable=False),
    Column("plan_credits", Integer, nullable=False),
    Column("address", Text, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("ended_at", Float),
)
Index("batches_by_end", BATCHES.c.ended_at, sqlite_where=BATCHES.c.ended_at.is_not(None))

KEYS: Final = Table(
    "idempotency_keys",
    METADATA,
    Column("caller_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("work_id", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    sqlite_with_rowid=False,
)
Index("idempotency_keys_by_age", KEYS.c.created_at)

DELIVERIES: Final = Table(
    "deliveries",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("since", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Float),
    Column("trouble", Text),
    Column("delivered_at", Float),
)
Index("deliveries_pending", DELIVERIES.c.state, sqlite_where=DELIVERIES.c.state == "pending")

USAGE_BY_DAY: Final = Table(
    "usage_by_day",
    METADATA,
    Column("day", Integer, primary_key=True),
    Column("caller_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("simulated", Boolean, primary_key=True),
    Column("generations", Integer, nullable=False),
    Column("succeeded", Integer, nullable=False),
    Column("failures", Integer, nullable=False),
    Column("canceled", Integer, nullable=False),
    Column("images", Integer, nullable=False),
    Column("video_seconds", Float, nullable=False),
    Column("usd", Float, nullable=False),
    Column("credits", Integer, nullable=False),
    sqlite_with_rowid=False,
)
"""The usage of deleted generations. Those that are there count by themselves."""

DAY_OF_END: Final = cast_as(GENERATIONS.c.ended_at / DAY, Integer)

USAGE_OF_ONE: Final[Mapping[str, ColumnElement[Any]]] = {
    "generations": literal(1),
    "succeeded": case((GENERATIONS.c.state == "succeeded", 1), else_=0),
    "failures": case((GENERATIONS.c.state == "failed", 1), else_=0),
    "canceled": case((GENERATIONS.c.state == "canceled", 1), else_=0),
    "images": GENERATIONS.c.images,
    "video_seconds": GENERATIONS.c.video_seconds,
    "usd": GENERATIONS.c.cost_usd,
    "credits": GENERATIONS.c.credits,
}
"""What one generation adds to each figure of `GET /usage`."""

FIGURES: Final = tuple(USAGE_OF_ONE)
"""The names of the figures, which are columns of `usage_by_day`."""

_NEVER_CHANGES: Final = {
    "seq", "id", "caller_id", "batch_id", "position", "requested_model", "prompt", "file_name", "lists_attempts",
    "request_id", "webhook", "address", "simulated", "accepted_at", "key", "total", "max_concurrent", "max_cost_usd",
    "plan_strategy", "plan_seconds", "plan_cost_usd", "plan_credits", "url", "name", "generation_id", "number",
}  # fmt: skip

_NESTED: Final[Mapping[str, type]] = {"error": Failure, "plan": PlanRecord}
"""Fields that are records themselves: a column for each of their fields, named after both."""


def _with(generations: ColumnElement[bool]) -> Sequence[ClauseElement]:
    """Statements that add generations to the usage of their days, and delete what belongs to them."""
    ended = GENERATIONS.c.ended_at.is_not(None)
    groups = [DAY_OF_END, GENERATIONS.c.caller_id, GENERATIONS.c.model, GENERATIONS.c.simulated]
    sums = [func.sum(USAGE_OF_ONE[name]) for name in FIGURES]
    added = sqlite.insert(USAGE_BY_DAY).from_select(
        [*USAGE_BY_DAY.primary_key.columns.keys(), *FIGURES],
        select(*groups, *sums).where(generations, ended).group_by(*groups),
    )
    ids = select(GENERATIONS.c.id).where(generations)
    return (
        added.on_conflict_do_update(
            index_elements=list(USAGE_BY_DAY.primary_key),
            set_={name: USAGE_BY_DAY.c[name] + added.excluded[name] for name in FIGURES},
        ),
        ATTEMPTS.delete().where(ATTEMPTS.c.generation_id.in_(ids)),
        DELIVERIES.delete().where(DELIVERIES.c.id.in_(ids)),
    )


_KEY: Final[ColumnElement[Any]] = literal_column("?")

_BEFORE_DELETION: Final[Mapping[Table, Sequence[ClauseElement]]] = {
    GENERATIONS: _with(GENERATIONS.c.id == _KEY),
    BATCHES: (
        *_with(GENERATIONS.c.batch_id == _KEY),
        GENERATIONS.delete().where(GENERATIONS.c.batch_id == _KEY),
        DELIVERIES.delete().where(DELIVERIES.c.id == _KEY),
    ),
}
"""Statements that run before a row is deleted, in the same transaction. Each statement takes the key of the row."""


def _compiled(statement: ClauseElement) -> str:
    return str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))


class RowMapping(Generic[R]):
    """Writes one kind of record to its table, in the place of a row with the same key, and reads it back."""

    def __init__(self, record: type[R], table: Table, *key: str) -> None:
        self.table = table
        self._record = record
        names = [field.name for field in fields(record)]
        self._plain = [name for name in names if name in table.c]
        self._read = itemgetter(*(table.c.keys().index(name) for name in self._plain))
        self._nested = [(name, _nested_reader(table, name)) for name in names if name in _NESTED]
        insert = sqlite.insert(table)
        changing = [column.name for column in table.c if column.name not in {*key, *_NEVER_CHANGES}]
        compiled = insert.on_conflict_do_update(
            index_elements=list(key), set_={name: insert.excluded[name] for name in changing}
        ).compile(dialect=sqlite.dialect(), column_keys=[c.name for c in table.c if c.name != "seq"])
        self.upsert = str(compiled)
        columns = [table.c[name] for name in compiled.positiontup or ()]
        self._get = attrgetter(*(_outer(column) or column.name for column in columns))
        self._encoded = [(at, _encoder(column)) for at, column in enumerate(columns) if _is_encoded(column)]
        self._key = [attrgetter(name) for name in key]
        delete = table.delete().where(*(table.c[name] == _KEY for name in key))
        self.deletions = [_compiled(each) for each in (*_BEFORE_DELETION.get(table, ()), delete)]

    def values(self, record: Record) -> tuple[Any, ...]:
        """The parameters of `upsert`."""
        row = list(self._get(record))
        for at, encode in self._encoded:
            row[at] = encode(row[at])
        return tuple(row)

    def key_of(self, record: Record) -> Key:
        """The parameters of each of `deletions`."""
        return tuple([get(record) for get in self._key])

    def read(self, row: Row, **more: Any) -> R:
        """The record of a row of the whole table, as SQLAlchemy reads it; `more` are fields that are not in it."""
        more |= {name: read(row) for name, read in self._nested}
        return self._record(**dict(zip(self._plain, self._read(row), strict=True)), **more)


def _outer(column: Column[Any]) -> str | None:
    """The field of a record whose own field the column holds, if it does."""
    outer = column.name.partition("_")[0]
    return outer if outer in _NESTED else None


def _is_encoded(column: Column[Any]) -> bool:
    return _outer(column) is not None or isinstance(column.type, JsonList)


def _encoder(column: Column[Any]) -> Callable[[Any], Any]:
    """From the value of the record's field to that of the column."""
    if (outer := _outer(column)) is None:
        return _as_json
    inner = attrgetter(column.name.removeprefix(f"{outer}_"))
    return lambda value: None if value is None else _as_json(inner(value))


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return json.dumps(value) if value else "[]"
    return value


def _nested_reader(table: Table, name: str) -> Callable[[Row], Any]:
    nested = _NESTED[name]
    read = itemgetter(*(table.c.keys().index(f"{name}_{field.name}") for field in fields(nested)))

    def read_nested(row: Row) -> Any:
        values = read(row)
        # The first field of a record is never NULL, so its column says whether there is one.
        return None if values[0] is None else nested(*values)

    return read_nested


MAPPINGS: Final[Mapping[type[Record], RowMapping[Any]]] = {
    GenerationRecord: RowMapping(GenerationRecord, GENERATIONS, "id"),
    AttemptRecord: RowMapping(AttemptRecord, ATTEMPTS, "generation_id", "number"),
    BatchRecord: RowMapping(BatchRecord, BATCHES, "id"),
    KeyRecord: RowMapping(KeyRecord, KEYS, "caller_id", "key"),
    Delivery: RowMapping(Delivery, DELIVERIES, "id"),
    UsageRecord: RowMapping(UsageRecord, USAGE_BY_DAY, "day", "caller_id", "model", "simulated"),
    MetaRecord: RowMapping(MetaRecord, META, "name"),
}


def mapping(record: type[R]) -> RowMapping[R]:
    """How this kind of record is written and read."""
    return cast("RowMapping[R]", MAPPINGS[cast("type[Record]", record)])


def with_attempts(record: Record) -> Sequence[Record]:
    """A record and the records of its own that are written with it."""
    return (record, *record.attempts) if isinstance(record, GenerationRecord) else (record,)
