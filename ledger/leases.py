"""The leases of the shared gate and its role, as rows in PostgreSQL (`shared.py`).

A process writes its own leases by its ledger. The process that holds the role `gate` looks for changed rows and grants
leases. Each of these transactions first checks the role, so of two processes that believe to hold it, one grants.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from psycopg.rows import class_row

from ledger.courier import Courier, Cursor
from ledger.post import LEASES
from ledger.timelines import SETTLED_AGO

ROLE_TTL: Final = 10.0
"""Seconds after its last look until a holder loses the role. A holder whose event loop is blocked does not look."""

_HOLD: Final = f"""
    INSERT INTO roles (name, holder, term, until)
    SELECT 'gate', %(process)s, 1, clock_timestamp() + make_interval(secs => %(ttl)s)
    FROM (SELECT {SETTLED_AGO} AS settled_ago) timeline WHERE settled_ago >= 0
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until,
        term = roles.term + CASE WHEN roles.holder = excluded.holder AND %(is_steady)s THEN 0 ELSE 1 END
    WHERE roles.holder = excluded.holder OR roles.holder IS NULL OR roles.until < clock_timestamp()
    RETURNING term, extract(epoch FROM clock_timestamp() - answered_at)::float8, {SETTLED_AGO}
"""  # noqa: S608 - our own text
"""Until the timeline is settled, no process has the role: rows of others may be missing."""

_ROWS: Final = """
    UPDATE leases SET seen = state WHERE {condition}
    RETURNING id, process, caller, batch, max_concurrent, semaphore, state, granted, reference, runs_for,
        boots, started, account, model, tokens, micro_usd,
        extract(epoch FROM clock_timestamp() - ended_at)::float8 AS ended_ago,
        extract(epoch FROM clock_timestamp() - wanted_at)::float8 AS wanted_ago,
        extract(epoch FROM clock_timestamp() - sent_at)::float8 AS sent_ago,
        extract(epoch FROM clock_timestamp() - answered_at)::float8 AS answered_ago,
        extract(epoch FROM clock_timestamp() - left_at)::float8 AS left_ago
"""
_ALL: Final = _ROWS.format(condition="true")
_LOCK_ALL: Final = "LOCK TABLE leases IN SHARE ROW EXCLUSIVE MODE"
"""Waits for all that write leases, and locks no row before. Otherwise two could wait for each other."""

_CHANGED: Final = _ROWS.format(
    condition="""
        id IN (SELECT id FROM leases WHERE seen <> state FOR UPDATE SKIP LOCKED)
        AND EXISTS (SELECT FROM roles WHERE name = 'gate' AND holder = %s AND term = %s)
    """
)

_IS_HOLDER: Final = "SELECT FROM roles WHERE name = 'gate' AND holder = %s AND term = %s FOR SHARE"

_GRANT: Final = """
    UPDATE leases SET granted = true
    WHERE id IN (SELECT id FROM leases WHERE id = ANY(%s) ORDER BY id FOR UPDATE)
        AND state = 0 AND process IS NOT NULL
        AND EXISTS (SELECT FROM roles WHERE name = 'gate' AND holder = %s AND term = %s)
    RETURNING process
"""

_GIVE_UP: Final = "UPDATE roles SET holder = NULL WHERE name = 'gate' AND holder = %s"

_GRANTED: Final = "SELECT id FROM leases WHERE process = %s AND granted AND state = 0"

_ANSWERED: Final = """
    UPDATE roles SET answered_at = greatest(answered_at, transaction_timestamp() - make_interval(secs => %s))
    WHERE name = 'gate'
"""
"""Counted from the start of the transaction: a request that seemed to be sent later would end doubts too early."""

_ACCOUNT_ANSWERED: Final = """
    INSERT INTO leases (id, process, caller, account, state, sent_at, answered_at, ended_at)
    VALUES (%s, %s, '', %s, 5, transaction_timestamp() - make_interval(secs => %s), clock_timestamp(),
        clock_timestamp())
"""

_PUBLISH: Final = """
    UPDATE roles SET figures = %s, figured_at = clock_timestamp() WHERE name = 'gate' AND holder = %s AND term = %s
"""
_FIGURES: Final = """
    SELECT figures, extract(epoch FROM clock_timestamp() - figured_at)::float8 FROM roles
    WHERE name = 'gate' AND figures IS NOT NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRow:
    """A row of `leases`. Times are seconds until now by the clock of the database. `left_ago`, if its process is dead:
    since when that process cannot have sent anything. `ended_ago`, if it is a call: since when it has ended or is lost.
    The rest is as in `LeaseRecord`."""

    id: str
    process: str | None
    caller: str
    batch: str | None
    max_concurrent: int | None
    semaphore: str | None
    state: int
    granted: bool
    reference: str | None
    runs_for: float | None
    wanted_ago: float
    sent_ago: float | None
    answered_ago: float | None
    left_ago: float | None
    boots: str | None = None
    started: bool = False
    account: str | None = None
    model: str | None = None
    tokens: int | None = None
    micro_usd: int | None = None
    ended_ago: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The rows that have changed, or all rows in the first look of a `term`. `answered_ago` is the number of seconds
    since the latest answered request was sent. Commits from before `settled_ago` seconds may be lost."""

    term: int
    rows: Sequence[LeaseRow]
    answered_ago: float | None = None
    settled_ago: float = inf


class LeaseTable:
    """The table for one process. Each coroutine raises LedgerDown."""

    def __init__(self, courier: Courier, process: str) -> None:
        self._courier = courier
        self.process = process
        self._connection = 0
        """The number of the courier's connection at the last look."""

    @property
    def notices_work(self) -> bool:
        return self._courier.notices_work

    def on_granted(self, callback: Callable[[], object]) -> None:
        """Call this when leases of this process may have been granted."""
        self._courier.listen(f"granted {self.process}", callback)

    def on_change(self, callback: Callable[[], object]) -> None:
        """Call this when leases of any process may have changed."""
        self._courier.listen(LEASES, callback)

    async def look(self, term: int | None) -> Look | None:
        """Take or keep the role, and see the rows that have changed since the last look of this `term`, or all in
        another term. None if another process holds the role, or the timeline is not settled.

        A new connection begins a new term: the server may have crashed and lost grants, which did not wait for the
        disk."""

        def look(cursor: Cursor) -> Look | None:
            before, self._connection = self._connection, self._courier.connection
            is_steady = before == self._connection
            connection = cursor.connection
            rows = connection.cursor(row_factory=class_row(LeaseRow))
            with connection.pipeline():
                cursor.execute(_HOLD, {"process": self.process, "ttl": ROLE_TTL, "is_steady": is_steady})
                rows.execute(_CHANGED, (self.process, term))
            held: Any = cursor.fetchone()
            if held is None:
                return None
            present, answered_ago, settled_ago = held
            if present != term:
                cursor.execute(_LOCK_ALL)
                rows.execute(_ALL)
            return Look(present, rows.fetchall(), answered_ago, settled_ago)

        return await self._courier.run(look, durable=False)

    async def grant(self, term: int, ids: Sequence[str]) -> bool:
        """Grant these leases, unless their processes have ended them. False if this process has lost the role."""

        def grant(cursor: Cursor) -> bool:
            with cursor.connection.pipeline():
                cursor.execute(_IS_HOLDER, (self.process, term))
                granted = cursor.connection.execute(_GRANT, (list(ids), self.process, term))
            self._courier.notify(*(f"granted {process}" for process in {each for (each,) in granted}))
            return cursor.fetchone() is not None

        return await self._courier.run(grant, durable=False)

    async def granted(self) -> set[str]:
        """The granted leases of this process that are not sent yet."""

        def granted(cursor: Cursor) -> set[str]:
            return {lease for (lease,) in cursor.execute(_GRANTED, (self.process,))}

        return await self._courier.run(granted, durable=False)

    async def forget(self, ids: Sequence[str]) -> None:
        """Delete rows that count no more."""

        def forget(cursor: Cursor) -> None:
            cursor.execute("DELETE FROM leases WHERE id = ANY(%s)", (list(ids),))

        await self._courier.run(forget, durable=False)

    async def give_up(self) -> None:
        """Let another process take the role at once."""

        def give_up(cursor: Cursor) -> None:
            cursor.execute(_GIVE_UP, (self.process,))

        await self._courier.run(give_up)

    async def answered(self, ago: float) -> None:
        """A request that was sent so many seconds ago was answered."""
        called = time.monotonic()

        def answered(cursor: Cursor) -> None:
            cursor.execute(_ANSWERED, (ago + time.monotonic() - called,))

        await self._courier.run(answered, durable=False)

    async def account_answered(self, account: str, ago: float) -> None:
        """A request of an account that needs no admission, sent so many seconds ago, was answered. This is a row
        without a model, for the present holder of the gate and the next ones."""
        called = time.monotonic()

        def answered(cursor: Cursor) -> None:
            values = (secrets.token_hex(12), self.process, account, ago + time.monotonic() - called)
            cursor.execute(_ACCOUNT_ANSWERED, values)
            self._courier.notify(LEASES)

        await self._courier.run(answered, durable=False)

    async def publish(self, term: int, figures: str) -> None:
        """Publish the figures of the gate, as JSON."""

        def publish(cursor: Cursor) -> None:
            cursor.execute(_PUBLISH, (figures, self.process, term))

        await self._courier.run(publish, durable=False)

    async def figures(self) -> tuple[str, float] | None:
        """The latest figures of the gate, and their age in seconds."""

        def figures(cursor: Cursor) -> Any:
            return cursor.execute(_FIGURES).fetchone()

        found: tuple[str, float] | None = await self._courier.run(figures, durable=False)
        return found
