"""Limits of keys over HTTP, on one process with SQLite and on three processes with PostgreSQL."""

import pytest

from harness.service_process import until
from tests.support.api_client import ASYNC, ended, look_up, picture, state, submit
from tests.support.callers import ADMIN
from tests.support.named_keys import change_key, make_key
from tests.support.problem_documents import problem

pytestmark = pytest.mark.every_database

HANGS = "[[hang]] a fox"


@pytest.fixture
def clients(make_app, database_url):
    """Clients of all processes, each three times if there is only one."""

    def make(**settings):
        if database_url:
            return [make_app(**settings).test_client() for _ in range(3)]
        return [make_app(**settings).test_client()] * 3

    return make


def known_key(clients, **limits):
    """Make a key with these limits, and wait until each process knows it. Returns its id and the header that sends
    it."""
    key_id, by = make_key(clients[0], **limits)
    for each in clients:
        until(lambda each=each: 200 == each.get("/keys/self", headers=by).status_code)
    return key_id, by


def change(clients, key_id, **limits):
    assert 200 == change_key(clients[0], key_id, **limits).status_code


def refusal(client, by, **fields):
    """The answer to a request that the queue may refuse."""
    return client.post("/generate", json=picture(HANGS, **fields), headers={**by, **ASYNC})


def test_the_work_of_a_key_waits_for_its_slots_while_that_of_others_runs(clients, simulator):
    each = clients()
    key_id, by = known_key(each, max_concurrent=1)
    own = [submit(client, HANGS, by=by) for client in each]
    until(lambda: 1 == simulator.counts().in_flight)
    [submit(client, HANGS, by=ADMIN) for client in each]

    until(lambda: 4 == simulator.counts().in_flight)
    states = sorted(state(each[0], work, by=by) for work in own)
    assert ["queued", "queued", "running"] == states
    change(each, key_id, max_concurrent=2)
    until(lambda: 5 == simulator.counts().in_flight)
    change(each, key_id, max_concurrent=None)
    until(lambda: 6 == simulator.counts().in_flight)


def test_each_process_shows_a_key_what_all_of_its_work_uses(clients, simulator):
    each = clients()
    _, by = known_key(each, max_concurrent=2)
    for client in each:
        submit(client, HANGS, by=by)
    until(lambda: 2 == simulator.counts().in_flight)

    def used(client):
        own = client.get("/keys/self", headers=by).json
        return own["in_flight"], own["waiting"], own["created_last_minute"]

    for client in each:
        until(lambda client=client: (2, 1, 2) == used(client))


def test_a_new_key_is_limited_before_the_process_that_holds_the_gate_has_read_it(clients, simulator):
    for client in clients():
        key_id, by = make_key(client, max_concurrent=1)
        for _ in range(3):
            submit(client, HANGS, by=by)
        last = submit(client, HANGS, by=ADMIN)

        until(lambda client=client, last=last: "running" == state(client, last, by=ADMIN))
        assert 2 == simulator.counts().in_flight
        client.delete(f"/keys/{key_id}", headers=ADMIN)
        simulator.finish()
        until(lambda: 0 == simulator.counts().in_flight)


def test_the_work_of_a_key_waits_for_its_minute_and_the_answer_shows_how_long(clients, simulator):
    each = clients()
    key_id, by = known_key(each, requests_per_minute=1)
    first = submit(each[0], by=by)
    assert "succeeded" == ended(each[0], first, by=by)["status"]
    second = submit(each[1], by=by)
    third = submit(each[2], by=ADMIN)

    assert "succeeded" == ended(each[2], third, by=ADMIN)["status"]
    until(lambda: 30 < look_up(each[1], second, by=by)["estimated_seconds"] < 75)
    assert "queued" == state(each[1], second, by=by)
    change(each, key_id, requests_per_minute=2)
    assert "succeeded" == ended(each[1], second, by=by)["status"]
    assert 3 == simulator.counts().creations_accepted


def test_the_plan_of_a_batch_is_that_of_the_keys_own_limits(clients):
    each = clients()
    _, by = known_key(each, requests_per_minute=2)
    _, free = known_key(each)
    batch = {"model_name": "flux-dev", "prompts": ["a fox", "a cat", "an owl"], "dry_run": True}

    def seconds(client, by):
        return client.post("/generate-batch", json=batch, headers=by).json["estimated_seconds"]

    for client in each:
        assert 60 < seconds(client, by) < 120
        assert seconds(client, free) < 60


def test_the_next_process_counts_what_a_key_has_sent_before(make_app, clients, simulator):
    app = make_app()
    key_id, by = known_key([app.test_client()], requests_per_minute=1)
    ended(app.test_client(), submit(app.test_client(), by=by), by=by)
    waiting = submit(app.test_client(), by=by)
    app.extensions["service"].close()

    each = clients()
    until(lambda: 200 == each[0].get("/keys/self", headers=by).status_code)
    third = submit(each[2], by=ADMIN)
    assert "succeeded" == ended(each[2], third, by=ADMIN)["status"]

    assert "queued" == state(each[0], waiting, by=by)
    assert 2 == simulator.counts().creations_accepted
    change(each, key_id, requests_per_minute=2)
    assert "succeeded" == ended(each[0], waiting, by=by)["status"]


def test_a_key_whose_queue_is_full_is_refused_by_every_process_and_others_are_not(clients, simulator):
    each = clients()
    _, by = known_key(each, max_concurrent=1, max_queued=2)
    first = submit(each[0], HANGS, by=by)
    until(lambda: "running" == state(each[0], first, by=by))
    waiting = [submit(each[0], HANGS, by=by) for _ in range(2)]

    for client in each:
        until(lambda client=client: 429 == refusal(client, by, dry_run=True).status_code)
        answer = refusal(client, by)
        problem(answer, 429, "queue_full", retryable=True)
        assert 1 <= int(answer.headers["Retry-After"])
        assert "2 generations of this key are waiting" in answer.json["detail"]
        submit(client, HANGS, by=ADMIN)
    simulator.finish()
    until(lambda: "queued" != state(each[0], waiting[0], by=by))
    until(lambda: 202 == refusal(each[1], by).status_code)
    assert 429 == refusal(each[1], by).status_code
    until(lambda: 429 == refusal(each[2], by, dry_run=True).status_code)


def test_a_full_queue_has_the_seconds_until_the_minute_of_the_key_lets_its_next_work_go(clients):
    client, *_ = each = clients()
    _, by = known_key(each, requests_per_minute=1, max_queued=1)
    ended(client, submit(client, by=by), by=by)
    submit(client, by=by)

    until(lambda: 30 < int(refusal(client, by).headers["Retry-After"]) <= 61)
    batch = {"model_name": "flux-dev", "prompts": ["a fox", "a cat"]}
    never = client.post("/generate-batch", json=batch, headers={**by, **ASYNC})
    problem(never, 429, "queue_full")
    assert never.json["retryable"] is False


def test_a_key_with_its_share_of_the_queue_gets_the_seconds_until_its_own_work_goes(clients):
    client, *_ = clients(MAX_QUEUED=4)
    _, by = known_key([client], requests_per_minute=1)
    ended(client, submit(client, by=by), by=by)
    for _ in range(3):
        submit(client, by=by)

    until(lambda: 30 < int(refusal(client, by).headers["Retry-After"]) <= 61)
    assert 202 == refusal(client, ADMIN).status_code


def test_the_waiting_work_of_a_deleted_key_never_passes_the_limits_that_it_had(clients, simulator):
    each = clients()
    key_id, by = known_key(each, max_concurrent=1)
    running = submit(each[1], HANGS, by=by)
    until(lambda: "running" == state(each[1], running, by=by))
    waiting = [submit(client, HANGS, by=by) for client in each * 2]

    each[0].delete(f"/keys/{key_id}", headers=ADMIN)

    assert {"canceled"} == {ended(each[0], work, by=ADMIN)["status"] for work in waiting}
    assert "running" == state(each[0], running, by=ADMIN)
    assert 1 == simulator.counts().creations_accepted
