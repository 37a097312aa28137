"""Reads stored work from the ledger without blocking the loop."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from contract.door_facts import REPLICATE, facts_of
from errors import LedgerDown
from generations import views
from generations.batch import Batch
from generations.joined import items_of_record
from generations.recovery import stored_batch
from ledger import Ledger, Queries
from ledger.records import BatchRecord, GenerationRecord
from loop_thread import Pool
from webhooks.sender import DeliveryFailed
from webhooks.signing import Message

T = TypeVar("T")

Stored = GenerationRecord | Batch

Body = Callable[[GenerationRecord, str], dict[str, Any]]
"""Makes a body from a record, at an address of the service."""

NO_DOORS: Final[Mapping[str, Body]] = {}


class Archive:
    """Reads the ledger on the threads of the pool `threads`. `doors` make the bodies of generations that came by a
    door, by its name. All methods raise LedgerDown."""

    def __init__(
        self, *, ledger: Ledger, queries: Queries, threads: Pool, doors: Mapping[str, Body] = NO_DOORS
    ) -> None:
        self._ledger = ledger
        self._queries = queries
        self._threads = threads
        self._doors = doors

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
        return await self.read(partial(_batch, batch_id))

    async def result(self, work_id: str) -> Message | None:
        """The message for a caller's webhook; None if the work has not ended or is not in the ledger.

        Raises DeliveryFailed if its end cannot be written now."""
        try:
            await self._ledger.flush()  # otherwise the ledger may not have the end yet
        except LedgerDown:
            raise DeliveryFailed("the result is not on the disk yet") from None
        work = await self.load(work_id)
        if work is None or not work.has_ended:
            return None
        return Message(work.caller_id, await self._threads.run(partial(self._content, work)))

    def _content(self, work: Stored) -> bytes:
        if isinstance(work, Batch):
            return json.dumps(work.result(work.address)).encode()
        door = work.door if facts_of(work) is None else REPLICATE
        body = self._doors.get(door or "", views.generation)
        return json.dumps(body(work, work.address)).encode()


def _batch(batch_id: str, queries: Queries) -> tuple[BatchRecord | None, Sequence[GenerationRecord]]:
    record = queries.batch(batch_id)
    return record, () if record is None else items_of_record(queries, record)
