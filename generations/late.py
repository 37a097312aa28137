"""Late predictions: those of lost creations, found after their attempt was over.

A late prediction is not used: another attempt was made, or the generation has failed as `outcome_unknown`. If it still
runs, it is cancelled. Its id and cost are written to the record of its attempt.
"""

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Final

import structlog

from auth import Caller
from catalog.model import Model
from catalog.prices import NO_METRICS, weakest
from errors import LedgerDown
from generations.archive import Archive
from generations.attempts import Attempt
from generations.budgets import Budgets
from generations.costs import charge, measured
from generations.generation import Generation
from ledger import Ledger
from ledger.records import GenerationRecord
from providers import Prediction, Provider

_LEDGER_PAUSE: Final = 1.0
"""Seconds between retries while the ledger cannot be read or written."""

log = structlog.get_logger("generation")


class LatePredictions:
    def __init__(self, *, provider: Provider, ledger: Ledger, archive: Archive, budget: Budgets) -> None:
        self._provider = provider
        self._ledger = ledger
        self._archive = archive
        self._budget = budget
        self._recording = asyncio.Lock()

    def listener(self, generation: Generation, attempt: Attempt) -> Callable[[Prediction], Awaitable[None]]:
        """Returns a function to call with the late prediction of this attempt. The function does not keep the
        generation in memory."""
        number = generation.attempts.index(attempt) + 1
        model = attempt.model
        most = generation.request.bound_of(model, attempt.input), generation.request.longest
        return partial(
            self._take, weakref.ref(generation), generation.id, number, generation.caller, model, most
        )

    async def _take(
        self,
        reference: "weakref.ref[Generation]",
        generation_id: str,
        number: int,
        caller: Caller,
        model: Model,
        most: tuple[float, float],
        found: Prediction,
    ) -> None:
        """`most` is the bound of its cost, in USD, and that of its duration, in seconds."""
        bound, longest = most
        found = replace(found, form=model.output)
        ended = found if found.is_over else await self._provider.cancel(caller, found)
        if ended is None or (ended.status == "succeeded" and not ended.has_output):
            # It could not be cancelled, or it was read from a list, which may omit outputs.
            ended = replace(ended or found, is_lost=True)
        # Without its input, only a charge for the seconds that it ran is known better than the bound.
        cost = bound if ended.may_be_billed else 0.0
        if model.bills_running:
            cost = min(bound, charge(model, NO_METRICS, ended, longest=longest))
        generation = reference()
        if generation is not None:
            attempt = generation.attempts[number - 1]
            assert isinstance(attempt, Attempt)  # noqa: S101 - it was made here
            attempt.prediction = ended
            cost = attempt.cost
        if generation is not None and not generation.has_ended:
            self._ledger.mark_dirty(generation)
        else:
            basis = model.basis(measured(model, ended)) if cost else "declared"
            record = await self._record(generation_id, number, ended, cost, basis)
            if generation is not None:
                generation.amend(record)  # a batch that still runs shows it
        log.warning(
            "late_prediction_ended",
            generation=generation_id,
            attempt=number,
            prediction=ended.id,
            state=ended.status,
            cost_usd=cost,
        )

    async def _record(
        self, generation_id: str, number: int, ended: Prediction, cost: float, basis: str
    ) -> GenerationRecord:
        """Add it to the record of a generation that has ended. Returns the record."""
        async with self._recording:  # two late predictions of one generation would overwrite each other
            record = await self._read(generation_id)
            attempts = tuple(
                replace(each, prediction_id=ended.id, cost_usd=cost) if each.number == number else each
                for each in record.attempts
            )
            total = round(sum((each.cost_usd for each in attempts), 0.0), 6)
            more = max(0.0, total - record.cost_usd)
            self._budget.settle(record.caller_id, reserved=0.0, cost=more, at=record.accepted_at)
            basis = weakest([basis, record.cost_basis or basis], basis)
            record = replace(record, attempts=attempts, cost_usd=total, cost_basis=basis)
            self._ledger.upsert(record)
            return record

    async def _read(self, generation_id: str) -> GenerationRecord:
        """The record on the disk, after all pending writes. Retries while the ledger is down."""
        while True:
            try:
                await self._ledger.flush()
                record = await self._archive.read(lambda queries: queries.generation(generation_id))
            except LedgerDown:
                await asyncio.sleep(_LEDGER_PAUSE)
                continue
            if record is None:
                raise LookupError(f"{generation_id} is not in the ledger")
            return record
