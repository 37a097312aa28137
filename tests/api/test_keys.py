"""Named keys over HTTP: made, listed, changed, rotated, deleted, and used in each header."""

import pytest

from tests.support.api_client import ended, submit
from tests.support.callers import ADMIN


def make(client, name="shop", **more):
    """Make a key. Returns its id and the header that sends it."""
    made = client.post("/keys", json={"name": name, **more}, headers=ADMIN)
    assert 201 == made.status_code, made.text
    return made.json["id"], {"X-API-Key": made.json["key"]}


def test_a_key_is_shown_once_and_then_only_how_its_text_begins(client):
    made = client.post("/keys", json={"name": "shop", "budget_usd": 5, "budget_period": "day"}, headers=ADMIN)

    assert 201 == made.status_code
    assert made.json["key"].startswith("rcg_")
    assert len("rcg_") + 32 <= len(made.json["key"])
    assert made.json["key"].startswith(made.json["prefix"])
    shown = {name: value for name, value in made.json.items() if name != "key"}
    assert shown == client.get(f"/keys/{made.json['id']}", headers=ADMIN).json
    assert [shown] == client.get("/keys", headers=ADMIN).json["keys"]
    assert "no-store" == made.headers["Cache-Control"]


@pytest.mark.parametrize(
    "send", [lambda key: {"X-API-Key": key}, lambda key: {"Authorization": f"Bearer {key}"}]
)
def test_a_key_generates_in_each_header(client, send):
    _, by = make(client)

    work = submit(client, by=send(by["X-API-Key"]))

    assert "succeeded" == ended(client, work, by=by)["status"]
    assert 404 == client.get(f"/generations/{work}", headers=make(client, "other")[1]).status_code
    assert 200 == client.get(f"/generations/{work}", headers=ADMIN).status_code


def test_a_deleted_key_is_refused_at_once_in_the_process_that_deleted_it(client):
    key_id, by = make(client)
    assert 200 == client.get("/generations", headers=by).status_code

    assert 204 == client.delete(f"/keys/{key_id}", headers=ADMIN).status_code

    assert 401 == client.get("/generations", headers=by).status_code
    assert [] == client.get("/keys", headers=ADMIN).json["keys"]
    assert client.get(f"/keys/{key_id}", headers=ADMIN).json["deleted_at"]
    assert 404 == client.delete(f"/keys/{key_id}", headers=ADMIN).status_code
