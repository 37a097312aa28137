"""The limit of attempts holds across all processes in which a generation runs. The simulator counts them."""

import asyncio
from collections import Counter

import pytest

from generations.retries import MAX_ATTEMPTS, MAX_COSTLY_ATTEMPTS
from ledger.memory import MemoryLedger
from ledger.records import GenerationRecord
from simulator import Options
from tests.support.crash_machine import Process
from tests.support.virtual_replicate import simulator_here
from tests.support.virtual_time import run
from tests.support.wiring import a_picture, submission, until

PASSING = "[[fail=Queue is full. Please retry later.]] a fox"
JUST_CREATED, JUST_FAILED = 0.0, 1.2
"""Seconds after a creation at which a process is killed; the prediction fails after one second."""


def killed_after_each_creation(*, dies_after, faults=(), **fields):
    """Returns the number of predictions made, the code of the failure, and the predictions of each model on
    record."""

    async def scenario():
        world, loopback = simulator_here(Options(prediction_seconds=1.0, jitter=0.0, seed=1))
        for fault in faults:
            world.faults.inject(on="create", **fault)
        rows = MemoryLedger().rows
        process = Process(rows, loopback)
        await process.generations.submit(submission(a_picture(PASSING, **fields), wait_seconds=0))
        created = 0
        await until(process.ledger.unfinished)  # the generation is on the disk
        async with asyncio.timeout(3000):
            while process.ledger.unfinished():
                await asyncio.sleep(0.01)
                if len(list(world.predictions)) > created:
                    created = len(list(world.predictions))
                    await asyncio.sleep(dies_after)
                    await process.killed()
                    process = Process(rows, loopback)
        (ended,) = process.ledger.all(GenerationRecord)
        await process.killed()
        await world.close()
        made = Counter(each.model.split("/")[1] for each in ended.attempts if each.prediction_id)
        return created, ended.error.code, made

    return run(scenario())


@pytest.mark.parametrize("dies_after", [JUST_CREATED, JUST_FAILED])
@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ({"model_name": "flux-dev"}, {"flux-dev": MAX_ATTEMPTS}),
        ({"model_name": "veo-3-fast"}, {"veo-3-fast": MAX_COSTLY_ATTEMPTS}),
        (
            {"model_name": "flux-dev", "fallback": ["qwen-image"]},
            {"flux-dev": MAX_ATTEMPTS, "qwen-image": MAX_ATTEMPTS},
        ),
    ],
)
def test_restarts_do_not_raise_the_number_of_predictions_of_a_model(dies_after, fields, bounds):
    made = killed_after_each_creation(dies_after=dies_after, **fields)

    assert (sum(bounds.values()), "generation_failed", bounds) == made


@pytest.mark.parametrize("fault", [{"status": 429, "times": 6}, {"status": 503, "times": 2}])
def test_refused_creations_of_earlier_processes_do_not_count_as_predictions(fault):
    made, code, _ = killed_after_each_creation(dies_after=JUST_CREATED, faults=[fault], model_name="flux-dev")

    assert (MAX_ATTEMPTS, "generation_failed") == (made, code)
