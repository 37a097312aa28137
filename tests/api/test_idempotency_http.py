"""`Idempotency-Key`: a repeated request gets the work of the first, which is billed once."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from io import BytesIO

import pytest
import requests
from flask import g
from werkzeug.datastructures import MultiDict
from werkzeug.test import encode_multipart

from harness.service_process import running_service, until
from loop_thread import ClientDisconnected, result
from tests.api.test_forms import LARGE, a_file
from tests.support.api_client import (
    ASYNC,
    CHECKED,
    PICTURE,
    ended,
    meanwhile,
    picture,
    state,
    submit,
    submit_batch,
)
from tests.support.callers import ADMIN, PNG, USER
from tests.support.ndjson import NDJSON, lines, settle
from tests.support.problem_documents import fields, problem
from tests.support.served_in_process import online

KEY = {"Idempotency-Key": "order-1"}
OTHER = {"X-Replicate-API-Key": "r8_other"}
BATCH = {"model_name": "flux-dev", "prompts": ["[[slow=0]] a", "[[slow=0]] [[fail]] b"]}


def ask(client, body=PICTURE, path="/generate", *, by=USER, **headers):
    return client.post(path, json=body, headers=by | KEY | headers)


def without_timing(answer):
    return {name: value for name, value in answer.json.items() if name != "request_id"}


@pytest.mark.every_database
def test_the_same_key_and_body_is_the_same_generation_once_it_has_ended(client, simulator):
    first, again = ask(client), ask(client)

    assert (200, 200) == (first.status_code, again.status_code)
    assert first.json == again.json
    assert 1 == simulator.counts().creations_accepted


def test_the_order_of_the_fields_of_a_body_does_not_matter(client):
    first, again = ask(client), ask(client, dict(reversed(PICTURE.items())))

    assert first.json["id"] == again.json["id"]


def test_3_and_3_0_are_the_same_body(client, simulator):
    at = {"headers": USER | {"Idempotency-Key": "n", "Content-Type": "application/json"}}
    text = '{"model_name": "flux-dev", "prompt": "[[slow=0]] a", "guidance": %s}'

    answers = [
        client.post("/generate", data=text % number, **at) for number in ("3", "3.0", "3e0", "30e-1", "3.5")
    ]

    assert [200, 200, 200, 200, 409] == [answer.status_code for answer in answers]
    assert 1 == len({answer.json["id"] for answer in answers[:4]})
    assert 1 == simulator.counts().creations_accepted


NULLS = {"seed": None, "image": None, "fallback": None, "timeout": None, "webhook": None}


@pytest.mark.parametrize(
    "body", [picture(), picture() | NULLS, picture() | {"num_outputs": 1.0, "go_fast": None}]
)
def test_a_field_that_is_null_equals_an_omitted_field(client, simulator, body):
    least = {name: value for name, value in body.items() if value is not None}
    for kind, wrap in (
        ("generate", lambda each: each),
        ("generate-batch", lambda each: {"requests": [each]}),
    ):
        at = {"headers": USER | {"Idempotency-Key": "the-key-of-" + kind}}
        answers = [
            client.post(f"/{kind}", json=wrap(each), **at)
            for each in (body, least, least | NULLS, least | {"seed": 1})
        ]
        assert [200, 200, 200, 409] == [answer.status_code for answer in answers]
        assert 1 == len({answer.json["id"] for answer in answers[:3]})
    assert 2 == simulator.counts().creations_accepted


def test_a_null_field_in_a_batch_equals_an_omitted_field(client, simulator):
    body = {"model_name": "flux-dev", "prompts": ["[[slow=0]] a"], "guidance": 3.0}
    at = {"headers": USER | {"Idempotency-Key": "prompts"}}
    more = {"file_names": None, "max_concurrent": None, "seed": None}

    answers = [
        client.post("/generate-batch", json=each, **at)
        for each in (body, body | more, body | {"guidance": 3})
    ]

    assert [200, 200, 200] == [answer.status_code for answer in answers]
    assert 1 == simulator.counts().creations_accepted


@pytest.mark.parametrize(("prompt", "status"), [("[[fail]]", 500), ("[[nsfw]]", 422)])
def test_a_failure_is_returned_again_under_its_key_and_not_retried(client, simulator, prompt, status):
    first, again = ask(client, picture(prompt)), ask(client, picture(prompt))

    assert (status, status) == (first.status_code, again.status_code)
    assert without_timing(first) == without_timing(again)
    assert 1 == simulator.counts().creations_accepted


def test_the_same_key_with_another_body_is_a_conflict_and_nothing_is_spent(client, simulator):
    ask(client)

    for body in (picture("another"), PICTURE | {"seed": 3}, PICTURE | {"max_cost_usd": 1}):
        problem(ask(client, body), 409, "idempotency_conflict")
    problem(ask(client, BATCH, "/generate-batch"), 409, "idempotency_conflict")
    assert 1 == simulator.counts().creations_accepted
    assert 1 == len(client.get("/generations", headers=USER).json["generations"])


def test_keys_of_different_callers_are_different_keys(client, simulator):
    ids = {ask(client, by=caller).json["id"] for caller in (USER, OTHER, ADMIN)}

    assert 3 == len(ids)
    assert 3 == simulator.counts().creations_accepted


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 256, "\t", "a\x7f"])
def test_an_invalid_key_is_refused(client, simulator, key):
    for path in ("/generate", "/generate-batch"):
        answer = client.post(path, json=PICTURE, headers=USER | {"Idempotency-Key": key})
        assert ["Idempotency-Key"] == fields(answer)
    assert CHECKED == dict(simulator.counts().requests)


@pytest.mark.parametrize("key", ["x" * 255, "!", "';--", "~/../{}%00", "a,b"])
def test_any_visible_ascii_text_is_a_valid_key(client, simulator, key):
    ids = {ask(client, **{"Idempotency-Key": key}).json["id"] for _ in range(2)}

    assert 1 == len(ids) == simulator.counts().creations_accepted


def test_a_refused_request_leaves_its_key_free(make_app, simulator):
    client = make_app(MAX_QUEUED=1, REPLICATE_CONCURRENT_LIMIT=1, BUDGET_USD_PER_DAY=1).test_client()
    assert ["prompt"] == fields(ask(client, picture("")))
    problem(ask(client, PICTURE | {"max_cost_usd": 0.001}), 402, "budget_exceeded")
    problem(ask(client, BATCH, "/generate-batch"), 429, "queue_full", retryable=False)
    running, queued = submit(client, "[[hang]]"), ""
    until(lambda: 1 == simulator.counts().in_flight)
    queued = submit(client, "queued")
    problem(ask(client), 429, "queue_full", retryable=True)

    for target in (queued, running):
        client.delete(f"/generations/{target}", headers=USER)

    assert 200 == ask(client).status_code


@pytest.mark.every_database
def test_simultaneous_requests_with_one_key_create_one_generation(app, simulator):
    with online(app) as url, ThreadPoolExecutor(12) as callers:

        def call(number):
            path, body = (("/generate", PICTURE), ("/generate-batch", BATCH))[number % 2]
            headers = USER | {"Idempotency-Key": path}
            return path, requests.post(url + path, json=body, headers=headers, timeout=30).json()

        shown = list(callers.map(call, range(12)))

    for path in ("/generate", "/generate-batch"):
        assert 1 == len({answer["id"] for each, answer in shown if each == path})
    assert 3 == simulator.counts().creations_accepted


def test_a_repeat_while_it_runs_waits_with_the_first_or_responds_async(client, simulator):
    target = submit(client, "[[hang]]", by=USER | KEY)
    body = picture("[[hang]]")

    asked_again = ask(client, body, **ASYNC)
    waited = meanwhile(simulator.finish, lambda: ask(client, body))

    assert (202, target) == (asked_again.status_code, asked_again.json["id"])
    assert (200, target) == (waited.status_code, waited.json["id"])
    assert 200 == ask(client, body, **ASYNC).status_code  # the work has ended, so its result is returned
    assert 1 == simulator.counts().creations_accepted


@pytest.mark.every_database
def test_a_repeated_batch_is_returned_with_all_results_in_both_formats(client, simulator):
    first = ask(client, BATCH, "/generate-batch").json
    again = ask(client, BATCH, "/generate-batch").json
    shown = list(lines(ask(client, BATCH, "/generate-batch", **NDJSON)))

    assert first == again
    assert first["results"] == shown[:2]
    assert first == shown[2] | {"results": shown[:2]}
    assert 2 == simulator.counts().creations_accepted


def test_a_repeated_stream_has_every_line_once(client, simulator):
    body = {"model_name": "flux-dev", "prompts": ["[[slow=0]] a", "[[hang]] b", "[[hang]] c"]}
    submit_batch(client, *body["prompts"], by=USER | KEY)

    shown = meanwhile(simulator.finish, lambda: list(lines(ask(client, body, "/generate-batch", **NDJSON))))

    assert {0, 1, 2} == {line["index"] for line in shown[:-1]}
    assert (4, 3) == (len(shown), shown[-1]["succeeded"])
    assert 3 == simulator.counts().creations_accepted


def test_a_repeated_batch_needs_no_room_in_a_full_queue(make_app, simulator):
    client = make_app(MAX_QUEUED=3, REPLICATE_CONCURRENT_LIMIT=1).test_client()
    prompts = ["[[hang]] a", "b", "c"]
    target = submit_batch(client, *prompts, by=USER | KEY)
    until(lambda: 1 == simulator.counts().in_flight)

    body = {"model_name": "flux-dev", "prompts": prompts}
    again = ask(client, body, "/generate-batch", **ASYNC)
    refused = ask(client, body, "/generate-batch", **ASYNC, **{"Idempotency-Key": "new"})

    assert (202, target) == (again.status_code, again.json["id"])
    problem(refused, 429, "queue_full", retryable=True)
    assert 3 == client.delete(f"/batches/{target}", headers=USER).json["failed"]


def form(client, image, **headers):
    parts = MultiDict({"model_name": "flux-kontext-max", "prompt": "blue", "input_image": a_file(image)})
    boundary, body = encode_multipart(parts)
    kind = f"multipart/form-data; boundary={boundary}"
    return client.post(
        "/generate", data=BytesIO(body).read(), content_type=kind, headers=USER | KEY | headers
    )


def test_a_form_is_the_same_if_its_files_are(app, client, simulator):
    first, again = form(client, LARGE), form(client, LARGE)

    assert (200, first.json["id"]) == (again.status_code, again.json["id"])
    for other in (LARGE + b"!", PNG + b"small"):
        problem(form(client, other), 409, "idempotency_conflict")
    assert 1 == simulator.counts().creations_accepted
    assert 1 == len(simulator.uploads())


def test_uploaded_files_of_refused_requests_are_removed(app, client):
    uploads = app.extensions["service"].uploads_dir

    form(client, LARGE)
    form(client, LARGE)
    form(client, LARGE + b"!")

    until(lambda: [] == list(uploads.iterdir()))


def test_work_is_found_by_its_key_after_a_disconnect_before_the_response(app, client, simulator):
    service = app.extensions["service"]
    for path, body in (("/generate", PICTURE), ("/generate-batch", BATCH)):
        key = {"Idempotency-Key": path}
        with app.test_request_context(path, headers=USER | key, method="POST", json=body):
            first = submit_and_disconnect(service, path, body)

        again = ask(client, body, path, **key)
        assert (200, first) == (again.status_code, again.json["id"])
    assert 3 == simulator.counts().creations_accepted


def submit_and_disconnect(service, path, body) -> str:
    """Submit work whose caller disconnects while the work is being written to the disk. Returns its id."""
    from api import incoming
    from parsing.batch import parse_batch
    from parsing.generation import parse_generation

    caller, is_one = incoming.require_payer(), path == "/generate"
    wanted = (parse_generation if is_one else parse_batch)(body, service.context)
    g.request_id = "req"
    submission = incoming.submission(
        "gen" if is_one else "batch",
        wanted,
        body,
        context=service.context,
        plan=None if is_one else service.loop.run(service.generations.forecast(wanted, caller)).plan,
        caller=caller,
        address=incoming.address(),
        key=incoming.idempotency_key(),
        seconds=None,
    )
    with unwritten(service):
        future = service.loop.submit(service.generations.submit(submission))
        until(lambda: service.loop.call(lambda: service.core.supervisor.find(submission.id)))
        future.cancel()
        with pytest.raises(ClientDisconnected):
            result(future)
    return submission.id


@contextmanager
def unwritten(service):
    """No flush of the ledger returns before the block ends."""
    flush, is_over = service.ledger.flush, asyncio.Event()

    async def later():
        await is_over.wait()
        await flush()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.ledger, "flush", later)
        yield
        service.loop.call(is_over.set)


def test_a_disconnect_without_a_key_leaves_no_work(app, simulator):
    service = app.extensions["service"]
    with app.test_request_context("/generate-batch", headers=USER, method="POST"):
        submit_and_disconnect(service, "/generate-batch", {"model_name": "flux-dev", "prompts": ["a", "b"]})
    settle(app)

    assert CHECKED == dict(simulator.counts().requests)
    assert 2 == app.test_client().get("/status").json["generations"]["canceled"]


def test_work_with_a_webhook_continues_after_a_disconnect(make_app):
    app = make_app(REPLICATE_SIMULATE=1)
    service = app.extensions["service"]
    body = PICTURE | {"webhook": "http://127.0.0.1:1/"}
    with app.test_request_context("/generate", headers=USER, method="POST"):
        target = submit_and_disconnect(service, "/generate", body)

    assert "succeeded" == ended(app.test_client(), target)["status"]


@pytest.mark.slow
def test_a_caller_that_disconnected_finds_the_result_by_its_key(simulator, tmp_path):
    with running_service(
        REPLICATE_BASE_URL=simulator.url, DATA_DIR=tmp_path, REPLICATE_CONCURRENT_LIMIT=1
    ) as service:
        body = picture("[[hang]]")
        # the disconnect may come before the request is accepted
        service.connect("/generate", body, **USER, **KEY).close()
        first = service.connect("/generate", body, **USER, **KEY)
        until(lambda: 1 == simulator.counts().in_flight)
        first.close()
        batch = service.connect("/generate-batch", BATCH, **USER, **{"Idempotency-Key": "b"})
        until(lambda: requests.get(f"{service.url}/status", timeout=30).json()["concurrency"]["waiting"])
        batch.close()

        one, several = (
            meanwhile(
                simulator.finish,
                partial(requests.post, service.url + path, json=each, headers=by, timeout=30),
            )
            for path, each, by in (
                ("/generate", body, USER | KEY),
                ("/generate-batch", BATCH, USER | {"Idempotency-Key": "b"}),
            )
        )

    assert (200, True) == (one.status_code, one.json()["success"])
    assert (1, 1) == (several.json()["succeeded"], several.json()["failed"])
    assert 3 == simulator.counts().creations_accepted


def restarted(make_app, app, **settings):
    """A new application on the same directory, as after a restart."""
    app.extensions["service"].close()
    return make_app(**settings).test_client()


@pytest.mark.every_database
def test_a_key_returns_work_that_ended_before_a_restart(make_app, simulator):
    app = make_app()
    client = app.test_client()
    first, failed = ask(client), ask(client, picture("[[nsfw]]"), **{"Idempotency-Key": "f"})
    batch = ask(client, BATCH, "/generate-batch", **{"Idempotency-Key": "b"}).json

    client = restarted(make_app, app)

    assert first.json == ask(client).json
    again = ask(client, picture("[[nsfw]]"), **{"Idempotency-Key": "f"})
    assert without_timing(failed) == without_timing(again)
    assert batch == ask(client, BATCH, "/generate-batch", **{"Idempotency-Key": "b"}).json
    problem(ask(client, picture("other")), 409, "idempotency_conflict")
    assert 4 == simulator.counts().creations_accepted


def test_a_key_of_a_simulated_request_is_free_for_a_real_one(make_app):
    app = make_app(REPLICATE_SIMULATE=1)
    simulated = ask(app.test_client()).json

    real = ask(restarted(make_app, app)).json

    assert (True, False) == (simulated["simulated"], real["simulated"])


@pytest.mark.every_database
def test_work_from_before_a_restart_resumes_when_its_owner_sends_the_key(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    ran = submit(client, "[[hang]]", by=USER | KEY)
    until(lambda: 1 == simulator.counts().in_flight)
    waited = submit(client, by=USER | {"Idempotency-Key": "w"})
    batch = submit_batch(client, *BATCH["prompts"], by=USER | {"Idempotency-Key": "b"})

    client = restarted(make_app, app, REPLICATE_CONCURRENT_LIMIT=1)

    problem(ask(client, picture("other")), 409, "idempotency_conflict")
    problem(ask(client, picture("[[hang]]"), by=OTHER, **{"Idempotency-Key": "\x01"}), 400, "invalid_request")
    simulator.finish()
    first = ask(client, picture("[[hang]]"))
    second = ask(client, **{"Idempotency-Key": "w"})
    shown = list(lines(ask(client, BATCH, "/generate-batch", **{"Idempotency-Key": "b"}, **NDJSON)))
    assert [(200, ran), (200, waited)] == [(each.status_code, each.json["id"]) for each in (first, second)]
    assert (3, batch, 1, 1) == (len(shown), *(shown[-1][name] for name in ("id", "succeeded", "failed")))
    assert 4 == simulator.counts().creations_accepted


@pytest.mark.every_database
def test_the_admins_key_returns_work_that_resumed_at_the_start(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]", by=ADMIN)
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client, by=ADMIN | KEY)

    client = restarted(make_app, app)
    simulator.finish()

    again = ask(client, by=ADMIN)
    assert (200, target) == (again.status_code, again.json["id"])
    assert 2 == simulator.counts().creations_accepted


@pytest.mark.parametrize("syncs_take", [0, 0.2])
def test_a_caller_waiting_at_a_stop_finds_the_work_by_its_key_in_the_next_process(
    make_app, simulator, monkeypatch, syncs_take
):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    slow_down(monkeypatch, app.extensions["service"].ledger, syncs_take)
    body = picture("[[hang]]")
    with ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(ask, app.test_client(), body)]
        until(lambda: 1 == simulator.counts().in_flight)
        calls.append(
            callers.submit(ask, app.test_client(), BATCH, "/generate-batch", **{"Idempotency-Key": "b"})
        )
        until(lambda: 2 == app.extensions["service"].loop.call(lambda: accepted(app)))
        app.extensions["service"].close()
        one, several = [call.result() for call in calls]
    for answer in (one, several):
        problem(answer, 503, "shutting_down", retryable=True)
        assert "false" == answer.headers["x-should-retry"]
    waits = [answer.headers.get("Retry-After") for answer in (one, several)]
    assert 1 == waits.count(None)  # one slot was taken

    client = make_app().test_client()
    simulator.finish()
    again = ask(client, body), ask(client, BATCH, "/generate-batch", **{"Idempotency-Key": "b"})
    assert [200, 200] == [each.status_code for each in again]
    assert [one.json["id"], several.json["id"]] == [each.json["id"] for each in again]
    assert 3 == simulator.counts().creations_accepted


def test_a_key_returns_its_work_during_a_stop(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    asked = {
        "made": (picture(), "/generate"),
        "failed": (picture("[[fail]]"), "/generate"),
        "several": (BATCH, "/generate-batch"),
    }
    ends = {key: ask(client, *each, **{"Idempotency-Key": key}) for key, each in asked.items()}
    hanging = ask(client, picture("[[hang]]"), Prefer="respond-async", **{"Idempotency-Key": "hanging"})
    until(lambda: 1 == simulator.counts().in_flight)
    made = simulator.counts().creations_accepted

    app.extensions["service"].begin_drain(60)

    for key, end in ends.items():
        again = ask(client, *asked[key], **{"Idempotency-Key": key})
        assert (end.status_code, end.json["id"]) == (again.status_code, again.json["id"])
    going_on = ask(client, picture("[[hang]]"), Prefer="respond-async", **{"Idempotency-Key": "hanging"})
    assert (202, hanging.json["id"]) == (going_on.status_code, going_on.json["id"])
    for path, body in (("/generate", picture("new")), ("/generate-batch", BATCH)):
        new = ask(client, body, path, **{"Idempotency-Key": "new"})
        problem(new, 503, "shutting_down", retryable=True)
        assert (None, "5") == (new.headers.get("x-should-retry"), new.headers["Retry-After"])
    assert made == simulator.counts().creations_accepted


def slow_down(monkeypatch, ledger, seconds):
    """Delay each flush of the ledger by this many seconds."""
    flush = ledger.flush

    async def later():
        await flush()
        await asyncio.sleep(seconds)

    monkeypatch.setattr(ledger, "flush", later)


def accepted(app):
    """The number of keys whose work has not ended."""
    return len(app.extensions["service"].generations.keys.key_of)


def test_a_key_outlives_its_day_while_its_work_is_suspended(make_app, simulator, tmp_path):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    over = ask(client, picture("over"), **{"Idempotency-Key": "over"}).json["id"]
    submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client, by=USER | KEY)
    app.extensions["service"].close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE idempotency_keys SET created_at = created_at - 90000")

    app = make_app()
    service = app.extensions["service"]
    service.loop.run(service.generations.tidy_up(resume_ttl=service.settings.RESUME_TTL))

    again = ask(app.test_client())
    assert (200, target) == (again.status_code, again.json["id"])
    assert over != ask(app.test_client(), picture("anew"), **{"Idempotency-Key": "over"}).json["id"]


@pytest.mark.every_database
def test_expired_work_is_returned_as_interrupted_under_its_key(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client, by=USER | KEY)
    batch = submit_batch(client, *BATCH["prompts"], by=USER | {"Idempotency-Key": "b"})
    app.extensions["service"].close()
    app = make_app(RESUME_TTL=0)
    service = app.extensions["service"]
    client = app.test_client()

    def is_expired():
        service.loop.run(service.generations.tidy_up(resume_ttl=service.settings.RESUME_TTL))
        return "failed" == state(client, target, by=ADMIN)

    until(is_expired)
    problem(ask(client), 500, "interrupted", retryable=True)
    again = ask(client, BATCH, "/generate-batch", **{"Idempotency-Key": "b"})
    assert (200, batch, 2) == (again.status_code, again.json["id"], again.json["failed"])
    assert {"interrupted"} == {item["error"]["code"] for item in again.json["results"]}
    assert 1 == simulator.counts().creations_accepted


def test_a_dry_run_ignores_its_key(client, simulator):
    assert ask(client, BATCH | {"dry_run": True}, "/generate-batch").json["dry_run"]

    assert 200 == ask(client, BATCH, "/generate-batch").status_code
    assert ask(client, BATCH | {"dry_run": True}, "/generate-batch").json["dry_run"]
    assert 2 == simulator.counts().creations_accepted


@pytest.mark.every_database
def test_simultaneous_repeats_after_a_restart_resume_the_work_once(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    blocker = submit(client, "[[hang]]")
    until(lambda: 1 == simulator.counts().in_flight)
    target = submit(client, by=USER | KEY)
    app.extensions["service"].close()
    app = make_app()
    with online(app) as url, ThreadPoolExecutor(8) as callers:

        def call(number):
            if number % 2:
                return requests.get(f"{url}/generations/{target}", headers=USER, timeout=30).json()
            return requests.post(f"{url}/generate", json=PICTURE, headers=USER | KEY, timeout=30).json()

        shown = list(callers.map(call, range(8)))

    assert {target} == {each["id"] for each in shown}
    client = app.test_client()
    assert "succeeded" == ended(client, target)["status"]
    assert 2 == simulator.counts().creations_accepted
    client.delete(f"/generations/{blocker}", headers=USER)
    assert "canceled" == state(client, blocker)
