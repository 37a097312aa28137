"""Suspended work: users' generations that an earlier process left, until their owner returns.

The return of the owner resumes them (`recovery.py`). They end without running here if they are cancelled, or if the
owner does not return in time.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from auth import Caller
from errors import TokenRejected
from generations.archive import Archive
from generations.lifecycle import log_end
from generations.recovery import Recovery, Restored, cancelled, expired, stored_batch
from generations.supervisor import Supervisor
from ledger import Ledger, Queries
from ledger.records import GenerationRecord
from providers.token_checks import TokenChecks
from webhooks.outbox import Outbox


class Suspension:
    def __init__(
        self,
        *,
        supervisor: Supervisor,
        archive: Archive,
        recovery: Recovery,
        checks: TokenChecks,
        ledger: Ledger,
        outbox: Outbox,
    ) -> None:
        self._supervisor = supervisor
        self._archive = archive
        self._recovery = recovery
        self._checks = checks
        self._ledger = ledger
        self._outbox = outbox
        self._held: dict[str, str] = {}
        """The suspended generations, and the batches with suspended items, each with its owner's id."""
        self._perhaps_over: set[str] = set()
        """Batches of which an item ended here: it may have been the last one."""
        self._ending = asyncio.Lock()

    def __contains__(self, work_id: str) -> bool:
        return work_id in self._held

    def suspend(self, records: Iterable[GenerationRecord]) -> None:
        """Keep these until their owner returns. They may be suspended since an earlier process."""
        for record in records:
            self._held |= {each: record.caller_id for each in (record.id, record.batch_id) if each}
            if record.suspended_at is None:
                self._ledger.upsert(replace(record, suspended_at=time.time()))

    async def resume_for(self, work_id: str, owner: Caller) -> bool:
        """Resume suspended work of this caller: a generation, or for an item of a batch all of the batch. Returns
        whether it was suspended."""
        if self._held.get(work_id) != owner.id:
            return False
        # Work of a refused token is resumed, too. It then fails with that reason.
        with suppress(TokenRejected):
            owner = await self._checks.check(owner)
        restored = await self._archive.read(partial(self._restored, work_id, owner))
        if restored is None or not restored.ids <= self._held.keys():
            return False
        self.resume(restored)
        return True

    def resume(self, restored: Restored) -> None:
        """Resume work of an earlier process, and record the end of work that cannot be resumed."""
        for record in restored.ended:
            self._record_end(record)
        for each in restored.ids:
            self._held.pop(each, None)
        self._perhaps_over -= restored.ids  # a running batch ends by itself
        self._supervisor.resume(restored.generations, restored.batches)

    async def cancel(self, work_id: str) -> None:
        """End its suspended generations. Raises LedgerDown."""
        await self._end(cancelled, lambda queries: queries.members(work_id))

    async def expire(self, *, before: float) -> None:
        """End the work suspended before this Unix time. Raises LedgerDown."""
        await self._end(expired, lambda queries: queries.suspended(before))

    async def _end(
        self,
        end: Callable[[GenerationRecord], GenerationRecord],
        find: Callable[[Queries], Sequence[GenerationRecord]],
    ) -> None:
        batches: set[str] = set()
        for found in await self._archive.read(find):
            if found.id in self._held:
                record = end(found)
                del self._held[record.id]
                self._record_end(record)
                if record.batch_id:
                    batches.add(record.batch_id)
        # Each batch after its own items are on the disk, and one at a time: two would end it twice.
        async with self._ending:
            self._perhaps_over |= batches
            await self._ledger.flush()
            for batch_id in tuple(self._perhaps_over):
                await self._end_if_over(batch_id)
                self._perhaps_over.discard(batch_id)

    async def _end_if_over(self, batch_id: str) -> None:
        record, items = await self._archive.batch(batch_id)
        if record is None or record.ended_at is not None or not all(item.has_ended for item in items):
            return
        self._held.pop(batch_id, None)
        batch = stored_batch(record, items)
        self._supervisor.resume((), [batch])
        if (task := self._supervisor.task(batch)) is not None:
            await asyncio.wait([task])

    def _record_end(self, record: GenerationRecord) -> None:
        """Record an end, and deliver it to the webhook of its caller."""
        if record.webhook:
            self._outbox.take(self._outbox.prepare(record.id, record.webhook))
        self._ledger.upsert(record)
        log_end(record)
        if record.batch_id is None:
            self._supervisor.forget_attachments(record.id)

    def _restored(self, work_id: str, owner: Caller, queries: Queries) -> Restored | None:
        """The work to resume, if it is the owner's. Any thread."""
        batch_id = work_id
        if not work_id.startswith("batch_"):
            record = queries.generation(work_id)
            if record is None or record.caller_id != owner.id or record.has_ended:
                return None
            if record.batch_id is None:
                return self._recovery.restore([record], (), owner)
            batch_id = record.batch_id
        batch = queries.batch(batch_id)
        if batch is None or batch.caller_id != owner.id or batch.ended_at is not None:
            return None
        return self._recovery.restore((), [(batch, queries.batch_items(batch.id))], owner)
