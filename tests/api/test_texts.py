"""Calls to text models over HTTP: their answers, and the errors of those that are refused or fail."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.service_process import until
from tests.support.served_in_process import receiving
from tests.support.text_calls import ADMIN, EXTRACT, STORY, ask, code

every_database = pytest.mark.every_database


@pytest.fixture
def client(texts):
    return texts()


@every_database
def test_a_chat_has_the_familys_fields_and_its_usage_and_cost(client, simulator):
    body = ask(client, {"prompt": "Hello world", "model": "gemini-2.5-flash", "metadata": {"job": "7"}}).json

    assert (True, "gemini-2.5-flash", "STOP") == (body["success"], body["model"], body["finish_reason"])
    assert body["response"]
    assert body["model_version"].startswith("gemini-3.5-flash-lite")
    usage = body["usage"]
    assert usage["total_tokens"] == sum(
        usage[each] for each in ("prompt_tokens", "completion_tokens", "thinking_tokens")
    )
    [bill] = simulator.gemini.bills()
    assert bill.micro_usd == round(body["cost_usd"] * 1e6)
    assert {"job": "7"} == body["metadata"]
    [change] = body["changes"]
    assert ("model", "gemini-2.5-flash", body["model_version"]) == tuple(
        change[each] for each in ("field", "given", "sent")
    )
    assert body == client.get(f"/generations/{body['id']}", headers=ADMIN).json


@pytest.mark.parametrize(
    ("requested", "version", "changes"),
    [
        ("gemini-3.8-flash", "gemini-3.8-flash", False),
        ("models/gemini-3.8-flash", "models/gemini-3.8-flash-001", False),
        ("gemini-flash-latest", "gemini-3.8-flash", False),
        ("gemini-3.1-pro-preview", "gemini-3.1-pro", False),
        ("gemini-3.8-flash", "gemini-3.8-flash-image", True),
        ("gemini-3.8-flash", "gemini-5-neon", True),
        ("gemini-3.5-flash-lite", "gemini-3.8-flash", True),
        ("gemini-2.5-flash", "gemini-2.5-flash-lite", True),
    ],
)
def test_an_answer_of_another_model_is_a_success_and_a_change(client, requested, version, changes):
    body = ask(client, {"prompt": f"Hello [[model={version}]]", "model": requested}).json

    assert (True, requested, version) == (body["success"], body["model"], body["model_version"])
    assert ([version] if changes else []) == [each["sent"] for each in body.get("changes", [])]


def test_the_inputs_of_a_chat_reach_the_model(client):
    body = {
        "prompt": "Count [[answer=one two STOPPED three]]",
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "system_prompt": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 100,
        "thinking_level": "low",
        "seed": 7,
        "stop": ["STOPPED"],
        "timeout": 30,
        "max_cost_usd": 1,
    }
    answer = ask(client, body)

    assert 200 == answer.status_code, answer.text
    assert "one two" == answer.json["response"].strip()


def test_messages_may_end_with_the_question(client):
    assert 200 == ask(client, {"messages": [{"role": "user", "content": "Hi"}]}).status_code


@pytest.mark.parametrize(
    ("route", "body", "fields"),
    [
        ("/chat", {}, {"prompt"}),
        ("/chat", {"prompt": 3, "temperature": "hot", "colour": 1}, {"prompt", "temperature", "colour"}),
        ("/chat", {"prompt": 3, "temperature": "hot", "seed": True}, {"prompt", "temperature", "seed"}),
        ("/chat", {"prompt": "x", "messages": [{"role": "system", "content": ""}]},
         {"messages[0].role", "messages[0].content"}),
        ("/chat", {"messages": [{"role": "user", "content": "\ud800"}]}, {"messages[0].content"}),
        ("/chat", {"messages": [{"role": "user", "content": "a\0"}]}, {"messages[0].content"}),
        ("/chat", {"prompt": "x", "messages": [{"role": "user", "content": "x", "images": ["https://a.org"] * 101}]},
         {"messages"}),
        ("/chat", {"prompt": "x", "user_content": "y"}, {"user_content"}),
        ("/chat", {"prompt": "x", "model": "gpt-9"}, {"model"}),
        ("/chat", {"prompt": "x", "thinking_level": "none"}, {"thinking_level"}),
        ("/chat", {"prompt": "x", "stream": "yes"}, {"stream"}),
        ("/structured-output", {}, {"user_content", "system_prompt", "json_schema"}),
        ("/structured-output", EXTRACT | {"user_content": 3, "top_p": 2}, {"user_content", "top_p"}),
        ("/structured-output", EXTRACT | {"json_schema": {"type": "string", "pattern": "(?=a)b"}},
         {"json_schema.pattern"}),
        ("/structured-output", EXTRACT | {"json_schema": {"$ref": "https://example.org/x"}}, {"json_schema.$ref"}),
        ("/cinematic-story-design", {"voice_id_list": "x"} | STORY, {"voice_id_list"}),
        ("/batch/chat", {}, {"requests"}),
        ("/batch/chat", {"requests": []}, {"requests"}),
        ("/batch/chat", {"requests": [{"prompt": "x"}, {"prompt": 5}, {"promt": "x"}]},
         {"requests[1].prompt", "requests[2].promt", "requests[2].prompt"}),
        ("/batch/chat", {"requests": [{"prompt": "x"}, {"prompt": 5, "seed": "a"}]},
         {"requests[1].prompt", "requests[1].seed"}),
        ("/batch/structured-output", {"requests": [EXTRACT, EXTRACT | {"user_content": 7}]},
         {"requests[1].user_content"}),
        ("/batch/chat", {"requests": [{"prompt": "x"}], "max_concurrent": 0}, {"max_concurrent"}),
    ],
)  # fmt: skip
def test_all_problems_of_a_body_come_at_once_by_the_callers_names(client, simulator, route, body, fields):
    answer = ask(client, body, to=route)

    assert 400 == answer.status_code, answer.text
    found = {each["field"] for each in answer.json["errors"]}
    assert fields == found, answer.text
    assert len(answer.json["errors"]) == len(found)
    assert not simulator.gemini.counts().requests


@every_database
def test_structured_output_fits_its_schema(client):
    body = ask(client, EXTRACT, to="/structured-output").json

    assert (True, "Successfully generated structured output") == (body["success"], body["message"])
    assert {"name", "city"} <= body["data"].keys()
    assert "gemini-3.8-flash" == body["model"]


def test_output_that_breaks_its_schema_has_the_path_the_rule_and_the_text(client, simulator):
    wrong = EXTRACT | {"user_content": 'x [[answer={"name": 5, "city": "Oslo"}]]'}
    answer = ask(client, wrong, to="/structured-output")

    assert (500, "output_invalid") == code(answer)
    [problem] = answer.json["errors"]
    assert "name" in problem["field"]
    assert {"name": 5, "city": "Oslo"} == json.loads(answer.json["text"])
    assert answer.json["cost_usd"] > 0
    assert 1 == simulator.gemini.counts().requests["stream"]


def test_a_repair_is_one_more_attempt_and_both_are_paid(client, simulator):
    simulator.gemini.inject(on="stream", times=1, marks="[[invalid]]")
    repaired = ask(client, EXTRACT | {"repair": True}, to="/structured-output")

    assert 200 == repaired.status_code, repaired.text
    assert 2 == repaired.json["attempts"]
    bills = simulator.gemini.bills()
    assert sum(each.micro_usd for each in bills) == round(repaired.json["cost_usd"] * 1e6)
    assert 2 == len(bills)


def test_a_story_has_warnings_and_with_strict_fails(client):
    loose = STORY | {"user_content": "A fox [[untied]]"}
    body = ask(client, loose, to="/cinematic-story-design").json
    assert body["success"], body
    assert body["warnings"]
    assert {"character_list", "scene_list"} <= body["data"].keys()

    assert (500, "output_invalid") == code(
        ask(client, loose | {"strict": True}, to="/cinematic-story-design")
    )
    tied = ask(client, STORY | {"voice_id_list": ["deep", "soft"]}, to="/cinematic-story-design").json
    assert [] == tied["warnings"]
    batch = ask(client, {"requests": [STORY]}, to="/batch/cinematic-story-design").json
    assert [] == batch["results"][0]["warnings"]


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ("blocked", (422, "content_refused")),
        ("finish=SAFETY", (422, "content_refused")),
        ("finish=RECITATION", (422, "content_refused")),
        ("empty", (500, "generation_failed")),
        ("no-candidates", (500, "generation_failed")),
        ("no-image", (500, "generation_failed")),
        ("lost", (500, "outcome_unknown")),
        ("no-finish", (500, "outcome_unknown")),
        ("cut-stream", (500, "outcome_unknown")),
        ("day", (500, "quota_exhausted")),
        ("prepaid", (500, "quota_exhausted")),
        ("refused-key", (500, "server_gemini_key_rejected")),
        ("leaked-key", (500, "server_gemini_key_rejected")),
    ],
)
def test_failures_have_their_codes(client, simulator, mark, expected):
    answer = ask(client, {"prompt": f"x [[{mark}]]"})

    assert expected == code(answer), answer.text
    assert 1 == simulator.gemini.counts().requests["stream"]
    if mark == "day":
        assert answer.json["resets_at"]
    if mark == "cut-stream":
        assert answer.json["partial"]
        assert answer.json["cost_usd"] > 0


def test_a_truncated_chat_is_a_success_and_truncated_structured_output_a_failure(client):
    chat = ask(client, {"prompt": "x [[cut=3]]"}).json
    assert (True, True, "MAX_TOKENS") == (chat["success"], chat["truncated"], chat["finish_reason"])

    cut = EXTRACT | {"user_content": "x [[cut]]"}
    assert (500, "output_truncated") == code(ask(client, cut, to="/structured-output"))


@every_database
def test_one_key_and_body_is_one_call(client, simulator):
    key = {"Idempotency-Key": "a-chat"}
    first = ask(client, {"prompt": "Hello"}, **key)
    again = ask(client, {"prompt": "Hello", "temperature": None}, **key)
    other = ask(client, {"prompt": "Hello!"}, **key)
    elsewhere = ask(client, EXTRACT, to="/structured-output", **key)

    assert first.json["id"] == again.json["id"]
    assert first.json["response"] == again.json["response"]
    assert (409, "idempotency_conflict") == code(other)
    assert (409, "idempotency_conflict") == code(elsewhere)
    assert 1 == simulator.gemini.counts().requests["stream"]


def test_the_same_prompt_by_two_routes_is_two_bodies(client):
    key = {"Idempotency-Key": "a-story"}
    first = ask(client, STORY, to="/cinematic-story-design", **key)
    assert 200 == first.status_code
    assert (409, "idempotency_conflict") == code(
        ask(client, {"prompt": "A fox.", "system_prompt": "Tell a story."}, **key)
    )


@every_database
def test_a_call_that_is_not_waited_for_is_answered_by_202_and_looked_up(client):
    answer = ask(client, {"prompt": "[[first=0.2]] Hello"}, Prefer="respond-async")

    assert (202, "respond-async") == (answer.status_code, answer.headers["Preference-Applied"])
    where = answer.headers["Location"]
    until(lambda: "succeeded" == client.get(where, headers=ADMIN).json["status"])
    assert client.get(where, headers=ADMIN).json["response"]


@every_database
def test_a_batch_has_a_result_for_each_request_in_their_order(client):
    sent = {
        "requests": [
            {"prompt": "One", "model": "gemini-2.5-flash"},
            {"prompt": "Two [[blocked]]"},
            {"prompt": "Three", "model": "gemini-2.5-pro"},
        ],
        "max_concurrent": 2,
    }
    body = ask(client, sent, to="/batch/chat").json

    assert [0, 1, 2] == [each["index"] for each in body["results"]]
    assert [True, False, True] == [each["success"] for each in body["results"]]
    assert "gemini-2.5-pro" == body["results"][2]["model"]
    assert "content_refused" == body["results"][1]["error"]["code"]
    assert (3, 2, 1) == (body["total_requests"], body["successful_requests"], body["failed_requests"])


def test_a_batch_streams_its_results_as_lines(client):
    sent = {"requests": [EXTRACT, EXTRACT | {"json_schema": {"type": "array", "items": {"type": "integer"}}}]}
    answer = ask(client, sent, to="/batch/structured-output", Accept="application/x-ndjson")

    *results, summary = map(json.loads, answer.text.splitlines())
    assert {0, 1} == {each["index"] for each in results}
    assert all(each["success"] and "data" in each for each in results)
    assert (2, 2, 0) == tuple(summary[f"{name}_requests"] for name in ("total", "successful", "failed"))


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/chat", {"prompt": "Hello", "dry_run": True}),
        ("/structured-output", EXTRACT | {"dry_run": True}),
        ("/batch/chat", {"requests": [{"prompt": "Hello"}, {"prompt": "You"}], "dry_run": True}),
    ],
)
def test_a_dry_run_spends_nothing(client, simulator, route, body):
    answer = ask(client, body, to=route)

    assert 200 == answer.status_code, answer.text
    assert answer.json["dry_run"] is True
    assert answer.json["cost_bound_usd"] >= answer.json["estimated_cost_usd"] > 0
    assert "immediate" == answer.json["strategy"]
    assert not simulator.gemini.counts().requests


def test_a_webhook_has_the_body_of_the_call(texts):
    with receiving() as receiver:
        client = texts(WEBHOOK_HOSTS="127.0.0.1")
        body = ask(client, {"prompt": "Hello", "webhook": receiver.url}).json
        assert body["success"]
        until(lambda: receiver.received)
        assert body["response"] == json.loads(receiver.received[0].body)["response"]


@every_database
def test_a_prompt_above_a_whole_window_is_refused_with_both_numbers(texts, simulator):
    client = texts(GEMINI_LIMITS='{"*": {"rpm": 300, "tpm": 1000}}')
    answer = ask(client, {"prompt": "word " * 2000})

    assert (400, "prompt_too_large") == code(answer)
    assert "1,000" in answer.json["errors"][0]["message"]
    assert not simulator.gemini.counts().requests.get("stream")


def test_a_call_that_google_ends_after_text_costs_what_was_reserved_for_it(client, simulator):
    answer = ask(client, {"prompt": "Hello [[late-error=demand]]", "max_output_tokens": 500})

    assert 500 == answer.status_code
    assert answer.json["partial"]
    assert 1 == simulator.gemini.counts().requests["stream"]
    [bill] = simulator.gemini.bills()
    assert bill.micro_usd <= round(answer.json["cost_usd"] * 1e6)


def test_an_answer_without_its_usage_costs_its_whole_reservation(client, simulator):
    answer = ask(client, {"prompt": "Hello [[no-usage]]", "max_output_tokens": 500})

    assert answer.json["success"]
    [bill] = simulator.gemini.bills()
    assert 0 < bill.micro_usd <= round(answer.json["cost_usd"] * 1e6)


@every_database
def test_two_callers_of_one_key_at_once_get_one_call(client, simulator):
    body = {"prompt": "[[first=0.3]] Hello"}
    with ThreadPoolExecutor(2) as callers:
        calls = [callers.submit(ask, client, body, **{"Idempotency-Key": "both"}) for _ in range(2)]
        first, second = (call.result().json for call in calls)

    assert (first["id"], first["response"]) == (second["id"], second["response"])
    assert 1 == simulator.gemini.counts().requests["stream"]


def test_an_item_of_a_batch_with_its_own_key_is_joined(client, simulator):
    item = {"prompt": "Hello", "idempotency_key": "item-1"}
    first = ask(client, {"requests": [item]}, to="/batch/chat").json
    second = ask(client, {"requests": [{"prompt": "New"}, item]}, to="/batch/chat").json

    assert first["results"][0]["response"] == second["results"][1]["response"]
    assert 2 == simulator.gemini.counts().requests["stream"]


@pytest.mark.parametrize("prefer", ["", "respond-async", "wait=60"])
def test_a_stream_counts_among_the_requests_that_wait_for_a_result(texts, prefer):
    client = texts(MAX_WAITING_CALLERS=1)
    stream = client.post(
        "/chat",
        json={"prompt": "Hello", "stream": True},
        headers={**ADMIN, "Prefer": prefer},
        buffered=False,
    )
    assert 200 == stream.status_code

    assert (429, "queue_full") == code(ask(client, {"prompt": "Hello"}))
    stream.close()
    assert 200 == ask(client, {"prompt": "Hello"}).status_code
