"""The traps of the `replicate` 1.0.7 client, one by one, and that none of them affects a caller."""

import asyncio
import json
import tomllib
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from replicate import Client
from replicate.version import Versions

from auth import Caller, credentials
from catalog.outputs import Url
from catalog.references import Upload
from providers.connections import Lost
from providers.fingerprints import fingerprint
from providers.redaction import REDACTED, Redaction
from providers.replicate.answers import Account, read_prediction
from providers.replicate.client import CLIENTS_KEPT, cancel_after_header
from providers.replicate.polling import PollFailed
from providers.replicate.transport import Refusal
from simulator import Options
from tests.support.callers import SERVER_TOKEN
from tests.support.connections import FakeConnections
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import run
from tests.support.wiring import (
    ADMIN,
    OTHER_USER,
    QUICK_SEARCH,
    USER,
    on_a_loop,
    parts,
    poll_once,
    reply,
    run_with_faults,
    until,
    wire,
)

VERSION = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"

# Trap 1: hidden retries of GETs, which obey any Retry-After.


@pytest.mark.parametrize("status", [429, 503, 504])
@on_a_loop
async def test_trap_1_an_excessive_retry_after_is_not_obeyed(simulator, status):
    simulator.inject(on="get", status=status, headers={"Retry-After": "1000000"})
    async with parts(simulator) as service:
        with pytest.raises(PollFailed) as refused:
            await poll_once(service)

    assert 300.0 == refused.value.wait
    assert {"get": 1} == simulator.counts().requests


# Trap 2: a pool of a hundred connections.


@on_a_loop
async def test_trap_2_more_than_a_hundred_requests_run_at_once():
    all_here = asyncio.Event()

    async def answer_when_all_are_here(seen):
        if len(server.seen) == 150:
            all_here.set()
        await all_here.wait()
        return reply(b'{"id": "p1", "status": "succeeded", "output": ["https://replicate.delivery/a"]}')

    async with (
        wire(answer_when_all_are_here) as server,
        parts(server.url, concurrent_limit=150, create_timeout=60) as service,
    ):
        batch = await service.run_batch(["a fox"] * 150)

    assert 150 == batch.summary()["succeeded"]


# Trap 3: creations without a timeout, or held open.


@on_a_loop
async def test_trap_3_a_creation_that_hangs_ends_by_a_timeout_and_its_prediction_is_found(simulator):
    simulator.inject(on="create", hang=3600)
    async with parts(simulator, create_timeout=2) as service:
        ended = await service.run()

    (made,) = simulator.predictions()
    assert (True, made.id) == (ended.succeeded, ended.prediction.id)


@on_a_loop
async def test_trap_3_no_creation_holds_its_connection_and_each_has_a_deadline(simulator):
    async with parts(simulator, timeout=20) as service:
        await service.run()
        await service.run(timeout=81)

    made = simulator.predictions()
    headers = [{name.lower(): value for name, value in each.headers.items()} for each in made]
    assert [False, False] == ["prefer" in each for each in headers]
    assert ["10m30s", "11m31s"] == [each["cancel-after"] for each in headers]
    assert [630.0, 691.0] == [each.cancel_after for each in made]


@pytest.mark.parametrize(
    ("seconds", "header"),
    [
        (0, "5s"),
        (5, "5s"),
        (5.01, "6s"),
        (60, "1m"),
        (610, "10m10s"),
        (1800, "30m"),
        (3610, "1h10s"),
        (5401, "1h30m"),
    ],
)
def test_trap_3_a_deadline_is_well_formed_and_within_replicates_bounds(seconds, header):
    assert header == cancel_after_header(seconds)


# Trap 4: unfinished predictions that count as finished.


@on_a_loop
async def test_trap_4_a_prediction_without_output_yet_is_waited_for(simulator):
    async with parts(simulator) as service:
        ended = await service.run("[[slow=0.6]]")

    (made,) = simulator.predictions()
    assert (True, tuple(map(Url, made.output))) == (ended.succeeded, ended.prediction.outputs)


def test_trap_4_processing_is_over_with_output_and_not_without():
    assert read_prediction({"id": "p1", "status": "processing", "output": ["https://a"]}).is_over
    assert not read_prediction({"id": "p1", "status": "processing", "output": None}).is_over
    assert not read_prediction({"id": "p1", "status": "processing", "output": []}).is_over
    assert not read_prediction({"id": "p1", "status": "starting"}).is_over


@on_a_loop
async def test_trap_4_a_cancelled_prediction_is_no_success(simulator):
    async with parts(simulator) as service:
        ended = await service.run("[[canceled]]")

    assert ("failed", "generation_failed") == (ended.state, ended.error.code)


# Trap 5: answers that the client cannot read.


UNREADABLE = [
    ({"status": "aborted", "output": None}, "generation_timeout"),
    ({"status": "failed", "output": None, "error": {"message": "no"}}, "generation_failed"),
    ({"status": "failed", "output": None, "error": 17}, "generation_failed"),
    ({"status": "failed", "output": None, "error": None}, "generation_failed"),
    ({"status": "succeeded", "output": {"image": 1}}, "generation_failed"),
    ({"status": "succeeded", "output": [None, 3, ""]}, "generation_failed"),
]


@on_a_loop
async def test_trap_5_an_end_that_the_client_refuses_to_read_is_read(simulator):
    answers = [{"set": answer} for answer, _ in UNREADABLE]

    endings = await run_with_faults(simulator, answers, on="get")

    assert [(answer, code) for answer, code in UNREADABLE] == [
        (fault["set"], ended.error.code) for fault, ended, _ in endings
    ]


@on_a_loop
async def test_trap_5_answers_without_version_or_other_optional_fields_are_read(simulator):
    simulator.inject(on="create", drop=["version", "input", "urls", "logs", "created_at", "output", "error"])
    simulator.inject(on="get", drop=["version", "input", "urls", "logs", "created_at", "metrics", "error"])
    async with parts(simulator) as service:
        endings = [await service.run(), await service.run("[[sparse]]")]

    assert [True, True] == [ended.succeeded for ended in endings]
    assert [made.id for made in simulator.predictions()] == [ended.prediction.id for ended in endings]


@pytest.mark.parametrize("missing", ["id", "status"])
@on_a_loop
async def test_a_creation_whose_answer_lacks_required_fields_is_found_again(simulator, missing):
    simulator.inject(on="create", drop=[missing])
    async with parts(simulator) as service:
        ended = await service.run()

    (made,) = simulator.predictions()
    assert (True, made.id) == (ended.succeeded, ended.prediction.id)


@pytest.mark.slow
@pytest.mark.parametrize("body", [["boom"], [], "boom", 7, {}, {"error": "blocked"}, "<html>Blocked</html>"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 413, 422, 451, 307])
@on_a_loop
async def test_trap_5_a_refusal_without_replicates_error_document_is_retried(simulator, status, body):
    simulator.inject(on="create", status=status, body=body)
    async with parts(simulator) as service:
        ended = await service.run()

    assert (True, 2) == (ended.succeeded, len(ended.attempts))
    assert 1 == simulator.counts().creations_accepted
    assert 0 == simulator.counts().requests.get("account", 0)


@on_a_loop
async def test_trap_5_error_fields_that_the_client_drops_are_kept(simulator):
    body = {"detail": "no", "retry_after": 7, "invalid_fields": [{"field": "input.seed"}]}
    simulator.inject(on="get", status=422, headers={"X-Trace": "t"}, body=body)
    async with parts(simulator) as service:
        with pytest.raises(Refusal) as refused, await service.others.acquire("admin") as lease:
            await service.client.predictions.get(ADMIN, "p1", lease=lease)

    assert (422, body, "t") == (
        refused.value.status,
        refused.value.document,
        refused.value.headers["x-trace"],
    )


@on_a_loop
async def test_trap_5_replicates_validation_errors_are_reported_by_field(simulator):
    fields = [{"type": "number_lte", "field": "input.seed", "description": "Must be less than or equal to 4"}]
    simulator.inject(on="create", status=422, body={"detail": "- input.seed: …", "invalid_fields": fields})
    async with parts(simulator) as service:
        ended = await service.run()

    assert [{"field": "seed", "message": "Must be less than or equal to 4"}] == ended.error.as_item()[
        "errors"
    ]


@pytest.mark.parametrize(
    ("status", "text"),
    [(402, {"detail": "r8_user is out"}), (422, {"detail": "r8_user no"}),
     (422, {"detail": "no", "invalid_fields": [{"field": "r8_user", "description": "r8_user"}]})],
)  # fmt: skip
@on_a_loop
async def test_a_token_in_replicates_text_is_not_passed_on(simulator, status, text):
    simulator.inject(
        on="create",
        status=status,
        body=json.loads(json.dumps(text).replace("r8_user", USER.credentials["replicate"])),
    )
    async with parts(simulator) as service:
        ended = await service.run(caller=USER)

    assert "[token]" in json.dumps(ended.error.as_item())
    assert USER.credentials["replicate"] not in json.dumps(ended.error.as_item())


# Trap 6: the token is sent to the host of any output or next page.


@on_a_loop
async def test_trap_6_an_output_host_gets_no_token_and_no_request(simulator):
    async def quiet(seen):
        return reply(b"")

    async with wire(quiet) as host, parts(simulator) as service:
        simulator.inject(on="get", times=100, set={"status": "succeeded", "output": [f"{host.url}/a.png"]})
        ended = await service.run()

    assert (f"{host.url}/a.png",) == ended.prediction.outputs
    assert [] == host.seen


@on_a_loop
async def test_trap_6_the_host_of_a_foreign_next_page_gets_no_token_and_no_request():
    async def quiet(seen):
        return reply(b"{}")

    async with wire(quiet) as foreign:

        async def lost_and_listed(seen):
            if seen.method == "POST":
                return None
            if "cursor" in seen.target:
                return reply(b'{"results": [], "next": null}')
            page = b'{"results": [{"id": "x", "model": "m"}], "next": "%s/v1/predictions?cursor=c"}'
            return reply(page % foreign.url.encode())

        async with wire(lost_and_listed) as server, parts(server.url, search=QUICK_SEARCH) as service:
            await service.run()

    assert [] == foreign.seen
    listed = [seen.target for seen in server.seen if seen.method == "GET"]
    assert "/v1/predictions?cursor=c" in listed


# Trap 7: one caller's token in another caller's headers.


@on_a_loop
async def test_trap_7_concurrent_predictions_are_each_sent_with_their_own_callers_token(simulator):
    callers = (ADMIN, USER, OTHER_USER)
    async with parts(simulator) as service:
        endings = await asyncio.gather(
            *(service.run(f"number {number}", caller=callers[number % 3]) for number in range(30))
        )

    owners = {made.id: made.token for made in simulator.predictions()}
    assert [callers[n % 3].credentials["replicate"] for n in range(30)] == [
        owners[ended.prediction.id] for ended in endings
    ]


@on_a_loop
async def test_trap_7_a_token_in_the_environment_is_never_used(simulator, monkeypatch):
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_environment")
    async with parts(simulator) as service:
        await service.run(caller=USER)

    assert [USER.credentials["replicate"]] == [made.token for made in simulator.predictions()]
    with pytest.raises(ValueError, match="a token must not be empty"):
        Caller("admin", "admin", credentials(replicate=""))


class Recording(FakeConnections, httpx.AsyncBaseTransport):
    """Connections that keep each request, and give one answer that fits every endpoint."""

    def __init__(self) -> None:
        self.sent: list[tuple] = []

    async def respond(self, request: httpx.Request) -> httpx.Response:
        body, kind = await request.aread(), request.headers.get("content-type", "")
        _, _, boundary = kind.partition("boundary=")
        headers = {name: value for name, value in request.headers.items() if name != "cancel-after"}
        headers |= {"content-type": kind.partition(";")[0]}
        self.sent.append((request.method, str(request.url), headers, body.replace(boundary.encode(), b"")))
        answer = {"id": "p1", "status": "starting", "results": [], "urls": {"get": "https://f"}, "key": "k"}
        return httpx.Response(200, json=answer)

    handle_async_request = respond


class Named(BytesIO):
    name = "image.png"


@on_a_loop
async def test_every_request_is_the_one_that_the_official_client_makes():
    ours, theirs = Recording(), Recording()
    image, sent_input = (
        b"\x89PNG\r\n\x1a\n" + bytes(1_000),
        {"prompt": "ü", "numbers": [1, 2.0], "pair": (1, 2)},
    )
    hooks = {"webhook": "https://here.test", "webhook_events_filter": ["completed"]}
    async with parts("http://replicate.test/proxy", connections=ours) as service:
        client, others = service.client, service.others
        for target in ("a/b", f"a/b:{VERSION}", "deployments/acme/app"):
            for webhook in (None, "https://here.test"):
                with await service.gate.acquire("admin") as lease:
                    await client.create_prediction(
                        ADMIN, target, sent_input, lease=lease, cancel_after=60, webhook=webhook
                    )
        for method, *given in (
            (client.predictions.get, "p1"),
            (client.predictions.list, "cursor=a%3D"),
            (client.predictions.cancel, "p1"),
        ):
            with await others.acquire("admin") as lease:
                await method(ADMIN, *given, lease=lease)
        await client.create_file(ADMIN, Upload(BytesIO(image)))
        await client.default_webhook_secret(ADMIN)
        await client.account(ADMIN)
        for lookup, *name in (
            (client.get_model, "a/b"),
            (client.get_version, "a/b", VERSION),
            (client.get_deployment, "acme/app"),
        ):
            with suppress(Lost):
                await lookup(ADMIN, *name)

    official = Client(api_token=SERVER_TOKEN, base_url="http://replicate.test/proxy", transport=theirs)
    for request in (
        official.predictions.async_create("a/b", sent_input),
        official.predictions.async_create("a/b", sent_input, **hooks),
        official.predictions.async_create(f"a/b:{VERSION}", sent_input),
        official.predictions.async_create(f"a/b:{VERSION}", sent_input, **hooks),
        official.deployments.predictions.async_create("acme/app", sent_input),
        official.deployments.predictions.async_create("acme/app", sent_input, **hooks),
        official.predictions.async_get("p1"),
        official.predictions.async_list("/v1/predictions?cursor=a%3D"),
        official.predictions.async_cancel("p1"),
        official.files.async_create(Named(image), content_type="image/png"),
        official.webhooks.default.async_secret(),
        official.accounts.async_current(),
        official.models.async_get("a/b"),
        Versions(official, ("a", "b")).async_get(VERSION),
        official.deployments.async_get("acme/app"),
    ):
        with suppress(ValueError):  # the official client reads the answer by it
            await request

    assert 15 == len(theirs.sent)
    assert theirs.sent == ours.sent


# Trap 8: clients belong to a loop, and nothing else closes them.


@on_a_loop
async def test_trap_8_each_token_has_one_client_and_their_number_is_bounded_without_connections(simulator):
    async with parts(simulator) as service:
        client_of = service.client.official_client
        clients = [client_of(f"r8_{number}") for number in range(CLIENTS_KEPT + 3)]
        is_same = [client_of(f"r8_{number}") is clients[number] for number in (9, CLIENTS_KEPT + 2, 0)]
        for client in clients:
            with pytest.raises(RuntimeError, match="has no lease"):
                await client.predictions.async_get("p1")

    assert [True, True, False] == is_same
    assert CLIENTS_KEPT == client_of.cache_info().currsize


@on_a_loop
async def test_trap_8_a_request_survives_the_eviction_of_its_client(simulator):
    simulator.inject(on="create", times=3 * CLIENTS_KEPT, delay=0.2)
    callers = [
        Caller("user", f"user_{number}", credentials(replicate=f"r8_{number}"))
        for number in range(2 * CLIENTS_KEPT)
    ]
    async with parts(simulator, concurrent_limit=len(callers)) as service:
        endings = await asyncio.gather(*(service.run(caller=caller) for caller in callers))

    assert [True] * len(callers) == [ended.succeeded for ended in endings]
    assert len(callers) == simulator.counts().creations_accepted


# Traps 9 and 10: unverified webhooks, and unsupported Python versions.


@on_a_loop
async def test_trap_9_no_webhook_is_requested_by_default(simulator):
    async with parts(simulator) as service:
        await service.run()

    (made,) = simulator.predictions()
    assert {"input": dict(made.input), "version": made.model} == made.body


def test_trap_10_the_project_requires_a_python_on_which_the_client_imports():
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())

    assert ">=3.11,<3.14" == project["project"]["requires-python"]


# Polls: after a temporary failure a prediction is polled again, a final failure ends the watch.


PASSING = [
    {"status": 500},
    {"status": 502},
    {"status": 503},
    {"status": 504},
    {"status": 408},
    {"status": 429, "headers": {"Retry-After": "0.1"}},
    {"status": 404},
    {"reset": "before"},
    {"reset": "after"},
    {"garbage": True},
    {"truncate": True},
    {"hang": 3600},
    {"drop": ["id"]},
    {"drop": ["status"]},
]


@pytest.mark.slow
@on_a_loop
async def test_failed_polls_do_not_fail_a_generation(simulator):
    for fault, ended, made in await run_with_faults(simulator, PASSING, on="get", times=3, poll_timeout=0.2):
        assert (fault, True, [ended.prediction.id], 1) == (
            fault,
            ended.succeeded,
            [each.id for each in made],
            len(ended.attempts),
        )


@pytest.mark.parametrize(("prompt", "code"), [("[[hang]]", "upstream_error"), ("a fox", None)])
def test_a_prediction_that_replicate_no_longer_knows_fails_unless_cancelling_shows_it_done(prompt, code):
    async def scenario():
        async with replicate(Options(prediction_seconds=1, jitter=0)) as (service, world):
            world.faults.inject(on="get", times=1000, status=404)
            ended = await service.run(prompt)
            return ended.error and ended.error.code, world.counters.snapshot().creations_accepted

    assert (code, 1) == run(scenario())


@pytest.mark.parametrize(
    ("caller", "code"), [(ADMIN, "server_token_rejected"), (USER, "replicate_token_rejected")]
)
@on_a_loop
async def test_a_token_rejected_while_its_prediction_runs_is_reported_as_rejected(simulator, caller, code):
    simulator.inject(on="get", times=1000, status=401)
    simulator.inject(on="account", times=1000, status=401)
    async with parts(simulator) as service:
        ended = await service.run("[[hang]]", caller=caller)

    assert (code, 1) == (ended.error.code, len(ended.attempts))


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("body", [None, "<html>Blocked</html>"])
@pytest.mark.parametrize("on", ["get", "list"])
def test_a_temporarily_refused_token_ends_no_watch(status, body, on):
    async def scenario():
        async with replicate(Options(prediction_seconds=10, jitter=0)) as (service, world):
            batch = asyncio.create_task(service.run_batch(["a fox"] * 20))
            await asyncio.sleep(5)
            world.faults.inject(on=on, times=5, status=status, body=body)
            await batch
            return batch.result().summary()["succeeded"], world.counters.snapshot().creations_accepted

    assert (20, 20) == run(scenario())


@pytest.mark.parametrize(("seconds", "succeeds"), [(50, True), (80, False)])
def test_a_watch_ends_if_its_polls_are_refused_for_a_minute_despite_an_accepted_token(seconds, succeeds):
    async def scenario():
        async with replicate(Options(prediction_seconds=100, jitter=0), timeout=300) as (service, world):
            generation = asyncio.create_task(service.run())
            await asyncio.sleep(5)
            for kind in ("get", "list"):  # a poll may be made by a page
                world.faults.inject(on=kind, times=10_000, status=403)
            await asyncio.sleep(seconds)
            world.faults.clear()
            await generation
            return generation.result().succeeded

    assert succeeds is run(scenario())


@on_a_loop
async def test_a_prediction_that_can_no_longer_be_watched_is_cancelled(simulator):
    simulator.inject(on="get", status=400)
    async with parts(simulator) as service:
        ended = await service.run("[[hang]]")

    assert "upstream_error" == ended.error.code
    assert {"canceled": 1} == simulator.counts().finished


@on_a_loop
async def test_a_failed_cancel_is_retried(simulator):
    simulator.inject(on="cancel", times=2, status=500)
    async with parts(simulator) as service:
        waiting = asyncio.create_task(service.run("[[hang]]"))
        await until(lambda: [state for _, state in service.ledger.moves] == ["submitting", "running"])
        waiting.cancel()
        await asyncio.wait([waiting])

    assert {"canceled": 1} == simulator.counts().finished
    assert 3 == simulator.counts().requests["cancel"]


@pytest.mark.parametrize("body", [None, "<html>Blocked</html>"])
@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_temporarily_refused_cancel_is_retried(status, body):
    async def scenario():
        async with replicate(Options(jitter=0)) as (service, world):
            if (status, body) != (404, None):  # a status that means that there is nothing to cancel
                world.faults.inject(on="cancel", status=status, body=body)
            await service.run("[[hang]]", timeout=5)
            return dict(world.counters.snapshot().finished)

    assert {"canceled": 1} == run(scenario())


@pytest.mark.parametrize("answer", [[], None, "text", 7, {}, {"id": "p1"}, {"id": 7, "status": "starting"}])
def test_an_answer_without_a_prediction_is_lost(answer):
    with pytest.raises(Lost):
        read_prediction(answer)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("no", "no"),
        ({"message": "a\ud800"}, '{"message": "a\ufffd"}'),
        (["é", None], '["é", null]'),
        (17, "17"),
        ([10**5_000], "The error is not readable."),
        (float("nan"), "NaN"),
        (None, None),
    ],
)
def test_an_error_that_is_not_text_is_shown_as_json(error, text):
    assert text == read_prediction({"id": "p", "status": "failed", "error": error}).error


def test_outputs_are_a_tuple_for_one_or_many():
    many = {"id": "p", "status": "succeeded", "output": ["https://a", "https://b"]}
    one = {"id": "p", "status": "succeeded", "output": "https://a"}

    assert (Url("https://a"), Url("https://b")) == read_prediction(many).outputs
    assert (Url("https://a"),) == read_prediction(one).outputs


def test_the_duration_of_a_prediction_is_by_replicates_clock():
    stamps = {"created_at": "2025-01-01T00:00:00.5Z", "completed_at": "2025-01-01T00:00:02Z"}

    assert 1.5 == read_prediction({"id": "p", "status": "succeeded", **stamps}).seconds
    assert read_prediction({"id": "p", "status": "succeeded", "created_at": "then"}).seconds is None


def test_the_start_of_a_prediction_is_by_replicates_clock_and_none_until_it_shows_one():
    started = {"id": "p", "status": "processing", "started_at": "2025-01-01T00:00:00.5Z"}

    assert datetime(2025, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC) == read_prediction(started).started_at
    assert read_prediction(started | {"started_at": None}).started_at is None
    assert read_prediction(started | {"started_at": 7}).started_at is None
    assert read_prediction({"id": "p", "status": "starting"}).started_at is None


def test_metrics_are_numbers_booleans_and_short_texts_and_all_else_is_left_out():
    usable = {"predict_time": 1.5, "image_output_count": 2, "with_audio": True, "resolution_target": "720p"}
    unusable = {
        "nan": float("nan"), "inf": float("inf"), "huge": 10**400, "long": "x" * 201, "none": None,
        "list": [1], "object": {"a": 1}, "a name\n": 1, "n" * 101: 1, "": 1,
    }  # fmt: skip

    assert usable == read_prediction({"id": "p", "status": "succeeded", "metrics": usable | unusable}).metrics


@pytest.mark.parametrize("metrics", [None, [], "1.5", 7, {}])
def test_a_prediction_without_metrics_has_none(metrics):
    assert {} == read_prediction({"id": "p", "status": "succeeded", "metrics": metrics}).metrics


def test_at_most_fifty_metrics_are_kept():
    metrics = {f"count_{each}": each for each in range(1_000)}

    assert 50 == len(read_prediction({"id": "p", "status": "succeeded", "metrics": metrics}).metrics)


def test_a_credential_among_the_metrics_is_removed():
    metrics = {"by": SERVER_TOKEN, SERVER_TOKEN: 1}

    read = read_prediction({"id": "p", "status": "succeeded", "metrics": metrics}, Redaction(SERVER_TOKEN))

    assert {"by": REDACTED} == read.metrics


@pytest.mark.parametrize(
    ("logs", "progress"),
    [
        ("Using seed: 7\n  0%|          | 0/30\n 40%|████      | 12/30 [00:01<00:02]", 40.0),
        ("12.5% done", 12.5),
        ("100%|██████████| 30/30\nLoading upscaler: 3%", 3.0),
        ("at 180% of the usual size, 20%", 20.0),
        ("20%, at 180% of the usual size", 20.0),
        ("5%" + "." * 3_000, None),
        ("Using seed: 7", None),
        ("", None),
        (None, None),
        (["40%"], None),
    ],
)
def test_progress_is_the_last_percentage_that_the_logs_end_with(logs, progress):
    assert progress == read_prediction({"id": "p", "status": "processing", "logs": logs}).progress


def test_a_very_long_line_of_digits_is_read_quickly():
    logs = "1." + "1" * 10_000_000

    assert read_prediction({"id": "p", "status": "processing", "logs": logs}).progress is None


@on_a_loop
async def test_a_poll_of_a_simulated_prediction_shows_progress_and_the_list_does_not(simulator):
    shares = []
    async with parts(simulator) as service:
        running = asyncio.create_task(service.run("[[slow=20]]", num_inference_steps=50))
        await until(lambda: simulator.predictions() and simulator.predictions()[0].status == "processing")
        (made,) = simulator.predictions()
        while len(set(shares)) < 4:
            shares.append((await poll_once(service, made.id)).progress)
            await asyncio.sleep(0.05)
        with await service.others.acquire("admin") as lease:
            page = await service.client.predictions.list(ADMIN, "", lease=lease)
        simulator.finish()
        await running

    assert sorted(shares) == shares
    assert all(0 <= share < 100 for share in shares)
    assert page.predictions[made.id].progress is None


@on_a_loop
async def test_an_adopted_prediction_is_watched_from_its_id_alone(simulator):
    simulator.inject(on="create", reset="after")
    simulator.inject(on="list", times=10, drop=["status"])
    async with parts(simulator) as service:
        with await service.gate.acquire("admin") as lease:
            created = await service.provider.create(
                ADMIN,
                "black-forest-labs/flux-dev",
                {"prompt": "a"},
                content=fingerprint({"prompt": "a"}),
                lease=lease,
                cancel_after=60,
                reference="gen_a.1",
            )

    (made,) = simulator.predictions()
    assert (made.id, SERVER_TOKEN) == (created.prediction.id, made.token)


# Replicate's answers about a token.


@on_a_loop
async def test_an_account_is_known_by_its_name_when_its_token_is_accepted(simulator):
    simulator.account(USER.credentials["replicate"], username="ann")
    async with parts(simulator) as service:
        account = await service.client.account(USER)

    assert Account("accepted", "ann") == account


@pytest.mark.parametrize(
    ("fault", "standing"),
    [
        ({"status": 401}, "refused"),
        ({"status": 403}, "forbidden"),
        ({"status": 401, "body": "<html>Blocked</html>"}, "unknown"),
        ({"status": 403, "body": ["no"]}, "unknown"),
        ({"status": 402}, "unknown"),
        ({"status": 429}, "unknown"),
        ({"status": 500}, "unknown"),
        ({"reset": "before"}, "unknown"),
        ({"garbage": True}, "unknown"),
        ({"truncate": True}, "unknown"),
        ({"set": {"username": 7}}, "accepted"),
        ({"set": {"username": "a\r\nb"}}, "accepted"),
    ],
)
@on_a_loop
async def test_a_token_is_refused_only_by_a_document_of_replicates(simulator, fault, standing):
    simulator.inject(on="account", **fault)
    async with parts(simulator) as service:
        account = await service.client.account(USER)

    assert Account(standing) == account


def test_an_account_without_an_answer_in_five_seconds_is_unknown():
    async def scenario():
        async with replicate(Options()) as (service, world):
            world.faults.inject(on="account", hang=60)
            account = await service.client.account(USER)
            return account, asyncio.get_running_loop().time()

    assert (Account("unknown"), 5.0) == run(scenario())


@pytest.mark.parametrize(
    ("logs", "seed"),
    [
        ("Using seed: 51567\n 10%|# | 1/10\nGenerated image in 2.1sec", 51567),
        ("Loading…\r\nUsing seed: 7\r\n", 7),
        ("Using seed: 18446744073709551615", 18446744073709551615),
        ("Using seed: 5\nPrompt: a fox\nUsing seed: 5\n", 5),
        ("Using seed: 5\nPrompt: a fox\nUsing seed: 6\n", None),
        ("Prompt: Using seed: 5", None),
        ("Using seed: 5.5", None),
        ("Using seed: -1", None),
        ("Using seed: " + "1" * 5000, None),
        ("", None),
        (None, None),
        (["Using seed: 5"], None),
    ],
)
def test_the_seed_is_what_the_model_prints_alone_on_a_line(logs, seed):
    assert seed == read_prediction({"id": "p", "status": "succeeded", "logs": logs}).seed


def test_a_seed_that_is_a_credential_is_not_read():
    answer = {"id": "p", "status": "succeeded", "logs": "Using seed: 12345678"}

    assert read_prediction(answer, Redaction("12345678")).seed is None
