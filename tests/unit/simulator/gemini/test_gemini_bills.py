"""The bill of the simulated Gemini: by model, date, size and cache, and for calls that ended early."""

from datetime import UTC, datetime

import httpx
import pytest

from harness.service_process import until
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
def test_the_cost_of_a_call_is_that_of_the_table(model, at, usage, micro_usd):
    assert micro_usd == models.cost(model, usage, at)


def test_a_bill_has_the_usage_of_the_answer(sim, talker):
    body = talker.ask("Hello [[cached=0.5]] [[think=100]] [[out=50]]").json()
    (bill,) = sim.gemini.bills()

    usage = body["usageMetadata"]
    assert bill.usage == Usage(usage["promptTokenCount"], usage["cachedContentTokenCount"], 50, 100)
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

    bill = only_bill(sim)
    assert ("disconnected", tokens) == (bill.outcome, bill.usage.output)


def test_a_caller_that_leaves_before_the_first_chunk_pays_for_the_prompt(sim, talker):
    with pytest.raises(httpx.ReadTimeout):
        talker.post("generateContent", said("1234 [[first=3000]]"), timeout=0.2)

    bill = only_bill(sim)
    assert ("disconnected", 0) == (bill.outcome, bill.usage.output + bill.usage.thoughts)
    assert 0 == sim.gemini.counts().in_flight


def only_bill(sim):
    """The bill of a call that was disconnected. It takes a moment to arrive."""
    until(sim.gemini.bills)
    [bill] = sim.gemini.bills()
    return bill
