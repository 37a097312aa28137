"""Creates the tables of a new ledger."""

from collections.abc import Callable, Sequence
from functools import cache

from sqlalchemy import Connection, Dialect, Index, MetaData
from sqlalchemy.schema import CreateIndex, CreateTable


def create_tables(connection: Connection, tables: MetaData, dialect: Callable[[], Dialect]) -> None:
    """Create those of these tables that are missing, with their indexes. Unlike `MetaData.create_all`, it does not ask
    for each table whether it is there."""
    for each in _statements(tables, dialect):
        connection.exec_driver_sql(each)


@cache
def _statements(tables: MetaData, dialect: Callable[[], Dialect]) -> Sequence[str]:
    found: list[CreateTable | CreateIndex] = []
    for table in tables.sorted_tables:
        found.append(CreateTable(table, if_not_exists=True))
        found += [CreateIndex(each, if_not_exists=True) for each in sorted(table.indexes, key=_name)]
    return [str(each.compile(dialect=dialect())) for each in found]


def _name(index: Index) -> str:
    return index.name or ""
