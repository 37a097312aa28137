"""The watcher: the number of its polls, the delay of its results, and that cancelled waits leave nothing
behind."""

import asyncio
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.flows import UNPROVEN
from providers import Prediction
from tests.support.upstream import HANGS, MODEL, OUTPUT, Upstream, caller, run
from tests.support.virtual_time import now


@pytest.mark.parametrize("seconds", [1.5, 8.0, 45.0, 600.0])
def test_a_steady_known_model_is_found_over_by_its_first_poll(seconds):
    async def scenario():
        upstream = Upstream()
        await upstream.learn(seconds, seconds, seconds)
        late = await upstream.predict(seconds)
        return late, len(upstream.polls)

    assert (0.0, 1) == run(scenario())


@pytest.mark.slow
@given(
    usual=st.integers(2, 600),
    shares=st.lists(st.integers(90, 110), min_size=3, max_size=30),
    share=st.integers(0, 100),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_known_model_is_found_over_within_6_percent_after_few_polls(usual, shares, share):
    """Checked for durations from the 20th percentile of the known ones to the longest."""

    async def scenario():
        upstream = Upstream()
        durations = sorted(usual * share / 100 for share in shares)
        await upstream.learn(*durations)
        soon, longest = durations[len(durations) // 5], durations[-1]
        seconds = soon + (longest - soon) * share / 100
        late = await upstream.predict(seconds)
        return late, len(upstream.polls), seconds

    late, polls, seconds = run(scenario())
    assert late <= max(0.1, 0.06 * seconds)
    assert polls <= 12


@pytest.mark.parametrize(("usual", "at_most"), [(12.0, 4.5), (180.0, 5.5)])
def test_a_lone_prediction_of_a_known_model_costs_about_five_polls(usual, at_most):
    """Durations vary by a fifth around the usual one; a round trip takes 0.2 seconds."""

    async def scenario():
        random, upstream = Random(1), Upstream(round_trip=0.2)
        for _ in range(20):
            await upstream.learn(usual * random.uniform(0.8, 1.2))
        late = [await upstream.predict(usual * random.uniform(0.8, 1.2), f"p{n}") for n in range(50)]
        return sum(late) / 50 / usual, max(late) / usual, len(upstream.polls) / 50

    usually_late, most_late, polled = run(scenario())
    assert usually_late < 0.05
    assert most_late < 0.1
    assert polled <= at_most


@pytest.mark.parametrize(("seconds", "at_most"), [(0.2, 1), (3.0, 9), (30.0, 20), (600.0, 80)])
def test_an_unknown_model_is_polled_a_bounded_number_of_times(seconds, at_most):
    """The result is at most a quarter of the duration late (at least 0.25 seconds, at most 10)."""

    async def scenario():
        upstream = Upstream()
        return await upstream.predict(seconds), len(upstream.polls)

    late, polled = run(scenario())
    assert polled <= at_most
    assert late <= min(10.0, max(0.25, 0.25 * seconds))


@pytest.mark.parametrize("round_trip", [1.6, 5.0])
@pytest.mark.parametrize("many", [1, 2, 10, 100])
def test_a_slow_connection_costs_time_but_few_polls(round_trip, many):
    """Predictions of a minute: each is polled at most every two seconds, or by as many pages as may run at
    once."""

    async def scenario():
        upstream = Upstream(round_trip=round_trip)
        late = await upstream.predict_many([60.0] * many)
        return max(late), len(upstream.polls)

    late, polls = run(scenario())
    assert late <= 10.0 + round_trip
    assert polls <= 13 * many + 20


def test_only_successes_count_as_durations_of_a_model():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        for n in range(10):
            await upstream.predict(1.0, f"failed {n}", status="failed")
        upstream.polls.clear()
        await upstream.predict(20.0)
        return len(upstream.polls)

    assert 1 == run(scenario())


def test_a_learned_duration_is_no_longer_than_the_wait():
    """Otherwise one false date of completion would delay the polls of all predictions of that model."""

    async def scenario():
        upstream = Upstream()
        for n in range(3):
            made = upstream.make(5.0, f"liar {n}")
            made.end = Prediction(made.id, "succeeded", OUTPUT, created_at=made.created_at, seconds=1e9)
            await upstream.watch(made)
        return await upstream.predict(5.0)

    assert run(scenario()) <= 2.0


@pytest.mark.parametrize(
    ("status", "outputs"),
    [("succeeded", ()), ("failed", ()), ("canceled", ()), ("aborted", ()), ("processing", OUTPUT)],
)
def test_a_prediction_that_is_over_is_returned_and_not_polled_again(status, outputs):
    async def scenario():
        upstream = Upstream()
        await upstream.predict(2.0, status=status, outputs=outputs)
        polls = len(upstream.polls)
        await asyncio.sleep(1000)
        end = upstream.made["ann"][0].end
        assert end is await upstream.watcher.wait(caller("ann"), end, model=MODEL)
        return polls == len(upstream.polls) and upstream.is_idle()

    assert run(scenario())


def test_processing_without_output_is_not_over():
    async def scenario():
        return await Upstream().predict(7.0)

    assert run(scenario()) >= 0.0


def test_a_prediction_watched_late_is_polled_by_its_stated_age():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        made = upstream.make(20.0)
        await asyncio.sleep(15.0)
        await upstream.watcher.wait(caller("ann"), Prediction("p", "starting", age=15.0), model=MODEL)
        return now() - made.ends_at, len(upstream.polls)

    assert (0.0, 1) == run(scenario())


def test_two_waits_for_one_prediction_both_end():
    async def scenario(others):
        upstream = Upstream()
        made = upstream.make(20.0)
        rest = [upstream.predict(20.0, f"p{n}") for n in range(others)]
        return await asyncio.gather(upstream.watch(made), upstream.watch(made), *rest)

    assert max(run(scenario(0))) <= 5.0
    assert max(run(scenario(5))) <= 5.0


def test_a_prediction_without_a_date_ends_and_causes_no_page_by_itself():
    async def scenario():
        upstream = Upstream()
        late = await upstream.predict_many([20.0] * 5, dated=False)
        return max(late), upstream.pages

    late, pages = run(scenario())
    assert late <= 5.0
    assert 0 == pages


def test_a_later_watch_whose_poll_is_due_earlier_is_polled_first():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(100.0, 100.0, 100.0)
        slow = asyncio.create_task(upstream.predict(100.0, "slow"))
        await asyncio.sleep(1.0)
        quick = await upstream.predict(0.0, "quick", model="another/model")
        return quick, await slow

    assert (0.25, 0.0) == run(scenario())


def test_a_cancelled_wait_costs_no_further_poll():
    async def scenario():
        upstream = Upstream()
        gone, stays = (asyncio.create_task(upstream.predict(60.0, name)) for name in ("gone", "stays"))
        await asyncio.sleep(10.0)
        gone.cancel()
        await stays
        return gone.cancelled(), max(upstream.times("gone"))

    cancelled, last = run(scenario())
    assert cancelled
    assert last <= 10.0


def _left_behind(upstream: Upstream, waiters: list[asyncio.Task]):
    """Cancel these waits. Returns whether nothing is left once the polls under way have ended, and the number
    of later polls."""

    async def scenario():
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
        assert 0 == upstream.watcher.statistics().accounts
        looks = len(upstream.polls)
        await asyncio.sleep(200.0)
        assert [] == asyncio.get_running_loop().timers()
        return upstream.is_idle(), len(upstream.polls) - looks

    return scenario()


@pytest.mark.parametrize("cancelled_at", [0.0, 0.1, 0.25, 0.3, 3.0])
@pytest.mark.parametrize("many", [1, 5])
def test_a_wait_cancelled_before_during_or_between_polls_leaves_nothing(many, cancelled_at):
    async def scenario():
        upstream = Upstream(round_trip=0.2)
        waiters = [asyncio.create_task(upstream.predict(60.0, f"p{n}")) for n in range(many)]
        await asyncio.sleep(cancelled_at)
        return await _left_behind(upstream, waiters)

    assert (True, 0) == run(scenario())


@pytest.mark.parametrize("many", [1, 5])
def test_a_wait_cancelled_during_a_hanging_poll_leaves_nothing(many):
    async def scenario():
        upstream = Upstream()
        upstream.trouble = lambda poll: HANGS
        waiters = [asyncio.create_task(upstream.predict(60.0, f"p{n}")) for n in range(many)]
        await asyncio.sleep(5.0)
        return await _left_behind(upstream, waiters)

    assert (True, 0) == run(scenario())


def test_a_wait_cancelled_while_polls_wait_for_the_window_leaves_nothing():
    async def scenario():
        upstream = Upstream(per_minute=10)
        waiters = [asyncio.create_task(upstream.predict(600.0, account=f"account {n}")) for n in range(30)]
        await asyncio.sleep(20.0)
        return await _left_behind(upstream, waiters)

    assert (True, 0) == run(scenario())


@pytest.mark.parametrize("ticks", range(12))
def test_a_wait_cancelled_in_any_tick_around_its_end_leaves_nothing(ticks):
    async def scenario():
        upstream = Upstream()
        await upstream.learn(20.0, 20.0, 20.0)
        waiters = [asyncio.create_task(upstream.predict(20.0, f"p{n}")) for n in range(5)]
        await asyncio.sleep(20.0)
        for _ in range(ticks):
            await asyncio.sleep(0)
        return await _left_behind(upstream, waiters)

    assert (True, 0) == run(scenario())


def test_polls_take_the_turn_of_the_account_once_it_is_known():
    async def scenario():
        upstream = Upstream()
        turns, acquire = [], upstream.gate.acquire

        async def recorded(turn, **named):
            turns.append(turn)
            return await acquire(turn, **named)

        upstream.gate.acquire = recorded
        stranger = replace(caller("ann"), turn=UNPROVEN)
        waits = []
        for who in (stranger, caller("ann")):
            made = upstream.make(60, who.turn)
            prediction = Prediction(made.id, "starting", created_at=made.created_at)
            waits.append(asyncio.create_task(upstream.watcher.wait(who, prediction, model=MODEL)))
            await asyncio.sleep(30)
        await asyncio.gather(*waits)
        return turns

    turns = run(scenario())

    known_from = turns.index("ann")
    assert {UNPROVEN} == set(turns[:known_from])
    assert {"ann"} == set(turns[known_from:])
