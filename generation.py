"""The generations and batches that are alive in this process: accepted, waited for, cancelled, gone on with, drained.

Whoever asks and whoever lives are two things. A generation is accepted and put on record; from then on it lives by
itself (`life.py`), and callers wait for it, some for a while, some not at all. If nobody could come back for it (no
idempotency key, no webhook, nobody was told its id), whoever stops waiting cancels it: queued it costs nothing, running
it is cancelled at Replicate, for a prediction that nobody waits for still bills.

When the service stops, what is queued stays on record for the next start, and so does what still runs after the drain's
time. When it starts, `resume` goes on with what the process before left.
"""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Final, Literal, cast

import structlog

from admission.forecast import Plan
from admission.policy import GateSnapshot
from attempts import Ledger, to_the_end
from auth import Caller
from budget import Budget, check_cost
from callbacks import Delivery
from concurrency import Gate
from errors import LedgerDown, QueueFull, ShuttingDown
from intake.shapes import BatchRequest, GenerationRequest
from life import FIRST_BACKOFF, Keeper, Lives
from providers import Provider
from records import Batch, Generation
from telling import View

RETRY_AFTER: Final = 5
"""Seconds after which the next process likely is there."""

log = structlog.get_logger("generation")

_NOWHERE: Final = View(simulated=False, address="")


def new_id(kind: Literal["gen", "batch"]) -> str:
    """An id that nobody can guess."""
    return f"{kind}_{secrets.token_hex(16)}"


class Generations:
    """Everything alive. Lives on the loop.

    `keeper` keeps what is made, if anything is to be kept; `timeout` (seconds) is for predictions whose request names
    none; `callback` gives the URL by which Replicate tells of an attempt, `deliver` hears of results that a caller's
    webhook waits for, and `let_go` of whoever has ended.
    """

    def __init__(
        self,
        *,
        provider: Provider,
        gate: Gate,
        ledger: Ledger,
        timeout: float,
        max_queued: int,
        budget: Budget | None = None,
        keeper: Keeper | None = None,
        first_backoff: float = FIRST_BACKOFF,
        callback: Callable[[str, int], str] | None = None,
        deliver: Callable[[Delivery], None] = lambda delivery: None,
        let_go: Callable[[Generation | Batch], None] = lambda work: None,
    ) -> None:
        self._budget = budget or Budget()
        self._lives = Lives(
            provider=provider, gate=gate, ledger=ledger, budget=self._budget, timeout=timeout, keeper=keeper,
            first_backoff=first_backoff, callback=callback, deliver=deliver,
        )  # fmt: skip
        self._gate = gate
        self._ledger = ledger
        self._max_queued = max_queued
        self._let_go = let_go
        self._alive: dict[str, tuple[asyncio.Task[None], Generation]] = {}
        self._batches: dict[str, tuple[asyncio.Task[None], Batch]] = {}
        self._interrupted: dict[str, Generation | Batch] = {}
        """What a stop has left to the next process."""
        self._is_draining = False
        self.tally = self._lives.tally

    # ── Accepted

    def accept(
        self,
        request: GenerationRequest,
        *,
        caller: Caller,
        request_id: str,
        view: View = _NOWHERE,
        generation_id: str | None = None,
        written: str | None = None,
        is_wanted: bool = False,
    ) -> Generation:
        """Take on one generation, which then lives by itself; it is on its way to the disk, and nothing is sent before.

        Raises QueueFull, ShuttingDown, LedgerDown or BudgetExceeded, and nothing has begun."""
        self._make_room(1)
        cost = request.model_cost
        check_cost(cost, request.max_cost)
        generation = Generation(
            id=generation_id or new_id("gen"),
            request=request,
            caller=caller,
            request_id=request_id,
            accepted_at=asyncio.get_running_loop().time(),
            view=view,
            written=_text(request.given) if written is None else written,
            is_wanted=is_wanted or request.webhook is not None,
            reserved=self._budget.reserve(cost),
        )
        self._ledger.note("generations", generation)
        self._begin(generation, None)
        return generation

    def accept_batch(
        self,
        request: BatchRequest,
        *,
        plan: Plan,
        caller: Caller,
        request_id: str,
        view: View = _NOWHERE,
        batch_id: str | None = None,
        written: Sequence[str] | None = None,
        is_wanted: bool = False,
    ) -> Batch:
        """Take on a batch. `written` is what its items share, and then each item. Raises as `accept`."""
        self._make_room(len(request.requests))
        costs = [each.model_cost for each in request.requests]
        check_cost(sum(costs), request.max_cost, where="The batch")
        for index, (each, cost) in enumerate(zip(request.requests, costs, strict=True)):
            check_cost(cost, each.max_cost, where=f"requests[{index}]")
        self._budget.reserve(sum(costs))
        batch_id, now = batch_id or new_id("batch"), asyncio.get_running_loop().time()
        shared, *own = written or (_text(request.shared), *(_text(each.given) for each in request.requests))
        generations = [
            Generation(
                id=new_id("gen"),
                request=each,
                caller=caller,
                request_id=request_id,
                accepted_at=now,
                view=view,
                written=text,
                batch=batch_id,
                position=position,
                is_wanted=each.webhook is not None,
                reserved=cost,
            )
            for position, (each, text, cost) in enumerate(zip(request.requests, own, costs, strict=True))
        ]
        batch = Batch(
            id=batch_id, generations=generations, caller=caller, max_concurrent=request.max_concurrent,
            max_cost=request.max_cost, plan=plan, accepted_at=now, view=view, written=shared, webhook=request.webhook,
            is_wanted=is_wanted or request.webhook is not None,
        )  # fmt: skip
        self._ledger.note("batches", batch)
        for generation in generations:
            self._ledger.note("generations", generation)
        self._begin_batch(batch, generations)
        return batch

    async def recorded(self, work: Generation | Batch) -> None:
        """Wait until what was accepted is on the disk. Raises LedgerDown, and it was not accepted after all."""
        try:
            await self._ledger.synced()
        except LedgerDown:
            self.cancel(work)
            raise
        for generation in work.generations if isinstance(work, Batch) else [work]:
            if isinstance(generation, Generation):
                generation.is_on_record = True

    def resume(self, generations: Iterable[Generation], batches: Iterable[Batch] = ()) -> None:
        """Go on with what a process before this one left, unless that lives here already."""
        for batch in batches:
            if batch.id not in self._batches:
                batch.accepted_at = _as_the_loop_tells(batch.born)
                alive = [each for each in batch.generations if isinstance(each, Generation)]
                for generation in alive:
                    self._take_up(generation)
                self._begin_batch(batch, alive)
        for generation in generations:
            if generation.id not in self._alive:
                self._take_up(generation)
                self._begin(generation, None)

    # ── Waited for

    async def attend(self, work: Generation | Batch, *, seconds: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds. Raises ShuttingDown if it will not end in this process.

        Whoever stops waiting (is cancelled) has it cancelled, unless it is wanted without them; whoever has waited long
        enough may come back, so it goes on."""
        if (task := self.task(work)) is not None:
            try:
                _, still = await asyncio.wait([task], timeout=seconds)
                if still:
                    work.is_wanted = True
                    return
            except asyncio.CancelledError:
                if not work.is_wanted and (abandoned := self.abandon(work)):
                    await to_the_end(asyncio.wait(abandoned))
                raise
        if self._is_draining and not work.has_ended:
            with suppress(LedgerDown):
                await to_the_end(self._ledger.synced())  # whoever is told of it shall find it
            raise self.shutting_down()

    def follow(self, batch: Batch, tell: Callable[[Batch, int], object]) -> None:
        """Have each item of a batch told of as it ends; those that have ended at once."""
        for index, generation in enumerate(batch.generations):
            alive = self._alive.get(generation.id)
            if alive is None:
                tell(batch, index)
            else:
                alive[0].add_done_callback(lambda _, index=index: tell(batch, index))  # type: ignore[misc]

    def find(self, generation_id: str) -> Generation | None:
        """One that is alive."""
        return self._alive[generation_id][1] if generation_id in self._alive else None

    def find_batch(self, batch_id: str) -> Batch | None:
        return self._batches[batch_id][1] if batch_id in self._batches else None

    def cancel(self, work: Generation | Batch) -> None:
        """Nobody wants it any more: what it runs is cancelled, by the next process if a stop has left it to that."""
        for generation in _unfinished(work):
            if not generation.is_cancelled:
                generation.is_cancelled = True
                self._ledger.note("generations", generation)  # or it would be gone on with
                if (task := self.task(generation)) is not None:
                    _cancel(task)

    def abandon(self, work: Generation | Batch) -> list[asyncio.Task[None]]:
        """Cancel it, since whoever waited for it is gone, but not what somebody can come back for of a batch. What ends
        with what was cancelled."""
        abandoned = [each for each in _unfinished(work) if each is work or not each.is_wanted]
        for generation in abandoned:
            self.cancel(generation)
        return [task for each in abandoned if (task := self.task(each)) is not None]

    def interrupted(self, target: str) -> Generation | Batch | None:
        """What a stop has left to the next process, until this one ends."""
        return self._interrupted.get(target)

    def snapshot(self, more: int) -> GateSnapshot:
        """The gate, for a plan of so many generations more. Raises QueueFull, LedgerDown or ShuttingDown if they would
        not be taken."""
        self._make_room(more)
        return self._gate.snapshot()

    def task(self, work: Generation | Batch) -> asyncio.Task[None] | None:
        """What ends when it has ended or was interrupted; None if it is not alive."""
        alive = self._batches if isinstance(work, Batch) else self._alive
        return alive[work.id][0] if work.id in alive else None

    def behind(self, generation: Generation) -> int:
        """How many of its caller and batch wait that came before it."""
        behind = 0
        for _, other in self._alive.values():
            if other is generation:
                break
            same = (other.caller.id, other.batch) == (generation.caller.id, generation.batch)
            behind += same and other.state == "queued"
        return behind

    # ── Drained

    async def drain(self, seconds: float) -> None:
        """Take nothing new, leave what is queued on record, and what still runs after so many seconds too."""
        self._is_draining = True
        self._gate.close(self.shutting_down)
        for task, generation in list(self._alive.values()):
            if generation.state == "queued":  # also those who are still uploading
                task.cancel()
        await self._waited(seconds)
        if self._alive:
            log.warning("drain_left", generations=len(self._alive))
        for task, _ in list(self._alive.values()):
            task.cancel()
        await self._waited(None)

    async def _waited(self, seconds: float | None) -> None:
        if tasks := [task for task, _ in [*self._alive.values(), *self._batches.values()]]:
            await asyncio.wait(tasks, timeout=seconds)

    def shutting_down(self) -> ShuttingDown:
        return ShuttingDown(
            "The service is shutting down and has not finished this; the next one goes on with it.",
            retry_after=RETRY_AFTER,
        )

    def _make_room(self, wanted: int) -> None:
        if self._is_draining:
            raise ShuttingDown(retry_after=RETRY_AFTER)
        if self._ledger.trouble is not None:
            raise LedgerDown(f"{self._ledger.trouble} Nothing was spent.")
        waiting = len(self._alive) - self._gate.statistics().current_concurrent - self._lives.keeping
        too_many = waiting + wanted - self._max_queued
        if too_many > 0:
            raise QueueFull(
                f"{waiting} generations are waiting, this adds {wanted}, and at most {self._max_queued} may wait.",
                retry_after=self._gate.seconds_per_release() * too_many,
                retryable=wanted <= self._max_queued,
            )

    def _take_up(self, generation: Generation) -> None:
        generation.is_on_record = generation.is_wanted = True
        generation.accepted_at = _as_the_loop_tells(generation.born)
        self._budget.hold(generation.reserved)
        self._ledger.note("generations", generation)  # it waits for its owner no more

    def _begin(self, generation: Generation, batch: Batch | None) -> asyncio.Task[None]:
        task = asyncio.create_task(self._lives.live(generation, batch))
        self._alive[generation.id] = task, generation
        if generation.is_cancelled:  # in the process before
            _cancel(task)
        task.add_done_callback(lambda _: self._gone(generation))
        return task

    def _begin_batch(self, batch: Batch, generations: Sequence[Generation]) -> None:
        tasks = [self._begin(generation, batch) for generation in generations]
        task = asyncio.create_task(self._live_batch(batch, tasks))
        self._batches[batch.id] = task, batch
        task.add_done_callback(lambda _: self._gone(batch))

    async def _live_batch(self, batch: Batch, tasks: Sequence[asyncio.Task[None]]) -> None:
        if tasks:
            await asyncio.wait(tasks)
        if all(generation.has_ended for generation in batch.generations):
            batch.ended_at = asyncio.get_running_loop().time()
            delivery = self._lives.delivery(batch.id, batch.webhook)
            self._ledger.note("batches", batch)
            await self._lives.announce(delivery)

    def _gone(self, work: Generation | Batch) -> None:
        if isinstance(work, Batch):
            del self._batches[work.id]
        else:
            del self._alive[work.id]
        if work.has_ended:
            self._let_go(work)
        else:
            self._interrupted[work.id] = work


def _unfinished(work: Generation | Batch) -> list[Generation]:
    generations = work.generations if isinstance(work, Batch) else [work]
    return [each for each in generations if isinstance(each, Generation) and not each.has_ended]


def _cancel(task: asyncio.Task[None]) -> None:
    """At once, so that it takes no other step, but not before its first: what never began never ends in order."""
    life = cast("Coroutine[Any, Any, None]", task.get_coro())
    if getcoroutinestate(life) == CORO_CREATED:
        asyncio.get_running_loop().call_soon(task.cancel)
    else:
        task.cancel()


def _as_the_loop_tells(moment: float) -> float:
    """A Unix time by the loop's clock."""
    return asyncio.get_running_loop().time() - (time.time() - moment)


def _text(given: object) -> str:
    """For requests without files: those are kept by `intake.attachments`."""
    return json.dumps(given, default=str)
