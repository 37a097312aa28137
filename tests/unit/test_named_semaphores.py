"""Leases of other services: they expire at their time, are on disk before they are answered, and survive restarts."""

import asyncio
import time
from dataclasses import replace

import pytest

from concurrency import Gate
from errors import IdempotencyConflict, LeaseExpired, LedgerDown, SemaphoreFull
from generations.semaphores import NamedSemaphores
from ledger.memory import MemoryLedger
from ledger.records import SemaphoreLeaseRecord
from tests.support.virtual_time import in_virtual_time


class Reader:
    """Reads the ledger without a thread. Stands in for the archive and for the supervisor."""

    def __init__(self, ledger):
        self._ledger = ledger

    async def read(self, query):
        return query(self._ledger)

    def names_semaphore(self, _semaphore):
        return False


class Process:
    """The semaphores of one process on `rows`."""

    def __init__(self, rows=None, *, commit_seconds=0.0):
        self.gate = Gate(concurrent_limit=10, requests_per_minute=600)
        self.ledger = MemoryLedger(rows, commit_seconds=commit_seconds)
        reader = Reader(self.ledger)
        self.semaphores = NamedSemaphores(self.gate, self.ledger, reader, reader)
        self.semaphores.begin(self.semaphores.load(self.ledger))

    @property
    def in_use(self):
        return self.gate.semaphore("gpu").in_use

    def leases(self):
        return self.ledger.all(SemaphoreLeaseRecord)

    def next(self):
        """The process after this one."""
        return Process(self.ledger.rows)


async def opened(limit=1, **how):
    process = Process(**how)
    await process.semaphores.set_limit("gpu", limit)
    return process


@in_virtual_time
async def test_a_lease_expires_at_its_time_unless_it_is_renewed():
    process = await opened()
    lease = await process.semaphores.lease("gpu", 60, None)
    await asyncio.sleep(59)
    await process.semaphores.renew("gpu", lease.id)
    await asyncio.sleep(59.9)
    before = process.in_use
    await asyncio.sleep(0.2)

    assert (1, 0) == (before, process.in_use)
    with pytest.raises(LeaseExpired):
        await process.semaphores.renew("gpu", lease.id)
    await asyncio.sleep(0.1)
    assert [] == process.leases()


@in_virtual_time
async def test_the_permit_of_a_dead_holder_goes_to_waiting_work_at_its_time():
    process = await opened()
    await process.semaphores.lease("gpu", 60, None)
    began = asyncio.get_running_loop().time()

    with await process.gate.acquire("ann", semaphore="gpu"):
        assert 60 == asyncio.get_running_loop().time() - began


@in_virtual_time
async def test_a_lease_is_on_disk_before_it_is_answered():
    process = await opened(commit_seconds=0.01)
    taking = asyncio.create_task(process.semaphores.lease("gpu", 60, None))
    await asyncio.sleep(0.005)
    before = process.leases(), taking.done()
    lease = await taking

    assert ([], False) == before
    assert [lease] == process.leases()


@in_virtual_time
async def test_requests_with_one_key_at_the_same_instant_get_one_lease():
    process = await opened(2, commit_seconds=0.01)
    leases = await asyncio.gather(*(process.semaphores.lease("gpu", 60, "k") for _ in range(5)))

    assert 1 == len({each.id for each in leases})
    assert 1 == process.in_use
    with pytest.raises(IdempotencyConflict):
        await process.semaphores.lease("gpu", 61, "k")


@in_virtual_time
async def test_a_lease_that_cannot_be_written_holds_no_permit():
    process = await opened()
    taking = [asyncio.create_task(process.semaphores.lease("gpu", 60, "k")) for _ in range(2)]
    process.ledger.trouble = "The disk is full."
    ends = await asyncio.gather(*taking, return_exceptions=True)
    assert [LedgerDown, LedgerDown] == [type(each) for each in ends]
    assert 0 == process.in_use

    process.ledger.trouble = None
    await asyncio.sleep(2)
    assert [] == process.leases()
    await process.semaphores.lease("gpu", 60, "k")


@pytest.mark.parametrize(
    ("left", "lasts"),
    [(20.0, 20.0), (-1.0, 0.0), (10_000.0, 60.0)],
    ids=["usual", "expired while no process ran", "the clock was set back"],
)
@in_virtual_time
async def test_after_a_restart_a_lease_lasts_by_the_wall_clock_but_never_longer_than_its_ttl(left, lasts):
    process = await opened()
    lease = await process.semaphores.lease("gpu", 60, "k")
    rows = process.ledger.rows
    rows[SemaphoreLeaseRecord][lease.id,] = replace(lease, expires_at=time.time() + left)

    following = Process(rows)
    held = following.in_use
    await asyncio.sleep(max(0.0, lasts - 0.5))
    before = following.in_use
    await asyncio.sleep(0.6)

    assert (int(lasts > 0), int(lasts > 0), 0) == (held, before, following.in_use)
    assert [] == following.leases()


@in_virtual_time
async def test_a_restart_keeps_limits_leases_and_keys_even_above_a_lowered_limit():
    process = await opened(2)
    leases = [await process.semaphores.lease("gpu", 60, key) for key in "ab"]
    await process.semaphores.set_limit("gpu", 1)

    following = process.next()

    assert (1, 2) == (following.gate.semaphore("gpu").limit, following.in_use)
    assert leases[0].id == (await following.semaphores.lease("gpu", 60, "a")).id
    await following.semaphores.renew("gpu", leases[1].id)
    await following.semaphores.release("gpu", leases[1].id)
    with pytest.raises(SemaphoreFull):
        await following.semaphores.lease("gpu", 60, None)
    assert 1 == following.next().in_use
