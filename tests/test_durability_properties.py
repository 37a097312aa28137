"""Whatever dies and whatever is lost on the way: one prediction a generation, and every generation reaches its end.

A model of the whole: the service's inside before the simulator, in virtual time, with a disk that forgets what was not
synced. Hypothesis asks for pictures, loses answers, lets time pass, kills the process in the middle of anything, stops
it in order, and begins the next one; at the end the simulator's book and the disk are held against each other.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from parts import ADMIN, UNPLANNED, USER, VIEW, a_picture, pictures
from virtual_replicate import Loopback
from virtual_time import VirtualLoop

from attempts import Ledger
from budget import Budget
from concurrency import Gate
from desk import Desk, Order
from errors import ServiceError
from generation import Generations, new_id
from idempotency import body_fingerprint
from intake.attachments import Attachments
from intake.parsing import Terms
from interrupted import InterruptedWork
from loop_thread import Pool
from providers.replicate import Replicate
from recovery import Recovery, inherit
from simulator import Options
from simulator.server import application
from simulator.world import World
from store import SOON
from tables import WRITINGS

PROMPTS = st.sampled_from(["a fox [[slow=1]]", "a hare [[slow=3]]", "an owl [[slow=0]]"])
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

    def generation(self, target):
        return self.rows["generations"].get((target,))

    def batch(self, target):
        return self.rows["batches"].get((target,))

    def key(self, caller, key):
        return self.rows["keys"].get((caller, key))


class Writer:
    """A process's ledger over the disk. A commit takes a moment; what dies in it is not on the disk."""

    trouble = None

    def __init__(self, disk: Disk) -> None:
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
        self._commit(mine)

    def _commit(self, rows=None) -> None:
        if self.is_dead:
            return
        for (table, key), row in dict(self._pending if rows is None else rows).items():
            if self._pending.get((table, key), self) is row:
                del self._pending[table, key]
                if row is None:
                    self._disk.rows[table].pop(key, None)
                else:
                    self._disk.rows[table][key] = row


class Line(httpx.AsyncBaseTransport):
    """A process's way to Replicate. What was sent arrives, though the process dies."""

    def __init__(self, loopback: Loopback) -> None:
        self._loopback = loopback
        self._under_way: set[asyncio.Task] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
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
        self.ledger: Ledger = Writer(disk)
        gate = Gate(concurrent_limit=3, requests_per_minute=600)
        others = Gate(concurrent_limit=200, requests_per_minute=3000)
        self.provider = Replicate(base_url="http://replicate.test", others=others, connections=Line(loopback))
        budget = Budget()
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
        interrupted = InterruptedWork(
            **shared, budget=budget, deliver=lambda delivery: None, forget=lambda ids: None
        )
        self.desk = Desk(**shared, interrupted=interrupted, resume_ttl=1e9)
        left = inherit(disk, recovery, ADMIN, simulated=True, now=time.time())
        self.provider.know(left.prediction_ids)
        for doubt in left.in_doubt:
            self.provider.lose(
                doubt.reference, doubt.caller, doubt.model, content=doubt.content, since=doubt.since
            )
        interrupted.resume(left.left)
        interrupted.wait(left.waiting)

    async def killed(self) -> None:
        self.ledger.is_dead = True
        while mine := [
            task
            for task in asyncio.all_tasks()
            if task is not asyncio.current_task() and task.get_name() != "the world's"
        ]:
            for task in mine:
                task.cancel()
            await asyncio.wait(mine)


class AtOnce(Pool):
    """Virtual time has no other threads."""

    def __init__(self) -> None: ...

    async def run(self, function):
        return function()


class Durability(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.disk = Disk()
        self.told: list[tuple[str, Any]] = []
        """The ids that somebody was told, and who."""
        self.keys: list[tuple[str, Any, Any]] = []
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

    async def order(self, wanted, caller, key) -> None:
        """Ask as a client does who wants to hear an id, and remember it if one is told."""
        is_batch = not hasattr(wanted, "given")
        texts = [wanted.shared, *(each.given for each in wanted.requests)] if is_batch else [wanted.given]
        order = Order(
            id=new_id("batch" if is_batch else "gen"),
            wanted=wanted,
            written=[Attachments(None).written("", each) for each in texts],
            plan=UNPLANNED if is_batch else None,
            caller=caller,
            request_id="r",
            view=VIEW,
            key=key,
            fingerprint=body_fingerprint("", texts),
            seconds=0,
        )
        work = await self.process.desk.take(order)
        self.told.append((work.id, caller))

    @rule(prompt=PROMPTS, caller=CALLERS, keyed=st.booleans(), patience=st.sampled_from([0.0001, 1.0]))
    def ask_for_one(self, prompt, caller, keyed, patience):
        self.ask(a_picture(prompt), caller, keyed, patience)

    @rule(
        prompts=st.lists(PROMPTS, min_size=1, max_size=5),
        caller=CALLERS,
        keyed=st.booleans(),
        patience=st.sampled_from([0.0001, 1.0]),
    )
    def ask_for_a_batch(self, prompts, caller, keyed, patience):
        self.ask(pictures(prompts), caller, keyed, patience)

    def ask(self, wanted, caller, keyed, patience):
        """With little patience the answer is lost: whether it was accepted is not known, and without a key, by which
        to ask again, it would be cancelled."""
        self.asked += 1
        key = f"key {self.asked}" if keyed else None
        if keyed:
            self.keys.append((key, wanted, caller))
        self.do(_patiently(self.order(wanted, caller, key), patience if keyed else 1.0))

    @rule(data=st.data())
    def ask_again_with_a_key(self, data):
        if self.keys:
            key, wanted, caller = data.draw(st.sampled_from(self.keys))
            self.do(_patiently(self.order(wanted, caller, key), 1.0))

    @rule(
        fault=st.sampled_from(
            [
                {"reset": "before"},
                {"reset": "after"},
                {"garbage": True},
                {"truncate": True},
                {"hang": 2},
                {"hang": 60},
                {"status": 503},
                {"status": 502},
            ]
        )
    )
    def lose_an_answer(self, fault):
        self.world.faults.order(on="create", **fault)

    @rule(seconds=st.sampled_from([0.0001, 0.0005, 0.01, 0.03, 0.1, 0.25, 1.0, 3.0, 20.0]))
    def let_time_pass(self, seconds):
        self.do(asyncio.sleep(seconds))

    @rule(seconds=st.sampled_from([0.0, 0.0, 0.0004, 0.015, 0.1, 0.7]))
    def kill_and_begin_anew(self, seconds):
        async def story():
            await asyncio.sleep(seconds)
            await self.process.killed()
            self.process = Process(self.disk, self.loopback)

        self.do(story())

    @rule(seconds=st.sampled_from([0.0, 0.5, 30.0]))
    def stop_in_order_and_begin_anew(self, seconds):
        async def story():
            await self.process.generations.drain(seconds)
            await self.process.ledger.synced()
            await self.process.killed()
            self.process = Process(self.disk, self.loopback)

        self.do(story())

    def teardown(self):
        try:
            self.do(self.come_to_the_end())
            self.check()
        finally:
            self.do(self.process.killed())
            self.do(self.world.close())
            self.runner.close()

    async def come_to_the_end(self) -> None:
        """Nothing fails any more, and every owner comes back."""
        self.world.faults.clear()
        async with asyncio.timeout(100_000):
            await asyncio.sleep(1)
            while self.disk.unfinished() or self.disk.unfinished_batches():
                for row in self.disk.unfinished():
                    owner = ADMIN if row["caller"] == ADMIN.id else USER
                    await self.process.desk.find(row["batch"] or row["id"], owner)
                await asyncio.sleep(1)

    def check(self) -> None:
        rows = list(self.disk.rows["generations"].values())
        facts = [json.loads(row["facts"]) for row in rows]
        assert [] == [(each["prompt"], each["error"]) for each in facts if each["status"] != "succeeded"]
        wanted = Counter((row["caller"], _prompt(row)) for row in rows)
        made = Counter(
            (ADMIN.id if each.creation.token == ADMIN.token else USER.id, each.creation.input["prompt"])
            for each in self.world.book
        )
        assert wanted == made
        on_disk = {key for (key,) in (*self.disk.rows["generations"], *self.disk.rows["batches"])}
        assert {target for target, _ in self.told} <= on_disk
        for (caller, key), row in self.disk.rows["keys"].items():
            assert row["target"] in on_disk, (caller, key)


def _prompt(row) -> str:
    return json.loads(row["facts"])["prompt"]


async def _patiently(work, seconds) -> None:
    try:
        async with asyncio.timeout(seconds):
            await work
    except (TimeoutError, ServiceError):
        pass


Durability.TestCase.settings = settings(
    max_examples=60, stateful_step_count=14, deadline=None, suppress_health_check=list(HealthCheck)
)
test_whatever_dies_every_generation_is_made_once_and_reaches_its_end = Durability.TestCase
