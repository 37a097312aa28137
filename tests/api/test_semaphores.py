"""Named semaphores over HTTP: limits for operators, permits for generations, leases for other services."""

import time

import pytest

from harness.service_process import until
from tests.support.api_client import ASYNC, ended, look_up, picture, state, submit, submit_batch
from tests.support.callers import ADMIN, USER
from tests.support.problem_documents import fields, problem


def create(client, semaphore_id="gpu", limit=1):
    return client.post(
        "/_admin/semaphores", json={"semaphore_id": semaphore_id, "limit": limit}, headers=ADMIN
    )


def listed(client):
    return client.get("/_admin/semaphores", headers=ADMIN).json["semaphores"]


def used(client, semaphore_id="gpu"):
    [found] = [each for each in listed(client) if each["semaphore_id"] == semaphore_id]
    return found["in_use"], found["leases"], found["waiting"]


def lease(client, ttl=60, *, key=None, semaphore_id="gpu"):
    headers = ADMIN if key is None else {**ADMIN, "Idempotency-Key": key}
    return client.post(f"/semaphores/{semaphore_id}/leases", json={"ttl": ttl}, headers=headers)


def release(client, lease_id, semaphore_id="gpu"):
    return client.delete(f"/semaphores/{semaphore_id}/leases/{lease_id}", headers=ADMIN).status_code


def renew(client, lease_id, semaphore_id="gpu"):
    return client.post(f"/semaphores/{semaphore_id}/leases/{lease_id}/renew", headers=ADMIN)


def test_a_semaphore_is_created_changed_listed_and_deleted(client):
    assert [] == listed(client)
    assert 200 == create(client, "gpu", 1).status_code
    assert 200 == create(client, "db-1.main_x", 3.0).status_code
    assert 5 == create(client, "gpu", 5).json["limit"]

    assert [("db-1.main_x", 3), ("gpu", 5)] == [
        (each["semaphore_id"], each["limit"]) for each in listed(client)
    ]
    deleted = client.delete("/_admin/semaphores/gpu", headers=ADMIN)
    assert (204, None) == (deleted.status_code, deleted.headers.get("Content-Type"))
    assert ["db-1.main_x"] == [each["semaphore_id"] for each in listed(client)]
    assert 404 == client.delete("/_admin/semaphores/gpu", headers=ADMIN).status_code


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, ["semaphore_id", "limit"]),
        ({"semaphore_id": "a/b", "limit": 1}, ["semaphore_id"]),
        ({"semaphore_id": "", "limit": 1}, ["semaphore_id"]),
        ({"semaphore_id": "..", "limit": 1}, ["semaphore_id"]),
        ({"semaphore_id": "gpü", "limit": 1}, ["semaphore_id"]),
        ({"semaphore_id": "gpu\n", "limit": 1}, ["semaphore_id"]),
        ({"semaphore_id": "a\0b", "limit": 1}, ["semaphore_id"]),
        ({"semaphore_id": "g" * 101, "limit": 1}, ["semaphore_id"]),
        ({"semaphore_id": 7, "limit": 1}, ["semaphore_id"]),
        ({"semaphore_id": "gpu", "limit": 0}, ["limit"]),
        ({"semaphore_id": "gpu", "limit": 10_001}, ["limit"]),
        ({"semaphore_id": "gpu", "limit": True}, ["limit"]),
        ({"semaphore_id": "gpu", "limit": None}, ["limit"]),
        ({"semaphore_id": "gpu", "limit": 1, "wait": 3}, ["wait"]),
        ([], ["body"]),
    ],
)
def test_a_bad_semaphore_is_refused_by_field(client, body, named):
    answer = client.post("/_admin/semaphores", json=body, headers=ADMIN)

    problem(answer, 400, "invalid_request")
    assert sorted(named) == sorted(fields(answer))
    assert [] == listed(client)


def test_a_bad_id_is_refused_in_words(client):
    [wrong] = create(client, "a b").json["errors"]

    assert (
        "must have 1 to 100 letters, digits, dots, hyphens and underscores, the first a letter or digit"
        == wrong["message"]
    )


@pytest.mark.parametrize("ttl", [4.9, 3601, "60", None, True, -1, [60]])
def test_a_lease_of_another_duration_is_refused(client, ttl):
    create(client)

    assert ["ttl"] == fields(lease(client, ttl))
    assert (0, 0, 0) == used(client)


def test_at_most_a_thousand_semaphores_are_created(client):
    answers = [create(client, f"s{number}").status_code for number in range(1_002)]

    assert ([200] * 1000, [400, 400]) == (answers[:1000], answers[1000:])
    assert 200 == create(client, "s1", 7).status_code
    assert 1000 == len(listed(client))


ROUTES = [
    ("get", "/_admin/semaphores"),
    ("post", "/_admin/semaphores"),
    ("delete", "/_admin/semaphores/gpu"),
    ("post", "/semaphores/gpu/leases"),
    ("post", "/semaphores/gpu/leases/x/renew"),
    ("delete", "/semaphores/gpu/leases/x"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_requires_the_admin_key(client, method, path):
    create(client)

    assert 401 == getattr(client, method)(path, json={}).status_code
    assert 403 == getattr(client, method)(path, json={}, headers=USER).status_code
    assert 1 == len(listed(client))


def test_an_unknown_semaphore_is_refused_by_field_before_anything_is_spent(client, simulator):
    create(client)
    before = dict(simulator.counts().requests)
    for path, body in (
        ("/generate", picture(external_semaphore_id="gp/u")),
        ("/generate", picture(external_semaphore_id="gpu2", dry_run=True)),
        ("/generate-batch", {"model_name": "flux-dev", "prompts": ["a"], "external_semaphore_id": "☃"}),
        ("/generate-batch", {"requests": [picture()], "external_semaphore_id": "x", "dry_run": True}),
    ):
        answer = client.post(path, json=body, headers=ADMIN)
        assert (400, ["external_semaphore_id"]) == (answer.status_code, fields(answer))

    for wrong in ("", 7, "g" * 101, ["gpu"]):
        answer = client.post("/generate", json=picture(external_semaphore_id=wrong), headers=ADMIN)
        assert (400, ["external_semaphore_id"]) == (answer.status_code, fields(answer))
    item = {"requests": [picture(external_semaphore_id="gpu")]}
    answer = client.post("/generate-batch", json=item, headers=ADMIN)
    assert (400, ["requests[0].external_semaphore_id"]) == (answer.status_code, fields(answer))
    assert before.get("create") == simulator.counts().requests.get("create")


def test_generations_and_batches_show_their_semaphore_and_wait_for_its_permits(client):
    create(client)
    taken = lease(client).json["lease_id"]
    single = submit(client, by=ADMIN, external_semaphore_id="gpu")
    batch = submit_batch(client, "a", "b", by=ADMIN, external_semaphore_id="gpu")
    other = submit(client, by=ADMIN)

    assert "succeeded" == ended(client, other, by=ADMIN)["status"]
    assert ("queued", (1, 1, 3)) == (state(client, single, by=ADMIN), used(client))
    assert "gpu" == look_up(client, single, by=ADMIN)["external_semaphore_id"]
    assert 204 == release(client, taken)
    assert "gpu" == ended(client, single, by=ADMIN)["external_semaphore_id"]
    results = ended(client, batch, by=ADMIN)["results"]
    assert [("succeeded", "gpu")] * 2 == [(each["status"], each["external_semaphore_id"]) for each in results]
    assert "external_semaphore_id" not in look_up(client, other, by=ADMIN)
    until(lambda: used(client) == (0, 0, 0))


def test_a_raised_limit_admits_waiting_work_at_once(client):
    create(client)
    assert 201 == lease(client).status_code
    waiting = submit(client, by=ADMIN, external_semaphore_id="gpu")
    assert "queued" == state(client, waiting, by=ADMIN)

    create(client, limit=2)

    assert "succeeded" == ended(client, waiting, by=ADMIN)["status"]


def test_a_form_and_a_users_request_may_name_a_semaphore(client):
    create(client)
    form = {"model_name": "flux-dev", "prompt": "[[slow=0]]", "external_semaphore_id": "gpu"}

    answer = client.post("/generate", data=form, headers=USER, content_type="multipart/form-data")

    assert (200, "gpu") == (answer.status_code, answer.json["external_semaphore_id"])


def test_the_semaphore_is_part_of_what_a_key_stands_for(client):
    create(client)
    create(client, "db")
    headers = {**ADMIN, "Idempotency-Key": "k"}

    def post(**more):
        return client.post("/generate", json=picture(**more), headers=headers)

    first = post(external_semaphore_id="gpu")
    until(lambda: client.delete("/_admin/semaphores/gpu", headers=ADMIN).status_code == 204)
    assert first.json["id"] == post(external_semaphore_id="gpu").json["id"]
    assert {409} == {post(external_semaphore_id="db").status_code, post().status_code}


def test_a_dry_run_counts_the_permits(client):
    create(client)
    plans = [
        client.post(
            "/generate-batch",
            json={"model_name": "flux-dev", "prompts": ["a"] * 8, "dry_run": True, **more},
            headers=ADMIN,
        ).json
        for more in ({}, {"external_semaphore_id": "gpu"})
    ]

    assert "immediate" == plans[0]["strategy"]
    assert plans[1]["estimated_seconds"] > 7 * plans[0]["estimated_seconds"]


def test_a_semaphore_that_is_needed_cannot_be_deleted(client):
    create(client)

    def delete():
        return client.delete("/_admin/semaphores/gpu", headers=ADMIN)

    taken = lease(client).json["lease_id"]
    problem(delete(), 409, "semaphore_in_use")
    waiting = submit(client, by=ADMIN, external_semaphore_id="gpu")
    release(client, taken)
    ended(client, waiting, by=ADMIN)
    until(lambda: delete().status_code == 204)


# ── Leases


def test_a_lease_is_refused_when_all_permits_are_in_use(client):
    create(client, limit=2)
    first, second = lease(client), lease(client)

    refused = lease(client)

    assert (201, 201) == (first.status_code, second.status_code)
    assert first.json["lease_id"] != second.json["lease_id"]
    problem(refused, 429, "semaphore_full", retryable=True)
    assert 1 <= int(refused.headers["Retry-After"]) <= 25
    assert 204 == release(client, first.json["lease_id"])
    assert 201 == lease(client).status_code


def test_a_renewed_lease_lasts_longer_and_an_ended_one_is_gone(client):
    create(client)
    taken = lease(client).json
    time.sleep(0.002)  # the dates are in milliseconds

    renewed = renew(client, taken["lease_id"])

    assert (200, taken["lease_id"]) == (renewed.status_code, renewed.json["lease_id"])
    assert renewed.json["expires_at"] > taken["expires_at"]
    problem(renew(client, taken["lease_id"], "other"), 410, "lease_expired")
    assert [204, 204] == [release(client, taken["lease_id"]) for _ in range(2)]
    for lease_id in (taken["lease_id"], "lease_x", "☃"):
        problem(renew(client, lease_id), 410, "lease_expired")
    assert (0, 0, 0) == used(client)


def test_the_same_key_gets_the_same_lease_while_it_lives(client):
    create(client, limit=2)
    create(client, "db")
    first = lease(client, key="k").json

    assert (201, first) == ((again := lease(client, key="k")).status_code, again.json)
    problem(lease(client, 61, key="k"), 409, "idempotency_conflict")
    assert first["lease_id"] != lease(client, key="k", semaphore_id="db").json["lease_id"]
    assert (1, 1, 0) == used(client)
    release(client, first["lease_id"])
    assert first["lease_id"] != lease(client, key="k").json["lease_id"]


def test_a_lease_of_an_unknown_semaphore_is_not_found(client):
    assert 404 == lease(client).status_code
    assert 404 == client.post("/semaphores/a/b/leases", json={"ttl": 60}, headers=ADMIN).status_code
    assert 204 == release(client, "lease_x")


# ── Restarts


def test_semaphores_leases_and_waiting_work_survive_a_restart(restarted):
    client = restarted()
    create(client, limit=2)
    kept = [lease(client, key=key).json for key in ("a", "b")]
    waiting = submit(client, by=ADMIN, external_semaphore_id="gpu")

    client = restarted()

    until(lambda: used(client) == (2, 2, 1))
    assert "gpu" == look_up(client, waiting, by=ADMIN)["external_semaphore_id"]
    assert kept[0] == lease(client, key="a").json
    assert 200 == renew(client, kept[1]["lease_id"]).status_code
    assert 409 == client.delete("/_admin/semaphores/gpu", headers=ADMIN).status_code
    assert 204 == release(client, kept[0]["lease_id"])
    assert "succeeded" == ended(client, waiting, by=ADMIN)["status"]


def test_a_prediction_keeps_its_permit_over_a_restart(restarted, simulator):
    client = restarted()
    create(client)
    running = submit(client, "[[hang]]", by=ADMIN, external_semaphore_id="gpu")
    until(lambda: state(client, running, by=ADMIN) == "running")

    client = restarted()

    until(lambda: used(client)[0] == 1)
    assert 429 == lease(client).status_code
    simulator.finish()
    ended(client, running, by=ADMIN)
    until(lambda: used(client)[0] == 0)


def test_work_that_waits_for_its_owner_keeps_its_semaphore(restarted):
    client = restarted()
    create(client)
    taken = lease(client).json["lease_id"]
    waiting = submit(client, by=USER, external_semaphore_id="gpu")

    client = restarted()

    release(client, taken)
    assert 409 == client.delete("/_admin/semaphores/gpu", headers=ADMIN).status_code
    assert "gpu" == ended(client, waiting, by=USER)["external_semaphore_id"]
    until(lambda: client.delete("/_admin/semaphores/gpu", headers=ADMIN).status_code == 204)
    assert [] == listed(restarted())


def test_nothing_changes_while_the_ledger_cannot_be_written(client, tmp_path):
    create(client)
    taken = lease(client).json["lease_id"]
    (tmp_path / "ledger.db").rename(tmp_path / "gone")
    until(lambda: lease(client).status_code == 500)

    assert 500 == create(client, "db").status_code
    assert 500 == client.delete("/_admin/semaphores/gpu", headers=ADMIN).status_code
    assert 500 == client.post("/generate", json=picture(), headers={**ADMIN, **ASYNC}).status_code
    (tmp_path / "gone").rename(tmp_path / "ledger.db")
    until(lambda: release(client, taken) == 204)
    until(lambda: used(client) == (0, 0, 0))
    assert ["gpu"] == [each["semaphore_id"] for each in listed(client)]
