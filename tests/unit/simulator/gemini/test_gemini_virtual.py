"""The simulated Gemini without a server, in virtual time: deadlines, heads, thousands of calls."""

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from simulator.gemini.replies import ApiRequest
from simulator.windows import Window
from tests.support.simulated_gemini import gemini_here
from tests.support.virtual_time import in_virtual_time
from tests.unit.simulator.gemini.conftest import said

STREAM = "streamGenerateContent"


def a_call(text="Hello", method=STREAM, **headers):
    return ApiRequest(
        method="POST",
        path=f"/v1beta/models/gemini-3.5-flash-lite:{method}",
        query={"alt": "sse"} if method == STREAM else {},
        headers={"x-goog-api-key": "AQ.k", **headers},
        body=json.dumps(said(text)).encode(),
    )


async def read(gemini, call):
    """The status of an answer, and the times of its parts."""
    reply, times = await gemini.answer(call), []
    if reply.parts is not None:
        try:
            times = [asyncio.get_running_loop().time() async for _ in reply.parts]
        finally:
            await reply.parts.aclose()
    return reply.status, times


@in_virtual_time
async def test_chunks_come_at_their_times():
    gemini = gemini_here(first_seconds=1, seconds=3, chunks=4)

    assert (200, [1.0, 2.0, 3.0, 4.0]) == await read(gemini, a_call())
    assert (200, [5.5, 6.0]) == await read(gemini, a_call("[[first=1.5]] [[slow=0.5]] [[chunks=2]]"))


@in_virtual_time
async def test_a_unary_answer_comes_after_all_of_it():
    await gemini_here(first_seconds=1, seconds=3).answer(a_call(method="generateContent"))

    assert 4 == asyncio.get_running_loop().time()


@in_virtual_time
async def test_a_head_can_come_before_the_first_chunk():
    reply = await gemini_here(first_seconds=5, seconds=0).answer(a_call("[[head=1]]"))

    assert (1, 0) == (reply.head, asyncio.get_running_loop().time())
    await reply.parts.aclose()


@in_virtual_time
async def test_a_deadline_after_the_head_is_an_error_in_the_stream():
    gemini = gemini_here(first_seconds=60)
    reply = await gemini.answer(a_call("[[head=1]]", **{"x-server-timeout": "20"}))
    (part,) = [each async for each in reply.parts]
    await reply.parts.aclose()

    assert b'"code": 504' in part
    assert ({"failed": 1}, {504: 1}) == (gemini.counts().outcomes, gemini.counts().refusals)


@in_virtual_time
async def test_a_call_that_is_slower_than_its_deadline_fails_at_it():
    gemini = gemini_here(first_seconds=60)

    assert (504, []) == await read(gemini, a_call(**{"x-server-timeout": "20"}))
    assert 20 == asyncio.get_running_loop().time()
    assert (500, []) == await read(gemini, a_call(**{"x-server-timeout": "5"}))
    assert 0 == gemini.counts().billed_micro_usd


@in_virtual_time
async def test_parts_that_are_closed_unread_are_a_disconnect():
    gemini = gemini_here()
    for text in ("[[head=0]]", "plain"):
        reply = await gemini.answer(a_call(text))
        await reply.parts.aclose()

    assert ({"disconnected": 2}, 0) == (gemini.counts().outcomes, gemini.counts().in_flight)


@in_virtual_time
async def test_thousands_of_calls_run_at_once_and_those_over_the_limit_are_refused():
    gemini = gemini_here(rpm=2000, seconds=2, chunks=10)
    answers = await asyncio.gather(*(read(gemini, a_call(f"call {n}")) for n in range(2500)))
    counts = gemini.counts()

    assert (2000, 500) == (sum(s == 200 for s, _ in answers), sum(s == 429 for s, _ in answers))
    assert ({"rpm": 500}, 2000, 2500) == (
        counts.limits_hit,
        counts.in_flight_peak,
        counts.requests_peak_per_minute,
    )
    assert {"finished": 2000} == counts.outcomes


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=40), st.integers(1, 30))
def test_a_window_is_the_sum_of_its_last_entries_and_knows_when_one_fits(entries, limit):
    window, now, kept = Window(span=60), 0, []
    for pause, weight in entries:
        now += pause
        window.add(now, weight)
        kept.append((now, weight))
        assert window.used(now) == sum(each for stamp, each in kept if now - stamp < 60)

    wait = window.wait(now, 1, limit)
    later = sum(each for stamp, each in kept if now + wait - stamp < 60)
    assert later + 1 <= limit
    assert wait == 0 or sum(each for stamp, each in kept if now + wait - 1 - stamp < 60) + 1 > limit
