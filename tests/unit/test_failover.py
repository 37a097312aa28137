"""Processes on a PostgreSQL that has failed over, and may have lost its last commits."""

from math import inf

import pytest

from errors import LedgerDown
from harness.service_process import until
from ledger.claims import ClaimSuspended
from ledger.courier import Courier
from ledger.leases import LeaseTable
from ledger.queries import SqlQueries
from ledger.records import Delivery, KeyRecord
from ledger.shares import PostgresShares
from ledger.writer import SqlLedger, TakenOver
from tests.support.ledgers import running, write
from tests.support.members import TTL, running_cluster
from tests.support.records import generation
from tests.support.wiring import on_a_loop

SETTLED = 3 * TTL
LATE = 2 * TTL


@pytest.fixture
def cluster():
    with running_cluster() as made:
        yield made


def test_commits_may_be_lost_in_a_new_timeline_and_not_after_a_restart(cluster):
    process = cluster.process()
    assert not process.come_back()
    cluster.fail_over()
    assert process.come_back()
    assert not process.come_back()


def test_changes_are_written_again_until_that_has_succeeded(cluster):
    process = cluster.process()
    cluster.fail_over()
    process.backend.disconnect()
    assert process.backend.open()
    process.backend.disconnect()
    assert process.backend.open()
    process.write()
    process.backend.disconnect()
    assert not process.backend.open()


def test_a_process_whose_pooler_passes_its_connection_on_opens_the_ledger_again(cluster):
    process = cluster.process()
    cluster.fail_over()
    with pytest.raises(ConnectionError, match="failed over"):
        process.write()
    assert process.come_back()


def test_nothing_is_sent_before_the_timeline_is_settled(cluster):
    process = cluster.process()
    assert process.backend.unsettled is None
    cluster.fail_over()
    process.come_back()
    assert "has failed over to another server" in process.backend.unsettled
    assert -inf == process.backend.fenced_until

    cluster.advance(SETTLED)
    process.come_back()
    assert process.backend.unsettled is None
    assert -inf < process.backend.fenced_until


def test_no_process_is_taken_over_before_the_timeline_is_settled(cluster):
    first, _ = cluster.process(), cluster.process()
    left = cluster.process()
    left.backend.close()
    cluster.fail_over()
    first.come_back()
    new = cluster.process()
    taken = "SELECT count(*) FROM processes WHERE taken_at IS NOT NULL"

    cluster.live(SETTLED - 1, first, new)
    assert [False, False] == [first.bury(), new.bury()]
    assert [(0,)] == cluster.execute(taken)

    cluster.live(2, first, new)
    assert first.bury()
    assert [(2,)] == cluster.execute(taken)


def test_a_process_that_comes_after_others_have_gone_on_writes_nothing(cluster):
    first, second, third = (cluster.process() for _ in range(3))
    cluster.fail_over()
    first.come_back()
    cluster.live(LATE - 1, first)
    assert second.come_back()
    cluster.live(2, first, second)
    with pytest.raises(TakenOver):
        third.come_back()


def test_a_process_that_is_the_only_one_is_never_late(cluster):
    process = cluster.process()
    cluster.fail_over()
    process.backend.disconnect()
    process.backend.open()
    cluster.advance(10 * SETTLED)
    assert process.come_back()


def test_a_process_whose_row_was_lost_enters_again(cluster):
    process = cluster.process()
    cluster.fail_over()
    cluster.execute("DELETE FROM processes")
    assert process.come_back()
    process.write(generation("a"))
    assert [(process.backend.process,)] == cluster.execute("SELECT id FROM processes WHERE dead_at IS NULL")


def test_a_process_that_was_dead_stays_dead_in_the_new_timeline(cluster):
    first, second = cluster.process(), cluster.process()
    cluster.live(TTL + 2, first)
    assert first.bury()
    cluster.fail_over()
    cluster.execute("UPDATE processes SET dead_at = NULL, taken_at = NULL")

    second.come_back()  # it was frozen, and does not know it
    first.come_back()

    assert second.is_dead()
    assert not first.is_dead()


def test_a_process_that_is_dead_in_the_new_timeline_does_not_come_back(cluster):
    process = cluster.process()
    cluster.fail_over()
    cluster.execute("UPDATE processes SET dead_at = clock_timestamp()")
    with pytest.raises(TakenOver):
        process.come_back()


# ── The ledger's writer


def test_rows_of_the_last_minute_are_written_again_and_claims_wait(cluster):
    process = cluster.process()  # for its settings
    backend = process.backend
    with running(SqlLedger(backend)) as ledger:
        write(ledger, generation("a"), generation("b", state="failed"), KeyRecord("ann", "k", "f", "a", 0.0))
        write(ledger, Delivery("b", "https://hooks.example", 0.0))
        cluster.execute("DELETE FROM generations")
        cluster.execute("DELETE FROM deliveries")
        cluster.execute("DELETE FROM idempotency_keys")
        cluster.fail_over()
        until(lambda: ledger.trouble is not None and "another server" in ledger.trouble)

        queries = SqlQueries(backend.engine)
        assert ["queued", "failed"] == [queries.generation(each).state for each in "ab"]
        assert "a" == queries.key("ann", "k").work_id
        assert "pending" == queries.delivery("b").state
        with pytest.raises(LedgerDown, match="has failed over to another server"):
            claimed(ledger)


@on_a_loop
async def claimed(ledger):
    return await ledger.claim(ClaimSuspended("a"))


# ── The gate's role, and shares


@on_a_loop
async def test_the_role_has_no_holder_before_the_timeline_is_settled():
    with running_cluster() as cluster:
        process = cluster.process()
        courier = Courier(process.backend)
        courier.start()
        try:
            table = LeaseTable(courier, process.backend.process)
            held = await table.look(None)
            assert held.settled_ago > 3600

            cluster.fail_over()
            assert await table.look(held.term) is None  # no process has come back yet
            process.come_back()
            cluster.advance(SETTLED - 1)
            assert await table.look(None) is None
            cluster.advance(2)
            assert 1.0 == (await table.look(None)).settled_ago
        finally:
            await courier.aclose()


@on_a_loop
async def test_a_share_stays_as_it_is_before_the_timeline_is_settled():
    with running_cluster() as cluster:
        process = cluster.process()
        courier = Courier(process.backend)
        courier.start()
        try:
            shares = PostgresShares(courier, process.backend.process, limit=600, arrival=10.0)
            before = await shares.settle(keep=0, wants=100)
            assert 100 == before.places
            cluster.fail_over()
            cluster.execute("DELETE FROM shares")
            process.come_back()

            assert 100 == (await shares.settle(keep=100, wants=50)).places
            assert [(100,)] == cluster.execute("SELECT places FROM shares WHERE process <> ''")
            cluster.advance(SETTLED)
            assert 150 == (await shares.settle(keep=100, wants=50)).places
        finally:
            await courier.aclose()
