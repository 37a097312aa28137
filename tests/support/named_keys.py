"""Named keys that tests make and change as an administrator."""

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.callers import ADMIN, USER


def make_key(client: FlaskClient, name: str = "shop", **fields: Any) -> tuple[str, dict[str, str]]:
    """The id of a new key, and the header that sends it."""
    answer = client.post("/keys", json={"name": name, **fields}, headers=ADMIN)
    assert 201 == answer.status_code, answer.text
    made: dict[str, str] = answer.json or {}
    return made["id"], {"X-API-Key": made["key"]}


def change_key(client: FlaskClient, key_id: str, **fields: Any) -> TestResponse:
    return client.patch(f"/keys/{key_id}", json=fields, headers=ADMIN)


def sender_of_each_role(client: FlaskClient) -> dict[str, dict[str, str]]:
    """A header with a key of each role, by role, and with a Replicate token as `user`."""
    roles = ("admin", "caller", "viewer", "metrics")
    return {role: make_key(client, role, role=role)[1] for role in roles} | {"user": USER}
