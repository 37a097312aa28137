"""The table of shares in PostgreSQL, with a clock that the test moves."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from admission.shares import Answer
from harness.postgres import server
from ledger.shares import PostgresShares
from tests.support.couriers import process_on
from tests.support.wiring import on_a_loop

LIMIT, ARRIVAL = 120, 10.0
MOST = 118
"""The most places that processes without one can get: a block is left."""


@pytest.fixture
def schema():
    with server().schema() as name:
        server().execute(
            f"CREATE TABLE {name}.clock AS SELECT now() AS at",
            f"CREATE FUNCTION {name}.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE"
            f" AS 'SELECT at FROM {name}.clock'",
        )
        yield name


@asynccontextmanager
async def shares(schema, *, processes=2):
    """The shares of processes on one ledger, and their ids."""
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(processes):
            process = process_on(server().url(schema=f"{schema},pg_catalog"))
            ledger, courier = await stack.enter_async_context(process)
            found.append(PostgresShares(courier, ledger.process, limit=LIMIT, arrival=ARRIVAL))
        yield found


def advance(schema, seconds):
    server().execute(f"UPDATE {schema}.clock SET at = at + interval '{seconds} s'")


@on_a_loop
async def test_two_processes_that_ask_at_once_never_hold_more_than_the_limit(schema):
    async with shares(schema) as both:
        held = [0, 0]

        async def grow(number):
            for _ in range(10):
                held[number] = (await both[number].settle(keep=held[number], wants=15)).places

        await asyncio.gather(grow(0), grow(1))
        rows = server().execute(f"SELECT sum(places) FROM {schema}.shares")

    assert [(sum(held),)] == rows
    assert 110 <= sum(held) <= LIMIT


@on_a_loop
async def test_a_dead_process_holds_its_share_until_its_requests_no_longer_count(schema):
    async with shares(schema) as (first, second):
        await first.settle(keep=0, wants=LIMIT)
        server().execute(
            f"UPDATE {schema}.processes SET dead_at = until, until = {schema}.clock_timestamp() + interval '5 s'"
            f" WHERE id = (SELECT process FROM {schema}.shares WHERE places > 0)"
        )
        advance(schema, 5 + 60 + ARRIVAL - 0.1)
        before = await second.settle(keep=0, wants=LIMIT)
        advance(schema, 0.2)

        assert (0, MOST) == (before.places, (await second.settle(keep=0, wants=LIMIT)).places)


@on_a_loop
async def test_a_process_that_lacks_places_makes_the_other_one_give_back_its_surplus(schema):
    async with shares(schema) as (first, second):
        await first.settle(keep=0, wants=LIMIT)

        assert Answer(0, LIMIT) == await second.settle(keep=0, wants=2)
        assert Answer(MOST, LIMIT // 2) == await first.settle(keep=LIMIT, wants=0)
        assert Answer(LIMIT // 2, LIMIT // 2) == await first.settle(keep=LIMIT // 2, wants=0)
        assert Answer(2, LIMIT) == await second.settle(keep=0, wants=2)
