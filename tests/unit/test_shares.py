"""The shares of processes in the window of polls, cancellations and uploads."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from admission.shares import Answer, Holding, settle
from cluster.shares import SharedWindow
from concurrency import Gate
from tests.support.shares import MemoryShares
from tests.support.virtual_time import in_virtual_time, run

ARRIVAL = 10.0
"""The most seconds from the sending of a request to its answer."""


class Process:
    """A process that sends `rate` requests a second as far as its share allows."""

    def __init__(self, table, number, arrivals, *, rate=0.0, seed=1):
        self._arrivals = arrivals
        self._chance = random.Random(seed)
        self._number = number
        self._table = table
        self.rate = rate
        self.sent = []
        self.gate = Gate(concurrent_limit=200, requests_per_minute=table.limit, bounds_unproven=False)
        self.window = SharedWindow(
            self.gate, table.of(number), limit=table.limit, is_alive=lambda: number not in table.cut_off
        )
        self._tasks = {asyncio.create_task(self.window.run()), asyncio.create_task(self._work())}

    def spawn(self, work):
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self):
        while True:
            await asyncio.sleep(1)
            if self.gate.statistics().waiting < 300:
                for _ in range(round(self.rate)):
                    self.spawn(self._send())

    async def _send(self):
        loop = asyncio.get_running_loop()
        with await self.gate.acquire("admin") as lease:
            lease.sent()
            self.sent.append(loop.time())
            takes = self._chance.uniform(0.01, ARRIVAL if self._chance.random() < 0.1 else 0.2)
            # It arrives even if this process dies meanwhile.
            self._arrivals.append(loop.time() + takes * self._chance.random())
            try:
                await asyncio.sleep(takes)
            finally:
                lease.answered()

    def cut_off(self):
        """It counts as dead, and goes on."""
        self._table.cut_off.add(self._number)
        self._table.kill(self._number)

    async def stop(self):
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def kill(self):
        await self.stop()
        self._table.kill(self._number)

    async def leave(self):
        await self.stop()
        await self.window.aclose()
        self._table.kill(self._number)


def densest(arrivals):
    """The most arrivals in any 60 seconds."""
    times, most, first = sorted(arrivals), 0, 0
    for last, time in enumerate(times):
        while times[first] <= time - 60:
            first += 1
        most = max(most, last - first + 1)
    return most


def last_minute(process):
    now = asyncio.get_running_loop().time()
    return sum(each > now - 60 for each in process.sent)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from([0, 1, 8])),
        st.tuples(st.just("kill"), st.integers(0, 9)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("demand"), st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 8]))),
        st.tuples(st.just("fate"), st.tuples(st.booleans(), st.booleans())),
        st.tuples(st.just("pass"), st.sampled_from([1, 5, 30, 70])),
    ),
    max_size=12,
)


@given(limit=st.sampled_from([1, 3, 20, 61, 240]), steps=STEPS, seed=st.integers(0, 99))
@example(limit=60, steps=[("pass", 70), ("join", 8), ("pass", 1), ("kill", 0), ("pass", 70)], seed=1)
@settings(max_examples=40, deadline=None)
def test_no_minute_has_more_requests_than_the_limit(limit, steps, seed):
    async def scenario():
        arrivals, chance = [], random.Random(seed)
        table = MemoryShares(limit, counts_for=60 + ARRIVAL)
        processes, number = [Process(table, 0, arrivals, rate=8, seed=seed)], 0
        for kind, what in steps:
            if kind == "join":
                number += 1
                processes.append(Process(table, number, arrivals, rate=what, seed=seed + number))
            elif kind in {"kill", "leave"} and processes:
                await getattr(processes.pop(what % len(processes)), kind)()
            elif kind == "demand" and processes:
                processes[what[0] % len(processes)].rate = what[1]
            elif kind == "fate":
                lost = (what, (True, True))
                table.fate = lambda lost=lost: chance.choice(lost)
            elif kind == "pass":
                await asyncio.sleep(what)
        await asyncio.sleep(20)
        for each in processes:
            await each.stop()
        return densest(arrivals)

    assert run(scenario()) <= limit


@pytest.mark.parametrize("members", [1, 2, 8])
@in_virtual_time
async def test_a_busy_process_uses_what_idle_ones_do_not_hold(members):
    table, arrivals = MemoryShares(600), []
    processes = [Process(table, number, arrivals) for number in range(members)]
    processes[0].rate = 15
    await asyncio.sleep(180)
    idle = sum(row.places for number, row in table.rows.items() if number)

    assert idle == 10 * (members - 1)
    assert last_minute(processes[0]) >= 0.9 * (600 - idle)
    for each in processes:
        await each.stop()


@in_virtual_time
async def test_a_newcomer_has_a_block_at_once_and_its_fair_part_within_90_seconds():
    table, arrivals = MemoryShares(600), []
    first, second = (Process(table, number, arrivals, rate=20) for number in range(2))
    await asyncio.sleep(120)
    third = Process(table, 2, arrivals, rate=20)
    await asyncio.sleep(2)
    at_once = third.gate.statistics().requests_per_minute_limit
    await asyncio.sleep(88)

    assert at_once >= 10
    assert 170 <= third.gate.statistics().requests_per_minute_limit
    assert densest(arrivals) <= 600
    for each in (first, second, third):
        await each.stop()


@asynccontextmanager
async def one_process(*, rate, fate=lambda: (True, True), seconds=100):
    """A process that has been alone for so many seconds, with its table."""
    table = MemoryShares(600, fate=fate)
    process = Process(table, 0, [], rate=rate)
    await asyncio.sleep(seconds)
    yield table, process
    await process.stop()


@in_virtual_time
async def test_after_a_burst_a_process_gives_back_all_but_a_block():
    async with one_process(rate=20) as (table, process):
        busy = table.rows[0].places
        process.rate = 0
        await asyncio.sleep(240)

        assert (True, 10) == (busy >= 540, table.rows[0].places)


@in_virtual_time
async def test_a_process_goes_on_with_its_share_while_the_database_is_away():
    async with one_process(rate=20) as (table, process):
        table.fate = lambda: (False, False)
        await asyncio.sleep(200)

        assert last_minute(process) >= 540


@in_virtual_time
async def test_a_process_that_is_cut_off_from_the_database_goes_on_with_a_block_beside_all_others():
    table, arrivals = MemoryShares(240), []
    processes = [Process(table, number, arrivals, rate=8) for number in range(2)]
    await asyncio.sleep(120)
    assert last_minute(processes[0]) > 40
    processes[0].cut_off()
    await asyncio.sleep(80)
    processes += [Process(table, number, arrivals, rate=8) for number in range(2, 6)]
    await asyncio.sleep(300)

    assert densest(arrivals) <= 240
    assert 4 == last_minute(processes[0])
    assert sum(map(last_minute, processes)) > 210
    for each in processes:
        await each.stop()


@in_virtual_time
async def test_a_process_that_was_stopped_sends_almost_nothing_before_it_has_a_share_again():
    async with one_process(rate=8) as (table, process):
        table.fate = lambda: (False, False)
        asyncio.get_running_loop().jump(70)
        woken = asyncio.get_running_loop().time()
        await asyncio.sleep(60)

        assert sum(each >= woken for each in process.sent) <= 8
        table.fate = lambda: (True, True)
        await asyncio.sleep(5)
        assert last_minute(process) > 8


def broken():
    raise ValueError


@pytest.mark.parametrize("fate", [lambda: (False, False), broken], ids=["the database is away", "a fault"])
@in_virtual_time
async def test_a_process_sends_nothing_before_its_first_share_and_then_gets_one(fate):
    async with one_process(rate=5, fate=fate, seconds=30) as (table, process):
        assert [] == process.sent
        table.fate = lambda: (True, True)
        await asyncio.sleep(5)

        assert process.sent


@in_virtual_time
async def test_a_process_that_ends_leaves_what_it_does_not_use_to_its_successor():
    async with one_process(rate=8) as (table, process):
        process.rate = 0
        await asyncio.sleep(55)
        await process.leave()

        assert table.rows[0].places < 100


@given(
    held=st.integers(0, 100),
    keep=st.integers(0, 100),
    wants=st.integers(0, 100),
    others=st.lists(st.builds(Holding, st.integers(0, 20), st.integers(0, 9), st.booleans()), max_size=5),
    limit=st.integers(1, 120),
)
def test_a_settlement_gives_no_more_than_is_left_and_takes_nothing_away(held, keep, wants, others, limit):
    answer = settle(others, held, keep=keep, wants=wants, limit=limit)
    kept = min(held, keep)
    left = limit - sum(each.places for each in others)

    assert kept <= answer.places <= max(kept, min(left, kept + wants))
    assert 1 <= answer.most <= limit


def test_a_process_above_its_fair_part_gives_back_only_while_another_one_lacks_places():
    lacking, satisfied = Holding(5, wants=10), Holding(5)
    others = [lacking, satisfied, Holding(30, is_alive=False)]

    assert Answer(55, 33) == settle(others, 55, keep=60, wants=20, limit=100)
    assert Answer(55, 100) == settle(
        [satisfied, Holding(30, 9, is_alive=False)], 55, keep=55, wants=0, limit=100
    )
