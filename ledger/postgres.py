"""A ledger in PostgreSQL 14 or later. A flushed record survives a crash of the server.

One process owns the ledger. It has a row in `processes`, and each of its transactions first moves `until` of that row
into the future. A process that finds the row of another one expired marks it dead, and takes over. Both change the same
row, so a transaction of the dead process is either committed before that or fails.

The service keeps no state in the session, so a pooler may give each transaction another connection.
"""

import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import errors
from psycopg.abc import Buffer, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from ledger.migrations import NAME, POSTGRES_STEPS, PRESENT, TooNew, add_first_values
from ledger.tables import META, METADATA, all_statements
from ledger.writer import Changes, TakenOver, by_statement, opened

TTL: Final = 5.0
"""Seconds after its last transaction until a process counts as dead. An idle process has a transaction each second."""

_OPENING_TTL: Final = 60.0
"""The same while a process opens the ledger. It reads all unfinished work before its next transaction."""

_READERS: Final = 4
_CONNECTIONS: Final = _READERS + 1

_PATIENCE: Final = 10.0
"""Seconds without an answer until a connection is closed."""

_LOCK_TIMEOUT: Final = "2s"
"""How long to wait while another session, such as an operator's, has locked a row."""

_ROW_ERRORS: Final = {"22", "23", "54"}
"""SQLSTATE classes of errors about a row: its data, a constraint, or a limit such as the length of an indexed value."""

_PARAMETERS: Final[Mapping[str, Any]] = {
    "connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": 10_000, "client_encoding": "UTF8",
    "fallback_application_name": "replicate-concurrent-generation",
}  # fmt: skip
"""Parameters of libpq that the URL may replace. Without them a lost peer would be noticed after hours."""

_VERSION: Final = "version"

_REPLACED: Final = "it is another ledger; restore it, or start the service again to go on with this one"

_OWN: Final = MetaData()
PROCESSES: Final = Table(
    "processes",
    _OWN,
    Column("id", Text, primary_key=True),
    Column("until", DateTime(timezone=True), nullable=False),
    Column("dead_at", DateTime(timezone=True)),
    Column("schema", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
)

_FENCE: Final = """
    WITH mine AS (
        UPDATE processes SET until = clock_timestamp() + make_interval(secs => %s)
        WHERE id = %s AND epoch = %s AND dead_at IS NULL RETURNING id
    )
    SELECT 1 / count(*), set_config('lock_timeout', %s, true), set_config('synchronous_commit',
        CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
        true)
    FROM mine
"""
"""Begins each transaction. It fails with a division by zero if this process is marked dead or has connected again, so
that the whole transaction takes one round trip. A silent connection that was abandoned may deliver a transaction late,
when newer rows are there: its epoch is over. A role whose commits do not wait for the disk gets commits that do."""

_BURY: Final = """
    UPDATE processes SET dead_at = clock_timestamp() WHERE dead_at IS NULL AND id <> :id
    AND clock_timestamp() > greatest(until, pg_postmaster_start_time() + make_interval(secs => 2 * :ttl))
"""
"""Marks processes dead that are overdue. After a start of the server, they first get the time to come back."""

_ENTER: Final = """
    INSERT INTO processes (id, until, schema, epoch)
    VALUES (:id, clock_timestamp() + make_interval(secs => :opening_ttl), :schema, 1)
    ON CONFLICT (id) DO UPDATE SET until = excluded.until, epoch = processes.epoch + 1
    WHERE processes.dead_at IS NULL RETURNING epoch
"""

_LEAVE: Final = "UPDATE processes SET dead_at = clock_timestamp() WHERE id = %s AND dead_at IS NULL"

_FACTS: Final = """
    SELECT current_user, current_schema(), current_setting('server_encoding'),
        has_schema_privilege(current_schema(), 'CREATE'), to_regclass('meta') IS NOT NULL
"""

_FREE_CONNECTIONS: Final = """
    SELECT least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true), '0')::int,
        nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1),
        nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1)
    ) - (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND pid <> pg_backend_pid())
"""

_STATEMENTS: Final = all_statements(postgresql.dialect(paramstyle="format"), postgresql.insert)  # type: ignore[no-untyped-call]

for _table in METADATA.tables.values():
    for _index in _table.indexes:
        # Not in `tables.py`, since SQLAlchemy would import the dialect there.
        _index.dialect_options["postgresql"]["where"] = _index.dialect_options["sqlite"]["where"]

T = TypeVar("T")

log = structlog.get_logger("ledger")


class PostgresBackend:
    """`ledger.writer.Backend` in the database of `url`, which libpq reads. Raises ValueError if it cannot."""

    def __init__(self, url: str, *, ttl: float = TTL, patience: float = _PATIENCE) -> None:
        try:
            parameters = {**_PARAMETERS, **conninfo_to_dict(url)}
        except psycopg.Error:
            # The error repeats parts of the URL, which has a password.
            raise ValueError("libpq cannot read it; see “Connection URIs” in PostgreSQL's manual") from None
        host, database = (parameters.get(name, "") for name in ("host", "dbname"))
        self.location = f"postgresql://{host}/{database}"
        self._connect = partial(_connected, parameters, patience)
        self.engine = create_engine(
            "postgresql+psycopg://",
            # A sum over all rows takes longer than a write.
            creator=partial(_connected, parameters, 3 * patience),
            isolation_level="AUTOCOMMIT",
            poolclass=QueuePool,
            pool_size=_READERS,
            max_overflow=0,
            pool_pre_ping=True,  # after a restart of the server, no query fails on an old connection
            use_native_hstore=False,
        )
        self._ttl = ttl
        self._id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._connection: psycopg.Connection[Any] | None = None
        self._epoch: int | None = None
        self._name: bytes | None = None
        """The random name of the ledger after it was opened. Another ledger in its place is refused."""

    def open(self) -> None:
        with self.engine.connect() as connection:
            if self._name is None:
                self._warn_if_connections_are_few(connection)
            with _transaction(connection):
                _raise_if_unusable(connection)
                self._make_tables(connection)
                name = connection.scalar(select(META.c.value).where(META.c.name == NAME))
                if self._name not in {None, name}:
                    raise ConnectionError(_REPLACED)
                self._enter(connection)
                for statement, rows in by_statement(opened(), _STATEMENTS).items():
                    connection.exec_driver_sql(statement, list(rows))
        self._name = name
        self._connection = self._connect()

    def write(self, changes: Changes) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is open
        rows = by_statement(changes, _STATEMENTS)
        try:
            with connection.pipeline(), connection.cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute(_FENCE, (self._ttl, self._id, self._epoch, _LOCK_TIMEOUT))
                for statement, every in rows.items():
                    cursor.executemany(statement, every)
                cursor.execute("COMMIT")
        except BaseException as error:
            with suppress(psycopg.Error):
                connection.rollback()
            if isinstance(error, errors.DivisionByZero):
                raise _taken_over() from None
            raise

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """A transaction of this process, while the block runs. Until its end no other process gets the ledger."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is open
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(_FENCE, (self._ttl, self._id, self._epoch, _LOCK_TIMEOUT))
            yield cursor

    def is_outage(self, error: Exception) -> bool:
        cause = getattr(error, "orig", None) or error
        if isinstance(cause, psycopg.Error):
            if cause.sqlstate is None:
                return isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError)
            return cause.sqlstate[:2] not in _ROW_ERRORS
        return isinstance(cause, OSError | SQLAlchemyError | TooNew | TakenOver)

    def fail(self, error: Exception) -> bool:  # noqa: ARG002 - no error leaves anything in the connection
        self.disconnect()
        return True

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self.engine.dispose()

    def close(self) -> None:
        """Mark this process dead, so that the next one need not wait."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.execute(_LEAVE, (self._id,))
        self.disconnect()

    @staticmethod
    def _make_tables(connection: Connection) -> None:
        """Create or migrate the tables. Until the end of the transaction, no other process does. Raises TooNew."""
        try:
            META.create(connection, checkfirst=True)
        except IntegrityError as error:
            raise ConnectionError("another process is creating its tables") from error
        insert = postgresql.insert(META).on_conflict_do_nothing()
        connection.execute(insert, {"name": _VERSION, "value": b"0"})
        locked = text("SELECT value FROM meta WHERE name = :name FOR UPDATE")
        version = int(connection.scalar(locked, {"name": _VERSION}))
        if version > PRESENT:
            raise TooNew(f"it is of version {version}, and this service knows {PRESENT}")
        if version == 0:
            METADATA.create_all(connection)
            _OWN.create_all(connection)
        for number in range(version or PRESENT, PRESENT):
            for statement in POSTGRES_STEPS[number]:
                connection.exec_driver_sql(statement)
        if version != PRESENT:
            present = {"name": _VERSION, "value": str(PRESENT).encode()}
            connection.execute(text("UPDATE meta SET value = :value WHERE name = :name"), present)
        add_first_values(connection, postgresql.insert)

    def _enter(self, connection: Connection) -> None:
        """Mark overdue processes dead, and enter this one. Raises TakenOver if this one was marked dead, and
        ConnectionError while another one is alive."""
        own = {"id": self._id, "schema": PRESENT, "ttl": self._ttl, "opening_ttl": _OPENING_TTL}
        connection.execute(text(_BURY), own)
        self._epoch = connection.scalar(text(_ENTER), own)
        if self._epoch is None:
            raise _taken_over()
        others = connection.scalars(text("SELECT id FROM processes WHERE dead_at IS NULL AND id <> :id"), own)
        if other := others.first():
            host, pid, _ = other.rsplit(":", 2)
            raise ConnectionError(
                f"another process has it: {pid} on {host}; after its end it is free within {self._ttl:g} seconds"
            )
        connection.execute(
            text("DELETE FROM processes WHERE dead_at < clock_timestamp() - interval '7 days'")
        )

    @staticmethod
    def _warn_if_connections_are_few(connection: Connection) -> None:
        free = connection.scalar(text(_FREE_CONNECTIONS))
        if free is not None and free < _CONNECTIONS:
            log.warning("ledger_connections_few", free=free, needed=_CONNECTIONS)


class _WithoutNul(StrDumperUnknown):
    """Writes U+FFFD in place of NUL, which PostgreSQL cannot store in a text."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\ufffd"))


class _Connection(psycopg.Connection[Any]):
    """Closes itself when an answer takes longer than `patience` seconds."""

    patience = _PATIENCE

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        began = time.monotonic()
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError as error:
            if timeout is None and time.monotonic() - began >= self.patience:
                self.close()
                raise psycopg.OperationalError(
                    f"the server has not answered for {self.patience:g} seconds"
                ) from error
            raise


def _connected(parameters: Mapping[str, Any], patience: float) -> _Connection:
    """A connection in autocommit mode without prepared statements, which a pooler may not know."""
    connection = _Connection.connect(**parameters, autocommit=True, prepare_threshold=None)
    connection.patience = patience
    connection.adapters.register_dumper(str, _WithoutNul)
    return connection


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    connection.exec_driver_sql("BEGIN")
    try:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with suppress(SQLAlchemyError):
            connection.exec_driver_sql("ROLLBACK")
        raise


def _raise_if_unusable(connection: Connection) -> None:
    """Raise ConnectionError, with the remedy for the operator, if the ledger cannot be in this database."""
    role, schema, encoding, may_create, exists = connection.execute(text(_FACTS)).one()
    if schema is None:
        raise ConnectionError(f'no schema of the search path exists and may be used by the role "{role}"')
    if encoding != "UTF8":
        raise ConnectionError(f"its encoding is {encoding}; create a database with ENCODING 'UTF8'")
    if not may_create and not exists:
        raise ConnectionError(
            f'its role may not create tables; type GRANT CREATE ON SCHEMA "{schema}" TO "{role}" as the owner'
        )


def _taken_over() -> TakenOver:
    return TakenOver("another process has taken it over, since this one was silent for too long")
