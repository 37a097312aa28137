"""The daily budget of several processes on one ledger: together they never reserve more, and each shows the same."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import BudgetExceeded, LedgerDown
from generations.archive import Archive
from generations.shared_budget import SharedBudget
from ledger import DAY
from ledger.memory import MemoryLedger
from ledger.money_records import BudgetRecord
from providers.memory import MemoryProvider
from tests.support import virtual_time
from tests.support.records import generation
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import AtOnce, a_picture, core, pictures, submission

PAYING = "admin"

COMMIT_SECONDS = 0.001

PRICE = 0.025
"""USD, of a picture."""


class Clock:
    def __init__(self) -> None:
        self.now = 100.5 * DAY

    def __call__(self) -> float:
        return self.now


class World:
    """Processes with a budget on one ledger."""

    def __init__(self, usd=1.0) -> None:
        self.disk = MemoryLedger()
        self.clock = Clock()
        self._usd = usd

    def ledger(self, name) -> MemoryLedger:
        return MemoryLedger(self.disk.rows, commit_seconds=COMMIT_SECONDS, process=name)

    def process(self, name, ledger=None) -> SharedBudget:
        ledger = ledger or self.ledger(name)
        archive = Archive(ledger=ledger, queries=ledger, threads=AtOnce())
        budget = SharedBudget(self._usd, ledger=ledger, archive=archive, process=name, clock=self.clock)
        budget.begin(budget.load(ledger))
        return budget

    def total(self) -> float:
        return round(self.disk.budget_total(PAYING, int(self.clock() // DAY), simulated=False), 6)


async def accepted(budget, usd) -> bool:
    """Whether this work is accepted."""
    try:
        async with budget.admitted(PAYING, usd):
            budget.reserve(PAYING, usd)
    except BudgetExceeded:
        return False
    return True


@pytest.mark.parametrize("lead", [-0.002, -0.001, -0.0005, 0.0, 0.0005, 0.001, 0.002])
@in_virtual_time
async def test_two_processes_never_reserve_more_than_the_budget_together(lead):
    world = World()
    one, other = world.process("a"), world.process("b")

    async def later(budget, seconds):
        await asyncio.sleep(0.1 + seconds)
        return await accepted(budget, 0.6)

    assert 1 == sum(await asyncio.gather(later(one, 0.0), later(other, lead)))
    await asyncio.sleep(1)
    assert 0.6 == world.total()


@in_virtual_time
async def test_what_one_process_releases_another_may_reserve():
    world = World()
    one, other = world.process("a"), world.process("b")
    assert await accepted(one, 1.0)
    assert not await accepted(other, 0.1)

    one.settle(PAYING, reserved=1.0, cost=0.5)
    await asyncio.sleep(1)

    assert not await accepted(other, 0.6)
    assert await accepted(other, 0.5)


@in_virtual_time
async def test_every_process_shows_the_same_budget_left():
    world = World()
    one, other = world.process("a"), world.process("b")
    await accepted(one, 0.5)
    await accepted(other, 0.25)
    one.settle(PAYING, reserved=0.5, cost=0.125)
    await asyncio.sleep(1)

    for each in (one, other, world.process("c")):
        await each.refresh()
        assert 0.625 == each.left

    with pytest.raises(BudgetExceeded, match=r"up to 0\.7 USD, and 0\.625 of today's 1 USD are left"):
        async with other.admitted(PAYING, 0.7):
            pass


@in_virtual_time
async def test_work_of_users_claims_no_budget():
    world = World(0.0)
    one = world.process("a")

    async with one.admitted("user_1", 100.0):
        one.reserve("user_1", 100.0)

    assert 0.0 == one.reserved


@in_virtual_time
async def test_waiting_work_of_a_process_that_writes_nothing_counts_on_the_next_day_and_its_costs_do_not():
    world = World()
    one, other = world.process("a"), world.process("b")
    await accepted(one, 0.3)
    await accepted(one, 0.5)
    one.settle(PAYING, reserved=0.5, cost=0.5)
    await asyncio.sleep(1)

    world.clock.now += DAY

    assert not await accepted(other, 0.8)
    assert await accepted(other, 0.7)


@in_virtual_time
async def test_a_claim_that_the_ledger_cannot_make_reserves_nothing():
    world = World()
    ledger = world.ledger("a")
    one = world.process("a", ledger)
    ledger.trouble = "The server is away."
    with pytest.raises(LedgerDown):
        await accepted(one, 0.6)
    ledger.trouble = None

    assert await accepted(one, 1.0)


@in_virtual_time
async def test_a_caller_that_leaves_while_the_ledger_is_asked_reserves_nothing():
    world = World()
    one, other = world.process("a"), world.process("b")
    leaving = asyncio.create_task(accepted(one, 0.6))
    await asyncio.sleep(COMMIT_SECONDS / 2)

    leaving.cancel()
    await asyncio.sleep(1)

    assert await accepted(other, 1.0)


@in_virtual_time
async def test_costs_before_there_was_a_budget_count_and_those_of_earlier_processes_count_once():
    world = World()
    ended = generation("a", state="succeeded", simulated=False, ended_at=world.clock.now - 1.0, cost_usd=0.25)
    before = world.ledger("x")
    before.upsert(ended)
    before.upsert(replace(ended, id="b", ended_at=world.clock.now - DAY))
    await before.flush()

    for name in ("a", "b", "c"):
        budget = world.process(name)
        await asyncio.sleep(1)
        await budget.refresh()
        assert 0.75 == budget.left


@in_virtual_time
async def test_the_whole_service_refuses_what_others_have_reserved():
    disk = MemoryLedger()
    processes = [
        core(
            MemoryProvider(),
            ledger=MemoryLedger(disk.rows, commit_seconds=COMMIT_SECONDS, process=name),
            BUDGET_USD_PER_DAY=4 * PRICE,
        )
        for name in "ab"
    ]

    async def status(inside, request) -> str:
        try:
            return (await inside.generations.submit(submission(request, simulated=False))).state
        except BudgetExceeded as error:
            return error.code

    shown = await asyncio.gather(*(status(inside, a_picture()) for inside in processes * 4))
    assert ["budget_exceeded"] * 4 + ["succeeded"] * 4 == sorted(shown)
    with pytest.raises(BudgetExceeded):
        await processes[1].generations.submit(submission(pictures(["a", "b"]), simulated=False))


@in_virtual_time
async def test_without_a_budget_no_row_is_written():
    ledger = MemoryLedger(process="a")
    inside = core(MemoryProvider(), ledger=ledger)
    await inside.generations.submit(submission(a_picture(), simulated=False))

    assert [] == ledger.all(BudgetRecord)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "settle", "cancelled"]),
        st.integers(0, 2),
        st.sampled_from([0.1, 0.25, 0.4, 0.7]),  # USD
        st.sampled_from([0.0, 0.0005, 0.001, 0.003, 0.05]),  # seconds until the next step
    ),
    max_size=20,
)


@settings(max_examples=100)
@given(STEPS)
def test_no_history_of_three_processes_exceeds_the_budget(steps):
    virtual_time.run(_history(steps))


async def _history(steps):
    world = World()
    processes = [world.process(name) for name in "abc"]
    waiting = {budget: [] for budget in processes}
    spent = 0.0
    tasks = []

    async def ask(budget, usd):
        if await accepted(budget, usd):
            waiting[budget].append(usd)

    for what, who, usd, pause in steps:
        budget = processes[who]
        if what == "settle":
            if waiting[budget]:
                reserved = waiting[budget].pop()
                budget.settle(PAYING, reserved=reserved, cost=reserved / 2)
                spent += reserved / 2
        else:
            task = asyncio.create_task(ask(budget, usd))
            tasks.append(task)
            if what == "cancelled":
                asyncio.get_running_loop().call_later(0.0007, task.cancel)
        await asyncio.sleep(pause)
        assert spent + sum(map(sum, waiting.values())) <= 1.0 + 1e-6
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(1)
    assert world.total() == pytest.approx(spent + sum(map(sum, waiting.values())))
