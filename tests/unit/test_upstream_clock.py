"""The measured difference between Replicate's clock and ours, from dates that may be wrong."""

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from structlog.testing import capture_logs

from providers.replicate.clock import UNKNOWN_SKEW, UpstreamClock, wall_offset
from tests.support.virtual_time import run

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
"""Replicate's time when the loop's clock and the skew are 0."""


def at(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def dated(seconds: float) -> str:
    return format_datetime(at(seconds), usegmt=True)


def covers(clock: UpstreamClock, skew: float) -> bool:
    offset = clock.offset
    return offset is not None and offset.least <= EPOCH.timestamp() + skew <= offset.most


def created(clock: UpstreamClock, *skews: float, since: float = 0.0) -> None:
    """One creation a second, each answered within 0.4 s by a clock with this skew."""
    for number, skew in enumerate(skews):
        sent = since + number
        clock.record_creation(at(sent + 0.1 + skew), sent=sent, answered=sent + 0.4)


def on_a_loop(scenario):
    async def play():
        return scenario(UpstreamClock())

    return run(play())


def test_nothing_is_known_before_the_first_answer():
    assert (None, None) == on_a_loop(lambda clock: (clock.offset, clock.skew))


def test_a_creation_bounds_the_offset_by_the_times_of_its_request_and_answer():
    def scenario(clock):
        created(clock, 120.0)
        return clock.offset.most - clock.offset.least, covers(clock, 120.0)

    assert (pytest.approx(0.4), True) == on_a_loop(scenario)


def test_a_skew_that_another_process_has_measured_counts_until_the_first_own_measure():
    def scenario(clock):
        clock.learn(300.0)
        learned, same = clock.skew, wall_offset()
        assert clock.offset.least < same + 300.0 < clock.offset.most
        created(clock, 120.0)
        clock.learn(300.0)
        return learned, covers(clock, 120.0), clock.offset.most - clock.offset.least

    assert (pytest.approx(300.0, abs=0.5), True, pytest.approx(0.4)) == on_a_loop(scenario)


def test_a_slow_answer_alone_is_no_skew():
    def scenario(clock):
        by_this_machine = datetime.fromtimestamp(wall_offset(), UTC)
        clock.record_creation(by_this_machine, sent=0.0, answered=20.0)
        return clock.skew

    assert abs(on_a_loop(scenario)) < 1


def test_the_shown_skew_uses_the_tightest_measure_and_a_search_all_of_them():
    def scenario(clock):
        clock.record_creation(at(0.1), sent=0.0, answered=20.0)
        clock.record_creation(at(30.1), sent=30.0, answered=30.2)
        return clock.agreed.most - clock.agreed.least, covers(clock, 0.0), covers(clock, -19.0)

    assert (pytest.approx(0.2), True, True) == on_a_loop(scenario)


def test_before_the_first_creation_the_date_of_any_answer_bounds_the_offset_to_a_second():
    def scenario(clock):
        clock.record_date(dated(60.0), sent=10.0, answered=10.5)
        return covers(clock, 50.0), clock.offset.most - clock.offset.least

    assert (True, 1.5) == on_a_loop(scenario)


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Thu, 99 Jan 2026 00:00:00 GMT", "\ud800", "9" * 5000]
)
def test_an_invalid_date_is_ignored(date):
    def scenario(clock):
        clock.record_date(date, sent=0.0, answered=1.0)
        return clock.offset

    assert on_a_loop(scenario) is None


@pytest.mark.parametrize("lie", [-5e8, 5e8, -3600.0, 100_000.0])
@pytest.mark.parametrize("place", [0, 3, 7])
def test_a_date_far_from_all_others_is_ignored(lie, place):
    def scenario(clock):
        skews = [30.0] * 8
        skews[place] = lie
        clock.record_date(dated(30.5), sent=0.0, answered=1.0)
        created(clock, *skews)
        return clock.offset.most - clock.offset.least <= 3.0, covers(clock, 30.0)

    assert (True, True) == on_a_loop(scenario)


def test_an_absurd_date_of_the_first_creation_does_not_override_the_date_header():
    def scenario(clock):
        clock.record_date(dated(0.5), sent=0.0, answered=1.0)
        created(clock, -5e8)
        return covers(clock, 0.0), abs(clock.offset.most - clock.offset.least) < UNKNOWN_SKEW

    assert (True, True) == on_a_loop(scenario)


@pytest.mark.parametrize("jump", [-300.0, 120.0, 600.0])
def test_after_a_clock_jump_both_offsets_are_searched_and_soon_only_the_new_one(jump):
    def scenario(clock):
        created(clock, *[0.0] * 8)
        created(clock, jump, since=100.0)
        both = covers(clock, 0.0), covers(clock, jump)
        created(clock, *[jump] * 8, since=200.0)
        return both, covers(clock, 0.0), covers(clock, jump)

    assert ((True, True), False, True) == on_a_loop(scenario)


def test_a_skew_is_logged_once_a_minute_while_it_lasts():
    async def scenario():
        clock = UpstreamClock()
        with capture_logs() as logs:
            for _ in range(181):
                now = asyncio.get_running_loop().time()
                # This machine's clock does not advance in virtual time, but only the difference matters.
                clock.record_creation(
                    datetime.now(UTC) + timedelta(seconds=400), sent=now - 0.1, answered=now
                )
                await asyncio.sleep(1)
        return [each for each in logs if each["event"] == "clock_skew"]

    warned = run(scenario())
    assert 4 == len(warned)
    assert 390 <= warned[0]["seconds"] <= 410


def test_a_skew_of_a_few_seconds_is_not_logged():
    async def scenario():
        clock = UpstreamClock()
        with capture_logs() as logs:
            clock.record_creation(datetime.now(UTC) + timedelta(seconds=2), sent=0.0, answered=0.1)
        return logs

    assert [] == run(scenario())
