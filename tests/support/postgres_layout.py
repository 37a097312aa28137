"""The layouts of ledgers in PostgreSQL: that of a schema, and those of released versions, which are kept as SQL.

`python -m tests.support.postgres_layout` writes that of the present version, until it is released.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import MetaData
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

import ledger.postgres  # noqa: F401 - completes the indexes
from harness.postgres import Server
from ledger.members import OWN
from ledger.migrations import PRESENT
from ledger.tables import METADATA, SHARED

_DATA = Path(__file__).parents[1] / "data"

KEPT = {int(path.stem.rpartition("-")[2]): path for path in sorted(_DATA.glob("postgres-*.sql"))}
"""The files with the statements that make the tables of a version."""

_QUERIES = (
    """SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = '{0}'""",
    "SELECT tablename, indexdef, indexname FROM pg_indexes WHERE schemaname = '{0}'",
    "SELECT relname, reloptions::text FROM pg_class WHERE relnamespace = '{0}'::regnamespace AND relkind = 'r'",
)


def tables_of(server: Server, schema: str) -> set[tuple[Any, ...]]:
    """The columns, indexes and options of all tables, in no order."""
    rows = [row for query in _QUERIES for row in server.execute(query.format(schema))]
    return {tuple(str(each).replace(f"{schema}.", "") for each in row) for row in rows}


def statements() -> str:
    """Those that make the tables of the present version."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    made: list[str] = []
    for metadata in (METADATA, SHARED, OWN):
        made += _statements(metadata, dialect)
    return ";\n".join(made) + ";\n"


def _statements(metadata: MetaData, dialect: Any) -> list[str]:
    tables = sorted(metadata.tables.values(), key=lambda table: table.name)
    indexes = sorted(
        (index for table in tables for index in table.indexes), key=lambda index: str(index.name)
    )
    creations: list[Any] = [*map(CreateTable, tables), *map(CreateIndex, indexes)]
    texts = [str(each.compile(dialect=dialect)) for each in creations]
    return ["\n".join(line.rstrip() for line in text.strip().splitlines()) for text in texts]


if __name__ == "__main__":
    (_DATA / f"postgres-{PRESENT}.sql").write_text(statements())
