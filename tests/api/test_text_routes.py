"""The models that are listed for each route, and calls in the status and in the figures."""

import pytest

from harness.service_process import until
from tests.support.named_keys import make_key
from tests.support.text_calls import ADMIN, GEMINI_KEY, ask, code


@pytest.fixture
def client(texts):
    return texts()


def test_text_models_are_listed_with_limits_levels_prices_and_ends(client):
    listed = client.get("/models").json["models"]
    found = {each["name"]: each for each in listed if each.get("provider") == "gemini"}
    assert {"text"} == {each["kind"] for each in found.values()}
    assert found.keys() == {each["name"] for each in client.get("/models?kind=text").json["models"]}

    flash, old = found["gemini-3.8-flash"], found["gemini-2.5-flash"]
    assert (1_048_576, 65_536) == (flash["input_tokens"], flash["output_tokens"])
    assert ["low", "medium", "high"] == flash["thinking_levels"]
    assert [None, "2027-01-01"] == [each.get("since") for each in flash["usd_per_million_tokens"]]
    assert "gemini-3.5-flash-lite" == old["sent_as"]
    assert old["ends"]
    assert not {"task", "json", "model_name"} & flash["input_schema"]["properties"].keys()
    assert {"model": "gemini-3.8-flash", "prompt": "Hello world"} == flash["example"]


def test_the_example_of_each_text_model_runs(client):
    for each in client.get("/models?kind=text").json["models"]:
        answer = ask(client, each["example"])
        assert 200 == answer.status_code, answer.text


def test_a_text_model_is_found_by_its_names_and_by_words(client):
    for name in ("gemini-3.8-flash", "gemini-flash-latest", "models/gemini-3.8-flash"):
        assert "gemini-3.8-flash" == client.get(f"/models/{name}").json["name"]
    searched = client.get("/models?search=2.5+flash+lite").json["models"]
    assert ["gemini-2.5-flash-lite"] == [each["name"] for each in searched]


@pytest.mark.parametrize(
    ("route", "body", "field", "named"),
    [
        ("/generate", {"model_name": "gemini-2.5-flash", "prompt": "x"}, "model_name", "POST /chat"),
        ("/generate", {"model_name": "models/gemini-2.5-flash", "prompt": "x"}, "model_name", "POST /chat"),
        ("/generate", {"model_name": "flux-dev", "prompt": "x", "fallback": ["gemini-3.8-flash"]}, "fallback[0]",
         "POST /chat"),
        ("/generate-batch", {"model_name": "gemini-3.8-flash", "prompts": ["x"]}, "model_name", "POST /chat"),
        ("/generate-batch", {"requests": [{"model_name": "gemini-3.8-flash", "prompt": "x"}]},
         "requests[0].model_name", "POST /chat"),
        ("/chat", {"prompt": "x", "model": "flux-dev"}, "model", "POST /generate"),
        ("/chat", {"prompt": "x", "fallback": ["flux-dev"]}, "fallback[0]", "POST /generate"),
        ("/batch/chat", {"requests": [{"prompt": "x", "model": "veo-3-fast"}]}, "requests[0].model", "POST /generate"),
    ],
)  # fmt: skip
def test_a_model_of_other_routes_is_refused_with_their_names(client, simulator, route, body, field, named):
    answer = ask(client, body, to=route)

    assert (400, "invalid_request") == code(answer)
    [problem] = answer.json["errors"]
    assert field == problem["field"]
    assert named in problem["message"]
    assert not simulator.gemini.counts().requests


def status(client):
    return client.get("/status").json["gemini"]


@pytest.mark.every_database
def test_limits_of_calls_change_at_once_and_are_kept(texts):
    client = texts()
    limits = {"*": {"rpm": 7, "tpm": 5000}, "account": {"usd_per_10_minutes": 3}}
    body = {"gemini": {"concurrency_limit": 4, "limits": limits}}

    answer = client.post("/configure", json=body, headers=ADMIN)
    assert 200 == answer.status_code, answer.text
    assert 4 == answer.json["gemini"]["concurrency"]["concurrent_limit"]
    assert ask(client, {"prompt": "Hello"}).json["success"]
    shown = status(client)
    lane = shown["models"]["gemini-3.5-flash-lite"]
    assert {"used": 1, "limit": 7} == lane["requests_per_minute"]
    assert 5000 == lane["tokens_per_minute"]["limit"]
    assert 3 == shown["usd_per_10_minutes"]["limit"]
    assert 0 < shown["usd_per_10_minutes"]["used"] < 1
    assert body["gemini"] == client.get("/status", headers=ADMIN).json["configured_limits"]["gemini"]
    client.application.extensions["service"].close()

    client = texts()
    assert 4 == status(client)["concurrency"]["concurrent_limit"]
    assert 200 == client.post("/configure", json={"gemini": None}, headers=ADMIN).status_code
    assert 15 == status(client)["concurrency"]["concurrent_limit"]


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({"concurrency_limit": 0}, "gemini.concurrency_limit"),
        ({"limits": {"*": {"rpm": 0}}}, "gemini.limits"),
        ({"limits": {"*": {"speed": 1}}}, "gemini.limits"),
        ({"limit": 1}, "gemini.limit"),
        ({}, "body"),
    ],
)
def test_wrong_limits_of_calls_are_refused(client, block, field):
    answer = client.post("/configure", json={"gemini": block}, headers=ADMIN)

    assert (400, "invalid_request") == code(answer)
    assert [field] == [each["field"] for each in answer.json["errors"]]


def test_only_administrators_change_limits_of_calls(client):
    _, by = make_key(client)
    assert 403 == client.post("/configure", json={"gemini": {"concurrency_limit": 2}}, headers=by).status_code


def test_a_refusal_for_a_limit_is_shown_as_a_closed_lane_and_a_lowered_limit(texts, simulator):
    client = texts()
    simulator.gemini.project(GEMINI_KEY, rpm=1)
    assert ask(client, {"prompt": "Hello"}).json["success"]
    waiting = ask(client, {"prompt": "Hello"}, Prefer="respond-async").headers["Location"]

    until(lambda: status(client)["models"]["gemini-3.5-flash-lite"]["closed"])
    lane = status(client)["models"]["gemini-3.5-flash-lite"]
    assert 0 < lane["closed"]["seconds"] < 70
    assert lane["closed"]["why"]
    assert (["rpm"], 1) == (lane["lowered"], lane["requests_per_minute"]["limit"])
    figures = client.get("/metrics", headers=ADMIN).text
    assert 'rcg_calls_requests_minute_limit{model="gemini-3.5-flash-lite"} 1.0' in figures
    assert "# HELP rcg_calls_closed_seconds " in figures
    assert 'rcg_calls_last_hour{model="gemini-3.5-flash-lite"} 1.0' in figures
    client.delete(waiting, headers=ADMIN)


def test_the_start_page_shows_each_provider_and_semaphores_only_with_a_key(client):
    ask(client, {"prompt": "Hello"})
    client.post("/_admin/semaphores", json={"semaphore_id": "all", "limit": 50}, headers=ADMIN)
    public, private = client.get("/").json, client.get("/", headers=ADMIN).json

    assert {"replicate", "gemini"} == public["providers"].keys()
    for each in public["providers"].values():
        assert each["upstream"].keys() >= {"last_answer_at", "failing_since"}
        assert (0, 0) == (each["concurrency"]["current_concurrent"], each["concurrency"]["waiting"])
    assert public["providers"]["gemini"]["upstream"]["last_answer_at"]
    assert "semaphores" not in public
    [semaphore] = private["semaphores"]
    assert ("all", 50) == (semaphore["semaphore_id"], semaphore["limit"])
    assert "semaphores" not in client.get("/", headers={"X-API-Key": "rcg_wrong"}).json


@pytest.mark.every_database
def test_a_batch_holds_the_permits_of_a_semaphore(client, simulator):
    limit = {"semaphore_id": "all", "limit": 1}
    # A process that has just started on PostgreSQL may not hold the gate yet.
    until(lambda: client.post("/_admin/semaphores", json=limit, headers=ADMIN).status_code == 200)
    batch = {"requests": [{"prompt": f"{n} [[first=0.1]]"} for n in range(3)], "external_semaphore_id": "all"}

    assert 3 == ask(client, batch, to="/batch/chat").json["successful_requests"]
    assert 1 == simulator.gemini.counts().in_flight_peak
    unknown = batch | {"external_semaphore_id": "none"}
    assert (400, "invalid_request") == code(ask(client, unknown, to="/batch/chat"))
