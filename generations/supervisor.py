"""The generations and batches in memory: accepted, waited for, cancelled, resumed, drained.

A generation outlives the request that created it. It is accepted and recorded, and from then on it runs by itself
(`lifecycle.py`); callers wait for it, some for a while, some not at all. If its caller cannot come back for it (no
idempotency key, no webhook, no answer with its id), it is cancelled when the caller stops waiting: a queued one costs
nothing, a running one is cancelled at Replicate, since an unwanted prediction is billed as well.

Stopping never cancels work. Queued work, and work that still runs after the drain, stays in the ledger, and `resume`
continues it at the next start.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from functools import partial
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Literal, cast

import structlog

from admission.fair_queue import room
from auth import Caller
from concurrency import Gate
from errors import LedgerDown, QueueFull, ShuttingDown
from generations.batch import Batch, Work
from generations.budget import Budget, check_cost
from generations.generation import Generation
from generations.idempotency import IdempotencyKeys
from generations.lifecycle import Runner
from generations.submission import Submission
from ledger import Ledger
from ledger.records import AttemptRecord
from loop_thread import Pool, finish
from parsing.attachments import UPLOADED, Attachments
from parsing.shapes import BatchRequest, GenerationRequest

log = structlog.get_logger("generation")


def new_id(kind: Literal["gen", "batch"]) -> str:
    """An id that cannot be guessed."""
    return f"{kind}_{secrets.token_hex(16)}"


class Supervisor:
    """Everything in memory. `max_queued` bounds the generations that wait for admission."""

    def __init__(
        self,
        *,
        runner: Runner,
        gate: Gate,
        ledger: Ledger,
        budget: Budget,
        keys: IdempotencyKeys,
        attachments: Attachments,
        threads: Pool,
        max_queued: int,
    ) -> None:
        self._runner = runner
        self._gate = gate
        self._ledger = ledger
        self._budget = budget
        self._keys = keys
        self._attachments = attachments
        self._threads = threads
        self._max_queued = max_queued
        self._running: dict[str, tuple[asyncio.Task[None], Generation]] = {}
        self._running_of: Counter[str] = Counter()
        """How many generations of each caller run or wait."""
        self._batches: dict[str, tuple[asyncio.Task[None], Batch]] = {}
        self._handed_over: dict[str, Work] = {}
        """Work that this process, in its drain, leaves to the next."""
        self.is_draining = False

    # ── Accept

    def accept(self, submission: Submission) -> Work:
        """Accept a submission, which runs by itself from then on. Its record is on the way to the disk, and nothing is
        sent before it is there. Raises QueueFull, ShuttingDown, LedgerDown or BudgetExceeded, and nothing has begun.
        """
        if isinstance(submission.request, BatchRequest):
            return self._accept_batch(submission, submission.request)
        cost = submission.request.model_cost
        self.make_room(1, submission.caller)
        check_cost(cost, submission.request.max_cost)
        self._budget.reserve(submission.caller.id, cost)
        [text] = submission.request_json
        generation = self._new(submission, submission.request, text, id=submission.id)
        generation.detached = generation.detached or submission.detached
        self._ledger.mark_dirty(generation)
        self._begin(generation, None)
        return generation

    def _accept_batch(self, submission: Submission, request: BatchRequest) -> Batch:
        self.make_room(len(request.requests), submission.caller)
        costs = [each.model_cost for each in request.requests]
        check_cost(sum(costs), request.max_cost, where="The batch")
        for index, (each, cost) in enumerate(zip(request.requests, costs, strict=True)):
            check_cost(cost, each.max_cost, where=f"requests[{index}]")
        self._budget.reserve(submission.caller.id, sum(costs))
        assert submission.plan is not None  # noqa: S101 - every batch has one
        shared, *own = submission.request_json
        items = [
            self._new(submission, each, text, id=new_id("gen"), batch_id=submission.id, position=position)
            for position, (each, text) in enumerate(zip(request.requests, own, strict=True))
        ]
        batch = Batch(
            id=submission.id,
            caller_id=submission.caller.id,
            items=items,
            max_concurrent=request.max_concurrent,
            max_cost=request.max_cost,
            plan=submission.plan,
            accepted_at=asyncio.get_running_loop().time(),
            address=submission.address,
            simulated=submission.simulated,
            request_json=shared,
            webhook=request.webhook,
            detached=submission.detached or request.webhook is not None,
        )
        self._ledger.mark_dirty(batch)
        for generation in items:
            self._ledger.mark_dirty(generation)
        self._begin_batch(batch, items)
        return batch

    @staticmethod
    def _new(submission: Submission, request: GenerationRequest, text: str, **fields: Any) -> Generation:
        return Generation(
            request=request,
            caller=submission.caller,
            request_id=submission.request_id,
            accepted_at=asyncio.get_running_loop().time(),
            address=submission.address,
            simulated=submission.simulated,
            request_json=text,
            detached=request.webhook is not None,
            reserved=request.model_cost,
            **fields,
        )

    async def persist(self, work: Work) -> None:
        """Wait until accepted work is on the disk. Raises LedgerDown, and the work is cancelled."""
        try:
            await self._ledger.flush()
        except LedgerDown:
            self.cancel(work)
            raise
        for generation in _in_memory(work):
            generation.persisted = True

    def resume(self, generations: Iterable[Generation], batches: Iterable[Batch] = ()) -> None:
        """Resume the work of an earlier process, unless it runs here already."""
        for batch in batches:
            if batch.id not in self._batches:
                batch.accepted_at = _on_the_loops_clock(batch.born)
                items = _in_memory(batch)
                for generation in items:
                    self._take_up(generation)
                self._begin_batch(batch, items)
        for generation in generations:
            if generation.id not in self._running:
                self._take_up(generation)
                self._begin(generation, None)

    # ── Wait, find, cancel

    async def wait(self, work: Work, *, seconds: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds. Raises ShuttingDown if it will not end in this process.

        Cancelling the wait cancels the work, unless that is detached. After the `seconds` the caller may come back for
        it, so it is detached from then on."""
        if (task := self.task(work)) is not None:
            try:
                _, still = await asyncio.wait([task], timeout=seconds)
                if still:
                    work.detached = True
                    return
            except asyncio.CancelledError:
                if not work.detached and (abandoned := self.abandon(work)):
                    await finish(asyncio.wait(abandoned))
                raise
        if self.is_draining and not work.has_ended:
            with suppress(LedgerDown):
                await finish(self._ledger.flush())  # so that the caller can find it
            raise self.shutting_down()

    def follow(self, batch: Batch, on_item_done: Callable[[Batch, int], object]) -> None:
        """Call back for each item of a batch as it ends; at once for those that have ended."""
        for index, item in enumerate(batch.items):
            running = self._running.get(item.id)
            if running is None:
                on_item_done(batch, index)
            else:
                running[0].add_done_callback(lambda _, index=index: on_item_done(batch, index))  # type: ignore[misc]

    def find(self, work_id: str) -> Work | None:
        """A generation or batch that runs here."""
        found = self._running.get(work_id) or self._batches.get(work_id)
        return found[1] if found else None

    def find_batch(self, generation: Generation) -> Batch | None:
        found = self._batches.get(generation.batch_id or "")
        return found[1] if found else None

    def handed_over(self, work_id: str) -> Work | None:
        """Work that is left to the next process, until this one ends."""
        return self._handed_over.get(work_id)

    def task(self, work: Work) -> asyncio.Task[None] | None:
        """The task that ends when the work has ended or was interrupted; None if it does not run here."""
        running = self._batches if isinstance(work, Batch) else self._running
        return running[work.id][0] if work.id in running else None

    def tasks(self) -> list[asyncio.Task[None]]:
        return [task for task, _ in (*self._running.values(), *self._batches.values())]

    def cancel(self, work: Work) -> None:
        """Cancel it, and its predictions. The next process cancels work handed over to it."""
        for generation in _unfinished(work):
            if not generation.is_cancelled:
                generation.is_cancelled = True
                self._ledger.mark_dirty(generation)  # else it would be resumed
                if (task := self.task(generation)) is not None:
                    _cancel(task)

    def abandon(self, work: Work) -> list[asyncio.Task[None]]:
        """Cancel it, since its caller is gone, except for the detached items of a batch. Returns the tasks to wait
        for."""
        abandoned = [each for each in _unfinished(work) if each is work or not each.detached]
        for generation in abandoned:
            self.cancel(generation)
        return [task for each in abandoned if (task := self.task(each)) is not None]

    def queue_position(self, generation: Generation) -> int:
        """How many of the same caller and batch queue before it."""
        before = 0
        for _, other in self._running.values():
            if other is generation:
                break
            same = (other.caller.turn, other.batch_id) == (generation.caller.turn, generation.batch_id)
            before += same and other.state == "queued"
        return before

    def longest_waiting(self) -> float | None:
        """Seconds since the acceptance of the oldest generation that waits for admission. None if none waits."""
        waiting = [each.accepted_at for _, each in self._running.values() if each.state == "queued"]
        return asyncio.get_running_loop().time() - min(waiting) if waiting else None

    def forget_attachments(self, work_id: str) -> None:
        """Remove the files that came with this work, which has ended or was not accepted."""
        self._threads.start(partial(self._attachments.remove, work_id))

    def make_room(self, wanted: int, caller: Caller) -> None:
        """Raises QueueFull, LedgerDown or ShuttingDown if so many more generations of a caller are not accepted now."""
        if self.is_draining:
            raise ShuttingDown
        if self._ledger.trouble is not None:
            raise LedgerDown(f"{self._ledger.trouble} Nothing was spent.")
        most = self._max_queued
        waiting = len(self._running) - self._gate.statistics().current_concurrent - self._runner.fetching
        own = self._running_of[caller.turn] - self._gate.in_flight(caller.turn)
        too_many = wanted - room(most, waiting=waiting, own=own)
        if too_many > 0:
            detail = f"{waiting} generations are waiting, this adds {wanted}, and at most {most} may wait."
            if waiting + wanted <= most:
                detail += (
                    f" {own} are yours, and the last quarter is for callers who have no more than a quarter."
                )
            raise QueueFull(
                detail,
                retry_after=self._gate.seconds_per_release() * too_many,
                retryable=wanted <= room(most, waiting=0, own=0),
            )

    # ── Drain

    def refuse_work(self) -> None:
        """Accept nothing new from now on. Any thread, and any signal handler: it takes no lock, since one handler may
        interrupt another."""
        self.is_draining = True

    async def drain(self, seconds: float) -> None:
        """Accept nothing new. Queued work, and work that still runs after `seconds`, is left to the next process."""
        self.refuse_work()
        self._gate.close(self.shutting_down)
        for task, generation in list(self._running.values()):
            if generation.state == "queued":  # also those that still upload
                task.cancel()
        await self._until_ended(seconds)
        if self._running:
            log.warning("drain_timeout", generations=len(self._running))
        for task, _ in list(self._running.values()):
            task.cancel()
        await self._until_ended(None)

    async def _until_ended(self, seconds: float | None) -> None:
        if tasks := self.tasks():
            await asyncio.wait(tasks, timeout=seconds)

    @staticmethod
    def shutting_down() -> ShuttingDown:
        return ShuttingDown(
            "The service is shutting down and has not finished this; the next one goes on with it."
        )

    # ── Tasks

    def _take_up(self, generation: Generation) -> None:
        generation.persisted = generation.detached = True
        generation.accepted_at = _on_the_loops_clock(generation.born)
        self._budget.hold(generation.caller_id, generation.reserved)
        # An attempt of which nothing was sent is not resumed: its record would be counted if no other takes its number.
        self._ledger.delete(AttemptRecord, generation.id, len(generation.attempts) + 1)
        self._ledger.mark_dirty(generation)  # it is suspended no more

    def _begin(self, generation: Generation, batch: Batch | None) -> asyncio.Task[None]:
        task = asyncio.create_task(self._runner.run(generation, batch))
        self._running[generation.id] = task, generation
        self._running_of[generation.caller.turn] += 1
        if generation.is_cancelled:  # in the process before
            _cancel(task)
        task.add_done_callback(lambda _: self._ended(generation))
        return task

    def _begin_batch(self, batch: Batch, items: Sequence[Generation]) -> None:
        tasks = [self._begin(generation, batch) for generation in items]
        task = asyncio.create_task(self._run_batch(batch, tasks))
        self._batches[batch.id] = task, batch
        task.add_done_callback(lambda _: self._ended(batch))

    async def _run_batch(self, batch: Batch, tasks: Sequence[asyncio.Task[None]]) -> None:
        if tasks:
            await asyncio.wait(tasks)
        if all(item.has_ended for item in batch.items):
            batch.ended_at = asyncio.get_running_loop().time()
            await self._runner.publish(batch)

    def _ended(self, work: Work) -> None:
        if isinstance(work, Batch):
            del self._batches[work.id]
        else:
            del self._running[work.id]
            self._running_of[work.caller.turn] -= 1
            if not self._running_of[work.caller.turn]:
                del self._running_of[work.caller.turn]
        if not work.has_ended:
            self._handed_over[work.id] = work
            return
        self._keys.release(work.id)
        if isinstance(work, Batch) or UPLOADED in work.request_json:
            self.forget_attachments(work.id)


def _in_memory(work: Work) -> list[Generation]:
    items = work.items if isinstance(work, Batch) else [work]
    return [each for each in items if isinstance(each, Generation)]


def _unfinished(work: Work) -> list[Generation]:
    return [each for each in _in_memory(work) if not each.has_ended]


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel at once, so that it takes no further step, but never before its first: it would have no orderly end."""
    run = cast("Coroutine[Any, Any, None]", task.get_coro())
    if getcoroutinestate(run) == CORO_CREATED:
        asyncio.get_running_loop().call_soon(task.cancel)
    else:
        task.cancel()


def _on_the_loops_clock(moment: float) -> float:
    """A Unix time on the loop's clock."""
    return asyncio.get_running_loop().time() - (time.time() - moment)
