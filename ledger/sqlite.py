"""The ledger on SQLite. A flushed record survives a crash of this process and a power cut.

One thread writes. `upsert` and `mark_dirty` return at once, and `flush` waits for the disk. Records that arrive during
one transaction form the next one, and a later record replaces an earlier one with the same key. So a burst of records
costs one wait for the disk (`synchronous=FULL`).

A write that fails (a full disk, a locked, corrupt or missing file) stays pending and is retried each second. Until it
succeeds, `flush` raises `LedgerDown`, so that no new work starts, and no record is dropped.

SQLAlchemy declares the tables and compiles the statements (`tables.py`, `queries.py`). The writer hands the compiled
statement to the driver, since SQLAlchemy would double the time of a write.
"""

import asyncio
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final, cast

import structlog
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from errors import LedgerDown
from ledger import Source
from ledger.migrations import TooNew, migrate, name_of
from ledger.records import MetaRecord, Record
from ledger.tables import MAPPINGS, Key, with_attempts

COMMIT_DELAY: Final = 0.02
"""Seconds until a change is written without a `flush`."""

_RETRY_DELAY: Final = 1.0
"""Seconds between attempts to write after a failure, and between checks of the file while nothing is pending."""

_LOCK_TIMEOUT: Final = 1.0
"""Seconds to wait while another process, such as a backup, has locked the file."""

_ROW_ERRORS: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)

_READERS: Final = 8

_REPLACED: Final = (
    "its file is gone or another; put it back, or start the service again to go on with what is there"
)

log = structlog.get_logger("ledger")

Place = tuple[type[Record], Key]
Changes = Mapping[Place, Record | None]
"""Records by kind and key; None removes the row."""


class _LogLost(OSError):
    """The write-ahead log was removed or replaced. Only the open connection has the commits since a checkpoint."""


class SqliteLedger:
    """The ledger at `url` (`sqlite:///path`), from `start` to `close`.

    Call `upsert`, `mark_dirty`, `delete` and `flush` on the loop. The other methods are safe on any thread.
    """

    def __init__(self, url: str) -> None:
        self._path = Path(make_url(url).database or "")
        self._file = str(self._path)
        self._on_open: Callable[[], None] = lambda: None
        self.engine = _engine(url)
        self._lock = threading.Lock()
        self._deleted: dict[Place, None] = {}
        self._upserted: dict[Place, Record] = {}
        self._dirty: dict[str, Source] = {}
        """Changes that the loop has not handed over. It hands over all at once, so that one transaction has them."""
        self._pending: dict[Place, Record | None] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._armed = False
        self._first_try = threading.Event()
        self._has_opened = False
        self._owner: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._log = f"{self._file}-wal"
        self._inode = self._log_inode = 0
        self._name: bytes | None = None
        """The random name of the ledger after it was opened. Another file in its place is refused."""
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self.trouble: str | None = "The ledger is not open yet."

    def start(self, *, on_open: Callable[[], None] = lambda: None) -> None:
        """Start the writer, and return after the first attempt to open the file. A failure is retried.

        `on_open` is called once, in the writer's thread, when the file is first opened. Nothing is written before it
        returns."""
        self._on_open = on_open
        self._thread.start()
        self._first_try.wait()

    def upsert(self, record: Record) -> None:
        for each in with_attempts(record):
            place = type(each), MAPPINGS[type(each)].key_of(each)
            self._deleted.pop(place, None)
            self._upserted[place] = each
        self._arm()

    def mark_dirty(self, source: Source) -> None:
        self._dirty[source.id] = source
        self._arm()

    def delete(self, kind: type[Record], *key: Any) -> None:
        self._upserted.pop((kind, key), None)
        self._deleted[kind, key] = None
        self._arm()

    async def flush(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hand_over(future)
        await future

    def close(self) -> None:
        """Write pending records, if possible, and release the file. Call it on the loop or after the loop has ended. A
        second call does nothing."""
        self._hand_over()
        self._wake.put(False)
        if self._thread.is_alive():
            self._thread.join()

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_later(COMMIT_DELAY, self._disarm)

    def _disarm(self) -> None:
        self._armed = False
        if self._deleted or self._upserted or self._dirty:  # otherwise a `flush` has handed all over
            self._hand_over()

    def _hand_over(self, *waiting: asyncio.Future[None]) -> None:
        """Pass all changes so far to the writer. Runs on the loop, where sources change."""
        changes: dict[Place, Record | None] = {**self._deleted, **self._upserted}
        for source in self._dirty.values():
            try:
                for record in with_attempts(source.record()):
                    changes[type(record), MAPPINGS[type(record)].key_of(record)] = record
            except Exception:  # one bad source must not block the others
                log.exception("record_not_built", id=source.id)
        self._deleted.clear()
        self._upserted.clear()
        self._dirty.clear()
        with self._lock:
            self._pending |= changes
            self._waiting += waiting
        self.wake()

    def wake(self) -> None:
        """Let the writer write, or retry, without waiting for its next turn."""
        self._wake.put(True)

    # ── The writer's thread

    def _run(self) -> None:
        is_open = True
        while is_open:
            self._ensure_open()
            self._commit()
            self._first_try.set()
            is_open = self._wait_for_work()
        self._ensure_open()
        self._commit()
        self._disconnect()
        if self._owner is not None:
            os.close(self._owner)

    def _wait_for_work(self) -> bool:
        """Wait for changes or for the next check of the file. Returns False after `close`."""
        is_open = True
        with suppress(Empty):
            is_open = self._wake.get(timeout=_RETRY_DELAY)
            while is_open:
                is_open = self._wake.get_nowait()
        return is_open

    def _ensure_open(self) -> None:
        """Open the file if it is not open. Only the next commit shows whether it can be written."""
        if self._connection is not None:
            return
        try:
            self._open()
        except Exception as error:
            self._disconnect()
            if not isinstance(error, OSError | SQLAlchemyError | sqlite3.Error | TooNew):
                log.exception("recovery_failed")
            self._mark_down(error)

    def _open(self) -> None:
        if self._owner is None:
            self._owner = _locked(self._path)
        if self._name is not None and not self._path.exists():
            raise FileNotFoundError(_REPLACED)
        # Only this user may read it, since it has prompts. SQLite's other files get the same rights. It is created only
        # if it is missing: closing a file releases all locks of this process on it, including SQLite's.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with self.engine.connect() as connection:
            self._inode = os.stat(self._file).st_ino  # noqa: PTH116 - as in `_write`
            if self._name is not None and name_of(connection) != self._name:
                raise FileNotFoundError(_REPLACED)
            migrate(connection)
            self._name = name_of(connection)
        pooled = self.engine.raw_connection()
        self._connection = cast("sqlite3.Connection", pooled.driver_connection)
        pooled.detach()  # the pool may open another
        # Fails if the disk is full or the file was replaced meanwhile.
        self._write(self._connection, _opened())
        self._log_inode = _inode_of(self._log)
        if not self._has_opened:
            self._on_open()
            self._has_opened = True

    def _commit(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
            waiting, self._waiting = self._waiting, []
        if self._connection is None:
            down: LedgerDown | None = LedgerDown(self.trouble or "")
        else:
            down = self._record(self._connection, pending)
        if self.trouble is not None:
            with self._lock:
                self._pending = {**pending, **self._pending}
        if waiting:
            with suppress(RuntimeError):  # the loop has ended, and nothing waits any more
                waiting[0].get_loop().call_soon_threadsafe(_resolve, waiting, down)

    def _record(self, connection: sqlite3.Connection, pending: Changes) -> LedgerDown | None:
        """Write all changes in one transaction, or each separately if a row is refused. Returns the error for the
        waiting `flush` calls, or None."""
        try:
            self._write(connection, pending)
        except Exception as error:  # any error: this thread must not end
            if _is_file_error(error):
                return self._fail(error)
            return self._write_each(connection, pending)
        self._mark_up()
        return None

    def _write_each(self, connection: sqlite3.Connection, pending: Changes) -> LedgerDown:
        """Write each row separately, so that a refused row does not block the others."""
        refused = 0
        for place, record in pending.items():
            try:
                self._write(connection, {place: record})
            except Exception as error:
                if _is_file_error(error):
                    return self._fail(error)
                refused += 1
                log.exception("record_refused", kind=place[0].__name__, key=place[1])
        self._mark_up()
        return LedgerDown(f"{refused} of {len(pending)} changes cannot be written.")

    def _write(self, connection: sqlite3.Connection, pending: Changes) -> None:
        if os.stat(self._file).st_ino != self._inode:  # noqa: PTH116 - at every commit, and thrice as fast
            raise FileNotFoundError("its file was replaced")
        if self._log_inode and _inode_of(self._log) != self._log_inode:
            raise _LogLost(f"{self._path.name}-wal was removed or replaced")
        if not pending:
            return
        rows: dict[str, list[Key]] = {}
        for (kind, key), record in pending.items():
            mapping = MAPPINGS[kind]
            if record is None:
                for statement in mapping.deletions:
                    rows.setdefault(statement, []).append(key)
            else:
                rows.setdefault(mapping.upsert, []).append(mapping.values(record))
        if len(pending) == len(rows) == 1:  # a statement by itself is a transaction
            ((statement, (values,)),) = rows.items()
            connection.execute(statement, values)
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, every in rows.items():
                connection.executemany(statement, every)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _fail(self, error: Exception) -> LedgerDown:
        """Record that writes fail. Closes the connection, unless only that has the last commits. Returns the error for
        the waiting `flush` calls."""
        if not isinstance(error, _LogLost) or self._is_saved():
            self._disconnect()
        self._mark_down(error)
        return LedgerDown(self.trouble or "")

    def _is_saved(self) -> bool:
        """Copy the commits of a lost log into the ledger file. Returns whether it then has all of them."""
        assert self._connection is not None  # noqa: S101 - called after a write
        try:
            is_busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            log.error("ledger_wal_not_saved", reason=str(error))
            return False
        return not is_busy

    def _disconnect(self) -> None:
        self._log_inode = 0
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self.engine.dispose()  # pooled connections may be to a file that is gone

    def _mark_up(self) -> None:
        if self.trouble is not None and self._first_try.is_set():
            log.warning("ledger_recovered")
        self.trouble = None

    def _mark_down(self, error: Exception) -> None:
        reason = getattr(error, "orig", None) or error
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        trouble = f"The ledger cannot be written: {text}."
        if trouble != self.trouble:
            log.error("ledger_down", reason=text, path=str(self._path))
        self.trouble = trouble


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


def _is_file_error(error: Exception) -> bool:
    """Whether the error is about the file and not about a row."""
    return isinstance(error, OSError | sqlite3.DatabaseError) and not isinstance(error, _ROW_ERRORS)


def _inode_of(path: str) -> int:
    """0 if there is no such file."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - as in `_write`
    except FileNotFoundError:
        return 0


def _opened() -> Changes:
    record = MetaRecord("opened", str(int(time.time())).encode())
    return {(MetaRecord, (record.name,)): record}


def _resolve(waiting: list[asyncio.Future[None]], down: LedgerDown | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if down is None:
            future.set_result(None)
        else:
            future.set_exception(down)
