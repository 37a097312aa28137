"""The service with a ledger that writes nothing, to be measured beside itself.

    PYTHONPATH=. python -m bench.unledgered

Never use it for anything else: it forgets everything.
"""

import sys
from typing import Any

import app
import service
from ledger import Source
from ledger.records import Record
from ledger.sqlite import SqliteLedger


class Forgetful(SqliteLedger):
    """A ledger that can be queried, and has nothing."""

    def upsert(self, record: Record) -> None:
        """Forget it."""

    def mark_dirty(self, source: Source) -> None:
        """Forget it."""

    def delete(self, kind: type[Record], *key: Any) -> None:
        """Forget it."""

    async def flush(self) -> None:
        """There is nothing to wait for."""


if __name__ == "__main__":
    service.SqliteLedger = Forgetful  # type: ignore[attr-defined]
    sys.exit(app.main(sys.argv[1:]))
