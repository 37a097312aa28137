"""How one generation runs.

    queued → submitting → running → succeeded | failed | canceled

One admission is one attempt (`attempt.py`). The slot and the place of an attempt are returned before the next attempt
queues for its own, so the limits hold for retries too. A creation is retried only if it certainly was not accepted
(refused in passing, never connected), or if the model itself reports a passing failure. A model gets four attempts, or
two predictions if each costs more than 1 USD; predictions that failed in earlier processes count. A refused prompt is
never retried. If the request has a fallback, a failure leads to an attempt of another model (`fallback.py`), admitted
like any other.

Outputs are fetched after the slot is free, and before the result is answered. A model none of whose outputs exists has
failed. Every transition is recorded, and the end of a generation is on the disk before anyone learns of it. A run that
stops early was either cancelled, which is an end, or interrupted: then the ledger has its progress, and the next
process resumes it.
"""

import asyncio
import base64
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from admission.durations import Took
from catalog.adaptation import Step
from concurrency import Gate
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
from files import Files, Kept
from files.names import link_name
from generations.attempt import AttemptRunner, raise_nothing_made
from generations.batch import Batch, Work
from generations.budget import Budget, check_cost
from generations.generation import Attempt, FinishedAttempt, Generation
from ledger import Ledger
from ledger.records import GenerationRecord
from loop_thread import finish
from media.formats import black_png
from network.backoff import backoff
from providers import TryAgain
from webhooks.outbox import Outbox

MAX_ATTEMPTS: Final = 4
MAX_COSTLY_ATTEMPTS: Final = 2
"""Predictions of one model that one generation gets while they fail in passing, if each costs more than `COSTLY`."""

COSTLY: Final = 1.0
"""USD."""

MAX_THROTTLED: Final = 20
"""Refusals for the account's rate that one generation sits out; each comes after the wait that Replicate named."""

MAX_REFUSED: Final = 2
"""Refusals of an account whose token is accepted that one generation gets."""

FIRST_BACKOFF: Final = 0.5
"""Seconds, at most, before the second attempt when Replicate names no time; it doubles up to 32-fold."""

PLACEHOLDER: Final = (1600, 900)
"""Pixels of the black picture that replaces a missing one, if the request allows it."""

_OUT_OF_CREDIT: Final = (InsufficientCredit, ServerOutOfCredit)

log = structlog.get_logger("generation")


@dataclass(slots=True)
class Retries:
    """The attempts that a model has left, and the pause before the next one."""

    first_backoff: float
    failures: int = 0
    throttled: int = 0
    refused: int = 0

    def are_left_after(self, again: TryAgain) -> bool:
        """Count an attempt that may be made again."""
        self.failures += not again.throttled
        self.throttled += again.throttled
        self.refused += again.refused
        if self.failures < MAX_ATTEMPTS and self.throttled < MAX_THROTTLED and self.refused < MAX_REFUSED:
            return True
        if again.unreachable:  # for other models as well
            again.error.falls_back = False
        return False

    def pause(self) -> float:
        """Seconds; they double with each attempt, less up to half by chance."""
        return backoff(
            self.failures + self.throttled, first=self.first_backoff, longest=32 * self.first_backoff
        )


class Runner:
    """Runs generations: through the gate, at a provider, recorded in the ledger."""

    def __init__(
        self,
        *,
        attempts: AttemptRunner,
        gate: Gate,
        ledger: Ledger,
        budget: Budget,
        outbox: Outbox,
        outputs: Files | None,
        first_backoff: float = FIRST_BACKOFF,
    ) -> None:
        self._attempts = attempts
        self._gate = gate
        self._ledger = ledger
        self._budget = budget
        self._outbox = outbox
        self._outputs = outputs
        self._first_backoff = first_backoff
        self.fetching = 0
        """Generations that fetch their outputs: they hold no slot and do not queue."""
        self.ended = dict.fromkeys(("succeeded", "failed", "canceled"), 0)
        """How many generations ended in each state since the service started."""

    async def run(self, generation: Generation, batch: Batch | None) -> None:
        """Run until the end, which is then on the disk, or until interrupted."""
        try:
            await self._produce(generation, batch)
            await self._end(generation, "succeeded")
        except ShuttingDown:
            pass  # interrupted in the queue
        except ServiceError as error:
            if generation.request.placeholder and error.falls_back:
                await self._make_placeholder(generation)
            await self._end(generation, "failed", error)
        except asyncio.CancelledError:
            if not generation.is_cancelled or generation.is_in_doubt:
                raise  # the next process resumes or cancels it
            is_known = generation.last is None or not isinstance(generation.last.error, OutcomeUnknown)
            detail = "It was cancelled." + (
                "" if is_known else " Whether it had begun is not known: it may be billed."
            )
            await self._end(generation, "canceled", GenerationFailed(detail))
        except Exception:
            log.exception("generation_crashed", generation=generation.id, request=generation.request_id)
            await self._end(generation, "failed", Internal())

    async def publish(self, work: Work) -> None:
        """Record an end on the disk, and then start the delivery to the webhook of its caller.

        The delivery is recorded together with the end, or a crash between the two would lose it."""
        delivery = self._outbox.prepare(work.id, work.webhook) if work.webhook is not None else None
        self._ledger.mark_dirty(work)
        try:
            try:
                await self._ledger.flush()
            except asyncio.CancelledError:  # it has ended all the same
                await finish(self._ledger.flush())
        except LedgerDown as down:
            # It has happened and stays in the ledger's memory. After a crash the next process finds out the same.
            log.error("generation_end_not_persisted", reason=str(down))
        if delivery is not None:
            self._outbox.take(delivery)

    async def _produce(self, generation: Generation, batch: Batch | None) -> None:
        """Try models until one has made it: each until its retries are used up, then the next one of the fallback.

        Raises the failure of the last model that was called; if none was, why the last was passed over."""
        begun, step = generation.next_model, self._first_step(generation)
        generation.next_model = step.model
        tried = [*dict.fromkeys(each.model for each in generation.attempts), step.model]
        # Those of earlier processes failed in passing, or the model would not be tried now.
        earlier = [each for each in generation.attempts if isinstance(each, FinishedAttempt)]
        retries = Retries(self._first_backoff, failures=_predictions_of(step, earlier))
        failed = None
        while True:
            why = None if step.model is begun else self._passed_over(generation, step, batch)
            begun = step.model  # its retries are allowed as well
            if why is None:
                try:
                    await self._attempts.make(generation, step, batch)
                    return await self._fetch(generation)
                except TryAgain as again:
                    if retries.are_left_after(again) and self._may_repeat(generation, step):
                        await self._back_off(generation, again, retries)
                        continue
                    why = failed = again.error
                except ServiceError as error:
                    self._dismiss_batch(generation, batch, error)
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
        """Fetch the outputs of the last attempt. Raises ServiceError if none of them exists."""
        made_at = asyncio.get_running_loop().time()
        if self._outputs is not None and generation.last is not None:
            await self._keep_outputs(self._outputs, generation, generation.last)
        self._note_pace(generation, asyncio.get_running_loop().time() - made_at)

    @staticmethod
    def _first_step(generation: Generation) -> Step:
        """The step of the request, or the one at which an earlier process had arrived."""
        request, model = generation.request, generation.next_model
        if request.route and model is not None and model is not request.first.model:
            return request.route.step(model)
        return request.first

    @staticmethod
    def _may_repeat(generation: Generation, step: Step) -> bool:
        """Whether the model may run again: if it is costly, a failure that passes is tried again only once."""
        ran = _predictions_of(step, generation.attempts)
        return ran < MAX_COSTLY_ATTEMPTS or step.model.cost(step.input) <= COSTLY

    async def _back_off(self, generation: Generation, again: TryAgain, retries: "Retries") -> None:
        """Wait before the next attempt: all of the caller's, if the account or the way to Replicate is in trouble."""
        generation.transition("queued", self._ledger)
        wait = retries.pause() if again.wait is None else again.wait
        caller = generation.caller
        if (again.throttled or again.unreachable) and caller.is_proven:
            self._gate.pause(caller.turn, wait)
        else:
            if again.cautious and caller.is_proven:
                self._gate.slow_down(caller.turn)
            await asyncio.sleep(wait)

    def _dismiss_batch(self, generation: Generation, batch: Batch | None, error: ServiceError) -> None:
        """Refuse the rest of a batch whose account is in trouble. Being out of credit is not believed at once."""
        caller, batch_id = generation.caller, batch.id if batch else None
        if isinstance(error, _OUT_OF_CREDIT):
            is_believed = caller.is_proven and self._gate.refuse(caller.turn, batch_id)
            if not is_believed:
                return
        if batch_id is not None and isinstance(error, AccountError):
            self._gate.dismiss(caller.turn, batch_id, partial(type(error), error.detail))

    def _passed_over(self, generation: Generation, step: Step, batch: Batch | None) -> ServiceError | None:
        """Why a model is not called, if it is not; the reason is listed among the attempts."""
        reason = step.unfit or self._too_dear(generation, step, batch)
        if reason is None:
            return None
        error = InvalidRequest([Problem("fallback", reason)])
        generation.attempts.append(
            Attempt(step.model, step.input, step.changes, error=error, passed_over=True)
        )
        return error

    def _too_dear(self, generation: Generation, step: Step, batch: Batch | None) -> str | None:
        """Which limit of cost it would pass. If none, its cost is reserved."""
        if step.model is generation.request.first.model:
            return None  # reserved at acceptance
        cost = generation.cost_usd + step.model.cost(
            step.input
        )  # an attempt that ran out of time is paid, too
        more = max(0.0, cost - generation.reserved)
        with_it = f"With {step.model.short_name}"
        try:
            check_cost(cost, generation.request.max_cost, where=f"{with_it} it")
            if batch is not None and batch.max_cost is not None:
                check_cost(batch.expected_cost + more, batch.max_cost, where=f"{with_it} the batch")
            generation.reserved += self._budget.reserve(generation.caller_id, more)
        except BudgetExceeded as error:
            return error.detail
        return None

    async def _keep_outputs(self, files: Files, generation: Generation, attempt: Attempt) -> None:
        """Fetch the outputs. They are made and paid for, so no trouble here fails the attempt, unless it shows that
        none of them exists."""
        self.fetching += 1
        try:
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError  # it was done when it was to be cancelled: there is no time to fetch
            kept = await files.keep(generation.id, [each.value for each in attempt.made])
        except asyncio.CancelledError:
            if not generation.is_cancelled:
                raise
            kept = Kept((), "It was cancelled before everything was fetched.")
        finally:
            self.fetching -= 1
        attempt.missing = kept.missing
        if not attempt.made:
            raise_nothing_made(attempt, kept.error or "")
        generation.files = tuple(link_name(generation.id, name) for name in kept.names if name is not None)
        generation.files_error = kept.error

    def _note_pace(self, generation: Generation, kept_in: float) -> None:
        """Let plans go by these durations, unless a retry distorted them."""
        attempt = generation.last
        if len(generation.attempts) == 1 and attempt is not None and attempt.answered:
            took = Took(attempt.held, after=kept_in, answered=attempt.answered)
            self._gate.durations.note(attempt.model.name, took)

    async def _make_placeholder(self, generation: Generation) -> None:
        """A black picture, for requests that prefer it to none."""
        picture = black_png(*PLACEHOLDER)
        link = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        if self._outputs is not None:
            try:
                link = link_name(generation.id, await self._outputs.put(generation.id, 0, picture))
            except (OSError, asyncio.CancelledError):
                generation.files_error = "The placeholder could not be kept."
        generation.files, generation.placeholder = (link,), True

    async def _end(self, generation: Generation, state: State, error: ServiceError | None = None) -> None:
        generation.ended_at = asyncio.get_running_loop().time()
        generation.error = error
        self._budget.settle(generation.caller_id, reserved=generation.reserved, cost=generation.cost_usd)
        self.ended[state] += 1
        generation.transition(state, self._ledger)
        await self.publish(generation)
        log_end(generation.record())


def log_end(record: GenerationRecord) -> None:
    """Log that a generation has ended, in this process or without running in it."""
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


def _predictions_of(step: Step, attempts: Iterable[Attempt | FinishedAttempt]) -> int:
    """How many of these attempts made a prediction of the model."""
    return sum(each.model == step.model and each.prediction_id is not None for each in attempts)
