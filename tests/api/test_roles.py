"""What each role may do on each route. A new route must be placed in the table."""

import re

import pytest

from contract.tasks import TASKS
from tests.support.api_client import ASYNC, ended, picture, submit
from tests.support.callers import ADMIN, USER
from tests.support.named_keys import make_key, sender_of_each_role

ROLES = ("admin", "caller", "viewer", "metrics", "user")

OPEN = frozenset(ROLES)
ADMINS = frozenset({"admin"})
VIEWERS = frozenset({"admin", "viewer"})
GENERATE = frozenset({"admin", "caller", "user"})
SEE = frozenset({"admin", "caller", "viewer", "user"})
LEASE = frozenset({"admin", "caller"})

TABLE = {
    ("GET", "/"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/status"): OPEN,
    ("GET", "/health"): OPEN,
    ("GET", "/health/live"): OPEN,
    ("GET", "/health/ready"): OPEN,
    ("GET", "/models"): OPEN,
    ("GET", "/models/{name}"): OPEN,
    ("GET", "/files/{generation}/{name}"): OPEN,
    ("GET", "/client"): OPEN,
    ("GET", "/client/{name}"): OPEN,
    ("POST", "/webhooks/replicate"): OPEN,
    ("POST", "/generate"): GENERATE,
    ("POST", "/generate-batch"): GENERATE,
    **{("POST", f"/{task}"): GENERATE for task in TASKS},
    **{("POST", f"/batch/{task}"): GENERATE for task in TASKS},
    ("GET", "/generations"): SEE,
    ("GET", "/generations/{target}"): SEE,
    ("GET", "/generations/{target}/events"): SEE,
    ("DELETE", "/generations/{target}"): GENERATE,
    ("GET", "/batches"): SEE,
    ("GET", "/batches/{target}"): SEE,
    ("DELETE", "/batches/{target}"): GENERATE,
    ("POST", "/trainings"): GENERATE,
    ("GET", "/trainings"): SEE,
    ("GET", "/trainings/{target}"): SEE,
    ("DELETE", "/trainings/{target}"): GENERATE,
    ("GET", "/trainings/{target}/events"): SEE,
    ("GET", "/trainings/{target}/weights/{name}"): SEE,
    ("DELETE", "/trainings/{target}/weights"): GENERATE,
    ("GET", "/usage"): SEE,
    ("POST", "/configure"): ADMINS,
    ("GET", "/metrics"): frozenset({"admin", "metrics"}),
    ("GET", "/_admin/semaphores"): VIEWERS,
    ("POST", "/_admin/semaphores"): ADMINS,
    ("DELETE", "/_admin/semaphores/{semaphore}"): ADMINS,
    ("POST", "/semaphores/{semaphore}/leases"): LEASE,
    ("POST", "/semaphores/{semaphore}/leases/{lease_id}/renew"): LEASE,
    ("DELETE", "/semaphores/{semaphore}/leases/{lease_id}"): LEASE,
    ("POST", "/keys"): ADMINS,
    ("GET", "/keys"): VIEWERS,
    ("GET", "/keys/self"): OPEN,
    ("GET", "/keys/{key_id}"): VIEWERS,
    ("PATCH", "/keys/{key_id}"): ADMINS,
    ("DELETE", "/keys/{key_id}"): ADMINS,
    ("POST", "/keys/{key_id}/rotate"): ADMINS,
    ("GET", "/audit"): VIEWERS,
    ("GET", "/v1/models"): SEE,
    ("GET", "/v1/models/{name}"): SEE,
    ("POST", "/v1/images/generations"): GENERATE,
    ("POST", "/v1/chat/completions"): GENERATE,
    ("POST", "/v1/images/edits"): GENERATE,
    ("POST", "/replicate/v1/predictions"): GENERATE,
    ("POST", "/replicate/v1/models/{owner}/{name}/predictions"): GENERATE,
    ("POST", "/replicate/v1/deployments/{owner}/{name}/predictions"): GENERATE,
    ("GET", "/replicate/v1/predictions"): SEE,
    ("GET", "/replicate/v1/predictions/{target}"): SEE,
    ("POST", "/replicate/v1/predictions/{target}/cancel"): GENERATE,
    ("POST", "/replicate/v1/models/{owner}/{name}/versions/{version}/trainings"): GENERATE,
    ("GET", "/replicate/v1/trainings"): SEE,
    ("GET", "/replicate/v1/trainings/{target}"): SEE,
    ("POST", "/replicate/v1/trainings/{target}/cancel"): GENERATE,
    ("POST", "/replicate/v1/models"): GENERATE,
    ("POST", "/replicate/v1/files"): GENERATE,
    ("GET", "/replicate/v1/files"): SEE,
    ("GET", "/replicate/v1/files/{target}"): SEE,
    ("DELETE", "/replicate/v1/files/{target}"): GENERATE,
    ("GET", "/replicate/v1/account"): SEE,
    ("GET", "/replicate/v1/models/{owner}/{name}"): SEE,
    ("GET", "/replicate/v1/models/{owner}/{name}/versions/{version}"): SEE,
    ("GET", "/replicate/v1/webhooks/default/secret"): LEASE,
}
"""The roles that each route does not refuse with 403. `user` is a Replicate token."""


def routes(app):
    return {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    }


@pytest.fixture
def senders(client):
    return sender_of_each_role(client)


def test_every_route_is_in_the_table_and_no_other_entry_is(app):
    assert routes(app) == set(TABLE), "place a new route in TABLE"


@pytest.mark.parametrize("role", ROLES)
def test_a_role_is_refused_by_exactly_the_routes_of_the_table(client, senders, role):
    names = {"name": "flux-dev", "generation": "gen_1", "semaphore": "gpu"}
    refused = set()
    for method, route in TABLE:
        path = re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], "gen_1"), route)
        path = path.replace("/batches/gen_1", "/batches/batch_1").replace("/keys/gen_1", "/keys/key_1")
        answer = client.open(path, method=method, headers=senders[role], json={})
        # A Replicate token pays for no call to a text model.
        is_of_texts = route.rpartition("/")[2] in {*TASKS, "completions"}
        assert (401 == answer.status_code) is (role == "user" and is_of_texts), (method, route, answer.text)
        if answer.status_code == 403:
            refused.add((method, route))

    assert {route for route, may in TABLE.items() if role not in may} == refused


def test_the_admin_key_of_the_environment_may_do_everything_in_each_header(client):
    for header in (ADMIN, {"X-API-Key": ADMIN["X-Admin-API-Key"]}):
        assert 200 == client.get("/keys", headers=header).status_code
        assert 200 == client.get("/audit", headers=header).status_code


def test_a_viewer_sees_the_work_of_all_and_cancels_none(client, senders):
    work = submit(client, by=senders["caller"])
    ended(client, work, by=senders["caller"])

    assert 200 == client.get(f"/generations/{work}", headers=senders["viewer"]).status_code
    assert 403 == client.delete(f"/generations/{work}", headers=senders["viewer"]).status_code
    assert 404 == client.get(f"/generations/{work}", headers=USER).status_code
    assert 403 == client.post("/generate", json=picture(), headers=senders["viewer"] | ASYNC).status_code
    assert 1 == client.get("/usage", headers=senders["viewer"]).json["total"]["generations"]
    assert 0 == client.get("/usage", headers=USER).json["total"]["generations"]
    assert "budget_left_usd" in client.get("/status", headers=senders["viewer"]).json
    assert "budget_left_usd" not in client.get("/status", headers=senders["caller"]).json


def test_a_viewer_does_not_look_at_replicate_for_a_model(client, simulator, senders):
    before = simulator.counts().requests.get("model", 0)

    assert 404 == client.get("/models/acme/upscaler", headers=senders["viewer"]).status_code

    assert before == simulator.counts().requests.get("model", 0)


def test_two_keys_with_one_idempotency_key_get_a_lease_each(client, senders):
    client.post("/_admin/semaphores", json={"semaphore_id": "gpu", "limit": 5}, headers=ADMIN)
    other = make_key(client, "other")[1]
    repeated = {"Idempotency-Key": "k"}

    leases = [
        client.post("/semaphores/gpu/leases", json={"ttl": 60}, headers={**by, **repeated}).json["lease_id"]
        for by in (senders["caller"], senders["caller"], other, ADMIN)
    ]

    assert leases[0] == leases[1]
    assert 3 == len({*leases})
