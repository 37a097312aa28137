"""The watcher's pages: one request shows a hundred predictions; a prediction that a page cannot show is
polled by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest

from errors import UpstreamError
from providers import Prediction
from providers.replicate.answers import read_page, read_prediction
from providers.replicate.polling import NoPages, PollFailed
from tests.support.upstream import HANGS, Made, Upstream, run
from tests.support.virtual_time import now


@asynccontextmanager
async def traffic(upstream: Upstream, *, streams: int, seconds: float) -> AsyncIterator[None]:
    """Predictions that cause further pages of the account while the block runs."""

    async def stream(number: int) -> None:
        await asyncio.sleep(0.37 * number)
        for n in range(10_000):
            await upstream.predict(seconds, f"traffic {number} {n}")

    tasks = [asyncio.create_task(stream(number)) for number in range(streams)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("many", [3, 100])
def test_many_due_of_one_account_cost_one_request(many):
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        late = await upstream.predict_many([20.0] * many)
        return max(late), upstream.pages, upstream.gets

    assert (0.0, 1, 0) == run(scenario())


def test_fewer_than_three_due_predictions_are_polled_separately():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        await upstream.predict_many([20.0, 20.0])
        return upstream.pages, upstream.gets

    assert (0, 2) == run(scenario())


def test_a_page_shows_one_account_only():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        names = ["ann", "bob", "cid"]
        await asyncio.gather(*(upstream.predict_many([20.0] * 3, account=name) for name in names))
        return sorted((poll.caller, poll.id) for poll in upstream.polls)

    assert [("ann", None), ("bob", None), ("cid", None)] == run(scenario())


def test_more_than_a_hundred_due_predictions_take_several_pages():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(60.0, 60.0, 60.0)
        late = await upstream.predict_many([60.0] * 250)
        return max(late), upstream.pages, upstream.gets

    assert (0.0, 3, 0) == run(scenario())


def test_predictions_of_one_burst_are_read_without_repeating_a_page():
    """Six hundred predictions within a second: each page begins where the previous one ended."""

    async def scenario():
        upstream = Upstream(round_trip=0.2)
        await upstream.learn(60.0, 60.0, 60.0)
        late = await upstream.predict_many([60.0] * 600)
        return max(late), upstream.pages, upstream.gets

    late, pages, gets = run(scenario())
    assert late <= 0.21
    assert (6, 0) == (pages, gets)


def test_a_page_also_ends_predictions_that_are_not_due_yet():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        await upstream.learn(500.0, 500.0, 500.0, model="slow/model")
        early = asyncio.create_task(upstream.predict(10.0, "early", model="slow/model"))
        await upstream.predict_many([20.0] * 3)
        return upstream.pages, upstream.gets, await early

    assert (1, 0, 10.0) == run(scenario())


def test_a_prediction_missing_on_a_page_is_polled_separately_at_once():
    async def scenario():
        upstream = Upstream()
        upstream.shows = lambda made: None if made.id == "p1" else made.shown_at(now())
        await upstream.learn(20.0, 20.0, 20.0)
        late = await upstream.predict_many([20.0] * 5)
        return late, upstream.pages, upstream.gets, len(upstream.times("p1"))

    assert ([0.0] * 5, 1, 1, 1) == run(scenario())


def bare(made: Made) -> Prediction:
    """The prediction as on a page that omits outputs and errors."""
    prediction = made.shown_at(now())
    return Prediction(made.id, prediction.status, created_at=made.created_at)


@pytest.mark.parametrize(
    ("status", "gets"), [("succeeded", 5), ("failed", 5), ("canceled", 0), ("aborted", 0)]
)
def test_an_end_without_a_result_on_a_page_is_confirmed_by_a_separate_poll(status, gets):
    async def scenario():
        upstream = Upstream()
        upstream.shows = bare
        await upstream.learn(20.0, 20.0, 20.0)
        outputs = None if status in {"canceled", "aborted"} else ("https://replicate.delivery/a.png",)
        made = [
            upstream.make(20.0, f"p{n}", status=status, outputs=outputs, says_seconds=False) for n in range(5)
        ]
        late = await asyncio.gather(*(upstream.watch(each) for each in made))
        return late, upstream.pages, upstream.gets

    assert ([0.0] * 5, 1, gets) == run(scenario())


def test_a_page_does_not_repeat_a_confirmation_under_way():
    async def scenario():
        upstream = Upstream()
        upstream.trouble = lambda poll: HANGS if poll.id == "p" and now() < 160 else None
        upstream.shows = lambda made: bare(made) if made.id == "p" else made.shown_at(now())
        await upstream.learn(20.0, 20.0, 20.0)
        async with traffic(upstream, streams=30, seconds=20.0):
            await asyncio.sleep(60.0)
            await upstream.predict(20.0)
        return len(upstream.times("p"))

    assert run(scenario()) <= 10


@pytest.mark.parametrize("streams", [0, 5, 30])
@pytest.mark.parametrize("dated", [True, False])
def test_a_prediction_that_pages_keep_showing_unfinished_is_polled_separately(streams, dated):
    """Pages for other predictions do not delay its own poll."""

    async def scenario():
        upstream = Upstream(round_trip=0.2)
        stale = {"p0", "p1", "p2"}
        upstream.shows = lambda made: made.shown_at(0.0 if made.id in stale else now())
        await upstream.learn(*(5.0 + n / 10 for n in range(20)))
        async with traffic(upstream, streams=streams, seconds=6.0), asyncio.timeout(2000):
            return max(await upstream.predict_many([60.0] * 3, model="another/model", dated=dated))

    assert run(scenario()) <= 220.0


def test_a_prediction_seen_on_many_early_pages_still_ends_by_a_page():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        await upstream.learn(600.0, 600.0, 600.0, model="slow/model")
        async with traffic(upstream, streams=4, seconds=60.0):
            late = await upstream.predict_many([600.0] * 50, model="slow/model")
        return max(late), sum(len(upstream.times(f"p{n}")) for n in range(50))

    assert (0.0, 0) == run(scenario())


@pytest.mark.parametrize("others", [1, 20, 200])
def test_other_programs_predictions_on_pages_delay_ends_by_a_bounded_time(others):
    """Between every two of ours there are this many."""

    async def scenario():
        upstream = Upstream(round_trip=0.2)
        await upstream.learn(60.0, 60.0, 60.0)
        waiters = []
        for n in range(100):
            for other in range(others):
                upstream.make(1e6, f"other {n} {other}")
            made = upstream.make(60.0, f"p{n}")
            waiters.append(asyncio.create_task(upstream.watch(made)))
        late = await asyncio.gather(*waiters)
        return max(late), upstream.pages, upstream.gets

    late, pages, gets = run(scenario())
    assert late <= 20 * 0.2 + 0.4
    assert pages <= 21
    assert gets <= 100


def test_more_predictions_of_one_date_than_a_page_holds_all_end():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(60.0, 60.0, 60.0)
        made = [upstream.make(60.0, f"p{n}") for n in range(250)]
        for each in made:
            each.created_at = made[0].created_at
            each.end = Prediction(each.id, "succeeded", ("https://a.png",), created_at=each.created_at)
        late = await asyncio.gather(*(upstream.watch(each) for each in made))
        return max(late), upstream.pages + upstream.gets

    late, polls = run(scenario())
    assert late <= 0.1
    assert polls <= 153


@pytest.mark.parametrize("date", [datetime.max.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)])
def test_an_impossible_date_stops_no_polls(date):
    async def scenario():
        upstream = Upstream()
        made = [upstream.make(5.0, f"p{n}") for n in range(4)]
        for each in made:
            each.created_at = date
        watched = [upstream.watch(each) for each in made]
        async with asyncio.timeout(100):
            return max(await asyncio.gather(*watched, upstream.predict(5.0, account="bob")))

    assert run(scenario()) <= 2.0


@pytest.mark.parametrize(
    "trouble", [NoPages(), PollFailed(UpstreamError()), HANGS], ids=["refused", "fail", "hang"]
)
def test_without_pages_each_prediction_is_polled_separately_within_bounded_time(trouble):
    async def scenario():
        upstream = Upstream(round_trip=0.1)
        upstream.trouble = lambda poll: trouble if poll.id is None else None
        late = await upstream.predict_many([20.0 + n / 2 for n in range(50)])
        return max(late), upstream.pages, upstream.gets

    late, pages, gets = run(scenario())
    assert late <= 25.0
    assert pages <= 30
    assert gets <= 50 * 30


@pytest.mark.parametrize(
    "trouble", [NoPages(), PollFailed(UpstreamError()), HANGS], ids=["refused", "fail", "hang"]
)
def test_pages_are_tried_again_after_a_while(trouble):
    async def scenario():
        upstream = Upstream(round_trip=0.1)
        upstream.trouble = lambda poll: trouble if poll.id is None and poll.at < 30 else None
        late = await upstream.predict_many([300.0] * 50)
        since = [poll for poll in upstream.polls if poll.at > 120]
        return max(late), sum(poll.id is not None for poll in since), len(since)

    late, gets, polls = run(scenario())
    assert late <= 12.0
    assert gets <= 2 * 50
    assert 10 < polls - gets < 80


def test_pages_that_fail_together_count_as_one_failure():
    async def scenario():
        upstream = Upstream(round_trip=0.1)
        await upstream.learn(60.0, 60.0, 60.0)
        first = now() + 60.0
        upstream.trouble = lambda poll: NoPages() if poll.id is None and poll.at < first + 0.5 else None
        await upstream.predict_many([62.0] * 800)
        return [at - first for at in upstream.times(None)]

    tries = run(scenario())
    assert [0.0] * 8 == [round(each, 2) for each in tries[:8]]
    assert tries[8] <= 3.0


def test_an_unexpected_error_of_a_page_ends_no_watch():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        upstream.trouble = lambda poll: KeyError("a bug") if poll.id is None else None
        late = await upstream.predict_many([20.0] * 5)
        return max(late), sum(poll.id is None for poll in upstream.polls)

    assert (0.0, 1) == run(scenario())


def test_a_prediction_shown_twice_on_a_page_is_over_if_either_entry_is():
    over = {"id": "p", "status": "succeeded", "output": ["https://a"]}
    items = [over, {"id": "p", "status": "processing"}]

    assert read_page({"results": items}).predictions["p"].is_over
    assert read_page({"results": items[::-1]}).predictions["p"].is_over


def test_a_completion_before_the_creation_does_not_count_as_a_duration():
    stamps = {"created_at": "2025-01-01T00:00:02Z", "completed_at": "2025-01-01T00:00:01Z"}

    assert read_prediction({"id": "p", "status": "succeeded", **stamps}).seconds is None
