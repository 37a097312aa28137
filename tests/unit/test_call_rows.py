"""The rows of calls in PostgreSQL, as the holder of the gate sees them, and their gate on it."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

from admission.metered.demand import Demand
from admission.metered.limits import MeteredLimits, ModelLimits
from cluster.call_keeper import CallKeeper
from cluster.calls import RemoteMeteredGate
from cluster.keeper import Keeper
from cluster.remote import RemoteGate
from harness.postgres import server
from ledger.claims import ClaimSent
from ledger.leases import LeaseTable
from ledger.records import LeaseRecord, LeaseState
from tests.support.couriers import process_on
from tests.support.wiring import on_a_loop

NEEDED = LeaseRecord(id="lease", caller="anna", account="admin", model="lite", tokens=900, micro_usd=5000)
DEMAND = Demand(caller="anna", account="admin", model="lite", tokens=900, micro_usd=5000)


@asynccontextmanager
async def a_table():
    """A ledger in a schema of its own, and its table of leases."""
    with server().schema() as schema:
        async with process_on(server().url(schema=schema)) as (ledger, courier):
            yield ledger, LeaseTable(courier, ledger.process)


async def seen_after(ledger, table, term, record):
    ledger.upsert(record)
    await ledger.flush()
    return (await table.look(term)).rows


@on_a_loop
async def test_the_holder_sees_the_row_of_a_call_again_when_its_tokens_or_its_cost_change():
    async with a_table() as (ledger, table):
        term = (await table.look(None)).term
        (new,) = await seen_after(ledger, table, term, NEEDED)
        assert ("admin", "lite", 900, 5000) == (new.account, new.model, new.tokens, new.micro_usd)
        assert await table.grant(term, ["lease"])
        assert await ledger.claim(ClaimSent("lease", "gen.1"))
        answered = replace(NEEDED, state=LeaseState.ANSWERED)
        (row,) = await seen_after(ledger, table, term, answered)
        assert row.answered_ago is not None
        assert row.ended_ago is None

        (row,) = await seen_after(ledger, table, term, replace(answered, tokens=40))
        assert (40, 5000) == (row.tokens, row.micro_usd)
        (row,) = await seen_after(ledger, table, term, replace(answered, tokens=40, micro_usd=7))
        assert (40, 7) == (row.tokens, row.micro_usd)
        over = replace(answered, tokens=40, micro_usd=7, state=LeaseState.OVER)
        assert [] == list(await seen_after(ledger, table, term, replace(answered, tokens=40, micro_usd=7)))
        (row,) = await seen_after(ledger, table, term, over)
        assert (LeaseState.OVER, 40, 7) == (row.state, row.tokens, row.micro_usd)
        assert 0 <= row.ended_ago <= row.answered_ago


@on_a_loop
async def test_a_lost_call_has_ended_and_a_lost_creation_has_not():
    async with a_table() as (ledger, table):
        term = (await table.look(None)).term
        lost = replace(NEEDED, state=LeaseState.LOST, sent_ago=3.0)
        (row,) = await seen_after(ledger, table, term, lost)
        assert row.ended_ago is not None
        assert row.sent_ago >= 3.0
        creation = LeaseRecord(id="other", caller="anna", state=LeaseState.LOST, sent_ago=3.0)
        (row,) = await seen_after(ledger, table, term, creation)
        assert row.ended_ago is None


@on_a_loop
async def test_an_answer_to_a_request_without_admission_is_a_row_without_a_model():
    async with a_table() as (_, table):
        term = (await table.look(None)).term
        await table.account_answered("admin", 2.0)

        (row,) = (await table.look(term)).rows
        assert ("admin", None, LeaseState.OVER) == (row.account, row.model, row.state)
        assert row.sent_ago >= 2.0


class Process:
    """The gates of one process on a schema."""

    def __init__(self, ledger, courier):
        table = LeaseTable(courier, ledger.process)
        limits = {"concurrent_limit": 2, "limits": MeteredLimits({"*": ModelLimits(rpm=3)})}
        self.rows = CallKeeper(lambda creations: self.calls.new_gate(creations))
        self.keeper = Keeper(
            table, lambda: self.gate.new_gate(), on_held=self.ignore, on_lost=lambda: None, calls=self.rows
        )
        creations = {"concurrent_limit": 2, "requests_per_minute": 60}
        self.gate = RemoteGate(table, ledger, self.keeper, tell=self.ignore, **creations)
        self.calls = RemoteMeteredGate(table, ledger, self.rows, tell=self.ignore, **limits)
        self.gate.beside.append(self.calls)
        self.ledger = ledger
        self.tasks = [asyncio.create_task(each.run()) for each in (self.keeper, self.gate)]

    async def ignore(self, *_):
        pass

    async def call(self, name):
        with await self.calls.acquire(DEMAND) as lease:
            await lease.persist(self.ledger, name)
            lease.sent()
            lease.answered()
            lease.proceed()
            lease.measured(10)
            lease.settled(20)

    async def stop(self):
        for each in self.tasks:
            each.cancel()
        await asyncio.wait(self.tasks)


@on_a_loop
async def test_three_processes_on_postgresql_share_a_window_that_outlives_its_holder():
    with server().schema() as schema:
        url = server().url(schema=schema)
        async with process_on(url) as one, process_on(url) as two, process_on(url) as three:
            processes = [Process(*each) for each in (one, two, three)]
            for number, each in enumerate(processes):
                async with asyncio.timeout(20):
                    await each.call(f"gen{number}.1")
            holder = next(each for each in processes if each.keeper.gate)
            await holder.keeper.hand_over()
            left = [each for each in processes if each is not holder]
            async with asyncio.timeout(20):
                while not any(each.rows.gate for each in left):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            present = next(each.rows.gate for each in left if each.rows.gate)
            await asyncio.sleep(0.3)
            seen = present.account_statistics("admin")
            waits = asyncio.create_task(left[0].call("gen9.1"))
            done, _ = await asyncio.wait([waits], timeout=1.0)
            waits.cancel()
            await asyncio.wait([waits])
            for each in processes:
                await each.stop()

    assert (3, 30) == (seen.lanes[0].requests_per_minute.used, seen.lanes[0].tokens_per_minute.used)
    assert (60, 0) == (seen.micro_usd.used, seen.in_flight)
    assert not done
