"""Answers to creations are lost while Replicate's clock is wrong and its list lags: each picture is still
billed once."""

import asyncio
import random
from dataclasses import replace
from functools import partial

import pytest

from ledger.access_records import ApiKeyRecord
from ledger.memory import MemoryLedger
from ledger.records import GenerationRecord
from providers.replicate.absence import SearchTiming
from simulator import Options
from tests.support.crash_machine import Process
from tests.support.records import api_key
from tests.support.virtual_replicate import Losing, replicate, simulator_here
from tests.support.virtual_time import run
from tests.support.wiring import ADMIN, KEYS, a_picture, submission
from tests.support.wiring import run as run_one

AS_IN_PRODUCTION = {"search": SearchTiming(), "timeout": 600}


def unreliable_replicate(
    *,
    seed: int = 1,
    answers: float = 0.2,
    requests: float = 0.0,
    skew: float = 0.0,
    lag: tuple[float, float] = (0.0, 0.0),
    seconds: float = 3.0,
    **limits,
):
    """A service whose Replicate loses these shares of the answers and the requests of creations."""
    options = Options(
        prediction_seconds=seconds, answer_delay=(0.0, 0.2), seed=seed, clock_skew=skew, list_lag=lag
    )
    line = partial(Losing, chance=random.Random(seed), answers=answers, requests=requests)
    return replicate(options, line=line, **AS_IN_PRODUCTION | limits)


async def in_a_batch(prompts: list[str], **how) -> tuple[int, list[str], int]:
    """Returns the number of successes, the codes of the failures, and the number of predictions made."""
    async with unreliable_replicate(**how) as (service, world):
        batch = await service.run_batch(prompts)
        codes = [item.error.code for item in batch.items if item.error]
        return batch.summary()["succeeded"], codes, world.counters.snapshot().creations_accepted


async def one_by_one(prompts: list[str], *, every: float, **how) -> tuple[int, list[str], int]:
    async with unreliable_replicate(**how) as (service, world):
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
def test_a_wrong_clock_and_a_lagging_list_cost_no_second_prediction_in_a_thousand_generations(
    seed, skew, lag, alike, seconds
):
    """The four histories have a thousand generations in all."""
    prompts = ["a fox" if alike else f"fox {number}" for number in range(250)]
    how = {"seed": seed, "skew": skew, "lag": lag, "seconds": seconds, "concurrent_limit": 100}

    found = run(in_a_batch(prompts, **how))

    assert (250, [], 250) == found


@pytest.mark.slow
@pytest.mark.parametrize("every", [1.0, 20.0, 200.0])
@pytest.mark.parametrize("lag", [(0.0, 0.0), (40.0, 40.0), (0.0, 60.0)])
def test_each_picture_is_made_once_if_requests_are_lost_too(every, lag):
    prompts = [f"fox {number}" for number in range(60)]

    found = run(one_by_one(prompts, every=every, requests=0.1, skew=150.0, lag=lag))

    assert (60, [], 60) == found


@pytest.mark.parametrize("skew", [-300.0, -120.0, 120.0, 300.0])
@pytest.mark.parametrize("lag", [0.0, 60.0])
def test_ten_lost_answers_before_the_first_received_one_cost_no_second_prediction(skew, lag):
    """Only the `Date` of the readings' own answers is known yet."""
    prompts = [f"fox {number}" for number in range(10)]

    found = run(in_a_batch(prompts, answers=1.0, skew=skew, lag=(lag, lag)))

    assert (10, [], 10) == found


@pytest.mark.parametrize("seed", range(4))
def test_keys_that_create_the_same_input_at_once_and_lose_the_answers_get_one_prediction_each(seed):
    async def scenario():
        async with unreliable_replicate(seed=seed, answers=0.6, requests=0.2, lag=(0.0, 20.0)) as (
            service,
            world,
        ):
            known = [replace(api_key(number), id=each.id) for number, each in enumerate(KEYS)]
            service.ledger.rows[ApiKeyRecord] = {(each.id,): replace(each, revision=1) for each in known}
            service.core.key_directory.load(service.ledger)
            ends = await asyncio.gather(*(service.run("a fox", caller=each) for each in [*KEYS, ADMIN] * 3))
            return [each.prediction_id for each in ends], world.counters.snapshot().creations_accepted

    ids, made = run(scenario())

    predictions = [
        each for each in ids if each is not None
    ]  # a generation whose requests were all lost has none
    assert made == len(predictions) == len({*predictions})
    assert made >= 10


def test_a_list_that_lags_for_five_minutes_delays_an_adoption_and_costs_nothing():
    found = run(in_a_batch([f"fox {number}" for number in range(40)], lag=(300.0, 300.0)))

    assert (40, [], 40) == found


def test_the_skew_of_replicates_clock_is_recorded_with_the_submission():
    async def scenario():
        async with unreliable_replicate(answers=0.0, skew=-90.0) as (service, _):
            first, second = await service.run("a fox"), await service.run("a hare")
            return [service.ledger.generation(each.id).attempts[0].clock_skew for each in (first, second)]

    first, second = run(scenario())
    assert first is None
    assert -90.0 == pytest.approx(second, abs=10.0)  # this machine's clock does not advance in virtual time


def test_a_search_during_a_stop_is_left_to_the_next_process():
    """The creation is uncertain, so the generation is neither queued again nor over."""

    async def scenario(cancel_first):
        async with unreliable_replicate(answers=1.0, lag=(60.0, 60.0)) as (service, _):
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


def test_a_prediction_found_after_its_deadline_has_timed_out():
    async def scenario():
        async with unreliable_replicate(answers=1.0, lag=(60.0, 60.0)) as (service, world):
            ended = await service.run("[[slow=500]] a fox", timeout=20)
            (made,) = world.predictions
            return ended.error.code, made.status, asyncio.get_running_loop().time() < 80

    assert ("generation_timeout", "canceled", True) == run(scenario())


def test_a_prediction_found_late_has_only_its_remaining_time():
    async def scenario():
        async with unreliable_replicate(answers=1.0, lag=(30.0, 30.0)) as (service, world):
            ended = await service.run("[[slow=500]] a fox", timeout=100)
            (made,) = world.predictions
            return ended.error.code, made.status, asyncio.get_running_loop().time()

    code, status, at = run(scenario())
    assert ("generation_timeout", "canceled") == (code, status)
    assert 100 <= at <= 102


@pytest.mark.parametrize("fault", [{"reset": "after"}, {"reset": "before"}])
@pytest.mark.parametrize("skew", [-300.0, 300.0])
def test_the_next_process_continues_a_search_after_a_kill_by_the_same_rules(fault, skew):
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
