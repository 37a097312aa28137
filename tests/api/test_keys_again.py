"""Requests for named keys with an `Idempotency-Key`, which may be sent again after a lost connection."""

import pytest

from tests.support.callers import ADMIN
from tests.support.named_keys import change_key, make_key

SHOP = {"name": "shop", "max_concurrent": 5, "models": ["image"], "tags": {"team": "a"}}


def create(client, key, by=ADMIN, **fields):
    return client.post("/keys", json={**SHOP, **fields}, headers={**by, "Idempotency-Key": key})


def rotate(client, key_id, key, by=ADMIN, **body):
    return client.post(f"/keys/{key_id}/rotate", json=body, headers={**by, "Idempotency-Key": key})


def accepted(client, text):
    return client.get("/keys/self", headers={"X-API-Key": text}).status_code == 200


def acts(client):
    return [each["action"] for each in client.get("/audit", headers=ADMIN).json["acts"]]


def conflict(answer):
    return (answer.status_code, answer.json["code"]) == (409, "idempotency_conflict")


def test_a_repeated_creation_makes_one_key_and_gets_its_text_again(client):
    first, again = create(client, "k"), create(client, "k")

    assert [201, 201] == [first.status_code, again.status_code]
    assert first.json == again.json
    assert accepted(client, first.json["key"])
    assert 1 == len(client.get("/keys", headers=ADMIN).json["keys"])
    assert ["keys.create"] == acts(client)


def test_each_idempotency_key_makes_a_key_and_none_makes_one_each_time(client):
    made = [create(client, "k1"), create(client, "k2")]
    made += [client.post("/keys", json=SHOP, headers=ADMIN) for _ in range(2)]

    assert 4 == len({each.json["key"] for each in made}) == len({each.json["id"] for each in made})


def test_a_repeated_rotation_rotates_once_and_gets_the_new_text_again(client):
    key_id, before = make_key(client)

    first, again = (rotate(client, key_id, "k", grace_seconds=60) for _ in range(2))

    assert 200 == first.status_code
    assert first.json == again.json
    assert accepted(client, first.json["key"])
    assert accepted(client, before["X-API-Key"])
    assert ["keys.rotate", "keys.create"] == acts(client)


@pytest.mark.parametrize("fields", [{"name": "other"}, {"max_concurrent": 6}, {"max_queued": 1}])
def test_another_body_under_the_same_key_is_a_conflict(client, fields):
    create(client, "k")

    assert conflict(create(client, "k", **fields))
    assert 1 == len(client.get("/keys", headers=ADMIN).json["keys"])


def test_another_rotation_under_the_same_key_is_a_conflict(client):
    one, other = make_key(client)[0], make_key(client)[0]
    text = rotate(client, one, "k", grace_seconds=60).json["key"]

    assert conflict(rotate(client, one, "k", grace_seconds=61))
    assert conflict(rotate(client, other, "k", grace_seconds=60))
    assert conflict(create(client, "k"))
    assert accepted(client, text)


def test_a_late_repetition_brings_no_text_back_that_was_ended_since(client):
    made = create(client, "create").json
    first = rotate(client, made["id"], "rotate").json["key"]
    second = rotate(client, made["id"], "another").json["key"]

    assert conflict(create(client, "create"))
    assert conflict(rotate(client, made["id"], "rotate"))
    assert [False, False, True] == [accepted(client, each) for each in (made["key"], first, second)]

    client.delete(f"/keys/{made['id']}", headers=ADMIN)
    assert conflict(rotate(client, made["id"], "another"))


def test_a_key_that_was_changed_since_is_answered_as_it_is_now(client):
    made = create(client, "k").json
    change_key(client, made["id"], name="renamed", max_concurrent=9)
    rotated = rotate(client, made["id"], "r").json
    change_key(client, made["id"], name="again")

    again = rotate(client, made["id"], "r")

    assert (200, "again", 9, rotated["key"]) == (
        again.status_code, again.json["name"], again.json["max_concurrent"], again.json["key"],
    )  # fmt: skip


def test_the_same_key_of_another_administrator_is_another_request(client):
    _, deputy = make_key(client, "deputy", role="admin")

    assert create(client, "k").json["key"] != create(client, "k", by=deputy).json["key"]


def test_neither_the_idempotency_key_nor_the_text_is_in_the_ledger(client, app):
    made = create(client, "a-secret-key").json
    queries = app.extensions["service"].queries

    kept = f"{queries.api_keys(limit=9)} {client.get('/audit', headers=ADMIN).text}"

    assert "a-secret-key" not in kept
    assert made["key"][len(made["prefix"]) :] not in kept


def test_a_key_that_no_header_can_have_is_refused(client):
    assert [400, 400] == [create(client, "two words").status_code, rotate(client, "key_1", "").status_code]
