"""How far work in other processes on the same ledger has come: all waits share one query, made each half second."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from errors import LedgerDown
from generations.archive import Archive
from generations.running import RunningWork
from ledger import Progress
from providers.single_flight import SingleFlight

PAUSE: Final = 0.5
"""Seconds from one query to the next."""

_NOT_READ: Final = Progress("", has_ended=False, is_suspended=False)


class ProgressOfRows:
    def __init__(self, *, archive: Archive, running: RunningWork) -> None:
        self._archive = archive
        self._running = running
        self._watched: Counter[str] = Counter()
        """How many waits there are for each id."""
        self._queries: SingleFlight[Mapping[str, Progress | None]] = SingleFlight()

    async def follow(self, work_id: str) -> AsyncGenerator[Progress, None]:
        """How far the work has come, each half second; the last time when it has ended or is suspended, or when this
        process drains. Ends at once if the work is not in the ledger."""
        self._watched[work_id] += 1
        try:
            while not self._running.is_draining:
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

    async def _query(self) -> Mapping[str, Progress | None]:
        await asyncio.sleep(PAUSE)
        watched = list(self._watched)
        try:
            found = await self._archive.read(lambda queries: queries.progress(watched))
        except LedgerDown:
            return {}  # it may be readable again before the waits are over
        return {each: found.get(each) for each in watched}
