"""When an idle service ends. No clock."""

from server.idleness import Idleness


def test_a_service_that_nobody_uses_is_idle_after_its_seconds_and_not_before():
    idleness = Idleness(600, now=1000)

    assert [False, True] == [idleness.is_over(now, requests=0, is_busy=False) for now in (1599.9, 1600)]


def test_a_request_between_two_looks_begins_the_time_anew():
    idleness = Idleness(600, now=0)

    assert not idleness.is_over(599, requests=1, is_busy=False)
    assert not idleness.is_over(1198, requests=1, is_busy=False)
    assert idleness.is_over(1199, requests=1, is_busy=False)


def test_a_service_with_work_is_never_idle_and_is_so_only_its_seconds_after_the_end():
    idleness = Idleness(600, now=0)

    assert not any(idleness.is_over(now, requests=0, is_busy=True) for now in range(0, 10_000, 100))
    assert not idleness.is_over(10_499, requests=0, is_busy=False)
    assert idleness.is_over(10_500, requests=0, is_busy=False)
