"""Two processes on one ledger in PostgreSQL: limits, semaphores, cancellations and the status are those of both."""

import pytest

from harness import postgres
from harness.service_process import until
from tests.support.api_client import submit
from tests.support.callers import ADMIN


@pytest.fixture
def two(make_app):
    """The clients of two processes."""
    with postgres.server().schema() as schema:
        shared = {"DATABASE_URL": postgres.server().url(schema=schema), "PUBLIC_URL": "http://localhost"}
        # On a busy machine, a process that is alive may be silent for some seconds.
        apps = [make_app(**shared, PROCESS_TTL=60) for _ in range(2)]
        clients = [each.test_client() for each in apps]
        until(lambda: all(holders(each) == [False, True] for each in clients))
        yield clients
        for each in apps:
            each.extensions["service"].close()


def holders(client):
    """Whether each process holds the gate, in order."""
    return sorted(each["holds_gate"] for each in get(client, "/status").get("processes", ()))


def get(client, path):
    answer = client.get(path, headers=ADMIN)
    assert 200 == answer.status_code, answer.text
    return answer.json


def post(client, path, body, status=200):
    answer = client.post(path, json=body, headers=ADMIN)
    assert status == answer.status_code, answer.text
    return answer.json


def knows(client, semaphore):
    """Whether this process accepts work that names this semaphore."""
    body = {"model_name": "flux-dev", "prompts": ["a"], "external_semaphore_id": semaphore, "dry_run": True}
    return 200 == client.post("/generate-batch", json=body, headers=ADMIN).status_code


@pytest.mark.slow
def test_work_limits_and_semaphores_are_the_same_at_both(two):
    one, other = two

    post(one, "/configure", {"concurrent_limit": 7})
    # A process reads a change at once, or some seconds later if it was too busy to answer the announcement.
    until(lambda: [7, 7] == [get(each, "/status")["concurrency"]["concurrent_limit"] for each in two])
    until(lambda: {"concurrent_limit": 7} == get(other, "/status")["configured_limits"])

    post(other, "/_admin/semaphores", {"semaphore_id": "gpu", "limit": 2})
    lease = post(one, "/semaphores/gpu/leases", {"ttl": 60}, 201)
    until(lambda: knows(one, "gpu"))
    work = submit(one, "[[hang]] a fox", by=ADMIN, external_semaphore_id="gpu")
    until(lambda: get(other, f"/generations/{work}")["status"] == "running")
    [seen] = get(other, "/_admin/semaphores")["semaphores"]
    assert (2, 2, 1) == (seen["limit"], seen["in_use"], seen["leases"])
    post(other, "/semaphores/gpu/leases", {"ttl": 60}, 429)
    assert 204 == other.delete(f"/semaphores/gpu/leases/{lease['lease_id']}", headers=ADMIN).status_code

    until(lambda: [[False, True]] * 2 == [holders(each) for each in two])
    until(lambda: 1 == sum(each["in_flight"] for each in get(other, "/status")["processes"]))
    until(lambda: 1 == get(other, "/status")["concurrency"]["current_concurrent"])

    cancelled = other.delete(f"/generations/{work}", headers=ADMIN)
    assert "canceled" == cancelled.json["status"]
    assert cancelled.json == get(one, f"/generations/{work}")
    until(lambda: [1, 1] == [get(each, "/status")["generations"]["canceled"] for each in two])
