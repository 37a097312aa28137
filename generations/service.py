"""The service behind every route: submit, get, list, cancel and subscribe to work, and sum up its cost.

All methods are coroutines on the loop. Accepted work is on the disk before its caller gets the id. A caller who comes
back finds the work in memory or in the ledger, and resumes it if it is suspended (`suspension.py`).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from auth import Caller, Principal
from errors import BudgetExceeded, LedgerDown, NotFound, ShuttingDown
from generations import views
from generations.archive import Archive, Stored
from generations.audit import Actor
from generations.batch import Batch, Work, items_of
from generations.budgets import Budgets
from generations.claiming import Claims
from generations.costs import Forecast, explained
from generations.elsewhere import Elsewhere, is_suspended
from generations.events import Events, Subscription
from generations.finding import Finder
from generations.generation import Generation
from generations.idempotency import IdempotencyKeys
from generations.remote import Remote
from generations.status import Status
from generations.submission import ItemKey, Submission
from generations.supervisor import Supervisor
from generations.suspension import NONE_AGAIN, Suspension, made_again
from generations.views import ListedBatch
from ledger import Ledger, Page, Period, Place, Queries
from ledger.records import Delivery, GenerationRecord
from parsing.attachments import UPLOADED
from parsing.shapes import BatchRequest, GenerationRequest
from webhooks.outbox import Outbox

Usage = dict[str, Any]

_RESPONSE_TIMEOUT: Final = 5.0
"""Seconds that a stop waits for the last responses, which need milliseconds of the disk."""

_CANCEL_TIMEOUT: Final = 10.0
"""Seconds in which cancelled work usually ends."""


class HandedOver(Exception):
    """The service stops, and the next process resumes the `work`. The response has its id and the `error`."""

    def __init__(self, work: Work | Stored, error: ShuttingDown) -> None:
        super().__init__(work.id)
        self.work = work
        self.error = error
        error.may_be_paid = True  # when the next process has resumed it
        error.was_created = any(each.record().may_be_paid for each in items_of(work))


class GenerationService:
    """All operations on generations and batches that a caller can request. Every method that takes an id
    raises LedgerDown if the ledger cannot be read."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        suspension: Suspension,
        archive: Archive,
        keys: IdempotencyKeys,
        claims: Claims,
        finder: Finder,
        elsewhere: Elsewhere,
        budget: Budgets,
        remote: Remote | None = None,
        status: Status,
        events: Events,
        outbox: Outbox,
        ledger: Ledger,
    ) -> None:
        self._supervisor = supervisor
        self._suspension = suspension
        self._archive = archive
        self.keys = keys
        self._claims = claims
        self._finder = finder
        self._elsewhere = elsewhere
        self._remote = remote
        self._budget = budget
        self.status = status
        self.events = events
        self._outbox = outbox
        self._ledger = ledger
        self._waiting: set[asyncio.Task[Any]] = set()

    # ── Submit

    async def submit(
        self,
        submission: Submission,
        *,
        on_item_done: Callable[[Batch, int], object] | None = None,
        on_delta: Callable[[str], object] | None = None,
    ) -> Work | Stored:
        """Accept a submission, and wait up to its `wait_seconds` for its end. Returns the work, which may be that of an
        earlier request with the same key. `on_item_done` is called for each item of a batch as it ends, and `on_delta`
        with each piece of the text of a call that runs here.

        Raises the ServiceError that refuses the submission, and HandedOver if the service stops before the end."""
        self._expect_response()
        new = None
        try:
            work = await self._claims.claimed(submission)
            if isinstance(work, Submission):
                submission = work
                async with self._admitted(submission):
                    work = new = self._supervisor.accept(submission)
        finally:
            if new is None and any(UPLOADED in text for text in submission.request_json):
                self._supervisor.forget_attachments(submission.id)
        if on_delta is not None and isinstance(work, Generation):
            work.follow_text(on_delta)
        if new is not None:
            await self._persist(submission, new)
        return await self._wait(work, submission, None if on_item_done is None else _once(on_item_done))

    async def check_room(self, caller: Caller) -> None:
        """Raises QueueFull, LedgerDown or ShuttingDown if one more generation would not be accepted now."""
        self._supervisor.check_room(1, caller)

    async def joined(self, item_keys: Mapping[int, ItemKey], caller: Caller) -> Mapping[int, str]:
        """The ids of those items of a batch that are there already, by their places. Raises IdempotencyConflict and
        LedgerDown."""
        return await self._claims.known(item_keys, caller)

    async def forecast(self, request: BatchRequest, caller: Caller, *, may_exist: bool = False) -> Forecast:
        """The forecast of a batch if it were submitted now. Raises InvalidRequest, QueueFull, LedgerDown or
        ShuttingDown if it would not be accepted, unless it `may_exist` already under its key."""
        if not may_exist:
            self._supervisor.check_semaphore(request.semaphore)
            self._supervisor.check_room(len(request.requests), caller)
        return await self.status.forecast(request, caller)

    async def wait(self, work: Work | Stored, submission: Submission) -> Work | Stored:
        """Wait up to the `wait_seconds` of a submission for the end of work that it has, as `submit` does."""
        self._expect_response()
        return await self._wait(work, submission, None)

    async def find(
        self, work_id: str, owner: Caller, again: GenerationRequest | None = None
    ) -> Work | Stored | None:
        """Work by its id, in any process. Suspended work of the `owner` is resumed, with the secrets of its request if
        that was made `again`."""
        return await self._finder.find(work_id, owner, made_again(work_id, again) if again else NONE_AGAIN)

    # ── Get, cancel, subscribe

    async def get(self, work_id: str, principal: Principal) -> Work | Stored:
        """A generation or batch. From now on it continues without a waiting caller, who may come back.

        Raises NotFound if it does not exist, or the principal may not see it."""
        work = await self._visible(principal, work_id)
        if isinstance(work, Work) and principal.may_change:
            work.detached = True
        return work

    async def cancel(
        self,
        work_id: str,
        principal: Principal,
        actor: Actor | None = None,
        *,
        timeout: float = _CANCEL_TIMEOUT,  # noqa: ASYNC109
    ) -> Work | Stored:
        """Cancel the unfinished generations of this work. Returns it when it has ended, or after `timeout` seconds.

        If its owner cancels suspended work, it is resumed first, so that its prediction can be cancelled at Replicate.
        Work that a stop has handed over is cancelled by the next process. Before the work of others is cancelled, that
        is noted as an act of `actor`. Raises NotFound, and LedgerDown if that fails."""
        visible = await self._visible(principal, work_id)
        if actor is not None and principal.id != visible.caller_id and not visible.has_ended:
            self._ledger.upsert(actor.act("cancel", work_id, {"owner": visible.caller_id}))
            await self._ledger.flush()
        work: Work | Stored | None = visible
        for _ in range(2):  # try again if its owner resumed it meanwhile
            if (running := self._supervisor.find(work_id)) is not None:
                # If it was resumed just now, its queued items are cancelled before they can be sent.
                self._supervisor.cancel(running)
                if (task := self._supervisor.task(running)) is not None:
                    await asyncio.wait([task], timeout=timeout)
                return running
            if (left := self._supervisor.handed_over.get(work_id)) is not None:
                self._supervisor.cancel(left)
                await self._ledger.flush()
                return left
            if self._remote is not None and work is not None and self._elsewhere.runs(work):
                await self._remote.cancel(work, timeout=timeout)
                work = await self._archive.load(work_id)
            if work is None or isinstance(work, Generation) or not is_suspended(work):
                break
            await self._suspension.cancel(work)
            work = await self._finder.find(work_id)
        if work is None:
            raise _not_found()
        return work

    async def describe(self, work: Work | Stored, address: str) -> dict[str, Any]:
        """The body of work in any state, for a batch with the results so far. Everything in it is on the disk, unless
        the disk cannot be written."""
        if self._remote is not None and self._elsewhere.runs(work):
            if (described := await self._remote.describe(work, address)) is not None:
                return described
            work = await self._archive.load(work.id) or work
        ended = [i for i, each in enumerate(work.items) if each.has_ended] if isinstance(work, Batch) else []
        body = self.status.body(work, address)
        with suppress(LedgerDown):
            await self._ledger.flush()
        if isinstance(work, Batch):
            body["results"] = await self.status.results(work, ended, address)
        delivery = await self._delivery(work)
        return body | {"webhook": views.webhook(delivery)} if delivery else body

    async def record(self, work: Work | Stored, *, within: float = 0.0) -> GenerationRecord:
        """The record of a generation at its end, or after `within` seconds if it runs here. It is on the disk, unless
        the disk cannot be written."""
        assert not isinstance(work, Batch)  # noqa: S101 - a batch has many
        if within and isinstance(work, Generation):
            with suppress(ShuttingDown):
                await self._supervisor.wait(work, seconds=within)
        with suppress(LedgerDown):
            await self._ledger.flush()
        return work.record()

    async def page(self, page: Page) -> Sequence[GenerationRecord]:
        """A page of generations, the latest first."""
        return await self._archive.read(lambda queries: queries.page(page))

    async def batches(
        self, caller_id: str | None, key_name: str | None = None, *, limit: int, before: Place | None = None
    ) -> Sequence[ListedBatch]:
        """The batches of a caller, of keys of this name, or of all callers, the latest first."""

        def found(queries: Queries) -> Sequence[ListedBatch]:
            records = queries.batches(caller_id, key_name=key_name, limit=limit, before=before)
            states = queries.batch_states([each.id for each in records])
            return [ListedBatch(each, states.get(each.id, {})) for each in records]

        return await self._archive.read(found)

    async def usage(self, period: Period, *, by: Sequence[str] = ()) -> tuple[list[Usage], Usage]:
        """Counts and costs of ended generations, by group and in total."""

        def sums(queries: Queries) -> tuple[list[Usage], Usage]:
            groups = list(queries.usage(period, by=by))
            [total] = queries.usage(period) if by else groups
            return groups, total

        return await self._archive.read(sums)

    async def subscribe(self, work: Work | Stored, address: str, *, detach: bool = True) -> Subscription:
        """Follow the events of a generation. Unless `detach` is false, it continues without a waiting caller."""
        assert not isinstance(work, Batch)  # noqa: S101 - only generations have events
        if detach and self._remote is not None and self._elsewhere.runs(work):
            await self._remote.detach(work)
        return self.events.subscribe(work, address)

    async def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription. A second call does nothing."""
        self.events.unsubscribe(subscription)

    # ── Wait

    def _expect_response(self) -> None:
        """Let a stop wait until this task has responded to its caller."""
        if (task := asyncio.current_task()) is not None:
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def _wait(
        self,
        work: Work | Stored,
        submission: Submission,
        on_item_done: Callable[[Batch, int], object] | None,
    ) -> Work | Stored:
        """Wait up to the `wait_seconds` of a submission for the end of its work, here or in other processes."""
        clock = asyncio.get_running_loop().time
        seconds = submission.wait_seconds
        until = None if seconds is None else clock() + seconds
        while seconds != 0 and not isinstance(work, Generation) and self._elsewhere.runs(work):
            work = await self._elsewhere.wait(work, seconds=seconds, on_item_done=on_item_done)
            if self._supervisor.is_draining and not work.has_ended:
                raise HandedOver(work, self._supervisor.shutting_down())
            if is_suspended(work):  # its process is dead, so it continues here
                work = (
                    await self._finder.find(
                        work.id, submission.caller, made_again(work.id, submission.request)
                    )
                    or work
                )
            seconds = None if until is None else max(0.0, until - clock())
        if on_item_done is not None and isinstance(work, Batch):
            self._supervisor.follow(work, on_item_done)
        if seconds != 0 and not isinstance(work, GenerationRecord):
            try:
                async with self._finder.resuming_joined(work, submission.caller, submission.request):
                    await self._supervisor.wait(work, seconds=seconds)
            except ShuttingDown as error:
                raise HandedOver(work, error) from None
        return work

    # ── Run regularly, and at a stop

    async def tidy_up(self, *, resume_ttl: float) -> None:
        """End work that was suspended `resume_ttl` seconds ago, and delete expired keys. Raises LedgerDown."""
        await self._suspension.expire(before=time.time() - resume_ttl)
        await self.keys.delete_expired()

    async def wait_for_responses(self) -> None:
        """After a drain: wait until every waiting caller has a response. When the loop stops, the others get none."""
        if self._waiting:
            await asyncio.wait(self._waiting, timeout=_RESPONSE_TIMEOUT)

    @asynccontextmanager
    async def _admitted(self, submission: Submission) -> AsyncIterator[None]:
        """Reserve the money of a submission whose keys are claimed, while it is accepted. The keys are settled with it,
        or abandoned if it is refused."""
        try:
            async with self._budget.admitted(submission.caller, submission.bound, submission.submitted_at):
                yield
                self._claims.settle(submission)
        except BaseException as error:
            self._claims.abandon(submission)
            if isinstance(error, BudgetExceeded):
                raise explained(error, submission.request) from None
            raise

    async def _persist(self, submission: Submission, work: Work) -> None:
        """Write accepted work and its keys to the disk. A generation with a waiting caller is written before it is
        sent."""
        if not work.detached and isinstance(work, Generation):
            return
        try:
            await self._supervisor.persist(work)
        except LedgerDown:
            self._claims.abandon(submission)
            raise
        except asyncio.CancelledError:
            # Its caller disconnected before the response, cannot come back, and has no webhook.
            if submission.key is None and submission.body_fingerprint is None and work.webhook is None:
                self._supervisor.abandon(work)
            raise

    async def _visible(self, principal: Principal, work_id: str) -> Work | Stored:
        work = await self._finder.find(work_id, principal.caller)
        if work is None and self._remote is not None:
            # Fails if the server has failed over: it may lack the row for some seconds.
            await self._ledger.flush()
            if self._ledger.trouble is not None:
                raise LedgerDown(self._ledger.trouble)
        if work is None or not principal.may_see(work.caller_id):
            raise _not_found()
        await self._finder.resume_joined(work, principal.caller)
        return work

    async def _delivery(self, work: Work | Stored) -> Delivery | None:
        """The delivery to its webhook, if it has one. Before the end, a delivery that has not begun."""
        if work.webhook is None:
            return None
        stored = self._outbox.get(work.id)
        if stored is None and work.has_ended:
            stored = await self._archive.read(lambda queries: queries.delivery(work.id))
        return stored or Delivery(work.id, work.webhook, since=time.time())


def _once(on_item_done: Callable[[Batch, int], object]) -> Callable[[Batch, int], object]:
    """A function that passes on each item that has ended only once."""
    done: set[int] = set()

    def pass_on(batch: Batch, index: int) -> None:
        if index not in done:
            if batch.items[index].has_ended:
                done.add(index)
            on_item_done(batch, index)

    return pass_on


def _not_found() -> NotFound:
    return NotFound("There is nothing with this id, or it belongs to another caller.")
