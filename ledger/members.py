"""The processes that share a ledger in PostgreSQL: each proves that it is alive, and takes over the work of a dead one.

A process has a row in `processes`. Each transaction of its writer begins with `FENCE`, which moves `until` of that row
into the future. A process that finds the row of another one overdue marks it dead, and takes over its work. Both change
the same row, so a transaction of the dead process is either committed before that or fails.

All times are by the clock of the database, since those of the hosts may differ. After a failover, the processes come
back to another timeline. None is taken over before that is settled (`timelines.py`).
"""

import hmac
import os
import secrets
import socket
from collections.abc import Sequence
from math import inf
from typing import Any, Final

import psycopg
import structlog
from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, Table, Text

from ledger import HASH_KEY, Profile
from ledger.migrations import Schema
from ledger.timelines import PRESENT, Timelines, is_settled
from ledger.writer import TakenOver

TTL: Final = 5.0
"""Seconds after its last transaction until a process counts as dead."""

LOCK_TIMEOUT: Final = "2s"
"""How long to wait while another session, such as an operator's, has locked a row."""

_LONGEST_PAUSE: Final = "5s"
"""How long the server waits for the next statement of a migration, whose host may be lost. All others wait for it."""

_OPENING_TTL: Final = 60.0
"""Seconds like the TTL, while a process opens the ledger. It reads its work before its next transaction."""

_MARGIN: Final = 0.1
"""The last part of the TTL, in which this process sends no creation any more."""

OWN: Final = MetaData()
PROCESSES: Final = Table(
    "processes",
    OWN,
    Column("id", Text, primary_key=True),
    Column("until", DateTime(timezone=True), nullable=False),
    Column("beat_at", DateTime(timezone=True), nullable=False),
    Column("steady_since", DateTime(timezone=True), nullable=False),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("dead_at", DateTime(timezone=True)),
    Column("taken_at", DateTime(timezone=True)),
    Column("schema", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("courier", Integer, nullable=False, server_default="0"),
    Column("version", Text, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("token", Text),
    Column("figures", Text),
)
"""`since` is the time at which a process entered, `beat_at` that of its last transaction. There was no long pause
between two of them since `steady_since`. `taken_at` is set once its work was taken over. `token` is a hash of its
server token."""

Table(
    "proven_tokens",
    OWN,
    Column("caller_id", Text, primary_key=True),
    Column("turn", Text, nullable=False),
    Column("until", DateTime(timezone=True), nullable=False),
)

Table(
    "shares",
    OWN,
    Column("process", Text, primary_key=True),
    Column("places", Integer, nullable=False),
    Column("wants", Integer, nullable=False),
)

FENCE: Final = f"""
    WITH mine AS (
        UPDATE processes SET until = clock_timestamp() + make_interval(secs => %(ttl)s), beat_at = clock_timestamp(),
            steady_since = CASE WHEN clock_timestamp() < beat_at + make_interval(secs => %(ttl)s / 2)
                THEN steady_since ELSE clock_timestamp() END
        WHERE id = %(id)s AND epoch = %(epoch)s AND dead_at IS NULL AND {PRESENT} = %(timeline)s RETURNING id
    )
    SELECT 1 / count(*), set_config('lock_timeout', %(lock_timeout)s, true), set_config('synchronous_commit',
        CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
        true)
    FROM mine
"""  # noqa: S608 - our own text
"""Begins each transaction. It fails with a division by zero if this process is marked dead or has connected again, so
that the whole transaction takes one round trip. A silent connection that was abandoned may deliver a transaction late,
when newer rows are there: its epoch is over. It fails as well if a pooler has passed the connection on to a promoted
standby, so that the process opens the ledger again. The commits of any role wait for the disk."""

_IS_OVERDUE: Final = """
    other.dead_at IS NULL AND other.id <> %(id)s AND clock_timestamp() >
        greatest(other.until, pg_postmaster_start_time() + make_interval(secs => 2 * %(ttl)s))
"""
"""After a start of the server, processes first get the time to come back."""

_LATE: Final = f"SELECT id FROM processes other WHERE {_IS_OVERDUE}"  # noqa: S608 - our own text

_OVERDUE: Final = f"""
    SELECT other.id FROM processes other JOIN processes mine ON mine.id = %(id)s
    WHERE {_IS_OVERDUE} AND clock_timestamp() < mine.beat_at + make_interval(secs => %(ttl)s / 2)
        AND clock_timestamp() > mine.steady_since + make_interval(secs => %(ttl)s)
"""  # noqa: S608 - our own text
"""Processes are overdue only for one that is steady. Otherwise the first one that is back after an outage of the
database, or a jump of its clock, would bury all others."""

_MARK: Final = """
    UPDATE processes SET dead_at = clock_timestamp() WHERE id = ANY(%(overdue)s) RETURNING id
"""

_MARK_AGAIN: Final = """
    UPDATE processes SET dead_at = coalesce(dead_at, clock_timestamp()),
        taken_at = coalesce(taken_at, clock_timestamp())
    WHERE id = ANY(%s)
"""
"""Processes that were taken over in an earlier timeline are dead in this one, too."""

_END_STUCK: Final = """
    SELECT pg_terminate_backend(pid) FROM processes JOIN pg_locks ON locktype = 'transactionid'
        AND transactionid = processes.xmax AND granted JOIN pg_stat_activity USING (pid)
    WHERE id = ANY(%(overdue)s) AND clock_timestamp() > until + make_interval(secs => %(ttl)s)
        AND wait_event = 'ClientRead' AND clock_timestamp() > state_change + make_interval(secs => %(ttl)s)
"""
"""Ends the session that has locked the row of an overdue process, and waits for its client. A host that was lost in a
transaction holds its locks until the server notices, which takes hours by default."""

_ENTER: Final = """
    INSERT INTO processes (id, until, beat_at, steady_since, since, schema, epoch, version, upstream, simulated, token)
    VALUES (%(id)s, clock_timestamp() + make_interval(secs => %(opening_ttl)s), clock_timestamp(), clock_timestamp(),
        clock_timestamp(), %(schema)s, 1, %(version)s, %(upstream)s, %(simulated)s, %(token)s)
    ON CONFLICT (id) DO UPDATE SET epoch = processes.epoch + 1, until = excluded.until, beat_at = excluded.beat_at
    WHERE processes.dead_at IS NULL RETURNING epoch
"""

_RETURN: Final = """
    UPDATE processes SET epoch = epoch + 1, until = clock_timestamp() + make_interval(secs => %(ttl)s),
        beat_at = clock_timestamp(), steady_since = clock_timestamp()
    WHERE id = %(id)s AND dead_at IS NULL RETURNING epoch
"""

_OTHERS: Final = f"""
    SELECT id, upstream = %(upstream)s AND simulated = %(simulated)s
    FROM processes other WHERE dead_at IS NULL AND id <> %(id)s AND NOT ({_IS_OVERDUE})
"""  # noqa: S608 - our own text

_LEAVE: Final = """
    UPDATE processes SET dead_at = clock_timestamp(), until = clock_timestamp()
    WHERE id IN (SELECT id FROM processes WHERE id = %s AND dead_at IS NULL FOR UPDATE)
"""

_TAKE: Final = """
    UPDATE processes SET taken_at = clock_timestamp() WHERE id IN (
        SELECT id FROM processes dead WHERE dead_at IS NOT NULL AND taken_at IS NULL
            AND (token IS NULL OR %(pays)s OR NOT EXISTS (
                SELECT FROM processes other WHERE other.dead_at IS NULL AND other.token IS NOT NULL))
            AND ((version, schema) = (%(version)s, %(schema)s) OR NOT EXISTS (
                SELECT FROM processes other WHERE other.dead_at IS NULL
                    AND (other.version, other.schema) = (dead.version, dead.schema)
                    AND (dead.token IS NULL OR other.token IS NOT NULL)))
        FOR UPDATE SKIP LOCKED
    ) RETURNING id
"""
"""The work of a process with a server token is left to others that have one, if there are any, and then to one of its
version, which knows the same models and columns. At the end of an upgrade, or after a step back, there is none."""

_PAYS: Final = "(%(pays)s AND (caller_id = 'admin' OR starts_with(caller_id, 'key_')))"
"""Whether the work of this caller runs on the server's token, and this process has one."""

_IS_HEIR: Final = f"({_PAYS} OR simulated <> %(simulated)s OR cancelled AND state = 'queued')"
_IS_BATCH_HEIR: Final = f"""
    ({_PAYS} OR simulated <> %(simulated)s OR NOT EXISTS (
        SELECT FROM generations WHERE batch_id = batches.id AND generations.ended_at IS NULL))
"""
"""Whether this process continues with a generation or a batch itself, or ends it."""

_IS_LEFT: Final = f"""
    ended_at IS NULL AND (process = ANY(%(dead)s)
        OR process IS NULL AND ({_PAYS} OR simulated <> %(simulated)s))
"""

_MOVES: Final = (
    f"""
    UPDATE generations SET process = CASE WHEN {_IS_HEIR} THEN %(id)s END,
        taken_at = CASE WHEN {_IS_HEIR} THEN extract(epoch FROM clock_timestamp()) END,
        suspended_at = CASE WHEN {_IS_HEIR} THEN NULL
            ELSE coalesce(suspended_at, extract(epoch FROM clock_timestamp())) END
    WHERE {_IS_LEFT}
    """,  # noqa: S608 - our own text
    f"""
    UPDATE batches SET process = CASE WHEN {_IS_BATCH_HEIR} THEN %(id)s END,
        taken_at = CASE WHEN {_IS_BATCH_HEIR} THEN extract(epoch FROM clock_timestamp()) END
    WHERE {_IS_LEFT}
    """,  # noqa: S608 - our own text
    """
    UPDATE deliveries SET process = %(id)s, taken_at = extract(epoch FROM clock_timestamp())
    WHERE process = ANY(%(dead)s) AND state = 'pending'
    """,
    """
    DELETE FROM idempotency_keys WHERE process = ANY(%(dead)s)
        AND created_at > extract(epoch FROM clock_timestamp()) - 3600
        AND NOT EXISTS (SELECT FROM generations WHERE id = work_id)
        AND NOT EXISTS (SELECT FROM batches WHERE id = work_id)
    """,
    "UPDATE leases SET state = 9 WHERE process = ANY(%(dead)s) AND state = 0",
    """
    UPDATE leases SET state = 5 WHERE process = ANY(%(dead)s) AND state = 4 AND NOT EXISTS (
        SELECT FROM attempts JOIN generations ON generations.id = generation_id AND ended_at IS NULL AND open
        WHERE generation_id = split_part(reference, '.', 1) AND reference = generation_id || '.' || number)
    """,
    """
    UPDATE leases SET process = NULL, left_at = processes.until, seen = -1 FROM processes
    WHERE process = processes.id AND process = ANY(%(dead)s) AND state <> 9
    """,
    "DELETE FROM letters WHERE recipient = ANY(%(dead)s)",
    "UPDATE roles SET holder = NULL WHERE holder = ANY(%(dead)s)",
)
"""What a dead process leaves. This process continues with the admin's work (`own`), also with what a process without a
server token has suspended. Users' work is suspended, since their tokens are not stored. What cannot be resumed is ended
here: work of the other mode, and what was cancelled before anything was sent. A key without work was claimed just
before its work was to be accepted. A lease that was not sent is gone, and one whose attempt has ended is over.
Another one belongs to no process, and its creation may have been sent until `left_at`."""

_FORGET: Final = "DELETE FROM processes WHERE taken_at < clock_timestamp() - interval '7 days'"

_OLDER: Final = "SELECT id FROM processes WHERE dead_at IS NULL AND schema < %(version)s"

_OUTDATED: Final = "{pid} on {host} is of a version that cannot run beside this one; stop all of that version"
_ALONE: Final = "another process has it: {pid} on {host}; after its end it is free within {ttl:g} seconds"
_DIFFERENT: Final = (
    "another process that shares it, {pid} on {host}, has another REPLICATE_BASE_URL or REPLICATE_SIMULATE; all "
    "processes of a ledger must have the same"
)

Cursor = psycopg.Cursor[Any]

log = structlog.get_logger("ledger")


class Member:
    """This process among those that share the ledger. `ttl` is in seconds (`TTL`). If it is `alone`, no other process
    may be alive when it enters. `schema` is what it knows of the tables."""

    def __init__(self, *, ttl: float, alone: bool, profile: Profile, schema: Schema) -> None:
        self.id = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self.ttl = float(ttl)
        self.schema = schema
        self._fenced_until = -inf
        self._alone = alone
        self._profile = profile
        self._epoch: int | None = None
        self._has_entered = False
        self.timelines = Timelines(self.id, ttl=self.ttl, alone=alone)
        self._buried: set[str] = set()

    @property
    def fence(self) -> dict[str, Any]:
        """The parameters of `FENCE`."""
        return {
            "id": self.id, "ttl": self.ttl, "epoch": self._epoch, "lock_timeout": LOCK_TIMEOUT,
            "timeline": self.timelines.number,
        }  # fmt: skip

    @property
    def fenced_until(self) -> float:
        """The time (`time.monotonic`) until which no other process can have taken over the work of this one."""
        return -inf if self.timelines.unsettled else self._fenced_until

    def acknowledge(self, began: float, *, has_written: bool = False) -> None:
        """A transaction with `enter` or a `FENCE` that began at this time (`time.monotonic`) is committed. If it
        `has_written`, it had all changes that `enter` called lost."""
        self._has_entered = True
        self._fenced_until = began + self.ttl * (1 - _MARGIN)
        if has_written:
            self.timelines.acknowledge()

    def enter(self, cursor: Cursor) -> bool:
        """Enter, or come back after an outage, in the transaction that opens the ledger. Returns whether the database
        may have lost changes that this process wrote. Raises TakenOver if this process was marked dead or comes too
        late, and ConnectionError if it may not be beside another one that is alive."""
        is_lossy = self.timelines.enter(cursor)
        if is_lossy:
            if self.timelines.is_late(cursor):
                raise self.taken_over()
            cursor.execute(_MARK_AGAIN, (list(self._buried),))
        self._epoch = _first(cursor.execute(_RETURN, self.fence)) if self._has_entered else None
        if self._epoch is None and (is_lossy or not self._has_entered):
            self._epoch = self._enter(cursor)
        if self._epoch is None:
            raise self.taken_over()
        return is_lossy

    def shut_out_older(self, cursor: Cursor) -> None:
        """Wait until no process writes, and let none begin to before the end of this transaction, which migrates the
        ledger. Raises ConnectionError if a process is alive that could not use the migrated tables.

        Each transaction of a process changes or locks its row first, so a migration holds up all of them, and cannot be
        in a deadlock with one."""
        cursor.execute(f"SET LOCAL idle_in_transaction_session_timeout = '{_LONGEST_PAUSE}'")
        cursor.execute("LOCK TABLE processes IN EXCLUSIVE MODE")
        cursor.execute(_MARK, {"overdue": _all(cursor.execute(_LATE, self.fence))})
        if older := _first(cursor.execute(_OLDER, {"version": self.schema.compatible})):
            host, pid, _ = older.rsplit(":", 2)
            raise ConnectionError(_OUTDATED.format(host=host, pid=pid))

    def leave(self, connection: psycopg.Connection[Any]) -> None:
        """Mark this process dead, so that others need not wait for that. It may send no creation any more."""
        self._fenced_until = -inf
        connection.execute(_LEAVE, (self.id,))

    def bury(self, cursor: Cursor) -> bool:
        """See `PostgresBackend.bury`."""
        if not is_settled(cursor):
            return False
        overdue = _all(cursor.execute(_OVERDUE, self.fence))
        if overdue:
            # A process that has locked its row is writing now.
            free = _all(cursor.execute(f"{_OVERDUE} FOR UPDATE OF other SKIP LOCKED", self.fence))
            for each in _all(cursor.execute(_MARK, {"overdue": free})):
                log.warning("process_dead", process=each)
            if len(free) < len(overdue):
                cursor.execute(_END_STUCK, {**self.fence, "overdue": overdue})
        dead = _all(cursor.execute(_TAKE, self._facts))
        if dead:
            self._move(cursor, dead)
            self._buried.update(dead)
        return bool(dead)

    def fenced(self, connection: psycopg.Connection[Any]) -> Exception:
        """The error after a `FENCE` has failed. Raises psycopg.Error."""
        if self.timelines.has_changed(connection):
            return ConnectionError("the server has failed over to another one")
        return self.taken_over()

    def taken_over(self) -> TakenOver:
        """The error of a process that was marked dead. It never writes again."""
        self._fenced_until = -inf
        return TakenOver("another process has taken it over, since this one was silent for too long")

    def _enter(self, cursor: Cursor) -> int | None:
        facts = {
            **self._facts, "opening_ttl": _OPENING_TTL, "upstream": self._profile.upstream,
            "simulated": self._profile.simulated, "token": self._token(cursor),
        }  # fmt: skip
        if self._alone:
            cursor.execute(_MARK, {"overdue": _all(cursor.execute(_LATE, facts))})
        for other, is_alike in cursor.execute(_OTHERS, facts).fetchall():
            if self._alone or not is_alike:
                host, pid, _ = other.rsplit(":", 2)
                raise ConnectionError(
                    (_ALONE if self._alone else _DIFFERENT).format(host=host, pid=pid, ttl=self.ttl)
                )
        epoch: int | None = _first(cursor.execute(_ENTER, facts))
        if is_settled(cursor):
            self._move(cursor, _all(cursor.execute(_TAKE, facts)))
        cursor.execute(_FORGET)
        return epoch

    def _token(self, cursor: Cursor) -> str | None:
        """A hash of the server token with the key of this ledger. Without that key it cannot be computed."""
        if self._profile.token is None:
            return None
        key: bytes = _first(cursor.execute("SELECT value FROM meta WHERE name = %s", (HASH_KEY,)))
        return hmac.new(key, b"server token " + self._profile.token.encode(), "sha256").hexdigest()

    @property
    def _facts(self) -> dict[str, Any]:
        return {
            **self.fence, "version": self._profile.version, "schema": self.schema.version,
            "pays": self._profile.token is not None,
        }  # fmt: skip

    def _move(self, cursor: Cursor, dead: Sequence[str]) -> None:
        """Take over what these processes have left."""
        facts = {"id": self.id, "dead": dead, **self._profile.facts}
        for statement in _MOVES:
            cursor.execute(statement, facts)


def _all(cursor: Cursor) -> Sequence[Any]:
    """The first column of all rows."""
    return [row[0] for row in cursor]


def _first(cursor: Cursor) -> Any:
    """The first column of the first row. None if there is no row."""
    row = cursor.fetchone()
    return None if row is None else row[0]
