"""The policy's rule for versions that may have to boot: at most half of the slots wait for one of them."""

import pytest

from admission.boots import Boots, most_booting
from admission.durations import Durations, Took
from admission.estimates import Estimates
from admission.forecast import Item, plan
from admission.policy import Policy


def opened(slots=4, places=1000):
    return Policy(concurrent_limit=slots, requests_per_minute=places, durations=Durations())


def admitted(policy, now=0.0):
    return policy.step(now).admitted


@pytest.mark.parametrize(("slots", "most"), [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (100, 50)])
def test_booting_predictions_of_a_version_hold_at_most_half_of_the_slots_but_at_least_one(slots, most):
    policy = opened(slots)
    policy.enqueue(range(200), "ann", boots="cold")

    assert most == most_booting(slots)
    assert list(range(most)) == admitted(policy)


def test_tickets_beyond_that_are_passed_over_and_keep_their_order():
    policy = opened()
    policy.enqueue("abcd", "ann", batch="b", boots="cold")
    policy.enqueue("wxyz", "ann", batch="b")

    assert ["a", "b", "w", "x"] == admitted(policy)
    for each in "ab":
        policy.release(each, 1.0)
    assert ["c", "d"] == admitted(policy, 1.0)


def test_later_versions_of_the_same_flow_do_not_wait_behind_a_full_one():
    policy = opened(6)
    policy.enqueue("abcd", "ann", boots="cold")
    policy.enqueue("wx", "ann", boots="colder")

    assert ["a", "b", "c", "w", "x"] == admitted(policy)


def test_a_start_lets_the_next_one_go_and_a_second_report_of_it_does_nothing():
    policy = opened()
    policy.enqueue("abcdef", "ann", boots="cold")
    admitted(policy)

    policy.started("a", 5.0)
    policy.started("a", 6.0)
    assert ["c"] == admitted(policy, 6.0)
    policy.release("a", 7.0)
    assert [] == admitted(policy, 7.0)
    policy.started("b", 8.0)
    assert ["d"] == admitted(policy, 8.0)


@pytest.mark.parametrize("end", ["released", "withdrawn"])
def test_the_end_of_a_ticket_that_never_started_lets_the_next_one_go(end):
    policy = opened()
    policy.enqueue("abc", "ann", boots="cold")
    admitted(policy)

    policy.release("a", 5.0) if end == "released" else policy.withdraw("a")
    assert ["c"] == admitted(policy, 5.0)


def test_more_slots_let_more_boot_at_once_and_fewer_end_no_boot():
    policy = opened()
    policy.enqueue("abcdefgh", "ann", boots="cold")
    assert 2 == len(admitted(policy))

    policy.configure(1.0, concurrent_limit=8)
    assert 2 == len(admitted(policy, 1.0))
    policy.configure(2.0, concurrent_limit=4)
    for each in "abc":
        policy.started(each, 3.0)
    assert [] == admitted(policy, 3.0)
    policy.configure(4.0, concurrent_limit=6)
    assert 2 == len(admitted(policy, 4.0))


def test_an_adopted_prediction_boots_unless_it_has_started():
    policy = opened()
    policy.adopt("a", "ann", boots="cold", now=0.0)
    policy.adopt("b", "ann", boots=None, now=0.0)
    policy.enqueue("cd", "ann", boots="cold")

    assert ["c"] == admitted(policy)


def test_a_withdrawn_ticket_that_waited_for_room_leaves_nothing_behind():
    policy = opened()
    policy.enqueue("abc", "ann", boots="cold")
    admitted(policy)
    policy.withdraw("c")

    assert 0 == len(policy.queue)
    assert 0 == policy.boots.find("cold").waiting


def test_versions_that_no_ticket_names_are_forgotten():
    policy = opened()
    for version in range(1000):
        policy.enqueue([version], "ann", boots=str(version))
        admitted(policy)
        policy.started(version, 0.0)
        policy.answered(version, -60.0)
        policy.release(version, 0.0)

    assert policy.boots.find("1") is None
    assert 64 == len(policy.boots.waits())


def test_one_boot_before_many_warm_predictions_does_not_change_the_usual_wait():
    boots = Boots()
    for seconds in (180.0, 0.5, 0.5, 0.5):
        boots.note_wait("cold", seconds)

    assert {"cold": 0.5} == boots.waits()
    assert 0.0 == boots.usual_wait("unknown")


# ── Forecasts and estimates


def waited(policy, seconds):
    policy.boots.note_wait("cold", seconds)
    return policy


def test_the_forecast_of_a_batch_lets_half_of_the_slots_boot_at_a_time():
    """Two of four slots wait for 100 s and run for 10 s, while nothing else may go. Each start lets one more go."""
    policy = waited(opened(), 100.0)
    durations = Durations()
    durations.note("m", Took(10.0))
    seen = policy.snapshot(0.0)

    def seconds(items, boots):
        batch = [Item("m", 10.0, 0.0, 0, boots)] * items
        return plan(batch, seen, durations, caller="ann", max_concurrent=None).seconds

    assert [110.0, 210.0, 310.0] == [seconds(each, "cold") for each in (2, 4, 6)]
    assert [10.0, 10.0, 20.0] == [seconds(each, None) for each in (2, 4, 6)]
    assert 10.0 == seconds(2, "warm")


def test_the_forecast_counts_what_boots_already_and_what_waits_for_room():
    policy = waited(opened(), 100.0)
    policy.enqueue("abc", "bob", boots="cold")
    admitted(policy)
    for _ in range(8):
        policy.durations.note_slot(110.0)
    durations = Durations()
    durations.note("m", Took(10.0))
    batch = [Item("m", 10.0, 0.0, 0, "cold")]

    found = plan(batch, policy.snapshot(0.0), durations, caller="ann", max_concurrent=None).seconds

    # Bob's two start after 25 and 75 s. The first then has 100 s to wait and 10 s to run.
    assert 25.0 + 110.0 <= found <= 75.0 + 110.0


def test_an_estimate_counts_the_wait_for_the_room_of_a_boot():
    policy = waited(opened(), 100.0)
    policy.enqueue("abc", "ann", boots="cold")
    admitted(policy)
    estimates = Estimates(policy, lambda: 0.0)

    assert 50.0 == estimates.estimated_wait("ann", None, 0, usual=1.0, boots="cold")
    assert 0.0 == estimates.estimated_wait("bob", None, 0, usual=1.0)
    assert 2 == estimates.statistics().booting
