"""The deadline of a prediction: which bound ends it, by what its looks show."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from generations.deadline import Bounds, Deadline
from providers import Prediction

BOUNDS = Bounds(start=100.0, run=30.0)


def deadline(*, boots=True, created=0.0, found=-math.inf):
    return Deadline(BOUNDS, created=created, boots=boots, found=found)


def test_the_deadline_at_the_provider_covers_both_bounds():
    assert 140.0 == BOUNDS.cancel_after


@pytest.mark.parametrize(
    ("waited", "age", "is_over"),
    [
        (None, 29.0, False),
        (None, 30.0, True),
        (90.0, 119.0, False),
        (90.0, 120.0, True),
        ("never started", 29.0, False),
        ("never started", 30.0, True),
    ],
)
def test_a_cancelled_prediction_has_run_out_of_time_by_its_run_or_without_one_by_its_wait(
    waited, age, is_over
):
    created = datetime(2026, 1, 1, tzinfo=UTC)
    ended = Prediction("p", "canceled", created_at=created, started=waited != "never started")
    if isinstance(waited, float):
        ended = replace(ended, started_at=created + timedelta(seconds=waited))

    assert is_over == BOUNDS.are_over(ended, age)


def test_a_prediction_may_run_for_its_whole_timeout_however_long_it_booted():
    each = deadline()
    assert 130.0 == each.at
    each.look(None, 50.0)
    each.look(3.0, 93.0)

    assert (90.0, 120.0) == (each.started, each.at)
    each.look(5.0, 95.0)
    assert 120.0 == each.at
    assert "The prediction was cancelled after 30 s." == each.error().detail


def test_a_prediction_that_is_seen_waiting_after_its_bound_ends_at_once():
    each = deadline()
    each.look(None, 99.9)
    assert 130.0 <= each.at
    each.look(None, 100.0)

    assert 100.0 == each.at
    detail = "The model did not start within 100 s, so the prediction was cancelled."
    assert detail == each.error().detail
    assert (True, True) == (each.error().retryable, each.error().falls_back)


def test_an_official_model_counts_as_running_from_its_creation_unless_it_is_seen_waiting():
    each = deadline(boots=False)
    assert 30.0 == each.at
    each.look(None, 20.0)
    assert 50.0 == each.at
    each.look(1.0, 25.0)
    assert 54.0 == each.at


def test_the_wait_of_an_official_model_counts_against_the_bound_of_the_start():
    each = deadline(boots=False)
    for moment in range(0, 100, 10):
        each.look(None, moment)
        assert moment + 30.0 == each.at
    each.look(None, 101.0)

    assert 101.0 == each.at


@pytest.mark.parametrize(
    ("boots", "age", "at"),
    [(True, 0.0, 130.0), (True, 125.0, 135.0), (False, 20.0, 30.0), (False, 50.0, 60.0)],
)
def test_a_prediction_that_was_found_late_is_watched_for_ten_seconds_in_any_case(boots, age, at):
    """Nothing is known of its start before the first look, so its whole time counts. Moments are ages."""
    assert at == deadline(boots=boots, created=0.0, found=age).at


def test_the_clock_of_a_found_prediction_goes_on_from_its_start():
    each = deadline(found=110.0)
    each.look(15.0, 111.0)

    assert (96.0, 126.0) == (each.started, each.at)


def test_a_start_that_is_seen_just_after_its_bound_counts():
    each = deadline()
    each.look(None, 100.0)
    each.look(0.0, 100.5)

    assert 130.5 == each.at
