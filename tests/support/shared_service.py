"""Processes that make generations by a shared gate at a model of the upstream, in virtual time (`shared_gate.py`).

They do in short what `generations.attempt` and `generations.recovery` do: a creation is on disk before it is sent, and
one whose answer is lost is searched for.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from cluster import burials, probes
from cluster.lease import RemoteLease
from concurrency import Lease
from errors import LedgerDown, ShuttingDown
from ledger.claims import ClaimSuspended
from loop_thread import finish
from tests.support.shared_database import TTL, Database, Generation
from tests.support.shared_gate import Process
from tests.support.shared_upstream import Lost, Refused, Upstream
from tests.support.virtual_time import now

TIMEOUT = 8.0
SEARCH_PAUSE = 0.5
POLL_PAUSE = 1.0
PAUSE = 1.0
FETCHING = 0.05
REFUSED_FOR = 3.0


class Again(Exception):
    """The generation is to be tried again."""


class Work:
    """A generation in a process, with its latest record."""

    def __init__(self, record: Generation) -> None:
        self.record = record

    def set(self, **changes: Any) -> Generation:
        self.record = replace(self.record, **changes)
        return self.record


class Service(Process):
    """A process that makes generations, and takes over those of dead ones. `seconds` is how long the prediction of each
    generation runs."""

    def __init__(
        self, database: Database, upstream: Upstream, name: str, seconds: dict[str, float], **limits: Any
    ) -> None:
        super().__init__(database, name, **limits)
        self.is_over = self.is_draining = False
        self._upstream = upstream
        self._seconds = seconds
        self._running: dict[str, tuple[asyncio.Task[None], Work]] = {}
        self.errors: list[BaseException] = []
        self.ledger.on_buried = self.die
        self.start(burials.run(self._bury, self._resume, pause=TTL / 5))
        self.start(probes.run(self.gate, self._probe))

    # ── Its end

    def die(self) -> None:
        """Do nothing any more."""
        self.is_over = True
        self.freeze()

    def freeze(self) -> None:
        """Do nothing until `go_on`."""
        self.place.stop()
        self.ledger.place.stop()

    def block(self) -> None:
        """Let the loop do nothing until `go_on`, while the ledger's writer goes on."""
        self.place.stop()

    def go_on(self) -> None:
        if not self.is_over:
            self.ledger.place.go_on()
            self.place.go_on()

    async def stop(self, drain: float) -> None:
        """Stop in order after so many seconds, as after SIGTERM."""
        self.is_draining = True
        handing_over = self.start(self.keeper.hand_over())
        self.gate.close(ShuttingDown)
        for each, work in list(self._running.values()):
            if work.record.state == "queued":
                each.cancel()
        await self._wait_for_all(drain)
        for each, _ in list(self._running.values()):
            each.cancel()
        await self._wait_for_all(None)
        await handing_over
        with suppress(LedgerDown):
            await self.ledger.flush()
        self.database.leave(self.name)
        self.die()

    def cancel(self) -> None:
        """Let all tasks end, also after `die`, so that the loop can be closed."""
        self.ledger.close()
        self.place.go_on()
        for task in self.tasks:
            task.cancel()

    async def _wait_for_all(self, seconds: float | None) -> None:
        if self._running:
            await asyncio.wait([task for task, _ in self._running.values()], timeout=seconds)

    # ── Which generations it makes

    def submit(self, generation: Generation) -> None:
        self._begin(generation.of(self.name))

    async def claim(self, generation: Generation) -> None:
        """The owner of a suspended generation comes to this process."""
        if self.is_draining:
            return
        with suppress(LedgerDown):
            await self.ledger.claim(ClaimSuspended(generation.id))
            await self._resume()

    async def _bury(self) -> bool:
        def bury() -> bool:
            return self.database.bury_overdue(self.name)

        return not self.is_draining and bool(await self.database.run(self.name, bury))

    async def _resume(self) -> None:
        if self.is_draining:
            return
        await self.ledger.flush()
        every = await self.database.run(self.name, self.database.generations.copy)
        for each in every.values():
            if each.process == self.name and each.state != "ended" and each.id not in self._running:
                self._begin(each)

    def _begin(self, generation: Generation) -> None:
        work = Work(generation)
        task = self.start(self._live(work))
        self._running[generation.id] = task, work
        task.add_done_callback(lambda _: self._note_end(generation.id, task))

    def _note_end(self, generation_id: str, task: asyncio.Task[None]) -> None:
        del self._running[generation_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.errors.append(error)

    async def _probe(self) -> None:
        if any(work.record.state == "queued" for _, work in self._running.values()):
            sent = now()
            with suppress(Lost):
                await _answer(self._upstream.find(""))
                self.gate.upstream_answered(sent)

    # ── A generation

    async def _live(self, work: Work) -> None:
        try:
            await self._save(work)
            while work.record.state != "ended":
                try:
                    await (self._attempt(work) if work.record.state == "queued" else self._continue(work))
                except Again:
                    await self._save(work, state="queued", prediction=None)
                    await asyncio.sleep(PAUSE)
        except ShuttingDown:
            pass

    async def _save(self, work: Work, **changes: Any) -> None:
        """Change a generation on disk."""
        while True:
            self.ledger.upsert(work.set(**changes))
            try:
                return await self.ledger.flush()
            except LedgerDown:
                await asyncio.sleep(PAUSE)

    def _save_soon(self, work: Work, **changes: Any) -> None:
        async def flush() -> None:
            with suppress(LedgerDown):
                await self.ledger.flush()

        self.ledger.upsert(work.set(**changes))
        self.start(flush())

    async def _attempt(self, work: Work) -> None:
        lease = await self.gate.acquire(work.record.caller, **_limits(work))
        assert isinstance(lease, RemoteLease)
        with lease:
            await self._persist(work, lease)
            await self._create(work, lease)
            await self._watch(work, lease)
        await self._end(work)

    async def _continue(self, work: Work) -> None:
        """Continue an attempt of another process."""
        record = work.record
        lost = None if record.prediction else now() - record.submitted_at
        with self.gate.adopt(record.caller, lost=lost, expected=record.reference, **_limits(work)) as lease:
            if record.prediction is None:
                await self._search(work)
                lease.answered()
                self._save_soon(work, state="running", prediction=record.reference)
            await self._watch(work, lease)
        await self._end(work)

    async def _end(self, work: Work) -> None:
        await asyncio.sleep(FETCHING)
        await self._save(work, state="ended")

    async def _persist(self, work: Work, lease: Lease) -> None:
        before = work.record
        try:
            while True:
                work.set(state="submitting", number=before.number + 1, submitted_at=now())
                self.ledger.upsert(work.record)
                try:
                    return await lease.persist(self.ledger, work.record.reference, self._runs_for(work))  # type: ignore[arg-type]
                except LedgerDown:
                    await asyncio.sleep(PAUSE)
        except (asyncio.CancelledError, ShuttingDown):  # nothing was sent
            work.record = before
            self.ledger.upsert(before)
            raise

    def _runs_for(self, work: Work) -> float:
        """The most seconds that its prediction may run after the answer to its creation."""
        return self._upstream.booting + self._seconds[work.record.id] + 10 * self._upstream.there

    async def _create(self, work: Work, lease: RemoteLease) -> None:
        creation = self.start(self._sent(work, lease))
        try:
            await asyncio.shield(creation)
        except asyncio.CancelledError:
            creation.cancel()
            await finish(asyncio.wait([creation]))
            if not creation.cancelled():
                is_made = creation.exception() is None
                changes = {"prediction": work.record.reference} if is_made else {}
                self._save_soon(work, state="running" if is_made else "queued", **changes)
            raise
        self._save_soon(work, state="running", prediction=work.record.reference)
        self.gate.proceed(work.record.caller)

    async def _sent(self, work: Work, lease: RemoteLease) -> None:
        """Send the creation. Returns when its prediction is known."""
        lease.sent()
        try:
            await finish(self._exchange(work, lease))
        except Refused:
            lease.answered()
            self.gate.pause(work.record.caller, REFUSED_FOR)
            raise Again from None
        except Lost:
            lease.lost()
            if (task := asyncio.current_task()) and task.cancelling():
                raise asyncio.CancelledError from None
            await self._search(work)
        lease.answered()

    async def _exchange(self, work: Work, lease: RemoteLease) -> None:
        await asyncio.sleep(self._upstream.connecting)
        if not self.ledger.may_send():
            lease.not_sent()
            raise Again
        row = self.database.rows[lease.record.id]
        await _answer(self._upstream.create(row, self._seconds[work.record.id]))

    async def _search(self, work: Work) -> None:
        """Search for the prediction of a creation without an answer. Raises Again if there is none."""
        absent = 0
        while absent < 2:
            await asyncio.sleep(SEARCH_PAUSE)
            if await self._asked(partial(self._upstream.find, work.record.reference)):
                return
            absent += 1
        raise Again

    async def _watch(self, work: Work, lease: Lease) -> None:
        state = "starting"
        while state != "over":
            await asyncio.sleep(POLL_PAUSE)
            state = await self._asked(partial(self._upstream.state, work.record.reference))
            if state == "processing":
                lease.started()

    async def _asked(self, request: Callable[[], asyncio.Future[Any]]) -> Any:
        """The answer to a request, which is made until there is one."""
        while True:
            sent = now()
            with suppress(Lost):
                answer = await _answer(request())
                self.gate.upstream_answered(sent)
                return answer
            await asyncio.sleep(POLL_PAUSE)


def _limits(work: Work) -> dict[str, Any]:
    return {"batch": work.record.batch, "boots": work.record.version}


async def _answer(future: asyncio.Future[Any]) -> Any:
    done, _ = await asyncio.wait([future], timeout=TIMEOUT)
    if not done:
        raise Lost
    return future.result()
