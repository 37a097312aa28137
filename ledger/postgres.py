"""A ledger in PostgreSQL 14 or later. A flushed record survives a crash of the server.

Several processes may share it (`members.py`). Each transaction that writes fails if another process has taken over the
work of this one.

The service keeps no state in the session, so a pooler may give each transaction another connection.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Final, TypeVar

import psycopg
import structlog
from psycopg import errors
from psycopg.abc import Buffer, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.string import StrDumperUnknown
from sqlalchemy import (
    Connection,
    create_engine,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from ledger import Profile
from ledger.claims import LOCKS, SENT, Claim, ClaimKeys, ClaimSent, lock_order, statement, written_with
from ledger.json_rows import statements_of
from ledger.members import FENCE, LOCK_TIMEOUT, TTL, Cursor, Member
from ledger.migrations import NAME, POSTGRES, Schema, TooNew
from ledger.notices import committing
from ledger.post import LEASES
from ledger.postgres_migration import make_tables
from ledger.recent import Changes, as_changes
from ledger.records import LeaseRecord
from ledger.tables import META, METADATA
from ledger.writer import TakenOver, opened

_READERS: Final = 4
_CONNECTIONS: Final = _READERS + 1
_MORE_CONNECTIONS: Final = 2
"""Those of the courier, if several processes share the ledger."""

_PATIENCE: Final = 10.0
"""Seconds without an answer until a connection is closed."""

_DEADLOCKS: Final = 3
"""How often a transaction is tried again after the server has ended a deadlock with it."""

_ROW_ERRORS: Final = {"22", "23", "54"}
"""SQLSTATE classes of errors about a row: its data, a constraint, or a limit such as the length of an indexed value."""

_PARAMETERS: Final[Mapping[str, Any]] = {
    "connect_timeout": 5, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
    "tcp_user_timeout": 10_000, "client_encoding": "UTF8",
    "fallback_application_name": "replicate-concurrent-generation",
}  # fmt: skip
"""Parameters of libpq that the URL may replace. Without them a lost peer would be noticed after hours."""

_REPLACED: Final = "it is another ledger; restore it, or start the service again to go on with this one"

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

for _table in METADATA.tables.values():
    for _index in _table.indexes:
        # Not in `tables.py`, since SQLAlchemy would import the dialect there.
        _index.dialect_options["postgresql"]["where"] = _index.dialect_options["sqlite"]["where"]

T = TypeVar("T")

log = structlog.get_logger("ledger")


class PostgresBackend:
    """`ledger.writer.Backend` in the database of `url`, which libpq reads. Raises ValueError if it cannot."""

    def __init__(
        self,
        url: str,
        *,
        ttl: float = TTL,
        patience: float = _PATIENCE,
        alone: bool = True,
        profile: Profile | None = None,
        schema: Schema = POSTGRES,
    ) -> None:
        self._parameters = _parameters(url)
        host, database = (self._parameters.get(name, "") for name in ("host", "dbname"))
        self.location = f"postgresql://{host}/{database}"
        self._patience = patience
        self.engine = create_engine(
            "postgresql+psycopg://",
            # A sum over all rows takes longer than a write.
            creator=partial(self.connect, 3 * patience),
            isolation_level="AUTOCOMMIT",
            poolclass=QueuePool,
            pool_size=_READERS,
            max_overflow=0,
            pool_pre_ping=True,  # after a restart of the server, no query fails on an old connection
            use_native_hstore=False,
        )
        self.is_shared = not alone
        self._member = Member(ttl=ttl, alone=alone, profile=profile or Profile(), schema=schema)
        self.process = self._member.id
        self.heartbeat = ttl / 5
        self._connection: psycopg.Connection[Any] | None = None
        self._name: bytes | None = None
        """The random name of the ledger after it was opened. Another ledger in its place is refused."""

    @property
    def fenced_until(self) -> float:
        return self._member.fenced_until

    @property
    def unsettled(self) -> str | None:
        return self._member.timelines.unsettled

    @property
    def name(self) -> bytes:
        """The random name of the ledger. Raises ConnectionError until it was opened."""
        if self._name is None:
            raise ConnectionError("the ledger is not open yet")
        return self._name

    def connect(self, patience: float) -> psycopg.Connection[Any]:
        """Another connection, in autocommit mode. It closes itself when an answer takes longer than `patience` seconds.
        Raises psycopg.OperationalError."""
        return _connected(self._parameters, patience)

    def renew(self, url: str) -> bool:
        parameters = _parameters(url)
        if any(parameters.get(name) != self._parameters.get(name) for name in ("host", "port", "dbname")):
            return False
        self._parameters = parameters
        return True

    def open(self) -> bool:
        began = time.monotonic()
        with self.engine.connect() as connection:
            if self._name is None:
                self._warn_if_connections_are_few(connection)
            with _transaction(connection):
                _raise_if_unusable(connection)
                make_tables(connection, _cursor(connection), self._member)
                name = connection.scalar(select(META.c.value).where(META.c.name == NAME))
                if self._name not in {None, name}:
                    raise ConnectionError(_REPLACED)
                is_lossy = self._member.enter(_cursor(connection))
                for sql, rows in statements_of(opened()):
                    connection.exec_driver_sql(sql, list(rows))
        self._name = name
        self._member.acknowledge(began)
        self._connection = self.connect(self._patience)
        return is_lossy

    def write(self, changes: Changes, claims: Sequence[Claim] = ()) -> Sequence[bool]:
        for _ in range(_DEADLOCKS):  # of claims of the same keys in another order, which leave nothing behind
            with suppress(errors.DeadlockDetected):
                return self._write(changes, claims)
        return self._write(changes, claims)

    def _write(self, changes: Changes, claims: Sequence[Claim]) -> Sequence[bool]:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is open
        rows = list(statements_of(changes))
        sent = [each for each in claims if isinstance(each, ClaimSent)]
        others = [each for each in claims if not isinstance(each, ClaimSent)]
        topics = [LEASES] if sent or any(kind is LeaseRecord for kind, _ in changes) else []
        began = time.monotonic()
        try:
            with committing(connection, self.name, topics), connection.cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute(FENCE, self._member.fence)
                for sql, every in rows:
                    cursor.executemany(sql, every)
                for lock in {LOCKS[type(each)] for each in others if type(each) in LOCKS}:
                    cursor.execute(lock)
                results = {
                    at: self._make(connection, others[at])
                    for at in sorted(range(len(others)), key=lambda at: lock_order(others[at]))
                }
                leases = (
                    connection.execute(SENT, (json.dumps([*map(asdict, sent)]), self.process)) if sent else ()
                )
        except errors.DivisionByZero:
            raise self._member.fenced(connection) from None
        self._member.acknowledge(began, has_written=True)
        made = iter([results[at].rowcount > 0 for at in range(len(others))])
        granted = {lease for (lease,) in leases}
        return [each.lease_id in granted if isinstance(each, ClaimSent) else next(made) for each in claims]

    def _make(self, connection: psycopg.Connection[Any], claim: Claim) -> Cursor:
        """Make a claim in the present transaction. At the end of the pipeline, the cursor has a row if it was made."""
        if isinstance(claim, ClaimKeys):
            return self._make_all(connection, claim)
        made = connection.execute(*statement(claim, self.process, placeholder="%s"))
        records = written_with(claim)
        if records and made.fetchone() is not None:  # waits for the server, which others do not
            for sql, every in statements_of(as_changes(records)):
                connection.cursor().executemany(sql, every)
        return made

    def _make_all(self, connection: psycopg.Connection[Any], claim: ClaimKeys) -> Cursor:
        with connection.pipeline():  # its end waits for the server, as above
            connection.execute("SAVEPOINT keys")
            made = connection.execute(*statement(claim, self.process, placeholder="%s"))
        return made if made.rowcount == len(claim.records) else connection.execute("ROLLBACK TO keys")

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Cursor[Any]]:
        """A transaction of this process, while the block runs. Until its end no other process gets the ledger."""
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is open
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute(FENCE, self._member.fence)
            yield cursor

    def bury(self, cursor: Cursor) -> bool:
        """Mark overdue processes dead, and take over the work of all that are dead. Returns whether there was one.

        The transaction must begin with a lock on the row of this process (FOR KEY SHARE) that finds it alive. Then no
        other process marks it dead before the end. It may be in another thread than the writer's."""
        return self._member.bury(cursor)

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
        """Mark this process dead, so that others take over at once."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._member.leave(self._connection)
        self.disconnect()

    def _warn_if_connections_are_few(self, connection: Connection) -> None:
        free = connection.scalar(text(_FREE_CONNECTIONS))
        needed = _CONNECTIONS + (_MORE_CONNECTIONS if self.is_shared else 0)
        if free is not None and free < needed:
            log.warning("ledger_connections_few", free=free, needed=needed)


class _WithoutNul(StrDumperUnknown):
    """Writes U+FFFD in place of NUL, which PostgreSQL cannot store in a text."""

    def dump(self, obj: str) -> Buffer | None:
        return super().dump(obj.replace("\0", "\ufffd"))


class _Connection(psycopg.Connection[Any]):
    """Closes itself when an answer takes longer than `patience` seconds."""

    patience = _PATIENCE

    def __del__(self, *_: Any) -> None:
        # A pool that was disposed drops the connections that were in use. The server should learn that at once.
        with suppress(AttributeError):  # it was never connected
            self.close()

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


def _parameters(url: str) -> Mapping[str, Any]:
    """The parameters of libpq. Raises ValueError if it cannot read the URL."""
    try:
        return {**_PARAMETERS, **conninfo_to_dict(url)}
    except psycopg.Error:
        # The error repeats parts of the URL, which has a password.
        raise ValueError("libpq cannot read it; see “Connection URIs” in PostgreSQL's manual") from None


def _connected(parameters: Mapping[str, Any], patience: float) -> _Connection:
    """A connection in autocommit mode without prepared statements, which a pooler may not know."""
    connection = _Connection.connect(**parameters, autocommit=True, prepare_threshold=None)
    connection.patience = patience
    connection.adapters.register_dumper(str, _WithoutNul)
    return connection


def _cursor(connection: Connection) -> Cursor:
    """A cursor of the driver, in the transaction of this connection."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)  # noqa: S101 - the engine is PostgreSQL's
    return driver.cursor()


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    connection.exec_driver_sql("BEGIN")
    try:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
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
