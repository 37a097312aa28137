"""Runs generations and batches: accepts, cancels, resumes and drains them, and lets callers wait for them.

A generation outlives the request that created it: after acceptance it runs in a task of its own (`lifecycle.py`).
Callers may wait for its end, for some seconds, or not at all. If the caller stops waiting and cannot come back (no
idempotency key, no webhook, no response with the id), the generation is cancelled, also at Replicate, where an unwanted
prediction would be billed.

Stopping never cancels work. Queued work, and work that still runs after the drain, stays in the ledger, and `resume`
continues it at the next start.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, Literal, cast

import structlog

from admission.fair_queue import room
from auth import Caller
from cluster import AnyGate
from contract.ids import is_training_id
from errors import InvalidRequest, LedgerDown, Problem, QueueFull, ShuttingDown
from generations.batch import Batch, Work, in_memory, unfinished
from generations.budgets import Budgets, check_cost
from generations.following import JoinedItems
from generations.generation import Generation, Item
from generations.idempotency import IdempotencyKeys
from generations.key_limits import KeyLimits
from generations.lifecycle import Runner
from generations.submission import Submission
from interpreter import computing
from ledger import Ledger
from ledger.records import AttemptRecord
from loop_thread import finish
from parsing.attachments import UPLOADED, Attachments
from parsing.shapes import BatchRequest, GenerationRequest

log = structlog.get_logger("generation")


def new_id(kind: Literal["gen", "batch", "trn"]) -> str:
    """A random id that cannot be guessed."""
    return f"{kind}_{secrets.token_hex(16)}"


class Supervisor:
    """The tasks of all work in this process. At most `max_queued` generations wait for admission."""

    def __init__(
        self,
        *,
        runner: Runner,
        gate: AnyGate,
        ledger: Ledger,
        budget: Budgets,
        keys: IdempotencyKeys,
        attachments: Attachments,
        max_queued: int,
        key_limits: KeyLimits,
        joined: JoinedItems,
    ) -> None:
        self._runner = runner
        self._gate = gate
        self._ledger = ledger
        self._budget = budget
        self._keys = keys
        self._attachments = attachments
        self._max_queued = max_queued
        self.key_limits = key_limits
        self.running = joined.running
        self.joined = joined
        self.handed_over: dict[str, Work] = {}
        """Work that the drain left to the next process, by id."""

    @property
    def is_draining(self) -> bool:
        return self.running.is_draining

    # ── Accept

    def accept(self, submission: Submission) -> Work:
        """Accept a submission and start it. Its record is written soon, and before anything is sent. Raises QueueFull,
        ShuttingDown, LedgerDown, InvalidRequest or BudgetExceeded if it is not accepted."""
        self.check_semaphore(submission.request.semaphore)
        if isinstance(submission.request, BatchRequest):
            return self._accept_batch(submission, submission.request)
        bound = submission.request.bound
        self.check_room(1, submission.caller)
        check_cost(bound, submission.request.max_cost)
        self._budget.reserve(submission.caller, bound, submission.submitted_at)
        [text] = submission.request_json
        generation = self._new(submission, submission.request, text, id=submission.id)
        generation.detached |= submission.detached
        self._ledger.mark_dirty(generation)
        self._begin(generation, None)
        return generation

    @computing()
    def _accept_batch(self, submission: Submission, request: BatchRequest) -> Batch:
        own = list(submission.own_requests(request))
        self.check_room(len(own), submission.caller)
        bound = submission.bound
        check_cost(bound, request.max_cost, where="The batch")
        for position, each in own:
            check_cost(each.bound, each.max_cost, where=f"requests[{position}]")
        self._budget.reserve(submission.caller, bound, submission.submitted_at)
        shared, *texts = submission.request_json
        generations = {
            position: self._item(submission, each, texts[position], position) for position, each in own
        }
        new = list(generations.values())
        items: list[Item] = [*new]
        if submission.joined:
            every = {**generations, **submission.joined}
            items = [every[position] for position in range(len(every))]
        now = asyncio.get_running_loop().time()
        batch = Batch.of(submission, request, items, request_json=shared, accepted_at=now)
        self._ledger.mark_dirty(batch)
        for generation in new:
            self._ledger.mark_dirty(generation)
        self._begin_batch(batch, new)
        return batch

    def _item(
        self, submission: Submission, request: GenerationRequest, text: str, position: int
    ) -> Generation:
        """A new item of a batch. One with a key continues without a waiting caller, who may come back for it."""
        key = submission.item_keys.get(position)
        work_id = new_id("gen") if key is None else key.work_id
        item = self._new(submission, request, text, id=work_id, batch_id=submission.id, position=position)
        item.detached |= key is not None
        return item

    @staticmethod
    def _new(submission: Submission, request: GenerationRequest, text: str, **fields: Any) -> Generation:
        return Generation(
            semaphore=submission.request.semaphore,
            request=request,
            caller=submission.caller,
            request_id=submission.request_id,
            accepted_at=asyncio.get_running_loop().time(),
            created_at=submission.submitted_at,
            address=submission.address,
            simulated=submission.simulated,
            request_json=text,
            detached=request.webhook is not None,
            reserved_usd=request.bound,
            door=submission.door,
            door_facts=submission.door_facts,
            body_fingerprint=submission.body_fingerprint,
            **fields,
        )

    async def persist(self, work: Work) -> None:
        """Wait until accepted work is on the disk. Otherwise cancels the work and raises LedgerDown."""
        try:
            await self._ledger.flush()
        except LedgerDown:
            self.cancel(work)
            raise
        for generation in in_memory(work):
            generation.persisted = True

    def resume(self, generations: Iterable[Generation], batches: Iterable[Batch] = ()) -> None:
        """Resume the work of an earlier process, unless it runs here already."""
        for batch in batches:
            if batch.id not in self.running.batches:
                batch.accepted_at = _loop_time(batch.created_at)
                items = in_memory(batch)
                for generation in items:
                    self._adopt(generation)
                self._ledger.mark_dirty(batch)  # this process has it now
                self._begin_batch(batch, items)
        for generation in generations:
            if generation.id not in self.running.generations:
                self._adopt(generation)
                self._begin(generation, None)

    # ── Wait, find, cancel

    async def wait(self, work: Work, *, seconds: float | None = None) -> None:
        """Wait until work has ended, or for some `seconds`. Raises ShuttingDown if it will not end in this process.

        Cancelling the wait cancels the work, unless it is detached. It becomes detached after the `seconds`: the caller
        may come back for it."""
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
        """Call `on_item_done` with the index of each item of a batch when it ends, or now if it has ended."""
        for index, item in enumerate(batch.items):
            running = self.running.generations.get(item.id)
            task = self.joined.task(batch, index) or (running[0] if running else None)
            if task is None:
                on_item_done(batch, index)
            else:
                task.add_done_callback(lambda _, index=index: on_item_done(batch, index))  # type: ignore[misc]

    def find(self, work_id: str) -> Work | None:
        """A generation or batch that runs in this process."""
        return self.running.find(work_id)

    def task(self, work: Work) -> asyncio.Task[None] | None:
        """The task that ends when the work ends or is interrupted; None if it does not run in this process."""
        return self.running.task(work)

    @property
    def has_work(self) -> bool:
        """Whether any work runs or waits in this process. In any thread."""
        return bool(self.running.generations or self.running.batches)

    def tasks(self) -> list[asyncio.Task[None]]:
        return self.running.tasks()

    def cancel(self, work: Work) -> None:
        """Cancel work and its predictions. Work that was handed over is cancelled by the next process."""
        for generation in unfinished(work):
            if not generation.is_cancelled:
                generation.is_cancelled = True
                self._ledger.mark_dirty(generation)  # otherwise the next process would resume it
                if (task := self.task(generation)) is not None:
                    _cancel(task)

    def cancel_queued(self, caller_id: str) -> None:
        """Cancel the work of a caller that has not begun to run."""
        for generation in list(self.running.queued()):
            if generation.caller_id == caller_id:
                self.cancel(generation)

    def abandon(self, work: Work) -> list[asyncio.Task[None]]:
        """Cancel work whose caller has disconnected, except for the detached items of a batch. Returns the tasks to
        wait for."""
        abandoned = [each for each in unfinished(work) if each is work or not each.detached]
        for generation in abandoned:
            self.cancel(generation)
        return [task for each in abandoned if (task := self.task(each)) is not None]

    def forget_attachments(self, work_id: str) -> None:
        """Remove the uploaded files of work that has ended or was not accepted."""
        self._attachments.forget(work_id)

    def check_room(self, more: int, caller: Caller) -> None:
        """Raises QueueFull, LedgerDown or ShuttingDown unless `more` generations of a caller can be accepted now."""
        if self.is_draining:
            raise ShuttingDown
        if self._ledger.trouble is not None:
            raise LedgerDown(f"{self._ledger.trouble} Nothing was spent.")
        if more == 0:
            return
        most = self._max_queued
        unfinished = self.running.of_turn(caller.turn)
        upstreams = self._runner.upstreams
        waiting = len(self.running.generations) - upstreams.slots_held - self._runner.fetching
        own = unfinished - upstreams.in_flight(caller.turn)
        self.key_limits.check_room(more, caller.turn, unfinished, self.running.queued)
        too_many = more - room(most, waiting=waiting, own=own)
        if too_many > 0:
            retry_after = self._gate.seconds_per_release() * too_many
            detail = f"{waiting} generations are waiting, this adds {more}, and at most {most} may wait."
            if waiting + more <= most:
                detail += (
                    f" {own} are yours, and the last quarter is for callers who have no more than a quarter."
                )
                own_wait = self._gate.seconds_to_admit(caller.turn, max(0, min(too_many, own)))
                retry_after = max(retry_after, own_wait)
            raise QueueFull(detail, retry_after=retry_after, retryable=more <= room(most, waiting=0, own=0))

    def check_semaphore(self, semaphore: str | None) -> None:
        """Raises InvalidRequest if this is not the id of a semaphore."""
        if semaphore is not None and self._gate.semaphore(semaphore) is None:
            reason = "is not the id of a semaphore; an operator creates them"
            raise InvalidRequest([Problem("external_semaphore_id", reason, semaphore)])

    # ── Drain

    def refuse_work(self) -> None:
        """Refuse new work from now on. Call it in any thread or signal handler: it takes no lock, since one handler may
        interrupt another."""
        self.running.is_draining = True

    async def drain(self, seconds: float) -> None:
        """Refuse new work, and wait up to `seconds` for running work. Queued work and the rest are left to the next
        process. So are trainings at once, which run for many minutes."""
        self.refuse_work()
        self._runner.upstreams.close(self.shutting_down)
        for task, generation in list(self.running.generations.values()):
            if generation.state == "queued" or is_training_id(generation.id):  # or uploading
                task.cancel()
        await self._wait_for_all(seconds)
        left = [task for task, _ in self.running.generations.values() if not task.cancelling()]
        if left:  # else another drain has reported them, as after Ctrl-C, which sends two signals
            log.warning("drain_timeout", generations=len(left))
        for task, _ in list(self.running.generations.values()):
            task.cancel()
        await self._wait_for_all(None)

    async def _wait_for_all(self, seconds: float | None) -> None:
        if tasks := self.tasks():
            await asyncio.wait(tasks, timeout=seconds)

    @staticmethod
    def shutting_down() -> ShuttingDown:
        return ShuttingDown("The service is shutting down. The work continues after the restart.")

    # ── Tasks

    def _adopt(self, generation: Generation) -> None:
        generation.persisted = generation.detached = True
        generation.accepted_at = _loop_time(generation.created_at)
        self._budget.hold(generation.caller_id, generation.reserved_usd, generation.created_at)
        # Delete the record of an attempt that was never sent: it would count unless another attempt replaces
        # it.
        self._ledger.delete(AttemptRecord, generation.id, len(generation.attempts) + 1)
        self._ledger.mark_dirty(generation)  # no longer suspended

    def _begin(self, generation: Generation, batch: Batch | None) -> asyncio.Task[None]:
        task = asyncio.create_task(self._runner.run(generation, batch))
        self.running.add(generation, task)
        if generation.is_cancelled:  # begun in an earlier process
            _cancel(task)
        task.add_done_callback(lambda _: self._ended(generation))
        return task

    def _begin_batch(self, batch: Batch, items: Sequence[Generation]) -> None:
        tasks = [self._begin(generation, batch) for generation in items]
        tasks += self.joined.begin(batch)
        task = asyncio.create_task(self._run_batch(batch, tasks))
        self.running.add(batch, task)
        task.add_done_callback(lambda _: self._ended(batch))

    async def _run_batch(self, batch: Batch, tasks: Sequence[asyncio.Task[None]]) -> None:
        if tasks:
            await asyncio.wait(tasks)
        if all(item.has_ended for item in batch.items):
            batch.ended_at = asyncio.get_running_loop().time()
            await self._runner.publish(batch)

    def _ended(self, work: Work) -> None:
        self.running.remove(work)
        if isinstance(work, Batch):
            self.joined.end(work)
        if not work.has_ended:
            self.handed_over[work.id] = work
            return
        self._keys.release(work.id)
        if isinstance(work, Batch) or UPLOADED in work.request_json:
            self.forget_attachments(work.id)


def _cancel(task: asyncio.Task[None]) -> None:
    """Cancel a task now, before its next step. But let it begin: a task that never began cannot record its end."""
    run = cast("Coroutine[Any, Any, None]", task.get_coro())
    if getcoroutinestate(run) == CORO_CREATED:
        asyncio.get_running_loop().call_soon(task.cancel)
    else:
        task.cancel()


def _loop_time(moment: float) -> float:
    """Convert a Unix time to the loop's clock."""
    return asyncio.get_running_loop().time() - (time.time() - moment)
