"""Statements of PostgreSQL that write any number of rows, which are their only parameter, as JSON.

The server parses and plans each statement anew, since a pooler may know no prepared ones. For a generation this takes
three times as long as the write itself. So a transaction has one statement for each kind of record.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Table, bindparam, column, func, literal_column, select
from sqlalchemy.dialects import postgresql

from ledger.recent import Changes
from ledger.records import LeaseRecord, Record
from ledger.shared import LEASE_STATEMENTS
from ledger.tables import MAPPINGS, META, MODELS, RUNS, SCHEMAS, Key, Statements, all_statements
from ledger.writer import by_statement

_MOST_ROWS: Final = 1000
"""Rows in one parameter, which may have 1 GB. A row may have some hundred kilobytes."""


_OF_ALL: Final = (SCHEMAS, MODELS, RUNS, META)
"""Tables in which several processes write the same rows. They do so in this order, after all others, and in the order
of the keys, so that none waits for one that waits for it."""


def _rows_of(table: Table, names: Sequence[str]) -> Any:
    rows = func.json_populate_recordset(literal_column(f"NULL::{table.name}"), bindparam("rows"))
    query: Any = select(*map(column, names)).select_from(rows.table_valued(*names))
    return query.order_by(*(column(each.name) for each in table.primary_key)) if table in _OF_ALL else query


_STATEMENTS: Final[Mapping[type[Record], Statements]] = {
    **all_statements(postgresql.dialect(paramstyle="format"), postgresql.insert, rows_of=_rows_of),  # type: ignore[no-untyped-call]
    LeaseRecord: LEASE_STATEMENTS,
}

_ORDER: Final = {
    _STATEMENTS[kind].upsert: _OF_ALL.index(each.table)
    for kind, each in MAPPINGS.items()
    if each.table in _OF_ALL
}

_NAMES: Final = {_STATEMENTS[kind].upsert: each.columns for kind, each in MAPPINGS.items()}


def statements_of(changes: Changes) -> Iterator[tuple[str, Sequence[Key]]]:
    """The statements that write these changes, in order, each with the parameters of all its executions."""
    statements = by_statement(changes, _STATEMENTS)
    for sql, rows in sorted(statements.items(), key=lambda each: _ORDER.get(each[0], -1)):
        if (names := _NAMES.get(sql)) is None:
            yield sql, rows  # of a deletion, which takes a key
            continue
        for start in range(0, len(rows), _MOST_ROWS):
            yield sql, [(_as_json(names, rows[start : start + _MOST_ROWS]),)]


def _as_json(names: Sequence[str], rows: Sequence[Key]) -> str:
    def encoded(rows: Sequence[Key]) -> str:
        named = [dict(zip(names, row, strict=True)) for row in rows]
        return json.dumps(named, ensure_ascii=False, default=_as_bytea)

    text = encoded(rows)
    # PostgreSQL stores no NUL in a text. It may also be one that is escaped within a text.
    return text if r"\u0000" not in text else encoded([tuple(map(_without_nul, row)) for row in rows])


def _without_nul(value: Any) -> Any:
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value


def _as_bytea(value: bytes) -> str:
    return rf"\x{value.hex()}"
