"""The calls that only a simulated Gemini has, over HTTP."""

import httpx
import pytest

from harness.service_process import until
from tests.unit.simulator.gemini.conftest import said

ROOT = "/simulator/gemini"


def test_counts_and_bills_show_what_arrived(http, talker):
    talker.ask()
    talker.ask("[[demand]]")
    counts = http.get(f"{ROOT}/counts").json()
    bills = http.get(f"{ROOT}/bills").json()["bills"]

    assert {"generate": 2} == counts["requests"]
    assert {"503": 1} == counts["refusals"]
    assert [counts["billed_micro_usd"]] == [each["micro_usd"] for each in bills]
    assert [] == http.get(f"{ROOT}/bills?limit=0").json()["bills"]
    assert talker.key not in http.get(f"{ROOT}/bills").text + http.get(f"{ROOT}/counts").text


def test_faults_are_injected_shown_and_removed(http, talker):
    faults = [{"on": "generate", "times": 2, "marks": "[[minute]]", "key": talker.key}]
    assert 200 == http.post(f"{ROOT}/faults", json=faults).status_code
    shown = http.get(f"{ROOT}/faults").json()

    assert 429 == talker.ask().status_code
    assert [{"on": "generate", "times": 2, "after": 0, "marks": "[[minute]]"}] == shown
    http.delete(f"{ROOT}/faults")
    assert 200 == talker.ask().status_code


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {}),
        ("faults", [{"marks": "[[unheard-of]]"}]),
        ("faults", [{"marks": "[[minute]] and text"}]),
        ("faults", [{"marks": "[[minute]]", "status": 500}]),
        ("faults", [{"status": 500, "wrong": 1}]),
        ("faults", [{"status": 500, "on": "create"}]),
        ("faults", [{"status": 500, "headers": {"Retry-After": 3}}]),
        ("projects", {"rpm": 1}),
        ("projects", {"key": "k", "self": 1}),
        ("projects", []),
        ("projects", {"key": "k", "rpm": -1}),
        ("projects", {"key": "k", "models": {"m": {"wrong": 1}}}),
        ("settings", {"chunks": 0}),
        ("settings", {"keep": 5}),
        ("settings", {"date": "tomorrow"}),
        ("settings", {"date": 5}),
        ("settings", {"self": 5}),
        ("settings", []),
    ],
)
def test_an_invalid_control_is_refused_and_changes_nothing(http, talker, path, body):
    assert 400 == http.post(f"{ROOT}/{path}", json=body).status_code
    assert [] == http.get(f"{ROOT}/faults").json()
    assert 200 == talker.ask().status_code


def test_a_project_has_limits_by_model_and_keys_can_be_refused(http, talker, talker_with):
    limits = {"key": talker.key, "models": {"gemini-3.8-flash": {"rpm": 1}}, "tier": "free"}
    http.post(f"{ROOT}/projects", json=limits)
    http.post(f"{ROOT}/projects", json={"key": "AQ.leaked", "state": "leaked"})

    assert [200, 429] == [talker.ask().status_code for _ in range(2)]
    assert "PerModel-FreeTier" in talker.ask().text
    assert 200 == talker.ask(model="gemini-3.6-flash").status_code
    assert 403 == talker_with("AQ.leaked").ask().status_code


def test_settings_change_the_answers_and_a_reset_takes_them_back(http, talker):
    http.post(f"{ROOT}/settings", json={"output_tokens": 90, "chunks": 3, "rpm": 2})
    assert 3 == len(talker.stream())
    assert 90 == talker.ask().json()["usageMetadata"]["candidatesTokenCount"]
    assert 429 == talker.ask().status_code
    http.post(f"{ROOT}/reset")

    assert {} == http.get(f"{ROOT}/counts").json()["requests"]
    assert 60 == talker.ask().json()["usageMetadata"]["candidatesTokenCount"]


def test_a_reset_keeps_the_calls_that_are_in_flight(http, sim, talker):
    with pytest.raises(httpx.ReadTimeout):
        talker.post("generateContent", said("[[first=30]]"), timeout=0.05)
    http.post(f"{ROOT}/reset")

    until(lambda: 0 == sim.gemini.counts().in_flight)
