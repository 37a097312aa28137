"""The bill of the simulated Gemini: by model, date, size and cache, and for calls that ended early."""

import time
from datetime import UTC, datetime

import httpx
import pytest

from simulator.gemini import models
from simulator.gemini.models import Usage
from tests.unit.simulator.gemini.conftest import BEFORE, said

DECEMBER, JANUARY = datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
AMOUNT = Usage(prompt=1000, cached=200, output=300, thoughts=100)


@pytest.mark.parametrize(
    ("model", "at", "usage", "micro_usd"),
    [
        ("gemini-3.8-flash", BEFORE, AMOUNT, 2115),  # 800 * 0.75 + 200 * 0.075 + 400 * 3.75
        ("gemini-3.8-flash", JANUARY, AMOUNT, 4230),
        ("gemini-4-argon", BEFORE, AMOUNT, 5620),  # 800 * 2 + 200 * 0.1 + 400 * 10
        ("gemini-4-argon", DECEMBER, AMOUNT, 11_240),
        ("gemini-3.1-pro-preview", BEFORE, Usage(prompt=200_000), 400_000),
        ("gemini-3.1-pro-preview", BEFORE, Usage(prompt=200_001), 800_004),
        ("gemini-3.5-flash-lite", BEFORE, Usage(prompt=1, output=1), 3),  # 2.8
        ("gemini-3.1-flash-lite", BEFORE, Usage(prompt=2), 1),  # 0.5, half up
        ("gemini-of-tomorrow", BEFORE, AMOUNT, 0),
    ],
)
def test_a_call_costs_what_the_table_says(model, at, usage, micro_usd):
    assert micro_usd == models.cost(model, usage, at)


def test_a_bill_has_what_the_answer_told(sim, talker):
    body = talker.ask("Hello [[cached=0.5]] [[think=100]] [[out=50]]").json()
    (bill,) = sim.gemini.bills()

    told = body["usageMetadata"]
    assert bill.usage == Usage(told["promptTokenCount"], told["cachedContentTokenCount"], 50, 100)
    assert (body["responseId"], "gemini-3.8-flash", "STOP") == (
        bill.response_id,
        bill.answered,
        bill.finish_reason,
    )
    assert bill.micro_usd == models.cost("gemini-3.8-flash", bill.usage, BEFORE)
    assert bill.micro_usd == sim.gemini.counts().billed_micro_usd


def test_refused_calls_are_free(sim, talker):
    for mark in ("[[minute]]", "[[status=500]]", "[[error=503]]"):
        talker.ask(mark)

    assert 0 == sim.gemini.counts().billed_micro_usd


@pytest.mark.parametrize(("disconnect", "tokens"), [("chunk", 10), ("whole", 40)])
def test_a_disconnect_is_billed_as_the_last_chunk_or_whole(sim, talker, disconnect, tokens):
    sim.gemini.configure(disconnect=disconnect)
    body = said("[[chunks=4]] [[out=40]] [[slow=3000]]")
    path = "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
    with talker.http.stream("POST", path, json=body, headers={"x-goog-api-key": "AQ.tester"}) as answer:
        next(answer.iter_lines())

    assert ("disconnected", tokens) == _only(sim, lambda bill: (bill.outcome, bill.usage.output))


def test_a_caller_that_leaves_before_the_first_chunk_pays_for_the_prompt(sim, talker):
    with pytest.raises(httpx.ReadTimeout):
        talker.post("generateContent", said("1234 [[first=3000]]"), timeout=0.2)

    assert ("disconnected", 0) == _only(
        sim, lambda bill: (bill.outcome, bill.usage.output + bill.usage.thoughts)
    )
    assert 0 == sim.gemini.counts().in_flight


def _only(sim, shown):
    for _ in range(200):  # the end of a connection takes a moment to arrive
        if bills := sim.gemini.bills():
            return shown(*bills)
        time.sleep(0.05)
    return None
