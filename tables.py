"""The ledger's tables, and how a ledger of an older version becomes one of this.

A row is written whole each time it changes, so the latest row is the whole truth and writing it twice does no harm.
Moments are Unix times in seconds, amounts are USD. What has structure is JSON: nothing here asks into it.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    select,
)
from sqlalchemy.dialects import sqlite

METADATA: Final = MetaData()

META: Final = Table(
    "meta", METADATA, Column("name", Text, primary_key=True), Column("value", LargeBinary, nullable=False)
)
"""What the ledger remembers for itself: the key that callers are hashed with, and its name."""
_NAME: Final = "name"

GENERATIONS: Final = Table(
    "generations",
    METADATA,
    Column("seq", Integer, primary_key=True),  # the order of acceptance
    Column("id", Text, nullable=False, unique=True),
    Column("caller", Text, nullable=False),
    Column("batch", Text),
    Column("position", Integer),  # in its batch
    Column("state", Text, nullable=False),
    Column("model", Text, nullable=False),  # that it is made by, or was tried last
    Column("request", Text),  # what to read it from again; gone once it has ended
    Column("request_id", Text, nullable=False),
    Column("webhook", Text),
    Column("address", Text, nullable=False),  # that its caller reached this service by
    Column("simulated", Boolean, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("cancelled", Boolean, nullable=False),  # nobody wants it any more, though it has not ended yet
    Column("interrupted_at", Float),  # since when it waits for its owner
    Column("tries", Text, nullable=False),
    Column("facts", Text, nullable=False),  # what is told of it
    Column("succeeded", Boolean, nullable=False),
    Column("cost_usd", Float, nullable=False),
    Column("reserved_usd", Float, nullable=False),  # of the budget, until it has ended
    Column("images", Integer, nullable=False),
    Column("video_seconds", Float, nullable=False),
    Column("credits", Integer, nullable=False),
)
# An index is another page to write whenever something in it changes, so most are of a part of the table.
Index("generations_by_caller", GENERATIONS.c.caller)
Index("generations_by_end", GENERATIONS.c.ended_at, sqlite_where=GENERATIONS.c.ended_at.is_not(None))
Index("generations_by_batch", GENERATIONS.c.batch, sqlite_where=GENERATIONS.c.batch.is_not(None))
Index("generations_unfinished", GENERATIONS.c.seq, sqlite_where=GENERATIONS.c.ended_at.is_(None))

BATCHES: Final = Table(
    "batches",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("caller", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("request", Text, nullable=False),  # what all items share
    Column("max_concurrent", Integer),
    Column("max_cost_usd", Float),
    Column("webhook", Text),
    Column("plan", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("ended_at", Float),
)

KEYS: Final = Table(
    "keys",
    METADATA,
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("since", Float, nullable=False),
    sqlite_with_rowid=False,
)
"""Idempotency keys, and what each stands for."""
Index("keys_by_age", KEYS.c.since)

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
"""Results that callers' webhooks are told of."""
Index("deliveries_pending", DELIVERIES.c.state, sqlite_where=DELIVERIES.c.state == "pending")

_NEVER_CHANGES: Final = {
    "seq", "id", "caller", "batch", "position", "request_id", "address", "simulated", "accepted_at", "key",
    "total", "plan", "max_concurrent", "max_cost_usd", "webhook", "url", "name",
}  # fmt: skip


class Writing:
    """How rows of a table are written: put in, or put in the place of what has their key."""

    def __init__(self, table: Table, *key: str) -> None:
        self.key = key
        insert = sqlite.insert(table)
        changing = [column.name for column in table.c if column.name not in {*key, *_NEVER_CHANGES}]
        compiled = insert.on_conflict_do_update(
            index_elements=list(key), set_={name: insert.excluded[name] for name in changing}
        ).compile(dialect=sqlite.dialect(), column_keys=[c.name for c in table.c if c.name != "seq"])
        self.upsert = str(compiled)
        self._names = tuple(compiled.positiontup or ())
        conditions = [table.c[name] == "" for name in key]
        self.delete = str(table.delete().where(*conditions).compile(dialect=sqlite.dialect()))

    def values(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(map(row.__getitem__, self._names))

    def key_of(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.key)


WRITINGS: Final[Mapping[str, Writing]] = {
    "generations": Writing(GENERATIONS, "id"),
    "batches": Writing(BATCHES, "id"),
    "keys": Writing(KEYS, "caller", "key"),
    "deliveries": Writing(DELIVERIES, "id"),
    "meta": Writing(META, "name"),
}

STEPS: Final[Sequence[Callable[[Connection], None]]] = ()
"""Step *n*, counted from 1, makes a ledger of version *n* one of version *n + 1*. What was released stays as it is."""


class TooNew(Exception):
    """The ledger was written by a later version of this service."""


def migrate(connection: Connection, steps: Sequence[Callable[[Connection], None]] = STEPS) -> None:
    """Make the tables, or bring those of an older version up to date: all of it or nothing. Raises TooNew."""
    present = 1 + len(steps)
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        version: int = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version > present:
            raise TooNew(f"it is of version {version}, and this service knows {present}")
        if version == 0:
            METADATA.create_all(connection)
        else:
            for step in steps[version - 1 :]:
                step(connection)
        if version != present:
            connection.exec_driver_sql(f"PRAGMA user_version = {present}")
        named = sqlite.insert(META).values(name=_NAME, value=secrets.token_bytes(16))
        connection.execute(named.on_conflict_do_nothing())
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise
    connection.exec_driver_sql("COMMIT")


def name_of(connection: Connection) -> bytes | None:
    """What tells this ledger from any other, also from one that is made anew in its place; None if it is none."""
    if connection.exec_driver_sql("PRAGMA user_version").scalar_one() == 0:
        return None
    return connection.execute(select(META.c.value).where(META.c.name == _NAME)).scalar_one_or_none()
