"""The contract of claims: of all processes that want to make a change, one makes it, and each learns whether it did."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from harness.postgres import server
from ledger import Ledger, Queries
from ledger.access_records import LostCallRecord
from ledger.claims import (
    Claim,
    ClaimBatch,
    ClaimBudget,
    ClaimCancelled,
    ClaimKey,
    ClaimKeys,
    ClaimLookup,
    ClaimSuspended,
    EndLookup,
    ReplaceValue,
    TakeLostCall,
    WaitsElsewhere,
)
from ledger.memory import MemoryLedger
from ledger.model_records import LookupRecord, ModelRecord
from ledger.money_records import BudgetRecord
from ledger.postgres import PostgresBackend
from ledger.queries import SqlQueries
from ledger.records import BatchRecord, KeyRecord, PlanRecord
from ledger.sqlite import SqliteBackend
from ledger.writer import SqlLedger
from tests.support.ledgers import running, write
from tests.support.records import generation


@dataclass(frozen=True)
class Shared:
    """A ledger as two processes have it, or the only one if it cannot be shared."""

    one: Ledger
    other: Ledger
    queries: Queries

    def claim(self, *claims: tuple[Ledger, Claim]) -> list[bool]:
        """Make these claims at the same moment."""

        async def story():
            return await asyncio.gather(*(ledger.claim(claim) for ledger, claim in claims))

        return asyncio.run(story())


@contextmanager
def in_memory() -> Iterator[Shared]:
    one = MemoryLedger(process="one")
    yield Shared(one, MemoryLedger(one.rows, process="other"), one)


@contextmanager
def on_sqlite() -> Iterator[Shared]:
    with tempfile.TemporaryDirectory() as directory:
        ledger = SqlLedger(SqliteBackend(f"sqlite:///{Path(directory) / 'ledger.db'}"))
        with running(ledger):
            yield Shared(ledger, ledger, SqlQueries(ledger.engine))


@contextmanager
def on_postgres() -> Iterator[Shared]:
    with server().schema() as schema, ExitStack() as stack:
        one, other = (
            stack.enter_context(running(SqlLedger(PostgresBackend(server().url(schema=schema), alone=False))))
            for _ in range(2)
        )
        yield Shared(one, other, SqlQueries(one.engine))


@pytest.fixture(params=[in_memory, on_sqlite, on_postgres])
def shared(request):
    with request.param() as opened:
        yield opened


KEY = KeyRecord("anna", "k", "f", "gen_1", 1.0)
BATCH = BatchRecord(
    id="batch_1", caller_id="anna", total=1, request="{}", max_concurrent=None, max_cost_usd=None, webhook=None,
    plan=PlanRecord("queue", 0.0, 0.0, 0), address="", simulated=True, accepted_at=1.0,
)  # fmt: skip


def test_one_of_two_claims_of_a_key_inserts_it(shared):
    mine, theirs = replace(KEY, work_id="gen_1"), replace(KEY, work_id="gen_2")

    made = shared.claim((shared.one, ClaimKey(mine)), (shared.other, ClaimKey(theirs)))

    assert 1 == sum(made)
    kept = shared.queries.key("anna", "k")
    assert kept.work_id == ("gen_1" if made[0] else "gen_2")
    assert kept.process == (shared.one if made[0] else shared.other).process


def test_a_key_may_be_claimed_again_for_the_same_work_only(shared):
    assert [True] == shared.claim((shared.one, ClaimKey(KEY)))

    assert [True] == shared.claim((shared.one, ClaimKey(KEY)))
    assert [False] == shared.claim((shared.other, ClaimKey(replace(KEY, work_id="gen_2"))))
    assert "gen_1" == shared.queries.key("anna", "k").work_id


def test_a_claim_comes_after_the_deletion_of_the_key_of_other_work_before_it(shared):
    write(shared.one, KEY)

    async def story():
        shared.other.delete(KeyRecord, "anna", "k", "gen_1")
        return await shared.other.claim(ClaimKey(replace(KEY, work_id="gen_2")))

    assert asyncio.run(story())
    assert "gen_2" == shared.queries.key("anna", "k").work_id


def test_a_deletion_leaves_the_key_of_other_work(shared):
    shared.claim((shared.one, ClaimKey(KEY)))

    async def story():
        shared.other.delete(KeyRecord, "anna", "k", "gen_2")
        await shared.other.flush()

    asyncio.run(story())
    assert "gen_1" == shared.queries.key("anna", "k").work_id


def test_a_written_key_replaces_one_of_other_work(shared):
    write(shared.one, KEY)
    write(shared.one, replace(KEY, work_id="gen_2", fingerprint="g"))

    kept = shared.queries.key("anna", "k")
    assert ("gen_2", "g") == (kept.work_id, kept.fingerprint)


@pytest.mark.parametrize("work_id", ["batch_1", "a"])
def test_one_of_two_claims_of_suspended_work_takes_it_over(shared, work_id):
    write(
        shared.one,
        generation("a", batch_id="batch_1", suspended_at=5.0),
        generation("b", batch_id="batch_1", suspended_at=6.0),
        generation("c", suspended_at=7.0),
        generation("d", batch_id="batch_1", state="failed", ended_at=2.0),
    )

    made = shared.claim((shared.one, ClaimSuspended(work_id)), (shared.other, ClaimSuspended(work_id)))

    assert 1 == sum(made)
    winner = (shared.one if made[0] else shared.other).process
    taken = {"a", "b"} if work_id == "batch_1" else {"a"}
    for name in "abc":
        found = shared.queries.generation(name)
        if name in taken:
            assert (None, winner) == (found.suspended_at, found.process)
        else:
            assert (True, None) == (found.suspended_at is not None, found.process)
    assert [False] == shared.claim((shared.other, ClaimSuspended(work_id)))


def test_work_that_has_ended_or_does_not_exist_is_not_taken_over(shared):
    write(shared.one, generation("a", state="failed", ended_at=2.0), generation("b"))

    claims = [(shared.other, ClaimSuspended(each)) for each in "abx"]
    assert [False] * 3 == shared.claim(*claims)


@pytest.mark.parametrize("work_id", ["batch_1", "a"])
def test_a_cancellation_stays_although_the_process_of_the_work_writes_it_again(shared, work_id):
    running_here = generation("a", batch_id="batch_1"), generation("b", batch_id="batch_1"), generation("c")
    ended = generation("d", batch_id="batch_1", state="failed", ended_at=2.0)
    write(shared.one, *running_here, ended)

    assert [True] == shared.claim((shared.other, ClaimCancelled(work_id)))
    write(shared.one, *running_here)

    cancelled = {"a", "b"} if work_id == "batch_1" else {"a"}
    assert cancelled == {name for name in "abcd" if shared.queries.generation(name).cancelled}
    assert shared.one.process == shared.queries.generation("a").process
    assert [False, False] == shared.claim(
        (shared.other, ClaimCancelled("d")), (shared.other, ClaimCancelled("x"))
    )


def test_a_batch_is_taken_over_from_nobody_that_is_alive(shared):
    write(shared.one, BATCH, replace(BATCH, id="batch_2", ended_at=2.0))
    is_shared = shared.one is not shared.other

    assert [not is_shared] == shared.claim((shared.other, ClaimBatch("batch_1")))
    assert [True] == shared.claim((shared.one, ClaimBatch("batch_1")))
    assert [False, False] == shared.claim(
        (shared.one, ClaimBatch("batch_2")), (shared.one, ClaimBatch("batch_3"))
    )


def lookup(now=100.0, name="a/b", reader=""):
    return ClaimLookup(reader, name, False, now, now + 20.0)


def test_one_of_two_claims_of_a_look_up_gets_it(shared):
    made = shared.claim((shared.one, lookup()), (shared.other, lookup(101.0)))

    assert 1 == sum(made)
    until = 120.0 if made[0] else 121.0
    assert [LookupRecord("", "a/b", False, until)] == list(
        shared.queries.lookups([""], "a/b", simulated=False)
    )
    assert [False] == shared.claim((shared.other, lookup(until - 0.5)))


def test_look_ups_of_other_names_and_for_other_readers_and_simulated_ones_are_others(shared):
    others = [
        lookup(),
        lookup(name="a/c"),
        lookup(reader="account ann"),
        replace(lookup(), simulated=True),
    ]

    assert [True] * 4 == shared.claim(*((shared.one, each) for each in others))


def test_a_look_up_is_taken_over_once_its_time_has_passed(shared):
    shared.claim((shared.one, lookup()))

    made = shared.claim((shared.one, lookup(120.0)), (shared.other, lookup(120.0)))

    assert 1 == sum(made)


def test_a_look_up_that_is_over_may_be_followed_by_another(shared):
    first = lookup()
    shared.claim((shared.one, first))

    assert [True] == shared.claim((shared.one, EndLookup(first, 110.0)))

    assert [LookupRecord("", "a/b", False, 110.0, is_over=True)] == list(
        shared.queries.lookups([""], "a/b", simulated=False)
    )
    assert [False] == shared.claim((shared.one, EndLookup(first, 0.0))), "it has ended already"
    assert [True] == shared.claim((shared.other, lookup(101.0)))


def test_the_end_of_a_look_up_that_was_taken_over_leaves_the_other_one(shared):
    slow, other = lookup(), lookup(125.0)
    shared.claim((shared.one, slow))
    shared.claim((shared.other, other))

    assert [False] == shared.claim((shared.one, EndLookup(slow, 0.0)))
    assert [False] == shared.claim((shared.one, lookup(130.0)))
    assert [True] == shared.claim((shared.other, EndLookup(other, 0.0)))


def test_two_processes_look_up_the_same_models_in_any_order_and_none_waits_for_ever(shared):
    """They also end look-ups and write models in the transactions of their claims."""
    names = [f"a/{number}" for number in range(20)]

    async def look_up(ledger, order, now):
        for turn in range(5):
            claims = [lookup(now + 40 * turn, name) for name in order]
            made = await asyncio.gather(*map(ledger.claim, claims))
            for name in order:
                ledger.upsert(ModelRecord(reader="", name=name, simulated=False, looked_up_at=now))
            mine = [claim for claim, is_made in zip(claims, made, strict=True) if is_made]
            await asyncio.gather(*(ledger.claim(EndLookup(claim, 0.0)) for claim in mine))

    async def both():
        async with asyncio.timeout(60):
            await asyncio.gather(look_up(shared.one, names, 100.0), look_up(shared.other, names[::-1], 100.5))

    asyncio.run(both())

    assert 20 == len(shared.queries.known_models("", limit=99, simulated=False))


several = pytest.mark.parametrize("shared", [in_memory, on_postgres], indirect=True)
"""For what only a ledger of several processes has."""


@several
def test_one_of_two_processes_takes_over_the_batch_of_a_dead_one(shared):
    write(shared.one, BATCH)
    if isinstance(shared.one, MemoryLedger):
        (key,) = shared.one.rows[BatchRecord]
        shared.one.rows[BatchRecord][key] = BATCH
    else:
        with shared.one.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE batches SET process = 'a:1:dead'")

    made = shared.claim((shared.one, ClaimBatch("batch_1")), (shared.other, ClaimBatch("batch_1")))

    assert 1 == sum(made)
    assert shared.queries.batch("batch_1").process == (shared.one if made[0] else shared.other).process


def reserved(ledger, usd, *, spent=0.0, day=10, simulated=False):
    """Writes the row of this process, and claims at most 1 USD for all from that day on."""
    record = BudgetRecord(ledger.process, day, simulated, spent, usd)

    async def claimed():
        ledger.upsert(record)
        return await ledger.claim(ClaimBudget("admin", 1.0, day, simulated))

    return claimed()


async def together(*claims):
    return await asyncio.gather(*claims)


@several
def test_one_of_two_reservations_that_exceed_the_budget_together_is_refused(shared):
    for _ in range(5):
        made = asyncio.run(together(reserved(shared.one, 0.6), reserved(shared.other, 0.6)))
        assert 1 == sum(made)

        asyncio.run(together(reserved(shared.one, 0.0), reserved(shared.other, 0.0)))


@several
def test_the_budget_counts_what_was_spent_since_a_day_and_what_each_process_has_reserved_now(shared):
    def total():
        return round(shared.queries.budget_total("admin", 10, simulated=False), 6)

    asyncio.run(together(reserved(shared.one, 0.4, spent=0.2, day=9)))
    assert 0.4 == total(), "yesterday's costs do not count, what waits does"
    asyncio.run(together(reserved(shared.one, 0.1, spent=0.05, day=10)))
    assert 0.15 == total(), "the row of today replaces the reservation of yesterday"
    asyncio.run(
        together(
            reserved(shared.other, 0.3, spent=0.01, day=11), reserved(shared.one, 9, day=12, simulated=True)
        )
    )
    assert 0.46 == total()
    taken = generation("a", simulated=False, process=shared.one.process, taken_at=5.0, reserved_usd=0.5)
    write(
        shared.one, taken, replace(taken, id="b", taken_at=None), replace(taken, id="c", caller_id="user_1")
    )
    assert 0.96 == total(), "work of a dead process counts until it is resumed"
    assert {10: 0.05, 11: 0.01} == dict(shared.queries.budget_spent(10, simulated=False))


def test_the_reservations_of_a_dead_process_count_until_its_work_is_taken_over():
    with on_postgres() as shared:
        asyncio.run(together(reserved(shared.one, 0.4, spent=0.2), reserved(shared.other, 0.1)))
        totals = []
        for state in ("dead_at = clock_timestamp()", "taken_at = clock_timestamp()"):
            with shared.one.engine.begin() as connection:
                connection.exec_driver_sql(
                    f"UPDATE processes SET {state} WHERE id = %s", (shared.other.process,)
                )
            totals.append(round(shared.queries.budget_total("admin", 10, simulated=False), 6))

        assert [0.7, 0.6] == totals


LOST = LostCallRecord(
    caller_id="key_1", body_fingerprint="body", work_id="gen_1", accepted_at=1.0, lost_at=2.5
)


def test_of_two_retries_one_takes_a_lost_call(shared):
    write(shared.one, LOST, replace(LOST, work_id="gen_2", accepted_at=2.0))
    assert ["gen_1", "gen_2"] == sorted(each.work_id for each in shared.queries.lost_calls("key_1", "body"))

    made = shared.claim((shared.one, TakeLostCall(LOST)), (shared.other, TakeLostCall(LOST)))

    assert [False, True] == sorted(made)
    assert ["gen_2"] == [each.work_id for each in shared.queries.lost_calls()]


def test_a_call_that_was_lost_again_is_not_taken_as_it_was_before(shared):
    again = replace(LOST, lost_at=70.0, answered_try=2, unsure=True)
    write(shared.one, LOST)
    write(shared.one, again)

    assert [False] == shared.claim((shared.one, TakeLostCall(LOST)))
    assert [again] == shared.queries.lost_calls("key_1", "body")
    assert [] == [*shared.queries.lost_calls("key_2", "body"), *shared.queries.lost_calls("key_1", "other")]


@pytest.mark.parametrize("shared", [on_sqlite, on_postgres], indirect=True)
def test_a_caller_that_waits_in_another_process_is_not_lost_with_the_one_that_runs_its_work(shared):
    found = generation("gen_1", door="openai", body_fingerprint="body")
    write(shared.one, found)

    assert [True, False] == shared.claim(
        (shared.other, WaitsElsewhere("gen_1")), (shared.other, WaitsElsewhere("batch_1"))
    )
    write(shared.one, replace(found, state="processing"))
    assert ("processing", None) == (
        shared.queries.generation("gen_1").state,
        shared.queries.generation("gen_1").body_fingerprint,
    )


def keys(*names, prefix="gen_") -> ClaimKeys:
    return ClaimKeys(tuple(replace(KEY, key=name, work_id=prefix + name) for name in names))


def test_several_keys_are_claimed_together_or_not_at_all(shared):
    assert [True] == shared.claim((shared.one, keys("a", "b")))

    assert [False] == shared.claim((shared.other, keys("c", "b", "d", prefix="other_")))
    assert [True] == shared.claim((shared.other, keys("c", "d", prefix="other_")))

    kept = shared.queries.keys("anna", ["a", "b", "c", "d", "e"])
    assert {"a": "gen_a", "b": "gen_b", "c": "other_c", "d": "other_d"} == {
        each.key: each.work_id for each in kept
    }
    assert {each.key for each in kept if each.process == shared.one.process} >= {"a", "b"}
    assert [] == list(shared.queries.keys("bert", ["a"]))


def test_a_claim_of_several_keys_that_fails_leaves_other_claims_and_changes_of_its_transaction(shared):
    write(shared.one, replace(KEY, key="b"))

    async def story():
        shared.other.upsert(replace(KEY, key="w", work_id="gen_w"))
        claims = keys("a", "b"), ClaimKey(replace(KEY, key="x", work_id="gen_x")), keys("y", "z")
        return await asyncio.gather(*map(shared.other.claim, claims))

    assert [False, True, True] == asyncio.run(story())
    assert {"b", "w", "x", "y", "z"} == {
        each.key for each in shared.queries.keys("anna", ["a", "b", "w", "x", "y", "z"])
    }


def test_several_keys_may_be_claimed_again_for_the_same_work_only(shared):
    assert [True] == shared.claim((shared.one, keys("a", "b")))

    assert [True] == shared.claim((shared.one, keys("a", "b")))
    assert [False] == shared.claim((shared.other, keys("a", "b", prefix="other_")))


def test_one_of_many_overlapping_claims_of_keys_gets_each_key(shared):
    names = [f"k{number}" for number in range(30)]
    wanted = [(names[at : at + 12], f"w{at}_") for at in range(0, 18, 2)]
    ledgers = [shared.one, shared.other]

    claims = [
        (ledgers[at % 2], keys(*(some[::-1] if at % 3 else some), prefix=prefix))
        for at, (some, prefix) in enumerate(wanted)
    ]
    made = shared.claim(*claims)

    assert any(made)
    expected = {
        name: prefix + name
        for (some, prefix), is_made in zip(wanted, made, strict=True)
        if is_made
        for name in some
    }
    assert expected == {each.key: each.work_id for each in shared.queries.keys("anna", names)}


def test_ten_thousand_keys_are_claimed_and_found(shared):
    names = [f"k{number}" for number in range(10_000)]

    assert [True] == shared.claim((shared.one, keys(*names)))

    assert set(names) == {each.key for each in shared.queries.keys("anna", names)}


def test_one_of_two_first_values_is_written(shared):
    made = shared.claim(
        (shared.one, ReplaceValue("account", None, b"one")),
        (shared.other, ReplaceValue("account", None, b"other")),
    )

    assert 1 == sum(made)
    assert (b"one" if made[0] else b"other") == shared.queries.meta("account")


def test_a_value_is_replaced_only_if_no_other_has_replaced_it(shared):
    shared.claim((shared.one, ReplaceValue("account", None, b"\0first")))

    assert [False] == shared.claim((shared.one, ReplaceValue("account", b"another", b"third")))
    assert 1 == sum(
        shared.claim(
            (shared.one, ReplaceValue("account", b"\0first", b"second")),
            (shared.other, ReplaceValue("account", b"\0first", b"third")),
        )
    )
    assert shared.queries.meta("account") in {b"second", b"third"}
