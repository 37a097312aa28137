"""The reserve follows demand: the figures that the policy achieves, in virtual time and with several seeds."""

import pytest

from admission.durations import Durations
from admission.estimates import Estimates
from admission.policy import Policy
from tests.support.policy_load import Batch, Load, p90

ANSWER = 0.8
"""Seconds until the slowest answer. A place counts until 60 seconds after its answer."""

SEEDS = (1, 2, 3)
WINDOWS = (6, 10, 60, 100, 600)


def ideal(tickets: int, window: int) -> float:
    """Seconds until the last of so many tickets is admitted if every place is used at once."""
    return (60 + ANSWER) * ((tickets - 1) // window)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("windows", [1.5, 3, 10])
def test_a_batch_of_up_to_ten_windows_that_is_alone_is_within_3_percent_of_the_ideal(window, windows):
    size = int(windows * window)
    alone = Load(window, [Batch("ann", size)]).run()
    assert alone.end <= 1.03 * 60 * ((size - 1) // window)


def test_a_batch_counts_as_alone_ten_minutes_after_the_last_single_call():
    load = Load(100, [Batch("ann", 300, at=600.0)], at=[0.0]).run()
    assert load.end - 600.0 <= 1.03 * 120


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("windows", [10.2, 11, 15.5])
def test_a_longer_batch_that_is_alone_ends_at_most_one_window_later(window, windows):
    size = int(windows * window) + 1
    alone = Load(window, [Batch("ann", size)]).run()
    assert alone.end <= ideal(size, window) + 60


@pytest.mark.slow
@pytest.mark.parametrize("window", [60, 100, 600])
def test_the_first_single_call_beside_a_batch_of_twelve_windows_waits_at_most_3_seconds_at_p90(window):
    moments = range(7, 660, 13 if window < 600 else 29)
    waits = [
        waited
        for moment in moments
        for _, waited in Load(
            window, [Batch("ann", 12 * window)], at=[moment], seed=moment, until=moment + 70
        )
        .run()
        .waits
    ]
    assert len(moments) == len(waits)
    assert p90(waits) <= 3


LOADS = [
    pytest.param({"batches": [9], "per_minute": 0.05}, id="few single calls beside one batch"),
    pytest.param({"batches": [3, 3, 3], "per_minute": 0.25}, id="single calls beside three batches"),
    pytest.param(
        {"batches": [12], "per_minute": 0.1, "callers": ["batch 0"]}, id="beside their own caller's batch"
    ),
    pytest.param({"batches": [0.5] * 19, "per_minute": 0.1}, id="beside 19 batches"),
    pytest.param({"batches": [9], "per_minute": 0.4}, id="many single calls"),
]


@pytest.mark.slow
@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("window", WINDOWS)
def test_batches_and_single_calls_share_a_window(window, load):
    """From the third minute after the first single call on, nine of ten single calls wait at most 3 seconds in windows
    of 60 and more. At least 97 % of the window is used. The batches end at most one window later than if every place
    had been used at once."""
    waits: list[float] = []
    for seed in SEEDS if window < 600 else SEEDS[:1]:
        run = Load(
            window,
            [Batch(f"batch {n}", int(size * window)) for n, size in enumerate(load["batches"])],
            per_minute=max(1.0, load["per_minute"] * window),
            callers=load.get("callers", ("ann", "bob", "cid")),
            seed=seed,
        ).run()
        first = run.waits[0][0]
        waits += run.waited(since=first + 120, until=run.end)
        whole_minutes = 60 * (run.end // 60)
        assert run.use(0.0, whole_minutes) >= 0.97
        singles = sum(at + waited <= run.end for at, waited in run.waits)
        tickets = sum(batch.size for batch in run.batches) + singles
        assert run.end <= ideal(tickets, window) + 60
    if window >= 60:
        assert p90(waits) <= 3


def test_60_single_calls_a_minute_beside_19_batches_wait_at_most_3_seconds_at_p90():
    for window in (100, 600):
        batches = [Batch(f"batch {n}", window // 3) for n in range(19)]
        run = Load(window, batches, per_minute=60, callers=["one caller"]).run()
        assert p90(run.waited(since=run.waits[0][0] + 120, until=run.end)) <= 3


def test_after_single_calls_batches_start_at_once_while_they_fit_and_then_evenly():
    run = Load(100, [Batch("ann", 70, at=60.0), Batch("bob", 20, at=61.0)], at=[0.0, 62.0]).run()
    assert 60.0 == run.ends[0]
    assert [0.0, 0.0] == [waited for _, waited in run.waits]
    even = 0.97 * 60 / 100
    assert pytest.approx(60.0 + (70 + 1 + 19) * even) == run.ends[1]


def test_batches_that_keep_coming_leave_places_for_single_calls():
    """Each batch takes half of the window at once if it may. The next batch comes half a minute later."""
    batches = [Batch("ann" if n % 2 else "bob", 47, at=30.5 * n) for n in range(20)]
    run = Load(100, batches, per_minute=5, singles_from=5.0).run()
    assert p90(run.waited(since=120)) <= 3


def test_without_a_reserve_a_single_call_waits_for_the_window():
    run = Load(100, [Batch("ann", 1_200)], at=[5.0], share=0.0, until=120.0).run()
    assert 54 < run.waits[0][1] < 57
    assert 100 == sum(at == 0.0 for at in run.admissions)


@pytest.mark.parametrize("size", [60, 90, 250])
def test_estimates_include_the_pace(size):
    """A batch comes after a single call, to a window that is free or partly spent."""
    for spent in (0, 30):
        policy = Policy(
            concurrent_limit=1_000, requests_per_minute=100, interactive_reserve=0.5, durations=Durations()
        )
        policy.enqueue(["single"], "bob")
        policy.enqueue([("before", number) for number in range(spent)], "bob", batch="before")
        for ticket in policy.step(0.0).admitted:
            policy.answered(ticket, 0.0)
        estimates = Estimates(policy, lambda: 1.0)
        before = [estimates.estimated_wait("ann", "big", ahead, usual=1.0) for ahead in range(size)]
        policy.enqueue(range(size), "ann", batch="big")
        estimated_in_line = [
            estimates.estimated_wait("ann", "big", ahead, usual=1.0) for ahead in range(size)
        ]
        admitted: dict[int, float] = {}
        now = 1.0
        while len(admitted) < size:
            step = policy.step(now)
            for ticket in step.admitted:
                policy.answered(ticket, now)
                admitted[ticket] = now - 1.0
            now = step.next_chance
        assert abs(before[-1] - admitted[size - 1]) <= 4
        assert max(abs(estimated_in_line[number] - admitted[number]) for number in range(size)) <= 4
