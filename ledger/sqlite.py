"""A ledger in a SQLite file. A flushed record survives a crash of this process and a power cut (`synchronous=FULL`).

One process owns the file. A file or write-ahead log that is removed or replaced under it is noticed at the next write.
"""

import fcntl
import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Final, cast

import structlog
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from ledger.claims import Claim, ClaimKeys, written_with
from ledger.claims import statement as claimed
from ledger.migrations import TooNew, migrate, name_of
from ledger.recent import Changes, as_changes
from ledger.records import Record
from ledger.tables import MAPPINGS, Statements
from ledger.writer import by_statement, opened

_LOCK_TIMEOUT: Final = 1.0
"""Seconds to wait while another process, such as a backup, has locked the file."""

_ROW_ERRORS: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)

_READERS: Final = 8

_REPLACED: Final = (
    "its file is gone or another; put it back, or start the service again to go on with what is there"
)

log = structlog.get_logger("ledger")


class _LogLost(OSError):
    """The write-ahead log was removed or replaced. Only the open connection has the commits since a checkpoint."""


class _Compiled(dict[type[Record], Statements]):
    """The statements that write each kind of record. Those of a kind are compiled when it is first written, since that
    takes a millisecond."""

    def __missing__(self, kind: type[Record]) -> Statements:
        found = self[kind] = MAPPINGS[kind].statements(sqlite.dialect(), sqlite.insert)
        return found


_STATEMENTS: Final = _Compiled()


class SqliteBackend:
    """`ledger.writer.Backend` in the file of `url` (`sqlite:///path`)."""

    process: Final = None
    fenced_until: Final = inf
    heartbeat: Final = inf
    unsettled: Final = None

    def __init__(self, url: str) -> None:
        self._path = Path(make_url(url).database or "")
        self._file = self.location = str(self._path)
        self.engine = _engine(url)
        self._owner: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._log = f"{self._file}-wal"
        self._inode = self._log_inode = 0
        self._name: bytes | None = None
        """The random name of the ledger after it was opened. Another file in its place is refused."""

    def renew(self, url: str) -> bool:  # noqa: ARG002 - the file stays open
        return False

    def open(self) -> bool:
        if self._owner is None:
            self._owner = _locked(self._path)
        if self._name is not None and not self._path.exists():
            raise FileNotFoundError(_REPLACED)
        # Only this user may read it, since it has prompts. SQLite's other files get the same rights. It is created only
        # if it is missing: closing a file releases all locks of this process on it, including SQLite's.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with self.engine.connect() as connection:
            self._inode = os.stat(self._file).st_ino  # noqa: PTH116 - as in `write`
            if self._name is not None and name_of(connection) != self._name:
                raise FileNotFoundError(_REPLACED)
            migrate(connection)
            self._name = name_of(connection)
        pooled = self.engine.raw_connection()
        self._connection = cast("sqlite3.Connection", pooled.driver_connection)
        pooled.detach()  # the pool may open another
        # Fails if the disk is full or the file was replaced meanwhile.
        self.write(opened())
        self._log_inode = _inode_of(self._log)
        return False

    def write(self, changes: Changes, claims: Sequence[Claim] = ()) -> Sequence[bool]:
        if os.stat(self._file).st_ino != self._inode:  # noqa: PTH116 - at every commit, and thrice as fast
            raise FileNotFoundError("its file was replaced")
        if self._log_inode and _inode_of(self._log) != self._log_inode:
            raise _LogLost(f"{self._path.name}-wal was removed or replaced")
        if not changes and not claims:
            return ()
        rows = by_statement(changes, _STATEMENTS)
        connection = self._connection
        assert connection is not None  # noqa: S101 - it is open
        if len(changes) == len(rows) == 1 and not claims:  # a statement by itself is a transaction
            ((statement, (values,)),) = rows.items()
            connection.execute(statement, values)
            return ()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, every in rows.items():
                connection.executemany(statement, every)
            made = [_make(connection, each) for each in claims]
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        return made

    def is_outage(self, error: Exception) -> bool:
        cause = getattr(error, "orig", None) or error
        about_the_file = OSError | SQLAlchemyError | sqlite3.DatabaseError | TooNew
        return isinstance(cause, about_the_file) and not isinstance(cause, _ROW_ERRORS)

    def fail(self, error: Exception) -> bool:
        if isinstance(error, _LogLost) and not self._is_saved():
            return False  # only this connection has the last commits
        self.disconnect()
        return True

    def _is_saved(self) -> bool:
        """Copy the commits of a lost log into the ledger file. Returns whether it then has all of them."""
        assert self._connection is not None  # noqa: S101 - called after a write
        try:
            is_busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            log.error("ledger_wal_not_saved", reason=str(error))
            return False
        return not is_busy

    def disconnect(self) -> None:
        self._log_inode = 0
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self.engine.dispose()  # pooled connections may be to a file that is gone

    def close(self) -> None:
        self.disconnect()
        if self._owner is not None:
            os.close(self._owner)


def _make(connection: sqlite3.Connection, claim: Claim) -> bool:
    """Make a claim in the present transaction. Returns whether it was made."""
    if isinstance(claim, ClaimKeys):
        return _make_all(connection, claim)
    cursor = connection.execute(*claimed(claim, None, placeholder="?"))
    if not (records := written_with(claim)):
        return cursor.rowcount > 0
    if not cursor.fetchall():
        return False
    for statement, every in by_statement(as_changes(records), _STATEMENTS).items():
        connection.executemany(statement, every)
    return True


def _make_all(connection: sqlite3.Connection, claim: ClaimKeys) -> bool:
    connection.execute("SAVEPOINT keys")
    if connection.execute(*claimed(claim, None, placeholder="?")).rowcount == len(claim.records):
        return True
    connection.execute("ROLLBACK TO keys")
    return False


def _engine(url: str) -> Engine:
    """A pool of connections in autocommit mode."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=_READERS,
        max_overflow=0,
        connect_args={"timeout": _LOCK_TIMEOUT, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.create_function("lowered", 1, str.lower, deterministic=True)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _locked(path: Path) -> int:
    """Lock the ledger for this process, since two would run the same generations. Returns the descriptor of the lock.
    Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(owner)
        raise BlockingIOError("another process has it") from None
    except OSError:
        log.warning("ledger_not_locked", path=str(path))  # a file system without locks
    return owner


def _inode_of(path: str) -> int:
    """0 if there is no such file."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - as in `write`
    except FileNotFoundError:
        return 0
