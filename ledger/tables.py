"""The tables of the ledger, derived from the records, and the mapping between rows and records.

Each change writes the whole row, so writing one twice is harmless.
Moments are Unix times in seconds, amounts are USD. Lists are JSON: outputs, file names, changes, problems, warnings.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter, itemgetter
from typing import Any, Final, Generic, NamedTuple, TypeVar, cast

from sqlalchemy import (
    ClauseElement,
    Column,
    ColumnElement,
    Dialect,
    Index,
    MetaData,
    Table,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
)

from contract.callers import ADMIN, KEY_PREFIX
from contract.trainings import TRAINING
from ledger.access_records import ApiKeyRecord, AuditRecord, LostCallRecord, SpendingRecord
from ledger.column_types import DayOf, JsonList
from ledger.columns import NESTED, columns_of
from ledger.model_records import LookupRecord, ModelRecord, RunRecord, SchemaRecord, TrainedModelRecord
from ledger.money_records import BudgetRecord, UsageRecord
from ledger.records import (
    CALL_COUNTS,
    AttemptRecord,
    BatchRecord,
    Delivery,
    GenerationRecord,
    KeyRecord,
    LeaseRecord,
    MetaRecord,
    Record,
    SemaphoreLeaseRecord,
    SemaphoreRecord,
)

R = TypeVar("R", bound=Record)
Key = tuple[Any, ...]
Row = Sequence[Any]

METADATA: Final = MetaData()

SHARED: Final = MetaData()
"""The tables that several processes need to share a ledger, in PostgreSQL only (`shared.py`)."""


def _table(name: str, record: type, *key: str, **options: Any) -> Table:
    """The table of a record, with its primary key."""
    return Table(name, METADATA, *columns_of(record, *key), **options)


META: Final = _table("meta", MetaRecord, "name")
"""Values of the service: the key for hashing callers, and the ledger's random name."""

GENERATIONS: Final = _table("generations", GenerationRecord, "seq")
# Each index costs a page write when it changes, so most are partial.
Index("generations_by_id", GENERATIONS.c.id, unique=True)
Index("generations_by_caller", GENERATIONS.c.caller_id)
Index("generations_by_end", GENERATIONS.c.ended_at, sqlite_where=GENERATIONS.c.ended_at.is_not(None))
Index("generations_by_batch", GENERATIONS.c.batch_id, sqlite_where=GENERATIONS.c.batch_id.is_not(None))
Index("generations_unfinished", GENERATIONS.c.seq, sqlite_where=GENERATIONS.c.ended_at.is_(None))

ATTEMPTS: Final = _table("attempts", AttemptRecord, "generation_id", "number", sqlite_with_rowid=False)

BATCHES: Final = _table("batches", BatchRecord, "id")
Index("batches_by_end", BATCHES.c.ended_at, sqlite_where=BATCHES.c.ended_at.is_not(None))
Index("batches_unfinished", BATCHES.c.id, sqlite_where=BATCHES.c.ended_at.is_(None))

KEYS: Final = _table("idempotency_keys", KeyRecord, "caller_id", "key", sqlite_with_rowid=False)
Index("idempotency_keys_by_age", KEYS.c.created_at)

DELIVERIES: Final = _table("deliveries", Delivery, "id")
Index("deliveries_pending", DELIVERIES.c.state, sqlite_where=DELIVERIES.c.state == "pending")

USAGE_BY_DAY: Final = _table(
    "usage_by_day", UsageRecord, "day", "caller_id", "model", "simulated", sqlite_with_rowid=False
)
"""The usage of deleted generations only."""

SEMAPHORES: Final = _table("semaphores", SemaphoreRecord, "id")

SEMAPHORE_LEASES: Final = _table("semaphore_leases", SemaphoreLeaseRecord, "id")

SCHEMAS: Final = _table("schemas", SchemaRecord, "version", "simulated")

MODELS: Final = _table("models", ModelRecord, "reader", "name", "simulated", sqlite_with_rowid=False)

LOOKUPS: Final = _table("lookups", LookupRecord, "reader", "name", "simulated", sqlite_with_rowid=False)

RUNS: Final = _table("runs", RunRecord, "target", "simulated", "slot", sqlite_with_rowid=False)

TRAINED_MODELS: Final = _table(
    "trained_models", TrainedModelRecord, "version", "simulated", sqlite_with_rowid=False
)
"""The rows stay when their trainings are deleted."""

API_KEYS: Final = _table("api_keys", ApiKeyRecord, "id")
Index("api_keys_by_revision", API_KEYS.c.revision)

SPENDINGS: Final = _table(
    "spending", SpendingRecord, "payer", "period", "simulated", "process", sqlite_with_rowid=False
)

AUDIT: Final = _table("audit", AuditRecord, "at", "id", sqlite_with_rowid=False)

LOST_CALLS: Final = _table(
    "lost_calls", LostCallRecord, "caller_id", "body_fingerprint", "work_id", sqlite_with_rowid=False
)

BUDGETS: Final = Table("budgets", SHARED, *columns_of(BudgetRecord, "process", "day"))

LEASES: Final = Table("leases", MetaData(), *columns_of(LeaseRecord, "id"))
"""The columns of `leases` that a process writes. `shared.py` has the whole table."""

DAY_OF_END: Final = DayOf(GENERATIONS.c.ended_at)

IS_TRAINING: Final = GENERATIONS.c.door == TRAINING
"""Whether a generation is a training. NULL if it came by no interface, so a negation needs the next one."""

IS_NO_TRAINING: Final = GENERATIONS.c.door.is_distinct_from(TRAINING)

USAGE_OF_ONE: Final[Mapping[str, ColumnElement[Any]]] = {
    "generations": literal(1),
    "succeeded": case((GENERATIONS.c.state == "succeeded", 1), else_=0),
    "failures": case((GENERATIONS.c.state == "failed", 1), else_=0),
    "canceled": case((GENERATIONS.c.state == "canceled", 1), else_=0),
    "images": GENERATIONS.c.images,
    "video_seconds": GENERATIONS.c.video_seconds,
    "usd": GENERATIONS.c.cost_usd,
    "credits": GENERATIONS.c.credits,
    **{name: GENERATIONS.c[name] for name in CALL_COUNTS},
    "trainings": case((IS_TRAINING, 1), else_=0),
    "training_usd": case((IS_TRAINING, GENERATIONS.c.cost_usd), else_=0.0),
}
"""What one generation adds to each figure of `GET /usage`."""

FIGURES: Final = tuple(USAGE_OF_ONE)
"""The names of the figures, which are columns of `usage_by_day`."""

_NEVER_CHANGES: Final = {
    "seq", "id", "caller_id", "batch_id", "position", "requested_model", "prompt", "file_name", "lists_attempts",
    "request_id", "webhook", "address", "simulated", "accepted_at", "key", "total", "max_concurrent", "max_cost_usd",
    "plan_strategy", "plan_seconds", "plan_cost_usd", "plan_credits", "url", "name", "generation_id", "number",
    "semaphore", "ttl", "metadata", "door", "body_fingerprint", "joined",
}  # fmt: skip


def of_account(caller_id: ColumnElement[str], account: str) -> ColumnElement[bool]:
    """Whether a caller is of this account (`contract.callers`). Without the index by caller, which is slow if one
    caller has most of the rows."""
    if account != ADMIN:
        return caller_id.op("||")("") == account
    return or_(caller_id.op("||")("") == ADMIN, func.substr(caller_id, 1, len(KEY_PREFIX)) == KEY_PREFIX)


Insert = Callable[[Table], Any]
"""`insert` of a dialect of SQLAlchemy, which knows ON CONFLICT."""

RowsOf = Callable[[Table, Sequence[str]], Any]
"""A query of these columns of rows that are its only parameter."""


def _archive(insert: Insert, generations: ColumnElement[bool]) -> Sequence[ClauseElement]:
    """Statements that add generations to the usage of their days, and delete their attempts and deliveries."""
    ended = GENERATIONS.c.ended_at.is_not(None)
    groups = [DAY_OF_END, GENERATIONS.c.caller_id, GENERATIONS.c.model, GENERATIONS.c.simulated]
    sums = [func.sum(USAGE_OF_ONE[name]) for name in FIGURES]
    added = insert(USAGE_BY_DAY).from_select(
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


def _locked(may_be_shared: bool, column: ColumnElement[Any]) -> Sequence[ClauseElement]:
    return [select(GENERATIONS.c.id).where(column == _KEY).with_for_update()] if may_be_shared else []


def _before_deletion(table: Table, insert: Insert, *, may_be_shared: bool) -> Sequence[ClauseElement]:
    """Statements that run before a row is deleted, in the same transaction. Each takes the key of the row. In a shared
    ledger, generations are locked first: otherwise two processes that delete the same ones would count them twice."""
    if table is GENERATIONS:
        return (*_locked(may_be_shared, GENERATIONS.c.id), *_archive(insert, GENERATIONS.c.id == _KEY))
    if table is BATCHES:
        return (
            *_locked(may_be_shared, GENERATIONS.c.batch_id),
            *_archive(insert, GENERATIONS.c.batch_id == _KEY),
            GENERATIONS.delete().where(GENERATIONS.c.batch_id == _KEY),
            DELIVERIES.delete().where(DELIVERIES.c.id == _KEY),
        )
    return ()


class Statements(NamedTuple):
    """The statements that write the rows of one table. `upsert` takes `RowMapping.values`, and each of `deletions`
    takes `RowMapping.key_of`."""

    upsert: str
    deletions: Sequence[str]


class RowMapping(Generic[R]):
    """Maps one kind of record to the rows of a table. A written row replaces one with the same key, or only with the
    same values in the columns `unique` of the key. A deletion needs the whole key."""

    def __init__(self, record: type[R], table: Table, *key: str, unique: Sequence[str] = ()) -> None:
        self.table = table
        self._record = record
        names = [field.name for field in fields(record)]
        self._plain = [name for name in names if name in table.c]
        self._read = itemgetter(*(table.c.keys().index(name) for name in self._plain))
        self._nested = [(name, _nested_reader(table, name)) for name in names if name in NESTED]
        columns = [column for column in table.c if column.name != "seq"]
        self.columns = [column.name for column in columns]
        self._get = attrgetter(*(_outer(column) or column.name for column in columns))
        self._encoded = [(at, _encoder(column)) for at, column in enumerate(columns) if _is_encoded(column)]
        self._key = key
        self._unique = unique or key
        self._get_key = [attrgetter(name) for name in key]

    def statements(self, dialect: Dialect, insert: Insert, rows_of: RowsOf | None = None) -> Statements:
        """The statements for this dialect, with placeholders of its driver in the order of the parameters. With
        `rows_of`, an upsert takes its parameters instead, and any number of rows."""
        added = insert(self.table)
        added = (
            added.from_select(self.columns, rows_of(self.table, self.columns)) if rows_of else added.inline()
        )
        # A process may write an older revision of another one again.
        has_revisions = "revision" in self.table.c
        unchanging = {*self._unique, *(() if has_revisions else _NEVER_CHANGES)}
        changing = [each.name for each in self.table.c if each.name not in unchanging]
        values = {name: added.excluded[name] for name in changing}
        if "cancelled" in values:  # another process may have cancelled it
            values["cancelled"] = or_(self.table.c.cancelled, added.excluded.cancelled)
        is_newer = self.table.c.revision < added.excluded.revision if has_revisions else None
        upsert = added.on_conflict_do_update(index_elements=list(self._unique), set_=values, where=is_newer)
        delete = self.table.delete().where(*(self.table.c[name] == _KEY for name in self._key))
        placeholder = "?" if dialect.paramstyle == "qmark" else "%s"
        may_be_shared = dialect.name == "postgresql"
        return Statements(
            str(upsert.compile(dialect=dialect, column_keys=self.columns)),
            [
                str(each.compile(dialect=dialect, compile_kwargs={"literal_binds": True})).replace(
                    "?", placeholder
                )
                for each in (*_before_deletion(self.table, insert, may_be_shared=may_be_shared), delete)
            ],
        )

    def values(self, record: Record) -> tuple[Any, ...]:
        """The parameters of `upsert`: the columns in their order, without `seq`."""
        row = list(self._get(record))
        for at, encode in self._encoded:
            row[at] = encode(row[at])
        return tuple(row)

    def key_of(self, record: Record) -> Key:
        """The values of the key. They are the parameters of each of `deletions`."""
        return tuple([get(record) for get in self._get_key])

    def read(self, row: Row, **more: Any) -> R:
        """The record of a row with all columns. `more` are fields without a column."""
        more |= {name: read(row) for name, read in self._nested}
        return self._record(**dict(zip(self._plain, self._read(row), strict=True)), **more)


def _outer(column: Column[Any]) -> str | None:
    """The name of the nested record that the column belongs to, if any."""
    outer = column.name.partition("_")[0]
    return outer if outer in NESTED else None


def _is_encoded(column: Column[Any]) -> bool:
    return _outer(column) is not None or isinstance(column.type, JsonList)


def _encoder(column: Column[Any]) -> Callable[[Any], Any]:
    """Converts a field of the record to the value of the column."""
    if (outer := _outer(column)) is None:
        return _as_json
    inner = attrgetter(column.name.removeprefix(f"{outer}_"))
    return lambda value: None if value is None else _as_json(inner(value))


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return json.dumps(value) if value else "[]"
    return value


def _nested_reader(table: Table, name: str) -> Callable[[Row], Any]:
    nested = NESTED[name]
    read = itemgetter(*(table.c.keys().index(f"{name}_{field.name}") for field in fields(nested)))

    def read_nested(row: Row) -> Any:
        values = read(row)
        # The first field of a nested record is never None, so a NULL there means that there is no such record.
        return None if values[0] is None else nested(*values)

    return read_nested


MAPPINGS: Final[Mapping[type[Record], RowMapping[Any]]] = {
    GenerationRecord: RowMapping(GenerationRecord, GENERATIONS, "id"),
    AttemptRecord: RowMapping(AttemptRecord, ATTEMPTS, "generation_id", "number"),
    BatchRecord: RowMapping(BatchRecord, BATCHES, "id"),
    # The deletion of a key that was lost to other work must not delete its row.
    KeyRecord: RowMapping(KeyRecord, KEYS, "caller_id", "key", "work_id", unique=("caller_id", "key")),
    Delivery: RowMapping(Delivery, DELIVERIES, "id"),
    UsageRecord: RowMapping(UsageRecord, USAGE_BY_DAY, "day", "caller_id", "model", "simulated"),
    SemaphoreRecord: RowMapping(SemaphoreRecord, SEMAPHORES, "id"),
    SemaphoreLeaseRecord: RowMapping(SemaphoreLeaseRecord, SEMAPHORE_LEASES, "id"),
    MetaRecord: RowMapping(MetaRecord, META, "name"),
    SchemaRecord: RowMapping(SchemaRecord, SCHEMAS, "version", "simulated"),
    ModelRecord: RowMapping(ModelRecord, MODELS, "reader", "name", "simulated"),
    LookupRecord: RowMapping(LookupRecord, LOOKUPS, "reader", "name", "simulated"),
    RunRecord: RowMapping(RunRecord, RUNS, "target", "simulated", "slot"),
    TrainedModelRecord: RowMapping(TrainedModelRecord, TRAINED_MODELS, "version", "simulated"),
    LeaseRecord: RowMapping(LeaseRecord, LEASES, "id"),
    BudgetRecord: RowMapping(BudgetRecord, BUDGETS, "process", "day"),
    ApiKeyRecord: RowMapping(ApiKeyRecord, API_KEYS, "id"),
    SpendingRecord: RowMapping(SpendingRecord, SPENDINGS, "payer", "period", "simulated", "process"),
    AuditRecord: RowMapping(AuditRecord, AUDIT, "at", "id"),
    LostCallRecord: RowMapping(LostCallRecord, LOST_CALLS, "caller_id", "body_fingerprint", "work_id"),
}


def all_statements(
    dialect: Dialect, insert: Insert, *, rows_of: RowsOf | None = None
) -> Mapping[type[Record], Statements]:
    """The statements that write each kind of record, for a dialect and its `insert`, as in `RowMapping`."""
    return {kind: each.statements(dialect, insert, rows_of) for kind, each in MAPPINGS.items()}


def mapping(record: type[R]) -> RowMapping[R]:
    """The mapping of this kind of record."""
    return cast("RowMapping[R]", MAPPINGS[cast("type[Record]", record)])
