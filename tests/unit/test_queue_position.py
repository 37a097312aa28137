"""The estimated seconds of queued work."""

import asyncio

import pytest

from concurrency import Gate
from providers.memory import MemoryProvider
from tests.support import virtual_time
from tests.support.wiring import ADDRESS, USER, a_picture, core, pictures, run, submission


def a_service(*, slots: int, lasts: float, rpm: int = 600):
    gate = Gate(concurrent_limit=slots, requests_per_minute=rpm)
    fake = MemoryProvider(ends_after=lasts - 0.25, answer_after=0.25)
    inside = core(fake, gate=gate, GENERATION_TIMEOUT=600, MAX_QUEUED=100)
    return inside, inside.generations.status


def accept(inside, count, *, caller=USER):
    return [inside.supervisor.accept(submission(a_picture(), caller)) for _ in range(count)]


async def took(inside, works) -> list[float]:
    """The seconds from acceptance to the end of each."""
    for work in works:
        await inside.supervisor.wait(work)
    return [work.ended_at - work.accepted_at for work in works]


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("is_known", [False, True], ids=["nothing is known yet", "one was measured"])
def test_the_estimate_of_queued_work_is_right_within_one_generation(slots, is_known):
    """Before the first generation is measured, the usual seconds of its model are used."""

    async def scenario():
        usual = a_picture().model.usual_seconds
        inside, standing = a_service(slots=slots, lasts=usual)
        if is_known:
            await run(inside, a_picture())
        works = accept(inside, 12)
        await inside.supervisor.persist(works[0])
        estimates = [standing.body(work, ADDRESS)["estimated_seconds"] for work in works]
        return estimates, await took(inside, works)

    estimates, truth = virtual_time.run(scenario())
    assert sorted(estimates) == estimates
    usual = truth[0]
    assert all(abs(one - other) < usual for one, other in zip(estimates, truth, strict=True)), (
        estimates,
        truth,
    )


def test_the_estimate_includes_the_wait_for_the_window():
    async def scenario():
        inside, standing = a_service(slots=50, lasts=2, rpm=4)
        works = accept(inside, 2)
        await asyncio.sleep(10)
        works += accept(inside, 12)
        await inside.supervisor.persist(works[-1])
        estimates = [standing.body(work, ADDRESS)["estimated_seconds"] for work in works[2:]]
        return estimates, await took(inside, works[2:])

    estimates, truth = virtual_time.run(scenario())
    assert estimates == pytest.approx(truth, abs=5)
    assert truth[-1] > 170


@pytest.mark.parametrize("bound", [1, 3])
def test_the_estimate_of_a_batch_includes_its_max_concurrent(bound):
    async def scenario():
        inside, standing = a_service(slots=50, lasts=8)
        await run(inside, a_picture())
        wanted = pictures(["a"] * 12, max_concurrent=bound)
        batch = inside.supervisor.accept(submission(wanted))
        await inside.supervisor.persist(batch)
        estimate = standing.body(batch, ADDRESS)["estimated_seconds"]
        return estimate, await took(inside, [batch])

    estimate, (truth,) = virtual_time.run(scenario())
    assert abs(estimate - truth) <= 8, (estimate, truth)
