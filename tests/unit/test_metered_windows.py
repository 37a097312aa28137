"""Windows of weighted entries, and the meter that lets lighter tickets pass a heavy one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admission.metered.windows import Meter, WeightedWindow


def test_an_open_entry_counts_until_the_moment_that_is_set():
    window = WeightedWindow(100)
    entry = window.take(30)
    assert 30 == window.used(1e9)

    entry.expire_at(60.0)

    assert (30, 0) == (window.used(math.nextafter(60.0, 0.0)), window.used(60.0))


def test_a_correction_counts_at_once_and_expires_with_its_entry():
    window = WeightedWindow(100)
    entry = window.take(90)
    entry.expire_at(60.0)

    entry.correct(20)
    assert 80 == window.free(59.0)

    assert 100 == window.free(60.0)


def test_an_entry_that_was_corrected_before_its_end_is_set_leaves_nothing():
    window = WeightedWindow(100)
    entry = window.take(90)
    entry.correct(20)
    entry.expire_at(60.0)

    assert (20, 0) == (window.used(59.0), window.used(60.0))


def test_an_expired_entry_is_corrected_no_more():
    window = WeightedWindow(100)
    entry = window.take(90)
    entry.expire_at(60.0)
    window.used(60.0)

    entry.correct(20)
    entry.expire_at(90.0)
    entry.give_back()

    assert (0, math.inf) == (window.used(60.0), window.next_expiry())


def test_an_entry_given_back_is_free_at_once():
    window = WeightedWindow(100)
    entry, other = window.take(90), window.take(10)
    entry.give_back()

    assert (90, 10) == (window.free(0.0), other.weight)


def test_the_end_of_an_entry_can_move_in_both_directions():
    window = WeightedWindow(100)
    entry = window.take(10)
    entry.expire_at(660.0)
    entry.expire_at(60.0)

    assert (10, 0) == (window.used(59.0), window.used(60.0))


def test_entries_that_expire_together_are_kept_as_one_sum():
    window = WeightedWindow(math.inf)
    for _ in range(1000):
        window.take(1).expire_at(86_400.0)

    assert {86_400.0: 1000} == window.weights(0.0)


MOMENTS = st.integers(1, 20).map(float)


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | MOMENTS, st.none() | st.integers(0, 9))), MOMENTS)
def test_the_weight_in_use_is_that_of_all_entries_that_have_not_expired(entries, now):
    window = WeightedWindow(1000)
    for weight, moment, corrected in entries:
        entry = window.take(weight)
        if moment is not None:
            entry.expire_at(moment)
        if corrected is not None:
            entry.correct(corrected)

    expected = sum(
        weight if corrected is None else corrected
        for weight, moment, corrected in entries
        if moment is None or moment > now
    )
    assert (expected, 1000 - expected) == (window.used(now), window.free(now))


def full(weight=100):
    """A meter of 100, of which so much is taken until the moment 60."""
    meter = Meter(WeightedWindow(100))
    meter.take("first", weight).expire_at(60.0)
    return meter


def test_lighter_tickets_pass_a_heavy_one_while_they_fit():
    meter = full(50)
    assert not meter.admits("heavy", 80, 0.0)

    assert [True, False] == [meter.admits("light", 50, 0.0), meter.admits("light", 51, 0.0)]
    assert "heavy" == meter.next


def test_what_passes_a_heavy_ticket_is_at_most_one_whole_window():
    meter = full(50)
    assert not meter.admits("heavy", 80, 0.0)
    passed = 0
    while meter.admits("light", 10, 0.0):
        meter.take("light", 10).give_back()
        passed += 10

    assert 100 == passed
    assert meter.admits("heavy", 80, 60.0)


def test_nothing_passes_a_small_ticket_that_does_not_fit():
    meter = full(99)
    assert not meter.admits("small", 2, 0.0)

    assert [False, True] == [meter.admits("smaller", 1, 0.0), meter.admits("small", 2, 60.0)]


def test_after_the_heavy_ticket_others_go_again():
    meter = full(50)
    meter.admits("heavy", 80, 0.0)
    for _ in range(10):
        meter.take("light", 10).give_back()
    assert not meter.admits("light", 10, 60.0)

    meter.take("heavy", 80)

    assert (True, None) == (meter.admits("light", 10, 60.0), meter.next)


def test_a_heavy_ticket_that_is_forgotten_holds_up_nothing():
    meter = full(50)
    meter.admits("heavy", 80, 0.0)
    for _ in range(10):
        meter.take("light", 10).give_back()
    meter.forget("other")
    assert not meter.admits("light", 10, 0.0)

    meter.forget("heavy")

    assert meter.admits("light", 10, 0.0)


def test_time_alone_helps_only_when_a_ticket_was_refused():
    meter = full()
    assert math.inf == meter.next_chance()

    meter.admits("light", 10, 0.0)

    assert pytest.approx(60.0) == meter.next_chance()
