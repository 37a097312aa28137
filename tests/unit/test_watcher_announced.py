"""Webhooks end waits first, and polls are the fallback: few polls where webhooks arrive, the usual ones where
they do not."""

import asyncio
from random import Random

import pytest

from providers import Prediction
from providers.replicate.push import GRACE, KEPT, SILENCE, PushTracker
from tests.support.upstream import MODEL, Made, Upstream, caller, run
from tests.support.virtual_time import now

UNDER_WAY = 0.3
"""Seconds from the end of a prediction to its webhook."""


async def announced(
    upstream: Upstream,
    made: Made,
    *,
    account: str = "ann",
    model: str = MODEL,
    webhook: float | None = UNDER_WAY,
) -> float:
    """Wait for a prediction whose webhook arrives `webhook` seconds after its end, or never. Returns the
    seconds from its end to the end of the wait."""
    prediction = Prediction(made.id, "starting", created_at=made.created_at, is_announced=True)
    if webhook is not None:
        at = made.ends_at + webhook
        asyncio.get_running_loop().call_at(at, lambda: upstream.watcher.receive(made.end))
    outcome = await upstream.watcher.wait(caller(account), prediction, model=model)
    assert made.end == outcome
    return now() - made.ends_at


async def announced_many(
    upstream: Upstream, lengths: list[float], *, every: float = 0.0, **how
) -> list[float]:
    """Make and await predictions, one each `every` seconds. Returns the delay of each result in seconds."""

    async def one(n: int, seconds: float) -> float:
        await asyncio.sleep(n * every)
        made = upstream.make(seconds, f"p{n} at {now()}", account=how.get("account", "ann"))
        return await announced(upstream, made, **how)

    return await asyncio.gather(*(one(n, seconds) for n, seconds in enumerate(lengths)))


def about(seconds: float, many: int) -> list[float]:
    """This many durations, a fifth more or less than the usual one."""
    random = Random(1)
    return [seconds * random.uniform(0.8, 1.2) for _ in range(many)]


def test_a_known_model_costs_no_poll_where_webhooks_arrive():
    async def scenario():
        upstream = Upstream(round_trip=0.2)
        await upstream.learn(*about(12.0, 20))
        late = await announced_many(upstream, about(12.0, 180), every=0.1)
        return max(late), len(upstream.polls), upstream.is_idle()

    late, polls, idle = run(scenario())
    assert late == pytest.approx(UNDER_WAY)
    assert 0 == polls
    assert idle


@pytest.mark.parametrize("every", [0.0, 0.1])
def test_180_pushed_predictions_of_an_unknown_model_cost_ten_polls_at_the_most(every):
    async def scenario():
        upstream = Upstream(round_trip=0.2)
        late = await announced_many(upstream, about(12.0, 180), every=every)
        return max(late), len(upstream.polls)

    late, polls = run(scenario())
    assert late <= 0.31
    assert polls <= 10


def test_a_prediction_far_longer_than_usual_is_polled_ever_more_rarely():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        began = now()
        await announced(upstream, upstream.make(400.0))
        return [round(poll.at - began, 3) for poll in upstream.polls]

    assert [17.0, 32.0, 47.0, 77.0, 137.0, 197.0, 257.0, 317.0, 377.0] == run(scenario())


def test_a_poll_replaces_a_single_missing_webhook():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        return await announced(upstream, upstream.make(12.0), webhook=None)

    assert 5.0 == run(scenario())


def test_without_any_webhook_all_waits_end_soon_and_later_ones_as_soon_as_unannounced_ones():
    async def scenario():
        upstream, without = Upstream(round_trip=0.2), Upstream(round_trip=0.2)
        for each in (upstream, without):
            await each.learn(*about(12.0, 20))
        first = await announced_many(upstream, about(12.0, 180), webhook=None)
        await without.predict_many(about(12.0, 180))
        without.polls.clear()
        await asyncio.sleep(10.0)
        upstream.polls.clear()
        later = await announced_many(upstream, about(12.0, 100), webhook=None)
        usual = await without.predict_many(about(12.0, 100))
        return max(first), max(later), max(usual), len(upstream.polls), len(without.polls)

    first, later, usual, polls, usual_polls = run(scenario())
    assert first <= 12.0
    assert later <= usual + 0.1
    assert polls <= usual_polls + 5


def test_predictions_under_way_are_polled_as_usual_once_webhooks_are_found_missing():
    """A poll finds the first over at 17 s, and its webhook counts as missing at 22 s."""

    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        await upstream.learn(100.0, 100.0, 100.0, model="slow/model")
        slow = asyncio.create_task(
            announced(upstream, upstream.make(100.0, "slow"), model="slow/model", webhook=None)
        )
        quick = await announced(upstream, upstream.make(12.0, "quick"), webhook=None)
        return quick, await slow

    assert (5.0, 0.0) == run(scenario())


def test_a_webhook_shortly_after_the_poll_is_not_missing():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        first = await announced(upstream, upstream.make(12.0, "slow line"), webhook=9.9)
        await asyncio.sleep(20.0)
        upstream.polls.clear()
        await announced(upstream, upstream.make(12.0, "next"))
        return first, len(upstream.polls)

    assert (5.0, 0) == run(scenario())


@pytest.mark.parametrize(("waited", "late"), [(SILENCE - 30, 0.0), (SILENCE + 1, 5.0)])
def test_webhooks_of_an_account_are_expected_again_after_ten_minutes(waited, late):
    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        await announced(upstream, upstream.make(12.0, "first"), webhook=None)
        await asyncio.sleep(waited + 5.0)
        return await announced(upstream, upstream.make(12.0, "second"), webhook=None)

    assert late == run(scenario())


def test_missing_webhooks_of_one_account_do_not_affect_another():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        await announced(upstream, upstream.make(12.0, "hers"), webhook=None)
        await asyncio.sleep(10.0)
        upstream.polls.clear()
        await announced(upstream, upstream.make(12.0, "his", account="bob"), account="bob")
        return len(upstream.polls)

    assert 0 == run(scenario())


def test_a_prediction_that_ends_at_processing_expects_no_webhook():
    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        await announced(upstream, upstream.make(12.0, "early", status="processing"), webhook=None)
        await asyncio.sleep(20.0)
        upstream.polls.clear()
        await announced(upstream, upstream.make(12.0, "next"))
        return len(upstream.polls)

    assert 0 == run(scenario())


def test_a_prediction_watched_late_is_polled_as_usual_and_expects_no_webhook():
    """Its webhook may have arrived while the service was down."""

    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        made = upstream.make(12.0)
        await asyncio.sleep(60.0)
        late = Prediction(made.id, "starting", created_at=made.created_at, age=60.0, is_announced=True)
        began = now()
        await upstream.watcher.wait(caller("ann"), late, model=MODEL)
        waited = now() - began
        await asyncio.sleep(20.0)
        upstream.polls.clear()
        await announced(upstream, upstream.make(12.0, "next"))
        return waited, len(upstream.polls)

    assert (0.0, 0) == run(scenario())


def test_a_result_pushed_before_the_wait_ends_it_at_once():
    async def scenario():
        upstream = Upstream()
        made = upstream.make(0.0)
        upstream.watcher.receive(made.end)
        return await announced(upstream, made, webhook=None), len(upstream.polls)

    assert (0.0, 0) == run(scenario())


def test_only_the_latest_thousand_early_results_are_kept():
    async def scenario():
        upstream = Upstream()
        made = [upstream.make(0.0, f"p{n}") for n in range(KEPT + 1)]
        for each in made:
            upstream.watcher.receive(each.end)
        polls = []
        for number in (KEPT, 1, 0):
            await announced(upstream, made[number], webhook=None)
            polls.append(len(upstream.polls))
        return polls[0], polls[1], polls[2] > 0

    assert (0, 0, True) == run(scenario())


def test_a_repeated_unfinished_or_unknown_pushed_result_does_no_harm():
    async def scenario():
        upstream = Upstream()
        made = upstream.make(12.0)
        waiting = asyncio.create_task(announced(upstream, made, webhook=None))
        await asyncio.sleep(1.0)
        upstream.watcher.receive(Prediction(made.id, "processing"))
        upstream.watcher.receive(Prediction("nobody's", "failed"))
        assert not waiting.done()
        await asyncio.sleep(11.0)
        for _ in range(3):
            upstream.watcher.receive(made.end)
        late = await waiting
        upstream.watcher.receive(made.end)
        return late, upstream.is_idle()

    assert (0.0, True) == run(scenario())


def test_a_pushed_result_ends_both_waits_for_one_prediction():
    async def scenario():
        upstream = Upstream()
        made = upstream.make(5.0)
        return await asyncio.gather(*(announced(upstream, made) for _ in range(2)))

    assert [UNDER_WAY, UNDER_WAY] == pytest.approx(run(scenario()))


def test_a_pushed_result_ends_a_wait_that_expected_none():
    async def scenario():
        upstream = Upstream()
        made = upstream.make(12.0)
        asyncio.get_running_loop().call_at(made.ends_at, lambda: upstream.watcher.receive(made.end))
        return await upstream.watch(made)

    assert 0.0 == run(scenario())


def test_pushed_results_count_as_durations_of_a_model():
    async def scenario():
        upstream = Upstream()
        for n in range(3):
            await announced(upstream, upstream.make(20.0, f"p{n}"))
        upstream.polls.clear()
        return await upstream.predict(20.0, "next"), len(upstream.polls)

    assert (0.0, 1) == run(scenario())


def test_missing_webhooks_of_an_account_are_reported_once():
    async def scenario():
        missed = []
        announcements = PushTracker(on_silence=lambda who: missed.append((who.id, now())))
        for n in range(3):
            announcements.expect(caller("ann"), f"p{n}")
            await asyncio.sleep(1.0)
        await asyncio.sleep(20.0)
        announcements.expect(caller("ann"), "p3")
        await asyncio.sleep(20.0)
        return missed

    assert [("ann", GRACE)] == run(scenario())


@pytest.mark.parametrize("webhook", [None, 1.0])
def test_closing_leaves_no_timer_that_waits_for_a_webhook(webhook):
    async def scenario():
        upstream = Upstream()
        await upstream.learn(12.0, 12.0, 12.0)
        made = upstream.make(12.0)
        await announced(upstream, made, webhook=None)
        if webhook is not None:
            upstream.watcher.receive(made.end)
        await upstream.watcher.aclose()
        return asyncio.get_running_loop().timers()

    assert [] == run(scenario())
