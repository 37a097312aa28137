"""Makes the versions that trainings have made known at once, and remembers their trigger words."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from auth import Caller
from catalog.targets import Target
from contract.trainings import TrainingFacts
from errors import ServiceError
from generations.archive import Archive
from generations.generation import Generation
from ledger import Ledger
from ledger.model_records import TrainedModelRecord

_LOOKS: Final = 3
_PAUSE: Final = 1.0
"""How often, and after how many seconds, a model is looked up again that does not show its new version yet."""

_KEPT: Final = 1000
"""Trigger words in memory."""

LookUp = Callable[[Caller, str], Awaitable[str | None]]
"""Looks a model up, without the cache, and returns its latest version. Raises ServiceError."""

log = structlog.get_logger("trainings")


class TrainedVersions:
    """The versions that were trained here. `look_up` looks a model up anew for all processes."""

    def __init__(self, *, ledger: Ledger, archive: Archive, look_up: LookUp, simulated: bool) -> None:
        self._ledger = ledger
        self._archive = archive
        self._look_up = look_up
        self._simulated = simulated
        self._words: dict[str, str | None] = {}
        self.count = 0
        """How many versions this process has added, for the other processes."""
        self._elsewhere: Mapping[str, int] = {}

    async def add(self, caller: Caller, version: Target, generation: Generation) -> None:
        """Remember a new version, with the trigger word of its training, and look its model up."""
        word = TrainingFacts.read(generation.door_facts).trigger_word
        version_id = version.version or ""
        self._ledger.upsert(
            TrainedModelRecord(
                version=version_id,
                simulated=self._simulated,
                name=version.name,
                trigger_word=word,
                trainer=generation.model.target,
                work_id=generation.id,
                trained_at=time.time(),
            )
        )
        self._keep(version_id, word)
        try:
            await self._show(caller, version.name, version_id)
        finally:
            self.count += 1

    async def _show(self, caller: Caller, name: str, version: str) -> None:
        """Look a model up until it shows its new version."""
        try:
            for _ in range(_LOOKS):
                if await self._look_up(caller, name) == version:
                    return
                await asyncio.sleep(_PAUSE)
        except ServiceError as error:
            log.info("trained_model_not_looked_up", model=name, reason=str(error))

    def meet(self, counts: Mapping[str, int]) -> bool:
        """Whether another process has added versions since the last call. `counts` are those of the others, by
        process."""
        has_news = any(count > self._elsewhere.get(process, 0) for process, count in counts.items())
        self._elsewhere = counts
        return has_news

    async def word_of(self, version: str) -> str | None:
        """The trigger word of a version that was trained here. Raises LedgerDown."""
        if version in self._words:
            return self._words[version]
        found = await self._archive.read(
            lambda queries: queries.trained_model(version, simulated=self._simulated)
        )
        if found is not None:
            self._keep(version, found.trigger_word)
        return None if found is None else found.trigger_word

    def _keep(self, version: str, word: str | None) -> None:
        if len(self._words) >= _KEPT:
            self._words.pop(next(iter(self._words)))
        self._words[version] = word
