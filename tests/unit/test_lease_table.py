"""The rows of the shared gate in PostgreSQL, as their holder sees them."""

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import psycopg
import pytest

from errors import LedgerDown
from harness.postgres import server
from ledger.claims import ClaimSent
from ledger.leases import LeaseTable
from ledger.records import LeaseRecord, LeaseState
from tests.support.couriers import process_on
from tests.support.wiring import on_a_loop

ID = "lease"


@asynccontextmanager
async def a_table():
    """A schema, a ledger in it, its courier, and its table of leases."""
    with server().schema() as schema:
        async with process_on(server().url(schema=schema)) as (ledger, courier):
            yield schema, ledger, courier, LeaseTable(courier, ledger.process)


async def waits_for_a_lock(connection):
    query = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    pid = connection.info.backend_pid
    async with asyncio.timeout(30):
        while not server().execute(query.replace("%s", str(pid)))[0][0]:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("does", ["writes", "grants"])
@on_a_loop
async def test_leases_are_locked_in_the_order_of_their_ids(does):
    """Otherwise a process that writes some and the holder that grants them would wait for each other."""
    async with a_table() as (schema, ledger, _, table):
        held = await table.look(None)
        for each in "zma":
            ledger.upsert(LeaseRecord(id=each, caller="anna"))
        await ledger.flush()
        with psycopg.connect(server().url(schema=schema)) as other:
            other.execute("SELECT FROM leases WHERE id = 'm' FOR UPDATE")
            if does == "writes":
                for each in "zma":
                    ledger.upsert(LeaseRecord(id=each, caller="anna", state=LeaseState.GONE))
            work = ledger.flush() if does == "writes" else table.grant(held.term, ["z", "m", "a"])
            waiting = asyncio.create_task(work)
            await waits_for_a_lock(other)
            free = other.execute("SELECT id FROM leases FOR UPDATE SKIP LOCKED").fetchall()
            other.rollback()
        with suppress(LedgerDown):  # on a slow machine it has not waited for so long
            await waiting
        assert [("m",), ("z",)] == sorted(free)


@on_a_loop
async def test_the_holder_sees_all_leases_again_after_the_server_may_have_lost_its_grants():
    async with a_table() as (schema, ledger, courier, table):
        first = await table.look(None)
        ledger.upsert(LeaseRecord(id=ID, caller="anna"))
        await ledger.flush()
        seen = await table.look(first.term)
        assert [ID] == [each.id for each in seen.rows]
        assert await table.grant(first.term, [ID])
        assert not (await table.look(first.term)).rows

        own = await courier.run(lambda cursor: cursor.connection.info.backend_pid)
        server().execute(
            f"SELECT pg_terminate_backend({own}, 1000)",
            f"UPDATE {schema}.leases SET granted = false",
        )
        after = await table.look(first.term)

        assert first.term + 1 == after.term
        assert [replace(seen.rows[0], wanted_ago=0.0)] == [
            replace(each, wanted_ago=0.0) for each in after.rows
        ]
        assert not await table.grant(first.term, [ID])
        assert await table.grant(after.term, [ID])
        assert {ID} == await table.granted()


@on_a_loop
async def test_the_row_of_a_sent_lease_says_how_long_its_prediction_may_run():
    async with a_table() as (_, ledger, _, table):
        held = await table.look(None)
        ledger.upsert(LeaseRecord(id=ID, caller="anna"))
        await ledger.flush()
        assert await table.grant(held.term, [ID])
        assert await ledger.claim(ClaimSent(ID, "gen.1", 30.0))

        (sent,) = (await table.look(held.term)).rows
        assert (LeaseState.SENT, "gen.1", 30.0) == (sent.state, sent.reference, sent.runs_for)


@on_a_loop
async def test_the_holder_sees_a_lease_again_once_its_prediction_has_started():
    async with a_table() as (_, ledger, _, table):
        held = await table.look(None)
        wanted = LeaseRecord(id=ID, caller="anna", boots="v1")
        ledger.upsert(wanted)
        await ledger.flush()
        (new,) = (await table.look(held.term)).rows
        assert ("v1", False) == (new.boots, new.started)
        assert await table.grant(held.term, [ID])
        answered = replace(wanted, state=LeaseState.ANSWERED)
        ledger.upsert(answered)
        await ledger.flush()
        await table.look(held.term)

        shown = []
        for started in (True, True, False):  # a row may be written again
            ledger.upsert(replace(answered, started=started))
            await ledger.flush()
            rows = (await table.look(held.term)).rows
            shown.append([(each.boots, each.started) for each in rows])

        assert [[("v1", True)], [], []] == shown
