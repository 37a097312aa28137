"""Forgets ended work after some days, in small steps, so that the ledger does not grow for ever.

Whole days (UTC) are forgotten, and `GET /usage` goes on counting what ended on them (`Ledger.delete`). Work stays for
longer while it is needed: by an idempotency key, a webhook that is still to be delivered, a kept file, or the search
for the prediction of a lost creation.
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
"""Seconds from the start of a process, which has other things to do, to the first time."""

EVERY: Final = 3600.0
"""Seconds from the end of one time to the next."""

STEP: Final = 500
"""Generations of one transaction, unless it is one batch. Other changes of the ledger wait for it."""

PAUSE: Final = 0.2
"""Seconds between two transactions, in which others are written."""

log = structlog.get_logger("ledger")


class Retention:
    """Keeps ended work for `days`, and with kept files for `files_ttl` seconds. `clock` returns Unix time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        archive: Archive,
        days: int,
        files_ttl: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._keep = days * DAY
        self._files_ttl = files_ttl
        self._clock = clock

    async def run(self) -> None:
        await asyncio.sleep(FIRST)
        while True:
            try:
                await self.forget()
            except LedgerDown as down:
                log.warning("retention_failed", reason=str(down))
            except Exception:
                log.exception("retention_failed")
            await asyncio.sleep(EVERY)

    async def forget(self) -> None:
        """Forget all work that is old enough. Raises LedgerDown; deletions before that stay."""
        now = self._clock()
        doubt = await self._archive.read(lambda queries: queries.oldest_doubt())
        # A search must know what else was made since then, by clocks that differ by minutes.
        before = _day(now - self._keep if doubt is None else min(now - self._keep, doubt - DAY))
        files_before = _day(now - self._files_ttl)
        count = 0
        while found := await self._archive.read(
            lambda queries: queries.forgettable(before, files_before=files_before, most=STEP)
        ):
            for kind, work_id in found:
                self._ledger.delete(kind, work_id)
            await self._ledger.flush()
            count += len(found)
            await asyncio.sleep(PAUSE)
        if count:
            log.info("retention_completed", count=count)


def _day(moment: float) -> float:
    """The beginning of its day (UTC)."""
    return moment // DAY * DAY
