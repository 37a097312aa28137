"""Tests of the gate of calls that several processes share, on rows in memory and in virtual time."""

import asyncio
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admission.metered.demand import Demand, TooLarge
from admission.metered.limits import MeteredLimits, ModelLimits
from errors import LedgerDown
from tests.support.fake_google import HELLO, SERVER, FakeGoogle, Script
from tests.support.metered import heaviest
from tests.support.shared_database import Database
from tests.support.shared_gate import group
from tests.support.virtual_time import in_virtual_time, now

LIMITS = {"concurrent_limit": 10, "requests_per_minute": 60}
NAMES = "a:1:x", "b:1:x", "c:1:x"


def calls(slots=5, rpm=60, tpm=100_000, rpd=None, micro_usd=10_000_000):
    return {"concurrent_limit": slots, "limits": MeteredLimits({"*": ModelLimits(rpm, tpm, rpd)}, micro_usd)}


def processes_on(database, limits, names=NAMES):
    return group(database, *names, calls=limits, **LIMITS)


def call(caller="ann", account="admin", tokens=100, micro_usd=100, **others):
    return Demand(caller=caller, account=account, model="lite", tokens=tokens, micro_usd=micro_usd, **others)


class Upstream:
    """Counts calls as the upstream sees them: in its windows from their arrival, also those of a process that
    dies."""

    def __init__(self):
        self.arrivals = []
        self.running = self.most = 0
        self._references = count()

    async def life(self, process, demand, *, seconds=1.0, tokens=None, loses=False):
        with await process.calls.acquire(demand) as lease:
            while True:
                try:
                    await lease.persist(process.ledger, f"gen.{next(self._references)}")
                    break
                except LedgerDown:
                    await asyncio.sleep(1.0)
            lease.sent()
            tokens = demand.tokens if tokens is None else tokens
            await asyncio.sleep(0.05)
            self.arrivals.append((now(), tokens))
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                if loses:
                    await asyncio.sleep(seconds)
                    lease.lost()
                    return
                await asyncio.sleep(0.05)
                lease.answered()
                lease.proceed()
                lease.measured(tokens)
                await asyncio.sleep(seconds)
            finally:
                self.running -= 1
            lease.settled(demand.micro_usd)

    async def again_and_again(self, process, demand, **how):
        while True:
            await self.life(process, demand, **how)

    def densest(self):
        """The most arrivals, and the most tokens, in 60 seconds."""
        return heaviest((at, 1) for at, _ in self.arrivals), heaviest(self.arrivals)


def holder_of(database, processes):
    return next(each for each in processes if each.name == database.holder)


async def lose(process, database, processes, *, noticed_after=0.0):
    """Kill a process, and mark it dead after some seconds. The others are left in the list."""
    await process.kill()
    processes.remove(process)
    await asyncio.sleep(noticed_after)
    database.bury(process.name)


@pytest.mark.parametrize("notices", [True, False])
@in_virtual_time
async def test_three_processes_use_the_whole_window_of_requests_and_never_more(notices):
    database = Database(notices=notices)
    processes = processes_on(database, calls())
    upstream = Upstream()
    for process in processes:
        for _ in range(4):
            process.start(upstream.again_and_again(process, call(process.name)))

    await asyncio.sleep(180.0)

    requests, _ = upstream.densest()
    assert requests <= 60
    assert len(upstream.arrivals) >= 0.95 * 60 * 3
    assert upstream.most <= 5


@in_virtual_time
async def test_tokens_are_corrected_by_what_the_upstream_counts():
    processes = processes_on(Database(), calls(rpm=1000, tpm=6000))
    upstream = Upstream()
    for process in processes:
        process.start(upstream.again_and_again(process, call(tokens=600), tokens=50, seconds=0.5))

    await asyncio.sleep(180.0)

    _, tokens = upstream.densest()
    assert tokens <= 6000
    assert tokens >= 0.9 * (6000 - 3 * 600)


@in_virtual_time
async def test_a_new_holder_keeps_the_windows_of_the_one_that_died():
    database = Database()
    processes = processes_on(database, calls())
    upstream = Upstream()
    await asyncio.sleep(0.1)
    for process in processes:
        for _ in range(4):
            process.start(upstream.again_and_again(process, call()))
    await asyncio.sleep(20.0)

    for _ in range(2):
        await lose(holder_of(database, processes), database, processes, noticed_after=1.0)
        await asyncio.sleep(20.0)
    await asyncio.sleep(200.0)

    requests, _ = upstream.densest()
    assert requests <= 60
    assert len(upstream.arrivals) >= 60 * 3
    assert upstream.most <= 5


@in_virtual_time
async def test_a_new_holder_counts_money_for_ten_minutes_after_the_end():
    database = Database()
    processes = processes_on(database, calls(micro_usd=1000))
    upstream = Upstream()
    await asyncio.sleep(0.1)
    for process in processes:
        await upstream.life(process, call(micro_usd=300))
    await asyncio.sleep(200.0)
    await lose(holder_of(database, processes), database, processes)
    began = now()

    await upstream.life(processes[0], call(micro_usd=300))

    assert 390.0 < now() - began < 410.0


@in_virtual_time
async def test_the_calls_of_a_dead_process_free_their_slots_and_count_until_a_later_answer():
    database = Database()
    processes = processes_on(database, calls(slots=1, rpm=2), NAMES[:2])
    upstream = Upstream()
    await asyncio.sleep(0.1)
    dying = next(each for each in processes if each.name != database.holder)
    dying.start(upstream.life(dying, call(), seconds=100.0, loses=True))
    await asyncio.sleep(1.0)
    await lose(dying, database, processes)
    await asyncio.sleep(0.5)

    [living], began = processes, now()
    await upstream.life(living, call())
    assert now() - began < 2.0
    await upstream.life(living, call())

    assert 59.0 < now() - began < 65.0
    await asyncio.sleep(1300.0)
    assert not database.rows


@in_virtual_time
async def test_a_call_lost_at_one_process_counts_for_60_seconds_after_a_count_of_tokens_at_another():
    processes = processes_on(Database(), calls(rpm=1))
    upstream = Upstream()
    google = FakeGoogle([Script([b'{"totalTokens": 1}'], head_after=2.0)])
    client = google.client(on_answer=processes[1].calls.upstream_answered)
    await asyncio.sleep(0.1)
    await upstream.life(processes[0], call(account=SERVER.account), loses=True)
    await asyncio.sleep(2.0)  # until all processes know of the doubt
    await client.count_tokens(SERVER, HELLO)

    began = now()
    await upstream.life(processes[2], call(account=SERVER.account))
    assert 59.0 < now() - began < 65.0


@in_virtual_time
async def test_a_new_holder_counts_the_day_by_the_ledger():
    database = Database()
    processes = processes_on(database, calls(rpd=3))
    upstream = Upstream()
    await asyncio.sleep(0.1)
    for process in processes[:2]:
        await upstream.life(process, call())
    await lose(holder_of(database, processes), database, processes)
    await asyncio.sleep(1.0)

    await upstream.life(processes[0], call())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30.0):
            await upstream.life(processes[1], call())


@in_virtual_time
async def test_a_refusal_at_one_process_closes_the_model_for_all_and_a_probe_opens_it():
    database = Database()
    processes = processes_on(database, calls())
    upstream = Upstream()
    await asyncio.sleep(0.1)
    other = next(each for each in processes if each.name != database.holder)
    other.calls.shut("admin", "lite", 30.0, "minute")
    await asyncio.sleep(0.1)
    began = now()

    tasks = [each.start(upstream.life(each, call(), seconds=2.0)) for each in processes]
    await asyncio.sleep(1.0)
    assert [] == upstream.arrivals
    assert "minute" == processes[0].calls.account_statistics("admin").lanes[0].closed.why
    await asyncio.gather(*tasks)

    assert now() - began == pytest.approx(32.1, abs=0.5)


@in_virtual_time
async def test_a_lowered_limit_is_in_force_and_known_everywhere_also_after_the_end_of_its_holder():
    database = Database()
    processes = processes_on(database, calls())
    await asyncio.sleep(0.1)
    other = next(each for each in processes if each.name != database.holder)
    other.calls.lower("admin", "lite", "tpm", 500)
    await asyncio.sleep(2.0)
    await lose(holder_of(database, processes), database, processes)
    await asyncio.sleep(2.0)

    for each in processes:
        assert [("admin", "lite", "tpm", 500)] == each.calls.lowered
        with pytest.raises(TooLarge):
            each.calls.check(call(tokens=501))


@in_virtual_time
async def test_a_call_that_became_too_large_while_it_waited_is_refused():
    database = Database()
    processes = processes_on(database, calls(slots=1))
    upstream = Upstream()
    await asyncio.sleep(0.1)
    first, second = processes[:2]
    first.start(upstream.life(first, call(), seconds=50.0))
    await asyncio.sleep(1.0)
    waits = second.start(upstream.life(second, call(tokens=900)))
    await asyncio.sleep(1.0)
    first.calls.lower("admin", "lite", "tpm", 500)

    with pytest.raises(TooLarge):
        await waits


@in_virtual_time
async def test_both_gates_share_the_permits_of_a_semaphore():
    database = Database()
    first, second = processes_on(database, calls(), NAMES[:2])
    upstream = Upstream()
    await asyncio.sleep(0.1)
    (creations,) = holder_of(database, [first, second]).gates
    creations.set_semaphore("one", 1)
    creation = await first.gate.acquire("ann", semaphore="one")
    waits = second.start(upstream.life(second, call(semaphore="one")))
    await asyncio.sleep(5.0)
    assert [] == upstream.arrivals

    creation.release()
    await waits

    assert 1 == len(upstream.arrivals)


@in_virtual_time
async def test_a_cancelled_wait_and_a_call_that_was_not_sent_leave_nothing():
    database = Database()
    processes = processes_on(database, calls(slots=1, rpm=1))
    await asyncio.sleep(0.1)
    lease = await processes[0].calls.acquire(call())
    waits = processes[1].start(processes[1].calls.acquire(call()))
    await asyncio.sleep(1.0)
    waits.cancel()
    await asyncio.sleep(1.0)
    lease.release()

    async with asyncio.timeout(2.0):
        (await processes[2].calls.acquire(call())).release()
    await asyncio.sleep(5.0)

    assert not database.rows
    assert 0 == sum(each.calls.slots_held for each in processes)


EVENTS = st.tuples(
    st.sampled_from(["call", "call", "call", "lose", "kill", "kill holder"]),
    st.integers(0, 2),
    st.sampled_from([10, 200, 900]),
    st.sampled_from([0.0, 0.3, 2.0, 20.0, 61.0]),
)


@in_virtual_time
async def live_through(events, slots, rpm):
    """No window is over by the count of the upstream, and no row is left in the end."""
    database, names = Database(), (f"{each}:1:x" for each in count())
    limits = calls(slots, rpm, 1000)
    processes = processes_on(database, limits, [next(names) for _ in range(3)])
    upstream, tasks = Upstream(), []

    async def replace_dead(dead):
        await lose(dead, database, processes, noticed_after=1.0)
        processes.extend(processes_on(database, limits, [next(names)]))
        for each in processes:
            each.others = [other for other in processes if other is not each]

    await asyncio.sleep(0.1)
    for kind, which, tokens, then in events:
        process = processes[which]
        if kind == "kill":
            await replace_dead(process)
        elif kind == "kill holder":
            await replace_dead(next((each for each in processes if each.name == database.holder), process))
        else:
            work = upstream.life(process, call(tokens=tokens), loses=kind == "lose")
            tasks.append(process.start(work))
        await asyncio.sleep(then)
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 700.0 + 61.0 * len(events))

    requests, most_tokens = upstream.densest()
    assert requests <= rpm
    assert most_tokens <= 1000
    assert upstream.most <= slots
    assert all(each.done() for each in tasks)
    await upstream.life(processes[0], call())  # so that no lost call may arrive any more
    await asyncio.sleep(603.0)
    assert not database.rows
    holder = holder_of(database, processes)
    assert (0, 0) == (holder.calls.statistics().in_flight, holder.calls.statistics().waiting)
    for each in processes:
        await each.kill()


HISTORIES = given(
    events=st.lists(EVENTS, min_size=4, max_size=12), slots=st.integers(1, 4), rpm=st.sampled_from([2, 5])
)


def _some(examples):
    return settings(
        max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )


@_some(2)
@HISTORIES
def test_no_history_of_deaths_is_over_a_window_or_leaves_anything(events, slots, rpm):
    live_through(events, slots, rpm)


@pytest.mark.slow
@_some(4)
@HISTORIES
def test_no_further_history_of_deaths_is_over_a_window_or_leaves_anything(events, slots, rpm):
    live_through(events, slots, rpm)
