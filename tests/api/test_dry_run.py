"""The forecast of a generation or a batch: returned before anything is spent, and beside the actual figures."""

import base64
import io

import pytest

from tests.support.callers import ADMIN, PICTURE, PNG, USER
from tests.support.ndjson import lines, stream
from tests.support.problem_documents import problem

PLAN = {"strategy", "estimated_seconds", "estimated_cost_usd", "credits"}


def post(client, body, headers=ADMIN):
    return client.post("/generate-batch", json=body, headers=headers)


def prompts(number, model="flux-dev", **given):
    return {"model_name": model, "prompts": ["a"] * number, **given}


def test_a_dry_run_returns_a_forecast_and_spends_nothing(client, simulator):
    answer = post(client, prompts(5, num_outputs=2, dry_run=True))

    assert 200 == answer.status_code
    assert {
        "dry_run": True,
        "total": 5,
        "strategy": "immediate",
        "estimated_cost_usd": 0.25,
        "cost_bound_usd": 0.25,
        "cost_basis": "declared",
        "credits": 10,
    } == {name: value for name, value in answer.json.items() if name != "estimated_seconds"}
    assert 0 < answer.json["estimated_seconds"]
    assert {} == dict(simulator.counts().requests)
    assert {"succeeded": 0, "failed": 0, "canceled": 0} == client.get("/status").json["generations"]


@pytest.mark.parametrize(
    ("number", "given", "strategy"),
    [
        (10, {}, "immediate"),
        (11, {}, "window"),
        (5, {"max_concurrent": 4}, "window"),
        (20, {}, "window"),
        (21, {}, "queue"),
    ],
)
def test_the_strategy_shows_whether_a_batch_fits_the_slots_the_window_or_neither(
    make_app, number, given, strategy
):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=10, REPLICATE_REQUESTS_PER_MINUTE=20).test_client()

    assert strategy == post(client, prompts(number, dry_run=True, **given)).json["strategy"]


def test_spent_places_and_taken_slots_count_in_the_forecast(make_app):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=10, REPLICATE_REQUESTS_PER_MINUTE=20).test_client()
    post(client, prompts(12))

    assert "immediate" == post(client, prompts(8, dry_run=True)).json["strategy"]
    assert "window" == post(client, prompts(9, dry_run=True)).json["strategy"]


@pytest.mark.parametrize(
    ("requests", "cost", "taken"),
    [
        ([{"model_name": "flux-schnell"}], 0.003, 1),
        ([{"model_name": "flux-schnell", "num_outputs": 4}, {"model_name": "flux-1.1-pro"}], 0.052, 6),
        ([{"model_name": "veo-3-fast", "duration": 4}], 3.32, 400),
        (
            [{"model_name": "kling-v2.1-master", "duration": 10}, {"model_name": "kling-v2.1-master"}],
            4.2,
            360,
        ),
        ([{"model_name": "flux-schnell", "image": "https://example.com/a.png", "fallback": True}], 0.08, 10),
    ],
)
def test_the_cost_is_the_price_of_the_requested_outputs(client, requests, cost, taken):
    body = {"requests": [each | {"prompt": "a"} for each in requests], "dry_run": True}

    planned = post(client, body).json

    assert (cost, taken) == (planned["estimated_cost_usd"], planned["credits"])


def test_every_batch_reports_its_plan_and_its_actual_figures(client, simulator):
    planned = post(client, prompts(4, model="flux-schnell", num_outputs=3)).json

    assert PLAN <= set(planned)
    assert ("immediate", 0.036, 0.036, 4) == (
        planned["strategy"],
        planned["estimated_cost_usd"],
        planned["actual_cost_usd"],
        planned["credits"],
    )
    assert 0.036 == simulator.counts().billed_usd
    assert 0 < planned["actual_seconds"]


def test_the_summary_of_a_stream_reports_the_plan_and_the_actual_figures(client):
    *_, summary = lines(stream(client, ADMIN, "a", "[[nsfw]] b"))

    assert PLAN <= set(summary)
    assert (0.05, 0.025) == (summary["estimated_cost_usd"], summary["actual_cost_usd"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "given", "billed"),
    [
        ("[[nsfw]]", {}, 0.0),
        ("[[fail]]", {}, 0.0),
        ("[[empty]]", {}, 0.0),
        ("[[aborted]]", {}, 0.0),
        ("[[fewer]]", {"num_outputs": 4}, 0.075),
        ("[[early]]", {"num_outputs": 2}, 0.05),
        ("[[transient]]", {}, 0.025),
        ("[[canceled]]", {"num_outputs": 2}, 0.05),
        ("[[hang]]", {"timeout": 1, "num_outputs": 2}, 0.05),
        ("[[cold]]", {"timeout": 1}, 0.0),
        ("[[hang]] [[sparse]]", {"timeout": 1}, 0.025),
    ],
)
def test_a_generation_costs_what_replicate_bills_for_it(client, simulator, prompt, given, billed):
    answer = client.post("/generate", json=PICTURE | {"prompt": prompt} | given, headers=ADMIN)

    assert billed == answer.json["cost_usd"] == simulator.counts().billed_usd


def test_a_dry_run_is_checked_like_the_batch_itself(client, make_app, simulator, tmp_path):
    assert 400 == post(client, prompts(2, guidance=99, dry_run=True)).status_code
    assert 400 == post(client, prompts(2, dry_run="yes")).status_code
    problem(post(client, prompts(2, dry_run=True), headers={}), 401, "unauthenticated")
    full = make_app(MAX_QUEUED=3, DATA_DIR=tmp_path / "another").test_client()
    problem(post(full, prompts(4, dry_run=True)), 429, "queue_full")
    assert {} == dict(simulator.counts().requests)


def single(client, headers=ADMIN, **given):
    return client.post("/generate", json=PICTURE | {"dry_run": True} | given, headers=headers)


def test_a_dry_run_of_one_generation_shows_its_forecast_and_its_input(client, simulator):
    answer = single(client, num_outputs=2, guidance=3.0, timeout=60)

    assert (200, "application/json") == (answer.status_code, answer.content_type)
    assert {
        "dry_run": True,
        "total": 1,
        "strategy": "immediate",
        "estimated_cost_usd": 0.05,
        "cost_bound_usd": 0.05,
        "cost_basis": "declared",
        "credits": 2,
        "model_name": "black-forest-labs/flux-dev",
        "requested_model": "flux-dev",
        "input": {
            "output_format": "jpg",
            "prompt": PICTURE["prompt"],
            "num_outputs": 2,
            "guidance": 3,
        },
        "changes": [],
    } == {name: value for name, value in answer.json.items() if name != "estimated_seconds"}
    assert 0 < answer.json["estimated_seconds"]
    assert {} == dict(simulator.counts().requests)
    assert {"succeeded": 0, "failed": 0, "canceled": 0} == client.get("/status").json["generations"]
    assert [] == client.get("/generations", headers=ADMIN).json["generations"]


@pytest.mark.parametrize(("status", "warned"), [(200, False), (500, True)])
def test_a_dry_run_warns_of_a_token_that_replicate_did_not_confirm(client, simulator, status, warned):
    if warned:
        simulator.inject(on="account", times=100, status=status)

    planned = single(client, headers=USER).json

    sentence = "The token is not checked, since Replicate does not answer."
    assert ([sentence] if warned else []) == planned.get("warnings", [])
    assert "warnings" not in single(client, headers=ADMIN).json


def test_both_dry_runs_of_one_generation_give_the_same_forecast(client):
    batch = post(client, {"requests": [PICTURE | {"num_outputs": 3}], "dry_run": True}).json

    assert batch.items() <= single(client, num_outputs=3).json.items()


def test_a_dry_run_with_a_fallback_names_the_model_that_would_be_tried_first(client):
    planned = single(client, model_name="flux-schnell", image="https://example.com/a.png", fallback=True).json

    assert "black-forest-labs/flux-kontext-max" == planned["model_name"]
    assert ("flux-schnell", 0.08) == (planned["requested_model"], planned["estimated_cost_usd"])
    assert "https://example.com/a.png" == planned["input"]["input_image"]
    assert [("image", "mapped", "input_image")] == [
        (each["field"], each["change"], each["sent_as"]) for each in planned["changes"]
    ]


def test_the_response_to_a_dry_run_repeats_no_image(client, simulator, tmp_path):
    inline = "data:image/png;base64," + base64.b64encode(PNG).decode()
    large = "data:image/png;base64," + base64.b64encode(PNG + b"x" * 300_000).decode()
    images = {"image_input": [inline, "https://example.com/a.png"]}

    assert "data:image/png;base64,…" == single(client, image=inline).json["input"]["image"]
    assert f"a file of {len(PNG) + 300_000} bytes" == single(client, image=large).json["input"]["image"]
    assert ["data:image/png;base64,…", "https://example.com/a.png"] == single(
        client, model_name="nano-banana", **images
    ).json["input"]["image_input"]
    assert {} == dict(simulator.counts().requests)
    assert [] == [each for each in (tmp_path / "uploads").rglob("*") if each.is_file()]


def test_a_form_can_request_a_dry_run(client, simulator):
    form = {**PICTURE, "dry_run": "true", "image": (io.BytesIO(PNG), "a.png")}

    planned = client.post("/generate", data=form, headers=ADMIN).json

    assert (True, "data:image/png;base64,…") == (planned["dry_run"], planned["input"]["image"])
    assert {} == dict(simulator.counts().requests)


@pytest.mark.parametrize("given", [False, None])
def test_a_dry_run_of_false_runs_the_request(client, simulator, given):
    assert single(client, dry_run=given).json["success"]
    assert 1 == simulator.counts().creations_accepted


def test_a_dry_run_leaves_its_idempotency_key_free_and_waits_for_nothing(client, simulator):
    keyed = ADMIN | {"Idempotency-Key": "key", "Prefer": "respond-async"}

    assert (200, True) == ((planned := single(client, headers=keyed)).status_code, planned.json["dry_run"])
    hanging = PICTURE | {"prompt": "[[hang]]"}
    assert 202 == client.post("/generate", json=hanging, headers=keyed).status_code


def test_a_dry_run_of_one_generation_is_checked_like_the_generation_itself(make_app, simulator, tmp_path):
    client = make_app().test_client()
    wrong = problem(single(client, dry_run="yes", guidance=99), 400, "invalid_request")
    assert {"dry_run", "guidance"} == {each["field"] for each in wrong["errors"]}
    problem(single(client, headers={}), 401, "unauthenticated")
    client.application.extensions["service"].begin_drain(0)
    problem(single(client), 503, "shutting_down", retryable=True)
    assert {} == dict(simulator.counts().requests)


@pytest.mark.parametrize("given", [True, False])
def test_a_single_request_of_a_batch_cannot_be_a_dry_run(client, given):
    answer = post(client, {"requests": [PICTURE | {"dry_run": given}]})

    assert ["requests[0].dry_run"] == [
        each["field"] for each in problem(answer, 400, "invalid_request")["errors"]
    ]


def test_a_dry_run_that_requests_a_stream_gets_a_plain_response(client):
    answer = post(client, prompts(2, dry_run=True), headers=USER | {"Accept": "application/x-ndjson"})

    assert ("application/json", True) == (answer.content_type, answer.json["dry_run"])


def test_measured_durations_replace_the_usual_seconds(make_app):
    client = make_app(REPLICATE_CONCURRENT_LIMIT=1).test_client()
    before = post(client, prompts(10, dry_run=True)).json["estimated_seconds"]
    post(client, prompts(3))

    assert post(client, prompts(10, dry_run=True)).json["estimated_seconds"] < before / 2
