"""Calls over the simulated Gemini: each course that it knows has the end that it should have, and is sent once."""

import asyncio
from dataclasses import replace

import pytest

from concurrency import Gate
from errors import InsufficientCredit, ServerOutOfCredit, UpstreamError
from errors.calls import ModelUnavailable, SchemaRefused, ServerGeminiKeyRejected
from providers import TryAgain
from providers.call_outcomes import outcome_of
from providers.calls import Call, CallLost, LimitHit, Message, Usage, partial_of
from providers.gemini.client import GeminiClient
from providers.gemini.exchange import Timeouts
from tests.support.fake_google import SERVER, USER, LeaseLog
from tests.support.simulated_gemini import SimulatedGemini
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import on_a_loop

TIMEOUTS = Timeouts(call=600, silence=100)
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def a_call(prompt, **fields):
    return Call(
        model="gemini-3.8-flash",
        messages=(Message("user", prompt),),
        **{"max_output_tokens": 2000, "thinking_level": "low", **fields},
    )


class Run:
    def __init__(self, prompt, *, caller=SERVER, options=None, **fields):
        self.caller = caller
        self.google = SimulatedGemini(**(options or {}))
        self.client = self.google.client(timeouts=TIMEOUTS)
        self.call = a_call(prompt, **fields)
        self.lease = LeaseLog()
        self.pieces = []
        self.answer = self.error = None

    async def end(self):
        try:
            self.answer = await self.client.run(
                self.caller, self.call, lease=self.lease, on_delta=self.pieces.append
            )
        except Exception as error:
            self.error = error
        return self

    @property
    def billed(self):
        (bill,) = self.google.gemini.bills()
        usage = bill.usage
        return Usage(usage.prompt, usage.cached, usage.output, usage.thoughts)


ANSWERED = {
    "": "ok",
    "[[out=200]] [[chunks=10]]": "ok",
    "[[strange]]": "ok",
    "[[think=500]] [[think-parts]]": "ok",
    "[[cached=0.5]]": "ok",
    "[[cut]]": "truncated",
    "[[think=2000]]": "truncated",
    "[[repeat]]": "truncated",
    "[[empty]]": "empty",
    "[[empty-text]]": "empty",
    "[[blocked]]": "refused",
    "[[blocked=JAILBREAK]]": "refused",
    "[[finish=SAFETY]]": "refused",
    "[[text-then=RECITATION]]": "refused",
    "[[no-image]]": "failed",
    "[[finish=UNEXPECTED_TOOL_CALL]]": "failed",
    "[[no-candidates]]": "failed",
}


@pytest.mark.parametrize(("prompt", "kind"), ANSWERED.items(), ids=ANSWERED)
@in_virtual_time
async def test_an_answer_with_an_end_is_read_as_it_is_and_its_usage_is_the_bill(prompt, kind):
    run = await Run(f"Tell me of foxes. {prompt}").end()

    assert kind == outcome_of(run.answer).kind
    assert (run.answer.text, run.answer.usage) == ("".join(run.pieces), run.billed)
    assert ["sent", "answered", run.answer.usage.prompt_tokens] == run.lease.log
    assert "gemini-3.8-flash" == run.answer.model_version
    assert 1 == run.google.gemini.counts().requests["stream"]


@in_virtual_time
async def test_an_answer_without_usage_is_one_whose_usage_is_unknown():
    run = await Run("[[no-usage]]").end()

    assert ("ok", False) == (outcome_of(run.answer).kind, run.answer.usage.is_known)


@in_virtual_time
async def test_an_answer_in_json_has_the_schema():
    run = await Run("A person", schema=SCHEMA).end()

    assert run.answer.text.startswith('{"name"')


AGAIN = [
    "[[overloaded]]",
    "[[demand]]",
    "[[status=500]]",
    "[[status=499]]",
    "[[status=504]]",
    "[[error=503]]",
]


@pytest.mark.parametrize("prompt", AGAIN)
@in_virtual_time
async def test_an_error_of_google_before_any_text_may_be_tried_again(prompt):
    run = await Run(prompt).end()

    assert isinstance(run.error, TryAgain)
    assert (["sent", "answered"], []) == (run.lease.log, run.pieces)
    assert 0 == run.google.gemini.counts().billed_micro_usd


HIT = {
    "[[minute]]": ("minute", "model", "rpm", 300, 54),
    "[[minute-tokens]]": ("minute", "model", "tpm", 1_000_000, 54),
    "[[error=minute]]": ("minute", "model", "rpm", 300, 54),
    "[[day]]": ("day", "model", "rpd", 250, None),
    "[[day-and-minute]]": ("day", "model", "rpd", 250, None),
    "[[hours]]": ("day", "model", "rpm", 300, None),
    "[[zero]]": ("tier", "model", "rpd", None, None),
    "[[capacity]]": ("capacity", "model", None, None, None),
    "[[no-capacity]]": ("capacity", "model", None, None, None),
    "[[spend]]": ("capacity", "model", None, None, None),
    "[[prepaid]]": ("money", "account", None, None, None),
    "[[cap]]": ("money", "account", None, None, None),
}


@pytest.mark.parametrize(("prompt", "means"), HIT.items(), ids=HIT)
@in_virtual_time
async def test_each_429_is_the_limit_that_it_means(prompt, means):
    run = await Run(prompt).end()
    hit = run.error

    assert isinstance(hit, LimitHit)
    limit = None if hit.kind == "tier" else hit.limit
    assert means == (hit.kind, hit.scope, limit or means[2], hit.lowered_to, hit.wait)
    assert (["sent", "answered"], 0) == (run.lease.log, run.google.gemini.counts().billed_micro_usd)


FINAL = {
    "[[bad-key]]": (ServerGeminiKeyRejected, 401),
    "[[refused-key]]": (ServerGeminiKeyRejected, 401),
    "[[leaked-key]]": (ServerGeminiKeyRejected, 401),
    "[[country]]": (ServerOutOfCredit, 402),
    "[[billing]]": (ServerOutOfCredit, 402),
    "[[status=404]]": (ModelUnavailable, 500),
    "[[status=501]]": (UpstreamError, 500),
    "[[schema]]": (SchemaRefused, 400),
    "[[states]]": (SchemaRefused, 400),
}


@pytest.mark.parametrize(("prompt", "means"), FINAL.items(), ids=FINAL)
@in_virtual_time
async def test_a_final_refusal_is_the_accounts_or_the_callers(prompt, means):
    kind, status = means
    ours = await Run(prompt, schema=SCHEMA).end()
    theirs = await Run(prompt, schema=SCHEMA, caller=USER).end()

    assert (kind, status) == (type(ours.error), theirs.error.status)
    assert ["sent", "answered"] == ours.lease.log


@in_virtual_time
async def test_the_money_of_the_callers_own_account_is_theirs():
    run = await Run("[[prepaid]]", caller=USER).end()

    assert (InsufficientCredit, 402) == (type(run.error.error), run.error.error.status)


LOST = {
    "[[reset]]": (["sent", "lost"], False, None),
    "[[lost]]": (["sent", "lost"], False, "lost"),
    "[[silence]]": (["sent", "lost"], False, "lost"),
    "[[head=0]] [[first=200]]": (["sent", "answered"], False, "disconnected"),
    "[[cut-stream]]": (["sent", "answered"], True, "cut"),
    "[[stall]]": (["sent", "answered"], True, "disconnected"),
    "[[stall=60]]": (["sent", "answered"], True, "cut"),
    "[[no-finish]]": (["sent", "answered"], True, "finished"),
    "[[garbage]]": (["sent", "answered"], True, "disconnected"),
    "[[slow=10000]] [[chunks=1000]] [[out=1000]]": (["sent", "answered"], True, "disconnected"),
}


@pytest.mark.parametrize(("prompt", "means"), LOST.items(), ids=LOST)
@in_virtual_time
async def test_a_call_without_an_end_is_lost_and_sent_once(prompt, means):
    log, has_text, outcome = means
    run = await Run(f"Foxes {prompt}").end()

    assert isinstance(run.error, CallLost)
    assert (log, has_text) == (run.lease.log[:2], bool(run.error.partial.text))
    assert "".join(run.pieces) == run.error.partial.text
    assert 1 == run.google.gemini.counts().requests["stream"]
    ended = [each.outcome for each in run.google.gemini.bills()]
    assert ended == ([] if outcome is None else [outcome])
    if outcome in {"cut", "disconnected"} and has_text:
        assert run.billed == run.error.partial.usage


@in_virtual_time
async def test_an_error_after_a_part_of_the_text_is_final_and_has_the_partial_answer():
    run = await Run("Foxes [[late-error=demand]]").end()

    assert (UpstreamError, True) == (type(run.error), run.error.may_be_paid)
    assert ("".join(run.pieces), run.billed) == (partial_of(run.error).text, partial_of(run.error).usage)


@in_virtual_time
async def test_a_cancelled_call_is_a_disconnect_at_google_at_once():
    run = Run("Foxes [[slow=60]]")
    task = asyncio.create_task(run.end())
    await asyncio.sleep(20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert ["disconnected"] == [each.outcome for each in run.google.gemini.bills()]
    assert (run.billed, "".join(run.pieces)) == (
        partial_of(caught.value).usage,
        partial_of(caught.value).text,
    )


@in_virtual_time
async def test_googles_own_deadline_ends_a_slow_call_before_ours_so_that_it_may_be_tried_again():
    run = await Run("Foxes [[first=700]]", options={"first_seconds": 0.1}).end()

    assert isinstance(run.error, CallLost), "the silence is shorter"
    run.client = run.google.client(timeouts=replace(TIMEOUTS, silence=1000))
    assert isinstance((await run.end()).error, TryAgain)


@in_virtual_time
async def test_the_count_of_tokens_is_that_of_the_call():
    run = await Run("Who was Liu Bang? 漢高祖 123456789", system="Be brief.", schema=SCHEMA).end()

    assert run.answer.usage.prompt_tokens == await run.client.count_tokens(SERVER, run.call)
    assert run.answer.usage.prompt_tokens <= run.client.tokens_bound(run.call)


REAL = {
    "Foxes": (None, ["sent", "answered"]),
    "[[minute]]": (LimitHit, ["sent", "answered"]),
    "[[overloaded]]": (TryAgain, ["sent", "answered"]),
    "[[error=503]]": (TryAgain, ["sent", "answered"]),
    "[[refused-key]]": (ServerGeminiKeyRejected, ["sent", "answered"]),
    "[[reset]]": (CallLost, ["sent", "lost"]),
    "[[lost]]": (CallLost, ["sent", "lost"]),
    "[[cut-stream]]": (CallLost, ["sent", "answered"]),
    "[[no-finish]]": (CallLost, ["sent", "answered"]),
}


@on_a_loop
async def test_the_same_holds_over_real_connections_and_no_request_is_sent_twice(simulator):
    simulator.gemini.configure(first_seconds=0.01, seconds=0.02)
    others = Gate(concurrent_limit=100, requests_per_minute=1000)
    client = GeminiClient(base_url=simulator.url, others=others, timeouts=TIMEOUTS)
    ends = {}
    for prompt in REAL:
        lease = LeaseLog()
        try:
            await client.run(SERVER, a_call(prompt), lease=lease, on_delta=len)
            kind = None
        except Exception as error:
            kind = type(error)
        ends[prompt] = (kind, lease.log[:2])
    tokens = await client.count_tokens(SERVER, a_call("Foxes"))
    await client.aclose()
    counts = simulator.gemini.counts()

    assert (ends, len(REAL)) == (REAL, counts.requests["stream"])
    assert (0, True) == (counts.keys_in_urls, 0 < tokens <= client.tokens_bound(a_call("Foxes")))
