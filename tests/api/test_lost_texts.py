"""Calls that lose their answers: they fail with an unknown outcome, or are sent again if their callers allow it."""

import json

import pytest

from tests.support.text_calls import EXTRACT, ask, code

every_database = pytest.mark.every_database

LOST = ["[[once=lost]]", "[[once=cut-stream]]", "[[once=no-finish]]"]


@pytest.fixture
def client(texts):
    return texts()


def sent(simulator):
    return simulator.gemini.counts().requests.get("stream", 0)


def billed(simulator):
    return sum(bill.micro_usd for bill in simulator.gemini.bills())


@every_database
@pytest.mark.parametrize("mark", LOST)
def test_a_lost_call_is_not_sent_again_not_even_with_its_key(client, simulator, mark):
    lost = ask(client, {"prompt": f"Hello {mark}"}, **{"Idempotency-Key": "one"})
    again = ask(client, {"prompt": f"Hello {mark}"}, **{"Idempotency-Key": "one"})

    assert (500, "outcome_unknown") == code(lost) == code(again)
    assert lost.json["id"] == again.json["id"]
    assert not lost.json["retryable"]
    assert (mark != LOST[0]) == ("partial" in lost.json)
    assert 1 == sent(simulator)
    assert billed(simulator) <= round(lost.json["cost_usd"] * 1e6)


@every_database
@pytest.mark.parametrize("mark", LOST)
def test_a_lost_call_is_sent_again_if_the_caller_allows_it_and_both_are_paid(client, simulator, mark):
    alone = ask(client, {"prompt": "Hello"}).json["cost_usd"]
    before = billed(simulator)
    answer = ask(client, {"prompt": f"Hello {mark}", "on_lost": "repeat"})

    assert (200, 2) == (answer.status_code, answer.json["attempts"]), answer.text
    assert 3 == sent(simulator)
    assert "partial" not in answer.json
    assert billed(simulator) - before <= round(answer.json["cost_usd"] * 1e6)
    assert answer.json["cost_usd"] > 10 * alone  # the lost one costs its reservation


def test_a_call_that_is_lost_again_and_again_ends(client, simulator):
    answer = ask(client, {"prompt": "Hello [[lost]]", "on_lost": "repeat"})

    assert (500, "outcome_unknown") == code(answer)
    assert 4 == sent(simulator)
    assert billed(simulator) <= round(answer.json["cost_usd"] * 1e6)


def test_each_item_of_a_batch_and_structured_output_may_be_sent_again(client, simulator):
    lost = [{"prompt": "One [[once=lost]]", "on_lost": "repeat"}, {"prompt": "Two [[once=lost]]"}]
    results = ask(client, {"requests": lost}, to="/batch/chat").json["results"]
    assert [True, False] == [each["success"] for each in results]
    assert "outcome_unknown" == results[1]["error"]["code"]

    extract = EXTRACT | {"user_content": "I am Jane [[once=cut-stream]]", "on_lost": "repeat"}
    assert 200 == ask(client, extract, to="/structured-output").status_code
    assert 5 == sent(simulator)


def test_the_last_event_of_a_stream_has_the_answer_of_the_second_attempt_alone(client):
    body = {"prompt": "Hello [[once=cut-stream]]", "on_lost": "repeat", "stream": True}
    lines = ask(client, body).text.splitlines()
    *pieces, whole = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]

    came = "".join(each["delta"] for each in pieces)
    assert came.endswith(whole["response"])
    assert len(came) > len(whole["response"])
