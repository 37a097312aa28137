"""The desk: where a valid request becomes work, once, and where whoever comes back finds it again.

A request with an idempotency key is asked for its key first. What is accepted is on the disk before anybody is told so.
Whoever comes back for something finds it alive here, or as the ledger has it; and if it waits for its owner since the
last process stopped, their coming brings it back to life (`recovery.py`).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from attempts import Ledger
from auth import Caller
from callbacks import Delivery
from errors import GenerationFailed, LedgerDown, ShuttingDown
from generation import Generations
from idempotency import KEPT_FOR, Keys
from intake.attachments import UPLOADED
from intake.shapes import BatchRequest, GenerationRequest
from lookup import Lookup
from planning import Plan
from records import Batch, Generation
from recovery import Left, Recovery, ended_as, given_up
from telling import Ended, View

T = TypeVar("T")

Work = Generation | Batch
Row = Mapping[str, Any]

_LAST_ANSWERS: Final = 5.0
"""Seconds at most that a stop waits for them: they are milliseconds of the disk away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A request as it came over the counter. `seconds` is how long its caller waits for the end: None for as long as it
    takes. `written` is the request as text, for a batch what its items share and then each of them."""

    id: str
    wanted: GenerationRequest | BatchRequest
    written: Sequence[str]
    plan: Plan | None
    caller: Caller
    request_id: str
    view: View
    key: str | None = None
    fingerprint: str = ""
    seconds: float | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether its caller can come back for it."""
        return self.key is not None or self.seconds == 0


class LeftToTheNext(Exception):
    """The service stops; the next process goes on with the work. `error` is what its caller is told beside its id."""

    def __init__(self, work: Work, error: ShuttingDown) -> None:
        super().__init__(work.id)
        self.work = work
        self.error = error


@dataclass(frozen=True, slots=True)
class _Found:
    """What the ledger has: how it is told, and if it waits for whoever asked, what is to go on."""

    told: Batch | Ended | None
    left: Left | None = None

    @property
    def ids(self) -> set[str]:
        batches = self.left.batches if self.left else ()
        members = [each for batch in batches for each in batch.generations if isinstance(each, Generation)]
        lost = {row["id"] for row in self.left.lost} if self.left else set()
        return lost | {each.id for each in (*(self.left.generations if self.left else ()), *members)}


class Desk:
    """Lives on the loop. `deliver` hears of results that a caller's webhook waits for, `forget` of ids whose files
    nobody needs any more; what nobody came back for in `resume_ttl` seconds is given up."""

    def __init__(
        self,
        *,
        generations: Generations,
        ledger: Ledger,
        lookup: Lookup,
        recovery: Recovery,
        deliver: Callable[[Delivery], None],
        resume_ttl: float,
        forget: Callable[[Sequence[str]], None] = lambda ids: None,
    ) -> None:
        self._generations = generations
        self._ledger = ledger
        self._lookup = lookup
        self._recovery = recovery
        self._deliver = deliver
        self._forget = forget
        self._resume_ttl = resume_ttl
        self._waiting_for_owner: set[str] = set()
        self._callers: set[asyncio.Task[Any]] = set()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="ledger-reader")
        self.keys = Keys(ledger=ledger, ask=self._ask_for_key, is_unfinished=self._is_unfinished)

    async def take(self, order: Order) -> Work | Ended:
        """The work that the order asks for: taken on now, or before under the same key. Raises what refuses it."""
        work: Work | Ended | None = None
        try:
            work = await self._taken(order)
        finally:
            # Of work that was accepted, whoever ends it forgets the files.
            is_mine = self._alive(order.id) is not None or (work is not None and work.id == order.id)
            if not is_mine and any(UPLOADED in text for text in order.written):
                self._forget([order.id])
        return work

    async def _taken(self, order: Order) -> Work | Ended:
        if order.key is None:
            return await self._accepted(order)
        target = await self.keys.claim(order.caller.id, order.key, order.fingerprint)
        if target is not None:
            found = await self.find(target, order.caller)
            if found is None:
                raise LedgerDown(f"What the key stands for, {target}, is not in the ledger.")
            await self._ledger.synced()  # whoever came first may not have been told yet
            return found
        return await self._accepted(order)

    async def serve(self, order: Order) -> Work | Ended:
        """Take the order, and wait for its end as long as its caller does."""
        with self._waiting():
            work = await self.take(order)
            if order.seconds != 0 and not isinstance(work, Ended):
                try:
                    await self._generations.attend(work, seconds=order.seconds)
                except ShuttingDown as error:
                    raise LeftToTheNext(work, error) from None
            return work

    async def follow(self, order: Order, tell: Callable[[Batch, int], object]) -> Batch:
        """Take the order of a batch and wait for its end, or until it is interrupted; `tell` hears of each item as it
        ends."""
        with self._waiting():
            batch = await self.take(order)
            assert isinstance(batch, Batch)  # noqa: S101 - what a batch's key stands for
            self._generations.follow(batch, tell)
            with suppress(ShuttingDown):
                await self._generations.attend(batch)
            return batch

    async def find(self, target: str, owner: Caller | None = None) -> Work | Ended | None:
        """A generation or batch by its id. If its owner asks and it waits for them, it goes on."""
        found = _Found(None)
        for _ in range(2):  # again if it ended between the two looks
            if (alive := self._alive(target)) is not None:
                return alive
            found = await self.in_thread(partial(self._look, target, owner))
            if found.left is not None and (ids := found.ids) and ids <= self._waiting_for_owner:
                self._waiting_for_owner -= ids | {batch.id for batch in found.left.batches}
                self.resume(found.left)
                if found.left.lost:
                    await self._ledger.synced()
            elif found.told is None or found.told.has_ended or target in self._waiting_for_owner:
                break
        return self._alive(target) or found.told

    async def cancel(self, target: str, *, seconds: float) -> Work | None:
        """Cancel what is alive, and wait up to so many seconds for its end; None if it is not alive (any more).

        What waits for its owner is ended at once: nothing of it runs here."""
        work = self._alive(target)
        if work is not None:
            self._generations.cancel(work)
            task = self._generations.task(work)
            if task is not None:
                await asyncio.wait([task], timeout=seconds)
            return work
        if target in self._waiting_for_owner:
            rows = await self.in_thread(partial(self._lookup.members, target))
            rows = [row for row in rows if row["id"] in self._waiting_for_owner]
            self._waiting_for_owner -= {row["id"] for row in rows}
            self.put_ended(ended_as(row, GenerationFailed("It was cancelled."), "canceled") for row in rows)
            await self._ledger.synced()
            await self._end_batches(rows)
        return None

    def wait_for_owner(self, rows: Iterable[Row]) -> None:
        """These wait for their owner, from now on or since an earlier process."""
        for row in rows:
            self._waiting_for_owner |= {row["id"], row["batch"] or row["id"]}
            if row["interrupted_at"] is None:
                self._ledger.put("generations", {**row, "interrupted_at": time.time()})

    def resume(self, left: Left) -> None:
        """Go on with what an earlier process left."""
        self.put_ended(left.lost)
        self._generations.resume(left.generations, left.batches)

    def put_ended(self, rows: Iterable[Row]) -> None:
        """Put on record what ended without having lived here, and have its webhook told."""
        alone = []
        for row in rows:
            if row["webhook"]:
                delivery = Delivery(row["id"], row["webhook"], since=time.time())
                self._ledger.put("deliveries", delivery.as_row())
                self._deliver(delivery)
            self._ledger.put("generations", row)
            if row["batch"] is None:
                alone.append(row["id"])
        if alone:
            self._forget(alone)

    async def tidy_up(self) -> None:
        """Give up what nobody came back for in time, and forget keys that are older than they are kept."""
        now = time.time()
        rows = await self.in_thread(partial(self._lookup.interrupted, now - self._resume_ttl))
        rows = [row for row in rows if row["id"] in self._waiting_for_owner]
        self._waiting_for_owner -= {row["id"] for row in rows}
        self.put_ended(map(given_up, rows))
        for caller, key, target in await self.in_thread(partial(self._lookup.keys_before, now - KEPT_FOR)):
            if not self.keys.is_held(caller, key) and not self._is_unfinished(target):
                self._ledger.remove("keys", caller, key)
        await self._ledger.synced()
        await self._end_batches(rows)

    async def answered(self) -> None:
        """Once all lives have ended: have everybody who waits for one told so. Whoever is still here when the loop
        stops gets no answer at all."""
        if self._callers:
            await asyncio.wait(self._callers, timeout=_LAST_ANSWERS)

    def close(self) -> None:
        self._readers.shutdown()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in one
        self._callers.add(task)
        try:
            yield
        finally:
            self._callers.discard(task)

    async def _end_batches(self, rows: Iterable[Row]) -> None:
        """Have those batches end of which the last have ended with these."""
        for batch_id in {row["batch"] for row in rows if row["batch"]}:
            told = (await self.in_thread(partial(self._look, batch_id, None))).told
            if isinstance(told, Batch) and all(each.has_ended for each in told.generations):
                self._waiting_for_owner.discard(batch_id)
                self._generations.resume((), [told])
                if (task := self._generations.task(told)) is not None:
                    await asyncio.wait([task])

    async def _accepted(self, order: Order) -> Work:
        try:
            work = (self._accept_batch if isinstance(order.wanted, BatchRequest) else self._accept)(order)
        except BaseException:
            self._abandon(order)
            raise
        if order.key is not None:
            self.keys.settle(order.caller.id, order.key, work.id)
        if work.is_wanted or isinstance(work, Batch):  # anything else is on the disk before it is sent
            try:
                await self._generations.recorded(work)
            except LedgerDown:
                self._abandon(order)
                raise
            except asyncio.CancelledError:
                if order.key is None:  # its caller went away before anybody was told of it
                    self._generations.cancel(work)
                raise
        return work

    def _abandon(self, order: Order) -> None:
        if order.key is not None:
            self.keys.abandon(order.caller.id, order.key)

    def _accept(self, order: Order) -> Work:
        assert isinstance(order.wanted, GenerationRequest)  # noqa: S101 - the caller asked
        return self._generations.accept(
            order.wanted,
            caller=order.caller,
            request_id=order.request_id,
            view=order.view,
            generation_id=order.id,
            written=order.written[0],
            is_wanted=order.is_wanted,
        )

    def _accept_batch(self, order: Order) -> Work:
        assert isinstance(order.wanted, BatchRequest)  # noqa: S101 - the caller asked
        assert order.plan is not None  # noqa: S101 - every batch has one
        return self._generations.accept_batch(
            order.wanted,
            plan=order.plan,
            caller=order.caller,
            request_id=order.request_id,
            view=order.view,
            batch_id=order.id,
            written=order.written,
            is_wanted=order.is_wanted,
        )

    def _alive(self, target: str) -> Work | None:
        return self._generations.find(target) or self._generations.find_batch(target)

    def _is_unfinished(self, target: str) -> bool:
        return target in self._waiting_for_owner or self._alive(target) is not None

    async def _ask_for_key(self, caller: str, key: str) -> Row | None:
        return await self.in_thread(partial(self._lookup.key, caller, key))

    async def in_thread(self, ask: Callable[[], T]) -> T:
        """Ask the ledger, or do what would take the loop's time for long."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, ask)

    # ── In a reader's thread

    def _look(self, target: str, owner: Caller | None) -> _Found:
        if target.startswith("batch_"):
            batch = self._lookup.batch(target)
            return _Found(None) if batch is None else self._look_into(batch, owner, _Found(None))
        row = self._lookup.generation(target)
        if row is None:
            return _Found(None)
        told = _Found(Ended.of(row))
        if owner is None or owner.id != row["caller"] or row["ended_at"] is not None:
            return told
        if row["batch"] is None:
            return replace(told, left=self._recovery.revived([row], (), owner))
        batch = self._lookup.batch(row["batch"])
        return told if batch is None else replace(self._look_into(batch, owner, told), told=told.told)

    def _look_into(self, batch: Row, owner: Caller | None, otherwise: _Found) -> _Found:
        members = self._lookup.of_batch(batch["id"])
        if owner is None or owner.id != batch["caller"] or batch["ended_at"] is not None:
            return replace(otherwise, told=self._recovery.batch(batch, members, None, []))
        left = self._recovery.revived((), [(batch, members)], owner)
        return _Found(self._recovery.batch(batch, members, None, []), left)


def owner_of(work: Work | Ended) -> str:
    """The id of the caller whose it is."""
    return work.caller if isinstance(work, Ended) else work.caller.id


def result_of(work: Work | Ended, view: View) -> dict[str, Any]:
    """What is told of work that has ended."""
    if not isinstance(work, Batch):
        return work.result(view)
    return {**work.summary(), "results": [work.item(index, view) for index in range(len(work.generations))]}
