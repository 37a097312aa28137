"""Limits and named semaphores of several processes on one ledger."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from cluster.letters import Letters
from concurrency import Gate
from errors import LeaseExpired, LedgerDown, NotFound, SemaphoreFull
from generations.limits import ConfiguredLimits
from generations.running import RunningWork
from generations.semaphores import NamedSemaphores
from generations.shared import REFRESH, SharedLimits, SharedSemaphores, keep_fresh
from ledger.memory import MemoryLedger
from parsing.limits import parse_limits
from tests.support.post import PostOffice
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import settings


class Reader:
    """Reads the ledger without a thread. Stands in for the archive and for the supervisor."""

    def __init__(self, ledger):
        self._ledger = ledger
        self.running = RunningWork()

    async def read(self, query):
        await asyncio.sleep(0.001)
        return query(self._ledger)


class Process:
    def __init__(self, office, name, rows):
        self.gate = Gate(concurrent_limit=10, requests_per_minute=600)
        self.ledger = MemoryLedger(rows, commit_seconds=0.001)
        self.letters = Letters(office.post(name))
        self._reader = Reader(self.ledger)
        limits = ConfiguredLimits(settings(), gate=self.gate, ledger=self.ledger)
        self.limits = SharedLimits(limits, self._reader, self.letters)
        self.configured = limits
        self.semaphores = SharedSemaphores(self.gate, self._reader, self.letters, self._named)
        self.tasks = []

    def start(self):
        work = (self.letters.run(), keep_fresh(self.limits, self.semaphores))
        self.tasks = [asyncio.create_task(each) for each in work]

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def limit(self):
        return self.gate.statistics().concurrent_limit

    async def change(self, **limits):
        await self.limits.change(parse_limits(limits))

    def known(self):
        return {each.id: each.limit for each in self.gate.semaphores()}

    def _named(self, gate):
        return NamedSemaphores(gate, self.ledger, self._reader, self._reader)


def a_gate():
    return Gate(concurrent_limit=10, requests_per_minute=600)


@asynccontextmanager
async def processes(*names, holder=None):
    """Processes with these names, of which the first holds the gate, unless `holder` is None."""
    office = PostOffice()
    rows = MemoryLedger().rows
    found = [Process(office, name, rows) for name in names]
    for each in found:
        each.start()
    if holder is not None:
        await found[holder].semaphores.take(a_gate())
    await asyncio.sleep(0)
    try:
        yield office, *found
    finally:
        for each in found:
            await each.stop()


# ── Limits


@in_virtual_time
async def test_every_process_has_a_limit_before_its_change_is_answered():
    async with processes("a", "b", "c") as (_, a, b, c):
        await b.change(concurrent_limit=3)

        assert (3, 3, 3) == (a.limit(), b.limit(), c.limit())
        assert {"concurrent_limit": 3} == a.configured.configured
        await a.change(concurrent_limit=None)
        assert ({}, a.limit()) == (c.configured.configured, c.limit())
        assert a.limit() != 3


@in_virtual_time
async def test_a_process_that_was_stopped_has_a_limit_soon_after_it_runs_again():
    async with processes("a", "b") as (office, a, b):
        await b.stop()
        office.alive.discard("b")
        await a.change(concurrent_limit=3)
        office.alive.add("b")
        assert 3 != b.limit()
        b.start()
        await asyncio.sleep(REFRESH + 0.1)

        assert 3 == b.limit()


@in_virtual_time
async def test_a_stopped_process_delays_a_change_by_two_seconds_at_most():
    async with processes("a", "b") as (_, a, b):
        await b.stop()
        began = asyncio.get_running_loop().time()
        await a.change(concurrent_limit=3)

        assert 2.1 > asyncio.get_running_loop().time() - began


@in_virtual_time
async def test_changes_at_two_processes_at_once_leave_all_with_the_same_limit():
    async with processes("a", "b", "c") as (_, a, b, c):
        for _round in range(10):
            await asyncio.gather(a.change(concurrent_limit=3), b.change(concurrent_limit=4))

            assert 1 == len({a.limit(), b.limit(), c.limit()})


@in_virtual_time
async def test_a_change_that_is_on_disk_succeeds_although_no_process_can_be_reached():
    async with processes("a", "b") as (office, a, _):
        office.is_down = True
        await a.change(concurrent_limit=3)

        assert 3 == a.limit()


# ── Semaphores


@in_virtual_time
async def test_every_process_knows_a_semaphore_before_its_creation_is_answered():
    async with processes("a", "b", "c", holder=0) as (_, a, b, c):
        changed = await b.semaphores.set_limit("gpu", 2)

        assert ("gpu", 2, 0) == (changed.id, changed.limit, changed.in_use)
        assert {"gpu": 2} == a.known() == b.known() == c.known()
        await c.semaphores.remove("gpu")
        assert {} == a.known() == b.known() == c.known()
        with pytest.raises(NotFound):
            await b.semaphores.remove("gpu")


@in_virtual_time
async def test_leases_of_all_processes_share_the_permits():
    async with processes("a", "b", "c", holder=0) as (_, a, b, c):
        await a.semaphores.set_limit("gpu", 2)
        lease = await b.semaphores.lease("gpu", 60, "key")
        assert lease == await c.semaphores.lease("gpu", 60, "key")
        await c.semaphores.lease("gpu", 60, None)

        [seen] = await b.semaphores.all()
        assert (2, 2) == (seen.limit, seen.in_use)
        with pytest.raises(SemaphoreFull) as full:
            await b.semaphores.lease("gpu", 60, None)
        assert 0 < full.value.retry_after
        await c.semaphores.renew("gpu", lease.id)
        await c.semaphores.release("gpu", lease.id)
        with pytest.raises(LeaseExpired):
            await b.semaphores.renew("gpu", lease.id)


@in_virtual_time
async def test_leases_live_on_when_the_gate_moves_and_expire_at_their_time():
    async with processes("a", "b", holder=0) as (_, a, b):
        await a.semaphores.set_limit("gpu", 1)
        lease = await b.semaphores.lease("gpu", 60, None)
        await asyncio.sleep(30)
        a.semaphores.leave()
        moved = asyncio.create_task(b.semaphores.all())
        gate = a_gate()
        await b.semaphores.take(gate)
        [seen] = await moved

        assert 1 == seen.in_use
        await a.semaphores.renew("gpu", lease.id)
        await asyncio.sleep(59)
        assert 1 == gate.semaphore("gpu").in_use
        await asyncio.sleep(2)
        assert 0 == gate.semaphore("gpu").in_use


@in_virtual_time
async def test_a_process_that_may_have_lost_the_gate_leases_no_permit():
    async with processes("a", "b", holder=0) as (_, a, b):
        await a.semaphores.set_limit("gpu", 1)
        a.semaphores.holds_gate = lambda: False
        with pytest.raises(LedgerDown):
            await b.semaphores.lease("gpu", 60, None)

        a.semaphores.holds_gate = lambda: True
        assert await b.semaphores.lease("gpu", 60, None)


@in_virtual_time
async def test_without_a_holder_a_request_fails_within_ten_seconds_and_semaphores_stay_known():
    async with processes("a", "b", holder=0) as (_, a, b):
        await a.semaphores.set_limit("gpu", 1)
        a.semaphores.leave()
        with pytest.raises(LedgerDown):
            await b.semaphores.lease("gpu", 60, None)

        assert {"gpu": 1} == b.known()
