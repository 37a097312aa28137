"""The ledger, read without blocking the loop."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from errors import LedgerDown
from generations import views
from generations.batch import Batch
from generations.recovery import stored_batch
from ledger import Grouping, Ledger, Page, Period, Queries
from ledger.records import BatchRecord, Delivery, GenerationRecord
from loop_thread import Pool
from webhooks.outbox import DeliveryFailed

T = TypeVar("T")

Stored = GenerationRecord | Batch
Usage = dict[str, Any]


class Archive:
    """Reads the ledger on the threads of `threads`. All methods raise LedgerDown."""

    def __init__(self, *, ledger: Ledger, queries: Queries, threads: Pool) -> None:
        self._ledger = ledger
        self._queries = queries
        self._threads = threads

    async def read(self, query: Callable[[Queries], T]) -> T:
        """The result of `query`, which runs on another thread."""
        return await self._threads.run(partial(query, self._queries))

    async def load(self, work_id: str) -> Stored | None:
        """A generation or batch by its id."""
        if not work_id.startswith("batch_"):
            return await self.read(lambda queries: queries.generation(work_id))
        record, items = await self.batch(work_id)
        return None if record is None else stored_batch(record, items)

    async def batch(self, batch_id: str) -> tuple[BatchRecord | None, Sequence[GenerationRecord]]:
        """A batch, and its generations in input order."""
        return await self.read(lambda queries: (queries.batch(batch_id), queries.batch_items(batch_id)))

    async def page(self, page: Page) -> Sequence[GenerationRecord]:
        """A caller's generations, the latest first."""
        return await self.read(lambda queries: queries.page(page))

    async def delivery(self, work_id: str) -> Delivery | None:
        """The delivery of a result, as far as it was recorded."""
        return await self.read(lambda queries: queries.delivery(work_id))

    async def usage(self, period: Period, *, by: Grouping | None) -> tuple[list[Usage], Usage]:
        """Outputs and costs of ended generations, by group and in total."""

        def sums(queries: Queries) -> tuple[list[Usage], Usage]:
            groups = list(queries.usage(period, by=by))
            [total] = groups if by is None else queries.usage(period, by=None)
            return groups, total

        return await self.read(sums)

    async def result(self, work_id: str) -> bytes | None:
        """The body that a caller's webhook gets; None if there is none (any more). Raises Unheard while the end of the
        work cannot be written."""
        try:
            await self._ledger.flush()  # else the end that is to be delivered may not be found
        except LedgerDown:
            raise DeliveryFailed("what there is to tell is not on the disk yet") from None
        work = await self.load(work_id)
        if work is None or not work.has_ended:
            return None
        return await self._threads.run(partial(_body, work))


def _body(work: Stored) -> bytes:
    body = work.result(work.address) if isinstance(work, Batch) else views.generation(work, work.address)
    return json.dumps(body).encode()
