"""How long predictions run whose model is billed for that.

The ledger has a sample of measured seconds for each target, which all processes read and add to. A new one replaces any
of them, so the sample follows a change within some hundred predictions.
"""

import random
from collections.abc import Callable, Iterable
from typing import Final

from catalog.model import Model
from errors import LedgerDown
from generations.archive import Archive
from generations.costs import Estimate
from ledger import Ledger
from ledger.model_records import RunRecord
from parsing.shapes import GenerationRequest

_SAMPLE: Final = 64
"""How many measured predictions of a target are kept."""

_QUANTILE: Final = 0.95
"""The part of them that must not have run longer than the estimate."""

_FRESH: Final = 60.0
"""Seconds for which a sample is not read again."""


class Learned:
    """The measured seconds of all targets. Call it on the loop, whose time is the `clock`."""

    def __init__(
        self, *, ledger: Ledger, archive: Archive, simulated: bool, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._simulated = simulated
        self._clock = clock
        self._read: dict[str, tuple[float, float | None]] = {}

    def learn(self, model: Model, seconds: float) -> None:
        """Remember for how long a prediction of this model ran."""
        slot = random.randrange(_SAMPLE)  # noqa: S311 - no secret
        self._ledger.upsert(RunRecord(model.target, self._simulated, slot, seconds))
        self._read.pop(model.target, None)

    async def seconds(self, model: Model) -> float | None:
        """The seconds for which nearly all of the latest predictions of this model ran at most. None if none did, or if
        it is not billed for them."""
        if not model.bills_running:
            return None
        now = self._clock()
        read_at, known = self._read.get(model.target, (-_FRESH, None))
        if now - read_at < _FRESH:
            return known
        try:
            sample = await self._archive.read(
                lambda queries: queries.running_seconds(model.target, simulated=self._simulated)
            )
        except LedgerDown:
            return known
        ordered = sorted(sample)
        known = ordered[int(_QUANTILE * len(ordered))] if ordered else None
        self._read = {target: read for target, read in self._read.items() if now - read[0] < _FRESH}
        self._read[model.target] = now, known
        return known

    async def estimates(self, requests: Iterable[GenerationRequest]) -> list[Estimate]:
        """The estimate of each of these generations."""
        requests = list(requests)
        seconds = {
            model: await self.seconds(model) for model in dict.fromkeys(each.model for each in requests)
        }
        return [Estimate.of(each.first, each.longest, seconds[each.model]) for each in requests]
