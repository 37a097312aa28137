"""One attempt: admission, one creation, and the watch over what it started.

The slot and the place are held from admission to the end of the prediction: images are uploaded before, outputs fetched
after. That a creation is about to be sent is on the disk before it is sent: whatever dies, the next process knows what
to look for.

Whoever is not wanted any more leaves nothing that bills: a creation on its way is awaited, what it started cancelled, a
running prediction is cancelled at Replicate. Whoever is only interrupted, since the service stops, leaves everything
as it is: the next process goes on from there (`resume`).
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from adaptation import Step
from auth import Caller
from concurrency import Gate, Lease
from errors import GenerationTimeout, LedgerDown, ServiceError
from providers import Created, Prediction, Provider, TryAgain, fingerprint
from providers.outcomes import raise_unless_made
from records import Batch, Generation
from references import Upload
from telling import State
from tries import Attempt

T = TypeVar("T")

CANCEL_AFTER_MARGIN: Final = 10.0
"""Seconds that Replicate's deadline, the safety net, is later than our own, up to its 30 minutes."""

_LAST_LOOK: Final = 10.0
"""Seconds in which a prediction is looked at that was past its time when this process began."""

_LEDGER_PAUSE: Final = 1.0
"""Seconds between tries to put a creation on record that may not be sent before it is."""


class Ledger(Protocol):
    """What a life is put on record in (`store.Ledger`)."""

    @property
    def trouble(self) -> str | None:
        """Why nothing can be written now, if so."""

    def put(self, table: str, row: Mapping[str, Any]) -> None: ...

    def note(self, table: str, work: Generation | Batch) -> None:
        """Put its row, as it is by the time it is written."""

    def remove(self, table: str, *key: Any) -> None: ...

    async def synced(self) -> None:
        """Wait until all that was put is on the disk. Raises LedgerDown."""


class Attempts:
    """Makes attempts, through the gate and at a provider. Lives on the loop.

    `timeout` (seconds) is for predictions whose request names none; `move` is told of every transition and puts it on
    record; `callback` gives the URL that Replicate is to call about an attempt, if it is to call at all.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        gate: Gate,
        ledger: Ledger,
        timeout: float,
        move: Callable[[Generation, State], None],
        callback: Callable[[str, int], str] | None = None,
    ) -> None:
        self._provider = provider
        self._gate = gate
        self._ledger = ledger
        self._timeout = timeout
        self._move = move
        self._callback = callback

    async def make(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Try this model once. Returns when it made something; raises TryAgain or ServiceError."""
        if generation.is_cancelled:  # while what was before it was seen to its end
            raise asyncio.CancelledError
        attempt = Attempt(step.model, step.input, step.changes)
        with _noted(attempt):
            try:
                await self._upload(generation.caller, attempt)
            except ServiceError:
                generation.tries.append(attempt)
                raise
            await self._run(generation, attempt, batch)

    async def resume(self, generation: Generation, attempt: Attempt, batch: Batch | None) -> None:
        """Go on with what a process before this one had begun: as `make`."""
        began = asyncio.get_running_loop().time()
        with _noted(attempt):
            with self._adopted(generation, batch):
                try:
                    if attempt.prediction is None:
                        attempt.prediction = await self._recovered(generation, attempt)
                        attempt.answered_at = time.time()
                    spent = time.time() - (attempt.answered_at or time.time())
                    left = max(self._limit(generation) - spent, _LAST_LOOK)
                    attempt.prediction = await self._watch(generation, attempt, attempt.prediction, left)
                finally:
                    attempt.held = asyncio.get_running_loop().time() - began
                    generation.predicting += attempt.age
            if attempt.prediction.status == "canceled" and attempt.age >= self._limit(generation):
                raise GenerationTimeout("It was cancelled at its deadline, while this service was away.")
            raise_unless_made(attempt.prediction)

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
                limit = self._limit(generation)
                attempt.prediction = await self._watch(generation, attempt, attempt.prediction, limit)
            finally:
                attempt.held = clock() - admitted
                if not _is_interrupted(generation):  # or the next process would count it again
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

    def _adopted(self, generation: Generation, batch: Batch | None) -> Lease:
        return self._gate.adopt(
            generation.caller.id,
            batch=batch.id if batch else None,
            max_concurrent=batch.max_concurrent if batch else None,
        )

    async def _watch(
        self, generation: Generation, attempt: Attempt, created: Prediction, left: float
    ) -> Prediction:
        caller = generation.caller
        self._move(generation, "running")
        try:
            async with asyncio.timeout(left):
                return await self._provider.wait(caller, created, model=attempt.model.name)
        except TimeoutError:
            if (ended := await self._cancelled(caller, attempt, created)).is_made:
                return ended
            late = GenerationTimeout(f"It was cancelled after {self._limit(generation):g} s.")
            late.falls_back = not ended.is_lost
            raise late from None
        except BaseException as reason:
            if isinstance(reason, asyncio.CancelledError) and not generation.is_cancelled:
                raise  # only interrupted
            if (ended := await self._cancelled(caller, attempt, created)).is_made:
                return ended
            if isinstance(reason, ServiceError) and ended.is_lost:
                reason.falls_back = False  # it may still be made, and paid
            raise

    def _limit(self, generation: Generation) -> float:
        return generation.request.timeout or self._timeout

    async def _cancelled(self, caller: Caller, attempt: Attempt, created: Prediction) -> Prediction:
        """How it stands when it has been cancelled: perhaps it was done after all, and is paid for."""
        attempt.prediction = await to_the_end(self._cancel(caller, created))
        return attempt.prediction

    async def _create(self, generation: Generation, attempt: Attempt, lease: Lease) -> Prediction:
        attempt.content = fingerprint(attempt.sent)
        await self._put_on_record(generation, attempt)
        named = reference(generation, attempt)
        creation = asyncio.create_task(
            self._provider.create(
                generation.caller,
                attempt.model.name,
                attempt.sent,
                lease=lease,
                cancel_after=self._limit(generation) + CANCEL_AFTER_MARGIN,
                reference=named,
                callback=self._callback(generation.id, generation.attempts) if self._callback else None,
            )
        )
        try:
            created = await asyncio.shield(creation)
        except asyncio.CancelledError:
            await to_the_end(asyncio.wait([creation]))  # the next process need not ask what became of it
            if not generation.is_cancelled:
                self._leave_to_the_next(generation, attempt, creation)
                raise
            attempt.prediction = undone = await to_the_end(self._undo(generation.caller, attempt, creation))
            if undone is None or not undone.is_made:
                raise
            return undone
        finally:
            attempt.answered_at = time.time()
        self._gate.proceed(generation.caller.id, exhausted_for=created.exhausted_for)
        return created.prediction

    async def _recovered(self, generation: Generation, attempt: Attempt) -> Prediction:
        """What came of a creation of which the process before this one did not hear."""
        search = asyncio.create_task(self._recover(generation, attempt))
        try:
            return (await asyncio.shield(search)).prediction
        except asyncio.CancelledError:
            if not generation.is_cancelled:
                search.cancel()
                await asyncio.wait([search])
                raise
            attempt.prediction = undone = await to_the_end(self._undo(generation.caller, attempt, search))
            if undone is None or not undone.is_made:
                raise
            return undone

    async def _recover(self, generation: Generation, attempt: Attempt) -> Created:
        try:
            return await self._provider.recover(
                generation.caller,
                attempt.model.name,
                content=attempt.content,
                since=attempt.submitted_at or time.time(),
                reference=reference(generation, attempt),
            )
        except ServiceError:
            attempt.is_lost = True
            raise

    async def _put_on_record(self, generation: Generation, attempt: Attempt) -> None:
        """Have it on the disk that this is about to be sent. What was on record before waits until that can be."""
        try:
            while True:
                # Each time anew: by it the next process counts, and searches for what it made.
                attempt.submitted_at = time.time()
                self._move(generation, "submitting")
                if await self._is_on_record(generation):
                    return
                await asyncio.sleep(_LEDGER_PAUSE)
        except LedgerDown:
            generation.tries.remove(attempt)
            raise
        except asyncio.CancelledError:  # nothing was sent
            generation.tries.remove(attempt)
            self._move(generation, "queued")
            raise

    async def _is_on_record(self, generation: Generation) -> bool:
        """Whether what was put is on the disk now. Raises LedgerDown if nothing of it ever was."""
        try:
            await self._ledger.synced()
        except LedgerDown:
            if not generation.is_on_record:
                raise
            return False
        generation.is_on_record = True
        return True

    def _leave_to_the_next(
        self, generation: Generation, attempt: Attempt, creation: "asyncio.Task[Created]"
    ) -> None:
        """Put on record what became of a creation that is answered. What was refused, or cannot be known, the next
        process finds out for itself, and does what is to be done then."""
        try:
            attempt.prediction = creation.result().prediction
        except TryAgain as again:
            attempt.error = again.error
            self._move(generation, "queued")
        except ServiceError:
            pass
        else:
            self._move(generation, "running")

    async def _undo(
        self, caller: Caller, attempt: Attempt, creation: "asyncio.Task[Created]"
    ) -> Prediction | None:
        """It may be paid for already: hear what became of it, and cancel that. How it stands then, if it began."""
        try:
            created = await creation
        except TryAgain as again:
            attempt.error = again.error
            return None
        except ServiceError as error:
            attempt.error = error
            return None
        return await self._cancel(caller, created.prediction)

    async def _cancel(self, caller: Caller, prediction: Prediction) -> Prediction:
        """Once it is on the disk that nobody wants it, or after a crash it would be taken for a failure."""
        with suppress(LedgerDown):
            await self._ledger.synced()
        told = await self._provider.cancel(caller, prediction)
        return replace(prediction, is_lost=True) if told is None else told


def reference(generation: Generation, attempt: Attempt) -> str:
    """What an attempt is called towards Replicate."""
    return f"{generation.id}.{generation.tries.index(attempt) + 1}"


def _is_interrupted(generation: Generation) -> bool:
    life = asyncio.current_task()
    return life is not None and life.cancelling() > 0 and not generation.is_cancelled


@contextmanager
def _noted(attempt: Attempt) -> Iterator[None]:
    """Have in the attempt what it failed for."""
    try:
        yield
    except TryAgain as again:
        attempt.error = again.error
        if again.unreachable:
            attempt.submitted_at = None  # nothing was sent
        raise
    except ServiceError as error:
        attempt.error = error
        raise


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait until it is done, however often the waiting is cancelled: what it stops is billed for."""
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
