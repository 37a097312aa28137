"""The service with a ledger that stores nothing, as a baseline.

    PYTHONPATH=. python -m bench.unledgered

It is only for measurements, since it loses everything.
"""

import sys
from typing import Any

import app
import service
from ledger import Source
from ledger.records import Record
from ledger.writer import SqlLedger


class NullLedger(SqlLedger):
    """A ledger that stores nothing. Its queries find nothing."""

    def upsert(self, record: Record) -> None:
        """Do nothing."""

    def mark_dirty(self, source: Source) -> None:
        """Do nothing."""

    def delete(self, kind: type[Record], *key: Any) -> None:
        """Do nothing."""

    async def flush(self) -> None:
        """Return at once."""


if __name__ == "__main__":
    service.SqlLedger = NullLedger  # type: ignore[attr-defined]
    sys.exit(app.main(sys.argv[1:]))
