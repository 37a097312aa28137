"""How one generation lives.

    queued → submitting → running → succeeded | failed | canceled

One admission is one attempt (`attempts.py`): the slot and the place it got go back before the next attempt asks for its
own, so the limits hold for retries too. What is tried again is only what certainly was not started (refused, never
connected) or failed for a passing reason that the model itself names; a refused prompt never is. Whoever asked for a
fallback has a failure turned into an attempt of another model (`fallback.py`), admitted anew like any other.

What was made is fetched and kept before anybody is told, but after the slot is free. Every transition is put on record,
and its end is on the disk before anybody hears of it. A life that ends early is either cancelled, which is an end, or
interrupted: then the ledger has how far it came, and the next process goes on.
"""

import asyncio
import base64
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import structlog

from adaptation import Step
from admission.durations import Took
from attempts import Attempts, Ledger, to_the_end
from budget import Budget, check_cost
from callbacks import Delivery
from concurrency import Gate
from errors import (
    AccountError,
    BudgetExceeded,
    GenerationFailed,
    Internal,
    InvalidRequest,
    LedgerDown,
    OutcomeUnknown,
    Problem,
    ServiceError,
    ShuttingDown,
)
from files import Kept
from media import black_png
from providers import Provider, TryAgain
from records import Batch, Generation
from telling import State
from tries import Attempt

MAX_ATTEMPTS: Final = 4
MAX_THROTTLED: Final = 20
"""Refusals for the account's rate that one generation sits out; each comes after the wait it asked for."""

FIRST_BACKOFF: Final = 0.5
"""Seconds, at most, before the second attempt when Replicate names no time; it doubles up to 32-fold."""

PLACEHOLDER: Final = (1600, 900)
"""Pixels of the black picture that stands in for one, at a caller's wish."""

log = structlog.get_logger("generation")


@dataclass(slots=True)
class Tally:
    """How generations ended since the service started."""

    ended: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, int]:
        return {state: self.ended[state] for state in ("succeeded", "failed", "canceled")}


class Keeper(Protocol):
    """Where what was made is kept (see `files.Files`)."""

    async def keep(self, generation_id: str, outputs: Sequence[str]) -> Kept:
        """Fetch these URLs and keep what they lead to. Raises nothing."""

    async def put(self, generation_id: str, number: int, content: bytes) -> str:
        """Keep this, and give its name. Raises OSError."""


class Lives:
    """Lets generations live: through the gate, at a provider, on record. On the loop.

    `deliver` hears of every result that a caller's webhook waits for, once it is on the disk.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        gate: Gate,
        ledger: Ledger,
        budget: Budget,
        timeout: float,
        keeper: Keeper | None,
        first_backoff: float,
        callback: Callable[[str, int], str] | None,
        deliver: Callable[[Delivery], None],
    ) -> None:
        self._attempts = Attempts(
            provider=provider, gate=gate, ledger=ledger, timeout=timeout, move=self.move, callback=callback
        )
        self._gate = gate
        self._ledger = ledger
        self._budget = budget
        self._keeper = keeper
        self._first_backoff = first_backoff
        self._deliver = deliver
        self.keeping = 0
        """How many are fetching what was made: they wait for no slot and hold none."""
        self.tally = Tally()

    async def live(self, generation: Generation, batch: Batch | None) -> None:
        """Live until the end, which is then on the disk, or until interrupted."""
        try:
            await self._try_models(generation, batch)
            made_at = asyncio.get_running_loop().time()
            await self._keep(generation)
            self._note_pace(generation, asyncio.get_running_loop().time() - made_at)
            await self._end(generation, "succeeded")
        except ShuttingDown:
            pass  # interrupted while it waited
        except ServiceError as error:
            if generation.request.placeholder and error.falls_back:
                await self._stand_in(generation)
            await self._end(generation, "failed", error)
        except asyncio.CancelledError:
            if not generation.is_cancelled:
                raise
            is_known = generation.last is None or not isinstance(generation.last.error, OutcomeUnknown)
            detail = "It was cancelled." + (
                "" if is_known else " Whether it had begun is not known: it may be billed."
            )
            await self._end(generation, "canceled", GenerationFailed(detail))
        except Exception:
            log.exception("generation_crashed", generation=generation.id, request=generation.request_id)
            await self._end(generation, "failed", Internal())

    def move(self, generation: Generation, state: State) -> None:
        """Put a transition on record; whoever acts on it waits for the disk first."""
        changed, generation.state = generation.state != state, state
        if state in {"queued", "submitting"}:
            generation.progress = None  # of an attempt before
        self._ledger.note("generations", generation)
        if changed:
            for listener in generation.listeners:
                listener(generation)

    async def announce(self, delivery: Delivery | None) -> None:
        """See what was put to the disk, and then have the webhook told."""
        try:
            try:
                await self._ledger.synced()
            except asyncio.CancelledError:  # it has ended all the same
                await to_the_end(self._ledger.synced())
        except LedgerDown as down:
            # It has happened, and stays put: after a crash the next process comes to know the same.
            log.error("end_not_on_record", reason=str(down))
        if delivery is not None:
            self._deliver(delivery)

    def delivery(self, owner: str, url: str | None) -> Delivery | None:
        """What is to be delivered to a webhook, put on record: before the end that it tells of, or a crash between
        the two would lose it."""
        if url is None:
            return None
        delivery = Delivery(owner, url, since=time.time())
        self._ledger.put("deliveries", delivery.as_row())
        return delivery

    async def _try_models(self, generation: Generation, batch: Batch | None) -> None:
        """Try the models that it may be made by until one makes it. Raises what the last that was tried failed for, and
        only if none was, what the last was passed over for."""
        request = generation.request
        tried = list(dict.fromkeys(each.model for each in generation.tries))
        begun, generation.at = generation.at, generation.at or request.first.model
        step = request.first
        if request.route and generation.at is not request.first.model:
            step = request.route.step(generation.at)  # which a process before this one had come to
        failure: ServiceError | None = None
        while True:
            tried.append(step.model)
            why = None if step.model is begun else self._passed_over(generation, step, batch)
            if why is None:
                try:
                    return await self._try_model(generation, step, batch)
                except ServiceError as error:
                    why = failure = error
            following = (
                request.route.after(tried, code=why.code) if request.route and why.falls_back else None
            )
            if following is None:
                raise failure or why
            step = following
            generation.at = step.model
            self.move(generation, "queued")

    def _passed_over(self, generation: Generation, step: Step, batch: Batch | None) -> ServiceError | None:
        """What a model is passed over for, if it is: it is told of all the same."""
        reason = step.unfit or self._too_dear(generation, step, batch)
        if reason is None:
            return None
        error = InvalidRequest([Problem("fallback", reason)])
        generation.tries.append(Attempt(step.model, step.input, step.changes, error=error, passed_over=True))
        return error

    def _too_dear(self, generation: Generation, step: Step, batch: Batch | None) -> str | None:
        """Which limit it would not keep; otherwise what it may cost is reserved."""
        if step.model is generation.request.first.model:
            return None  # it was allowed when it was accepted
        cost = generation.cost + step.model.cost(step.input)  # a try that ran out of time is paid for, too
        more = max(0.0, cost - generation.reserved)
        with_it = f"With {step.model.short_name}"
        try:
            check_cost(cost, generation.request.max_cost, where=f"{with_it} it")
            if batch is not None and batch.max_cost is not None:
                check_cost(batch.expected_cost + more, batch.max_cost, where=f"{with_it} the batch")
            generation.reserved += self._budget.reserve(more)
        except BudgetExceeded as error:
            return error.detail
        return None

    async def _try_model(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Try one model until it makes something, or patience ends."""
        failures = throttled = 0
        while True:
            try:
                last = generation.last
                if last is not None and last.is_open:
                    return await self._attempts.resume(generation, last, batch)
                return await self._attempts.make(generation, step, batch)
            except TryAgain as again:
                failures += not again.throttled
                throttled += again.throttled
                if failures >= MAX_ATTEMPTS or throttled >= MAX_THROTTLED:
                    if again.unreachable:  # no other model is any nearer
                        again.error.falls_back = False
                    raise again.error from None
                self.move(generation, "queued")
                wait = again.wait
                if wait is None:
                    doubled = self._first_backoff * 2 ** min(failures + throttled - 1, 5)
                    wait = doubled * random.uniform(0.5, 1)  # noqa: S311
                if again.throttled or again.unreachable:
                    self._gate.pause(generation.caller.id, wait)
                else:
                    await asyncio.sleep(wait)
            except AccountError as error:
                if batch is not None:
                    refuse = partial(type(error), error.detail)
                    self._gate.dismiss(generation.caller.id, batch.id, refuse)
                raise

    async def _keep(self, generation: Generation) -> None:
        """Fetch what was made. It is made and paid for, so no trouble here is its failure."""
        if self._keeper is None or generation.prediction is None:
            return
        self.keeping += 1
        try:
            if (life := asyncio.current_task()) and life.cancelling():
                raise asyncio.CancelledError  # it was done when it was to be cancelled; there is no time for more
            kept = await self._keeper.keep(generation.id, generation.prediction.outputs)
        except asyncio.CancelledError:
            if not generation.is_cancelled:
                raise
            kept = Kept((), "It was cancelled before everything was fetched.")
        finally:
            self.keeping -= 1
        generation.files = tuple(name for name in kept.names if name is not None)
        generation.files_error = kept.error

    def _note_pace(self, generation: Generation, kept_in: float) -> None:
        """Let plans go by what it took. Whatever had to be tried more than once is no example."""
        attempt = generation.last
        if generation.attempts == 1 and attempt is not None and attempt.answered:
            took = Took(attempt.held, after=kept_in, answered=attempt.answered)
            self._gate.durations.note(attempt.model.name, took)

    async def _stand_in(self, generation: Generation) -> None:
        """A black picture, for those who said that they would rather have that than nothing."""
        picture = black_png(*PLACEHOLDER)
        link = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        if self._keeper is not None:
            try:
                link = await self._keeper.put(generation.id, 0, picture)
            except (OSError, asyncio.CancelledError):
                generation.files_error = "The placeholder could not be kept."
        generation.files, generation.placeholder = (link,), True

    async def _end(self, generation: Generation, state: State, error: ServiceError | None = None) -> None:
        generation.ended_at = asyncio.get_running_loop().time()
        generation.error = error
        self._budget.settle(reserved=generation.reserved, cost=generation.cost)
        self.tally.ended[state] += 1
        delivery = self.delivery(generation.id, generation.request.webhook)
        self.move(generation, state)
        await self.announce(delivery)
        log.info(
            "generation_ended",
            generation=generation.id,
            request=generation.request_id,
            state=state,
            model=generation.model.name,
            attempts=generation.attempts,
            prediction=generation.prediction_id,
            code=error and error.code,
        )
