"""Ledgers without a service."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from errors import LedgerDown
from ledger import Ledger
from ledger.claims import Claim
from ledger.memory import MemoryLedger
from ledger.records import Record
from ledger.writer import SqlLedger


class LossyLedger(MemoryLedger):
    """A ledger of one of several processes. The next `lost` claims are committed, but their answers are lost."""

    lost = 0

    async def claim(self, claim: Claim) -> bool:
        made = await super().claim(claim)
        if self.lost:
            self.lost -= 1
            raise LedgerDown("The server has not answered.")
        return made


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
