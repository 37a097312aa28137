"""Tests of the gate that several processes share, on rows in memory and in virtual time."""

import asyncio
import random
from collections import Counter
from itertools import count

import pytest
from structlog.testing import capture_logs

from cluster.keeper import Keeper
from concurrency import Gate
from contract.callers import ADMIN
from errors import LedgerDown
from tests.support.shared_database import Database
from tests.support.shared_gate import Table, group, without_calls
from tests.support.virtual_time import in_virtual_time

LIMITS = {"concurrent_limit": 10, "requests_per_minute": 60}


class Upstream:
    """Counts creations as the upstream sees them."""

    def __init__(self):
        self.arrivals = []
        self.callers = Counter()
        self.running = self.most = 0
        self._references = count()

    async def life(self, process, caller, *, seconds=1.0, answer=0.1, **limits):
        """One generation of this caller, from its wait to its end."""
        loop = asyncio.get_running_loop()
        with await process.gate.acquire(caller, **limits) as lease:
            reference = f"gen.{next(self._references)}"
            while True:
                try:
                    await lease.persist(process.ledger, reference, answer + seconds)
                    break
                except LedgerDown:
                    await asyncio.sleep(1.0)
            lease.sent()
            await asyncio.sleep(answer / 2)
            self.arrivals.append(loop.time())
            self.callers[caller] += 1
            self.running += 1
            self.most = max(self.most, self.running)
            loop.call_later(answer / 2 + seconds, self._end)  # also if its process dies
            await asyncio.sleep(answer / 2)
            lease.answered()
            await asyncio.sleep(seconds)
            await asyncio.sleep(0)

    def _end(self):
        self.running -= 1

    async def again_and_again(self, process, caller, **how):
        while True:
            await self.life(process, caller, **how)

    def densest(self, seconds=60.0):
        """The most arrivals in so many seconds."""
        times = sorted(self.arrivals)
        return max(sum(each <= other < each + seconds for other in times) for each in times)


@in_virtual_time
async def test_one_process_alone_is_admitted_as_by_a_gate_of_its_own():
    (one,) = group(Database(), "a:1:x", **LIMITS)
    upstream = Upstream()
    began = asyncio.get_running_loop().time()

    await upstream.life(one, "anna")

    assert asyncio.get_running_loop().time() - began < 1.5
    assert 0 == one.gate.slots_held


@pytest.mark.parametrize("notices", [True, False])
@in_virtual_time
async def test_three_processes_use_the_whole_window_and_never_more(notices):
    processes = group(Database(notices=notices), "a:1:x", "b:1:x", "c:1:x", **LIMITS)
    upstream = Upstream()
    for process in processes:
        for number in range(8):
            process.start(upstream.again_and_again(process, f"{process.name} {number % 2}"))

    await asyncio.sleep(300.0)

    assert upstream.densest() <= 60
    assert len(upstream.arrivals) >= 0.97 * 60 * 5
    assert upstream.most <= 10
    assert max(upstream.callers.values()) - min(upstream.callers.values()) <= 5


@in_virtual_time
async def test_three_processes_use_all_slots_and_never_more():
    limits = {"concurrent_limit": 10, "requests_per_minute": 3000}
    processes = group(Database(), "a:1:x", "b:1:x", "c:1:x", **limits)
    upstream = Upstream()
    for process in processes:
        for number in range(8):
            process.start(upstream.again_and_again(process, f"{process.name} {number}", seconds=5.0))

    await asyncio.sleep(60.0)

    assert 10 == upstream.most
    assert len(upstream.arrivals) * 5.1 >= 0.97 * 10 * 55


@in_virtual_time
async def test_another_process_takes_the_role_of_one_that_is_dead_and_keeps_its_places():
    database = Database()
    processes = group(database, "a:1:x", "b:1:x", "c:1:x", **LIMITS)
    upstream = Upstream()
    await asyncio.sleep(0.1)
    for process in processes:
        for _ in range(30):
            process.start(upstream.again_and_again(process, "anna", seconds=0.5))
    await asyncio.sleep(20.0)

    for _ in range(2):
        holder = next(each for each in processes if each.name == database.holder)
        await holder.kill()
        await asyncio.sleep(1.0)
        processes.remove(holder)
        database.bury(holder.name)
        await asyncio.sleep(20.0)
    await asyncio.sleep(200.0)

    assert upstream.densest() <= 60
    assert len(upstream.arrivals) >= 60 * 3


@in_virtual_time
async def test_a_holder_that_has_not_looked_for_as_long_as_others_wait_is_not_certain_of_its_role():
    database = Database()
    first, second = group(database, "a:1:x", "b:1:x", **LIMITS)
    await asyncio.sleep(0.1)
    assert (True, False) == (first.keeper.is_certain, second.keeper.is_certain)

    first.tasks[0].cancel()  # its loop is blocked
    while not second.keeper.is_certain:
        assert not (first.keeper.is_certain and second.keeper.is_certain)
        await asyncio.sleep(0.01)

    assert not first.keeper.is_certain


@in_virtual_time
async def test_a_holder_hands_the_role_over_without_a_pause():
    database = Database()
    first, second = group(database, "a:1:x", "b:1:x", **LIMITS)
    upstream = Upstream()
    await asyncio.sleep(0.1)
    assert first.name == database.holder
    second.start(upstream.again_and_again(second, "anna", seconds=0.1, answer=0.01))
    await asyncio.sleep(3.0)

    await first.keeper.hand_over()
    before = len(upstream.arrivals)
    await asyncio.sleep(2.0)

    assert second.name == database.holder
    assert len(upstream.arrivals) > before + 10


@in_virtual_time
async def test_a_role_that_is_handed_over_while_it_is_taken_is_lost_afterwards():
    events = []

    async def on_held(gate):
        await asyncio.sleep(1.0)
        events.append("held")

    keeper = Keeper(
        Table(Database(), "a:1:x"),
        lambda: Gate(**LIMITS),
        on_held=on_held,
        on_lost=lambda: events.append("lost"),
        calls=without_calls(),
    )
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(0.5)
    with capture_logs() as logs:
        await keeper.hand_over()
        await asyncio.sleep(1.0)
    running.cancel()

    assert ["lost", "held", "lost"] == events
    assert not [each for each in logs if each["event"] == "gate_failed"]


@in_virtual_time
async def test_a_role_that_is_handed_over_while_past_calls_are_read_leaves_no_gate_of_calls():
    async def on_held(_gate): ...

    async def count_day():
        await asyncio.sleep(1.0)
        return ()

    calls = without_calls(count_day=count_day)
    keeper = Keeper(
        Table(Database(), "a:1:x"),
        lambda: Gate(**LIMITS),
        on_held=on_held,
        on_lost=lambda: None,
        calls=calls,
    )
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(0.5)
    await keeper.hand_over()
    await asyncio.sleep(1.0)
    running.cancel()

    assert calls.gate is None


@in_virtual_time
async def test_a_process_that_gets_the_role_after_it_was_to_hand_it_over_gives_it_back():
    database = Database(latency=0.1)
    first, second = group(database, "a:1:x", "b:1:x", **LIMITS)
    await asyncio.sleep(0.05)
    await first.keeper.hand_over()
    await asyncio.sleep(0.1)
    assert first.name == database.holder

    await asyncio.sleep(1.0)
    assert second.name == database.holder


@in_virtual_time
async def test_the_creations_of_a_process_that_dies_after_their_ends_count_once():
    database = Database()
    first, second = group(database, "a:1:x", "b:1:x", **LIMITS)
    upstream = Upstream()
    await asyncio.sleep(0.1)
    for _ in range(5):
        second.start(upstream.life(second, "anna", seconds=0.1))
    await asyncio.sleep(2.0)
    await second.kill()
    database.bury(second.name)
    await asyncio.sleep(1.0)

    assert 5 == first.keeper.gate.statistics().current_rate_per_minute


@in_virtual_time
async def test_work_is_over_for_the_next_holder_although_the_process_that_continued_it_has_died_too():
    database = Database()
    processes = group(database, "a:1:x", "b:1:x", "c:1:x", "d:1:x", **LIMITS)
    await asyncio.sleep(0.1)
    first = next(each for each in processes if each.name == database.holder)
    second, third, fourth = (each for each in processes if each is not first)
    lease = await second.gate.acquire(ADMIN)
    await lease.persist(second.ledger, "gen.1")
    lease.sent()
    await second.kill()
    database.bury(second.name)
    await asyncio.sleep(1.0)
    third.gate.adopt(ADMIN, lost=1.0, expected="gen.1").release()
    await asyncio.sleep(1.0)
    await third.kill()
    database.bury(third.name)
    await asyncio.sleep(10.0)
    await first.keeper.hand_over()
    await asyncio.sleep(1.0)

    seen = fourth.keeper.gate.statistics()
    assert (0, 0) == (seen.current_concurrent, seen.stall.in_doubt)


@in_virtual_time
async def test_work_that_another_process_continues_keeps_its_slot_and_its_place():
    database = Database()
    first, second = group(database, "a:1:x", "b:1:x", concurrent_limit=1, requests_per_minute=60)
    upstream = Upstream()
    await asyncio.sleep(0.1)
    lease = await second.gate.acquire(ADMIN)
    await lease.persist(second.ledger, "gen.1")
    lease.sent()
    lease.answered()
    await asyncio.sleep(0.5)
    await second.kill()
    database.bury(second.name)
    waiting = first.start(upstream.life(first, ADMIN))
    await asyncio.sleep(2.0)
    assert not upstream.arrivals

    continued = first.gate.adopt(ADMIN, expected="gen.1")
    await asyncio.sleep(5.0)
    assert not upstream.arrivals
    continued.release()
    await waiting

    assert 2 == first.keeper.gate.statistics().current_rate_per_minute


@in_virtual_time
async def test_continued_work_that_is_over_at_once_gives_its_slot_back_also_at_the_next_holder():
    database = Database()
    first, second, third = group(
        database, "a:1:x", "b:1:x", "c:1:x", concurrent_limit=1, requests_per_minute=60
    )
    await asyncio.sleep(0.1)
    lease = await third.gate.acquire(ADMIN)
    await lease.persist(third.ledger, "gen.1")
    lease.sent()
    await asyncio.sleep(0.5)
    await third.kill()
    database.bury(third.name)
    await asyncio.sleep(1.0)
    holder, other = (first, second) if database.holder == first.name else (second, first)

    other.gate.adopt(ADMIN, lost=1.0, expected="gen.1").release()
    await asyncio.sleep(1.0)
    assert 0 == holder.keeper.gate.statistics().current_concurrent

    await holder.kill()
    database.bury(holder.name)
    await asyncio.sleep(1.0)
    assert 0 == other.keeper.gate.statistics().current_concurrent


@in_virtual_time
async def test_the_creation_of_a_dead_process_without_an_answer_stops_all_until_a_later_request_is_answered():
    database = Database()
    first, second = group(database, "a:1:x", "b:1:x", **LIMITS)
    upstream = Upstream()
    await asyncio.sleep(0.1)
    lease = await second.gate.acquire("user")
    await lease.persist(second.ledger, "gen.1")
    lease.sent()
    await asyncio.sleep(0.5)
    await second.kill()
    database.bury(second.name)
    await asyncio.sleep(1.0)
    waiting = first.start(upstream.life(first, "anna"))
    await asyncio.sleep(300.0)
    assert not upstream.arrivals

    first.gate.upstream_answered(asyncio.get_running_loop().time() - 0.1)
    await asyncio.sleep(2.0)

    assert 1 == len(upstream.arrivals)
    await waiting
    assert 2 == first.keeper.gate.statistics().current_rate_per_minute
    assert not first.keeper.gate.statistics().stall.in_doubt


@in_virtual_time
async def test_an_answer_to_a_request_before_a_lost_creation_ends_no_doubt_when_it_is_learned_late():
    database = Database()
    (one,) = group(database, "a:1:x", **LIMITS)
    lease = await one.gate.acquire("anna")
    before = asyncio.get_running_loop().time()
    await lease.persist(one.ledger, "gen.1")
    await asyncio.sleep(0.1)
    lease.sent()
    lease.lost()
    await asyncio.sleep(1.0)

    database.delay = 1.0
    one.gate.upstream_answered(before)
    waiting = one.start(one.gate.acquire("anna"))
    await asyncio.sleep(10.0)
    assert not waiting.done()

    one.gate.upstream_answered(asyncio.get_running_loop().time())
    await asyncio.sleep(10.0)
    assert waiting.done()


@in_virtual_time
async def test_nothing_is_sent_while_the_database_is_away_and_all_continues_afterwards():
    database = Database()
    processes = group(database, "a:1:x", "b:1:x", **LIMITS)
    upstream = Upstream()
    await asyncio.sleep(0.1)
    tasks = [each.start(upstream.life(each, "anna", seconds=0.1)) for each in processes for _ in range(20)]
    await asyncio.sleep(0.01)
    database.is_away = True
    await asyncio.sleep(1.0)
    before = len(upstream.arrivals)
    await asyncio.sleep(30.0)
    assert before == len(upstream.arrivals)

    database.is_away = False
    await asyncio.sleep(120.0)

    done = [each for each in tasks if each.done() and not each.exception()]
    assert len(done) == len(upstream.arrivals)
    assert upstream.densest() <= 60


@in_virtual_time
async def test_a_lease_whose_grant_was_lost_with_the_database_waits_for_another_and_counts_once():
    database = Database()
    (one,) = group(database, "a:1:x", **LIMITS)
    lease = await one.gate.acquire("anna")
    (row,) = database.rows.values()
    row.granted, database.holder = False, None

    await lease.persist(one.ledger, "gen.1")

    assert (1, 1) == (one.gate.slots_held, one.gate.in_flight("anna"))
    lease.release()
    assert (0, 0) == (one.gate.slots_held, one.gate.in_flight("anna"))


async def fail_over(database, processes, chance, *, settling=15.0):
    """Lose the commits of up to 30 seconds, and be away for as long. Then the processes come back one by one."""
    standby = database.copy()
    await asyncio.sleep(chance.uniform(0.0, 30.0))
    database.is_away = True
    await asyncio.sleep(chance.uniform(0.0, 30.0))
    database.is_away = False
    database.fail_over(standby, settling=settling)
    for process in processes:
        process.start(process.ledger.come_back(chance.uniform(0.0, 10.0)))
    await asyncio.sleep(settling)


@in_virtual_time
async def test_failovers_that_lose_commits_let_no_more_through_than_slots_and_window_and_lose_no_wait():
    chance = random.Random(4)
    database = Database(latency=0.004)
    processes = group(database, "a:1:x", "b:1:x", "c:1:x", **LIMITS)
    upstream = Upstream()
    for process in processes:
        for number in range(8):
            times = {"seconds": chance.uniform(0.2, 30.0), "answer": chance.uniform(0.1, 10.0)}
            process.start(upstream.again_and_again(process, f"c{number % 4}", **times))
    for _ in range(5):
        await asyncio.sleep(chance.uniform(1.0, 60.0))
        await fail_over(database, processes, chance)

    waiting = [each.start(upstream.life(each, "late")) for each in processes for _ in range(4)]
    await asyncio.sleep(300.0)
    assert all(each.done() for each in waiting)
    assert upstream.densest() <= 60
    assert upstream.most == 10


@in_virtual_time
async def test_predictions_keep_their_slots_and_waits_their_turn_although_their_rows_were_lost():
    database = Database()
    processes = group(database, "a:1:x", "b:1:x", **LIMITS)
    upstream = Upstream()
    await asyncio.sleep(1.0)
    standby = database.copy()
    for each in processes:
        for _ in range(5):
            each.start(upstream.life(each, "anna", seconds=150.0))
    await asyncio.sleep(1.0)
    waiting = [each.start(upstream.life(each, "anna")) for each in processes]
    await asyncio.sleep(1.0)
    database.fail_over(standby, settling=15.0)
    for each in processes:
        each.start(each.ledger.come_back(5.0))
    await asyncio.sleep(15.0)
    later = [each.start(upstream.life(each, "ben")) for each in processes]

    await asyncio.sleep(120.0)
    assert 10 == len(upstream.arrivals)
    await asyncio.sleep(60.0)
    assert all(each.done() for each in [*waiting, *later])
    assert 10 == upstream.most


@in_virtual_time
async def test_what_a_process_sent_before_it_died_in_a_failover_counts_although_its_rows_are_lost():
    database = Database()
    one, other = group(database, "a:1:x", "b:1:x", **LIMITS)
    upstream = Upstream()
    await asyncio.sleep(1.0)
    standby = database.copy()
    for _ in range(60):
        one.start(upstream.life(one, "anna", seconds=0.1))
    await asyncio.sleep(5.0)
    assert 60 == len(upstream.arrivals)
    await one.kill()
    database.fail_over(standby, settling=15.0)
    other.start(other.ledger.come_back(1.0))
    for _ in range(60):
        other.start(upstream.life(other, "anna", seconds=0.1))
    await asyncio.sleep(15.0)
    database.bury(one.name)
    await asyncio.sleep(90.0)

    assert 60 == upstream.densest()
    assert 120 == len(upstream.arrivals)


@pytest.mark.parametrize(
    ("deaths", "buried_within"),
    [(40, (0.0, 3.0)), (6, (20.0, 60.0))],
    ids=["before the role moves", "after it"],
)
@in_virtual_time
async def test_random_deaths_never_let_more_than_the_limits_through(deaths, buried_within):
    chance = random.Random(4)
    database = Database(latency=0.004)
    names = count()
    upstream = Upstream()
    processes = group(database, *(f"h:{next(names)}:x" for _ in range(3)), **LIMITS)

    def work(process):
        for number in range(12):
            process.start(upstream.again_and_again(process, f"c{number % 4}", seconds=0.5, answer=0.2))

    for each in processes:
        work(each)
    for _ in range(deaths):
        await asyncio.sleep(chance.uniform(0.1, 15.0))
        victim = chance.choice(processes)
        await victim.kill()
        await asyncio.sleep(chance.uniform(*buried_within))
        database.bury(victim.name)
        database.answered_at = asyncio.get_running_loop().time()
        processes.remove(victim)
        (new,) = group(database, f"h:{next(names)}:x", **LIMITS)
        processes.append(new)
        work(new)

    assert upstream.densest() <= 60
    assert upstream.most <= 10
    assert len(upstream.arrivals) > 60


@in_virtual_time
async def test_a_prediction_of_a_dead_process_holds_its_slot_until_it_must_have_ended_also_at_the_next_holder():
    database = Database()
    processes = group(database, "a:1:x", "b:1:x", "c:1:x", concurrent_limit=4, requests_per_minute=600)
    upstream = Upstream()
    await asyncio.sleep(0.1)
    holder = next(each for each in processes if each.name == database.holder)
    victim, other = (each for each in processes if each is not holder)
    for number in range(3):
        victim.start(upstream.life(victim, f"user {number}", seconds=30.0))
    await asyncio.sleep(1.0)
    await victim.kill()
    database.bury(victim.name)
    for number in range(8):
        other.start(upstream.again_and_again(other, f"other {number}", seconds=0.5))
    await asyncio.sleep(10.0)
    await holder.kill()
    database.bury(holder.name)
    await asyncio.sleep(15.0)
    assert 4 == upstream.most == upstream.running
    before = len(upstream.arrivals)

    await asyncio.sleep(10.0)

    assert 4 == upstream.most
    assert len(upstream.arrivals) - before > 40  # all slots are in use again, not one of four
    assert 4 == other.keeper.gate.statistics().current_concurrent


@in_virtual_time
async def test_a_lost_creation_of_a_dead_process_holds_its_slot_for_as_long_as_its_prediction_may_run():
    database = Database()
    first, second = group(database, "a:1:x", "b:1:x", **LIMITS)
    await asyncio.sleep(0.1)
    lease = await second.gate.acquire("user")
    await lease.persist(second.ledger, "gen.1", 100.0)
    lease.sent()
    await second.kill()
    database.bury(second.name)
    await asyncio.sleep(10.0)
    first.gate.upstream_answered(asyncio.get_running_loop().time() - 0.1)

    async def slots():
        await asyncio.sleep(0.5)
        return first.keeper.gate.statistics().current_concurrent

    await asyncio.sleep(98.0)
    assert 1 == await slots()
    await asyncio.sleep(2.0)
    assert 0 == await slots()


@in_virtual_time
async def test_a_lost_creation_of_the_admin_that_no_process_searches_for_is_in_doubt_for_a_minute():
    database = Database()
    first, second = group(database, "a:1:x", "b:1:x", **LIMITS)
    await asyncio.sleep(0.1)
    lease = await second.gate.acquire(ADMIN)
    await lease.persist(second.ledger, "gen.1", 100.0)
    lease.sent()
    await second.kill()
    database.bury(second.name)
    await asyncio.sleep(1.0)
    first.gate.upstream_answered(asyncio.get_running_loop().time() - 0.1)

    await asyncio.sleep(57.0)
    assert 1 == first.keeper.gate.statistics().stall.in_doubt
    await asyncio.sleep(5.0)
    seen = first.keeper.gate.statistics()
    assert (0, 1) == (seen.stall.in_doubt, seen.current_concurrent)
