"""`x-should-retry: false` is sent, without `Retry-After`, if a prediction exists, may exist, or will."""

from concurrent.futures import ThreadPoolExecutor
from email import message_from_bytes
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

import errors
from harness.service_process import until
from server.worker import Worker
from tests.api.test_errors import Broken, Failing
from tests.api.test_ledger_down import locked
from tests.support.api_client import picture
from tests.support.callers import ADMIN, PICTURE, SERVER_TOKEN, USER, USER_TOKEN
from tests.support.ndjson import NDJSON, lines
from tests.support.problem_documents import problem

KEY = {"Idempotency-Key": "once"}
BATCH = {"model_name": "flux-dev", "prompts": ["[[hang]]", "[[hang]]"]}


def headers_of(answer):
    return answer.headers.get("x-should-retry"), answer.headers.get("Retry-After")


MAY_BE_PAID = ("false", None)
UNPAID = (None, None)


def generate(client, body=PICTURE, headers=ADMIN, path="/generate"):
    return client.post(path, json=body, headers=headers)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (picture("[[fail]]"), 500),
        (picture("[[nsfw]]"), 422),
        (picture("[[empty]]"), 500),
        (picture("[[canceled]]"), 500),
        (picture("[[hang]]") | {"timeout": 1}, 500),
        (picture("[[fail]]") | {"fallback": ["qwen-image", "flux-schnell"]}, 500),
        (picture("[[fail]]") | {"fallback": True, "max_cost_usd": 0.025}, 500),
    ],
    ids=lambda value: value["prompt"] if isinstance(value, dict) else None,
)
def test_a_failed_prediction_forbids_retries_also_when_its_key_is_repeated(client, body, status):
    for again in (False, True):
        answer = generate(client, body, headers=ADMIN | KEY)
        assert (status, *MAY_BE_PAID) == (answer.status_code, *headers_of(answer)), again


def test_a_refused_creation_after_a_failed_prediction_forbids_retries(client, simulator):
    simulator.inject(on="create", after=1, times=4, status=503, headers={"Retry-After": "0"})
    body = picture("[[only=flux-dev]] [[fail]]") | {"fallback": ["qwen-image"]}

    answer = generate(client, body)

    problem(answer, 500, "upstream_error", retryable=True)
    assert MAY_BE_PAID == headers_of(answer)


@pytest.mark.parametrize(
    ("order", "account", "headers"),
    [
        ({"status": 503, "times": 4, "headers": {"Retry-After": "0"}}, {}, ADMIN),
        ({"status": 429, "times": 20, "headers": {"Retry-After": "0"}}, {}, ADMIN),
        ({"status": 422, "body": {"detail": "no"}}, {}, ADMIN),
        (None, {"reject": True}, USER),
        (None, {"reject": True}, ADMIN),
        (None, {"credit": "empty"}, USER),
        (None, {"credit": "empty"}, ADMIN),
    ],
)
def test_a_creation_that_replicate_refused_allows_retries(client, simulator, order, account, headers):
    if order:
        simulator.inject(on="create", **order)
    for token in (USER_TOKEN, SERVER_TOKEN):
        simulator.account(token, **account)

    answer = generate(client, headers=headers)

    assert answer.status_code >= 400
    assert UNPAID == headers_of(answer)
    assert 0 == simulator.counts().creations_accepted


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.OutcomeUnknown("no"), MAY_BE_PAID),
        (ZeroDivisionError(), MAY_BE_PAID),
        (errors.UpstreamError("no"), UNPAID),
    ],
)
def test_a_creation_of_unknown_outcome_forbids_retries(make_app, error, expected):
    assert expected == headers_of(generate(make_app(provider=Failing(error)).test_client()))


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/generate", {}, ADMIN),
        ("/generate", PICTURE, {}),
        ("/generate", PICTURE | {"max_cost_usd": 0.001}, ADMIN),
        ("/generate-batch", BATCH | {"max_cost_usd": 0.001}, ADMIN),
        ("/generate-batch", {"requests": [PICTURE, {}]}, ADMIN),
        ("/generate", {"prompt": "x" * 20_000_000}, ADMIN),
        ("/configure", {"concurrent_limit": 3}, USER),
        ("/nowhere", {}, ADMIN),
    ],
)
def test_a_refused_request_allows_retries(client, path, body, headers):
    answer = generate(client, body, headers, path)

    assert 400 <= answer.status_code < 500
    assert UNPAID == headers_of(answer)


def test_an_idempotency_conflict_allows_retries(client):
    generate(client, headers=ADMIN | KEY)

    answer = generate(client, picture("another"), headers=ADMIN | KEY)

    assert (409, *UNPAID) == (answer.status_code, *headers_of(answer))


def test_a_temporary_refusal_has_retry_after(make_app):
    app = make_app(MAX_QUEUED=1)
    full = generate(app.test_client(), BATCH, path="/generate-batch")
    app.extensions["service"].begin_drain(0)
    draining = generate(app.test_client())

    assert [429, 503] == [each.status_code for each in (full, draining)]
    for answer in (full, draining):
        should_retry, retry_after = headers_of(answer)
        assert should_retry is None
        assert int(retry_after) >= 1


@pytest.mark.parametrize("limit", [1, 10])
def test_work_that_continues_after_a_restart_forbids_retries(make_app, simulator, limit):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=limit)
    service = app.extensions["service"]
    asked = (
        ("/generate", picture("[[hang]]"), ADMIN),
        ("/generate", picture("[[hang]]"), ADMIN | KEY),
        ("/generate-batch", BATCH, ADMIN),
        ("/generate-batch", BATCH, ADMIN | NDJSON),
    )
    with ThreadPoolExecutor() as callers:
        calls = [
            callers.submit(generate, app.test_client(), body, headers, path) for path, body, headers in asked
        ]
        until(lambda: len(service.loop.call(service.core.supervisor.tasks)) == 6 + 2)  # the batches' own
        until(lambda: simulator.counts().in_flight == min(limit, 6))
        service.begin_drain(0)

    for call in calls:
        problem(call.result(), 503, "shutting_down", retryable=True)
    sent_headers = [headers_of(call.result()) for call in calls]
    assert {"false"} == {should_retry for should_retry, _ in sent_headers}
    # Nothing was created yet for what waits for the one slot.
    assert (1 if limit == 1 else 4) == [retry_after for _, retry_after in sent_headers].count(None)


def test_a_crash_forbids_retries_of_a_post_and_allows_those_of_a_get(app):
    client = app.test_client()
    app.extensions["service"], real = Broken(), app.extensions["service"]
    posted, looked_at = generate(client), client.get("/generations/gen_1", headers=ADMIN)
    app.extensions["service"] = real

    assert [500, 500] == [posted.status_code, looked_at.status_code]
    assert [MAY_BE_PAID, UNPAID] == [headers_of(posted), headers_of(looked_at)]


def test_a_crash_of_the_server_forbids_retries_and_is_logged_with_its_request_id():
    sent = []
    client = SimpleNamespace(sendall=sent.append, head=b"")
    with capture_logs() as events:
        worker = SimpleNamespace(wsgi=SimpleNamespace(config={"PUBLIC_PATH": ""}))
        Worker.handle_error(worker, object(), client, None, ValueError())
        Worker.handle_error(worker, None, client, None, ValueError())

    crashed, unreadable = (message_from_bytes(answer.partition(b"\r\n")[2]) for answer in sent)
    assert [MAY_BE_PAID, UNPAID] == [
        headers_of(SimpleNamespace(headers=each)) for each in (crashed, unreadable)
    ]
    (event,) = events
    assert ("request_crashed", "error", crashed["X-Request-ID"]) == (
        event["event"],
        event["log_level"],
        event["request"],
    )


def test_a_failed_generation_may_be_read_again_and_again(client):
    failed = generate(client, picture("[[fail]]"))

    read = client.get(f"/generations/{failed.json['id']}", headers=ADMIN)

    assert (200, "failed", *UNPAID) == (read.status_code, read.json["status"], *headers_of(read))


def test_a_batch_with_failed_items_has_no_header_against_retries(client):
    batch = {"model_name": "flux-dev", "prompts": ["[[fail]]", "[[nsfw]]"]}

    for accept in ({}, NDJSON):
        answer = generate(client, batch, ADMIN | accept, "/generate-batch")
        assert (200, *UNPAID) == (answer.status_code, *headers_of(answer))
        results = list(lines(answer))[:-1] if accept else answer.json["results"]
        assert [False, False] == [each["success"] for each in results]


@pytest.mark.slow
def test_a_repeated_key_forbids_retries_while_the_ledger_is_down(app, tmp_path):
    client = app.test_client()
    generate(client, headers=ADMIN | KEY)
    with locked(tmp_path):
        new = generate(client, picture("new"))
        known = generate(client, headers=ADMIN | KEY)

    assert [500, 500] == [new.status_code, known.status_code]
    assert [UNPAID, MAY_BE_PAID] == [headers_of(new), headers_of(known)]


def test_the_page_explains_retries(client):
    page = client.get("/docs").text
    start = page.index("<h2>Retries</h2>")

    assert {"Idempotency-Key", "x-should-retry: false", "batch"} == {
        word
        for word in ("Idempotency-Key", "x-should-retry: false", "batch")
        if word in page[start : page.index("<h2>Errors</h2>")]
    }
