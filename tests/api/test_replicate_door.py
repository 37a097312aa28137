"""The door for Replicate's clients, with the official client over real sockets."""

import asyncio
import base64
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
import replicate
import requests
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput

from api.backpressure import Quota
from harness.service_process import until
from media.formats import black_png
from tests.support.callers import ADMIN, ADMIN_KEY, PNG, USER_TOKEN
from tests.support.served_in_process import online, receiving

FLUX_DEV = "black-forest-labs/flux-dev"
PRO = "black-forest-labs/flux-1.1-pro"
WATERCOLOR = "acme/watercolor"
FOX = {"prompt": "[[slow=0]] a fox"}
BEARER = {"Authorization": f"Bearer {USER_TOKEN}"}
SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@pytest.fixture
def serve(make_app):
    """Serves the application with these settings, and returns its URL."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(online(make_app(**settings)))


@pytest.fixture
def url(serve):
    return serve()


@pytest.fixture
def connect():
    """Makes official clients of a service."""
    made = []

    def client(url, token=USER_TOKEN, **options):
        made.append(replicate.Client(api_token=token, base_url=f"{url}/replicate", **options))
        made[-1].poll_interval = 0.01
        return made[-1]

    yield client
    for each in made:
        each._client.close()  # noqa: SLF001 - the official client has no close


@pytest.fixture
def client(url, connect):
    return connect(url)


def post(url, path, body, **headers):
    return requests.post(f"{url}/replicate/v1{path}", json=body, headers=BEARER | headers, timeout=30)


def get(url, path, **headers):
    return requests.get(f"{url}/replicate/v1{path}", headers=BEARER | headers, timeout=30)


def test_a_model_that_makes_one_file_puts_out_one_that_can_be_read(client):
    output = client.run(PRO, input=FOX)

    assert isinstance(output, FileOutput)
    assert output.url.startswith("data:image/webp;base64,")
    assert b"WEBP" == output.read()[8:12]


def test_a_model_that_makes_a_list_puts_out_a_list(client, simulator):
    outputs = client.run(FLUX_DEV, input={**FOX, "num_outputs": 2})

    assert [b"WEBP"] * 2 == [each.read()[8:12] for each in outputs]
    assert 1 == len(simulator.predictions())


def test_with_a_public_url_of_https_outputs_are_links_to_kept_files(serve, connect):
    url = serve(PUBLIC_URL="https://here.example/below")

    output = connect(url).run(PRO, input=FOX)

    assert re.fullmatch(r"https://here\.example/below/files/([0-9a-z]{26})/\1\.webp", output.url)
    path = output.url.removeprefix("https://here.example")
    kept = requests.get(f"{url}{path}", timeout=30)
    assert (200, "image/webp") == (kept.status_code, kept.headers["Content-Type"])


def test_the_asynchronous_client_runs_a_model_too(url):
    async def run():
        client = replicate.Client(api_token=USER_TOKEN, base_url=f"{url}/replicate")
        try:
            output = await client.async_run(PRO, input=FOX)
            return await output.aread()
        finally:
            await client._async_client.aclose()  # noqa: SLF001 - the official client has no aclose

    assert b"WEBP" == asyncio.run(run())[8:12]


@pytest.mark.parametrize("known", [True, False])
def test_the_client_runs_a_version_by_its_id_alone_and_then_looks_it_up(client, simulator, known):
    version = simulator.latest_version(WATERCOLOR)
    if known:
        client.models.get(WATERCOLOR)

    [output] = client.run(f"{WATERCOLOR}:{version}", input={**FOX, "no_such_input": 1})

    assert output.read()
    [made] = simulator.predictions()
    assert (WATERCOLOR, version) == (made.model, made.version)
    assert {**FOX, "no_such_input": 1} == made.input


def test_a_prediction_has_an_id_of_replicates_form_and_all_that_the_client_reads(client, url, simulator):
    made = client.models.predictions.create(FLUX_DEV, {"prompt": "[[hang]]", "seed": "3"})

    assert re.fullmatch(r"[0-9a-z]{26}", made.id)
    assert ("starting", FLUX_DEV, "hidden") == (made.status, made.model, made.version)
    assert {"prompt": "[[hang]]", "seed": "3"} == made.input
    assert (None, None, "", {}) == (made.output, made.error, made.logs, made.metrics)
    assert f"{url}/replicate/v1/predictions/{made.id}" == made.urls["get"]
    until(lambda: client.predictions.get(made.id).status == "processing")
    assert 3 == simulator.predictions()[0].input["seed"]
    simulator.finish()
    until(lambda: client.predictions.get(made.id).status == "succeeded")
    ended = client.predictions.get(made.id)
    assert ended.created_at <= ended.started_at <= ended.completed_at
    assert {"predict_time", "total_time"} == set(ended.metrics)
    assert {"prompt": "[[hang]]", "seed": "3"} == ended.input


def test_a_prediction_is_a_generation_everywhere_else(client, url):
    made = client.models.predictions.create(FLUX_DEV, FOX, wait=10)

    shown = requests.get(f"{url}/generations/{made.id}", headers=BEARER, timeout=30).json()
    assert ("succeeded", made.id) == (shown["status"], shown["id"])
    assert 200 == requests.get(shown["files"][0], timeout=30).status_code
    events = requests.get(f"{url}/generations/{made.id}/events", headers=BEARER, timeout=30)
    assert 200 == events.status_code
    listed = requests.get(f"{url}/generations", headers=BEARER, timeout=30).json()["generations"]
    assert [made.id] == [each["id"] for each in listed]
    assert 200 == requests.delete(f"{url}/generations/{made.id}", headers=BEARER, timeout=30).status_code


def test_a_generation_made_elsewhere_is_a_prediction_here(client, url):
    body = {"model_name": "flux-1.1-pro", **FOX}
    made = requests.post(f"{url}/generate", json=body, headers=BEARER, timeout=30).json()

    found = client.predictions.get(made["id"])
    assert ("succeeded", PRO) == (found.status, found.model)
    assert found.output.startswith("data:image/webp;base64,")
    assert [made["id"]] == [each.id for each in client.predictions.list()]


def test_the_client_cancels(client, simulator):
    made = client.models.predictions.create(FLUX_DEV, {"prompt": "[[hang]]"})
    until(lambda: simulator.predictions())
    made.cancel()

    assert "canceled" == made.status
    assert "canceled" == client.predictions.get(made.id).status
    until(lambda: simulator.predictions()[0].status == "canceled")


def test_a_hold_that_ends_early_answers_starting_so_that_the_client_looks_again(client, url, simulator):
    body = {"input": {"prompt": "[[hang]]"}}
    answer = post(url, f"/models/{FLUX_DEV}/predictions", body, Prefer="wait=1")

    assert (201, "starting") == (answer.status_code, answer.json()["status"])
    simulator.finish()
    until(lambda: client.predictions.get(answer.json()["id"]).status == "succeeded")


def test_a_failed_prediction_raises_in_the_client(client):
    with pytest.raises(ModelError, match="the fox ran away"):
        client.run(FLUX_DEV, input={"prompt": "[[fail=the fox ran away]]"})


def test_a_deadline_is_shown_and_bounds_the_prediction_at_replicate(url, simulator):
    body = {"input": FOX}
    made = post(url, f"/models/{FLUX_DEV}/predictions", body, **{"Cancel-After": "1m"}).json()

    assert made["created_at"] < made["deadline"]
    until(lambda: simulator.predictions())
    assert 130 == simulator.predictions()[0].cancel_after


def test_all_problems_of_an_input_are_a_422_with_its_fields(client, url):
    with pytest.raises(ReplicateError, match=r"input\.num_outputs") as caught:
        client.models.predictions.create(FLUX_DEV, {"prompt": "x", "num_outputs": 9, "guidance": -1})

    assert (422, "Input validation failed") == (caught.value.status, caught.value.title)
    wrong = post(url, f"/models/{FLUX_DEV}/predictions", {"input": {"num_outputs": "two"}}).json()
    assert {"input", "input.num_outputs"} == {each["field"] for each in wrong["invalid_fields"]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": FOX}, ""),
        ({"version": 7, "input": FOX}, "version"),
        ({"version": "latest", "input": FOX}, "version"),
        ({"version": "nobody/nothing", "input": FOX}, "version"),
        ({"version": FLUX_DEV}, ""),
        ({"version": FLUX_DEV, "input": []}, "input"),
        ({"version": FLUX_DEV, "input": FOX, "model": FLUX_DEV}, "model"),
        ({"version": FLUX_DEV, "input": FOX, "webhook": "https://10.0.0.1/"}, "webhook"),
        ({"version": FLUX_DEV, "input": FOX, "webhook": 1}, "webhook"),
        (
            {"version": FLUX_DEV, "input": FOX, "webhook": "https://a.com", "webhook_events_filter": ["end"]},
            "webhook_events_filter",
        ),
        ([], "body"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_by_field_before_anything_is_spent(url, simulator, body, field):
    answer = post(url, "/predictions", body)

    assert 422 == answer.status_code
    assert [field] == [each["field"] for each in answer.json()["invalid_fields"]]
    assert [] == simulator.predictions()


@pytest.mark.parametrize("header", ["4s", "soon", "", "-5s", "1.5m", "s"])
def test_a_deadline_that_cannot_be_read_is_refused(url, header):
    body = {"version": FLUX_DEV, "input": FOX}

    assert 422 == post(url, "/predictions", body, **{"Cancel-After": header}).status_code


def test_a_stream_is_refused_before_anything_is_spent(client, simulator):
    with pytest.raises(ReplicateError, match="stream"):
        next(iter(client.stream(FLUX_DEV, input=FOX)))

    assert [] == simulator.predictions()


@pytest.mark.parametrize(
    "path", ["/models/nobody/nothing/predictions", "/deployments/nobody/none/predictions"]
)
def test_an_unknown_model_or_deployment_is_not_found(url, path):
    answer = post(url, path, {"input": FOX})

    assert (404, 404) == (answer.status_code, answer.json()["status"])


def test_an_official_model_runs_by_its_name_as_a_version_too(client):
    assert "succeeded" == client.predictions.create(FLUX_DEV, FOX, wait=10).status


def test_a_deployment_runs(client, simulator):
    inputs = {"img": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"}
    made = client.deployments.predictions.create("acme/fast-upscaler", inputs)

    until(lambda: client.predictions.get(made.id).status == "succeeded")
    assert "acme/fast-upscaler" == simulator.predictions()[0].deployment
    assert "acme/fast-upscaler" == client.predictions.get(made.id).model


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/models"),
        ("DELETE", "/models/a/b"),
        ("GET", "/hardware"),
        ("PATCH", "/deployments/a/b"),
        ("GET", "/models/a/b/versions"),
    ],
)
def test_what_this_door_does_not_have_is_not_found_in_replicates_shape(url, method, path):
    answer = requests.request(method, f"{url}/replicate/v1{path}", headers=BEARER, timeout=30)

    assert (404, 404) == (answer.status_code, answer.json()["status"])
    assert answer.json()["detail"].endswith(".")


def test_the_admin_key_is_a_bearer_too_and_a_wrong_token_is_refused_in_replicates_shape(connect, url):
    assert "succeeded" == connect(url, ADMIN_KEY).models.predictions.create(FLUX_DEV, FOX, wait=10).status
    with pytest.raises(ReplicateError) as refused:
        connect(url, "rcg_wrong").predictions.list()
    assert (401, "Unauthenticated") == (refused.value.status, refused.value.title)


def test_another_callers_prediction_is_not_found_but_the_admin_sees_it(client, url, connect, simulator):
    made = client.models.predictions.create(FLUX_DEV, {"prompt": "[[hang]]"})
    other = connect(url, "r8_other")

    for act in (other.predictions.get, other.predictions.cancel):
        with pytest.raises(ReplicateError) as refused:
            act(made.id)
        assert 404 == refused.value.status
    assert [] == other.predictions.list().results
    assert made.id == connect(url, ADMIN_KEY).predictions.get(made.id).id


def test_the_list_has_a_hundred_a_page_and_links_both_ways(url, client, connect):
    made = [client.models.predictions.create(FLUX_DEV, FOX).id for _ in range(205)]

    pages = [client.predictions.list()]
    while pages[-1].next:
        pages.append(client.predictions.list(pages[-1].next))
    assert [100, 100, 5] == [len(each.results) for each in pages]
    assert made[::-1] == [each.id for page in pages for each in page.results]
    assert pages[0].previous is None
    back = client.predictions.list(pages[2].previous)
    assert [each.id for each in pages[1]] == [each.id for each in back]
    assert [each.id for each in pages[0]] == [each.id for each in client.predictions.list(back.previous)]
    assert FOX == pages[0].results[0].input


def test_the_list_can_be_filtered_by_time(url):
    first, second = (post(url, "/predictions", {"version": FLUX_DEV, "input": FOX}).json() for _ in range(2))

    def ids(**when):
        answer = requests.get(f"{url}/replicate/v1/predictions", params=when, headers=BEARER, timeout=30)
        return [each["id"] for each in answer.json()["results"]]

    assert [second["id"]] == ids(created_after=second["created_at"])
    assert [first["id"]] == ids(created_before=second["created_at"])
    assert 422 == get(url, "/predictions?created_after=soon").status_code
    assert 422 == get(url, "/predictions?cursor=nonsense").status_code


# ── Files


def test_an_uploaded_file_is_an_input_of_its_caller_alone(client, url, connect, simulator):
    picture = black_png(64, 64) + b"\0" * 300_000
    made = client.files.create(io.BytesIO(picture), filename="cat.png", metadata={"a": 1})

    assert ("cat.png", "image/png", len(picture)) == (made.name, made.content_type, made.size)
    assert ({"a": 1}, f"{url}/replicate/v1/files/{made.id}") == (made.metadata, made.urls["get"])
    assert made == client.files.get(made.id)
    assert [made] == client.files.list()
    image = made.urls["get"]
    [output] = client.run(FLUX_DEV, input={**FOX, "image": image})
    assert output.read()
    [sent] = simulator.uploads()
    assert len(picture) == sent.size
    assert "/v1/files/" in simulator.predictions()[0].input["image"]
    assert url not in simulator.predictions()[0].input["image"]
    assert image == client.predictions.list().results[0].input["image"]
    with pytest.raises(ReplicateError, match="does not exist") as refused:
        connect(url, "r8_other").run(FLUX_DEV, input={**FOX, "image": image})
    assert 422 == refused.value.status
    assert client.files.delete(made.id)
    with pytest.raises(ReplicateError, match="does not exist"):
        client.run(FLUX_DEV, input={**FOX, "image": image})


def test_the_client_uploads_open_files_by_itself(client, simulator):
    client.run("google/nano-banana", input={**FOX, "image_input": [io.BytesIO(PNG), io.BytesIO(PNG)]})

    images = simulator.predictions()[0].input["image_input"]
    assert [PNG, PNG] == [base64.b64decode(each.partition(",")[2]) for each in images]


def test_an_address_of_a_file_in_a_prompt_stays_text(client, simulator):
    made = client.files.create(io.BytesIO(PNG), filename="cat.png")
    address = made.urls["get"]

    client.models.predictions.create(FLUX_DEV, {"prompt": address}, wait=10)

    assert address == simulator.predictions()[0].input["prompt"]


def test_an_upload_that_cannot_be_used_is_refused(url):
    for options in ({"files": {"other": b"1"}}, {"files": {"content": b"1"}, "data": {"metadata": "["}}):
        answer = requests.post(f"{url}/replicate/v1/files", headers=BEARER, timeout=30, **options)
        assert 422 == answer.status_code
    answer = requests.post(f"{url}/replicate/v1/files", headers=BEARER, timeout=30, json={})
    assert 415 == answer.status_code
    large = {"content": ("a.bin", bytes(100_000_001))}
    assert (
        413 == requests.post(f"{url}/replicate/v1/files", headers=BEARER, timeout=60, files=large).status_code
    )


# ── Models, account, webhooks


def test_the_client_reads_models_versions_and_its_account(client, url, connect, simulator):
    model = client.models.get("qwen/qwen-image")
    assert ("qwen", "qwen-image") == (model.owner, model.name)
    schemas = model.latest_version.openapi_schema["components"]["schemas"]
    assert "prompt" in schemas["Input"]["properties"]
    version = simulator.latest_version(WATERCOLOR)
    assert version == client.models.get(WATERCOLOR).latest_version.id
    assert version == client.models.get(WATERCOLOR).versions.get(version).id
    assert "user" == client.accounts.current().type
    assert "admin" == connect(url, ADMIN_KEY).accounts.current().username
    with pytest.raises(ReplicateError) as missing:
        client.models.get("nobody/nothing")
    assert 404 == missing.value.status


def test_the_webhook_secret_is_for_callers_on_the_servers_token(serve, connect):
    url = serve(WEBHOOK_SECRET=SECRET)

    assert SECRET == connect(url, ADMIN_KEY).webhooks.default.secret().key
    with pytest.raises(ReplicateError) as refused:
        connect(url).webhooks.default.secret()
    assert 403 == refused.value.status


def test_without_a_secret_there_is_none_to_show(connect, url):
    with pytest.raises(ReplicateError, match="WEBHOOK_SECRET") as missing:
        connect(url, ADMIN_KEY).webhooks.default.secret()
    assert 404 == missing.value.status


@pytest.mark.parametrize(
    ("events", "statuses"),
    [
        (None, ["succeeded"]),
        (["completed"], ["succeeded"]),
        (["output"], ["succeeded"]),
        (["start", "completed"], ["processing", "succeeded"]),
        (["start"], ["processing"]),
        (["logs"], []),
    ],
)
def test_webhooks_get_the_events_of_their_filter_signed_as_predictions(
    serve, connect, simulator, events, statuses
):
    with receiving() as receiver:
        url = serve(WEBHOOK_SECRET=SECRET, WEBHOOK_HOSTS="127.0.0.1")
        client = connect(url)
        chosen = {} if events is None else {"webhook_events_filter": events}
        made = client.models.predictions.create(
            FLUX_DEV, {"prompt": "[[slow=0.2]] a fox"}, webhook=f"{receiver.url}/hook", **chosen
        )
        until(lambda: client.predictions.get(made.id).status == "succeeded")
        until(lambda: len(receiver.received) == len(statuses))

        assert statuses == sorted(each.json["status"] for each in receiver.received)
        for each in receiver.received:
            secret = replicate.webhook.WebhookSigningSecret(key=SECRET)
            replicate.webhook.Webhooks.validate(headers=each.headers, body=each.body.decode(), secret=secret)
            assert {"id", "model", "version", "input", "urls", "metrics"} <= each.json.keys()
            assert made.id == each.json["id"]
        if "succeeded" in statuses:
            [link] = receiver.received[-1].json["output"]
            assert link.startswith(f"{url}/files/{made.id}/")


def test_a_webhook_for_outputs_only_gets_no_failure(serve, connect):
    with receiving() as receiver:
        client = connect(serve(WEBHOOK_HOSTS="127.0.0.1"))
        hook = {"webhook": receiver.url, "webhook_events_filter": ["output"]}
        made = client.models.predictions.create(FLUX_DEV, {"prompt": "[[fail=no]]"}, **hook)
        until(lambda: client.predictions.get(made.id).status == "failed")
        client.models.predictions.create(FLUX_DEV, FOX, **hook)
        until(lambda: receiver.received)

        assert ["succeeded"] == [each.json["status"] for each in receiver.received]


# ── Limits


def test_a_full_window_and_full_slots_delay_no_answer_and_refuse_none(serve, connect, simulator):
    client = connect(serve(REPLICATE_CONCURRENT_LIMIT=1, REPLICATE_REQUESTS_PER_MINUTE=1))

    made = [client.models.predictions.create(FLUX_DEV, {"prompt": "[[hang]]"}) for _ in range(5)]

    assert ["starting"] * 5 == [each.status for each in made]
    until(lambda: client.predictions.get(made[0].id).status == "processing")
    assert ["starting"] * 4 == [client.predictions.get(each.id).status for each in made[1:]]


def make_key(url, **fields):
    """The text of a new named key."""
    body = {"name": "shop", "role": "caller", **fields}
    return requests.post(f"{url}/keys", json=body, headers=ADMIN, timeout=30).json()["key"]


def test_the_limits_of_a_key_delay_no_answer_and_refuse_none(url, connect):
    client = connect(url, make_key(url, max_concurrent=1, requests_per_minute=1))

    made = [client.models.predictions.create(FLUX_DEV, {"prompt": "[[hang]]"}) for _ in range(5)]

    assert ["starting"] * 5 == [each.status for each in made]
    until(lambda: client.predictions.get(made[0].id).status == "processing")
    assert ["starting"] * 4 == [client.predictions.get(each.id).status for each in made[1:]]
    assert "shop" == client.accounts.current().username


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        ({"budget_usd": 0.01, "budget_period": "day"}, 402, "budget_exceeded"),
        ({"models": ["qwen-image"]}, 403, "model_not_allowed"),
        ({"role": "viewer"}, 403, "forbidden"),
    ],
)
def test_what_a_key_may_not_do_is_refused_in_replicates_shape_before_anything_is_spent(
    url, connect, simulator, limits, status, code
):
    body = {"version": FLUX_DEV, "input": FOX}
    by = {"Authorization": f"Bearer {make_key(url, **limits)}"}

    answer = requests.post(f"{url}/replicate/v1/predictions", json=body, headers=by, timeout=30)

    assert (status, status, code) == (answer.status_code, answer.json()["status"], answer.json()["code"])
    assert [] == simulator.predictions()


def by_key(url, **limits):
    return {"Authorization": f"Bearer {make_key(url, **limits)}"}


@pytest.mark.every_database
def test_a_version_by_its_id_alone_is_looked_up_once_at_the_models_that_a_key_names(url, connect, simulator):
    version = simulator.latest_version(WATERCOLOR)
    client = connect(url, make_key(url, models=["video", "flux-dev", "acme/upscaler", WATERCOLOR]))

    for _ in range(2):
        [output] = client.run(f"{WATERCOLOR}:{version}", input=FOX)
        assert output.read()

    assert [(WATERCOLOR, version)] * 2 == [(each.model, each.version) for each in simulator.predictions()]
    sent = simulator.counts().requests
    assert (2, 1) == (sent["model"], sent["version"])  # the latest version comes with its model


@pytest.mark.parametrize("models", [["image"], ["acme/*"], ["acme/upscaler"], [f"{WATERCOLOR}:{'0' * 64}"]])
def test_a_version_by_its_id_alone_of_a_model_that_a_key_does_not_name_is_refused_with_the_remedy(
    url, simulator, models
):
    body = {"version": simulator.latest_version(WATERCOLOR), "input": FOX}

    answer = post(url, "/predictions", body, **by_key(url, models=models))

    assert (403, "model_not_allowed") == (answer.status_code, answer.json()["code"])
    assert "send owner/name: before it" in answer.json()["detail"]
    assert [] == simulator.predictions()


def test_a_version_with_its_model_before_it_runs_with_a_key_for_all_models_of_the_owner(url, simulator):
    version, headers = simulator.latest_version(WATERCOLOR), by_key(url, models=["acme/*"])

    answers = [
        post(url, "/predictions", {"version": each, "input": FOX}, **headers).status_code
        for each in (version, f"{WATERCOLOR}:{version}", version)
    ]

    assert [403, 201, 201] == answers  # the last one is known by then


def test_a_version_that_was_looked_up_at_this_door_runs_by_its_id_alone(url, simulator):
    version, headers = simulator.latest_version(WATERCOLOR), by_key(url, models=["acme/*"])

    assert 200 == get(url, f"/models/{WATERCOLOR}/versions/{version}", **headers).status_code

    answer = post(url, "/predictions", {"version": version, "input": FOX}, **headers)
    assert 201 == answer.status_code


@pytest.mark.parametrize(
    ("allowed", "status"), [(WATERCOLOR, 201), (f"flux-dev, {WATERCOLOR}", 201), ("acme/*", 422)]
)
def test_a_version_by_its_id_alone_is_looked_up_at_the_models_that_the_operator_allows(
    serve, simulator, allowed, status
):
    url, version = serve(MODELS_ALLOWED=allowed), simulator.latest_version(WATERCOLOR)

    answer = post(url, "/predictions", {"version": version, "input": FOX}, **by_key(url))

    assert status == answer.status_code
    assert ("send owner/name: before it" in answer.text) == (status == 422)


def test_many_creations_at_once_are_all_accepted(url, connect):
    """More than may submit at once: the official client never repeats a creation."""
    with ThreadPoolExecutor(120) as threads:
        body = {"version": FLUX_DEV, "input": FOX}
        answers = list(threads.map(lambda _: post(url, "/predictions", body).status_code, range(240)))

    assert {201} == set(answers)


def test_a_full_queue_is_a_429_with_the_seconds_until_a_retry(serve):
    url = serve(MAX_QUEUED=1, REPLICATE_CONCURRENT_LIMIT=1)
    body = {"version": FLUX_DEV, "input": {"prompt": "[[hang]]"}}

    answers = [post(url, "/predictions", body) for _ in range(6)]

    refused = next(each for each in answers if each.status_code != 201)
    assert (429, 429, "queue_full") == (refused.status_code, refused.json()["status"], refused.json()["code"])
    assert int(refused.headers["Retry-After"]) == refused.json()["retry_after"]


def test_without_kept_files_only_models_that_make_none_run(serve, simulator):
    url = serve(FILES_TTL=0)

    answer = post(url, "/predictions", {"version": FLUX_DEV, "input": FOX})

    assert 422 == answer.status_code
    assert "FILES_TTL" in answer.json()["detail"]
    assert [] == simulator.predictions()


def test_no_output_leads_a_client_to_another_host(client, simulator, url):
    """No text of any output begins with https: but the address of a kept file."""
    made = client.models.predictions.create(FLUX_DEV, FOX, wait=10)
    shown = client.predictions.list().results[0]

    assert [f"{url}/files/{made.id}/{made.id}.webp"] == shown.output
    assert made.output[0].startswith("data:image/webp;base64,")


def kinds(value):
    """An output with the media types of its files, which are read, in their place."""
    if isinstance(value, FileOutput):
        assert value.read()
        return f"<{value.url[5:].partition(';')[0]}>"
    if isinstance(value, dict):
        return {name: kinds(each) for name, each in value.items()}
    return [kinds(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("a fox", "a fox"),
        (0, 0),
        ({"score": 0.5, "labels": ["fox"]}, {"score": 0.5, "labels": ["fox"]}),
        (["a", {"b": None}], ["a", {"b": None}]),
        (
            {"mesh": "<glb>", "views": ["<png>", "<png>"]},
            {"mesh": "<model/gltf-binary>", "views": ["<image/png>", "<image/png>"]},
        ),
        ([{"sound": "<wav>"}, "<txt>"], [{"sound": "<audio/wav>"}, "<text/plain>"]),
        ("https://evil.example/a.png", " https://evil.example/a.png"),
        ({"see": ["https://evil.example"]}, {"see": [" https://evil.example"]}),
    ],
)
def test_an_output_of_any_shape_keeps_it_and_leads_to_no_other_host(client, output, expected):
    found = client.run("acme/oracle", input={"input": f"[[output={json.dumps(output)}]]"})

    assert expected == kinds(found)


def test_the_pieces_of_a_text_stay_pieces(client, simulator):
    version = simulator.latest_version("acme/storyteller")

    pieces = list(client.run(f"acme/storyteller:{version}", input={"prompt": "a fox"}))

    assert simulator.predictions()[0].output == pieces
    assert 1 < len(pieces)


def test_work_goes_on_after_a_restart_with_its_input_and_output(restarted, simulator):
    first = restarted()
    body = {"input": {"prompt": "[[hang]]", "seed": "3", "no_such_input": [1]}}
    made = first.post(f"/replicate/v1/models/{FLUX_DEV}/predictions", json=body, headers=ADMIN).json
    until(lambda: simulator.predictions())
    second = restarted()
    simulator.finish()

    def found():
        return second.get(f"/replicate/v1/predictions/{made['id']}", headers=ADMIN).json

    until(lambda: found()["status"] == "succeeded")
    assert body["input"] == found()["input"]
    assert 1 == len(found()["output"])
    assert 1 == len(simulator.predictions())


def test_files_that_are_too_large_for_an_answer_are_links(app, connect):
    app.extensions["caller_limits"] = replace(
        app.extensions["caller_limits"], large_bodies=Quota(2_000, counted="bytes")
    )
    with online(app) as url:
        client = connect(url)
        made = client.models.predictions.create(FLUX_DEV, {**FOX, "num_outputs": 4}, wait=10)

        assert 4 == len(made.output)
        links = [each for each in made.output if each.startswith(f"{url}/files/{made.id}/")]
        assert links
        assert made.output == client.predictions.get(made.id).output
