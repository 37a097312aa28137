"""A call to Gemini: the steps of its lease, when it may be sent again, and the text of an answer without an end."""

import asyncio
import json
from contextlib import suppress

import pytest

from auth import Caller, credentials
from errors import UpstreamError
from errors.calls import GeminiKeyRejected, ServerGeminiKeyRejected
from providers import TryAgain, UpstreamState
from providers.calls import Call, CallLost, LimitHit, Message, Picture, Usage, partial_of
from providers.connections import Lost, NotSent
from providers.gemini.exchange import Timeouts
from providers.gemini.schemas import sent_schema
from tests.support.fake_google import (
    HELLO,
    SERVER,
    SERVER_KEY,
    USER,
    USER_KEY,
    FakeGoogle,
    LeaseLog,
    Script,
    chunk,
    error,
    failure,
    refused,
    sse,
    usage,
)
from tests.support.virtual_time import in_virtual_time

FIRST = sse(chunk("Once ", **usage(60, 2, thoughts=385)))
LAST = sse(chunk("upon", finish="STOP", **usage(60, 11, thoughts=385)))

TIMEOUTS = Timeouts(call=600, silence=100, closing=5, other=15)


class Run:
    """One call and all that it did: its end, its pieces of text, its lease, and how long it took."""

    def __init__(self, *scripts, **options):
        self.google = FakeGoogle([*scripts])
        self.client = self.google.client(timeouts=TIMEOUTS, clock=lambda: 1000.0, **options)
        self.lease = LeaseLog()
        self.pieces = []

    def __await__(self):
        return self.end().__await__()

    async def end(self, call=HELLO, caller=SERVER, **options):
        now = asyncio.get_running_loop().time
        began = now()
        try:
            self.answer = await self.client.run(
                caller, call, lease=self.lease, on_delta=self.pieces.append, **options
            )
        except Exception as error:
            self.error = error
        self.took = now() - began
        return self


@in_virtual_time
async def test_an_answer_is_passed_on_piece_by_piece_and_the_lease_gets_each_step():
    run = await Run(Script([3.0, FIRST, 2.0, LAST], head_after=1.0))

    assert ("Once upon", "STOP", Usage(60, 0, 11, 385)) == (
        run.answer.text,
        run.answer.finish_reason,
        run.answer.usage,
    )
    assert (["Once ", "upon"], ["sent", "answered", 60], 6.0) == (run.pieces, run.lease.log, run.took)
    assert (UpstreamState(1000.0), 1) == (run.client.upstream, run.google.closed)


@in_virtual_time
async def test_the_request_has_the_key_in_one_header_and_googles_deadline_is_before_ours():
    run = await Run(Script([LAST])).end(seconds=90)
    (request,) = run.google.requests

    assert "https://google.test/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse" == str(
        request.url
    )
    assert (SERVER_KEY, "85") == (request.headers["x-goog-api-key"], request.headers["X-Server-Timeout"])
    assert "authorization" not in {each.lower() for each in request.headers}
    assert SERVER_KEY not in str(request.url) + repr(request)


@pytest.mark.parametrize(("seconds", "allowed"), [(None, "595"), (10_000, "595"), (7, "10"), (40.2, "36")])
@in_virtual_time
async def test_google_is_allowed_the_deadline_of_the_call_but_ten_seconds_at_least(seconds, allowed):
    run = await Run(Script([LAST])).end(seconds=seconds)

    assert allowed == run.google.requests[0].headers["X-Server-Timeout"]


@in_virtual_time
async def test_the_body_has_the_fields_of_the_call_and_no_others():
    call = Call(
        model="gemini-3.8-flash",
        messages=(
            Message("user", "Who is it?", (Picture("image/png", b"\x89PNG"),)),
            Message("assistant", "A fox"),
            Message("user", "", (Picture("image/webp", b"RIFF"),)),
        ),
        system="Be brief.",
        max_output_tokens=100,
        temperature=0.0,
        seed=0,
        stop=("END",),
        thinking_level="low",
        schema={"type": "string", "minLength": 2},
    )
    run = await Run(Script([LAST])).end(call)

    assert {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}},
                    {"text": "Who is it?"},
                ],
            },
            {"role": "model", "parts": [{"text": "A fox"}]},
            {"role": "user", "parts": [{"inlineData": {"mimeType": "image/webp", "data": "UklGRg=="}}]},
        ],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {
            "maxOutputTokens": 100,
            "temperature": 0.0,
            "seed": 0,
            "stopSequences": ["END"],
            "thinkingConfig": {"thinkingLevel": "low"},
            "responseMimeType": "application/json",
            "responseJsonSchema": dict(sent_schema({"type": "string", "minLength": 2})),
        },
    } == json.loads(run.google.requests[0].body)
    run = await Run(Script([LAST]))
    assert {
        "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
        "generationConfig": {"maxOutputTokens": 8192},
    } == json.loads(run.google.requests[0].body)


@in_virtual_time
async def test_a_caller_pays_with_their_own_key_and_one_without_any_sends_nothing():
    run = await Run(Script([LAST])).end(caller=USER)
    assert USER_KEY == run.google.requests[0].headers["x-goog-api-key"]
    for kind, rejected in (("user", GeminiKeyRejected), ("admin", ServerGeminiKeyRejected)):
        run = await Run(Script([LAST])).end(caller=Caller(kind, "x", credentials(replicate="r8_x")))
        assert (rejected, [], []) == (type(run.error), run.lease.log, run.google.requests)


@in_virtual_time
async def test_a_call_without_a_connection_may_be_tried_again_and_costs_nothing():
    run = await Run()

    assert isinstance(run.error, TryAgain)
    assert (True, [], UpstreamState(None, 1000.0)) == (
        run.error.unreachable,
        run.lease.log,
        run.client.upstream,
    )


@in_virtual_time
async def test_a_connection_that_turns_out_closed_undoes_the_sending():
    run = await Run(Script(head_after=NotSent("closed")))

    assert isinstance(run.error, TryAgain)
    assert ["sent", "not_sent"] == run.lease.log


@in_virtual_time
async def test_a_process_that_may_have_been_taken_over_sends_nothing():
    run = await Run(Script([LAST]), may_send=lambda: False)

    assert isinstance(run.error, TryAgain)
    assert (True, [], UpstreamState()) == (run.error.held_back, run.lease.log, run.client.upstream)


LOST = {
    "the connection ends before the head": (Script(head_after=Lost("reset")), "", ["sent", "lost"], 0),
    "no head comes": (Script(head_after=1e6), "", ["sent", "lost"], 100),
    "the connection ends after the head": (Script([Lost("reset")]), "", ["sent", "answered"], 0),
    "the body ends after the head": (Script([]), "", ["sent", "answered"], 0),
    "no byte comes after the head": (Script([1e6]), "", ["sent", "answered"], 100),
    "the text is cut": (Script([FIRST, 2.0, Lost("reset")]), "Once ", ["sent", "answered", 60], 2),
    "the text has no end": (Script([FIRST]), "Once ", ["sent", "answered", 60], 0),
    "the text becomes silent": (Script([FIRST, 1e6]), "Once ", ["sent", "answered", 60], 100),
    "the call takes too long": (
        Script([FIRST, *[99.0, b": ping\n"] * 9]),
        "Once ",
        ["sent", "answered", 60],
        600,
    ),
    "the text is no JSON": (Script([FIRST, b"data: <html>\n\n"]), "Once ", ["sent", "answered", 60], 0),
    "a gateway lost it": (Script([b"<html>"], status=502), "", ["sent", "answered"], 0),
    "a gateway lost it by 503": (Script([b"<html>"], status=503), "", ["sent", "answered"], 0),
    "the error has no body": (Script([1e6], status=500), "", ["sent", "answered"], 5),
}


@pytest.mark.parametrize(("script", "text", "log", "took"), LOST.values(), ids=LOST)
@in_virtual_time
async def test_a_call_that_was_sent_and_has_no_end_is_never_tried_again(script, text, log, took):
    run = await Run(script)

    assert isinstance(run.error, CallLost)
    assert (text, log, took) == (run.error.partial.text, run.lease.log, run.took)
    assert (True, 1000.0) == (run.error.may_be_paid, run.client.upstream.failing_since)
    assert (Usage(60, 0, 2, 385) if text else Usage()) == run.error.partial.usage
    assert 1 == len(run.google.requests) == run.google.closed


@pytest.mark.parametrize("ends", [1e6, Lost("reset"), sse(error(503, "UNAVAILABLE")), b"data: <html>\n\n"])
@in_virtual_time
async def test_nothing_after_the_reason_of_the_end_changes_an_answer(ends):
    run = await Run(Script([FIRST, LAST, ends]))

    assert ("Once upon", 5.0 if ends == 1e6 else 0.0) == (run.answer.text, run.took)
    assert run.client.upstream.failing_since is None


@pytest.mark.parametrize(
    "script", [refused(503, "UNAVAILABLE", "overloaded"), Script([sse(error(503, "UNAVAILABLE"))])]
)
@in_virtual_time
async def test_an_error_of_google_before_any_text_may_be_tried_again(script):
    run = await Run(script)

    assert isinstance(run.error, TryAgain)
    assert (["sent", "answered"], []) == (run.lease.log, run.pieces)
    assert UpstreamState(1000.0, 1000.0) == run.client.upstream


@pytest.mark.parametrize("code", [429, 503])
@in_virtual_time
async def test_an_error_of_google_after_a_part_of_the_text_is_final(code):
    run = await Run(Script([FIRST, sse(error(code, "X", "No capacity"))]))

    assert isinstance(run.error, UpstreamError)
    assert (True, "Once ") == (run.error.may_be_paid, partial_of(run.error).text)


@pytest.mark.parametrize("in_stream", [False, True])
@in_virtual_time
async def test_a_limit_is_one_by_the_head_as_in_the_stream(in_stream):
    script = refused(
        429, "RESOURCE_EXHAUSTED", "", failure("GenerateRequestsPerMinutePerProjectPerModel", "200")
    )
    if in_stream:
        script = Script([b"data: " + script.steps[0] + b"\n\n"])
    run = await Run(script)

    assert isinstance(run.error, LimitHit)
    assert ("minute", "rpm", 200) == (run.error.kind, run.error.limit, run.error.lowered_to)
    assert (["sent", "answered"], 1060.0) == (run.lease.log, run.client.upstream.throttled_until)


@in_virtual_time
async def test_a_refusal_in_googles_words_shows_that_google_works():
    run = await Run(refused(404, "NOT_FOUND", "no such model"))

    assert UpstreamState(1000.0) == run.client.upstream


@pytest.mark.parametrize(
    ("script", "after", "log", "text"),
    [
        (Script(head_after=50.0), 10, ["sent", "lost"], ""),
        (Script([50.0, FIRST]), 10, ["sent", "answered"], ""),
        (Script([FIRST, 50.0]), 10, ["sent", "answered", 60], "Once "),
    ],
)
@in_virtual_time
async def test_a_cancelled_call_closes_its_connection_and_keeps_its_partial_answer(script, after, log, text):
    run = Run(script)
    task = asyncio.create_task(run.end())
    await asyncio.sleep(after)
    assert 0 == run.google.closed
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task

    assert (1, log) == (run.google.closed, run.lease.log)
    assert text == partial_of(caught.value).text


@in_virtual_time
async def test_an_error_of_the_listener_closes_the_connection():
    google = FakeGoogle([Script([FIRST, 50.0, LAST])])

    def fail(text):
        raise KeyError(text)

    with pytest.raises(KeyError):
        await google.client().run(SERVER, HELLO, lease=LeaseLog(), on_delta=fail)
    assert 1 == google.closed


@in_virtual_time
async def test_tokens_are_counted_with_the_whole_request():
    google = FakeGoogle([Script([b'{"totalTokens": 481}'])])
    client = google.client()

    assert 481 == await client.count_tokens(SERVER, HELLO)
    (request,) = google.requests
    assert str(request.url).endswith("/v1beta/models/gemini-3.8-flash:countTokens")
    assert {
        "generateContentRequest": {
            "model": "models/gemini-3.8-flash",
            "contents": [{"role": "user", "parts": [{"text": "Hello"}]}],
            "generationConfig": {"maxOutputTokens": 8192},
        }
    } == json.loads(request.body)


@pytest.mark.parametrize(
    "script",
    [
        Script(head_after=Lost("reset")),
        Script(head_after=1e6),
        Script([b"<html>"]),
        Script([b"<html>"], status=502),
        refused(503, "UNAVAILABLE"),
        refused(429, "RESOURCE_EXHAUSTED"),
    ],
)
@in_virtual_time
async def test_a_count_that_fails_in_passing_may_always_be_tried_again(script):
    with pytest.raises(TryAgain):
        await FakeGoogle([script]).client().count_tokens(SERVER, HELLO)


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"totalTokens": "4"}', b'{"totalTokens": -1}'])
@in_virtual_time
async def test_an_answer_without_a_count_is_an_error(body):
    with pytest.raises(UpstreamError, match="no count"):
        await FakeGoogle([Script([body])]).client().count_tokens(SERVER, HELLO)


@in_virtual_time
async def test_a_rejected_key_is_one_when_tokens_are_counted():
    rejected = refused(401, "UNAUTHENTICATED")
    google = FakeGoogle([rejected, rejected])
    with pytest.raises(GeminiKeyRejected):
        await google.client().count_tokens(USER, HELLO)
    with pytest.raises(ServerGeminiKeyRejected):
        await google.client().count_tokens(SERVER, HELLO)


@in_virtual_time
async def test_other_requests_take_places_of_their_own_window():
    google = FakeGoogle([Script([b'{"totalTokens": 1}']), Script([LAST])])
    client = google.client()
    await client.count_tokens(SERVER, HELLO)
    await client.run(SERVER, HELLO, lease=LeaseLog(), on_delta=len)

    assert 1 == google.others.statistics().current_rate_per_minute


@pytest.mark.parametrize(
    ("script", "reports"),
    [
        (Script([b'{"totalTokens": 1}'], head_after=2.0), [("admin", 0.0)]),
        (refused(429, "RESOURCE_EXHAUSTED"), [("admin", 0.0)]),
        (refused(503, "UNAVAILABLE"), []),
        (Script(head_after=Lost("reset")), []),
    ],
)
@in_virtual_time
async def test_an_answered_count_is_reported_with_its_account_and_the_time_it_was_sent(script, reports):
    found, began = [], asyncio.get_running_loop().time()
    client = FakeGoogle([script]).client(
        on_answer=lambda account, sent: found.append((account, sent - began))
    )
    with suppress(TryAgain):
        await client.count_tokens(SERVER, HELLO)

    assert reports == found
