"""LoRAs: their trigger words, their weights from a file, and trained models while Replicate does not answer."""

import base64
import io

import pytest
import requests

from harness.service_process import until
from tests.support.api_client import ASYNC, ended, look_up
from tests.support.callers import ADMIN
from tests.support.problem_documents import problem

pytestmark = pytest.mark.every_database

WATERCOLOR, PAINTER = "acme/watercolor", "acme/hub-painter"
WORD = "WTRCLR"


def generate(client, name=WATERCOLOR, *, more=None, headers=ADMIN, **inputs):
    return client.post(
        "/generate", json={"model_name": name, "input": inputs, **(more or {})}, headers=headers
    )


def batch(client, **body):
    return client.post("/generate-batch", json={"model_name": WATERCOLOR, **body}, headers=ADMIN)


def messages(answer) -> dict[str, str]:
    return {each["field"]: each["message"] for each in problem(answer, 400, "invalid_request")["errors"]}


def sent_prompts(simulator) -> list[str]:
    return sorted(each.input["prompt"] for each in simulator.predictions())


def put_in_front(sent: str, word: str = WORD) -> list[dict[str, str]]:
    return [{"field": "trigger_word", "change": "mapped", "given": word, "sent_as": "prompt", "sent": sent}]


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.toml"
    path.write_text(f'"{WATERCOLOR}" = "{WORD}"\nflux-dev = "GLSTN"\n')
    return path


# ── In a request


def test_a_trigger_word_is_put_in_front_of_the_prompt_and_told(client, simulator):
    answer = generate(client, prompt="a fox", more={"trigger_word": WORD})

    assert (200, f"{WORD} a fox") == (answer.status_code, answer.json["prompt"])
    assert [f"{WORD} a fox"] == sent_prompts(simulator)
    assert put_in_front(f"{WORD} a fox") == answer.json["changes"]
    assert put_in_front(f"{WORD} a fox") == look_up(client, answer.json["id"], by=ADMIN)["changes"]


@pytest.mark.parametrize("prompt", ["a WTRCLR fox", "a wtrclr fox", "WTRCLR"])
def test_a_prompt_with_the_word_stays_as_it_is(client, simulator, prompt):
    answer = generate(client, prompt=prompt, more={"trigger_word": WORD})

    assert [prompt] == sent_prompts(simulator)
    assert "changes" not in answer.json


def test_the_other_changes_are_told_beside_it(client):
    answer = generate(client, prompt="a fox", num_outputs="2", more={"trigger_word": WORD})

    assert [("trigger_word", "mapped"), ("num_outputs", "converted")] == [
        (each["field"], each["change"]) for each in answer.json["changes"]
    ]


def test_a_declared_model_takes_a_word_too(client, simulator):
    body = {"model_name": "flux-dev", "prompt": "a fox", "trigger_word": "GLSTN"}
    answer = client.post("/generate", json=body, headers=ADMIN)

    assert ["GLSTN a fox"] == sent_prompts(simulator)
    assert put_in_front("GLSTN a fox", "GLSTN") == answer.json["changes"]


def test_a_word_without_a_prompt_is_refused(client, simulator):
    answer = generate(client, "acme/upscaler", img="https://example.com/a.png", more={"trigger_word": WORD})

    assert {"trigger_word": "goes into the prompt, and there is none"} == messages(answer)
    assert [] == simulator.predictions()


@pytest.mark.parametrize("word", ["", " ", " TOK", "x" * 101, 3, ["TOK"]])
def test_a_word_of_another_form_is_refused(client, word):
    assert ["trigger_word"] == list(messages(generate(client, prompt="a", more={"trigger_word": word})))


def test_no_word_is_as_good_as_none(client, simulator):
    assert 200 == generate(client, prompt="a fox", more={"trigger_word": None}).status_code
    assert ["a fox"] == sent_prompts(simulator)


def test_a_dry_run_shows_the_prompt_that_would_be_sent(client, simulator):
    answer = generate(client, prompt="a fox", more={"trigger_word": WORD, "dry_run": True})

    assert f"{WORD} a fox" == answer.json["input"]["prompt"]
    assert put_in_front(f"{WORD} a fox") == answer.json["changes"]
    assert [] == simulator.predictions()


def test_in_a_form_a_word_of_digits_stays_text(client, simulator):
    form = {"model_name": "flux-dev", "prompt": "a fox", "trigger_word": "42"}

    assert (
        200
        == client.post("/generate", data=form, headers=ADMIN, content_type="multipart/form-data").status_code
    )
    assert ["42 a fox"] == sent_prompts(simulator)


# ── In a batch


def test_each_prompt_of_a_batch_gets_the_word_that_it_has_not(client, simulator):
    answer = batch(client, prompts=["a fox", "a wtrclr hare"], trigger_word=WORD, input={"seed": 3})

    assert ["WTRCLR a fox", "a wtrclr hare"] == sent_prompts(simulator)
    assert [put_in_front("WTRCLR a fox"), None] == [each.get("changes") for each in answer.json["results"]]


def test_a_word_that_is_in_the_stand_in_for_the_prompts_is_put_in_front(client, simulator):
    assert 200 == batch(client, prompts=["a fox"], trigger_word="stand-in").status_code
    assert ["stand-in a fox"] == sent_prompts(simulator)


def test_each_of_the_inputs_of_a_batch_gets_the_word(client, simulator):
    answer = batch(client, inputs=[{"prompt": "a fox"}, {"prompt": "WTRCLR"}], trigger_word=WORD)

    assert ["WTRCLR", "WTRCLR a fox"] == sent_prompts(simulator)
    assert [put_in_front("WTRCLR a fox"), None] == [each.get("changes") for each in answer.json["results"]]


def test_each_of_the_requests_of_a_batch_has_its_own_word(client, simulator):
    requests = [
        {"model_name": WATERCOLOR, "prompt": "a fox", "trigger_word": WORD},
        {"model_name": "flux-dev", "prompt": "a fox", "trigger_word": "GLSTN"},
        {"model_name": "flux-dev", "prompt": "a hare"},
    ]
    answer = client.post("/generate-batch", json={"requests": requests}, headers=ADMIN)

    assert 3 == answer.json["succeeded"]
    assert ["GLSTN a fox", "WTRCLR a fox", "a hare"] == sent_prompts(simulator)


# ── Fallbacks, repetition, restarts


def test_a_fallback_gets_the_word_too_and_each_attempt_tells_it(client, simulator):
    body = {
        "model_name": "flux-dev", "prompt": "[[only=flux-dev]] [[nsfw]] a fox", "trigger_word": "GLSTN",
        "fallback": ["qwen-image"],
    }  # fmt: skip
    answer = client.post("/generate", json=body, headers=ADMIN)

    assert 200 == answer.status_code, answer.json
    sent = "GLSTN [[only=flux-dev]] [[nsfw]] a fox"
    assert [sent, sent] == sent_prompts(simulator)
    assert [put_in_front(sent, "GLSTN")] * 2 == [each["changes"] for each in answer.json["attempts"]]


def test_a_batch_with_fallbacks_tells_the_word_of_each_prompt(client):
    answer = batch(
        client, model_name="flux-dev", prompts=["a fox", "a glstn"], trigger_word="GLSTN", fallback=True
    )

    assert [put_in_front("GLSTN a fox", "GLSTN"), []] == [
        each["attempts"][0]["changes"] for each in answer.json["results"]
    ]


def test_a_repeated_request_is_the_same_and_a_request_with_another_word_is_not(client, simulator):
    headers = {**ADMIN, "Idempotency-Key": "fox-1"}
    first = generate(client, prompt="a fox", more={"trigger_word": WORD}, headers=headers)
    again = generate(client, prompt="a fox", more={"trigger_word": WORD}, headers=headers)
    other = generate(client, prompt="a fox", more={"trigger_word": "TOK"}, headers=headers)

    assert (first.json["id"], 409) == (again.json["id"], other.status_code)
    assert 1 == len(simulator.predictions())


def test_after_a_restart_the_word_is_put_in_front_once_and_warnings_stay(
    restarted, simulator, words, tmp_path
):
    client = restarted(REPLICATE_CONCURRENT_LIMIT=1, TRIGGER_WORDS_FILE=words)
    client.post(
        "/generate", json={"model_name": "flux-dev", "prompt": "[[hang]] GLSTN"}, headers=ADMIN | ASYNC
    )
    until(lambda: 1 == simulator.counts().in_flight)
    waiting = [
        generate(client, prompt="a fox", headers=ADMIN | ASYNC, more=more).json
        for more in ({"trigger_word": WORD}, {})
    ]
    several = client.post(
        "/generate-batch",
        json={"model_name": WATERCOLOR, "prompts": ["a hare"], "trigger_word": WORD},
        headers=ADMIN | ASYNC,
    ).json["id"]
    warned = waiting[1]["warnings"]
    simulator.finish()
    words.write_text("")

    client = restarted(REPLICATE_CONCURRENT_LIMIT=1, TRIGGER_WORDS_FILE=words)
    first, second = (ended(client, each["id"], by=ADMIN) for each in waiting)
    [item] = ended(client, several, by=ADMIN)["results"]

    assert (f"{WORD} a fox", put_in_front(f"{WORD} a fox")) == (first["prompt"], first["changes"])
    assert "warnings" not in first
    assert (warned, "a fox") == (second["warnings"], second["prompt"])
    assert put_in_front(f"{WORD} a hare") == item["changes"]


# ── The words of the operator


def test_a_prompt_without_the_word_of_its_model_gets_a_warning(make_app, words):
    client = make_app(TRIGGER_WORDS_FILE=words).test_client()
    answer = generate(client, prompt="a fox")
    warnings = [
        f"The prompt has no {WORD}, the trigger word of {WATERCOLOR}. It may stand in trigger_word, too."
    ]

    assert (200, warnings) == (answer.status_code, answer.json["warnings"])
    assert warnings == look_up(client, answer.json["id"], by=ADMIN)["warnings"]
    assert warnings == generate(client, prompt="a fox", more={"dry_run": True}).json["warnings"]
    assert "the trigger word of flux-dev." in generate(client, "flux-dev", prompt="a").json["warnings"][0]


def test_a_prompt_with_the_word_or_a_request_with_any_word_gets_no_warning(make_app, words):
    client = make_app(TRIGGER_WORDS_FILE=words).test_client()

    for answer in (
        generate(client, prompt="a wtrclr fox"),
        generate(client, prompt="a fox", more={"trigger_word": "TOK"}),
        generate(client, "qwen-image", prompt="a fox"),
        generate(client, prompt="WTRCLR", more={"dry_run": True}),
    ):
        assert 200 == answer.status_code
        assert "warnings" not in answer.json


def test_a_retired_model_gets_a_warning(client):
    answer = generate(client, "imagen-4-ultra", prompt="a fox")

    assert "Google shut down Imagen 4" in answer.json["warnings"][0]


def test_each_prompt_of_a_batch_is_warned_of_by_itself(make_app, words):
    client = make_app(TRIGGER_WORDS_FILE=words).test_client()
    answer = batch(client, prompts=["a fox", "a wtrclr fox"])

    assert [1, 0] == [len(each.get("warnings", [])) for each in answer.json["results"]]


# ── Weights from a file


WEIGHTS = b"\x60\0\0\0\0\0\0\0" + b'{"a": 1}' * 12


def as_uri(content: bytes) -> str:
    return f"data:application/octet-stream;base64,{base64.b64encode(content).decode()}"


def post_form(client, **form):
    files = {
        name: (io.BytesIO(each), "lora.safetensors") if isinstance(each, bytes) else each
        for name, each in form.items()
    }
    return client.post("/generate", data=files, headers=ADMIN, content_type="multipart/form-data")


def test_weights_may_be_named_in_words(client, simulator):
    names = (
        "acme/fox",
        "acme/fox/4cae8a4a",
        "huggingface.co/acme/fox",
        "https://civitai.com/models/1",
        "fox: a b",
    )
    for name in names:
        assert 200 == generate(client, PAINTER, prompt="a fox", lora_weights=name).status_code

    assert sorted(names) == sorted(each.input["lora_weights"] for each in simulator.predictions())
    assert [] == simulator.uploads()


@pytest.mark.parametrize("size", [1, 300_000])
def test_weights_may_be_a_data_uri_of_any_size(client, simulator, size):
    answer = generate(client, PAINTER, prompt="a fox", lora_weights=as_uri(WEIGHTS * (size // 100 + 1)))

    assert 200 == answer.status_code, answer.json
    [upload], [prediction] = simulator.uploads(), simulator.predictions()
    assert len(WEIGHTS * (size // 100 + 1)) == upload.size
    assert prediction.input["lora_weights"].startswith("http")
    assert "changes" not in answer.json


def test_weights_that_are_no_data_uri_after_all_are_refused(client):
    answer = generate(
        client, PAINTER, prompt="a fox", lora_weights="data:application/octet-stream;base64,###"
    )

    assert ["input.lora_weights"] == list(messages(answer))


def test_weights_may_be_sent_in_a_form(client, simulator):
    answer = post_form(client, model_name=PAINTER, prompt="a fox", lora_scale="0.8", lora_weights=WEIGHTS)

    assert 200 == answer.status_code, answer.json
    [upload], [prediction] = simulator.uploads(), simulator.predictions()
    assert len(WEIGHTS) == upload.size
    assert 0.8 == prediction.input["lora_scale"]
    assert prediction.input["lora_weights"].startswith("http")


def test_the_other_weights_of_a_trained_model_take_a_file_too(client, simulator):
    answer = post_form(
        client, model_name=WATERCOLOR, prompt="a fox", extra_lora=WEIGHTS, extra_lora_scale="-1"
    )

    assert 200 == answer.status_code, answer.json
    assert 1 == len(simulator.uploads())


@pytest.mark.parametrize("name", ["flux-dev-lora", "p-image"])
def test_a_declared_model_takes_weights_as_a_large_data_uri_or_in_a_form(client, simulator, name):
    content = WEIGHTS * 3000
    in_a_form = post_form(client, model_name=name, prompt="a fox", lora_weights=content)
    body = {"model_name": name, "prompt": "a fox", "lora_weights": as_uri(content)}
    inline = client.post("/generate", json=body, headers=ADMIN)

    assert [200, 200] == [in_a_form.status_code, inline.status_code], (in_a_form.json, inline.json)
    assert [len(content)] * 2 == [each.size for each in simulator.uploads()]
    assert all(each.input["lora_weights"].startswith("http") for each in simulator.predictions())


def test_as_many_scales_as_weights_are_needed(client):
    body = {
        "model_name": "qwen-image",
        "prompt": "a",
        "extra_lora_weights": ["a/b"],
        "extra_lora_scale": [1, 2],
    }

    assert ["extra_lora_scale"] == list(messages(client.post("/generate", json=body, headers=ADMIN)))


def test_a_list_of_weights_takes_names_and_files(client, simulator):
    simulator.publish(several_loras())
    uri = as_uri(WEIGHTS)
    alone = post_form(client, model_name="acme/several-loras", prompt="a fox", hf_loras=WEIGHTS)
    mixed = generate(
        client, "acme/several-loras", prompt="a fox", hf_loras=["acme/fox", uri], lora_scales=[0.8, 1]
    )

    assert [200, 200] == [alone.status_code, mixed.status_code], (alone.json, mixed.json)
    assert 2 == len(simulator.uploads())
    first, second = (each.input["hf_loras"] for each in simulator.predictions())
    assert [1, ["acme/fox"], 2] == [len(first), second[:1], len(second)]
    assert all(each.startswith("http") for each in (*first, *second[1:]))


def several_loras():
    """A community model with a list of LoRAs."""
    inputs = {
        "prompt": {"type": "string"},
        "hf_loras": {"type": "array", "items": {"type": "string"}},
        "lora_scales": {"type": "array", "items": {"type": "number"}},
    }
    output = {"type": "array", "items": {"type": "string", "format": "uri"}}
    schemas = {"Input": {"type": "object", "required": ["prompt"], "properties": inputs}, "Output": output}
    version = {"id": "5e" * 32, "openapi_schema": {"components": {"schemas": schemas}}}
    return {"owner": "acme", "name": "several-loras", "visibility": "public", "latest_version": version}


# ── While Replicate does not answer


def test_a_trained_model_is_checked_by_its_family_while_replicate_is_away(make_app, simulator, tmp_path):
    version = simulator.latest_version(WATERCOLOR)
    client = make_app(LORA_MODEL_ID=f"{WATERCOLOR}:{version}").test_client()
    go_away(simulator)
    answer = generate(client, "lora", prompt="a fox", model="schnell", guidance_scale=3, lora_scale=-1)

    assert (200, WATERCOLOR, version, "image") == (
        answer.status_code, answer.json["model_name"], answer.json["version"], answer.json["kind"],
    )  # fmt: skip
    assert [
        f"{WATERCOLOR} was checked as a trained Flux LoRA, since Replicate could not be asked for its own schema."
    ] == answer.json["warnings"]
    assert f"{WATERCOLOR}:{version}" == simulator.predictions()[0].body["version"]
    assert {
        "input.guidance": "is not a known field; did you mean guidance_scale?",
        "input.lora_scale": "must be at most 3",
        "input.model": "must be dev or schnell",
    } == messages(generate(client, "lora", prompt="a", guidance=3, lora_scale=4, model="max"))
    assert 404 != client.get(f"/models/{WATERCOLOR}", headers=ADMIN).status_code >= 500


@pytest.mark.parametrize("is_in_the_name", [True, False])
def test_a_model_in_the_file_of_words_is_trained_too(make_app, simulator, words, is_in_the_name):
    version = simulator.latest_version(WATERCOLOR)
    named = WATERCOLOR if is_in_the_name else f"{WATERCOLOR}:{version}"
    words.write_text(f'"{named}" = "{WORD}"')
    client = make_app(TRIGGER_WORDS_FILE=words).test_client()
    go_away(simulator)
    answer = generate(client, f"{WATERCOLOR}:{version}" if is_in_the_name else WATERCOLOR, prompt="a fox")

    assert (200, version) == (answer.status_code, answer.json.get("version"))
    assert 2 == len(answer.json["warnings"])


def test_once_replicate_answers_its_own_schema_counts(make_app, simulator):
    earlier = "f3b507dfe625a7b19b2ed7b55513e8b8ba42502b6da407ab3103fcacd564d713"
    client = make_app(LORA_MODEL_ID=f"{WATERCOLOR}:{earlier}").test_client()
    go_away(simulator)
    forecast = generate(client, "lora", prompt="a", lora_scale=2.5, more={"dry_run": True})
    assert (200, 1) == (forecast.status_code, len(forecast.json["warnings"]))
    come_back(simulator)

    assert {"input.lora_scale": "must be at most 2"} == messages(
        generate(client, "lora", prompt="a", lora_scale=2.5)
    )
    assert "warnings" not in generate(client, "lora", prompt="a").json
    go_away(simulator)
    assert "warnings" not in generate(client, "lora", prompt="a").json


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("", f"{WATERCOLOR}:{{}}"),
        (WATERCOLOR, "lora"),
        (WATERCOLOR, WATERCOLOR),
        ("acme/other:{}", WATERCOLOR),
    ],
)
def test_without_a_version_or_the_word_of_the_operator_the_failed_look_up_is_the_answer(
    make_app, simulator, setting, name
):
    version = simulator.latest_version(WATERCOLOR)
    client = make_app(LORA_MODEL_ID=setting.format(version)).test_client()
    go_away(simulator)
    answer = generate(client, name.format(version), prompt="a fox")

    assert (500, True) == (answer.status_code, answer.json["retryable"])
    assert [] == simulator.predictions()


def test_a_model_that_replicate_does_not_have_is_not_of_a_family(make_app, simulator):
    client = make_app(LORA_MODEL_ID="acme/nothing:" + "1" * 64).test_client()

    assert ["model_name"] == list(messages(generate(client, "lora", prompt="a")))


def test_after_a_restart_a_model_of_a_family_runs_as_it_was_checked(restarted, simulator):
    version = simulator.latest_version(WATERCOLOR)
    settings = {"REPLICATE_CONCURRENT_LIMIT": 1, "LORA_MODEL_ID": f"{WATERCOLOR}:{version}"}
    client = restarted(**settings)
    go_away(simulator)
    client.post("/generate", json={"model_name": "flux-dev", "prompt": "[[hang]]"}, headers=ADMIN | ASYNC)
    until(lambda: 1 == simulator.counts().in_flight)
    waiting = generate(
        client, "lora", prompt="a fox", extra_lora=as_uri(WEIGHTS * 3000), headers=ADMIN | ASYNC
    ).json
    simulator.finish()

    answer = ended(restarted(**settings), waiting["id"], by=ADMIN)

    assert ("succeeded", version, waiting["warnings"]) == (
        answer["status"],
        answer["version"],
        answer["warnings"],
    )
    assert simulator.predictions()[-1].input["extra_lora"].startswith("http")


# ── What `lora` means


def test_lora_may_be_a_declared_model(restarted, simulator):
    settings = {"REPLICATE_CONCURRENT_LIMIT": 1, "LORA_MODEL_ID": "flux-dev"}
    client = restarted(**settings)
    client.post("/generate", json={"model_name": "flux-dev", "prompt": "[[hang]]"}, headers=ADMIN | ASYNC)
    until(lambda: 1 == simulator.counts().in_flight)
    waiting = client.post(
        "/generate", json={"model_name": "lora", "prompt": "a fox", "guidance": 3}, headers=ADMIN | ASYNC
    ).json["id"]
    simulator.finish()
    answer = ended(restarted(**settings), waiting, by=ADMIN)

    assert ("succeeded", "black-forest-labs/flux-dev", "lora") == (
        answer["status"], answer["model_name"], answer["requested_model"],
    )  # fmt: skip
    assert 0 == simulator.counts().lookups


def test_another_lora_after_a_restart_does_not_change_what_was_accepted(restarted, simulator):
    version = simulator.latest_version(WATERCOLOR)
    client = restarted(REPLICATE_CONCURRENT_LIMIT=1, LORA_MODEL_ID=WATERCOLOR)
    client.post("/generate", json={"model_name": "flux-dev", "prompt": "[[hang]]"}, headers=ADMIN | ASYNC)
    until(lambda: 1 == simulator.counts().in_flight)
    waiting = generate(client, "lora", prompt="a fox", headers=ADMIN | ASYNC).json["id"]
    simulator.finish()
    answer = ended(restarted(REPLICATE_CONCURRENT_LIMIT=1, LORA_MODEL_ID=PAINTER), waiting, by=ADMIN)

    assert ("succeeded", WATERCOLOR, version) == (answer["status"], answer["model_name"], answer["version"])


def go_away(simulator) -> None:
    """Look-ups fail, as in an outage of a part of Replicate; predictions work."""
    for kind in ("model", "version"):
        simulator.inject(on=kind, times=1000, status=503)


def come_back(simulator) -> None:
    assert 200 == requests.delete(f"{simulator.url}/simulator/faults", timeout=10).status_code
