"""LoRAs: their trigger words, their weights from a file, and trained models while Replicate does not answer."""

import pytest

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
    told = [f"The prompt has no {WORD}, the trigger word of {WATERCOLOR}. It may stand in trigger_word, too."]

    assert (200, told) == (answer.status_code, answer.json["warnings"])
    assert told == look_up(client, answer.json["id"], by=ADMIN)["warnings"]
    assert told == generate(client, prompt="a fox", more={"dry_run": True}).json["warnings"]
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
