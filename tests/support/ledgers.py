"""A ledger on a database, without a service."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ledger import Ledger
from ledger.records import Record
from ledger.writer import SqlLedger


@contextmanager
def running(ledger: SqlLedger, **hooks: Callable[[], None]) -> Iterator[SqlLedger]:
    """Start the ledger with these arguments of `start`, and close it after the block."""
    ledger.start(**hooks)
    try:
        yield ledger
    finally:
        ledger.close()


def write(ledger: Ledger, *records: Record) -> None:
    """Write these records and flush them. Raises LedgerDown."""

    async def upsert_and_flush() -> None:
        for each in records:
            ledger.upsert(each)
        await ledger.flush()

    asyncio.run(upsert_and_flush())
