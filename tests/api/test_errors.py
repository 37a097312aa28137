"""Errors: each code occurs, with its status, headers and problem document, and none is HTML."""

import itertools
import json
import re
import sys
import threading
from collections import Counter

import pytest
from structlog.testing import capture_logs

import errors
from errors import Problem, ServiceError
from errors.calls import (
    GeminiKeyRejected,
    ModelUnavailable,
    OutputInvalid,
    OutputTruncated,
    PromptTooLarge,
    QuotaExhausted,
    SchemaRefused,
    ServerGeminiKeyRejected,
)
from errors.content import ContentRefused
from errors.listing import every_error, restored
from harness.service_process import until
from providers import Created
from providers.memory import MemoryProvider
from tests.support.callers import ADMIN, PICTURE, SERVER_TOKEN, USER, USER_TOKEN
from tests.support.problem_documents import problem

TABLE = {
    "invalid_json": 400,
    "invalid_request": 400,
    "prompt_too_large": 400,
    "schema_refused": 400,
    "unauthenticated": 401,
    "replicate_token_rejected": 401,
    "gemini_key_rejected": 401,
    "insufficient_credit": 402,
    "budget_exceeded": 402,
    "forbidden": 403,
    "model_not_allowed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "idempotency_conflict": 409,
    "model_exists": 409,
    "semaphore_in_use": 409,
    "lease_expired": 410,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "range_not_satisfiable": 416,
    "content_refused": 422,
    "headers_too_large": 431,
    "queue_full": 429,
    "semaphore_full": 429,
    "generation_failed": 500,
    "generation_timeout": 500,
    "outcome_unknown": 500,
    "upstream_error": 500,
    "upstream_rate_limited": 500,
    "quota_exhausted": 500,
    "model_unavailable": 500,
    "output_truncated": 500,
    "output_invalid": 500,
    "server_token_rejected": 500,
    "server_gemini_key_rejected": 500,
    "server_out_of_credit": 500,
    "interrupted": 500,
    "secret_lost": 500,
    "internal": 500,
    "shutting_down": 503,
    "starting": 503,
    "loop_blocked": 503,
    "still_running": 504,
}

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
READ = {"GET", "HEAD"}
ROUTES = {
    "/": READ,
    "/generate": {"POST"},
    "/generate-batch": {"POST"},
    "/configure": {"POST"},
    "/models": READ,
    "/status": READ,
    "/health": READ,
    "/health/live": READ,
    "/health/ready": READ,
    "/openapi.json": READ,
    "/docs": READ,
    "/generations": READ,
    "/generations/gen_1": READ | {"DELETE"},
    "/generations/gen_1/events": READ,
    "/batches/batch_1": READ | {"DELETE"},
    "/usage": READ,
    "/keys": READ | {"POST"},
    "/keys/self": READ | {"PATCH", "DELETE"},
    "/keys/key_1": READ | {"PATCH", "DELETE"},
    "/keys/key_1/rotate": {"POST"},
    "/audit": READ,
    "/metrics": READ,
    "/webhooks/replicate": {"POST"},
    "/_admin/semaphores": READ | {"POST"},
    "/_admin/semaphores/gpu": {"DELETE"},
    "/semaphores/gpu/leases": {"POST"},
    "/semaphores/gpu/leases/lease_1": {"DELETE"},
    "/semaphores/gpu/leases/lease_1/renew": {"POST"},
}
"""Addresses, and the methods that each takes."""

ENDS = [
    (ContentRefused("no"), False),
    (errors.GenerationFailed("no"), False),
    (errors.GenerationTimeout("no"), True),
    (errors.OutcomeUnknown("no"), False),
    (errors.UpstreamError("no"), True),
    (errors.UpstreamRateLimited("no"), True),
    (errors.ServerTokenRejected("no"), False),
    (errors.ServerOutOfCredit("no"), False),
    (errors.TokenRejected("no"), False),
    (errors.InsufficientCredit("no"), False),
]
"""What a generation may end with, and whether it is worth another try."""


class Failing(MemoryProvider):
    """A provider whose every creation raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    async def create(self, *_args: object, **_named: object) -> Created:
        raise self._error


class Broken:
    """A service that has nothing it should have."""


def test_the_error_tree_has_every_promised_code_with_its_status_and_no_other():
    promised = {(error.code, error.status) for error in every_error()}
    assert set(TABLE.items()) == promised, "TABLE has every code"


def test_the_tree_in_the_docstring_has_every_error():
    drawn = re.findall(r"─ \w+ +(\d{3}) (\w+)", errors.__doc__)

    assert TABLE == {code: int(status) for status, code in drawn}


def test_only_internal_errors_share_a_code():
    def leaves(kind):
        below = [each for each in kind.__subclasses__() if not each.__module__.startswith("tests.")]
        return [leaf for child in below for leaf in leaves(child)] if below else [kind]

    codes = Counter(error.code for error in leaves(ServiceError))
    assert {"internal"} == {code for code, times in codes.items() if times > 1}
    assert {errors.Internal, errors.LedgerDown} == {
        error for error in leaves(ServiceError) if error.code == "internal"
    }


@pytest.mark.parametrize(
    "error",
    [
        *(error for error, _ in ENDS),
        errors.Interrupted("no"),
        errors.Internal(),
        OutputTruncated("The thinking took all tokens."),
        OutputInvalid([Problem("characters[0].name", "must be a text")]),
        PromptTooLarge([Problem("prompt", "has 1,300,000 tokens, and the model takes 1,048,576")]),
        SchemaRefused([Problem("json_schema", "has too many states")]),
        QuotaExhausted("The day's calls are used up.", resets_at="2026-11-29T08:00:00Z"),
        QuotaExhausted("The account is out of money."),
        ModelUnavailable("The model has ended."),
        GeminiKeyRejected("no"),
        ServerGeminiKeyRejected(),
        errors.InvalidRequest(
            [
                Problem("prompt", "is too long", "x" * 5000),
                Problem("size", "is required"),
                Problem("n", "no", None),
            ]
        ),
    ],
    ids=lambda error: error.code,
)
def test_a_recorded_error_reads_the_same_later(error):
    later = restored(json.loads(json.dumps(error.as_item())))

    assert (type(error), error.headers) == (type(later), later.headers)
    assert error.as_problem("req_1") == later.as_problem("req_1")


@pytest.mark.parametrize(("error", "retryable"), ENDS, ids=lambda value: getattr(value, "code", None))
def test_the_error_of_a_generation_has_its_status_and_the_generations_id(make_app, error, retryable):
    app = make_app(provider=Failing(error))

    answer = app.test_client().post("/generate", json=PICTURE, headers=ADMIN)

    told = problem(answer, TABLE[error.code], error.code, retryable=retryable)
    assert "no" == told["detail"]
    assert told["id"].startswith("gen_")


def test_a_crash_in_a_generation_is_internal_and_shows_no_details(make_app):
    app = make_app(provider=Failing(ZeroDivisionError("the secret is r8_server")))

    answer = app.test_client().post("/generate", json=PICTURE, headers=ADMIN)

    problem(answer, 500, "internal")
    assert b"ZeroDivision" not in answer.data
    assert b"r8_server" not in answer.data


@pytest.mark.parametrize("path", ["/status", "/health"])
def test_a_crash_in_a_view_is_internal_and_shows_no_details(app, path):
    app.extensions["service"], real = Broken(), app.extensions["service"]

    answer = app.test_client().get(path)

    problem(answer, 500, "internal")
    assert b"Broken" not in answer.data
    assert b"attribute" not in answer.data
    app.extensions["service"] = real


@pytest.mark.parametrize(
    ("prompt", "status", "code"),
    [
        ("[[fail]] x", 500, "generation_failed"),
        ("[[nsfw]] x", 422, "content_refused"),
        ("[[empty]] x", 500, "generation_failed"),
        ("[[canceled]] x", 500, "generation_failed"),
    ],
)
def test_the_failure_of_a_prediction_determines_the_code(client, prompt, status, code):
    problem(client.post("/generate", json=PICTURE | {"prompt": prompt}, headers=ADMIN), status, code)


def test_a_prediction_beyond_its_timeout_is_cancelled_and_fails_with_generation_timeout(client, simulator):
    body = PICTURE | {"prompt": "[[hang]] x", "timeout": 1}

    problem(client.post("/generate", json=body, headers=ADMIN), 500, "generation_timeout", retryable=True)

    assert {"canceled": 1} == dict(simulator.counts().finished)


@pytest.mark.parametrize(
    ("account", "mine", "servers"),
    [
        ({"reject": True}, (401, "replicate_token_rejected"), (500, "server_token_rejected")),
        ({"credit": "empty"}, (402, "insufficient_credit"), (500, "server_out_of_credit")),
    ],
)
def test_account_errors_differ_for_the_accounts_owner_and_the_admin(
    client, simulator, account, mine, servers
):
    simulator.account(USER_TOKEN, **account)
    simulator.account(SERVER_TOKEN, **account)

    problem(client.post("/generate", json=PICTURE, headers=USER), *mine)
    told = problem(client.post("/generate", json=PICTURE, headers=ADMIN), *servers)

    assert "billing" not in told["detail"]
    assert "purchase" not in told["detail"]


@pytest.mark.parametrize(
    ("status", "times", "code"), [(503, 4, "upstream_error"), (429, 20, "upstream_rate_limited")]
)
def test_a_refusal_of_replicate_is_the_error_after_the_last_attempt(client, simulator, status, times, code):
    simulator.inject(on="create", times=times, status=status, headers={"Retry-After": "0"})

    problem(client.post("/generate", json=PICTURE, headers=ADMIN), 500, code, retryable=True)

    assert 0 == simulator.counts().creations_accepted


def test_the_admin_gets_server_token_rejected_without_a_server_token(make_app, simulator):
    client = make_app(REPLICATE_API_TOKEN="").test_client()

    told = problem(client.post("/generate", json=PICTURE, headers=ADMIN), 500, "server_token_rejected")

    assert "REPLICATE_API_TOKEN" in told["detail"]
    assert 0 == simulator.counts().requests.get("create", 0)


@pytest.mark.parametrize("path", ["/generate", "/generate-batch", "/health", "/health/ready"])
def test_a_draining_service_answers_503_with_retry_after(app, path):
    client = app.test_client()
    app.extensions["service"].begin_drain(0)

    ask = client.get if path.startswith("/health") else client.post
    answer = ask(path, headers=ADMIN)

    problem(answer, 503, "shutting_down", retryable=True)
    assert 1 <= int(answer.headers["Retry-After"])


def test_a_second_signal_may_interrupt_the_start_of_a_drain_at_any_line(app):
    service = app.extensions["service"]

    def lines_until_interrupted(at):
        lines = itertools.count(1)

        def trace(*_):
            if next(lines) == at:
                sys.settrace(None)
                service.begin_drain(0)
            return trace

        sys.settrace(trace)
        service.begin_drain(0)
        sys.settrace(None)
        return next(lines)

    def interrupted_everywhere():
        at = 1
        while lines_until_interrupted(at) > at:
            at += 1
        reached.append(at)

    reached: list[int] = []
    thread = threading.Thread(target=interrupted_everywhere, daemon=True)
    thread.start()
    thread.join(30)

    assert reached, "one waits for the other for ever"
    assert reached[0] > 10


def test_two_drains_at_once_report_the_work_that_they_leave_once(app, simulator):
    client, service = app.test_client(), app.extensions["service"]
    client.post(
        "/generate", json=PICTURE | {"prompt": "[[hang]]"}, headers=ADMIN | {"Prefer": "respond-async"}
    )
    until(lambda: simulator.counts().in_flight)
    ended = [threading.Event(), threading.Event()]

    with capture_logs() as logged:
        for each in ended:
            service.begin_drain(0, then=each.set)
        assert all(each.wait(30) for each in ended)

    assert [1] == [each["generations"] for each in logged if each["event"] == "drain_timeout"]


def test_a_draining_service_still_responds_to_reads(app):
    client = app.test_client()
    made = client.post("/generate", json=PICTURE, headers=ADMIN).json
    app.extensions["service"].begin_drain(0)

    assert made == client.get(f"/generations/{made['id']}", headers=ADMIN).json
    assert [made] == client.get("/generations", headers=ADMIN).json["generations"]


@pytest.mark.parametrize("path", ROUTES)
def test_a_method_that_a_route_does_not_allow_is_405_with_allow(client, path):
    takes = ROUTES[path]

    for method in set(METHODS) - takes - {"OPTIONS"}:
        answer = client.open(path, method=method)
        assert 405 == answer.status_code
        assert takes == set(answer.headers["Allow"].split(", "))
        if method != "HEAD":
            problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("path", ROUTES)
def test_options_lists_the_methods_of_a_route(client, path):
    answer = client.options(path)

    assert (204, b"") == (answer.status_code, answer.data)
    assert ROUTES[path] | {"OPTIONS"} == set(answer.headers["Allow"].split(", "))


@pytest.mark.parametrize("path", [path for path in ROUTES if path != "/"])
def test_a_slash_at_the_end_makes_no_difference(client, path):
    for method in ROUTES[path] - {"DELETE"}:
        with client.open(path, method=method) as plain, client.open(f"{path}/", method=method) as slashed:
            assert plain.status_code == slashed.status_code
            assert plain.content_type == slashed.content_type


def test_an_unknown_url_is_404(client):
    for path in (
        "/nowhere", "/generate//", "/health//", "/a//b", "/%00", "/health%00",
        "/health\0", "/\xff", "/static/app.py", "/../etc/passwd", "/docs/../app.py", "/.env", "/" + "a" * 5000,
        "/<script>", "/{{7*7}}", "/GENERATE", "*",
    ):  # fmt: skip
        for method in ("GET", "POST", "OPTIONS", "BREW"):
            problem(client.open(method=method, environ_overrides={"PATH_INFO": path}), 404, "not_found")


def test_head_is_get_without_the_body(client):
    for path in (
        "/",
        "/models",
        "/status",
        "/health",
        "/health/live",
        "/health/ready",
        "/openapi.json",
        "/docs",
    ):
        answer = client.head(path)
        assert (200, b"") == (answer.status_code, answer.data)


def test_a_hostile_host_header_causes_neither_html_nor_a_crash(client):
    for host in ("", "<script>", ":::", "[::1", "a b", "\xe9"):
        assert 200 == client.get("/health", headers={"Host": host}).status_code
    problem(client.get("/health", headers={"Host": "x" * 5000}), 400, "invalid_request")


def test_a_valid_request_id_is_returned_in_every_response(client):
    for path in (*ROUTES, "/nowhere"):
        for method in ("GET", "POST"):
            answer = client.open(path, method=method, headers={"X-Request-ID": "trace-42:a/b"})
            assert "trace-42:a/b" == answer.headers["X-Request-ID"]


def test_an_invalid_request_id_is_replaced_by_a_unique_one(client):
    hostile = ("", " ", "a b", "x" * 201, "\xe9", "a\tb", "\x7f")
    made = [client.get("/health", headers={"X-Request-ID": each}).headers["X-Request-ID"] for each in hostile]

    assert all(each.startswith("req_") for each in made)
    assert len(hostile) == len(set(made))


def test_every_response_forbids_sniffing_and_caching(client):
    for path in (*ROUTES, "/nowhere"):
        answer = client.get(path)
        assert ("nosniff", "no-store") == (
            answer.headers["X-Content-Type-Options"],
            answer.headers["Cache-Control"],
        )


def test_an_error_makes_its_problem_document():
    assert {
        "type": "/docs#not_found",
        "title": "Not found",
        "status": 404,
        "request_id": "req_1",
        "code": "not_found",
        "detail": "Not found",
        "retryable": False,
    } == errors.NotFound().as_problem("req_1")
    assert issubclass(errors.NotFound, ServiceError)
