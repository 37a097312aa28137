"""The asyncio shell of the gate: a waiter that is cancelled in any tick leaves nothing behind.
`contracts/test_gate_contract.py` tests the promises of every gate. The property tests of the policy and of the gate run
random histories.
"""

import asyncio
import dataclasses

import pytest

from concurrency import Gate
from tests.support.virtual_time import now, run, tick


def figures(gate) -> tuple[int, int, int]:
    """In flight, in the window, waiting."""
    seen = gate.statistics()
    return seen.current_concurrent, seen.current_rate_per_minute, seen.waiting


@pytest.mark.parametrize("ticks", range(6))
def test_a_waiter_cancelled_in_any_tick_of_its_admission_costs_nothing(ticks):
    async def scenario():
        gate = Gate(concurrent_limit=1, requests_per_minute=10)
        waiter = asyncio.create_task(gate.acquire("ann"))
        await tick(ticks)
        if waiter.cancel():
            await tick()
            assert waiter.cancelled()
        else:
            waiter.result().release()
        await tick()
        return figures(gate)

    assert (0, 0, 0) == run(scenario())


def test_a_waiter_cancelled_in_the_tick_of_its_grant_leaves_slot_and_place_to_the_next():
    async def scenario():
        gate = Gate(concurrent_limit=1, requests_per_minute=1)
        first, second = (asyncio.create_task(gate.acquire(name)) for name in ("ann", "bob"))
        await tick(2)
        assert (1, 1, 1) == figures(gate)  # ann's wait is granted, but her task has not run since
        first.cancel()
        await second
        return now(), figures(gate)

    assert (0.0, (1, 1, 0)) == run(scenario())


def test_a_waiter_cancelled_in_the_tick_of_the_close_gets_the_cancellation():
    async def scenario():
        gate = Gate(concurrent_limit=1, requests_per_minute=10)
        await gate.acquire("ann")
        waiter = asyncio.create_task(gate.acquire("bob"))
        await tick()
        gate.close(RuntimeError)
        waiter.cancel()
        await asyncio.wait([waiter])
        return waiter.cancelled()

    assert run(scenario()) is True


def test_statistics_are_frozen():
    async def scenario():
        return Gate(concurrent_limit=2, requests_per_minute=5).statistics()

    with pytest.raises(dataclasses.FrozenInstanceError):
        run(scenario()).waiting = 3


@pytest.mark.parametrize("ticks", range(6))
def test_a_waiter_cancelled_in_any_tick_of_its_admission_delays_no_batch(ticks):
    """The batch keeps its pace as if the cancelled waiter had never come."""

    async def scenario():
        gate = Gate(concurrent_limit=100, requests_per_minute=8, interactive_reserve=0.25)
        for lease in [await gate.acquire("ann") for _ in range(6)]:
            lease.sent()
            lease.answered()
        leaver = asyncio.create_task(gate.acquire("bob"))
        await tick(ticks)
        if leaver.cancel():
            await tick()
        else:
            leaver.result().release()
        admitted = []

        async def one():
            with await gate.acquire("ann", batch="big") as lease:
                lease.sent()
                admitted.append(now())

        batch = [asyncio.create_task(one()) for _ in range(10)]
        await asyncio.sleep(59)
        for task in batch:
            task.cancel()
        return admitted

    # The pace is eight even parts of 0.97 minutes. Each of six single calls delays the batch by one part, and the
    # cancelled waiter by none.
    assert pytest.approx([6 * 0.97 * 7.5, 7 * 0.97 * 7.5]) == run(scenario())
