"""The routes: successful responses, field by field, and the quota of waiting requests."""

import json

import pytest
from werkzeug.test import EnvironBuilder

from tests.support.callers import ADMIN, PICTURE, USER
from tests.support.ndjson import NDJSON, lines, settle, stream
from tests.support.problem_documents import problem


def test_a_generation_returns_the_output_of_replicate(client, simulator):
    body = PICTURE | {"num_outputs": 2}
    answer = client.post("/generate", json=body, headers=ADMIN | {"X-Request-ID": "mine"})

    (prediction,) = simulator.predictions()
    told = answer.json
    assert (200, "application/json", "mine") == (
        answer.status_code,
        answer.content_type,
        answer.headers["X-Request-ID"],
    )
    expected = {
        "success": True,
        "id": told["id"],
        "status": "succeeded",
        "model_name": "black-forest-labs/flux-dev",
        "requested_model": "flux-dev",
        "prompt": PICTURE["prompt"],
        "prediction_id": prediction.id,
        "attempts": 1,
        "timing": told["timing"],
        "simulated": False,
        "output": list(prediction.output),
        "count": 2,
        "cost_usd": 0.05,
    }
    assert expected == {name: told.get(name) for name in expected}
    assert told["id"].startswith("gen_")
    assert {"queued", "predicting", "total"} == set(told["timing"])
    assert all(0 <= seconds < 60 for seconds in told["timing"].values())


def test_output_is_a_list_even_if_replicate_returns_one_url(client, simulator):
    body = {"model_name": "kontext-max", "prompt": "a"}

    answer = client.post("/generate", json=body, headers=USER).json

    (prediction,) = simulator.predictions()
    assert ([prediction.output], 1, 0.08) == (answer["output"], answer["count"], answer["cost_usd"])


def test_count_and_cost_follow_the_images_that_the_model_returned(client):
    body = PICTURE | {"prompt": "[[fewer]] a", "num_outputs": 4}

    answer = client.post("/generate", json=body, headers=USER).json

    assert (3, 3, 0.075) == (len(answer["output"]), answer["count"], answer["cost_usd"])


def test_a_prompt_is_returned_unchanged(client, simulator):
    prompt = ' é \U0001f600 \u2028 "quoted" </script> '

    assert prompt == client.post("/generate", json=PICTURE | {"prompt": prompt}, headers=USER).json["prompt"]

    assert prompt == simulator.predictions()[0].input["prompt"]


def test_simulated_results_are_marked_as_such(make_app):
    client = make_app(REPLICATE_SIMULATE=1).test_client()

    assert client.post("/generate", json=PICTURE, headers=ADMIN).json["simulated"] is True
    assert client.get("/status").json["simulated"] is True


def test_a_success_after_a_retry_has_the_number_of_attempts(client, simulator):
    simulator.inject(on="create", status=503, headers={"Retry-After": "0"})

    assert 2 == client.post("/generate", json=PICTURE, headers=ADMIN).json["attempts"]


def test_status_has_exactly_the_promised_fields(client):
    told = client.get("/status").json

    assert {
        "service": "replicate-concurrent-generation",
        "version": told["version"],
        "uptime_seconds": told["uptime_seconds"],
        "simulated": False,
        "admin_api_configured": True,
        "default_replicate_token_configured": True,
        "concurrency": {
            "concurrent_limit": 10,
            "current_concurrent": 0,
            "available_slots": 10,
            "waiting": 0,
            "requests_per_minute_limit": 600,
            "current_rate_per_minute": 0,
            "paused_seconds": 0.0,
            "booting": 0,
        },
        "gemini": {
            "configured": False,
            "concurrency": {
                "concurrent_limit": 15,
                "current_concurrent": 0,
                "available_slots": 15,
                "waiting": 0,
            },
            "usd_per_10_minutes": {"used": 0.0, "limit": 10.0},
            "closed": None,
            "models": {},
            "all_accounts": {"accounts": 0, "in_flight": 0, "waiting": 0},
            "upstream": {"last_answer_at": None, "failing_since": None, "throttled_until": None},
        },
        "ledger": "ok",
        "upstream": {
            "last_answer_at": None,
            "failing_since": None,
            "throttled_until": None,
            "stalled": False,
            "stalled_at": None,
            "back_at": None,
            "creations_in_doubt": 0,
        },
        "polling": {"requests_per_minute_limit": 3000, "current_rate_per_minute": 0},
        "generations": {"succeeded": 0, "failed": 0, "canceled": 0},
        "trainings": {"at_once": 2, "running": 0, "waiting": 0},
        "account_shared": False,
        "account_changed_at": None,
        "clock_skew_seconds": None,
    } == told


def test_status_counts_generations_by_their_end(client):
    for prompt in ("a", "b", "[[fail]]"):
        client.post("/generate", json=PICTURE | {"prompt": prompt}, headers=ADMIN)

    told = client.get("/status").json
    assert {"succeeded": 2, "failed": 1, "canceled": 0} == told["generations"]
    assert 3 == told["concurrency"]["current_rate_per_minute"]
    assert 3 <= told["polling"]["current_rate_per_minute"]


def test_status_shows_which_keys_are_configured(make_app):
    told = (
        make_app(CONCURRENT_DOCKER_ADMIN_API_KEY="", REPLICATE_API_TOKEN="").test_client().get("/status").json
    )

    assert (False, False) == (told["admin_api_configured"], told["default_replicate_token_configured"])


def test_health_sends_no_request_to_replicate(client, simulator):
    answer = client.get("/health")

    assert (200, "healthy") == (answer.status_code, answer.json["status"])
    assert {} == dict(simulator.counts().requests)


def test_a_request_beyond_the_quota_gets_retry_after_and_succeeds_once_the_quota_is_free(make_app):
    app = make_app(MAX_WAITING_CALLERS=1)
    client = app.test_client()
    sitting = stream(client, ADMIN, "quick", "[[hang]]")

    for path, body in (("/generate", PICTURE), ("/generate-batch", {"requests": [PICTURE]})):
        refused = client.post(path, json=body, headers=USER)
        problem(refused, 429, "queue_full", retryable=True)
        assert 1 <= int(refused.headers["Retry-After"]) <= 3600
    assert [200, 200] == [client.get(path).status_code for path in ("/health", "/status")]

    sitting.close()
    assert 200 == client.post("/generate", json=PICTURE, headers=USER).status_code


@pytest.mark.parametrize("path", ["/generate", "/generate-batch"])
def test_a_refused_request_frees_its_quota(make_app, path):
    client = make_app(MAX_WAITING_CALLERS=1).test_client()

    for body in (b"", b"{", b"{}", b'{"model_name":"x","prompts":[]}', b"x" * 20_000_000):
        for _ in range(2):
            answer = client.post(path, data=body, content_type="application/json", headers=ADMIN)
            assert answer.status_code in {400, 413}
    assert 401 == client.post(path, json=PICTURE).status_code
    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN).status_code


def test_failed_and_finished_requests_free_their_quota(make_app):
    client = make_app(MAX_WAITING_CALLERS=1).test_client()

    for prompt in ("a", "[[fail]]", "[[nsfw]]", "b"):
        answer = client.post("/generate", json=PICTURE | {"prompt": prompt}, headers=ADMIN)
        assert 429 != answer.status_code
        with client.post("/generate-batch", json={"requests": [PICTURE]}, headers=ADMIN) as whole:
            assert 200 == whole.status_code
        with stream(client, ADMIN, prompt) as streamed:
            assert 2 == len(list(lines(streamed)))


def test_a_stream_closed_early_frees_its_quota_and_cancels_the_rest(make_app, simulator):
    app = make_app(MAX_WAITING_CALLERS=1)
    client = app.test_client()

    answer = stream(client, ADMIN, "quick", "[[hang]] a", "[[hang]] b")
    next(lines(answer))
    answer.close()
    settle(app)

    assert {"succeeded": 1, "canceled": 2} == dict(simulator.counts().finished)
    assert 0 == client.get("/status").json["concurrency"]["current_concurrent"]
    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN).status_code


def test_a_stream_closed_before_its_first_line_was_read_is_cancelled_too(make_app, simulator):
    app = make_app(MAX_WAITING_CALLERS=1)
    body = {"model_name": "flux-dev", "prompts": ["quick", "[[hang]]"]}
    # By WSGI itself: the test client would read the first line.
    asked = EnvironBuilder("/generate-batch", method="POST", json=body, headers=ADMIN | NDJSON)

    app.wsgi_app(asked.get_environ(), lambda status, headers: None).close()
    settle(app)

    assert {"succeeded": 1, "canceled": 1} == dict(simulator.counts().finished)
    assert 200 == app.test_client().post("/generate", json=PICTURE, headers=ADMIN).status_code


def test_a_batch_beyond_the_queue_limit_is_refused_and_costs_nothing(make_app, simulator):
    client = make_app(MAX_QUEUED=3).test_client()
    body = {"model_name": "flux-dev", "prompts": ["a"] * 4}

    for accept in ("application/json", "application/x-ndjson"):
        answer = client.post("/generate-batch", json=body, headers=ADMIN | {"Accept": accept})
        problem(answer, 429, "queue_full", retryable=False)
        assert 1 <= int(answer.headers["Retry-After"])
    assert {} == dict(simulator.counts().requests)

    assert (
        200 == client.post("/generate-batch", json=body | {"prompts": ["a"] * 3}, headers=ADMIN).status_code
    )


def test_fields_of_responses_keep_the_order_of_the_contract(client):
    answer = client.post("/generate", json=PICTURE, headers=ADMIN)

    assert ["success", "id", "status", "model_name", "requested_model", "prompt"] == list(
        json.loads(answer.data)
    )[:6]
