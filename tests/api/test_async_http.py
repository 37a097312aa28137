"""`Prefer: respond-async` and `wait`: work continues after the response."""

from functools import partial

import pytest

from harness.service_process import until
from tests.support.api_client import (
    ASYNC,
    CHECKED,
    PICTURE,
    ended,
    look_up,
    meanwhile,
    picture,
    submit,
    submit_batch,
)
from tests.support.callers import ADMIN, USER
from tests.support.ndjson import NDJSON, stream
from tests.support.problem_documents import fields, problem


def test_respond_async_returns_the_location_at_once_and_the_work_continues(client, simulator):
    answer = client.post("/generate", json=picture("[[hang]]"), headers=USER | ASYNC)

    assert (202, "respond-async") == (answer.status_code, answer.headers["Preference-Applied"])
    assert f"/generations/{answer.json['id']}" == answer.headers["Location"]
    assert answer.json["status"] in {"queued", "submitting", "running"}
    assert "success" not in answer.json
    result = meanwhile(simulator.finish, lambda: ended(client, answer.json["id"]))
    (prediction,) = simulator.predictions()
    assert (True, list(prediction.output), 1) == (result["success"], result["output"], result["count"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefer", ["Respond-Async", "respond-async=", 'respond-async=""', "respond-async; x=y"]
)
def test_respond_async_is_read_in_every_valid_form(client, prefer):
    answer = client.post("/generate", json=picture("[[hang]]"), headers=USER | {"Prefer": prefer})

    assert (202, "respond-async") == (answer.status_code, answer.headers["Preference-Applied"])


def test_respond_async_returns_the_whole_result_of_work_that_has_ended(client):
    key = USER | {"Idempotency-Key": "k"}
    client.post("/generate", json=PICTURE, headers=key)

    answer = client.post("/generate", json=PICTURE, headers=key | ASYNC)

    assert (200, False) == (answer.status_code, "Preference-Applied" in answer.headers)


def test_a_later_get_returns_the_same_body_as_waiting(client):
    waited = client.post("/generate", json=PICTURE, headers=USER).json
    later = look_up(client, waited["id"])

    assert waited == later


def test_accepted_work_is_on_the_disk_before_the_response(app, client):
    target = submit(client, "[[hang]]")

    row = app.extensions["service"].queries.generation(target)
    assert row is not None
    assert client.delete(f"/generations/{target}", headers=USER).json["status"] == "canceled"


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefer",
    [
        "wait=0",
        'WAIT = "0"',
        "handling=strict, wait=0",
        "wait=0; x=y",
        "wait=0, wait=20",
        'a="b, wait=9", wait=0',
    ],
)
def test_wait_0_is_respond_async(client, prefer):
    answer = client.post("/generate", json=picture("[[hang]]"), headers=USER | {"Prefer": prefer})

    assert (202, "wait=0") == (answer.status_code, answer.headers["Preference-Applied"])


@pytest.mark.parametrize(
    "prefer", ["wait=20", "respond-async, wait=20", "wait=20, respond-async", "wait=999999999"]
)
def test_work_that_ends_within_the_wait_is_returned_with_its_result(client, prefer):
    answer = client.post("/generate", json=PICTURE, headers=USER | {"Prefer": prefer})

    assert (200, True) == (answer.status_code, answer.json["success"])
    assert answer.headers["Preference-Applied"].startswith("wait=")


def test_work_that_fails_within_the_wait_is_an_error_response(client):
    answer = client.post("/generate", json=picture("[[nsfw]]"), headers=USER | {"Prefer": "wait=20"})

    problem(answer, 422, "content_refused")


def test_work_that_outlasts_the_wait_continues(client, simulator):
    answer = client.post("/generate", json=picture("[[hang]]"), headers=USER | {"Prefer": "wait=1"})

    assert (202, "wait=1") == (answer.status_code, answer.headers["Preference-Applied"])
    assert answer.json["status"] in {"queued", "submitting", "running"}
    assert "succeeded" == meanwhile(simulator.finish, lambda: ended(client, answer.json["id"]))["status"]
    assert 1 == simulator.counts().creations_accepted


def test_an_unknown_preference_is_ignored(client):
    strange = (
        "wait", "wait=", "wait=abc", "wait=-1", "wait=1.5", "wait=1e3", "wait=99999999999", "wait=٣",
        "respond-asyncx", "respond", "", ",,;;==", "x" * 5000, 'wait="1', "=0", "return=minimal", "respond-async=1",
        'a="b, respond-async, c"', "wait=x, wait=0", "respond-async=no, respond-async",
    )  # fmt: skip
    for prefer in strange:
        answer = client.post(
            "/generate",
            json=picture("[[slow=0]]"),
            headers=USER | {"Prefer": prefer.encode().decode("latin-1")},
        )

        assert 200 == answer.status_code, prefer
        assert "Preference-Applied" not in answer.headers


def test_respond_async_works_for_batches_in_both_formats(client, simulator):
    body = {"model_name": "flux-dev", "prompts": ["[[hang]] a", "[[fail]] b"]}

    for more in ({}, NDJSON):
        answer = client.post("/generate-batch", json=body, headers=ADMIN | ASYNC | more)
        assert (202, "application/json") == (answer.status_code, answer.content_type)
        assert f"/batches/{answer.json['id']}" == answer.headers["Location"]
        assert 2 == answer.json["total"]
        whole = meanwhile(simulator.finish, partial(ended, client, answer.json["id"], by=ADMIN))
        assert (False, 1, 1) == (whole["success"], whole["succeeded"], whole["failed"])
        assert [0, 1] == [item["index"] for item in whole["results"]]


def test_a_batch_that_ends_within_the_wait_is_returned_with_its_results(client):
    body = {"model_name": "flux-dev", "prompts": ["a", "b"]}

    answer = client.post("/generate-batch", json=body, headers=USER | {"Prefer": "wait=20"})

    assert (200, "wait=20", 2) == (
        answer.status_code,
        answer.headers["Preference-Applied"],
        answer.json["succeeded"],
    )


def test_respond_async_is_refused_like_any_request_and_spends_nothing(make_app, simulator):
    client = make_app(MAX_QUEUED=1).test_client()
    two = {"model_name": "flux-dev", "prompts": ["a", "b"]}

    assert ["prompt"] == fields(client.post("/generate", json=picture(""), headers=USER | ASYNC))
    problem(client.post("/generate-batch", json=two, headers=USER | ASYNC), 429, "queue_full")
    problem(client.post("/generate", json=PICTURE, headers=ASYNC), 401, "unauthenticated")
    assert CHECKED == dict(simulator.counts().requests)
    assert [] == client.get("/generations", headers=USER).json["generations"]


def test_work_without_a_waiting_caller_takes_no_place_of_the_caller_limit(make_app, simulator):
    client = make_app(MAX_WAITING_CALLERS=1).test_client()

    targets = [submit(client, "[[hang]]") for _ in range(3)]

    until(lambda: 3 == simulator.counts().in_flight)
    assert 200 == client.post("/generate", json=PICTURE, headers=USER).status_code
    with stream(client, USER, "quick", "[[hang]]"):  # the only place is taken
        problem(client.post("/generate", json=PICTURE, headers=USER), 429, "queue_full", retryable=True)
        targets.append(submit(client, "[[hang]]"))
        batch = submit_batch(client, "[[hang]]")
    client.delete(f"/batches/{batch}", headers=USER)
    for target in targets:
        client.delete(f"/generations/{target}", headers=USER)
