"""Answers of the simulated Gemini: chunks, usage, thinking, and connections that end without one."""

import httpx
import pytest

LEVEL = "thinkingLevel"


def test_every_chunk_of_a_stream_has_the_usage_so_far_and_only_the_last_one_a_finish_reason(talker):
    chunks = talker.stream("Hello [[chunks=4]] [[out=40]] [[think=12]]")
    usages = [each["usageMetadata"] for each in chunks]

    assert [10, 20, 30, 40] == [each["candidatesTokenCount"] for each in usages]
    assert [12] * 4 == [each["thoughtsTokenCount"] for each in usages]
    assert all(
        each["totalTokenCount"] == each["promptTokenCount"] + each["candidatesTokenCount"] + 12
        for each in usages
    )
    assert [None, None, None, "STOP"] == [each["candidates"][0].get("finishReason") for each in chunks]
    assert {"gemini-3.8-flash"} == {each["modelVersion"] for each in chunks}
    assert 1 == len({each["responseId"] for each in chunks})


def test_a_unary_answer_is_the_stream_as_one_body(talker):
    whole = talker.ask("Hello", generationConfig={"seed": 7}).json()
    chunks = talker.stream("Hello", generationConfig={"seed": 7})

    streamed = "".join(each["candidates"][0]["content"]["parts"][0]["text"] for each in chunks)
    assert streamed == whole["candidates"][0]["content"]["parts"][0]["text"]
    assert chunks[-1]["usageMetadata"] == whole["usageMetadata"]
    assert whole["usageMetadata"]["rawPromptTokenCount"] > whole["usageMetadata"]["promptTokenCount"]
    assert {"turnToken", "responseId"} <= whole.keys()


def test_thinking_takes_all_of_a_low_limit_and_leaves_no_parts(talker):
    body = talker.ask(generationConfig={"maxOutputTokens": 20, "thinkingConfig": {LEVEL: "high"}}).json()

    assert {"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0} == body["candidates"][0]
    assert 20 == body["usageMetadata"]["thoughtsTokenCount"]
    assert "candidatesTokenCount" not in body["usageMetadata"]


@pytest.mark.parametrize(
    ("mark", "candidate"),
    [
        ("[[empty]]", {"content": {"role": "model"}, "finishReason": "STOP", "index": 0}),
        ("[[no-image]]", {"finishReason": "NO_IMAGE", "index": 0}),
        ("[[finish=OF_TOMORROW]]", {"finishReason": "OF_TOMORROW", "index": 0}),
    ],
)
def test_an_answer_can_have_no_text(talker, mark, candidate):
    assert [candidate] == talker.ask(mark).json()["candidates"]


def test_a_blocked_prompt_has_a_reason_and_no_candidate(talker):
    body = talker.ask("[[blocked=JAILBREAK]]").json()

    assert "candidates" not in body
    assert {"blockReason": "JAILBREAK"} == body["promptFeedback"]


def test_the_thoughts_of_a_returned_signature_are_part_of_the_next_prompt(talker):
    said = {"role": "user", "parts": [{"text": "Hello"}]}
    answer = talker.post("generateContent", {"contents": [said]}).json()
    turn = answer["candidates"][0]["content"]
    plain = {"role": "model", "parts": [{"text": turn["parts"][0]["text"]}]}

    signed = talker.post("countTokens", {"contents": [said, turn, said]}).json()["totalTokens"]
    unsigned = talker.post("countTokens", {"contents": [said, plain, said]}).json()["totalTokens"]

    assert answer["usageMetadata"]["thoughtsTokenCount"] + 11 == signed - unsigned


def test_an_error_comes_inside_a_stream_before_or_after_the_text(sim, talker):
    early = talker.stream("[[error=503]]")
    late = talker.stream("[[late-error=minute]] [[chunks=4]]")

    assert [503] == [each["error"]["code"] for each in early]
    assert [False, False, True] == ["error" in each for each in late]
    assert ["failed", "failed"] == [each.outcome for each in sim.gemini.bills()]
    assert 0 == sim.gemini.bills()[0].micro_usd < sim.gemini.bills()[1].micro_usd


@pytest.mark.parametrize("mark", ["[[cut-stream]]", "[[lost]]", "[[silence=0]]", "[[stall=0]]"])
def test_a_connection_ends_without_an_answer_and_the_work_is_billed(sim, talker, mark):
    with pytest.raises(httpx.TransportError):
        talker.stream(mark)

    assert sim.gemini.counts().billed_micro_usd > 0
    assert 0 == sim.gemini.counts().in_flight


def test_a_reset_before_anything_was_done_costs_nothing(sim, talker):
    with pytest.raises(httpx.TransportError):
        talker.ask("[[reset]]")

    assert [] == sim.gemini.bills()


def test_an_old_model_is_answered_by_its_successor_from_a_date_on(sim, talker):
    before = talker.ask(model="gemini-2.5-pro").json()["modelVersion"]
    sim.gemini.configure(date="2026-12-01T00:00:00+00:00")
    after = talker.ask(model="gemini-2.5-pro").json()["modelVersion"]

    assert ("gemini-2.5-pro", "gemini-3.8-flash") == (before, after)
    assert "gemini-3.6-flash" == talker.ask(model="gemini-3.5-flash").json()["modelVersion"]
