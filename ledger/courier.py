"""Short transactions in PostgreSQL that the loop waits for, apart from those of the ledger's writer.

They run one after the other in a thread of its own, on a connection of its own. Each begins with a fence: it fails if
this process was marked dead, or if the courier has connected again meanwhile. So a transaction of a silent connection
that was abandoned cannot change anything later.

The fence of the writer changes the row of this process in `processes`. This one only locks its key (FOR KEY SHARE), so
neither waits for the other. A process that takes over the work of a dead one must lock its row FOR UPDATE, which waits
for both.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors

from errors import LedgerDown
from ledger.notices import BEAT, Callback, Link, Listener, committing
from ledger.post import LEASES
from ledger.postgres import PostgresBackend
from loop_thread import Pool

T = TypeVar("T")

Cursor = psycopg.Cursor[Any]

_PATIENCE: Final = 5.0
"""Seconds without an answer until the connection is closed."""

_LOCK_TIMEOUT: Final = "2s"
_IDLE_TIMEOUT: Final = "10s"
"""After this time the server ends a transaction that waits for this process, which may be gone."""

_CONNECTED: Final = """
    UPDATE processes SET courier = courier + 1 WHERE id IN (
        SELECT id FROM processes WHERE id = %s AND dead_at IS NULL FOR UPDATE
    ) RETURNING courier
"""

_FENCE: Final = """
    WITH mine AS (
        SELECT id FROM processes WHERE id = %s AND courier = %s AND dead_at IS NULL FOR KEY SHARE
    )
    SELECT 1 / count(*), set_config('lock_timeout', %s, true),
        set_config('idle_in_transaction_session_timeout', %s, true),
        set_config('synchronous_commit', CASE
            WHEN NOT %s THEN 'off'
            WHEN current_setting('synchronous_commit') = 'off' THEN 'on'
            ELSE current_setting('synchronous_commit')
        END, true)
    FROM mine
"""
"""Fails with a division by zero, so that it takes no round trip of its own."""


class Courier:
    """Transactions and notices of this process, on the loop from `start` to `aclose`. `beat` is in seconds."""

    def __init__(self, backend: PostgresBackend, *, patience: float = _PATIENCE, beat: float = BEAT) -> None:
        self._backend = backend
        self._patience = patience
        self._pool = Pool(ThreadPoolExecutor(1, thread_name_prefix="courier"))
        self._connection: psycopg.Connection[Any] | None = None
        self._number = 0
        """Counts the connections of this process, also in its row."""
        self._topics: dict[str, None] = {}
        self._beat_topic = f"beat {backend.process}"
        link = Link(self._connect, lambda: backend.name, self._send_beat, self._beat_topic)
        self._listener = Listener(link, beat=beat)

    def start(self) -> None:
        self._listener.start()

    async def aclose(self) -> None:
        """End both threads, once the functions so far have run."""
        await asyncio.to_thread(self._listener.close)  # before, since it sends beats
        await self._pool.run(self._disconnect)
        self._pool.close()

    @property
    def notices_work(self) -> bool:
        """Whether notices arrive. If not, users of `listen` must look for news more often."""
        return self._listener.works

    @property
    def connection(self) -> int:
        """The number of the present connection, which changes with each new one. For a function of `run`."""
        return self._number

    def listen(self, topic: str, callback: Callback) -> None:
        """Call this function on the loop after each notice of the topic, and once when the connection for notices is
        new. Several notices may cause one call. It replaces the topic's function before."""
        self._listener.listen(topic, callback)

    def unlisten(self, topic: str) -> None:
        self._listener.unlisten(topic)

    async def run(self, function: Callable[[Cursor], T], *, durable: bool = True) -> T:
        """Run this function in a transaction, and return its result after the commit; unless it is `durable`, a crash
        of the server may still undo it.

        Raises the exception of the function after a rollback, and LedgerDown if the database fails or this process was
        marked dead. After LedgerDown it is unknown whether the transaction was committed."""
        return await self._pool.run(lambda: self._transact(function, durable))

    async def bury(self) -> bool:
        """Mark overdue processes dead, and take over the work of all that are dead. Returns whether there was one.
        Raises LedgerDown as `run` does."""

        def bury(cursor: Cursor) -> bool:
            has_taken = self._backend.bury(cursor)
            if has_taken:
                self.notify(LEASES, "role")
            return has_taken

        return await self.run(bury)

    def notify(self, *topics: str) -> None:
        """Give notice of these topics after the present transaction, if it is committed. Call it in a function of
        `run`."""
        self._topics |= dict.fromkeys(topics)

    # ── The courier's thread

    def _transact(self, function: Callable[[Cursor], T], durable: bool) -> T:
        self._topics.clear()
        try:
            connection = self._begun(durable=durable)
            try:
                with connection.cursor() as cursor:
                    result = function(cursor)
            except BaseException:
                with suppress(psycopg.Error):
                    connection.rollback()
                raise
            with committing(connection, self._backend.name, self._topics):
                pass
        except Exception as error:
            if not self._backend.is_outage(error):
                raise
            self._disconnect()
            reason = " ".join(str(error).split()).rstrip(".")
            raise LedgerDown(f"The database of the ledger failed: {reason}.") from error
        return result

    def _begun(self, *, durable: bool) -> psycopg.Connection[Any]:
        """A connection in a new transaction. An idle connection may be broken, so another one is tried after it."""
        if self._connection is not None:
            try:
                self._begin(self._connection, durable=durable)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._disconnect()
            else:
                return self._connection
        self._connection = connection = self._connect()
        with connection.transaction():
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
            row = connection.execute(_CONNECTED, (self._backend.process,)).fetchone()
        if row is None:
            raise _dead()
        [self._number] = row
        self._begin(connection, durable=durable)
        return connection

    def _begin(self, connection: psycopg.Connection[Any], *, durable: bool) -> None:
        fence = (self._backend.process, self._number, _LOCK_TIMEOUT, _IDLE_TIMEOUT, durable)
        try:
            with connection.pipeline():
                connection.execute("BEGIN")
                connection.execute(_FENCE, fence)
        except BaseException as error:
            with suppress(psycopg.Error):
                connection.rollback()
            if isinstance(error, errors.DivisionByZero):
                raise _dead() from None
            raise

    def _connect(self) -> psycopg.Connection[Any]:
        _ = self._backend.name  # raises unless the ledger was opened
        return self._backend.connect(self._patience)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send_beat(self) -> None:
        self._pool.start(lambda: self._transact(lambda _: self.notify(self._beat_topic), durable=False))


def _dead() -> ConnectionError:
    return ConnectionError("this process was silent for too long, and another one has taken over its work")
