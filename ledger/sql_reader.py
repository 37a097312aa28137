"""What all queries of the ledger in SQL share: how records are read, and conditions that may be absent."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from errors import LedgerDown
from ledger import Place
from ledger.records import Record
from ledger.tables import mapping

R = TypeVar("R", bound=Record)

_AT_ONCE: Final = 5_000


class SqlReader:
    """Reads records from a database, each time by a connection from the pool. Raises LedgerDown."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def _records(
        self, kind: type[R], *conditions: Any, order: Sequence[Any] = (), limit: int | None = None
    ) -> list[R]:
        read = mapping(kind)
        with self._reading() as connection:
            rows = connection.execute(select(read.table).where(*conditions).order_by(*order).limit(limit))
            return [read.read(row) for row in rows]

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise LedgerDown(
                f"The ledger cannot be read: {getattr(error, 'orig', None) or error}."
            ) from error


def in_parts(values: Collection[str]) -> Iterator[Sequence[str]]:
    """The values, so many at a time that a statement may have all of them as parameters several times."""
    every = list(values)
    return (every[first : first + _AT_ONCE] for first in range(0, len(every), _AT_ONCE))


def conditions_of(*comparisons: tuple[Any, Callable[[Any, Any], Any], Any]) -> list[ColumnElement[bool]]:
    """Conditions that compare columns with values. A value of None adds no condition."""
    return [compare(column, value) for column, compare, value in comparisons if value is not None]


def after(before: Place | None, moment: Any, row_id: Any) -> Sequence[Any]:
    """The condition of the rows after a place, the latest first. No condition without a place."""
    return () if before is None else (tuple_(moment, row_id) < tuple_(*before),)
