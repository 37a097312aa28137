"""The courier: short fenced transactions for the loop, and notices between processes, on PostgreSQL."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import psycopg
import pytest

from errors import LedgerDown
from harness.postgres import server
from ledger.claims import ClaimSent
from ledger.courier import Courier
from ledger.post import LEASES
from ledger.postgres import PostgresBackend
from ledger.records import LeaseRecord, MetaRecord
from ledger.writer import SqlLedger
from tests.support.ledgers import running
from tests.support.pooler import pooled
from tests.support.wiring import on_a_loop, until

BEAT = 0.05


@pytest.fixture
def schema():
    with server().schema() as name:
        server().execute(f"CREATE TABLE {name}.notes (note text)")
        yield name


@pytest.fixture
def url(schema):
    return server().url(schema=schema)


@asynccontextmanager
async def courier_of(url, *, own_url=None, patience=5.0):
    """A running ledger and its courier, which connects to `own_url`."""
    backend = PostgresBackend(url)
    with running(SqlLedger(backend)):
        if own_url is not None:
            connections = PostgresBackend(own_url)
            backend.connect = connections.connect
        courier = Courier(backend, patience=patience, beat=BEAT)
        courier.start()
        try:
            yield courier, backend
        finally:
            await courier.aclose()


def add(note):
    def added(cursor):
        cursor.execute("INSERT INTO notes VALUES (%s)", (note,))
        return cursor.rowcount

    return added


def notes(schema):
    return sorted(note for (note,) in server().execute(f"SELECT note FROM {schema}.notes"))


def pid(cursor):
    return cursor.execute("SELECT pg_backend_pid()").fetchone()[0]


def listeners(schema):
    """The server's processes for the connections that listen."""
    rows = server().execute(
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query LIKE 'UNLISTEN%'"
    )
    return [each for (each,) in rows]


# ── Transactions


@on_a_loop
async def test_a_transaction_returns_the_result_of_its_function_once_it_is_committed(url, schema):
    async with courier_of(url) as (courier, _):
        assert 1 == await courier.run(add("a"))
        assert ["a"] == notes(schema)


@on_a_loop
async def test_a_function_that_raises_leaves_nothing_and_spoils_no_later_transaction(url, schema):
    def fails(cursor):
        add("a")(cursor)
        raise KeyError("bug")

    async with courier_of(url) as (courier, _):
        with pytest.raises(KeyError, match="bug"):
            await courier.run(fails)
        with pytest.raises(psycopg.errors.DivisionByZero):
            await courier.run(lambda cursor: cursor.execute("SELECT 1 / 0"))
        await courier.run(add("b"))

        assert ["b"] == notes(schema)


@on_a_loop
async def test_a_process_that_was_marked_dead_changes_nothing(url, schema):
    async with courier_of(url) as (courier, _):
        await courier.run(add("a"))
        server().execute(f"UPDATE {schema}.processes SET dead_at = now()")

        for _attempt in range(2):  # on the old connection, and on a new one
            with pytest.raises(LedgerDown, match="silent for too long"):
                await courier.run(add("b"))

        assert ["a"] == notes(schema)


@on_a_loop
async def test_a_transaction_after_a_lost_connection_takes_another_one(url, schema):
    async with courier_of(url) as (courier, _):
        server().execute(f"SELECT pg_terminate_backend({await courier.run(pid)}, 1000)")

        await courier.run(add("a"))

        assert ["a"] == notes(schema)


@on_a_loop
async def test_a_new_connection_waits_for_the_late_commit_of_the_one_before(schema):
    def falls_silent(cursor):
        add("late")(cursor)
        pooler.silence()

    with pooled(server()) as pooler:
        through = server().url(schema=schema, host="127.0.0.1", port=str(pooler.port))
        async with courier_of(server().url(schema=schema), own_url=through, patience=0.5) as (courier, _):
            with pytest.raises(LedgerDown, match="has not answered"):
                await courier.run(falls_silent)
            after = asyncio.create_task(
                courier.run(lambda cursor: cursor.execute("SELECT note FROM notes").fetchall())
            )
            await asyncio.sleep(0.05)
            assert not after.done()
            pooler.resume()

            assert [("late",)] == await after


@on_a_loop
async def test_a_taker_waits_for_an_open_transaction_and_the_writer_does_not(url, schema):
    def seen(cursor):
        add("a")(cursor)
        backend.write({})  # the writer's fence
        with pytest.raises(psycopg.errors.LockNotAvailable):
            server().execute(f"SELECT 1 FROM {schema}.processes FOR UPDATE NOWAIT")

    async with courier_of(url) as (courier, backend):
        await courier.run(seen)


@on_a_loop
async def test_only_a_durable_transaction_waits_for_the_disk(url):
    def setting(cursor):
        return cursor.execute("SHOW synchronous_commit").fetchone()[0]

    async with courier_of(url) as (courier, _):
        assert ("on", "off") == (await courier.run(setting), await courier.run(setting, durable=False))


@on_a_loop
async def test_a_courier_before_the_ledger_is_open_says_so():
    backend = PostgresBackend(server().url())
    courier = Courier(backend)
    courier.start()
    with pytest.raises(LedgerDown, match="not open yet"):
        await courier.run(pid)
    await courier.aclose()


# ── Notices


@on_a_loop
async def test_a_notice_reaches_the_process_that_listens_to_its_topic_and_no_other(url):
    calls = []
    async with courier_of(url) as (courier, _):
        for topic in ("letters", "leases"):
            courier.listen(topic, lambda topic=topic: calls.append(topic))
        await until(lambda: courier.notices_work and sorted(calls) == ["leases", "letters"])
        calls.clear()

        await courier.run(lambda _: courier.notify("letters"))
        await until(lambda: calls == ["letters"])
        courier.unlisten("letters")
        await courier.run(lambda _: courier.notify("letters", "leases"))
        await until(lambda: calls == ["letters", "leases"])


@on_a_loop
async def test_a_transaction_that_fails_gives_no_notice(url):
    calls = []

    def fails(_):
        courier.notify("news")
        raise KeyError

    async with courier_of(url) as (courier, _):
        courier.listen("news", lambda: calls.append("news"))
        courier.listen("end", lambda: calls.append("end"))
        await until(lambda: courier.notices_work and len(calls) == 2)
        calls.clear()
        with pytest.raises(KeyError):
            await courier.run(fails)
        await courier.run(lambda _: courier.notify("end"))
        await until(lambda: bool(calls))

        assert ["end"] == calls


@on_a_loop
async def test_two_ledgers_in_one_database_get_no_notices_of_each_other():
    calls = []
    with server().schema() as one, server().schema() as other:
        async with (
            courier_of(server().url(schema=one)) as (courier, _),
            courier_of(server().url(schema=other)) as (stranger, _),
        ):
            courier.listen("news", lambda: calls.append("news"))
            courier.listen("end", lambda: calls.append("end"))
            await until(lambda: courier.notices_work and len(calls) == 2)
            calls.clear()
            await stranger.run(lambda _: stranger.notify("news"))
            await courier.run(lambda _: courier.notify("end"))
            await until(lambda: bool(calls))

    assert ["end"] == calls


@on_a_loop
async def test_a_written_lease_gives_notice_and_other_records_give_none(url):
    calls = []
    async with courier_of(url) as (courier, backend):
        courier.listen(LEASES, lambda: calls.append("leases"))
        courier.listen("end", lambda: calls.append("end"))
        await until(lambda: courier.notices_work and len(calls) == 2)
        calls.clear()
        meta = MetaRecord("a", b"b")
        await courier.run(lambda _: backend.write({(MetaRecord, ("a",)): meta}))
        await courier.run(lambda _: courier.notify("end"))
        await until(lambda: calls == ["end"])
        lease = LeaseRecord(id="a", process=backend.process, caller="admin")
        await courier.run(lambda _: backend.write({(LeaseRecord, ("a",)): lease}))
        await until(lambda: calls == ["end", "leases"])
        calls.clear()
        await courier.run(lambda _: backend.write({}, [ClaimSent("a", "gen.1")]))
        await until(lambda: calls == ["leases"])


@on_a_loop
async def test_the_listener_replaces_a_half_open_connection_and_calls_all_functions_again(url, schema):
    calls = []
    async with courier_of(url, patience=0.5) as (courier, _):
        courier.listen("news", lambda: calls.append("news"))
        await until(lambda: courier.notices_work and calls == ["news"])
        stopped = listeners(schema)
        assert 1 == len(stopped)
        try:
            os.kill(stopped[0], signal.SIGSTOP)
            await until(lambda: not courier.notices_work)
            await until(lambda: courier.notices_work and len(calls) >= 2)
        finally:
            os.kill(stopped[0], signal.SIGCONT)


@on_a_loop
async def test_notices_do_not_work_through_a_pooler_and_transactions_do(schema):
    with pooled(server()) as pooler:
        url = server().url(schema=schema, host="127.0.0.1", port=str(pooler.port))
        async with courier_of(url) as (courier, _):
            called = asyncio.Event()
            courier.listen("news", called.set)
            await called.wait()
            await courier.run(add("a"))
            await asyncio.sleep(5 * BEAT)

            assert not courier.notices_work
            assert ["a"] == notes(schema)
