"""Chats by the door for OpenAI's clients, with OpenAI's own package over real sockets."""

import base64
import json

import openai
import pytest
import requests
from pydantic import BaseModel

from media.formats import black_png
from tests.support.callers import ADMIN_KEY
from tests.support.served_in_process import online
from tests.support.text_calls import ADMIN, OWN_KEY

BEARER = {"Authorization": f"Bearer {ADMIN_KEY}"}
LITE, FLASH = "gemini-3.5-flash-lite", "gemini-3.8-flash"
HELLO = [{"role": "user", "content": "Hello [[answer=Hello to you, too]]"}]

every_database = pytest.mark.every_database


class Person(BaseModel):
    name: str
    city: str


@pytest.fixture
def url(make_text_app, simulator):
    simulator.gemini.configure(chunks=4)
    with online(make_text_app()) as served:
        yield served


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=ADMIN_KEY, max_retries=0) as made:
        yield made


@pytest.fixture
def chat(client):
    def ask(content="Hello", model=LITE, **fields):
        messages = fields.pop("messages", [{"role": "user", "content": content}])
        return client.chat.completions.create(model=model, messages=messages, **fields)

    return ask


def refused(ask, **fields):
    """The status, the code and the field of the refusal of a call."""
    with pytest.raises(openai.APIStatusError) as error:
        ask(**fields)
    return error.value.status_code, error.value.code, error.value.param


def changed(made):
    return {each["field"]: (each["given"], each["sent_as"], each["sent"]) for each in made.changes}


def sent(simulator):
    """The latest bill, of which there is one for each call that was answered."""
    return simulator.gemini.bills()[-1]


@every_database
def test_an_answer_has_openais_fields_and_ours_beside_them(chat, url, simulator):
    made = chat(messages=HELLO, model="gemini-2.5-flash")

    [choice] = made.choices
    assert ("Hello to you, too", "assistant", None) == (
        choice.message.content,
        choice.message.role,
        choice.message.refusal,
    )
    assert ("stop", "STOP") == (choice.finish_reason, choice.native_finish_reason)
    assert ("chat.completion", "gemini-2.5-flash") == (made.object, made.model)
    assert made.model_version.startswith(LITE)
    bill = sent(simulator)
    assert bill.micro_usd == round(made.cost_usd * 1e6)
    usage = made.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    kept = requests.get(f"{url}/generations/{made.id}", headers=BEARER).json()
    assert ("Hello to you, too", "STOP") == (kept["response"], kept["finish_reason"])
    assert usage.completion_tokens == kept["usage"]["completion_tokens"] + kept["usage"]["thinking_tokens"]


def test_thinking_counts_as_completion_and_cached_tokens_are_in_the_usage(chat):
    made = chat("x [[think=30]] [[out=20]] [[cached=2]] and some words more", reasoning_effort="high")

    usage = made.usage
    assert (50, 30) == (usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens)
    assert 2 == usage.prompt_tokens_details.cached_tokens


def test_a_stream_has_the_role_first_the_reason_last_and_then_the_usage(chat, simulator):
    chunks = list(chat(messages=HELLO, stream=True, stream_options={"include_usage": True}))

    head, *pieces, last, usage = chunks
    assert "assistant" == head.choices[0].delta.role
    assert len(pieces) > 1
    assert "Hello to you, too" == "".join(each.choices[0].delta.content for each in pieces)
    assert ("stop", "STOP") == (last.choices[0].finish_reason, last.choices[0].native_finish_reason)
    assert [] == usage.choices
    assert usage.usage.total_tokens == usage.usage.prompt_tokens + usage.usage.completion_tokens
    assert all(each.usage is None for each in chunks[:-1])
    assert sent(simulator).micro_usd == round(usage.cost_usd * 1e6) == round(last.cost_usd * 1e6)
    assert 1 == len({each.id for each in chunks})


def test_a_stream_ends_with_done_and_has_no_usage_unless_it_is_requested(url):
    body = {"model": LITE, "messages": HELLO, "stream": True}
    answer = requests.post(f"{url}/v1/chat/completions", json=body, headers=BEARER)

    events = [each.removeprefix("data: ") for each in answer.text.strip().split("\n\n")]
    assert "text/event-stream" == answer.headers["Content-Type"].partition(";")[0]
    assert "[DONE]" == events[-1]
    assert not any("usage" in json.loads(each) for each in events[:-1])


def test_the_package_parses_the_answer_by_a_model_of_pydantic(client):
    made = client.chat.completions.parse(
        model=FLASH, messages=[{"role": "user", "content": "I am Jane from Oslo."}], response_format=Person
    )

    assert isinstance(made.choices[0].message.parsed, Person)


def test_an_answer_that_breaks_its_schema_is_an_error_with_its_text(client, simulator):
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.parse(
            model=FLASH, messages=[{"role": "user", "content": "x [[invalid]]"}], response_format=Person
        )

    assert "output_invalid" == failed.value.code
    assert "false" == failed.value.response.headers["x-should-retry"]
    assert failed.value.response.json()["text"]
    assert 1 == len(simulator.gemini.bills())


def test_an_answer_in_json_without_a_schema(chat):
    made = chat('x [[answer={"a": 1}]]', response_format={"type": "json_object"})

    assert {"a": 1} == json.loads(made.choices[0].message.content)


def test_images_reach_the_model_and_count_as_tokens(chat):
    picture = "data:image/png;base64," + base64.b64encode(black_png(64, 64)).decode()
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": picture, "detail": "low"}},
    ]
    plain, made = chat("What is this?"), chat(parts)

    assert made.usage.prompt_tokens > plain.usage.prompt_tokens + 100
    assert {"messages[0].content[1].image_url.detail": ("low", None, None)} == changed(made)


def test_a_conversation_with_developer_messages_and_a_refusal_sent_back(chat):
    made = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello", "name": "jane"},
            {"role": "assistant", "content": None, "refusal": "I will not.", "annotations": []},
            {"role": "developer", "content": [{"type": "text", "text": "[[answer=yes]]"}]},
            {"role": "user", "content": "Why?"},
        ]
    )

    assert "yes" == made.choices[0].message.content
    assert {"messages[1].name": ("jane", None, None)} == changed(made)


@pytest.mark.parametrize(
    ("model", "effort", "change"),
    [
        (LITE, "none", ("none", "thinking_level", "minimal")),
        (FLASH, "minimal", ("minimal", "thinking_level", "low")),
        (FLASH, "medium", None),
        (FLASH, "xhigh", ("xhigh", "thinking_level", "high")),
        ("gemini-2.5-flash-lite", "none", None),
        ("gemini-2.5-flash-lite", "low", ("low", None, None)),
    ],
)
def test_an_effort_becomes_the_nearest_thinking_level(chat, model, effort, change):
    made = chat(model=model, reasoning_effort=effort)

    assert change == changed(made).get("reasoning_effort")


def test_a_default_is_no_change_and_a_field_that_is_left_out_is_one(chat, url):
    made = chat(
        frequency_penalty=0, presence_penalty=0.5, logprobs=False, store=True, service_tier="auto", n=1, tools=[],
        seed=7, temperature=0.3, stop="END", user="jane", metadata={"job": "7"}, max_completion_tokens=100,
        max_tokens=200, extra_body={"top_k": 5},
    )  # fmt: skip

    assert {"presence_penalty", "store", "max_tokens", "top_k"} == changed(made).keys()
    kept = requests.get(f"{url}/generations/{made.id}", headers=BEARER).json()
    assert {"user": "jane", "job": "7"} == kept["metadata"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "a", "format": "mp3"}}, "audio"),
        ({"reasoning_effort": "most"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 10**9}, "max_completion_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": " "}]}, "messages[1].content"),
        ({"messages": [*HELLO, {"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[1].role"),
        ({"content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0].type"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "x"}]}, "messages"),
        ({"model": "gpt-9"}, "model"),
        ({"model": "flux-dev"}, "model"),
        ({"extra_body": {"max_cost_us": 1}}, "max_cost_us"),
        ({"extra_body": {"dry_run": True}}, "dry_run"),
        ({"extra_body": {"fallback": ["flux-dev"]}}, "fallback[0]"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_left_out_is_refused_by_its_name(chat, simulator, fields, field):
    assert (400, "invalid_request", field) == refused(chat, **fields)
    assert not simulator.gemini.counts().requests


def test_a_call_without_a_model_is_refused(url):
    answer = requests.post(f"{url}/v1/chat/completions", json={"messages": HELLO}, headers=BEARER)

    assert (400, "model") == (answer.status_code, answer.json()["error"]["param"])


@pytest.mark.parametrize(
    ("mark", "has_text", "native"),
    [
        ("blocked=JAILBREAK", False, "JAILBREAK"),
        ("finish=SAFETY", False, "SAFETY"),
        ("text-then=RECITATION", True, "RECITATION"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_a_refusal_is_an_answer_that_was_filtered(chat, mark, has_text, native, streams):
    content = f"Tell me [[{mark}]]"
    if streams:
        *chunks, last = chat(content, stream=True)
        got = "".join(each.choices[0].delta.content or "" for each in chunks)
        refusal = "".join(each.choices[0].delta.refusal or "" for each in chunks)
        choice = last.choices[0]
    else:
        choice = chat(content).choices[0]
        got, refusal = choice.message.content or "", choice.message.refusal

    assert ("content_filter", native) == (choice.finish_reason, choice.native_finish_reason)
    assert has_text == bool(got)
    assert native in refusal


def test_the_package_raises_different_errors_for_a_refused_structure_and_one_that_was_cut(client):
    for mark, error in (
        ("finish=SAFETY", openai.ContentFilterFinishReasonError),
        ("cut=5", openai.LengthFinishReasonError),
    ):
        with pytest.raises(error):
            client.chat.completions.parse(
                model=FLASH, messages=[{"role": "user", "content": f"x [[{mark}]]"}], response_format=Person
            )


@pytest.mark.parametrize("mark", ["[[cut=5]]", "[[think=10000]]"])
def test_an_answer_that_ends_at_its_limit_has_the_reason_length(chat, mark):
    choice = chat(f"Count {mark}", max_completion_tokens=50).choices[0]

    assert ("length", "MAX_TOKENS") == (choice.finish_reason, choice.native_finish_reason)
    assert choice.message.content is not None


@pytest.mark.parametrize(
    ("mark", "status", "code", "retries"),
    [
        ("bad-key", 500, "server_gemini_key_rejected", "false"),
        ("prepaid", 500, "quota_exhausted", "false"),
        ("lost", 500, "outcome_unknown", "false"),
        ("zero", 500, "model_unavailable", "false"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_errors_before_any_text_have_openais_shape(client, mark, status, code, retries, streams):
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(
            model=LITE, messages=[{"role": "user", "content": f"x [[{mark}]]"}], stream=streams
        )

    assert (status, code) == (failed.value.status_code, failed.value.code)
    assert retries == failed.value.response.headers["x-should-retry"]


def test_an_error_after_the_first_text_ends_the_stream_as_the_package_reads_it(chat):
    got = []
    chunks = chat("Tell me a long story [[cut-stream]]", stream=True)
    with pytest.raises(openai.APIError) as failed:
        got.extend(each.choices[0].delta.content for each in chunks)

    assert "".join(got)
    assert "outcome_unknown" == failed.value.code


def test_a_call_that_may_have_several_attempts_comes_in_one_piece(chat):
    chunks = list(chat(messages=HELLO, stream=True, extra_body={"fallback": True}))

    assert ["Hello to you, too"] == [each.choices[0].delta.content for each in chunks[1:-1]]


def test_the_same_key_gets_the_same_answer_also_as_a_stream(chat, simulator):
    headers = {"Idempotency-Key": "the-chat"}
    first = chat(messages=HELLO, extra_headers=headers)
    again = list(chat(messages=HELLO, extra_headers=headers, stream=True))

    assert {first.id} == {each.id for each in again}
    assert "Hello to you, too" == "".join(each.choices[0].delta.content or "" for each in again)
    assert 1 == len(simulator.gemini.bills())


def test_a_budget_of_a_call(chat):
    assert (402, "budget_exceeded", None) == refused(chat, extra_body={"max_cost_usd": 1e-9})


@pytest.mark.parametrize("key", [OWN_KEY, "AIzaSyOwn"])
def test_a_key_of_google_as_the_bearer_pays(url, key):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        made = client.chat.completions.create(model=LITE, messages=HELLO)
        assert {LITE, FLASH} <= {each.id for each in client.models.list()}

    assert made.choices[0].message.content
    mine = {"Authorization": f"Bearer {key}"}
    assert 200 == requests.get(f"{url}/generations/{made.id}", headers=mine).status_code
    assert 401 == requests.post(f"{url}/generate", json={"prompt": "x"}, headers=mine).status_code


def test_any_other_bearer_is_refused_and_never_sent(url, simulator):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="sk-mistyped", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            client.chat.completions.create(model=LITE, messages=HELLO)
        client.chat.completions.create(model=LITE, messages=HELLO, extra_headers=ADMIN)

    assert 1 == simulator.gemini.counts().requests["stream"]


def test_the_models_of_both_kinds_are_listed(client):
    listed = {each.id: each for each in client.models.list()}

    assert "image" == listed["black-forest-labs/flux-dev"].kind
    assert ("text", "gemini") == (listed[FLASH].kind, listed[FLASH].owned_by)
    assert FLASH == client.models.retrieve("gemini-flash-latest").id
