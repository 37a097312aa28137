"""Processes that share a ledger in PostgreSQL: which are alive, which are marked dead, and which takes over.

Each test has a clock of its own in the database, which stands still until the test moves it.
"""

import threading
import time
from contextlib import suppress
from dataclasses import replace
from math import inf

import psycopg
import pytest

from harness.service_process import until
from ledger.queries import SqlQueries
from ledger.records import (
    AttemptRecord,
    BatchRecord,
    Delivery,
    KeyRecord,
    LeaseRecord,
    LeaseState,
    PlanRecord,
)
from ledger.writer import TakenOver
from tests.support.members import TTL, running_cluster
from tests.support.records import generation

AN_ATTEMPT = AttemptRecord(generation_id="a", number=1, model="flux-dev", open=True)


@pytest.fixture
def cluster():
    with running_cluster() as made:
        yield made


def test_processes_write_side_by_side(cluster):
    first, second = cluster.process(), cluster.process()

    first.write(generation("a"))
    second.write(generation("b"))

    assert [("a",), ("b",)] == cluster.execute("SELECT id FROM generations ORDER BY id")


def test_a_process_that_may_only_be_alone_waits_for_the_end_of_the_others(cluster):
    other = cluster.process()

    with pytest.raises(ConnectionError, match="another process has it"):
        cluster.process(alone=True)
    other.backend.close()

    cluster.process(alone=True)


def test_of_overdue_processes_each_is_taken_over_once_and_writes_nothing_more(cluster):
    first, second, third, fourth = (cluster.process() for _ in range(4))
    cluster.live(2 * TTL, third, fourth)

    assert [True, False, False] == [third.bury(), fourth.bury(), third.bury()]

    assert [True, True, False, False] == [each.is_dead() for each in (first, second, third, fourth)]


def test_a_process_is_alive_until_its_ttl_is_over(cluster):
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, first, second)
    cluster.live(TTL, second)
    assert not second.bury()

    cluster.live(1, second)

    assert second.bury()


def test_a_process_that_has_just_entered_buries_no_other(cluster):
    cluster.process()
    cluster.advance(2 * TTL)
    second = cluster.process()
    cluster.live(TTL, second)
    assert not second.bury()

    cluster.live(1, second)

    assert second.bury()


def test_the_first_process_that_is_back_after_an_outage_does_not_bury_the_others(cluster):
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, first, second)
    cluster.advance(2 * TTL)

    assert not first.bury()
    first.write()
    assert not first.bury()
    second.write()
    cluster.live(2 * TTL, first, second)

    assert not first.bury()
    assert [False, False] == [first.is_dead(), second.is_dead()]


def test_after_a_start_of_the_server_processes_have_twice_the_ttl_to_come_back(cluster):
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, first, second)
    cluster.execute("UPDATE clock SET started_at = at")
    cluster.live(2 * TTL, second)
    assert not second.bury()

    cluster.live(1, second)

    assert second.bury()
    assert first.is_dead()


def test_a_process_that_leaves_is_taken_over_at_once(cluster):
    first, second = cluster.process(), cluster.process()

    first.backend.close()

    assert second.bury()
    assert not second.bury()


def test_a_process_that_opens_the_ledger_takes_over_from_those_that_have_left(cluster):
    first, second = cluster.process(), cluster.process()
    first.backend.close()

    cluster.process()

    assert not second.bury()


# ── Races


def test_a_transaction_that_began_in_time_keeps_its_process_alive(cluster):
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, second)
    with first.backend.transaction():
        assert not second.bury()

    assert not second.bury()
    assert not first.is_dead()


def test_a_transaction_that_begins_during_the_burial_of_its_process_fails(cluster):
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, second)
    outcome = []
    late = threading.Thread(target=lambda: outcome.append(first.is_dead()))
    with second.transaction() as cursor:
        assert second.backend.bury(cursor)
        late.start()
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        until(lambda: cluster.execute(waiting))
    late.join()

    assert [True] == outcome


def test_a_process_is_not_marked_dead_while_it_takes_over_itself(cluster):
    first, second, third = (cluster.process() for _ in range(3))
    first.backend.close()
    cluster.live(2 * TTL, second, third)
    with second.transaction() as cursor:
        assert second.backend.bury(cursor)
        cluster.live(TTL + 1, third)
        assert not third.bury()

    assert third.bury()
    assert second.is_dead()


def test_a_session_that_holds_the_lock_of_an_overdue_process_is_ended(cluster):
    """A host that was lost in the middle of a transaction holds its locks."""
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, second)
    with suppress(psycopg.OperationalError), first.backend.transaction():
        assert not second.bury()
        cluster.live(TTL, second)
        assert not second.bury()  # but it ends the session

        until(second.bury)
    assert first.is_marked_dead


# ── Its own state


def test_what_a_process_may_send_ends_before_others_can_take_over(cluster):
    began = time.monotonic()
    process = cluster.process()
    assert began < process.backend.fenced_until < time.monotonic() + TTL

    process.backend.close()

    assert -inf == process.backend.fenced_until


def test_a_process_that_was_taken_over_may_send_nothing(cluster):
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, second)
    second.bury()
    assert first.is_dead()

    assert -inf == first.backend.fenced_until


@pytest.mark.parametrize("row", ["is marked", "is gone"])
def test_a_process_that_connects_again_after_it_was_taken_over_is_refused(cluster, row):
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, second)
    second.bury()
    if row == "is gone":
        cluster.execute("DELETE FROM processes WHERE id = %s", first.backend.process)
    first.backend.disconnect()

    with pytest.raises(TakenOver):
        first.backend.open()


def test_a_process_that_connects_again_in_time_goes_on_and_is_not_steady_at_first(cluster):
    first, second = cluster.process(), cluster.process()
    cluster.live(2 * TTL, second)
    second.backend.disconnect()
    second.backend.open()
    second.write()

    assert not second.bury()
    assert not first.is_dead()


# ── Processes that do not fit


@pytest.mark.parametrize("different", [{"upstream": "https://b.test"}, {"simulated": True}])
def test_a_process_with_another_upstream_is_refused_until_the_others_have_ended(cluster, different):
    facts = {"upstream": "https://a.test", "simulated": False}
    first = cluster.process(**facts)

    with pytest.raises(ConnectionError, match="has another REPLICATE_BASE_URL or REPLICATE_SIMULATE"):
        cluster.process(**facts | different)
    cluster.advance(TTL + 1)

    second = cluster.process(**facts | different)
    cluster.live(2 * TTL, second)
    assert second.bury()
    assert first.is_dead()


def test_a_process_with_another_token_enters_and_takes_over_and_no_token_is_stored(cluster):
    first, second = cluster.process(token="r8_one"), cluster.process(token="r8_two")
    first.backend.close()

    assert second.bury()
    assert "r8_" not in str(cluster.execute("SELECT * FROM processes"))


def test_the_work_of_a_process_with_a_token_is_left_to_others_that_have_one(cluster):
    first, poor, rich = cluster.process(token="r8_one"), cluster.process(), cluster.process(token="r8_one")
    first.backend.close()

    assert [False, True] == [poor.bury(), rich.bury()]


def test_the_work_of_a_process_with_a_token_is_taken_if_no_other_has_one(cluster):
    first, poor = cluster.process(token="r8_one"), cluster.process()
    first.backend.close()

    assert poor.bury()


# ── What a dead process leaves


def batch(batch_id, **facts):
    usual = {
        "caller_id": "admin", "total": 1, "request": "{}", "max_concurrent": None, "max_cost_usd": None,
        "webhook": None, "plan": PlanRecord("queue", 0.0, 0.0, 0), "address": "", "simulated": True,
        "accepted_at": 1.0,
    }  # fmt: skip
    return BatchRecord(id=batch_id, **usual | facts)


HEIR = {"token": "r8_one", "simulated": True}


@pytest.fixture
def left(cluster):
    """Writes records in a process that then dies, and is buried by another one, the heir."""
    dead, heir = cluster.process(**HEIR), cluster.process(**HEIR)

    def bury(*records):
        dead.write(*records)
        dead.backend.close()
        assert heir.bury()
        names = {heir.backend.process: "heir", dead.backend.process: "dead"}

        def owners(table) -> dict[str, str | None]:
            rows = cluster.execute(f"SELECT id, process FROM {table} ORDER BY id")
            return {row_id: names.get(process) for row_id, process in rows}

        return owners

    return bury


def test_work_of_the_admin_goes_on_in_the_heir_and_that_of_users_waits_for_them(cluster, left):
    owners = left(
        generation("a"),
        generation("b", state="running", caller_id="user_1"),
        generation("c", state="failed", ended_at=2.0),
        generation("d", state="failed", ended_at=2.0, caller_id="user_1"),
        batch("batch_a"),
        batch("batch_b", caller_id="user_1"),
        generation("e", batch_id="batch_b", position=0, caller_id="user_1"),
    )

    assert {"a": "heir", "b": None, "c": "dead", "d": "dead", "e": None} == owners("generations")
    assert {"batch_a": "heir", "batch_b": None} == owners("batches")
    suspended = "SELECT id FROM generations WHERE suspended_at IS NOT NULL ORDER BY id"
    assert [("b",), ("e",)] == cluster.execute(suspended)


def test_only_the_heir_finds_what_it_has_to_resume_until_it_has_written_it(cluster):
    dead, heir, other = (cluster.process(**HEIR) for _ in range(3))
    dead.write(generation("a"), batch("batch_a"), Delivery("c", "https://a.test", 1.0))
    heir.write(generation("b"), batch("batch_b"), Delivery("d", "https://a.test", 1.0))
    dead.backend.close()
    heir.bury()
    queries = SqlQueries(heir.backend.engine)

    def found(process):
        every = (queries.unfinished, queries.unfinished_batches, queries.pending_deliveries)
        return [each.id for query in every for each in query(process.backend.process)]

    assert ["a", "batch_a", "c"] == found(heir)
    assert [] == found(other)
    heir.write(generation("a"), batch("batch_a"), Delivery("c", "https://a.test", 1.0))
    assert [] == found(heir)


def test_a_batch_whose_items_have_all_ended_is_ended_by_the_heir(left):
    owners = left(
        batch("batch_a", caller_id="user_1"),
        generation("a", batch_id="batch_a", position=0, state="failed", ended_at=2.0, caller_id="user_1"),
    )

    assert {"batch_a": "heir"} == owners("batches")


def test_work_of_the_other_mode_and_cancelled_work_is_ended_by_the_heir(left):
    owners = left(
        generation("a", caller_id="user_1", simulated=False),
        generation("b", caller_id="user_1", cancelled=True),
        generation("c", caller_id="user_1", cancelled=True, state="running"),
        batch("batch_a", caller_id="user_1", simulated=False),
        generation("d", batch_id="batch_a", position=0, caller_id="user_1", simulated=False),
    )

    assert {"a": "heir", "b": "heir", "c": None, "d": "heir"} == owners("generations")
    assert {"batch_a": "heir"} == owners("batches")


def test_deliveries_that_are_pending_go_on_in_the_heir(left):
    owners = left(
        Delivery("a", "https://a.test", 1.0),
        Delivery("b", "https://a.test", 1.0, state="delivered"),
    )

    assert {"a": "heir", "b": "dead"} == owners("deliveries")


def test_a_key_whose_work_was_not_accepted_is_free_again(cluster, left):
    now = cluster.execute("SELECT extract(epoch FROM at)::float FROM clock")[0][0]
    left(
        KeyRecord("admin", "accepted", "f", "a", now),
        KeyRecord("admin", "of a batch", "f", "batch_a", now),
        KeyRecord("admin", "not accepted", "f", "b", now),
        generation("a"),
        batch("batch_a"),
    )

    keys = 'SELECT "key" FROM idempotency_keys ORDER BY "key"'
    assert [("accepted",), ("of a batch",)] == cluster.execute(keys)


def test_leases_that_may_have_been_sent_stay_and_the_others_are_gone(cluster):
    dead, heir = cluster.process(), cluster.process()
    states = (LeaseState.WANTED, LeaseState.SENT, LeaseState.ANSWERED, LeaseState.OVER)
    dead.write(
        generation("a", state="running", attempts=(AN_ATTEMPT,)),
        *(LeaseRecord(id=state.name, caller="admin", state=state, reference="a.1") for state in states),
    )
    dead.backend.close()
    cluster.execute("UPDATE leases SET seen = state")
    assert heir.bury()
    leases = (
        "SELECT id, state, process IS NULL, left_at IS NOT NULL FROM leases WHERE seen <> state ORDER BY id"
    )
    assert [
        ("ANSWERED", LeaseState.ANSWERED, True, True),
        ("OVER", LeaseState.OVER, True, True),
        ("SENT", LeaseState.SENT, True, True),
        ("WANTED", LeaseState.GONE, False, False),
    ] == cluster.execute(leases)


def test_a_lease_whose_attempt_has_ended_is_over_when_its_process_dies(cluster):
    dead, heir = cluster.process(), cluster.process()
    generations = {
        "ended": generation("ended", state="canceled", ended_at=2.0, caller_id="user_1"),
        "refused": generation("refused", state="queued", caller_id="admin"),
        "running": generation("running", state="running", caller_id="user_1"),
    }
    for name, each in generations.items():
        dead.write(
            replace(each, attempts=(replace(AN_ATTEMPT, generation_id=name, open=name != "refused"),)),
            LeaseRecord(id=name, caller=each.caller_id, state=LeaseState.ANSWERED, reference=f"{name}.1"),
        )
    dead.backend.close()
    assert heir.bury()

    over, answered = LeaseState.OVER, LeaseState.ANSWERED
    assert [("ended", over), ("refused", over), ("running", answered)] == cluster.execute(
        "SELECT id, state FROM leases WHERE seen <> state AND process IS NULL ORDER BY id"
    )


def test_the_gate_and_the_letters_of_the_dead_are_free(cluster):
    dead, heir = cluster.process(), cluster.process()
    cluster.execute(
        "INSERT INTO roles (name, holder, term, until) VALUES ('gate', %s, 1, now())", dead.backend.process
    )
    letter = "INSERT INTO letters (id, sender, recipient, kind, body) VALUES (%s, 'x', %s, 'k', '')"
    cluster.execute(letter, "a", dead.backend.process)
    cluster.execute(letter, "b", heir.backend.process)
    dead.backend.close()
    heir.bury()

    assert [(None,)] == cluster.execute("SELECT holder FROM roles")
    assert [("b",)] == cluster.execute("SELECT id FROM letters")


def test_without_a_server_token_work_of_the_admin_waits_for_a_process_that_has_one(cluster):
    dead, poor = cluster.process(**HEIR), cluster.process(simulated=True)
    dead.write(generation("a"))
    dead.backend.close()
    assert poor.bury()
    owner = "SELECT process FROM generations"
    assert [(None,)] == cluster.execute(owner)

    rich = cluster.process(**HEIR)

    assert [(rich.backend.process,)] == cluster.execute(owner)


def test_what_a_process_wrote_just_before_it_was_marked_dead_is_taken_over(cluster):
    dead, heir = cluster.process(**HEIR), cluster.process(**HEIR)
    cluster.live(2 * TTL, heir)
    with dead.backend.transaction() as cursor:
        cursor.execute("SELECT 1")
        assert not heir.bury()
    dead.write(generation("a"))
    cluster.live(2 * TTL, heir)

    assert heir.bury()

    assert [(heir.backend.process,)] == cluster.execute("SELECT process FROM generations")
    with pytest.raises(TakenOver):
        dead.write(generation("a", state="running"))  # too late
    assert [("queued",)] == cluster.execute("SELECT state FROM generations")
