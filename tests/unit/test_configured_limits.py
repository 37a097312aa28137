"""Limits that `/configure` sets: on disk before they are in force, and the same in both after concurrent events."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from concurrency import Gate
from errors import LedgerDown
from generations.limits import ConfiguredLimits
from ledger.memory import MemoryLedger
from parsing.limits import parse_limits
from tests.support.virtual_time import in_virtual_time, run
from tests.support.wiring import settings

NAMES = ("concurrent_limit", "requests_per_minute")

COMMIT = 0.01
"""Seconds of a commit, fewer than until the ledger writes by itself."""


def limits_of(gate):
    now = gate.statistics()
    return {"concurrent_limit": now.concurrent_limit, "requests_per_minute": now.requests_per_minute_limit}


class Process:
    """The limits of one process on `rows`."""

    def __init__(self, rows=None, *, commit_seconds=COMMIT, **named):
        self.gate = Gate(concurrent_limit=10, requests_per_minute=600)
        self.ledger = MemoryLedger(rows, commit_seconds=commit_seconds)
        self.limits = ConfiguredLimits(settings(**named), gate=self.gate, ledger=self.ledger)
        self.limits.begin(self.limits.load(self.ledger))

    @property
    def in_force(self):
        return limits_of(self.gate)

    async def change(self, **changed):
        await self.limits.change(parse_limits(changed))

    def next(self, **named):
        """The process after this one."""
        return Process(self.ledger.rows, **named)


@in_virtual_time
async def test_a_limit_is_on_disk_before_it_is_in_force():
    process = Process()
    change = asyncio.create_task(process.change(concurrent_limit=3))

    await asyncio.sleep(COMMIT / 2)
    assert (10, 10) == (process.in_force["concurrent_limit"], process.next().in_force["concurrent_limit"])
    await change
    assert (3, 3) == (process.in_force["concurrent_limit"], process.next().in_force["concurrent_limit"])


@in_virtual_time
async def test_a_change_that_a_crash_interrupts_is_not_answered_and_not_in_the_ledger():
    process = Process()
    change = asyncio.create_task(process.change(concurrent_limit=3))
    await asyncio.sleep(COMMIT / 2)
    process.ledger.crash()
    await asyncio.sleep(10)

    assert not change.done()
    assert {} == process.next().limits.configured
    change.cancel()


@in_virtual_time
async def test_a_change_goes_on_when_its_caller_disconnects():
    process = Process()
    change = asyncio.create_task(process.change(concurrent_limit=3))
    await asyncio.sleep(COMMIT / 2)
    change.cancel()
    await asyncio.sleep(10)

    assert change.cancelled()
    assert (3, 3) == (process.in_force["concurrent_limit"], process.next().in_force["concurrent_limit"])


@in_virtual_time
@pytest.mark.parametrize("values", [(3, 4), (4, 3), (3, None), (None, 3)])
async def test_of_two_changes_at_once_the_same_one_is_the_last_in_force_and_on_disk(values):
    process = Process()
    await asyncio.gather(*(process.change(concurrent_limit=value) for value in values))

    assert values[-1] or process.in_force["concurrent_limit"] == 10
    assert process.in_force == process.next().in_force
    assert process.limits.configured == process.next().limits.configured


@in_virtual_time
async def test_changes_of_different_limits_at_once_are_both_kept():
    process = Process()
    await asyncio.gather(process.change(concurrent_limit=3), process.change(requests_per_minute=30))

    assert {"concurrent_limit": 3, "requests_per_minute": 30} == process.next().limits.configured


@in_virtual_time
@pytest.mark.parametrize("before", [{}, {"concurrent_limit": 5}], ids=str)
@pytest.mark.parametrize("value", [3, None])
@pytest.mark.parametrize("commit", [COMMIT, 1.0], ids=["not written", "written before the failure"])
async def test_a_change_that_is_refused_is_not_in_the_ledger_later(before, value, commit):
    process = Process(commit_seconds=commit)
    if before:
        await process.change(**before)
    change = asyncio.create_task(process.change(concurrent_limit=value))
    await asyncio.sleep(commit / 2)
    process.ledger.trouble = "The disk is full."
    with pytest.raises(LedgerDown, match=r"^The disk is full\.$"):
        await change
    process.ledger.trouble = None
    await asyncio.sleep(10)

    assert before == process.limits.configured == process.next().limits.configured
    assert process.in_force == process.next().in_force


@in_virtual_time
async def test_a_ledger_that_is_known_to_be_down_is_not_asked_to_write():
    process = Process()
    process.ledger.trouble = "It is gone."

    with pytest.raises(LedgerDown, match=r"^It is gone\.$"):
        await process.change(concurrent_limit=3)

    assert 0 == asyncio.get_running_loop().time()


@in_virtual_time
async def test_limits_that_differ_from_the_environment_are_one_event_with_both():
    process = Process()
    await process.change(concurrent_limit=3, requests_per_minute=600)

    with capture_logs() as logs:
        process.next(REPLICATE_CONCURRENT_LIMIT=20)
        process.next(REPLICATE_CONCURRENT_LIMIT=3)

    (differ,) = logs
    assert ("limits_differ", "warning") == (differ["event"], differ["log_level"])
    assert ({"concurrent_limit": 3}, {"concurrent_limit": 20}) == (
        differ["configured"],
        differ["environment"],
    )


@in_virtual_time
async def test_the_holder_of_the_gate_decides_over_other_environments_and_each_of_them_is_logged_once():
    process = Process(REPLICATE_CONCURRENT_LIMIT=20)
    holder = {**process.limits.own, "concurrent_limit": 5}
    with capture_logs() as logs:
        process.limits.follow(process.limits.own)
        for _ in range(3):
            process.limits.follow(holder)

    (differ,) = logs
    assert ("limits_differ", "warning") == (differ["event"], differ["log_level"])
    assert ({"concurrent_limit": 5}, {"concurrent_limit": 20}) == (differ["holder"], differ["environment"])
    assert 5 == process.in_force["concurrent_limit"]
    process.limits.follow(process.limits.own)  # it holds the gate now
    assert 20 == process.in_force["concurrent_limit"]


@in_virtual_time
async def test_a_configured_limit_wins_over_every_environment_until_it_is_given_back():
    process = Process()
    await process.change(concurrent_limit=3)
    with capture_logs() as logs:
        process.limits.follow({"concurrent_limit": 5})
        assert (3, []) == (process.in_force["concurrent_limit"], logs)
        await process.change(concurrent_limit=None)
        process.limits.follow({"concurrent_limit": 5})

    assert 5 == process.in_force["concurrent_limit"]
    assert ["limits_differ"] == [each["event"] for each in logs]


VALUES = st.none() | st.integers(1, 1000)
STEPS = st.lists(
    st.tuples(
        st.floats(0, 2),
        st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1) | st.sampled_from(["down", "up"]),
    ),
    max_size=20,
)


@given(steps=STEPS, commit=st.sampled_from([COMMIT, 1.0]))
def test_after_any_changes_and_outages_the_ledger_has_the_limits_that_were_answered(steps, commit):
    async def story():
        process = Process(commit_seconds=commit)
        changes = []
        for pause, step in steps:
            await asyncio.sleep(pause)
            if isinstance(step, dict):
                changes.append((step, asyncio.create_task(process.change(**step))))
            else:
                process.ledger.trouble = "The disk is full." if step == "down" else None
        answered = {}
        for changed, change in changes:
            with suppress(LedgerDown):
                await change
                answered |= changed
        process.ledger.trouble = None
        await asyncio.sleep(5)
        assert {name: value for name, value in answered.items() if value} == process.limits.configured
        assert process.limits.configured == process.next().limits.configured
        assert process.in_force == process.next().in_force

    run(story())
