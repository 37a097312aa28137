"""Callers whose accounts are unknown leave the window to the others, however many they are."""

import math

import pytest

from admission.durations import Durations
from admission.flows import UNPROVEN, UNPROVEN_TURN
from admission.policy import Policy

PROVEN = ("ann", "bea", "cem", "dan", "eve")


def a_policy(**limits):
    return Policy(
        **{"concurrent_limit": 1000, "requests_per_minute": 120, "interactive_reserve": 0.5} | limits,
        durations=Durations(),
    )


class Crowd:
    """Five callers who return half a second after each result, and a flood of unproven tickets whose creations are
    refused at once."""

    def __init__(self, policy, *, flood, batch=None):
        self.policy, self.batch, self.flood, self.now = policy, batch, flood, 0.0
        self.taken = {UNPROVEN: 0} | dict.fromkeys(PROVEN, 0)
        self.ends = []
        self.number = 0
        for caller in PROVEN:
            self.come(caller)
        for _ in range(flood):
            self.come(UNPROVEN)

    def come(self, caller):
        self.number += 1
        self.policy.enqueue([(caller, self.number)], caller, batch=None if caller == UNPROVEN else self.batch)

    def live(self, seconds):
        until = self.now + seconds
        while self.now < until:
            for ticket in self.policy.step(self.now).admitted:
                self.taken[ticket[0]] += 1
                self.ends.append((self.now + (0.1 if ticket[0] == UNPROVEN else 0.5), ticket))
            self.now += 0.05
            for end, ticket in [each for each in self.ends if each[0] <= self.now]:
                self.ends.remove((end, ticket))
                self.policy.release(ticket, self.now)
                self.come(ticket[0])


@pytest.mark.parametrize("batch", [None, "one"])
@pytest.mark.parametrize("limit", [60, 120, 600])
def test_a_flood_of_unproven_callers_leaves_the_known_ones_95_per_cent_of_what_they_get_alone(limit, batch):
    alone = Crowd(a_policy(requests_per_minute=limit), flood=0, batch=batch)
    beside = Crowd(a_policy(requests_per_minute=limit), flood=100, batch=batch)
    for crowd in (alone, beside):
        crowd.live(180)

    assert all(beside.taken[caller] >= 0.95 * alone.taken[caller] - 1 for caller in PROVEN)
    assert beside.taken[UNPROVEN] > 0


def test_unproven_callers_have_the_whole_window_while_no_others_are_active():
    policy = a_policy()
    policy.enqueue(range(500), UNPROVEN)

    assert 120 == len(policy.step(0.0).admitted)


def test_unproven_callers_are_admitted_at_the_moment_that_the_last_step_returned():
    policy = a_policy()
    policy.enqueue(["known"], "ann")
    policy.enqueue(range(50), UNPROVEN)
    share = 120 // UNPROVEN_TURN
    now, admitted = 0.0, []
    while now <= 120:
        step = policy.step(now)
        for ticket in step.admitted:
            policy.release(ticket, now)
        admitted += step.admitted
        step = policy.step(now)  # the places that were answered meanwhile now have an end
        assert ([], True) == (step.admitted, now < step.next_chance < math.inf)
        now = step.next_chance

    assert 1 + 3 * share == len(admitted)


def test_a_single_call_goes_before_unproven_calls_that_came_earlier():
    policy = a_policy(requests_per_minute=6)
    policy.enqueue(["first"], "ann")
    policy.step(0.0)
    policy.enqueue(range(3), UNPROVEN)
    policy.enqueue(["call"], "ann")

    assert "call" in policy.step(0.0).admitted


def test_a_copy_of_a_policy_keeps_the_places_of_unproven_callers():
    policy = a_policy()
    policy.enqueue(["known"], "ann")
    policy.enqueue(range(50), UNPROVEN)
    policy.step(0.0)
    copy = a_policy()
    copy.restore(policy.snapshot(0.0), unanswered=math.inf)
    copy.enqueue(range(50), UNPROVEN)

    assert [] == copy.step(1.0).admitted


def test_a_step_never_returns_a_past_moment():
    policy = a_policy(concurrent_limit=1, requests_per_minute=6)
    policy.enqueue(["call"], "ann")
    policy.release(*policy.step(0.0).admitted, 0.1)
    policy.enqueue(["first"], UNPROVEN)
    policy.release(*policy.step(1.0).admitted, 1.0)
    policy.enqueue(range(8), "ann", batch="one")
    policy.enqueue(["second"], UNPROVEN)
    assert 1 == len(policy.step(60.5).admitted)

    assert all(policy.step(now).next_chance > now for now in (61.0, 61.1, 62.0, 65.0))


def test_unproven_callers_limited_only_by_turns_are_admitted_beside_others():
    policy = a_policy(bounds_unproven=False)
    policy.enqueue(["known"], "ann")
    policy.enqueue(range(50), UNPROVEN)

    assert 51 == len(policy.step(0.0).admitted)
