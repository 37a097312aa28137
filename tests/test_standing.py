"""How long what waits may still take, as it is told."""

import asyncio

import pytest
import virtual_time
from parts import ADMIN, USER, VIEW, Fake, Notes, a_picture, pictures, run

from admission.forecast import Plan
from concurrency import Gate
from generation import Generations
from standing import Standing


def a_service(*, slots: int, lasts: float, rpm: int = 600):
    gate = Gate(concurrent_limit=slots, requests_per_minute=rpm)
    fake = Fake(ends_after=lasts - 0.25, answer_after=0.25)
    generations = Generations(provider=fake, gate=gate, ledger=Notes(), timeout=600, max_queued=100)
    return generations, Standing(generations=generations, gate=gate)


def accept(generations, count, *, caller=USER):
    return [generations.accept(a_picture(), caller=caller, request_id="req") for _ in range(count)]


async def took(generations, works) -> list[float]:
    """Seconds from their acceptance to their end."""
    for work in works:
        await generations.attend(work)
    return [work.ended_at - work.accepted_at for work in works]


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("is_known", [False, True], ids=["nothing is known yet", "one was measured"])
def test_it_is_told_about_how_long_those_in_line_will_take(slots, is_known):
    """To within the time of one. Before one was measured, its model's usual seconds are believed."""

    async def story():
        usual = a_picture().model.usual_seconds
        generations, standing = a_service(slots=slots, lasts=usual)
        if is_known:
            await run(generations, a_picture())
        works = accept(generations, 12)
        await generations.recorded(works[0])
        told = [standing.of(work, VIEW)["estimated_seconds"] for work in works]
        return told, await took(generations, works)

    told, truth = virtual_time.run(story())
    assert sorted(told) == told
    usual = truth[0]
    assert all(abs(one - other) < usual for one, other in zip(told, truth, strict=True)), (told, truth)


def test_whoever_has_to_wait_for_the_window_is_told_so():
    async def story():
        generations, standing = a_service(slots=50, lasts=2, rpm=4)
        works = accept(generations, 2)
        await asyncio.sleep(10)
        works += accept(generations, 12)
        await generations.recorded(works[-1])
        told = [standing.of(work, VIEW)["estimated_seconds"] for work in works[2:]]
        return told, await took(generations, works[2:])

    told, truth = virtual_time.run(story())
    assert told == pytest.approx(truth, abs=5)
    assert truth[-1] > 170


@pytest.mark.parametrize("bound", [1, 3])
def test_a_batch_that_bounds_itself_is_told_to_take_as_long_as_it_will(bound):
    async def story():
        generations, standing = a_service(slots=50, lasts=8)
        await run(generations, a_picture())
        wanted = pictures(["a"] * 12, max_concurrent=bound)
        batch = generations.accept_batch(
            wanted, plan=Plan("window", 0.0, 0.0, 0), caller=ADMIN, request_id="req"
        )
        await generations.recorded(batch)
        told = standing.of(batch, VIEW)["estimated_seconds"]
        return told, await took(generations, [batch])

    told, (truth,) = virtual_time.run(story())
    assert abs(told - truth) <= 8, (told, truth)
