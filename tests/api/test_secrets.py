"""Secret inputs reach Replicate, and nothing else: no file, row, log, answer, webhook or event."""

import json
from urllib.parse import urlsplit

import pytest
from werkzeug.datastructures import MultiDict
from werkzeug.test import encode_multipart

from catalog.model import declare
from catalog.prices import Price
from harness.service_process import until
from models import declared
from parsing.context import ParseContext
from parsing.generation import parse_generation
from tests.support.api_client import ASYNC, ended, state
from tests.support.callers import ADMIN, USER
from tests.support.problem_documents import problem
from tests.support.served_in_process import receiving

PAINTER, OPEN = "acme/hub-painter", "acme/without-schema"
MARKED, OTHER = "hf_Marked-secret-of-a-caller", "hf_Marked-secret-of-another"
VERSION = "ab" * 32

every_database = pytest.mark.every_database


@pytest.fixture
def without_schema(simulator):
    """A model whose version says nothing about its inputs."""
    simulator.publish(
        {
            "owner": "acme",
            "name": "without-schema",
            "visibility": "public",
            "is_official": False,
            "latest_version": {"id": VERSION, "openapi_schema": {}},
            "simulator": {"kind": "image"},
        }
    )


@pytest.fixture
def talker(simulator):
    """A model that takes a secret, and puts out any JSON."""
    inputs = {"prompt": {"type": "string"}, "hf_token": {"type": "string", "x-cog-secret": True}}
    schemas = {"Input": {"type": "object", "properties": inputs}, "Output": {"title": "Output"}}
    version = {"id": VERSION, "openapi_schema": {"components": {"schemas": schemas}}}
    simulator.publish({"owner": "acme", "name": "talker", "visibility": "public", "latest_version": version})
    return "acme/talker"


def painting(prompt="a fox", **fields):
    return {"model_name": PAINTER, "prompt": prompt, "hf_token": MARKED, **fields}


REQUESTS = {
    "flat": ("/generate", painting()),
    "in input": ("/generate", {"model_name": PAINTER, "input": {"prompt": "a fox", "hf_token": MARKED}}),
    "with a fallback": ("/generate", painting("[[only=hub-painter]][[fail]] a", fallback=["flux-dev"])),
    "prompts": ("/generate-batch", {"model_name": PAINTER, "prompts": ["a", "b"], "hf_token": MARKED}),
    "prompts beside input": (
        "/generate-batch",
        {"model_name": PAINTER, "prompts": ["a", "b"], "input": {"hf_token": MARKED}},
    ),
    "inputs": ("/generate-batch", {"model_name": PAINTER, "inputs": [{"prompt": "a", "hf_token": MARKED}]}),
    "requests": ("/generate-batch", {"requests": [painting(), {"model_name": "flux-dev", "prompt": "a"}]}),
}


@every_database
@pytest.mark.parametrize(("path", "body"), REQUESTS.values(), ids=REQUESTS)
def test_a_secret_is_sent_and_neither_kept_nor_shown(make_app, kept, simulator, path, body, capfd):
    headers = {**ADMIN, "Idempotency-Key": "one"}
    with receiving() as receiver:
        app = make_app(WEBHOOK_HOSTS=urlsplit(receiver.url).netloc, LOG_LEVEL="debug")
        client, body = app.test_client(), {**body, "webhook": receiver.url}
        answers = [client.post(path, json={**body, "dry_run": True}, headers=ADMIN)]
        answers += [client.post(path, json=body, headers=headers) for _ in "12"]
        conflict = client.post(path, json=_with_another(body), headers=headers)
        until(lambda: receiver.received)
        kind = "generations" if path == "/generate" else "batches"
        looks = ["/generations", f"/{kind}/{answers[-1].json['id']}", "/status", f"/models/{PAINTER}"]
        answers += [client.get(each, headers=ADMIN) for each in looks]

    assert {200} == {each.status_code for each in answers}
    assert answers[1].json["id"] == answers[2].json["id"]
    assert 409 == conflict.status_code
    assert MARKED in {each.input.get("hf_token") for each in simulator.predictions()}
    shown = [each.text for each in (*answers, conflict)] + [each.body.decode() for each in receiver.received]
    assert [] == [each for each in (*shown, *capfd.readouterr(), kept()) if "Marked" in each]


def _with_another(body):
    """The body with another secret."""
    if isinstance(body, dict):
        return {name: _with_another(each) for name, each in body.items()}
    if isinstance(body, list):
        return [_with_another(each) for each in body]
    return OTHER if body == MARKED else body


def test_a_secret_of_a_form_is_neither_kept_nor_shown(make_app, kept, simulator):
    client = make_app().test_client()
    boundary, form = encode_multipart(MultiDict(painting()))
    answer = client.post(
        "/generate", data=form, content_type=f"multipart/form-data; boundary={boundary}", headers=ADMIN
    )

    assert (200, False) == (answer.status_code, answer.json["survives_restart"])
    assert [MARKED] == [each.input["hf_token"] for each in simulator.predictions()]
    assert "Marked" not in answer.text + kept()


MISTAKES = [
    ("/generate", {"model_name": OPEN, "input": {"text": "a", "hf_token": MARKED}}),
    ("/generate", painting(lora_scale=99)),
    ("/generate", painting(hf_token=[MARKED])),
    ("/generate", painting(hf_toke=MARKED)),
    ("/generate", painting(model_name="acme/hub-paintr")),
    ("/generate", painting(model_name="flux-dev")),
    ("/generate", painting(model_name="flux-dev", fallback=True)),
    ("/generate", painting(input={"prompt": "a"})),
    ("/generate", {"model_name": PAINTER, "input": f'{{"hf_token": "{MARKED}"}}'}),
    ("/generate", painting(prompt=None)),
    ("/generate-batch", {"model_name": PAINTER, "inputs": [{"prompt": "a"}], "hf_token": MARKED}),
    ("/generate-batch", {"model_name": PAINTER, "inputs": [{"prompt": 1, "hf_token": {"a": MARKED}}]}),
    ("/generate-batch", {"model_name": PAINTER, "inputs": MARKED}),
    ("/generate-batch", {"requests": [{"model_name": PAINTER, "prompt": "a"}], "hf_token": MARKED}),
    ("/generate-batch", {"requests": [painting(hf_token=[MARKED]), MARKED]}),
    ("/generate-batch", {"model_name": "flux-dev", "prompts": ["a"], "hf_token": MARKED}),
]


@pytest.mark.usefixtures("without_schema")
@pytest.mark.parametrize(("path", "body"), MISTAKES)
def test_no_message_about_a_mistake_repeats_a_secret(client, kept, path, body):
    answer = client.post(path, json=body, headers=ADMIN)

    problem(answer, 400, "invalid_request")
    assert "Marked" not in answer.text + kept()


def test_a_secret_that_is_null_is_left_out(client, simulator):
    answer = client.post("/generate", json=painting(hf_token=None), headers=ADMIN)

    assert (200, None) == (answer.status_code, answer.json.get("survives_restart"))
    assert [{"prompt": "a fox"}] == [each.input for each in simulator.predictions()]


def test_a_secret_for_the_model_of_a_fallback_is_a_secret_too():
    document = {
        "components": {
            "schemas": {
                "Input": {
                    "properties": {
                        "prompt": {"type": "string"},
                        "key": {"type": "string", "x-cog-secret": True},
                    },
                    "required": ["prompt"],
                }
            }
        }
    }
    context = ParseContext(declared())
    context.registry.register(
        declare(
            "acme/keeper",
            document=document,
            aliases=("keeper",),
            kind="image",
            price=Price(1.5, per="call"),
            tier="premium",
            credits=1,
            usual_seconds=1.0,
            example={"prompt": "a"},
        )
    )
    body = {"model_name": "flux-dev", "prompt": "a", "fallback": ["keeper"], "key": MARKED}
    found = parse_generation(body, context)

    assert ("flux-dev", {"key": MARKED}) == (found.model.short_name, dict(found.secrets))
    assert MARKED not in str(found.given) + str(found.first) + str(found.route)


# ── Restarts


@pytest.fixture
def interrupted(make_app, simulator):
    """Restarts a service while one generation runs and another waits. Returns the bodies of both at their end."""

    def restart(prompt, *, by=ADMIN, **fields):
        app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
        client = app.test_client()
        ids = []
        for text in (prompt, "waits"):
            answer = client.post("/generate", json=painting(text, **fields), headers={**by, **ASYNC})
            ids.append(answer.json["id"])
            until(lambda: 1 == simulator.counts().in_flight)
        app.extensions["service"].close()
        again = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
        for each in ids:
            again.get(f"/generations/{each}", headers=by)
        simulator.finish()
        return [ended(again, each, by=by) for each in ids]

    return restart


@every_database
@pytest.mark.parametrize("by", [ADMIN, USER], ids=["admin", "user"])
def test_after_a_restart_what_was_sent_ends_and_what_was_not_is_lost(interrupted, simulator, by, kept):
    sent, waited = interrupted("[[hang]]", by=by)

    assert ("succeeded", 1, False) == (sent["status"], len(sent["files"]), sent["survives_restart"])
    assert ("failed", "secret_lost", True) == (
        waited["status"],
        waited["error"]["code"],
        waited["error"]["retryable"],
    )
    assert (0, None) == (waited["cost_usd"], waited["prediction_id"])
    assert 1 == simulator.counts().creations_accepted
    assert "Marked" not in kept()


AGAIN = {
    "one": ("/generate", painting("waits")),
    "batch": ("/generate-batch", {"model_name": PAINTER, "prompts": ["waits", "too"], "hf_token": MARKED}),
    "inputs": (
        "/generate-batch",
        {"model_name": PAINTER, "inputs": [{"prompt": "a"}, {"prompt": "waits", "hf_token": MARKED}]},
    ),
}


@every_database
@pytest.mark.parametrize(("path", "body"), AGAIN.values(), ids=AGAIN)
def test_after_a_restart_the_same_request_gives_its_secrets_back(make_app, simulator, kept, path, body):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    sent = painting("[[hang]]")

    def requested(client, path, body, key):
        return client.post(path, json=body, headers={**USER, **ASYNC, "Idempotency-Key": key}).json["id"]

    requests = ("/generate", sent, "sent"), (path, body, "waits")
    first = [requested(app.test_client(), *each) for each in requests]
    until(lambda: 1 == simulator.counts().in_flight)
    app.extensions["service"].close()
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    again = [requested(client, *each) for each in requests]
    simulator.finish()
    ends = [ended(client, each) for each in again]

    assert first == again
    results = [ends[0], *ends[1].get("results", ends[1:])]
    assert {True} == {each["success"] for each in results}
    tokens = {each.input["prompt"]: each.input.get("hf_token") for each in simulator.predictions()}
    assert len(results) == len(tokens)
    assert (MARKED, MARKED) == (tokens["waits"], tokens["[[hang]]"])
    assert "Marked" not in kept()


@every_database
def test_after_a_restart_a_model_that_got_its_secret_again_may_be_retried(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    headers = {**USER, **ASYNC, "Idempotency-Key": "one"}
    client.post("/generate", json=painting("[[hang]]"), headers={**USER, **ASYNC})
    until(lambda: 1 == simulator.counts().in_flight)
    target = client.post("/generate", json=painting("[[transient]]"), headers=headers).json["id"]
    app.extensions["service"].close()
    client = make_app().test_client()
    client.post("/generate", json=painting("[[transient]]"), headers=headers)

    assert ("succeeded", 2) == (ended(client, target)["status"], ended(client, target)["attempts"])
    assert [MARKED] * 3 == [each.input["hf_token"] for each in simulator.predictions()]


def test_after_a_restart_the_message_of_a_failed_model_is_withheld(interrupted):
    failed, _ = interrupted("[[hang]][[fail=401 for what-was-secret]]")

    assert ("failed", "generation_failed") == (failed["status"], failed["error"]["code"])
    assert "withheld" in failed["error"]["detail"]
    assert "what-was-secret" not in str({**failed, "prompt": None})


WITHHELD = "This text is withheld: after a restart, secret inputs in it could not be removed."
TEXTS = [
    ("Bearer what-was-secret", [WITHHELD]),
    ({"said": "what-was-secret"}, [{"said": WITHHELD}]),
    (["what-was-", "secret", 7], [WITHHELD, "", 7]),
]


@every_database
@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_after_a_restart_the_text_of_a_model_that_got_a_secret_is_withheld(
    make_app, simulator, talker, text, expected
):
    app = make_app()
    body = {"model_name": talker, "prompt": f"[[hang]][[output={json.dumps(text)}]]", "hf_token": MARKED}
    target = app.test_client().post("/generate", json=body, headers={**ADMIN, **ASYNC}).json["id"]
    until(lambda: 1 == simulator.counts().in_flight)
    app.extensions["service"].close()
    client = make_app().test_client()
    simulator.finish()
    answer = ended(client, target, by=ADMIN)

    assert ("succeeded", expected) == (answer["status"], answer.get("output"))
    assert "what-was-secret" not in str({**answer, "prompt": None})


def test_after_a_restart_a_prediction_that_failed_for_now_is_not_repeated(interrupted, simulator):
    failed, _ = interrupted("[[hang]][[transient]]")

    assert ("generation_failed", True) == (failed["error"]["code"], failed["error"]["retryable"])
    assert 1 == simulator.counts().creations_accepted


def test_after_a_restart_a_fallback_without_secrets_is_tried(interrupted, simulator):
    answer, _ = interrupted("[[only=hub-painter]][[hang]][[fail]]", fallback=["flux-dev"])

    assert ("succeeded", "black-forest-labs/flux-dev") == (answer["status"], answer["model_name"])
    assert [MARKED, None] == [each.input.get("hf_token") for each in simulator.predictions()]


@every_database
def test_after_a_restart_the_secret_of_a_declared_model_is_lost_as_well(make_app, simulator, kept):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    client = app.test_client()
    busy = {"model_name": "flux-dev", "prompt": "[[hang]]"}
    lora = {"prompt": "a", "hf_api_token": MARKED}
    bodies = (busy, {"model_name": "flux-dev-lora", **lora}, {**busy, **lora, "fallback": ["flux-dev-lora"]})
    ids = [client.post("/generate", json=body, headers={**ADMIN, **ASYNC}).json["id"] for body in bodies]
    until(lambda: 1 == simulator.counts().in_flight)
    app.extensions["service"].close()
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    simulator.finish()
    ends = [ended(client, each, by=ADMIN) for each in ids]

    assert ["succeeded", "failed", "succeeded"] == [each["status"] for each in ends]
    assert "secret_lost" == ends[1]["error"]["code"]
    assert [None, None] == [each.input.get("hf_api_token") for each in simulator.predictions()]
    assert "Marked" not in kept()


@pytest.mark.parametrize("token", [None, MARKED])
def test_after_a_restart_a_lost_creation_is_found_with_and_without_a_secret(make_app, simulator, token):
    simulator.inject(on="create", reset="after")
    simulator.inject(on="list", status=503, times=1000)
    app = make_app()
    body = painting("[[hang]]", hf_token=token)
    target = app.test_client().post("/generate", json=body, headers={**ADMIN, **ASYNC}).json["id"]
    until(lambda: simulator.counts().requests.get("list"))
    app.extensions["service"].close()
    simulator.server.state.faults.clear()
    client = make_app().test_client()
    until(lambda: "running" == state(client, target, by=ADMIN))
    simulator.finish()

    assert "succeeded" == ended(client, target, by=ADMIN)["status"]
    assert 1 == simulator.counts().creations_accepted
