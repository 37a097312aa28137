"""Limits of single callers: the policy alone, its estimates, and plans."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.durations import Durations, Took
from admission.estimates import Estimates
from admission.forecast import Item, plan
from admission.policy import Policy
from concurrency import Gate
from tests.support.virtual_time import run


def a_policy(slots=10, places=100, reserve=0.0) -> Policy:
    return Policy(
        concurrent_limit=slots,
        requests_per_minute=places,
        interactive_reserve=reserve,
        durations=Durations(),
    )


def admitted(policy: Policy, now: float = 0.0) -> list:
    return policy.step(now).admitted


# ── Admission


def test_a_caller_at_its_own_limit_is_passed_over_and_leaves_the_slots_to_others():
    policy = a_policy(slots=5)
    policy.limit_caller("ann", max_concurrent=2)
    policy.enqueue(["a1", "a2", "a3"], "ann")
    policy.enqueue(["b1", "b2", "b3", "b4"], "bob", batch="many")

    assert {"a1", "a2", "b1", "b2", "b3"} == set(admitted(policy))
    policy.release("b1", 1.0)
    assert ["b4"] == admitted(policy, 1.0)
    policy.release("a2", 2.0)
    assert ["a3"] == admitted(policy, 2.0)


def test_a_place_of_a_caller_is_free_60_seconds_after_its_answer():
    policy = a_policy()
    policy.limit_caller("ann", per_minute=1)
    policy.enqueue([1, 2], "ann")

    assert [1] == admitted(policy)
    policy.answered(1, 7.5)
    step = policy.step(8.0)
    assert ([], 67.5) == step[:2]
    assert [] == admitted(policy, 67.4)
    assert [2] == admitted(policy, 67.5)


def test_a_ticket_without_a_creation_gives_its_own_place_back():
    policy = a_policy()
    policy.limit_caller("ann", per_minute=1)
    policy.enqueue([1, 2], "ann")

    assert [1] == admitted(policy)
    policy.withdraw(1)
    assert [2] == admitted(policy)


def test_a_higher_limit_admits_at_once_and_a_lower_one_waits_for_the_ends_of_more():
    policy = a_policy()
    policy.limit_caller("ann", max_concurrent=1, per_minute=2)
    policy.enqueue(range(9), "ann")
    assert [0] == admitted(policy)

    policy.limit_caller("ann", max_concurrent=4, per_minute=3)
    assert [1, 2] == admitted(policy)
    policy.limit_caller("ann", max_concurrent=4)
    assert [3] == admitted(policy)
    policy.limit_caller("ann", max_concurrent=2)
    policy.release(0, 1.0)
    policy.release(1, 1.0)
    assert [] == admitted(policy, 1.0)
    policy.release(2, 2.0)
    assert [4] == admitted(policy, 2.0)
    policy.limit_caller("ann")
    assert [5, 6, 7, 8] == admitted(policy, 2.0)


def test_a_limit_that_is_set_again_keeps_the_places_that_are_taken():
    policy = a_policy()
    policy.limit_caller("ann", per_minute=1)
    policy.enqueue([1, 2], "ann")
    assert [1] == admitted(policy)
    policy.answered(1, 0.0)

    policy.limit_caller("ann", max_concurrent=5, per_minute=1)

    assert [] == admitted(policy, 59.0)
    assert [2] == admitted(policy, 60.0)


def test_a_limit_below_1_is_refused_with_the_others_unchanged():
    policy = a_policy()
    policy.limit_caller("ann", max_concurrent=1)
    with pytest.raises(ValueError, match=r"^per_minute must be at least 1, got 0$"):
        policy.limit_caller("ann", max_concurrent=2, per_minute=0)
    policy.enqueue([1, 2], "ann")

    assert [1] == admitted(policy)


def test_adopted_predictions_hold_slots_beyond_the_limit_and_lost_ones_a_place():
    policy = a_policy()
    policy.limit_caller("ann", max_concurrent=1, per_minute=1)
    policy.adopt("r1", "ann", now=0.0)
    policy.adopt("r2", "ann", now=0.0, lost=0.0)
    policy.enqueue([1], "ann")

    assert [] == admitted(policy)
    policy.release("r1", 1.0)
    policy.stall.answered(1.0)
    policy.release("r2", 2.0)
    assert [] == admitted(policy, 61.9)
    assert [1] == admitted(policy, 62.0)


def test_places_of_an_earlier_process_count_for_the_caller():
    policy = a_policy()
    policy.limit_caller("ann", per_minute=2)
    policy.count([50.0, 10.0], 0.0, "ann")
    policy.count([0.0], 0.0, "bob")
    policy.enqueue([1, 2], "ann")
    policy.enqueue([3], "bob")

    assert 3 == policy.window.used(0.0)
    assert ([3], 10.0) == policy.step(0.0)[:2]
    assert [1] == admitted(policy, 10.0)
    policy.answered(1, 10.0)
    assert [2] == admitted(policy, 50.0)


def test_an_idle_caller_keeps_only_its_taken_places():
    policy = a_policy(slots=2000, places=2000)
    for number in range(10_000):
        policy.limit_caller(f"key_{number}", max_concurrent=3, per_minute=1)
    assert {} == policy.queue.callers

    policy.enqueue([-1], "key_0")
    assert [-1] == admitted(policy)
    policy.release(-1, 0.0)
    for number in range(1, 1000):
        policy.enqueue([number], f"key_{number}")
        assert [number] == admitted(policy, 1.0)
        policy.withdraw(number)
    assert len(policy.queue.callers) < 200
    assert ["key_0"] == list(policy.snapshot(1.0).own_limits)
    policy.enqueue([-2], "key_0")

    assert [] == admitted(policy, 59.0)
    assert [-2] == admitted(policy, 60.0)


def test_tickets_that_wait_for_an_own_limit_hold_no_other_batch_to_the_pace_of_the_reserve():
    """Ten windows of waiting tickets keep a reserve. One a minute of them does not."""
    policy = a_policy(slots=1000, places=60, reserve=0.5)
    policy.limit_caller("ann", per_minute=1)
    policy.enqueue(range(10_000), "ann", batch="long")
    policy.enqueue(range(20_000, 20_200), "bob", batch="short")

    assert 60 == len(admitted(policy))


def test_a_limited_batch_paces_no_other_beside_recent_single_calls():
    policy = a_policy(slots=1000, places=60, reserve=0.5)
    policy.limit_caller("ann", per_minute=1)
    policy.enqueue(["single"], "cid")
    policy.enqueue(range(1000), "ann", batch="long")
    assert {"single", 0} == set(admitted(policy))
    policy.enqueue(range(20_000, 20_030), "bob", batch="short")

    assert 30 == len(admitted(policy))


def test_a_high_limit_keeps_the_reserve_that_a_long_batch_leaves_to_single_calls():
    def left(**limits) -> int:
        policy = a_policy(slots=1000, places=60, reserve=0.5)
        policy.limit_caller("ann", **limits)
        policy.enqueue(range(10_000), "ann", batch="long")
        return 60 - len(admitted(policy))

    assert left() == left(per_minute=600) == left(per_minute=600, max_concurrent=900)


# ── Estimates


def test_a_caller_at_its_limit_waits_for_its_own_places_while_others_overtake_it():
    policy = a_policy(places=60)
    policy.limit_caller("ann", per_minute=1)
    policy.enqueue(["a0", "a1", "a2"], "ann")
    policy.enqueue(range(30), "bob")
    for ticket in admitted(policy):
        policy.answered(ticket, 0.0)
    estimates = Estimates(policy, lambda: 0.0)

    assert 60.0 == estimates.estimated_wait("ann", None, 0, usual=1.0)
    assert 120.0 == estimates.estimated_wait("ann", None, 1, usual=1.0)
    assert 1 + 21 == estimates.queue_position("ann", None, 0)
    assert 21 == estimates.queue_position("bob", None, 20)


def test_a_caller_at_its_slots_waits_for_an_end_of_its_own():
    policy = a_policy()
    policy.limit_caller("ann", max_concurrent=2)
    policy.enqueue(range(6), "ann")
    admitted(policy)
    estimates = Estimates(policy, lambda: 0.0)

    assert [4.0, 8.0, 12.0] == [estimates.estimated_wait("ann", None, ahead, usual=8.0) for ahead in range(3)]


def test_the_next_tickets_of_a_caller_are_admitted_by_the_slowest_of_its_limits_and_its_turns():
    policy = a_policy(slots=4, places=600)
    policy.durations.note_slot(8.0)
    policy.limit_caller("ann", max_concurrent=2, per_minute=3)
    policy.enqueue(range(20), "ann")
    for ticket in admitted(policy):
        policy.answered(ticket, 0.0)
    estimates = Estimates(policy, lambda: 0.0)

    assert 4.0 == estimates.seconds_to_admit("ann", 1)
    assert 60.0 == estimates.seconds_to_admit("ann", 2)
    policy.limit_caller("ann")
    assert 2.0 * 3 == estimates.seconds_to_admit("ann", 5)


# ── Plans


async def batch_alone(seconds: list[float], spent: list[float], busy: int, **limits) -> tuple[float, float]:
    """The planned and the actual seconds of a batch of a limited caller, `spent` seconds after its earlier answers,
    beside the waiting batch of another caller."""
    loop = asyncio.get_running_loop()
    gate = Gate(concurrent_limit=6, requests_per_minute=30)
    gate.limit_caller("ann", **limits)
    gate.count(spent, "ann")

    async def generate(caller: str, batch: str, lasts: float) -> float:
        with await gate.acquire(caller, batch=batch) as lease:
            lease.sent()
            lease.answered()
            await asyncio.sleep(lasts)
        return loop.time()

    others = [asyncio.create_task(generate("bob", "other", 2.0)) for _ in range(busy)]
    durations = Durations()
    for number, each in enumerate(seconds):
        durations.note(str(number), Took(each))
    await asyncio.sleep(0)
    snapshot = replace(gate.snapshot(caller="ann"), held=(2.0,))
    items = [Item(str(number), each, 0.0, 0) for number, each in enumerate(seconds)]
    planned = plan(items, snapshot, durations, caller="ann", max_concurrent=None)
    began = loop.time()
    ends = await asyncio.gather(*(generate("ann", "own", each) for each in seconds))
    await asyncio.gather(*others)
    return planned.seconds, max(ends) - began


@given(
    seconds=st.lists(st.integers(1, 90), min_size=1, max_size=12),
    spent=st.lists(st.integers(0, 59), max_size=3),
    most=st.none() | st.integers(1, 4),
    places=st.none() | st.integers(1, 4),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_the_gate_carries_out_the_plan_of_a_limited_caller(seconds, spent, most, places):
    planned, took = run(batch_alone(seconds, spent, 0, max_concurrent=most, per_minute=places))

    assert pytest.approx(took) == planned


def test_the_gate_carries_out_the_plan_of_a_limited_caller_beside_others():
    planned, took = run(batch_alone([3.0] * 8, [10.0], 15, max_concurrent=2, per_minute=3))

    assert pytest.approx(took, rel=0.02) == planned


def test_a_limited_batch_does_not_delay_the_plan_of_another_caller():
    async def scenario(**limits):
        gate = Gate(concurrent_limit=6, requests_per_minute=30)
        gate.limit_caller("ann", **limits)
        for _ in range(500):
            gate.request("ann", batch="long")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        items = [Item("m", 3.0, 0.0, 0)] * 20
        return plan(
            items, gate.snapshot(caller="bob"), Durations(), caller="bob", max_concurrent=None
        ).seconds

    assert run(scenario(max_concurrent=1, per_minute=1)) < 20 < run(scenario())
