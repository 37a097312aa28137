"""Suspended work: users' generations of an earlier process, until their owner returns with the token.

Then they are resumed (`recovery.py`). They end without running here if they are cancelled, or if the owner does not
return in time. Only the ledger has suspended work: several processes may try to resume or end the same work, and
one of them takes it over, by a claim in the ledger.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from auth import Caller
from errors import TokenRejected
from generations.archive import Archive, Stored
from generations.batch import Batch
from generations.budgets import Budgets
from generations.endings import cancelled, expired
from generations.generation import Generation
from generations.joined import items_of_record
from generations.lifecycle import log_end
from generations.recovery import Recovery, Restored, stored_batch
from generations.supervisor import Supervisor
from ledger import Ledger, Queries
from ledger.claims import ClaimBatch, ClaimSuspended
from ledger.records import GenerationRecord
from parsing.shapes import BatchRequest, GenerationRequest
from providers.single_flight import SingleFlight
from providers.token_checks import TokenChecks
from webhooks.outbox import Outbox

_AT_ONCE: Final = 500
"""Generations and batches that are ended together."""

_PAUSE: Final = 0.05
"""Seconds between two looks at an item that another process is ending."""

Requested = Mapping[str | tuple[str | None, int | None], GenerationRequest]
"""Requests that were made again, by the id of the generation, or by that of its batch and the place in it."""

NONE_AGAIN: Final[Requested] = {}

Taken = Callable[[Sequence[str]], Awaitable[object]]
"""What to do with work that this process has taken over, by ids of generations or batches."""


class Suspension:
    def __init__(
        self,
        *,
        supervisor: Supervisor,
        archive: Archive,
        recovery: Recovery,
        checks: TokenChecks,
        ledger: Ledger,
        budget: Budgets,
        outbox: Outbox,
    ) -> None:
        self._supervisor = supervisor
        self._archive = archive
        self._recovery = recovery
        self._checks = checks
        self._ledger = ledger
        self._budget = budget
        self._outbox = outbox
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Held while suspended work is resumed or ended, by the id of its batch or else its own."""
        self._resuming: SingleFlight[bool] = SingleFlight()
        self._undone: dict[str, tuple[str, Taken]] = {}
        """Work whose resumption or end the ledger's failure interrupted: the lock and the rest to do, by id."""

    def suspend(self, records: Iterable[GenerationRecord]) -> None:
        """Suspend these until their owner returns. An earlier process may have suspended them already."""
        now = time.time()
        for record in records:
            if record.suspended_at is None:
                self._ledger.upsert(replace(record, suspended_at=now))

    async def resume_for(self, work: Stored, owner: Caller, again: Requested = NONE_AGAIN) -> bool:
        """Resume suspended work of this caller; for an item, its whole batch. Requests that are made `again` give their
        generations the secrets back. Returns whether this process did, and False if another one was faster. Raises
        LedgerDown."""
        # Work with a refused token is resumed too, and fails with that error.
        with suppress(TokenRejected):
            owner = await self._checks.check(owner)
        root = _root(work)
        # In a task of its own: a caller that leaves must not leave work that is neither suspended nor running.
        return await self._resuming.run(
            root, lambda: self._take({root: root}, partial(self._restore_and_resume, owner, again))
        )

    def resume(self, restored: Restored) -> None:
        """Resume restored work, and record the end of work that cannot be resumed."""
        self._record_ends(restored.ended)
        self._supervisor.resume(restored.generations, restored.batches)

    async def cancel(self, work: Stored) -> None:
        """End the suspended generations of this work as cancelled. Raises LedgerDown."""
        await self._take({work.id: _root(work)}, partial(self._end, cancelled))

    async def expire(self, *, before: float) -> None:
        """End work that was suspended before this Unix time, and do what a failure interrupted. Raises LedgerDown."""
        for work_id, (root, then) in [*self._undone.items()]:
            await self._take({work_id: root}, then)
        found = await self._archive.read(lambda queries: queries.suspended(before))
        roots = list(dict.fromkeys(_root(record) for record in found))
        for first in range(0, len(roots), _AT_ONCE):
            some = roots[first : first + _AT_ONCE]
            await self._take(dict(zip(some, some, strict=True)), partial(self._end, expired))
        for batch_id in await self._archive.read(lambda queries: queries.completed_batches()):
            async with self._lock(batch_id):
                await self._end_batch(batch_id)

    async def _take(self, roots: Mapping[str, str], then: Taken) -> bool:
        """Take over the suspended generations of work, whose ids are mapped to those of their locks, and call `then`
        with the ids that this process got. Returns whether it got any."""
        async with AsyncExitStack() as stack:
            for root in sorted({*roots.values()}):  # in order, so that no two wait for each other
                await stack.enter_async_context(self._lock(root))
            perhaps = self._undone.keys() & roots
            self._undone |= {work_id: (root, then) for work_id, root in roots.items()}
            made = await asyncio.gather(*(self._ledger.claim(ClaimSuspended(each)) for each in roots))
            taken = [each for each, is_made in zip(roots, made, strict=True) if is_made or each in perhaps]
            if taken:
                await then(taken)
            for work_id in roots:
                self._undone.pop(work_id, None)
        return bool(taken)

    def _lock(self, root: str) -> asyncio.Lock:
        return self._locks.setdefault(root, asyncio.Lock())

    async def _restore_and_resume(self, owner: Caller, again: Requested, ids: Sequence[str]) -> None:
        for work_id in ids:
            while (restored := await self._archive.read(partial(self._restored, work_id, owner))) is None:
                await asyncio.sleep(_PAUSE)
                await self._ledger.claim(ClaimSuspended(work_id))  # the other process may be dead
            if restored.ended:
                self._record_ends(restored.ended)
                await self._ledger.flush()
            _give_secrets_back(restored.running, again)
            # The last step, so that a caller who cancels it does so before anything is sent.
            self._supervisor.resume(restored.generations, restored.batches)

    def _restored(self, work_id: str, owner: Caller, queries: Queries) -> Restored | None:
        """The work to resume. None while another process ends an item of it. Blocks."""
        no_work = Restored((), (), ())
        if self._supervisor.find(work_id) is not None:
            return no_work
        if not work_id.startswith("batch_"):
            record = queries.generation(work_id)
            if record is None or not self._is_taken(record):
                return no_work
            return self._recovery.restore([record], (), owner)
        batch, own = queries.batch(work_id), queries.batch_items(work_id)
        if batch is None or batch.ended_at is not None or not any(map(self._is_taken, own)):
            return no_work
        if not all(each.has_ended or self._is_taken(each) for each in own):
            return None
        return self._recovery.restore((), [(batch, items_of_record(queries, batch))], owner)

    async def _end(self, end: Callable[[GenerationRecord], GenerationRecord], ids: Sequence[str]) -> None:
        found = await self._archive.read(partial(_members, ids))
        records = [end(each) for each in found if self._is_taken(each)]
        self._record_ends(records)
        await self._ledger.flush()
        for batch_id in sorted({each.batch_id for each in records if each.batch_id}):
            await self._end_batch(batch_id)

    def _is_taken(self, record: GenerationRecord) -> bool:
        """Whether it belongs to this process and does not run yet. Work of a dead process is resumed elsewhere in this
        one."""
        return (
            not record.has_ended
            and record.suspended_at is None
            and record.taken_at is None
            and record.process == self._ledger.process
            and self._supervisor.find(record.id) is None
        )

    async def _end_batch(self, batch_id: str) -> None:
        """End a batch if all its items have ended, unless another process does. Call it with the lock of the batch."""
        await self._ledger.flush()  # its end may be pending
        record, items = await self._archive.batch(batch_id)
        if (
            record is None
            or record.ended_at is not None
            or record.taken_at is not None  # it is resumed with the other work of a dead process
            or not all(item.has_ended for item in items)
            or self._supervisor.find(batch_id) is not None
            or not await self._ledger.claim(ClaimBatch(batch_id))
        ):
            return
        batch = stored_batch(record, items)
        self._supervisor.resume((), [batch])
        if (task := self._supervisor.task(batch)) is not None:
            await asyncio.wait([task])

    def _record_ends(self, records: Iterable[GenerationRecord]) -> None:
        """Record these ends with what they cost, and deliver them to the callers' webhooks."""
        for record in records:
            if record.webhook:
                self._outbox.take(self._outbox.prepare(record.id, record.webhook))
            self._ledger.upsert(record)
            self._budget.count(record)
            log_end(record)
            if record.batch_id is None:
                self._supervisor.forget_attachments(record.id)


def _root(work: Stored) -> str:
    """The id of its batch, or else its own."""
    return work.id if isinstance(work, Batch) else work.batch_id or work.id


def _give_secrets_back(generations: Iterable[Generation], again: Requested) -> None:
    """Give the generations the secrets of their request, but none whose prediction may exist: only a creation here lets
    the provider remove the secrets from what Replicate answers."""
    for each in generations:
        request = again.get(each.id) or again.get((each.batch_id, each.position))
        if request is not None and request.secrets and not (each.last and each.last.is_open):
            each.request = replace(each.request, secrets=request.secrets, lost_secrets=frozenset())
            each.secrets_lost = False


def made_again(work_id: str, request: GenerationRequest | BatchRequest) -> Requested:
    """The request of this work, made again, as far as it has secrets to give back."""
    if not isinstance(request, BatchRequest):
        return {work_id: request}
    return {(work_id, place): each for place, each in enumerate(request.requests) if each.secrets}


def joined_again(ids: Mapping[int, str], request: GenerationRequest | BatchRequest) -> Requested:
    """The requests, made again, of the items with these ids in a batch, by their places."""
    assert isinstance(request, BatchRequest)  # noqa: S101 - others have no items
    return {work_id: request.requests[place] for place, work_id in ids.items()}


def _members(ids: Collection[str], queries: Queries) -> Sequence[GenerationRecord]:
    return queries.members(ids)
