"""The ledger on a database, written by one thread.

`upsert` and `mark_dirty` return at once, and `flush` waits for the commit. Records that arrive during one transaction
form the next one, and a later record replaces an earlier one with the same key. So a burst of records costs one wait
for the disk.

A write that fails (a full disk, a locked or missing database) stays pending and is retried each second. Until it
succeeds, `flush` raises `LedgerDown`, so that no new work starts, and no record is dropped. If the database may have
lost its last commits, recent rows are written again (`recent.py`).

`Backend` is the database. SQLAlchemy declares the tables and compiles the statements (`tables.py`, `queries.py`). A
backend hands the compiled statements to the driver, since SQLAlchemy would double the time of a write.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

import structlog
from sqlalchemy import Engine

from errors import LedgerDown
from ledger import Source
from ledger.claims import Claim
from ledger.recent import Changes, Place, RecentRows
from ledger.records import MetaRecord, Record, owned, with_attempts
from ledger.tables import MAPPINGS, Key, Statements

COMMIT_DELAY: Final = 0.02
"""Seconds until a change is written without a `flush`."""

RETRY_DELAY: Final = 1.0
"""Seconds between attempts to write after a failure, and between writes of nothing while nothing is pending."""

log = structlog.get_logger("ledger")


def _nothing() -> None: ...


class TakenOver(Exception):
    """Another process has taken over the ledger, so this one may not write any more."""


class Backend(Protocol):
    """The database of a ledger. All methods but `renew` are called in the writer's thread."""

    @property
    def engine(self) -> Engine:
        """Connections for queries."""

    @property
    def location(self) -> str:
        """The database, for the log. It contains no secret."""

    @property
    def fenced_until(self) -> float:
        """The time (`time.monotonic`) until which no other process can have taken over the work of this one."""

    @property
    def heartbeat(self) -> float:
        """Seconds after which something must be written again, so that no other process takes over."""

    @property
    def unsettled(self) -> str | None:
        """A sentence that says why no work may be claimed or accepted now although writes succeed. Usually None."""

    def renew(self, url: str) -> bool:
        """Connect by this URL from now on, with another user or password. Connections that are open stay. Returns
        False, without a change, if that takes a restart. Raises ValueError if the URL cannot be read. In any thread."""

    def open(self) -> bool:
        """Connect, and create or migrate the tables. Returns whether commits of this process may be lost since it was
        open before. Raises any error if it cannot be written, and TakenOver."""

    @property
    def process(self) -> str | None:
        """The id of this process among those that share the database; None if it cannot be shared."""

    def write(self, changes: Changes, claims: Sequence[Claim] = ()) -> Sequence[bool]:
        """Write all changes in one transaction, and make the claims in it. Returns which claims were made. Without
        changes, check that the database is still there. Raises any error, and TakenOver."""

    def is_outage(self, error: Exception) -> bool:
        """Whether the error is about the database and not about a row."""

    def fail(self, error: Exception) -> bool:
        """Disconnect after this error of `write`. Returns False if the connection stays open instead."""

    def disconnect(self) -> None:
        """Close all connections, to open them again later."""

    def close(self) -> None:
        """Disconnect, and let another process have the ledger."""


class SqlLedger:
    """`ledger.Ledger` on a database, from `start` to `close`.

    Call `upsert`, `mark_dirty`, `delete` and `flush` on the loop. The other methods are safe on any thread.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._on_open = self._on_taken_over = _nothing
        self._lock = threading.Lock()
        self._deleted: dict[Place, None] = {}
        self._upserted: dict[Place, Record] = {}
        self._dirty: dict[str, Source] = {}
        """Changes that the loop has not handed over. It hands over all at once, so that one transaction has them."""
        self._pending: dict[Place, Record | None] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._claims: list[tuple[Claim, asyncio.Future[bool]]] = []
        self._recent = RecentRows()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        self._armed = False
        self._first_try = threading.Event()
        self._has_opened = False
        self._is_open = False
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self.trouble: str | None = "The ledger is not open yet."

    @property
    def engine(self) -> Engine:
        """Connections for queries."""
        return self._backend.engine

    @property
    def fenced_until(self) -> float:
        """The time (`time.monotonic`) until which no other process can have taken over the work of this one. Later,
        no creation may be sent."""
        return self._backend.fenced_until

    @property
    def process(self) -> str | None:
        return self._backend.process

    def may_send(self) -> bool:
        """Whether no other process can have taken over the work of this one."""
        return time.monotonic() < self._backend.fenced_until

    def start(
        self, *, on_open: Callable[[], None] = _nothing, on_taken_over: Callable[[], None] = _nothing
    ) -> None:
        """Start the writer, and return after the first attempt to open the database. A failure is retried.

        `on_open` is called once, in the writer's thread, when the database is first opened. Nothing is written before
        it returns. `on_taken_over` is called there if another process has taken over the ledger. This process must then
        end, since it can never write again."""
        self._on_open, self._on_taken_over = on_open, on_taken_over
        self._thread.start()
        self._first_try.wait()

    def upsert(self, record: Record) -> None:
        for each in with_attempts(record):
            place = type(each), MAPPINGS[type(each)].key_of(each)
            self._deleted.pop(place, None)
            self._upserted[place] = owned(each, self._backend.process)
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
        self.hand_over(future)
        await future

    async def claim(self, claim: Claim) -> bool:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.hand_over(claims=[(claim, future)])
        return await future

    def close(self) -> None:
        """Write pending records, if possible, and release the database. Call it on the loop or after the loop has
        ended. A second call does nothing."""
        self.hand_over()
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
            self.hand_over()

    def hand_over(
        self,
        *waiting: asyncio.Future[None],
        claims: Sequence[tuple[Claim, asyncio.Future[bool]]] = (),
    ) -> None:
        """Pass all changes so far to the writer. Runs on the loop, where sources change."""
        changes: dict[Place, Record | None] = {**self._deleted, **self._upserted}
        for source in self._dirty.values():
            try:
                for record in with_attempts(source.record()):
                    changes[type(record), MAPPINGS[type(record)].key_of(record)] = owned(
                        record, self._backend.process
                    )
            except Exception:  # one bad source must not block the others
                log.exception("record_not_built", id=source.id)
        self._deleted.clear()
        self._upserted.clear()
        self._dirty.clear()
        with self._lock:
            self._pending |= changes
            self._waiting += waiting
            self._claims += claims
        self.wake()

    def wake(self) -> None:
        """Let the writer write, or retry, without waiting for its next turn."""
        self._wake.put(True)

    # ── The writer's thread

    def _run(self) -> None:
        is_running = True
        while is_running:
            self._ensure_open()
            self._commit()
            self._first_try.set()
            is_running = self._wait_for_work()
        if self._has_opened:  # otherwise nothing was accepted
            self._ensure_open()
            self._commit()
        self._backend.close()

    def _wait_for_work(self) -> bool:
        """Wait for changes or for the next check of the database. Returns False after `close`."""
        is_running = True
        with suppress(Empty):
            is_running = self._wake.get(timeout=min(RETRY_DELAY, self._backend.heartbeat))
            while is_running:
                is_running = self._wake.get_nowait()
        return is_running

    def _ensure_open(self) -> None:
        """Open the database if it is not open. Only the next commit shows whether it can be written."""
        if self._is_open:
            return
        try:
            if self._backend.open():
                self._write_again()
            if not self._has_opened:
                self._on_open()
            self._has_opened = self._is_open = True
        except Exception as error:
            self._backend.disconnect()
            if not self._backend.is_outage(error):
                log.exception("recovery_failed")
            self._mark_down(error)

    def _write_again(self) -> None:
        """Write the recent rows again, unless there are newer changes."""
        rows = self._recent.rows()
        log.warning("ledger_failed_over", path=self._backend.location, rows=len(rows))
        self._keep(rows)

    def _keep(self, changes: Changes) -> LedgerDown:
        """Keep these changes for the next transaction, unless there are newer ones. Returns the error for callers that
        wait for them."""
        with self._lock:
            self._pending = {**changes, **self._pending}
        return LedgerDown(self.trouble or "")

    def _commit(self) -> None:
        with self._lock:
            pending, self._pending = self._pending, {}
            waiting, self._waiting = self._waiting, []
            claims, self._claims = self._claims, []
        if claims and (reason := self._backend.unsettled) is not None:
            _answer((), claims, LedgerDown(reason))
            claims = []
        _answer(waiting, claims, self._record(pending, [claim for claim, _ in claims]))

    def _record(self, pending: Changes, claims: Sequence[Claim]) -> LedgerDown | Sequence[bool]:
        """Write all changes in one transaction, or each separately if a row is refused. Returns which claims were made,
        or the error for the waiting `flush` and `claim` calls."""
        if not self._is_open:
            return self._keep(pending)
        try:
            made = self._backend.write(pending, claims)
        except Exception as error:  # any error: this thread must not end
            if self._backend.is_outage(error):
                return self._fail(error, pending)
            return self._write_each(pending)
        self._note(pending, [claim for claim, is_made in zip(claims, made, strict=True) if is_made])
        self._mark_up()
        return made

    def _write_each(self, pending: Changes) -> LedgerDown:
        """Write each row separately, so that a refused row does not block the others."""
        refused = 0
        for place, record in pending.items():
            try:
                self._backend.write({place: record})
                self._note({place: record})
            except Exception as error:
                if self._backend.is_outage(error):
                    return self._fail(error, pending)
                refused += 1
                log.exception("record_refused", kind=place[0].__name__, key=place[1])
        self._mark_up()
        return LedgerDown(f"{refused} of {len(pending)} changes cannot be written.")

    def _note(self, changes: Changes, made: Sequence[Claim] = ()) -> None:
        if self._backend.process is not None:  # a file loses no commits
            self._recent.note(changes, made)

    def _fail(self, error: Exception, pending: Changes) -> LedgerDown:
        """Keep the changes, since writes fail. Returns the error for the waiting `flush` calls."""
        self._is_open = not self._backend.fail(error)
        self._mark_down(error)
        return self._keep(pending)

    def _mark_up(self) -> None:
        trouble = self._backend.unsettled
        if self.trouble is not None and trouble is None and self._first_try.is_set():
            log.warning("ledger_recovered")
        self.trouble = trouble

    def _mark_down(self, error: Exception) -> None:
        reason = getattr(error, "orig", None) or error
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        text = " ".join(text.split()).rstrip(".")
        trouble = f"The ledger cannot be written: {text}."
        if trouble != self.trouble:
            log.error("ledger_down", reason=text, path=self._backend.location)
        self.trouble = trouble
        if isinstance(error, TakenOver):
            self._on_taken_over()
            self._on_taken_over = _nothing


def by_statement(changes: Changes, statements: Mapping[type[Record], Statements]) -> Mapping[str, list[Key]]:
    """The statements that write these changes, in order, each with the parameters of its rows."""
    rows: dict[str, list[Key]] = {}
    for (kind, key), record in changes.items():
        upsert, deletions = statements[kind]
        if record is None:
            for statement in deletions:
                rows.setdefault(statement, []).append(key)
        else:
            rows.setdefault(upsert, []).append(MAPPINGS[kind].values(record))
    return rows


def opened() -> Changes:
    """The record of the moment at which a process opens the ledger."""
    record = MetaRecord("opened", str(int(time.time())).encode())
    return {(MetaRecord, (record.name,)): record}


def _answer(
    waiting: Sequence[asyncio.Future[None]],
    claims: Sequence[tuple[Claim, asyncio.Future[bool]]],
    outcome: LedgerDown | Sequence[bool],
) -> None:
    """Pass the outcome to the loop that waits for it."""
    futures: list[asyncio.Future[Any]] = [*waiting, *(future for _, future in claims)]
    if futures:
        with suppress(RuntimeError):  # the loop has ended, and nothing waits any more
            futures[0].get_loop().call_soon_threadsafe(_resolve, waiting, claims, outcome)


def _resolve(
    waiting: Sequence[asyncio.Future[None]],
    claims: Sequence[tuple[Claim, asyncio.Future[bool]]],
    outcome: LedgerDown | Sequence[bool],
) -> None:
    if isinstance(outcome, LedgerDown):
        failed: list[asyncio.Future[Any]] = [*waiting, *(each for _, each in claims)]
        for each in failed:
            if not each.done():
                each.set_exception(outcome)
        return
    for future in waiting:
        if not future.done():
            future.set_result(None)
    for (_, claimed), made in zip(claims, outcome, strict=True):
        if not claimed.done():
            claimed.set_result(made)
