"""Which readings of an account's list prove that a lost creation never arrived."""

import asyncio

import pytest

from catalog.targets import Target
from providers.replicate.absence import (
    Absence,
    Freshness,
    KnownCreation,
    LearnedLags,
    RecentLags,
    SearchTiming,
    measure_freshness,
)
from providers.replicate.account_list import AccountList, SearchScope
from providers.replicate.answers import Page
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import ADMIN

TIMING = SearchTiming()
EVERY_FIVE = range(0, 605, 5)


def proven_at(reading, *, sent: float = -1.0, readings=EVERY_FIVE) -> float | None:
    """The time of the first reading that proves absence. `reading(at)` returns its freshness, None if it
    fails."""
    absence = Absence(TIMING, sent=sent)
    for at in readings:
        found = reading(float(at))
        if found is None:
            absence.record_failure()
        elif absence.is_proven_by(found):
            return at
    return None


def shows(*made: KnownCreation, lag: float = 0.0, lags: RecentLags | None = None):
    """Readings of a list that lags by this many seconds."""
    lags = lags or RecentLags()

    def reading(at: float) -> Freshness:
        listed = {each.id for each in made if each.sent <= at - lag}
        known = [each for each in made if each.known <= at]
        return measure_freshness(known, [listed], lags, sent=at, answered=at)

    return reading


def shows_pages(ours: list[KnownCreation], *pages: set[str]):
    """Readings that all show these pages."""
    lags = RecentLags()

    def reading(at: float) -> Freshness:
        known = [each for each in ours if each.known <= at]
        return measure_freshness(known, pages, lags, sent=at, answered=at)

    return reading


def made(*sent: float) -> list[KnownCreation]:
    return [KnownCreation(f"p{at}", at, at + 0.1) for at in sent]


def test_a_proof_takes_ninety_seconds_if_no_creation_of_ours_is_listed():
    assert 90 == proven_at(shows())


def test_a_later_listed_creation_proves_absence_after_fifteen_seconds():
    assert 15 == proven_at(shows(*made(6)))


def test_a_later_creation_proves_absence_once_it_is_listed():
    assert 50 == proven_at(shows(*made(6), lag=42))


def test_a_creation_sent_before_a_stopped_server_has_emptied_its_buffers_proves_nothing():
    assert 125 == proven_at(shows(*made(4), lag=42))  # three times the lag that the creation measured


def test_a_list_that_shows_a_young_creation_is_fresh_enough_after_fifteen_seconds():
    assert 15 == proven_at(shows(*made(-3)))


@pytest.mark.parametrize(("age", "expected"), [(8, 25), (15, 45), (29, 90), (200, 90)])
def test_the_wait_grows_with_the_age_of_the_youngest_listed_creation(age, expected):
    """A list whose youngest creation is this old may lag by as much."""
    assert expected == proven_at(shows(*made(-age)))


@pytest.mark.parametrize(("lag", "expected"), [(12, 50), (30, 90), (60, 170)])
def test_a_proof_waits_three_times_the_largest_lag_of_the_hour(lag, expected):
    assert expected == proven_at(shows(*made(-1), lag=lag))


def test_nothing_is_proven_while_a_creation_of_ours_is_missing():
    assert proven_at(shows(*made(-1), lag=1000)) is None


def test_a_page_with_a_gap_among_our_creations_proves_nothing_by_later_ones():
    assert 90 == proven_at(shows_pages(made(0, 3, 7), {"p0", "p7"}))


def test_pages_read_at_different_times_prove_nothing_about_creations_between_them():
    """The second page lags behind the first by more than the span of the first. Together they show all of
    ours."""
    assert 90 == proven_at(shows_pages(made(-9, 6, 7, 8), {"p6", "p7", "p8"}, {"p-9"}))


def test_one_page_with_creations_before_and_after_is_proof_regardless_of_other_pages():
    assert 15 == proven_at(shows_pages(made(-9, -2, 6, 7), {"p-2", "p6", "p7"}, {"p-9"}))


def test_a_creation_missing_between_two_pages_measures_the_lag_of_the_second():
    pages = [{"p6", "p7"}, {"p-9"}]

    reading = measure_freshness(made(-9, -2, 6, 7), pages, RecentLags(), sent=20.0, answered=20.0)

    assert (0.0, pytest.approx(21.9)) == (reading.lag, reading.largest_lag)


def test_a_creation_that_is_never_listed_does_not_count_as_lag_once_later_ones_are():
    reading = measure_freshness(made(-9, 3, 7), [{"p3", "p7"}], RecentLags(), sent=20.0, answered=20.0)

    (page,) = reading.spans
    assert (0.0, 0.0, 7.0, -9.0) == (reading.lag, reading.largest_lag, page.newest, page.gap_at)


def test_a_creation_not_known_when_the_reading_was_sent_is_not_missing():
    reading = measure_freshness([KnownCreation("p", 1.0, 5.0)], [()], RecentLags(), sent=5.0, answered=5.2)

    assert 0.0 == reading.lag


def test_a_failed_reading_restarts_the_fifteen_seconds_of_answered_readings():
    reading = shows(*made(6))

    assert 30 == proven_at(lambda at: None if at == 10 else reading(at))


def test_a_lag_measured_over_an_hour_ago_does_not_count():
    lags = RecentLags()

    assert 50.0 == lags.largest(0.0, 50.0)
    assert 50.0 == lags.largest(3000.0, 20.0)
    assert 20.0 == lags.largest(3700.0, 0.0)
    assert 0.0 == lags.largest(7000.0, 0.0)


def test_the_largest_lag_of_other_processes_counts_for_an_hour_after_it_was_last_learned():
    lags = LearnedLags()
    lags.learn({"admin": 50.0}, 0.0)
    lags.learn({"admin": 20.0, "user": 5.0}, 1000.0)

    assert (50.0, 5.0, 0.0) == tuple(lags.of(each, 3500.0) for each in ("admin", "user", "other"))
    lags.learn({"admin": 20.0}, 3700.0)
    assert (20.0, 5.0) == (lags.of("admin", 3700.0), lags.of("user", 3700.0))
    assert 0.0 == lags.of("user", 4700.0)


@in_virtual_time
async def test_a_reading_counts_the_lag_that_another_process_has_measured_of_the_same_account():
    async def page(_caller, _query):
        return Page({}, None)

    lags = LearnedLags()
    lags.learn({"admin": 50.0}, asyncio.get_running_loop().time())

    async def read(account):
        listed = AccountList(
            page, is_known=lambda _: False, timing=SearchTiming(), account=account, learned=lags
        )
        return (await listed.read(ADMIN, SearchScope(Target("model"), 0.0, 0.0))).freshness.largest_lag

    assert (50.0, 0.0) == (await read("admin"), await read("user"))
