"""The life of one generation, and of a batch.

    queued → submitting → running → succeeded | failed | canceled

One admission is one attempt: the slot and the place it got go back before the next attempt asks for its own,
so the limits hold for retries too. What is tried again is only what certainly was not started (refused, never
connected) or failed for a passing reason that the model itself names; a refused prompt never is.

Whoever asked for a fallback has a failure turned into an attempt of another model (`fallback.py`), admitted anew like
any other. What was made is fetched and kept before anybody is told, but after the slot is free.

Whoever stops waiting costs nothing. Cancelled while queued, a generation leaves no trace; cancelled while
its creation is on its way, the answer is awaited and what it started is cancelled; cancelled while running, it
is cancelled at Replicate too, for a prediction nobody waits for still bills.
"""

import asyncio
import base64
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import structlog

from adaptation import Step
from attempts import Attempts
from auth import Caller
from concurrency import Gate, Outlook
from errors import (
    AccountError,
    Internal,
    InvalidRequest,
    Problem,
    QueueFull,
    ServiceError,
    ShuttingDown,
)
from files import Kept
from intake.shapes import BatchRequest, GenerationRequest
from media import black_png
from planning import Pace, Plan
from providers import Provider, TryAgain
from records import Attempt, Batch, Generation, State

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


class Generations:
    """Runs generations through the gate and a provider. Lives on the loop.

    `keeper` keeps what they made, if anything is to be kept; `timeout` (seconds) is for predictions whose request
    names none. `on_change` hears of every transition once it has happened.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        gate: Gate,
        timeout: float,
        max_queued: int,
        keeper: Keeper | None = None,
        first_backoff: float = FIRST_BACKOFF,
        on_change: Callable[[Generation], None] = lambda generation: None,
    ) -> None:
        self._attempts = Attempts(provider=provider, gate=gate, timeout=timeout, move=self._move)
        self._gate = gate
        self._keeper = keeper
        self._max_queued = max_queued
        self._first_backoff = first_backoff
        self._on_change = on_change
        self._lives: dict[asyncio.Task[None], Generation] = {}
        self._keeping = 0
        self._drain_began = asyncio.Event()
        self.tally = Tally()
        self.pace = Pace()

    async def run(self, request: GenerationRequest, *, caller: Caller, request_id: str) -> Generation:
        """Run one generation to its end; how it ended is in it. Raises QueueFull or ShuttingDown at once."""
        self._make_room(1)
        generation = self._accept(request, caller, request_id)
        await self._begin(generation, None)
        return generation

    async def run_batch(
        self,
        request: BatchRequest,
        *,
        plan: Plan,
        caller: Caller,
        request_id: str,
        tell: Callable[[Batch, int], object] = lambda batch, index: None,
    ) -> Batch:
        """Run a batch to its end; `tell` hears of each item as it ends. Raises QueueFull or ShuttingDown."""
        self._make_room(len(request.requests))
        generations = [self._accept(item, caller, request_id) for item in request.requests]
        batch_id, now = "batch_" + secrets.token_hex(16), asyncio.get_running_loop().time()
        batch = Batch(batch_id, generations, request.max_concurrent, plan, now)
        lives = []
        for index, generation in enumerate(generations):
            life = self._begin(generation, batch)
            life.add_done_callback(lambda _, index=index: tell(batch, index))  # type: ignore[misc]
            lives.append(life)
        # With `return_exceptions`, or a cancelled batch would return at its first cancelled item, while the
        # rest still ends.
        await asyncio.gather(*lives, return_exceptions=True)
        batch.ended_at = asyncio.get_running_loop().time()
        return batch

    def outlook(self, caller: Caller, wanted: int) -> Outlook:
        """What a plan for so many generations of this caller goes by. Raises QueueFull or ShuttingDown if they would
        not be taken."""
        self._make_room(wanted)
        return self._gate.outlook(caller.id)

    async def drain(self, seconds: float) -> None:
        """Take nothing new, refuse what is queued, give what runs so long to finish, and cancel the rest."""
        self._drain_began.set()
        self._gate.close(self._shutting_down)
        for life, generation in self._lives.items():
            if generation.state == "queued":  # also those who are still uploading
                life.cancel()
        if self._lives:
            await asyncio.wait(self._lives, timeout=seconds)
        left = list(self._lives)
        for life in left:
            life.cancel()
        if left:
            log.warning("drain_cancelled", generations=len(left))
            await asyncio.wait(left)

    @property
    def _is_draining(self) -> bool:
        return self._drain_began.is_set()

    def _make_room(self, wanted: int) -> None:
        if self._is_draining:
            raise self._shutting_down()
        waiting = len(self._lives) - self._gate.statistics().current_concurrent - self._keeping
        too_many = waiting + wanted - self._max_queued
        if too_many > 0:
            raise QueueFull(
                f"{waiting} generations are waiting, this adds {wanted}, and at most {self._max_queued} may wait.",
                retry_after=self._gate.seconds_per_release() * too_many,
                retryable=wanted <= self._max_queued,
            )

    def _accept(self, request: GenerationRequest, caller: Caller, request_id: str) -> Generation:
        now = asyncio.get_running_loop().time()
        return Generation("gen_" + secrets.token_hex(16), request, caller, request_id, now)

    def _begin(self, generation: Generation, batch: Batch | None) -> asyncio.Task[None]:
        life = asyncio.create_task(self._live(generation, batch))
        self._lives[life] = generation
        life.add_done_callback(self._lives.pop)
        return life

    async def _live(self, generation: Generation, batch: Batch | None) -> None:
        try:
            await self._try_models(generation, batch)
            made_at = asyncio.get_running_loop().time()
            await self._keep(generation)
            self._note_pace(generation, asyncio.get_running_loop().time() - made_at)
            self._end(generation, "succeeded")
        except ShuttingDown as error:
            self._end(generation, "canceled", error)
        except ServiceError as error:
            if generation.request.placeholder and error.falls_back:
                await self._stand_in(generation)
            self._end(generation, "failed", error)
        except asyncio.CancelledError:
            self._end(generation, "canceled", self._shutting_down() if self._is_draining else None)
            if not self._is_draining:
                raise
        except Exception:
            log.exception("generation_crashed", generation=generation.id, request=generation.request_id)
            self._end(generation, "failed", Internal())

    async def _try_models(self, generation: Generation, batch: Batch | None) -> None:
        """Try the models that it may be made by until one makes it. Raises what the last one failed for."""
        request, tried = generation.request, []
        step: Step | None = request.first
        while step is not None:
            tried.append(step.model)
            failure: ServiceError
            try:
                if step.unfit:
                    raise _passed_over(generation, step, step.unfit)
                return await self._try_model(generation, step, batch)
            except ServiceError as error:
                failure = error
            step = (
                request.route.after(tried, code=failure.code)
                if request.route and failure.falls_back
                else None
            )
        raise failure

    async def _try_model(self, generation: Generation, step: Step, batch: Batch | None) -> None:
        """Try one model until it makes something, or patience ends."""
        failures = throttled = 0
        while True:
            try:
                return await self._attempts.make(generation, step, batch)
            except TryAgain as again:
                failures += not again.throttled
                throttled += again.throttled
                if failures >= MAX_ATTEMPTS or throttled >= MAX_THROTTLED:
                    if again.unreachable:  # no other model is any nearer
                        again.error.falls_back = False
                    raise again.error from None
                self._move(generation, "queued")
                wait = again.wait
                if wait is None:
                    doubled = self._first_backoff * 2 ** min(failures + throttled - 1, 5)
                    wait = doubled * random.uniform(0.5, 1)  # noqa: S311
                if again.throttled or again.unreachable:
                    self._gate.pause(generation.caller.id, wait)
                else:
                    await self._sleep(wait)
            except AccountError as error:
                if batch is not None:
                    refuse = partial(type(error), error.detail)
                    self._gate.dismiss(generation.caller.id, batch.id, refuse)
                raise

    async def _keep(self, generation: Generation) -> None:
        """Fetch what was made. It is made and paid for, so no trouble here is its failure."""
        if self._keeper is None or generation.prediction is None:
            return
        self._keeping += 1
        try:
            if (life := asyncio.current_task()) and life.cancelling():
                raise asyncio.CancelledError  # it was done when it was to be cancelled; there is no time for more
            kept = await self._keeper.keep(generation.id, generation.prediction.outputs)
        except asyncio.CancelledError:
            kept = Kept((), "The service stopped before everything was fetched.")
        finally:
            self._keeping -= 1
        generation.files = tuple(name for name in kept.names if name is not None)
        generation.files_error = kept.error

    def _note_pace(self, generation: Generation, kept_in: float) -> None:
        """Let plans go by what it took. Whatever had to be tried more than once is no example."""
        if generation.attempts == 1:
            (attempt,) = generation.tries
            self.pace.note(attempt.model.name, held=attempt.held, after=kept_in, answered=attempt.answered)

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

    async def _sleep(self, seconds: float) -> None:
        """Raises ShuttingDown when a drain begins meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._drain_began.wait()
            raise self._shutting_down()

    def _end(self, generation: Generation, state: State, error: ServiceError | None = None) -> None:
        generation.ended_at = asyncio.get_running_loop().time()
        generation.error = error
        self.tally.ended[state] += 1
        self._move(generation, state)
        log.info(
            "generation_ended",
            generation=generation.id,
            request=generation.request_id,
            state=state,
            model=generation.model.name,
            attempts=generation.attempts,
            prediction=generation.prediction and generation.prediction.id,
            code=error and error.code,
        )

    def _move(self, generation: Generation, state: State) -> None:
        if generation.state != state:
            generation.state = state
            self._on_change(generation)

    def _shutting_down(self) -> ShuttingDown:
        return ShuttingDown("The service is shutting down and did not finish this.", retry_after=5)


def _passed_over(generation: Generation, step: Step, reason: str) -> ServiceError:
    """A model that is not tried after all still is told of."""
    error = InvalidRequest([Problem("fallback", reason)])
    generation.tries.append(Attempt(step.model, step.input, step.changes, error=error))
    return error
