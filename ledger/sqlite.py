"""The ledger on SQLite: a record survives this process and a power cut, and nothing is sent before it is written.

One thread writes. A caller hands in a whole record, or marks its source as changed, and continues; `flush` waits for
the disk. Records that arrive during one transaction form the next one, and a later record replaces an earlier one with
the same key, so a burst costs one wait for the disk (`synchronous=FULL`), not a thousand.

A write that fails (a full disk, a locked, broken or missing file) is kept and retried each second, and `flush` raises
`LedgerDown` meanwhile. A fact that has happened is never dropped; work that has not begun must not begin.

SQLAlchemy declares the tables and compiles the statements (`tables.py`, `queries.py`). The writer hands the compiled
statement to the driver's own cursor, since the layers in between would cost as much again as the write.
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

SOON: Final = 0.02
"""Seconds that a row may wait for company if nobody awaits it."""

_AGAIN: Final = 1.0
"""Seconds between tries while nothing can be written, and between looks at the files while nothing is to be."""

_BUSY: Final = 1.0
"""Seconds to wait for whoever else has the file locked, such as a backup."""

_ROW_IS_WRONG: Final = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)

_READERS: Final = 8

_NOT_OURS: Final = (
    "its file is gone or another; put it back, or start the service again to go on with what is there"
)

log = structlog.get_logger("ledger")

Place = tuple[type[Record], Key]
Changes = Mapping[Place, Record | None]
"""Records by kind and key; None removes the row."""


class _LogLost(OSError):
    """The write-ahead log was removed or replaced. Commits since the last checkpoint are in the open file alone."""


class SqliteLedger:
    """The ledger at `url` (`sqlite:///path`), from `start` to `close`.

    `upsert`, `mark_dirty`, `delete` and `flush` belong on the loop, all else on any thread.
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
        """Changes that the loop has not handed over: it hands over all at once, so that they are written together."""
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
        """Identifies this ledger once it was opened: another file in its place would have none of its promises."""
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self.trouble: str | None = "The ledger is not open yet."

    def start(self, *, on_open: Callable[[], None] = lambda: None) -> None:
        """Begin; return when the file is open or could not be opened, which is retried from then on.

        `on_open` is called once, in the writer's thread, when the file could be opened for the first time. Nothing is
        written before it returns."""
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
        """Write pending records, if possible, and release the file. On the loop, or after its end. Twice is no
        error."""
        self._hand_over()
        self._wake.put(False)
        if self._thread.is_alive():
            self._thread.join()

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_later(SOON, self._disarm)

    def _disarm(self) -> None:
        self._armed = False
        self._hand_over()

    def _hand_over(self, *waiting: asyncio.Future[None]) -> None:
        """Give the writer all changes so far. On the loop, since that is where sources change."""
        changes: dict[Place, Record | None] = {**self._deleted, **self._upserted}
        for source in self._dirty.values():
            try:
                for record in with_attempts(source.record()):
                    changes[type(record), MAPPINGS[type(record)].key_of(record)] = record
            except Exception:  # one bad source must not hold up the others
                log.exception("record_not_built", id=source.id)
        self._deleted.clear()
        self._upserted.clear()
        self._dirty.clear()
        with self._lock:
            self._pending |= changes
            self._waiting += waiting
        self._wake.put(True)

    # ── The writer's thread

    def _run(self) -> None:
        going_on = True
        while going_on:
            self._heal()
            self._commit()
            self._first_try.set()
            going_on = self._goes_on()
        self._heal()
        self._commit()
        self._let_go()
        if self._owner is not None:
            os.close(self._owner)

    def _goes_on(self) -> bool:
        """Wait for something to write, but not for long: a lost file is noticed while nothing is written, too. Returns
        whether this is not the end."""
        going_on = True
        with suppress(Empty):
            going_on = self._wake.get(timeout=_AGAIN)
            while going_on:
                going_on = self._wake.get_nowait()
        return going_on

    def _heal(self) -> None:
        """Open it, if it is not open. Whether it can be written is seen at the next commit."""
        if self._connection is not None:
            return
        try:
            self._open()
        except Exception as error:
            self._let_go()
            if not isinstance(error, OSError | SQLAlchemyError | sqlite3.Error | TooNew):
                log.exception("recovery_failed")
            self._is_down(error)

    def _open(self) -> None:
        if self._owner is None:
            self._owner = _owned(self._path)
        if self._name is not None and not self._path.exists():
            raise FileNotFoundError(_NOT_OURS)
        # For nobody else to read: it has prompts. What belongs to it gets the same rights. Only if there is none: to
        # close a file is to give up all locks that this process has on it, SQLite's among them.
        with suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with self.engine.connect() as connection:
            self._inode = os.stat(self._file).st_ino  # noqa: PTH116 - as in `_write`
            if self._name is not None and name_of(connection) != self._name:
                raise FileNotFoundError(_NOT_OURS)
            migrate(connection)
            self._name = name_of(connection)
        pooled = self.engine.raw_connection()
        self._connection = cast("sqlite3.Connection", pooled.driver_connection)
        pooled.detach()  # the pool may have another
        # A full disk shows, and so does a file that was replaced meanwhile.
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
            with suppress(RuntimeError):  # the loop is gone, and so is whoever waited
                waiting[0].get_loop().call_soon_threadsafe(_tell, waiting, down)

    def _record(self, connection: sqlite3.Connection, pending: Changes) -> LedgerDown | None:
        """Write all changes in one transaction, or each by itself if one of them cannot be written. Returns the error
        for those who wait if some are not written."""
        try:
            self._write(connection, pending)
        except Exception as error:  # any error: this thread must outlive it
            if _is_of_the_file(error):
                return self._fail(error)
            return self._without_the_wrong(connection, pending)
        self._is_up()
        return None

    def _without_the_wrong(self, connection: sqlite3.Connection, pending: Changes) -> LedgerDown:
        """Write each row by itself, so that one which cannot be written holds up no other."""
        wrong = 0
        for place, record in pending.items():
            try:
                self._write(connection, {place: record})
            except Exception as error:
                if _is_of_the_file(error):
                    return self._fail(error)
                wrong += 1
                log.exception("record_refused", kind=place[0].__name__, key=place[1])
        self._is_up()
        return LedgerDown(f"{wrong} of {len(pending)} changes cannot be written.")

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
        """Nothing can be written for now. The connection is closed, unless only it has the last commits. Returns the
        error for those who wait."""
        if not isinstance(error, _LogLost) or self._is_saved():
            self._let_go()
        self._is_down(error)
        return LedgerDown(self.trouble or "")

    def _is_saved(self) -> bool:
        """Copy the commits of a lost log into the ledger itself. Returns whether none is missing there."""
        assert self._connection is not None  # noqa: S101 - it wrote, or tried to
        try:
            is_busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            log.error("ledger_wal_not_saved", reason=str(error))
            return False
        return not is_busy

    def _let_go(self) -> None:
        self._log_inode = 0
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self.engine.dispose()  # what is pooled may be connected to a file that is not there any more

    def _is_up(self) -> None:
        if self.trouble is not None and self._first_try.is_set():
            log.warning("ledger_recovered")
        self.trouble = None

    def _is_down(self, error: Exception) -> None:
        reason = getattr(error, "orig", None) or error
        told = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        trouble = f"The ledger cannot be written: {told}."
        if trouble != self.trouble:
            log.error("ledger_down", reason=told, path=str(self._path))
        self.trouble = trouble


def _engine(url: str) -> Engine:
    """Connections that are in no transaction until somebody says so."""
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=_READERS,
        max_overflow=0,
        connect_args={"timeout": _BUSY, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def on_connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _owned(path: Path) -> int:
    """The lock that one process at a time has on a ledger: two would run the same generations. Raises OSError."""
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


def _is_of_the_file(error: Exception) -> bool:
    """Whether it concerns the file, and not one of the rows."""
    return isinstance(error, OSError | sqlite3.DatabaseError) and not isinstance(error, _ROW_IS_WRONG)


def _inode_of(path: str) -> int:
    """0 if there is no such file."""
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - as in `_write`
    except FileNotFoundError:
        return 0


def _opened() -> Changes:
    record = MetaRecord("opened", str(int(time.time())).encode())
    return {(MetaRecord, (record.name,)): record}


def _tell(waiting: list[asyncio.Future[None]], down: LedgerDown | None) -> None:
    for future in waiting:
        if future.done():
            continue
        if down is None:
            future.set_result(None)
        else:
            future.set_exception(down)
