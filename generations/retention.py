"""Deletes ended work from the ledger after some days, in small steps.

Whole days (UTC) are deleted; `GET /usage` goes on counting them (`Ledger.delete`). Work is kept longer while an
idempotency key, a batch that has joined it, a pending webhook delivery, a stored file or the search for a lost creation
needs it. The weights of a training are stored files, too.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from errors import LedgerDown
from generations.archive import Archive
from ledger import DAY, Ledger

FIRST: Final = 300.0
"""Seconds from the start of the process to the first deletion."""

EVERY: Final = 3600.0
"""Seconds from one deletion to the next."""

STEP: Final = 500
"""Generations per transaction, or one larger batch. Other writes wait for it."""

PAUSE: Final = 0.2
"""Seconds between two transactions, for other writes."""

log = structlog.get_logger("ledger")


class Retention:
    """Deletes work that ended `days` ago, with stored files after `files_ttl` seconds, and trainings with weights after
    `weights_ttl` seconds (None: not before the weights are deleted). `clock` returns Unix time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        archive: Archive,
        days: int,
        files_ttl: float,
        weights_ttl: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._keep = days * DAY
        self._files_ttl = files_ttl
        self._weights_ttl = weights_ttl
        self.clock = clock

    async def run(self) -> None:
        await asyncio.sleep(FIRST)
        while True:
            try:
                await self.delete_old()
            except LedgerDown as down:
                log.warning("retention_failed", reason=str(down))
            except Exception:
                log.exception("retention_failed")
            await asyncio.sleep(EVERY)

    async def delete_old(self) -> None:
        """Delete all work that is old enough. Raises LedgerDown; earlier deletions stay."""
        now = self.clock()
        doubt = await self._archive.read(lambda queries: queries.oldest_doubt())
        # A search for a lost creation must know all other predictions since then, by clocks that differ by minutes.
        before = _day(now - self._keep if doubt is None else min(now - self._keep, doubt - DAY))
        files_before = _day(now - self._files_ttl)
        weights_before = None if self._weights_ttl is None else _day(now - self._weights_ttl)
        count = 0
        while found := await self._archive.read(
            lambda queries: queries.forgettable(
                before, files_before=files_before, weights_before=weights_before, most=STEP
            )
        ):
            for kind, work_id in found:
                self._ledger.delete(kind, work_id)
            await self._ledger.flush()
            count += len(found)
            await asyncio.sleep(PAUSE)
        if count:
            log.info("retention_completed", count=count)


def _day(moment: float) -> float:
    """The start of the day (UTC) of this Unix time."""
    return moment // DAY * DAY
