"""Processes that share a gate keep the rule for boots together, whichever of them holds it."""

import asyncio

import pytest

from admission.sliding_window import WINDOW
from contract.callers import ADMIN
from tests.support.shared_database import Database
from tests.support.shared_gate import group
from tests.support.virtual_time import in_virtual_time

LIMITS = {"concurrent_limit": 4, "requests_per_minute": 600}
SOON = 1.0
"""Seconds in which a row is written, seen and granted."""


class Work:
    """Leases for predictions of one version, by processes in turn."""

    def __init__(self, *processes):
        self._processes = processes
        self.leases = {}

    async def ask(self, *names):
        for number, name in enumerate(names):
            process = self._processes[number % len(self._processes)]
            process.start(self._live(process, name))
            await asyncio.sleep(0.1)
        await asyncio.sleep(SOON)

    async def _live(self, process, name):
        lease = await process.gate.acquire(ADMIN, boots="cold")
        await lease.persist(process.ledger, f"gen_{name}.1", 1000.0)
        lease.sent()
        lease.answered()
        self.leases[name] = lease

    async def start(self, name):
        self.leases[name].started()
        await asyncio.sleep(SOON)

    @property
    def admitted(self):
        return "".join(self.leases)


async def opened():
    database = Database()
    processes = group(database, "a:1:x", "b:1:x", "c:1:x", **LIMITS)
    await asyncio.sleep(SOON)
    holder = next(each for each in processes if each.name == database.holder)
    return database, holder, *(each for each in processes if each is not holder)


async def end(database, process, heir=None):
    await process.kill()
    database.bury(process.name, heir)
    await asyncio.sleep(SOON)


@in_virtual_time
async def test_boots_of_all_processes_hold_half_of_the_slots_and_each_start_admits_the_next():
    _, holder, one, other = await opened()
    work = Work(one, other, holder)
    await work.ask(*"abcde")
    assert "ab" == work.admitted
    assert 2 == holder.gate.statistics().booting == one.gate.statistics().booting

    with await other.gate.acquire(ADMIN):
        await work.start("b")
        assert "abc" == work.admitted
        work.leases["a"].release()
        await asyncio.sleep(SOON)
        assert "abcd" == work.admitted


@pytest.mark.parametrize("starts", ["", "a", "ab"])
@in_virtual_time
async def test_the_next_holder_knows_what_boots_and_what_has_started(starts):
    database, holder, one, other = await opened()
    work = Work(one, other)
    await work.ask("a", "b")
    for each in starts:
        await work.start(each)
    await end(database, holder)
    await work.ask("c", "d", "e")

    assert "abcd"[: 2 + len(starts)] == work.admitted
    assert 2 == one.gate.statistics().booting == other.gate.statistics().booting


@in_virtual_time
async def test_a_left_prediction_boots_until_the_process_that_continues_it_sees_it_running():
    database, _, one, other = await opened()
    work = Work(one)
    await work.ask("a", "b")
    await end(database, one)
    mine = Work(other)
    await mine.ask("c", "d")
    assert "" == mine.admitted

    continued = other.gate.adopt(ADMIN, expected="gen_a.1", boots="cold")
    await asyncio.sleep(SOON)
    assert "" == mine.admitted
    continued.started()
    await asyncio.sleep(SOON)
    assert "c" == mine.admitted


@in_virtual_time
async def test_a_left_prediction_that_had_started_boots_no_more():
    database, _, one, other = await opened()
    work = Work(one)
    await work.ask("a", "b")
    await work.start("a")
    await end(database, one)
    mine = Work(other)
    await mine.ask("c", "d")

    assert "c" == mine.admitted


@in_virtual_time
async def test_predictions_boot_although_their_rows_were_lost_in_a_failover():
    database, holder, one, other = await opened()
    standby = database.copy()
    work = Work(one, other)
    await work.ask("a", "b")
    await work.start("a")
    database.fail_over(standby, settling=15.0)
    for each in (holder, one, other):
        each.start(each.ledger.come_back(5.0))
    await asyncio.sleep(15.0 + WINDOW)
    await work.ask("c", "d")

    assert "abc" == work.admitted


@in_virtual_time
async def test_a_start_that_is_told_twice_or_before_the_creation_changes_nothing():
    database, _, one, _ = await opened()
    lease = await one.gate.acquire(ADMIN, boots="cold")
    lease.started()
    await asyncio.sleep(SOON)
    [row] = database.rows.values()
    assert not row.started
    await lease.persist(one.ledger, "gen_a.1", 1000.0)
    lease.sent()
    lease.answered()
    lease.started()
    first = lease.record
    lease.started()

    assert first is lease.record
    await asyncio.sleep(SOON)
    assert row.started
