"""The contract of named keys and the audit trail in a ledger, on every implementation."""

import asyncio
from dataclasses import replace

from ledger import ActsPage
from ledger.access_records import ApiKeyRecord, AuditRecord
from ledger.claims import ClaimApiKey
from tests.contracts.test_claims_contract import shared
from tests.support.ledgers import write

__all__ = ["shared"]

KEY = ApiKeyRecord(
    id="key_1", name="shop", role="caller", digest="d1", prefix="rcg_abc", previous_digest="d0", previous_until=5.5,
    max_concurrent=2, requests_per_minute=30, max_queued=7, budget_usd=1.5, budget_period="week",
    models=("flux-dev", "image"), tags='{"team": "a"}', created_at=10.0, expires_at=99.0, revision=1,
)  # fmt: skip
BARE = ApiKeyRecord(
    id="key_2", name="bare", role="viewer", digest="d2", prefix="rcg_def", created_at=11.0, revision=2
)


def act(at=1.0, act_id="a", **fields):
    usual = {
        "actor": "admin", "actor_name": "admin", "action": "keys.create", "target": "key_1", "details": "{}",
        "request_id": "req",
    }  # fmt: skip
    return AuditRecord(at=at, id=act_id, **{**usual, **fields})


def change(key, act_id=None):
    return ClaimApiKey(key, act(float(key.revision), act_id or f"{key.id} {key.revision}"))


def test_a_key_is_read_as_it_was_written_with_its_act(shared):
    assert [True] == shared.claim((shared.one, change(KEY)))
    assert [True] == shared.claim((shared.other, change(BARE)))

    assert [KEY, BARE] == [shared.queries.api_key(each) for each in ("key_1", "key_2")]
    assert shared.queries.api_key("key_3") is None
    assert [BARE, KEY] == shared.queries.api_keys(limit=5)
    assert 2 == shared.queries.last_key_revision()
    assert [act(2.0, "key_2 2"), act(1.0, "key_1 1")] == shared.queries.acts(ActsPage(5))


def test_an_act_is_found_by_its_id(shared):
    shared.claim((shared.one, change(KEY)), (shared.one, change(BARE)))

    assert act(2.0, "key_2 2") == shared.queries.act("key_2 2")
    assert shared.queries.act("key_2") is None


def test_each_field_of_a_key_may_change(shared):
    shared.claim((shared.one, change(KEY)))
    changed = replace(
        BARE, id="key_1", name="renamed", role="admin", max_concurrent=9, models=("video",), revision=2
    )

    assert [True] == shared.claim((shared.one, change(changed)))

    assert changed == shared.queries.api_key("key_1")


def test_of_changes_at_the_same_moment_one_is_made_with_its_act(shared):
    claims = [change(replace(KEY, id=f"key_{number}"), f"act {number}") for number in range(6)]

    made = shared.claim(
        *((shared.one if number % 2 else shared.other, claim) for number, claim in enumerate(claims))
    )

    assert 1 == sum(made)
    [kept] = shared.queries.changed_api_keys(0)
    number = made.index(True)
    assert f"key_{number}" == kept.id
    assert [f"act {number}"] == [each.id for each in shared.queries.acts(ActsPage(9))]


def test_a_change_of_a_key_that_was_read_too_early_is_not_made(shared):
    shared.claim((shared.one, change(KEY)))
    shared.claim((shared.other, change(replace(KEY, max_concurrent=3, revision=2))))

    assert [False] == shared.claim((shared.one, change(replace(KEY, max_queued=1, revision=2), "late")))

    assert 3 == shared.queries.api_key("key_1").max_concurrent
    assert "late" not in {each.id for each in shared.queries.acts(ActsPage(9))}


def test_the_revisions_of_concurrent_writers_have_no_gap_and_no_number_twice(shared):
    async def add(ledger, number):
        while True:
            last = shared.queries.last_key_revision()
            key = replace(BARE, id=f"key_{number}", digest=f"d{number}", revision=last + 1)
            if await ledger.claim(change(key)):
                return

    async def story():
        await asyncio.gather(
            *(add(shared.one if number % 2 else shared.other, number) for number in range(12))
        )

    asyncio.run(story())

    assert [*range(1, 13)] == [each.revision for each in shared.queries.changed_api_keys(0)]


def test_changes_are_read_after_a_revision_in_their_order_and_deleted_keys_only_then(shared):
    shared.claim((shared.one, change(KEY)))
    shared.claim((shared.one, change(BARE)))
    deleted = replace(KEY, deleted_at=50.0, revision=3)
    shared.claim((shared.one, change(deleted)))

    assert [BARE, deleted] == shared.queries.changed_api_keys(1)
    assert [deleted] == shared.queries.changed_api_keys(2)
    assert [] == shared.queries.changed_api_keys(3)
    assert [BARE] == shared.queries.changed_api_keys(0)
    assert [BARE] == shared.queries.api_keys(limit=5)
    assert {"key_1": "shop", "key_2": "bare"} == shared.queries.api_key_names(["key_1", "key_2", "key_3"])


def test_an_older_row_that_is_written_again_does_not_replace_a_newer_one(shared):
    """A process does that after a failover of PostgreSQL."""
    shared.claim((shared.one, change(KEY)))
    deleted = replace(KEY, deleted_at=50.0, revision=2)
    shared.claim((shared.other, change(deleted)))

    write(shared.one, KEY)

    assert deleted == shared.queries.api_key("key_1")


def test_keys_and_acts_are_read_in_pages(shared):
    for number in range(1, 6):
        key = replace(BARE, id=f"key_{number}", created_at=float(number // 2), revision=number)
        shared.claim((shared.one, change(key)))

    def pages(read, place_of):
        found, before = [], None
        while page := read(before):
            found += page
            before = place_of(page[-1])
        return [each.id for each in found]

    assert ["key_5", "key_4", "key_3", "key_2", "key_1"] == pages(
        lambda before: shared.queries.api_keys(limit=2, before=before),
        lambda each: (each.created_at, each.id),
    )
    assert [f"key_{number} {number}" for number in (5, 4, 3, 2, 1)] == pages(
        lambda before: shared.queries.acts(ActsPage(2, before)), lambda each: (each.at, each.id)
    )


def test_acts_are_filtered(shared):
    write(
        shared.one,
        act(1.0, "a", action="keys.create"),
        act(2.0, "b", action="keys.delete", actor="key_1"),
        act(3.0, "c", action="configure"),
        act(4.0, "d", action="keysmith.create"),
    )

    def found(**filters):
        return "".join(each.id for each in shared.queries.acts(ActsPage(9, **filters)))

    assert "dcba" == found()
    assert "ba" == found(action="keys")
    assert "a" == found(action="keys.create")
    assert "c" == found(action="configure")
    assert "b" == found(actor="key_1")
    assert "dc" == found(since=3.0)
    assert "dca" == found(actor="admin")
    assert "a" == found(action="keys", actor="admin", since=1.0)
