"""The backoff between attempts: it doubles up to a cap, and jitter only shortens it."""

import math
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from network.backoff import backoff


def longest_of(low, high):
    return high


def shortest_of(low, high):
    return low


def test_a_backoff_doubles_from_the_first_up_to_the_longest():
    waits = [backoff(failed, first=0.5, longest=5.0, uniform=longest_of) for failed in range(1, 7)]

    assert [0.5, 1.0, 2.0, 4.0, 5.0, 5.0] == waits


def test_jitter_takes_off_up_to_half_unless_the_caller_says_otherwise():
    waits = [backoff(2, first=4.0, uniform=shortest_of)]
    waits += [backoff(2, first=4.0, jitter=jitter, uniform=shortest_of) for jitter in (0.0, 0.25, 1.0)]

    assert [4.0, 8.0, 6.0, 0.0] == waits


def test_without_jitter_a_backoff_leaves_nothing_to_chance():
    assert {8.0} == {backoff(6, first=0.25, longest=8.0, jitter=0.0) for _ in range(100)}


@pytest.mark.parametrize("failed", [65, 66, 5000])
def test_a_backoff_without_a_cap_stays_finite_after_any_number_of_failures(failed):
    assert 2.0**64 == backoff(failed, first=1.0, uniform=longest_of)


@given(
    failed=st.integers(1, 10_000),
    first=st.floats(0.001, 100),
    longest=st.floats(0.001, 10_000) | st.just(math.inf),
    jitter=st.floats(0, 1),
    chance=st.randoms(use_true_random=False),
)
@settings(deadline=None, derandomize=True)
def test_a_backoff_is_within_its_jitter_of_a_whole_that_never_falls(failed, first, longest, jitter, chance):
    limits = partial(backoff, first=first, longest=longest)
    whole = limits(failed, jitter=0.0)
    waited = limits(failed, jitter=jitter, uniform=chance.uniform)

    assert min(first, longest) <= whole <= longest
    assert whole <= limits(failed + 1, jitter=0.0) <= 2 * whole
    assert whole * (1 - jitter) <= waited <= whole
