"""Work that runs in another process on the same ledger: waits for it by reading its rows (`progress.py`)."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

from errors import LedgerDown
from generations.archive import Archive, Stored
from generations.batch import Batch, Work, own_items
from generations.progress import PAUSE, ProgressOfRows
from generations.supervisor import Supervisor
from ledger import Ledger, Queries
from ledger.records import GenerationRecord

_ITEMS_AT_ONCE: Final = 500
"""The items of a batch that one query reads."""


class Elsewhere:
    def __init__(
        self, *, supervisor: Supervisor, archive: Archive, ledger: Ledger, progress: ProgressOfRows
    ) -> None:
        self._supervisor = supervisor
        self._archive = archive
        self._ledger = ledger
        self._progress = progress

    def runs(self, work: Work | Stored) -> bool:
        """Whether another process runs this work, as far as its record says: it has neither ended nor been suspended,
        and does not run here."""
        return (
            self._ledger.process is not None
            and not work.has_ended
            and self._supervisor.find(work.id) is None
            and work.id not in self._supervisor.handed_over
            and not is_suspended(work)
        )

    async def wait(
        self,
        work: Stored,
        *,
        seconds: float | None = None,
        on_item_done: Callable[[Batch, int], object] | None = None,
    ) -> Stored:
        """Wait until it has ended or is suspended, for some `seconds`, or until this process drains. Returns it as it
        is then. `on_item_done` is called for each item of a batch that has ended, once. Raises LedgerDown."""
        follower = None
        if isinstance(work, Batch) and on_item_done is not None:
            follower = _Follower(work, self._archive, on_item_done)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), aclosing(self._progress.follow(work.id)) as news:
                async for each in news:
                    if follower:
                        await follower.take(each.ended)
        found = await self._archive.load(work.id) or work
        if follower:
            follower.finish(found)
        return found

    async def changes(self, work: GenerationRecord) -> AsyncGenerator[GenerationRecord, None]:
        """The record of a generation in each state that it enters from now on, until it has ended or is suspended, or
        this process drains."""
        state = ""
        async with aclosing(self._progress.follow(work.id)) as news:
            async for each in news:
                if each.state != state or each.is_suspended:
                    found = await self._load(work)
                    state = found.state
                    yield found

    async def _load(self, work: GenerationRecord) -> GenerationRecord:
        """The record as it is now. Waits while the ledger is down."""
        while True:
            try:
                found = await self._archive.read(lambda queries: queries.generation(work.id))
            except LedgerDown:
                await asyncio.sleep(PAUSE)
            else:
                return found or work


class _Follower:
    """Reads the items of a batch as they end, and passes each on once."""

    def __init__(self, batch: Batch, archive: Archive, on_item_done: Callable[[Batch, int], object]) -> None:
        self._batch = batch
        self._archive = archive
        self._on_item_done = on_item_done
        self._items = batch.items
        self._places = {each.id: place for place, each in enumerate(batch.items)}
        self._done: set[str] = set()
        self._own_done = 0
        self.finish(batch)

    async def take(self, ended: int) -> None:
        """Pass on the items that have ended since. `ended` is the number of its own that have."""
        with suppress(LedgerDown):
            ids: list[str] = []
            if ended > self._own_done:
                ids += await self._archive.read(lambda queries: queries.ended_items(self._batch.id))
            if joined := [each for each in self._batch.joined.values() if each not in self._done]:
                found = await self._archive.read(lambda queries: queries.progress(joined))
                ids += [each for each in joined if each in found and found[each].has_ended]
            new = [each for each in ids if each not in self._done]
            for first in range(0, len(new), _ITEMS_AT_ONCE):
                some = new[first : first + _ITEMS_AT_ONCE]
                self._pass_on(await self._archive.read(partial(_members, some)))

    def finish(self, work: Stored) -> None:
        """Pass on the other items that have ended in this batch."""
        items = work.items if isinstance(work, Batch) else [work]
        self._pass_on([each.record() for each in items if each.has_ended])

    def _pass_on(self, records: Collection[GenerationRecord]) -> None:
        for record in records:
            if record.id not in self._done:
                self._done.add(record.id)
                self._own_done += record.batch_id == self._batch.id
                place = self._places[record.id]
                self._items[place] = record
                self._on_item_done(self._batch, place)


def is_suspended(work: Work | Stored) -> bool:
    """Whether it waits for its owner, as far as its record says. A batch does if one of its own items does."""
    return any(each.suspended_at is not None and not each.has_ended for each in records_of(work))


def records_of(work: Work | Stored) -> Sequence[GenerationRecord]:
    """The records of a generation, or of the own items of a batch."""
    return [each.record() for each in own_items(work)]


def _members(ids: Collection[str], queries: Queries) -> Sequence[GenerationRecord]:
    return queries.members(ids)
