"""Waits for the items that batches have joined: generations of other batches or of none, here or in other processes."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from errors import LedgerDown
from generations.archive import Archive
from generations.batch import Batch
from generations.generation import Generation
from generations.joined import lost_item
from generations.progress import PAUSE, ProgressOfRows
from generations.running import RunningWork
from ledger import Progress
from ledger.records import GenerationRecord

_LOST_AFTER: Final = 60.0
"""Seconds without its row after which an item counts as lost. After a failover of the database, a living process writes
its rows again sooner."""


class JoinedItems:
    """Keeps the joined items of the batches of this process as they are now, in `Batch.items`."""

    def __init__(self, *, running: RunningWork, progress: ProgressOfRows, archive: Archive) -> None:
        self.running = running
        self.progress = progress
        self._archive = archive
        self._tasks: dict[str, Mapping[int, asyncio.Task[None]]] = {}

    def begin(self, batch: Batch) -> list[asyncio.Task[None]]:
        """Tasks that end when the joined items of this batch have ended, or when this process drains."""
        tasks = {
            place: asyncio.create_task(self._follow(batch, place))
            for place in batch.joined
            if not batch.items[place].has_ended
        }
        if tasks:
            self._tasks[batch.id] = tasks
        return [*tasks.values()]

    def task(self, batch: Batch, place: int) -> asyncio.Task[None] | None:
        """The task of the joined item at this place. None if it had ended before, or the batch does not run here."""
        return self._tasks.get(batch.id, {}).get(place)

    def end(self, batch: Batch) -> None:
        """Forget a batch that does not run here any more."""
        self._tasks.pop(batch.id, None)

    async def _follow(self, batch: Batch, place: int) -> None:
        clock = asyncio.get_running_loop().time
        seen_at = clock()
        while not (item := batch.items[place]).has_ended and not self.running.is_draining:
            if isinstance(running := self.running.find(item.id), Generation):
                batch.items[place] = running
                if (task := self.running.task(running)) is not None:
                    await asyncio.wait([task])
                seen_at = clock()
            elif await self._in_rows(batch, place):
                seen_at = clock()
            elif clock() > seen_at + _LOST_AFTER:
                batch.items[place] = lost_item(item.id, batch.record())

    async def _in_rows(self, batch: Batch, place: int) -> bool:
        """Follow an item in the ledger until it ends, is suspended, or runs here. Returns whether the ledger has it."""
        work_id, is_there = batch.items[place].id, False
        async with aclosing(self.progress.follow(work_id)) as news:
            async for each in news:
                is_there = True
                await self._note(batch, place, each)
                if self.running.find(work_id) is not None:
                    break
        return is_there

    async def _note(self, batch: Batch, place: int, seen: Progress) -> None:
        record = batch.items[place].record()
        if seen.has_ended or seen.is_suspended != (record.suspended_at is not None):
            batch.items[place] = await self._read(record)
        elif seen.state not in {"", record.state}:
            batch.items[place] = replace(record, state=seen.state)  # type: ignore[arg-type]  # from the same column

    async def _read(self, record: GenerationRecord) -> GenerationRecord:
        """The record as it is now. It stays the same while the ledger is down."""
        try:
            return await self._archive.read(lambda queries: queries.generation(record.id)) or record
        except LedgerDown:
            await asyncio.sleep(PAUSE)
            return record
