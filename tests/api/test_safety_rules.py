"""Rules for prompts over HTTP: refusals before a model is called, by field, at every door."""

# ruff: noqa: RUF001 - the test is about lookalikes

import json

import pytest

from settings import SettingsError
from tests.support.callers import ADMIN
from tests.support.text_calls import GEMINI_KEY

RULES = """
[[rules]]
category = "weapons"
words = ["sword"]

[[rules]]
category = "tools"
action = "flag"
words = ["hammer"]
"""

STRUCTURED = {
    "system_prompt": "Answer",
    "json_schema": {"type": "object", "properties": {"a": {"type": "string"}}},
}


@pytest.fixture
def client(make_app, simulator, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    simulator.gemini.configure(first_seconds=0, seconds=0)
    settings = {"SAFETY_FILE": path, "GEMINI_API_KEY": GEMINI_KEY, "GEMINI_BASE_URL": simulator.url}
    return make_app(**settings).test_client()


@pytest.fixture
def post(client):
    return lambda path, body: client.post(path, json=body, headers=ADMIN)


def image(**fields):
    return {"model_name": "flux-dev", **fields}


def refused_fields(answer):
    assert 422 == answer.status_code, answer.text
    body = answer.json
    assert ("content_refused", "before", "weapons", False) == tuple(
        body[name] for name in ("code", "stage", "category", "retryable")
    )
    return [each["field"] for each in body["errors"]]


@pytest.mark.parametrize(
    ("path", "body", "fields"),
    [
        ("/generate", image(prompt="a ｓwοrd"), ["prompt"]),
        ("/generate", image(input={"prompt": "a sword"}), ["input.prompt"]),
        ("/generate", image(prompt="a sword", dry_run=True), ["prompt"]),
        ("/generate", image(prompt="x", trigger_word="sword"), ["prompt"]),
        (
            "/generate",
            {"model_name": "qwen-image", "prompt": "a cat", "negative_prompt": "a sword"},
            ["negative_prompt"],
        ),
        ("/generate", image(prompt="x", negative_prompt="sword", fallback=["qwen-image"]), ["negative_prompt"]),
        ("/generate-batch", image(prompts=["a cat", "a sword", "a dog", "sword"]), ["prompts[1]", "prompts[3]"]),
        ("/generate-batch", {"requests": [image(prompt="a"), image(prompt="sword")]}, ["requests[1].prompt"]),
        ("/generate-batch", image(inputs=[{"prompt": "sword"}, {"prompt": "a"}]), ["inputs[0].prompt"]),
        ("/chat", {"prompt": "Draw a sword"}, ["prompt"]),
        ("/chat", {"prompt": "Hi", "system_prompt": "Be a sword"}, ["system_prompt"]),
        ("/chat", {"messages": [{"role": "user", "content": "sword"}]}, ["messages[0].content"]),
        ("/structured-output", STRUCTURED | {"user_content": "sword"}, ["user_content"]),
        (
            "/structured-output",
            {"system_prompt": "A", "user_content": "b", "json_schema": {"type": "object", "description": "sword"}},
            ["json_schema.description"],
        ),
        (
            "/structured-output",
            STRUCTURED | {"user_content": "b", "json_schema": {"type": "object", "properties": {"sword": {}}}},
            ["json_schema.properties"],
        ),
        ("/batch/chat", {"requests": [{"prompt": "Hi"}, {"prompt": "sword"}]}, ["requests[1].prompt"]),
    ],
)  # fmt: skip
def test_a_blocked_text_is_refused_by_its_field_before_a_model_is_called(post, simulator, path, body, fields):
    assert fields == refused_fields(post(path, body))
    assert {} == dict(simulator.counts().requests)
    assert [] == simulator.gemini.bills()


def test_the_openai_door_refuses_in_its_own_shape(post):
    answer = post("/v1/images/generations", {"model": "flux-dev", "prompt": "a sword", "n": 2})
    chat = post(
        "/v1/chat/completions",
        {
            "model": "gemini-3.5-flash-lite",
            "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "sword"}],
        },
    )

    for found, param in ((answer, "prompt"), (chat, "messages[1].content")):
        assert 422 == found.status_code, found.text
        assert ("content_refused", param) == (found.json["error"]["code"], found.json["error"]["param"])
        assert ("before", "weapons") == (found.json["stage"], found.json["category"])


def test_the_replicate_door_refuses_in_its_own_shape(post):
    answer = post(
        "/replicate/v1/models/black-forest-labs/flux-dev/predictions", {"input": {"prompt": "a sword"}}
    )

    assert (422, "content_refused", "before", "weapons") == (
        answer.status_code, *(answer.json[name] for name in ("code", "stage", "category")),
    )  # fmt: skip
    assert ["input.prompt"] == [each["field"] for each in answer.json["invalid_fields"]]


def test_other_mistakes_are_named_first(post):
    answer = post("/generate", image(prompt="a sword", guidance="much"))

    assert 400 == answer.status_code
    assert ["guidance"] == [each["field"] for each in answer.json["errors"]]


def test_the_refused_text_is_in_no_log_and_no_answer(capfd, post):
    answer = post("/generate", image(prompt="my secret sword"))

    assert "secret" not in answer.text
    assert "secret" not in "".join(capfd.readouterr())


def test_a_text_that_is_no_word_of_a_rule_passes(post):
    answer = post("/generate", image(prompt="a swordfish"))

    assert 200 == answer.status_code
    assert "warnings" not in answer.json


@pytest.mark.every_database
def test_a_flagged_request_runs_and_names_its_categories(client, post):
    body = post("/generate-batch", image(prompts=["a hammer", "a spoon"])).json
    flagged, other = body["results"]

    warning = "Rules of this service flag this request: tools."
    assert [True, True] == [flagged["success"], other["success"]]
    assert [[warning], None] == [flagged.get("warnings"), other.get("warnings")]
    assert [warning] == client.get(f"/generations/{flagged['id']}", headers=ADMIN).json["warnings"]


def test_a_wrong_file_stops_the_start(make_app, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(json.dumps({"rules": []})[:-1])
    with pytest.raises(SettingsError, match="SAFETY_FILE"):
        make_app(SAFETY_FILE=path)
