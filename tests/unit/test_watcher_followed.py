"""Following: a listener gets the state of a prediction about once a second, and no wait takes longer for
it."""

import asyncio

import pytest

from errors import UpstreamError
from providers import Prediction
from providers.replicate.polling import PollFailed
from tests.support.upstream import HANGS, MODEL, Upstream, caller, run
from tests.support.virtual_time import now


async def followed(
    upstream: Upstream, made, listener, *, after: float = 0.0, announced: bool = True
) -> float:
    """Wait for a prediction while the listener follows it. Returns the delay of its result in seconds."""
    prediction = Prediction(made.id, "starting", created_at=made.created_at, is_announced=announced)
    waiting = asyncio.create_task(upstream.watcher.wait(caller("ann"), prediction, model=MODEL))
    await asyncio.sleep(after)
    upstream.watcher.follow(made.id, listener)
    await waiting
    return now() - made.ends_at


@pytest.mark.parametrize("announced", [True, False])
def test_a_follower_sees_the_prediction_every_second_until_it_is_over(announced):
    async def scenario():
        upstream, seen = Upstream(), []
        await upstream.learn(12.5, 12.5, 12.5)
        began = now()
        made = upstream.make(12.5)
        await followed(
            upstream,
            made,
            lambda prediction: seen.append((now() - began, prediction.status)),
            announced=announced,
        )
        return seen

    seen = run(scenario())
    assert [(float(n), "processing") for n in range(13)] == [(round(at, 6), status) for at, status in seen]


def test_a_follower_that_leaves_costs_no_further_poll():
    async def scenario():
        upstream, seen = Upstream(), []
        await upstream.learn(100.0, 100.0, 100.0)
        made = upstream.make(100.0)
        waiting = asyncio.create_task(upstream.watch(made))
        await asyncio.sleep(10.0)
        leave = upstream.watcher.follow(made.id, seen.append)
        await asyncio.sleep(5.5)
        leave()
        leave()
        late = await waiting
        return late, len(seen), len(upstream.polls)

    assert (0.0, 6, 7) == run(scenario())


def test_two_followers_share_their_polls():
    async def scenario():
        upstream, one, other = Upstream(), [], []
        made = upstream.make(20.0)
        waiting = asyncio.create_task(followed(upstream, made, one.append))
        await asyncio.sleep(5.5)
        leave = upstream.watcher.follow(made.id, other.append)
        await asyncio.sleep(5.0)
        leave()
        await waiting
        return len(one), len(other), len(upstream.polls)

    assert (20, 5, 21) == run(scenario())


def test_following_again_and_again_does_not_poll_more_often():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(100.0, 100.0, 100.0)
        made = upstream.make(100.0)
        waiting = asyncio.create_task(upstream.watch(made))
        for _ in range(100):
            await asyncio.sleep(0.1)
            upstream.watcher.follow(made.id, lambda prediction: None)()
            upstream.watcher.follow(made.id, lambda prediction: None)
        polls = len(upstream.polls)
        await waiting
        return polls

    assert 10 == run(scenario())


def test_following_a_prediction_without_a_wait_does_nothing():
    async def scenario():
        upstream = Upstream()
        leave = upstream.watcher.follow("nobody's", lambda prediction: None)
        await asyncio.sleep(10.0)
        leave()
        return upstream.polls, upstream.is_idle()

    assert ([], True) == run(scenario())


def test_a_listener_that_fails_harms_neither_the_watch_nor_other_listeners():
    async def scenario():
        upstream, seen = Upstream(), []
        made = upstream.make(5.5)
        waiting = asyncio.create_task(followed(upstream, made, lambda prediction: 1 / 0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        upstream.watcher.follow(made.id, seen.append)
        return await waiting, len(seen)

    late, seen = run(scenario())
    assert late <= 1.0
    assert seen >= 5


def test_a_listener_that_leaves_while_it_is_called_harms_no_other():
    async def scenario():
        upstream, seen, leaves = Upstream(), [], []
        made = upstream.make(5.5)
        waiting = asyncio.create_task(upstream.watch(made))
        await asyncio.sleep(0)
        leaves.append(upstream.watcher.follow(made.id, lambda prediction: leaves[0]()))
        upstream.watcher.follow(made.id, seen.append)
        return await waiting, len(seen)

    late, seen = run(scenario())
    assert late <= 1.0
    assert seen >= 5


@pytest.mark.parametrize("followed_too", [0, 50, 180])
def test_followers_take_a_third_of_the_window_at_the_most_and_delay_no_end(followed_too):
    async def scenario():
        upstream = Upstream(round_trip=0.2)
        await upstream.learn(60.0, 60.0, 60.0)
        made = [upstream.make(150.0, f"followed {n}") for n in range(followed_too)]
        crowd = [asyncio.create_task(followed(upstream, each, lambda prediction: None)) for each in made]
        late = await upstream.predict_many([60.0] * 100)
        busiest = upstream.most_in_a_minute()
        for each in crowd:
            each.cancel()
        return max(late), busiest

    late, busiest = run(scenario())
    assert late <= 0.5
    assert busiest <= 1000 + followed_too + 10


@pytest.mark.parametrize(("crowd", "least", "most_seen"), [(60, 0, 2), (0, 40, 40)])
def test_when_polls_are_scarce_followers_get_almost_none(crowd, least, most_seen):
    async def scenario():
        upstream, shown = Upstream(round_trip=0.2, per_minute=180), []
        await upstream.learn(40.0, 40.0, 40.0)
        others = [
            asyncio.create_task(upstream.predict(200.0, account=f"{n}", model="another/model"))
            for n in range(crowd)
        ]
        await asyncio.sleep(60.0)
        made = upstream.make(39.5)
        asyncio.get_running_loop().call_at(made.ends_at, lambda: upstream.watcher.receive(made.end))
        await followed(upstream, made, shown.append)
        for each in others:
            each.cancel()
        return len(shown), upstream.most_in_a_minute()

    shown, most = run(scenario())
    assert least <= shown <= most_seen
    assert most <= 180


def test_hanging_polls_are_not_repeated_every_second():
    async def scenario():
        upstream = Upstream()
        upstream.trouble = lambda poll: HANGS if poll.at < 60 else None
        await followed(upstream, upstream.make(60.0), lambda prediction: None)
        return sum(poll.at < 60 for poll in upstream.polls)

    assert run(scenario()) <= 31


def test_an_account_that_must_wait_is_not_polled_for_its_followers():
    async def scenario():
        upstream = Upstream()
        busy = PollFailed(UpstreamError(), wait=30.0)
        upstream.trouble = lambda poll: busy if len(upstream.polls) == 5 else None
        await followed(upstream, upstream.make(60.0), lambda prediction: None)
        times = [poll.at for poll in upstream.polls]
        return times[5] - times[4]

    assert run(scenario()) >= 30.0


def test_a_followed_prediction_ends_no_later_than_without_followers():
    async def scenario():
        upstream = Upstream(round_trip=0.2)
        lengths = [11.0, 11.5, 12.0, 12.5, 13.0]
        await upstream.learn(*lengths)
        usual = [await upstream.predict(each, f"usual {each}") for each in lengths]
        seen = [
            await followed(
                upstream, upstream.make(each, f"followed {each}"), lambda prediction: None, announced=False
            )
            for each in lengths
        ]
        return max(usual), max(seen)

    usual, seen = run(scenario())
    assert seen <= usual + 0.1
