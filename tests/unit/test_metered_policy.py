"""Metered admission: what each rule admits, and when. The property tests run random histories."""

import math
from collections import Counter
from functools import partial

import pytest

from admission.flows import UNPROVEN
from admission.metered.accounts import LONGEST_LOST
from admission.metered.closing import Closed
from admission.metered.demand import TooLarge
from admission.metered.limits import MeteredLimits, ModelLimits
from tests.support.metered import Metered, need

# ── All together or none


@pytest.mark.parametrize(
    "limits",
    [{"slots": 2}, {"rpm": 2}, {"tpm": 10}, {"rpd": 2}, {"money": 10}],
    ids=lambda each: next(iter(each)),
)
def test_each_limit_alone_holds_back_the_third_of_three(limits):
    policy = Metered(**limits)
    policy.add(3, tokens=5, micro_usd=5)

    assert [0, 1] == policy.go()


def test_a_ticket_that_cannot_be_admitted_takes_no_place_in_the_other_windows():
    policy = Metered(slots=1, rpm=2, tpm=10, rpd=5, money=10)
    policy.add(5, tokens=5, micro_usd=5)
    policy.go()
    policy.withdraw(0)
    assert [1] == policy.go()
    policy.withdraw(1)
    assert [2] == policy.go()

    policy.done(2, now=1.0)

    assert [3] == policy.go(1.0)  # two places, ten tokens: only the answered ticket and this one use them


def test_places_and_tokens_are_free_again_60_seconds_after_the_answer():
    policy = Metered(rpm=1, tpm=10)
    policy.add(2, tokens=10)
    policy.go()
    assert math.inf == policy.step(500.0).next_chance
    policy.answered(0, 1000.5)

    assert ([], 1060.5) == policy.step(1060.0)[::2]
    assert [1] == policy.go(1060.5)


def test_money_is_free_again_ten_minutes_after_the_end():
    policy = Metered(money=10)
    policy.add(2, micro_usd=10)
    policy.go()
    policy.answered(0, 0.0)
    policy.release(0, 30.0)

    assert 630.0 == policy.step(30.0).next_chance
    assert [1] == policy.go(630.0)


def test_the_measured_tokens_replace_the_estimate_at_once():
    policy = Metered(tpm=100)
    policy.add(2, tokens=90)
    assert [0] == policy.go()
    policy.answered(0, 0.0)

    policy.measured(0, 10)

    assert [1] == policy.go()


def test_the_settled_cost_replaces_the_reservation_at_once():
    policy = Metered(money=100)
    policy.add(2, micro_usd=90)
    assert [0] == policy.go()
    policy.answered(0, 0.0)

    policy.settled(0, 10, 0.0)

    assert [1] == policy.go()


def test_a_day_ends_for_all_its_calls_at_once_and_a_call_counts_for_the_day_of_its_answer():
    policy = Metered(rpd=2)
    policy.add(4)
    assert [0, 1] == policy.go(900.0)
    policy.answered(0, 999.0)
    policy.answered(1, 1001.0)

    assert 1000.0 == policy.step(999.0).next_chance
    assert [2] == policy.go(1000.0)
    assert [] == policy.go(1999.0)
    policy.answered(2, 1999.0)
    assert [3] == policy.go(2000.0)


def test_models_and_accounts_have_windows_of_their_own():
    policy = Metered(rpm=1, slots=2)
    policy.add(2, model="lite")
    policy.add(2, model="pro")
    policy.add(2, model="lite", account="bob", caller="bob")

    assert {0, 2, 4} == set(policy.go())


def test_a_ticket_that_could_never_go_is_refused_with_both_numbers():
    policy = Metered(tpm=10)

    with pytest.raises(TooLarge, match="needs 11 of tpm, whose whole window has 10"):
        policy.enqueue(0, need(tokens=11))
    with pytest.raises(TooLarge):
        policy.check(need(tokens=11, account="new"))
    assert (0, ["ours"]) == (policy.waiting, list(policy.accounts))


# ── Turns


def test_callers_take_turns_by_what_their_tickets_weigh():
    policy = Metered(slots=1, tpm=1_000_000)
    heavy = policy.add(100, caller="ann", tokens=15_000)
    light = policy.add(100, caller="bob", tokens=3_000)
    order = []
    for _ in range(60):
        (ticket,) = policy.go()
        order.append(ticket)
        policy.withdraw(ticket)

    assert (10, 50) == (len(set(order) & set(heavy)), len(set(order) & set(light)))


def test_a_newcomer_goes_next():
    policy = Metered(slots=1)
    policy.add(1000, caller="ann", batch="one", tokens=100)
    for _ in range(50):
        (ticket,) = policy.go()
        policy.withdraw(ticket)
    assert [50] == policy.go()
    policy.add(caller="bob")

    policy.withdraw(50)

    assert [1000] == policy.go()


def test_the_batches_of_a_caller_take_turns_over_all_models():
    policy = Metered(slots=1)
    policy.add(5, batch="one", model="lite")
    policy.add(5, batch="two", model="pro")
    policy.add(5, model="max")
    order = []
    for _ in range(6):
        (ticket,) = policy.go()
        order.append(ticket)
        policy.withdraw(ticket)

    assert [0, 5, 10, 1, 6, 11] == order


def test_a_blocked_lane_does_not_hold_up_the_other_models_of_a_caller():
    policy = Metered(models={"lite": ModelLimits(rpm=1)})
    policy.add(3, batch="one", model="lite")
    policy.add(3, batch="two", model="pro")

    assert {0, 3, 4, 5} == set(policy.go())


def test_a_caller_whose_lane_was_closed_has_saved_no_turns():
    policy = Metered(slots=1)
    policy.close("ours", "lite", 10.0, "minute")
    policy.add(10, caller="ann", model="lite")
    policy.add(100, caller="bob", model="pro")
    for _ in range(50):
        (ticket,) = policy.go(1.0)
        policy.withdraw(ticket)
    order = []
    for _ in range(6):
        (ticket,) = policy.go(10.0)
        order.append("ann" if ticket < 10 else "bob")
        policy.answered(ticket, 10.0)
        policy.proceed(ticket)
        policy.release(ticket, 10.0)

    assert ["ann", "bob"] * 3 == order


def test_unproven_callers_of_an_account_take_one_turn_where_others_take_twenty():
    policy = Metered(slots=1)
    policy.add(100, caller=UNPROVEN)
    policy.add(100, caller="ann")
    order = []
    for _ in range(60):
        (ticket,) = policy.go()
        order.append(ticket)
        policy.withdraw(ticket)

    assert [0, 21, 42] == [place for place, ticket in enumerate(order) if ticket < 100]


def test_unproven_callers_hold_as_many_slots_as_one_account_whatever_their_number():
    policy = Metered(slots=3)
    for account in range(50):
        policy.add(2, caller=UNPROVEN, account=str(account))

    admitted = policy.go()
    assert 3 == len(admitted)
    policy.done(*admitted)
    admitted = policy.go()
    assert 3 == len(admitted)
    order = admitted[:1]
    for _ in range(30):
        policy.done(order[-1])
        order += policy.go()
    assert 31 == len({ticket // 2 for ticket in order})  # the accounts take turns


def test_accounts_take_turns_at_a_limit_that_they_share():
    policy = Metered()
    policy.limit_caller("ann", max_concurrent=2)
    policy.add(3, account="ours")
    policy.add(3, account="hers")

    assert [0, 3] == policy.go()


# ── Large tickets


def test_small_tickets_pass_a_large_one_that_does_not_fit():
    policy = Metered(tpm=1000)
    policy.add(tokens=500)
    assert [0] == policy.go()
    policy.answered(0, 0.0)
    policy.add(tokens=800, caller="ann")
    policy.add(100, tokens=20, caller="bob")

    assert list(range(2, 27)) == policy.go()


def test_what_passes_a_large_ticket_is_at_most_one_window_and_then_it_goes_first():
    policy = Metered(tpm=1000)
    policy.add(100, tokens=20, caller="bob", batch="one")
    policy.add(tokens=1000, caller="ann")
    passed, now = 0, 0.0
    while 100 not in (admitted := policy.go(now)):
        passed += len(admitted)
        for ticket in admitted:
            policy.answered(ticket, now)
        now = policy.step(now).next_chance

    assert (50, 60.0) == (passed, now)  # it became next when the first window was full


def test_large_tickets_of_one_caller_do_not_hold_up_its_small_ones():
    policy = Metered(tpm=1000)
    policy.add(3, tokens=600, batch="one")
    policy.add(3, tokens=10, batch="one")

    assert [0, 3, 4, 5] == policy.go()


def test_for_money_the_whole_account_waits():
    policy = Metered(money=1000)
    policy.add(micro_usd=500)
    policy.go()
    policy.done(0, now=0.0)
    policy.add(micro_usd=900, model="pro")
    policy.add(200, micro_usd=10, model="lite", caller="bob")
    passed, now = 0, 0.0
    while 1 not in (admitted := policy.go(now)):
        passed += len(admitted)
        for ticket in admitted:
            policy.answered(ticket, now)
            policy.settled(ticket, 1, now)
            policy.release(ticket, now)
        if not admitted:
            now = policy.step(now).next_chance

    assert (100, 600.0) == (passed, now)


def run_until(policy, until, now=0.0):
    """Admit and end calls of no cost until a moment. Returns how many."""
    went = 0
    while now < until:
        step = policy.step(now)
        for ticket in step.admitted:
            policy.answered(ticket, now)
            policy.settled(ticket, 0, now)
            policy.release(ticket, now)
        went += len(step.admitted)
        now = now if step.admitted else step.next_chance
    return went


def test_a_large_ticket_that_lacks_money_does_not_hold_up_its_model():
    policy = Metered(tpm=1000, money=1000)
    policy.add(tokens=500, micro_usd=900)
    policy.done(*policy.go())
    policy.add(tokens=800, micro_usd=500)  # lacks both, and from the 60th second on only money
    policy.add(500, tokens=20, micro_usd=1, caller="bob")

    assert 475 <= run_until(policy, 599.0)


def test_a_ticket_that_waits_for_money_does_not_hold_up_the_account_while_its_model_is_closed():
    policy = Metered(tpm=1000, money=1000)
    policy.add(micro_usd=500)
    policy.done(*policy.go())
    policy.add(micro_usd=900, model="pro")
    policy.go()
    policy.close("ours", "pro", 5000.0, "day")
    policy.add(300, tokens=1, micro_usd=10, caller="bob")

    assert 300 == run_until(policy, 599.0)


def test_a_large_ticket_that_waits_for_a_permit_holds_up_nothing():
    policy = Metered(tpm=1000)
    policy.semaphores.set_limit("gpu", 1)
    policy.add(tokens=500)
    policy.add(tokens=600, semaphore="gpu")  # next, since it does not fit
    assert [0] == policy.go()
    policy.answered(0, 0.0)
    policy.semaphores.find("gpu").leases["theirs"] = 1e9
    policy.add(500, tokens=10, caller="bob")

    assert 500 == run_until(policy, 1000.0)


def test_a_cancelled_large_ticket_holds_up_nothing():
    policy = Metered(tpm=1000)
    policy.add(tokens=500)
    policy.go()
    policy.answered(0, 0.0)
    policy.add(tokens=1000)
    policy.add(200, tokens=10, caller="bob")
    policy.go()
    policy.withdraw(1)

    assert None is policy.accounts["ours"].lanes["lite"].tokens.next
    assert 100 == len(policy.go(60.0)) + 50


# ── Bounds


def test_max_concurrent_of_a_batch_counts_over_its_models_and_sizes():
    policy = Metered(tpm=1000)
    policy.add(3, batch="one", max_concurrent=2, model="lite")
    policy.add(3, batch="one", max_concurrent=2, model="pro")
    policy.add(3, batch="one", max_concurrent=2, model="pro", tokens=100)
    assert 2 == len(policy.go())

    policy.done(0)

    assert 1 == len(policy.go())


def test_own_limits_of_a_caller_hold_over_all_accounts():
    policy = Metered()
    policy.limit_caller("ann", max_concurrent=2, per_minute=3)
    policy.add(3)
    policy.add(3, account="hers")
    first = policy.go()
    policy.done(*first)
    assert (2, 1) == (len(first), len(policy.go()))

    assert 60.0 == policy.step(0.0).next_chance
    assert 1 == len(policy.go(60.0))


def test_a_paused_caller_waits_and_others_go():
    policy = Metered()
    policy.pause("ann", 5.0)
    policy.add(2)
    policy.add(2, caller="bob")

    assert ([2, 3], 5.0) == (policy.go(), policy.step(0.0).next_chance)
    assert [0, 1] == policy.go(5.0)


def test_a_semaphore_bounds_all_tickets_that_name_it_and_counts_those_that_wait():
    policy = Metered()
    policy.semaphores.set_limit("gpu", 2)
    policy.add(3, semaphore="gpu")
    policy.add(3, semaphore="gpu", batch="one")
    policy.add(1, semaphore="unknown")
    gpu = policy.semaphores.find("gpu")

    assert (3, 2, 4) == (len(policy.go()), gpu.held, gpu.waiting)
    policy.clear()
    assert (2, 0) == (gpu.held, gpu.waiting)


# ── Closings


@pytest.mark.parametrize("model", ["lite", None])
def test_a_closed_lane_or_account_admits_one_probe_when_its_time_is_over(model):
    policy = Metered()
    policy.close("ours", model, 30.0, "minute")
    policy.add(5)

    assert ([], 30.0) == (policy.go(), policy.step(29.0).next_chance)
    assert ([0], []) == (policy.go(30.0), policy.go(31.0))
    policy.proceed(0)
    assert [1, 2, 3, 4] == policy.go(31.0)


def test_a_closed_lane_leaves_the_other_lanes_and_accounts_open():
    policy = Metered()
    policy.close("ours", "lite", 30.0, "minute")
    policy.add()
    policy.add(model="pro")
    policy.add(account="hers")

    assert {1, 2} == set(policy.go())


def test_a_probe_that_is_refused_closes_again():
    policy = Metered()
    policy.close("ours", "lite", 30.0, "minute")
    policy.add(3)
    assert [0] == policy.go(30.0)

    policy.close("ours", "lite", 90.0, "minute")
    policy.done(0, now=31.0)

    assert ([], [1]) == (policy.go(60.0), policy.go(90.0))


@pytest.mark.parametrize("end", ["withdraw", "release", "lost"])
def test_a_probe_that_ends_without_an_answer_is_followed_by_another(end):
    policy = Metered()
    policy.close("ours", None, 30.0, "money")
    policy.add(3)
    assert [0] == policy.go(30.0)

    if end == "withdraw":
        policy.withdraw(0)
    else:
        policy.sent(0, 30.0)
        getattr(policy, end)(0, 30.0)

    assert [1] == policy.go(31.0)


def test_a_ticket_that_was_sent_before_the_refusal_reopens_nothing():
    policy = Metered()
    policy.add(3)
    policy.go()
    policy.close("ours", "lite", 30.0, "minute")
    policy.add()

    policy.proceed(1)

    assert [] == policy.go(1.0)


def test_a_day_that_is_over_stays_closed_in_spite_of_a_shorter_refusal():
    policy = Metered()
    policy.close("ours", "lite", 5000.0, "day")
    policy.close("ours", "lite", 30.0, "minute")

    assert Closed(5000.0, "day") == policy.accounts["ours"].lanes["lite"].closing.closed


# ── Limits that change


def test_a_lowered_limit_holds_at_once_and_in_spite_of_the_configuration():
    policy = Metered(rpm=10)
    policy.lower("ours", "lite", "rpm", 2)
    policy.lower("ours", "lite", "rpm", 5)
    policy.configure(limits=MeteredLimits({"*": ModelLimits(rpm=20)}))
    policy.add(5)
    policy.add(5, model="pro")

    assert 7 == len(policy.go())


def test_a_waiting_ticket_that_a_lower_limit_has_no_room_for_is_refused():
    policy = Metered(slots=1, tpm=100)
    policy.add(3, tokens=80)
    assert [0] == policy.go()

    policy.lower("ours", "lite", "tpm", 50)

    step = policy.step(0.0)
    assert [1, 2] == [ticket for ticket, _ in step.refused]
    assert (0, 80, 50) == (policy.waiting, step.refused[0][1].needed, step.refused[0][1].most)


def test_an_invalid_change_changes_nothing():
    policy = Metered(slots=2)

    with pytest.raises(ValueError, match="concurrent_limit must be at least 1, got 0"):
        policy.configure(concurrent_limit=0, limits=MeteredLimits())
    with pytest.raises(ValueError, match="rpm must be"):
        policy.lower("ours", "lite", "rpm", 0)
    with pytest.raises(ValueError, match="max_concurrent"):
        policy.limit_caller("ann", max_concurrent=0)
    policy.add(3)
    assert 2 == len(policy.go())


def test_more_slots_are_used_at_once():
    policy = Metered(slots=1)
    policy.add(3)
    policy.go()

    policy.configure(concurrent_limit=3)

    assert [1, 2] == policy.go()


# ── Lost answers


def test_a_lost_call_frees_its_slot_and_counts_until_a_later_call_was_answered():
    policy = Metered(slots=1, rpm=2, tpm=20, money=30)
    policy.add(4, tokens=10, micro_usd=10)
    assert [0] == policy.go()
    policy.sent(0, 1.0)
    policy.lost(0, 5.0)
    assert [1] == policy.go(5.0)
    policy.sent(1, 6.0)
    policy.answered(1, 10.0)
    policy.measured(1, 0)
    policy.settled(1, 0, 10.0)
    policy.release(1, 10.0)

    assert ([], 70.0) == policy.step(10.0)[::2]
    assert [2] == policy.go(70.0)  # its money counts until 610


def test_an_answer_to_an_earlier_call_proves_nothing_about_a_lost_one():
    policy = Metered(rpm=2)
    policy.add(3)
    policy.go()
    policy.sent(0, 1.0)
    policy.sent(1, 1.0)
    policy.lost(0, 5.0)
    policy.done(1, now=6.0)

    assert [2] == policy.go(66.0)  # the place of the answered call
    assert 2 == policy.accounts["ours"].lanes["lite"].places.used(400.0)  # that of the lost one counts still


def test_a_lost_call_that_nothing_follows_counts_for_eleven_minutes():
    policy = Metered(rpm=1)
    policy.add(2)
    policy.go()
    policy.lost(0, 5.0)

    assert 5.0 + LONGEST_LOST + 60.0 == policy.step(5.0).next_chance
    assert [1] == policy.go(665.0)


def test_a_request_that_needs_no_admission_proves_that_a_lost_call_arrives_no_more():
    policy = Metered(rpm=1)
    policy.add(2)
    policy.go()
    policy.lost(0, 5.0)

    policy.upstream_answered("ours", sent=6.0, now=7.0)

    assert [1] == policy.go(67.0)


def test_a_release_without_an_answer_is_a_lost_call():
    policy = Metered(rpm=1)
    policy.add(2)
    policy.go()
    policy.sent(0, 0.0)
    policy.release(0, 5.0)

    assert 665.0 == policy.step(5.0).next_chance


# ── Restarts


def test_calls_of_an_earlier_process_count():
    policy = Metered(tpm=100, money=1000, models={"max": ModelLimits(rpm=1), "day": ModelLimits(rpd=2)})
    policy.count("ours", "lite", answered=80.0, ended=80.0, tokens=60, micro_usd=0)
    policy.count("ours", "max", answered=105.0, ended=105.0, tokens=0, micro_usd=0)
    policy.count("hers", "lite", answered=60.0, ended=70.0, tokens=0, micro_usd=970)
    policy.count_day("ours", "day", 2, 100.0)
    policy.add(tokens=41)
    policy.add(model="max")
    policy.add(micro_usd=31, account="hers")
    policy.add(model="day")
    assert [] == policy.go(100.0)

    admitted, now = {}, 100.0
    while policy.waiting:
        now = policy.step(now).next_chance
        admitted |= dict.fromkeys(policy.go(now), now)
    assert {0: 140.0, 1: 165.0, 2: 670.0, 3: 1000.0} == admitted


def test_an_adopted_ticket_takes_what_it_needs_even_without_room():
    policy = Metered(slots=1, rpm=1)
    for ticket in ("a", "b"):
        policy.adopt(ticket, need(batch="one", max_concurrent=1), 0.0, sent=-3.0)
    policy.add()
    assert ([], 2) == (policy.go(), policy.in_flight)

    policy.done("a", "b", now=1.0)

    assert ([], [0]) == (policy.go(60.0), policy.go(61.0))


# ── Cost


def test_tickets_that_wait_for_a_closed_lane_add_no_cost_to_an_admission():
    policy = Metered(slots=1)
    policy.close("ours", "lite", 1e9, "day")
    for caller in range(500):
        policy.add(4, caller=str(caller))
    policy.add(10_000, caller="ann", model="pro", batch="one")
    looked_at = Counter()
    for line in (policy.accounts["ours"].lanes["lite"].small, policy.accounts["ours"].lanes["pro"].small):
        line.first = partial(count_calls, looked_at, line, line.first)
    for _ in range(100):
        (ticket,) = policy.go()
        policy.withdraw(ticket)

    assert (0, 100) == tuple(
        looked_at[policy.accounts["ours"].lanes[model].small] for model in ("lite", "pro")
    )


def count_calls(counter, key, call):
    counter[key] += 1
    return call()


def test_callers_and_accounts_that_are_over_are_forgotten():
    policy = Metered()
    for number in range(2000):
        policy.add(caller=str(number), account=str(number))
        policy.done(*policy.go(number * 2000.0), now=number * 2000.0)

    assert len(policy.accounts) < 300
