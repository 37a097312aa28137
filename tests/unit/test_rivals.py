"""Several processes on one ledger send the same input, and answers are lost: none adopts the prediction of another."""

import random
from asyncio import gather, sleep
from contextlib import AsyncExitStack

import pytest

from providers.replicate.absence import SearchTiming
from simulator import Options
from tests.support.elsewhere import MemoryOtherAttempts
from tests.support.virtual_replicate import Losing, simulator_here
from tests.support.virtual_time import run
from tests.support.wiring import ADMIN, KEYS, parts


async def together(
    *,
    seed=1,
    answers=0.0,
    requests=0.0,
    lag=(0.0, 0.0),
    within=30.0,
    prompts=("a fox",),
    sees=True,
    callers=(ADMIN,),
):
    """Each of three processes makes four pictures within so many seconds, each with one of the prompts and for one of
    the callers. Returns the ids of all their predictions, the number of predictions made, and whether the account seems
    to be shared."""
    options = Options(prediction_seconds=3.0, answer_delay=(0.0, 3.0), seed=seed, list_lag=lag)
    world, loopback = simulator_here(options)
    chance, ledgers, services = random.Random(seed), [], []
    async with AsyncExitStack() as stack:
        for _ in range(3):
            elsewhere = MemoryOtherAttempts(ledgers) if sees else None
            service = await stack.enter_async_context(
                parts(
                    "http://replicate.test",
                    connections=Losing(loopback, chance, answers=answers, requests=requests),
                    elsewhere=elsewhere,
                    search=SearchTiming(),
                    timeout=600,
                )
            )
            ledgers.append(service.ledger)
            services.append(service)
            if elsewhere:
                elsewhere.own = service.ledger

        async def make(service, prompt, caller):
            await sleep(chance.uniform(0, within))
            return await service.run(prompt, caller=caller)

        ends = await gather(
            *(
                make(each, prompts[number % len(prompts)], callers[number // 3 % len(callers)])
                for number, each in enumerate(services * 4)
            )
        )
        is_shared = any(each.provider.account_shared for each in services)
        made = world.counters.snapshot().creations_accepted
    await world.close()
    ids = [attempt.prediction.id for each in ends for attempt in each.attempts if attempt.prediction]
    return ids, made, is_shared


@pytest.mark.parametrize("lag", [(0.0, 0.0), (0.0, 20.0)])
@pytest.mark.parametrize("seed", range(6))
def test_each_prediction_belongs_to_one_generation_of_all_processes(seed, lag):
    ids, made, is_shared = run(together(seed=seed, answers=0.3, requests=0.2, lag=lag))

    assert (len(set(ids)), made, False) == (len(ids), len(ids), is_shared)


@pytest.mark.parametrize("seed", range(6))
def test_each_prediction_belongs_to_one_generation_whichever_keys_send_the_same_input(seed):
    callers = (*KEYS, ADMIN)

    ids, made, is_shared = run(together(seed=seed, answers=0.3, requests=0.2, callers=callers))

    assert (len(set(ids)), made, False) == (len(ids), len(ids), is_shared)


def test_without_the_ledger_processes_take_each_others_predictions():
    found = [run(together(seed=seed, answers=0.3, requests=0.2, sees=False)) for seed in range(3)]

    assert any(len(ids) > len(set(ids)) for ids, *_ in found)


def test_the_predictions_of_other_processes_are_no_sign_of_another_program():
    how = {"within": 300, "prompts": ("a fox", "a cat", "a dog")}

    assert [False, True] == [run(together(sees=sees, **how))[-1] for sees in (True, False)]
