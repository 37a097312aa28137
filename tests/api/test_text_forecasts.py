"""Places in the queue, estimates and plans of calls to text models, and the limits of keys on them."""

import pytest

from harness.service_process import until
from tests.support.named_keys import make_key
from tests.support.text_calls import ADMIN, ask

ASYNC = {"Prefer": "respond-async"}


def submitted(client, body, **more):
    """The path of a call that is not waited for."""
    return ask(client, body, **more, **ASYNC).headers["Location"]


def shown(client, path, by=ADMIN):
    return client.get(path, headers=by).json


def test_queued_calls_have_their_places_and_the_seconds_of_the_minute_that_is_full(texts):
    client = texts(GEMINI_LIMITS='{"*": {"rpm": 1}}')
    assert ask(client, {"prompt": "Hello"}).json["success"]
    first, second = (submitted(client, {"prompt": "Hello"}) for _ in range(2))

    until(lambda: 1 == shown(client, first).get("place"))
    assert 2 == shown(client, second)["place"]
    assert 30 < shown(client, first)["estimated_seconds"] < 70
    assert 90 < shown(client, second)["estimated_seconds"] < 130


def test_the_plan_of_a_batch_is_that_of_the_windows_of_its_models(texts):
    client = texts(GEMINI_LIMITS='{"*": {"rpm": 2}}')
    batch = {"requests": [{"prompt": "Hello"}] * 5, "dry_run": True}

    plan = ask(client, batch, to="/batch/chat").json
    assert "queue" == plan["strategy"]
    assert 120 < plan["estimated_seconds"] < 180
    single = ask(client, {"prompt": "Hello", "dry_run": True}).json
    assert ("immediate", "gemini-3.5-flash-lite") == (single["strategy"], single["model_name"])


def test_a_prompt_whose_estimate_passes_the_window_has_a_plan(texts):
    client = texts(GEMINI_LIMITS='{"*": {"tpm": 1000}}')

    plan = ask(client, {"prompt": "word " * 400, "dry_run": True}).json
    assert plan["estimated_seconds"] < 120


@pytest.mark.parametrize("model", ["gemini-3.8-flash", "gemini-2.5-pro"], ids=["its own name", "retired"])
def test_measured_calls_of_a_model_replace_its_usual_seconds(texts, model):
    client = texts(GEMINI_CONCURRENCY_LIMIT=1)
    batch = {"requests": [{"prompt": "Hello", "model": model}] * 10}
    before = ask(client, {**batch, "dry_run": True}, to="/batch/chat").json["estimated_seconds"]
    assert ask(client, {"prompt": "Hello", "model": model}).json["success"]

    assert ask(client, {**batch, "dry_run": True}, to="/batch/chat").json["estimated_seconds"] < before / 2


@pytest.mark.every_database
def test_the_limits_of_a_key_hold_for_its_calls(texts):
    client = texts()
    _, by = make_key(client, requests_per_minute=1)
    until(lambda: 200 == client.get("/keys/self", headers=by).status_code)
    assert ask(client, {"prompt": "Hello"}, by=by).json["success"]

    waiting = submitted(client, {"prompt": "Hello"}, by=by)
    assert ask(client, {"prompt": "Hello"}).json["success"]
    assert "queued" == shown(client, waiting, by)["status"]


def test_a_key_with_one_slot_runs_one_call_at_a_time(texts, simulator):
    client = texts()
    _, by = make_key(client, max_concurrent=1, max_queued=2)
    slow = {"prompt": "[[first=30]] Hello"}
    running = submitted(client, slow, by=by)
    until(lambda: 1 == simulator.gemini.counts().in_flight)
    waiting = [submitted(client, slow, by=by) for _ in range(2)]

    assert [1, 2] == [shown(client, each, by)["place"] for each in waiting]
    assert 1 == simulator.gemini.counts().in_flight
    refused = ask(client, slow, by=by, **ASYNC)
    assert (429, "queue_full") == (refused.status_code, refused.json["code"])
    for each in (*waiting, running):
        client.delete(each, headers=by)
