"""`POST /generate-batch`: one result for each input, in input order, at the end or as a stream."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.service_process import until
from tests.support.api_client import meanwhile
from tests.support.callers import ADMIN, PICTURE, USER
from tests.support.ndjson import NDJSON, lines, settle, stream
from tests.support.problem_documents import fields, problem

MIXED = {
    "requests": [
        {"model_name": "flux-dev", "prompt": "[[slow=0.2]] first"},
        {"model_name": "qwen-image", "prompt": "[[nsfw]] second", "seed": 3},
        {"model_name": "kontext-max", "prompt": "third"},
        {"model_name": "flux-dev", "prompt": "[[fail]] fourth"},
        {"model_name": "flux-dev", "prompt": "fifth", "num_outputs": 2},
    ]
}


def without_plan(summary):
    """The summary of a batch, without its plan and the actual figures."""
    planned = {"strategy", "credits", "cost_basis"} | {
        name for name in summary if name.startswith(("estimated_", "actual_"))
    }
    assert 7 == len(planned)
    return {name: value for name, value in summary.items() if name not in planned}


def outcome(item):
    return item["error"]["code"] if "error" in item else "succeeded"


def test_a_batch_has_one_result_for_each_input_in_order_even_if_some_fail(client):
    answer = client.post("/generate-batch", json=MIXED, headers=ADMIN).json

    results = answer.pop("results")
    assert {"success": False, "id": answer["id"], "total": 5, "succeeded": 3, "failed": 2} == without_plan(
        answer
    )
    assert answer["id"].startswith("batch_")
    assert [0, 1, 2, 3, 4] == [item["index"] for item in results]
    assert [each["prompt"] for each in MIXED["requests"]] == [item["prompt"] for item in results]
    assert ["succeeded", "content_refused", "succeeded", "generation_failed", "succeeded"] == [
        outcome(item) for item in results
    ]
    assert [True, False, True, False, True] == [item["success"] for item in results]
    assert [1, None, 1, None, 2] == [item.get("count") for item in results]
    assert 5 == len({item["id"] for item in results})
    assert {"code", "detail", "retryable"} == set(results[1]["error"])
    assert "output" not in results[1]


def test_a_batch_whose_items_all_succeed_is_a_success(client):
    body = {"model_name": "qwen-image", "prompts": ["a", "b", "b"], "aspect_ratio": "1:1"}

    answer = client.post("/generate-batch", json=body, headers=USER).json

    assert (True, 3, 3, 0) == tuple(answer[name] for name in ("success", "total", "succeeded", "failed"))
    assert ["a", "b", "b"] == [item["prompt"] for item in answer["results"]]


def test_shared_fields_are_sent_with_each_prompt(client, simulator):
    body = {"model_name": "qwen-image", "prompts": ["a", "b"], "aspect_ratio": "1:1", "seed": 7}

    client.post("/generate-batch", json=body, headers=ADMIN)

    sent = sorted((made.input for made in simulator.predictions()), key=lambda each: each["prompt"])
    assert [{"prompt": prompt, "aspect_ratio": "1:1", "seed": 7} for prompt in "ab"] == sent


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["", "[[fail]]", "[[nsfw]]", "[[slow=0]]", "[[empty]]"]), min_size=1, max_size=8)
)
def test_results_are_in_input_order_for_every_mix_of_outcomes(client, asked):
    prompts = [f"{directive} {number}" for number, directive in enumerate(asked)]
    fails = [directive in {"[[fail]]", "[[nsfw]]", "[[empty]]"} for directive in asked]

    with client.post(
        "/generate-batch", json={"model_name": "flux-dev", "prompts": prompts}, headers=ADMIN
    ) as answer:
        shown = answer.json

    assert prompts == [item["prompt"] for item in shown["results"]]
    assert [not each for each in fails] == [item["success"] for item in shown["results"]]
    assert sum(fails) == shown["failed"]
    assert (not any(fails)) is shown["success"]


def test_a_stream_sends_each_result_when_it_is_ready_and_the_summary_last(client, simulator):
    answer = stream(client, ADMIN, "[[hang]] late", "early", "[[nsfw]] refused")
    reader = lines(answer)
    shown = [next(reader), next(reader), *meanwhile(simulator.finish, lambda: list(reader))]

    assert "application/x-ndjson" == answer.content_type
    assert 0 == shown[2]["index"]
    assert {1, 2} == {line["index"] for line in shown[:2]}
    summary = without_plan(shown[3])
    assert {"success": False, "id": summary["id"], "total": 3, "succeeded": 2, "failed": 1} == summary
    assert 4 == len(shown)
    assert answer.headers["X-Request-ID"]


def test_the_first_line_of_a_stream_arrives_while_other_items_run(app, client):
    answer = stream(client, ADMIN, "quick", "[[hang]]")

    assert 0 == next(lines(answer))["index"]
    until(lambda: 1 == client.get("/status").json["concurrency"]["current_concurrent"])

    answer.close()
    settle(app)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/html", "application/json"),
        ("application/*", "application/json"),
        ("application/json, application/x-ndjson;q=0.5", "application/json"),
        ("application/x-ndjson;q=0", "application/json"),
        (";;;q=x,,", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/x-ndjson, */*", "application/x-ndjson"),
        ("Application/X-NDJSON", "application/x-ndjson"),
        ("application/x-ndjson; charset=utf-8", "application/x-ndjson"),
    ],
)
def test_a_batch_is_streamed_only_on_request(client, accept, kind):
    body = {"model_name": "flux-dev", "prompts": ["[[slow=0]] a"]}

    with client.post("/generate-batch", json=body, headers=ADMIN | {"Accept": accept}) as answer:
        assert (200, kind) == (answer.status_code, answer.content_type)


def test_a_waiting_caller_of_a_batch_gets_its_id_when_the_service_stops(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    body = {"model_name": "flux-dev", "prompts": ["[[hang]]", "b"]}
    with ThreadPoolExecutor(2) as callers:
        answers = [
            callers.submit(app.test_client().post, "/generate-batch", json=body, headers=ADMIN | accept)
            for accept in ({}, NDJSON)
        ]
        until(lambda: app.test_client().get("/status").json["concurrency"]["waiting"] == 3)
        until(lambda: simulator.counts().in_flight == 1)
        app.extensions["service"].begin_drain(0)

    left = Counter()
    for answer in answers:
        shown = problem(answer.result(), 503, "shutting_down", retryable=True)
        left.update(app.test_client().get(f"/batches/{shown['id']}", headers=ADMIN).json["counts"])
    assert {"running": 1, "queued": 3} == left
    assert (1, {}) == (simulator.counts().creations_accepted, simulator.counts().finished)


def test_a_stream_that_a_stop_cuts_short_ends_with_a_summary_of_the_interruption(make_app, simulator):
    app = make_app(REPLICATE_CONCURRENT_LIMIT=1)
    shown = lines(stream(app.test_client(), ADMIN, "quick", "[[hang]]", "c"))
    first = next(shown)
    until(lambda: simulator.counts().in_flight == 1)
    app.extensions["service"].begin_drain(0)
    *more, summary = shown

    assert (0, True, []) == (first["index"], first["success"], more)
    assert (False, 3, 1, 0) == tuple(summary[name] for name in ("success", "total", "succeeded", "failed"))
    assert ("shutting_down", True) == (summary["error"]["code"], summary["error"]["retryable"])
    left = app.test_client().get(f"/batches/{summary['id']}", headers=ADMIN).json
    assert {"succeeded": 1, "running": 1, "queued": 1} == left["counts"]
    assert (2, {"succeeded": 1}) == (simulator.counts().creations_accepted, simulator.counts().finished)


def test_a_refused_stream_gets_an_ordinary_problem_response(make_app, simulator):
    app = make_app()
    client = app.test_client()
    streaming = {"Accept": "application/x-ndjson"}

    problem(client.post("/generate-batch", json=MIXED, headers=streaming), 401, "unauthenticated")
    problem(
        client.post("/generate-batch", data=b"{", content_type="application/json", headers=ADMIN | streaming),
        400,
        "invalid_json",
    )
    assert ["prompts[0]"] == fields(stream(client, ADMIN, ""))
    app.extensions["service"].begin_drain(0)
    problem(stream(client, ADMIN, "a"), 503, "shutting_down", retryable=True)
    assert {} == dict(simulator.counts().requests)


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"requests": [PICTURE, PICTURE | {"guidance": 99}]}, ["requests[1].guidance"]),
        ({"requests": [PICTURE, 3, None]}, ["requests[1]", "requests[2]"]),
        ({"requests": [PICTURE, {"model_name": "nope", "prompt": "a"}]}, ["requests[1].model_name"]),
        ({"requests": []}, ["requests"]),
        ({"requests": "a"}, ["requests"]),
        ({"model_name": "flux-dev", "prompts": ["a", " ", 3]}, ["prompts[1]", "prompts[2]"]),
        ({"model_name": "flux-dev", "prompts": []}, ["prompts"]),
        ({"model_name": "flux-dev", "prompts": ["a"] * 10_001}, ["prompts"]),
        ({"model_name": "flux-dev", "prompts": ["a"], "prompt": "b"}, ["prompt"]),
        ({"prompts": ["a"]}, ["model_name"]),
        ({"prompts": ["a"], "requests": [PICTURE]}, ["prompts"]),
        ({"requests": [PICTURE], "max_concurrent": 0}, ["max_concurrent"]),
        ({"requests": [PICTURE], "timeout": 3}, ["timeout"]),
    ],
)
def test_one_bad_item_refuses_the_whole_batch_and_nothing_is_spent(client, simulator, body, wrong):
    assert wrong == fields(client.post("/generate-batch", json=body, headers=ADMIN))

    assert {} == dict(simulator.counts().requests)


def test_replicate_never_sees_more_items_at_once_than_max_concurrent(client, simulator):
    body = {"model_name": "flux-dev", "prompts": ["a"] * 4, "max_concurrent": 2}

    assert 200 == client.post("/generate-batch", json=body, headers=ADMIN).status_code

    assert 2 == simulator.counts().in_flight_peak


def test_a_refused_account_fails_each_item_with_few_requests(client, simulator):
    simulator.account("r8_user", credit="empty")
    body = {"model_name": "flux-dev", "prompts": ["a"] * 5, "max_concurrent": 1}

    answer = client.post("/generate-batch", json=body, headers=USER)

    assert (200, 5) == (answer.status_code, answer.json["failed"])
    assert ["insufficient_credit"] * 5 == [outcome(item) for item in answer.json["results"]]
    assert 2 == simulator.counts().requests["create"]


def test_a_huge_max_concurrent_has_no_effect(client, simulator):
    body = {"model_name": "flux-dev", "prompts": ["a", "b"], "max_concurrent": 10**20}

    assert client.post("/generate-batch", json=body, headers=ADMIN).get_json()["success"] is True
    assert client.post("/generate", json=PICTURE, headers=ADMIN).get_json()["success"] is True
    assert 3 == simulator.counts().creations_accepted
