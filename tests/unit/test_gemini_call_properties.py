"""The lease of a call gets its steps in one of a few orders, and no text that came is lost, or paid for again."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from errors import ServiceError
from providers import TryAgain
from providers.calls import CallLost, LimitHit, partial_of
from providers.connections import Lost, NotSent
from providers.gemini.exchange import Timeouts
from tests.support.fake_google import (
    HELLO,
    SERVER,
    FakeGoogle,
    LeaseLog,
    Script,
    chunk,
    error,
    refused,
    sse,
    usage,
)
from tests.support.virtual_time import run as in_virtual_time

STEPS = st.sampled_from(
    [
        sse(chunk("fox ", **usage(5, 1))),
        sse(chunk("🦊 ", **usage(5, 2))),
        sse(chunk(finish="STOP", **usage(5, 3))),
        sse(chunk("end", finish="MAX_TOKENS")),
        sse({"promptFeedback": {"blockReason": "SAFETY"}}),
        sse(usage(5)),
        sse(error(503, "UNAVAILABLE")),
        sse(error(429, "RESOURCE_EXHAUSTED")),
        sse(error(400, "INVALID_ARGUMENT")),
        b"data: <html>\n\n",
        b": ping\n",
        Lost("reset"),
        1.0,
        99.0,
        101.0,
    ]
)
HEADS = st.sampled_from([0.0, 1.0, 101.0, Lost("reset"), NotSent("closed")])
SCRIPTS = st.one_of(
    st.builds(Script, st.lists(STEPS, max_size=12), st.just(200), HEADS),
    st.builds(Script, st.lists(STEPS, max_size=3), st.sampled_from([204, 301, 403, 429, 500, 503]), HEADS),
    st.sampled_from(
        [refused(503, "UNAVAILABLE"), refused(401, "UNAUTHENTICATED"), refused(429, "RESOURCE_EXHAUSTED")]
    ),
)
ORDERS = {
    (),
    ("sent", "not_sent"),
    ("sent", "lost"),
    ("sent", "answered"),
    ("sent", "answered", "measured"),
}


async def course(script, cancelled_after):
    """The end of a call, its text so far, and its lease."""
    google, lease, pieces = FakeGoogle([script] if script else []), LeaseLog(), []
    client = google.client(timeouts=Timeouts(call=300, silence=100))
    task = asyncio.ensure_future(client.run(SERVER, HELLO, lease=lease, on_delta=pieces.append))
    await asyncio.sleep(0)  # a task that is cancelled before it runs has no partial answer
    await asyncio.wait([task], timeout=cancelled_after)
    task.cancel()
    try:
        end = await task
    except BaseException as error:
        end = error
    return end, "".join(pieces), lease.log, google


@given(st.none() | SCRIPTS, st.sampled_from([None, 0.0, 0.5, 1.5, 100.0, 250.0]))
def test_each_course_of_a_call_keeps_the_text_that_came(script, cancelled_after):
    end, text, log, google = in_virtual_time(course(script, cancelled_after))
    steps = tuple("measured" if isinstance(each, int) else each for each in log)

    assert steps in ORDERS
    assert len(google.requests) == google.closed <= 1
    if isinstance(end, TryAgain | LimitHit):
        assert "" == text, "a caller has no text of a call that may be sent again"
        assert "lost" not in steps
    elif isinstance(end, CallLost | asyncio.CancelledError):
        assert (partial_of(end).text, "not_sent" in steps) == (text, False)
    elif isinstance(end, ServiceError):
        assert "answered" in steps
        assert text == (partial_of(end).text if partial_of(end) else "")
    else:
        assert (end.text, "answered" in steps) == (text, True)
