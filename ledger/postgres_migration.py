"""Creates the tables of a ledger in PostgreSQL, or migrates those of an older version while other processes use them.

All steps run in one transaction, which waits until no process writes; meanwhile none begins to write. A process of an
older version goes on beside the new tables if its version is not older than the row `compatible` of `meta`. A migration
that older processes cannot use waits until all of them have ended.
"""

from typing import Final

from sqlalchemy import Connection, select, text
from sqlalchemy.dialects import postgresql

from ledger.creation import create_tables
from ledger.members import OWN, Cursor, Member
from ledger.migrations import TooNew, add_first_values
from ledger.tables import META, METADATA, SHARED

_VERSION: Final = "version"
_COMPATIBLE: Final = "compatible"
"""The names of values in `meta`: the version of the tables, and the oldest version of a process that may use them."""

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext(current_schema() || '.meta'))"
"""Waits for another process that creates `meta`, before which there is no row to lock. The lock belongs to the
transaction, so a pooler may give the next one another connection."""

_SET: Final = """
    INSERT INTO meta (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value
"""


def make_tables(connection: Connection, cursor: Cursor, member: Member) -> None:
    """Create or migrate the tables, in the transaction of this connection and its cursor. Until the end of the
    transaction, no other process does. Raises TooNew if the ledger is of a later version that is not compatible, and
    ConnectionError if a process is alive that could not use the migrated tables."""
    schema = member.schema
    connection.execute(text(_LOCK))
    META.create(connection, checkfirst=True)
    insert = postgresql.insert(META).on_conflict_do_nothing()
    connection.execute(insert, {"name": _VERSION, "value": b"0"})
    locked = text("SELECT value FROM meta WHERE name = :name FOR UPDATE")
    version = int(connection.scalar(locked, {"name": _VERSION}))
    if version > schema.version and _compatible(connection, version) > schema.version:
        raise TooNew(f"it is of version {version}, and this service knows {schema.version}")
    if version == 0:
        for metadata in (METADATA, SHARED, OWN):
            create_tables(connection, metadata, postgresql.dialect)
    elif version < schema.version:
        member.shut_out_older(cursor)
        for number in range(version, schema.version):
            for step in schema.steps[number]:
                connection.exec_driver_sql(step)
    if version < schema.version:
        for name, value in ((_VERSION, schema.version), (_COMPATIBLE, schema.compatible)):
            cursor.execute(_SET, (name, str(value).encode()))
    add_first_values(connection, postgresql.insert)


def _compatible(connection: Connection, version: int) -> int:
    """The oldest version of a process that may use a ledger of this version."""
    value = connection.scalar(select(META.c.value).where(META.c.name == _COMPATIBLE))
    return version if value is None else int(value)
