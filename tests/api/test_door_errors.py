"""Errors below the path of a door have the door's shape, and all others stay problem documents."""

import pytest

from doors.openai import errors as openai
from doors.replicate import errors as replicate
from errors import (
    BudgetExceeded,
    GenerationFailed,
    IdempotencyConflict,
    InvalidRequest,
    LedgerDown,
    Problem,
    QueueFull,
)
from tests.api.test_errors import Broken
from tests.support.callers import ADMIN, PICTURE

PROBLEM = "application/problem+json"


@pytest.mark.parametrize("root", ["", "/below"])
def test_an_unknown_path_below_the_openai_door_is_refused_in_its_shape(make_app, root):
    client = make_app(PUBLIC_URL="https://here.example/below").test_client()

    answer = client.get(f"{root}/v1/nothing", headers=ADMIN | {"X-Request-ID": "mine"})

    assert (404, "application/json") == (answer.status_code, answer.mimetype)
    error = answer.json["error"]
    assert {"message", "type", "param", "code"} == error.keys()
    assert ("not_found", "not_found_error", None) == (error["code"], error["type"], error["param"])
    assert "mine" == answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1x", "/nothing/v1/images", "/below/v1"])
def test_errors_elsewhere_stay_problem_documents(client, path):
    answer = client.get(path)

    assert (404, PROBLEM) == (answer.status_code, answer.content_type)


def shaped(error, **more):
    return openai.shape(error.as_problem("req_1") | more, error.headers)


def test_the_first_invalid_field_is_the_param_and_all_are_listed():
    body, mimetype, headers = shaped(
        InvalidRequest([Problem("size", "is no size", 3), Problem("n", "is no n")])
    )

    assert ("application/json", {}) == (mimetype, headers)
    error = body["error"]
    assert ("invalid_request_error", "size", "invalid_request") == (
        error["type"],
        error["param"],
        error["code"],
    )
    assert ["size", "n"] == [each["field"] for each in error["errors"]]


@pytest.mark.parametrize(
    ("error", "kind", "headers"),
    [
        (BudgetExceeded("no"), "insufficient_quota", {}),
        (QueueFull("no"), "rate_limit_error", {}),
        (LedgerDown("no"), "server_error", {}),
        (GenerationFailed("no"), "server_error", openai.NO_RETRY),
        (IdempotencyConflict("no"), "conflict_error", openai.NO_RETRY),
        (QueueFull("no", retryable=False), "rate_limit_error", openai.NO_RETRY),
    ],
)
def test_a_failure_that_a_retry_cannot_mend_forbids_it(error, kind, headers):
    body, _, more = shaped(error)

    assert (kind, error.code, headers) == (body["error"]["type"], body["error"]["code"], more)


def test_a_failure_that_was_paid_names_its_generation():
    body, _, _ = shaped(GenerationFailed("no"), id="gen_1", cost_usd=0.025, model_name="a/b")

    assert {"error", "id", "cost_usd", "model_name"} == body.keys()


@pytest.mark.parametrize("shape", [openai.shape, replicate.shape])
def test_a_budget_that_is_used_up_has_its_name_and_period_at_each_door(shape):
    error = BudgetExceeded("no", budget="shop", period="week", begins_anew="2026-11-30T00:00:00.000Z")

    body, _, _ = shape(error.as_problem("req_1"), error.headers)

    assert ("shop", "week", "2026-11-30T00:00:00.000Z") == tuple(
        body[name] for name in ("budget", "period", "begins_anew")
    )


@pytest.mark.parametrize("root", ["", "/below"])
def test_errors_below_the_replicate_door_are_in_its_shape(make_app, root):
    client = make_app(PUBLIC_URL="https://here.example/below").test_client()

    answer = client.get(f"{root}/replicate/v1/nothing", headers=ADMIN | {"X-Request-ID": "mine"})

    assert (404, PROBLEM) == (answer.status_code, answer.mimetype)
    assert {"title", "detail", "status", "code", "request_id"} == answer.json.keys()
    assert (404, "not_found", "mine") == tuple(answer.json[each] for each in ("status", "code", "request_id"))
    assert "mine" == answer.headers["x-request-id"]


def test_invalid_fields_are_a_422_with_all_of_them_at_the_replicate_door():
    error = InvalidRequest(
        [
            Problem("input.num_inference_steps", "must be at most 4", 5),
            Problem("input.prompt", "is required"),
            Problem("webhook", "must name a public host"),
        ]
    )

    body, _, _ = replicate.shape(error.as_problem("req_1"), {})

    assert (422, "Input validation failed") == (body["status"], body["title"])
    assert [
        {"type": "number_lte", "field": "input.num_inference_steps", "description": "Must be at most 4"},
        {"type": "required", "field": "input", "description": "prompt is required"},
        {"type": "invalid", "field": "webhook", "description": "Must name a public host"},
    ] == body["invalid_fields"]
    assert [
        "- input.num_inference_steps: Must be at most 4",
        "- input: prompt is required",
        "- webhook: Must name a public host",
    ] == body["detail"].splitlines()


def test_a_full_queue_has_the_seconds_until_a_retry_at_the_replicate_door():
    error = QueueFull("no", retry_after=7)

    body, _, _ = replicate.shape(error.as_problem("req_1"), error.headers)

    assert (429, 7, "no") == (body["status"], body["retry_after"], body["detail"])


@pytest.mark.parametrize(
    "path", ["/v1/images/generations", "/v1/images/edits", "/v1/models", "/v1/models/a/b"]
)
def test_a_wrong_method_at_the_openai_door_is_refused_in_its_shape(client, path):
    method = "GET" if "images" in path else "POST"

    answer = client.open(path, method=method)

    assert (405, "method_not_allowed") == (answer.status_code, answer.json["error"]["code"])
    assert ("POST" if "images" in path else "GET") in answer.headers["Allow"]


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/form-data; boundary=x"])
def test_a_body_of_another_type_is_refused_in_openais_shape(client, content_type):
    answer = client.post("/v1/images/generations", data=b"x", headers=ADMIN, content_type=content_type)

    assert (415, "unsupported_media_type") == (answer.status_code, answer.json["error"]["code"])


def test_a_body_that_is_too_large_is_refused_in_openais_shape(client):
    answer = client.post("/v1/images/generations", json={"prompt": "x" * 20_000_000}, headers=ADMIN)

    assert (413, "payload_too_large") == (answer.status_code, answer.json["error"]["code"])


def test_a_crash_at_the_openai_door_has_its_shape_and_forbids_retries(app):
    client = app.test_client()
    app.extensions["service"], real = Broken(), app.extensions["service"]
    answer = client.post("/v1/images/generations", json=PICTURE, headers=ADMIN)
    app.extensions["service"] = real

    assert (500, "internal", "server_error") == (
        answer.status_code,
        answer.json["error"]["code"],
        answer.json["error"]["type"],
    )
    assert "false" == answer.headers["x-should-retry"]
    assert answer.headers["x-request-id"].startswith("req_")
