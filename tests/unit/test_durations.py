"""The next poll of a prediction by its model's durations, and the chance that it finds the prediction
over."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admission.durations import REMEMBERED, Lengths
from providers.replicate.durations import ENOUGH, SHORTEST, chance, next_poll

LEARNED = st.lists(st.floats(0, 1000), max_size=200)


def learned(*seconds: float) -> list[float]:
    lengths = Lengths()
    for each in seconds:
        lengths.learn(each)
    return lengths.ordered


def poll_ages(lengths: list[float], until: float) -> list[float]:
    """The ages at which a prediction is polled, if each poll is made as late as allowed."""
    ages = [0.0]
    while ages[-1] < until:
        ages.append(next_poll(lengths, ages[-1])[1])
    return ages


def test_an_unknown_model_is_polled_at_growing_intervals():
    gaps = [later - earlier for earlier, later in pairwise(poll_ages([], 600.0))]

    assert 0.25 == gaps[0]
    assert 10.0 == gaps[-1]
    assert gaps == pytest.approx(sorted(gaps), rel=1e-9)


def test_two_durations_do_not_make_a_model_known_and_three_do():
    assert 3 == ENOUGH
    assert 0.25 == next_poll(learned(20.0, 20.0), 0.0)[1]
    assert 20.0 == next_poll(learned(20.0, 20.0, 20.0), 0.0)[1]


def test_a_known_model_is_first_polled_when_a_fifth_of_its_predictions_had_ended():
    assert 3.0 == next_poll(learned(*(float(n) for n in range(1, 11))), 0.0)[1]


def test_only_the_latest_durations_are_remembered():
    durations = learned(*[500.0] * REMEMBERED, *[2.0] * REMEMBERED)

    assert [2.0] * REMEMBERED == durations
    assert 2.0 == next_poll(durations, 0.0)[1]


def test_poll_intervals_shrink_while_most_end_and_grow_once_a_prediction_is_older_than_any():
    ages = poll_ages(learned(*(float(n) for n in range(100, 200))), 400.0)
    gaps = [later - earlier for earlier, later in pairwise(ages)]
    while_most_end = [gap for age, gap in zip(ages, gaps, strict=False) if 156 <= age < 180]
    older_than_any = [gap for age, gap in zip(ages, gaps, strict=False) if age > 200]

    assert while_most_end == sorted(while_most_end, reverse=True)
    assert older_than_any == sorted(older_than_any)


@given(learned_seconds=LEARNED, age=st.floats(0, 10_000))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_next_poll_is_always_later_and_never_much_later_than_usual(learned_seconds, age):
    durations = learned(*learned_seconds)
    earliest, latest = next_poll(durations, age)

    assert age <= earliest <= latest
    assert age + SHORTEST - 1e-6 < latest
    assert latest <= max(max(learned_seconds[-REMEMBERED:], default=0.0), age + 10.0)
    assert sorted(learned_seconds[-REMEMBERED:]) == durations


@given(
    learned_seconds=LEARNED, seen=st.floats(0, 1000), later=st.tuples(st.floats(0, 500), st.floats(0, 500))
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_chance_is_a_probability_that_grows_with_age(learned_seconds, seen, later):
    durations = learned(*learned_seconds)
    sooner, later = sorted(chance(durations, seen, seen + each) for each in sorted(later))

    assert 0.0 <= sooner <= later <= 1.0
    assert 0.0 == chance(durations, seen, seen)


def test_a_prediction_older_than_most_of_its_model_is_likely_over():
    durations = learned(*(float(n) for n in range(1, 61)))

    assert chance(durations, 0.0, 6.0) < 0.15
    assert chance(durations, 0.0, 54.0) > 0.85


def test_the_chance_of_an_old_prediction_counts_only_longer_durations():
    durations = learned(*[10.0] * 30, *[100.0] * 30)

    assert chance(durations, 0.0, 11.0) == pytest.approx(0.5, abs=0.02)
    assert chance(durations, 11.0, 12.0) < 0.01


def test_a_short_prediction_of_a_model_with_long_ones_is_polled_in_time():
    durations = learned(*[1.5] * 7, *[30.0] * 3)

    assert next_poll(durations, 1.6)[1] <= 1.25 * 1.6
