"""Removes the texts of ended calls to text models from the ledger after `TEXTS_TTL`: prompts, schemas and answers.

Their facts stay, also for the same idempotency key. A call keeps its texts until its result is delivered to its
webhook.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final

import structlog

from errors import LedgerDown
from generations.archive import Archive
from generations.retention import PAUSE, STEP
from ledger import Ledger
from ledger.blanking import BlankTexts

FIRST: Final = 60.0
"""Seconds from the start of the process to the first removal."""

_LEAST, _MOST = 10.0, 600.0
"""Seconds from one removal to the next, at least and at most."""

_LATE: Final = 86_400.0
"""Seconds by which an end may be seen late, such as that of a call with a webhook."""

log = structlog.get_logger("ledger")


class TextRetention:
    """Removes texts of calls that ended `ttl` seconds ago. `models` are the names of the text models. `clock` returns
    Unix time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        archive: Archive,
        ttl: float,
        models: Collection[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._ttl = ttl
        self._models = models
        self._clock = clock
        self._since = 0.0

    async def run(self) -> None:
        await asyncio.sleep(min(FIRST, max(_LEAST, self._ttl)))
        while True:
            try:
                await self.remove()
            except LedgerDown as down:
                log.warning("text_retention_failed", reason=str(down))
            except Exception:
                log.exception("text_retention_failed")
            await asyncio.sleep(min(_MOST, max(_LEAST, self._ttl / 10)))

    async def remove(self) -> None:
        """Remove all texts that are old enough. Raises LedgerDown; earlier removals stay."""
        before = self._clock() - self._ttl
        count = 0
        while found := await self._archive.read(
            lambda queries: queries.kept_texts(self._models, since=self._since, before=before, most=STEP)
        ):
            ids = tuple(found)
            await self._ledger.claim(BlankTexts(ids, of_attempts=True))
            await self._ledger.claim(BlankTexts(ids))
            count += len(ids)
            await asyncio.sleep(PAUSE)
        self._since = before - _LATE
        if count:
            log.info("texts_removed", count=count)
