"""One attempt: admission, one creation, and the wait for the prediction it started.

The slot and the place are held from admission to the end of the prediction. Images are uploaded before, outputs are
fetched after. The record of a submission is on the disk before the request is sent, so after a crash the next process
can look for the prediction.

Cancelling never leaves a billed prediction running: wait for a pending creation, then cancel its prediction. An
interruption, when the service stops, waits for an answer that is due, but ends a search for a lost creation. It leaves
everything as it is, and the next process resumes it (`_resume`).
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from auth import Caller
from catalog.adaptation import Step
from catalog.references import Upload
from concurrency import Gate, Lease
from errors import GenerationTimeout, LedgerDown, ServiceError
from generations.batch import Batch
from generations.generation import Attempt, Generation
from generations.late import LatePredictions
from ledger import Ledger
from loop_thread import finish
from providers import Created, Prediction, Provider, TryAgain, fingerprint
from providers.outcomes import raise_unless_made

CANCEL_AFTER_MARGIN: Final = 10.0
"""Seconds between our own deadline and the later one at Replicate, which is a safety net of at most 30 minutes."""

OUTPUTS_LAST: Final = 3600.0
"""Seconds after which Replicate deletes outputs."""

_LAST_LOOK: Final = 10.0
"""Seconds to look at a prediction that was past its deadline when it was found."""

_LEDGER_PAUSE: Final = 1.0
"""Seconds between retries while the record of a submission cannot be written."""


class AttemptRunner:
    """Makes attempts, through the gate and at a provider.

    `timeout` (seconds) applies to requests that name none. `push_url` is the base URL that Replicate calls when a
    prediction has ended; None if it cannot reach this service.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        gate: Gate,
        ledger: Ledger,
        late: LatePredictions,
        timeout: float,
        push_url: str | None = None,
    ) -> None:
        self._provider = provider
        self._gate = gate
        self._ledger = ledger
        self._late = late
        self._timeout = timeout
        self._push_url = push_url

    async def make(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Try this model once, or resume the attempt of an earlier process. Returns when it made
        something; raises TryAgain or ServiceError."""
        if (begun := generation.last) is not None and begun.is_open:
            await self._resume(generation, begun, batch)
            return
        if generation.is_cancelled:  # during the attempt before
            raise asyncio.CancelledError
        attempt = Attempt(step.model, step.input, step.changes)
        with _failure_kept(attempt):
            try:
                await self._upload(generation.caller, attempt)
            except ServiceError:
                generation.attempts.append(attempt)
                raise
            clock = asyncio.get_running_loop().time
            lease = await self._admitted(generation, batch)
            admitted = clock()
            generation.attempts.append(attempt)
            with lease:
                attempt.lease = lease
                try:
                    # Again, since after most of a day in the queue the addresses have expired.
                    await self._upload(generation.caller, attempt)
                    attempt.prediction = await self._create(generation, attempt, lease)
                    age, left = attempt.prediction.age, self._limit(generation)
                    if age:  # found by a search, so its time is not the usual one
                        left = max(left - age, _LAST_LOOK)
                    else:
                        attempt.answered = clock() - admitted
                    attempt.prediction = await self._watch(generation, attempt, attempt.prediction, left)
                finally:
                    attempt.held = clock() - admitted
                    if not _is_interrupted(generation):  # else the next process would count it again
                        generation.predicting += attempt.held
            self._raise_if_late(generation, attempt.prediction, age, "before its creation was found")
            raise_unless_made(attempt.prediction)

    async def _resume(self, generation: Generation, attempt: Attempt, batch: Batch | None) -> None:
        began = asyncio.get_running_loop().time()
        with _failure_kept(attempt):
            with self._adopted(generation, attempt, batch) as lease:
                attempt.lease = lease
                try:
                    if attempt.prediction is None:
                        attempt.prediction = await self._recovered(generation, attempt)
                        lease.answered()
                    spent = time.time() - (attempt.answered_at or time.time())
                    left = max(self._limit(generation) - max(spent, attempt.prediction.age), _LAST_LOOK)
                    attempt.prediction = await self._watch(generation, attempt, attempt.prediction, left)
                finally:
                    attempt.held = asyncio.get_running_loop().time() - began
                    generation.predicting += attempt.age
            self._raise_if_late(generation, attempt.prediction, attempt.age, "while this service was away")
            raise_unless_made(attempt.prediction)

    async def _admitted(self, generation: Generation, batch: Batch | None) -> Lease:
        queued_at = asyncio.get_running_loop().time()
        try:
            return await self._gate.acquire(
                generation.caller.turn,
                batch=batch.id if batch else None,
                max_concurrent=batch.max_concurrent if batch else None,
            )
        finally:
            generation.queued += asyncio.get_running_loop().time() - queued_at

    async def _upload(self, caller: Caller, attempt: Attempt) -> None:
        """Upload the images that are too large to be sent inline, and put their addresses into the input."""
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

    def _adopted(self, generation: Generation, attempt: Attempt, batch: Batch | None) -> Lease:
        return self._gate.adopt(
            generation.caller.turn,
            batch=batch.id if batch else None,
            max_concurrent=batch.max_concurrent if batch else None,
            lost=attempt.age if attempt.prediction is None else None,
            expected=attempt_id_of(generation, attempt),
        )

    async def _watch(
        self, generation: Generation, attempt: Attempt, created: Prediction, left: float
    ) -> Prediction:
        caller = generation.caller
        generation.transition("running", self._ledger)
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
                reason.falls_back = False  # it may still be made and billed
            raise

    def _raise_if_late(self, generation: Generation, ended: Prediction, age: float, when: str) -> None:
        """Raise GenerationTimeout if Replicate has ended it by its deadline, since nothing else did."""
        if ended.status == "canceled" and age >= self._limit(generation):
            raise GenerationTimeout(f"It was cancelled at its deadline, {when}.")

    def _limit(self, generation: Generation) -> float:
        return generation.request.timeout or self._timeout

    async def _cancelled(self, caller: Caller, attempt: Attempt, created: Prediction) -> Prediction:
        """Cancel it and return its last state: it may have finished after all, and is billed then."""
        attempt.prediction = await finish(self._cancel(caller, created))
        return attempt.prediction

    async def _create(self, generation: Generation, attempt: Attempt, lease: Lease) -> Prediction:
        attempt.fingerprint = fingerprint(attempt.sent)
        await self._persist_submission(generation, attempt)
        attempt_id = attempt_id_of(generation, attempt)
        creation = asyncio.create_task(
            self._provider.create(
                generation.caller,
                attempt.model.name,
                attempt.sent,
                lease=lease,
                cancel_after=self._limit(generation) + CANCEL_AFTER_MARGIN,
                reference=attempt_id,
                callback=self._push_address(generation),
                on_late=self._late.listener(generation, attempt),
            )
        )
        try:
            created = await asyncio.shield(creation)
        except asyncio.CancelledError:
            if not generation.is_cancelled:
                creation.cancel()
                await finish(asyncio.wait([creation]))  # so that the next process need not search for it
            if not generation.is_cancelled:
                self._hand_over(generation, attempt, creation)
                raise
            return await self._undone(generation, attempt, creation)
        finally:
            if not creation.cancelled():
                attempt.answered_at = time.time()
        self._gate.proceed(generation.caller.turn, exhausted_for=created.exhausted_for)
        return created.prediction

    def _push_address(self, generation: Generation) -> str | None:
        if self._push_url is None:
            return None
        query = urlencode({"generation": generation.id, "attempt": len(generation.attempts)})
        return f"{self._push_url}/webhooks/replicate?{query}"

    async def _recovered(self, generation: Generation, attempt: Attempt) -> Prediction:
        """The prediction of a creation whose answer an earlier process did not receive."""
        search = asyncio.create_task(self._recover(generation, attempt))
        try:
            return (await asyncio.shield(search)).prediction
        except asyncio.CancelledError:
            if not generation.is_cancelled:
                search.cancel()
                await asyncio.wait([search])
                raise
            return await self._undone(generation, attempt, search)
        finally:
            if not search.cancelled():  # its place counts for a minute from now, also in the next process
                attempt.answered_at = time.time()

    async def _recover(self, generation: Generation, attempt: Attempt) -> Created:
        try:
            return await self._provider.recover(
                generation.caller,
                attempt.model.name,
                content=attempt.fingerprint,
                since=attempt.submitted_at or time.time(),
                reference=attempt_id_of(generation, attempt),
                skew=attempt.clock_skew,
                on_late=self._late.listener(generation, attempt),
            )
        except ServiceError:
            attempt.unrecoverable = True
            raise

    async def _persist_submission(self, generation: Generation, attempt: Attempt) -> None:
        """Have it on the disk that this is about to be sent. A generation that is on record waits until it can be."""
        try:
            while True:
                # A new date each time: the next process counts places and searches by it.
                attempt.submitted_at, attempt.clock_skew = time.time(), self._provider.clock_skew
                generation.transition("submitting", self._ledger)
                if await self._is_persisted(generation):
                    return
                await asyncio.sleep(_LEDGER_PAUSE)
        except LedgerDown:
            self._withdraw(generation, attempt)
            raise
        except asyncio.CancelledError:  # nothing was sent
            self._withdraw(generation, attempt)
            generation.transition("queued", self._ledger)
            raise

    def _withdraw(self, generation: Generation, attempt: Attempt) -> None:
        """Forget an attempt of which nothing was sent."""
        record = attempt.record(generation.id, generation.attempts.index(attempt) + 1)
        self._ledger.delete(type(record), record.generation_id, record.number)
        generation.attempts.remove(attempt)

    async def _is_persisted(self, generation: Generation) -> bool:
        """Whether its record is on the disk now. Raises LedgerDown if it never was."""
        try:
            await self._ledger.flush()
        except LedgerDown:
            if not generation.persisted:
                raise
            return False
        generation.persisted = True
        return True

    def _hand_over(self, generation: Generation, attempt: Attempt, creation: "asyncio.Task[Created]") -> None:
        """Record how an answered creation went. The next process settles refused, lost and unknown creations."""
        try:
            attempt.prediction = creation.result().prediction
        except TryAgain as again:
            attempt.error = again.error
            generation.transition("queued", self._ledger)
        except (ServiceError, asyncio.CancelledError):
            pass
        else:
            generation.transition("running", self._ledger)

    async def _undone(
        self, generation: Generation, attempt: Attempt, creation: "asyncio.Task[Created]"
    ) -> Prediction:
        """Cancel the prediction of a creation, once its id is known. Returns the prediction if it succeeded
        nonetheless; otherwise raises CancelledError, also if the service stops before its id is known."""
        while not creation.done():
            try:
                await asyncio.wait([creation])
            except asyncio.CancelledError:  # the generation is cancelled already, so this is a stop
                creation.cancel()
        if creation.cancelled():
            raise asyncio.CancelledError
        attempt.prediction = undone = await finish(self._undo(generation.caller, attempt, creation))
        if undone is None or not undone.is_made:
            raise asyncio.CancelledError
        return undone

    async def _undo(
        self, caller: Caller, attempt: Attempt, creation: "asyncio.Task[Created]"
    ) -> Prediction | None:
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
        """Cancel it, once the wish is on the disk: after a crash it would look like a failure otherwise."""
        with suppress(LedgerDown):
            await self._ledger.flush()
        answered = await self._provider.cancel(caller, prediction)
        return replace(prediction, is_lost=True) if answered is None else answered


def raise_nothing_made(attempt: Attempt, reason: str) -> None:
    """Fail an attempt none of whose outputs exists. `reason` is a sentence for the caller."""
    prediction = attempt.prediction
    assert prediction is not None  # noqa: S101 - it has succeeded
    if attempt.age >= OUTPUTS_LAST:
        prediction = attempt.prediction = replace(prediction, outputs=(), is_removed=True)
    with _failure_kept(attempt):
        raise_unless_made(
            replace(prediction, outputs=()),
            otherwise=f"The model reported success without an output. {reason}",
        )


def attempt_id_of(generation: Generation, attempt: Attempt) -> str:
    """The name of an attempt at its provider."""
    return f"{generation.id}.{generation.attempts.index(attempt) + 1}"


def _is_interrupted(generation: Generation) -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0 and not generation.is_cancelled


@contextmanager
def _failure_kept(attempt: Attempt) -> Iterator[None]:
    """Keep in the attempt why it failed."""
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
