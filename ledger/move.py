"""Moves a ledger from a SQLite file to PostgreSQL, while the service is stopped."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import Table
from sqlalchemy.engine import make_url

from ledger.databases import backend
from ledger.sqlite import SqliteBackend
from ledger.tables import GENERATIONS, META, METADATA
from settings import SettingsError

if TYPE_CHECKING:
    from ledger.postgres import PostgresBackend

_ROWS_AT_ONCE: Final = 1000


def move(source: str, target: str) -> Mapping[str, int]:
    """Copy all rows of the ledger at one URL into the empty one at another, and migrate the former before. Both are
    closed to other processes during the copy, and either all rows are copied or none. Returns the number of rows by
    table. Raises SettingsError if a URL or the target cannot be used, and any error of a database."""
    if not source.startswith("sqlite:///") or not target.startswith(("postgres://", "postgresql://")):
        raise SettingsError("--move-ledger takes sqlite:///path and the URL of a ledger in PostgreSQL.")
    path = Path(make_url(source).database or "")
    if not path.is_file():
        raise SettingsError(f"--move-ledger: there is no file {path}.")
    old, new = SqliteBackend(source), cast("PostgresBackend", backend(target, alone=True))
    with closing(new), closing(old):
        old.open()
        new.open()
        return _copied(path, new)


def _hand_over(cursor: Any, process: str) -> None:
    """Let unfinished work belong to this process, so that the next one takes it over."""
    cursor.execute(
        "UPDATE generations SET process = %s WHERE ended_at IS NULL AND suspended_at IS NULL", (process,)
    )
    cursor.execute("UPDATE batches SET process = %s WHERE ended_at IS NULL", (process,))
    cursor.execute("UPDATE deliveries SET process = %s WHERE state = 'pending'", (process,))


def _copied(path: Path, new: "PostgresBackend") -> Mapping[str, int]:
    counts = {}
    with closing(sqlite3.connect(path)) as old, new.transaction() as cursor:
        for table in METADATA.sorted_tables:
            if table is META:  # the version is the same by now, and is not there in SQLite
                cursor.execute("DELETE FROM meta WHERE name NOT IN ('version', 'compatible')")
            elif cursor.execute(f"SELECT 1 FROM {table.name} LIMIT 1").fetchone():  # noqa: S608 - our own name
                raise SettingsError(f"--move-ledger: the target is not empty: it has {table.name}.")
            columns = ", ".join(f'"{column.name}"' for column in table.columns)
            counts[table.name] = 0
            with cursor.copy(f"COPY {table.name} ({columns}) FROM STDIN") as copy:
                for row in _rows(old, table, columns):
                    copy.write_row(row)
                    counts[table.name] += 1
        last = f"SELECT setval(pg_get_serial_sequence('{GENERATIONS.name}', 'seq'), max(seq)) FROM {GENERATIONS.name}"  # noqa: S608
        cursor.execute(last)
        _hand_over(cursor, new.process)
    return counts


def _rows(old: sqlite3.Connection, table: Table, columns: str) -> Iterator[tuple[Any, ...]]:
    keys = ", ".join(f'"{column.name}"' for column in table.primary_key)
    found = old.execute(f"SELECT {columns} FROM {table.name} ORDER BY {keys}")  # noqa: S608 - our own names
    while rows := found.fetchmany(_ROWS_AT_ONCE):
        yield from rows
