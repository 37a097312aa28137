"""A service that may die at any moment, and what it leaves: its inside before the simulator, in virtual time, with a
disk that forgets what was not synced. What the stories of its deaths share.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from parts import ADMIN, UNPLANNED, USER, VIEW
from virtual_replicate import Loopback
from virtual_time import VirtualLoop

from budget import Budget
from concurrency import Gate
from desk import Desk, Order
from errors import LedgerDown, ServiceError
from generation import Generations, new_id
from idempotency import body_fingerprint
from intake.attachments import Attachments
from intake.parsing import Terms
from interrupted import InterruptedWork
from loop_thread import Pool
from providers.replicate.provider import Replicate
from recovery import Recovery, inherit
from simulator import Options
from simulator.server import application
from simulator.world import World
from store import SOON
from tables import WRITINGS

CALLERS = st.sampled_from([ADMIN, USER])

TIME_TO_DIE = 0.0003
"""Seconds that a commit takes, in which a process may die."""


class Disk:
    """What is left of a process: the rows that were synced. Asked as `lookup.Lookup` is."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Any, dict]] = {table: {} for table in WRITINGS}

    def unfinished(self):
        return [row for row in self.rows["generations"].values() if row["ended_at"] is None]

    def unfinished_batches(self):
        return [row for row in self.rows["batches"].values() if row["ended_at"] is None]

    def of_batch(self, batch_id):
        return sorted(
            (row for row in self.rows["generations"].values() if row["batch"] == batch_id),
            key=lambda row: row["position"],
        )

    def recent_tries(self, since):
        rows = self.rows["generations"].values()
        return [row["tries"] for row in rows if row["ended_at"] is None or row["ended_at"] >= since]

    def pending_deliveries(self):
        return []

    def members(self, target):
        return [row for row in self.rows["generations"].values() if target in (row["id"], row["batch"])]

    def interrupted(self, before):
        return [row for row in self.unfinished() if row["interrupted_at"] and row["interrupted_at"] < before]

    def generation(self, target):
        return self.rows["generations"].get((target,))

    def batch(self, target):
        return self.rows["batches"].get((target,))

    def key(self, caller, key):
        return self.rows["keys"].get((caller, key))


class Writer:
    """A process's ledger over the disk. A commit takes a moment; what dies in it is not on the disk. While there is
    `trouble`, nothing gets there."""

    def __init__(self, disk: Disk) -> None:
        self.trouble: str | None = None
        self._disk = disk
        self._pending: dict[tuple[str, Any], Mapping | None] = {}
        self.is_dead = False

    def note(self, table, work) -> None:
        self.put(table, work.row())

    def put(self, table, row) -> None:
        self._pending[table, WRITINGS[table].key_of(row)] = dict(row)
        asyncio.get_running_loop().call_later(SOON, self._commit)

    def remove(self, table, *key) -> None:
        self._pending[table, key] = None
        asyncio.get_running_loop().call_later(TIME_TO_DIE, self._commit)

    async def synced(self) -> None:
        mine = dict(self._pending)
        await asyncio.sleep(TIME_TO_DIE)
        if self.is_dead:
            await asyncio.get_running_loop().create_future()
        if self.trouble:
            raise LedgerDown(self.trouble)
        self._commit(mine)

    def mend(self) -> None:
        self.trouble = None
        self._commit()

    def _commit(self, rows=None) -> None:
        if self.is_dead or self.trouble:
            return
        for (table, key), row in dict(self._pending if rows is None else rows).items():
            if self._pending.get((table, key), self) is row:
                del self._pending[table, key]
                if row is None:
                    self._disk.rows[table].pop(key, None)
                else:
                    self._disk.rows[table][key] = row


class Line(httpx.AsyncBaseTransport):
    """A process's way to Replicate. What was sent arrives, though the process dies; the dead send nothing."""

    def __init__(self, loopback: Loopback) -> None:
        self.is_dead = False
        self._loopback = loopback
        self._under_way: set[asyncio.Task] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_dead:
            await asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._loopback.handle_async_request(request), name="the world's")
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()


class Process:
    """The inside of a service from its start to its death."""

    def __init__(self, disk: Disk, loopback: Loopback) -> None:
        self.ledger = Writer(disk)
        self._line = Line(loopback)
        gate = Gate(concurrent_limit=3, requests_per_minute=600)
        others = Gate(concurrent_limit=200, requests_per_minute=3000)
        self.provider = Replicate(base_url="http://replicate.test", others=others, connections=self._line)
        self.budget = budget = Budget()
        self.generations = Generations(
            provider=self.provider,
            gate=gate,
            ledger=self.ledger,
            budget=budget,
            timeout=600,
            max_queued=1000,
            let_go=lambda work: self.desk.keys.release(work.id),
        )
        recovery = Recovery(attachments=Attachments(None), terms=Terms())
        shared = {
            "generations": self.generations,
            "ledger": self.ledger,
            "lookup": disk,
            "recovery": recovery,
            "threads": AtOnce(),
        }
        self.interrupted = interrupted = InterruptedWork(
            **shared, budget=budget, deliver=lambda delivery: None, forget=lambda ids: None
        )
        self.desk = Desk(**shared, interrupted=interrupted, resume_ttl=1e9)
        left = inherit(disk, recovery, ADMIN, simulated=True, now=time.time())
        self.provider.register_known(left.prediction_ids)
        for doubt in left.in_doubt:
            self.provider.register_uncertain(doubt)
        interrupted.resume(left.left)
        interrupted.wait(left.waiting)

    async def killed(self) -> None:
        self.ledger.is_dead = self._line.is_dead = True
        while mine := [
            task
            for task in asyncio.all_tasks()
            if task is not asyncio.current_task() and task.get_name() != "the world's"
        ]:
            for task in mine:
                task.cancel()
            await asyncio.wait(mine, timeout=0)


class AtOnce(Pool):
    """Virtual time has no other threads."""

    def __init__(self) -> None: ...

    async def run(self, function):
        return function()


class Mortal(RuleBasedStateMachine):
    """Time passes, and processes die and are stopped. In the end nothing fails any more, and every owner comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.disk = Disk()
        self.asked = 0
        self.do(self.begin_world())

    def do(self, work):
        return self.runner.run(work)

    async def begin_world(self) -> None:
        loop = asyncio.get_running_loop()
        options = Options(prediction_seconds=1.0, jitter=0.0, answer_delay=(0.0, 0.2), seed=1)
        self.world = World(options, clock=lambda: round(loop.time() * 1e9))
        app = application(self.world)
        app.freeze()
        self.loopback = Loopback(app)
        self.process = Process(self.disk, self.loopback)

    @rule(seconds=st.sampled_from([0.0001, 0.0005, 0.01, 0.03, 0.1, 0.25, 1.0, 2.1, 3.0, 20.0]))
    def let_time_pass(self, seconds):
        self.do(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.0004, 0.015, 0.1, 0.7]))
    def kill_and_begin_anew(self, seconds):
        async def story():
            await asyncio.sleep(seconds)
            await self.begin_anew()

        self.do(story())

    @rule(seconds=st.sampled_from([0.0, 0.5, 30.0]))
    def stop_in_order_and_begin_anew(self, seconds):
        async def story():
            await self.process.generations.drain(seconds)
            await self.end_in_order()

        self.do(story())

    async def end_in_order(self) -> None:
        self.process.ledger.mend()
        await self.begin_anew()

    async def begin_anew(self) -> None:
        await self.process.killed()
        self.process = Process(self.disk, self.loopback)

    def teardown(self):
        try:
            self.do(self.come_to_the_end())
            self.do(self.check())
        finally:
            self.do(self.process.killed())
            self.do(self.world.close())
            self.runner.close()

    async def come_to_the_end(self) -> None:
        self.world.faults.clear()
        self.process.ledger.mend()
        async with asyncio.timeout(10_000):
            await asyncio.sleep(1)
            while self.disk.unfinished() or self.disk.unfinished_batches():
                for row in self.disk.unfinished():
                    owner = ADMIN if row["caller"] == ADMIN.id else USER
                    await self.process.desk.find(row["batch"] or row["id"], owner)
                await self.process.interrupted.give_up(before=0)  # as the service does now and then
                await asyncio.sleep(1)

    async def check(self) -> None:
        """What holds in the end, for each story its own."""


def an_order(wanted, caller, *, key=None, seconds=None) -> Order:
    """A request as it came over the counter."""
    is_batch = not hasattr(wanted, "given")
    texts = [wanted.shared, *(each.given for each in wanted.requests)] if is_batch else [wanted.given]
    return Order(
        id=new_id("batch" if is_batch else "gen"),
        wanted=wanted,
        written=[Attachments(None).written("", each) for each in texts],
        plan=UNPLANNED if is_batch else None,
        caller=caller,
        request_id="r",
        view=VIEW,
        key=key,
        fingerprint=body_fingerprint("", texts),
        seconds=seconds,
    )


def prompt_of(row) -> str:
    return json.loads(row["facts"])["prompt"]


async def patiently(work, seconds) -> None:
    """Until it is done or refused, or for so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await work
    except (TimeoutError, ServiceError):
        pass
