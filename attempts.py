"""One attempt: admission, one creation, and the watch over what it started.

The slot and the place are held from admission to the end of the prediction, and by nothing else: images are uploaded
before, outputs fetched after. Whoever is cancelled meanwhile leaves nothing that bills: a creation on its way is
awaited and what it started cancelled, a running prediction is cancelled at Replicate.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from adaptation import Step
from auth import Caller
from concurrency import Gate, Lease
from errors import GenerationTimeout, ServiceError
from providers import Created, Prediction, Provider, TryAgain
from providers.outcomes import raise_unless_made
from records import Attempt, Batch, Generation, State
from references import Upload

T = TypeVar("T")

CANCEL_AFTER_MARGIN: Final = 10.0
"""Seconds that Replicate's deadline, the safety net, is later than our own, up to its 30 minutes."""


class Attempts:
    """Makes attempts, through the gate and at a provider. Lives on the loop.

    `timeout` (seconds) is for predictions whose request names none; `move` is told of every transition.
    """

    def __init__(
        self, *, provider: Provider, gate: Gate, timeout: float, move: Callable[[Generation, State], None]
    ) -> None:
        self._provider = provider
        self._gate = gate
        self._timeout = timeout
        self._move = move

    async def make(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Try this model once. Returns when it made something; raises TryAgain or ServiceError."""
        attempt = Attempt(step.model, step.input, step.changes)
        try:
            try:
                await self._upload(generation.caller, attempt)
            except ServiceError:
                generation.tries.append(attempt)
                raise
            await self._run(generation, attempt, batch)
        except TryAgain as again:
            attempt.error = again.error
            raise
        except ServiceError as error:
            attempt.error = error
            raise

    async def _run(self, generation: Generation, attempt: Attempt, batch: Batch | None) -> None:
        clock = asyncio.get_running_loop().time
        asked = clock()
        try:
            lease = await self._gate.acquire(
                generation.caller.id,
                batch=batch.id if batch else None,
                max_concurrent=batch.max_concurrent if batch else None,
            )
        finally:
            admitted = clock()
            generation.queued += admitted - asked
        generation.tries.append(attempt)
        with lease:
            try:
                # Again, since whoever has waited for most of a day needs fresh addresses.
                await self._upload(generation.caller, attempt)
                attempt.prediction = await self._create(generation, attempt, lease)
                attempt.answered = clock() - admitted
                attempt.prediction = await self._watch(generation, attempt, attempt.prediction)
            finally:
                attempt.held = clock() - admitted
                generation.predicting += attempt.held
        raise_unless_made(attempt.prediction)

    async def _upload(self, caller: Caller, attempt: Attempt) -> None:
        """Send the images ahead that have to be; then the input has their addresses."""
        takes = attempt.model.references
        given = attempt.input.get(takes.parameter) if takes else None
        if takes is None or given is None:
            return
        images = given if isinstance(given, list) else [given]
        sent = [
            await self._provider.upload(caller, image) if isinstance(image, Upload) else image
            for image in images
        ]
        attempt.sent = {**attempt.input, takes.parameter: sent if isinstance(given, list) else sent[0]}

    async def _watch(self, generation: Generation, attempt: Attempt, created: Prediction) -> Prediction:
        caller, limit = generation.caller, self._limit(generation)
        self._move(generation, "running")
        try:
            async with asyncio.timeout(limit):
                return await self._provider.finished(caller, created, model=attempt.model.name)
        except TimeoutError:
            if (ended := await self._cancelled(caller, attempt, created)).is_made:
                return ended
            raise GenerationTimeout(f"It was cancelled after {limit:g} s.") from None
        except BaseException:
            if (ended := await self._cancelled(caller, attempt, created)).is_made:
                return ended
            raise

    def _limit(self, generation: Generation) -> float:
        return generation.request.timeout or self._timeout

    async def _cancelled(self, caller: Caller, attempt: Attempt, created: Prediction) -> Prediction:
        """How it stands when it has been cancelled: perhaps it was done after all, and is paid for."""
        told = await _to_the_end(self._provider.cancel(caller, created))
        attempt.prediction = created if told is None else told
        return attempt.prediction

    async def _create(self, generation: Generation, attempt: Attempt, lease: Lease) -> Prediction:
        self._move(generation, "submitting")
        creation = asyncio.create_task(
            self._provider.create(
                generation.caller,
                attempt.model.name,
                attempt.sent,
                lease=lease,
                cancel_after=self._limit(generation) + CANCEL_AFTER_MARGIN,
            )
        )
        try:
            created = await asyncio.shield(creation)
        except asyncio.CancelledError:
            attempt.prediction = undone = await _to_the_end(self._undo(generation.caller, creation))
            if undone is None or not undone.is_made:
                raise
            return undone
        self._gate.proceed(generation.caller.id, exhausted_for=created.exhausted_for)
        return created.prediction

    async def _undo(self, caller: Caller, creation: "asyncio.Task[Created]") -> Prediction | None:
        """It may be paid for already: hear what became of it, and cancel that. How it stands then, if it began."""
        try:
            created = await creation
        except (TryAgain, ServiceError):
            return None
        return await self._provider.cancel(caller, created.prediction) or created.prediction


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait until it is done, however often the waiting is cancelled: what it stops is billed for."""
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
