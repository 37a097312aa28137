"""The contract of a gate about the own limits of callers: of one process, and of three that share a gate by rows.

Moments are compared with a slack, since processes that share a gate need some looks to see each other's rows."""

import asyncio
from collections import defaultdict
from itertools import count
from types import SimpleNamespace

import pytest

from concurrency import Gate
from tests.support.shared_database import Database
from tests.support.shared_gate import group
from tests.support.virtual_time import in_virtual_time, now

LIMITS = {"concurrent_limit": 6, "requests_per_minute": 30}
SLACK = 1.0
"""Seconds within which the processes see an event."""


def alone() -> list:
    async def flush(): ...

    return [SimpleNamespace(gate=Gate(**LIMITS), ledger=SimpleNamespace(flush=flush))] * 3


def together() -> list:
    return group(Database(), "a:1:x", "b:1:x", "c:1:x", **LIMITS)


@pytest.fixture(params=[alone, together], ids=["of one process", "of three processes"])
def open_processes(request):
    """Makes three processes on a running loop. Those of one gate are the same."""
    return request.param


class Work:
    """Generations on these processes, in turn, and what the upstream sees of each caller."""

    def __init__(self, processes):
        self.processes = processes
        self.began = now()
        self.came = defaultdict(list)
        """When creations arrived, in seconds from the start."""
        self.running = defaultdict(int)
        self.most = defaultdict(int)
        self._numbers = count()
        self._tasks = set()

    def limit(self, caller, **limits):
        """As each process does when it learns of a key."""
        for gate in {id(each.gate): each.gate for each in self.processes}.values():
            gate.limit_caller(caller, **limits)

    def begin(self, caller, many, **how):
        for _ in range(many):
            task = asyncio.create_task(self._life(next(self._numbers), caller, **how))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _life(self, number, caller, *, seconds=5.0, is_sent=True, **how):
        process = self.processes[number % 3]
        with await process.gate.acquire(caller, **how) as lease:
            if not is_sent:
                return
            await lease.persist(process.ledger, f"gen_{number}.1", 60.0)
            lease.sent()
            self.came[caller].append(now() - self.began)
            self.running[caller] += 1
            self.most[caller] = max(self.most[caller], self.running[caller])
            lease.answered()
            await asyncio.sleep(seconds)
            self.running[caller] -= 1

    async def end(self):
        await asyncio.gather(*self._tasks)

    def densest(self, caller, seconds=60.0):
        """The most creations of a caller in so many seconds."""
        times = sorted(self.came[caller])
        return max(sum(each <= other < each + seconds for other in times) for each in times)


@in_virtual_time
async def test_a_callers_slots_are_never_more_than_its_limit_and_others_use_all_the_rest(open_processes):
    work = Work(open_processes())
    work.limit("ann", max_concurrent=2)
    work.begin("ann", 10)
    work.begin("bob", 8)
    await asyncio.sleep(4.0)
    seen = dict(work.running)
    await work.end()

    assert {"ann": 2, "bob": 4} == seen
    assert 2 == work.most["ann"]


@in_virtual_time
async def test_no_minute_has_more_creations_of_a_caller_than_its_limit_and_no_place_idles(open_processes):
    work = Work(open_processes())
    work.limit("ann", per_minute=3)
    work.begin("ann", 7)
    work.begin("bob", 40, seconds=0.5)
    await work.end()

    assert 3 == work.densest("ann")
    assert [0, 0, 0, 1, 1, 1, 2] == [came // 60.0 for came in work.came["ann"]]
    assert 27 == sum(came < 60.0 for came in work.came["bob"])


@in_virtual_time
async def test_what_was_not_sent_leaves_the_callers_place_free(open_processes):
    work = Work(open_processes())
    work.limit("ann", per_minute=1)
    work.begin("ann", 5, is_sent=False)
    await work.end()
    work.begin("ann", 1)
    await asyncio.sleep(5 * SLACK)

    assert 1 == len(work.came["ann"])


@in_virtual_time
async def test_changed_limits_are_in_force_at_once_for_waiting_work(open_processes):
    work = Work(open_processes())
    work.limit("ann", max_concurrent=1, per_minute=30)
    work.begin("ann", 12, seconds=20.0)
    await asyncio.sleep(5.0)
    seen = [work.running["ann"]]
    for most in (4, 2):
        work.limit("ann", max_concurrent=most, per_minute=30)
        await asyncio.sleep(SLACK)
        seen.append(work.running["ann"])
    await asyncio.sleep(25.0)
    seen.append(work.running["ann"])
    work.limit("ann")
    await asyncio.sleep(SLACK)
    seen.append(work.running["ann"])
    await work.end()

    assert [1, 4, 4, 2, 6] == seen


@in_virtual_time
async def test_every_process_estimates_the_wait_of_a_limited_caller(open_processes):
    work = Work(open_processes())
    work.limit("ann", per_minute=2)
    work.begin("ann", 4)
    await asyncio.sleep(3.0)

    for process in work.processes:
        wait = process.gate.estimated_wait("ann", None, 2, usual=5.0)
        assert pytest.approx(117.0, abs=2 * SLACK) == wait
        assert pytest.approx(57.0, abs=2 * SLACK) == process.gate.seconds_to_admit("ann", 1)
        assert 2 == process.gate.snapshot(caller="ann").own_limits["ann"].limits.per_minute
    await work.end()


@in_virtual_time
async def test_the_next_holder_of_the_gate_counts_what_a_caller_has_running_and_sent():
    processes = together()
    work = Work(processes)
    work.limit("ann", max_concurrent=3, per_minute=4)
    work.begin("ann", 9, seconds=30.0)
    await asyncio.sleep(10.0)
    [holder] = [each for each in processes if each.keeper.gate is not None]
    await holder.keeper.hand_over()
    await asyncio.sleep(10.0)
    [next_one] = [each for each in processes if each.keeper.gate is not None]
    seen = next_one.keeper.gate.in_flight("ann")
    await work.end()

    assert next_one is not holder
    assert 3 == seen == work.most["ann"]
    assert 4 == work.densest("ann")
    assert 9 == len(work.came["ann"])


@in_virtual_time
async def test_a_process_that_dies_takes_no_place_of_a_caller_with_it():
    database = Database()
    processes = group(database, "a:1:x", "b:1:x", "c:1:x", **LIMITS)
    work = Work(processes)
    work.limit("ann", per_minute=4)
    work.begin("ann", 9, seconds=1.0)
    await asyncio.sleep(10.0)
    [holder] = [each for each in processes if each.keeper.gate is not None]
    await holder.kill()
    await asyncio.sleep(150.0)

    assert 4 == work.densest("ann")
    assert len(work.came["ann"]) >= 6
