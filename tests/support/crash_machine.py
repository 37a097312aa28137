"""A state machine for Hypothesis: a service before the simulator that may crash at any moment, in virtual time.

Its disk loses all records that were not flushed. Subclasses add rules and check what must hold in the end.
"""

import asyncio
import time
from collections.abc import Awaitable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from auth import Principal
from concurrency import Gate
from errors import ServiceError
from generations.recovery import load_startup_state
from ledger.memory import MemoryLedger
from ledger.memory_rows import Rows
from providers.replicate.access import Access
from providers.replicate.provider import Replicate
from simulator import Options
from tests.support.connections import FakeConnections
from tests.support.virtual_replicate import simulator_here
from tests.support.virtual_time import VirtualLoop
from tests.support.wiring import ADMIN, KEYS, USER, core

T = TypeVar("T")

CALLERS = st.sampled_from([ADMIN, USER])

OWNERS = {each.id: each for each in (ADMIN, USER, KEYS[0])}

COMMIT_SECONDS = 0.0003
"""Seconds that a commit takes, during which the process may crash."""


class Connection(FakeConnections):
    """The connection of a process to Replicate. Requests that were sent arrive even if the process crashes."""

    def __init__(self, loopback: FakeConnections) -> None:
        self.has_crashed = False
        self._loopback = loopback
        self._pending: set[asyncio.Task[Any]] = set()

    async def respond(self, request: httpx.Request) -> httpx.Response:
        if self.has_crashed:
            await asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._loopback.respond(request), name="the world's")
        self._pending.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._pending.discard(task)
        if not task.cancelled():
            task.exception()


class Process:
    """One process of the service, from start to crash."""

    def __init__(self, rows: Rows, loopback: FakeConnections, *, places: int | None = None) -> None:
        """`places` is the limit per minute; creations of earlier processes count toward it."""
        self.ledger = MemoryLedger(rows, commit_seconds=COMMIT_SECONDS)
        self._connection = Connection(loopback)
        others = Gate(concurrent_limit=200, requests_per_minute=3000)
        gate = Gate(concurrent_limit=3, requests_per_minute=places or 600)
        self.core = core(
            Replicate(
                Access(
                    base_url="http://replicate.test",
                    others=others,
                    on_answer=gate.upstream_answered,
                    connections=self._connection,
                )
            ),
            gate=gate,
            ledger=self.ledger,
            MAX_QUEUED=1000,
        )
        self.generations = self.core.generations
        self.budget = self.core.budget
        state = load_startup_state(
            self.ledger,
            self.core.recovery,
            {each.id: each for each in OWNERS.values() if each.uses_server_token}.get,
            limits=self.core.provider.limits,
            simulated=True,
            now=time.time(),
        )
        spent_for_keys = self.budget.keys.load(self.ledger)
        self.core.begin(state if places else replace(state, answered_ago={}), spent=({}, spent_for_keys))

    async def killed(self) -> None:
        self.ledger.crash()
        self._connection.has_crashed = True
        while mine := [
            task
            for task in asyncio.all_tasks()
            if task is not asyncio.current_task() and task.get_name() != "the world's"
        ]:
            for task in mine:
                task.cancel()
            await asyncio.wait(mine, timeout=0)


class CrashMachine(RuleBasedStateMachine):
    """Rules for time that passes and for processes that crash or stop. In the end, nothing fails any more and
    every owner returns."""

    def __init__(self) -> None:
        super().__init__()
        self.began = time.time()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.rows = MemoryLedger().rows
        self.asked = 0
        self.do(self.begin_world())

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine with a wall clock that advances with virtual time, so that the clocks do not drift
        apart."""
        loop = self.runner.get_loop()  # before the patch: making a loop may log, which asks for the time
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: self.began + loop.time())
            return self.runner.run(work)

    async def begin_world(self) -> None:
        options = Options(prediction_seconds=1.0, jitter=0.0, answer_delay=(0.0, 0.2), seed=1)
        self.world, self.loopback = simulator_here(options)
        self.process = Process(self.rows, self.loopback)

    @property
    def disk(self) -> MemoryLedger:
        """The ledger as another process would read it."""
        return MemoryLedger(self.rows)

    @rule(seconds=st.sampled_from([0.0001, 0.0005, 0.01, 0.03, 0.1, 0.25, 1.0, 2.1, 3.0, 20.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.0004, 0.015, 0.1, 0.7]))
    def kill_and_begin_anew(self, seconds: float) -> None:
        async def scenario() -> None:
            await asyncio.sleep(seconds)
            await self.begin_anew()

        self.do(scenario())

    @rule(seconds=st.sampled_from([0.0, 0.5, 30.0]))
    def stop_in_order_and_begin_anew(self, seconds: float) -> None:
        async def scenario() -> None:
            await self.process.core.supervisor.drain(seconds)
            await self.end_in_order()

        self.do(scenario())

    async def end_in_order(self) -> None:
        self.process.ledger.trouble = None
        await self.begin_anew()

    async def begin_anew(self) -> None:
        await self.process.killed()
        self.process = Process(self.rows, self.loopback)

    def teardown(self) -> None:
        try:
            self.do(self.come_to_the_end())
            self.do(self.check())
        finally:
            self.do(self.process.killed())
            self.do(self.world.close())
            self.runner.close()

    async def come_to_the_end(self) -> None:
        self.world.faults.clear()
        self.process.ledger.trouble = None
        async with asyncio.timeout(10_000):
            await asyncio.sleep(1)
            while self.disk.unfinished() or self.disk.unfinished_batches():
                for record in self.disk.unfinished():
                    owner = OWNERS[record.caller_id]
                    principal = Principal(owner.id, "user", owner)
                    await self.process.generations.get(record.batch_id or record.id, principal)
                await self.process.core.suspension.expire(before=0)  # as the service does regularly
                await asyncio.sleep(1)

    async def check(self) -> None:
        """Assert what must hold in the end."""


async def patiently(work: Awaitable[object], seconds: float) -> None:
    """Wait until the coroutine ends or is refused, for at most these seconds."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except (TimeoutError, ServiceError):
        pass
