"""The audit trail over HTTP: what administrators did, without secrets, with filters and pages."""

import pytest

from tests.support.api_client import ended, submit
from tests.support.callers import ADMIN, USER
from tests.support.named_keys import change_key, make_key
from tests.support.problem_documents import fields


def acts(client, by=ADMIN, **query):
    answer = client.get("/audit", query_string=query, headers=by)
    assert 200 == answer.status_code, answer.text
    return answer.json["acts"]


def actions(client, **query):
    return [each["action"] for each in acts(client, **query)]


def test_each_act_on_a_key_is_listed_the_latest_first(client):
    key_id, _ = make_key(client, "shop", budget_usd=1, budget_period="day")
    change_key(client, key_id, name="renamed")
    rotated = client.post(f"/keys/{key_id}/rotate", json={"grace_seconds": 5}, headers=ADMIN)
    client.delete(f"/keys/{key_id}", headers=ADMIN)

    assert ["keys.delete", "keys.rotate", "keys.update", "keys.create"] == actions(client)
    found = acts(client)
    assert {(key_id, "admin", "admin")} == {
        (each["target"], each["actor"], each["actor_name"]) for each in found
    }
    assert rotated.headers["X-Request-ID"] == found[1]["request_id"]
    assert {"name": "renamed"} == found[2]["details"]
    assert 1 == found[3]["details"]["budget_usd"]


def test_the_trail_has_no_text_of_a_key_and_no_hash(client, app):
    key_id, by = make_key(client)
    text = client.post(f"/keys/{key_id}/rotate", json={}, headers=ADMIN).json["key"]
    shown = client.get("/audit", headers=ADMIN).text

    for secret in (text, by["X-API-Key"]):
        assert secret[12:] not in shown
        assert app.extensions["service"].authenticator.keyed_hash(secret) not in shown


def test_a_change_that_is_refused_is_no_act(client):
    change_key(client, "key_unknown", name="a")
    client.post("/keys", json={"name": ""}, headers=ADMIN)
    client.delete("/_admin/semaphores/unknown", headers=ADMIN)

    assert [] == acts(client)


def test_limits_and_semaphores_are_acts(client):
    client.post("/configure", json={"concurrent_limit": 7}, headers=ADMIN)
    client.post("/_admin/semaphores", json={"semaphore_id": "gpu", "limit": 2}, headers=ADMIN)
    client.delete("/_admin/semaphores/gpu", headers=ADMIN)

    assert ["semaphores.delete", "semaphores.set", "configure"] == actions(client)
    assert {"concurrent_limit": 7} == acts(client, action="configure")[0]["details"]


def test_the_cancellation_of_the_work_of_others_is_an_act_and_that_of_own_work_is_none(make_app):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    submit(client, "[[slow=1]] runs", by=ADMIN)
    own, theirs = submit(client, by=ADMIN), submit(client, by=USER)

    for each in (own, theirs):
        client.delete(f"/generations/{each}", headers=ADMIN)
    client.delete(f"/generations/{theirs}", headers=ADMIN)  # it has ended

    assert "canceled" == ended(client, theirs)["status"]
    [act] = acts(client)
    assert ("cancel", theirs) == (act["action"], act["target"])
    assert act["details"]["owner"].startswith("user_")


def test_the_trail_is_filtered_by_actor_action_and_time_and_read_in_pages(client):
    admin_id, by = make_key(client, "deputy", role="admin")
    client.post("/keys", json={"name": "a"}, headers=by)
    client.post("/configure", json={"concurrent_limit": 7}, headers=by)

    assert ["configure", "keys.create"] == actions(client, actor=admin_id)
    assert ["deputy"] * 2 == [each["actor_name"] for each in acts(client, actor=admin_id)]
    assert ["keys.create"] * 2 == actions(client, action="keys")
    assert ["keys.create"] * 2 == actions(client, action="keys.create")
    assert [] == actions(client, action="key")
    assert [] == actions(client, since="2099-01-01")
    assert 3 == len(actions(client, since="2020-01-01"))
    first = client.get("/audit?limit=2", headers=ADMIN).json
    rest = client.get(f"/audit?limit=2&cursor={first['next_cursor']}", headers=ADMIN).json
    assert acts(client) == [*first["acts"], *rest["acts"]]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("query", ["cursor=x", "limit=0", "since=never", "actr=admin"])
def test_a_query_that_is_wrong_is_refused(client, query):
    assert [query.partition("=")[0]] == fields(client.get(f"/audit?{query}", headers=ADMIN))
