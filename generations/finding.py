"""Finds work by its id, in memory or in the ledger, and resumes that of its owner."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

from auth import Caller
from errors import LedgerDown
from generations.archive import Archive, Stored
from generations.batch import Batch, Work
from generations.elsewhere import Elsewhere, is_suspended
from generations.generation import Generation, Item
from generations.progress import PAUSE
from generations.supervisor import Supervisor
from generations.suspension import NONE_AGAIN, Requested, Suspension, joined_again
from ledger import Ledger
from ledger.records import GenerationRecord
from parsing.shapes import BatchRequest, GenerationRequest


class Finder:
    """Every method raises LedgerDown if the ledger cannot be read."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        suspension: Suspension,
        archive: Archive,
        elsewhere: Elsewhere,
        ledger: Ledger,
    ) -> None:
        self._supervisor = supervisor
        self._suspension = suspension
        self._archive = archive
        self._elsewhere = elsewhere
        self._ledger = ledger

    async def find(
        self, work_id: str, owner: Caller | None = None, again: Requested = NONE_AGAIN
    ) -> Work | Stored | None:
        """Work by its id. Suspended work of the `owner` is resumed, with the secrets of the requests that were made
        `again`."""
        stored: Stored | None = None
        for _ in range(3):  # try again if it was resumed or has ended meanwhile
            if (running := self._supervisor.find(work_id)) is not None:
                return running
            stored = await self._archive.load(work_id)
            if stored is None or stored.has_ended or self._elsewhere.runs(stored):
                break
            if is_suspended(stored):
                if owner is None or owner.id != stored.caller_id:
                    break
                await self._suspension.resume_for(stored, owner, again)
            if self._supervisor.find(work_id) is None:
                await self._ledger.flush()  # it has ended, since it could not continue, or is being suspended
        return self._supervisor.find(work_id) or stored

    async def items(self, ids: Iterable[str], owner: Caller, again: Requested) -> Mapping[str, Item]:
        """The generations with these ids. Suspended ones are resumed, as by `find`."""
        running = ((each, self._supervisor.find(each)) for each in ids)
        found: dict[str, Item | None] = {
            work_id: each if isinstance(each, Generation) else None for work_id, each in running
        }
        others = [work_id for work_id, each in found.items() if each is None]
        records = await self._archive.read(lambda queries: queries.members(others)) if others else ()
        found |= {each.id: each for each in records}
        for each in records:
            if not each.has_ended and not self._elsewhere.runs(each):
                work = await self.find(each.id, owner, again)
                found[each.id] = None if isinstance(work, Batch) else work
        if missing := next((work_id for work_id, each in found.items() if each is None), None):
            raise LedgerDown(f"The key belongs to {missing}, which is not in the ledger.")
        return {work_id: each for work_id, each in found.items() if each is not None}

    async def resume_joined(
        self, work: Work | Stored, owner: Caller | None, again: Requested = NONE_AGAIN
    ) -> None:
        """Resume the suspended items that a batch of this `owner` has joined."""
        if not isinstance(work, Batch) or owner is None or owner.id != work.caller_id:
            return
        for place in work.joined:
            item = work.items[place]
            if isinstance(item, GenerationRecord) and is_suspended(item):
                await self.find(item.id, owner, again)

    @asynccontextmanager
    async def resuming_joined(
        self, work: Work, owner: Caller, request: GenerationRequest | BatchRequest
    ) -> AsyncGenerator[None, None]:
        """Within the block, in which the owner waits for this work, resume the items that a batch has joined once the
        process that ran them is dead."""
        if not isinstance(work, Batch) or not work.joined or self._ledger.process is None:
            yield
            return
        again = joined_again(work.joined, request)
        resuming = asyncio.create_task(self._resume_joined(work, owner, again))
        try:
            yield
        finally:
            resuming.cancel()

    async def _resume_joined(self, batch: Batch, owner: Caller, again: Requested) -> None:
        while not batch.has_ended:
            await asyncio.sleep(PAUSE)
            with suppress(LedgerDown):
                await self.resume_joined(batch, owner, again)
