"""Runs one generation: attempts, retries, fallback to other models, outputs, and the end.

    queued → submitting → running → succeeded | failed | canceled

Each attempt (`attempt.py`) is admitted by the gate and releases its slot before the next attempt queues, so the limits
hold for retries too. A creation is retried only if it certainly was not accepted (refused for a reason that passes,
never connected), or if the model reports a failure that passes. A model gets four attempts, or two predictions if each
costs more than 1 USD; predictions that failed in earlier processes count. A model without a price counts with what its
predictions usually cost, or else with the most that one may cost, but then a prediction that never ran does not count.
A refused prompt is never retried, and one that the check before (`screening.py`) refuses is never sent. If the request
has a fallback, a failure leads to an attempt with another model (`catalog/fallback.py`).

Outputs are fetched after the slot is free and before the caller gets the result. An attempt fails if none of its
outputs exists. Every transition is recorded, and the end of a generation is on the disk before a caller can see it. A
run that stops early was either cancelled, which is an end, or interrupted: then the next process resumes it from the
ledger.
"""

import asyncio
import base64
from collections.abc import Iterable
from functools import partial
from typing import Final

import structlog

from admission.durations import Took
from catalog.adaptation import Step
from catalog.model import Model
from contract.states import State
from errors import (
    AccountError,
    BudgetExceeded,
    GenerationFailed,
    InsufficientCredit,
    Internal,
    InvalidRequest,
    LedgerDown,
    OutcomeUnknown,
    Problem,
    ServerOutOfCredit,
    ServiceError,
    ShuttingDown,
)
from files import Files
from files.names import link_name
from generations.attempts import Attempt, FinishedAttempt
from generations.batch import Batch, Work
from generations.budget import TOLERANCE
from generations.budgets import Budgets, check_cost
from generations.costs import Estimate, explained
from generations.door_calls import StartWebhooks, during_call, webhook_at_end
from generations.generation import Generation
from generations.learned import Learned
from generations.outputs import keep_outputs
from generations.resolver import AllowedModels
from generations.retries import COSTLY, FIRST_BACKOFF, MAX_COSTLY_ATTEMPTS, Retries
from generations.screening import Screening
from generations.upstreams import Upstreams
from ledger import Ledger
from ledger.records import GenerationRecord
from loop_thread import finish
from media.formats import black_png
from providers import TryAgain
from webhooks.outbox import Outbox

PLACEHOLDER: Final = (1600, 900)
"""Pixels of the black image that replaces a missing one, if the request allows it."""

_OUT_OF_CREDIT: Final = (InsufficientCredit, ServerOutOfCredit)

log = structlog.get_logger("generation")


class Runner:
    """Runs generations to their end.

    `fetching` counts the generations that fetch their outputs: they neither hold a slot nor queue. `ended` counts the
    generations that ended since the service started, by state.
    """

    def __init__(
        self,
        *,
        upstreams: Upstreams,
        ledger: Ledger,
        budget: Budgets,
        outbox: Outbox,
        outputs: Files | None,
        learned: Learned,
        allowed: AllowedModels | None = None,
        starts: StartWebhooks | None = None,
        screening: Screening | None = None,
        first_backoff: float = FIRST_BACKOFF,
    ) -> None:
        self.upstreams = upstreams
        self._allowed = allowed or AllowedModels()
        self._learned = learned
        self._ledger = ledger
        self._budget = budget
        self._outbox = outbox
        self._starts = starts
        self.screening = screening or Screening(ledger)
        self._outputs = outputs
        self._first_backoff = first_backoff
        self.fetching = 0
        self.ended = dict.fromkeys(("succeeded", "failed", "canceled"), 0)

    async def run(self, generation: Generation, batch: Batch | None) -> None:
        """Run to the end, which is on the disk when this returns. Returns early if the service stops."""
        with during_call(generation, self._ledger, self._starts):
            await self._run(generation, batch)

    async def _run(self, generation: Generation, batch: Batch | None) -> None:
        try:
            await self.screening.check(generation, batch)
            await self._produce(generation, batch)
            await self._end(generation, "succeeded")
        except ShuttingDown:
            pass  # interrupted while queued
        except ServiceError as error:
            if generation.request.placeholder and error.falls_back:
                await self._make_placeholder(generation)
            await self._end(generation, "failed", error)
        except asyncio.CancelledError:
            if not generation.is_cancelled or generation.is_in_doubt:
                raise  # the next process resumes or cancels it
            detail = "The generation was cancelled."
            if generation.last is not None and isinstance(generation.last.error, OutcomeUnknown):
                detail += " Whether it had begun is not known: it may be billed."
            await self._end(generation, "canceled", GenerationFailed(detail))
        except Exception:
            log.exception("generation_crashed", generation=generation.id, request=generation.request_id)
            await self._end(generation, "failed", Internal())

    async def publish(self, work: Work) -> None:
        """Write an end to the disk, then start the delivery to the caller's webhook.

        The delivery is recorded together with the end: a crash between the two would lose it."""
        url = webhook_at_end(work)
        delivery = None if url is None else self._outbox.prepare(work.id, url)
        self._ledger.mark_dirty(work)
        try:
            try:
                await self._ledger.flush()
            except asyncio.CancelledError:  # the generation has ended nonetheless
                await finish(self._ledger.flush())
        except LedgerDown as down:
            # The ledger goes on trying. After a crash, the next process resumes the work and finds the same end.
            log.error("generation_end_not_persisted", reason=str(down))
        if delivery is not None:
            self._outbox.take(delivery)

    async def _produce(self, generation: Generation, batch: Batch | None) -> None:
        """Try each model of the fallback until its retries are used up or one has made the outputs.

        Raises the error of the last model that was called, or the reason why none was called."""
        begun, step = generation.next_model, self._first_step(generation)
        generation.next_model = step.model
        tried = [*dict.fromkeys(each.model for each in generation.attempts), step.model]
        # Predictions of earlier processes had temporary failures, or this model would not be tried now.
        earlier = [each for each in generation.attempts if isinstance(each, FinishedAttempt)]
        retries = Retries(self._first_backoff, failures=_predictions_of(step, earlier))
        failed = None
        while True:
            why = None if step.model is begun else await self._pass_over(generation, step, batch)
            begun = step.model  # its retries are allowed as well
            if why is None:
                try:
                    await self.upstreams.of(step.model).attempts.make(generation, step, batch)
                    return await self._fetch(generation)
                except TryAgain as again:
                    if retries.allow(again) and await self._may_repeat(generation, step, batch):
                        await self._back_off(generation, step.model, again, retries)
                        continue
                    why = failed = again.error
                except ServiceError as error:
                    self._dismiss_batch(generation, step.model, batch, error)
                    why = failed = error
            route = generation.request.route
            following = route.after(tried, code=why.code) if route and why.falls_back else None
            if following is None:
                raise failed or why
            step, retries = following, Retries(self._first_backoff)
            tried.append(step.model)
            generation.next_model = step.model
            generation.transition("queued", self._ledger)

    async def _fetch(self, generation: Generation) -> None:
        """Fetch the outputs of the last attempt, and remember how long it took. Raises ServiceError if none of them
        exists."""
        clock = asyncio.get_running_loop().time
        made_at, attempt = clock(), generation.last
        if attempt is None:
            return
        if attempt.running_seconds is not None:
            self._learned.learn(attempt.model, attempt.running_seconds)
        if attempt.has_files:
            self.fetching += 1
            try:
                await keep_outputs(self._outputs, generation, attempt)
            finally:
                self.fetching -= 1
        if (
            len(generation.attempts) == 1 and attempt.answer_seconds
        ):  # a duration that includes retries would distort the forecasts
            held = max(attempt.answer_seconds, attempt.held_seconds - attempt.boot_seconds)
            took = Took(held, after=clock() - made_at, answered=attempt.answer_seconds)
            self.upstreams.of(attempt.model).gate.durations.note(attempt.model.timed_as, took)

    @staticmethod
    def _first_step(generation: Generation) -> Step:
        """The first step of the request, or the step that an earlier process had reached."""
        request, model = generation.request, generation.next_model
        if request.route and model is not None and model is not request.first.model:
            return request.route.step(model)
        return request.first

    async def _may_repeat(self, generation: Generation, step: Step, batch: Batch | None) -> bool:
        """Whether the model may run again. A costly model runs at most twice, and what was billed so far must leave
        enough of each limit for one more. It cannot if its secret inputs were lost."""
        is_refused = self._allowed.refusal_of_key(generation.caller, step.model) is not None
        if is_refused or (generation.secrets_lost and generation.prediction is not None):
            return False
        ran = sum(each.model == step.model and _may_have_run(each) for each in generation.attempts)
        if ran >= MAX_COSTLY_ATTEMPTS:
            seconds = await self._learned.seconds(step.model)
            if Estimate.of(step, generation.request.longest, seconds).usd > COSTLY:
                return False
        return await self._refuse_cost(generation, step, batch) is None

    async def _back_off(
        self, generation: Generation, model: Model, again: TryAgain, retries: Retries
    ) -> None:
        """Wait before the next attempt. All work of the caller waits if its account is throttled or Replicate cannot be
        reached."""
        generation.transition("queued", self._ledger)
        wait = retries.pause() if again.wait is None else again.wait
        caller, gate = generation.caller, self.upstreams.of(model).gate
        if (again.throttled or again.unreachable) and caller.is_proven:
            gate.pause(caller.turn, wait)
        else:
            if again.cautious and caller.is_proven:
                gate.slow_down(caller.turn)
            await asyncio.sleep(wait)

    def _dismiss_batch(
        self, generation: Generation, model: Model, batch: Batch | None, error: ServiceError
    ) -> None:
        """Refuse the rest of a batch whose account Replicate refuses. One refusal for lack of credit is not enough."""
        caller, batch_id, gate = generation.caller, batch.id if batch else None, self.upstreams.of(model).gate
        if isinstance(error, _OUT_OF_CREDIT) and not (
            caller.is_proven and gate.refuse(caller.turn, batch_id)
        ):
            return
        if batch_id is not None and isinstance(error, AccountError):
            gate.dismiss(caller.turn, batch_id, partial(type(error), error.detail))

    async def _pass_over(
        self, generation: Generation, step: Step, batch: Batch | None
    ) -> ServiceError | None:
        """The reason not to call a model, which is also listed among the attempts. None if it may be called."""
        reason = step.unfit or self._refuse_model(generation, step.model)
        reason = reason or await self._refuse_cost(generation, step, batch)
        if reason is None:
            return None
        error = InvalidRequest([Problem("fallback", reason)])
        generation.attempts.append(
            Attempt(step.model, step.input, step.changes, error=error, passed_over=True)
        )
        return error

    def _refuse_model(self, generation: Generation, model: Model) -> str | None:
        """Why the operator does not let this caller run a model that it did not request. None if it may run."""
        route = generation.request.route
        if route is None or model is route.requested:  # which was checked when it was accepted
            return None
        refusal = self._allowed.refusal(generation.caller, model)
        return refusal and f"{model.short_name} {refusal}."

    async def _refuse_cost(self, generation: Generation, step: Step, batch: Batch | None) -> str | None:
        """Reserve what one more attempt may cost, or return which limit it would exceed."""
        request, model = generation.request, step.model
        # An attempt that ran out of time is billed too.
        cost = generation.cost_usd + request.bound_of(model, step.input)
        more = max(0.0, cost - generation.reserved_usd)
        if model is request.first.model and more <= TOLERANCE:
            return None  # reserved at acceptance
        with_it = f"With {step.model.short_name}"
        try:
            check_cost(cost, request.max_cost, where=f"{with_it} it")
            if batch is not None and batch.max_cost is not None:
                check_cost(batch.expected_cost + more, batch.max_cost, where=f"{with_it} the batch")
            paid = generation.caller, more, generation.created_at
            async with self._budget.admitted(*paid):
                generation.reserved_usd += self._budget.reserve(*paid)
        except BudgetExceeded as error:
            return explained(error, request, model).detail
        except LedgerDown as error:
            return error.detail
        return None

    async def _make_placeholder(self, generation: Generation) -> None:
        """Put a black image in place of the output, for requests with `placeholder`."""
        picture = black_png(*PLACEHOLDER)
        link = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        if self._outputs is not None:
            try:
                link = link_name(generation.id, await self._outputs.put(generation.id, 0, picture))
            except (OSError, asyncio.CancelledError):
                generation.files_error = "The placeholder could not be stored."
        generation.files, generation.placeholder = (link,), True

    async def _end(self, generation: Generation, state: State, error: ServiceError | None = None) -> None:
        generation.ended_at = asyncio.get_running_loop().time()
        generation.error = error
        self._budget.settle(
            generation.caller_id,
            reserved=generation.reserved_usd,
            cost=generation.cost_usd,
            at=generation.created_at,
        )
        self.ended[state] += 1
        generation.transition(state, self._ledger)
        await self.publish(generation)
        log_end(generation.record())


def log_end(record: GenerationRecord) -> None:
    """Log the end of a generation, whether or not it ran in this process."""
    log.info(
        "generation_ended",
        generation=record.id,
        request=record.request_id,
        caller=record.caller_id,
        state=record.state,
        model=record.model,
        attempts=len(record.attempts),
        prediction=record.prediction_id,
        cost_usd=record.cost_usd,
        code=record.error and record.error.code,
    )


def _may_have_run(attempt: Attempt | FinishedAttempt) -> bool:
    """Whether an attempt counts as a run of a costly model: each prediction of a model with a price does."""
    never_ran = (
        isinstance(attempt, Attempt)
        and attempt.model.price is None
        and attempt.prediction is not None
        and attempt.prediction.is_over
        and not attempt.prediction.started
    )
    return attempt.prediction_id is not None and not never_ran


def _predictions_of(step: Step, attempts: Iterable[Attempt | FinishedAttempt]) -> int:
    """How many of these attempts made a prediction with the model of `step`."""
    return sum(each.model == step.model and each.prediction_id is not None for each in attempts)
