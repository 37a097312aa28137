"""Work that runs in another process on the same ledger: waits for it by reading its rows.

All waits share one query, which is made each half second.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

from errors import LedgerDown
from generations.archive import Archive, Stored
from generations.batch import Batch, Work
from generations.supervisor import Supervisor
from ledger import Ledger, Progress, Queries
from ledger.records import GenerationRecord
from providers.single_flight import SingleFlight

PAUSE: Final = 0.5
"""Seconds from one query to the next."""

_ITEMS_AT_ONCE: Final = 500
"""The items of a batch that one query reads."""

_NOT_READ: Final = Progress("", has_ended=False, is_suspended=False)


class Elsewhere:
    def __init__(self, *, supervisor: Supervisor, archive: Archive, ledger: Ledger) -> None:
        self._supervisor = supervisor
        self._archive = archive
        self._ledger = ledger
        self._watched: Counter[str] = Counter()
        """How many waits there are for each id."""
        self._queries: SingleFlight[Mapping[str, Progress | None]] = SingleFlight()

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
            async with asyncio.timeout(seconds), aclosing(self.progress(work.id)) as news:
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
        async with aclosing(self.progress(work.id)) as news:
            async for each in news:
                if each.state != state or each.is_suspended:
                    found = await self._load(work)
                    state = found.state
                    yield found

    async def progress(self, work_id: str) -> AsyncGenerator[Progress, None]:
        """How far the work has come, each half second; the last time when it has ended or is suspended, or when this
        process drains. Ends at once if the work is not in the ledger."""
        self._watched[work_id] += 1
        try:
            while not self._supervisor.is_draining:
                found = await self._look(work_id)
                if found is None:
                    return
                yield found
                if found.has_ended or found.is_suspended:
                    return
        finally:
            self._watched[work_id] -= 1
            if not self._watched[work_id]:
                del self._watched[work_id]

    async def _look(self, work_id: str) -> Progress | None:
        """The progress of watched work by the next query. None if it is not in the ledger."""
        found = await self._queries.run("next", self._query)
        return found.get(work_id, _NOT_READ)  # the wait began while the query was made

    async def _load(self, work: GenerationRecord) -> GenerationRecord:
        """The record as it is now. Waits while the ledger is down."""
        while True:
            try:
                found = await self._archive.read(lambda queries: queries.generation(work.id))
            except LedgerDown:
                await asyncio.sleep(PAUSE)
            else:
                return found or work

    async def _query(self) -> Mapping[str, Progress | None]:
        await asyncio.sleep(PAUSE)
        watched = list(self._watched)
        try:
            found = await self._archive.read(lambda queries: queries.progress(watched))
        except LedgerDown:
            return {}  # it may be readable again before the waits are over
        return {each: found.get(each) for each in watched}


class _Follower:
    """Reads the items of a batch as they end, and passes each on once."""

    def __init__(self, batch: Batch, archive: Archive, on_item_done: Callable[[Batch, int], object]) -> None:
        self._batch = batch
        self._archive = archive
        self._on_item_done = on_item_done
        self._items = batch.items = list(batch.items)
        self._done: set[str] = set()
        self.finish(batch)

    async def take(self, ended: int) -> None:
        """Pass on the items that have ended since, if the number of those that `ended` says that there are some."""
        if ended <= len(self._done):
            return
        with suppress(LedgerDown):
            ids = await self._archive.read(lambda queries: queries.ended_items(self._batch.id))
            new = [each for each in ids if each not in self._done]
            for first in range(0, len(new), _ITEMS_AT_ONCE):
                some = new[first : first + _ITEMS_AT_ONCE]
                self._pass_on(await self._archive.read(partial(_members, some)))

    def finish(self, work: Stored) -> None:
        """Pass on the other items that have ended in this batch."""
        self._pass_on([each for each in records_of(work) if each.has_ended])

    def _pass_on(self, records: Collection[GenerationRecord]) -> None:
        for record in records:
            if record.id not in self._done and record.position is not None:
                self._done.add(record.id)
                self._items[record.position] = record
                self._on_item_done(self._batch, record.position)


def is_suspended(work: Work | Stored) -> bool:
    """Whether it waits for its owner, as far as its record says. A batch does if one of its items does."""
    return any(each.suspended_at is not None and not each.has_ended for each in records_of(work))


def records_of(work: Work | Stored) -> Sequence[GenerationRecord]:
    return [each.record() for each in work.items] if isinstance(work, Batch) else [work.record()]


def _members(ids: Collection[str], queries: Queries) -> Sequence[GenerationRecord]:
    return queries.members(ids)
