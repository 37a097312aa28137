"""Connections without a complete request: bounds, also by address, and timeouts. No sockets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.addresses import network_of
from server.arrivals import HURRIED, PATIENCE, Arrivals
from server.peer import BODY_SECONDS, Pace
from server.worker import Occurrences
from settings.capacity import SLOWEST


def test_a_flood_from_one_address_displaces_only_connections_of_that_address():
    arrivals = Arrivals(8)
    polite = [f"polite {number}" for number in range(4)]
    for number, each in enumerate(polite):
        assert [] == arrivals.add(each, f"10.0.0.{number}", now=0)

    given_up = [gone for number in range(100) for gone in arrivals.add(number, "10.9.9.9", now=0)]

    assert list(range(96)) == given_up
    assert all(each in arrivals for each in polite)


def test_a_new_connection_displaces_the_oldest_of_the_same_address():
    arrivals = Arrivals(8)
    for number in range(100):
        arrivals.add(number, "10.9.9.9", now=0)

    assert [96] == arrivals.add("polite", "10.9.9.9", now=0)
    assert "polite" in arrivals


def test_one_address_with_all_connections_displaces_only_its_own():
    """As idle connections do, each of which may be in use again at any moment."""
    idle = Arrivals(8, share=8)
    assert [] == [gone for number in range(8) for gone in idle.add(number, "10.9.9.9", now=0)]

    assert [0] == idle.add("polite", "10.0.0.1", now=0)
    assert [1] == idle.add(8, "10.9.9.9", now=0)
    assert "polite" in idle


def test_a_connection_is_dropped_by_age_and_sooner_when_many_wait():
    arrivals = Arrivals(8)
    for number in range(4):
        arrivals.add(number, f"10.0.0.{number}", now=number)
    assert [] == arrivals.overdue(now=PATIENCE - 0.1)
    assert [0, 1] == arrivals.overdue(now=PATIENCE + 1)

    for number in range(4, 7):
        arrivals.add(number, f"10.0.0.{number}", now=PATIENCE + 1)
    assert [2] == arrivals.overdue(now=PATIENCE + 1)[:1]
    for number in range(7, 9):
        arrivals.add(number, f"10.0.0.{number}", now=PATIENCE + 1)
    assert 5 == len(arrivals)
    assert [4, 5, 6, 7, 8] == arrivals.overdue(now=PATIENCE + 1 + HURRIED)


@given(
    st.integers(1, 10),
    st.lists(st.tuples(st.sampled_from("abcde"), st.floats(0, 3), st.booleans()), max_size=80),
)
def test_every_connection_waits_once_and_no_address_has_more_than_half(most, steps):
    arrivals, waiting, now = Arrivals(most), {}, 0.0
    for number, (address, pause, leaves) in enumerate(steps):
        now += pause
        for late in arrivals.overdue(now):
            del waiting[late]
        if leaves and waiting:
            connection = next(iter(waiting))
            del waiting[connection]
            arrivals.remove(connection)
        waiting[number] = address
        for gone in arrivals.add(number, address, now):
            del waiting[gone]
        assert len(waiting) == len(arrivals) <= most
        assert all(each in arrivals for each in waiting)
        assert list(waiting.values()).count(address) <= max(1, most // 2)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_the_addresses_of_one_host_count_as_one(one, other, same):
    assert same == (network_of(one) == network_of(other))


def test_a_slow_peer_is_detected_after_the_measured_period():
    slow, quick = Pace(), Pace()
    for second in range(10):
        slow.note(second, second * (SLOWEST - 1))
        quick.note(second, second * SLOWEST)
    assert None is slow.rate(BODY_SECONDS)

    slow.note(10, 10 * (SLOWEST - 1))
    quick.note(10, 10 * SLOWEST)
    assert SLOWEST - 1 == slow.rate(BODY_SECONDS)
    assert SLOWEST == quick.rate(BODY_SECONDS)


def test_a_fast_peer_that_stalls_is_measured_by_its_last_seconds():
    pace = Pace()
    for tenth in range(1000):
        pace.note(tenth / 10, tenth * SLOWEST)
    for tenth in range(1000, 1105):
        pace.note(tenth / 10, 1000 * SLOWEST)

    assert 0 == pace.rate(BODY_SECONDS)


def test_frequent_events_are_logged_once_a_minute_with_their_count():
    now = {"is": 0.0}
    occurrences = Occurrences(clock=lambda: now["is"])

    logged = []
    for second in (0, 0, 30, 59, 60, 61, 121):
        now["is"] = float(second)
        logged.append(occurrences.due())

    assert [1, 0, 0, 0, 4, 0, 2] == logged
