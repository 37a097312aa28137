"""Limits and refusals of the simulated Gemini."""

from dataclasses import astuple

import pytest


def error(answer):
    return answer.json()["error"]


def violations(answer):
    failure = next(each for each in error(answer)["details"] if each["@type"].endswith("QuotaFailure"))
    return {each["quotaId"]: each["quotaValue"] for each in failure["violations"]}


def delay(answer):
    return next(
        each["retryDelay"] for each in error(answer)["details"] if each["@type"].endswith("RetryInfo")
    )


def test_a_window_of_requests_is_full_until_the_first_one_is_sixty_seconds_old(sim, talker, clock):
    sim.gemini.project(talker.key, rpm=2)
    talker.ask()
    clock.advance(seconds=6.5)
    talker.ask()
    refused = talker.ask()

    assert 429 == refused.status_code
    assert {"GenerateRequestsPerMinutePerProjectPerModel": "2"} == violations(refused)
    assert "53s" == delay(refused)
    assert "Please retry in 53.500000000s." in error(refused)["message"]
    assert not {"retry-after", "x-ratelimit-limit"} & {name.lower() for name in refused.headers}
    clock.advance(seconds=53.5)
    assert 200 == talker.ask().status_code
    assert {"rpm": 1} == sim.gemini.counts().limits_hit


def test_a_window_of_tokens_counts_prompts_of_one_model_and_project(sim, talker, talker_with):
    sim.gemini.project(talker.key, project="shared", tpm=10)
    sim.gemini.project("AQ.other", project="shared")
    assert 200 == talker.ask("1234567").status_code
    refused = talker_with("AQ.other").ask("1234")

    assert ["GenerateContentPaidTierInputTokensPerModelPerMinute"] == list(violations(refused))
    assert 200 == talker.ask("1234", model="gemini-3.5-flash-lite").status_code
    assert 200 == talker_with("AQ.third").ask("1234").status_code
    shared = next(each for each in sim.gemini.counts().lanes if each.project == "shared")
    assert ("gemini-3.8-flash", 2, 11, 1) == astuple(shared)[1:]


@pytest.mark.parametrize(
    ("begin", "hours"), [("2026-03-08T08:00:00+00:00", 23), ("2026-11-01T07:00:00+00:00", 25)]
)
def test_a_day_ends_at_midnight_pacific_time(sim, talker, clock, begin, hours):
    sim.gemini.configure(date=begin)
    sim.gemini.project(talker.key, rpd=1)
    talker.ask()
    refused = talker.ask()

    assert "GenerateRequestsPerDayPerProjectPerModel" in violations(refused)
    assert f"{hours * 3600}s" == delay(refused)
    clock.advance(seconds=hours * 3600 - 1)
    assert 429 == talker.ask().status_code
    clock.advance(seconds=1)
    assert 200 == talker.ask().status_code


def test_the_dollars_of_ten_minutes_are_refused_without_details(sim, talker, clock):
    sim.gemini.project(talker.key, usd_per_10_minutes=0.0001)
    talker.ask()
    refused = talker.ask()

    assert (429, False) == (refused.status_code, "details" in error(refused))
    clock.advance(seconds=600)
    assert 200 == talker.ask().status_code


def test_marks_refuse_in_every_known_way(talker):
    both, zero = talker.ask("[[day-and-minute]]"), talker.ask("[[zero]]")
    hours, bare, money = talker.ask("[[hours]]"), talker.ask("[[capacity]]"), talker.ask("[[prepaid]]")
    messages = [error(talker.ask(mark))["message"] for mark in ("[[overloaded]]", "[[demand]]")]

    assert 2 == len(violations(both))
    assert {"0"} == set(violations(zero).values())
    assert "1h52m56.4s" in error(hours)["message"]
    assert "details" not in error(bare)
    assert "prepayment credits" in error(money)["message"]
    assert ["overloaded" in messages[0], "high demand" in messages[1]] == [True, True]


def test_a_mark_can_be_for_the_first_call_only(talker):
    assert [503, 200] == [talker.ask("[[once=overloaded]]").status_code for _ in range(2)]


def test_keys_are_refused_in_their_two_ways_and_two_credentials_are_one_too_many(talker, talker_with):
    old, new = talker_with("AIza-invalid").ask(), talker_with("AQ.invalid").ask()
    two = talker.post("generateContent", {}, headers={"Authorization": "Bearer x"})
    missing = talker.http.post("/v1beta/models/gemini-3.8-flash:generateContent", json={})

    assert (400, "API_KEY_INVALID") == (old.status_code, error(old)["details"][0]["reason"])
    assert (401, "ACCESS_TOKEN_TYPE_UNSUPPORTED") == (new.status_code, error(new)["details"][0]["reason"])
    assert (400, "Multiple authentication") == (two.status_code, error(two)["message"][:23])
    assert 403 == missing.status_code


def test_unknown_fields_are_named_all_at_once_and_snake_case_is_read(talker):
    refused = talker.ask(wrong=1, generation_config={"max_output_tokens": 50, "madeUp": 2})
    fields = [each.get("field") for each in error(refused)["details"][0]["fieldViolations"]]

    assert (400, [None, "generation_config"]) == (refused.status_code, fields)
    assert 200 == talker.ask(generation_config={"max_output_tokens": 500}).status_code


@pytest.mark.parametrize(
    ("model", "config", "status"),
    [
        ("gemini-3.8-flash", {"thinkingLevel": "minimal"}, 400),
        ("gemini-3.6-flash", {"thinkingLevel": "MINIMAL"}, 200),
        ("gemini-4-argon", {"thinkingLevel": "minimal"}, 400),
        ("gemini-4-argon", {"thinkingBudget": 100}, 400),
        ("gemini-3.8-flash", {"thinkingBudget": 100, "thinkingLevel": "low"}, 400),
        ("gemini-2.5-pro", {"thinkingBudget": 100}, 200),
        ("gemini-2.5-pro", {"thinkingLevel": "low"}, 400),
    ],
)
def test_thinking_is_refused_by_model(talker, model, config, status):
    answer = talker.ask(model=model, generationConfig={"thinkingConfig": config})

    assert status == answer.status_code


def test_ordered_faults_come_one_after_the_other(sim, talker):
    sim.gemini.inject(on="generate", marks="[[minute=7]]", after=1)
    sim.gemini.inject(on="any", status=502, body="<html>", times=2)

    answers = [talker.ask().status_code for _ in range(4)]
    assert [502, 429, 502, 200] == answers


def test_an_error_to_a_stream_is_json_with_the_content_type_of_a_stream(talker):
    refused = talker.post(
        "streamGenerateContent?alt=sse", {"contents": [{"parts": [{"text": "[[demand]]"}]}]}
    )

    assert "text/event-stream" == refused.headers["Content-Type"]
    assert (503, 503) == (refused.status_code, error(refused)["code"])
