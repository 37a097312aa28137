"""The desk: where a valid request becomes work, once, and where whoever comes back finds it again.

A request with an idempotency key is asked for its key first. What is accepted is on the disk before anybody is told so.
Whoever comes back for something finds it alive here, or as the ledger has it; and if it waits for its owner since the
last process stopped, their coming brings it back to life (`interrupted.py`).
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from admission.forecast import Plan
from attempts import Ledger
from auth import Caller, Visitor
from errors import LedgerDown, ShuttingDown
from generation import Generations
from idempotency import KEPT_FOR, Keys
from intake.attachments import UPLOADED
from intake.shapes import BatchRequest, GenerationRequest
from interrupted import InterruptedWork
from lookup import Lookup
from loop_thread import Pool
from records import Batch, Work
from recovery import Recovery
from telling import Recorded, View

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


class Desk:
    """Lives on the loop. `forget` hears of ids whose files nobody needs any more; what nobody came back for in
    `resume_ttl` seconds is given up."""

    def __init__(
        self,
        *,
        generations: Generations,
        ledger: Ledger,
        lookup: Lookup,
        recovery: Recovery,
        interrupted: InterruptedWork,
        threads: Pool,
        resume_ttl: float,
        forget: Callable[[Sequence[str]], None] = lambda ids: None,
    ) -> None:
        self._generations = generations
        self._ledger = ledger
        self._lookup = lookup
        self._recovery = recovery
        self._interrupted = interrupted
        self._threads = threads
        self._forget = forget
        self._resume_ttl = resume_ttl
        self._callers: set[asyncio.Task[Any]] = set()
        self.keys = Keys(ledger=ledger, ask=self._ask_for_key, is_unfinished=self._is_unfinished)

    async def take(self, order: Order) -> Work | Recorded:
        """The work that the order asks for: taken on now, or before under the same key. Raises what refuses it."""
        work: Work | Recorded | None = None
        try:
            work = await self._taken(order)
        finally:
            # Of work that was accepted, whoever ends it forgets the files.
            is_mine = self._alive(order.id) is not None or (work is not None and work.id == order.id)
            if not is_mine and any(UPLOADED in text for text in order.written):
                self._forget([order.id])
        return work

    async def _taken(self, order: Order) -> Work | Recorded:
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

    async def serve(self, order: Order) -> Work | Recorded:
        """Take the order, and wait for its end as long as its caller does."""
        with self._waiting():
            work = await self.take(order)
            if order.seconds != 0 and not isinstance(work, Recorded):
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

    async def find(self, target: str, owner: Caller | None = None) -> Work | Recorded | None:
        """A generation or batch by its id. If its owner asks and it waits for them, it goes on."""
        recorded: Batch | Recorded | None = None
        for _ in range(2):  # again if it ended between the two looks
            is_back = owner is not None and await self._brought_back(target, owner)
            if (alive := self._alive(target)) is not None:
                return alive
            if is_back:  # but could not go on
                await self._ledger.synced()
            recorded = await self._threads.run(partial(self._recorded, target))
            if recorded is None or recorded.has_ended or target in self._interrupted:
                break
        return self._alive(target) or recorded

    async def look(self, target: str, visitor: Visitor) -> Work | Recorded | None:
        """A generation or batch for whoever asks for it by its id; None if they may not see it. It goes on from now on,
        whoever else stops waiting for it: they may come back."""
        work = await self._seen_by(visitor, target)
        if isinstance(work, Work):
            work.is_wanted = True
        return work

    async def cancel(self, target: str, visitor: Visitor, *, seconds: float) -> Work | Recorded | None:
        """Cancel what runs or waits of it if they may, and wait up to so many seconds for its end: it as it stands
        then; None if they may not see it. What waits for its owner is brought back if it is them, so that what runs
        of it can be cancelled at Replicate, too. What a stop has left to the next process, that process cancels."""
        work = await self._seen_by(visitor, target)
        if work is None:
            return None
        for _ in range(2):  # again if its owner came back for it between the two looks
            if (alive := self._alive(target)) is not None:
                # If it is back since this very moment, what was queued of it is cancelled before it can be sent.
                self._generations.cancel(alive)
                if (task := self._generations.task(alive)) is not None:
                    await asyncio.wait([task], timeout=seconds)
                return alive
            if (left := self._generations.interrupted(target)) is not None:
                self._generations.cancel(left)
                await self._ledger.synced()
                return left
            if target not in self._interrupted:
                return work
            await self._interrupted.cancel(target)
            work = await self.find(target)
        return work

    async def _seen_by(self, visitor: Visitor, target: str) -> Work | Recorded | None:
        work = await self.find(target, visitor.caller)
        return work if work is not None and visitor.may_see(work.owner) else None

    async def tidy_up(self) -> None:
        """Give up what nobody came back for in time, and forget keys that are older than they are kept."""
        now = time.time()
        await self._interrupted.give_up(before=now - self._resume_ttl)
        for caller, key, target in await self._threads.run(partial(self._lookup.keys_before, now - KEPT_FOR)):
            if not self.keys.is_held(caller, key) and not self._is_unfinished(target):
                self._ledger.remove("keys", caller, key)

    async def answered(self) -> None:
        """Once all lives have ended: have everybody who waits for one told so. Whoever is still here when the loop
        stops gets no answer at all."""
        if self._callers:
            await asyncio.wait(self._callers, timeout=_LAST_ANSWERS)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - coroutines run in one
        self._callers.add(task)
        try:
            yield
        finally:
            self._callers.discard(task)

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
                # Its caller went away before they were told of it, and cannot come back nor will be called back.
                if order.key is None and work.webhook is None:
                    self._generations.abandon(work)
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

    async def _brought_back(self, target: str, owner: Caller) -> bool:
        return target in self._interrupted and await self._interrupted.bring_back(target, owner)

    def _is_unfinished(self, target: str) -> bool:
        return target in self._interrupted or self._alive(target) is not None

    async def _ask_for_key(self, caller: str, key: str) -> Row | None:
        return await self._threads.run(partial(self._lookup.key, caller, key))

    def _recorded(self, target: str) -> Batch | Recorded | None:
        """As the ledger has it. In another thread."""
        if not target.startswith("batch_"):
            row = self._lookup.generation(target)
            return None if row is None else Recorded.of(row)
        batch = self._lookup.batch(target)
        return None if batch is None else self._recovery.batch(batch, self._lookup.of_batch(target), None, [])
