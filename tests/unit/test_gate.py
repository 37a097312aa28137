"""The asyncio shell of the gate: a waiter that is cancelled in any tick leaves nothing behind.

What any gate promises is in `contracts/test_gate_contract.py`; what holds for every history, in the properties of the
policy and of the gate.
"""

import asyncio
import dataclasses

import pytest

from concurrency import Gate
from tests.support.virtual_time import run


async def tick(times: int = 4) -> None:
    """Let everything run that is ready; no time passes."""
    for _ in range(times):
        await asyncio.sleep(0)


def now() -> float:
    return asyncio.get_running_loop().time()


def figures(gate) -> tuple[int, int, int]:
    """In flight, in the window, waiting."""
    seen = gate.statistics()
    return seen.current_concurrent, seen.current_rate_per_minute, seen.waiting


@pytest.mark.parametrize("ticks", range(6))
def test_a_waiter_cancelled_in_any_tick_of_its_admission_costs_nothing(ticks):
    async def story():
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

    assert (0, 0, 0) == run(story())


def test_what_a_waiter_leaves_in_the_tick_it_was_granted_goes_to_the_next():
    async def story():
        gate = Gate(concurrent_limit=1, requests_per_minute=1)
        first, second = (asyncio.create_task(gate.acquire(name)) for name in ("ann", "bob"))
        await tick(2)
        assert (1, 1, 1) == figures(gate)  # ann is granted, and does not know it yet
        first.cancel()
        await second
        return now(), figures(gate)

    assert (0.0, (1, 1, 0)) == run(story())


def test_a_waiter_cancelled_in_the_tick_of_the_close_is_cancelled():
    async def story():
        gate = Gate(concurrent_limit=1, requests_per_minute=10)
        await gate.acquire("ann")
        waiter = asyncio.create_task(gate.acquire("bob"))
        await tick()
        gate.close(RuntimeError)
        waiter.cancel()
        await asyncio.wait([waiter])
        return waiter.cancelled()

    assert run(story()) is True


def test_statistics_are_frozen():
    async def story():
        return Gate(concurrent_limit=2, requests_per_minute=5).statistics()

    with pytest.raises(dataclasses.FrozenInstanceError):
        run(story()).waiting = 3


@pytest.mark.parametrize("ticks", range(6))
def test_a_waiter_cancelled_in_any_tick_of_its_admission_costs_no_pace(ticks):
    """A batch keeps its pace, as if the one that left had never come."""

    async def story():
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

    # Six single calls put off the batch by as many of eight even parts of 0.97 minutes, and the one that left by none.
    assert pytest.approx([6 * 0.97 * 7.5, 7 * 0.97 * 7.5]) == run(story())
