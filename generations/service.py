"""The service behind every route: submit, get, list, cancel and follow work, and sum up its cost.

All methods are coroutines on the loop. Accepted work is on the disk before its caller learns of it. A caller who comes
back finds the work in memory or in the ledger; suspended work of that caller is resumed then (`suspension.py`).
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from auth import Caller, Principal
from errors import LedgerDown, NotFound, ShuttingDown
from generations import views
from generations.archive import Archive, Stored, Usage
from generations.batch import Batch, Work, ended_items
from generations.events import Events, Subscription
from generations.generation import Generation
from generations.idempotency import IdempotencyKeys
from generations.status import Status
from generations.submission import Submission
from generations.supervisor import Supervisor
from generations.suspension import Suspension
from ledger import Grouping, Ledger, Page, Period
from ledger.records import Delivery, GenerationRecord, PlanRecord
from parsing.attachments import UPLOADED
from parsing.shapes import BatchRequest
from webhooks.outbox import Outbox

_LAST_ANSWERS: Final = 5.0
"""Seconds at most that a stop waits for the last answers, which are milliseconds of the disk away."""

_CANCEL_PATIENCE: Final = 10.0
"""Seconds in which cancelled work usually has ended."""


class HandedOver(Exception):
    """The service stops, and the next process resumes the work. `error` is answered beside the id of the work."""

    def __init__(self, work: Work, error: ShuttingDown) -> None:
        super().__init__(work.id)
        self.work = work
        self.error = error
        error.may_be_paid = True  # once the next process has resumed it
        parts = work.items if isinstance(work, Batch) else (work,)
        error.was_created = any(each.record().may_be_paid for each in parts)


class GenerationService:
    """One object for all doors. Every method that takes an id raises LedgerDown if the ledger cannot be read."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        suspension: Suspension,
        archive: Archive,
        keys: IdempotencyKeys,
        status: Status,
        events: Events,
        outbox: Outbox,
        ledger: Ledger,
    ) -> None:
        self._supervisor = supervisor
        self._suspension = suspension
        self._archive = archive
        self._keys = keys
        self._status = status
        self._events = events
        self._outbox = outbox
        self._ledger = ledger
        self._waiting: set[asyncio.Task[Any]] = set()

    # ── Submit

    async def submit(
        self, submission: Submission, *, on_item_done: Callable[[Batch, int], object] | None = None
    ) -> Work | Stored:
        """Accept a submission, and wait for its end for as long as its caller does. Returns the work, which an earlier
        request with the same key may have begun. `on_item_done` is called for each item of a batch as it ends.

        Raises the ServiceError that refuses the submission, and HandedOver if the service stops before the end."""
        with self._counted_as_waiting():
            work = await self._existing(submission)
            if work is None:
                try:
                    work = self._supervisor.accept(submission)
                except BaseException:
                    self._abandon_key(submission)
                    self._forget_attachments(submission)
                    raise
                await self._persist(submission, work)
            if on_item_done is not None and isinstance(work, Batch):
                self._supervisor.follow(work, on_item_done)
            if submission.wait_seconds != 0 and not isinstance(work, GenerationRecord):
                try:
                    await self._supervisor.wait(work, seconds=submission.wait_seconds)
                except ShuttingDown as error:
                    raise HandedOver(work, error) from None
            return work

    async def forecast(self, request: BatchRequest, caller: Caller, *, may_exist: bool = False) -> PlanRecord:
        """How a batch would go now. Raises QueueFull, LedgerDown or ShuttingDown if it would not be accepted; one that
        `may_exist` already, under its key, needs no room."""
        if not may_exist:
            self._supervisor.make_room(len(request.requests), caller)
        return await self._status.forecast(request, caller)

    # ── Find, cancel, follow

    async def get(self, work_id: str, principal: Principal) -> Work | Stored:
        """A generation or batch. It continues from now on even without a waiting caller, who may come back.

        Raises NotFound if there is none, or the visitor may not see it."""
        work = await self._seen_by(principal, work_id)
        if isinstance(work, Work):
            work.detached = True
        return work

    async def cancel(
        self, work_id: str, principal: Principal, *, patience: float = _CANCEL_PATIENCE
    ) -> Work | Stored:
        """Cancel its unfinished generations, and wait up to `patience` seconds for its end; returns it as it is then.

        Suspended work is resumed first if its owner cancels, so that its prediction can be cancelled at Replicate. The
        next process cancels work that a stop has handed over. Raises NotFound."""
        work: Work | Stored | None = await self._seen_by(principal, work_id)
        for _ in range(2):  # again if its owner came back for it between the two looks
            if (running := self._supervisor.find(work_id)) is not None:
                # If it was resumed this very moment, its queued items are cancelled before they can be sent.
                self._supervisor.cancel(running)
                if (task := self._supervisor.task(running)) is not None:
                    await asyncio.wait([task], timeout=patience)
                return running
            if (left := self._supervisor.handed_over(work_id)) is not None:
                self._supervisor.cancel(left)
                await self._ledger.flush()
                return left
            if work_id not in self._suspension and work is not None:
                return work
            await self._suspension.cancel(work_id)
            work = await self._find(work_id)
        if work is None:
            raise _not_found()
        return work

    async def describe(self, work: Work | Stored, address: str) -> dict[str, Any]:
        """The body for work in any state, batches with the results they have. Everything in it is on the disk, as long
        as the disk can be written."""
        ended = ended_items(work) if isinstance(work, Batch) else []
        body = self._status.of(work, address)
        with suppress(LedgerDown):
            await self._ledger.flush()
        if isinstance(work, Batch):
            body["results"] = await self._status.results(work, ended, address)
        delivery = await self._delivery(work)
        return body | {"webhook": views.webhook(delivery)} if delivery else body

    async def page(self, page: Page) -> Sequence[GenerationRecord]:
        return await self._archive.page(page)

    async def usage(self, period: Period, *, by: Grouping | None) -> tuple[list[Usage], Usage]:
        return await self._archive.usage(period, by=by)

    async def subscribe(self, work: Work | Stored, address: str) -> Subscription:
        assert not isinstance(work, Batch)  # noqa: S101 - only generations have events
        return self._events.subscribe(work, address)

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. Twice is no error."""
        self._events.unsubscribe(subscription)

    # ── Time passes

    async def tidy_up(self, *, resume_ttl: float) -> None:
        """End work that was suspended `resume_ttl` seconds ago, and forget expired keys. Raises LedgerDown."""
        await self._suspension.expire(before=time.time() - resume_ttl)
        await self._keys.forget_expired()

    async def answered(self) -> None:
        """After a drain: answer every waiting caller. Callers that still wait when the loop stops get no answer."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=_LAST_ANSWERS)

    @contextmanager
    def _counted_as_waiting(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in one
        self._waiting.add(task)
        try:
            yield
        finally:
            self._waiting.discard(task)

    async def _existing(self, submission: Submission) -> Work | Stored | None:
        """The work that the key of a submission stands for. None if it has no key, or has claimed it now."""
        if submission.key is None:
            return None
        try:
            work_id = await self._keys.claim(submission.caller.id, submission.key, submission.fingerprint)
            if work_id is None:
                return None
            found = await self._find(work_id, submission.caller)
            if found is None:
                raise LedgerDown(f"What the key stands for, {work_id}, is not in the ledger.")
            await self._ledger.flush()  # the first request may not have been answered yet
        except LedgerDown as down:
            self._forget_attachments(submission)
            unknown = LedgerDown(down.detail)  # `down` is raised to all who waited for the disk
            unknown.may_be_paid = True  # for an earlier request with the key
            raise unknown from down
        except BaseException:
            self._forget_attachments(submission)
            raise
        self._forget_attachments(submission)
        return found

    async def _persist(self, submission: Submission, work: Work) -> None:
        """Have accepted work on the disk, with its key, unless it will be there before it is sent."""
        if submission.key is not None:
            self._keys.settle(submission.caller.id, submission.key, work.id)
        if not work.detached and isinstance(work, Generation):
            return
        try:
            await self._supervisor.persist(work)
        except LedgerDown:
            self._abandon_key(submission)
            raise
        except asyncio.CancelledError:
            # Its caller went away without an answer, cannot come back, and has no webhook.
            if submission.key is None and work.webhook is None:
                self._supervisor.abandon(work)
            raise

    def _forget_attachments(self, submission: Submission) -> None:
        """Remove the files that came with a submission that was not accepted. Else they are removed at its end."""
        if any(UPLOADED in text for text in submission.request_json):
            self._supervisor.forget_attachments(submission.id)

    def _abandon_key(self, submission: Submission) -> None:
        if submission.key is not None:
            self._keys.abandon(submission.caller.id, submission.key)

    async def _find(self, work_id: str, owner: Caller | None = None) -> Work | Stored | None:
        """Work by its id, in memory or as the ledger has it. Suspended work of the `owner` is resumed."""
        stored: Stored | None = None
        for _ in range(2):  # again if it ended between the two looks
            was_resumed = (
                owner is not None
                and work_id in self._suspension
                and await self._suspension.resume_for(work_id, owner)
            )
            if (running := self._supervisor.find(work_id)) is not None:
                return running
            if was_resumed:  # but could not continue
                await self._ledger.flush()
            stored = await self._archive.load(work_id)
            if stored is None or stored.has_ended or work_id in self._suspension:
                break
        return self._supervisor.find(work_id) or stored

    async def _seen_by(self, principal: Principal, work_id: str) -> Work | Stored:
        work = await self._find(work_id, principal.caller)
        if work is None or not principal.may_see(work.caller_id):
            raise _not_found()
        return work

    async def _delivery(self, work: Work | Stored) -> Delivery | None:
        """The delivery to its webhook, if it has one. Before the end it has yet to begin."""
        if work.webhook is None:
            return None
        stored = self._outbox.get(work.id)
        if stored is None and work.has_ended:
            stored = await self._archive.delivery(work.id)
        return stored or Delivery(work.id, work.webhook, since=time.time())


def _not_found() -> NotFound:
    return NotFound("There is nothing by that id, or it is somebody else's.")
