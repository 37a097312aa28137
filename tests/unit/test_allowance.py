"""The gate admits as much as its limits allow and never more: the core of the service against the simulator, in virtual
time. The simulator counts every figure. `make bench` measures the same scenarios in real time.
"""

import asyncio
import heapq
import random
import statistics

import pytest

from simulator import Options
from simulator.state import SimulatorState
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import run
from tests.support.wiring import ADMIN, OTHER_USER, USER, Parts


def clock() -> float:
    return asyncio.get_running_loop().time()


def ideal(world: SimulatorState, slots: int) -> float:
    """Seconds that the predictions of this world take in so many slots without any waiting. In the order of creation,
    each goes to the slot that is free first."""
    free_at = [0.0] * slots
    for each in world.predictions:
        heapq.heapreplace(free_at, free_at[0] + (each.completed_at - each.created_at).total_seconds())
    return max(free_at)


def completion_times(service: Parts) -> dict[str, float]:
    """When the service learnt that each prediction was over, by the loop's clock. The dict fills as they end."""
    at: dict[str, float] = {}

    def note(generation):
        if generation.ended_at is not None:
            at[generation.prediction.id] = clock()

    service.ledger.on_move.append(note)
    return at


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_180_predictions_of_12_s_take_at_most_6_percent_over_the_ideal_and_2_requests_each(seed):
    async def scenario():
        options = Options(prediction_seconds=12, jitter=0.2, answer_delay=(0.025, 0.15), seed=seed)
        async with replicate(options, concurrent_limit=60, timeout=600, reserve=0.05) as (service, world):
            known = completion_times(service)
            batch = await service.run_batch([f"picture {n}" for n in range(180)])
            delays = [
                known[each.id] - world.predictions.loop_time(each.completed_at) for each in world.predictions
            ]
            makespan = clock() / ideal(world, 60)
            return (
                batch.summary()["succeeded"],
                makespan,
                statistics.median(delays),
                world.counters.snapshot(),
            )

    succeeded, makespan, delay, counts = run(scenario())
    assert 180 == succeeded == counts.creations_accepted
    assert makespan <= 1.06
    assert sum(counts.requests.values()) <= 2 * 180
    assert delay <= 0.4
    assert {} == counts.refusals


@pytest.mark.parametrize(("seconds", "requests"), [(1.5, 5), (12, 6.5), (60, 6.5), (180, 6.5)])
def test_few_requests_suffice_for_predictions_of_seconds_and_of_minutes(seconds, requests):
    """With one slot, no poll serves two predictions. The first three predictions show how long one takes."""

    async def scenario():
        options = Options(prediction_seconds=seconds, jitter=0.1, seed=1)
        async with replicate(options, concurrent_limit=1, timeout=600) as (service, world):
            await service.run_batch(["a teacher"] * 3)
            before = sum(world.counters.snapshot().requests.values())
            known = completion_times(service)
            await service.run_batch(["a fox"] * 20)
            late = [
                known[each.id] - world.predictions.loop_time(each.completed_at)
                for each in [*world.predictions][3:]
            ]
            return (sum(world.counters.snapshot().requests.values()) - before) / 20, statistics.median(late)

    asked, late = run(scenario())
    assert asked <= requests
    assert late <= max(0.1, 0.02 * seconds)


JITTERY = {"prediction_seconds": 0.2, "jitter": 0, "answer_delay": (0, 0.8)}


@pytest.mark.slow
def test_2000_creations_over_a_jittery_network_never_exceed_600_a_minute_and_waste_no_place():
    async def scenario():
        async with replicate(Options(**JITTERY, seed=1), concurrent_limit=200, timeout=600, reserve=0.05) as (
            service,
            world,
        ):
            batch = await service.run_batch([f"picture {n}" for n in range(2000)])
            return batch.summary()["succeeded"], clock(), world.counters.snapshot()

    succeeded, makespan, counts = run(scenario())
    assert 2000 == succeeded == counts.creations_accepted
    assert 600 == counts.creations_peak_per_minute
    assert {} == counts.refusals
    # The 1,801st creation is admitted after three windows. It takes 0.2 s, and the network 0.8 s on average for it and
    # its picture.
    assert makespan <= 1.03 * (3 * 60 + 0.2 + 0.8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_the_limit_holds_while_both_limits_change_and_every_fifth_creation_is_retried(seed):
    """No 60 seconds hold more creations than the highest limit in force during them, or while the first of them was
    pending."""
    chance = random.Random(seed)
    limits = [(chance.randint(20, 300), chance.randint(50, 550)) for _ in range(20)]

    async def scenario():
        async with replicate(
            Options(**JITTERY, seed=seed),
            concurrent_limit=200,
            requests_per_minute=300,
            timeout=600,
            reserve=0.05,
        ) as (service, world):
            in_force = [(0.0, 300)]

            async def configure():
                for slots, rate in limits:
                    await asyncio.sleep(chance.uniform(1, 20))
                    service.gate.configure(concurrent_limit=slots, requests_per_minute=rate)
                    in_force.append((clock(), rate))

            changes = asyncio.create_task(configure())
            prompts = [f"picture {n}" + " [[transient]]" * (n % 5 == 0) for n in range(1000)]
            batch = await service.run_batch(prompts)
            await changes
            arrivals = [world.predictions.loop_time(each.created_at) for each in world.predictions]
            return (
                batch.summary()["succeeded"],
                arrivals,
                in_force,
                world.counters.snapshot(),
                service.gate.statistics(),
            )

    succeeded, arrivals, in_force, counts, gate = run(scenario())
    assert 1000 == succeeded
    assert 1200 == counts.creations_accepted
    for start in arrivals:
        until = [until for until, _ in in_force[1:]] + [float("inf")]
        allowed = [rate for (since, rate), end in zip(in_force, until, strict=True)
                   if since < start + 60 and end > start - 0.8]  # fmt: skip
        assert sum(start <= each < start + 60 for each in arrivals) <= max(allowed)
    assert {} == counts.refusals
    assert (0, 0) == (gate.current_concurrent, gate.waiting)


@pytest.mark.slow
def test_replicate_counts_no_more_than_a_lowered_limit_from_the_next_minute_on():
    async def scenario():
        async with replicate(Options(**JITTERY, seed=1), concurrent_limit=200, timeout=600) as (
            service,
            world,
        ):
            batch = asyncio.create_task(service.run_batch([f"picture {n}" for n in range(900)]))
            await asyncio.sleep(30)
            service.gate.configure(requests_per_minute=100)
            await asyncio.sleep(62)  # the places and the answers of the old limit have expired
            world.counters.reset()
            await batch
            return world.counters.snapshot().creations_peak_per_minute

    assert run(scenario()) <= 100


STEADY = {"prediction_seconds": 0.2, "jitter": 0, "answer_delay": (0.02, 0.1)}


@pytest.mark.slow
def test_a_batch_of_five_windows_takes_at_most_a_hundredth_longer_than_five_windows():
    """3,000 items at 600 a minute. The batch is alone, so no place is kept for single calls."""

    async def scenario():
        async with replicate(Options(**STEADY, seed=1), concurrent_limit=200, timeout=600, reserve=0.05) as (
            service,
            world,
        ):
            batch = await service.run_batch([f"picture {n}" for n in range(3000)])
            return batch.summary()["succeeded"], clock(), world.counters.snapshot()

    succeeded, makespan, counts = run(scenario())
    assert 3000 == succeeded
    assert makespan <= 1.01 * 5 * 60
    assert 600 == counts.creations_peak_per_minute
    assert {} == counts.refusals


@pytest.mark.slow
@pytest.mark.parametrize("caller", [ADMIN, OTHER_USER], ids=["the batch's own caller", "another caller"])
def test_a_single_call_beside_a_batch_of_5000_waits_at_most_two_seconds(caller):
    """This holds at any time of the minute, though the batch has spent the window: while single calls arrive, the batch
    takes its places evenly."""

    async def scenario():
        async with replicate(Options(**STEADY, seed=1), concurrent_limit=200, timeout=600, reserve=0.05) as (
            service,
            world,
        ):
            batch = asyncio.create_task(service.run_batch([f"picture {n}" for n in range(5000)]))
            waited = []
            for pause in [0.0, 3.0, *[7.3] * 15]:
                await asyncio.sleep(pause)
                single = await service.run("a single call", caller=caller)
                waited.append(single.queued_seconds)
            batch.cancel()
            await asyncio.wait([batch])
            return waited, world.counters.snapshot()

    waited, counts = run(scenario())
    assert max(waited) <= 2.2  # plus the answer to the creation whose place it takes
    assert counts.creations_peak_per_minute <= 600
    assert {} == counts.refusals


def test_an_account_limited_to_6_a_minute_gets_its_pace_with_few_refusals_and_slows_no_other():
    async def scenario():
        async with replicate(
            Options(prediction_seconds=2, jitter=0, answer_delay=(0.02, 0.1), seed=1),
            concurrent_limit=20,
            timeout=600,
        ) as (service, world):
            world.accounts.configure(USER.credentials["replicate"], credit="low")
            poor = asyncio.create_task(service.run_batch([f"poor {n}" for n in range(13)], caller=USER))
            began = clock()
            rich = await service.run_batch([f"rich {n}" for n in range(200)], caller=OTHER_USER)
            rich_took, poor_batch = clock() - began, await poor
            return (
                rich.summary()["succeeded"],
                rich_took,
                poor_batch.summary(),
                clock(),
                world.counters.snapshot(),
            )

    rich, rich_took, poor, took, counts = run(scenario())
    assert 200 == rich
    assert rich_took <= 1.25 * 200 / 20 * 2
    assert 13 == poor["succeeded"]
    assert took <= 1.15 * 120  # the 13th creation is admitted after 120 s
    assert 213 == counts.creations_accepted
    # The limit is unknown at first: each creation that is pending then is refused once.
    assert counts.refusals.get(429, 0) <= 13


TROUBLE = {
    "429 by header": {"status": 429, "headers": {"Retry-After": "3"}, "body": {}},
    "429 by body": {"status": 429, "headers": {}, "body": {"retry_after": 3}},
    "429 by text": {"status": 429, "headers": {}, "body": {"detail": "Your rate limit resets in ~3s."}},
    **{str(status): {"status": status} for status in (500, 502, 503, 504)},
    "reset before": {"reset": "before"},
    "reset after": {"reset": "after"},
    "hangs": {"hang": 600},
    "slow": {"delay": 5},
    "truncated": {"truncate": True},
    "no JSON": {"garbage": True},
    "no fields": {"drop": ["version", "urls", "logs", "metrics", "model", "input", "created_at"]},
    "no id": {"drop": ["id"]},
    "no status": {"drop": ["status"]},
    "odd status": {"set": {"status": "booting"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("on", ["create", "get", "list"])
@pytest.mark.parametrize("fault", TROUBLE.values(), ids=TROUBLE)
def test_each_picture_is_made_and_paid_for_once_despite_any_fault(on, fault):
    """Twenty different pictures. Three requests fail, from the fifth on."""

    async def scenario():
        options = Options(prediction_seconds=8, jitter=0.2, answer_delay=(0.02, 0.1), seed=1)
        async with replicate(options, concurrent_limit=10, timeout=600) as (service, world):
            world.faults.inject(on=on, times=3, after=4, **fault)
            batch = await service.run_batch([f"picture {n}" for n in range(20)])
            after = await service.run("one more")
            await asyncio.sleep(60)
            gate, others = service.gate.statistics(), service.others.statistics()
            left = (gate.current_concurrent, gate.waiting, others.current_concurrent, others.waiting)
            made = [each.id for each in world.predictions]
            return batch, after, left, world.counters.snapshot(), made, world.faults.as_json()

    batch, after, left, counts, made, not_struck = run(scenario())
    assert [] == not_struck
    assert [True] * 20 == [each.succeeded for each in batch.items], batch.items[0].error
    assert after.succeeded
    assert 21 == counts.creations_accepted
    assert sorted(made) == sorted(each.prediction.id for each in [*batch.items, after])
    assert (0, 0, 0, 0) == left
    assert 0 == counts.in_flight
