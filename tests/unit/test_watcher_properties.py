"""Properties of the watcher that hold for every history."""

import asyncio
import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UpstreamError
from providers import Prediction
from providers.replicate.polling import NoPages, PollFailed
from tests.support.upstream import HANGS, OUTPUT, Made, Poll, Upstream, caller, run
from tests.support.virtual_time import now

WELL_AFTER = 120.0
"""Seconds after which no failure begins."""

TOLD_WITHIN = 300.0
"""Seconds from the end or the last failure to the end of a wait: 20 pages of a stale list at 10 seconds each,
the wait of a refusal, and a poll that timed out."""


@dataclass(frozen=True)
class Case:
    """One prediction, as planned. Times are in seconds."""

    begins: float
    seconds: float
    account: str
    model: str
    status: str
    dated: bool
    on_pages: str
    cancelled_after: float | None
    webhook: float | None
    """Seconds from its end to its webhook; None if none was requested, infinity if it does not arrive."""
    followed_after: float | None


@dataclass(frozen=True)
class Trouble:
    """A failure of all polls of an account for a while, or only of its pages, or only of its separate
    polls."""

    begins: float
    seconds: float
    account: str
    pages: bool
    gets: bool
    what: str


CASES = st.builds(
    Case,
    begins=st.floats(0, 60),
    seconds=st.sampled_from([0.0, 0.3, 2.0, 10.0, 60.0]) | st.floats(0, 100),
    account=st.sampled_from(["ann", "ann", "bob"]),
    model=st.sampled_from(["quick", "slow"]),
    status=st.sampled_from(["succeeded", "succeeded", "failed", "canceled"]),
    dated=st.booleans(),
    on_pages=st.sampled_from(["true", "true", "true", "stale", "hidden", "bare"]),
    cancelled_after=st.none() | st.none() | st.floats(0, 100),
    webhook=st.sampled_from([None, 0.3, 20.0, math.inf]),
    followed_after=st.none() | st.none() | st.floats(0, 60),
)
TROUBLE = st.builds(
    Trouble,
    begins=st.floats(0, WELL_AFTER / 2),
    seconds=st.floats(0, WELL_AFTER / 2),
    account=st.sampled_from(["ann", "bob"]),
    pages=st.booleans(),
    gets=st.booleans(),
    what=st.sampled_from(["fails", "hangs", "wait", "refused"]),
)


def suffered(troubles: list[Trouble], poll: Poll) -> Exception | str | None:
    for each in troubles:
        meant = each.pages if poll.id is None else each.gets
        if meant and poll.caller == each.account and each.begins <= poll.at < each.begins + each.seconds:
            if each.what == "hangs":
                return HANGS
            if each.what == "refused" and poll.id is None:
                return NoPages()
            return PollFailed(UpstreamError(), wait=20.0 if each.what == "wait" else 0.0)
    return None


def shown(case: Case, made: Made) -> Prediction | None:
    prediction = made.shown_at(0.0 if case.on_pages == "stale" else now())
    if case.on_pages == "bare":
        prediction = replace(prediction, output=None, error=None)
    return None if case.on_pages == "hidden" else prediction


async def watch(upstream: Upstream, case: Case, made: Made) -> None:
    later = asyncio.get_running_loop().call_later
    if case.webhook is not None and case.webhook < math.inf:
        later(case.seconds + case.webhook, lambda: upstream.watcher.receive(made.end))
    if case.followed_after is not None:
        later(case.followed_after, lambda: upstream.watcher.follow(made.id, lambda prediction: None))
    created_at = made.created_at if case.dated else None
    announced = case.webhook is not None
    prediction = Prediction(made.id, "starting", created_at=created_at, is_announced=announced)
    assert made.end == await upstream.watcher.wait(caller(case.account), prediction, model=case.model)


@pytest.mark.slow
@given(
    cases=st.lists(CASES, min_size=1, max_size=40),
    troubles=st.lists(TROUBLE, max_size=4),
    round_trip=st.sampled_from([0.0, 0.2, 1.6, 5.0]),
    per_minute=st.sampled_from([120, 600, 3000]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_wait_ends_in_time_within_the_window_and_leaves_nothing(
    cases, troubles, round_trip, per_minute
):
    async def scenario():
        upstream = Upstream(round_trip=round_trip, per_minute=per_minute)
        upstream.trouble = lambda poll: suffered(troubles, poll)
        upstream.shows = lambda made: shown(cases[int(made.id)], made)

        async def live(number: int, each: Case) -> float:
            await asyncio.sleep(each.begins)
            outputs = None if each.status == "canceled" else OUTPUT
            made = upstream.make(
                each.seconds, str(number), account=each.account, status=each.status, outputs=outputs
            )
            watched = watch(upstream, each, made)
            if each.cancelled_after is None:
                await watched
            else:
                await asyncio.wait([task := asyncio.create_task(watched)], timeout=each.cancelled_after)
                task.cancel()
            return now() - max(WELL_AFTER, each.begins + each.seconds)

        late = await asyncio.gather(*(live(number, each) for number, each in enumerate(cases)))
        await asyncio.sleep(90.0)
        assert upstream.is_idle()
        assert upstream.most_in_a_minute() <= per_minute
        return max(late), len(upstream.polls)

    late, polls = run(scenario())
    assert late <= TOLD_WITHIN
    assert polls <= sum(100 if each.followed_after is None else 500 for each in cases)


@given(
    begins=st.lists(st.floats(0, 30), min_size=1, max_size=60),
    lengths=st.lists(st.floats(5, 60), min_size=1, max_size=5),
    round_trip=st.sampled_from([0.0, 0.2, 1.6]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_end_is_found_at_most_a_quarter_late_while_the_upstream_works(begins, lengths, round_trip):
    """At most a quarter of its duration or ten seconds, whichever is less, plus the round trip."""

    async def scenario():
        upstream = Upstream(round_trip=round_trip)

        async def live(number: int, at: float) -> float:
            await asyncio.sleep(at)
            seconds = lengths[number % len(lengths)]
            model = f"model {number % len(lengths)}"
            return await upstream.predict(seconds, f"p{number}", model=model) - min(10.0, seconds / 4)

        return max(await asyncio.gather(*(live(number, at) for number, at in enumerate(begins))))

    assert run(scenario()) <= 0.25 + 2.5 * round_trip
