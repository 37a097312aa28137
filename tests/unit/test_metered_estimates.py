"""Statistics, positions and waits of metered admission, and forecasts of batches."""

import dataclasses
import json

import pytest

from admission.durations import Durations, Took
from admission.metered.estimates import MeteredEstimates
from admission.metered.forecast import MeteredItem, plan
from admission.metered.limits import ModelLimits
from admission.metered.snapshot import ClosedStats, WindowStats
from tests.support.metered import Metered, need
from tests.support.metered_load import MeteredLoad, mostly_short


def estimates(policy, clock):
    return MeteredEstimates(policy, clock)


def test_statistics_count_what_each_window_has(clock):
    policy = Metered(slots=2, rpm=10, tpm=100, rpd=50, money=1000)
    policy.add(3, tokens=30, micro_usd=300)
    policy.go()
    policy.answered(0, 0.0)
    policy.measured(0, 10)
    policy.close("ours", "lite", 30.0, "minute")
    policy.lower("ours", "lite", "rpm", 5)
    clock.now = 10.0
    seen = estimates(policy, clock).account_statistics("ours")
    (lane,) = seen.lanes

    assert (2, 1, 0, WindowStats(600, 1000), None) == (
        seen.in_flight, seen.waiting, seen.available_slots, seen.micro_usd, seen.closed
    )  # fmt: skip
    assert (WindowStats(2, 5), WindowStats(40, 100), WindowStats(2, 50)) == (
        lane.requests_per_minute, lane.tokens_per_minute, lane.requests_per_day
    )  # fmt: skip
    assert (ClosedStats(20.0, "minute"), ("rpm",)) == (lane.closed, lane.lowered)
    assert (2, 1, 1) == dataclasses.astuple(estimates(policy, clock).statistics())[1:]


def test_an_account_that_was_never_used_has_empty_statistics(clock):
    seen = estimates(Metered(slots=2, money=7), clock).account_statistics("new")

    assert (0, 0, WindowStats(0, 7), ()) == (seen.in_flight, seen.waiting, seen.micro_usd, seen.lanes)


def test_the_limit_of_a_window_without_one_is_none(clock):
    policy = Metered()
    policy.add()
    (lane,) = estimates(policy, clock).account_statistics("ours").lanes

    assert WindowStats(0, None) == lane.requests_per_day


@pytest.mark.parametrize(
    ("demand", "ahead", "position"),
    [
        (need("bob"), 0, 1 + 1),
        (need("bob"), 4, 5 + 5),
        (need("ann", batch="one"), 9, 10 + 10),
        (need("ann", batch="one"), 49, 50 + 10),
        (need("ann"), 0, 1 + 1 + 2),
        (need("cid"), 0, 1 + 1 + 1),
    ],
)
def test_a_position_counts_as_many_of_others_as_have_the_same_turns(demand, ahead, position, clock):
    policy = Metered(slots=1)
    policy.close("ours", None, 1e9, "money")
    policy.add(100, caller="ann", batch="one")
    policy.add(10, caller="bob")

    assert position == estimates(policy, clock).queue_position(demand, ahead)


def test_a_caller_of_long_prompts_is_passed_by_more_short_ones(clock):
    policy = Metered(slots=1, tpm=1_000_000)
    policy.close("ours", None, 1e9, "money")
    policy.add(100, caller="ann", tokens=1000)

    assert 11 == estimates(policy, clock).queue_position(need("bob", tokens=10_000), 0)


def test_waits_are_by_the_window_that_is_short(clock):
    policy = Metered(slots=1000, tpm=1000, money=10**6, models={"few": ModelLimits(rpm=2)})
    policy.add(tokens=900)
    policy.add(2, model="few")
    policy.add(1, model="dear", micro_usd=900_000)
    for ticket in policy.go():
        policy.answered(ticket, 0.0)
    policy.done(3, now=0.0)
    clock.now = 20.0
    found = estimates(policy, clock)

    assert 40.0 == found.estimated_wait(need("bob", tokens=200), 0, usual=1.0)
    assert 0.0 == found.estimated_wait(need("bob", tokens=100), 0, usual=1.0)
    assert 100.0 == found.estimated_wait(need("bob", model="few"), 2, usual=1.0)
    assert 580.0 == found.estimated_wait(need("bob", model="dear", micro_usd=200_000), 0, usual=1.0)
    assert 0.0 == found.estimated_wait(need("bob", account="new"), 0, usual=1.0)


def test_a_wait_is_at_least_that_for_what_is_closed_and_for_the_end_of_the_day(clock):
    policy = Metered(models={"daily": ModelLimits(rpd=1)})
    policy.close("ours", "lite", 30.0, "minute")
    policy.add(model="daily")
    policy.done(*policy.go())
    found = estimates(policy, clock)

    assert 30.0 == found.estimated_wait(need("bob"), 0, usual=1.0)
    assert 1000.0 == found.estimated_wait(need("bob", model="daily"), 0, usual=1.0)


def test_without_free_slots_a_wait_is_by_the_slots(clock):
    policy = Metered(slots=2)
    policy.add(6, batch="one")
    policy.go()
    policy.durations.note_slot(10.0)
    found = estimates(policy, clock)

    assert 25.0 == found.estimated_wait(need(batch="one"), 4, usual=3.0)
    assert 10.0 == found.seconds_to_admit("ann", 2)
    assert 0.0 == found.seconds_to_admit("bob", 2)


# ── Forecasts


def items(number, tokens=10, usual=2.0, micro_usd=0, **needed):
    demand = need(tokens=tokens, micro_usd=micro_usd, batch="planned", **needed)
    return [MeteredItem(demand, tokens, usual, micro_usd / 1e6)] * number


def planned(policy, batch, now=0.0, durations=None):
    return plan(batch, policy.snapshot("ours", now), durations or Durations())


def test_a_batch_that_fits_starts_at_once():
    found = planned(Metered(slots=10), items(10, micro_usd=1500))

    assert ("immediate", 2.0, 0.015) == (found.strategy, found.seconds, found.cost_usd)


def test_a_batch_waits_for_tokens_and_for_slots():
    found = planned(Metered(tpm=50), items(10))
    assert ("window", 62.0) == (found.strategy, found.seconds)
    assert 10.0 == planned(Metered(slots=2), items(10)).seconds
    assert "queue" == planned(Metered(rpm=5), items(10)).strategy


def test_a_forecast_counts_running_and_waiting_calls_and_closings():
    policy = Metered(slots=2, rpm=3)
    policy.add(4, caller="bob")
    policy.go()
    policy.durations.note_slot(4.0)
    policy.close("ours", None, 30.0, "money")
    before = policy.snapshot("ours", 10.0)

    found = planned(policy, items(1), now=10.0)

    assert 80.0 >= found.seconds > 60.0  # the place of the fifth call
    assert before == policy.snapshot("ours", 10.0)


def test_a_batch_beyond_the_day_ends_on_the_next():
    policy = Metered(rpd=3)

    assert 1002.0 == planned(policy, items(5)).seconds


def test_a_snapshot_can_be_written_as_json():
    policy = Metered(slots=1)
    policy.semaphores.set_limit("gpu", 2)
    policy.add(3, semaphore="gpu", tokens=5)
    policy.go()

    assert json.loads(json.dumps(dataclasses.asdict(policy.snapshot("ours", 0.0))))


def test_a_forecast_is_right_to_three_per_cent_when_durations_are_as_before():
    load = MeteredLoad(calls=1500, slots=15, rpm=300, tpm=200_000, prompts=mostly_short(0.05)).run()
    durations = Durations()
    for held in range(100, 300):
        durations.note("lite", Took(held / 100, answered=0.45))
    batch = [
        MeteredItem(
            need(tokens=tokens if tokens > 1000 else 4 * tokens, micro_usd=1, batch="planned"),
            tokens,
            2.0,
            0.0,
        )
        for tokens in load.drawn
    ]
    policy = Metered(slots=15, rpm=300, tpm=200_000)

    assert load.took == pytest.approx(planned(policy, batch, durations=durations).seconds, rel=0.03)
