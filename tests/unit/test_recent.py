"""Which rows a process keeps, to write them again if the database has lost its last commits."""

from dataclasses import replace

import pytest

from ledger.claims import ClaimKey, ClaimSent, ClaimSuspended
from ledger.money_records import BudgetRecord
from ledger.recent import KEPT, RecentRows
from ledger.records import (
    AttemptRecord,
    Delivery,
    GenerationRecord,
    KeyRecord,
    LeaseRecord,
    LeaseState,
    MetaRecord,
)
from tests.support.members import place_of
from tests.support.records import generation


@pytest.fixture
def recent(clock):
    return RecentRows(clock)


def note(recent, *records):
    recent.note({place_of(each): each for each in records})


def kept(recent):
    """The rows that are kept after a commit."""
    note(recent)
    return [*recent.rows().values()]


LIVING = [
    generation("a"),
    LeaseRecord(id="b", caller="ann", state=LeaseState.ANSWERED),
    Delivery("c", "https://hooks.example", 0.0),
    BudgetRecord("p", 1, simulated=False, spent=1.0, reserved=2.0),
]
PAST = [
    generation("a", state="succeeded"),
    generation("a", suspended_at=1.0),
    LeaseRecord(id="b", caller="ann", state=LeaseState.OVER),
    Delivery("c", "https://hooks.example", 0.0, state="delivered"),
    MetaRecord("concurrent_limit", b"3"),
]


@pytest.mark.parametrize("record", PAST, ids=str)
def test_a_row_that_will_not_change_is_kept_for_a_minute(recent, clock, record):
    note(recent, record)
    clock.now = KEPT - 0.1
    assert [record] == kept(recent)
    clock.now = KEPT
    assert [] == kept(recent)


def test_no_row_is_forgotten_while_nothing_can_be_committed(recent, clock):
    note(recent, PAST[0])
    clock.now = 10 * KEPT
    assert PAST[:1] == [*recent.rows().values()]


@pytest.mark.parametrize("record", LIVING, ids=str)
def test_a_row_that_may_change_is_kept_for_as_long_as_that(recent, clock, record):
    note(recent, record)
    clock.now = 100 * KEPT
    assert [record] == kept(recent)


def test_only_the_latest_state_of_a_row_is_kept(recent, clock):
    first, last = generation("a"), generation("a", state="failed")
    note(recent, first)
    note(recent, last)
    assert [last] == kept(recent)
    clock.now = KEPT
    assert [] == kept(recent)


def test_a_deletion_is_kept_like_a_row(recent, clock):
    note(recent, generation("a"))
    recent.note({(GenerationRecord, ("a",)): None})
    assert {(GenerationRecord, ("a",)): None} == recent.rows()
    clock.now = KEPT
    assert [] == kept(recent)


def test_the_key_and_the_attempts_of_a_generation_are_kept_as_long_as_it_is(recent, clock):
    key, over = (
        KeyRecord("ann", "k", "f", "a", 0.0, "p"),
        AttemptRecord(generation_id="a", number=1, model="m"),
    )
    note(recent, generation("a"), over)
    recent.note({}, [ClaimKey(key)])
    clock.now = 3.5 * KEPT
    assert {generation("a"), over, key} == {*kept(recent)}

    note(recent, generation("a", state="failed"))
    clock.now += 2 * KEPT
    assert [] == kept(recent)


def test_a_lease_whose_claim_was_made_is_kept_as_sent(recent):
    lease = LeaseRecord(id="b", caller="ann")
    note(recent, lease)
    recent.note({}, [ClaimSent("b", "a 1"), ClaimSent("unknown", "c 1"), ClaimSuspended("d")])
    assert [replace(lease, state=LeaseState.SENT, reference="a 1")] == kept(recent)
