"""The life of one generation, and of a batch.

    queued → submitting → running → succeeded | failed | canceled

One admission is one attempt: the slot and the place it got go back before the next attempt asks for its own,
so the limits hold for retries too. What is tried again is only what certainly was not started (refused, never
connected) or failed for a passing reason that the model itself names; a refused prompt never is.

Whoever stops waiting costs nothing. Cancelled while queued, a generation leaves no trace; cancelled while
its creation is on its way, the answer is awaited and what it started is cancelled; cancelled while running, it
is cancelled at Replicate too, for a prediction nobody waits for still bills.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeVar

import structlog

from auth import Caller
from concurrency import Gate, Lease
from errors import (
    AccountError,
    GenerationTimeout,
    Internal,
    QueueFull,
    ServiceError,
    ShuttingDown,
)
from parsing import BatchRequest, GenerationRequest
from providers import Prediction, Provider, TryAgain
from providers.outcomes import raise_unless_made

T = TypeVar("T")
State = Literal["queued", "submitting", "running", "succeeded", "failed", "canceled"]

MAX_ATTEMPTS: Final = 4
MAX_THROTTLED: Final = 20
"""Refusals for the account's rate that one generation sits out; each comes after the wait it asked for."""

FIRST_BACKOFF: Final = 0.5
"""Seconds, at most, before the second attempt when Replicate names no time; it doubles up to 32-fold."""

CANCEL_AFTER_MARGIN: Final = 10.0
"""Seconds that Replicate's deadline, the safety net, is later than our own, up to its 30 minutes."""

log = structlog.get_logger("generation")


@dataclass(eq=False, slots=True)
class Generation:
    """One generation, from acceptance to its end. Times are the loop's, in seconds."""

    id: str
    request: GenerationRequest
    caller: Caller
    request_id: str
    accepted_at: float
    state: State = "queued"
    attempts: int = 0
    queued: float = 0.0
    predicting: float = 0.0
    """Seconds waited for admission, and held a slot, over all attempts. Back-off between them is neither."""
    ended_at: float | None = None
    prediction: Prediction | None = None
    error: ServiceError | None = None

    @property
    def succeeded(self) -> bool:
        return self.state == "succeeded"

    def result(self, *, simulated: bool) -> dict[str, Any]:
        """What the caller is told once it has ended."""
        told = {
            "success": self.succeeded,
            **self.told(),
            "simulated": simulated,
        }
        if self.error is not None:
            return told | {"error": self.error.as_item()}
        outputs = self.prediction.outputs if self.prediction else ()
        cost = self.request.model.price.of(len(outputs))
        return told | {"output": list(outputs), "count": len(outputs), "cost_usd": cost}

    def told(self) -> dict[str, Any]:
        """What is told of it however it ended, beside an error too."""
        return {
            "id": self.id,
            "status": self.state,
            "model_name": self.request.model.name,
            "requested_model": self.request.requested_model,
            "prompt": self.request.prompt,
            "prediction_id": self.prediction.id if self.prediction else None,
            "attempts": self.attempts,
            "timing": {name: round(seconds, 3) for name, seconds in self._timing().items()},
        }

    def _timing(self) -> dict[str, float]:
        end = self.accepted_at if self.ended_at is None else self.ended_at
        return {"queued": self.queued, "predicting": self.predicting, "total": end - self.accepted_at}


@dataclass(eq=False, slots=True)
class Batch:
    """Generations that were asked for together, in input order."""

    id: str
    generations: list[Generation]
    max_concurrent: int | None

    def summary(self) -> dict[str, Any]:
        succeeded = sum(generation.succeeded for generation in self.generations)
        total = len(self.generations)
        return {
            "success": succeeded == total,
            "id": self.id,
            "total": total,
            "succeeded": succeeded,
            "failed": total - succeeded,
        }

    def item(self, index: int, *, simulated: bool) -> dict[str, Any]:
        return {"index": index, **self.generations[index].result(simulated=simulated)}


@dataclass(slots=True)
class Tally:
    """How generations ended since the service started."""

    ended: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, int]:
        return {state: self.ended[state] for state in ("succeeded", "failed", "canceled")}


class Generations:
    """Runs generations through the gate and a provider. Lives on the loop.

    `timeout` (seconds) is for predictions whose request names none. `on_change` hears of every transition
    once it has happened.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        gate: Gate,
        timeout: float,
        max_queued: int,
        first_backoff: float = FIRST_BACKOFF,
        on_change: Callable[[Generation], None] = lambda generation: None,
    ) -> None:
        self._provider = provider
        self._gate = gate
        self._timeout = timeout
        self._max_queued = max_queued
        self._first_backoff = first_backoff
        self._on_change = on_change
        self._lives: set[asyncio.Task[None]] = set()
        self._drain_began = asyncio.Event()
        self.tally = Tally()

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
        caller: Caller,
        request_id: str,
        tell: Callable[[Batch, int], object] = lambda batch, index: None,
    ) -> Batch:
        """Run a batch to its end; `tell` hears of each item as it ends. Raises QueueFull or ShuttingDown."""
        self._make_room(len(request.requests))
        generations = [self._accept(item, caller, request_id) for item in request.requests]
        batch = Batch("batch_" + secrets.token_hex(16), generations, request.max_concurrent)
        lives = []
        for index, generation in enumerate(generations):
            life = self._begin(generation, batch)
            life.add_done_callback(lambda _, index=index: tell(batch, index))  # type: ignore[misc]
            lives.append(life)
        # With `return_exceptions`, or a cancelled batch would return at its first cancelled item, while the
        # rest still ends.
        await asyncio.gather(*lives, return_exceptions=True)
        return batch

    async def drain(self, seconds: float) -> None:
        """Take nothing new, refuse what is queued, give what runs so long to finish, and cancel the rest."""
        self._drain_began.set()
        self._gate.close(self._shutting_down)
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
        waiting = len(self._lives) - self._gate.statistics().current_concurrent
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
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return life

    async def _live(self, generation: Generation, batch: Batch | None) -> None:
        try:
            await self._attempts(generation, batch)
            self._end(generation, "succeeded")
        except ShuttingDown as error:
            self._end(generation, "canceled", error)
        except ServiceError as error:
            self._end(generation, "failed", error)
        except asyncio.CancelledError:
            self._end(generation, "canceled", self._shutting_down() if self._is_draining else None)
            if not self._is_draining:
                raise
        except Exception:
            log.exception("generation_crashed", generation=generation.id, request=generation.request_id)
            self._end(generation, "failed", Internal())

    async def _attempts(self, generation: Generation, batch: Batch | None) -> None:
        failures = throttled = 0
        while True:
            try:
                return await self._attempt(generation, batch)
            except TryAgain as again:
                failures += not again.throttled
                throttled += again.throttled
                if failures >= MAX_ATTEMPTS or throttled >= MAX_THROTTLED:
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

    async def _sleep(self, seconds: float) -> None:
        """Raises ShuttingDown when a drain begins meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._drain_began.wait()
            raise self._shutting_down()

    async def _attempt(self, generation: Generation, batch: Batch | None) -> None:
        clock = asyncio.get_running_loop().time
        generation.prediction = None
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
        with lease:
            generation.attempts += 1
            limit = generation.request.timeout or self._timeout
            try:
                generation.prediction = await self._create(generation, lease, limit)
                self._move(generation, "running")
                generation.prediction = await self._watch(generation, generation.prediction, limit)
            finally:
                generation.predicting += clock() - admitted
        raise_unless_made(generation.prediction)

    async def _create(self, generation: Generation, lease: Lease, limit: float) -> Prediction:
        self._move(generation, "submitting")
        creation = asyncio.create_task(
            self._provider.create(
                generation.caller,
                generation.request,
                lease=lease,
                cancel_after=limit + CANCEL_AFTER_MARGIN,
            )
        )
        try:
            created = await asyncio.shield(creation)
        except asyncio.CancelledError:
            await _to_the_end(self._undo(generation.caller, creation))
            raise
        self._gate.proceed(generation.caller.id, exhausted_for=created.exhausted_for)
        return created.prediction

    async def _undo(self, caller: Caller, creation: "asyncio.Task[Any]") -> None:
        """It may be paid for already: hear what became of it, and cancel that."""
        try:
            created = await creation
        except (TryAgain, ServiceError):
            return
        await self._provider.cancel(caller, created.prediction)

    async def _watch(self, generation: Generation, prediction: Prediction, limit: float) -> Prediction:
        caller, model = generation.caller, generation.request.model.name
        try:
            async with asyncio.timeout(limit):
                return await self._provider.finished(caller, prediction, model=model)
        except TimeoutError:
            told = await _to_the_end(self._provider.cancel(caller, prediction))
            if told is not None and told.status == "succeeded" and told.outputs:
                return told  # it was done after all, and is paid for
            raise GenerationTimeout(f"It was cancelled after {limit:g} seconds.") from None
        except BaseException:
            await _to_the_end(self._provider.cancel(caller, prediction))
            raise

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
            model=generation.request.model.name,
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


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait until it is done, however often the waiting is cancelled: what it stops is billed for."""
    task = asyncio.create_task(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
