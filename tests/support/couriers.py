"""A process on a ledger in PostgreSQL that others share, without a service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ledger.courier import Courier
from ledger.postgres import PostgresBackend
from ledger.writer import SqlLedger
from tests.support.ledgers import running


@asynccontextmanager
async def process_on(url: str) -> AsyncIterator[tuple[SqlLedger, Courier]]:
    """The ledger of a process, and its courier. Both run until the end of the block."""
    backend = PostgresBackend(url, alone=False)
    with running(SqlLedger(backend)) as ledger:
        courier = Courier(backend)
        courier.start()
        try:
            yield ledger, courier
        finally:
            await courier.aclose()
