"""The timelines of the server. A promoted standby begins one, and may lack the last commits of the one before.

Whether it does is not visible, since only the missing rows may show it. So each process writes again, in a new
timeline, what it wrote in the last minute and what it still runs (`recent.py`). Until the timeline is *settled*, a
fixed time after the first process came to it, no process claims, grants, takes over or sends anything, as the rows of
another one may still be missing. A process that comes too late for that ends, since the others go on without its rows.
"""

import time
from math import inf
from typing import Any, Final

import psycopg
from sqlalchemy import Column, DateTime, Table, Text

from ledger.tables import SHARED

Table(
    "timelines",
    SHARED,
    Column("id", Text, primary_key=True),
    Column("settled_at", DateTime(timezone=True), nullable=False),
)
"""Each timeline in which a process has opened the ledger. `id` is the server's identifier and the timeline's number."""

PRESENT: Final = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
"""The number of the present timeline, in SQL."""

SETTLED_AGO: Final = f"""(
    SELECT extract(epoch FROM clock_timestamp() - settled_at)::float8
    FROM (SELECT id, settled_at FROM timelines ORDER BY settled_at DESC LIMIT 1) latest WHERE right(id, 8) = {PRESENT}
)"""  # noqa: S608 - our own text
"""Seconds since the present timeline was settled, in SQL. Negative until then, and NULL before a process has opened the
ledger in it."""

_ADD: Final = f"""
    INSERT INTO timelines (id, settled_at)
    SELECT system_identifier || '/' || {PRESENT}, clock_timestamp()
        + CASE WHEN EXISTS (SELECT FROM timelines) THEN make_interval(secs => %s) ELSE interval '-1 day' END
    FROM pg_control_system() ON CONFLICT (id) DO NOTHING
"""  # noqa: S608 - our own text
"""The first timeline of a ledger is settled, since no commit can be lost."""

_FIND: Final = f"""
    SELECT id, extract(epoch FROM settled_at - clock_timestamp())::float8 FROM timelines, pg_control_system()
    WHERE id = system_identifier || '/' || {PRESENT}
"""  # noqa: S608 - our own text


_HAVE_GONE_ON: Final = """
    SELECT EXISTS (SELECT FROM processes, timelines WHERE processes.id <> %(process)s AND timelines.id = %(timeline)s
        AND beat_at > settled_at - make_interval(secs => %(since)s))
"""
"""Whether other processes have written in this timeline, and so may have claimed what this one has."""

_SETTLING: Final = 3
"""After how many TTLs a new timeline is settled. Processes may come to it until one TTL before: some notice late that
their server is lost, or try lost ones first."""

_UNSETTLED: Final = (
    "PostgreSQL has failed over to another server. For {seconds:.0f} seconds, the processes of the service only write "
    "their latest changes to it again."
)


def is_settled(cursor: psycopg.Cursor[Any]) -> bool:
    """Whether all processes that go on have written their latest changes in the present timeline."""
    found: Any = cursor.execute(f"SELECT {SETTLED_AGO} >= 0").fetchone()
    return found[0] is True


class Timelines:
    """The timelines in which this process has the ledger. Its `ttl` is in seconds. If it is `alone`, no other process
    has unwritten changes, so that each timeline is settled at once."""

    def __init__(self, process: str, *, ttl: float, alone: bool) -> None:
        self._process = process
        self._ttl = ttl
        self._settling = 0.0 if alone else _SETTLING * ttl
        self._settled_at = -inf
        self._present = self._written_in = ""
        """The present timeline, and the one that has the latest changes of this process."""

    @property
    def number(self) -> str:
        """The number of the present timeline."""
        return self._present[-8:]

    @property
    def unsettled(self) -> str | None:
        """The reason why no work may be claimed, sent or accepted now. None if the timeline is settled."""
        seconds = self._settled_at - time.monotonic()
        return _UNSETTLED.format(seconds=seconds + 1) if seconds > 0 else None

    def enter(self, cursor: psycopg.Cursor[Any]) -> bool:
        """Enter the present timeline, which may be new. Returns whether it may lack changes that this process wrote.
        No other process may do this at the same time."""
        cursor.execute(_ADD, (self._settling,))
        found: Any = cursor.execute(_FIND).fetchone()
        self._present, settles_in = found
        self._settled_at = time.monotonic() + settles_in
        return self._written_in not in {"", self._present}

    def is_late(self, cursor: psycopg.Cursor[Any]) -> bool:
        """Whether this process, whose changes may be lost, comes too late to write them again."""
        if time.monotonic() < self._settled_at - self._ttl:
            return False
        facts = {"process": self._process, "timeline": self._present, "since": (_SETTLING - 1) * self._ttl}
        found: Any = cursor.execute(_HAVE_GONE_ON, facts).fetchone()
        return found[0] is True

    def acknowledge(self) -> None:
        """The present timeline has all changes that this process wrote."""
        self._written_in = self._present

    def has_changed(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether the server has another timeline now, since a pooler has passed the connection on."""
        found: Any = connection.execute(f"SELECT {PRESENT}").fetchone()
        return bool(found[0] != self.number)
