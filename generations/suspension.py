"""Suspended work: users' generations of an earlier process, until their owner returns with the token.

Then they are resumed (`recovery.py`). They end without running here if they are cancelled, or if the owner does not
return in time.
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
        self._owners: dict[str, str] = {}
        """The owner's id by the id of each suspended generation, and of each batch with suspended items."""
        self._maybe_ended: set[str] = set()
        """Batches of which an item ended here; it may have been the last unfinished one."""
        self._ending = asyncio.Lock()

    def __contains__(self, work_id: str) -> bool:
        return work_id in self._owners

    def suspend(self, records: Iterable[GenerationRecord]) -> None:
        """Suspend these until their owner returns. An earlier process may have suspended them already."""
        for record in records:
            self._owners |= {each: record.caller_id for each in (record.id, record.batch_id) if each}
            if record.suspended_at is None:
                self._ledger.upsert(replace(record, suspended_at=time.time()))

    async def resume_for(self, work_id: str, owner: Caller) -> bool:
        """Resume a suspended generation or batch of this caller; for an item, its whole batch. Returns whether it was
        suspended."""
        if self._owners.get(work_id) != owner.id:
            return False
        # Work with a refused token is resumed too, and fails with that error.
        with suppress(TokenRejected):
            owner = await self._checks.check(owner)
        restored = await self._archive.read(partial(self._restored, work_id, owner))
        if restored is None or not restored.ids <= self._owners.keys():
            return False
        self.resume(restored)
        return True

    def resume(self, restored: Restored) -> None:
        """Resume restored work, and record the end of work that cannot be resumed."""
        for record in restored.ended:
            self._record_end(record)
        for each in restored.ids:
            self._owners.pop(each, None)
        self._maybe_ended -= restored.ids  # a running batch ends by itself
        self._supervisor.resume(restored.generations, restored.batches)

    async def cancel(self, work_id: str) -> None:
        """End the suspended generations of this work as cancelled. Raises LedgerDown."""
        await self._end(cancelled, lambda queries: queries.members(work_id))

    async def expire(self, *, before: float) -> None:
        """End work that was suspended before this Unix time. Raises LedgerDown."""
        await self._end(expired, lambda queries: queries.suspended(before))

    async def _end(
        self,
        end: Callable[[GenerationRecord], GenerationRecord],
        find: Callable[[Queries], Sequence[GenerationRecord]],
    ) -> None:
        batches: set[str] = set()
        for found in await self._archive.read(find):
            if found.id in self._owners:
                record = end(found)
                del self._owners[record.id]
                self._record_end(record)
                if record.batch_id:
                    batches.add(record.batch_id)
        # End a batch after its items are on the disk. The lock prevents ending it twice.
        async with self._ending:
            self._maybe_ended |= batches
            await self._ledger.flush()
            for batch_id in tuple(self._maybe_ended):
                await self._end_batch(batch_id)
                self._maybe_ended.discard(batch_id)

    async def _end_batch(self, batch_id: str) -> None:
        """End a batch if all its items have ended."""
        record, items = await self._archive.batch(batch_id)
        if record is None or record.ended_at is not None or not all(item.has_ended for item in items):
            return
        self._owners.pop(batch_id, None)
        batch = stored_batch(record, items)
        self._supervisor.resume((), [batch])
        if (task := self._supervisor.task(batch)) is not None:
            await asyncio.wait([task])

    def _record_end(self, record: GenerationRecord) -> None:
        """Record an end, and deliver it to the caller's webhook."""
        if record.webhook:
            self._outbox.take(self._outbox.prepare(record.id, record.webhook))
        self._ledger.upsert(record)
        log_end(record)
        if record.batch_id is None:
            self._supervisor.forget_attachments(record.id)

    def _restored(self, work_id: str, owner: Caller, queries: Queries) -> Restored | None:
        """The work to resume; None if it is not the owner's or has ended. Blocks."""
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
