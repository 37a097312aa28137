"""No history of two processes bills a key more than its budget, whichever crashes, and none loses a part of it."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from auth import Caller, NoKeys, credentials
from errors import BudgetExceeded
from generations.archive import Archive
from generations.budget import Budget
from generations.budgets import Budgets
from generations.key_budgets import SharedKeyBudgets
from generations.periods import CalendarPeriod
from ledger import DAY
from ledger.access_records import SpendingRecord
from ledger.memory import MemoryLedger
from ledger.records import GenerationRecord
from tests.support import virtual_time
from tests.support.records import api_key, generation
from tests.support.wiring import AtOnce

BEGAN = 20_784 * DAY + 0.9 * DAY
"""Late on a Friday."""

COMMIT_SECONDS = 0.001

USD = st.sampled_from([0.1, 0.25, 0.4, 0.7])

PAUSE = st.sampled_from([0.0, 0.0005, 0.001, 0.003, 0.05])

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(0, 1), st.integers(0, 1), USD, PAUSE),
        st.tuples(st.just("leave"), st.integers(0, 1), st.integers(0, 1), USD, PAUSE),
        st.tuples(
            st.just("end"), st.integers(0, 1), st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0]), PAUSE
        ),
        st.tuples(st.just("more"), st.integers(0, 1), st.integers(0, 9), USD, PAUSE),
        st.tuples(st.just("crash"), st.integers(0, 1), st.just(0), st.just(0.0), PAUSE),
        st.tuples(st.just("later"), st.just(0), st.just(0), st.sampled_from([0.2, 1.0, 2.0]), PAUSE),
        st.tuples(st.just("change"), st.just(0), st.integers(0, 1), st.sampled_from([0.5, 1.0, 1.5]), PAUSE),
    ),
    max_size=30,
)


class NoneKnown:
    keys = NoKeys()


@dataclass(eq=False)
class Work:
    """Accepted work: a source for the ledger. `billed` is what the upstream bills for it in the end."""

    id: str
    caller: Caller
    at: float
    reserved: float
    billed: float | None = None
    """None until it has ended."""

    def record(self) -> GenerationRecord:
        how = {"caller_id": self.caller.id, "accepted_at": self.at, "simulated": False}
        if self.billed is None:
            return generation(self.id, reserved_usd=self.reserved, **how)
        return generation(self.id, state="succeeded", ended_at=self.at + 1, cost_usd=self.billed, **how)


class Process:
    def __init__(self, world: "World") -> None:
        world.born += 1
        name = f"p{world.born}"
        self.ledger = MemoryLedger(world.rows, commit_seconds=COMMIT_SECONDS, process=name)
        archive = Archive(ledger=self.ledger, queries=self.ledger, threads=AtOnce())
        keys = SharedKeyBudgets(ledger=self.ledger, archive=archive, keys=NoneKnown(), clock=world.clock)
        self.budgets = Budgets(Budget(), keys, simulated=False)
        self.work: list[Work] = []
        self.tasks: list[asyncio.Task] = []


class World:
    def __init__(self) -> None:
        self.rows = MemoryLedger().rows
        self.born = self.made = 0
        self.now = BEGAN
        self.processes = [Process(self), Process(self)]
        self.budget = {0: 1.0, 1: 1.5}
        self.paid: list[Work] = []
        """All work that may have been sent."""

    def clock(self) -> float:
        return self.now

    def caller(self, number: int) -> Caller:
        period = ("day", "week")[number]
        key = api_key(number, budget_usd=self.budget[number], budget_period=period)
        return Caller("key", key.id, credentials(replicate="r8_server"), key=key)

    def counted(self, caller: Caller, at: float) -> float:
        """What the upstream bills at the most for work of this caller and period."""
        period = CalendarPeriod.of(caller.key.budget_period, at)
        return sum(
            each.reserved if each.billed is None else each.billed
            for each in self.paid
            if each.caller.id == caller.id and period.begins_at <= each.at < period.ends_at
        )

    async def accept(self, process: Process, number: int, usd: float) -> None:
        caller, at = self.caller(number), self.now
        try:
            async with process.budgets.admitted(caller, usd, at):
                self.made += 1
                work = Work(f"gen_{self.made}", caller, at, process.budgets.reserve(caller, usd, at))
                process.ledger.mark_dirty(work)
                process.work.append(work)
        except BudgetExceeded:
            return
        await process.ledger.flush()
        self.paid.append(work)
        assert self.counted(caller, at) <= caller.key.budget_usd + 1e-6

    async def more(self, process: Process, work: Work, usd: float) -> None:
        """Another attempt, which may cost so much more."""
        try:
            async with process.budgets.admitted(work.caller, usd, work.at):
                if work.billed is not None:
                    return
                process.budgets.reserve(work.caller, usd, work.at)
                work.reserved += usd
                process.ledger.mark_dirty(work)
        except BudgetExceeded:
            return
        assert self.counted(work.caller, work.at) <= max(work.caller.key.budget_usd, self.most(work)) + 1e-6

    def most(self, work: Work) -> float:
        """The largest budget with which work of this key was accepted."""
        return max(each.caller.key.budget_usd for each in self.paid if each.caller.id == work.caller.id)

    def end(self, process: Process, work: Work, share: float) -> None:
        process.work.remove(work)
        work.billed = work.reserved * share
        process.budgets.settle(work.caller.id, reserved=work.reserved, cost=work.billed, at=work.at)
        process.ledger.mark_dirty(work)

    async def step_accept(self, who: int, number: int, usd: float) -> asyncio.Task:
        process = self.processes[who]
        task = asyncio.create_task(self.accept(process, number, usd))
        process.tasks.append(task)
        return task

    async def step_leave(self, who: int, number: int, usd: float) -> None:
        """A caller leaves while its work is accepted."""
        task = await self.step_accept(who, number, usd)
        asyncio.get_running_loop().call_later(0.0007, task.cancel)

    async def step_end(self, who: int, number: int, share: float) -> None:
        process = self.processes[who]
        if sent := [each for each in process.work if each in self.paid]:
            self.end(process, sent[number % len(sent)], share)

    async def step_more(self, who: int, number: int, usd: float) -> None:
        process = self.processes[who]
        if sent := [each for each in process.work if each in self.paid]:
            process.tasks.append(asyncio.create_task(self.more(process, sent[number % len(sent)], usd)))

    async def step_later(self, _who: int, _number: int, days: float) -> None:
        self.now += days * DAY

    async def step_change(self, _who: int, number: int, usd: float) -> None:
        self.budget[number] = usd

    async def step_crash(self, which: int, *_: float) -> None:
        """A process ends at once, and another one takes its work over, as `ledger.members` does."""
        dead = self.processes[which]
        dead.ledger.crash()
        for task in dead.tasks:
            task.cancel()
        await asyncio.gather(*dead.tasks, return_exceptions=True)
        heir = self.processes[1 - which]
        self.processes[which] = Process(self)
        for place, row in [*self.rows[SpendingRecord].items()]:
            if row.process == dead.ledger.process:
                self.rows[SpendingRecord][place] = replace(row, reserved=0.0)
        taken = []
        for place, row in [*self.rows[GenerationRecord].items()]:
            if row.process == dead.ledger.process and row.ended_at is None:
                self.rows[GenerationRecord][place] = replace(
                    row, process=heir.ledger.process, taken_at=self.now
                )
                taken.append(row)
        task = asyncio.create_task(self.resume(heir, taken))
        self.paid = [each for each in self.paid if (each.id,) in self.rows[GenerationRecord]]
        heir.tasks.append(task)

    async def resume(self, heir: Process, taken: list[GenerationRecord]) -> None:
        await asyncio.sleep(0.01)
        for row in taken:
            found = [each for each in self.paid if each.id == row.id]
            # What ended without reaching the disk ends again, with the same bill.
            work = found[0] if found else Work(row.id, self.caller_of(row), row.accepted_at, row.reserved_usd)
            if not found:
                self.paid.append(work)
            work.reserved = max(row.reserved_usd, work.billed or 0.0)
            heir.budgets.hold(row.caller_id, row.reserved_usd, row.accepted_at)
            heir.ledger.mark_dirty(work)
            heir.work.append(work)
            if work.billed is not None:
                billed, work.billed = work.billed, None
                heir.work.remove(work)
                work.billed = billed
                heir.budgets.settle(row.caller_id, reserved=row.reserved_usd, cost=billed, at=row.accepted_at)

    def caller_of(self, row: GenerationRecord) -> Caller:
        return self.caller(int(row.caller_id.removeprefix("key_")))


STEP = {
    "accept": World.step_accept,
    "leave": World.step_leave,
    "end": World.step_end,
    "more": World.step_more,
    "crash": World.step_crash,
    "later": World.step_later,
    "change": World.step_change,
}


async def _history(steps) -> None:
    world = World()
    for what, *step, pause in steps:
        await STEP[what](world, *step)
        await asyncio.sleep(pause)
    await asyncio.sleep(1)
    done = await asyncio.gather(
        *(task for each in world.processes for task in each.tasks), return_exceptions=True
    )
    for failed in done:
        if isinstance(failed, Exception):
            raise failed
    for process in world.processes:
        for work in [*process.work]:
            if work in world.paid:
                world.end(process, work, 1.0)
    await asyncio.sleep(1)
    await _nothing_is_lost(world)


async def _nothing_is_lost(world: World) -> None:
    """In the end the ledger counts for each key and day what the upstream has billed, and has no reservation left."""
    billed: defaultdict[str, float] = defaultdict(float)
    for each in world.paid:
        billed[each.caller.id] += each.billed or 0.0
    disk = MemoryLedger(world.rows)
    for number in world.budget:
        payer = f"key_{number}"
        spent, reserved = disk.spending(payer, "2026-01-01", simulated=False)
        unknown = sum(
            each.reserved for one in world.processes for each in one.work if each.caller.id == payer
        )
        assert round(billed[payer], 6) == round(spent, 6)
        assert round(unknown, 6) == round(reserved, 6)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_no_history_of_two_processes_bills_a_key_more_than_its_budget(steps):
    virtual_time.run(_history(steps))
