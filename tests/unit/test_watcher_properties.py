"""What holds of the watcher for every history."""

import asyncio
import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UpstreamError
from providers import Prediction
from providers.replicate.watcher import NoPages, PollFailed
from tests.support.upstream import HANGS, OUTPUT, KnownCreation, Listing, Upstream, caller, now, run

WELL_AFTER = 120.0
"""Seconds. No trouble begins later than this."""

TOLD_WITHIN = 300.0
"""Seconds after the end, or after the trouble: 20 pages of a stale list at 10 seconds each, a wait that was
asked for, and a look that timed out."""


@dataclass(frozen=True)
class SearchScope:
    """One prediction as it will happen. Times in seconds."""

    begins: float
    seconds: float
    account: str
    model: str
    status: str
    dated: bool
    on_pages: str
    cancelled_after: float | None
    webhook: float | None
    """How long after its end; None if none was asked for, infinity if it does not come."""
    followed_after: float | None


@dataclass(frozen=True)
class Trouble:
    """What every look of an account suffers for a while, or only its pages, or only its own looks."""

    begins: float
    seconds: float
    account: str
    pages: bool
    gets: bool
    what: str


WANTED = st.builds(
    SearchScope,
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


def suffered(troubles: list[Trouble], look: Listing) -> Exception | str | None:
    for each in troubles:
        meant = each.pages if look.id is None else each.gets
        if meant and look.caller == each.account and each.begins <= look.at < each.begins + each.seconds:
            if each.what == "hangs":
                return HANGS
            if each.what == "refused" and look.id is None:
                return NoPages()
            return PollFailed(UpstreamError(), wait=20.0 if each.what == "wait" else 0.0)
    return None


def shown(wanted: SearchScope, made: KnownCreation) -> Prediction | None:
    told = made.told(0.0 if wanted.on_pages == "stale" else now())
    if wanted.on_pages == "bare":
        told = replace(told, outputs=(), error=None)
    return None if wanted.on_pages == "hidden" else told


async def watch(upstream: Upstream, wanted: SearchScope, made: KnownCreation) -> None:
    later = asyncio.get_running_loop().call_later
    if wanted.webhook is not None and wanted.webhook < math.inf:
        later(wanted.seconds + wanted.webhook, lambda: upstream.watcher.receive(made.end))
    if wanted.followed_after is not None:
        later(wanted.followed_after, lambda: upstream.watcher.follow(made.id, lambda told: None))
    created_at = made.created_at if wanted.dated else None
    announced = wanted.webhook is not None
    prediction = Prediction(made.id, "starting", created_at=created_at, is_announced=announced)
    assert made.end == await upstream.watcher.wait(caller(wanted.account), prediction, model=wanted.model)


@pytest.mark.slow
@given(
    wanted=st.lists(WANTED, min_size=1, max_size=40),
    troubles=st.lists(TROUBLE, max_size=4),
    round_trip=st.sampled_from([0.0, 0.2, 1.6, 5.0]),
    per_minute=st.sampled_from([120, 600, 3000]),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_every_wait_ends_in_time_within_the_window_and_leaves_nothing(
    wanted, troubles, round_trip, per_minute
):
    async def story():
        upstream = Upstream(round_trip=round_trip, per_minute=per_minute)
        upstream.trouble = lambda look: suffered(troubles, look)
        upstream.shows = lambda made: shown(wanted[int(made.id)], made)

        async def live(number: int, each: SearchScope) -> float:
            await asyncio.sleep(each.begins)
            outputs = () if each.status == "canceled" else OUTPUT
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

        late = await asyncio.gather(*(live(number, each) for number, each in enumerate(wanted)))
        await asyncio.sleep(90.0)
        assert upstream.is_idle()
        assert upstream.most_in_a_minute() <= per_minute
        return max(late), len(upstream.looks)

    late, looks = run(story())
    assert late <= TOLD_WITHIN
    assert looks <= sum(100 if each.followed_after is None else 500 for each in wanted)


@given(
    begins=st.lists(st.floats(0, 30), min_size=1, max_size=60),
    lengths=st.lists(st.floats(5, 60), min_size=1, max_size=5),
    round_trip=st.sampled_from([0.0, 0.2, 1.6]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_end_is_found_more_than_a_quarter_late_while_the_upstream_works(begins, lengths, round_trip):
    """A quarter of its time, or ten seconds, whichever is less; and the answer's way."""

    async def story():
        upstream = Upstream(round_trip=round_trip)

        async def live(number: int, at: float) -> float:
            await asyncio.sleep(at)
            seconds = lengths[number % len(lengths)]
            model = f"model {number % len(lengths)}"
            return await upstream.predict(seconds, f"p{number}", model=model) - min(10.0, seconds / 4)

        return max(await asyncio.gather(*(live(number, at) for number, at in enumerate(begins))))

    assert run(story()) <= 0.25 + 2.5 * round_trip
