"""Answers to creations are lost while Replicate's clock is wrong and its list lags: each picture is still paid once."""

import asyncio
import random
from functools import partial

import pytest

from ledger.memory import MemoryLedger
from ledger.records import GenerationRecord
from providers.replicate.absence import SearchTiming
from simulator import Options
from tests.support.crash_machine import Process
from tests.support.virtual_replicate import Losing, replicate, simulator_here
from tests.support.virtual_time import run
from tests.support.wiring import a_picture, submission
from tests.support.wiring import run as run_one

AS_IN_PRODUCTION = {"search": SearchTiming(), "timeout": 600}


def replicate_of_bad_days(
    *,
    seed: int = 1,
    answers: float = 0.2,
    requests: float = 0.0,
    skew: float = 0.0,
    lag: tuple[float, float] = (0.0, 0.0),
    seconds: float = 3.0,
    **limits,
):
    """A service before a Replicate that loses so many of the answers and of the requests of creations."""
    options = Options(
        prediction_seconds=seconds, answer_delay=(0.0, 0.2), seed=seed, clock_skew=skew, list_lag=lag
    )
    line = partial(Losing, chance=random.Random(seed), answers=answers, requests=requests)
    return replicate(options, line=line, **AS_IN_PRODUCTION | limits)


async def in_a_batch(prompts: list[str], **how) -> tuple[int, list[str], int]:
    """How many succeeded, the codes of those that did not, and how many predictions were made."""
    async with replicate_of_bad_days(**how) as (service, world):
        batch = await service.run_batch(prompts)
        codes = [item.error.code for item in batch.items if item.error]
        return batch.summary()["succeeded"], codes, world.counters.snapshot().creations_accepted


async def one_by_one(prompts: list[str], *, every: float, **how) -> tuple[int, list[str], int]:
    async with replicate_of_bad_days(**how) as (service, world):
        async with asyncio.TaskGroup() as group:
            tasks = []
            for prompt in prompts:
                tasks.append(group.create_task(service.run(prompt)))
                await asyncio.sleep(every)
        ends = [task.result() for task in tasks]
        codes = [each.error.code for each in ends if each.error]
        return sum(each.succeeded for each in ends), codes, world.counters.snapshot().creations_accepted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "skew", "lag", "alike", "seconds"),
    [
        (1, -300.0, (60.0, 60.0), False, 0.0),
        (2, 300.0, (0.0, 60.0), False, 3.0),
        (3, -120.0, (0.0, 60.0), True, 0.0),
        (4, 47.0, (35.0, 35.0), True, 0.0),
    ],
)
def test_a_thousand_generations_are_a_thousand_predictions_by_a_wrong_clock_and_a_list_that_lags(
    seed, skew, lag, alike, seconds
):
    prompts = ["a fox" if alike else f"fox {number}" for number in range(1000)]
    how = {"seed": seed, "skew": skew, "lag": lag, "seconds": seconds, "concurrent_limit": 100}

    found = run(in_a_batch(prompts, **how))

    assert (1000, [], 1000) == found


@pytest.mark.slow
@pytest.mark.parametrize("every", [1.0, 20.0, 200.0])
@pytest.mark.parametrize("lag", [(0.0, 0.0), (40.0, 40.0), (0.0, 60.0)])
def test_where_requests_are_lost_as_well_each_picture_is_made_once_however_few_there_are(every, lag):
    prompts = [f"fox {number}" for number in range(60)]

    found = run(one_by_one(prompts, every=every, requests=0.1, skew=150.0, lag=lag))

    assert (60, [], 60) == found


@pytest.mark.parametrize("skew", [-300.0, -120.0, 120.0, 300.0])
@pytest.mark.parametrize("lag", [0.0, 60.0])
def test_ten_answers_lost_before_any_is_received_are_ten_predictions(skew, lag):
    """Nothing is known yet but the date of the looks' own answers."""
    prompts = [f"fox {number}" for number in range(10)]

    found = run(in_a_batch(prompts, answers=1.0, skew=skew, lag=(lag, lag)))

    assert (10, [], 10) == found


def test_a_list_that_lags_for_five_minutes_delays_an_adoption_and_costs_nothing():
    found = run(in_a_batch([f"fox {number}" for number in range(40)], lag=(300.0, 300.0)))

    assert (40, [], 40) == found


def test_the_clock_that_replicate_had_is_kept_with_the_submission():
    async def scenario():
        async with replicate_of_bad_days(answers=0.0, skew=-90.0) as (service, _):
            first, second = await service.run("a fox"), await service.run("a hare")
            return [service.ledger.generation(each.id).attempts[0].clock_skew for each in (first, second)]

    first, second = run(scenario())
    assert first is None
    assert -90.0 == pytest.approx(second, abs=10.0)  # this machine's clock stands still in virtual time


def test_the_search_of_a_service_that_stops_is_left_to_the_next_one():
    """Its creation is in doubt, so it is neither queued again nor over."""

    async def scenario(cancel_first):
        async with replicate_of_bad_days(answers=1.0, lag=(60.0, 60.0)) as (service, _):
            supervisor = service.core.supervisor
            running = asyncio.create_task(service.run("a fox"))
            await asyncio.sleep(2)
            (record,) = service.ledger.unfinished()
            generation = supervisor.find(record.id)
            if cancel_first:
                supervisor.cancel(generation)
                await asyncio.sleep(1)
            began = asyncio.get_running_loop().time()
            await supervisor.drain(0)
            await asyncio.wait([running])
            took = asyncio.get_running_loop().time() - began
            record = generation.record()
            (attempt,) = record.attempts
            return took, record.state, record.cancelled, attempt.open, attempt.answered_at

    assert (0.0, "submitting", False, True, None) == run(scenario(cancel_first=False))
    assert (0.0, "submitting", True, True, None) == run(scenario(cancel_first=True))


def test_a_prediction_that_is_found_after_its_deadline_has_run_out_of_time():
    async def scenario():
        async with replicate_of_bad_days(answers=1.0, lag=(60.0, 60.0)) as (service, world):
            ended = await service.run("[[slow=500]] a fox", timeout=20)
            (made,) = world.predictions
            return ended.error.code, made.status, asyncio.get_running_loop().time() < 80

    assert ("generation_timeout", "canceled", True) == run(scenario())


def test_a_prediction_that_is_found_late_has_what_is_left_of_its_time():
    async def scenario():
        async with replicate_of_bad_days(answers=1.0, lag=(30.0, 30.0)) as (service, world):
            ended = await service.run("[[slow=500]] a fox", timeout=100)
            (made,) = world.predictions
            return ended.error.code, made.status, asyncio.get_running_loop().time()

    code, status, at = run(scenario())
    assert ("generation_timeout", "canceled") == (code, status)
    assert 100 <= at <= 102


@pytest.mark.parametrize("fault", [{"reset": "after"}, {"reset": "before"}])
@pytest.mark.parametrize("skew", [-300.0, 300.0])
def test_a_search_that_a_kill_ends_goes_on_in_the_next_process_by_the_same_rules(fault, skew):
    async def scenario():
        options = Options(prediction_seconds=3, seed=1, clock_skew=skew, list_lag=(40.0, 40.0))
        world, loopback = simulator_here(options)
        rows = MemoryLedger().rows
        process = Process(rows, loopback)
        await run_one(process.core, a_picture("a hare"))
        world.faults.inject(on="create", **fault)
        await process.generations.submit(submission(a_picture("a fox"), wait_seconds=0))
        await asyncio.sleep(4)
        searched = process.ledger.unfinished()[0].attempts[0].clock_skew
        await process.killed()
        process = Process(rows, loopback)
        await asyncio.sleep(300)
        ended = [each.state for each in process.ledger.all(GenerationRecord)]
        made = len(list(world.predictions))
        await process.killed()
        await world.close()
        return searched, ended, made

    found, ended, made = run(scenario())
    assert skew == pytest.approx(found, abs=60.0)
    assert (["succeeded", "succeeded"], 2) == (ended, made)
