"""One attempt: upload files, wait for admission, create one prediction, and wait for its end.

The attempt holds a slot and a place in the window from admission to the end of the prediction. Outputs are fetched
later. Before a creation is sent, its record is on the disk, so after a crash the next process can search for the
prediction.

Cancelling never leaves a billed prediction running: it waits for a pending creation, then cancels its prediction. When
the service stops, an attempt is interrupted instead: it waits for a pending answer, stops a search for a lost creation,
and leaves the prediction to the next process, which resumes the attempt (`_resume`).
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final
from urllib.parse import urlencode

from auth import Caller
from catalog.adaptation import Step
from catalog.references import Upload
from cluster import AnyGate
from concurrency import Lease
from errors import GenerationTimeout, LedgerDown, SecretLost, ServiceError, UpstreamError
from generations.attempts import Attempt
from generations.batch import Batch
from generations.creations import LatestVersions, with_form
from generations.deadline import Bounds, Deadline
from generations.generation import Generation
from generations.late import LatePredictions
from generations.submitting import attempt_id_of, persist_submission
from ledger import Ledger
from loop_thread import finish
from providers import Created, Prediction, Provider, TryAgain
from providers.outcomes import raise_unless_made, without_texts
from providers.payers import NOT_FOUND, NOT_SEEN, Payers

OUTPUTS_LAST: Final = 3600.0
"""Seconds after which Replicate deletes outputs."""


class AttemptRunner:
    """Makes attempts at a provider, each admitted by the gate.

    `bounds` apply to requests without their own. `push_url` is the base URL to which the provider sends the results of
    predictions; None if it cannot reach this service. `arguments` are further keywords of `provider.create`.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        gate: AnyGate,
        ledger: Ledger,
        late: LatePredictions,
        bounds: Bounds,
        latest: LatestVersions,
        payers: Payers,
        push_url: str | None = None,
        arguments: Callable[[Generation], Mapping[str, Any]] = lambda generation: {},
    ) -> None:
        self._provider = provider
        self._gate = gate
        self._ledger = ledger
        self._late = late
        self._bounds = bounds
        self._latest = latest
        self._payers = payers
        self._push_url = push_url
        self._arguments = arguments

    async def make(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Make one attempt with the model of `step`, or resume the open attempt of an earlier process.

        Returns when the prediction has outputs. Raises TryAgain or ServiceError."""
        if (begun := generation.last) is not None and begun.is_open:
            await self._resume(generation, begun, batch)
            return
        if generation.is_cancelled:  # cancelled during the previous attempt
            raise asyncio.CancelledError
        if generation.secrets_lost and generation.request.lost_for(step.model):
            raise SecretLost
        attempt = Attempt(step.model, step.input, step.changes, longest=generation.request.longest)
        clock = asyncio.get_running_loop().time
        with _failure_kept(attempt):
            try:
                if self._provider.uploads_early:
                    await self._upload(generation.caller, attempt)
            except ServiceError:
                generation.attempts.append(attempt)
                raise
            queued_at = clock()
            try:
                limits = _limits(generation, attempt, batch)
                lease = await self._gate.acquire(generation.caller.turn, **limits)
            finally:
                generation.queued_seconds += clock() - queued_at
            admitted = clock()
            generation.attempts.append(attempt)
            with lease:
                attempt.lease = lease
                try:
                    # Again if necessary: the addresses expire after a day, and the wait for admission may take
                    # that long.
                    await self._upload(generation.caller, attempt)
                    attempt.prediction = await self._create(generation, attempt, lease)
                    age = attempt.prediction.age
                    if not age:  # otherwise found by a search, which takes longer than a usual answer
                        attempt.answer_seconds = clock() - admitted
                    await self._watch(generation, attempt, attempt.prediction, age or None)
                finally:
                    attempt.held_seconds = clock() - admitted
                    if not _is_interrupted(generation):  # otherwise the next process would count it again
                        generation.predicting_seconds += attempt.held_seconds
            self._raise_if_not_made(generation, attempt, age, "before its creation was found")

    async def _resume(self, generation: Generation, attempt: Attempt, batch: Batch | None) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        lease = self._gate.adopt(
            generation.caller.turn,
            **_limits(generation, attempt, batch),
            lost=attempt.age if attempt.prediction is None else None,
            expected=attempt_id_of(generation, attempt),
        )
        with _failure_kept(attempt):
            with lease:
                attempt.lease = lease
                try:
                    if attempt.prediction is None:
                        search = asyncio.create_task(
                            with_form(self._recover(generation, attempt), attempt.model.output)
                        )
                        attempt.prediction = (await self._answer(generation, attempt, search)).prediction
                        lease.answered()
                    spent = time.time() - (attempt.answered_at or time.time())
                    age = max(spent, attempt.prediction.age)
                    await self._watch_again(generation, attempt, attempt.prediction, age)
                    if generation.secrets_lost and generation.request.lost_for(attempt.model):
                        attempt.prediction = without_texts(attempt.prediction)
                finally:
                    attempt.held_seconds = clock() - began
                    generation.predicting_seconds += attempt.age
            self._raise_if_not_made(generation, attempt, attempt.age, "while this service was away")

    async def _watch_again(
        self, generation: Generation, attempt: Attempt, created: Prediction, age: float
    ) -> None:
        """Wait as `_watch` does. A prediction that cannot be seen may be one of another account."""
        try:
            await self._watch(generation, attempt, created, age)
        except UpstreamError:
            await self._payers.confirm(generation.caller, attempt.submitted_at or time.time(), NOT_SEEN)
            raise

    async def _upload(self, caller: Caller, attempt: Attempt) -> None:
        """Upload the files that are too large to send inline, and put their addresses into the input."""
        attempt.sent = {
            name: await self._uploaded(caller, value) if isinstance(value, Upload | list) else value
            for name, value in attempt.input.items()
        }

    async def _uploaded(self, caller: Caller, value: Any) -> Any:
        if isinstance(value, list):
            return [await self._uploaded(caller, each) for each in value]
        return await self._provider.upload(caller, value) if isinstance(value, Upload) else value

    async def _create(self, generation: Generation, attempt: Attempt, lease: Lease) -> Prediction:
        attempt.fingerprint = self._provider.content_of(attempt.sent)
        await self._persist(generation, attempt, lease)
        creating = self._provider.create(
            generation.caller,
            attempt.model.target,
            attempt.sent,
            content=attempt.fingerprint,
            lease=lease,
            cancel_after=self._bounds_of(generation).cancel_after,
            reference=attempt_id_of(generation, attempt),
            callback=self._push_address(generation),
            on_late=self._late.listener(generation, attempt),
            secrets=generation.request.secrets_for(attempt.model),
            **self._arguments(generation),
        )
        creating = self._latest.named(creating, generation.caller, attempt.model)
        creation = asyncio.create_task(with_form(creating, attempt.model.output))
        created = await self._answer(generation, attempt, creation)
        self._gate.proceed(generation.caller.turn, exhausted_for=created.exhausted_for)
        return created.prediction

    async def _recover(self, generation: Generation, attempt: Attempt) -> Created:
        """Search for the prediction of a creation that an earlier process sent without receiving the answer."""
        caller, since = generation.caller, attempt.submitted_at or time.time()
        search = partial(
            self._provider.recover,
            caller,
            attempt.model.target,
            content=attempt.fingerprint,
            since=since,
            reference=attempt_id_of(generation, attempt),
            skew=attempt.clock_skew,
            on_late=self._late.listener(generation, attempt),
            hidden=generation.request.lost_for(attempt.model) if generation.secrets_lost else (),
        )
        try:
            await self._payers.raise_if_other(caller, since, NOT_FOUND)
            try:
                return await search()
            except TryAgain:  # in the list of the present account
                await self._payers.confirm(caller, since, NOT_FOUND)
                raise
        except ServiceError:
            attempt.unrecoverable = True
            raise

    async def _answer(
        self, generation: Generation, attempt: Attempt, creation: asyncio.Task[Created]
    ) -> Created:
        """Wait for the answer to a creation, or for the result of a search.

        If the generation is cancelled, cancel the prediction. If the service stops, record the answer so that the next
        process need not search."""
        try:
            return await asyncio.shield(creation)
        except asyncio.CancelledError:
            if not generation.is_cancelled:
                creation.cancel()
                await finish(asyncio.wait([creation]))
            if not generation.is_cancelled:
                self._hand_over(generation, attempt, creation)
                raise
            return await self._undo(generation, attempt, creation)
        finally:
            if not creation.cancelled():
                # Its place in the window counts for a minute from now, also in the next process.
                attempt.answered_at = time.time()

    def _push_address(self, generation: Generation) -> str | None:
        if self._push_url is None:
            return None
        query = urlencode({"generation": generation.id, "attempt": len(generation.attempts)})
        return f"{self._push_url}/webhooks/replicate?{query}"

    async def _persist(self, generation: Generation, attempt: Attempt, lease: Lease) -> None:
        """Record on the disk that this attempt is about to be sent. Raises LedgerDown."""
        reference, runs_for = attempt_id_of(generation, attempt), self._bounds_of(generation).cancel_after
        persist = partial(lease.persist, self._ledger, reference, runs_for)
        persist = partial(self._payers.noted, generation.caller, persist)
        await persist_submission(
            generation, attempt, self._ledger, persist, clock_skew=lambda: self._provider.clock_skew
        )

    def _hand_over(self, generation: Generation, attempt: Attempt, creation: asyncio.Task[Created]) -> None:
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

    async def _undo(
        self, generation: Generation, attempt: Attempt, creation: asyncio.Task[Created]
    ) -> Created:
        """Wait for the creation of a cancelled generation, then cancel its prediction. Returns the prediction
        if it has outputs nonetheless. Otherwise raises CancelledError, also if the service stops before the
        answer."""
        while not creation.done():
            try:
                await asyncio.wait([creation])
            except asyncio.CancelledError:  # it is cancelled already, so this is a stop of the service
                creation.cancel()
        try:
            with _failure_kept(attempt):
                created = creation.result()
        except (TryAgain, ServiceError):
            raise asyncio.CancelledError from None
        ended = await self._cancelled(generation.caller, attempt, created.prediction)
        if not ended.is_made:
            raise asyncio.CancelledError
        return replace(created, prediction=ended)

    async def _watch(
        self, generation: Generation, attempt: Attempt, created: Prediction, found_after: float | None
    ) -> None:
        """Wait until the prediction is over; cancel it at its deadline. If it was found, that was so many seconds after
        its creation."""
        generation.transition("running", self._ledger)
        bounds, now = self._bounds_of(generation), asyncio.get_running_loop().time()
        deadline = Deadline(
            bounds,
            created=now - (found_after or 0.0),
            boots=attempt.model.boots is not None,
            found=-math.inf if found_after is None else now,
        )
        try:
            async with asyncio.timeout_at(deadline.at) as timer:
                attempt.prediction = await self._provider.wait(
                    generation.caller,
                    created,
                    model=attempt.model.name,
                    on_look=partial(_look, attempt, deadline, timer),
                    start_by=None if attempt.model.boots is None else bounds.start,
                )
        except BaseException as reason:
            if isinstance(reason, asyncio.CancelledError) and not generation.is_cancelled:
                raise  # only interrupted
            ended = await self._cancelled(generation.caller, attempt, created)
            if ended.is_made:
                return
            error = deadline.error() if isinstance(reason, TimeoutError) else reason
            if isinstance(error, ServiceError) and ended.is_lost:
                error.falls_back = False  # it may still finish and be billed
            raise error from None

    def _raise_if_not_made(self, generation: Generation, attempt: Attempt, age: float, when: str) -> None:
        """Raise the error of a prediction without outputs. A cancelled one ran out of time if its `age` (seconds) is
        beyond its bounds."""
        ended = attempt.prediction
        assert ended is not None  # noqa: S101 - it was watched
        if ended.status == "canceled" and self._bounds_of(generation).are_over(ended, age):
            raise GenerationTimeout(f"The generation was cancelled at its deadline, {when}.")
        raise_unless_made(ended)

    def _bounds_of(self, generation: Generation) -> Bounds:
        request, usual = generation.request, self._bounds
        return Bounds(request.start_timeout or usual.start, request.timeout or usual.run)

    async def _cancelled(self, caller: Caller, attempt: Attempt, created: Prediction) -> Prediction:
        """Cancel it and return its last state: it may have finished after all, and is billed then."""
        attempt.prediction = await finish(self._cancel(caller, created))
        return attempt.prediction

    async def _cancel(self, caller: Caller, prediction: Prediction) -> Prediction:
        """Cancel it once the cancellation is on the disk: otherwise it would count as a failure after a
        crash."""
        with suppress(LedgerDown):
            await self._ledger.flush()
        answered = await self._provider.cancel(caller, prediction)
        return replace(prediction, is_lost=True) if answered is None else answered


def raise_no_outputs(attempt: Attempt, reason: str) -> None:
    """Fail an attempt that succeeded but none of whose outputs exists. `reason` is a sentence for the caller."""
    prediction = attempt.prediction
    assert prediction is not None  # noqa: S101 - it has succeeded
    if attempt.age >= OUTPUTS_LAST:
        prediction = attempt.prediction = replace(prediction, output=None, is_removed=True)
    with _failure_kept(attempt):
        raise_unless_made(
            replace(prediction, output=None),
            otherwise=f"The model reported success without an output. {reason}",
        )


def _limits(generation: Generation, attempt: Attempt, batch: Batch | None) -> dict[str, Any]:
    """The arguments of the gate that place an item in its batch, its semaphore, and the version that may boot."""
    limits = {"batch": batch.id, "max_concurrent": batch.max_concurrent} if batch else {}
    named = {"semaphore": generation.semaphore, "boots": attempt.model.boots}
    return limits | {name: value for name, value in named.items() if value is not None}


def _look(attempt: Attempt, deadline: Deadline, timer: asyncio.Timeout, ran: float | None) -> None:
    """Its prediction is unfinished, and has run for so many seconds, or not yet."""
    now = asyncio.get_running_loop().time()
    deadline.look(ran, now)
    if deadline.started is not None:
        attempt.waited = deadline.started - deadline.created
        if attempt.lease is not None:
            attempt.lease.started()
    if not timer.expired():
        timer.reschedule(deadline.at)


def _is_interrupted(generation: Generation) -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0 and not generation.is_cancelled


@contextmanager
def _failure_kept(attempt: Attempt) -> Iterator[None]:
    """Store in the attempt the reason for its failure."""
    try:
        yield
    except TryAgain as again:
        attempt.error = again.error
        if again.unreachable or again.held_back:
            attempt.submitted_at = None  # nothing was sent
        raise
    except ServiceError as error:
        attempt.error = error
        raise
